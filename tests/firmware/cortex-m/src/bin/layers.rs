//! One of the layers whose instructions are counted: arguments are its number, how often it is
//! computed, and whether its input is in f32, to be quantised.
#![no_std]
#![no_main]

use core::ptr::addr_of_mut;

use app::layers::{Memory, layer};
use cortex_m_rt::entry;
use mote_cortex_m::{arguments, isa, run};

static mut MEMORY: Memory = Memory::NEW;

#[entry]
fn main() -> ! {
    let [number, repeat, quantise] = arguments();
    // SAFETY: `main` runs once, and nothing else names the memory.
    let memory = unsafe { &mut *addr_of_mut!(MEMORY) };
    run(|out| layer(out, isa(), memory, number, repeat, quantise != 0))
}
