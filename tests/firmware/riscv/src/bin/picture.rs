//! The model for small parts draws.
#![no_std]
#![no_main]

use core::ptr::addr_of_mut;

use app::model::small::{Arena, MODEL, Tables};
use mote::arch::Isa;
use mote::mem::Aligned;
use mote_riscv::run;

static mut TABLES: Tables = Tables::NEW;
static mut ARENA: Arena = Aligned([0; _]);

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    // SAFETY: `main` runs once, and nothing else names the memory.
    let (tables, arena) = unsafe { (&mut *addr_of_mut!(TABLES), &mut *addr_of_mut!(ARENA)) };
    run(|out| tables.draw(&mut arena.0, out, Isa::compiled(), &MODEL))
}
