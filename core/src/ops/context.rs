//! The context of a walk: memory, instruction set, threads and weights, handed from layer to layer.

use crate::arch::Isa;
use crate::error::{Error, Result};
use crate::exec::Executor;
use crate::mem::{Arena, bytes_of_mut};
use crate::tensor::{DType, Shape, Tensor};
use crate::weights::{Name, Path, Weight, Weights};

/// What a walk has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Multiply-adds of matrix products, convolutions and attention.
    pub multiply_adds: u64,
    /// Bytes of the weights asked for, as the checkpoint stores them.
    pub weight_bytes: u64,
}

/// What every op needs: memory, instruction set, threads, weights.
///
/// With [`Arena::measuring`] the walk is *planned*: shapes and weights are checked and bytes
/// counted, and nothing is computed.
pub struct Context<'m> {
    pub(super) arena: Arena<'m>,
    pub(super) isa: Isa,
    pub(super) executor: &'m dyn Executor,
    pub(super) weights: &'m mut dyn Weights,
    name: Name,
    tally: Tally,
}

impl<'m> Context<'m> {
    /// A context in this arena, with these kernels, threads and weights.
    pub fn new(
        arena: Arena<'m>,
        isa: Isa,
        executor: &'m dyn Executor,
        weights: &'m mut dyn Weights,
    ) -> Self {
        let (name, tally) = (Name::new(), Tally::default());
        Self { arena, isa, executor, weights, name, tally }
    }

    /// Whether the walk is planned, not run.
    pub fn is_planning(&self) -> bool {
        self.arena.is_measuring()
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
        self.tally = Tally::default();
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
        assert!(self.arena.is_newest(x), "only the newest tensor can be replaced");
        self.keep(x.offset(), body)
    }

    /// Runs `body` and gives back all the memory it took.
    ///
    /// # Errors
    /// The body's.
    pub fn scratch<R>(&mut self, body: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        let mark = self.arena.top();
        let result = body(self);
        self.arena.release(mark);
        result
    }

    fn keep(
        &mut self,
        mark: usize,
        body: impl FnOnce(&mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match body(self) {
            Ok(result) => self.arena.keep(mark, result),
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
        if !matches!(weight.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::WeightDtype { found: weight.dtype.name() });
        }
        let bytes = &mut self.tally.weight_bytes;
        *bytes = bytes.saturating_add(weight.bytes as u64);
        Ok(weight)
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
        self.name = path.name().ok_or(too_long)?;
        Ok(())
    }

    /// Counts the multiply-adds of an op.
    pub(super) fn count(&mut self, factors: [usize; 4]) {
        let product = factors.iter().fold(1u64, |product, &f| product.saturating_mul(f as u64));
        self.tally.multiply_adds = self.tally.multiply_adds.saturating_add(product);
    }

    /// Memory to copy `bytes` of weights into, where the source does not have them in place.
    pub(super) fn staging(&mut self, bytes: usize) -> Result<Tensor> {
        let bytes = if self.weights.is_staged() { bytes } else { 0 };
        self.tensor(Shape::new([bytes.div_ceil(4)]))
    }

    /// A small weight (a bias, a norm's scale) as a tensor on top of the stack.
    pub(super) fn load(&mut self, weight: Weight) -> Result<Tensor> {
        let out = self.tensor(Shape::new([weight.shape.elements()?]))?;
        self.scratch(|cx| {
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
        _ => {
            assert!(dtype == DType::F32, "`Context::weight` lets no other type through");
            assert!(bytes.len() == 4 * out.len(), "four bytes for each element");
            for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(bytes);
            }
        }
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
