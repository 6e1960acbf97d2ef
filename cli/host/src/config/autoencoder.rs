//! `vae/config.json`: an `AutoencoderKL` or an `AutoencoderTiny`.

pub use mote::models::autoencoder::Autoencoder;
use mote::models::autoencoder_kl::AutoencoderKlConfig;
use mote::models::autoencoder_tiny::{AutoencoderTinyConfig, Naming};
use serde_json::Value;

use super::keys::Keys;
use super::{only_silu, same_levels};
use crate::checkpoint::place::Place;
use crate::error::Result;

/// Keys of `AutoencoderKL` that change no picture: mote always computes in f32, and the size
/// trained at matters to tiling alone.
const HARMLESS_KL: [&str; 2] = ["force_upcast", "sample_size"];

/// Keys of `AutoencoderTiny` that change no picture: magnitude and shift are for storing latents as
/// bytes, and `block_out_channels` repeats the decoder's.
const HARMLESS_TINY: [&str; 4] =
    ["force_upcast", "latent_magnitude", "latent_shift", "block_out_channels"];

/// Reads a configuration; its `_class_name` says which it is.
///
/// # Errors
/// Where a key holds what is not supported, or nonsense.
pub fn read(file: impl Into<Place>) -> Result<Autoencoder> {
    from_keys(Keys::read(file)?)
}

fn from_keys(mut keys: Keys) -> Result<Autoencoder> {
    let classes = [("AutoencoderKL", false), ("AutoencoderTiny", true)];
    match keys.word_or_null("_class_name", false, &classes)? {
        false => kl(keys).map(Autoencoder::Kl),
        true => tiny(keys).map(Autoencoder::Tiny),
    }
}

fn kl(mut keys: Keys) -> Result<AutoencoderKlConfig> {
    only_silu(&mut keys)?;
    keys.only("latents_mean", Value::Null)?;
    keys.only("latents_std", Value::Null)?;
    let blocks = |keys: &mut Keys, key: &str, known: &str| {
        let list = keys.list(key, &[()], |keys, key, v| keys.as_word(key, v, &[(known, ())]))?;
        Ok(list.len())
    };
    let down = blocks(&mut keys, "down_block_types", "DownEncoderBlock2D")?;
    let up = blocks(&mut keys, "up_block_types", "UpDecoderBlock2D")?;
    let config = AutoencoderKlConfig {
        in_channels: keys.size("in_channels", 3)?,
        out_channels: keys.size("out_channels", 3)?,
        latent_channels: keys.size("latent_channels", 4)?,
        block_out_channels: keys.list("block_out_channels", &[64], Keys::as_size)?,
        layers_per_block: keys.size("layers_per_block", 1)?,
        norm_num_groups: keys.size("norm_num_groups", 32)?,
        mid_block_add_attention: keys.flag("mid_block_add_attention", true)?,
        use_quant_conv: keys.flag("use_quant_conv", true)?,
        use_post_quant_conv: keys.flag("use_post_quant_conv", true)?,
        scaling_factor: scaling_factor(&mut keys, 0.18215)?,
        shift_factor: keys.number_or_null("shift_factor")?.unwrap_or(0.0) as f32,
    };
    let levels = config.block_out_channels.len();
    same_levels(&keys, "block_out_channels", levels, "down_block_types", down)?;
    same_levels(&keys, "block_out_channels", levels, "up_block_types", up)?;
    keys.finish(&HARMLESS_KL)?;
    Ok(config)
}

fn tiny(mut keys: Keys) -> Result<AutoencoderTinyConfig> {
    keys.only("act_fn", "relu")?;
    keys.only("upsample_fn", "nearest")?;
    keys.only("upsampling_scaling_factor", 2)?;
    keys.only_or_null("shift_factor", 0.0)?;
    let (encoder, decoder) = ("encoder_block_out_channels", "decoder_block_out_channels");
    let config = AutoencoderTinyConfig {
        in_channels: keys.size("in_channels", 3)?,
        out_channels: keys.size("out_channels", 3)?,
        latent_channels: keys.size("latent_channels", 4)?,
        encoder_block_out_channels: keys.list(encoder, &[64; 4], Keys::as_size)?,
        decoder_block_out_channels: keys.list(decoder, &[64; 4], Keys::as_size)?,
        num_encoder_blocks: keys.list("num_encoder_blocks", &[1, 3, 3, 3], Keys::as_size)?,
        num_decoder_blocks: keys.list("num_decoder_blocks", &[3, 3, 3, 1], Keys::as_size)?,
        scaling_factor: scaling_factor(&mut keys, 1.0)?,
        pool: false,
        naming: Naming::Diffusers,
    };
    let levels = config.decoder_block_out_channels.len();
    for (key, found) in [
        (encoder, config.encoder_block_out_channels.len()),
        ("num_encoder_blocks", config.num_encoder_blocks.len()),
        ("num_decoder_blocks", config.num_decoder_blocks.len()),
    ] {
        same_levels(&keys, decoder, levels, key, found)?;
    }
    keys.finish(&HARMLESS_TINY)?;
    Ok(config)
}

/// Latents are divided by it, so it cannot be 0.
fn scaling_factor(keys: &mut Keys, default: f32) -> Result<f32> {
    match keys.f32("scaling_factor", default)? {
        factor if factor > 0.0 => Ok(factor),
        factor => Err(keys.fail("scaling_factor", &Value::from(factor), "it should be above 0")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Autoencoder> {
        from_keys(Keys::new(Path::new("vae/config.json"), value)?)
    }

    #[test]
    fn absent_keys_are_diffusers_defaults() {
        let Autoencoder::Kl(config) = read(json!({})).unwrap() else { panic!("not a KL") };
        assert_eq!(config.block_out_channels, [64]);
        assert_eq!((config.scaling_factor, config.shift_factor), (0.18215, 0.0));
        assert!(config.use_quant_conv && config.use_post_quant_conv);
        let tiny = read(json!({"_class_name": "AutoencoderTiny"})).unwrap();
        assert_eq!((tiny.latent_channels(), tiny.scale()), (4, 8));
        let Autoencoder::Tiny(config) = tiny else { panic!("not tiny") };
        assert_eq!(config.num_encoder_blocks, [1, 3, 3, 3]);
    }

    #[test]
    fn null_is_false_or_the_default_where_python_takes_it_so() {
        let own = |value: Value| read(value).unwrap();
        for key in ["use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"] {
            assert_eq!(own(json!({ key: null })), own(json!({ key: false })), "{key}");
        }
        for key in ["_class_name", "shift_factor", "latents_mean", "latents_std", "force_upcast"] {
            assert_eq!(own(json!({ key: null })), own(json!({})), "{key}");
        }
        for key in [
            "in_channels",
            "out_channels",
            "latent_channels",
            "block_out_channels",
            "act_fn",
            "layers_per_block",
            "norm_num_groups",
            "down_block_types",
            "scaling_factor",
        ] {
            let said = read(json!({ key: null })).unwrap_err().to_string();
            assert!(said.contains(&format!("`{key}` is null")), "{said}");
        }
        let class = "AutoencoderTiny";
        let tiny = own(json!({ "_class_name": class, "shift_factor": null }));
        assert_eq!(tiny, own(json!({ "_class_name": class })));
        for key in ["act_fn", "upsample_fn", "upsampling_scaling_factor", "num_decoder_blocks"] {
            let said = read(json!({ "_class_name": class, key: null })).unwrap_err().to_string();
            assert!(said.contains(&format!("`{key}` is null")), "{said}");
        }
    }

    #[test]
    fn stable_diffusions_own_file_loads() {
        let config = read(json!({
            "_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu",
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D",
                "DownEncoderBlock2D"],
            "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32,
            "out_channels": 3, "sample_size": 512,
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D",
                "UpDecoderBlock2D"]
        }))
        .unwrap();
        assert_eq!(config.scale(), 8);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let tiny = "AutoencoderTiny";
        for (value, name) in [
            (json!({"_class_name": "VQModel"}), "_class_name"),
            (json!({"latents_mean": [0.0]}), "latents_mean"),
            (json!({"down_block_types": ["AttnDownEncoderBlock2D"]}), "down_block_types"),
            (json!({"block_out_channels": [8, 16]}), "down_block_types"),
            (json!({"block_out_channels": "8"}), "block_out_channels"),
            (json!({"scaling_factor": 0}), "scaling_factor"),
            (json!({"scaling_factor": "Infinity"}), "scaling_factor"),
            (json!({"_class_name": tiny, "act_fn": "silu"}), "act_fn"),
            (json!({"_class_name": tiny, "shift_factor": 0.1}), "shift_factor"),
            (json!({"_class_name": tiny, "num_decoder_blocks": [1]}), "num_decoder_blocks"),
        ] {
            let said = read(value).unwrap_err().to_string();
            assert!(said.contains(&format!("`{name}`")), "{said}");
        }
    }
}
