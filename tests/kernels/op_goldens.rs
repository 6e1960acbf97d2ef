//! Every op against PyTorch, on the cases of `../golden/ops.json`.

use mote::exec::Sequential;
use mote::ops::{
    self, Activation, Attention, Context, Conv2d, Epilogue, GroupNorm, Matrix, SinusoidalEmbedding,
};
use mote::tensor::{Form, Shape, Tensor};
use mote::weights::{Path, Weight};
use mote::{Error, Result};
use mote_tests::{TestWeights, golden, isas, json, run, safetensors};
use serde_json::Value;

/// One case: its parameters, and its tensors by role.
struct Case<'a> {
    name: &'a str,
    params: &'a Value,
    tensors: &'a TestWeights,
}

impl Case<'_> {
    fn full(&self, role: &str) -> String {
        format!("{}.{role}", self.name)
    }

    fn has(&self, role: &str) -> bool {
        self.tensors.has(&self.full(role))
    }

    fn number(&self, key: &str) -> f32 {
        self.params[key].as_f64().unwrap_or_else(|| panic!("{}: no {key}", self.name)) as f32
    }

    fn count(&self, key: &str) -> usize {
        self.params[key].as_u64().unwrap_or_else(|| panic!("{}: no {key}", self.name)) as usize
    }

    fn flag(&self, key: &str) -> bool {
        self.params[key].as_bool().unwrap_or_else(|| panic!("{}: no {key}", self.name))
    }

    fn list<const N: usize>(&self, key: &str) -> [usize; N] {
        core::array::from_fn(|i| self.params[key][i].as_u64().expect("a number") as usize)
    }

    /// A tensor as it is stored.
    fn tensor(&self, cx: &mut Context<'_>, role: &str) -> Result<Tensor> {
        let shape = Shape::from_slice(&self.tensors.dims(&self.full(role))).unwrap();
        ops::fill(cx, shape, &self.tensors.f32(&self.full(role)))
    }

    /// A picture, stored NCHW.
    fn picture(&self, cx: &mut Context<'_>, role: &str) -> Result<Tensor> {
        let stored = self.tensor(cx, role)?;
        ops::nchw_to_nhwc(cx, stored)
    }

    fn weight<const N: usize>(&self, cx: &mut Context<'_>, role: &str) -> Result<Weight> {
        let dims = self.tensors.dims(&self.full(role));
        cx.weight(&Path::root().at(&self.full(role)), <[usize; N]>::try_from(dims).unwrap())
    }

    fn matrix<const N: usize>(&self, cx: &mut Context<'_>) -> Result<Matrix> {
        let name = self.full("weight");
        let dims = self.tensors.dims(&name);
        cx.matrix(&Path::root().at(&name), <[usize; N]>::try_from(dims).unwrap())
    }

    fn bias(&self, cx: &mut Context<'_>) -> Result<Option<Weight>> {
        if self.has("bias") { self.weight::<1>(cx, "bias").map(Some) } else { Ok(None) }
    }
}

fn activation(name: &str) -> Activation {
    match name {
        "silu" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_tanh" => Activation::GeluTanh,
        "quick_gelu" => Activation::QuickGelu,
        "relu" => Activation::Relu,
        "clamp_tanh_3" => Activation::ClampTanh3,
        _ => panic!("no activation {name}"),
    }
}

fn convolve(cx: &mut Context<'_>, case: &Case<'_>) -> Result<Tensor> {
    let x = case.picture(cx, "x")?;
    let matrix = case.matrix::<4>(cx)?;
    let bias = case.bias(cx)?;
    let [.., height, width] =
        <[usize; 4]>::try_from(case.tensors.dims(&case.full("weight"))).unwrap();
    let upsample_to =
        if case.params["upsample_to"].is_null() { None } else { Some(case.list("upsample_to")) };
    let (kernel, stride, padding) = ([height, width], case.count("stride"), case.list("padding"));
    let conv = Conv2d { kernel, stride, padding, upsample_to };
    let y = ops::conv2d(cx, x, matrix, bias, conv, Epilogue::NONE)?;
    ops::nhwc_to_nchw(cx, y)
}

fn normalise(cx: &mut Context<'_>, case: &Case<'_>) -> Result<Tensor> {
    let x = case.picture(cx, "x")?;
    let scale_shift =
        if case.has("scale_shift") { Some(case.tensor(cx, "scale_shift")?) } else { None };
    let norm = GroupNorm {
        groups: case.count("groups"),
        eps: case.number("eps"),
        scale_shift,
        activation: case.params["activation"].as_str().map(activation),
        form: Form::F32,
    };
    let [weight, bias] = [case.weight::<1>(cx, "weight")?, case.weight::<1>(cx, "bias")?];
    let y = ops::group_norm(cx, x, weight, bias, norm)?;
    let x = ops::group_norm_replacing(cx, x, weight, bias, norm)?;
    if !cx.is_planning() {
        assert_eq!(cx.arena().read(x), cx.arena().read(y), "{}: in place", case.name);
    }
    ops::nhwc_to_nchw(cx, y)
}

fn compute(cx: &mut Context<'_>, case: &Case<'_>, op: &str) -> Result<Tensor> {
    match op {
        "conv2d" => convolve(cx, case),
        "group_norm" => normalise(cx, case),
        "layer_norm" => {
            let x = case.tensor(cx, "x")?;
            let [weight, bias] = [case.weight::<1>(cx, "weight")?, case.weight::<1>(cx, "bias")?];
            ops::layer_norm(cx, x, weight, bias, case.number("eps"), Form::F32)
        }
        "activate" => {
            let x = case.tensor(cx, "x")?;
            let name = case.params["activation"].as_str().expect("a name");
            ops::activate(cx, x, activation(name))
        }
        "geglu" => {
            let x = case.tensor(cx, "x")?;
            ops::geglu(cx, x)
        }
        "attention" => {
            let [q, k, v] = [case.tensor(cx, "q")?, case.tensor(cx, "k")?, case.tensor(cx, "v")?];
            let (heads, causal) = (case.count("heads"), case.flag("causal"));
            ops::attention(cx, q, k, v, Attention { heads, causal, form: Form::F32 })
        }
        "sinusoidal_embedding" => {
            let t = case.tensors.f32(&case.full("timesteps"));
            let (flip_sin_to_cos, freq_shift) =
                (case.flag("flip_sin_to_cos"), case.number("freq_shift"));
            let how = SinusoidalEmbedding { flip_sin_to_cos, freq_shift };
            ops::sinusoidal_embedding(cx, &t, case.count("dim"), how)
        }
        "fourier_embedding" => {
            let mut t = case.tensors.f32(&case.full("timesteps"));
            if !case.flag("log") {
                t.iter_mut().for_each(|t| *t = t.exp());
            }
            let weight = case.weight::<1>(cx, "weight")?;
            ops::fourier_embedding(cx, &t, weight, case.flag("flip_sin_to_cos"))
        }
        "embedding" => {
            let ids: Vec<u32> =
                case.tensors.integers(&case.full("ids")).iter().map(|&id| id as u32).collect();
            let table = case.weight::<2>(cx, "table")?;
            ops::embedding(cx, &ids, table)
        }
        "upsample_nearest" => {
            let x = case.picture(cx, "x")?;
            let y = ops::upsample_nearest(cx, x, case.list("size"))?;
            ops::nhwc_to_nchw(cx, y)
        }
        "avg_pool_2x2" => {
            let x = case.picture(cx, "x")?;
            let y = ops::avg_pool_2x2(cx, x)?;
            ops::nhwc_to_nchw(cx, y)
        }
        "linear" => {
            let x = case.tensor(cx, "x")?;
            let matrix = case.matrix::<2>(cx)?;
            let bias = case.bias(cx)?;
            ops::linear(cx, x, matrix, bias, Epilogue::NONE)
        }
        _ => Err(Error::Config { key: "op", what: "is unknown to this test" }),
    }
}

#[test]
fn every_op_computes_what_pytorch_computes() {
    let cases = json(&golden("ops.json"));
    let mut tensors = safetensors(&golden("ops.safetensors"));
    let mut count = 0;
    for case in cases.as_array().expect("a list of cases") {
        let (name, op) = (case["name"].as_str().unwrap(), case["op"].as_str().unwrap());
        let tolerance = case["tolerance"].as_f64().unwrap() as f32;
        let read_only = tensors.clone();
        let case = Case { name, params: &case["params"], tensors: &read_only };
        let expected = read_only.f32(&case.full("y"));
        for isa in isas() {
            let walk = |cx: &mut Context<'_>| compute(cx, &case, op);
            let (shape, found) = run(isa, &Sequential, &mut tensors, walk);
            assert_eq!(shape, read_only.dims(&case.full("y")), "{name}: shape");
            for (i, (&a, &b)) in found.iter().zip(&expected).enumerate() {
                let limit = tolerance * (1.0 + b.abs());
                assert!((a - b).abs() <= limit, "{name}[{i}] on {isa:?}: {a}, not {b} ± {limit}");
            }
        }
        count += 1;
    }
    assert!(count > 70, "only {count} cases were seen");
}
