//! Files of tensors that are no model mote can draw from: what each holds, told by the names of its
//! tensors, and what to do about it.

use std::collections::BTreeSet;
use std::path::Path;

use super::format::{format_of, python};
use super::mapped::Mapped;
use crate::error::Failure;

/// The most tensors of a file that is a textual inversion: a vector for each text encoder.
const MAX_EMBEDDINGS: usize = 4;

/// What the names of a safetensors file's tensors say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Changes to a model's weights (LoRA, LyCORIS), in the way of the program named.
    Lora(&'static str),
    /// Vectors for a word of one's own.
    TextualInversion,
    /// A ControlNet or a T2I adapter.
    ControlNet,
    /// Stable Diffusion 1.x or 2.x in one file, in the layout of its first authors.
    SingleFile,
    /// The same of a model that mote does not run, which is named.
    OtherSingleFile(&'static str),
    /// A network that takes a UNet's place in later models.
    Transformer,
    /// diffusers' `UNet2DModel` or `UNet2DConditionModel`.
    Unet,
    /// diffusers' `AutoencoderKL`.
    Vae,
    /// The same in the layout of its first authors.
    FirstVae,
    /// An `AutoencoderTiny`.
    TinyVae,
    /// CLIP's text model.
    TextEncoder,
}

impl Holds {
    /// What tensors of these names, with their numbers of dimensions, make up.
    pub fn of<'n>(names: impl Iterator<Item = (&'n str, usize)>) -> Option<Self> {
        let tensors: Vec<_> = names.collect();
        let any = |part: &str| tensors.iter().any(|(name, _)| name.contains(part));
        let begins = |start: &str| tensors.iter().any(|(name, _)| name.starts_with(start));
        let lora = [
            ("lora_unet", "kohya"),
            ("lora_te", "kohya"),
            ("lora_transformer", "kohya"),
            ("hada_w1", "LyCORIS"),
            ("lokr_w", "LyCORIS"),
            ("oft_", "LyCORIS"),
            ("lora_A.", "PEFT"),
            ("lora_B.", "PEFT"),
            (".lora.down", "diffusers"),
            (".lora.up", "diffusers"),
            ("lora_linear_layer", "diffusers"),
            ("lora_down", "kohya"),
            ("lora_up", "kohya"),
        ];
        if let Some((_, whose)) = lora.iter().find(|(part, _)| any(part)) {
            return Some(Self::Lora(whose));
        }
        if begins("control_model.")
            || any("controlnet_")
            || begins("zero_convs.")
            || begins("adapter.")
        {
            return Some(Self::ControlNet);
        }
        let is_vector = |(name, dims): &(&str, usize)| *dims <= 2 && !name.contains('.');
        let embeddings = ["emb_params", "clip_l", "clip_g", "string_to_param"];
        let is_known = embeddings.iter().any(|known| begins(known)) || begins("<");
        if is_known && tensors.len() <= MAX_EMBEDDINGS && tensors.iter().all(is_vector) {
            return Some(Self::TextualInversion);
        }
        Self::of_network(&any, &begins)
    }

    fn of_network(any: &dyn Fn(&str) -> bool, begins: &dyn Fn(&str) -> bool) -> Option<Self> {
        let is_whole = begins("model.diffusion_model.");
        let transformer = ["double_blocks.", "joint_blocks.", "single_transformer_blocks."];
        Some(match () {
            () if is_whole && any(".joint_blocks.") => Self::OtherSingleFile("Stable Diffusion 3"),
            () if is_whole && any(".double_blocks.") => Self::OtherSingleFile("FLUX"),
            () if is_whole => Self::SingleFile,
            () if transformer.iter().any(|part| begins(part))
                || begins("transformer_blocks.")
                || begins("pos_embed.proj") =>
            {
                Self::Transformer
            }
            () if begins("text_model.encoder.") || begins("transformer.text_model.") => {
                Self::TextEncoder
            }
            () if begins("decoder.mid_block.") || begins("encoder.mid_block.") => Self::Vae,
            () if any("decoder.mid.block_1") || any("encoder.mid.block_1") => Self::FirstVae,
            () if begins("decoder.layers.") || begins("encoder.layers.") => Self::TinyVae,
            () if begins("conv_in.") && begins("down_blocks.") && begins("up_blocks.") => {
                Self::Unet
            }
            () => return None,
        })
    }

    /// What it is, in words.
    pub fn what(self) -> String {
        match self {
            Self::Lora(whose) => format!("a LoRA (in the names of {whose})"),
            Self::TextualInversion => "a textual inversion, vectors for a word".into(),
            Self::ControlNet => "a ControlNet or an adapter".into(),
            Self::SingleFile => "a whole Stable Diffusion in one file, in the names of its first \
                                 authors"
                .into(),
            Self::OtherSingleFile(model) => format!("a whole model in one file: {model}"),
            Self::Transformer => "a transformer, a noise predictor of SD3's and FLUX's kind".into(),
            Self::Unet => "a UNet by itself".into(),
            Self::Vae | Self::FirstVae => "an autoencoder by itself".into(),
            Self::TinyVae => "a tiny autoencoder by itself".into(),
            Self::TextEncoder => "a text encoder by itself".into(),
        }
    }

    /// Why it is no model of mote's, of what cannot be used at all.
    pub fn unsupported(self) -> Option<&'static str> {
        match self {
            Self::Lora(_) => Some("give it to --lora, with the model that it is for as -m"),
            Self::TextualInversion => {
                Some("give it to --embedding, with the model that it is for as -m")
            }
            Self::ControlNet => Some("mote runs no ControlNet"),
            Self::OtherSingleFile(_) | Self::Transformer => {
                Some("mote runs Stable Diffusion 1.x, 2.x and XL, and models of their kind")
            }
            _ => None,
        }
    }

    fn failure(self, path: &Path) -> Failure {
        let name = path.display();
        let failure = |why: &str| Failure::new(format!("{name} is {}{why}", self.what()));
        let part = "; -m wants the whole model";
        match self {
            Self::Lora(_) => failure(", and no model")
                .remedy("Give it to --lora, and -m the model that it was made for"),
            Self::TextualInversion => failure(", and no model")
                .remedy("Give it to --embedding, and -m the model that it was trained for"),
            Self::ControlNet => failure(", and no model")
                .remedy("mote runs none: give -m the model it was trained for"),
            Self::SingleFile => failure("").remedy(
                "Give its configurations with --config FOLDER, a folder in diffusers' layout of a \
                 model of its kind, without weights, such as `hf download \
                 stable-diffusion-v1-5/stable-diffusion-v1-5 --include \"*.json\" --include \
                 \"*.txt\" --local-dir sd15` makes",
            ),
            Self::OtherSingleFile(_) | Self::Transformer => failure("")
                .remedy("mote runs Stable Diffusion 1.x, 2.x and XL, and models of their kind"),
            Self::Unet => failure(part).remedy(belongs("unet", path)),
            Self::TextEncoder => failure(part).remedy(belongs("text_encoder", path)),
            Self::Vae => failure(part).remedy(format!(
                "Give -m the model, and --vae the folder of this file, with its config.json: {}",
                folder_of(path)
            )),
            Self::FirstVae => failure(part).remedy(format!(
                "Convert it once, with diffusers in Python: python -c \"from diffusers import \
                 AutoencoderKL as A; A.from_single_file({}).save_pretrained({})\"; then give -m \
                 the model and --vae {}",
                python(path),
                python(&path.with_extension("")),
                path.with_extension("").display()
            )),
            Self::TinyVae => failure(part).remedy(format!("Give -m the model, and --taesd {name}")),
        }
    }
}

fn folder_of(path: &Path) -> String {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.display().to_string(),
        _ => ".".into(),
    }
}

/// What to do with a part of a model.
fn belongs(part: &str, path: &Path) -> String {
    let folder = path.parent().unwrap_or(Path::new(""));
    match folder.file_name().is_some_and(|name| name == part) {
        true => {
            let model = folder.parent().filter(|model| *model != Path::new(""));
            format!("Give -m {}", model.unwrap_or(Path::new(".")).display())
        }
        false => format!(
            "Give the folder in which it is {part}/diffusion_pytorch_model.safetensors or \
             {part}/model.safetensors, with {part}/config.json beside it"
        ),
    }
}

/// The failure of whoever wanted a model and was given the file at `path`.
pub fn no_model(path: &Path) -> Failure {
    if let Some(format) = format_of(path) {
        return format.failure(path);
    }
    let mapped = match Mapped::open(path) {
        Ok(mapped) => mapped,
        Err(failure) => return failure,
    };
    let weights = mapped.weights();
    let tensors = || weights.index().iter().map(|(name, w)| (name, w.shape.as_slice().len()));
    if let Some(holds) = Holds::of(tensors()) {
        return holds.failure(path);
    }
    let names: BTreeSet<_> = tensors().map(|(name, _)| name).take(2).collect();
    let names: Vec<_> = names.into_iter().collect();
    let such = match names.as_slice() {
        [] => "it has no tensors".to_string(),
        names => format!("its tensors are called `{}`", names.join("`, `")),
    };
    let what = "is safetensors, but no model that mote knows";
    Failure::new(format!("{} {what}: {such}", path.display())).remedy(
        "Give -m the folder of a model in diffusers' layout, or a file that `mote convert` wrote",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of tensors, with their numbers of dimensions.
    type Tensors = &'static [(&'static str, usize)];

    #[test]
    fn names_of_tensors_tell_what_a_file_holds() {
        let cases: [(Tensors, Option<Holds>); 16] = [
            (&[("lora_unet_down_blocks_0.lora_down.weight", 2)], Some(Holds::Lora("kohya"))),
            (&[("unet.down_blocks.0.to_q.lora_A.weight", 2)], Some(Holds::Lora("PEFT"))),
            (&[("unet.mid.to_q.lora.down.weight", 2)], Some(Holds::Lora("diffusers"))),
            (&[("lora_unet_mid.hada_w1_a", 2)], Some(Holds::Lora("kohya"))),
            (&[("emb_params", 2)], Some(Holds::TextualInversion)),
            (&[("<cat-toy>", 1)], Some(Holds::TextualInversion)),
            (&[("clip_l", 2), ("clip_g", 2)], Some(Holds::TextualInversion)),
            (&[("model.diffusion_model.out.0.weight", 1)], Some(Holds::SingleFile)),
            (
                &[("conditioner.embedders.0.a", 1), ("model.diffusion_model.out.0.weight", 1)],
                Some(Holds::SingleFile),
            ),
            (&[("double_blocks.0.img_attn.proj.weight", 2)], Some(Holds::Transformer)),
            (
                &[("conv_in.weight", 4), ("down_blocks.0.a", 1), ("up_blocks.0.a", 1)],
                Some(Holds::Unet),
            ),
            (&[("decoder.mid_block.resnets.0.conv1.weight", 4)], Some(Holds::Vae)),
            (&[("first_stage_model.decoder.mid.block_1.norm1.bias", 1)], Some(Holds::FirstVae)),
            (&[("text_model.encoder.layers.0.mlp.fc1.bias", 1)], Some(Holds::TextEncoder)),
            (&[("weight", 2)], None),
            (&[], None),
        ];
        for (names, holds) in cases {
            assert_eq!(Holds::of(names.iter().copied()), holds, "{names:?}");
        }
    }

    #[test]
    fn a_part_of_a_model_in_its_folder_leads_to_the_model() {
        for (path, remedy) in [
            ("sd/unet/a.safetensors", "Give -m sd"),
            ("unet/a.safetensors", "Give -m ."),
            ("a.safetensors", "Give the folder in which it is unet/"),
        ] {
            assert!(belongs("unet", Path::new(path)).starts_with(remedy), "{path}");
        }
    }
}
