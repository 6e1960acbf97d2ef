//! CLIP's byte-pair tokenizer, read in place from a packed table.
//!
//! Text becomes the ids that transformers' `CLIPTokenizer` gives: added tokens are found, the rest
//! is lower-cased, split into words, and each word's bytes are merged pair by pair (Sennrich et
//! al., arXiv:1508.07909; bytes as in GPT-2). The table is a run of bytes that may lie in flash;
//! the host builds it from the checkpoint's files. Unicode's composition (NFC) needs tables and
//! memory of its own and is left to the host, see [`ClipTokenizer::segments`]. Letters and numbers
//! are those of `unicode-properties`, white space and lower case those of `core`. They agree with
//! tokenizers 0.23.3 on every character of Unicode 16; newer letters and numbers it takes for
//! punctuation.
//!
//! # The packed table
//! All numbers are little-endian `u32`, nothing is aligned.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | [`MAGIC`] |
//! | 4 | [`VERSION`] |
//! | 4 × 4 | vocabulary size (the largest id + 1), ids of `bos`, `eos` and `pad` |
//! | 3 × 4 | number of merges, number of added tokens, bytes that the added tokens take |
//! | 512 × 4 | the id of each byte inside a word, then of each byte at a word's end |
//! | 16 each | merges, ascending by (left, right), no two alike: left, right, rank, merged id |
//! | 12 + n each | added tokens, ascending by (bit 0 of flags, text), unlike: id, flags, n, text |
//!
//! Flags: bit 0, the token is sought in the normalised text; bit 1, it must be a word of its own.

use core::str::Chars;

use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::{Error, Result};

/// The first bytes of a packed table.
pub const MAGIC: [u8; 8] = *b"moteclip";

/// The version of the packed table's layout.
pub const VERSION: u32 = 1;

/// Flag of an added token: it is sought in the normalised text, not in the text as written.
pub const NORMALIZED: u32 = 1;

/// Flag of an added token: it counts only where no word character touches it.
pub const SINGLE_WORD: u32 = 2;

/// Bytes before the base tokens.
const HEADER_BYTES: usize = 8 + 8 * 4;

/// Each byte inside a word, and each byte at a word's end.
const BASE_TOKENS: usize = 2 * 256;

/// Left, right, rank, merged id.
const MERGE_BYTES: usize = 4 * 4;

/// Id, flags, length of the text.
const ADDED_HEADER_BYTES: usize = 3 * 4;

/// Entries of scratch that a word takes for each of its bytes: id, link, rank and winner.
pub const SCRATCH_PER_BYTE: usize = 4;

/// The rank of a pair that does not merge.
const NO_MERGE: u32 = u32::MAX;

/// These two stay one piece in the text whatever the added tokens are; the byte-level step then
/// splits them where letters begin and end.
const LITERALS: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// What may follow an apostrophe to make a piece; the first that fits counts.
const CONTRACTIONS: [&str; 7] = ["s", "t", "re", "ve", "m", "ll", "d"];

/// A part of a text, see [`ClipTokenizer::segments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'t> {
    /// An added token was found as written: its id.
    Added(u32),
    /// Text still to be normalised and split; never empty.
    Text(&'t str),
}

/// The tokenizer: a view on a packed table.
#[derive(Clone, Copy)]
pub struct ClipTokenizer<'a> {
    vocab_size: u32,
    bos: u32,
    eos: u32,
    pad: u32,
    base: &'a [u8],
    merges: &'a [u8],
    /// Added tokens sought in the text as written, then those sought in the normalised text.
    added: [&'a [u8]; 2],
    /// For each of the two: the set of bytes that a token begins with.
    first: [[u32; 8]; 2],
}

impl<'a> ClipTokenizer<'a> {
    /// Checks a packed table and wraps it. Costs one pass over the table.
    ///
    /// # Errors
    /// [`Error::Format`] where the bytes are not a packed table of this [`VERSION`] that is sorted,
    /// complete, and free of ids beyond its vocabulary.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() < HEADER_BYTES + BASE_TOKENS * 4 {
            return Err(format("tokenizer table cut short", bytes.len()));
        }
        if bytes[..8] != MAGIC {
            return Err(format("not a tokenizer table", 0));
        }
        let header = |i: usize| u32_at(bytes, 8 + i * 4);
        if header(0) != VERSION {
            return Err(format("tokenizer table of another version", 8));
        }
        let [vocab_size, bos, eos, pad] = [1, 2, 3, 4].map(header);
        let base_end = HEADER_BYTES + BASE_TOKENS * 4;
        let sizes = (header(5) as usize)
            .checked_mul(MERGE_BYTES)
            .and_then(|n| n.checked_add(base_end))
            .and_then(|n| Some((n, n.checked_add(header(7) as usize)?)));
        let Some((merges_end, end)) = sizes else {
            return Err(format("tokenizer table's sizes overflow", 28));
        };
        if bytes.len() != end {
            return Err(format(
                "tokenizer table's length is not what its header says",
                bytes.len(),
            ));
        }
        for (i, id) in [bos, eos, pad].into_iter().enumerate() {
            if id >= vocab_size {
                return Err(format("special token beyond the vocabulary", 16 + i * 4));
            }
        }
        check_base(bytes, vocab_size)?;
        check_merges(bytes, base_end, merges_end, vocab_size)?;
        let (split, first) = check_added(bytes, merges_end, header(6), vocab_size)?;
        Ok(Self {
            vocab_size,
            bos,
            eos,
            pad,
            base: &bytes[HEADER_BYTES..base_end],
            merges: &bytes[base_end..merges_end],
            added: [&bytes[merges_end..split], &bytes[split..]],
            first,
        })
    }

    /// The largest id + 1: entries that an embedding table needs.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size as usize
    }

    /// The id that every sequence begins with.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The id that ends every text.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The id that fills what the text leaves.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Entries of scratch that suffice for [`ClipTokenizer::encode`]: [`SCRATCH_PER_BYTE`] for each
    /// byte of the longest word, in UTF-8 and lower-cased.
    pub fn scratch_len(&self, text: &str) -> usize {
        let lengths = self.segments(text).map(|segment| match segment {
            Segment::Added(_) => 0,
            Segment::Text(text) => self.segment_scratch_len(text),
        });
        lengths.max().unwrap_or(0)
    }

    /// Entries of scratch that suffice for [`Encoder::text`], which takes `text` as one segment.
    pub fn segment_scratch_len(&self, text: &str) -> usize {
        let lengths = Parts::new(self, text).map(|part| match part {
            Part::Added(_) => 0,
            Part::Word(piece) => piece.bytes,
        });
        lengths.max().unwrap_or(0).saturating_mul(SCRATCH_PER_BYTE)
    }

    /// Takes the added tokens that are sought in the text as written out of `text`.
    ///
    /// A host that composes characters (NFC) does so on each [`Segment::Text`] by itself, as
    /// transformers does, and hands the parts to an [`Encoder`] in order.
    pub fn segments<'t>(&self, text: &'t str) -> Segments<'a, 't> {
        Segments { tokenizer: *self, text, at: 0, search: 0 }
    }

    /// Begins a sequence in `out`, which is as long as the sequence is to be, usually 77.
    ///
    /// # Errors
    /// [`Error::Capacity`] if `out` has no room for `bos` and `eos`.
    pub fn encoder<'o>(&self, out: &'o mut [u32]) -> Result<Encoder<'a, 'o>> {
        if out.len() < 2 {
            return Err(Error::Capacity { what: "token ids", needed: 2, limit: out.len() });
        }
        out[0] = self.bos;
        Ok(Encoder { tokenizer: *self, out, len: 1 })
    }

    /// Writes `bos`, the ids of `text`, `eos`, and padding to the end of `out`; what does not fit
    /// is cut off before `eos`. Returns how many ids come before the padding. `text` is composed
    /// (NFC) already, as plain ASCII always is. Gives up no later than at the first word that `out`
    /// has no room for. Time: `O(n log n)` in the bytes of a word.
    ///
    /// ```
    /// # fn f(table: &[u8]) -> mote::Result<()> {
    /// use mote::models::clip_tokenizer::ClipTokenizer;
    /// let tokenizer = ClipTokenizer::new(table)?;
    /// let (mut ids, mut scratch) = ([0; 77], [0; 4 * 64]);
    /// let used = tokenizer.encode("a photo of a cat", &mut ids, &mut scratch)?;
    /// # let _ = used; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Capacity`] if `out` is shorter than 2, or `scratch` is too short for a word that is
    /// reached: [`ClipTokenizer::scratch_len`] always suffices.
    pub fn encode(&self, text: &str, out: &mut [u32], scratch: &mut [u32]) -> Result<usize> {
        let mut encoder = self.encoder(out)?;
        for segment in self.segments(text) {
            match segment {
                Segment::Added(id) => encoder.push(id),
                Segment::Text(text) => encoder.text(text, scratch)?,
            }
        }
        Ok(encoder.finish())
    }

    /// The rank and the merged id of a pair.
    fn merge(&self, left: u32, right: u32) -> (u32, u32) {
        let (mut low, mut high) = (0, self.merges.len() / MERGE_BYTES);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = &self.merges[middle * MERGE_BYTES..][..MERGE_BYTES];
            match (u32_at(entry, 0), u32_at(entry, 4)).cmp(&(left, right)) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
                core::cmp::Ordering::Equal => return (u32_at(entry, 8), u32_at(entry, 12)),
            }
        }
        (NO_MERGE, 0)
    }

    /// Whether an added token of this kind (0 as written, 1 normalised) begins with `byte`.
    fn may_begin(&self, kind: usize, byte: u8) -> bool {
        self.first[kind][usize::from(byte / 32)] >> (byte % 32) & 1 == 1
    }

    /// The longest added token of this kind whose text is a prefix, as `is_prefix` tells.
    fn longest_added(&self, kind: usize, is_prefix: impl Fn(&[u8]) -> bool) -> Option<Added<'a>> {
        Added::all(self.added[kind])
            .filter(|token| is_prefix(token.text))
            .max_by_key(|token| token.text.len())
    }
}

/// The iterator of [`ClipTokenizer::segments`].
pub struct Segments<'a, 't> {
    tokenizer: ClipTokenizer<'a>,
    text: &'t str,
    /// All before this byte has been handed out.
    at: usize,
    /// Where to look for the next added token: beyond `at` after a match that did not count.
    search: usize,
}

impl<'t> Iterator for Segments<'_, 't> {
    type Item = Segment<'t>;

    fn next(&mut self) -> Option<Segment<'t>> {
        let bytes = self.text.as_bytes();
        while self.search < bytes.len() {
            let start = self.search;
            let token = if self.tokenizer.may_begin(0, bytes[start]) {
                self.tokenizer.longest_added(0, |text| bytes[start..].starts_with(text))
            } else {
                None
            };
            let Some(token) = token else {
                self.search += 1;
                continue;
            };
            // A token's text is whole UTF-8, so a match begins and ends between characters.
            let end = start + token.text.len();
            let before = self.text[..start].chars().next_back();
            let after = self.text[end..].chars().next();
            if token.single_word && (before.is_some_and(is_word) || after.is_some_and(is_word)) {
                self.search = end;
                continue;
            }
            if self.at < start {
                let text = &self.text[self.at..start];
                self.at = start;
                return Some(Segment::Text(text));
            }
            (self.at, self.search) = (end, end);
            return Some(Segment::Added(token.id));
        }
        let rest = &self.text[self.at..];
        self.at = self.text.len();
        (!rest.is_empty()).then_some(Segment::Text(rest))
    }
}

/// A sequence in the making, see [`ClipTokenizer::encoder`].
pub struct Encoder<'a, 'o> {
    tokenizer: ClipTokenizer<'a>,
    out: &'o mut [u32],
    /// Ids written.
    len: usize,
}

impl Encoder<'_, '_> {
    /// Appends one id; dropped if there is no room left.
    pub fn push(&mut self, id: u32) {
        if !self.is_full() {
            self.out[self.len] = id;
            self.len += 1;
        }
    }

    /// Whether only the place of `eos` is left: nothing that follows can change the sequence.
    pub fn is_full(&self) -> bool {
        self.len + 1 >= self.out.len()
    }

    /// Appends the ids of a composed (NFC) [`Segment::Text`].
    ///
    /// # Errors
    /// [`Error::Capacity`] if `scratch` is too short for a word that is reached:
    /// [`ClipTokenizer::segment_scratch_len`] always suffices.
    pub fn text(&mut self, text: &str, scratch: &mut [u32]) -> Result<()> {
        let tokenizer = self.tokenizer;
        for part in Parts::new(&tokenizer, text) {
            if self.is_full() {
                break;
            }
            match part {
                Part::Added(id) => self.push(id),
                Part::Word(piece) => self.word(piece, scratch)?,
            }
        }
        Ok(())
    }

    /// Ends the sequence: `eos`, then padding. Returns how many ids come before the padding.
    pub fn finish(self) -> usize {
        self.out[self.len] = self.tokenizer.eos;
        self.out[self.len + 1..].fill(self.tokenizer.pad);
        self.len + 1
    }

    /// Appends the ids of one word.
    fn word(&mut self, piece: Piece<'_>, scratch: &mut [u32]) -> Result<()> {
        let n = piece.bytes;
        let needed = n.saturating_mul(SCRATCH_PER_BYTE);
        // A position is a u32, and one value of it marks an absent pair.
        if needed > scratch.len() || n >= NO_MERGE as usize {
            let limit = scratch.len();
            return Err(Error::Capacity { what: "scratch of the tokenizer", needed, limit });
        }
        let (ids, rest) = scratch.split_at_mut(n);
        let (link, rest) = rest.split_at_mut(n);
        let (rank, rest) = rest.split_at_mut(n);
        let mut at = 0;
        let mut cursor = piece.start;
        while at < n {
            let Some(c) = cursor.next() else { break };
            for &byte in c.encode_utf8(&mut [0; 4]).as_bytes() {
                let last = usize::from(at + 1 == n);
                ids[at] = u32_at(self.tokenizer.base, (last * 256 + usize::from(byte)) * 4);
                at += 1;
            }
        }
        Word { tokenizer: &self.tokenizer, ids, link, rank, winner: &mut rest[..n] }.merge_all();
        let mut at = 0;
        while at < n && !self.is_full() {
            let (id, last) = (scratch[at], scratch[n + at]);
            self.push(id);
            at = last as usize + 1;
        }
        Ok(())
    }
}

/// A word's symbols, each a run of its bytes, and a tournament that finds the pair to merge next:
/// the one of lowest rank, leftmost of equals. A plain scan for it would take `n` steps a merge,
/// and a prompt of one long word would never end; a queue would need room for pairs that are gone.
struct Word<'s, 'a> {
    tokenizer: &'s ClipTokenizer<'a>,
    /// At a symbol's first byte: its id.
    ids: &'s mut [u32],
    /// At a symbol's first byte: where its last is. At its last byte: where its first is.
    link: &'s mut [u32],
    /// At a symbol's first byte: the rank of the pair it makes with the next symbol.
    rank: &'s mut [u32],
    /// The inner nodes `1..n` of a tree whose node `n + i` is the leaf of byte `i`; the children of
    /// node `i` are `2i` and `2i + 1`. Each holds the byte that wins among its leaves.
    winner: &'s mut [u32],
}

impl Word<'_, '_> {
    fn merge_all(&mut self) {
        let n = self.ids.len();
        for i in 0..n {
            self.link[i] = i as u32;
        }
        for i in 0..n {
            self.rank[i] = self.pair(i).0;
        }
        for node in (1..n).rev() {
            self.play(node);
        }
        if n < 2 {
            return;
        }
        loop {
            let left = self.winner[1] as usize;
            if self.rank[left] == NO_MERGE {
                return;
            }
            self.merge(left);
        }
    }

    /// Merges the symbol at `left` with the one after it.
    fn merge(&mut self, left: usize) {
        let right = self.link[left] as usize + 1;
        let last = self.link[right] as usize;
        self.ids[left] = self.pair(left).1;
        (self.link[left], self.link[last]) = (last as u32, left as u32);
        self.set_rank(right, NO_MERGE);
        self.set_rank(left, self.pair(left).0);
        if left > 0 {
            let before = self.link[left - 1] as usize;
            self.set_rank(before, self.pair(before).0);
        }
    }

    /// The rank and the merged id of the pair that begins at `left`.
    fn pair(&self, left: usize) -> (u32, u32) {
        match self.ids.get(self.link[left] as usize + 1) {
            Some(&right) => self.tokenizer.merge(self.ids[left], right),
            None => (NO_MERGE, 0),
        }
    }

    fn set_rank(&mut self, at: usize, rank: u32) {
        self.rank[at] = rank;
        let mut node = (at + self.ids.len()) / 2;
        while node > 0 {
            self.play(node);
            node /= 2;
        }
    }

    /// Lets the children of an inner node play for it.
    fn play(&mut self, node: usize) {
        let n = self.ids.len();
        let [a, b] = [2 * node, 2 * node + 1]
            .map(|child| if child < n { self.winner[child] as usize } else { child - n });
        let a_wins = (self.rank[a], a) < (self.rank[b], b);
        self.winner[node] = if a_wins { a } else { b } as u32;
    }
}

/// A part of a normalised text.
enum Part<'t> {
    /// The id of an added token.
    Added(u32),
    Word(Piece<'t>),
}

/// A piece of the text between two cuts, to be merged byte by byte.
struct Piece<'t> {
    start: Cursor<'t>,
    /// Its length in UTF-8.
    bytes: usize,
}

/// Splits a text into words and the added tokens that are sought in normalised text.
struct Parts<'s, 'a, 't> {
    tokenizer: &'s ClipTokenizer<'a>,
    cursor: Cursor<'t>,
    /// The next added token: where it begins, its id, and what follows it.
    added: Option<(usize, u32, Cursor<'t>)>,
}

impl<'s, 'a, 't> Parts<'s, 'a, 't> {
    fn new(tokenizer: &'s ClipTokenizer<'a>, text: &'t str) -> Self {
        let cursor =
            Cursor { chars: text.chars(), pending: None, at: 0, before: None, literal_end: 0 };
        Self { tokenizer, added: cursor.next_added(tokenizer), cursor }
    }
}

impl<'t> Iterator for Parts<'_, '_, 't> {
    type Item = Part<'t>;

    fn next(&mut self) -> Option<Part<'t>> {
        let limit = self.added.as_ref().map_or(usize::MAX, |&(start, ..)| start);
        if let Some(piece) = self.cursor.piece(limit) {
            return Some(Part::Word(piece));
        }
        let (_, id, after) = self.added.take()?;
        self.added = after.next_added(self.tokenizer);
        self.cursor = after;
        Some(Part::Added(id))
    }
}

/// Walks over a text's characters, normalised but for composition: each run of white space is one
/// space, all else is lower-cased character by character (no final sigma).
#[derive(Clone)]
struct Cursor<'t> {
    chars: Chars<'t>,
    /// What is left of a character that has several in lower case.
    pending: Option<core::char::ToLowercase>,
    /// Characters handed out.
    at: usize,
    /// The character handed out last.
    before: Option<char>,
    /// Where the last of [`LITERALS`] that was found ends, counted as `at` is.
    literal_end: usize,
}

impl Iterator for Cursor<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let c = match self.pending.as_mut().and_then(Iterator::next) {
            Some(c) => c,
            None => self.fresh()?,
        };
        self.at += 1;
        self.before = Some(c);
        Some(c)
    }
}

impl<'t> Cursor<'t> {
    /// The first normalised character of the next one in the text.
    fn fresh(&mut self) -> Option<char> {
        let c = self.chars.next()?;
        if c.is_ascii() && !c.is_ascii_whitespace() && c != '\x0b' {
            return Some(c.to_ascii_lowercase());
        }
        if c.is_whitespace() {
            let rest = self.chars.as_str().trim_start();
            self.chars = rest.chars();
            return Some(' ');
        }
        let mut lower = c.to_lowercase();
        let first = lower.next();
        self.pending = (lower.len() > 0).then_some(lower);
        first
    }

    /// Steps over `text` if it comes next.
    fn step_over(&mut self, text: &[u8]) -> bool {
        let mut ahead = self.clone();
        let mut rest = text;
        while !rest.is_empty() {
            let Some(c) = ahead.next() else { return false };
            match rest.strip_prefix(c.encode_utf8(&mut [0; 4]).as_bytes()) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        *self = ahead;
        true
    }

    /// The next added token sought in normalised text: where it begins, its id, what follows it.
    fn next_added(&self, tokenizer: &ClipTokenizer<'_>) -> Option<(usize, u32, Self)> {
        if tokenizer.added[1].is_empty() {
            return None;
        }
        let mut cursor = self.clone();
        loop {
            let here = cursor.clone();
            let c = cursor.next()?;
            if !tokenizer.may_begin(1, c.encode_utf8(&mut [0; 4]).as_bytes()[0]) {
                continue;
            }
            let Some(token) = tokenizer.longest_added(1, |text| here.clone().step_over(text))
            else {
                continue;
            };
            let mut after = here.clone();
            after.step_over(token.text);
            let next = after.clone().next();
            if token.single_word && (here.before.is_some_and(is_word) || next.is_some_and(is_word))
            {
                cursor = after;
                continue;
            }
            return Some((here.at, token.id, after));
        }
    }

    /// The next word before character `limit`.
    ///
    /// transformers splits by
    /// `<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+`,
    /// drops what does not match (white space), and splits each match again by GPT-2's
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, which changes
    /// only the first two: into `<|`, letters, `|>`.
    fn piece(&mut self, limit: usize) -> Option<Piece<'t>> {
        while self.take_class(Class::Space, limit).is_some() {}
        if self.at >= limit {
            return None;
        }
        if self.at >= self.literal_end {
            let literal = LITERALS.iter().find(|text| self.clone().step_over(text.as_bytes()));
            let end = self.at + literal.map_or(0, |text| text.len());
            if end <= limit {
                self.literal_end = end;
            }
        }
        let limit = if self.at < self.literal_end { self.literal_end } else { limit };
        let start = self.clone();
        let first = self.next()?;
        if first == '\'' {
            let end = CONTRACTIONS.iter().find(|text| {
                text.len() <= limit - self.at && self.clone().step_over(text.as_bytes())
            });
            if let Some(end) = end {
                self.step_over(end.as_bytes());
                return Some(Piece { start, bytes: 1 + end.len() });
            }
        }
        let class = Class::of(first);
        let mut bytes = first.len_utf8();
        while class != Class::Number
            && let Some(c) = self.take_class(class, limit)
        {
            bytes += c.len_utf8();
        }
        Some(Piece { start, bytes })
    }

    /// Steps over the next character if it comes before `limit` and is of this class.
    fn take_class(&mut self, class: Class, limit: usize) -> Option<char> {
        let mut ahead = self.clone();
        let c = ahead.next().filter(|&c| self.at < limit && Class::of(c) == class)?;
        *self = ahead;
        Some(c)
    }
}

/// What a normalised character is to the split into words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Letter,
    Number,
    Other,
}

impl Class {
    fn of(c: char) -> Self {
        match c {
            ' ' => Class::Space,
            'a'..='z' => Class::Letter,
            '0'..='9' => Class::Number,
            '\0'..='\x7f' => Class::Other,
            _ => match c.general_category_group() {
                GeneralCategoryGroup::Letter => Class::Letter,
                GeneralCategoryGroup::Number => Class::Number,
                _ => Class::Other,
            },
        }
    }
}

/// Whether a regular expression's `\w` matches: UTS #18, annex C.
fn is_word(c: char) -> bool {
    c.is_alphabetic()
        || matches!(c, '\u{200c}' | '\u{200d}')
        || c.general_category_group() == GeneralCategoryGroup::Mark
        || matches!(
            c.general_category(),
            GeneralCategory::DecimalNumber | GeneralCategory::ConnectorPunctuation
        )
}

/// An added token in the table. Stripping of white space beside it (`lstrip`, `rstrip`) is left
/// out: white space gives no ids.
struct Added<'a> {
    id: u32,
    flags: u32,
    single_word: bool,
    text: &'a [u8],
}

impl<'a> Added<'a> {
    /// Those in a run of bytes; the run ends early where it is malformed.
    fn all(mut bytes: &'a [u8]) -> impl Iterator<Item = Self> {
        core::iter::from_fn(move || {
            let (header, rest) = bytes.split_at_checked(ADDED_HEADER_BYTES)?;
            let (text, rest) = rest.split_at_checked(u32_at(header, 8) as usize)?;
            bytes = rest;
            let flags = u32_at(header, 4);
            Some(Self { id: u32_at(header, 0), flags, single_word: flags & SINGLE_WORD != 0, text })
        })
    }

    /// The bytes it takes in the table.
    fn len(&self) -> usize {
        ADDED_HEADER_BYTES + self.text.len()
    }
}

/// The little-endian number at a byte. The caller knows that it is there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn format(what: &'static str, at: usize) -> Error {
    Error::Format { what, at }
}

fn check_base(bytes: &[u8], vocab_size: u32) -> Result<()> {
    for i in 0..BASE_TOKENS {
        let at = HEADER_BYTES + i * 4;
        if u32_at(bytes, at) >= vocab_size {
            return Err(format("byte token beyond the vocabulary", at));
        }
    }
    Ok(())
}

fn check_merges(bytes: &[u8], start: usize, end: usize, vocab_size: u32) -> Result<()> {
    let mut before = None;
    for at in (start..end).step_by(MERGE_BYTES) {
        let [left, right, rank, merged] = [0, 4, 8, 12].map(|i| u32_at(bytes, at + i));
        if left >= vocab_size || right >= vocab_size || merged >= vocab_size {
            return Err(format("merge beyond the vocabulary", at));
        }
        if rank == NO_MERGE {
            return Err(format("merge with an impossible rank", at));
        }
        if before >= Some((left, right)) {
            return Err(format("merges out of order", at));
        }
        before = Some((left, right));
    }
    Ok(())
}

/// Checks the added tokens; returns where those for normalised text begin, and what bytes each kind
/// begins with.
fn check_added(
    bytes: &[u8],
    start: usize,
    count: u32,
    vocab_size: u32,
) -> Result<(usize, [[u32; 8]; 2])> {
    let (mut at, mut split, mut found) = (start, bytes.len(), 0_u32);
    let mut first = [[0; 8]; 2];
    let mut before: Option<(u32, &[u8])> = None;
    for token in Added::all(&bytes[start..]) {
        let kind = token.flags & NORMALIZED;
        if token.id >= vocab_size {
            return Err(format("added token beyond the vocabulary", at));
        }
        if token.flags & !(NORMALIZED | SINGLE_WORD) != 0 {
            return Err(format("added token with unknown flags", at + 4));
        }
        if core::str::from_utf8(token.text).is_err() {
            return Err(format("added token that is not UTF-8", at));
        }
        let Some(&byte) = token.text.first() else {
            return Err(format("added token without text", at));
        };
        if before >= Some((kind, token.text)) {
            return Err(format("added tokens out of order", at));
        }
        before = Some((kind, token.text));
        if kind == NORMALIZED {
            split = split.min(at);
        }
        first[kind as usize][usize::from(byte / 32)] |= 1 << (byte % 32);
        at += token.len();
        found += 1;
    }
    if at != bytes.len() || found != count {
        return Err(format("added tokens cut short", at));
    }
    Ok((split, first))
}
