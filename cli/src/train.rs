//! `mote train`: a model from pictures and what they show.

use mote_host::progress::Reporter;
use mote_host::{Failure, Result, size};
use mote_lab::train::recipe::{self, Changes};
use mote_lab::train::{self, Needs, Options};

use crate::terminal::Terminal;
use crate::{args, interrupt, print};

/// Trains a model, or tells what that would take.
///
/// # Errors
/// What went wrong, as sentences; the last state is whole.
pub fn run(args: &args::Train) -> Result<()> {
    if let Some(name) = &args.print_config {
        return print::bytes(recipe::preset(name)?.as_bytes());
    }
    let none = || Failure::new("there is no recipe").remedy("Name one with --config");
    let options = Options {
        config: args.config.clone().ok_or_else(none)?,
        changes: Changes { steps: args.steps, seed: args.seed, learning_rate: args.learning_rate },
        data: args.data.source(),
        output: args.output.clone(),
        resume: args.resume,
        memory_limit: args.memory_limit,
    };
    let (machine, mut reporter) = (args.threads.machine()?, Terminal::new(args.quiet));
    if args.plan {
        let needs = train::plan(&options, &machine, &mut reporter)?;
        return shown(&needs, args.memory_limit);
    }
    let result = train::run(&options, &machine, &mut reporter, &interrupt::listen()?);
    reporter.end();
    result
}

/// Tells what a recipe would need, pictures aside.
///
/// # Errors
/// Where the recipe is wrong, or would need more than the limit.
pub fn plan(recipe: &str, machine: args::Machine) -> Result<()> {
    let limit = machine.memory_limit;
    shown(&train::plan_recipe(recipe, &machine.threads.machine()?, limit)?, limit)
}

fn shown(needs: &Needs, limit: Option<u64>) -> Result<()> {
    print::bytes(to_table(needs).as_bytes())?;
    needs.check(limit)
}

fn to_table(needs: &Needs) -> String {
    let cells = |(name, bytes): (&str, usize)| vec![name.into(), size::show_needed(bytes as u64)];
    let mut rows: Vec<_> = needs.rows.map(cells).into();
    rows.push(cells(("in all", needs.total())));
    let [batch, at_a_time] = needs.batch;
    format!(
        "{} parameters; {} steps of {batch} examples, {at_a_time} at a time; {} multiply-adds a \
         step\n{}",
        needs.parameters,
        needs.steps,
        size::show_count(needs.multiply_adds),
        print::table(&rows)
    )
}
