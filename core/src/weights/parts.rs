//! Several files as one: the shards of a network, the networks of a pipeline.

use super::{Weight, Weights};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// One file of several, and the segment that names in it lack.
pub struct Part<'a> {
    /// The first segment of the names this part answers to, which its own names lack: `unet`.
    /// Empty: it answers to all names.
    pub prefix: &'a str,
    /// Its weights.
    pub weights: &'a mut dyn Weights,
}

/// Several files as one. A name is looked for in each part whose prefix it has.
pub struct Parts<'p, 'a>(pub &'p mut [Part<'a>]);

/// `name` without `prefix` and the dot after it.
fn without_prefix<'n>(name: &'n str, prefix: &str) -> Option<&'n str> {
    if prefix.is_empty() { Some(name) } else { name.strip_prefix(prefix)?.strip_prefix('.') }
}

impl Parts<'_, '_> {
    /// What the first part that answers to `name` finds.
    fn each(
        &mut self,
        name: &str,
        mut find: impl FnMut(&mut dyn Weights, &str) -> Result<Option<Weight>>,
    ) -> Result<Option<Weight>> {
        for (part, number) in self.0.iter_mut().zip(0..) {
            if let Some(name) = without_prefix(name, part.prefix)
                && let Some(weight) = find(part.weights, name)?
            {
                return Ok(Some(Weight { part: number, ..weight }));
            }
        }
        Ok(None)
    }
}

impl Weights for Parts<'_, '_> {
    fn find(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        self.each(name, |weights, name| weights.find(name, expected))
    }

    fn find_matrix(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        self.each(name, |weights, name| weights.find_matrix(name, expected))
    }

    fn contains(&mut self, name: &str) -> bool {
        self.0.iter_mut().any(|part| {
            without_prefix(name, part.prefix).is_some_and(|name| part.weights.contains(name))
        })
    }

    fn is_quantised(&self) -> bool {
        self.0.iter().any(|part| part.weights.is_quantised())
    }

    fn is_staged(&self) -> bool {
        self.0.iter().any(|part| part.weights.is_staged())
    }

    fn read<'a>(
        &'a mut self,
        weight: &Weight,
        start: usize,
        len: usize,
        staging: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        let part = self.0.get_mut(usize::from(weight.part)).ok_or(Error::WeightRead)?;
        part.weights.read(weight, start, len, staging)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_whole_segment() {
        assert_eq!(without_prefix("unet.conv_in.weight", "unet"), Some("conv_in.weight"));
        assert_eq!(without_prefix("unet.", "unet"), Some(""));
        for other in ["unet", "unet2.conv_in.weight", "une.t", "vae.unet.x", ".unet.x", ""] {
            assert_eq!(without_prefix(other, "unet"), None, "{other}");
        }
        for any in ["unet.conv_in.weight", ""] {
            assert_eq!(without_prefix(any, ""), Some(any));
        }
    }

    #[test]
    fn no_parts_hold_no_weights() {
        let mut none = Parts(&mut []);
        assert!(!none.contains("x") && !none.is_staged());
        assert_eq!(none.find("x", Shape::new([1])), Ok(None));
    }
}
