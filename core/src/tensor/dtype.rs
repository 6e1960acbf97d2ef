//! Element types, by their safetensors names.
//!
//! All that safetensors has are known by name and size, so that a file with a tensor that nobody
//! needs is read whatever that tensor is of. Floats of every size can be weights; the others, and
//! what is newer than this list, can only be passed over.

use core::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// 64-bit float; read as the nearest 32-bit one.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float, IEEE half precision.
    F16,
    /// 16-bit float with the exponent of `F32`.
    BF16,
    /// 8-bit float with 4 bits of exponent, without infinities (Micikevicius et al. 2022).
    F8E4M3,
    /// 8-bit float with 5 bits of exponent: the first half of an `F16`.
    F8E5M2,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// 64-bit unsigned integer.
    U64,
    /// 32-bit unsigned integer.
    U32,
    /// 16-bit unsigned integer.
    U16,
    /// 8-bit unsigned integer.
    U8,
    /// A byte that is 0 or 1.
    Bool,
    /// Two 32-bit floats, a complex number.
    C64,
    /// 8-bit exponent without a mantissa, a scale.
    F8E8M0,
    /// 8-bit float with 4 bits of exponent and without a negative zero.
    F8E4M3Fnuz,
    /// 8-bit float with 5 bits of exponent and without a negative zero.
    F8E5M2Fnuz,
    /// 6-bit float with 2 bits of exponent.
    F6E2M3,
    /// 6-bit float with 3 bits of exponent.
    F6E3M2,
    /// 4-bit float.
    F4,
    /// A type that is newer than this list.
    Unknown,
    /// Rows of activations in [`Form::Q8`](super::Form::Q8): in the arena only, no file has it.
    Q8,
}

impl DType {
    /// All types that files have, with their safetensors names.
    pub const ALL: [(Self, &'static str); 22] = [
        (Self::F64, "F64"),
        (Self::F32, "F32"),
        (Self::F16, "F16"),
        (Self::BF16, "BF16"),
        (Self::F8E4M3, "F8_E4M3"),
        (Self::F8E5M2, "F8_E5M2"),
        (Self::I64, "I64"),
        (Self::I32, "I32"),
        (Self::I16, "I16"),
        (Self::I8, "I8"),
        (Self::U64, "U64"),
        (Self::U32, "U32"),
        (Self::U16, "U16"),
        (Self::U8, "U8"),
        (Self::Bool, "BOOL"),
        (Self::C64, "C64"),
        (Self::F8E8M0, "F8_E8M0"),
        (Self::F8E4M3Fnuz, "F8_E4M3FNUZ"),
        (Self::F8E5M2Fnuz, "F8_E5M2FNUZ"),
        (Self::F6E2M3, "F6_E2M3"),
        (Self::F6E3M2, "F6_E3M2"),
        (Self::F4, "F4"),
    ];

    /// What a type that is in no list of mote's is called.
    const UNKNOWN: &'static str = "of a type that mote does not know";

    /// Size of one element in bytes; of a type that fills none, or is not known, 1.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 | Self::C64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            _ => 1,
        }
    }

    /// Size of one element in bits, if it is known.
    pub const fn bits(self) -> Option<usize> {
        match self {
            Self::F6E2M3 | Self::F6E3M2 => Some(6),
            Self::F4 => Some(4),
            Self::Unknown => None,
            other => Some(8 * other.bytes()),
        }
    }

    /// Whether weights can be of this type: whether an f32 is near each of its values.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3 | Self::F8E5M2)
    }

    /// The elements in `bytes`, one by one, as f32. The two halves, which instruction sets have
    /// ways of their own for, are [`Isa`](crate::arch::Isa)'s.
    ///
    /// # Panics
    /// Where it is not one of the other floats, or there are not as many elements as places.
    pub fn to_f32(self, bytes: &[u8], out: &mut [f32]) {
        assert!(bytes.len() == self.bytes() * out.len(), "as many elements as places");
        match self {
            Self::F64 => {
                for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
                    *out = f64::from_le_bytes(bytes) as f32;
                }
            }
            Self::F8E4M3 => {
                out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = f8_e4m3(byte));
            }
            Self::F8E5M2 => {
                out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = f8_e5m2(byte));
            }
            _ => {
                assert!(self == Self::F32, "the halves are not read here, and no other is a float");
                for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(bytes);
                }
            }
        }
    }

    /// The safetensors name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(dtype, _)| *dtype == self).map_or(Self::UNKNOWN, |(_, name)| name)
    }

    /// The type with this safetensors name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| known.as_bytes() == name).map(|(dtype, _)| *dtype)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The value of 8 bits with a bias of 7: placed in an f32, whose bias is 127, and scaled. Without
/// exponent they are a subnormal f32, which the product makes right, too.
fn f8_e4m3(byte: u8) -> f32 {
    // 2^(127 - 7)
    const SCALE: f32 = f32::from_bits((127 + 120) << 23);
    let magnitude = match byte & 0x7F {
        0x7F => f32::NAN,
        bits => f32::from_bits(u32::from(bits) << 20) * SCALE,
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The same with a bias of 15, an infinity and numbers that are none.
fn f8_e5m2(byte: u8) -> f32 {
    // 2^(127 - 15)
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = match byte & 0x7F {
        0x7C => f32::INFINITY,
        0x7D.. => f32::NAN,
        bits => f32::from_bits(u32::from(bits) << 21) * SCALE,
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_eight_bits_are_read() {
        // By definition (-1)^s * 2^(e - bias) * (1 + m / 2^bits), or 2^(1 - bias) * m / 2^bits.
        for (dtype, bias, bits) in [(DType::F8E4M3, 7, 3), (DType::F8E5M2, 15, 2)] {
            for byte in 0..=255u8 {
                let (e, m) = (i32::from(byte & 0x7F) >> bits, f64::from(byte & ((1 << bits) - 1)));
                let m = m / f64::from(1 << bits);
                let magnitude = match e {
                    0 => libm::exp2(f64::from(1 - bias)) * m,
                    _ => libm::exp2(f64::from(e - bias)) * (1.0 + m),
                };
                let expected = if byte < 0x80 { magnitude } else { -magnitude } as f32;
                let mut found = [0.0];
                dtype.to_f32(&[byte], &mut found);
                match (dtype, byte & 0x7F) {
                    (DType::F8E4M3, 0x7F) | (DType::F8E5M2, 0x7D..) => assert!(found[0].is_nan()),
                    (DType::F8E5M2, 0x7C) => assert!(found[0].is_infinite()),
                    _ => assert_eq!(found[0].to_bits(), expected.to_bits(), "{byte:#x}"),
                }
            }
        }
        let mut found = [0.0; 2];
        let bytes = [1.5f64.to_le_bytes(), (-1e-3f64).to_le_bytes()].concat();
        DType::F64.to_f32(&bytes, &mut found);
        assert_eq!(found, [1.5, -1e-3]);
    }

    #[test]
    fn every_type_of_files_is_found_by_its_name() {
        for (dtype, name) in DType::ALL {
            assert_eq!(DType::from_name(name.as_bytes()), Some(dtype));
            assert!(dtype.name() == name && dtype.bits().is_some());
        }
        assert_eq!(DType::from_name(b"F2"), None);
    }
}
