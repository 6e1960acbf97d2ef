//! Textual inversion (Gal et al. 2022): files with vectors for a word that a text encoder does not
//! know.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mote::arch::Isa;

use crate::checkpoint::mapped::{Mapped, damaged, plain_name};
use crate::error::{Failure, Result};
use crate::files;
use crate::pack::to_f32;

/// The most vectors of a word: a prompt has 75 tokens.
const MAX_VECTORS: usize = 75;

/// A file of vectors, and the word that stands for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedding {
    /// The file.
    pub file: PathBuf,
    /// The word; `None`: the one that the file names, or else the file's own name.
    pub token: Option<String>,
}

impl FromStr for Embedding {
    type Err = String;

    /// `FILE` or `FILE:WORD`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let named = text.rsplit_once(':').filter(|(file, token)| {
            // A drive's letter is no file, and a path no word.
            !token.is_empty() && !token.contains(['/', '\\']) && !file.is_empty()
        });
        let (file, token) = named.map_or((text, None), |(file, token)| (file, Some(token.into())));
        match file.is_empty() {
            true => Err("this is FILE or FILE:WORD, such as thing.safetensors:<thing>".into()),
            false => Ok(Self { file: file.into(), token }),
        }
    }
}

/// Vectors for one text encoder.
#[derive(Clone, PartialEq)]
pub struct Vectors {
    /// The network, where the file says which.
    network: Option<&'static str>,
    /// Values of each.
    width: usize,
    /// All values, one vector after the other.
    values: Vec<f32>,
}

impl fmt::Debug for Vectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} vectors of {}", self.values.len() / self.width.max(1), self.width)
    }
}

/// A word, and its vectors for each text encoder that it was made for.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// The word, in lower case as all of a prompt is taken.
    pub token: String,
    vectors: Vec<Vectors>,
}

impl Word {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it cannot be read, or holds something else.
    pub fn read(embedding: &Embedding) -> Result<Self> {
        let path = &embedding.file;
        let mapped = Mapped::open(path)?;
        let (mut vectors, mut key) = (Vec::new(), None);
        for (name, tensor) in mapped.weights().index().iter() {
            let name = plain_name(name).into_owned();
            let network = match name.as_str() {
                "clip_l" => Some("text_encoder"),
                "clip_g" => Some("text_encoder_2"),
                _ => None,
            };
            let (count, width) = match *tensor.shape.as_slice() {
                [width] => (1, width),
                [count, width] => (count, width),
                _ => (0, 0),
            };
            if !tensor.dtype.is_float() || width == 0 || !(1..=MAX_VECTORS).contains(&count) {
                return Err(no_words(path, &format!("`{name}`, which is no list of vectors")));
            }
            let mut values = vec![0.0; count * width];
            to_f32(Isa::SCALAR, tensor.dtype, mapped.bytes(&tensor)?, &mut values);
            if values.iter().any(|value| !value.is_finite()) {
                return Err(damaged(path, format!("`{name}` holds a value that is no number")));
            }
            vectors.push(Vectors { network, width, values });
            key = Some(name).filter(|name| network.is_none() && name != "emb_params");
        }
        if vectors.is_empty() || vectors.len() > 1 && vectors.iter().any(|v| v.network.is_none()) {
            return Err(no_words(path, &format!("{} tensors", vectors.len())));
        }
        let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let token = embedding.token.clone().or(key).or_else(stem).unwrap_or_default();
        let token = token.trim().to_lowercase();
        if token.is_empty() {
            return Err(Failure::new(format!("no word stands for {}", path.display()))
                .remedy("Say one: --embedding FILE:WORD"));
        }
        Ok(Self { token, vectors })
    }

    /// Its vectors for a text encoder of this width.
    pub fn values(&self, network: &str, width: usize) -> Option<&[f32]> {
        let fits = |vectors: &&Vectors| {
            vectors.width == width && vectors.network.is_none_or(|own| own == network)
        };
        self.vectors.iter().find(fits).map(|vectors| vectors.values.as_slice())
    }

    /// How wide its vectors are, for a sentence.
    pub fn widths(&self) -> String {
        let widths = self.vectors.iter().map(|vectors| vectors.width.to_string());
        widths.collect::<Vec<_>>().join(" and ")
    }
}

/// The files in a folder whose names are words of one of the texts, as web UIs find them.
///
/// # Errors
/// Where the folder cannot be read.
pub fn in_folder(folder: &Path, texts: &[&str]) -> Result<Vec<Embedding>> {
    let texts: Vec<String> = texts.iter().map(|text| text.to_lowercase()).collect();
    let mut found = Vec::new();
    for name in files::names(folder)? {
        let Some(stem) = name.strip_suffix(".safetensors") else { continue };
        let word = stem.to_lowercase();
        if !word.is_empty() && texts.iter().any(|text| text.contains(&word)) {
            found.push(Embedding { file: folder.join(&name), token: Some(word) });
        }
    }
    Ok(found)
}

fn no_words(path: &Path, holds: &str) -> Failure {
    Failure::new(format!("{} is no textual inversion: it holds {holds}", path.display())).remedy(
        "Give a file with `emb_params`, `clip_l` and `clip_g`, or one tensor named as its word",
    )
}

/// A text in pieces: plain ones, and words of which the vectors are at hand, by their number.
pub fn pieces<'t>(text: &'t str, words: &[Word]) -> Vec<(&'t str, Option<usize>)> {
    let lower = text.to_lowercase();
    // Where lower case is as long, places in one are places in the other.
    let sought = if lower.len() == text.len() { lower.as_str() } else { text };
    let (mut all, mut plain, mut at) = (Vec::new(), 0, 0);
    while at < text.len() {
        let begins = |(_, word): &(usize, &Word)| sought[at..].starts_with(&word.token);
        let known = words.iter().enumerate().filter(begins);
        match known.max_by_key(|(_, word)| word.token.len()) {
            Some((number, word)) => {
                all.push((&text[plain..at], None));
                let end = at + word.token.len();
                all.push((&text[at..end], Some(number)));
                (plain, at) = (end, end);
            }
            None => at += text[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    all.push((&text[plain..], None));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(token: &str) -> Word {
        let vectors = vec![Vectors { network: None, width: 2, values: vec![0.0; 4] }];
        Word { token: token.into(), vectors }
    }

    #[test]
    fn a_word_comes_behind_the_last_colon() {
        let read = |text: &str| text.parse().map(|Embedding { file, token }| (file, token));
        let some = |text: &str| Some(text.to_string());
        assert_eq!(read("a.safetensors"), Ok(("a.safetensors".into(), None)));
        assert_eq!(read("a.safetensors:<x>"), Ok(("a.safetensors".into(), some("<x>"))));
        assert_eq!(read(r"C:\a.safetensors"), Ok((r"C:\a.safetensors".into(), None)));
        assert!(read("").is_err());
    }

    #[test]
    fn words_are_found_within_words_and_the_longest_counts() {
        let words = [word("<a>"), word("<a><b>")];
        let found = pieces("x <A>y<a><b>", &words);
        assert_eq!(
            found,
            [("x ", None), ("<A>", Some(0)), ("y", None), ("<a><b>", Some(1)), ("", None)]
        );
        assert_eq!(pieces("İ <a>", &words)[1], ("<a>", Some(0)), "lower case of another length");
        assert_eq!(pieces("plain", &[]), [("plain", None)]);
    }

    #[test]
    fn vectors_are_for_encoders_of_their_width() {
        let word = word("x");
        assert_eq!(word.values("text_encoder", 2).map(<[f32]>::len), Some(4));
        assert_eq!(word.values("text_encoder", 3), None);
    }
}
