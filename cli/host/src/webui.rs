//! Prompts as the web UIs read them: weights by brackets, and texts of any length in chunks.

/// A round bracket makes what it holds so much stronger, a square one so much weaker.
const BRACKET: f64 = 1.1;

/// What begins a new chunk.
const BREAK: &str = "BREAK";

/// A full chunk is cut behind its last comma, where that is not more than so many tokens back.
const BACKTRACK: usize = 20;

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// A text, and how much it counts.
    Text(String, f64),
    /// A new chunk begins.
    Break,
}

/// The parts of a prompt: `(x)`, `[x]`, `(x:1.3)`, nested ones multiplied; `\(` is a bracket; one
/// that is not closed reaches to the end.
pub fn parse(text: &str) -> Vec<Part> {
    let (mut parts, mut round, mut square) = (Vec::new(), Vec::new(), Vec::new());
    let weigh = |parts: &mut Vec<Part>, from: usize, factor: f64| {
        for part in parts.iter_mut().skip(from) {
            if let Part::Text(_, weight) = part {
                *weight *= factor;
            }
        }
    };
    let mut rest = text;
    while let Some(sign) = rest.chars().next() {
        let mut taken = sign.len_utf8();
        match sign {
            '\\' => {
                let next = rest[1..].chars().next().filter(|c| r"\()[]".contains(*c));
                taken += next.map_or(0, char::len_utf8);
                parts.push(Part::Text(rest[1..taken].into(), 1.0));
            }
            '(' => round.push(parts.len()),
            '[' => square.push(parts.len()),
            ')' if !round.is_empty() => {
                weigh(&mut parts, round.pop().unwrap_or_default(), BRACKET);
            }
            ']' if !square.is_empty() => {
                weigh(&mut parts, square.pop().unwrap_or_default(), 1.0 / BRACKET);
            }
            ':' if !round.is_empty() && weight(rest).is_some() => {
                let (factor, length) = weight(rest).unwrap_or((1.0, 1));
                weigh(&mut parts, round.pop().unwrap_or_default(), factor);
                taken = length;
            }
            ')' | ']' | ':' => parts.push(Part::Text(sign.into(), 1.0)),
            _ => {
                taken = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                push_text(&mut parts, &rest[..taken]);
            }
        }
        rest = &rest[taken..];
    }
    round.into_iter().for_each(|from| weigh(&mut parts, from, BRACKET));
    square.into_iter().for_each(|from| weigh(&mut parts, from, 1.0 / BRACKET));
    joined(parts)
}

/// The number of `:1.3)`, and how long that is.
fn weight(text: &str) -> Option<(f64, usize)> {
    let inner = text.strip_prefix(':')?;
    let end = inner.find(')')?;
    let number = inner[..end].trim();
    let is_number = number.chars().all(|c| c.is_ascii_digit() || "+-.".contains(c));
    let value = number.parse::<f64>().ok().filter(|value| is_number && value.is_finite())?;
    Some((value, end + 2))
}

/// A text without signs, but perhaps with breaks.
fn push_text(parts: &mut Vec<Part>, text: &str) {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut begin = 0;
    for (at, _) in text.match_indices(BREAK) {
        let (before, behind) = (&text[..at], &text[at + BREAK.len()..]);
        let touches = before.chars().next_back().is_some_and(is_word)
            || behind.chars().next().is_some_and(is_word);
        if touches || at < begin {
            continue;
        }
        parts.push(Part::Text(text[begin..at].trim_end().into(), 1.0));
        parts.push(Part::Break);
        begin = at + BREAK.len() + (behind.len() - behind.trim_start().len());
    }
    parts.push(Part::Text(text[begin..].into(), 1.0));
}

/// Texts of one weight that follow each other are one, and empty ones are none.
fn joined(parts: Vec<Part>) -> Vec<Part> {
    let mut all: Vec<Part> = Vec::new();
    for part in parts {
        match (all.last_mut(), part) {
            (Some(Part::Text(text, own)), Part::Text(more, weight)) if *own == weight => {
                text.push_str(&more);
            }
            (_, part) => all.push(part),
        }
    }
    all.retain(|part| !matches!(part, Part::Text(text, _) if text.is_empty()));
    all
}

/// Chunks of tokens, each with its begin, end and padding.
pub struct Chunks {
    size: usize,
    comma: Option<u32>,
    bos: u32,
    eos: u32,
    pad: u32,
    /// The chunk that is being filled, and where its last comma lies.
    open: Vec<(u32, f32)>,
    last_comma: Option<usize>,
    ids: Vec<u32>,
    weights: Vec<f32>,
}

impl Chunks {
    /// Of so many tokens, begin and end among them.
    pub fn new(size: usize, comma: Option<u32>, [bos, eos, pad]: [u32; 3]) -> Self {
        let (open, ids, weights) = Default::default();
        let size = size.saturating_sub(2).max(1);
        Self { size, comma, bos, eos, pad, open, last_comma: None, ids, weights }
    }

    /// A token that counts so much.
    pub fn push(&mut self, id: u32, weight: f32) {
        let is_full = self.open.len() == self.size;
        if Some(id) == self.comma {
            self.last_comma = Some(self.open.len());
        } else if let Some(comma) = self.last_comma.filter(|_| is_full)
            && self.open.len() - comma <= BACKTRACK
        {
            let moved = self.open.split_off(comma + 1);
            self.close();
            self.open = moved;
        }
        if self.open.len() == self.size {
            self.close();
        }
        self.open.push((id, weight));
    }

    /// The vectors of one word, which are not parted.
    pub fn push_word(&mut self, ids: &[u32], weight: f32) {
        if self.open.len() + ids.len() > self.size && ids.len() <= self.size {
            self.close();
        }
        ids.iter().for_each(|&id| self.push(id, weight));
    }

    /// Ends the chunk.
    pub fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.last_comma = None;
        let count = open.len();
        self.ids.push(self.bos);
        self.ids.extend(open.iter().map(|(id, _)| id));
        self.ids.push(self.eos);
        self.ids.extend(std::iter::repeat_n(self.pad, self.size - count));
        self.weights.push(1.0);
        self.weights.extend(open.iter().map(|(_, weight)| weight));
        self.weights.extend(std::iter::repeat_n(1.0, self.size - count + 1));
    }

    /// All ids and weights; one chunk at least.
    pub fn end(mut self) -> (Vec<u32>, Vec<f32>) {
        if !self.open.is_empty() || self.ids.is_empty() {
            self.close();
        }
        (self.ids, self.weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(String, f64)> {
        let part = |part| match part {
            Part::Text(text, weight) => (text, weight),
            Part::Break => (BREAK.into(), 0.0),
        };
        parse(text).into_iter().map(part).collect()
    }

    #[test]
    fn brackets_weigh_what_they_hold() {
        let of = |pairs: &[(&str, f64)]| -> Vec<(String, f64)> {
            pairs.iter().map(|&(text, weight)| (text.into(), weight)).collect()
        };
        for (text, parts) in [
            ("plain", vec![("plain", 1.0)]),
            ("a (b) c", vec![("a ", 1.0), ("b", 1.1), (" c", 1.0)]),
            ("((b))", vec![("b", 1.1 * 1.1)]),
            ("[b", vec![("b", 1.0 / 1.1)]),
            ("(b:1.5)c", vec![("b", 1.5), ("c", 1.0)]),
            ("b:1.5)", vec![("b:1.5)", 1.0)]),
            ("(b:x)", vec![("b:x", 1.1)]),
            (r"\(b\) c\\", vec![(r"(b) c\", 1.0)]),
            ("a BREAK b", vec![("a", 1.0), ("BREAK", 0.0), ("b", 1.0)]),
            ("BREAKFAST", vec![("BREAKFAST", 1.0)]),
            ("(a:2)(b:2)", vec![("ab", 2.0)]),
            ("", vec![]),
        ] {
            assert_eq!(texts(text), of(&parts), "{text}");
        }
    }

    #[test]
    fn a_full_chunk_is_cut_behind_its_last_comma() {
        let mut chunks = Chunks::new(7, Some(9), [1, 2, 3]);
        [5, 9, 6, 7, 8, 4].into_iter().for_each(|id| chunks.push(id, 1.5));
        let (ids, weights) = chunks.end();
        assert_eq!(ids, [1, 5, 9, 2, 3, 3, 3, 1, 6, 7, 8, 4, 2, 3]);
        assert_eq!(weights[..4], [1.0, 1.5, 1.5, 1.0]);
        let (ids, _) = Chunks::new(5, None, [1, 2, 3]).end();
        assert_eq!(ids, [1, 2, 3, 3, 3]);
    }
}
