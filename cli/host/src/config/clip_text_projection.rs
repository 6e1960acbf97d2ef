//! `text_encoder_2/config.json` of a `CLIPTextModelWithProjection`.

use mote::models::clip_text_projection::ClipTextProjectionConfig;

use super::clip_text;
use super::keys::Keys;
use crate::checkpoint::place::Place;
use crate::error::Result;

/// Reads a configuration.
///
/// # Errors
/// Where a key holds what is not supported, or nonsense.
pub fn read(file: impl Into<Place>) -> Result<ClipTextProjectionConfig> {
    from_keys(Keys::read(file)?)
}

/// The configuration of these keys.
///
/// # Errors
/// As [`read`].
pub fn from_keys(mut keys: Keys) -> Result<ClipTextProjectionConfig> {
    let plain = ClipTextProjectionConfig::default();
    let projection_dim = keys.size("projection_dim", plain.projection_dim)?;
    let end = keys.count("eos_token_id", plain.eos_token_id as usize)?;
    let Ok(eos_token_id) = u32::try_from(end) else {
        return Err(keys.fail("eos_token_id", &end.into(), "a token's number has 32 bits"));
    };
    let text = clip_text::transformer(&mut keys)?;
    keys.finish(&clip_text::HARMLESS)?;
    Ok(ClipTextProjectionConfig { text, projection_dim, eos_token_id })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<ClipTextProjectionConfig> {
        from_keys(Keys::new(Path::new("text_encoder_2/config.json"), value)?)
    }

    #[test]
    fn a_published_file_loads() {
        let config = read(json!({
            "architectures": ["CLIPTextModelWithProjection"], "attention_dropout": 0.0,
            "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "gelu",
            "hidden_size": 1280, "initializer_factor": 1.0, "initializer_range": 0.02,
            "intermediate_size": 5120, "layer_norm_eps": 1e-05, "max_position_embeddings": 77,
            "model_type": "clip_text_model", "num_attention_heads": 20, "num_hidden_layers": 32,
            "pad_token_id": 1, "projection_dim": 1280, "torch_dtype": "float16",
            "transformers_version": "4.32.0.dev0", "vocab_size": 49408
        }))
        .unwrap();
        assert_eq!((config.projection_dim, config.eos_token_id), (1280, 2));
        assert_eq!((config.text.hidden_size, config.text.num_hidden_layers), (1280, 32));
    }

    #[test]
    fn what_is_left_out_is_as_in_transformers() {
        assert_eq!(read(json!({})).unwrap(), ClipTextProjectionConfig::default());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (name, value) in [
            ("projection_dim", json!(0)),
            ("eos_token_id", json!(4_294_967_296_u64)),
            ("hidden_act", json!("relu")),
            ("model_type", json!("t5")),
        ] {
            let said = read(json!({ name: value })).unwrap_err().to_string();
            assert!(said.contains(&format!("`{name}`")), "{said}");
        }
    }
}
