//! How much of the stack is ever used: it is painted before, and looked at afterwards.

/// What unused stack holds.
const PAINT: u32 = 0x5A5A_A5A5;

/// Bytes below the caller's frame that are left alone.
const MARGIN: usize = 256;

/// The stack, from its lowest address to where it begins.
#[derive(Clone, Copy)]
pub struct Stack {
    low: *mut u32,
    high: usize,
}

impl Stack {
    /// Paints what of the stack is not in use.
    ///
    /// # Safety
    /// `low` is the lowest address of the stack that is in use now and begins at `high`, and all
    /// from there to the caller's frame belongs to it.
    #[inline(never)]
    pub unsafe fn painted(low: *mut u32, high: usize) -> Self {
        let here = 0u32;
        let end = (&raw const here).addr() - MARGIN;
        let mut at = low;
        while at.addr() < end {
            // SAFETY: the caller's: it lies below all that is in use.
            unsafe { at.write_volatile(PAINT) };
            at = at.wrapping_add(1);
        }
        Self { low, high }
    }

    /// The most bytes that were ever in use.
    pub fn used(self) -> usize {
        let mut at = self.low;
        // SAFETY: as when it was painted; it ends where the stack begins at the latest.
        while at.addr() < self.high && unsafe { at.read_volatile() } == PAINT {
            at = at.wrapping_add(1);
        }
        self.high - at.addr()
    }
}
