//! Numbers drawn from a seed, the same everywhere.

/// A linear congruential generator (Numerical Recipes), of which the upper bits are used.
pub struct Drawn(pub u32);

impl Drawn {
    /// The next 32 bits.
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0
    }

    /// The next number below `limit`, at most 65536.
    pub fn below(&mut self, limit: usize) -> usize {
        ((self.bits() >> 16) as usize * limit) >> 16
    }

    /// The next value between -1 and 1.
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}
