//! What holds for every op at every size, zeros and misfits among them.
//!
//! A plan says what a run says, planned bytes are peak bytes, one byte less is an error, and
//! neither what the memory held before nor the number of threads changes a bit.

use half::{bf16, f16};
use mote::arch::Isa;
use mote::exec::Executor;
use mote::mem::Arena;
use mote::ops::{
    self, Activation, Attention, Context, Conv2d, Epilogue, GroupNorm, Matrix, SinusoidalEmbedding,
};
use mote::tensor::{DType, Form, Packing, Shape, Tensor};
use mote::weights::{Path, Weight};
use mote::{Error, Result};
use mote_tests::{Choices, Memory, TestWeights, Threads, best_isa, numbers};

/// Cases for each op.
const ROUNDS: usize = 250;

/// More than any case needs: what a walk that must fail for another reason is given.
const PLENTY: usize = 8 << 20;

/// Choices of sizes and shapes.
trait Sizes {
    /// A size: often small, seldom none, sometimes across the edge of a tile.
    fn size(&mut self) -> usize;
    /// The size that fits, or seldom one that does not.
    fn fitting(&mut self, size: usize) -> usize;
    /// The dimensions that fit, or seldom some that do not.
    fn fitting_dims(&mut self, dims: &[usize]) -> Vec<usize>;
}

impl Sizes for Choices {
    fn size(&mut self) -> usize {
        match self.below(12) {
            0 => 0,
            1..4 => 1,
            4 => 32 + self.below(4),
            _ => 1 + self.below(9),
        }
    }

    fn fitting(&mut self, size: usize) -> usize {
        match self.below(24) {
            0 => size + 1,
            1 => size.saturating_sub(1),
            _ => size,
        }
    }

    fn fitting_dims(&mut self, dims: &[usize]) -> Vec<usize> {
        let mut dims = dims.to_vec();
        match self.below(16) {
            0 => drop(dims.pop()),
            1 if dims.len() < 4 => dims.push(1),
            2 if !dims.is_empty() => {
                let at = self.below(dims.len());
                dims[at] = self.fitting(dims[at]);
            }
            _ => {}
        }
        dims
    }
}

/// What a case consists of beside its op.
struct Case {
    choices: Choices,
    tensors: Vec<(Shape, Vec<f32>)>,
    weights: TestWeights,
}

impl Case {
    /// A tensor for the walk, by its number.
    fn tensor(&mut self, dims: &[usize]) -> usize {
        let dims = self.choices.fitting_dims(dims);
        let seed = self.choices.below(1000) as u32;
        let values = numbers(seed, dims.iter().product());
        self.tensors.push((Shape::from_slice(&dims).unwrap(), values));
        self.tensors.len() - 1
    }

    /// A weight for the walk, by its name.
    fn weight<const N: usize>(&mut self, name: &'static str, dims: [usize; N]) -> Of<N> {
        let values = numbers(self.choices.below(1000) as u32, dims.iter().product());
        let (dtype, bytes): (_, Vec<u8>) = match self.choices.below(3) {
            0 => (DType::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            1 => {
                (DType::F16, values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect())
            }
            _ => (
                DType::BF16,
                values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            ),
        };
        self.weights.push_bytes(name, dtype, &dims, bytes);
        Of { name, dims }
    }

    /// The weight of a product, plain or packed, by its name.
    fn matrix<const N: usize>(&mut self, name: &'static str, dims: [usize; N]) -> Of<N> {
        let packing = self.choices.pick(&Packing::PACKED);
        if self.choices.flag() {
            return self.weight(name, dims);
        }
        let values = numbers(self.choices.below(1000) as u32, dims.iter().product());
        self.weights.push_packed(name, packing, &dims, &values);
        Of { name, dims }
    }

    /// A way to end a product whose output has these dimensions.
    fn epilogue(&mut self, out: &[usize]) -> End {
        let (samples, n) = (out.first().copied().unwrap_or(1), out.last().copied().unwrap_or(1));
        let activation = self.choices.pick(&[None, Some(Activation::Silu)]);
        End {
            residual: self.choices.flag().then(|| self.tensor(out)),
            per_sample: self.choices.flag().then(|| self.tensor(&[samples, n])),
            activation,
        }
    }

    /// What gives a product its input in a form: a layer normalisation before it.
    fn form(&mut self, c: usize) -> Norm {
        let form = self.choices.pick(&[Form::F32, Form::F32, Form::Bf16, Form::Q8]);
        Norm { weight: self.weight("norm", [c]), form }
    }

    /// The same as [`Case::weight`], or none.
    fn weight_or_none<const N: usize>(
        &mut self,
        name: &'static str,
        dims: [usize; N],
    ) -> Option<Of<N>> {
        self.choices.flag().then(|| self.weight(name, dims))
    }
}

/// A weight's name and dimensions.
#[derive(Clone, Copy)]
struct Of<const N: usize> {
    name: &'static str,
    dims: [usize; N],
}

impl<const N: usize> Of<N> {
    fn get(self, cx: &mut Context<'_>) -> Result<Weight> {
        cx.weight(&Path::root().at(self.name), self.dims)
    }

    fn matrix(self, cx: &mut Context<'_>) -> Result<Matrix> {
        cx.matrix(&Path::root().at(self.name), self.dims)
    }
}

/// The end of a product, its tensors by their numbers.
#[derive(Clone, Copy)]
struct End {
    residual: Option<usize>,
    per_sample: Option<usize>,
    activation: Option<Activation>,
}

impl End {
    fn of(self, tensors: &[Tensor]) -> Epilogue {
        let [residual, per_sample] = [self.residual, self.per_sample].map(|i| Some(tensors[i?]));
        Epilogue { residual, per_sample, activation: self.activation, ..Epilogue::NONE }
    }
}

/// A layer normalisation, where the form is not f32.
#[derive(Clone, Copy)]
struct Norm {
    weight: Of<1>,
    form: Form,
}

impl Norm {
    fn of(self, cx: &mut Context<'_>, x: Tensor) -> Result<Tensor> {
        if self.form == Form::F32 {
            return Ok(x);
        }
        let weight = self.weight.get(cx)?;
        ops::layer_norm(cx, x, weight, weight, 1e-5, self.form)
    }
}

fn get_or_none<const N: usize>(
    weight: Option<Of<N>>,
    cx: &mut Context<'_>,
) -> Result<Option<Weight>> {
    weight.map(|weight| weight.get(cx)).transpose()
}

/// A walk over the case's tensors.
type Walk = Box<dyn Fn(&mut Context<'_>, &[Tensor]) -> Result<Tensor>>;

/// Makes cases with `make` and checks each. Some of them must be fit to run.
fn check(seed: u64, make: impl Fn(&mut Case) -> Walk) {
    let mut successes = 0;
    for round in 0..ROUNDS as u64 {
        let choices = Choices::new(seed << 32 | round);
        let mut case = Case { choices, tensors: Vec::new(), weights: TestWeights::default() };
        case.choices.below(1);
        case.weights.staged = case.choices.flag();
        let walk = make(&mut case);
        let Case { tensors, mut weights, .. } = case;
        let shapes: Vec<_> = tensors.iter().map(|(shape, _)| *shape).collect();
        let what = format!("round {round}, {shapes:?}");
        let whole = |cx: &mut Context<'_>| {
            let mut made = Vec::new();
            for (shape, values) in &tensors {
                made.push(ops::fill(cx, *shape, values)?);
            }
            walk(cx, &made)
        };
        for isa in [Isa::SCALAR, best_isa()] {
            let mut bits = None;
            for threads in [1, 2, 3, 7] {
                let found = check_one(&what, isa, &Threads(threads), &mut weights, whole);
                let first = bits.get_or_insert_with(|| found.clone());
                assert_eq!(*first, found, "{what}: {threads} threads change nothing");
            }
            successes += usize::from(bits.flatten().is_some());
        }
    }
    assert!(successes > ROUNDS / 2, "{successes} of {ROUNDS} on two instruction sets succeed");
}

/// The bytes of a walk's result, or `None` where it is refused.
fn check_one(
    what: &str,
    isa: Isa,
    executor: &dyn Executor,
    weights: &mut TestWeights,
    walk: impl Fn(&mut Context<'_>) -> Result<Tensor>,
) -> Option<Vec<u8>> {
    let mut cx = Context::new(Arena::measuring(), isa, executor, weights);
    let plan = walk(&mut cx).map(|tensor| (cx.arena().peak(), tensor));
    let mut run = |bytes, dirt| {
        let mut memory = Memory::dirty(bytes, dirt);
        let mut cx = Context::new(Arena::new(memory.bytes()), isa, executor, weights);
        let result = walk(&mut cx);
        result.map(|tensor| {
            let bytes = cx.arena_mut().split_bytes(tensor, []).0.to_vec();
            (cx.arena().peak(), tensor, bytes)
        })
    };
    let (planned, tensor) = match plan {
        Ok(plan) => plan,
        Err(error) => {
            assert_eq!(run(PLENTY, 0).err(), Some(error), "{what}: a run fails like its plan");
            return None;
        }
    };
    let mut first = None;
    for dirt in [0x00, 0xFF, 0x7F] {
        let (peak, found, bytes) = run(planned, dirt).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        assert_eq!((peak, found), (planned, tensor), "{what}: a run goes as planned");
        let first = first.get_or_insert_with(|| bytes.clone());
        assert_eq!(*first, bytes, "{what}: memory full of {dirt:#x} changes nothing");
    }
    if planned > 0 {
        let error = run(planned - 1, 0).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{what}: {error:?}");
    }
    first
}

/// Dimensions with channels at their end.
fn with_channels(case: &mut Case, c: usize) -> Vec<usize> {
    let leading = case.choices.below(4);
    let mut dims: Vec<usize> = (0..leading).map(|_| case.choices.size()).collect();
    dims.push(c);
    dims
}

#[test]
fn linear_layers_plan_as_they_run() {
    check(1, |case| {
        let (k, n) = (case.choices.size(), case.choices.size());
        let dims = with_channels(case, k);
        let x = case.tensor(&dims);
        let out = [&dims[..dims.len() - 1], &[n]].concat();
        let end = case.epilogue(&out);
        let (matrix, norm) = (case.matrix("weight", [n, k]), case.form(k));
        let bias = case.weight_or_none("bias", [n]);
        Box::new(move |cx, tensors| {
            let x = norm.of(cx, tensors[x])?;
            let (matrix, bias) = (matrix.matrix(cx)?, get_or_none(bias, cx)?);
            ops::linear(cx, x, matrix, bias, end.of(tensors))
        })
    });
}

#[test]
fn gated_linear_layers_plan_as_they_run() {
    check(9, |case| {
        let k = case.choices.size();
        let n = case.choices.pick(&[0, 2, 16, 32, 32, 32, 64, 64, 96, 96, 128]);
        let dims = with_channels(case, k);
        let x = case.tensor(&dims);
        let end = case.epilogue(&[&dims[..dims.len() - 1], &[n / 2]].concat());
        let end = End { per_sample: None, ..end };
        let (matrix, norm) = (case.matrix("weight", [n, k]), case.form(k));
        let bias = case.weight_or_none("bias", [n]);
        Box::new(move |cx, tensors| {
            let x = norm.of(cx, tensors[x])?;
            let (matrix, bias) = (matrix.matrix(cx)?, get_or_none(bias, cx)?);
            let epilogue = Epilogue { geglu: true, ..end.of(tensors) };
            ops::linear(cx, x, matrix, bias, epilogue)
        })
    });
}

#[test]
fn linear_layers_into_a_view_plan_as_they_run() {
    check(2, |case| {
        let [k, n, rows, first, more] = [0; 5].map(|_| case.choices.size());
        let x = case.tensor(&[rows, k]);
        let whole = case.tensor(&[first + rows + more, n]);
        let matrix = case.matrix("weight", [n, k, 1, 1]);
        let epilogue = Epilogue { accumulate: case.choices.flag(), ..Epilogue::NONE };
        Box::new(move |cx, tensors| {
            let (matrix, out) = (matrix.matrix(cx)?, tensors[whole].rows(first, rows)?);
            ops::linear_into(cx, tensors[x], matrix, None, epilogue, out)?;
            Ok(tensors[whole])
        })
    });
}

#[test]
fn convolutions_plan_as_they_run() {
    check(3, |case| {
        let [h, w] = [0; 2].map(|_| case.choices.size());
        let [n, ci, co] = [0; 3].map(|_| case.choices.size().min(9));
        let kernel = [0; 2].map(|_| 1 + case.choices.below(3));
        let padding = [0; 4].map(|_| case.choices.below(3));
        let stride = case.choices.pick(&[0, 1, 1, 1, 2, 3]);
        let [tall, wide] = [0; 2].map(|_| case.choices.size());
        let upsample_to =
            case.choices.pick(&[None, None, Some([tall, wide]), Some([2 * h, 2 * w])]);
        let x = case.tensor(&[n, h, w, ci]);
        let matrix = case.matrix("weight", [co, ci, kernel[0], kernel[1]]);
        let bias = case.weight_or_none("bias", [co]);
        let (end, norm) = (case.epilogue(&[n, h, w, co]), case.form(ci));
        let kernel = case.choices.pick(&[kernel, kernel, kernel, kernel, kernel, [3, 4]]);
        let conv = Conv2d { kernel, stride, padding, upsample_to };
        Box::new(move |cx, tensors| {
            let x = norm.of(cx, tensors[x])?;
            let (matrix, bias) = (matrix.matrix(cx)?, get_or_none(bias, cx)?);
            let end = End { residual: end.residual.filter(|_| stride == 1), ..end };
            ops::conv2d(cx, x, matrix, bias, conv, end.of(tensors))
        })
    });
}

#[test]
fn normalisations_plan_as_they_run() {
    let activations = [None, Some(Activation::Silu), Some(Activation::Relu)];
    check(4, |case| {
        let [groups, size] = [0; 2].map(|_| case.choices.below(5));
        let c = groups * size;
        let dims = with_channels(case, c);
        let x = case.tensor(&dims);
        let scale_shift = case.choices.flag().then(|| case.tensor(&[dims[0], 2 * c]));
        let len = case.choices.fitting(c);
        let (weight, bias) = (case.weight("weight", [len]), case.weight("bias", [c]));
        let (kind, activation) = (case.choices.below(3), case.choices.pick(&activations));
        let form = case.choices.pick(&[Form::F32, Form::Bf16, Form::Q8]);
        Box::new(move |cx, tensors| {
            let (weight, bias) = (weight.get(cx)?, bias.get(cx)?);
            let scale_shift = scale_shift.map(|i| tensors[i]);
            let norm = GroupNorm { groups, eps: 1e-5, scale_shift, activation, form };
            match kind {
                0 => ops::group_norm(cx, tensors[x], weight, bias, norm),
                1 => ops::layer_norm(cx, tensors[x], weight, bias, 1e-5, form),
                _ => ops::group_norm_replacing(cx, tensors[x], weight, bias, norm),
            }
        })
    });
}

#[test]
fn attention_plans_as_it_runs() {
    check(5, |case| {
        let (n, heads, d) =
            (case.choices.size().min(3), case.choices.below(4), case.choices.size());
        let [tq, tk] = [0; 2].map(|_| case.choices.size() * case.choices.pick(&[1, 1, 1, 1, 9]));
        let c = heads * d + case.choices.pick(&[0, 0, 0, 0, 1]);
        let q = case.tensor(&[n, tq, c]);
        let [k, v] = [0; 2].map(|_| case.tensor(&[n, tk, c]));
        let form = case.choices.pick(&[Form::F32, Form::Bf16, Form::Q8]);
        let attention = Attention { heads, causal: case.choices.flag(), form };
        Box::new(move |cx, tensors| {
            ops::attention(cx, tensors[q], tensors[k], tensors[v], attention)
        })
    });
}

#[test]
fn elementwise_ops_plan_as_they_run() {
    check(6, |case| {
        let (c, start, count) = (case.choices.size(), case.choices.below(4), case.choices.size());
        let dims = with_channels(case, c);
        let x = case.tensor(&dims);
        let y = case.tensor(&dims);
        let per_channel = case.tensor(&[dims[0], c]);
        let kind = case.choices.below(9);
        let activation = case.choices.pick(&Activation::ALL);
        Box::new(move |cx, tensors| {
            let (x, y) = (tensors[x], tensors[y]);
            match kind {
                0 => ops::add_in_place(cx, x, y)?,
                1 => ops::add_per_channel_in_place(cx, x, tensors[per_channel])?,
                2 => ops::scale_shift_in_place(cx, x, 0.5, 0.25)?,
                3 => ops::scale_add_in_place(cx, x, 0.5, &[(y, 0.25), (y, 2.0)])?,
                4 => ops::copy_into(cx, y, x)?,
                5 => return ops::activate(cx, x, activation),
                6 => return ops::concat(cx, x, y, Form::F32),
                7 => return ops::geglu(cx, x),
                _ => return ops::slice_channels(cx, x, start, count),
            }
            Ok(x)
        })
    });
}

#[test]
fn resampling_plans_as_it_runs() {
    check(7, |case| {
        let dims = [0; 4].map(|_| case.choices.size().min(12));
        let size = [0; 2].map(|_| case.choices.size());
        let x = case.tensor(&dims);
        let kind = case.choices.below(4);
        Box::new(move |cx, tensors| match kind {
            0 => ops::upsample_nearest(cx, tensors[x], size),
            1 => ops::avg_pool_2x2(cx, tensors[x]),
            2 => ops::nchw_to_nhwc(cx, tensors[x]),
            _ => ops::nhwc_to_nchw(cx, tensors[x]),
        })
    });
}

#[test]
fn windows_plan_as_they_run() {
    check(9, |case| {
        let dims = [0; 4].map(|_| case.choices.size().min(12));
        let [n, h, w, c] = dims;
        let (x, y) = (case.tensor(&dims), case.tensor(&[n, h + 2, w + 3, c]));
        let [from, to, over] = [0; 3].map(|_| [0; 2].map(|_| case.choices.below(3)));
        let size = [h, w].map(|side| case.choices.fitting(side.saturating_sub(2)));
        let kind = case.choices.below(3);
        Box::new(move |cx, tensors| {
            let (x, y) = (tensors[x], tensors[y]);
            match kind {
                0 => ops::crop(cx, x, from, size),
                1 => ops::copy_window(cx, (x, from), (y, to), size).map(|()| y),
                _ => ops::blend_in_place(cx, x, (y, to), over).map(|()| x),
            }
        })
    });
}

#[test]
fn embeddings_plan_as_they_run() {
    check(8, |case| {
        let [rows, c, count] = [0; 3].map(|_| case.choices.size());
        let limit = rows + usize::from(case.choices.below(9) == 0);
        let ids: Vec<u32> = (0..count).map(|_| case.choices.below(limit.max(1)) as u32).collect();
        let times: Vec<f32> = ids.iter().map(|&id| id as f32 + 0.5).collect();
        let (table, frequencies) = (case.weight("table", [rows, c]), case.weight("weight", [c]));
        let (kind, flip_sin_to_cos) = (case.choices.below(3), case.choices.flag());
        Box::new(move |cx, _| match kind {
            0 => {
                let table = table.get(cx)?;
                ops::embedding(cx, &ids, table)
            }
            1 => {
                let frequencies = frequencies.get(cx)?;
                ops::fourier_embedding(cx, &times, frequencies, flip_sin_to_cos)
            }
            _ => {
                let how = SinusoidalEmbedding { flip_sin_to_cos, freq_shift: 0.0 };
                ops::sinusoidal_embedding(cx, &times, c, how)
            }
        })
    });
}

#[test]
fn an_inner_product_over_nothing_is_the_bias() {
    let mut weights = TestWeights::default();
    weights.push("weight", &[2, 0], &[]);
    weights.push("bias", &[2], &[3.0, 4.0]);
    for isa in mote_tests::isas() {
        let (shape, found) = mote_tests::run(isa, &Threads(1), &mut weights, |cx| {
            let x = ops::fill(cx, Shape::new([3, 0]), &[])?;
            let residual = ops::fill(cx, Shape::new([3, 2]), &[1., 2., 3., 4., 5., 6.])?;
            let matrix = cx.matrix(&Path::root().at("weight"), [2, 0])?;
            let bias = cx.weight(&Path::root().at("bias"), [2])?;
            let epilogue = Epilogue { residual: Some(residual), ..Epilogue::NONE };
            ops::linear(cx, x, matrix, Some(bias), epilogue)
        });
        assert_eq!((shape, found), (vec![3, 2], vec![4., 6., 6., 8., 8., 10.]));
    }
}
