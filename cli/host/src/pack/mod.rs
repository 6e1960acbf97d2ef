//! What a packed file holds and how it is written: which weights there are (`walk`), how each is
//! stored (`policy`) and rounded (`rounding`), and the file from one end to the other (`write`).

pub mod policy;
pub mod rounding;
pub mod walk;
pub mod write;

pub use policy::Storage;
pub use walk::{Converted, Stored};
pub(crate) use write::to_f32;
pub use write::{Converter, Difference, Layout};
