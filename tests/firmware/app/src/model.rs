//! The model in flash, and what its configuration says: to exchange the model, give `run` another
//! packed file and write here what its `unet/config.json` and `scheduler/scheduler_config.json`
//! say. The host draws by the file's own configuration, and the pictures are compared.

use mote::diffusion::prediction::{Clipping, Prediction};
use mote::diffusion::sampler::{Ddim, Sampler};
use mote::diffusion::schedule::ScheduleConfig;
use mote::models::unet_2d::{BlockType, UNet2DConfig};

/// Bytes of the packed file.
pub const BYTES: usize = include_bytes!(env!("MOTE_FIRMWARE_MODEL")).len();

/// The tensors begin at multiples of 64 bytes from the file's beginning.
#[repr(C, align(64))]
struct Aligned<T>(T);

/// A board's linker script may put it into a memory of its own.
#[unsafe(link_section = ".model")]
static FILE: Aligned<[u8; BYTES]> = Aligned(*include_bytes!(env!("MOTE_FIRMWARE_MODEL")));

/// A packed file, as `mote convert` writes it.
pub static MODEL: &[u8] = &FILE.0;

/// Room for the names of its tensors.
pub const SLOTS: usize = 256;

/// The arena: what the plan says, to the byte.
pub const ARENA_BYTES: usize = 121_088;

/// Height and width of the picture.
pub const SIZE: [usize; 2] = [16, 16];

/// Steps of a sampling.
pub const STEPS: usize = 2;

/// The seed of the noise.
pub const SEED: u64 = 7;

/// The noise predictor.
pub fn unet() -> UNet2DConfig {
    let mut config = UNet2DConfig {
        sample_size: Some([32, 32]),
        norm_num_groups: 8,
        attention_head_dim: Some(8),
        layers_per_block: 1,
        ..UNet2DConfig::default()
    };
    config.block_out_channels = [16, 32].into_iter().collect();
    config.down_block_types = [BlockType::Plain, BlockType::Attention].into_iter().collect();
    config.up_block_types = [BlockType::Attention, BlockType::Plain].into_iter().collect();
    config
}

/// The schedule it was trained with.
pub fn schedule() -> ScheduleConfig<'static> {
    ScheduleConfig::default()
}

/// What it was trained to say.
pub const PREDICTION: Prediction = Prediction::Epsilon;

/// How it is sampled: the schedule's own sampler would draw noise at every step.
pub fn sampler() -> Sampler<'static> {
    Sampler::Ddim(Ddim::default())
}

/// How the denoised picture is kept in range.
pub const CLIPPING: Clipping = Clipping::Clip { range: 1.0 };
