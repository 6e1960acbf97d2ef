//! The model for larger parts draws.
#![no_std]
#![no_main]

mote_cortex_m::draws!(large);
