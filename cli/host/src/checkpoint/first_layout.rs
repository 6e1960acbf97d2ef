//! The layout in which Stable Diffusion was first published (CompVis's ldm, Stability's sgm): what
//! its files call the layers that diffusers' names mean. Names are mapped from diffusers' to it,
//! and never the other way, where they could be read in two ways.

use std::collections::BTreeMap;

/// What lies at one level of a UNet, on the way down or up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Level {
    resnets: usize,
    /// Whether a transformer follows each resnet.
    attends: bool,
    /// Whether another level follows, at another size.
    resamples: bool,
}

/// A block as the first layout counts them.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    is_sampler: bool,
    attends: bool,
    resamples: bool,
}

/// The levels of a UNet, by which the first layout counts its blocks.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    down: Vec<Level>,
    up: Vec<Level>,
}

/// What the layers of a resnet are called in the first layout.
const RESNET: [(&str, &str); 6] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];

/// What lies before, behind and beside the levels.
const OUTSIDE: [(&str, &str); 7] = [
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];

impl Blocks {
    /// The levels of the UNet whose layers are called so, in diffusers' way.
    pub fn of<'n>(layers: impl Iterator<Item = &'n str>) -> Self {
        let mut levels: [BTreeMap<usize, Level>; 2] = Default::default();
        for layer in layers {
            let mut parts = layer.split('.');
            let side = match parts.next() {
                Some("down_blocks") => 0,
                Some("up_blocks") => 1,
                _ => continue,
            };
            let mut number = || parts.next()?.parse::<usize>().ok();
            let Some(level) = number() else { continue };
            let level = levels[side].entry(level).or_default();
            match (parts.next(), parts.next().and_then(|text| text.parse::<usize>().ok())) {
                (Some("resnets"), Some(resnet)) => level.resnets = level.resnets.max(resnet + 1),
                (Some("attentions"), _) => level.attends = true,
                (Some("downsamplers" | "upsamplers"), _) => level.resamples = true,
                _ => {}
            }
        }
        let [down, up] = levels.map(|levels| levels.into_values().collect());
        Self { down, up }
    }

    /// The levels of the UNet whose tensors are called so, in the first layout's way.
    pub fn of_first<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let mut blocks: [BTreeMap<usize, Block>; 2] = Default::default();
        for name in names {
            let mut parts = name.split('.');
            let side = match parts.next() {
                Some("input_blocks") => 0,
                Some("output_blocks") => 1,
                _ => continue,
            };
            let Some(number) = parts.next().and_then(|text| text.parse::<usize>().ok()) else {
                continue;
            };
            let block = blocks[side].entry(number).or_default();
            match (parts.next(), parts.next()) {
                (Some("0"), Some("op")) => block.is_sampler = true,
                (Some("1" | "2"), Some("conv")) => block.resamples = true,
                (Some("1"), Some(_)) => block.attends = true,
                _ => {}
            }
        }
        let [mut down, mut up] = [Vec::new(), Vec::new()];
        let mut level = Level::default();
        // Block 0 is the convolution before the first level.
        for block in blocks[0].range(1..).map(|(_, block)| block) {
            if block.is_sampler {
                level.resamples = true;
                down.push(std::mem::take(&mut level));
            } else {
                level.resnets += 1;
                level.attends |= block.attends;
            }
        }
        down.push(std::mem::take(&mut level));
        for block in blocks[1].values() {
            level.resnets += 1;
            level.attends |= block.attends;
            if block.resamples {
                level.resamples = true;
                up.push(std::mem::take(&mut level));
            }
        }
        up.push(level);
        Self { down, up }
    }

    /// What a layer is called in the first layout: `down_blocks.1.attentions.0.proj_in` is
    /// `input_blocks.4.1.proj_in` in Stable Diffusion 1.
    pub fn first(&self, layer: &str) -> Option<String> {
        if let Some((_, first)) = OUTSIDE.iter().find(|(name, _)| *name == layer) {
            return Some((*first).into());
        }
        let (side, rest) = layer.split_once('.')?;
        if side == "mid_block" {
            let (kind, number, rest) = layer_of(rest)?;
            return match kind {
                "resnets" => Some(format!("middle_block.{}.{}", 2 * number, in_resnet(rest)?)),
                "attentions" => Some(format!("middle_block.{}.{rest}", 2 * number + 1)),
                _ => None,
            };
        }
        let (level, rest) = rest.split_once('.')?;
        let (level, (kind, number, rest)) = (level.parse::<usize>().ok()?, layer_of(rest)?);
        match side {
            "down_blocks" => {
                // Block 0 is the convolution before the first level.
                let before: usize = self.down.get(..level)?.iter().map(Level::down_blocks).sum();
                let block = 1 + before + number;
                let own = self.down.get(level)?;
                match kind {
                    "resnets" => Some(format!("input_blocks.{block}.0.{}", in_resnet(rest)?)),
                    "attentions" => Some(format!("input_blocks.{block}.1.{rest}")),
                    "downsamplers" if rest == "conv" => {
                        Some(format!("input_blocks.{}.0.op", 1 + before + own.resnets))
                    }
                    _ => None,
                }
            }
            "up_blocks" => {
                let before: usize = self.up.get(..level)?.iter().map(|level| level.resnets).sum();
                let own = self.up.get(level)?;
                let block = before + number;
                match kind {
                    "resnets" => Some(format!("output_blocks.{block}.0.{}", in_resnet(rest)?)),
                    "attentions" => Some(format!("output_blocks.{block}.1.{rest}")),
                    "upsamplers" => {
                        let last = (before + own.resnets).checked_sub(1)?;
                        let place = 1 + usize::from(own.attends);
                        Some(format!("output_blocks.{last}.{place}.{rest}"))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

impl Level {
    fn down_blocks(&self) -> usize {
        self.resnets + usize::from(self.resamples)
    }
}

/// `attentions.0.proj_in` in three.
fn layer_of(name: &str) -> Option<(&str, usize, &str)> {
    let (kind, rest) = name.split_once('.')?;
    let (number, rest) = rest.split_once('.')?;
    Some((kind, number.parse().ok()?, rest))
}

fn in_resnet(name: &str) -> Option<&'static str> {
    RESNET.iter().find(|(own, _)| *own == name).map(|(_, first)| *first)
}

/// What the layers of an autoencoder are called beside the levels, with their ends.
const VAE: [(&str, &str); 9] = [
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    ("mid_block.attentions.0.group_norm.", "mid.attn_1.norm."),
    ("mid_block.attentions.0.to_q.", "mid.attn_1.q."),
    ("mid_block.attentions.0.to_k.", "mid.attn_1.k."),
    ("mid_block.attentions.0.to_v.", "mid.attn_1.v."),
    ("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."),
    ("conv_norm_out.", "norm_out."),
    ("conv_", "conv_"),
];

/// What a tensor of an autoencoder of so many levels is called in the first layout.
pub fn of_vae(name: &str, levels: usize) -> Option<String> {
    let (side, rest) = name.split_once('.')?;
    if !["encoder", "decoder"].contains(&side) {
        return Some(name.into());
    }
    let shortcut = |name: &str| name.replace("conv_shortcut", "nin_shortcut");
    if let Some((own, first)) = VAE.iter().find(|(own, _)| rest.starts_with(own)) {
        return Some(format!("{side}.{first}{}", shortcut(&rest[own.len()..])));
    }
    let (blocks, rest) = rest.split_once('.')?;
    let (level, rest) = rest.split_once('.')?;
    let level = level.parse::<usize>().ok()?;
    // The decoder's are counted from the other end.
    let (way, level) = match blocks {
        "down_blocks" => ("down", level),
        "up_blocks" => ("up", levels.checked_sub(level + 1)?),
        _ => return None,
    };
    let (kind, number, rest) = layer_of(rest)?;
    let inner = match kind {
        "resnets" => format!("block.{number}.{}", shortcut(rest)),
        "downsamplers" => format!("downsample.{rest}"),
        "upsamplers" => format!("upsample.{rest}"),
        _ => return None,
    };
    Some(format!("{side}.{way}.{level}.{inner}"))
}

/// A part of a tensor that holds three, one under the other.
pub type Third = Option<usize>;

/// What a tensor of a text encoder is called where it was saved by OpenCLIP, and which third of it
/// is meant.
pub fn of_open_clip(name: &str) -> Option<(String, Third)> {
    let name = name.strip_prefix("text_model.").unwrap_or(name);
    let whole = |name: &str| Some((name.to_string(), None));
    match name {
        "embeddings.token_embedding.weight" => return whole("token_embedding.weight"),
        "embeddings.position_embedding.weight" => return whole("positional_embedding"),
        "text_projection.weight" => return whole("text_projection"),
        _ => {}
    }
    if let Some(end) = name.strip_prefix("final_layer_norm.") {
        return whole(&format!("ln_final.{end}"));
    }
    let (layer, rest) = name.strip_prefix("encoder.layers.")?.split_once('.')?;
    let block = format!("transformer.resblocks.{layer}");
    let (part, end) = rest.rsplit_once('.')?;
    let (part, third) = match part {
        "layer_norm1" => ("ln_1", None),
        "layer_norm2" => ("ln_2", None),
        "mlp.fc1" => ("mlp.c_fc", None),
        "mlp.fc2" => ("mlp.c_proj", None),
        "self_attn.out_proj" => ("attn.out_proj", None),
        "self_attn.q_proj" => ("", Some(0)),
        "self_attn.k_proj" => ("", Some(1)),
        "self_attn.v_proj" => ("", Some(2)),
        _ => return None,
    };
    Some(match third {
        Some(_) => (format!("{block}.attn.in_proj_{end}"), third),
        None => (format!("{block}.{part}.{end}"), None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Layers of a UNet as large as Stable Diffusion XL's, as far as they say where its levels are.
    fn xl() -> Blocks {
        let layers = [
            "down_blocks.0.resnets.1.conv1",
            "down_blocks.0.downsamplers.0.conv",
            "down_blocks.1.resnets.1.conv1",
            "down_blocks.1.attentions.1.proj_in",
            "down_blocks.1.downsamplers.0.conv",
            "down_blocks.2.resnets.1.conv1",
            "down_blocks.2.attentions.1.proj_in",
            "up_blocks.0.resnets.2.conv1",
            "up_blocks.0.attentions.2.proj_in",
            "up_blocks.0.upsamplers.0.conv",
            "up_blocks.1.resnets.2.conv1",
            "up_blocks.1.attentions.2.proj_in",
            "up_blocks.1.upsamplers.0.conv",
            "up_blocks.2.resnets.2.conv1",
        ];
        Blocks::of(layers.into_iter())
    }

    #[test]
    fn layers_are_called_as_in_the_first_layout() {
        for (layer, first) in [
            ("conv_in", "input_blocks.0.0"),
            ("down_blocks.0.resnets.1.norm1", "input_blocks.2.0.in_layers.0"),
            ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
            (
                "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
                "input_blocks.4.1.transformer_blocks.1.attn1.to_q",
            ),
            ("down_blocks.2.resnets.0.conv_shortcut", "input_blocks.7.0.skip_connection"),
            ("mid_block.resnets.1.conv2", "middle_block.2.out_layers.3"),
            ("mid_block.attentions.0.proj_out", "middle_block.1.proj_out"),
            ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
            ("up_blocks.2.resnets.0.time_emb_proj", "output_blocks.6.0.emb_layers.1"),
            ("add_embedding.linear_2", "label_emb.0.2"),
        ] {
            assert_eq!(xl().first(layer).as_deref(), Some(first));
        }
        for layer in ["down_blocks.9.resnets.0.conv1", "down_blocks.0.resnets.0.magic", "x", ""] {
            assert_eq!(xl().first(layer), None);
        }
    }

    #[test]
    fn levels_are_the_same_by_either_naming() {
        let layers = [
            "down_blocks.0.resnets.1.conv1",
            "down_blocks.0.downsamplers.0.conv",
            "down_blocks.1.resnets.1.conv1",
            "down_blocks.1.attentions.1.proj_in",
            "down_blocks.0.resnets.0.conv1",
            "down_blocks.1.resnets.0.conv1",
            "up_blocks.0.resnets.0.conv1",
            "up_blocks.0.resnets.1.conv1",
            "up_blocks.0.attentions.1.proj_in",
            "up_blocks.0.upsamplers.0.conv",
            "up_blocks.1.resnets.0.conv1",
        ];
        let blocks = Blocks::of(layers.into_iter());
        let first: Vec<String> = layers.iter().filter_map(|layer| blocks.first(layer)).collect();
        assert_eq!(first.len(), layers.len());
        let again = Blocks::of_first(first.iter().map(String::as_str));
        assert_eq!((again.down, again.up), (blocks.down, blocks.up));
    }

    #[test]
    fn autoencoders_count_the_decoders_levels_from_the_other_end() {
        for (name, first) in [
            (
                "decoder.up_blocks.0.resnets.1.conv_shortcut.weight",
                "decoder.up.3.block.1.nin_shortcut.weight",
            ),
            ("decoder.up_blocks.0.upsamplers.0.conv.bias", "decoder.up.3.upsample.conv.bias"),
            (
                "encoder.down_blocks.1.downsamplers.0.conv.bias",
                "encoder.down.1.downsample.conv.bias",
            ),
            (
                "encoder.mid_block.attentions.0.to_out.0.weight",
                "encoder.mid.attn_1.proj_out.weight",
            ),
            ("decoder.mid_block.resnets.1.norm1.weight", "decoder.mid.block_2.norm1.weight"),
            ("decoder.conv_norm_out.weight", "decoder.norm_out.weight"),
            ("decoder.conv_in.weight", "decoder.conv_in.weight"),
            ("post_quant_conv.weight", "post_quant_conv.weight"),
        ] {
            assert_eq!(of_vae(name, 4).as_deref(), Some(first));
        }
        assert_eq!(of_vae("decoder.up_blocks.4.resnets.0.conv1.weight", 4), None);
    }

    #[test]
    fn open_clip_keeps_queries_keys_and_values_in_one() {
        let third = of_open_clip("text_model.encoder.layers.3.self_attn.v_proj.bias");
        assert_eq!(third, Some(("transformer.resblocks.3.attn.in_proj_bias".into(), Some(2))));
        let whole = of_open_clip("text_model.encoder.layers.3.mlp.fc2.weight");
        assert_eq!(whole, Some(("transformer.resblocks.3.mlp.c_proj.weight".into(), None)));
        assert_eq!(of_open_clip("text_model.magic"), None);
    }
}
