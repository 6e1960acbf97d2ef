//! Which weight is stored how: the one table, with the measurements behind it.
//!
//! The weights of products are packed for the kernels of a type; all others (biases, norms, tables
//! of embeddings) are small or looked up row by row, and lose nothing.

use mote::tensor::packed::Sizes;
use mote::tensor::{DType, Packing};

use crate::types::Type;

/// Fewer weights than these are read in no time in any type.
const FEW_WEIGHTS: usize = 4096;

/// In bf16, whose errors are so small that those of the widest level of a small network count:
/// pictures of the trained UNet (see [`LAST`]) then differ by 36 dB or more instead of 28. Larger
/// networks have no such layers.
const FEW_WEIGHTS_IN_BF16: usize = 16 << 10;

/// Sums over fewer input channels than these are so short that eight bits a factor would show, and
/// a step of a product is mostly padding.
const FEW_CHANNELS: usize = 16;

/// Layers that stay in f32 where others do not: the first convolution, which the whole picture goes
/// through, and what tells time and class, one row for a whole evaluation. The paths end with one
/// of these, or have it in their middle.
const EXACT: [&str; 3] = ["conv_in", "time_embedding", "class_embedding"];

/// A noise predictor's last convolution stays in f32 as well. What it rounds goes into the noise as
/// it is, and at the first steps, which decide what becomes of a picture, the noise is nearly all
/// that is predicted: in bf16 it was two thirds of the error at those times. Of pictures of 20
/// steps of a trained UNet (2.7 M weights, seeds 0 to 39) in int8 the median is 44.6 dB instead of
/// 43.1, and calibrated it is 51.
const LAST: &str = "unet.conv_out.weight";

/// Layers that read or write the residual stream as it is, whose channels differ in size by orders
/// of magnitude, and the last convolution: an error made here is never averaged away. They are a
/// step more exact than the others, however small: bf16 among integers, f32 among bf16. They hold
/// 7 % of the products of a UNet of Stable Diffusion 1.5's size, and its output at 64x64 is off by
///
/// | more exact | int8 | bf16 |
/// |---|---|---|
/// | nothing | 2.1e-2 | 7.6e-3 |
/// | [`EXACT`] alone | | 6.5e-3 |
/// | these alone | | 6.0e-3 |
/// | both | 1.5e-2 | 4.6e-3 |
/// | both, but for `conv_shortcut` | | 5.4e-3 |
/// | both, but for `proj_in` and `proj_out` | | 5.8e-3 |
///
/// (An evaluation's output was looked at here; see [`LAST`] for pictures.)
/// More exact `time_emb_proj`, `to_out` or `ff.net.2` change nothing in int8; `conv2` would help
/// (1.3e-2), and is a quarter of the work.
const RESIDUAL: [&str; 4] = ["conv_shortcut", "proj_in", "proj_out", "conv_out"];

/// The convolutions that are packed doubled: those that follow a doubling. An autoencoder's are in
/// bf16 among integers: a quarter of the products then takes half of the time still, and of a
/// random decoder's output 3.7 % is lost instead of 5.0 %. A noise predictor's cost it 0.06 %.
const UPSAMPLER: &str = ".upsamplers.0.conv.weight";

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In the checkpoint's own order, in this type.
    Plain(DType),
    /// In panels.
    Packed(Packing),
    /// In panels, as a convolution of a doubled picture.
    Doubled(Packing),
}

impl Storage {
    /// How panels are packed, if it is in panels.
    pub fn packing(self) -> Option<Packing> {
        match self {
            Self::Plain(_) => None,
            Self::Packed(packing) | Self::Doubled(packing) => Some(packing),
        }
    }
}

/// How the weight of a product is stored.
pub fn of_product(to: Type, name: &str, sizes: Sizes) -> Storage {
    let (residual, others, few) = match to {
        Type::F16 => return Storage::Plain(DType::F16),
        Type::F32 => (Packing::F32, Packing::F32, FEW_WEIGHTS),
        Type::Bf16 => (Packing::F32, Packing::Bf16, FEW_WEIGHTS_IN_BF16),
        Type::Int8 => (Packing::Bf16, Packing::Q8, FEW_WEIGHTS),
        Type::Int4 => (Packing::Bf16, Packing::Q4, FEW_WEIGHTS),
    };
    let weights = sizes.n.saturating_mul(sizes.channels).saturating_mul(sizes.taps);
    let is_one_of = |layers: &[&str]| name.split('.').any(|part| layers.contains(&part));
    let is_doubled = name.ends_with(UPSAMPLER);
    let packed = if is_doubled { Storage::Doubled } else { Storage::Packed };
    let are_integers = matches!(to, Type::Int8 | Type::Int4);
    packed(if sizes.channels < FEW_CHANNELS || is_one_of(&EXACT) || name == LAST {
        Packing::F32
    } else if is_one_of(&RESIDUAL) {
        residual
    } else if weights < few {
        Packing::F32
    } else if is_doubled && are_integers && name.starts_with("vae.") {
        Packing::Bf16
    } else {
        others
    })
}

/// How a tensor is stored that is no product's weight, of `stored` type and this many dimensions: a
/// table of embeddings, which has two, is read a few rows at a time and keeps half precision. Among
/// integers f32 would be most of a small model's file: there it becomes bf16, which is still finer
/// than the products around it.
pub fn of_other(to: Type, stored: DType, rank: usize) -> Storage {
    Storage::Plain(match to {
        Type::F16 => DType::F16,
        _ if rank > 1 && matches!(stored, DType::F16 | DType::BF16) => stored,
        Type::Int8 | Type::Int4 if rank > 1 => DType::BF16,
        _ => DType::F32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_first_last_and_residual_layers_stay_more_exact() {
        let large = Sizes { n: 320, channels: 320, taps: 9 };
        let of = |name, sizes| of_product(Type::Int8, name, sizes);
        for (name, sizes, packing) in [
            ("unet.down_blocks.0.resnets.0.conv1.weight", large, Packing::Q8),
            ("unet.conv_in.weight", large, Packing::F32),
            ("vae.decoder.conv_out.weight", large, Packing::Bf16),
            ("unet.conv_out.weight", Sizes { n: 3, channels: 32, taps: 9 }, Packing::F32),
            ("unet.time_embedding.linear_1.weight", large, Packing::F32),
            ("unet.down_blocks.0.resnets.0.conv_shortcut.weight", large, Packing::Bf16),
            ("unet.mid_block.attentions.0.proj_in.weight", large, Packing::Bf16),
            ("vae.x.weight", Sizes { n: 320, channels: 15, taps: 9 }, Packing::F32),
            ("vae.x.weight", Sizes { n: 4095, channels: 1, taps: 1 }, Packing::F32),
        ] {
            assert_eq!(of(name, sizes), Storage::Packed(packing), "{name}");
        }
        for (name, to, packing) in [
            ("unet.up_blocks.0.upsamplers.0.conv.weight", Type::Int8, Packing::Q8),
            ("unet.up_blocks.0.upsamplers.0.conv.weight", Type::F32, Packing::F32),
            ("vae.decoder.up_blocks.0.upsamplers.0.conv.weight", Type::Int4, Packing::Bf16),
            ("vae.decoder.up_blocks.0.upsamplers.0.conv.weight", Type::Bf16, Packing::Bf16),
        ] {
            assert_eq!(of_product(to, name, large), Storage::Doubled(packing), "{name}");
        }
        let name = "unet.conv1.weight";
        assert_eq!(of_product(Type::Int4, name, large), Storage::Packed(Packing::Q4));
        for (name, packing) in
            [("conv_in", Packing::F32), ("proj_in", Packing::F32), (name, Packing::Bf16)]
        {
            assert_eq!(of_product(Type::Bf16, name, large), Storage::Packed(packing), "{name}");
        }
        assert_eq!(of_product(Type::F32, name, large), Storage::Packed(Packing::F32));
        assert_eq!(of_product(Type::F16, name, large), Storage::Plain(DType::F16));
    }

    #[test]
    fn tables_keep_their_type_but_for_f32_among_integers_and_vectors_become_f32() {
        assert_eq!(of_other(Type::Int8, DType::F16, 2), Storage::Plain(DType::F16));
        assert_eq!(of_other(Type::Int8, DType::F32, 2), Storage::Plain(DType::BF16));
        assert_eq!(of_other(Type::Bf16, DType::F32, 2), Storage::Plain(DType::F32));
        assert_eq!(of_other(Type::Int8, DType::F16, 1), Storage::Plain(DType::F32));
        assert_eq!(of_other(Type::F16, DType::F32, 2), Storage::Plain(DType::F16));
    }
}
