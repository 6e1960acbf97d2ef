//! The model for larger parts draws.
#![no_std]
#![no_main]

use core::ptr::addr_of_mut;

use app::model::large::{Arena, MODEL, Tables};
use cortex_m_rt::entry;
use mote::mem::Aligned;
use mote_cortex_m::{isa, run};

static mut TABLES: Tables = Tables::NEW;
static mut ARENA: Arena = Aligned([0; _]);

#[entry]
fn main() -> ! {
    // SAFETY: `main` runs once, and nothing else names the memory.
    let (tables, arena) = unsafe { (&mut *addr_of_mut!(TABLES), &mut *addr_of_mut!(ARENA)) };
    run(|out| tables.draw(&mut arena.0, out, isa(), &MODEL))
}
