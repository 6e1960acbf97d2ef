//! Damaged models are refused.
#![no_std]
#![no_main]

use core::ptr::addr_of_mut;

use app::model::{BYTES, MODEL};
use app::picture::{Memory, refuse_damage};
use cortex_m_rt::entry;
use mote_cortex_m::run;

static mut MEMORY: Memory = Memory::NEW;
static mut COPY: [u8; BYTES] = [0; BYTES];

#[entry]
fn main() -> ! {
    // SAFETY: `main` runs once, and nothing else names the memory.
    let (memory, copy) = unsafe { (&mut *addr_of_mut!(MEMORY), &mut *addr_of_mut!(COPY)) };
    run(|out| refuse_damage(out, memory, MODEL, copy))
}
