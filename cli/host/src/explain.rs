//! The core's errors as sentences: it has numbers, a user wants what, where, and what to do.

use crate::checkpoint::packed::{GROUPS, SCALE};
use crate::error::Failure;

/// What to do about a packed file that is not as it should be.
const AGAIN: &str = "The packed file is damaged: convert the model again";

/// An error of the core as sentences. `weight` is the weight asked for last.
pub fn explain(error: mote::Error, weight: &str) -> Failure {
    use mote::Error;
    let failure = Failure::new(error.to_string());
    match error {
        Error::MissingWeight | Error::WeightShape { .. } | Error::WeightDtype { .. }
            if weight.ends_with(SCALE) || weight.ends_with(GROUPS) =>
        {
            let what =
                if error == Error::MissingWeight { "is missing".into() } else { error.to_string() };
            Failure::new(format!("`{weight}`: {what}")).remedy(AGAIN)
        }
        Error::MissingWeight => Failure::new(format!("the checkpoint has no weight `{weight}`"))
            .remedy("Its config.json and its weights do not belong together"),
        Error::WeightShape { .. } => failure
            .within(format!("`{weight}`"))
            .remedy("Its config.json and its weights do not belong together"),
        Error::WeightDtype { found } => Failure::new(format!("`{weight}` is {found}")).remedy(
            "mote reads F64, F32, F16, BF16, F8_E4M3 and F8_E5M2: convert the file to one of them",
        ),
        Error::WeightRead => failure.within(format!("`{weight}`")),
        Error::Config { key: "num_inference_steps", what } => {
            Failure::new(format!("the number of steps {what}")).remedy("Change --steps")
        }
        Error::Config { key: "tile", what } => {
            Failure::new(format!("a tile's side {what}")).remedy("Change --vae-tile-size")
        }
        Error::Index { what: "timestep", .. } => {
            Failure::new("so many steps lead past the last step of training")
                .remedy("Take fewer --steps")
        }
        Error::Config { key, what } => Failure::new(format!("`{key}` {what}")),
        Error::NotFinite { what: "the sample" } => failure.remedy(
            "The weights may be damaged, or --prediction is not what the model was trained for",
        ),
        Error::NotFinite { .. } => failure.remedy("The weights may be damaged: fetch them again"),
        Error::Cancelled => Failure::interrupted(),
        _ => failure,
    }
}
