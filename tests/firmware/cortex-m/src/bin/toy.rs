//! Every sampler, with a toy network.
#![no_std]
#![no_main]

use core::ptr::addr_of_mut;

use app::toy::{Memory, draw};
use cortex_m_rt::entry;
use mote_cortex_m::{isa, run};

static mut MEMORY: Memory = Memory::NEW;

#[entry]
fn main() -> ! {
    // SAFETY: `main` runs once, and nothing else names the memory.
    let memory = unsafe { &mut *addr_of_mut!(MEMORY) };
    run(|out| draw(out, isa(), memory))
}
