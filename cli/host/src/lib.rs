//! mote on a host with `std`: checkpoints, configurations, tokenizers, pictures, threads and memory
//! for the core, which draws.
//!
//! A [`Machine`] is an instruction set and threads, a [`Model`] a folder or a file that is open, a
//! [`Request`] what is wanted. A [`Plan`] says what that takes, to the byte, and draws it.
//!
//! ```no_run
//! use mote_host::image::PngFile;
//! use mote_host::{Machine, Model, Options, Parts, Request, Result};
//!
//! fn main() -> Result<()> {
//!     let machine = Machine::new(&Options::default())?;
//!     let model = Model::open("sd15", &Parts::default())?;
//!     let request = Request { prompt: Some("a lighthouse".into()), ..Request::default() };
//!     let plan = model.plan(&request, &machine)?;
//!     println!("{} bytes of memory", plan.bytes());
//!     plan.draw(&mut PngFile::new("lighthouse.png"))
//! }
//! ```
#![deny(missing_docs, unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

pub mod checkpoint;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod convert;
#[forbid(unsafe_code)]
pub mod draw;
#[forbid(unsafe_code)]
pub mod embedding;
#[forbid(unsafe_code)]
pub mod error;
#[forbid(unsafe_code)]
pub mod explain;
#[forbid(unsafe_code)]
pub mod files;
#[forbid(unsafe_code)]
pub mod image;
#[forbid(unsafe_code)]
pub mod json;
#[forbid(unsafe_code)]
pub mod lora;
pub mod machine;
#[forbid(unsafe_code)]
pub mod networks;
#[forbid(unsafe_code)]
pub mod notes;
#[forbid(unsafe_code)]
pub mod pack;
#[forbid(unsafe_code)]
pub mod plan;
#[forbid(unsafe_code)]
pub mod progress;
#[forbid(unsafe_code)]
pub mod prompts;
#[forbid(unsafe_code)]
pub mod request;
#[forbid(unsafe_code)]
pub mod resolve;
#[forbid(unsafe_code)]
pub mod size;
#[forbid(unsafe_code)]
pub mod stop;
#[forbid(unsafe_code)]
pub mod table;
#[forbid(unsafe_code)]
pub mod tokenizer;
#[forbid(unsafe_code)]
pub mod types;
#[forbid(unsafe_code)]
pub mod webui;
#[forbid(unsafe_code)]
pub mod write;

pub use checkpoint::place::Place;
pub use draw::{Model, Plan};
pub use error::{Failure, Result};
pub use machine::{Machine, Options};
pub use mote_executor as executor;
pub use request::{Parts, Request};
pub use stop::Stop;
