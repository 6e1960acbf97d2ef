//! `unet/config.json` of a `UNet2DConditionModel`.

use mote::models::unet_2d_condition::{BlockType, TextTime, UNet2DConditionConfig};
use serde_json::Value;

use super::keys::Keys;
use super::{mid_block, only_silu, same_levels, sample_size, time_scale_shift};
use crate::checkpoint::place::Place;
use crate::error::Result;

/// Keys that change no picture: what they would configure is refused where it is switched on; in
/// diffusers `mid_block_only_cross_attention` and the resnets' own reach only blocks that are.
const HARMLESS: [&str; 6] = [
    "dropout",
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "mid_block_only_cross_attention",
    "resnet_out_scale_factor",
    "resnet_skip_time_act",
];

const DOWN: [(&str, BlockType); 2] =
    [("DownBlock2D", BlockType::Plain), ("CrossAttnDownBlock2D", BlockType::CrossAttention)];

const UP: [(&str, BlockType); 2] =
    [("UpBlock2D", BlockType::Plain), ("CrossAttnUpBlock2D", BlockType::CrossAttention)];

/// Reads a configuration.
///
/// # Errors
/// Where a key holds what is not supported, or nonsense.
pub fn read(file: impl Into<Place>) -> Result<UNet2DConditionConfig> {
    from_keys(Keys::read(file)?)
}

/// The configuration of these keys.
///
/// # Errors
/// As [`read`].
pub fn from_keys(mut keys: Keys) -> Result<UNet2DConditionConfig> {
    use BlockType::{CrossAttention, Plain};
    refuse_unsupported(&mut keys)?;
    let down = [CrossAttention, CrossAttention, CrossAttention, Plain];
    let up = [Plain, CrossAttention, CrossAttention, CrossAttention];
    let block_out_channels =
        keys.list("block_out_channels", &[320, 640, 1280, 1280], Keys::as_size)?;
    let levels = block_out_channels.len();
    let config = UNet2DConditionConfig {
        sample_size: sample_size(&mut keys)?,
        in_channels: keys.size("in_channels", 4)?,
        out_channels: keys.size("out_channels", 4)?,
        center_input_sample: keys.flag("center_input_sample", false)?,
        flip_sin_to_cos: keys.flag("flip_sin_to_cos", true)?,
        freq_shift: keys.f32("freq_shift", 0.0)?,
        time_embedding_dim: keys.size_or_null("time_embedding_dim", None)?,
        down_block_types: keys
            .list("down_block_types", &down, |keys, key, value| keys.as_word(key, value, &DOWN))?,
        up_block_types: keys
            .list("up_block_types", &up, |keys, key, value| keys.as_word(key, value, &UP))?,
        mid_block: mid_block(&mut keys, "UNetMidBlock2DCrossAttn")?,
        only_cross_attention: keys.per_level(
            "only_cross_attention",
            levels,
            false,
            Keys::as_flag,
        )?,
        mid_block_only_cross_attention: false,
        block_out_channels,
        layers_per_block: keys.per_level("layers_per_block", levels, 2, Keys::as_size)?,
        transformer_layers_per_block: keys.per_level(
            "transformer_layers_per_block",
            levels,
            1,
            Keys::as_size,
        )?,
        downsample_padding: keys.count("downsample_padding", 1)?,
        mid_block_scale_factor: keys.f32("mid_block_scale_factor", 1.0)?,
        norm_num_groups: keys.size("norm_num_groups", 32)?,
        norm_eps: keys.f32("norm_eps", 1e-5)?,
        cross_attention_dim: cross_attention_dim(&mut keys, levels)?,
        attention_heads: keys.per_level("attention_head_dim", levels, 8, Keys::as_size)?,
        use_linear_projection: keys.flag("use_linear_projection", false)?,
        upcast_attention: keys.flag("upcast_attention", false)?,
        resnet_time_scale_shift: time_scale_shift(&mut keys)?,
        prompt_projection: prompt_projection(&mut keys)?,
        text_time: text_time(&mut keys)?,
        time_cond_proj_dim: keys.size_or_null("time_cond_proj_dim", None)?.map(word),
    };
    if config.prompt_projection && config.text_time.is_none() {
        keys.only("projection_class_embeddings_input_dim", config.cross_attention_dim)?;
    } else {
        keys.take("projection_class_embeddings_input_dim");
    }
    let (down, up) = (config.down_block_types.len(), config.up_block_types.len());
    same_levels(&keys, "block_out_channels", levels, "down_block_types", down)?;
    same_levels(&keys, "block_out_channels", levels, "up_block_types", up)?;
    keys.finish(&HARMLESS)?;
    Ok(config)
}

/// Everything that diffusers can switch on and mote cannot do.
fn refuse_unsupported(keys: &mut Keys) -> Result<()> {
    keys.word_or_null("_class_name", (), &[("UNet2DConditionModel", ())])?;
    only_silu(keys)?;
    for key in [
        "num_attention_heads",
        "reverse_transformer_layers_per_block",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "num_class_embeds",
        "time_embedding_act_fn",
        "timestep_post_act",
        "cross_attention_norm",
    ] {
        keys.only(key, Value::Null)?;
    }
    for key in ["dual_cross_attention", "class_embeddings_concat"] {
        keys.only(key, false)?;
    }
    keys.only("time_embedding_type", "positional")?;
    keys.only_or_null("attention_type", "default")?;
    keys.only("conv_in_kernel", 3)?;
    keys.only("conv_out_kernel", 3)
}

/// `class_embed_type`: nothing, or a projection of the prompt's last token.
fn prompt_projection(keys: &mut Keys) -> Result<bool> {
    const KEY: &str = "class_embed_type";
    match keys.take_some(KEY) {
        None => Ok(false),
        Some(value) if value == "simple_projection" => Ok(true),
        Some(value) => {
            Err(keys.fail(KEY, &value, "mote knows only simple_projection, of the last token"))
        }
    }
}

/// `addition_embed_type`: nothing, or Stable Diffusion XL's pooled text and sizes.
fn text_time(keys: &mut Keys) -> Result<Option<TextTime>> {
    const KEY: &str = "addition_embed_type";
    let (time, input) = ("addition_time_embed_dim", "projection_class_embeddings_input_dim");
    match keys.take_some(KEY) {
        None => Ok(None),
        Some(value) if value == "text_time" => {
            let mut size = |key: &str| match keys.size_or_null(key, None)? {
                Some(size) => Ok(word(size)),
                None => Err(keys.fail(key, &Value::Null, "a text_time embedding needs it")),
            };
            Ok(Some(TextTime { time_dim: size(time)?, input_dim: size(input)? }))
        }
        Some(value) => Err(keys.fail(KEY, &value, "mote knows only text_time")),
    }
}

/// A width that is checked later: what does not fit is too large in any case.
fn word(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// `cross_attention_dim`: a list is one text encoder's width, said once a level.
fn cross_attention_dim(keys: &mut Keys, levels: usize) -> Result<usize> {
    const KEY: &str = "cross_attention_dim";
    let dims = keys.per_level(KEY, levels, 1280, Keys::as_size)?;
    if dims.iter().any(|&dim| dim != dims[0]) {
        let value = Value::from(dims.to_vec());
        return Err(keys.fail(KEY, &value, "mote supports one width for all levels"));
    }
    Ok(dims[0])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<UNet2DConditionConfig> {
        from_keys(Keys::new(Path::new("unet/config.json"), value)?)
    }

    #[test]
    fn an_empty_file_is_diffusers_default() {
        let config = read(json!({})).unwrap();
        assert_eq!(config.block_out_channels, [320, 640, 1280, 1280]);
        assert_eq!(config.attention_heads, [8; 4]);
        assert_eq!(config.layers_per_block, [2; 4]);
        assert_eq!((config.in_channels, config.cross_attention_dim), (4, 1280));
        assert!(config.mid_block && !config.use_linear_projection);
    }

    #[test]
    fn values_may_be_given_per_level() {
        let config = read(json!({
            "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": true,
            "only_cross_attention": [true, true, true, false],
            "cross_attention_dim": [1024, 1024, 1024, 1024]
        }))
        .unwrap();
        assert_eq!(config.attention_heads, [5, 10, 20, 20]);
        assert_eq!(config.only_cross_attention, [true, true, true, false]);
        assert_eq!(config.cross_attention_dim, 1024);
    }

    #[test]
    fn null_is_false_or_the_default_where_python_takes_it_so() {
        let own = |value: Value| read(value).unwrap();
        for key in [
            "center_input_sample",
            "flip_sin_to_cos",
            "use_linear_projection",
            "upcast_attention",
            "dual_cross_attention",
            "class_embeddings_concat",
        ] {
            assert_eq!(own(json!({ key: null })), own(json!({ key: false })), "{key}");
        }
        for key in [
            "attention_type",
            "resnet_out_scale_factor",
            "resnet_skip_time_act",
            "sample_size",
            "time_embedding_dim",
            "class_embed_type",
            "num_class_embeds",
            "addition_embed_type",
            "encoder_hid_dim",
            "time_cond_proj_dim",
            "cross_attention_norm",
            "_class_name",
            "num_attention_heads",
            "mid_block_only_cross_attention",
        ] {
            assert_eq!(own(json!({ key: null })), own(json!({})), "{key}");
        }
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
            "only_cross_attention",
            "cross_attention_dim",
            "attention_head_dim",
            "transformer_layers_per_block",
            "conv_in_kernel",
            "conv_out_kernel",
        ] {
            let said = read(json!({ key: null })).unwrap_err().to_string();
            assert!(said.contains(&format!("`{key}` is null")), "{said}");
        }
    }

    #[test]
    fn stable_diffusion_xl_says_how_wide_its_sizes_are() {
        let own = json!({
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816
        });
        let told = TextTime { time_dim: 256, input_dim: 2816 };
        assert_eq!(read(own).unwrap().text_time, Some(told));
        let said = read(json!({"addition_embed_type": "text_time"})).unwrap_err().to_string();
        assert!(said.contains("`addition_time_embed_dim`"), "{said}");
        assert_eq!(read(json!({"time_cond_proj_dim": 256})).unwrap().time_cond_proj_dim, Some(256));
    }

    #[test]
    fn new_keys_with_nothing_in_them_load() {
        assert!(read(json!({"a_key_of_the_future": null, "another": false})).is_ok());
        assert!(read(json!({"resnet_out_scale_factor": 1})).is_ok());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let nested = json!([[1], [1], [1], [1]]);
        for (name, value) in [
            ("addition_embed_type", json!("text_image")),
            ("time_cond_proj_dim", json!(0)),
            ("dual_cross_attention", json!(true)),
            ("num_attention_heads", json!(8)),
            ("class_embed_type", json!("projection")),
            ("encoder_hid_dim", json!(4096)),
            ("conv_in_kernel", json!(1)),
            ("attention_type", json!("gated")),
            ("act_fn", json!("gelu")),
            ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
            ("attention_head_dim", json!([8, 8])),
            ("transformer_layers_per_block", nested),
            ("cross_attention_dim", json!([1, 2, 3, 4])),
            ("down_block_types", json!(["DownBlock2D"])),
            ("norm_eps", json!("NaN")),
            ("a_key_of_the_future", json!("on")),
        ] {
            let said = read(json!({ name: value })).unwrap_err().to_string();
            assert!(said.contains(&format!("`{name}`")), "{said}");
        }
    }
}
