//! 32-bit Arm with Helium (MVE, with floats): Cortex-M55, M85.
//!
//! `vmladava.s8` adds sixteen products of signed bytes to a sum in a general register. The left
//! side is unsigned, so 128 is taken off it (`LEFT_BIAS`) as it is copied, `[steps/4, rows, 16]`,
//! to a buffer that serves two panels. Sixteen channels of a column lie 64 bytes apart, four at a
//! time, and come by one gathering load. Eight sums (four rows by two columns) are all the
//! registers that `vmladava` can add to. The exact sums of all taps are kept, and then get their
//! zero points and scales, four columns at a time.
//!
//! There are no stable intrinsics, so the loops are functions in assembly, and the firmware says
//! what its core has (`Isa::assume`).

use core::arch::naked_asm;
use core::mem::MaybeUninit;

use super::kernels::{Arithmetic, Finish, Gather, Kernels, MAX_TAPS, Panels};
use super::scalar;
use super::widened::{Places, STEP, Totals, rows_at, scalar_product, tail};
use crate::tensor::PANEL;

/// The most rows of a tile.
const MR: usize = 4;

/// Bytes of copied rows: a tap of up to 512 channels has four rows at a time.
const BUFFER: usize = 2048;

/// What is taken off the left side.
const LEFT_BIAS: i32 = 128;

pub(super) static HELIUM: Kernels =
    Kernels { name: "helium", tile_rows: [MR; 2], tile_panels: 2, product, ..scalar::KERNELS };

/// What an assembly function goes through: all columns of a panel at one tap.
#[repr(C)]
struct Tap {
    /// Copied rows.
    rows: *const u8,
    /// The panel at this tap.
    panel: *const u8,
    /// `[rows, 16]`
    sums: *mut i32,
    /// Whole blocks of four steps, and steps after them.
    blocks: usize,
    rest: usize,
}

/// Goes through a [`Tap`].
type Multiply = unsafe extern "C" fn(&Tap);

/// Row, its bytes, where its first block goes.
type Copy = unsafe extern "C" fn(*const u8, usize, *mut u8);

/// How a row takes part in a tap.
#[repr(C)]
#[derive(Clone, Copy)]
struct Part {
    /// `LEFT_BIAS − zero`
    shift: i32,
    scale: f32,
    /// Bytes from a panel's scales to the column sums of the tap.
    sums: usize,
}

/// What is to become of a row's sums.
#[repr(C)]
struct Row {
    /// `[taps, rows, 16]`, from this row on.
    sums: *const i32,
    /// Bytes from tap to tap.
    stride: usize,
    /// `[taps, MR]`, from this row on.
    parts: *const Part,
    /// The panel's scales.
    scales: *const f32,
    totals: *mut f32,
    taps: usize,
    /// Added to the totals.
    bias: *const f32,
}

/// The prologue of a function that takes a [`Tap`]: r11: rows; r7: the panel; r5: sums; r9: the
/// panel's end; r3: blocks. q7: where the steps of a block begin, less 256.
macro_rules! begin {
    () => {
        ".cpu cortex-m55
        push {{r4-r11, lr}}
        vpush {{d8-d15}}
        ldm r0, {{r2, r4, r5, r6, r8}}
        mov r11, r2
        mov r7, r4
        add r9, r4, #64
        mov r3, r6
        movs r0, #0
        vidup.u32 q7, r0, #8
        vshl.i32 q7, q7, #3
        mov r0, #256
        vsub.i32 q7, q7, r0"
    };
}

macro_rules! end {
    () => {
        "vpop {{d8-d15}}
        pop {{r4-r11, pc}}"
    };
}

/// One row of a block times the columns in q1 and q2. `$a`: an empty name, or `a` to add.
macro_rules! row {
    ($a:literal, $q:literal, $first:literal, $second:literal) => {
        concat!(
            "
        vldrb.u8 ",
            $q,
            ", [r1], #16
        vmladav",
            $a,
            ".s8 ",
            $first,
            ", q1, ",
            $q,
            "
        vmladav",
            $a,
            ".s8 ",
            $second,
            ", q2, ",
            $q
        )
    };
}

/// A block of four rows and two columns.
macro_rules! four_rows {
    ($a:literal) => {
        concat!(
            "
        vldrw.u32 q1, [q0, #256]!
        vldrw.u32 q2, [q0, #4]",
            row!($a, "q3", "r0", "r2"),
            row!($a, "q4", "r4", "r6"),
            row!($a, "q5", "r8", "r10"),
            row!($a, "q6", "r12", "lr")
        )
    };
}

/// The same, of the steps that the predicate lets through.
macro_rules! four_rows_rest {
    () => {
        concat!(
            "
        vpstt
        vldrwt.u32 q1, [q0, #256]!
        vldrwt.u32 q2, [q0, #4]",
            row!("a", "q3", "r0", "r2"),
            row!("a", "q4", "r4", "r6"),
            row!("a", "q5", "r8", "r10"),
            row!("a", "q6", "r12", "lr")
        )
    };
}

/// Eight columns of one row.
macro_rules! one_row {
    ($($t:literal)?) => {
        concat!(
            "
        vldrb.u8 q3, [r1], #16",
            one_row!(@ "r0", "[q0, #256]!" $($t)?), one_row!(@ "r2", "[q0, #4]" $($t)?),
            one_row!(@ "r4", "[q0, #8]" $($t)?), one_row!(@ "r6", "[q0, #12]" $($t)?),
            one_row!(@ "r8", "[q0, #16]" $($t)?), one_row!(@ "r10", "[q0, #20]" $($t)?),
            one_row!(@ "r12", "[q0, #24]" $($t)?), one_row!(@ "lr", "[q0, #28]" $($t)?)
        )
    };
    (@ $sum:literal, $from:literal) => {
        concat!("
        vldrw.u32 q1, ", $from, "
        vmladava.s8 ", $sum, ", q1, q3")
    };
    (@ $sum:literal, $from:literal $t:literal) => {
        concat!("
        vpst
        vldrwt.u32 q1, ", $from, "
        vmladava.s8 ", $sum, ", q1, q3")
    };
}

/// Stores the sums of four rows and two columns, and goes to the next columns.
macro_rules! store_four_rows {
    () => {
        "
        strd r4, r6, [r5, #64]
        strd r8, r10, [r5, #128]
        strd r12, lr, [r5, #192]
        strd r0, r2, [r5], #8
        adds r7, r7, #8"
    };
}

macro_rules! zero_sums {
    () => {
        "
        movs r0, #0
        movs r2, #0
        movs r4, #0
        movs r6, #0
        mov r8, r0
        mov r10, r0
        mov r12, r0
        mov lr, r0"
    };
}

/// Four rows of 32 channels.
///
/// # Safety
/// The core has Helium; all pointers are as [`Tap`] says; there are two blocks.
#[unsafe(naked)]
unsafe extern "C" fn four_by_two_blocks(tap: &Tap) {
    naked_asm!(
        begin!(),
        "2:",
        ".rept 4",
        "mov r1, r11",
        "vadd.i32 q0, q7, r7",
        four_rows!(""),
        four_rows!("a"),
        store_four_rows!(),
        ".endr",
        "cmp r7, r9",
        "bne 2b",
        end!(),
    )
}

/// Four rows of a multiple of 32 channels.
///
/// # Safety
/// The core has Helium; all pointers are as [`Tap`] says; blocks are a multiple of two, at least
/// four.
#[unsafe(naked)]
unsafe extern "C" fn four_by_pairs(tap: &Tap) {
    naked_asm!(
        begin!(),
        "subs r3, r3, #2",
        "push {{r3}}",
        "2:",
        "mov r1, r11",
        "vadd.i32 q0, q7, r7",
        "ldr r3, [sp]",
        four_rows!(""),
        four_rows!("a"),
        "3:",
        four_rows!("a"),
        four_rows!("a"),
        "subs r3, r3, #2",
        "bne 3b",
        store_four_rows!(),
        "cmp r7, r9",
        "bne 2b",
        "add sp, sp, #4",
        end!(),
    )
}

/// Four rows.
///
/// # Safety
/// The core has Helium; all pointers are as [`Tap`] says.
#[unsafe(naked)]
unsafe extern "C" fn four(tap: &Tap) {
    naked_asm!(
        begin!(),
        "push {{r3, r8}}",
        "vctp.32 r8",
        "2:",
        "ldr r3, [sp]",
        "mov r1, r11",
        "vadd.i32 q0, q7, r7",
        zero_sums!(),
        "cbz r3, 4f",
        "3:",
        four_rows!("a"),
        "subs r3, r3, #1",
        "bne 3b",
        "4:",
        "ldr r3, [sp, #4]",
        "cbz r3, 5f",
        four_rows_rest!(),
        "5:",
        store_four_rows!(),
        "cmp r7, r9",
        "bne 2b",
        "add sp, sp, #8",
        end!(),
    )
}

/// One row.
///
/// # Safety
/// The core has Helium; all pointers are as [`Tap`] says.
#[unsafe(naked)]
unsafe extern "C" fn one(tap: &Tap) {
    naked_asm!(
        begin!(),
        "push {{r3, r8}}",
        "vctp.32 r8",
        "2:",
        "ldr r3, [sp]",
        "mov r1, r11",
        "vadd.i32 q0, q7, r7",
        zero_sums!(),
        "cbz r3, 4f",
        "3:",
        one_row!(),
        "subs r3, r3, #1",
        "bne 3b",
        "4:",
        "ldr r3, [sp, #4]",
        "cbz r3, 5f",
        one_row!("t"),
        "5:",
        "strd r0, r2, [r5], #8",
        "strd r4, r6, [r5], #8",
        "strd r8, r10, [r5], #8",
        "strd r12, lr, [r5], #8",
        "adds r7, r7, #32",
        "cmp r7, r9",
        "bne 2b",
        "add sp, sp, #8",
        end!(),
    )
}

/// Functions that copy a row of r1 bytes from r0 to r2, less [`LEFT_BIAS`], `$stride` bytes from
/// block to block. What of a last block is not there stays as it is.
macro_rules! copy {
    ($name:ident, $stride:literal) => {
        /// # Safety
        /// The core has Helium; the pointers are as [`Copy`] says.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(row: *const u8, bytes: usize, to: *mut u8) {
            naked_asm!(
                ".cpu cortex-m55",
                "push {{r7, lr}}",
                "vmov.i8 q1, #128",
                "dlstp.8 lr, r1",
                "2:",
                "vldrb.u8 q0, [r0], #16",
                "veor q0, q0, q1",
                concat!("vstrb.8 q0, [r2], #", $stride),
                "letp lr, 2b",
                "pop {{r7, pc}}",
            )
        }
    };
}

copy!(copy_four, "64");
copy!(copy_one, "16");

/// `Σ_tap scale·(sums + shift·column sums)`, times the columns' scales, plus the bias.
///
/// # Safety
/// The core has Helium; all pointers are as [`Row`] says.
#[unsafe(naked)]
unsafe extern "C" fn total(row: &Row) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r9, lr}}",
        "vpush {{d8-d15}}",
        "ldm r0, {{r0, r1, r2, r3, r4, r5, r9}}",
        "vmov.i32 q0, #0",
        "vmov.i32 q1, #0",
        "vmov.i32 q2, #0",
        "vmov.i32 q3, #0",
        "cmp r5, #0",
        "beq 3f",
        "dls lr, r5",
        "2:",
        "ldm r2, {{r6, r7, r8}}",
        "add r8, r8, r3",
        "adds r2, #48",
        "vldrw.u32 q4, [r0]",
        "vldrw.u32 q5, [r8]",
        "vldrw.u32 q6, [r0, #16]",
        "vldrw.u32 q7, [r8, #16]",
        "vcvt.s32.f32 q5, q5",
        "vcvt.s32.f32 q7, q7",
        "vmla.s32 q4, q5, r6",
        "vmla.s32 q6, q7, r6",
        "vcvt.f32.s32 q4, q4",
        "vcvt.f32.s32 q6, q6",
        "vmul.f32 q4, q4, r7",
        "vmul.f32 q6, q6, r7",
        "vadd.f32 q0, q0, q4",
        "vadd.f32 q1, q1, q6",
        "vldrw.u32 q4, [r0, #32]",
        "vldrw.u32 q5, [r8, #32]",
        "vldrw.u32 q6, [r0, #48]",
        "vldrw.u32 q7, [r8, #48]",
        "vcvt.s32.f32 q5, q5",
        "vcvt.s32.f32 q7, q7",
        "vmla.s32 q4, q5, r6",
        "vmla.s32 q6, q7, r6",
        "vcvt.f32.s32 q4, q4",
        "vcvt.f32.s32 q6, q6",
        "vmul.f32 q4, q4, r7",
        "vmul.f32 q6, q6, r7",
        "vadd.f32 q2, q2, q4",
        "vadd.f32 q3, q3, q6",
        "add r0, r0, r1",
        "le lr, 2b",
        "3:",
        "vldrw.u32 q4, [r3]",
        "vldrw.u32 q5, [r3, #16]",
        "vldrw.u32 q6, [r3, #32]",
        "vldrw.u32 q7, [r3, #48]",
        "vmul.f32 q0, q0, q4",
        "vmul.f32 q1, q1, q5",
        "vmul.f32 q2, q2, q6",
        "vmul.f32 q3, q3, q7",
        "vldrw.u32 q4, [r9]",
        "vldrw.u32 q5, [r9, #16]",
        "vldrw.u32 q6, [r9, #32]",
        "vldrw.u32 q7, [r9, #48]",
        "vadd.f32 q0, q0, q4",
        "vadd.f32 q1, q1, q5",
        "vadd.f32 q2, q2, q6",
        "vadd.f32 q3, q3, q7",
        "vstrw.32 q0, [r4]",
        "vstrw.32 q1, [r4, #16]",
        "vstrw.32 q2, [r4, #32]",
        "vstrw.32 q3, [r4, #48]",
        "vpop {{d8-d15}}",
        "pop {{r4-r9, pc}}",
    )
}

const _: () = assert!(size_of::<Part>() * MR == 48, "`total` goes from tap to tap by 48 bytes");

/// # Safety
/// The core has Helium; `Isa::product` has checked all lengths.
unsafe fn product(
    arithmetic: Arithmetic,
    a: &Gather<'_>,
    panels: &Panels<'_>,
    finish: &mut Finish<'_, '_>,
) {
    let blocks = a.steps.div_ceil(4);
    // SAFETY: the caller's.
    unsafe {
        if arithmetic != Arithmetic::Q8 || a.steps == 0 || 16 * blocks > BUFFER {
            return scalar_product(arithmetic, a, panels, finish);
        }
        let multiply = match (a.steps / 4, a.steps % 4) {
            (2, 0) => four_by_two_blocks,
            (blocks, 0) if blocks.is_multiple_of(2) => four_by_pairs,
            _ => four as Multiply,
        };
        let (mut first, rows) = (0, finish.out.len());
        while first < rows {
            first += match rows - first {
                2.. if 64 * blocks <= BUFFER => {
                    some_rows::<4>((multiply, copy_four), a, first, panels, finish)
                }
                _ => some_rows::<1>((one, copy_one), a, first, panels, finish),
            };
        }
    }
}

/// The product of `R` rows from row `first` on, which it gives back.
unsafe fn some_rows<const R: usize>(
    functions: (Multiply, Copy),
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
    (multiply, copy): (Multiply, Copy),
    a: &Gather<'_>,
    first: usize,
    places: &Places<'_>,
    finish: &mut Finish<'_, '_>,
) {
    let mut sums = MaybeUninit::<[[[[i32; PANEL]; R]; MAX_TAPS]; 2]>::uninit();
    let sums = sums.as_mut_ptr().cast::<[[[i32; PANEL]; R]; MAX_TAPS]>();
    let mut buffer = MaybeUninit::<[u8; BUFFER]>::uninit();
    let buffer = buffer.as_mut_ptr().cast::<u8>();
    let mut parts = [const { MaybeUninit::<[Part; MR]>::uninit() }; MAX_TAPS];
    let mut taps = 0;
    for tap in 0..a.taps {
        let Some(offsets) = rows_at::<R>(a, first, tap) else { continue };
        let part = parts[taps].as_mut_ptr().cast::<Part>();
        for (r, &offset) in offsets.iter().enumerate() {
            let row = a.row(offset);
            // SAFETY: `Isa::product` has checked that a row has its tail.
            let (scale, zero) = unsafe { tail(row, a.steps) };
            let shift = LEFT_BIAS.wrapping_sub(zero);
            // SAFETY: `r` is below `MR`; the row has `steps` words, and the buffer has room for `R`
            // of such rows.
            unsafe {
                let sums = (1 + tap) * size_of::<Totals>();
                part.add(r).write(Part { shift, scale, sums });
                copy(row, 4 * a.steps, buffer.add(16 * r));
            }
        }
        for which in 0..places.count {
            let tap = Tap {
                rows: buffer,
                panel: places.data(a, which, tap),
                sums: sums.wrapping_add(which).cast::<i32>().wrapping_add(taps * R * PANEL),
                blocks: a.steps / 4,
                rest: a.steps % 4,
            };
            // SAFETY: the caller's; the buffer was just filled with `steps` steps.
            unsafe { multiply(&tap) };
        }
        taps += 1;
    }
    for r in 0..R.min(finish.out.len() - first) {
        places.end_row(first + r, finish, |which, out| {
            let row = Row {
                sums: sums.wrapping_add(which).cast::<i32>().wrapping_add(r * PANEL),
                stride: 4 * R * PANEL,
                parts: parts.as_ptr().cast::<Part>().wrapping_add(r),
                scales: places.scales[which],
                totals: out.as_mut_ptr(),
                taps,
                bias: places.biases[which].as_ptr(),
            };
            // SAFETY: the caller's; so many taps have their sums and parts, and the scales hold all
            // taps.
            unsafe { total(&row) };
        });
    }
}

const _: () = assert!(STEP == 64, "the functions go from step to step by 64 bytes");
