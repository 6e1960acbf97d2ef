//! Random numbers that are a function of a seed, a purpose and a place: nothing random has a state
//! that a checkpoint would have to keep.

/// What numbers are drawn for; the same seed and place give others for another purpose.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// The order of the examples in an epoch.
    Order = 1,
    /// Which caption an example gets, and whether it is flipped.
    Caption,
    /// The times of training.
    Time,
    /// The seed of the noise.
    Noise,
    /// Which names are held back.
    HoldOut,
    /// A parameter's first values.
    Initial,
    /// Which colour a picture gets.
    Recolour,
}

/// A generator: SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// The generator for a purpose at a place.
    pub fn new(seed: u64, purpose: Purpose, place: u64) -> Self {
        let mut draw = Self(seed);
        for part in [purpose as u64, place] {
            draw = Self(draw.bits() ^ part);
        }
        draw
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to 1, without 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A number below `count`, or 0.
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    /// Puts a list in another order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}

/// FNV-1a: a number that stands for what was put in.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Fingerprint {
    /// Puts bytes in, and their number.
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    /// The number.
    pub fn value(self) -> u64 {
        self.0
    }

    /// The number of one text.
    pub fn of(text: &str) -> u64 {
        let mut print = Self::default();
        print.add(text.as_bytes());
        print.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_seed_purpose_and_place_alone() {
        let first = |seed, purpose, place| Draw::new(seed, purpose, place).bits();
        let one = first(1, Purpose::Order, 0);
        assert_eq!(one, first(1, Purpose::Order, 0));
        for other in [
            first(2, Purpose::Order, 0),
            first(1, Purpose::Caption, 0),
            first(1, Purpose::Order, 1),
            first(1, Purpose::Noise, 3),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn numbers_are_even_and_orders_are_whole() {
        let mut draw = Draw::new(7, Purpose::Time, 0);
        let mut counts = [0; 10];
        (0..10_000).for_each(|_| counts[draw.below(10)] += 1);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        let mean = (0..10_000).map(|_| draw.unit()).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        let mut list: Vec<_> = (0..100).collect();
        draw.shuffle(&mut list);
        assert_ne!(list, (0..100).collect::<Vec<_>>());
        list.sort_unstable();
        assert_eq!(list, (0..100).collect::<Vec<_>>());
        assert_eq!(draw.below(0), 0);
    }

    #[test]
    fn a_fingerprint_tells_where_one_text_ends() {
        let of = |parts: &[&str]| {
            let mut print = Fingerprint::default();
            parts.iter().for_each(|part| print.add(part.as_bytes()));
            print.value()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
    }
}
