//! Plain Rust: what every CPU can run, and what every other kernel is compared with.

use super::kernels::{GemmF32, Kernels};
use super::{portable, register_loop};

/// Four rows of eight columns: eight registers of sums on a CPU with sixteen vectors of four.
const MR: usize = 4;
const NR: usize = 8;

pub(super) static KERNELS: Kernels = Kernels {
    name: "scalar",
    gemm_f32: GemmF32 { mr: MR, nr: NR, run: |a, b, tile| portable::gemm::<MR, NR>(a, b, tile) },
    activate_f32: |activation, x| portable::activate(activation, x),
    exp_sub_sum_f32: |x, max| portable::exp_sub_sum(x, max),
    normalise_f32: |x, mean, scale, shift| portable::normalise(x, mean, scale, shift),
    f16_to_f32: |from, to| portable::f16_to_f32(from, to),
    bf16_to_f32: |from, to| portable::bf16_to_f32(from, to),
    register_loop_f32: register_loop::PLAIN_F32,
};
