//! What a conversion gained and lost, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use mote::tensor::Packing;
use serde_json::{Value, json};

use super::walk::Stored;
use super::write::{Difference, Layout};
use crate::args::Type;
use crate::{print, size};

/// How many of the layers that lost most are told.
const WORST: usize = 10;

/// The networks of a pipeline, as the names of their weights begin.
const NETWORKS: [&str; 3] = ["text_encoder", "unet", "vae"];

/// A layer's weight.
struct Layer {
    name: String,
    stored_as: String,
    error: f64,
}

/// A network's sizes and error.
struct Network {
    name: &'static str,
    before: u64,
    after: u64,
    error: f64,
}

/// What came of a conversion.
pub struct Report {
    file: PathBuf,
    to: Type,
    networks: Vec<Network>,
    /// By their names.
    layers: Vec<Layer>,
    /// The relative error of each network's output.
    pub outputs: Vec<(&'static str, f64)>,
}

impl Report {
    /// The report on a file with these tensors; nothing is said of outputs yet.
    pub fn new(
        file: &Path,
        to: Type,
        tensors: &BTreeMap<String, Stored>,
        layout: &Layout<'_>,
        differences: BTreeMap<String, Difference>,
    ) -> Self {
        let mut networks = Vec::new();
        for name in NETWORKS {
            let prefix = format!("{name}.");
            let of = || tensors.iter().filter(|(name, _)| name.starts_with(&prefix));
            let before = of().map(|(_, stored)| stored.source.bytes as u64).sum();
            let mut all = Difference::default();
            of().filter_map(|(name, _)| differences.get(name)).for_each(|&lost| all.add(lost));
            let (after, error) = (layout.bytes(&prefix), all.relative());
            if after > 0 {
                networks.push(Network { name, before, after, error });
            }
        }
        let is_layer = |stored: &Stored| stored.source.shape.as_slice().len() > 1;
        let layer = |(name, stored): (&String, &Stored)| Layer {
            name: name.clone(),
            stored_as: stored_as(stored),
            error: differences.get(name).map_or(0.0, Difference::relative),
        };
        let layers = tensors.iter().filter(|(_, stored)| is_layer(stored)).map(layer).collect();
        Self { file: file.into(), to, networks, layers, outputs: Vec::new() }
    }

    /// As JSON, with every layer.
    pub fn json(&self) -> String {
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
            "file": self.file.display().to_string(),
            "type": self.to.name(),
            "networks": self.networks.iter().map(network).collect::<Value>(),
            "layers": self.layers.iter().map(layer).collect::<Value>(),
            "outputs": self.outputs.iter().map(output).collect::<Value>(),
        });
        format!("{json:#}\n")
    }

    /// As tables: the layers that lost most, or all of them.
    pub fn text(&self, all: bool) -> String {
        let row = |cells: [&str; 4]| cells.map(str::to_string).to_vec();
        let mut rows = vec![row(["network", "before", "after", "weights off by"])];
        for network in &self.networks {
            let sizes = [network.before, network.after].map(size::show);
            rows.push(row([network.name, &sizes[0], &sizes[1], &percent(network.error)]));
        }
        let mut text = format!("{}: {}\n", self.file.display(), self.to.name());
        text.push_str(&print::table(&rows));
        let mut layers: Vec<_> =
            self.layers.iter().filter(|layer| all || layer.error > 0.0).collect();
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
        if !self.outputs.is_empty() {
            let mut rows = vec![["output of", "off by"].map(str::to_string).to_vec()];
            rows.extend(
                self.outputs.iter().map(|(name, error)| vec![(*name).into(), percent(*error)]),
            );
            let _ = write!(text, "\n{}", print::table(&rows));
        }
        text
    }
}

fn stored_as(stored: &Stored) -> String {
    match stored.storage.packing() {
        Some(Packing::Q8) => "int8".into(),
        Some(Packing::Q4) => "int4".into(),
        _ => stored.shape().0.name().to_ascii_lowercase(),
    }
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
