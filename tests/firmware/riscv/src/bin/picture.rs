//! The model in flash draws a picture.
#![no_std]
#![no_main]

use core::ptr::addr_of_mut;

use app::model::MODEL;
use app::picture::{Memory, draw};
use mote::arch::Isa;
use mote_riscv::run;

static mut MEMORY: Memory = Memory::NEW;

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    // SAFETY: `main` runs once, and nothing else names the memory.
    let memory = unsafe { &mut *addr_of_mut!(MEMORY) };
    run(|out| draw(out, Isa::compiled(), memory, MODEL))
}
