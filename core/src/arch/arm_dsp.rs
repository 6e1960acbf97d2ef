//! 32-bit Arm with the DSP extension and single precision in hardware: Cortex-M4F, M7, M33.
//!
//! `smlad` multiplies two pairs of 16-bit integers and adds both products to a sum: half an
//! instruction for each multiply-add, which nothing beats here. The rest is loading and widening.
//! Rows are widened once for two panels, with their zero point taken off, `[steps, rows, 2]` words:
//! channels 0 and 2 of a step, then 1 and 3. So one `ldm` fetches two rows; a weight is widened
//! once for six rows, whose sums, with the weight and two rows, fill the register file. On
//! Cortex-M7 and M4 a 3×3 convolution takes 1.0 instructions for each multiply-add
//! (`tests/firmware/run layers`).
//!
//! The compiler has neither intrinsics nor a feature name for this on stable Rust, so the loops are
//! functions in assembly, and the firmware says what its core has (`Isa::assume`).

use core::arch::naked_asm;
use core::mem::MaybeUninit;

use super::kernels::{Arithmetic, Finish, Gather, Kernels, Panels};
use super::scalar;
use super::widened::{Places, STEP, Totals, is_aligned, rows_at, scalar_product, tail};
use crate::tensor::PANEL;

/// The most rows of a tile.
const MR: usize = 6;

/// The most rows of a call: two tiles.
const ROWS: usize = 2 * MR;

/// Words of widened rows: 2 KiB of stack. A tap of up to 168 channels has six rows at a time.
const BUFFER: usize = 512;

pub(super) static DSP: Kernels =
    Kernels { name: "dsp", tile_rows: [ROWS; 2], tile_panels: 2, product, ..scalar::KERNELS };

/// What an assembly function goes through: all columns of a panel at one tap.
#[repr(C)]
struct Tap {
    /// Widened rows, and where they end.
    rows: *const u32,
    end: *const u32,
    /// The panel at this tap.
    panel: *const u8,
    /// `[16, rows]`
    totals: *mut f32,
    /// Of each row.
    scales: [f32; MR],
}

/// Goes through a [`Tap`].
type Multiply = unsafe extern "C" fn(&Tap);

/// Row, its end, where the first of its widened words goes, the zero point to add.
type Widen = unsafe extern "C" fn(*const u8, *const u8, *mut u32, u32);

/// A function that takes a [`Tap`]: `$step` goes through one step of some columns of all rows,
/// `$unroll` times between two looks at the end; then `$advance` bytes to the next columns.
///
/// r0–r5: sums. r12, lr: where rows and weights are read. s0–s5: scales; s6–s11: sums as f32;
/// s12–s17: totals; s20, s21: the column's first weight and the end of columns; s22, s23: rows and
/// their end; s24: totals.
macro_rules! multiply {
    (
        $name:ident, $unroll:literal, $step:expr, $advance:literal, $totals:literal,
        [$($low:literal $high:literal to $slow:literal $shigh:literal),*],
        [$($sum:literal times $scale:literal to $total:literal),*]
    ) => {
        /// # Safety
        /// The core has the DSP extension; all pointers are as [`Tap`] says.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(tap: &Tap) {
            naked_asm!(
                ".cpu cortex-m4",
                ".fpu fpv4-sp-d16",
                "push {{r4-r11, lr}}",
                "vpush {{s16-s24}}",
                "ldmia r0!, {{r4, r5, r6, r7}}",
                "vldmia r0, {{s0-s5}}",
                "vmov s22, r4",
                "vmov s23, r5",
                "mov lr, r6",
                "add r6, r6, #64",
                "vmov s20, lr",
                "vmov s21, r6",
                "vmov s24, r7",
                "movs r0, #0",
                "movs r1, #0",
                "mov r2, r0",
                "mov r3, r0",
                "mov r4, r0",
                "mov r5, r0",
                "push {{r0-r5}}",
                "2:",
                "ldmia sp, {{r0-r5}}",
                "vmov r12, s22",
                "3:",
                concat!(".rept ", $unroll),
                $step,
                ".endr",
                "vmov r8, s23",
                "cmp r12, r8",
                "bne 3b",
                $(concat!("vmov ", $slow, ", ", $shigh, ", ", $low, ", ", $high),)*
                "vmov r12, s24",
                $(concat!("vcvt.f32.s32 ", $sum, ", ", $sum),)*
                concat!("vldmia r12, {{", $totals, "}}"),
                $(concat!("vmla.f32 ", $total, ", ", $sum, ", ", $scale),)*
                concat!("vstmia r12!, {{", $totals, "}}"),
                "vmov s24, r12",
                "vmov lr, s20",
                "vmov r8, s21",
                concat!("add lr, lr, #", $advance),
                "vmov s20, lr",
                "cmp lr, r8",
                "bne 2b",
                "add sp, sp, #24",
                "vpop {{s16-s24}}",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

/// One column's four weights, widened.
macro_rules! weights {
    () => {
        "ldr r6, [lr], #64
        sxtb16 r7, r6, ror #8
        sxtb16 r6, r6"
    };
}

/// Two rows.
macro_rules! pair {
    ($first:literal, $second:literal) => {
        concat!(
            "
        ldmia r12!, {{r8-r11}}
        smlad ",
            $first,
            ", r6, r8, ",
            $first,
            "
        smlad ",
            $second,
            ", r6, r10, ",
            $second,
            "
        smlad ",
            $first,
            ", r7, r9, ",
            $first,
            "
        smlad ",
            $second,
            ", r7, r11, ",
            $second
        )
    };
}

macro_rules! six_rows {
    () => {
        concat!(weights!(), pair!("r0", "r1"), pair!("r2", "r3"), pair!("r4", "r5"))
    };
}

macro_rules! four_rows {
    () => {
        concat!(weights!(), pair!("r0", "r1"), pair!("r2", "r3"))
    };
}

macro_rules! two_rows {
    () => {
        concat!(weights!(), pair!("r0", "r1"))
    };
}

/// One row with four columns.
macro_rules! one_row {
    () => {
        "ldrd r9, r10, [r12], #8
        ldrd r6, r7, [lr, #8]
        ldrd r4, r5, [lr], #64
        sxtb16 r8, r4
        sxtb16 r4, r4, ror #8
        smlad r0, r8, r9, r0
        sxtb16 r8, r5
        smlad r0, r4, r10, r0
        sxtb16 r5, r5, ror #8
        smlad r1, r8, r9, r1
        sxtb16 r8, r6
        smlad r1, r5, r10, r1
        sxtb16 r6, r6, ror #8
        smlad r2, r8, r9, r2
        sxtb16 r8, r7
        smlad r2, r6, r10, r2
        sxtb16 r7, r7, ror #8
        smlad r3, r8, r9, r3
        smlad r3, r7, r10, r3"
    };
}

/// A tile's functions for any number of steps, and for multiples of four.
macro_rules! tile {
    ($any:ident, $fours:ident, $step:expr, $advance:literal, $totals:literal, $($rest:tt)*) => {
        multiply!($any, "1", $step, $advance, $totals, $($rest)*);
        multiply!($fours, "4", $step, $advance, $totals, $($rest)*);
    };
}

tile!(
    six, six_by_fours, six_rows!(), "4", "s12-s17",
    ["r0" "r1" to "s6" "s7", "r2" "r3" to "s8" "s9", "r4" "r5" to "s10" "s11"],
    ["s6" times "s0" to "s12", "s7" times "s1" to "s13", "s8" times "s2" to "s14",
     "s9" times "s3" to "s15", "s10" times "s4" to "s16", "s11" times "s5" to "s17"]
);
tile!(
    four, four_by_fours, four_rows!(), "4", "s12-s15",
    ["r0" "r1" to "s6" "s7", "r2" "r3" to "s8" "s9"],
    ["s6" times "s0" to "s12", "s7" times "s1" to "s13", "s8" times "s2" to "s14",
     "s9" times "s3" to "s15"]
);
tile!(
    two, two_by_fours, two_rows!(), "4", "s12-s13",
    ["r0" "r1" to "s6" "s7"],
    ["s6" times "s0" to "s12", "s7" times "s1" to "s13"]
);
tile!(
    one, one_by_fours, one_row!(), "16", "s12-s15",
    ["r0" "r1" to "s6" "s7", "r2" "r3" to "s8" "s9"],
    ["s6" times "s0" to "s12", "s7" times "s0" to "s13", "s8" times "s0" to "s14",
     "s9" times "s0" to "s15"]
);

/// Functions that widen a row of any number of steps, and of a multiple of four at a multiple of
/// four bytes; `$stride` bytes from step to step.
macro_rules! widen {
    ($any:ident, $fours:ident, $stride:literal) => {
        /// # Safety
        /// The core has the DSP extension; the pointers are as [`Widen`] says.
        #[unsafe(naked)]
        unsafe extern "C" fn $any(row: *const u8, end: *const u8, to: *mut u32, zero: u32) {
            naked_asm!(
                ".cpu cortex-m4",
                "push {{r4-r6, lr}}",
                "2:",
                "ldr r4, [r0], #4",
                "uxtab16 r5, r3, r4",
                "uxtab16 r6, r3, r4, ror #8",
                concat!("strd r5, r6, [r2], #", $stride),
                "cmp r0, r1",
                "bne 2b",
                "pop {{r4-r6, pc}}",
            )
        }

        /// # Safety
        /// As its sister's.
        #[unsafe(naked)]
        unsafe extern "C" fn $fours(row: *const u8, end: *const u8, to: *mut u32, zero: u32) {
            naked_asm!(
                ".cpu cortex-m4",
                "push {{r4-r9, lr}}",
                "2:",
                "ldmia r0!, {{r4-r7}}",
                "uxtab16 r8, r3, r4",
                "uxtab16 r9, r3, r4, ror #8",
                concat!("strd r8, r9, [r2], #", $stride),
                "uxtab16 r8, r3, r5",
                "uxtab16 r9, r3, r5, ror #8",
                concat!("strd r8, r9, [r2], #", $stride),
                "uxtab16 r8, r3, r6",
                "uxtab16 r9, r3, r6, ror #8",
                concat!("strd r8, r9, [r2], #", $stride),
                "uxtab16 r8, r3, r7",
                "uxtab16 r9, r3, r7, ror #8",
                concat!("strd r8, r9, [r2], #", $stride),
                "cmp r0, r1",
                "bne 2b",
                "pop {{r4-r9, pc}}",
            )
        }
    };
}

widen!(widen_six, widen_six_by_fours, "48");
widen!(widen_four, widen_four_by_fours, "32");
widen!(widen_two, widen_two_by_fours, "16");
widen!(widen_one, widen_one_by_fours, "8");

/// A tile's functions: for any number of steps, and for multiples of four.
struct Functions {
    multiply: [Multiply; 2],
    widen: [Widen; 2],
}

const SIX: Functions =
    Functions { multiply: [six, six_by_fours], widen: [widen_six, widen_six_by_fours] };
const FOUR: Functions =
    Functions { multiply: [four, four_by_fours], widen: [widen_four, widen_four_by_fours] };
const TWO: Functions =
    Functions { multiply: [two, two_by_fours], widen: [widen_two, widen_two_by_fours] };
const ONE: Functions =
    Functions { multiply: [one, one_by_fours], widen: [widen_one, widen_one_by_fours] };

/// # Safety
/// The core has the DSP extension; `Isa::product` has checked all lengths.
unsafe fn product(
    arithmetic: Arithmetic,
    a: &Gather<'_>,
    panels: &Panels<'_>,
    finish: &mut Finish<'_, '_>,
) {
    a.check_rows(finish.out.len());
    // SAFETY: the caller's.
    unsafe {
        let is_ours = arithmetic == Arithmetic::Q8 && is_aligned(panels);
        if !is_ours || a.steps == 0 || 2 * a.steps > BUFFER {
            return scalar_product(arithmetic, a, panels, finish);
        }
        let (mut first, rows) = (0, finish.out.len());
        while first < rows {
            let fits = |rows: usize| 2 * a.steps * rows <= BUFFER;
            first += match rows - first {
                5.. if fits(6) => some_rows::<6>(&SIX, a, first, panels, finish),
                3.. if fits(4) => some_rows::<4>(&FOUR, a, first, panels, finish),
                2.. if fits(2) => some_rows::<2>(&TWO, a, first, panels, finish),
                _ => some_rows::<1>(&ONE, a, first, panels, finish),
            };
        }
    }
}

/// The product of `R` rows from row `first` on, which it gives back.
unsafe fn some_rows<const R: usize>(
    functions: &Functions,
    a: &Gather<'_>,
    first: usize,
    panels: &Panels<'_>,
    finish: &mut Finish<'_, '_>,
) -> usize {
    let columns = finish.out.first().map_or(0, |row| row.len());
    let count = columns.div_ceil(PANEL);
    let mut panel = 0;
    while panel < count {
        let places = Places::new(a, panels, [panel, count], finish);
        // SAFETY: the caller's.
        unsafe { tile::<R>(functions, a, first, &places, finish) };
        panel += if panels.gate.is_some() { 1 } else { places.count };
    }
    R
}

unsafe fn tile<const R: usize>(
    functions: &Functions,
    a: &Gather<'_>,
    first: usize,
    places: &Places<'_>,
    finish: &mut Finish<'_, '_>,
) {
    let mut totals = [[[0.0; R]; PANEL]; 2];
    let mut buffer = MaybeUninit::<[u32; BUFFER]>::uninit();
    let buffer = buffer.as_mut_ptr().cast::<u32>();
    let whole = usize::from(a.steps.is_multiple_of(4));
    for tap in 0..a.taps {
        let Some(offsets) = rows_at::<R>(a, first, tap) else { continue };
        let mut scales = [0.0; MR];
        for (r, &offset) in offsets.iter().enumerate() {
            let row = a.row(offset);
            // SAFETY: `Isa::product` has checked that a row has its tail.
            let (scale, zero) = unsafe { tail(row, a.steps) };
            scales[r] = scale;
            let zero = zero.wrapping_neg() as u32 & 0xFFFF;
            let is_whole = whole * usize::from(row.addr().is_multiple_of(4));
            // SAFETY: the row has `steps` words, and the buffer has room for `R` of such rows.
            unsafe {
                let end = row.add(4 * a.steps);
                functions.widen[is_whole](row, end, buffer.add(2 * r), zero << 16 | zero);
            }
        }
        for (which, totals) in totals.iter_mut().enumerate().take(places.count) {
            let tap = Tap {
                rows: buffer,
                end: buffer.wrapping_add(2 * R * a.steps),
                panel: places.data(a, which, tap),
                totals: totals.as_mut_ptr().cast(),
                scales,
            };
            // SAFETY: the caller's; the buffer was just filled with `steps` steps.
            unsafe { functions.multiply[whole](&tap) };
        }
    }
    for r in 0..R.min(finish.out.len() - first) {
        let write = |which: usize, out: &mut Totals| {
            // SAFETY: a panel has a scale for each column, as `Isa::product` has checked.
            let scales = unsafe { &*places.scales[which].cast::<Totals>() };
            let columns = totals[which].iter().zip(scales).zip(places.biases[which]);
            for (out, ((totals, scale), bias)) in out.iter_mut().zip(columns) {
                *out = totals[r] * scale + bias;
            }
        };
        let mut row: [Totals; 2];
        let held = match places.direct(finish, first + r) {
            Some(out) => {
                out.iter_mut().take(places.count).enumerate().for_each(|(i, out)| write(i, out));
                None
            }
            None => {
                row = [[0.0; PANEL]; 2];
                row.iter_mut().take(places.count).enumerate().for_each(|(i, out)| write(i, out));
                Some(&mut row)
            }
        };
        places.end(finish, first + r, || held.expect("totals that did not go to the output"));
    }
}

const _: () = assert!(STEP == 64, "the functions go from step to step by 64 bytes");
