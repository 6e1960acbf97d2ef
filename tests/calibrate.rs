//! Weights rounded by what they meet: `mote convert --calibrate`.

mod model;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
