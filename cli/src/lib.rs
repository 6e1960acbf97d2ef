//! The command line of mote: it gives the core memory, threads, weights and a place for pixels.
//!
//! Arguments are parsed with nothing done yet (`args`), a model's folder is understood (`config`,
//! `checkpoint`), and each subcommand has a file of its own.
#![deny(missing_docs, unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

#[forbid(unsafe_code)]
pub mod args;
#[forbid(unsafe_code)]
pub mod bench;
#[forbid(unsafe_code)]
pub mod built_in;
pub mod checkpoint;
#[forbid(unsafe_code)]
pub mod completions;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod convert;
#[forbid(unsafe_code)]
pub mod course;
#[forbid(unsafe_code)]
pub mod error;
#[forbid(unsafe_code)]
pub mod eval;
pub use mote_executor as executor;
#[forbid(unsafe_code)]
pub mod files;
#[forbid(unsafe_code)]
pub mod foreign;
#[forbid(unsafe_code)]
pub mod generate;
#[forbid(unsafe_code)]
pub mod guard;
#[forbid(unsafe_code)]
pub mod inspect;
pub mod isa;
#[forbid(unsafe_code)]
pub mod memory;
#[forbid(unsafe_code)]
pub mod notes;
#[forbid(unsafe_code)]
pub mod output;
#[forbid(unsafe_code)]
pub mod packed;
#[forbid(unsafe_code)]
pub mod parameters;
#[forbid(unsafe_code)]
pub mod picture;
#[forbid(unsafe_code)]
pub mod place;
#[forbid(unsafe_code)]
pub mod plan;
#[forbid(unsafe_code)]
pub mod print;
#[forbid(unsafe_code)]
pub mod progress;
#[forbid(unsafe_code)]
pub mod resolve;
#[forbid(unsafe_code)]
pub mod size;
#[forbid(unsafe_code)]
pub mod target;
#[forbid(unsafe_code)]
pub mod tokenizer;
#[forbid(unsafe_code)]
pub mod train;

use args::Command;
use error::Result;

/// Does what the arguments say.
///
/// # Errors
/// What went wrong, as sentences; a panic, too.
pub fn run(arguments: args::Cli) -> Result<()> {
    guard::guarded(|| dispatch(arguments.command))
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Inspect(args) => inspect::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
    }
}
