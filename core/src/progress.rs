//! What the host may watch, and the moment at which it may cancel.

/// Where a pipeline stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The prompts have become vectors.
    TextEncoder,
    /// The picture to start from has become latents.
    Encoder,
    /// A row of the sampler's table has been carried out.
    Unet,
    /// The latents have become a picture.
    Decoder,
}

impl Stage {
    /// The stage's name, as a plan prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TextEncoder => "text encoder",
            Self::Encoder => "encoder",
            Self::Unet => "unet",
            Self::Decoder => "decoder",
        }
    }
}

/// What has just been done.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The stage it belongs to.
    pub stage: Stage,
    /// How many of the stage's evaluations are done, this one included.
    pub done: usize,
    /// How many there are in all.
    pub total: usize,
    /// The sampler's step that the evaluation belonged to, from 0.
    pub step: usize,
    /// What has come of it: the sample x, the latents, the picture with values from 0 to 1; NHWC.
    pub values: &'a [f32],
    /// Its shape.
    pub shape: [usize; 4],
}
