//! What a file is, told by its first bytes, and what to do with one that is not safetensors.
//!
//! Names of files lie: a web page is called `.safetensors` when a download went wrong. So the name
//! is looked at last.

use std::io::Read;
use std::path::Path;

use crate::error::{Failure, Result};
use crate::files;

/// The bytes that are looked at; a tar archive says so 257 bytes in.
const BEGINNING: usize = 512;

/// Endings of weights that mote does not read.
const FOREIGN: [&str; 8] = ["bin", "pth", "pt", "ckpt", "gguf", "msgpack", "onnx", "h5"];

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
pub(super) fn from_single_file(path: &Path) -> String {
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
pub(super) fn python(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Whether a file that begins so is safetensors, perhaps a damaged one: the length of a header, and
/// the header.
pub fn is_safetensors(beginning: &[u8]) -> bool {
    matches!(beginning, [_, _, _, _, 0, 0, 0, 0, b'{', ..])
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

/// Refuses a file whose name says that it is not safetensors, with what to do; its first bytes say
/// what it is instead.
///
/// # Errors
/// Where its name says so, and its bytes do not say otherwise.
pub fn refuse_foreign(path: &Path) -> Result<()> {
    let Some(ending) = path.extension().and_then(|ending| ending.to_str()) else { return Ok(()) };
    let ending = ending.to_ascii_lowercase();
    if !FOREIGN.contains(&ending.as_str()) || claims_safetensors(path) {
        return Ok(());
    }
    Err(match (format_of(path), ending.as_str()) {
        (None | Some(Format::Archive), "bin" | "pth" | "pt" | "ckpt") => {
            Format::Pickle.failure(path)
        }
        (Some(format), _) => format.failure(path),
        (None, "gguf") => Format::Gguf.failure(path),
        (None, _) => {
            Failure::new(format!("{} is of a format that mote does not read", path.display()))
                .remedy("Ask for a version of the model in diffusers' layout with safetensors")
        }
    })
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

    #[test]
    fn a_path_is_a_text_in_python() {
        assert_eq!(python(Path::new("it's")), "'it\\'s'");
    }
}
