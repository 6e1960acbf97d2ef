//! `mote eval`: how good a model is on a data set, in numbers.

use mote_host::{Place, Result};
use mote_lab::eval::{self, Accuracy, Likelihood, Options, Report};
use serde_json::{Value, json};

use crate::terminal::Terminal;
use crate::{args, interrupt, print};

/// Measures a model.
///
/// # Errors
/// Where the model or the data cannot be used.
pub fn run(args: &args::Eval) -> Result<()> {
    let options = Options {
        data: args.data.source(),
        hold_out_seed: args.hold_out_seed,
        names: args.names,
        pictures: args.pictures,
        times: args.times,
        steps: args.steps,
        cfg_scale: args.cfg_scale,
        sampling_method: args.sampling_method,
        seed: args.seed,
    };
    let place = Place::model_with(&args.model.model, args.model.config.as_deref())?;
    let (machine, mut reporter) = (args.threads.machine()?, Terminal::new(args.quiet));
    let (parts, stop) = (args.model.parts(), interrupt::listen()?);
    let report = eval::run(&place, &parts, &options, &machine, &mut reporter, &stop)?;
    let model = args.model.model.display().to_string();
    let text =
        if args.json { format!("{:#}\n", to_json(&report, &model)) } else { to_text(&report) };
    print::bytes(text.as_bytes())
}

fn to_json(report: &Report, model: &str) -> Value {
    let likelihood = |(title, found): &(&str, Likelihood)| {
        json!({ "pictures": title, "count": found.pictures, "loss": found.loss,
            "bits_per_dimension": found.bound })
    };
    let accuracy = |(title, found): &(&str, Accuracy)| {
        json!({ "names": title, "count": found.names,
            "nearest_is_named": found.share(found.nearest),
            "named_among_nearest_5": found.share(found.near),
            "distance_to_training": found.distance() })
    };
    json!({
        "model": model, "sampler": report.sampler, "steps": report.steps,
        "cfg_scale": report.cfg_scale,
        "likelihood": report.likelihoods.iter().map(likelihood).collect::<Value>(),
        "samples": report.accuracies.iter().map(accuracy).collect::<Value>(),
        "distance_between_training_pictures": report.apart,
    })
}

fn to_text(report: &Report) -> String {
    let row = |cells: [&str; 4]| cells.map(str::to_string).to_vec();
    let mut rows = vec![row(["pictures", "count", "loss", "bits per dimension"])];
    for (title, found) in report.likelihoods.iter().filter(|(_, found)| found.pictures > 0) {
        let (count, loss) = (found.pictures.to_string(), format!("{:.5}", found.loss));
        rows.push(row([title, &count, &loss, &format!("{:.3}", found.bound)]));
    }
    let mut text = print::table(&rows);
    let Report { sampler, steps, cfg_scale, .. } = report;
    let mut rows = vec![
        ["samples", "names", "nearest is named", "among 5", "distance"]
            .map(str::to_string)
            .to_vec(),
    ];
    for (title, found) in report.accuracies.iter().filter(|(_, found)| found.names > 0) {
        rows.push(vec![
            title.to_string(),
            found.names.to_string(),
            print::percent(found.share(found.nearest)),
            print::percent(found.share(found.near)),
            format!("{:.3}", found.distance()),
        ]);
    }
    if rows.len() > 1 {
        text.push_str(&format!("\n{sampler}, {steps} steps, guidance {cfg_scale}\n"));
        text.push_str(&print::table(&rows));
    }
    text.push_str(&format!(
        "\nDistances are medians to the nearest training picture, 0 to 1; one training\n\
         picture and the nearest other one are {:.3} apart.\n",
        report.apart
    ));
    text
}
