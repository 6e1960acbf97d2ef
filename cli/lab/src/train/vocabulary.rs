//! A vocabulary for captions in CLIP's format: byte pairs merged by how often they meet (Sennrich,
//! Haddow and Birch 2016), a token that ends a word told by `</w>`.
//!
//! Unlike CLIP's it begins not with all bytes but with those that the captions hold, and letters
//! and digits: a small model has no use for hundreds of rows that are never trained. Any other byte
//! is the token of the unknown, which is the text's end, as CLIP has it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use serde_json::{Map, Value, json};

use mote_host::error::{Failure, Result};
use mote_host::tokenizer::{END_OF_WORD, Tokenizer, byte_char, normalize};

/// The tokens around a text.
const SPECIAL: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// The endings that CLIP splits off: `it's` is `it` and `'s`.
const ENDINGS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];

/// What can be written with any vocabulary.
const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz0123456789";

/// A pair is merged where it meets at least so often: what occurs once is not worth a row.
const LEAST: u64 = 2;

/// The files of a tokenizer, by their names.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// The tokens by their ids.
    pub tokens: Vec<String>,
    /// The pairs in the order in which they are merged.
    pub merges: Vec<[String; 2]>,
}

/// The words of a text, as CLIP splits one: runs of letters, single digits, runs of other signs.
fn words(text: &str) -> Vec<String> {
    #[derive(PartialEq)]
    enum Kind {
        Letter,
        Digit,
        Sign,
    }
    let kind = |c: char| match c {
        c if c.is_alphabetic() => Kind::Letter,
        c if c.is_numeric() => Kind::Digit,
        _ => Kind::Sign,
    };
    let text = normalize(text);
    let (mut words, mut rest) = (Vec::new(), text.trim_start());
    while let Some(first) = rest.chars().next() {
        let ending = ENDINGS.iter().find(|ending| rest.starts_with(**ending));
        let length = match (ending, kind(first)) {
            (Some(ending), _) => ending.len(),
            (None, Kind::Digit) => first.len_utf8(),
            (None, same) => {
                let other = |c: char| c.is_whitespace() || kind(c) != same;
                rest.find(other).unwrap_or(rest.len())
            }
        };
        words.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    words
}

/// The symbols that a word begins with: its bytes, the last marked.
fn symbols(word: &str) -> Vec<String> {
    let mut symbols: Vec<_> = word.bytes().map(|byte| byte_char(byte).to_string()).collect();
    if let Some(last) = symbols.last_mut() {
        last.push_str(END_OF_WORD);
    }
    symbols
}

impl Vocabulary {
    /// A vocabulary of at most `size` tokens for texts, each with how much it counts.
    ///
    /// # Errors
    /// Where the signs alone are more.
    pub fn train<'t>(texts: impl Iterator<Item = (&'t str, u64)>, size: usize) -> Result<Self> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for (text, count) in texts {
            words(text).into_iter().for_each(|word| *counts.entry(word).or_default() += count);
        }
        let list: Vec<_> = counts.iter().map(|(word, &count)| (symbols(word), count)).collect();
        let written = list.iter().flat_map(|(symbols, _)| symbols);
        let plain = written.map(|symbol| symbol.trim_end_matches(END_OF_WORD).to_owned());
        let plain: BTreeSet<_> = plain.chain(ALPHABET.chars().map(String::from)).collect();
        let marked = plain.iter().map(|symbol| format!("{symbol}{END_OF_WORD}"));
        let mut tokens: Vec<String> = plain.iter().cloned().chain(marked).collect();
        if tokens.len() + SPECIAL.len() > size {
            let needed = tokens.len() + SPECIAL.len();
            return Err(Failure::new(format!(
                "a vocabulary of {size} tokens has no room for the {needed} that single signs take"
            ))
            .remedy("Raise `vocab_size`"));
        }
        let mut ids: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
        let id = |symbol: &String| ids[symbol];
        let mut list: Vec<Word> = list
            .iter()
            .map(|(symbols, count)| (symbols.iter().map(id).collect(), *count))
            .collect();
        let mut merges = Vec::new();
        while tokens.len() + SPECIAL.len() < size {
            let Some(pair) = most_frequent(&list) else { break };
            let parts = pair.map(|id| tokens[id as usize].clone());
            let merged = *ids.entry(parts.concat()).or_insert_with_key(|merged| {
                tokens.push(merged.clone());
                tokens.len() as u32 - 1
            });
            list.iter_mut().for_each(|(symbols, _)| merge(symbols, pair, merged));
            merges.push(parts);
        }
        tokens.extend(SPECIAL.map(String::from));
        Ok(Self { tokens, merges })
    }

    /// The id of the token that begins a text, and of the one that ends and fills it up.
    pub fn special(&self) -> [usize; 2] {
        [self.tokens.len() - 2, self.tokens.len() - 1]
    }

    /// The files as transformers' `CLIPTokenizer` reads them.
    pub fn files(&self, model_max_length: usize) -> Files {
        let ids = self.tokens.iter().zip(0..).map(|(token, id): (_, u64)| (token.clone(), id));
        let ids: Map<String, Value> = ids.map(|(token, id)| (token, id.into())).collect();
        let mut merges = "#version: 0.2\n".to_owned();
        for [left, right] in &self.merges {
            let _ = writeln!(merges, "{left} {right}");
        }
        let [begin, end] = SPECIAL;
        let config = json!({
            "tokenizer_class": "CLIPTokenizer", "model_max_length": model_max_length,
            "bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": end
        });
        let files = [
            ("merges.txt", merges),
            ("tokenizer_config.json", format!("{config:#}\n")),
            ("vocab.json", format!("{:#}\n", Value::Object(ids))),
        ];
        files.map(|(name, text)| (name.to_owned(), text.into_bytes())).into()
    }
}

/// The tokens of a word, and how often it occurs.
type Word = (Vec<u32>, u64);

impl Vocabulary {
    /// The tokenizer of these files.
    ///
    /// # Errors
    /// Where there is no place for a moment's files.
    pub fn tokenizer(&self, model_max_length: usize) -> Result<Tokenizer> {
        let cannot = |error| Failure::file("write to", &std::env::temp_dir(), &error);
        let folder = tempfile::tempdir().map_err(cannot)?;
        for (name, bytes) in self.files(model_max_length) {
            std::fs::write(folder.path().join(name), bytes).map_err(cannot)?;
        }
        Tokenizer::from_folder(folder.path())
    }
}

/// The pair that meets most often; of several the one whose tokens came first.
fn most_frequent(words: &[Word]) -> Option<[u32; 2]> {
    let mut pairs: HashMap<[u32; 2], u64> = HashMap::new();
    for (symbols, count) in words {
        symbols.array_windows().for_each(|&pair| *pairs.entry(pair).or_default() += count);
    }
    let frequent = pairs.into_iter().filter(|&(_, count)| count >= LEAST);
    frequent.max_by_key(|&(pair, count)| (count, Reverse(pair))).map(|(pair, _)| pair)
}

/// Merges the pair wherever it stands, from the left.
fn merge(symbols: &mut Vec<u32>, pair: [u32; 2], merged: u32) {
    let mut at = 0;
    while at + 1 < symbols.len() {
        if symbols[at..at + 2] == pair {
            symbols[at] = merged;
            symbols.remove(at + 1);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [(&str, u64); 5] = [
        ("red apple", 3),
        ("green apple", 3),
        ("Person: it's a café, no. 10", 2),
        ("apples", 1),
        ("red   heart’s", 1),
    ];

    fn tokenizer(vocabulary: &Vocabulary) -> Tokenizer {
        vocabulary.tokenizer(16).unwrap()
    }

    #[test]
    fn words_are_split_as_clip_splits_them() {
        let found = words(" Person: it's a café,  No. 10!? x2");
        let expected =
            ["person", ":", "it", "'s", "a", "café", ",", "no", ".", "1", "0", "!?", "x", "2"];
        assert_eq!(found, expected);
        assert!(words(" \u{a0}").is_empty());
    }

    #[test]
    fn what_is_frequent_becomes_one_token_and_the_tokenizer_reads_the_files() {
        let vocabulary = Vocabulary::train(TEXTS.into_iter(), 120).unwrap();
        let tokens = &vocabulary.tokens;
        assert!(tokens.len() <= 120 && tokens.contains(&"apple</w>".into()), "{tokens:?}");
        let distinct: BTreeSet<_> = tokens.iter().collect();
        assert_eq!(distinct.len(), tokens.len());
        let ids = tokenizer(&vocabulary).encode("Red apple").unwrap();
        let id = |token: &str| tokens.iter().position(|t| t == token).unwrap() as u32;
        let [begin, end] = vocabulary.special().map(|id| id as u32);
        assert_eq!(ids[..4], [begin, id("red</w>"), id("apple</w>"), end]);
        assert_eq!((ids.len(), ids[15]), (16, end));
    }

    #[test]
    fn signs_that_no_caption_held_are_the_unknown() {
        let vocabulary = Vocabulary::train(TEXTS.into_iter(), 120).unwrap();
        let end = vocabulary.special()[1] as u32;
        assert_eq!(tokenizer(&vocabulary).encode("¿").unwrap()[1..4], [end; 3]);
    }

    #[test]
    fn the_same_texts_give_the_same_vocabulary_and_too_small_a_one_is_refused() {
        let train = |size| Vocabulary::train(TEXTS.into_iter(), size);
        assert_eq!(train(200).unwrap(), train(200).unwrap());
        assert!(train(200).unwrap().tokens.len() < 200, "there is nothing more to merge");
        assert!(train(20).unwrap_err().to_string().contains("Raise `vocab_size`"));
    }
}
