//! What QEMU's RISC-V board lends to the programs: a beginning, a serial port, and an end.
#![no_std]

use core::arch::global_asm;
use core::fmt;
use core::panic::PanicInfo;
use core::ptr::without_provenance_mut;

use app::stack::Stack;

/// The serial port's register for what is sent.
const UART: *mut u8 = without_provenance_mut(0x1000_0000);

/// The device that ends the emulation, and what it is told.
const FINISH: *mut u32 = without_provenance_mut(0x10_0000);
const PASS: u32 = 0x5555;
const FAIL: u32 = 1 << 16 | 0x3333;

// The words of a load and a store are as wide as the registers.
#[cfg(target_pointer_width = "32")]
global_asm!(
    ".macro load a, b",
    "lw \\a, 0(\\b)",
    ".endm",
    ".macro keep a, b",
    "sw \\a, 0(\\b)",
    ".endm"
);
#[cfg(target_pointer_width = "64")]
global_asm!(
    ".macro load a, b",
    "ld \\a, 0(\\b)",
    ".endm",
    ".macro keep a, b",
    "sd \\a, 0(\\b)",
    ".endm"
);

global_asm!(
    ".section .init, \"ax\"",
    ".global _start",
    "_start:",
    "la sp, _stack_start",
    // Lets the core use its registers of floats, if it has some.
    "li t0, 0x2000",
    "csrs mstatus, t0",
    "la t0, _sidata",
    "la t1, _sdata",
    "la t2, _edata",
    "1: bgeu t1, t2, 2f",
    "load t3, t0",
    "keep t3, t1",
    "addi t0, t0, {word}",
    "addi t1, t1, {word}",
    "j 1b",
    "2: la t1, _sbss",
    "la t2, _ebss",
    "3: bgeu t1, t2, 4f",
    "keep zero, t1",
    "addi t1, t1, {word}",
    "j 3b",
    "4: la t0, trap",
    "csrw mtvec, t0",
    "call main",
    ".balign 4",
    "trap:",
    "li t0, 0x100000",
    "li t1, 0x13333",
    "sw t1, 0(t0)",
    "5: j 5b",
    word = const size_of::<usize>(),
);

unsafe extern "C" {
    static mut __sheap: u32;
    static _stack_start: u32;
}

struct Uart;

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: this address is the serial port on this board.
            unsafe { UART.write_volatile(byte) };
        }
        Ok(())
    }
}

fn finish(code: u32) -> ! {
    // SAFETY: this address ends the emulation on this board.
    unsafe { FINISH.write_volatile(code) };
    loop {
        core::hint::spin_loop();
    }
}

/// Runs a program that writes to the host, tells its stack, and ends with its success.
pub fn run<E: fmt::Display>(program: impl FnOnce(&mut dyn fmt::Write) -> Result<(), E>) -> ! {
    // SAFETY: the linker's script puts the stack between these two, and nothing else.
    let stack = unsafe { Stack::painted(&raw mut __sheap, (&raw const _stack_start).addr()) };
    let result = program(&mut Uart);
    use fmt::Write;
    let _ = writeln!(Uart, "stack {}", stack.used());
    match result {
        Ok(()) => finish(PASS),
        Err(error) => {
            let _ = writeln!(Uart, "error: {error}");
            finish(FAIL)
        }
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    use fmt::Write;
    let _ = writeln!(Uart, "{info}");
    finish(FAIL)
}
