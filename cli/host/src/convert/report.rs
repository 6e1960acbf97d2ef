//! What a conversion gained and lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mote::tensor::Packing;

use crate::pack::{Difference, Layout, Stored};
use crate::types::Type;

/// The networks of a pipeline, as the names of their weights begin.
const NETWORKS: [&str; 3] = ["text_encoder", "unet", "vae"];

/// A layer's weight.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The weight's name.
    pub name: String,
    /// The type that it has in the file.
    pub stored_as: String,
    /// The relative error of its values.
    pub error: f64,
}

/// A network's sizes and error.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// What the names of its weights begin with.
    pub name: &'static str,
    /// Bytes of its weights as they were.
    pub before: u64,
    /// Bytes of its weights in the file.
    pub after: u64,
    /// The relative error of all its weights' values.
    pub error: f64,
}

/// What came of a conversion.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file that was written.
    pub file: PathBuf,
    /// The type of the weights of products in it.
    pub to: Type,
    /// The networks.
    pub networks: Vec<Network>,
    /// The layers, by their names.
    pub layers: Vec<Layer>,
    /// The relative error of each network's output.
    pub outputs: Vec<(&'static str, f64)>,
}

impl Report {
    /// The report on a file with these tensors; nothing is said of outputs yet.
    pub(super) fn new(
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
}

fn stored_as(stored: &Stored) -> String {
    match stored.storage.packing() {
        Some(Packing::Q8) => "int8".into(),
        Some(Packing::Q4) => "int4".into(),
        _ => stored.shape().0.name().to_ascii_lowercase(),
    }
}
