//! What may be chosen among by a word, for a command line, a request in JSON and a file alike.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// A value that is one of several, each with a name.
pub trait Choice: Copy + Sized + 'static {
    /// What it is that is chosen, in a word.
    const WHAT: &'static str;

    /// All of them, in the order in which they are offered.
    fn all() -> &'static [Self];

    /// The name on the command line and in a request.
    fn name(self) -> &'static str;

    /// Other names that are understood.
    fn aliases(self) -> &'static [&'static str];

    /// What it means, in a line.
    fn about(self) -> &'static str;

    /// The one of this name; capitals do not matter.
    fn from_name(name: &str) -> Option<Self> {
        let is_it = |known: &str| known.eq_ignore_ascii_case(name);
        let mut all = Self::all().iter().copied();
        all.find(|one| is_it(one.name()) || one.aliases().iter().any(|alias| is_it(alias)))
    }
}

/// An enum with the names of its values, written down once.
macro_rules! choices {
    ($(#[$about:meta])* $name:ident, $what:literal {
        $($(#[doc = $doc:literal])+ $value:ident = $word:literal $aliases:expr;)+
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $doc])+ $value,)+
        }

        impl Choice for $name {
            const WHAT: &'static str = $what;

            fn all() -> &'static [Self] {
                &[$(Self::$value),+]
            }

            fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)+
                }
            }

            fn aliases(self) -> &'static [&'static str] {
                match self {
                    $(Self::$value => &$aliases,)+
                }
            }

            fn about(self) -> &'static str {
                match self {
                    $(Self::$value => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let name = String::deserialize(from)?;
                Self::from_name(&name)
                    .ok_or_else(|| de::Error::custom(format!("there is no {} {name}", $what)))
            }
        }
    };
}

choices! {
    /// The type of the weights of large products, and with it that of their arithmetic.
    Type, "type" {
        /// 8-bit integers, a scale for each output channel.
        Int8 = "int8" [];
        /// 4-bit integers in groups; the arithmetic is that of int8.
        Int4 = "int4" [];
        /// bfloat16.
        Bf16 = "bf16" [];
        /// 16-bit floats, not packed; the arithmetic is that of f32.
        F16 = "f16" [];
        /// 32-bit floats.
        F32 = "f32" [];
    }
}

choices! {
    /// How the noise levels are spaced.
    Sigmas, "spacing of noise levels" {
        /// As the training steps are.
        Discrete = "discrete" ["normal", "default"];
        /// By the seventh root (Karras et al. 2022, equation 5).
        Karras = "karras" [];
        /// Evenly in the logarithm.
        Exponential = "exponential" [];
    }
}

choices! {
    /// What the network predicts.
    Prediction, "prediction" {
        /// The noise.
        Eps = "eps" ["epsilon"];
        /// The velocity of Salimans and Ho 2022.
        V = "v" ["v_prediction", "v-prediction"];
        /// The picture itself.
        Sample = "sample" ["x0"];
    }
}

choices! {
    /// How prompts are read.
    PromptSyntax, "syntax of prompts" {
        /// As they are.
        Plain = "plain" [];
        /// As web UIs read them: weights in brackets, BREAK, of any length.
        WebUi = "webui" ["a1111"];
    }
}

choices! {
    /// The generators of noise.
    Rng, "generator of noise" {
        /// mote's own: PCG.
        Pcg = "pcg" [];
        /// PyTorch's on the CPU: a Mersenne twister.
        Cpu = "cpu" [];
        /// CUDA's: Philox.
        Cuda = "cuda" [];
    }
}

impl From<Sigmas> for mote::diffusion::schedule::SigmaKind {
    fn from(sigmas: Sigmas) -> Self {
        match sigmas {
            Sigmas::Discrete => Self::Discrete,
            Sigmas::Karras => Self::Karras,
            Sigmas::Exponential => Self::Exponential,
        }
    }
}

impl From<Prediction> for mote::diffusion::prediction::Prediction {
    fn from(prediction: Prediction) -> Self {
        match prediction {
            Prediction::Eps => Self::Epsilon,
            Prediction::V => Self::VPrediction,
            Prediction::Sample => Self::Sample,
        }
    }
}

impl From<Rng> for mote::diffusion::noise::NoiseKind {
    fn from(rng: Rng) -> Self {
        match rng {
            Rng::Pcg => Self::Pcg,
            Rng::Cpu => Self::TorchCpu,
            Rng::Cuda => Self::TorchCuda,
        }
    }
}

/// A seed, or the wish for a random one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    /// To be drawn.
    Random,
    /// This one.
    Given(u64),
}

impl FromStr for Seed {
    type Err = String;

    /// A whole number; a negative one stands for a random seed.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if text.strip_prefix('-').is_some_and(is_digits) {
            return Ok(Self::Random);
        }
        if is_digits(text) {
            let largest = |_| format!("the largest seed is {}", u64::MAX);
            return text.parse().map(Self::Given).map_err(largest);
        }
        Err("a seed is a whole number".into())
    }
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Random => to.serialize_i64(-1),
            Self::Given(seed) => to.serialize_u64(*seed),
        }
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(from)?;
        number.to_string().parse().map_err(de::Error::custom)
    }
}

/// Two numbers in one word, as a command line and a request in JSON have them.
macro_rules! pairs {
    ($(#[doc = $about:literal])* $name:ident {
        $(#[doc = $one:literal])* $first:ident,
        $(#[doc = $two:literal])* $second:ident
    } by $sign:literal: $what:literal) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            $(#[doc = $one])*
            pub $first: u32,
            $(#[doc = $two])*
            pub $second: u32,
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}", $sign, "{}"), self.$first, self.$second)
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let pair = text.split_once($sign).and_then(|(first, second)| {
                    let number = |text: &str| text.trim().parse().ok();
                    Some(Self { $first: number(first)?, $second: number(second)? })
                });
                let known = |pair: &Self| pair.$first <= MAX_SIZE && pair.$second <= MAX_SIZE;
                pair.filter(known).ok_or_else(|| $what.into())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

/// The largest side that Stable Diffusion XL may be told of.
const MAX_SIZE: u32 = 65_536;

pairs! {
    /// A size in pixels.
    Size {
        /// The width.
        width,
        /// The height.
        height
    } by "x": "a size is WIDTHxHEIGHT, such as 1024x768, and a side 65536 at most"
}

pairs! {
    /// A corner, counted in pixels from the top left.
    Corner {
        /// The row.
        top,
        /// The column.
        left
    } by ",": "a corner is TOP,LEFT, such as 0,128, and neither above 65536"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_alias_leads_to_its_value() {
        fn check<T: Choice + PartialEq + std::fmt::Debug>() {
            for &value in T::all() {
                let names = std::iter::once(value.name()).chain(value.aliases().iter().copied());
                for name in names {
                    assert_eq!(T::from_name(name), Some(value), "{name}");
                    assert_eq!(T::from_name(&name.to_uppercase()), Some(value), "{name}");
                }
                assert!(value.about().ends_with('.'), "{value:?}");
            }
            assert_eq!(T::from_name("magic"), None);
        }
        check::<Type>();
        check::<Sigmas>();
        check::<Prediction>();
        check::<Rng>();
        check::<PromptSyntax>();
    }

    #[test]
    fn sizes_and_corners_are_two_numbers() {
        let size = Size { width: 64, height: 32 };
        assert_eq!(("64x32".parse(), size.to_string()), (Ok(size), "64x32".into()));
        let corner = Corner { top: 3, left: 17 };
        assert_eq!(("3, 17".parse(), corner.to_string()), (Ok(corner), "3,17".into()));
        for text in ["64", "64x", "ax2", "-1x2", "65537x1", "1x2x3"] {
            assert!(text.parse::<Size>().unwrap_err().contains("WIDTHxHEIGHT"), "{text}");
        }
        let json = serde_json::to_string(&size).unwrap();
        assert_eq!(serde_json::from_str::<Size>(&json).unwrap(), size);
        assert!(serde_json::from_str::<Corner>("\"3\"").is_err());
    }

    #[test]
    fn seeds_are_whole_numbers_and_negative_ones_random() {
        assert_eq!("-1".parse(), Ok(Seed::Random));
        assert_eq!(u64::MAX.to_string().parse(), Ok(Seed::Given(u64::MAX)));
        assert!("18446744073709551616".parse::<Seed>().is_err() && "x".parse::<Seed>().is_err());
        for seed in [Seed::Random, Seed::Given(7)] {
            let json = serde_json::to_string(&seed).unwrap();
            assert_eq!(serde_json::from_str::<Seed>(&json).unwrap(), seed);
        }
        assert!(serde_json::from_str::<Seed>("1.5").is_err());
    }
}
