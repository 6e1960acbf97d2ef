//! `mote convert`: a pipeline in one file, and what was gained and lost by it.

use std::fmt::Write;

use mote_host::convert::report::{Layer, Network};
use mote_host::convert::{Calibrate, Conversion, Report};
use mote_host::types::Choice;
use mote_host::{Result, Stop, size};
use serde_json::{Value, json};

use crate::terminal::Terminal;
use crate::{args, interrupt, print};

/// How many of the layers that lost most are told.
const WORST: usize = 10;

/// Converts a model and tells what came of it.
///
/// # Errors
/// Where the model cannot be converted, or the file not be written; nothing is left behind then.
pub fn run(args: &args::Convert) -> Result<()> {
    interruptible(args, &interrupt::listen()?)
}

/// [`run`] until `stop` is asked for.
///
/// # Errors
/// As [`run`].
pub fn interruptible(args: &args::Convert, stop: &Stop) -> Result<()> {
    let prompts = &args.prompt;
    let conversion = Conversion {
        model: &args.model,
        config: args.config.as_deref(),
        to: args.dtype,
        output: &args.output,
        loras: &args.lora,
        calibrate: args.calibrate.map(|steps| Calibrate { steps, prompts }),
    };
    let machine = args.threads.machine()?;
    let report = conversion.run(&machine, &mut Terminal::new(args.quiet), stop)?;
    match (args.json, args.quiet) {
        (true, _) => print::bytes(to_json(&report).as_bytes()),
        (false, true) => Ok(()),
        (false, false) => print::bytes(to_text(&report, args.verbose).as_bytes()),
    }
}

/// As JSON, with every layer.
fn to_json(report: &Report) -> String {
    let network = |network: &Network| {
        json!({ "name": network.name, "before_bytes": network.before,
            "after_bytes": network.after, "weight_error": network.error })
    };
    let layer = |layer: &Layer| {
        let (name, dtype) = (&layer.name, &layer.stored_as);
        json!({ "name": name, "type": dtype, "error": layer.error })
    };
    let output = |(name, error): &(&str, f64)| json!({ "name": name, "error": error });
    let json = json!({
        "file": report.file.display().to_string(),
        "type": report.to.name(),
        "networks": report.networks.iter().map(network).collect::<Value>(),
        "layers": report.layers.iter().map(layer).collect::<Value>(),
        "outputs": report.outputs.iter().map(output).collect::<Value>(),
    });
    format!("{json:#}\n")
}

/// As tables: the layers that lost most, or all of them.
fn to_text(report: &Report, all: bool) -> String {
    let row = |cells: [&str; 4]| cells.map(str::to_string).to_vec();
    let mut rows = vec![row(["network", "before", "after", "weights off by"])];
    for network in &report.networks {
        let sizes = [network.before, network.after].map(size::show);
        rows.push(row([network.name, &sizes[0], &sizes[1], &percent(network.error)]));
    }
    let mut text = format!("{}: {}\n", report.file.display(), report.to.name());
    text.push_str(&print::table(&rows));
    let mut layers: Vec<_> =
        report.layers.iter().filter(|layer| all || layer.error > 0.0).collect();
    if !all {
        layers.sort_by(|a, b| b.error.total_cmp(&a.error).then_with(|| a.name.cmp(&b.name)));
        layers.truncate(WORST);
    }
    if !layers.is_empty() {
        let title = if all { "layer" } else { "layers that lost most" };
        let mut rows = vec![[title, "type", "off by"].map(str::to_string).to_vec()];
        let row = |layer: &&Layer| {
            vec![layer.name.clone(), layer.stored_as.clone(), percent(layer.error)]
        };
        rows.extend(layers.iter().map(row));
        let _ = write!(text, "\n{}", print::table(&rows));
    }
    if !report.outputs.is_empty() {
        let mut rows = vec![["output of", "off by"].map(str::to_string).to_vec()];
        rows.extend(
            report.outputs.iter().map(|(name, error)| vec![(*name).into(), percent(*error)]),
        );
        let _ = write!(text, "\n{}", print::table(&rows));
    }
    text
}

/// `1.53 %`, and of the smallest errors their magnitude: `3.1e-6 %`.
fn percent(error: f64) -> String {
    match error * 100.0 {
        0.0 => "0".into(),
        percent if percent < 0.01 => format!("{percent:.1e} %"),
        percent => format!("{percent:.2} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_percentages() {
        for (error, text) in
            [(0.0, "0"), (0.0153, "1.53 %"), (3.14e-8, "3.1e-6 %"), (1.5, "150.00 %")]
        {
            assert_eq!(percent(error), text);
        }
    }
}
