//! THE list of kernels: what an instruction set must offer. Tests and benchmarks read it too.

use super::register_loop::RegisterLoop;

/// The most taps of a convolution in one call of a GEMM kernel: 3×3.
pub const MAX_TAPS: usize = 9;

/// The most rows a GEMM tile has on any instruction set.
pub const MR_MAX: usize = 16;

/// The most columns a GEMM tile has on any instruction set.
pub const NR_MAX: usize = 32;

/// In [`Gather::offsets`]: this row lies in the padding, it is all zeros.
pub const NO_ROW: usize = usize::MAX;

/// The rows of a GEMM's left side, by address: for a convolution each tap of each output pixel is a
/// pixel of the input, so there is no im2col buffer.
#[derive(Clone, Copy)]
pub struct Gather<'a> {
    /// Where the rows lie.
    pub data: &'a [f32],
    /// At least `channels` zeros: what the padding looks like.
    pub zeros: &'a [f32],
    /// `[taps, mr]`: where in `data` each row begins at each tap, or [`NO_ROW`].
    pub offsets: &'a [usize],
    /// Taps: 1 for a linear layer.
    pub taps: usize,
    /// Elements of a row at one tap.
    pub channels: usize,
}

impl Gather<'_> {
    /// Panics unless every row lies inside `data`.
    pub(super) fn check(&self, mr: usize) {
        assert!(self.taps <= MAX_TAPS && self.offsets.len() >= self.taps * mr, "too few offsets");
        assert!(self.zeros.len() >= self.channels, "too few zeros");
        let last = self.data.len().checked_sub(self.channels);
        for &offset in &self.offsets[..self.taps * mr] {
            assert!(
                offset == NO_ROW || last.is_some_and(|last| offset <= last),
                "a row lies outside its tensor"
            );
        }
    }

    /// The row at `offset`, an entry of `offsets`.
    #[inline(always)]
    pub(super) fn row(&self, offset: usize) -> &[f32] {
        if offset == NO_ROW {
            &self.zeros[..self.channels]
        } else {
            &self.data[offset..offset + self.channels]
        }
    }
}

/// A function of one element, applied after a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`, within 4 ULP.
    Silu,
    /// `x · Φ(x)` (Hendrycks and Gimpel 2016), Φ by the error function within 1.5e-7.
    Gelu,
    /// The tanh form of GELU, within 3e-7 · max(1, |x|).
    GeluTanh,
    /// `x · sigmoid(1.702 x)`, within 4 ULP.
    QuickGelu,
    /// `max(x, 0)`, exact.
    Relu,
    /// `3 · tanh(x / 3)`, within 4e-7: how TAESD's decoder tames its input.
    ClampTanh3,
}

impl Activation {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Silu, Self::Gelu, Self::GeluTanh, Self::QuickGelu, Self::Relu, Self::ClampTanh3];
}

/// A GEMM kernel and the size of its tile.
pub(super) struct GemmF32 {
    pub mr: usize,
    pub nr: usize,
    pub run: unsafe fn(&Gather<'_>, &[f32], &mut [f32]),
}

/// `x ← (x − mean) · scale + shift`.
pub(super) type NormaliseF32 = unsafe fn(&mut [f32], &[f32], &[f32], &[f32]);

/// One instruction set's kernels. Calling one requires the CPU's features and the sizes that the
/// methods of [`Isa`](super::Isa) check.
pub(super) struct Kernels {
    pub name: &'static str,
    pub gemm_f32: GemmF32,
    pub activate_f32: unsafe fn(Activation, &mut [f32]),
    pub exp_sub_sum_f32: unsafe fn(&mut [f32], f32) -> f32,
    pub normalise_f32: NormaliseF32,
    pub f16_to_f32: unsafe fn(&[u8], &mut [f32]),
    pub bf16_to_f32: unsafe fn(&[u8], &mut [f32]),
    pub register_loop_f32: RegisterLoop,
}
