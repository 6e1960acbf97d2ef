//! THE list of kernels: what an instruction set must offer. Tests and benchmarks read it too.

use crate::tensor::packed::ROW_TAIL;
use crate::tensor::{Form, PANEL};

/// The most taps of a convolution in one tile of a product: 3×3.
pub const MAX_TAPS: usize = 9;

/// The most rows a product's tile has on any instruction set.
pub const MR_MAX: usize = 16;

/// The most columns a product's tile has: two panels.
pub const NR_MAX: usize = 2 * PANEL;

/// In [`Gather::offsets`]: this row lies in the padding, it is all zeros.
pub const NO_ROW: usize = usize::MAX;

/// What the numbers of a product are, and how they are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32, fused where the CPU can: what is multiplied is not rounded before it is added.
    F32,
    /// f32, rounded after each multiplication and each addition: the same on every instruction set.
    F32Unfused,
    /// bf16, whose products are exact, summed in f32; of two in a word the second comes first.
    Bf16,
    /// Unsigned times signed 8-bit integers, summed exactly in i32, tap by tap. The signed ones are
    /// at least −127, as [`packed`](crate::tensor::packed) makes them.
    Q8,
}

impl From<Form> for Arithmetic {
    fn from(form: Form) -> Self {
        match form {
            Form::F32 => Self::F32,
            Form::Bf16 => Self::Bf16,
            Form::Q8 => Self::Q8,
        }
    }
}

/// The rows of a product's left side, by address: for a convolution each tap of each output pixel
/// is a pixel of the input, so there is no im2col buffer.
#[derive(Clone, Copy)]
pub struct Gather<'a> {
    /// Where the rows lie.
    pub data: &'a [u8],
    /// At least `row_bytes` zeros: what the padding looks like.
    pub zeros: &'a [u8],
    /// `[taps, MR_MAX]`: at which byte of `data` each row begins at each tap, or [`NO_ROW`].
    pub offsets: &'a [usize; MAX_TAPS * MR_MAX],
    /// Taps: 1 for a linear layer.
    pub taps: usize,
    /// Steps of four bytes that a row takes part with.
    pub steps: usize,
    /// Bytes of a row, with its scale and zero point where it is quantised.
    pub row_bytes: usize,
}

impl Gather<'_> {
    /// Panics unless the rows are long enough for `arithmetic`.
    pub(super) fn check_sizes(&self, arithmetic: Arithmetic, rows: usize) {
        let tail = if arithmetic == Arithmetic::Q8 { ROW_TAIL } else { 0 };
        let needed = self.steps.checked_mul(4).and_then(|bytes| bytes.checked_add(tail));
        assert!(needed.is_some_and(|needed| needed <= self.row_bytes), "a row is too short");
        assert!(self.taps <= MAX_TAPS && rows <= MR_MAX, "too many taps or rows");
        assert!(self.zeros.len() >= self.row_bytes, "too few zeros");
    }

    /// Panics unless the first `rows` of each tap lie inside `data`. A kernel does it with its own
    /// vectors: in tiles of few channels it would take as long as a tenth of the products.
    #[inline(always)]
    pub(super) fn check_rows(&self, rows: usize) {
        // `NO_ROW` is the largest number: one more, and it is the smallest.
        let limit = self.data.len().checked_sub(self.row_bytes).map_or(0, |last| last + 1);
        for offsets in self.offsets.chunks_exact(MR_MAX).take(self.taps) {
            let mut largest = 0;
            for &offset in &offsets[..rows] {
                largest = largest.max(offset.wrapping_add(1));
            }
            assert!(largest <= limit, "a row lies outside its tensor");
        }
    }

    /// The row at `offset`, an entry of `offsets` that was checked.
    #[inline(always)]
    pub(super) fn row(&self, offset: usize) -> *const u8 {
        if offset == NO_ROW {
            self.zeros.as_ptr()
        } else {
            // Inside `data`, as `check_rows` has seen.
            self.data.as_ptr().wrapping_add(offset)
        }
    }
}

/// Where the gates of GEGLU lie: so many panels after the values.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// In [`Panels::data`].
    pub data: usize,
    /// In [`Panels::scales`] and [`Finish::bias`].
    pub columns: usize,
}

/// Panels of a product's right side (see [`packed`](crate::tensor::packed)), as many as the
/// output's columns fill.
#[derive(Clone, Copy)]
pub struct Panels<'a> {
    /// `taps·steps` steps for each panel.
    pub data: &'a [u8],
    /// `[panels, 1 + taps, 16]`, for 8-bit integers.
    pub scales: &'a [f32],
    /// Where the gates are: the output is value · gelu(gate).
    pub gate: Option<Gate>,
    /// What will be wanted next, at most a [`PACE`]th as long as `data`: fetched meanwhile.
    pub next: &'a [u8],
}

/// Bytes of panels that a product reads for each that it fetches of what comes next.
pub const PACE: usize = 4;

/// What happens to the sums, and where they go.
pub struct Finish<'a, 'r> {
    /// As many rows as the tile has, each of as many columns as are wanted.
    pub out: &'r mut [&'a mut [f32]],
    /// Added to each row: 16 values for each panel.
    pub bias: Option<&'a [f32]>,
    /// Added to the output, row by row.
    pub residual: Option<&'r [&'a [f32]]>,
    /// Whether the sums are added to what the output holds.
    pub accumulate: bool,
    /// Applied last.
    pub activation: Option<Activation>,
}

/// Keys in one tile of [`Isa::attend`](super::Isa::attend).
pub const KEYS: usize = 96;

/// A block of queries of one head, and all that they look at. Words are f32 or, in bf16, two bf16.
pub struct Attend<'a> {
    /// What both products are computed in: f32 or bf16.
    pub arithmetic: Arithmetic,
    /// The queries, scaled, as panels: `[panels, steps, 16]` words.
    pub queries: &'a [u8],
    /// Words that a head's channels take.
    pub steps: usize,
    /// The keys: row i begins at byte `i·key_stride` and holds `steps` words.
    pub keys: &'a [u8],
    /// Bytes from key to key.
    pub key_stride: usize,
    /// The values, transposed: `[tiles of KEYS, d, KEYS]`; those that are not there are finite.
    pub values: &'a [u8],
    /// How many keys and values there are.
    pub tk: usize,
    /// Whether a query sees no key with a higher number than its own.
    pub causal: bool,
    /// Number of the first query.
    pub first_query: usize,
    /// Working memory: `KEYS` words for each query.
    pub weights: &'a mut [u8],
    /// The weighted values `[d, queries]`, not yet divided by
    pub out: &'a mut [f32],
    /// the sum of each query's weights.
    pub sums: &'a mut [f32],
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
    /// `x · sigmoid(1.702 x)`, within 3e-7 · max(1, |x|).
    QuickGelu,
    /// `max(x, 0)`, exact.
    Relu,
    /// `3 · tanh(x / 3)`, within 7e-7: how TAESD's decoder tames its input.
    ClampTanh3,
}

impl Activation {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Silu, Self::Gelu, Self::GeluTanh, Self::QuickGelu, Self::Relu, Self::ClampTanh3];
}

/// The numbers of one step of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// What gradients are multiplied with first.
    pub factor: f32,
    /// How much of the first and the second moment is kept.
    pub betas: [f32; 2],
    /// The learning rate over `1 − β₁ᵗ`.
    pub rate: f32,
    /// What parameters are multiplied with: `1 − learning rate · weight decay`.
    pub decay: f32,
    /// `1 / √(1 − β₂ᵗ)`.
    pub root: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

/// A row of tiles of a product.
pub(super) type Product = unsafe fn(Arithmetic, &Gather<'_>, &Panels<'_>, &mut Finish<'_, '_>);

/// x, its stride, affine, whether SiLU follows, result, its stride.
pub(super) type Normalise = unsafe fn(&[f32], usize, [&[f32]; 3], bool, &mut [f32], usize);

/// x, weight, bias, epsilon, result.
pub(super) type LayerNorm = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

/// Products of a pixel's own line and of another, bias, two neighbouring outputs.
pub(super) type Double = unsafe fn([[&[f32]; 3]; 2], &[f32], [&mut [f32]; 2]);

/// Whether SiLU followed, x, mean and scale and shift, gradient of the result, sums.
pub(super) type GroupNormSums = unsafe fn(bool, &[f32], &[f32], &mut [f32], &mut [f32]);

/// x, factors, gradient of the result, gradient of x.
pub(super) type GroupNormBackward = unsafe fn(&[f32], &[f32], &[f32], &mut [f32]);

/// x, weight, epsilon, gradient of the result, gradient of x, sums.
pub(super) type LayerNormBackward = unsafe fn(&[f32], &[f32], f32, &[f32], &mut [f32], &mut [f32]);

/// One instruction set's kernels. Calling one requires the CPU's features and the sizes that the
/// methods of [`Isa`](super::Isa) check.
pub(super) struct Kernels {
    pub name: &'static str,
    /// The most rows of a tile with one panel, and with two.
    pub tile_rows: [usize; 2],
    /// How many panels a tile has where there are enough.
    pub tile_panels: usize,
    pub product: Product,
    /// Queries that one call of `attend` takes: whole panels.
    pub attend_queries: usize,
    pub attend: unsafe fn(&mut Attend<'_>),
    pub activate_f32: unsafe fn(Activation, &mut [f32]),
    pub gelu_times_f32: unsafe fn(&[f32], &mut [f32]),
    pub exp_sub_sum_f32: unsafe fn(&mut [f32], f32) -> f32,
    pub max_f32: unsafe fn(&[f32], f32) -> f32,
    pub subtract_f32: unsafe fn(&[f32], &[f32], &mut [f32]),
    pub double_f32: Double,
    pub scale_add_f32: unsafe fn(&mut [f32], f32, &[f32], f32),
    pub moments_f32: unsafe fn(&[f32], &mut [f32]),
    pub normalise_f32: Normalise,
    pub layer_norm_f32: LayerNorm,
    pub activate_backward_f32: unsafe fn(Activation, &[f32], &[f32], &mut [f32]),
    pub geglu_backward_f32: unsafe fn(&[f32], &[f32], &mut [f32]),
    pub sum_rows_f32: unsafe fn(&[f32], &mut [f32]),
    pub group_norm_sums_f32: GroupNormSums,
    pub group_norm_backward_f32: GroupNormBackward,
    pub layer_norm_backward_f32: LayerNormBackward,
    pub transpose_f32: unsafe fn(&[f32], usize, usize, &mut [f32], usize),
    pub adamw_f32: unsafe fn(&Adam, &[f32], [&mut [f32]; 3]),
    pub quantise_rows: unsafe fn(&[f32], usize, &mut [u8]),
    pub bf16_rows: unsafe fn(&[f32], usize, usize, &mut [u8], usize),
    pub bf16_pairs: unsafe fn(&[f32], usize, usize, &mut [u8]),
    pub f16_to_f32: unsafe fn(&[u8], &mut [f32]),
    pub bf16_to_f32: unsafe fn(&[u8], &mut [f32]),
    pub register_loop: unsafe fn(Arithmetic, usize) -> (f32, u64),
}

/// Gives an instruction set its kernels: the generic bodies, compiled with its features.
macro_rules! kernels {
    (
        $(#[$feature:meta])*
        $name:ident = $level:literal, $simd:ty,
        one panel: $one:literal registers, [$($one_rows:literal),*],
        two panels: $two:literal registers, [$($two_rows:literal),*],
        prefers $prefers:literal,
        attends $keys:literal keys with $queries:literal registers of queries
    ) => {
        pub(super) static $name: $crate::arch::kernels::Kernels = {
            use $crate::arch::kernels::{
                Activation, Adam, Arithmetic, Attend, Finish, Gather, Kernels, Panels,
            };
            use $crate::arch::{attend, portable, register_loop, rows, tile};

            /// # Safety
            /// The CPU has the features; `Isa::product` has checked all lengths. Where rows lie is
            /// checked here.
            $(#[$feature])*
            unsafe fn product(
                arithmetic: Arithmetic,
                a: &Gather<'_>,
                panels: &Panels<'_>,
                finish: &mut Finish<'_, '_>,
            ) {
                let (rows, paired) = (finish.out.len(), $prefers == 2);
                // As many rows as fill whole vectors; those beyond are of the same tensor.
                a.check_rows($crate::arch::MR_MAX);
                // SAFETY: the caller's.
                unsafe {
                    if panels.gate.is_some() || paired {
                        $(if rows <= $two_rows {
                            return tile::product::<$simd, $two_rows, $one, $two>(
                                arithmetic, a, panels, paired, finish,
                            );
                        })*
                    } else {
                        $(if rows <= $one_rows {
                            return tile::product::<$simd, $one_rows, $one, $two>(
                                arithmetic, a, panels, paired, finish,
                            );
                        })*
                    }
                }
            }

            /// # Safety
            /// The CPU has the features; `Isa::attend` has checked all lengths.
            $(#[$feature])*
            unsafe fn attend(job: &mut Attend<'_>) {
                // SAFETY: the caller's.
                unsafe { attend::attend::<$simd, $keys, $queries>(job) }
            }

            /// # Safety
            /// The CPU has the features.
            $(#[$feature])*
            unsafe fn moments_f32(x: &[f32], moments: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { rows::moments::<$simd>(x, moments) }
            }

            /// # Safety
            /// The CPU has the features.
            $(#[$feature])*
            unsafe fn transpose_f32(
                from: &[f32],
                stride: usize,
                rows: usize,
                to: &mut [f32],
                pitch: usize,
            ) {
                // SAFETY: the caller's.
                unsafe { rows::transpose::<$simd>(from, stride, rows, to, pitch) }
            }

            /// # Safety
            /// The CPU has the features.
            $(#[$feature])*
            unsafe fn quantise_rows(x: &[f32], c: usize, out: &mut [u8]) {
                // SAFETY: the caller's.
                unsafe { rows::quantise::<$simd>(x, c, out) }
            }

            /// # Safety
            /// The CPU has the features.
            $(#[$feature])*
            unsafe fn register_loop(arithmetic: Arithmetic, rounds: usize) -> (f32, u64) {
                // SAFETY: the caller's.
                unsafe { register_loop::register_loop::<$simd>(arithmetic, rounds) }
            }

            kernels!(@each [$(#[$feature])*]
                activate_f32(activation: Activation, x: &mut [f32]) = activate;
                gelu_times_f32(gate: &[f32], x: &mut [f32]) = gelu_times;
                exp_sub_sum_f32(x: &mut [f32], max: f32) -> f32 = exp_sub_sum;
                max_f32(x: &[f32], max: f32) -> f32 = max;
                scale_add_f32(x: &mut [f32], own: f32, other: &[f32], factor: f32) = scale_add;
                subtract_f32(a: &[f32], b: &[f32], out: &mut [f32]) = subtract;
                double_f32(products: [[&[f32]; 3]; 2], bias: &[f32], out: [&mut [f32]; 2]) = double;
                normalise_f32(
                    x: &[f32], stride: usize, affine: [&[f32]; 3], silu: bool, out: &mut [f32],
                    pitch: usize
                ) = normalise;
                layer_norm_f32(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32])
                    = layer_norm;
                activate_backward_f32(
                    activation: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]
                ) = activate_backward;
                geglu_backward_f32(x: &[f32], dy: &[f32], dx: &mut [f32]) = geglu_backward;
                sum_rows_f32(x: &[f32], sums: &mut [f32]) = sum_rows;
                group_norm_sums_f32(
                    silu: bool, x: &[f32], affine: &[f32], dy: &mut [f32], sums: &mut [f32]
                ) = group_norm_sums;
                group_norm_backward_f32(
                    x: &[f32], factors: &[f32], dy: &[f32], dx: &mut [f32]
                ) = group_norm_backward;
                layer_norm_backward_f32(
                    x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32],
                    sums: &mut [f32]
                ) = layer_norm_backward;
                bf16_pairs(x: &[f32], stride: usize, width: usize, out: &mut [u8]) = bf16_pairs;
                adamw_f32(adam: &Adam, gradients: &[f32], state: [&mut [f32]; 3]) = adamw;
                bf16_rows(x: &[f32], stride: usize, width: usize, out: &mut [u8], pitch: usize)
                    = bf16_rows;
                f16_to_f32(from: &[u8], to: &mut [f32]) = f16_to_f32;
                bf16_to_f32(from: &[u8], to: &mut [f32]) = bf16_to_f32;
            );

            const fn last(rows: &[usize]) -> usize {
                rows[rows.len() - 1]
            }

            Kernels {
                name: $level,
                tile_rows: [last(&[$($one_rows),*]), last(&[$($two_rows),*])],
                tile_panels: $prefers,
                product,
                attend_queries: $queries * <$simd as $crate::arch::simd::Simd>::LANES,
                attend,
                activate_f32,
                gelu_times_f32,
                exp_sub_sum_f32,
                max_f32,
                scale_add_f32,
                subtract_f32,
                double_f32,
                moments_f32,
                normalise_f32,
                layer_norm_f32,
                activate_backward_f32,
                geglu_backward_f32,
                sum_rows_f32,
                group_norm_sums_f32,
                group_norm_backward_f32,
                layer_norm_backward_f32,
                transpose_f32,
                adamw_f32,
                quantise_rows,
                bf16_rows,
                bf16_pairs,
                f16_to_f32,
                bf16_to_f32,
                register_loop,
            }
        };
    };
    (
        @each $features:tt
        $($kernel:ident($($arg:ident: $of:ty),*) $(-> $to:ty)? = $body:ident;)*
    ) => {
        $(kernels!(@one $features $kernel($($arg: $of),*) $(-> $to)? = $body);)*
    };
    (
        @one [$(#[$feature:meta])*]
        $kernel:ident($($arg:ident: $of:ty),*) $(-> $to:ty)? = $body:ident
    ) => {
        $(#[$feature])*
        fn $kernel($($arg: $of),*) $(-> $to)? {
            portable::$body($($arg),*)
        }
    };
}

pub(super) use kernels;
