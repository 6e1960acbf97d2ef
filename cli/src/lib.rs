//! The command line of mote: arguments, progress on the terminal, what is printed, exit codes.
//!
//! Arguments are parsed with nothing done yet (`args`); each subcommand is a file or a folder,
//! which asks the libraries `mote-host` and `mote-lab` and prints what they answer.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod args;
pub mod bench;
pub mod completions;
pub mod convert;
pub mod course;
pub mod destination;
pub mod eval;
pub mod generate;
pub mod guard;
pub mod inspect;
pub mod interrupt;
pub mod plan;
pub mod print;
pub mod target;
pub mod terminal;
pub mod train;

use args::Command;
use mote_host::Result;

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
