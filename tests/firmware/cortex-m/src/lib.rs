//! What a Cortex-M board lends to the programs: a way out for text, arguments, and an end.
#![no_std]

use core::fmt;
use core::panic::PanicInfo;

use app::stack::Stack;
use cortex_m_rt::{ExceptionFrame, exception};
use cortex_m_semihosting::{debug, hio, hprintln, syscall};
use mote::arch::Isa;
#[cfg(target_abi = "eabihf")]
use mote::arch::Level;

/// The semihosting call for the command line.
const GET_CMDLINE: usize = 0x15;

/// The kernels of this core. Nothing in a target's name tells the compiler which extensions there
/// are: the one who builds for the board knows.
pub fn isa() -> Isa {
    // SAFETY: the boards with an FPU are a Cortex-M4 and an M7, with the DSP extension both, and an
    // M55, whose target the build script tells by `helium`.
    #[cfg(target_abi = "eabihf")]
    return unsafe { Isa::assume(if cfg!(helium) { Level::Helium } else { Level::Dsp }) };
    #[cfg(not(target_abi = "eabihf"))]
    Isa::SCALAR
}

/// The numbers on the command line.
pub fn arguments<const N: usize>() -> [usize; N] {
    let mut line = [0u8; 64];
    let block = [line.as_mut_ptr().addr(), line.len()];
    // SAFETY: the block describes a buffer that lives until the call has ended.
    unsafe { syscall(GET_CMDLINE, &block) };
    let end = line.iter().position(|&byte| byte == 0).unwrap_or(line.len());
    let text = core::str::from_utf8(&line[..end]).unwrap_or("");
    let mut numbers = text.split(' ').filter_map(|word| word.parse().ok());
    core::array::from_fn(|_| numbers.next().unwrap_or(0))
}

unsafe extern "C" {
    static mut __sheap: u32;
    static _stack_start: u32;
}

/// Runs a program that writes to the host, tells its stack, and ends with its success as the exit
/// code.
pub fn run<E: fmt::Display>(program: impl FnOnce(&mut dyn fmt::Write) -> Result<(), E>) -> ! {
    // SAFETY: `cortex-m-rt` puts the stack between these two, and nothing else: there is no heap.
    let stack = unsafe { Stack::painted(&raw mut __sheap, (&raw const _stack_start).addr()) };
    let status = match hio::hstdout().map(|mut out| program(&mut out)) {
        Err(()) => debug::EXIT_FAILURE,
        Ok(Ok(())) => {
            hprintln!("stack {}", stack.used());
            debug::EXIT_SUCCESS
        }
        Ok(Err(error)) => {
            hprintln!("error: {}", error);
            debug::EXIT_FAILURE
        }
    };
    debug::exit(status);
    loop {
        cortex_m::asm::wfi();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    hprintln!("{}", info);
    debug::exit(debug::EXIT_FAILURE);
    loop {
        cortex_m::asm::wfi();
    }
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    panic!("a fault at {:#x}", frame.pc());
}

/// A program that draws with one of the models of `app::model`.
#[macro_export]
macro_rules! draws {
    ($model:ident) => {
        use app::model::$model::{Arena, MODEL, Tables};

        static mut TABLES: Tables = Tables::NEW;
        static mut ARENA: Arena = mote::mem::Aligned([0; _]);

        #[cortex_m_rt::entry]
        fn main() -> ! {
            use core::ptr::addr_of_mut;
            // SAFETY: `main` runs once, and nothing else names the memory.
            let (tables, arena) =
                unsafe { (&mut *addr_of_mut!(TABLES), &mut *addr_of_mut!(ARENA)) };
            $crate::run(|out| tables.draw(&mut arena.0, out, $crate::isa(), &MODEL))
        }
    };
}
