//! How the CPU does it: kernels on plain slices, one file per instruction set.
//!
//! An [`Isa`] is a token: whoever holds one has the proof that the CPU can run its kernels. The
//! core never detects; the host does, once. `kernels.rs` is the list of all kernels; `scalar.rs` is
//! fallback, oracle and explanation. An island of `unsafe`: instruction sets and raw loads.

#[cfg(target_arch = "aarch64")]
mod aarch64_neon;
#[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
mod arm_dsp;
#[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
mod arm_helium;
mod attend;
mod kernels;
mod portable;
mod register_loop;
mod rows;
mod scalar;
mod simd;
mod tile;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm_simd128;
#[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
mod widened;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512;

pub use kernels::{
    Activation, Adam, Arithmetic, Attend, Finish, Gate, Gather, KEYS, MAX_TAPS, MR_MAX, NO_ROW,
    NR_MAX, PACE, Panels,
};

use core::fmt;
use kernels::Kernels;

use crate::tensor::{Form, PANEL};

/// An instruction set that mote has kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Level {
    /// Plain Rust, whatever the compiler makes of it.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX2, FMA and AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same, and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// The same, VNNI and BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// aarch64, which always has NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// aarch64 with dotprod.
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
    /// aarch64 with dotprod and i8mm.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
    /// aarch64 with dotprod, i8mm and bf16.
    #[cfg(target_arch = "aarch64")]
    NeonBf16,
    /// A bare 32-bit Arm core with the DSP extension and single precision in hardware: Cortex-M4F,
    /// M7, M33.
    #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
    Dsp,
    /// A bare 32-bit Arm core with Helium, for integers and floats: Cortex-M55, M85.
    #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
    Helium,
    /// WebAssembly, compiled with simd128.
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Simd128,
}

impl Level {
    /// All levels of this architecture, the plainest first.
    pub const ALL: &'static [Self] = &[
        Self::Scalar,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::AvxVnni,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Vnni,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Bf16,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
        #[cfg(target_arch = "aarch64")]
        Self::NeonDotprod,
        #[cfg(target_arch = "aarch64")]
        Self::NeonI8mm,
        #[cfg(target_arch = "aarch64")]
        Self::NeonBf16,
        #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
        Self::Dsp,
        #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
        Self::Helium,
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Self::Simd128,
    ];

    /// Its name: `scalar`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        self.kernels().name
    }

    fn kernels(self) -> &'static Kernels {
        match self {
            Self::Scalar => &scalar::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => &x86_avx2::AVX2,
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => &x86_avx2::AVX_VNNI,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => &x86_avx512::AVX512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => &x86_avx512::AVX512_VNNI,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => &x86_avx512::AVX512_BF16,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => &aarch64_neon::NEON,
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => &aarch64_neon::NEON_DOTPROD,
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => &aarch64_neon::NEON_I8MM,
            #[cfg(target_arch = "aarch64")]
            Self::NeonBf16 => &aarch64_neon::NEON_BF16,
            #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
            Self::Dsp => &arm_dsp::DSP,
            #[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
            Self::Helium => &arm_helium::HELIUM,
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => &wasm_simd128::SIMD128,
        }
    }
}

/// The proof that the CPU can run the kernels of a [`Level`].
#[derive(Clone, Copy)]
pub struct Isa {
    kernels: &'static Kernels,
    is_exact: bool,
}

impl Isa {
    /// Plain Rust: every CPU can run it.
    pub const SCALAR: Self = Self::of(&scalar::KERNELS);

    const fn of(kernels: &'static Kernels) -> Self {
        Self { kernels, is_exact: false }
    }

    /// The same, with products that are the same to the bit on every instruction set, at the cost
    /// of some speed: products of f32 are not fused, and those of bf16 on Arm not left to the
    /// instruction that rounds in its own way. Products of 8-bit integers and all else are the same
    /// anyway.
    pub fn exact(self) -> Self {
        #[cfg(target_arch = "aarch64")]
        if core::ptr::eq(self.kernels, &aarch64_neon::NEON_BF16) {
            return Self { kernels: &aarch64_neon::NEON_I8MM, is_exact: true };
        }
        Self { is_exact: true, ..self }
    }

    fn exactly(self, arithmetic: Arithmetic) -> Arithmetic {
        match arithmetic {
            Arithmetic::F32 if self.is_exact => Arithmetic::F32Unfused,
            other => other,
        }
    }

    /// The best level that this program was compiled for, so that no detection is needed.
    #[allow(unreachable_code, reason = "lower levels are, where a higher one was compiled for")]
    pub fn compiled() -> Self {
        #[cfg(all(
            target_arch = "x86_64",
            target_feature = "avx512bw",
            target_feature = "avx512dq",
            target_feature = "avx512vl",
            target_feature = "fma"
        ))]
        {
            #[cfg(all(target_feature = "avx512vnni", target_feature = "avx512bf16"))]
            return Self::of(&x86_avx512::AVX512_BF16);
            #[cfg(all(target_feature = "avx512vnni", not(target_feature = "avx512bf16")))]
            return Self::of(&x86_avx512::AVX512_VNNI);
            #[cfg(not(target_feature = "avx512vnni"))]
            return Self::of(&x86_avx512::AVX512);
        }
        #[cfg(all(target_arch = "x86_64", target_feature = "avx2", target_feature = "fma"))]
        return Self::of(&x86_avx2::AVX2);
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        return Self::compiled_neon();
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        return Self::of(&wasm_simd128::SIMD128);
        Self::SCALAR
    }

    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    fn compiled_neon() -> Self {
        let has_dotprod = cfg!(target_feature = "dotprod");
        let has_i8mm = has_dotprod && cfg!(target_feature = "i8mm");
        Self::of(if has_i8mm && cfg!(target_feature = "bf16") {
            &aarch64_neon::NEON_BF16
        } else if has_i8mm {
            &aarch64_neon::NEON_I8MM
        } else if has_dotprod {
            &aarch64_neon::NEON_DOTPROD
        } else {
            &aarch64_neon::NEON
        })
    }

    /// The token for `level`, on the host's word.
    ///
    /// # Safety
    /// The CPU has the features of `level`.
    pub unsafe fn assume(level: Level) -> Self {
        Self::of(level.kernels())
    }

    /// The level's name.
    pub fn name(self) -> &'static str {
        self.kernels.name
    }

    /// The most rows of a tile with one panel, and with two.
    pub fn tile_rows(self) -> [usize; 2] {
        self.kernels.tile_rows
    }

    /// How many panels a tile should have where there are enough.
    pub fn tile_panels(self) -> usize {
        self.kernels.tile_panels
    }

    /// Some rows of a matrix product: `out[r][j] = Σ a[row r][k] · b[k][j] + …`, in the order of k.
    ///
    /// `a` says where the rows lie, `panels` holds the columns; `finish` says what is added, and
    /// where it goes. Quantised, row r stands for `scale·(q − zero)`, tap by tap.
    ///
    /// # Panics
    /// Where a slice is too short for what `a` says, there are more rows than a tile has, or more
    /// than [`MAX_TAPS`] taps.
    pub fn product(
        self,
        arithmetic: Arithmetic,
        a: &Gather<'_>,
        panels: &Panels<'_>,
        finish: &mut Finish<'_, '_>,
    ) {
        let rows = finish.out.len();
        let columns = finish.out.first().map_or(0, |row| row.len());
        let wide = if panels.gate.is_some() { 2 } else { self.kernels.tile_panels };
        assert!(rows <= self.kernels.tile_rows[wide - 1], "more rows than a tile has");
        a.check_sizes(arithmetic, rows);
        let count = columns.div_ceil(PANEL);
        let (in_data, in_columns) = match panels.gate {
            None => (count, count),
            Some(gate) => (gate.data.saturating_add(count), gate.columns.saturating_add(count)),
        };
        let panel = (a.taps * 4 * PANEL).saturating_mul(a.steps);
        assert!(panels.data.len() >= panel.saturating_mul(in_data), "a panel is too short");
        let scales = if arithmetic == Arithmetic::Q8 { (1 + a.taps) * PANEL } else { 0 };
        assert!(panels.scales.len() >= scales.saturating_mul(in_columns), "too few scales");
        if let Some(bias) = finish.bias {
            assert!(bias.len() >= in_columns.saturating_mul(PANEL), "a bias is too short");
        }
        assert!(finish.out.iter().all(|row| row.len() == columns), "rows of one length");
        if let Some(residual) = finish.residual {
            assert!(residual.len() >= rows, "too few rows of a residual");
            assert!(residual[..rows].iter().all(|row| row.len() >= columns), "a residual's row");
        }
        let arithmetic = self.exactly(arithmetic);
        // SAFETY: the token proves the CPU's features; sizes were just checked, and the kernel
        // checks where rows lie.
        unsafe { (self.kernels.product)(arithmetic, a, panels, finish) }
    }

    /// Queries that [`Isa::attend`] takes at once: whole panels.
    pub fn attend_queries(self) -> usize {
        self.kernels.attend_queries
    }

    /// Attention of a block of queries: see [`Attend`]. Weights are powers of two of the scores.
    ///
    /// # Panics
    /// Where a slice is too short for what `job` says.
    pub fn attend(self, job: &mut Attend<'_>) {
        let queries = self.kernels.attend_queries;
        let size = if job.arithmetic == Arithmetic::Bf16 { 2 } else { 4 };
        let words = |count: usize| count.checked_mul(4).expect("a size overflows");
        assert!(job.tk > 0 && job.sums.len() >= queries, "keys, and a sum for each query");
        assert!(job.out.len().is_multiple_of(queries), "whole rows of queries");
        assert!(job.queries.len() >= words(queries.saturating_mul(job.steps)), "too few queries");
        let last = (job.tk - 1).saturating_mul(job.key_stride);
        assert!(job.keys.len() >= last.saturating_add(words(job.steps)), "too few keys");
        let values = job.tk.div_ceil(KEYS).saturating_mul(KEYS * (job.out.len() / queries));
        assert!(job.values.len() >= values.saturating_mul(size), "too few values");
        assert!(job.weights.len() >= queries * KEYS * size, "too few weights");
        job.arithmetic = self.exactly(job.arithmetic);
        // SAFETY: the token proves the CPU's features; all lengths were just checked.
        unsafe { (self.kernels.attend)(job) }
    }

    /// Applies an activation to every element. Errors: see each [`Activation`].
    pub fn activate_f32(self, activation: Activation, x: &mut [f32]) {
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.activate_f32)(activation, x) }
    }

    /// `x ← exp(x − max)`; the sum of the results, in 16 interleaved partial sums.
    pub fn exp_sub_sum_f32(self, x: &mut [f32], max: f32) -> f32 {
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.exp_sub_sum_f32)(x, max) }
    }

    /// `x ← x · gelu(gate)`, for as many as there are of both.
    pub fn gelu_times_f32(self, gate: &[f32], x: &mut [f32]) {
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.gelu_times_f32)(gate, x) }
    }

    /// The largest of all elements and `max`.
    pub fn max_f32(self, x: &[f32], max: f32) -> f32 {
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.max_f32)(x, max) }
    }

    /// `x ← own·x + factor·other`, for as many as there are of both.
    pub fn scale_add_f32(self, x: &mut [f32], own: f32, other: &[f32], factor: f32) {
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.scale_add_f32)(x, own, other, factor) }
    }

    /// `out ← a − b`, for as many as there are of all.
    pub fn subtract_f32(self, a: &[f32], b: &[f32], out: &mut [f32]) {
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.subtract_f32)(a, b, out) }
    }

    /// Two neighbouring outputs of a doubled convolution (see
    /// [`doubled_row`](crate::tensor::packed::doubled_row)) from `products`: three of a pixel's own
    /// line, three of the line above or below, with the tap before, all taps and the tap after.
    /// An output may be empty: it is not wanted then.
    ///
    /// # Panics
    /// Where not all have the length of the bias.
    pub fn double_f32(self, products: [[&[f32]; 3]; 2], bias: &[f32], out: [&mut [f32]; 2]) {
        let n = bias.len();
        let fit = |line: &[&[f32]; 3]| line.iter().all(|products| products.len() == n);
        assert!(products.iter().all(fit), "as many products as biases");
        assert!(out.iter().all(|out| out.is_empty() || out.len() == n), "as many outputs");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.double_f32)(products, bias, out) }
    }

    /// The mean of each channel over a block of pixels `[pixels, c]`, and the sum of squared
    /// deviations from it: `[2, c]`.
    ///
    /// # Panics
    /// Where there is no pixel or no channel, or a row is not whole.
    pub fn moments_f32(self, x: &[f32], moments: &mut [f32]) {
        let c = moments.len() / 2;
        assert!(c > 0 && !x.is_empty() && x.len().is_multiple_of(c), "whole rows of channels");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.moments_f32)(x, moments) }
    }

    /// `out = (x − mean) · scale + shift` along each row of c channels; `affine`: mean, scale and
    /// shift, c of each. The rows of x are `stride` apart, those of `out` `pitch`. With `silu`,
    /// SiLU follows, within 1e-5 of itself: for what is rounded to bf16 or eight bits afterwards.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn normalise_f32(
        self,
        x: &[f32],
        stride: usize,
        affine: [&[f32]; 3],
        silu: bool,
        out: &mut [f32],
        pitch: usize,
    ) {
        let c = affine[0].len();
        assert!(affine.iter().all(|values| values.len() == c), "three values per channel");
        assert!(c > 0 && c <= stride && c <= pitch, "rows of channels");
        if out.is_empty() {
            return;
        }
        let last = (out.len() - 1) / pitch;
        assert!(last * pitch + c <= out.len(), "whole rows of the result");
        assert!(last * stride + c <= x.len(), "as many rows of x");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.normalise_f32)(x, stride, affine, silu, out, pitch) }
    }

    /// `out = (x − mean(x)) / √(var(x) + eps) · weight + bias`
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn layer_norm_f32(
        self,
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        out: &mut [f32],
    ) {
        let n = x.len();
        assert!(weight.len() == n && bias.len() == n && out.len() == n, "one value per channel");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.layer_norm_f32)(x, weight, bias, eps, out) }
    }

    /// `dx ← dx + dy · f'(x)`, for as many as there are of all.
    pub fn activate_backward_f32(
        self,
        activation: Activation,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
    ) {
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.activate_backward_f32)(activation, x, dy, dx) }
    }

    /// A row of GEGLU backwards: x and dx are `[2m]`, values and then gates, and dy is `[m]`.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn geglu_backward_f32(self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        assert!(x.len() == 2 * dy.len() && dx.len() == x.len(), "a value and a gate each");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.geglu_backward_f32)(x, dy, dx) }
    }

    /// Adds rows of `sums.len()` channels to `sums`.
    ///
    /// # Panics
    /// Where there are no channels.
    pub fn sum_rows_f32(self, x: &[f32], sums: &mut [f32]) {
        assert!(!sums.is_empty(), "rows have channels");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.sum_rows_f32)(x, sums) }
    }

    /// The first pass of a group norm backwards, over rows of c channels: with SiLU, `dy` becomes
    /// the gradient before it; then dy and `dy·(x − mean)` are added to `sums` `[2, c]`. `affine`
    /// as in [`Isa::normalise_f32`].
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn group_norm_sums_f32(
        self,
        silu: bool,
        x: &[f32],
        affine: &[f32],
        dy: &mut [f32],
        sums: &mut [f32],
    ) {
        let c = affine.len() / 3;
        assert!(c > 0 && affine.len() == 3 * c && sums.len() == 2 * c, "values per channel");
        assert!(x.len() == dy.len(), "a gradient for each element");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.group_norm_sums_f32)(silu, x, affine, dy, sums) }
    }

    /// The second pass: `dx ← dx + dy·a + (x − mean)·b + c`, where `factors` `[4, c]` are mean, a,
    /// b and c of each channel.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn group_norm_backward_f32(self, x: &[f32], factors: &[f32], dy: &[f32], dx: &mut [f32]) {
        let c = factors.len() / 4;
        assert!(c > 0 && factors.len() == 4 * c, "four values per channel");
        assert!(x.len() == dy.len() && x.len() == dx.len(), "a gradient for each element");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.group_norm_backward_f32)(x, factors, dy, dx) }
    }

    /// A layer norm backwards, for one row: the gradients of x, and of weight and bias in `sums`
    /// `[2, c]`, are added to.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn layer_norm_backward_f32(
        self,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        dy: &[f32],
        dx: &mut [f32],
        sums: &mut [f32],
    ) {
        let n = x.len();
        assert!(weight.len() == n && dy.len() == n && dx.len() == n, "one value per channel");
        assert!(sums.len() == 2 * n, "two sums per channel");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.layer_norm_backward_f32)(x, weight, eps, dy, dx, sums) }
    }

    /// 16 columns of `rows` rows that are `stride` apart become 16 rows that are `pitch` apart.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub fn transpose_f32(
        self,
        from: &[f32],
        stride: usize,
        rows: usize,
        to: &mut [f32],
        pitch: usize,
    ) {
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.transpose_f32)(from, stride, rows, to, pitch) }
    }

    /// One step of AdamW (Loshchilov and Hutter 2019, algorithm 2) on parameters and their first
    /// and second moments.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn adamw_f32(self, adam: &Adam, gradients: &[f32], state: [&mut [f32]; 3]) {
        let n = gradients.len();
        assert!(state.iter().all(|values| values.len() == n), "one gradient for each parameter");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.adamw_f32)(adam, gradients, state) }
    }

    /// Quantises rows of `c` channels to [`Form::Q8`].
    ///
    /// # Panics
    /// Where x is not whole rows, or `out` not as many of [`Form::row_bytes`].
    pub fn quantise_rows(self, x: &[f32], c: usize, out: &mut [u8]) {
        assert!(c > 0 && x.len().is_multiple_of(c), "whole rows of channels");
        assert!(out.len() == x.len() / c * Form::Q8.row_bytes(c), "as many rows");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.quantise_rows)(x, c, out) }
    }

    /// The nearest bf16, ties to even, little-endian; an odd last channel is followed by a zero.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn f32_to_bf16(self, x: &[f32], out: &mut [u8]) {
        assert!(out.len() == 2 * x.len().next_multiple_of(2), "two bytes for each element");
        if !x.is_empty() {
            self.bf16_rows(x, x.len(), x.len(), out, out.len());
        }
    }

    /// [`Isa::f32_to_bf16`] of the first `width` elements of rows that are `stride` apart, into
    /// rows of bytes that are `pitch` apart.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn bf16_rows(self, x: &[f32], stride: usize, width: usize, out: &mut [u8], pitch: usize) {
        assert!(width > 0 && width <= stride, "rows of some width");
        let bytes = 2 * width.next_multiple_of(2);
        assert!(bytes <= pitch, "rows of bytes have room for them");
        let rows = |len: usize, width: usize, stride: usize| (len + stride - width) / stride;
        let count = rows(x.len(), width, stride);
        assert!(x.len() >= width && rows(out.len(), bytes, pitch) == count, "as many rows");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.bf16_rows)(x, stride, width, out, pitch) }
    }

    /// Words of two bf16, little-endian, from the first `width` elements of rows that are `stride`
    /// apart: those of an even row in the lower halves, those of the next in the upper. A last row
    /// alone goes with zeros.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn bf16_pairs(self, x: &[f32], stride: usize, width: usize, out: &mut [u8]) {
        assert!(width > 0 && width <= stride, "rows of some width");
        let rows = (x.len() + stride).saturating_sub(width) / stride;
        assert!(out.len() == 4 * width * rows.div_ceil(2), "a word for each two elements");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.bf16_pairs)(x, stride, width, out) }
    }

    /// Half-precision floats, little-endian, to f32. Exact.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn f16_to_f32(self, from: &[u8], to: &mut [f32]) {
        assert!(from.len() == 2 * to.len(), "two bytes for each element");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.f16_to_f32)(from, to) }
    }

    /// bfloat16, little-endian, to f32. Exact.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn bf16_to_f32(self, from: &[u8], to: &mut [f32]) {
        assert!(from.len() == 2 * to.len(), "two bytes for each element");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.bf16_to_f32)(from, to) }
    }

    /// Does `rounds` rounds of multiply-adds on registers alone. Gives back what they add up to, so
    /// that none can be left out, and how many multiply-adds they were: over the time it took, the
    /// most this CPU can do.
    pub fn register_loop(self, arithmetic: Arithmetic, rounds: usize) -> (f32, u64) {
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.kernels.register_loop)(arithmetic, rounds) }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({})", self.name())
    }
}
