//! `mote completions`: a script that completes commands and options.

use clap::CommandFactory;

use crate::args::{Cli, Completions};
use crate::error::Result;
use crate::print;

/// Writes the script for a shell to standard output.
///
/// # Errors
/// Where standard output does not take it.
pub fn run(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mote", &mut script);
    print::bytes(&script)
}
