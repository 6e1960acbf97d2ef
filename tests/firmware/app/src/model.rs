//! The models in flash. `run` puts each beside what it must know of it: the plan, as `mote plan
//! --rust` writes it down, the tokenizer's table, and what is drawn.

use mote::mem::Aligned;
use mote::pipeline::Needs;

/// A model, and what is drawn with it.
pub struct Model {
    /// A packed file, as `mote convert` writes it.
    pub file: &'static [u8],
    /// The tokenizer's table, as `mote plan --tokenizer` writes it.
    pub tokenizer: &'static [u8],
    /// What the plan says.
    pub needs: Needs,
    /// The words, a picture each.
    pub prompts: &'static [&'static str],
    /// How strongly they are followed.
    pub guidance_scale: f32,
    /// Steps of a sampling.
    pub steps: usize,
    /// The seed of the noise.
    pub seed: u64,
}

macro_rules! included {
    ($name:literal) => {
        use super::{Aligned, Model};

        include!(concat!(env!("MOTE_FIRMWARE_MODELS"), "/", $name, ".rs"));

        // A board's linker script may put it into a memory of its own.
        #[unsafe(link_section = ".model")]
        static FILE: Aligned<{ PLAN.model_bytes }> = Aligned(*include_bytes!(concat!(
            env!("MOTE_FIRMWARE_MODELS"),
            "/",
            $name,
            ".safetensors"
        )));

        /// The model.
        pub static MODEL: Model = Model {
            file: &FILE.0,
            tokenizer: include_bytes!(concat!(
                env!("MOTE_FIRMWARE_MODELS"),
                "/",
                $name,
                ".tokenizer"
            )),
            needs: PLAN,
            prompts: &PROMPTS,
            guidance_scale: GUIDANCE_SCALE,
            steps: STEPS,
            seed: SEED,
        };

        /// The arena: what the plan says, to the byte.
        pub type Arena = Aligned<{ PLAN.arena_bytes }>;

        /// The tables beside it.
        pub type Tables = crate::picture::Tables<{ PLAN.tensors }, { PLAN.rows }>;
    };
}

/// The model for small parts.
pub mod small {
    included!("picture");

    // Of 128 KiB of memory, 40 are for the stack.
    const _: () = PLAN.must_fit(256 << 10, (128 - 40) << 10);
}

/// The model for larger parts.
pub mod large {
    included!("large");

    // Of 1024 KiB of memory, 40 are for the stack.
    const _: () = PLAN.must_fit(3 << 20, (1024 - 40) << 10);
}
