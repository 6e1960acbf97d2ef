//! The model that the program carries in itself: it draws emoji of 32x32 pixels from words.
//!
//! It is the file that `mote convert --type int8` makes of what `mote train --config emoji32` has
//! trained; `cli/host/model/README.md` tells how.

/// What the model is called where a path is asked for, and nothing of that name is there.
pub const NAME: &str = "emoji32";

/// Bytes that begin where the widest register does, as they would in a map.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!("../../model/emoji32.safetensors"));

/// The names of the pictures that it was trained on, one a line.
static NAMES: &str = include_str!("../../model/names.txt");

/// The words for colours in which it was shown things, beside those that its names have.
pub const COLOURS: [&str; 9] =
    ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black"];

/// The names that it was trained on, in alphabetical order.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.lines()
}

/// The file.
pub fn file() -> &'static [u8] {
    &MODEL.0
}
