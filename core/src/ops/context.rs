//! The context of a walk: memory, instruction set, threads and weights, handed from layer to layer.

use super::limits::Limits;
use super::matrix::Matrix;
use super::observe::{Event, InputObserver, Observer, Op};
use super::tally::Tally;
use super::tape::{Record, Recording, State};
use crate::arch::Isa;
use crate::error::{Error, Result};
use crate::exec::{Executor, even_share, for_each_chunk};
use crate::mem::{Arena, bytes_of_mut};
use crate::tensor::packed::Sizes;
use crate::tensor::{DType, Form, PANEL, Packing, Shape, Tensor};
use crate::weights::{Name, Path, Weight, Weights};

/// What every op needs: memory, instruction set, threads, weights.
///
/// With [`Arena::measuring`] the walk is *planned*: shapes and weights are checked and bytes
/// counted, and nothing is computed.
pub struct Context<'m> {
    pub(super) arena: Arena<'m>,
    pub(super) isa: Isa,
    pub(super) executor: &'m dyn Executor,
    pub(super) weights: &'m mut dyn Weights,
    pub(super) limits: &'m Limits,
    name: Name,
    tally: Tally,
    observer: Option<&'m mut Observer<'m>>,
    /// Shown what products are fed with.
    pub(super) inputs: Option<&'m mut InputObserver<'m>>,
    /// The tally at the end of the op that was observed last.
    observed: Tally,
    /// Where ops are written down, while the walk is recorded.
    pub(super) recording: Option<Recording<'m>>,
}

impl<'m> Context<'m> {
    /// A context in this arena, with these kernels, threads and weights. Where the weights are
    /// quantised, the kernels are taken that compute the same to the bit on all instruction sets.
    pub fn new(
        arena: Arena<'m>,
        isa: Isa,
        executor: &'m dyn Executor,
        weights: &'m mut dyn Weights,
    ) -> Self {
        let (name, tally, observed) = (Name::new(), Tally::default(), Tally::default());
        let (observer, inputs, recording) = (None, None, None);
        let isa = if weights.is_quantised() { isa.exact() } else { isa };
        let limits = &Limits::DEFAULT;
        Self {
            arena,
            isa,
            executor,
            weights,
            limits,
            name,
            tally,
            observer,
            inputs,
            observed,
            recording,
        }
    }

    /// The same context, whose ops cut their work at these limits.
    ///
    /// # Panics
    /// Where a limit is 0: that is the caller's mistake.
    #[must_use]
    pub fn with_limits(self, limits: &'m Limits) -> Self {
        limits.check();
        Self { limits, ..self }
    }

    /// Where ops cut their work.
    pub fn limits(&self) -> &'m Limits {
        self.limits
    }

    /// Whether the walk is planned, not run.
    pub fn is_planning(&self) -> bool {
        let is_skipping = |recording: &Recording<'_>| !recording.is_carried_out();
        self.arena.is_measuring() || self.recording.as_ref().is_some_and(is_skipping)
    }

    /// Whether ops are written down, to be played backwards. Nothing they compute is given back,
    /// and nothing that is needed again is overwritten.
    pub fn is_recording(&self) -> bool {
        self.recording.as_ref().is_some_and(Recording::keeps_everything)
    }

    /// Whether what lies at this byte may be overwritten or given back.
    fn is_ours(&self, offset: usize) -> bool {
        match self.recording.as_ref().map(|recording| recording.state) {
            None => true,
            Some(State::Passed { floor }) => offset >= floor,
            Some(_) => false,
        }
    }

    /// Whether what x holds is needed no more once it has been read: the walk keeps nothing for a
    /// way back.
    pub fn may_overwrite(&self, x: Tensor) -> bool {
        self.is_ours(x.offset())
    }

    /// The arena, to be asked about its top and peak.
    pub fn arena(&self) -> &Arena<'m> {
        &self.arena
    }

    /// The arena, to be told to forget its peak or to give out views.
    pub fn arena_mut(&mut self) -> &mut Arena<'m> {
        &mut self.arena
    }

    /// What the walk has cost so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Begins counting the cost anew.
    pub fn reset_tally(&mut self) {
        (self.tally, self.observed) = (Tally::default(), Tally::default());
    }

    /// Has `observer` told of each op that ends from here on, unless the walk is planned.
    pub fn observe(&mut self, observer: &'m mut Observer<'m>) {
        self.observed = self.tally;
        self.observer = Some(observer);
    }

    /// Has `observer` shown the left side of each product in f32 from here on, before it is
    /// computed.
    pub fn observe_inputs(&mut self, observer: &'m mut InputObserver<'m>) {
        self.inputs = Some(observer);
    }

    /// Puts the cost at this much: a plan walks once what a run walks often.
    pub fn set_tally(&mut self, tally: Tally) {
        self.tally = tally;
    }

    /// The weight asked for last: where an error concerns a weight, that one.
    pub fn weight_name(&self) -> &str {
        &self.name
    }

    /// A new f32 tensor on top of the stack, its elements undefined.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Overflow`].
    pub fn tensor(&mut self, shape: Shape) -> Result<Tensor> {
        self.arena.push_f32(shape)
    }

    /// Runs `body` and gives back all the memory it took but that of its result, which slides down.
    /// A recorded walk keeps everything.
    ///
    /// # Errors
    /// The body's.
    pub fn scope(&mut self, body: impl FnOnce(&mut Self) -> Result<Tensor>) -> Result<Tensor> {
        let mark = self.arena.top();
        self.keep(mark, body)
    }

    /// Like [`Context::scope`], but `x`, the newest tensor, is given back too: the result takes its
    /// place.
    ///
    /// # Errors
    /// The body's.
    ///
    /// # Panics
    /// Where `x` is not the newest tensor: that is the caller's mistake.
    pub fn replace(
        &mut self,
        x: Tensor,
        body: impl FnOnce(&mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if !self.is_ours(x.offset()) {
            return self.scope(body);
        }
        assert!(self.arena.is_newest(x), "only the newest tensor can be replaced");
        self.keep(x.offset(), body)
    }

    /// Gives back all that lies above `older`, itself included, but `result`, which takes its
    /// place.
    ///
    /// # Errors
    /// Those of [`Arena::keep`].
    pub fn keep_in_place_of(&mut self, older: Tensor, result: Tensor) -> Result<Tensor> {
        match self.is_ours(older.offset()) {
            true => self.slide(older.offset(), result),
            false => Ok(result),
        }
    }

    /// Runs `body` and gives back all the memory it took, unless the walk is recorded.
    ///
    /// # Errors
    /// The body's.
    pub fn scratch<R>(&mut self, body: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        match self.is_recording() {
            true => body(self),
            false => self.working(body),
        }
    }

    /// Runs `body` and gives back all the memory it took: the working memory of one op.
    pub(super) fn working<R>(&mut self, body: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        let mark = self.arena.top();
        let result = body(self);
        self.arena.release(mark);
        result
    }

    /// Writes an op down, if the walk is recorded.
    ///
    /// # Errors
    /// [`Error::Capacity`] where the tape is full.
    pub(super) fn record(&mut self, record: impl FnOnce() -> Record) -> Result<()> {
        match &mut self.recording {
            Some(recording) if recording.state == State::Written => recording.tape.push(record()),
            _ => Ok(()),
        }
    }

    /// Refuses to record an op whose gradient there is no code for.
    ///
    /// # Errors
    /// [`Error::Config`] where the walk is recorded.
    pub fn refuse_recording(&self, what: &'static str) -> Result<()> {
        match self.is_recording() {
            true => Err(Error::Config { key: what, what: "cannot be trained" }),
            false => Ok(()),
        }
    }

    /// Gives back all that lies above `mark` but `result`, which moves down to it.
    ///
    /// # Errors
    /// [`Error::Overflow`] never in practice: the tensor was smaller than the arena before.
    ///
    /// # Panics
    /// As [`Arena::keep`].
    pub fn slide(&mut self, mark: usize, result: Tensor) -> Result<Tensor> {
        let (from, bytes) = (result.offset(), result.bytes());
        let shift = from.saturating_sub(mark);
        if self.is_planning() || shift.min(bytes) < self.limits.least_shift_bytes {
            return self.arena.keep(mark, result);
        }
        // Part by part, none of which goes where it lies itself.
        let part = |at, bytes: usize| Tensor::new(at, Shape::new([bytes]), DType::U8);
        for done in (0..bytes).step_by(shift) {
            let count = shift.min(bytes - done);
            let [to, x] = [part(mark + done, count)?, part(from + done, count)?];
            let (to, [x]) = self.arena.split_bytes(to, [x]);
            let each = even_share(self.executor, count, self.limits.moved_bytes);
            for_each_chunk::<_, u8>(self.executor, to, each, &mut [], |index, to, _| {
                to.copy_from_slice(&x[index * each..][..to.len()]);
            });
        }
        self.arena.keep(mark, Tensor::new(mark, result.shape(), result.dtype())?)
    }

    fn keep(
        &mut self,
        mark: usize,
        body: impl FnOnce(&mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match body(self) {
            Ok(result) if self.is_recording() => Ok(result),
            Ok(result) => self.slide(mark, result),
            Err(error) => {
                self.arena.release(mark);
                Err(error)
            }
        }
    }

    /// The weight at `path`, of the shape the model says.
    ///
    /// # Errors
    /// [`Error::MissingWeight`], [`Error::WeightShape`], [`Error::WeightDtype`]; its name is then
    /// [`Context::weight_name`]. [`Error::Capacity`] where the path is too long for a name.
    pub fn weight<const N: usize>(&mut self, path: &Path<'_>, dims: [usize; N]) -> Result<Weight> {
        self.set_name(path)?;
        let shape = Shape::new(dims);
        let weight = self.weights.find(&self.name, shape)?.ok_or(Error::MissingWeight)?;
        if weight.shape != shape {
            let (expected, found) = (shape.to_dims(), weight.shape.to_dims());
            return Err(Error::WeightShape { expected, found });
        }
        if !weight.dtype.is_float() {
            return Err(Error::WeightDtype { found: weight.dtype.name() });
        }
        let bytes = &mut self.tally.weight_bytes;
        *bytes = bytes.saturating_add(weight.bytes as u64);
        Ok(weight)
    }

    /// The weight at `path` of a product, plain or packed, of the shape the model says:
    /// `[n, channels, taps…]`.
    ///
    /// # Errors
    /// As [`Context::weight`]; also where a packed weight lacks a companion.
    pub fn matrix<const N: usize>(&mut self, path: &Path<'_>, dims: [usize; N]) -> Result<Matrix> {
        let matrix = self.product(path, dims)?;
        let Matrix { weight, packing, sizes, .. } = matrix;
        let bytes = &mut self.tally.weight_bytes;
        *bytes = bytes.saturating_add(weight.bytes as u64);
        let quantised = matches!(packing, Packing::Q8 | Packing::Q4);
        let mut companion = |name: &str, shape: Shape, dtype: DType, wanted: bool| {
            if !wanted { Ok(None) } else { self.companion(name, shape, dtype).map(Some) }
        };
        let scales = companion("scale", sizes.scale_shape(), DType::F32, quantised)?;
        let is_q4 = packing == Packing::Q4;
        let groups = companion("groups", sizes.groups_shape(), DType::U8, is_q4)?;
        Ok(Matrix { scales, groups, ..matrix })
    }

    /// The form in which the product with the weight at `path` takes its left side.
    ///
    /// # Errors
    /// As [`Context::matrix`], but for companions.
    pub fn form<const N: usize>(&mut self, path: &Path<'_>, dims: [usize; N]) -> Result<Form> {
        let Matrix { packing, doubled, .. } = self.product(path, dims)?;
        Ok(if doubled.is_some() { Form::F32 } else { packing.form() })
    }

    /// The weight at `path` of a product, and how it is stored: its matrix, but for companions.
    fn product<const N: usize>(&mut self, path: &Path<'_>, dims: [usize; N]) -> Result<Matrix> {
        self.set_name(path)?;
        let shape = Shape::new(dims);
        let weight = self.weights.find_matrix(&self.name, shape)?.ok_or(Error::MissingWeight)?;
        let (n, rest) = dims.split_first().map_or((1, &[][..]), |(&n, rest)| (n, rest));
        let (channels, taps) = rest.split_first().map_or((1, &[][..]), |(&c, taps)| (c, taps));
        let taps = taps.iter().fold(1usize, |taps, &t| taps.saturating_mul(t));
        shape.elements()?;
        let sizes = Sizes { n, channels, taps };
        let (packing, sizes, doubled) = match Packing::of(weight.dtype) {
            Some(packing)
                if shape.as_slice().ends_with(&[3, 3])
                    && sizes.doubled().shape(packing) == Some(weight.shape) =>
            {
                (packing, sizes.doubled(), Some(n))
            }
            _ => (packing_of(weight, shape, sizes)?, sizes, None),
        };
        Ok(Matrix { weight, packing, sizes, doubled, scales: None, groups: None })
    }

    /// What belongs to the packed weight that was found last.
    fn companion(&mut self, name: &str, shape: Shape, dtype: DType) -> Result<Weight> {
        let len = self.name.len();
        let limit = crate::weights::MAX_NAME;
        if self.name.push('.').is_err() || self.name.push_str(name).is_err() {
            return Err(Error::Capacity { what: "a weight's name", needed: limit + 1, limit });
        }
        let weight = self.weights.find(&self.name, shape)?.ok_or(Error::MissingWeight)?;
        if weight.shape != shape {
            let (expected, found) = (shape.to_dims(), weight.shape.to_dims());
            return Err(Error::WeightShape { expected, found });
        }
        if weight.dtype != dtype {
            return Err(Error::WeightDtype { found: weight.dtype.name() });
        }
        let bytes = &mut self.tally.weight_bytes;
        *bytes = bytes.saturating_add(weight.bytes as u64);
        self.name.truncate(len);
        Ok(weight)
    }

    /// Counts no more weights than `before`: the same were counted already.
    pub fn count_weights_as(&mut self, before: Tally) {
        self.tally.weight_bytes = before.weight_bytes;
        self.observed.weight_bytes = self.observed.weight_bytes.min(before.weight_bytes);
    }

    /// Whether the checkpoint has a weight at `path`: asked where it knows an older naming.
    ///
    /// # Errors
    /// [`Error::Capacity`] where the path is too long.
    pub fn has(&mut self, path: &Path<'_>) -> Result<bool> {
        self.set_name(path)?;
        Ok(self.weights.contains(&self.name))
    }

    fn set_name(&mut self, path: &Path<'_>) -> Result<()> {
        let limit = crate::weights::MAX_NAME;
        let too_long = Error::Capacity { what: "a weight's name", needed: limit + 1, limit };
        self.name.clear();
        path.push_to(&mut self.name).ok_or(too_long)
    }

    /// Counts the multiply-adds of an op.
    pub(super) fn count(&mut self, factors: [usize; 4]) {
        let product = factors.iter().fold(1u64, |product, &f| product.saturating_mul(f as u64));
        self.tally.multiply_adds = self.tally.multiply_adds.saturating_add(product);
    }

    /// An op that wrote `out` has ended: tells the observer, if there is one.
    pub(super) fn ended(&mut self, op: Op, out: Tensor) {
        self.ended_with(op, out.shape());
    }

    /// [`Context::ended`] of an op that wrote a result of this shape, perhaps into a larger tensor.
    pub(super) fn ended_with(&mut self, op: Op, shape: Shape) {
        let is_planning = self.is_planning();
        let Some(observer) = self.observer.as_mut().filter(|_| !is_planning) else { return };
        let (now, before) = match op {
            Op::Convert => (self.observed, self.observed),
            _ => (self.tally, self.observed),
        };
        let cost = Tally {
            multiply_adds: now.multiply_adds - before.multiply_adds,
            weight_bytes: now.weight_bytes - before.weight_bytes,
        };
        self.observed = now;
        observer(Event { op, weight: &self.name, shape, cost });
    }

    /// Memory to copy `bytes` of weights into, where the source does not have them in place.
    pub(super) fn staging(&mut self, bytes: usize) -> Result<Tensor> {
        let bytes = if self.weights.is_staged() { bytes } else { 0 };
        self.tensor(Shape::new([bytes.div_ceil(4)]))
    }

    /// A small weight (a bias, a norm's scale) as a tensor on top of the stack.
    pub(super) fn load(&mut self, weight: Weight) -> Result<Tensor> {
        let out = self.tensor(Shape::new([weight.shape.elements()?]))?;
        self.working(|cx| {
            let staging = cx.staging(weight.bytes)?;
            if cx.is_planning() {
                return Ok(());
            }
            let ([out, staging], []) = cx.arena.split_two([out, staging], []);
            let bytes = cx.weights.read(&weight, 0, weight.bytes, bytes_of_mut(staging))?;
            to_f32(cx.isa, weight.dtype, bytes, out);
            Ok(())
        })?;
        Ok(out)
    }

    /// A weight of `len` elements, with zeros behind them up to whole panels.
    pub(super) fn load_padded(&mut self, weight: Weight, len: usize) -> Result<Tensor> {
        expect_elements(weight, len)?;
        let out = self.tensor(Shape::new([len.next_multiple_of(PANEL)]))?;
        self.working(|cx| {
            let staging = cx.staging(weight.bytes)?;
            if cx.is_planning() {
                return Ok(());
            }
            let ([out, staging], []) = cx.arena.split_two([out, staging], []);
            let bytes = cx.weights.read(&weight, 0, weight.bytes, bytes_of_mut(staging))?;
            let (values, rest) = out.split_at_mut(len);
            to_f32(cx.isa, weight.dtype, bytes, values);
            rest.fill(0.0);
            Ok(())
        })?;
        Ok(out)
    }

    /// The bytes of a weight, on top of the stack.
    pub(super) fn load_bytes(&mut self, weight: Weight) -> Result<Tensor> {
        let out = self.tensor(Shape::new([weight.bytes.div_ceil(4)]))?;
        self.working(|cx| {
            let staging = cx.staging(weight.bytes)?;
            if cx.is_planning() {
                return Ok(());
            }
            let ([out, staging], []) = cx.arena.split_two([out, staging], []);
            let bytes = cx.weights.read(&weight, 0, weight.bytes, bytes_of_mut(staging))?;
            bytes_of_mut(out)[..weight.bytes].copy_from_slice(bytes);
            Ok(())
        })?;
        Ok(out)
    }

    /// A tensor on top of the stack whose rows are in this form.
    pub(super) fn tensor_in(&mut self, shape: Shape, form: Form) -> Result<Tensor> {
        self.arena.push(shape, form)
    }

    /// Like [`Context::load`], for a weight that may be absent: `default` then.
    pub(super) fn load_or(
        &mut self,
        weight: Option<Weight>,
        len: usize,
        default: f32,
    ) -> Result<Tensor> {
        let Some(weight) = weight else {
            let out = self.tensor(Shape::new([len]))?;
            if !self.is_planning() {
                self.arena.write(out).fill(default);
            }
            return Ok(out);
        };
        expect_elements(weight, len)?;
        self.load(weight)
    }
}

/// How a weight that was found is stored, where `shape` was asked for.
fn packing_of(weight: Weight, shape: Shape, sizes: Sizes) -> Result<Packing> {
    let is_float = weight.dtype.is_float();
    if weight.shape == shape && is_float {
        return Ok(Packing::Plain);
    }
    match Packing::of(weight.dtype) {
        Some(packing) if sizes.shape(packing) == Some(weight.shape) => Ok(packing),
        Some(packing) if !is_float => {
            let expected = sizes.shape(packing).unwrap_or(shape).to_dims();
            Err(Error::WeightShape { expected, found: weight.shape.to_dims() })
        }
        _ if !is_float => Err(Error::WeightDtype { found: weight.dtype.name() }),
        _ => {
            let (expected, found) = (shape.to_dims(), weight.shape.to_dims());
            Err(Error::WeightShape { expected, found })
        }
    }
}

/// # Errors
/// [`Error::WeightShape`] where the weight does not have `len` elements.
fn expect_elements(weight: Weight, len: usize) -> Result<()> {
    if weight.shape.elements()? == len {
        return Ok(());
    }
    Err(Error::WeightShape { expected: [len, 0, 0, 0], found: weight.shape.to_dims() })
}

/// The elements of a weight, from their bytes in the checkpoint.
pub(super) fn to_f32(isa: Isa, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F16 => isa.f16_to_f32(bytes, out),
        DType::BF16 => isa.bf16_to_f32(bytes, out),
        _ => dtype.to_f32(bytes, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Sequential;
    use crate::weights::{Assumed, MAX_NAME};

    #[test]
    fn a_scope_that_fails_gives_back_all_it_took() {
        let mut weights = Assumed(DType::F32);
        let mut cx = Context::new(Arena::measuring(), Isa::SCALAR, &Sequential, &mut weights);
        let x = cx.tensor(Shape::new([3])).unwrap();
        let fail = |cx: &mut Context<'_>| cx.tensor(Shape::new([5])).and(Err(Error::Cancelled));
        assert_eq!(cx.scope(fail), Err(Error::Cancelled));
        assert_eq!(cx.scratch(fail), Err(Error::Cancelled));
        assert_eq!((cx.arena().top(), cx.arena().peak()), (64, 128));
        assert_eq!(cx.replace(x, fail), Err(Error::Cancelled));
        assert_eq!(cx.arena().top(), 0);
    }

    #[test]
    fn a_weight_is_refused_by_its_type_or_by_a_name_without_end() {
        let mut weights = Assumed(DType::I64);
        let mut cx = Context::new(Arena::measuring(), Isa::SCALAR, &Sequential, &mut weights);
        let root = Path::root();
        let error = Error::WeightDtype { found: "I64" };
        assert_eq!(cx.weight(&root.at("conv.bias"), [3]), Err(error));
        assert_eq!(cx.weight_name(), "conv.bias");
        let long = "x".repeat(MAX_NAME + 1);
        let what = "a weight's name";
        let error = Error::Capacity { what, needed: MAX_NAME + 1, limit: MAX_NAME };
        assert_eq!(cx.weight(&root.at(&long), [3]), Err(error));
        assert_eq!(cx.has(&root.at(&long)), Err(error));
    }
}
