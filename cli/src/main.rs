//! The `mote` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match mote_cli::run(mote_cli::args::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            mote_cli::terminal::tell(&format!("error: {failure}"));
            ExitCode::from(failure.code())
        }
    }
}
