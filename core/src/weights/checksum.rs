//! The checksum of a packed file: its last tensor, four bytes, is the CRC-32 of all that comes
//! before them, the header too.
//!
//! CRC-32 as in PNG, gzip and Ethernet (ISO 3309, polynomial 0x04C11DB7 reflected): it finds every
//! burst of up to 32 bits, and misses other damage once in 2³². The table has 16 entries, 64 bytes
//! of flash: half a byte at a time is ten instructions a byte on a Cortex-M.

use super::{InPlace, Weight};
use crate::error::{Error, Result};

/// The name of the tensor that holds it.
pub const CHECKSUM: &str = "checksum";

/// Bytes of a checksum.
pub const CHECKSUM_BYTES: usize = 4;

const POLYNOMIAL: u32 = 0xEDB8_8320;

/// What four bits are worth.
const TABLE: [u32; 16] = {
    let mut table = [0u32; 16];
    let mut at = 0;
    while at < 16 {
        let (mut value, mut bit) = (at as u32, 0);
        while bit < 4 {
            value = value >> 1 ^ if value & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[at] = value;
        at += 1;
    }
    table
};

/// The CRC-32 of `bytes`.
///
/// ```
/// assert_eq!(mote::weights::crc32(b"123456789"), 0xCBF4_3926);
/// ```
pub fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| TABLE[(crc & 15) as usize] ^ crc >> 4;
    !bytes.iter().fold(!0, |crc, &byte| step(step(crc ^ u32::from(byte))))
}

impl InPlace<'_> {
    /// Compares the file's checksum with its bytes: to be called once, before anything is made of
    /// them.
    ///
    /// # Errors
    /// [`Error::Checksum`] where they differ, [`Error::MissingWeight`] where the file has none, and
    /// [`Error::Format`] where it is not where it should be.
    pub fn verify(&self) -> Result<()> {
        verify(self.file(), self.index().find(CHECKSUM).ok_or(Error::MissingWeight)?)
    }
}

/// [`InPlace::verify`] of a file whose checksum's tensor was found.
///
/// # Errors
/// As there.
pub(crate) fn verify(file: &[u8], checksum: Weight) -> Result<()> {
    let last = file.split_last_chunk::<CHECKSUM_BYTES>();
    let last = last.filter(|(before, _)| checksum.begin == before.len() as u64);
    let Some((before, &stored)) = last.filter(|_| checksum.bytes == CHECKSUM_BYTES) else {
        let at = file.len().saturating_sub(CHECKSUM_BYTES);
        return Err(Error::Format { what: "the file does not end with its checksum", at });
    };
    let (expected, found) = (u32::from_le_bytes(stored), crc32(before));
    if expected == found { Ok(()) } else { Err(Error::Checksum { expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::super::{Index, Slot, header_bytes};
    use super::*;
    use std::vec::Vec;

    fn file(text: &str, data: &[u8], has_checksum: bool) -> Vec<u8> {
        let mut file = Vec::from((text.len() as u64).to_le_bytes());
        file.extend_from_slice(text.as_bytes());
        file.extend_from_slice(data);
        if has_checksum {
            file.extend(crc32(&file).to_le_bytes());
        }
        file
    }

    fn verify(file: &[u8]) -> Result<()> {
        let mut slots = [Slot::EMPTY; 2];
        let header = &file[header_bytes(file, file.len() as u64)?];
        InPlace::new(Index::parse(header, file.len() as u64, &mut slots)?, file).verify()
    }

    const GOOD: &str = r#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},
        "checksum":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}"#;

    #[test]
    fn every_flipped_bit_is_found() {
        let mut good = file(GOOD, &[1, 2, 3], true);
        assert_eq!(verify(&good), Ok(()));
        for bit in 0..8 * good.len() {
            good[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&good).is_err(), "bit {bit}");
            good[bit / 8] ^= 1 << (bit % 8);
        }
        let at = good.len() - 6;
        good[at] ^= 64;
        assert!(matches!(verify(&good), Err(Error::Checksum { .. })));
    }

    #[test]
    fn a_file_without_checksum_or_with_one_elsewhere_is_refused() {
        let none = r#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
        assert_eq!(verify(&file(none, &[1, 2, 3], false)), Err(Error::MissingWeight));
        let elsewhere = r#"{"checksum":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
            "w":{"dtype":"U8","shape":[3],"data_offsets":[4,7]}}"#;
        let file = file(elsewhere, &[0; 7], false);
        assert!(matches!(verify(&file), Err(Error::Format { .. })));
    }
}
