//! C's request.

use mote::diffusion::noise::NoiseKind;
use mote::pipeline::Request;
use mote::{Error, Result};

/// C's `struct mote_request`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "mote.h says it")]
pub struct MoteRequest {
    pub seed: u64,
    pub prompt: *const u32,
    pub negative_prompt: *const u32,
    pub prompt_tokens: u32,
    pub steps: u32,
    pub class_label: i32,
    pub sampler: i32,
    pub noise: i32,
    pub guidance_scale: f32,
    pub width: u32,
    pub height: u32,
    pub clip_skip: u32,
    pub vae_tile: u32,
}

impl MoteRequest {
    /// What most requests say.
    pub const DEFAULT: Self = Self {
        seed: 0,
        prompt: core::ptr::null(),
        negative_prompt: core::ptr::null(),
        prompt_tokens: 0,
        steps: 20,
        class_label: -1,
        sampler: -1,
        noise: 0,
        guidance_scale: 7.0,
        width: 0,
        height: 0,
        clip_skip: 0,
        vae_tile: 0,
    };

    /// The core's request.
    ///
    /// # Errors
    /// [`Error::Config`] where a number has no meaning.
    ///
    /// # Safety
    /// The prompts are null or point to `prompt_tokens` numbers, for as long as the picture is on
    /// its way.
    pub unsafe fn to_request(self) -> Result<Request<'static>> {
        let count = self.prompt_tokens as usize;
        let tokens = |ids: *const u32| match ids.is_null() || !ids.is_aligned() {
            true => &[],
            // SAFETY: the caller's.
            false => unsafe { core::slice::from_raw_parts(ids, count) },
        };
        let refuse = |key, what| Err(Error::Config { key, what });
        let noise = match self.noise {
            0 => NoiseKind::Pcg,
            1 => NoiseKind::TorchCpu,
            2 => NoiseKind::TorchCuda,
            _ => return refuse("noise", "is none of enum mote_noise"),
        };
        if self.sampler < -1 {
            return refuse("sampler", "is none of enum mote_sampler");
        }
        if (self.width == 0) != (self.height == 0) {
            return refuse("width", "and height must be given together");
        }
        if self.guidance_scale.is_nan() {
            return refuse("guidance_scale", "is not a number");
        }
        let size = [self.height as usize, self.width as usize];
        Ok(Request {
            class_label: u32::try_from(self.class_label).ok(),
            prompt: tokens(self.prompt),
            negative_prompt: tokens(self.negative_prompt),
            guidance_scale: self.guidance_scale,
            clip_skip: self.clip_skip as usize,
            vae_tile: Some(self.vae_tile as usize).filter(|&tile| tile > 0),
            size: Some(size).filter(|_| self.width > 0),
            sampler: usize::try_from(self.sampler).ok(),
            steps: self.steps as usize,
            noise,
            seed: self.seed,
        })
    }
}
