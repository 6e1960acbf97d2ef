//! The arena: a stack of tensors in a block of memory the host gives, or a stack that only counts.

use core::marker::PhantomData;

use crate::error::{Error, Result};
use crate::tensor::{DType, Form, Shape, Tensor};

/// Every tensor begins at a multiple of this many bytes, and the block must too: one cache line,
/// one AVX-512 register.
pub const ALIGNMENT: usize = 64;

/// A block aligned as the arena wants it, for a `static` in firmware.
#[repr(C, align(64))]
pub struct Aligned<const N: usize>(pub [u8; N]);

/// A stack of tensors.
///
/// With memory it holds them; *measuring* it only counts, and the peak it reaches is the number of
/// bytes that the same calls need with memory.
///
/// ```
/// use mote::mem::Arena;
/// use mote::tensor::Shape;
///
/// let mut arena = Arena::measuring();
/// arena.push_f32(Shape::new([1, 8, 8, 4]))?;
/// assert_eq!(arena.peak(), 1024);
/// # Ok::<(), mote::Error>(())
/// ```
pub struct Arena<'m> {
    /// The block's first byte; `None` when measuring.
    base: Option<*mut u8>,
    limit: usize,
    top: usize,
    peak: usize,
    memory: PhantomData<&'m mut [u8]>,
}

impl<'m> Arena<'m> {
    /// An arena in `memory`, which must begin at a multiple of [`ALIGNMENT`]. What the memory holds
    /// does not matter.
    ///
    /// # Panics
    /// Where the memory is not so aligned: that is the host's mistake, not the world's.
    pub fn new(memory: &'m mut [u8]) -> Self {
        let base = match memory.is_empty() {
            // An empty block may begin anywhere, and a tensor without elements is aligned, too.
            true => core::ptr::without_provenance_mut(ALIGNMENT),
            false => memory.as_mut_ptr(),
        };
        assert!(
            base.addr().is_multiple_of(ALIGNMENT),
            "the arena's memory must be aligned to {ALIGNMENT} bytes"
        );
        Self { base: Some(base), limit: memory.len(), top: 0, peak: 0, memory: PhantomData }
    }

    /// An arena in the same memory as a former one, which was dropped when its top was `top`: its
    /// tensors are still there.
    ///
    /// # Panics
    /// As [`Arena::new`], and where `top` is none that an arena in this memory could have had.
    pub fn resume(memory: &'m mut [u8], top: usize) -> Self {
        let mut arena = Self::new(memory);
        let is_top = top <= arena.limit && top.is_multiple_of(ALIGNMENT);
        assert!(is_top, "an arena resumes at a former top");
        (arena.top, arena.peak) = (top, top);
        arena
    }

    /// An arena without memory, that only counts.
    pub fn measuring() -> Self {
        let limit = isize::MAX as usize & !(ALIGNMENT - 1);
        Self { base: None, limit, top: 0, peak: 0, memory: PhantomData }
    }

    /// Whether this arena only counts.
    pub fn is_measuring(&self) -> bool {
        self.base.is_none()
    }

    /// Bytes in use.
    pub fn top(&self) -> usize {
        self.top
    }

    /// The most bytes that were ever in use.
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// Forgets the peak, so that the next phase can be measured by itself.
    pub fn reset_peak(&mut self) {
        self.peak = self.top;
    }

    /// Takes a new f32 tensor from the top. Its elements hold whatever the memory held.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the block ends before it, [`Error::Overflow`] where its size
    /// does not fit `usize`.
    pub fn push_f32(&mut self, shape: Shape) -> Result<Tensor> {
        self.push(shape, Form::F32)
    }

    /// [`Arena::push_f32`] whose rows are in another form.
    ///
    /// # Errors
    /// As [`Arena::push_f32`].
    pub fn push(&mut self, shape: Shape, form: Form) -> Result<Tensor> {
        let tensor = Tensor::new(self.top, shape, form.dtype())?;
        let end = aligned(tensor.offset() + tensor.bytes());
        if end > self.limit {
            return Err(Error::OutOfMemory { needed: end, limit: self.limit });
        }
        self.top = end;
        self.peak = self.peak.max(end);
        Ok(tensor)
    }

    /// An f32 tensor of another shape that begins where `tensor` begins, and lies over it and what
    /// came after: what is written into one is written into all. The memory of all stays taken.
    ///
    /// # Errors
    /// As [`Arena::push_f32`].
    ///
    /// # Panics
    /// Where `tensor` does not lie in the stack, or begins inside another.
    pub fn overlay(&mut self, tensor: Tensor, shape: Shape) -> Result<Tensor> {
        self.check_mark(tensor.offset());
        let top = core::mem::replace(&mut self.top, tensor.offset());
        let result = self.push_f32(shape);
        self.top = self.top.max(top);
        result
    }

    /// Gives back all that lies above `mark`, a former [`Arena::top`].
    ///
    /// # Panics
    /// Where it is none.
    pub fn release(&mut self, mark: usize) {
        self.check_mark(mark);
        self.top = mark;
    }

    /// Takes everything up to `top`, a former [`Arena::top`], again.
    ///
    /// # Panics
    /// Where the stack never was so high.
    pub(crate) fn take_again(&mut self, top: usize) {
        assert!(
            top >= self.top && top <= self.peak,
            "the arena's top can be raised to a former one"
        );
        self.top = top;
    }

    /// Gives back all that lies above `mark` but `result`, which slides down to `mark`. A result
    /// that lies below it stays where it is.
    ///
    /// # Errors
    /// [`Error::Overflow`] never in practice: the tensor was smaller than the arena before.
    ///
    /// # Panics
    /// Where `mark` is no former [`Arena::top`], or the result lies above the top or across the
    /// mark.
    pub fn keep(&mut self, mark: usize, result: Tensor) -> Result<Tensor> {
        self.check_mark(mark);
        let (from, bytes) = (result.offset(), result.bytes());
        assert!(from + bytes <= self.top, "a result must still be in the arena");
        if from < mark {
            assert!(from + bytes <= mark, "a result may not straddle the mark");
            self.top = mark;
            return Ok(result);
        }
        if let Some(base) = self.base
            && from != mark
        {
            // SAFETY: both ranges lie below `top`, hence inside the block that `new` borrowed
            // exclusively; `copy` allows them to overlap.
            unsafe { core::ptr::copy(base.add(from), base.add(mark), bytes) };
        }
        self.top = aligned(mark + bytes);
        Tensor::new(mark, result.shape(), result.dtype())
    }

    /// Whether `tensor` is the newest in the arena.
    pub fn is_newest(&self, tensor: Tensor) -> bool {
        aligned(tensor.offset() + tensor.bytes()) == self.top
    }

    /// The elements of an f32 tensor.
    pub fn read(&self, tensor: Tensor) -> &[f32] {
        let (data, len) = self.locate(tensor);
        // SAFETY: `locate` has checked range, type and alignment; `&self` keeps writers out for as
        // long as the slice lives, and any bit pattern is an f32.
        unsafe { core::slice::from_raw_parts(data, len) }
    }

    /// The elements of an f32 tensor, to be written.
    pub fn write(&mut self, tensor: Tensor) -> &mut [f32] {
        self.split(tensor, []).0
    }

    /// One tensor to be written beside others to be read.
    ///
    /// # Panics
    /// Where what is written overlaps what is read: that would be a mistake of an op.
    pub fn split<const N: usize>(
        &mut self,
        out: Tensor,
        inputs: [Tensor; N],
    ) -> (&mut [f32], [&[f32]; N]) {
        for input in inputs {
            assert_disjoint(out, input);
        }
        let inputs = inputs.map(|input| {
            let (data, len) = self.locate(input);
            // SAFETY: as in `read`; `out` is disjoint from it, and the arena stays borrowed.
            unsafe { core::slice::from_raw_parts(data.cast_const(), len) }
        });
        let (data, len) = self.locate(out);
        // SAFETY: `locate` has checked range, type and alignment; no slice handed out above
        // overlaps.
        (unsafe { core::slice::from_raw_parts_mut(data, len) }, inputs)
    }

    /// [`Arena::split`] in bytes, for tensors of any type.
    ///
    /// # Panics
    /// As [`Arena::split`].
    pub fn split_bytes<const N: usize>(
        &mut self,
        out: Tensor,
        inputs: [Tensor; N],
    ) -> (&mut [u8], [&[u8]; N]) {
        for input in inputs {
            assert_disjoint(out, input);
        }
        let inputs = inputs.map(|input| {
            let data = self.locate_bytes(input);
            // SAFETY: as in `read`; `out` is disjoint from it, and the arena stays borrowed.
            unsafe { core::slice::from_raw_parts(data.cast_const(), input.bytes()) }
        });
        let data = self.locate_bytes(out);
        // SAFETY: `locate_bytes` has checked the range; no slice handed out above overlaps.
        (unsafe { core::slice::from_raw_parts_mut(data, out.bytes()) }, inputs)
    }

    /// Two tensors to be written beside others to be read.
    ///
    /// # Panics
    /// Where what is written overlaps anything else.
    pub fn split_two<const N: usize>(
        &mut self,
        out: [Tensor; 2],
        inputs: [Tensor; N],
    ) -> ([&mut [f32]; 2], [&[f32]; N]) {
        assert_disjoint(out[0], out[1]);
        for input in inputs {
            assert_disjoint(out[1], input);
        }
        let (data, len) = self.locate(out[1]);
        let (first, inputs) = self.split(out[0], inputs);
        // SAFETY: as in `split`; `out[1]` is disjoint from `out[0]` and from every input.
        let second = unsafe { core::slice::from_raw_parts_mut(data, len) };
        ([first, second], inputs)
    }

    /// [`Arena::split_two`] in bytes, for tensors of any type.
    ///
    /// # Panics
    /// As [`Arena::split_two`].
    pub fn split_bytes_two<const N: usize>(
        &mut self,
        out: [Tensor; 2],
        inputs: [Tensor; N],
    ) -> ([&mut [u8]; 2], [&[u8]; N]) {
        assert_disjoint(out[0], out[1]);
        for input in inputs {
            assert_disjoint(out[1], input);
        }
        let data = self.locate_bytes(out[1]);
        let (first, inputs) = self.split_bytes(out[0], inputs);
        // SAFETY: as in `split_bytes`; `out[1]` is disjoint from `out[0]` and from every input.
        let second = unsafe { core::slice::from_raw_parts_mut(data, out[1].bytes()) };
        ([first, second], inputs)
    }

    fn check_mark(&self, mark: usize) {
        let is_former_top = mark <= self.top && mark.is_multiple_of(ALIGNMENT);
        assert!(is_former_top, "the arena's top can only be lowered to a former top");
    }

    /// Where an f32 tensor lies, checked.
    fn locate(&self, tensor: Tensor) -> (*mut f32, usize) {
        assert!(tensor.dtype() == DType::F32, "this tensor holds no f32");
        assert!(tensor.offset().is_multiple_of(4), "a view begins inside an element");
        (self.locate_bytes(tensor).cast::<f32>(), tensor.len())
    }

    /// Where a tensor lies, checked.
    fn locate_bytes(&self, tensor: Tensor) -> *mut u8 {
        let base = self.base.expect("a measuring arena holds no data");
        assert!(tensor.offset() + tensor.bytes() <= self.top, "a tensor was used after its scope");
        // SAFETY: the offset lies inside the block.
        unsafe { base.add(tensor.offset()) }
    }
}

fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

fn assert_disjoint(a: Tensor, b: Tensor) {
    let ends_before = |a: Tensor, b: Tensor| a.offset() + a.bytes() <= b.offset();
    assert!(ends_before(a, b) || ends_before(b, a), "an op's output overlaps its input");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_tensors(arena: &mut Arena<'_>) -> Result<Tensor> {
        let a = arena.push_f32(Shape::new([3, 5]))?;
        let mark = arena.top();
        arena.push_f32(Shape::new([100]))?;
        let result = arena.push_f32(Shape::new([7]))?;
        if !arena.is_measuring() {
            arena.write(a).fill(1.0);
            arena.write(result).copy_from_slice(&[0., 1., 2., 3., 4., 5., 6.]);
        }
        arena.keep(mark, result)
    }

    #[test]
    fn planned_bytes_are_peak_bytes_and_one_byte_less_is_an_error() {
        let mut measuring = Arena::measuring();
        three_tensors(&mut measuring).unwrap();
        assert_eq!(measuring.peak(), 64 + 448 + 64);
        let mut memory = Aligned([0xAA; 64 + 448 + 64]);
        let mut arena = Arena::new(&mut memory.0);
        let kept = three_tensors(&mut arena).unwrap();
        assert_eq!(arena.peak(), measuring.peak());
        assert_eq!(arena.top(), 128);
        assert_eq!(arena.read(kept), [0., 1., 2., 3., 4., 5., 6.]);
        let mut arena = Arena::new(&mut memory.0[..64 + 448 + 63]);
        let error = three_tensors(&mut arena).unwrap_err();
        assert_eq!(error, Error::OutOfMemory { needed: 576, limit: 575 });
    }

    #[test]
    fn a_result_below_the_mark_stays() {
        let mut memory = Aligned([0; 256]);
        let mut arena = Arena::new(&mut memory.0);
        let a = arena.push_f32(Shape::new([2])).unwrap();
        arena.write(a).fill(3.0);
        let mark = arena.top();
        arena.push_f32(Shape::new([2])).unwrap();
        assert_eq!(arena.keep(mark, a).unwrap(), a);
        assert_eq!((arena.top(), arena.read(a)), (64, &[3.0, 3.0][..]));
    }

    #[test]
    fn a_tensor_laid_over_another_takes_only_what_it_is_longer() {
        let mut memory = Aligned([0; 256]);
        let mut arena = Arena::new(&mut memory.0);
        arena.push_f32(Shape::new([1])).unwrap();
        let a = arena.push_f32(Shape::new([8])).unwrap();
        arena.write(a).fill(3.0);
        let shorter = arena.overlay(a, Shape::new([2])).unwrap();
        assert_eq!((arena.top(), arena.read(shorter)), (128, &[3.0, 3.0][..]));
        let longer = arena.overlay(a, Shape::new([48])).unwrap();
        assert_eq!((arena.top(), longer.offset()), (256, a.offset()));
        assert_eq!(arena.read(longer)[..8], [3.0; 8]);
        let error = Error::OutOfMemory { needed: 320, limit: 256 };
        assert_eq!(arena.overlay(longer, Shape::new([49])), Err(error));
        assert_eq!(arena.top(), 256);
    }

    #[test]
    #[should_panic(expected = "overlaps")]
    fn writing_what_is_read_is_caught() {
        let mut memory = Aligned([0; 256]);
        let mut arena = Arena::new(&mut memory.0);
        let a = arena.push_f32(Shape::new([4, 4])).unwrap();
        arena.split(a, [a.rows(1, 2).unwrap()]);
    }

    #[test]
    #[should_panic(expected = "after its scope")]
    fn a_released_tensor_is_caught() {
        let mut memory = Aligned([0; 256]);
        let mut arena = Arena::new(&mut memory.0);
        let a = arena.push_f32(Shape::new([4])).unwrap();
        arena.release(0);
        arena.read(a);
    }

    #[test]
    fn an_empty_block_holds_tensors_without_elements() {
        let mut memory = [0u8; 8];
        for start in 0..8 {
            let mut arena = Arena::new(&mut memory[start..start]);
            let empty = arena.push_f32(Shape::new([3, 0])).unwrap();
            assert!(arena.read(empty).is_empty() && arena.write(empty).is_empty());
            assert_eq!(arena.keep(0, empty), Ok(empty));
            let error = Error::OutOfMemory { needed: 64, limit: 0 };
            assert_eq!(arena.push_f32(Shape::new([1])), Err(error));
        }
    }

    #[test]
    #[should_panic(expected = "a former top")]
    fn a_mark_that_was_never_a_top_is_caught() {
        let mut arena = Arena::measuring();
        arena.push_f32(Shape::new([4])).unwrap();
        arena.release(2);
    }

    #[test]
    fn sizes_that_overflow_are_errors() {
        let mut arena = Arena::measuring();
        let huge = Shape::new([usize::MAX / 2, 3]);
        assert_eq!(arena.push_f32(huge), Err(Error::Overflow { what: "a tensor" }));
        let large = Shape::new([isize::MAX as usize / 4]);
        assert!(arena.push_f32(large).is_err());
        for hidden in [[0, usize::MAX], [usize::MAX, 0]] {
            assert!(arena.push_f32(Shape::new(hidden)).is_err(), "{hidden:?}");
        }
    }
}
