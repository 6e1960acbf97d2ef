//! The name of a weight as a path through the network, kept on the stack.

use core::fmt::{self, Write};

/// The longest name of a weight, in bytes. The longest of Stable Diffusion XL has 92.
pub const MAX_NAME: usize = 160;

/// The full name of a weight.
pub type Name = heapless::String<MAX_NAME>;

/// A place in a network: `down_blocks.1.resnets.0`. Each segment borrows the one before it.
///
/// ```
/// use mote::weights::Path;
///
/// let root = Path::root();
/// let blocks = root.at("down_blocks");
/// let block = blocks.index(1);
/// assert_eq!(format!("{}", block.at("conv.weight")), "down_blocks.1.conv.weight");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Name(&'a str),
    Index(usize),
}

impl Path<'_> {
    /// The network's root: the empty path.
    pub const fn root() -> Path<'static> {
        Path { parent: None, segment: Segment::Name("") }
    }

    /// The child called `name`, which may hold dots. An empty name is the path itself.
    pub fn at<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), segment: Segment::Name(name) }
    }

    /// The child with number `index`.
    pub fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    /// The path written out, or `None` where it is longer than [`MAX_NAME`].
    pub fn name(&self) -> Option<Name> {
        let mut name = Name::new();
        self.push_to(&mut name)?;
        Some(name)
    }

    /// Appends the path to a name, or stops where it is full. Not by way of `Display`: a walk
    /// makes hundreds of names.
    pub(crate) fn push_to(&self, name: &mut Name) -> Option<()> {
        if let Some(parent) = self.parent {
            parent.push_to(name)?;
        }
        if !name.is_empty() && !matches!(self.segment, Segment::Name("")) {
            name.push('.').ok()?;
        }
        match self.segment {
            Segment::Name(segment) => name.push_str(segment).ok(),
            Segment::Index(index @ 0..10) => name.push((b'0' + index as u8).into()).ok(),
            Segment::Index(index) => write!(name, "{index}").ok(),
        }
    }

    /// Writes the path; tells whether anything stands before the next segment.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> core::result::Result<bool, fmt::Error> {
        let begun = match self.parent {
            Some(parent) => parent.write(f)?,
            None => false,
        };
        let dot = if begun { "." } else { "" };
        match self.segment {
            Segment::Name("") => return Ok(begun),
            Segment::Name(name) => write!(f, "{dot}{name}")?,
            Segment::Index(index) => write!(f, "{dot}{index}")?,
        }
        Ok(true)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_segments_leave_no_dots() {
        let root = Path::root();
        assert_eq!(root.name().unwrap(), "");
        let empty = root.at("");
        let first = empty.index(0);
        let nothing = first.at("");
        assert_eq!(nothing.at("weight").name().unwrap(), "0.weight");
    }

    #[test]
    fn a_path_longer_than_the_longest_name_has_none() {
        let segment = "x".repeat(MAX_NAME - 2);
        let root = Path::root();
        let path = root.at(&segment);
        assert_eq!(path.index(7).name().map(|name| name.len()), Some(MAX_NAME));
        assert_eq!(path.index(70).name(), None);
    }
}
