//! The files that the weights of a pipeline's networks lie in, mapped.

use std::path::Path;
use std::sync::Arc;

use mote::weights::{InPlace, Part, Parts, Weight, Weights};

use super::mapped::{Mapped, plain_name};
use super::packed::{FILE, OfNetworks, Packed};
use super::place::Place;
use super::shards::Checkpoint;
use super::single::Single;
use crate::error::Result;

/// The weights of all networks.
#[derive(Debug, Default)]
pub struct WeightFiles {
    /// Those with files of their own.
    networks: Vec<(&'static str, Checkpoint)>,
    /// Those in a packed file.
    packed_networks: Vec<&'static str>,
    /// That file.
    packed: Option<Arc<Packed>>,
    /// Those in a checkpoint in one file.
    single_networks: Vec<&'static str>,
    /// That file.
    single: Option<Arc<Single>>,
}

impl WeightFiles {
    /// Maps the weights at these places: the first segments of their names, and where what follows
    /// them lies.
    ///
    /// # Errors
    /// Where some are missing or damaged.
    pub fn open(places: &[(&'static str, Place)]) -> Result<Self> {
        let mut files = Self::default();
        for (network, place) in places {
            match (place.packed(), place.single()) {
                (Some(packed), _) => {
                    files.packed_networks.push(network);
                    files.packed = Some(packed.clone());
                }
                (None, Some(single)) => {
                    files.single_networks.push(network);
                    files.single = Some(single.clone());
                }
                (None, None) => files.networks.push((network, Checkpoint::open(place.path())?)),
            }
        }
        Ok(files)
    }

    /// All weights in one packed file, under their whole names.
    pub fn packed(file: Arc<Packed>) -> Self {
        Self { packed_networks: vec![""], packed: Some(file), ..Self::default() }
    }

    /// How many tensors the packed file has, where there is one.
    pub fn tensors(&self) -> Option<usize> {
        Some(self.packed.as_ref()?.weights().index().iter().count())
    }

    /// The files on the disk that weights are read from.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let files = self.networks.iter().flat_map(|(_, checkpoint)| &checkpoint.files);
        let packed = self.packed.iter().map(|file| file.path());
        let single = self.single.iter().map(|file| file.path());
        files.map(Mapped::path).chain(packed).chain(single)
    }

    /// The checkpoint in one file, if there is one.
    pub fn single(&self) -> Option<&Path> {
        self.single.as_ref().map(|file| file.path())
    }

    /// All tensors of folders and packed files, under their whole names.
    pub fn named_tensors(&self) -> Vec<(String, Weight)> {
        let mut all = Vec::new();
        for (network, checkpoint) in &self.networks {
            for file in &checkpoint.files {
                let index = file.weights().index();
                all.extend(
                    index
                        .iter()
                        .map(|(name, weight)| (format!("{network}.{}", plain_name(name)), weight)),
                );
            }
        }
        if let Some(packed) = &self.packed {
            let index = packed.weights().index();
            let tensors = index.iter().filter(|(name, _)| !name.starts_with(FILE));
            all.extend(tensors.map(|(name, weight)| (plain_name(name).into_owned(), weight)));
        }
        all
    }

    /// Hands all weights to `body` as one.
    pub fn with_weights<T>(&self, body: impl FnOnce(&mut dyn Weights) -> T) -> T {
        let mut files: Vec<(&str, InPlace<'_>)> = Vec::new();
        for (network, checkpoint) in &self.networks {
            files.extend(checkpoint.files.iter().map(|file| (*network, file.weights())));
        }
        let mut packed = self
            .packed
            .as_ref()
            .map(|file| OfNetworks { networks: &self.packed_networks, weights: file.weights() });
        let each = files.iter_mut().map(|(name, weights)| (*name, weights as &mut dyn Weights));
        let packed = packed.iter_mut().map(|packed| ("", packed as &mut dyn Weights));
        let mut single = self.single.as_ref().map(|file| file.weights(&self.single_networks));
        let single = single.iter_mut().map(|single| ("", single as &mut dyn Weights));
        let part = |(prefix, weights)| Part { prefix, weights };
        let mut parts: Vec<Part<'_>> = each.chain(packed).chain(single).map(part).collect();
        body(&mut Parts(&mut parts))
    }
}
