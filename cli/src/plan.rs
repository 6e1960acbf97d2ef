//! `mote plan`: what `generate` would need, known before it starts.

use mote_host::progress::Reporter;
use mote_host::{Model, Plan, Result, size};
use serde_json::{Value, json};

use crate::target::{self, Language};
use crate::terminal::Terminal;
use crate::{args, print, train};

/// What a run will need, in a table or as JSON.
///
/// # Errors
/// Where the model cannot be run as asked.
pub fn run(args: &args::Plan) -> Result<()> {
    if let Some(recipe) = &args.train {
        return train::plan(recipe, args.machine);
    }
    if args.target_flash.is_some() || args.target_ram.is_some() {
        return target::suggest(args, args.target_flash, args.target_ram);
    }
    for (is_wanted, language) in [(args.rust, Language::Rust), (args.c, Language::C)] {
        if is_wanted {
            return target::constant(args, language);
        }
    }
    let mut request = args.request.read()?;
    let model = Model::open(&args.model.model, &args.model.parts_for(&mut request)?)?;
    let machine = args.machine.threads.machine()?;
    let plan = model.plan(&request, &machine)?;
    let text = if args.json { format!("{:#}\n", to_json(&plan)) } else { to_table(&plan) };
    print::bytes(text.as_bytes())?;
    plan.check_limit(args.machine.memory_limit)?;
    Terminal::new(false).remark(plan.notes());
    Ok(())
}

fn to_json(plan: &Plan<'_>) -> Value {
    let (resolved, core, pictures) = (plan.resolved(), plan.core(), plan.pictures());
    let phases: Vec<_> = core
        .phases
        .iter()
        .map(|phase| {
            json!({
                "name": phase.name,
                "arena_bytes": phase.arena_bytes,
                "weight_bytes": phase.weight_bytes,
                "evaluations": phase.evaluations,
                "multiply_adds": phase.multiply_adds,
            })
        })
        .collect();
    json!({
        "width": resolved.size[1],
        "height": resolved.size[0],
        "pictures": pictures,
        "vae_tile": resolved.vae_tile(),
        "phases": phases,
        "arena_bytes": core.arena_bytes,
        "weight_bytes": core.weight_bytes(),
        "multiply_adds": core.multiply_adds(),
        "prompt_ids": resolved.prompts().map(|[prompt, _]| prompt),
        "negative_prompt_ids": resolved.prompts().map(|[_, negative]| negative),
    })
}

/// The plan as a table for people.
pub fn to_table(plan: &Plan<'_>) -> String {
    let (resolved, core, pictures) = (plan.resolved(), plan.core(), plan.pictures());
    let row = |cells: [&str; 5]| cells.map(str::to_string).to_vec();
    let mut rows = vec![row(["phase", "memory", "weights", "evaluations", "multiply-adds"])];
    for phase in &core.phases {
        rows.push(vec![
            phase.name.into(),
            size::show_needed(phase.arena_bytes as u64),
            size::show(phase.weight_bytes),
            phase.evaluations.to_string(),
            size::show_count(phase.multiply_adds),
        ]);
    }
    rows.push(vec![
        "in all".into(),
        size::show_needed(core.arena_bytes as u64),
        size::show(core.weight_bytes()),
        core.phases.iter().map(|phase| phase.evaluations).sum::<u64>().to_string(),
        size::show_count(core.multiply_adds()),
    ]);
    let [height, width] = resolved.size;
    let sampler = resolved.scheduler.named.title;
    let tiles = match resolved.vae_tile() {
        Some(tile) => format!(", decoded in tiles of {tile}x{tile} latents"),
        None => String::new(),
    };
    let each = if pictures == 1 { "" } else { "; evaluations are for each" };
    let plural = if pictures == 1 { "picture" } else { "pictures" };
    format!(
        "{pictures} {plural} of {width}x{height} by {sampler}{tiles}{each}\n{}",
        print::table(&rows)
    )
}
