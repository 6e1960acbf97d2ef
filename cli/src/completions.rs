//! `mote completions`: a script that completes commands and options.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::{Cli, Completions};
use crate::print;
use mote_host::error::Result;
use mote_lab::train::recipe::PRESETS;

/// Writes the script for a shell to standard output.
///
/// # Errors
/// Where standard output does not take it.
pub fn run(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mote", &mut script);
    match String::from_utf8(script) {
        Ok(script) => print::bytes(with_files(args.shell, script).as_bytes()),
        Err(script) => print::bytes(script.as_bytes()),
    }
}

/// Where a recipe of the program may stand, a file may, too: the scripts offer nothing but the
/// former. (bash's falls back on files by itself.)
fn with_files(shell: Shell, script: String) -> String {
    let names = PRESETS.map(|(name, _)| name);
    match shell {
        Shell::Zsh => {
            let recipes = names.join(" ");
            let either = format!("{{compadd {recipes}; _files}}");
            let only = format!(":FILE|NAME:({recipes})");
            script.replace(&only, &format!(":FILE|NAME:{either}"))
        }
        Shell::Fish => {
            let is_recipe = |line: &str| names.iter().all(|name| line.contains(name));
            let lines = script.split_inclusive('\n').map(|line| match is_recipe(line) {
                true => line.replace(" -r -f -a ", " -r -F -a "),
                false => line.into(),
            });
            lines.collect()
        }
        _ => script,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_completed_by_the_programs_and_by_files() {
        let script = |shell| {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "mote", &mut script);
            with_files(shell, String::from_utf8(script).unwrap())
        };
        let bash = script(Shell::Bash);
        assert!(bash.contains("emoji32 emoji16") && bash.contains("-o default"));
        let zsh = script(Shell::Zsh);
        let either = ":FILE|NAME:{compadd emoji32 emoji16; _files}";
        let offered = zsh.lines().filter(|line| line.contains(either));
        let options: Vec<_> = offered.map(|line| line.trim()).collect();
        assert_eq!(options.len(), 2, "`train --config` and `plan --train`: {options:?}");
        let fish = script(Shell::Fish);
        let lines: Vec<_> = fish.lines().filter(|line| line.contains("emoji32")).collect();
        let with_files = lines.iter().filter(|line| line.contains(" -r -F -a "));
        assert!(with_files.count() >= 2, "{lines:?}");
    }
}
