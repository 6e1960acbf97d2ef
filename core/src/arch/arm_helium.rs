//! 32-bit Arm with Helium (MVE, with floats): Cortex-M55, M85.
//!
//! `vmladava.s8` adds sixteen products of signed bytes to a sum in a general register. The left
//! side is unsigned, so 128 is taken off it as it is copied, `[steps/4, rows, 16]`,
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
use super::widened::{Places, STEP, Totals, is_aligned, rows_at, scalar_product};
use crate::tensor::PANEL;

/// Tiles that one call computes.
const TILES: usize = 4;

/// The most rows of a call.
const MR: usize = 4 * TILES;

/// Bytes of copied rows: a tap of up to 512 channels has four rows at a time.
const BUFFER: usize = 2048;

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

/// The rows under a tap, and where they are copied to.
#[repr(C)]
struct Take {
    /// Where each row begins, or [`NO_ROW`](super::kernels::NO_ROW).
    offsets: *const usize,
    data: *const u8,
    zeros: *const u8,
    /// Of a row, without its tail.
    bytes: usize,
    to: *mut u8,
    /// Written: a [`Parts`].
    parts: *mut u32,
    /// What goes into [`Parts::sums`].
    sums: usize,
}

/// How rows take part in a tap.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parts<const R: usize> {
    /// Bytes from a panel's scales to the column sums of the tap.
    sums: usize,
    /// Of each row: 128 less its zero point, and its scale.
    rows: [(i32, f32); R],
}

/// What is to become of the sums of rows.
#[repr(C)]
struct Total<const R: usize> {
    /// `[taps, rows, 16]`
    sums: *const i32,
    /// `[taps]`
    parts: *const Parts<R>,
    /// The panel's scales.
    scales: *const f32,
    taps: usize,
    /// Added to the totals.
    bias: *const f32,
    /// Where each row's go.
    out: [*mut f32; R],
}

/// A tile's functions.
struct Functions<const R: usize> {
    take: unsafe extern "C" fn(&Take),
    multiply: unsafe extern "C" fn(&Tap),
    total: unsafe extern "C" fn(&Total<R>),
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
        strd r0, r2, [r5], #8"
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

/// A row of the first block, in a register, times the columns in q1 and q2.
macro_rules! kept_row {
    ($q:literal, $first:literal, $second:literal) => {
        concat!(
            "
        vmladav.s8 ",
            $first,
            ", q1, ",
            $q,
            "
        vmladav.s8 ",
            $second,
            ", q2, ",
            $q
        )
    };
}

/// A row of the second block.
macro_rules! second_row {
    ($at:literal, $first:literal, $second:literal) => {
        concat!(
            "
        vldrb.u8 q7, [r1, #",
            $at,
            "]
        vmladava.s8 ",
            $first,
            ", q1, q7
        vmladava.s8 ",
            $second,
            ", q2, q7"
        )
    };
}

/// Four rows of 32 channels, the first half of which stay in registers.
///
/// # Safety
/// The core has Helium; all pointers are as [`Tap`] says; there are two blocks.
#[unsafe(naked)]
unsafe extern "C" fn four_by_two_blocks(tap: &Tap) {
    naked_asm!(
        begin!(),
        "mov r1, r11",
        "vadd.i32 q0, q7, r7",
        "mov r11, #504",
        "rsb r11, r11, #0",
        "vldrb.u8 q3, [r1]",
        "vldrb.u8 q4, [r1, #16]",
        "vldrb.u8 q5, [r1, #32]",
        "vldrb.u8 q6, [r1, #48]",
        "add r9, r5, #64",
        "2:",
        ".rept 4",
        "vldrw.u32 q1, [q0, #256]!",
        "vldrw.u32 q2, [q0, #4]",
        kept_row!("q3", "r0", "r2"),
        kept_row!("q4", "r4", "r6"),
        kept_row!("q5", "r8", "r10"),
        kept_row!("q6", "r12", "lr"),
        "vldrw.u32 q1, [q0, #256]!",
        "vldrw.u32 q2, [q0, #4]",
        second_row!("64", "r0", "r2"),
        second_row!("80", "r4", "r6"),
        second_row!("96", "r8", "r10"),
        second_row!("112", "r12", "lr"),
        "vadd.i32 q0, q0, r11",
        store_four_rows!(),
        ".endr",
        "cmp r5, r9",
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
        "adds r7, r7, #8",
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
        "adds r7, r7, #8",
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

/// Functions that do what a [`Take`] says. What of a last block is not there stays as it is.
macro_rules! take {
    ($name:ident, $rows:literal, $stride:literal) => {
        /// # Safety
        /// The core has Helium; all pointers are as [`Take`] says.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(take: &Take) {
            naked_asm!(
                ".cpu cortex-m55",
                "push {{r4-r11, lr}}",
                "ldm r0, {{r0, r1, r2, r3, r4, r5, r6}}",
                "vmov.i8 q1, #128",
                "str r6, [r5], #4",
                concat!(".rept ", $rows),
                "ldr r7, [r0], #4",
                "mov r9, r4",
                "cmp.w r7, #-1",
                "ite eq",
                "moveq r7, r2",
                "addne r7, r7, r1",
                "add r8, r7, r3",
                "dlstp.8 lr, r3",
                "2:",
                "vldrb.u8 q0, [r7], #16",
                "veor q0, q0, q1",
                concat!("vstrb.8 q0, [r9], #", $stride),
                "letp lr, 2b",
                "ldr r6, [r8]",
                "ldr r7, [r8, #4]",
                "rsb r7, r7, #128",
                "adds r4, #16",
                "strd r7, r6, [r5], #8",
                ".endr",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

take!(take_four, "4", "64");
take!(take_one, "1", "16");

/// Four columns of four rows, from byte `$at` of a panel's on.
macro_rules! total_four {
    ($at:literal) => {
        concat!(
            "
        ldm r12, {{r0, r1, r2, r3}}
        adds r0, #",
            $at,
            "
        adds r2, #",
            $at,
            "
        vmov.i32 q0, #0
        vmov.i32 q1, #0
        vmov.i32 q2, #0
        vmov.i32 q3, #0
        cmp r3, #0
        beq 3f
        dls lr, r3
        2:
        ldm r1!, {{r3-r11}}
        add r3, r3, r2
        vldrw.u32 q4, [r3]
        vldrw.u32 q5, [r0]
        vcvt.s32.f32 q4, q4
        vldrw.u32 q6, [r0, #64]
        vmla.s32 q5, q4, r4
        vmla.s32 q6, q4, r6
        vcvt.f32.s32 q5, q5
        vcvt.f32.s32 q6, q6
        vmul.f32 q5, q5, r5
        vmul.f32 q6, q6, r7
        vadd.f32 q0, q0, q5
        vldrw.u32 q5, [r0, #128]
        vadd.f32 q1, q1, q6
        vldrw.u32 q6, [r0, #192]
        vmla.s32 q5, q4, r8
        vmla.s32 q6, q4, r10
        vcvt.f32.s32 q5, q5
        vcvt.f32.s32 q6, q6
        vmul.f32 q5, q5, r9
        vmul.f32 q6, q6, r11
        vadd.f32 q2, q2, q5
        vadd.f32 q3, q3, q6
        add r0, r0, #256
        le lr, 2b
        3:
        ldrd r3, r4, [r12, #16]
        ldrd r5, r6, [r12, #24]
        ldr r7, [r12, #32]
        vldrw.u32 q4, [r2]
        vldrw.u32 q5, [r3, #",
            $at,
            "]
        vmul.f32 q0, q0, q4
        vmul.f32 q1, q1, q4
        vmul.f32 q2, q2, q4
        vmul.f32 q3, q3, q4
        vadd.f32 q0, q0, q5
        vadd.f32 q1, q1, q5
        vadd.f32 q2, q2, q5
        vadd.f32 q3, q3, q5
        vstrw.32 q0, [r4, #",
            $at,
            "]
        vstrw.32 q1, [r5, #",
            $at,
            "]
        vstrw.32 q2, [r6, #",
            $at,
            "]
        vstrw.32 q3, [r7, #",
            $at,
            "]"
        )
    };
}

/// `Σ_tap scale·(sums + shift·column sums)`, times the columns' scales, plus the bias.
///
/// # Safety
/// The core has Helium; all pointers are as [`Total`] says.
#[unsafe(naked)]
unsafe extern "C" fn total_four(total: &Total<4>) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r11, lr}}",
        "vpush {{d8-d13}}",
        "mov r12, r0",
        total_four!("0"),
        total_four!("16"),
        total_four!("32"),
        total_four!("48"),
        "vpop {{d8-d13}}",
        "pop {{r4-r11, pc}}",
    )
}

/// The end of [`total_one`]: the totals in q0 to q3 get the columns' scales and the bias.
macro_rules! finish_one {
    () => {
        "vldrw.u32 q4, [r2]
        vldrw.u32 q5, [r2, #16]
        vldrw.u32 q6, [r2, #32]
        vldrw.u32 q7, [r2, #48]
        vmul.f32 q0, q0, q4
        vmul.f32 q1, q1, q5
        vmul.f32 q2, q2, q6
        vmul.f32 q3, q3, q7
        vldrw.u32 q4, [r4]
        vldrw.u32 q5, [r4, #16]
        vldrw.u32 q6, [r4, #32]
        vldrw.u32 q7, [r4, #48]
        vadd.f32 q0, q0, q4
        vadd.f32 q1, q1, q5
        vadd.f32 q2, q2, q6
        vadd.f32 q3, q3, q7
        vstrw.32 q0, [r5]
        vstrw.32 q1, [r5, #16]
        vstrw.32 q2, [r5, #32]
        vstrw.32 q3, [r5, #48]"
    };
}

/// [`total_four`] for one row.
///
/// # Safety
/// The core has Helium; all pointers are as [`Total`] says.
#[unsafe(naked)]
unsafe extern "C" fn total_one(total: &Total<1>) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "ldm r0, {{r0, r1, r2, r3, r4, r5}}",
        "vmov.i32 q0, #0",
        "vmov.i32 q1, #0",
        "vmov.i32 q2, #0",
        "vmov.i32 q3, #0",
        "cmp r3, #0",
        "beq 3f",
        "dls lr, r3",
        "2:",
        "ldm r1!, {{r6, r7, r8}}",
        "add r6, r6, r2",
        "vldrw.u32 q4, [r0]",
        "vldrw.u32 q5, [r6]",
        "vldrw.u32 q6, [r0, #16]",
        "vldrw.u32 q7, [r6, #16]",
        "vcvt.s32.f32 q5, q5",
        "vcvt.s32.f32 q7, q7",
        "vmla.s32 q4, q5, r7",
        "vmla.s32 q6, q7, r7",
        "vcvt.f32.s32 q4, q4",
        "vcvt.f32.s32 q6, q6",
        "vmul.f32 q4, q4, r8",
        "vmul.f32 q6, q6, r8",
        "vadd.f32 q0, q0, q4",
        "vadd.f32 q1, q1, q6",
        "vldrw.u32 q4, [r0, #32]",
        "vldrw.u32 q5, [r6, #32]",
        "vldrw.u32 q6, [r0, #48]",
        "vldrw.u32 q7, [r6, #48]",
        "vcvt.s32.f32 q5, q5",
        "vcvt.s32.f32 q7, q7",
        "vmla.s32 q4, q5, r7",
        "vmla.s32 q6, q7, r7",
        "vcvt.f32.s32 q4, q4",
        "vcvt.f32.s32 q6, q6",
        "vmul.f32 q4, q4, r8",
        "vmul.f32 q6, q6, r8",
        "vadd.f32 q2, q2, q4",
        "vadd.f32 q3, q3, q6",
        "adds r0, #64",
        "le lr, 2b",
        "3:",
        finish_one!(),
        "vpop {{d8-d15}}",
        "pop {{r4-r11, pc}}",
    )
}

/// # Safety
/// The core has Helium; `Isa::product` has checked all lengths.
unsafe fn product(
    arithmetic: Arithmetic,
    a: &Gather<'_>,
    panels: &Panels<'_>,
    finish: &mut Finish<'_, '_>,
) {
    a.check_rows(finish.out.len());
    let blocks = a.steps.div_ceil(4);
    // SAFETY: the caller's.
    unsafe {
        let is_ours = arithmetic == Arithmetic::Q8 && is_aligned(panels);
        if !is_ours || a.steps == 0 || 16 * blocks > BUFFER {
            return scalar_product(arithmetic, a, panels, finish);
        }
        let multiply = match (a.steps / 4, a.steps % 4) {
            (2, 0) => four_by_two_blocks,
            (blocks, 0) if blocks.is_multiple_of(2) => four_by_pairs,
            _ => four,
        };
        let by_four = Functions { take: take_four, multiply, total: total_four };
        let by_one = Functions { take: take_one, multiply: one, total: total_one };
        let (mut first, rows) = (0, finish.out.len());
        while first < rows {
            first += match rows - first {
                2.. if 64 * blocks <= BUFFER => some_rows(&by_four, a, first, panels, finish),
                _ => some_rows(&by_one, a, first, panels, finish),
            };
        }
    }
}

/// The product of `R` rows from row `first` on, which it gives back.
unsafe fn some_rows<const R: usize>(
    functions: &Functions<R>,
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
    functions: &Functions<R>,
    a: &Gather<'_>,
    first: usize,
    places: &Places<'_>,
    finish: &mut Finish<'_, '_>,
) {
    let mut sums = MaybeUninit::<[[[[i32; PANEL]; R]; MAX_TAPS]; 2]>::uninit();
    let sums = sums.as_mut_ptr().cast::<[[[i32; PANEL]; R]; MAX_TAPS]>();
    let mut buffer = MaybeUninit::<[u8; BUFFER]>::uninit();
    let mut parts = [const { MaybeUninit::<Parts<R>>::uninit() }; MAX_TAPS];
    let mut taps = 0;
    let mut take = Take {
        offsets: a.offsets.as_ptr(),
        data: a.data.as_ptr(),
        zeros: a.zeros.as_ptr(),
        bytes: 4 * a.steps,
        to: buffer.as_mut_ptr().cast(),
        parts: parts.as_mut_ptr().cast(),
        sums: size_of::<Totals>(),
    };
    let mut through = Tap {
        rows: take.to,
        panel: take.to,
        sums: sums.cast(),
        blocks: a.steps / 4,
        rest: a.steps % 4,
    };
    for tap in 0..a.taps {
        if let Some(offsets) = rows_at::<R>(a, first, tap) {
            take.offsets = offsets.as_ptr();
            // SAFETY: `Isa::product` has checked the rows, and the buffer has room for `R` of them.
            unsafe { (functions.take)(&take) };
            through.panel = places.data(a, 0, tap);
            // SAFETY: the caller's; the buffer was just filled with `steps` steps.
            unsafe { (functions.multiply)(&through) };
            if places.count == 2 {
                let sums = through.sums;
                through.panel = places.data(a, 1, tap);
                through.sums = sums.wrapping_add(MAX_TAPS * R * PANEL);
                // SAFETY: as above.
                unsafe { (functions.multiply)(&through) };
                through.sums = sums;
            }
            through.sums = through.sums.wrapping_add(R * PANEL);
            take.parts = take.parts.wrapping_add(1 + 2 * R);
            taps += 1;
        }
        take.sums += size_of::<Totals>();
    }
    // SAFETY: the caller's; so many taps have their sums and parts.
    unsafe {
        let parts = parts.as_ptr().cast();
        end_tile(
            functions,
            [first, taps],
            [sums.cast(), sums.wrapping_add(1).cast()],
            parts,
            places,
            finish,
        );
    }
}

/// Takes a tile's sums to the output.
unsafe fn end_tile<const R: usize>(
    functions: &Functions<R>,
    [first, taps]: [usize; 2],
    sums: [*const i32; 2],
    parts: *const Parts<R>,
    places: &Places<'_>,
    finish: &mut Finish<'_, '_>,
) {
    let rows = R.min(finish.out.len() - first);
    let mut totals = MaybeUninit::<[[Totals; 2]; R]>::uninit();
    let totals = totals.as_mut_ptr().cast::<[Totals; 2]>();
    for which in 0..places.count {
        let total = Total {
            sums: sums[which],
            parts,
            scales: places.scales[which],
            taps,
            bias: places.biases[which].as_ptr(),
            out: core::array::from_fn(|r| match places.direct(finish, first + r) {
                Some(out) => out[which].as_mut_ptr(),
                None => totals.wrapping_add(r).cast::<f32>().wrapping_add(which * PANEL),
            }),
        };
        // SAFETY: the caller's; the scales hold all taps, and each row has its place.
        unsafe { (functions.total)(&total) };
    }
    for r in 0..rows {
        // SAFETY: where the totals did not go to the output, they were written just now; a second
        // panel that is not there is not looked at.
        places.end(finish, first + r, || unsafe { &mut *totals.add(r) });
    }
}

const _: () = assert!(STEP == 64, "the functions go from step to step by 64 bytes");
