//! By which names programs call a model's layers: those of its own files, and those of the layout
//! in which Stable Diffusion was first published.

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

/// The names by which a file may call the layer `layer` of the network `network`.
pub fn of_layer(network: &str, layer: &str, blocks: &Blocks) -> Vec<String> {
    let flat = |prefix: &str, name: &str| format!("{prefix}{}", name.replace('.', "_"));
    let mut names = vec![format!("{network}.{layer}")];
    if network == "unet" {
        names.extend([
            layer.into(),
            format!("base_model.model.{layer}"),
            flat("lora_unet_", layer),
        ]);
        if let Some(first) = blocks.first(layer) {
            names.extend([flat("lora_unet_", &first), format!("diffusion_model.{first}")]);
        }
        return names;
    }
    let prefixes: &[&str] = match network {
        "text_encoder" => &["lora_te_", "lora_te1_"],
        "text_encoder_2" => &["lora_te2_"],
        _ => &[],
    };
    let inner = layer.strip_prefix("text_model.").unwrap_or(layer);
    let whole = format!("text_model.{inner}");
    names.push(format!("{network}.{whole}"));
    names.extend(prefixes.iter().flat_map(|prefix| [flat(prefix, layer), flat(prefix, &whole)]));
    names
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
    fn text_encoders_have_a_letter_or_a_number() {
        let names = of_layer("text_encoder", "text_model.encoder.layers.0.mlp.fc1", &xl());
        assert!(names.contains(&"lora_te_text_model_encoder_layers_0_mlp_fc1".into()));
        assert!(names.contains(&"lora_te1_text_model_encoder_layers_0_mlp_fc1".into()));
        let names = of_layer("text_encoder_2", "encoder.layers.0.mlp.fc1", &xl());
        assert!(names.contains(&"lora_te2_text_model_encoder_layers_0_mlp_fc1".into()));
    }
}
