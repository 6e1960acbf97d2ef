//! A network in f32, compared with what diffusers computes.
#![no_std]
#![no_main]

use core::ptr::addr_of_mut;

use app::golden::{MEMORY, Memory, check};
use cortex_m_rt::entry;
use mote_cortex_m::{isa, run};

static mut ARENA: Memory = MEMORY;

#[entry]
fn main() -> ! {
    // SAFETY: `main` runs once, and nothing else names the arena.
    let arena = unsafe { &mut *addr_of_mut!(ARENA) };
    run(|out| check(out, isa(), arena))
}
