//! x86-64 with AVX-512 F. The GEMM tile is written with intrinsics; the rest is the portable code,
//! compiled with these features.

use core::arch::x86_64::{
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::kernels::{Activation, Gather, GemmF32, Kernels};
use super::{portable, register_loop};

/// Lanes of a register.
const LANES: usize = 16;
/// Twenty-four registers of sums and two of the right panel; the left elements are broadcast from
/// memory.
const MR: usize = 12;
const NR: usize = 2 * LANES;

pub(super) static KERNELS: Kernels = Kernels {
    name: "avx512",
    gemm_f32: GemmF32 { mr: MR, nr: NR, run: gemm_f32 },
    activate_f32,
    exp_sub_sum_f32,
    normalise_f32,
    f16_to_f32,
    bf16_to_f32,
    register_loop_f32: register_loop::AVX512_F32,
};

/// # Safety
/// `a` has passed [`Gather::check`] for `MR`, `b` holds `taps·channels·NR` elements, `tile`
/// `MR·NR`.
#[target_feature(enable = "avx512f")]
unsafe fn gemm_f32(a: &Gather<'_>, b: &[f32], tile: &mut [f32]) {
    let mut sums = [[_mm512_setzero_ps(); 2]; MR];
    let mut b = b.as_ptr();
    for tap in 0..a.taps {
        let rows: [*const f32; MR] =
            core::array::from_fn(|r| a.row(a.offsets[tap * MR + r]).as_ptr());
        for k in 0..a.channels {
            // SAFETY: `b` has `NR` elements left for each of the `taps·channels` rounds.
            let right = unsafe { [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(LANES))] };
            // SAFETY: at most one past the panel's end.
            b = unsafe { b.add(NR) };
            for (sums, row) in sums.iter_mut().zip(rows) {
                // SAFETY: each row holds `channels` elements.
                let left = _mm512_set1_ps(unsafe { *row.add(k) });
                sums[0] = _mm512_fmadd_ps(left, right[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(left, right[1], sums[1]);
            }
        }
    }
    for (sums, row) in sums.iter().zip(tile.as_chunks_mut::<NR>().0) {
        let row = row.as_mut_ptr();
        // SAFETY: a row of the tile holds `NR` elements.
        unsafe {
            _mm512_storeu_ps(row, sums[0]);
            _mm512_storeu_ps(row.add(LANES), sums[1]);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn activate_f32(activation: Activation, x: &mut [f32]) {
    portable::activate(activation, x);
}

#[target_feature(enable = "avx512f")]
fn exp_sub_sum_f32(x: &mut [f32], max: f32) -> f32 {
    portable::exp_sub_sum(x, max)
}

#[target_feature(enable = "avx512f")]
fn normalise_f32(x: &mut [f32], mean: &[f32], scale: &[f32], shift: &[f32]) {
    portable::normalise(x, mean, scale, shift);
}

#[target_feature(enable = "avx512f")]
fn f16_to_f32(from: &[u8], to: &mut [f32]) {
    portable::f16_to_f32(from, to);
}

#[target_feature(enable = "avx512f")]
fn bf16_to_f32(from: &[u8], to: &mut [f32]) {
    portable::bf16_to_f32(from, to);
}
