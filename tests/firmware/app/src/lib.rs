//! What mote's firmware does, whatever the board: a board gives memory, the kernels of its core,
//! and a way out for text.
#![no_std]

pub mod drawn;
pub mod golden;
pub mod kernels;
pub mod layers;
pub mod model;
pub mod picture;
pub mod stack;
pub mod toy;
