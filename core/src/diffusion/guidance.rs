//! Classifier-free guidance: away from what the network says without the prompt.

use crate::error::{Error, Result};

/// Replaces `cond` by `uncond + scale*(cond - uncond)` (Ho & Salimans 2022, eq. 6, with diffusers'
/// scale, where 1 means no guidance).
///
/// # Errors
/// [`Error::Shape`] where the lengths differ.
pub fn classifier_free_guidance(uncond: &[f32], cond: &mut [f32], scale: f32) -> Result<()> {
    same_length(uncond, cond)?;
    for (cond, uncond) in cond.iter_mut().zip(uncond) {
        *cond = uncond + scale * (*cond - uncond);
    }
    Ok(())
}

/// The same, after which the result is drawn towards the standard deviation of `cond` by the share
/// `rescale`, 0..=1 (`guidance_rescale`; Lin et al. 2023, eq. 15 and 16). One sample at a time: the
/// standard deviations are those of the whole slices.
///
/// # Errors
/// [`Error::Shape`] where the lengths differ.
pub fn rescaled_guidance(uncond: &[f32], cond: &mut [f32], scale: f32, rescale: f32) -> Result<()> {
    same_length(uncond, cond)?;
    let before = standard_deviation(cond);
    classifier_free_guidance(uncond, cond, scale)?;
    let after = standard_deviation(cond);
    if rescale == 0.0 || after == 0.0 {
        return Ok(());
    }
    let factor = (f64::from(rescale) * (before / after) + 1.0 - f64::from(rescale)) as f32;
    for value in cond {
        *value *= factor;
    }
    Ok(())
}

fn same_length(uncond: &[f32], cond: &[f32]) -> Result<()> {
    if uncond.len() == cond.len() {
        return Ok(());
    }
    let (expected, found) = ([cond.len(), 0, 0, 0], [uncond.len(), 0, 0, 0]);
    Err(Error::Shape { what: "guidance", expected, found })
}

/// The standard deviation of a sample, with Bessel's correction; 0 for fewer than two values.
fn standard_deviation(values: &[f32]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
    let square = |&v: &f32| (f64::from(v) - mean) * (f64::from(v) - mean);
    libm::sqrt(values.iter().map(square).sum::<f64>() / (values.len() - 1) as f64)
}
