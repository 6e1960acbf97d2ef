//! The `mote` binary as users run it, and the command line's own machinery. It is a test of the
//! package `mote`, since only there is the binary built before.

mod binary;
mod command;
mod convert;
mod embedding;
mod faults;
mod lora;
mod real_files;
mod single;
mod terminal;
mod train;
mod webui;
