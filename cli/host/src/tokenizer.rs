//! Builds the tokenizer's packed table from a checkpoint's `tokenizer` folder, as transformers 5
//! reads one, and does what the core leaves to the host: composing characters (NFC).
//!
//! The files are untrusted: each is read up to a limit, and what is wrong in one is refused with a
//! sentence that names the file and the place. Where transformers and these files disagree about
//! what a token's id is, transformers is followed: pad is "!", id 0, in Stable Diffusion 2.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use mote::models::clip_tokenizer::{
    ClipTokenizer, MAGIC, NORMALIZED, SINGLE_WORD, Segment, VERSION,
};
use serde_json::{Map, Value};
use unicode_normalization_alignments::UnicodeNormalization;

use crate::checkpoint::place;
use crate::error::{Failure, Result};
use crate::json;

/// The largest file read: CLIP's `tokenizer.json` has 2.2 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The largest id: the largest published vocabularies have a quarter million entries.
const MAX_ID: u64 = (1 << 20) - 1;

/// The longest sequence `model_max_length` may ask for. transformers writes 10³⁰ for "not known".
const MAX_LENGTH: u64 = 1 << 16;

/// CLIP's sequences, where the files do not say otherwise.
const DEFAULT_LENGTH: usize = 77;

/// What CLIP puts behind a token that ends a word.
pub const END_OF_WORD: &str = "</w>";

/// What to do about a file that cannot be what it should.
const AGAIN: &str = "The file is damaged: fetch it again";

/// The tokens that have a name, in the order in which transformers adds them.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The tokenizer of a checkpoint.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    table: Vec<u8>,
    model_max_length: Option<usize>,
}

impl Tokenizer {
    /// Reads a `tokenizer` folder: `tokenizer.json`, or `vocab.json` and `merges.txt`; and, where
    /// they are there, `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
    ///
    /// # Errors
    /// A sentence that says which file is missing or wrong, and where.
    pub fn from_folder(folder: impl Into<place::Place>) -> Result<Self> {
        let folder = folder.into();
        let file = |name: &str| Source::open(&folder.join(name));
        let tokenizer_json = file("tokenizer.json")?;
        let (mut model, listed) = match &tokenizer_json {
            Some(source) => read_tokenizer_json(source)?,
            None => {
                let [vocab, merges] = ["vocab.json", "merges.txt"].map(|name| {
                    file(name)?.ok_or_else(|| {
                        Failure::new(format!("there is no {name} in {}", folder.path().display()))
                            .remedy(
                                "A tokenizer needs vocab.json and merges.txt, or tokenizer.json",
                            )
                    })
                });
                (read_vocab_and_merges(&vocab?, &merges?)?, Vec::new())
            }
        };
        let config = file("tokenizer_config.json")?;
        let special = Special::read(
            config.as_ref(),
            file("special_tokens_map.json")?.as_ref(),
            file("added_tokens.json")?.as_ref(),
            listed,
        )?;
        model.add(special.added)?;
        Self::new(model.pack(&special.named)?, special.model_max_length)
    }

    /// Takes a table as [`Tokenizer::table`] gave it.
    ///
    /// # Errors
    /// What [`ClipTokenizer::new`] refuses.
    pub fn from_table(table: Vec<u8>) -> Result<Self> {
        Self::new(table, None)
    }

    fn new(table: Vec<u8>, model_max_length: Option<usize>) -> Result<Self> {
        ClipTokenizer::new(&table).map_err(refused)?;
        Ok(Self { table, model_max_length })
    }

    /// The packed table, as [`ClipTokenizer::new`] reads it.
    pub fn table(&self) -> &[u8] {
        &self.table
    }

    /// The longest sequence that the files allow, if they say.
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// The core's view on the table. It checks the table anew: keep it where many texts are
    /// encoded.
    ///
    /// # Errors
    /// None: the table was checked when `self` was made.
    pub fn core(&self) -> Result<ClipTokenizer<'_>> {
        ClipTokenizer::new(&self.table).map_err(refused)
    }

    /// The ids of a text, as many as `model_max_length` says, or 77.
    ///
    /// # Errors
    /// None that a text can cause.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        encode(&self.core()?, text, self.model_max_length.unwrap_or(DEFAULT_LENGTH))
    }
}

fn refused(error: mote::Error) -> Failure {
    Failure::new(format!("the tokenizer's table is refused: {error}"))
        .remedy("Its files may be damaged: fetch them again")
}

/// The ids of a text, composed or not: `bos`, what fits of the text, `eos`, and padding up to
/// `length`.
///
/// # Errors
/// If `length` is below 2.
pub fn encode(tokenizer: &ClipTokenizer<'_>, text: &str, length: usize) -> Result<Vec<u32>> {
    encode_pieces(tokenizer, &[(text, &[])], length)
}

/// [`encode`] of texts one behind the other, each with ids that follow it.
///
/// # Errors
/// As [`encode`].
pub fn encode_pieces(
    tokenizer: &ClipTokenizer<'_>,
    pieces: &[(&str, &[u32])],
    length: usize,
) -> Result<Vec<u32>> {
    let mut ids = vec![0; length];
    encode_into(tokenizer, pieces, &mut ids)?;
    Ok(ids)
}

/// How many ids a text has with `bos` and `eos`, or `most` where it has more.
///
/// # Errors
/// If `most` is below 2.
pub fn used(tokenizer: &ClipTokenizer<'_>, text: &str, most: usize) -> Result<usize> {
    encode_into(tokenizer, &[(text, &[])], &mut vec![0; most])
}

/// [`encode_pieces`] into a place for so many ids; how many come before the padding.
fn encode_into(
    tokenizer: &ClipTokenizer<'_>,
    pieces: &[(&str, &[u32])],
    ids: &mut [u32],
) -> Result<usize> {
    let mut scratch = Vec::new();
    let fails = |error: mote::Error| Failure::new(error.to_string()).within("tokenizer");
    let mut encoder = tokenizer.encoder(ids).map_err(fails)?;
    for (text, behind) in pieces {
        for segment in tokenizer.segments(text) {
            match segment {
                _ if encoder.is_full() => break,
                Segment::Added(id) => encoder.push(id),
                Segment::Text(text) => {
                    let text = compose(text);
                    let needed = tokenizer.segment_scratch_len(&text);
                    scratch.resize(needed.max(scratch.len()), 0);
                    encoder.text(&text, &mut scratch).map_err(fails)?;
                }
            }
        }
        behind.iter().for_each(|&id| encoder.push(id));
    }
    Ok(encoder.finish())
}

/// Composes characters as transformers does: by the same crate, whose tables are of Unicode 9.
/// Newer tables put newer marks in another order, and a prompt would get other ids.
fn compose(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.nfc().map(|(c, _)| c).collect())
}

/// What transformers' normaliser makes of a text: an added token that is sought in normalised text.
pub fn normalize(text: &str) -> String {
    let mut normalized = String::new();
    for c in compose(text).chars() {
        if !c.is_whitespace() {
            normalized.extend(c.to_lowercase());
        } else if !normalized.ends_with(' ') {
            normalized.push(' ');
        }
    }
    normalized
}

/// A file as read.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// `None` if there is no such file.
    fn open(file: &place::Place) -> Result<Option<Self>> {
        // A link that leads nowhere is not the same as no file.
        if !file.exists() {
            return Ok(None);
        }
        Ok(Some(Self { path: file.path().to_path_buf(), text: file.text(MAX_FILE_BYTES)? }))
    }

    fn json(&self) -> Result<Map<String, Value>> {
        let shown = self.path.display();
        match serde_json::from_str(&self.text) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) => Err(Failure::new(format!("{shown}: expected a JSON object")).remedy(AGAIN)),
            Err(error) => Err(json::broken(&self.path, &self.text, &error)),
        }
    }
}

/// At most 40 characters of a text, in quotes: files may hold anything.
fn quote(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A JSON value as it is written, cut after 40 characters.
fn show(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The vocabulary and the merges as the files have them.
struct Model {
    vocab: HashMap<String, u32>,
    vocab_file: PathBuf,
    merges: Vec<Merge>,
    merges_file: PathBuf,
    added: BTreeMap<String, (u32, AddedToken)>,
}

struct Merge {
    left: String,
    right: String,
    /// Where it stands in its file.
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Line(usize),
    Entry(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(i) => write!(f, "line {i}"),
            Place::Entry(i) => write!(f, "model.merges[{i}]"),
        }
    }
}

fn read_vocab_and_merges(vocab: &Source, merges: &Source) -> Result<Model> {
    let shown = merges.path.display();
    let mut list = Vec::new();
    for (i, line) in merges.text.lines().enumerate() {
        if line.starts_with("#version") {
            continue;
        }
        let place = Place::Line(i + 1);
        let merge = read_merge(line, place);
        list.push(merge.map_err(|error| error.within(format!("{shown}, {place}")))?);
    }
    Ok(Model {
        vocab: read_vocab(&vocab.json()?, &vocab.path)?,
        vocab_file: vocab.path.clone(),
        merges: list,
        merges_file: merges.path.clone(),
        added: BTreeMap::new(),
    })
}

/// The model and the added tokens, each with the id it is listed under.
fn read_tokenizer_json(source: &Source) -> Result<(Model, Vec<(u64, AddedToken)>)> {
    let shown = source.path.display();
    let root = source.json()?;
    let Some(Value::Object(model)) = root.get("model") else {
        return Err(Failure::new(format!("{shown}: there is no object \"model\""))
            .remedy("Is it a tokenizer's file?"));
    };
    if let Some(kind) = model.get("type").filter(|kind| *kind != "BPE") {
        let what = format!("{shown}: model.type is {}, expected \"BPE\"", show(kind));
        return Err(Failure::new(what).remedy("mote knows CLIP's tokenizer alone"));
    }
    let (Some(Value::Object(vocab)), Some(Value::Array(merges))) =
        (model.get("vocab"), model.get("merges"))
    else {
        let what = "\"model\" needs an object \"vocab\" and an array \"merges\"";
        return Err(Failure::new(format!("{shown}: {what}")).remedy(AGAIN));
    };
    let mut list = Vec::new();
    for (i, merge) in merges.iter().enumerate() {
        let place = Place::Entry(i);
        let merge = match merge {
            Value::String(line) => read_merge(line, place),
            Value::Array(parts) => match parts.as_slice() {
                [Value::String(left), Value::String(right)] => new_merge(left, right, place),
                _ => Err(Failure::new("expected two strings").remedy(AGAIN)),
            },
            _ => Err(Failure::new("expected a string or two").remedy(AGAIN)),
        };
        list.push(merge.map_err(|error| error.within(format!("{shown}, {place}")))?);
    }
    let mut added = Vec::new();
    for (i, token) in root
        .get("added_tokens")
        .and_then(Value::as_array)
        .iter()
        .flat_map(|list| list.iter())
        .enumerate()
    {
        let read = || Some((token.get("id")?.as_u64()?, AddedToken::read(token)?));
        added.push(read().ok_or_else(|| {
            let what = format!("added_tokens[{i}] needs an \"id\" and a string \"content\"");
            Failure::new(format!("{shown}: {what}")).remedy(AGAIN)
        })?);
    }
    let model = Model {
        vocab: read_vocab(vocab, &source.path)?,
        vocab_file: source.path.clone(),
        merges: list,
        merges_file: source.path.clone(),
        added: BTreeMap::new(),
    };
    Ok((model, added))
}

fn read_merge(line: &str, place: Place) -> Result<Merge> {
    match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => new_merge(left, right, place),
        _ => Err(Failure::new(format!(
            "expected two tokens with one space between them, found {}",
            quote(line)
        ))
        .remedy(AGAIN)),
    }
}

fn new_merge(left: &str, right: &str, place: Place) -> Result<Merge> {
    if left.is_empty() || right.is_empty() {
        return Err(Failure::new("one of the two tokens to merge is missing").remedy(AGAIN));
    }
    Ok(Merge { left: left.to_owned(), right: right.to_owned(), place })
}

fn bad_id(path: &Path, token: &str, id: &Value) -> Failure {
    let (token, id) = (quote(token), show(id));
    Failure::new(format!("{}: token {token} has the id {id}", path.display()))
        .remedy(format!("Ids are whole numbers from 0 to {MAX_ID}"))
}

fn read_vocab(map: &Map<String, Value>, path: &Path) -> Result<HashMap<String, u32>> {
    let (mut vocab, mut owners) = (HashMap::new(), HashMap::new());
    for (token, id) in map {
        let Some(id) = id.as_u64().filter(|&id| id <= MAX_ID) else {
            return Err(bad_id(path, token, id));
        };
        if let Some(other) = owners.insert(id, token) {
            let (other, token) = (quote(other), quote(token));
            let what = format!("{}: tokens {other} and {token} share the id {id}", path.display());
            return Err(Failure::new(what).remedy(AGAIN));
        }
        vocab.insert(token.clone(), id as u32);
    }
    Ok(vocab)
}

/// An added token as the files describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AddedToken {
    content: String,
    single_word: bool,
    /// `None`: as written if the token is special, else normalised.
    normalized: Option<bool>,
    special: bool,
    /// It stood in the file as a string, not as an object; transformers holds the two for
    /// different.
    bare: bool,
}

impl AddedToken {
    fn read(value: &Value) -> Option<Self> {
        if let Value::String(content) = value {
            let content = content.clone();
            return Some(Self {
                content,
                single_word: false,
                normalized: None,
                special: true,
                bare: true,
            });
        }
        let flag = |key| value.get(key).and_then(Value::as_bool);
        Some(Self {
            content: value.get("content")?.as_str()?.to_owned(),
            single_word: flag("single_word").unwrap_or(false),
            normalized: flag("normalized"),
            special: flag("special").unwrap_or(false),
            bare: false,
        })
    }
}

/// What the files say beside the model.
struct Special {
    /// The named tokens' texts.
    named: BTreeMap<String, String>,
    /// In the order in which they get their ids; of several with one text the last counts.
    added: Vec<AddedToken>,
    model_max_length: Option<usize>,
}

impl Special {
    /// `listed` are the added tokens of `tokenizer.json`. As in transformers, a configuration that
    /// has `added_tokens_decoder` (all since 2023) makes the other three sources moot.
    fn read(
        config: Option<&Source>,
        special_map: Option<&Source>,
        added: Option<&Source>,
        listed: Vec<(u64, AddedToken)>,
    ) -> Result<Self> {
        let (mut settings, place) = match config {
            Some(source) => (source.json()?, source.path.display().to_string()),
            None => (Map::new(), "tokenizer_config.json".to_owned()),
        };
        let model_max_length = read_max_length(&settings).map_err(|error| error.within(&place))?;
        for (key, only) in [
            ("padding_side", "right".into()),
            ("truncation_side", "right".into()),
            ("split_special_tokens", Value::Bool(false)),
        ] {
            // Null is false; it is no side.
            let is_off = |value: &Value| value.is_null() && only == Value::Bool(false);
            let found = settings.get(key).filter(|value| **value != only && !is_off(value));
            if let Some(value) = found {
                let what = format!("{place}: {key} is {}", show(value));
                return Err(Failure::new(what).remedy(format!("mote knows {only} alone")));
            }
        }
        if settings.get("extra_special_tokens").is_none_or(is_falsy)
            && let Some(extra) = settings.remove("additional_special_tokens")
        {
            settings.insert("extra_special_tokens".to_owned(), extra);
        }
        let mut decoder = BTreeMap::new();
        if let Some(list) = settings.get("added_tokens_decoder") {
            decoder = read_decoder(list).map_err(|error| error.within(&place))?;
        } else {
            if let Some(source) = special_map {
                merge_special_map(&mut settings, source)?;
            }
            if let Some(source) = added {
                read_added_tokens(&mut decoder, &settings, source)?;
            }
            decoder.extend(listed);
            // Only now: the former name does not make a token of `added_tokens.json` special.
            if !settings.contains_key("extra_special_tokens")
                && let Some(extra) = settings.remove("additional_special_tokens")
            {
                settings.insert("extra_special_tokens".to_owned(), extra);
            }
        }
        let (named, added) = collect(&settings, decoder, &place)?;
        Ok(Self { named, added, model_max_length })
    }
}

/// `added_tokens_decoder`: id to token.
fn read_decoder(list: &Value) -> Result<BTreeMap<u64, AddedToken>> {
    let list = list
        .as_object()
        .ok_or_else(|| Failure::new("added_tokens_decoder is not an object").remedy(AGAIN))?;
    let token = |(id, token): (&String, &Value)| {
        let read = || Some((id.parse::<u64>().ok()?, AddedToken::read(token)?));
        read().ok_or_else(|| {
            let what = format!("added_tokens_decoder: entry {} is not a token", quote(id));
            Failure::new(what).remedy(AGAIN)
        })
    };
    list.iter().map(token).collect()
}

fn is_falsy(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn read_max_length(settings: &Map<String, Value>) -> Result<Option<usize>> {
    let value = settings.get("model_max_length").or_else(|| settings.get("max_len"));
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let Some(number) = value.as_f64().filter(|&number| number >= 2.0) else {
        let what = format!("model_max_length is {}, expected a number from 2", show(value));
        return Err(Failure::new(what).remedy("CLIP's is 77"));
    };
    Ok(value.as_u64().filter(|&n| number.is_finite() && n <= MAX_LENGTH).map(|n| n as usize))
}

/// `special_tokens_map.json` overrides the configuration.
fn merge_special_map(settings: &mut Map<String, Value>, source: &Source) -> Result<()> {
    for (key, mut value) in source.json()? {
        if let Value::Object(token) = &mut value
            && key != "extra_special_tokens"
        {
            token.insert("special".to_owned(), Value::Bool(true));
        }
        settings.insert(key, value);
    }
    Ok(())
}

/// `added_tokens.json`: text to id, the form of before 2023.
fn read_added_tokens(
    decoder: &mut BTreeMap<u64, AddedToken>,
    settings: &Map<String, Value>,
    source: &Source,
) -> Result<()> {
    let named = NAMED.iter().filter_map(|key| settings.get(*key));
    let extra = settings.get("extra_special_tokens").and_then(Value::as_array);
    let special: Vec<AddedToken> =
        named.chain(extra.into_iter().flatten()).filter_map(AddedToken::read).collect();
    for (content, id) in source.json()? {
        let Some(id) = id.as_u64().filter(|&id| id <= MAX_ID) else {
            return Err(bad_id(&source.path, &content, &id));
        };
        let special = special.iter().any(|token| token.content == content);
        let normalized = Some(!special);
        let token = AddedToken { content, single_word: false, normalized, special, bare: false };
        decoder.insert(id, token);
    }
    Ok(())
}

/// The named tokens, and all added tokens in transformers' order: those listed by id, then the
/// named ones, then the extra ones.
fn collect(
    settings: &Map<String, Value>,
    decoder: BTreeMap<u64, AddedToken>,
    place: &str,
) -> Result<(BTreeMap<String, String>, Vec<AddedToken>)> {
    let mut tokens = Vec::new();
    for key in NAMED {
        let value = match (settings.get(key), key) {
            (Some(Value::Null), "bos_token" | "eos_token" | "pad_token") => {
                return Err(Failure::new(format!("{place}: {key} is null"))
                    .remedy("CLIP cannot do without it"));
            }
            (Some(value), _) => value.clone(),
            (None, "bos_token") => "<|startoftext|>".into(),
            (None, "eos_token" | "unk_token" | "pad_token") => "<|endoftext|>".into(),
            (None, _) => Value::Null,
        };
        tokens.push((key.to_owned(), value));
    }
    for (key, value) in settings {
        let own = key.ends_with("_token") && !NAMED.contains(&key.as_str());
        if own && (value.is_string() || value.get("content").is_some()) {
            tokens.push((key.clone(), value.clone()));
        }
    }
    match settings.get("extra_special_tokens") {
        Some(Value::Object(map)) => {
            tokens.extend(map.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        Some(Value::Array(list)) => {
            let key = |i| format!("extra_special_tokens[{i}]");
            tokens.extend(list.iter().enumerate().map(|(i, value)| (key(i), value.clone())));
        }
        _ => {}
    }
    let listed = decoder.len();
    let mut added: Vec<AddedToken> = decoder.into_values().collect();
    let mut named = BTreeMap::new();
    for (key, value) in tokens {
        if value.is_null() {
            continue;
        }
        let token = AddedToken::read(&value).ok_or_else(|| {
            Failure::new(format!("{place}: {key} is {}, expected text", show(&value)))
        })?;
        named.insert(key, token.content.clone());
        let known = added[..listed].iter().any(|other| other.content == token.content);
        if !known && !added.contains(&token) {
            added.push(token);
        }
    }
    for token in &mut added {
        token.special |= named.values().any(|content| *content == token.content);
    }
    Ok((named, added))
}

impl Model {
    /// Gives each added token its id: the vocabulary's, or the next one after it.
    fn add(&mut self, tokens: Vec<AddedToken>) -> Result<()> {
        let mut next = self.vocab.len() as u32;
        for token in tokens {
            if token.content.is_empty() {
                continue;
            }
            let id = match self.id(&token.content) {
                Some(id) => id,
                None => {
                    next += 1;
                    next - 1
                }
            };
            self.added.insert(token.content.clone(), (id, token));
        }
        if u64::from(next) > MAX_ID {
            let place = self.vocab_file.with_file_name("");
            return Err(Failure::new(format!("{}: more than {MAX_ID} tokens", place.display())));
        }
        Ok(())
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.added.get(token).map(|(id, _)| *id).or_else(|| self.vocab.get(token).copied())
    }

    /// Writes the packed table, see [`mote::models::clip_tokenizer`].
    fn pack(&self, named: &BTreeMap<String, String>) -> Result<Vec<u8>> {
        let ids = self.vocab.values().copied().chain(self.added.values().map(|(id, _)| *id));
        let mut header = vec![VERSION, ids.max().map_or(0, |id| id + 1)];
        for key in ["bos_token", "eos_token", "pad_token"] {
            let token = named.get(key).map_or("", String::as_str);
            let id = self.id(token).ok_or_else(|| {
                let (place, token) = (self.vocab_file.display(), quote(token));
                Failure::new(format!("{place}: there is no token {token}, which {key} is"))
                    .remedy("The tokenizer's files do not belong together")
            });
            header.push(id?);
        }
        let base = self.base_tokens(named.get("unk_token").map_or("", String::as_str))?;
        let merges = self.merges()?;
        let added = self.added_tokens()?;
        let added_bytes: usize = added.iter().map(|(_, text, _)| 12 + text.len()).sum();
        header.extend([merges.len(), added.len(), added_bytes].map(|n| n as u32));
        let mut table = MAGIC.to_vec();
        let mut put = |numbers: &[u32]| {
            table.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        };
        put(&header);
        put(&base);
        for ((left, right), (rank, merged)) in merges {
            put(&[left, right, rank, merged]);
        }
        for (flags, text, id) in added {
            table.extend([id, flags, text.len() as u32].iter().flat_map(|n| n.to_le_bytes()));
            table.extend(text.as_bytes());
        }
        Ok(table)
    }

    /// The ids of all bytes inside a word, then at a word's end.
    fn base_tokens(&self, unk: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(512);
        for suffix in ["", END_OF_WORD] {
            for byte in 0..=255 {
                let token = format!("{}{suffix}", byte_char(byte));
                let id = self.vocab.get(&token).or_else(|| self.vocab.get(unk));
                ids.push(*id.ok_or_else(|| {
                    Failure::new(format!(
                        "{}: no token {token:?} for byte {byte}, and unk_token, {}, is not there \
                         either",
                        self.vocab_file.display(),
                        quote(unk)
                    ))
                    .remedy("Is this CLIP's vocabulary?")
                })?);
            }
        }
        Ok(ids)
    }

    /// Left and right to rank and merged id; of several merges of one pair the last counts.
    fn merges(&self) -> Result<BTreeMap<(u32, u32), (u32, u32)>> {
        let mut merges = BTreeMap::new();
        for (rank, Merge { left, right, place }) in self.merges.iter().enumerate() {
            let id = |token: &str| {
                self.vocab.get(token).copied().ok_or_else(|| {
                    Failure::new(format!(
                        "{}, {place}: merges {} and {}, but {} has no token {}",
                        self.merges_file.display(),
                        quote(left),
                        quote(right),
                        self.vocab_file.display(),
                        quote(token)
                    ))
                    .remedy("The two files do not belong together")
                })
            };
            let merged = id(&format!("{left}{right}"))?;
            merges.insert((id(left)?, id(right)?), (rank as u32, merged));
        }
        Ok(merges)
    }

    /// Flags, text and id of the added tokens, in the table's order.
    fn added_tokens(&self) -> Result<Vec<(u32, String, u32)>> {
        let mut list = Vec::new();
        for (id, token) in self.added.values() {
            let normalized = token.normalized.unwrap_or(!token.special);
            let text = if normalized { normalize(&token.content) } else { token.content.clone() };
            let flag = |set, bit| if set { bit } else { 0 };
            let flags = flag(normalized, NORMALIZED) | flag(token.single_word, SINGLE_WORD);
            list.push((flags, text, *id));
        }
        list.sort_by(|a, b| (a.0 & NORMALIZED, &a.1).cmp(&(b.0 & NORMALIZED, &b.1)));
        for pair in list.windows(2) {
            let alike = pair[0].0 & NORMALIZED == pair[1].0 & NORMALIZED && pair[0].1 == pair[1].1;
            if alike {
                let (place, token) = (self.vocab_file.with_file_name(""), quote(&pair[0].1));
                let what = format!("two added tokens are {token} once normalised");
                return Err(Failure::new(format!("{}: {what}", place.display()))
                    .remedy("Leave one of them out"));
            }
        }
        Ok(list)
    }
}

/// The character that stands for a byte in the files (GPT-2's `bytes_to_unicode`): itself where it
/// is visible in Latin-1, else one from U+0100 on.
pub fn byte_char(byte: u8) -> char {
    let visible = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if visible(byte) {
        return char::from(byte);
    }
    let hidden_before = (0..byte).filter(|&b| !visible(b)).count() as u32;
    char::from_u32(256 + hidden_before).unwrap_or(char::REPLACEMENT_CHARACTER)
}
