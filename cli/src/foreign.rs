//! Files that are no model mote can draw from: what each is, told by its first bytes or by the
//! names of its tensors, and what to do about it.
//!
//! Names of files lie: a web page is called `.safetensors` when a download went wrong, and a LoRA
//! is called what a model is. So the name is looked at last.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use crate::checkpoint::Mapped;
use crate::error::Failure;
use crate::files;

/// The bytes that are looked at; a tar archive says so 257 bytes in.
const BEGINNING: usize = 512;

/// The most tensors of a file that is a textual inversion: a vector for each text encoder.
const MAX_EMBEDDINGS: usize = 4;

/// What the first bytes of a file that is not safetensors say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// What git leaves where a large file should be.
    LfsPointer,
    /// HTML or XML.
    WebPage,
    /// The answer of a program, or a configuration.
    Json,
    /// llama.cpp's and stable-diffusion.cpp's format.
    Gguf,
    /// PyTorch's: a zip archive around a pickle, or a pickle alone.
    Pickle,
    /// Another archive.
    Archive,
    /// A picture.
    Picture,
    /// Keras' format.
    Hdf5,
}

impl Format {
    /// What a file that begins so is, where it is known.
    pub fn of(file: &[u8]) -> Option<Self> {
        let beginning = &file[..file.len().min(BEGINNING)];
        if is_safetensors(beginning) {
            return None;
        }
        let text = String::from_utf8_lossy(beginning);
        let text = text.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
        let is_pickle = matches!(beginning, [0x80, 2..=5, ..]);
        let begins = |signs: &[&[u8]]| signs.iter().any(|sign| beginning.starts_with(sign));
        Some(match () {
            () if text.starts_with("version https://git-lfs") => Self::LfsPointer,
            () if ["<!doctype", "<html", "<?xml", "<head", "<script"]
                .iter()
                .any(|tag| text.starts_with(tag)) =>
            {
                Self::WebPage
            }
            () if text.starts_with(['{', '[']) && !beginning.contains(&0) => Self::Json,
            () if begins(&[b"GGUF", b"ggml", b"lmgg", b"ggjt", b"tjgg"]) => Self::Gguf,
            () if is_pickle || begins(&[b"PK"]) && text.contains("data.pkl") => Self::Pickle,
            () if begins(&[b"PK", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ", b"BZh"])
                || beginning.get(257..262) == Some(b"ustar") =>
            {
                Self::Archive
            }
            () if begins(&[b"\x89PNG", b"\xff\xd8\xff", b"GIF8"])
                || begins(&[b"RIFF"]) && beginning.get(8..12) == Some(b"WEBP") =>
            {
                Self::Picture
            }
            () if begins(&[b"\x89HDF"]) => Self::Hdf5,
            () => return None,
        })
    }

    /// A failure that says of the file at `path` what it is, and what to do.
    pub fn failure(self, path: &Path) -> Failure {
        let name = path.display();
        let is = |what: &str| Failure::new(format!("{name} is {what}"));
        match self {
            Self::LfsPointer => is("a pointer of Git LFS, and not the file it stands for")
                .remedy("Fetch the file itself with `git lfs pull`"),
            Self::WebPage => is("a web page, and not the file that was meant").remedy(
                "Download the file anew: its address has /resolve/ where the page about it has \
                 /blob/, and it may ask to sign in first",
            ),
            Self::Json => is("text in JSON, and holds no weights").remedy(
                "Give -m the folder of a model, or download the weights anew where an answer such \
                 as \"not found\" was saved in their place",
            ),
            Self::Gguf => is("of the format GGUF, which mote does not read").remedy(
                "Take the model it was made of, as a folder of diffusers: `mote convert --type \
                 int8` or int4 makes a file as small",
            ),
            Self::Pickle => pickle(path),
            Self::Archive => is("an archive").remedy("Unpack it, and give what is in it"),
            Self::Picture => is("a picture, and no model")
                .remedy("To start from it, give it to -i; to see how it was made, `mote inspect`"),
            Self::Hdf5 => is("HDF5, a format that mote does not read")
                .remedy("Take the model in diffusers' layout with safetensors"),
        }
    }
}

/// A file of PyTorch's: its ending tells a whole model from a part.
fn pickle(path: &Path) -> Failure {
    let name = path.display();
    let what = "is a pickle, which may run any program when it is read; mote does not";
    let failure = Failure::new(format!("{name} {what}"));
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("ckpt")) {
        return failure.remedy(from_single_file(path));
    }
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let stem = if stem == "pytorch_model" { "model" } else { stem };
    let mut to = path.with_file_name(format!("{stem}.safetensors"));
    if to == path {
        to = path.with_file_name(format!("{stem}-converted.safetensors"));
    }
    let (from, to) = (python(path), python(&to));
    failure.remedy(format!(
        "Convert it once: python -c \"import torch; from safetensors.torch import save_file; \
         save_file({{k: v.clone().contiguous() for k, v in torch.load({from}, \
         weights_only=True).items()}}, {to})\""
    ))
}

/// How diffusers turns a file with a whole model into a folder.
fn from_single_file(path: &Path) -> String {
    let (from, to) = (python(path), path.with_extension(""));
    format!(
        "Convert it once, with diffusers in Python: python -c \"from diffusers import \
         StableDiffusionPipeline as P; P.from_single_file({from}).save_pretrained({})\"; then give \
         -m {}",
        python(&to),
        to.display()
    )
}

/// A path as a text in Python.
fn python(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Whether a file that begins so is safetensors, perhaps a damaged one: the length of a header, and
/// the header.
pub fn is_safetensors(beginning: &[u8]) -> bool {
    matches!(beginning, [_, _, _, _, 0, 0, 0, 0, b'{', ..])
}

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
            () if is_whole && begins("conditioner.embedders.") => Self::OtherSingleFile("SDXL"),
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
            Self::Lora(_) => Some("mote adds no LoRA to a model"),
            Self::TextualInversion => Some("mote adds no words to a tokenizer"),
            Self::ControlNet => Some("mote runs no ControlNet"),
            Self::OtherSingleFile(_) | Self::Transformer => {
                Some("mote runs Stable Diffusion 1.x and 2.x, and models of their kind")
            }
            _ => None,
        }
    }

    fn failure(self, path: &Path) -> Failure {
        let name = path.display();
        let failure = |why: &str| Failure::new(format!("{name} is {}{why}", self.what()));
        let part = "; -m wants the whole model";
        match self {
            Self::Lora(_) => failure(", and no model").remedy(
                "mote adds no LoRA to a model: in diffusers, load it into its model, call \
                 `fuse_lora()` and `save_pretrained(FOLDER)`, and give -m that folder",
            ),
            Self::TextualInversion => failure(", and no model")
                .remedy("mote adds no words to a tokenizer: give -m the model it was trained for"),
            Self::ControlNet => failure(", and no model")
                .remedy("mote runs none: give -m the model it was trained for"),
            Self::SingleFile => failure("").remedy(from_single_file(path)),
            Self::OtherSingleFile(_) | Self::Transformer => failure("")
                .remedy("mote runs Stable Diffusion 1.x and 2.x, and models of their kind"),
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

/// The first bytes of a file, where it can be read.
fn beginning(path: &Path) -> Option<Vec<u8>> {
    let mut beginning = Vec::new();
    files::open(path).ok()?.take(BEGINNING as u64).read_to_end(&mut beginning).ok()?;
    Some(beginning)
}

/// What the first bytes of a file say, where they are not those of safetensors.
pub fn format_of(path: &Path) -> Option<Format> {
    Format::of(&beginning(path)?)
}

/// Whether a file begins as safetensors do.
pub fn claims_safetensors(path: &Path) -> bool {
    beginning(path).is_some_and(|beginning| is_safetensors(&beginning))
}

/// The failure of whoever wanted a model and was given the file at `path`.
pub fn no_model(path: &Path) -> Failure {
    if let Some(format) = format_of(path) {
        return format.failure(path);
    }
    let mut mapped = match Mapped::open(path) {
        Ok(mapped) => mapped,
        Err(failure) => return failure,
    };
    let weights = match mapped.weights() {
        Ok(weights) => weights,
        Err(failure) => return failure,
    };
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

    #[test]
    fn first_bytes_tell_a_format() {
        let mut tar = vec![b'a'; 300];
        tar[257..262].copy_from_slice(b"ustar");
        let cases: [(&[u8], Format); 15] = [
            (b"GGUF\x03\0\0\0", Format::Gguf),
            (b"\xef\xbb\xbf \n<!DOCTYPE html><html>", Format::WebPage),
            (b"<HTML><body>", Format::WebPage),
            (b"<?xml version=\"1.0\"?><Error>", Format::WebPage),
            (b"version https://git-lfs.github.com/spec/v1\noid", Format::LfsPointer),
            (b"{\"error\":\"Unauthorized\"}", Format::Json),
            (b"\x80\x02}q\0", Format::Pickle),
            (b"PK\x03\x04\0\0archive/data.pkl", Format::Pickle),
            (b"PK\x03\x04\0\0notes.txt", Format::Archive),
            (b"\x1f\x8b\x08", Format::Archive),
            (&tar, Format::Archive),
            (b"\x89PNG\r\n", Format::Picture),
            (b"\xff\xd8\xff\xe0", Format::Picture),
            (b"RIFF\0\0\0\0WEBPVP8 ", Format::Picture),
            (b"\x89HDF\r\n", Format::Hdf5),
        ];
        for (bytes, format) in cases {
            assert_eq!(Format::of(bytes), Some(format), "{bytes:?}");
            let said = format.failure(Path::new("a b.safetensors")).to_string();
            assert!(said.starts_with("a b.safetensors is "), "{said}");
        }
        // A header of 640 bytes begins as a pickle does, one of 123 as JSON.
        let header = [0x80, 2, 0, 0, 0, 0, 0, 0, b'{', b'"'];
        for bytes in [
            &b""[..],
            b"x",
            &header,
            b"{\0\0\0\0\0\0\0{\"",
            b"{\0\0\0\0\0\0\0",
            b"\x40\0\0\0\0\0\0\0{\"a\":",
            b"RIFF\0\0\0\0WAVE",
        ] {
            assert_eq!(Format::of(bytes), None, "{bytes:?}");
        }
    }

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
                Some(Holds::OtherSingleFile("SDXL")),
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
        assert_eq!(python(Path::new("it's")), "'it\\'s'");
    }
}
