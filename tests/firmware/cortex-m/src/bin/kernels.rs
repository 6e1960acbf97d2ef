//! The core's own kernels, compared with the scalar ones.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use mote_cortex_m::{isa, run};

#[entry]
fn main() -> ! {
    run(|out| app::kernels::compare(out, isa()))
}
