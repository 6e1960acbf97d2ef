//! A model's folder, understood: its JSON files become the core's configurations.
//!
//! Keys that matter and are not supported are refused by name; keys that are absent take diffusers'
//! (or transformers') defaults, as older files lack some; keys that cannot change a picture are
//! listed beside each reader.

pub mod autoencoder;
pub mod clip_text;
pub mod clip_text_projection;
pub mod keys;
pub mod model_index;
pub mod scheduler;
pub mod taesd;
pub mod unet_2d;
pub mod unet_2d_condition;

use mote::models::unet_2d::TimeScaleShift;
use serde_json::Value;

use crate::error::{Failure, Result};
use keys::Keys;

/// The activation of every network but CLIP's and TAESD's; `swish` is another name for it.
fn only_silu(keys: &mut Keys) -> Result<()> {
    keys.word("act_fn", (), &[("silu", ()), ("swish", ())])
}

/// `sample_size`: one number, or height and width, or nothing.
fn sample_size(keys: &mut Keys) -> Result<Option<[usize; 2]>> {
    const KEY: &str = "sample_size";
    match keys.take_some(KEY) {
        None => Ok(None),
        Some(Value::Array(list)) if list.len() == 2 => {
            Ok(Some([keys.as_size(KEY, &list[0])?, keys.as_size(KEY, &list[1])?]))
        }
        Some(value) => keys.as_size(KEY, &value).map(|side| Some([side, side])),
    }
}

/// `resnet_time_scale_shift`.
fn time_scale_shift(keys: &mut Keys) -> Result<TimeScaleShift> {
    let known = [("default", TimeScaleShift::Default), ("scale_shift", TimeScaleShift::ScaleShift)];
    keys.word("resnet_time_scale_shift", TimeScaleShift::Default, &known)
}

/// `mid_block_type`: `supported`, or null for none.
fn mid_block(keys: &mut Keys, supported: &str) -> Result<bool> {
    match keys.take("mid_block_type") {
        None => Ok(true),
        Some(Value::Null) => Ok(false),
        Some(value) => keys.as_word("mid_block_type", &value, &[(supported, true)]),
    }
}

/// Refuses a list of another length than `levels`, which `levels_key` has.
fn same_levels(
    keys: &Keys,
    levels_key: &str,
    levels: usize,
    key: &str,
    found: usize,
) -> Result<()> {
    if levels == found {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{}: `{key}` has {found} levels and `{levels_key}` has {levels}",
        keys.path().display()
    ))
    .remedy("The two lists must be equally long"))
}
