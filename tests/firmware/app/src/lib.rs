//! What mote's firmware does, whatever the board: a board gives memory, the kernels of its core, and
//! a way out for text.
#![no_std]

pub mod drawn;
pub mod kernels;
pub mod layers;
