//! Whether a packed model fits a part, as a constant of the program that draws with it.

use super::needs::Needs;
use super::session::Session;
use crate::diffusion::sampler::Row;
use crate::weights::Slot;

impl Needs {
    /// Bytes of memory in all but for the stack: the arena, the index, the table, the session.
    pub const fn ram_bytes(&self) -> usize {
        let tables = self.tensors * size_of::<Slot>() + self.rows * size_of::<Row>();
        self.arena_bytes + tables + size_of::<Session<'_>>()
    }

    /// Refuses, as a constant to compile, what needs more flash for the model or more memory (see
    /// [`Needs::ram_bytes`]) than these.
    ///
    /// # Panics
    /// So, and says by how many bytes.
    pub const fn must_fit(&self, flash_bytes: usize, ram_bytes: usize) {
        if self.model_bytes > flash_bytes {
            too_small("the flash", self.model_bytes - flash_bytes);
        }
        if self.ram_bytes() > ram_bytes {
            too_small("the memory", self.ram_bytes() - ram_bytes);
        }
    }
}

/// # Panics
/// Always, with the number: what a constant panics with cannot be formatted otherwise.
const fn too_small(what: &str, excess: usize) {
    let mut power = 1;
    while excess / power >= 10 {
        power *= 10;
    }
    let mut text = [0; 80];
    let mut at = append(&mut text, 0, what);
    at = append(&mut text, at, " is too small for the model by ");
    while power > 0 {
        text[at] = b'0' + (excess / power % 10) as u8;
        (at, power) = (at + 1, power / 10);
    }
    at = append(&mut text, at, " bytes");
    match core::str::from_utf8(text.split_at(at).0) {
        Ok(sentence) => panic!("{}", sentence),
        Err(_) => panic!("there is too little memory"),
    }
}

const fn append(text: &mut [u8], mut at: usize, more: &str) -> usize {
    let (bytes, mut i) = (more.as_bytes(), 0);
    while i < bytes.len() {
        text[at] = bytes[i];
        (at, i) = (at + 1, i + 1);
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs { model_bytes: 1000, arena_bytes: 640, tensors: 3, rows: 2 };
    const _: () = NEEDS.must_fit(1000, NEEDS.ram_bytes());

    #[test]
    #[should_panic(expected = "the flash is too small for the model by 1 bytes")]
    fn one_byte_of_flash_too_few_is_told() {
        NEEDS.must_fit(999, usize::MAX);
    }

    #[test]
    #[should_panic(expected = "the memory is too small for the model by 120 bytes")]
    fn bytes_of_memory_that_lack_are_told() {
        NEEDS.must_fit(1000, NEEDS.ram_bytes() - 120);
    }
}
