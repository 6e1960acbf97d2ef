//! The arena's block: exactly the planned bytes, and pages that are touched only when they are
//! used.

use memmap2::MmapMut;

use crate::error::{Failure, Result};
use crate::size;

/// A block of zeroed memory that begins at a page.
#[derive(Debug)]
pub struct Block {
    map: MmapMut,
    bytes: usize,
}

impl Block {
    /// Takes `bytes` from the system.
    ///
    /// # Errors
    /// Where the system has no more.
    pub fn new(bytes: usize) -> Result<Self> {
        let map = MmapMut::map_anon(bytes.max(1)).map_err(|error| {
            Failure::new(format!("the system gives no {}: {error}", size::show(bytes as u64)))
                .remedy("Free some memory, or make a smaller picture with -W and -H")
        })?;
        // Large pages spare the CPU most of its address translation; without them all works too.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, bytes })
    }

    /// The bytes, to be read.
    pub fn as_slice(&self) -> &[u8] {
        &self.map[..self.bytes]
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.map[..self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_exact_aligned_and_zero() {
        for bytes in [0, 1, 4095, 1 << 20] {
            let mut block = Block::new(bytes).unwrap();
            let memory = block.bytes();
            assert_eq!(memory.len(), bytes);
            assert!((memory.as_ptr() as usize).is_multiple_of(mote::mem::ALIGNMENT));
            assert!(memory.iter().all(|&byte| byte == 0));
        }
        assert!(Block::new(usize::MAX / 2).unwrap_err().to_string().contains("TiB"));
    }
}
