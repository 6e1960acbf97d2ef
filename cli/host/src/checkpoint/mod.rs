//! Where a model's files lie and what they hold: folders as diffusers writes them, files of
//! weights, packed files, and the one in the program.

#[forbid(unsafe_code)]
pub mod built_in;
#[forbid(unsafe_code)]
pub mod first_layout;
#[forbid(unsafe_code)]
pub mod foreign;
#[forbid(unsafe_code)]
pub mod format;
pub mod mapped;
#[forbid(unsafe_code)]
pub mod packed;
#[forbid(unsafe_code)]
pub mod pickle;
#[forbid(unsafe_code)]
pub mod place;
#[forbid(unsafe_code)]
pub mod shards;
#[forbid(unsafe_code)]
pub mod single;
#[forbid(unsafe_code)]
pub mod weight_files;
