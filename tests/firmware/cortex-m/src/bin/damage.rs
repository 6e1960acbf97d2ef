//! Damaged models are refused.
#![no_std]
#![no_main]

use core::ptr::addr_of_mut;

use app::model::small::{MODEL, PLAN};
use app::picture::refuse_damage;
use cortex_m_rt::entry;
use mote_cortex_m::run;

static mut COPY: [u8; PLAN.model_bytes] = [0; _];

#[entry]
fn main() -> ! {
    // SAFETY: `main` runs once, and nothing else names the copy.
    let copy = unsafe { &mut *addr_of_mut!(COPY) };
    run(|out| refuse_damage(out, MODEL.file, copy))
}
