//! `unet/config.json` of a `UNet2DModel`.

use mote::models::unet_2d::{BlockType, ClassEmbedding, Resampling, TimeEmbedding, UNet2DConfig};

use super::keys::Keys;
use super::{mid_block, only_silu, same_levels, sample_size, time_scale_shift};
use crate::checkpoint::place::Place;
use crate::error::{Failure, Result};

/// Keys that change no picture.
const HARMLESS: [&str; 2] = ["dropout", "num_train_timesteps"];

const DOWN: [(&str, BlockType); 3] = [
    ("DownBlock2D", BlockType::Plain),
    ("AttnDownBlock2D", BlockType::Attention),
    ("ResnetDownsampleBlock2D", BlockType::Resnet),
];

const UP: [(&str, BlockType); 3] = [
    ("UpBlock2D", BlockType::Plain),
    ("AttnUpBlock2D", BlockType::Attention),
    ("ResnetUpsampleBlock2D", BlockType::Resnet),
];

const EMBEDDINGS: [(&str, TimeEmbedding); 2] =
    [("positional", TimeEmbedding::Positional), ("fourier", TimeEmbedding::Fourier)];

const RESAMPLING: [(&str, Resampling); 2] =
    [("conv", Resampling::Conv), ("resnet", Resampling::Resnet)];

/// Reads a configuration.
///
/// # Errors
/// Where a key holds what is not supported, or nonsense.
pub fn read(file: impl Into<Place>) -> Result<UNet2DConfig> {
    from_keys(Keys::read(file)?)
}

/// The configuration of these keys.
///
/// # Errors
/// As [`read`].
pub fn from_keys(mut keys: Keys) -> Result<UNet2DConfig> {
    use BlockType::{Attention, Plain};
    keys.word_or_null("_class_name", (), &[("UNet2DModel", ())])?;
    only_silu(&mut keys)?;
    let down = [Plain, Attention, Attention, Attention];
    let up = [Attention, Attention, Attention, Plain];
    let channels = [224, 448, 672, 896];
    let time_embedding_type = keys.word("time_embedding_type", EMBEDDINGS[0].1, &EMBEDDINGS)?;
    if time_embedding_type == TimeEmbedding::Fourier {
        // Sines and cosines of fixed random frequencies have no shift.
        keys.take_null("freq_shift");
    }
    let config = UNet2DConfig {
        sample_size: sample_size(&mut keys)?,
        in_channels: keys.size("in_channels", 3)?,
        out_channels: keys.size("out_channels", 3)?,
        center_input_sample: keys.flag("center_input_sample", false)?,
        time_embedding_type,
        time_embedding_dim: keys.size_or_null("time_embedding_dim", None)?,
        freq_shift: keys.f32("freq_shift", 0.0)?,
        flip_sin_to_cos: keys.flag("flip_sin_to_cos", true)?,
        down_block_types: keys
            .list("down_block_types", &down, |keys, key, value| keys.as_word(key, value, &DOWN))?,
        up_block_types: keys
            .list("up_block_types", &up, |keys, key, value| keys.as_word(key, value, &UP))?,
        mid_block: mid_block(&mut keys, "UNetMidBlock2D")?,
        add_attention: keys.flag("add_attention", true)?,
        block_out_channels: keys.list("block_out_channels", &channels, Keys::as_size)?,
        layers_per_block: keys.size("layers_per_block", 2)?,
        mid_block_scale_factor: keys.f32("mid_block_scale_factor", 1.0)?,
        downsample_padding: keys.count("downsample_padding", 1)?,
        downsample_type: keys.word_or_null("downsample_type", Resampling::Conv, &RESAMPLING)?,
        upsample_type: keys.word_or_null("upsample_type", Resampling::Conv, &RESAMPLING)?,
        attention_head_dim: keys.size_or_null("attention_head_dim", Some(8))?,
        norm_num_groups: keys.size("norm_num_groups", 32)?,
        attn_norm_num_groups: keys.size_or_null("attn_norm_num_groups", None)?,
        norm_eps: keys.f32("norm_eps", 1e-5)?,
        resnet_time_scale_shift: time_scale_shift(&mut keys)?,
        class_embedding: class_embedding(&mut keys)?,
    };
    let levels = config.block_out_channels.len();
    let (down, up) = (config.down_block_types.len(), config.up_block_types.len());
    same_levels(&keys, "block_out_channels", levels, "down_block_types", down)?;
    same_levels(&keys, "block_out_channels", levels, "up_block_types", up)?;
    keys.finish(&HARMLESS)?;
    Ok(config)
}

/// `class_embed_type` and `num_class_embeds`.
fn class_embedding(keys: &mut Keys) -> Result<ClassEmbedding> {
    let table = keys.size_or_null("num_class_embeds", None)?;
    let known = [("timestep", ClassEmbedding::Timestep), ("identity", ClassEmbedding::Identity)];
    match (keys.take_some("class_embed_type"), table) {
        (None, None) => Ok(ClassEmbedding::None),
        (None, Some(rows)) => Ok(ClassEmbedding::Table(rows)),
        (Some(value), None) => keys.as_word("class_embed_type", &value, &known),
        (Some(_), Some(_)) => Err(Failure::new(format!(
            "{}: `class_embed_type` and `num_class_embeds` contradict each other",
            keys.path().display()
        ))
        .remedy("Set the one that the model was not trained with to null")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<UNet2DConfig> {
        from_keys(Keys::new(Path::new("unet/config.json"), value)?)
    }

    #[test]
    fn an_empty_file_is_diffusers_default() {
        let config = read(json!({})).unwrap();
        assert_eq!(config.block_out_channels, [224, 448, 672, 896]);
        assert_eq!(config.attention_head_dim, Some(8));
        assert_eq!((config.in_channels, config.norm_num_groups), (3, 32));
        assert_eq!(config.class_embedding, ClassEmbedding::None);
        assert!(config.mid_block && config.add_attention && config.flip_sin_to_cos);
    }

    #[test]
    fn an_older_file_loads() {
        // As google/ddpm-cat-256 has it.
        let config = read(json!({
            "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu",
            "attention_head_dim": null, "block_out_channels": [128, 128, 256, 256, 512, 512],
            "center_input_sample": false,
            "down_block_types": ["DownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D",
                "AttnDownBlock2D", "DownBlock2D"],
            "downsample_padding": 0, "flip_sin_to_cos": false, "freq_shift": 1, "in_channels": 3,
            "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-06,
            "norm_num_groups": 32, "out_channels": 3, "sample_size": 256,
            "time_embedding_type": "positional",
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D",
                "UpBlock2D"]
        }))
        .unwrap();
        assert_eq!((config.downsample_padding, config.attention_head_dim), (0, None));
        assert_eq!(config.sample_size, Some([256, 256]));
        assert_eq!(config.freq_shift, 1.0);
    }

    #[test]
    fn null_is_false_or_the_default_where_python_takes_it_so() {
        let own = |value: Value| read(value).unwrap();
        for key in ["center_input_sample", "flip_sin_to_cos", "add_attention"] {
            assert_eq!(own(json!({ key: null })), own(json!({ key: false })), "{key}");
        }
        for key in [
            "downsample_type",
            "upsample_type",
            "sample_size",
            "time_embedding_dim",
            "attn_norm_num_groups",
            "class_embed_type",
            "num_class_embeds",
            "_class_name",
        ] {
            assert_eq!(own(json!({ key: null })), own(json!({})), "{key}");
        }
        assert_eq!(own(json!({"attention_head_dim": null})).attention_head_dim, None);
        assert!(!own(json!({"mid_block_type": null})).mid_block);
        for key in [
            "in_channels",
            "out_channels",
            "freq_shift",
            "down_block_types",
            "up_block_types",
            "block_out_channels",
            "layers_per_block",
            "mid_block_scale_factor",
            "norm_eps",
            "downsample_padding",
            "norm_num_groups",
            "resnet_time_scale_shift",
            "act_fn",
            "time_embedding_type",
        ] {
            let said = read(json!({ key: null })).unwrap_err().to_string();
            assert!(said.contains(&format!("`{key}` is null")), "{said}");
        }
    }

    #[test]
    fn the_ways_to_condition_on_a_class_are_told_apart() {
        let class = |value| read(value).unwrap().class_embedding;
        assert_eq!(class(json!({"num_class_embeds": 10})), ClassEmbedding::Table(10));
        assert_eq!(class(json!({"class_embed_type": "timestep"})), ClassEmbedding::Timestep);
        assert_eq!(class(json!({"class_embed_type": "identity"})), ClassEmbedding::Identity);
        assert!(read(json!({"class_embed_type": "identity", "num_class_embeds": 3})).is_err());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (value, name) in [
            (json!({"act_fn": "mish"}), "act_fn"),
            (json!({"_class_name": "UNet1DModel"}), "_class_name"),
            (json!({"mid_block_type": "UNetMidBlock2DCrossAttn"}), "mid_block_type"),
            (json!({"down_block_types": ["SkipDownBlock2D"]}), "down_block_types"),
            (json!({"up_block_types": ["UpBlock2D"]}), "up_block_types"),
            (json!({"time_embedding_type": "learned"}), "time_embedding_type"),
            (json!({"sample_size": [1, 2, 3]}), "sample_size"),
            (json!({"sample_size": -4}), "sample_size"),
            (json!({"block_out_channels": [0, 1, 2, 3]}), "block_out_channels"),
            (json!({"block_out_channels": 7}), "block_out_channels"),
            (json!({"norm_num_groups": null}), "norm_num_groups"),
            (json!({"resnet_time_scale_shift": "ada_group"}), "resnet_time_scale_shift"),
            (json!({"a_key_of_the_future": 3}), "a_key_of_the_future"),
        ] {
            let said = read(value).unwrap_err().to_string();
            assert!(said.contains(&format!("`{name}`")), "{said}");
            assert!(said.starts_with("unet/config.json: "), "{said}");
        }
    }
}
