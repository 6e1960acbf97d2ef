//! The model for small parts draws.
#![no_std]
#![no_main]

mote_cortex_m::draws!(small);
