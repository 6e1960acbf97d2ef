//! `text_encoder/config.json` of a `CLIPTextModel`.

use mote::models::clip_text::{Activation, ClipTextConfig};

use super::keys::Keys;
use crate::checkpoint::place::Place;
use crate::error::{Failure, Result};

/// Keys that change no picture: they concern training, storage, generation of text, or the pooled
/// vector that Stable Diffusion 1.x and 2.x do not use.
pub(super) const HARMLESS: [&str; 15] = [
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dropout",
    "dtype",
    "eos_token_id",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "pad_token_id",
    "projection_dim",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

const ACTIVATIONS: [(&str, Activation); 2] =
    [("quick_gelu", Activation::QuickGelu), ("gelu", Activation::Gelu)];

/// Reads a configuration.
///
/// # Errors
/// Where a key holds what is not supported, or nonsense.
pub fn read(file: impl Into<Place>) -> Result<ClipTextConfig> {
    from_keys(Keys::read(file)?)
}

/// The configuration of these keys.
///
/// # Errors
/// As [`read`].
pub fn from_keys(mut keys: Keys) -> Result<ClipTextConfig> {
    let config = transformer(&mut keys)?;
    keys.finish(&HARMLESS)?;
    Ok(config)
}

/// The transformer's own keys.
pub(super) fn transformer(keys: &mut Keys) -> Result<ClipTextConfig> {
    keys.word_or_null("model_type", (), &[("clip_text_model", ())])?;
    let config = ClipTextConfig {
        vocab_size: keys.size("vocab_size", 49_408)?,
        hidden_size: keys.size("hidden_size", 512)?,
        intermediate_size: keys.size("intermediate_size", 2048)?,
        num_hidden_layers: keys.size("num_hidden_layers", 12)?,
        num_attention_heads: keys.size("num_attention_heads", 8)?,
        max_position_embeddings: keys.size("max_position_embeddings", 77)?,
        hidden_act: keys.word("hidden_act", Activation::QuickGelu, &ACTIVATIONS)?,
        layer_norm_eps: keys.f32("layer_norm_eps", 1e-5)?,
    };
    if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
        return Err(Failure::new(format!(
            "{}: `hidden_size` is {}, which is no multiple of `num_attention_heads`, {}",
            keys.path().display(),
            config.hidden_size,
            config.num_attention_heads
        )));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<ClipTextConfig> {
        from_keys(Keys::new(Path::new("text_encoder/config.json"), value)?)
    }

    #[test]
    fn an_empty_file_is_transformers_default() {
        let config = read(json!({})).unwrap();
        assert_eq!((config.vocab_size, config.hidden_size), (49_408, 512));
        assert_eq!((config.num_hidden_layers, config.num_attention_heads), (12, 8));
        assert_eq!(config.hidden_act, Activation::QuickGelu);
    }

    #[test]
    fn a_published_file_loads() {
        let config = read(json!({
            "_name_or_path": "x", "architectures": ["CLIPTextModel"], "attention_dropout": 0.0,
            "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "gelu",
            "hidden_size": 1024, "initializer_factor": 1.0, "initializer_range": 0.02,
            "intermediate_size": 4096, "layer_norm_eps": 1e-05, "max_position_embeddings": 77,
            "model_type": "clip_text_model", "num_attention_heads": 16, "num_hidden_layers": 23,
            "pad_token_id": 1, "projection_dim": 512, "torch_dtype": "float32",
            "transformers_version": "4.25.0.dev0", "vocab_size": 49408
        }))
        .unwrap();
        assert_eq!((config.hidden_act, config.num_hidden_layers), (Activation::Gelu, 23));
    }

    #[test]
    fn null_is_the_default_where_python_takes_it_so() {
        assert_eq!(read(json!({"model_type": null, "projection_dim": null})), read(json!({})));
        for key in ["vocab_size", "hidden_size", "num_hidden_layers", "hidden_act"] {
            let said = read(json!({ key: null })).unwrap_err().to_string();
            assert!(said.contains(&format!("`{key}` is null")), "{said}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (name, value) in [
            ("hidden_act", json!("relu")),
            ("model_type", json!("xlm-roberta")),
            ("num_attention_heads", json!(7)),
            ("num_attention_heads", json!(0)),
            ("project_dim", json!(1024)),
        ] {
            let said = read(json!({ name: value })).unwrap_err().to_string();
            assert!(said.contains(&format!("`{name}`")), "{said}");
        }
    }
}
