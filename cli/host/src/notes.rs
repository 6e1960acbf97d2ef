//! What people are told about a request that is carried out, but not in all it says: a prompt that
//! is cut, signs that other programs understand, options without an effect, words that the model in
//! the program was never told.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use mote::models::clip_tokenizer::ClipTokenizer;

use crate::checkpoint::built_in;
use crate::error::Result;
use crate::types::PromptSyntax;
use crate::types::{Choice, Type};
use crate::{size, tokenizer};

/// The most signs, names or words that a note lists.
const MAX_LISTED: usize = 3;

/// The longest text that a note quotes.
const MAX_QUOTED: usize = 100;

/// A word that is longer is cut within: scripts without blanks make a text of one word.
const LONG_WORD: usize = 40;

/// The style that a caption of the model in the program may end with.
const STYLE: &str = "3d";

/// A text as it is quoted in a note: one line, and not for ever.
fn quoted(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("“{}…”", &text[..end]),
        None => format!("“{text}”"),
    }
}

/// Texts with commas and, before the last, `and`; of many, how many more there are.
fn listed(texts: &[String]) -> String {
    if texts.len() > MAX_LISTED {
        let more = texts.len() - MAX_LISTED;
        return format!("{} and {more} more", texts[..MAX_LISTED].join(", "));
    }
    match texts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Tells which words of a text are left out, where it has more than `length` tokens. `what` is what
/// the text is called.
///
/// # Errors
/// If `length` is below 2.
pub fn cut(
    tokenizer: &ClipTokenizer<'_>,
    what: &str,
    text: &str,
    length: usize,
) -> Result<Option<String>> {
    let fits = |text: &str| -> Result<bool> {
        Ok(tokenizer::used(tokenizer, text, length + 1)? <= length)
    };
    if fits(text)? {
        return Ok(None);
    }
    let begins = |(at, c): (usize, char)| {
        let before = text[..at].chars().next_back().is_none_or(char::is_whitespace);
        (before && !c.is_whitespace()).then_some(at)
    };
    let words: Vec<usize> = text.char_indices().filter_map(begins).collect();
    // The first words fit, the later do not: the first that is not whole begins what is left out.
    let (mut whole, mut cut) = (0, words.len());
    while cut - whole > 1 {
        let middle = whole.midpoint(cut);
        match fits(&text[..words[middle]])? {
            true => whole = middle,
            false => cut = middle,
        }
    }
    let mut at = words.get(whole).copied().unwrap_or(0);
    let word = text[at..].split_whitespace().next().unwrap_or_default();
    if word.chars().count() > LONG_WORD {
        let ends = word.char_indices().map(|(end, _)| at + end);
        let ends: Vec<usize> = ends.collect();
        let (mut whole, mut cut) = (0, ends.len());
        while cut - whole > 1 {
            let middle = whole.midpoint(cut);
            match fits(&text[..ends[middle]])? {
                true => whole = middle,
                false => cut = middle,
            }
        }
        at = ends[whole];
    }
    Ok(Some(format!(
        "the {what} is longer than the {length} tokens that the text encoder takes, and this is \
         left out: {}",
        quoted(&text[at..])
    )))
}

/// Tells how many captions have more than `length` tokens, which is all that the text encoder
/// takes, and the first of them.
///
/// # Errors
/// If `length` is below 2.
pub fn cut_captions(
    tokenizer: &ClipTokenizer<'_>,
    captions: impl Iterator<Item = String>,
    length: usize,
) -> Result<Option<String>> {
    let (mut count, mut all, mut first) = (0, 0, None);
    for caption in captions {
        all += 1;
        if tokenizer::used(tokenizer, &caption, length + 1)? > length {
            count += 1;
            first.get_or_insert(caption);
        }
    }
    Ok(first.map(|first| {
        format!(
            "{count} of {all} captions are longer than the {length} tokens that the text encoder \
             takes, and the rest of them is left out; the first is {}",
            quoted(&first)
        )
    }))
}

/// Tells of signs that other programs understand and mote reads as words: in plain prompts all of
/// them, in a web UI's syntax those that change a prompt from step to step.
pub fn signs(texts: &[&str], syntax: PromptSyntax) -> Option<String> {
    let is_plain = syntax == PromptSyntax::Plain;
    let changes = |sign: &&str| sign.starts_with('[') && !sign.starts_with("[[");
    let mut found: Vec<String> = Vec::new();
    for text in texts {
        for sign in signs_of(text).into_iter().filter(|sign| is_plain || changes(sign)) {
            let sign = quoted(sign);
            if !found.contains(&sign) {
                found.push(sign);
            }
        }
    }
    let plural =
        if found.len() == 1 { "is read as plain words" } else { "are read as plain words" };
    let remedy = match is_plain {
        true => {
            "weights, breaks and long prompts want --prompt-syntax webui, and a LoRA --lora or \
             --lora-dir"
        }
        false => "mote changes no prompt from step to step",
    };
    (!found.is_empty()).then(|| format!("{} {plural}: {remedy}", listed(&found)))
}

/// The web UIs' signs in a text: `<lora:x:0.8>`, `(x:1.3)`, `((x))`, `[a:b:0.5]`, `[a|b]`, `BREAK`.
fn signs_of(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let is_number = |text: &str| text.trim().parse::<f32>().is_ok();
    for (open, c) in text.char_indices() {
        let (close, sign): (char, &dyn Fn(&str) -> bool) = match c {
            '<' => ('>', &|inner: &str| {
                let kind = inner.split_once(':').map_or("", |(kind, _)| kind);
                ["lora", "lyco", "hypernet", "embedding"].contains(&kind)
            }),
            '(' => (')', &|inner: &str| {
                inner.rsplit_once(':').is_some_and(|(_, weight)| is_number(weight))
                    || inner.starts_with('(')
            }),
            '[' => (']', &|inner: &str| {
                inner.rsplit_once(':').is_some_and(|(_, when)| is_number(when))
                    || inner.starts_with('[')
                    || inner.contains('|')
            }),
            _ => continue,
        };
        let Some(length) = text[open..].find(close) else { continue };
        let inner = &text[open + 1..open + length];
        // Of brackets in brackets the inner ones are looked at by themselves.
        let is_inner = !inner.get(1..).is_some_and(|inner| inner.contains(c));
        if is_inner && sign(inner) {
            found.push(&text[open..=open + length]);
        }
    }
    let words = text.split(|c: char| c.is_whitespace() || c == ',');
    found.extend(words.filter(|word| ["BREAK", "AND"].contains(word)));
    found
}

/// Tells that a conversion on the way in can be done once.
pub fn convert_once(model: &Path, to: Type, took: Duration) -> String {
    let (shown, dtype) = (model.display(), to.name());
    let stem = model.file_name().unwrap_or_default().to_string_lossy();
    let stem = stem.strip_suffix(".safetensors").unwrap_or(&stem);
    format!(
        "converted in {}; to do so once: mote convert -m {shown} --type {dtype} -o \
         {stem}-{dtype}.safetensors",
        size::clock(took.as_secs_f64())
    )
}

/// The words of a text, in small letters.
fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’');
    words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// Tells of words that no name has on which the model in the program was trained; or, where a
/// prompt is a part of names and none itself, of some that have it.
pub fn unknown(prompt: &str) -> Option<String> {
    let named: Vec<(&str, Vec<String>)> =
        built_in::names().map(|name| (name, words(name))).collect();
    let known: BTreeSet<&str> =
        named.iter().flat_map(|(_, words)| words).map(String::as_str).collect();
    let is_colour = |word: &str| built_in::COLOURS.contains(&word);
    let mut seen = BTreeSet::new();
    let mut asked = words(prompt);
    asked.retain(|word| word != STYLE && seen.insert(word.clone()));
    let is_known = |word: &str| known.contains(word) || is_colour(word);
    let strange = asked.iter().filter(|word| !is_known(word)).map(|word| quoted(word));
    let strange: Vec<String> = strange.collect();
    let all = "`mote inspect` lists them all";
    match strange.as_slice() {
        [] => {}
        [word] => {
            return Some(format!(
                "no name on which the model in the program was trained has the word {word}; {all}"
            ));
        }
        several => {
            return Some(format!(
                "no name on which the model in the program was trained has the words {}; {all}",
                listed(several)
            ));
        }
    }
    let plain = |words: &[String]| -> Vec<String> {
        words.iter().filter(|word| !is_colour(word)).cloned().collect()
    };
    // A name in another colour is as good; one of which the colour is left out is not.
    let bare = plain(&asked);
    let is_name =
        |words: &[String]| words == asked || asked.len() > bare.len() && plain(words) == bare;
    if bare.is_empty() || named.iter().any(|(_, words)| is_name(words)) {
        return None;
    }
    let has_all = |words: &[String]| asked.iter().all(|word| words.contains(word));
    let near = named.iter().filter(|(_, words)| has_all(words)).map(|(name, _)| quoted(name));
    let near: Vec<String> = near.collect();
    (!near.is_empty()).then(|| {
        format!(
            "{} by itself is no name on which the model in the program was trained: it knows {}; \
             {all}",
            quoted(prompt),
            listed(&near)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_other_programs_are_found_and_plain_brackets_are_not() {
        for (text, found) in [
            ("cat <lora:detail:0.8> (blue:1.3)", vec!["<lora:detail:0.8>", "(blue:1.3)"]),
            ("((best)) cat", vec!["((best)"]),
            ("[cat:dog:0.5] BREAK a house", vec!["[cat:dog:0.5]", "BREAK"]),
            ("[cat|dog] AND a tree", vec!["[cat|dog]", "AND"]),
            ("a (red (apple:1.2) here)", vec!["(apple:1.2)"]),
            ("a cat (sitting), 3:1 [sic] <3 :-) break and a < b > c", vec![]),
            ("(time: noon) at 10:30 (", vec![]),
            ("ü(ö:1.5)ä", vec!["(ö:1.5)"]),
        ] {
            assert_eq!(signs_of(text), found, "{text}");
        }
        assert_eq!(signs(&["a cat", ""], PromptSyntax::Plain), None);
        let note = signs(&["(a:1) (b:1)", "(a:1) (c:1) (d:1)"], PromptSyntax::Plain).unwrap();
        assert!(note.starts_with("“(a:1)”, “(b:1)”, “(c:1)” and 1 more are read as"), "{note}");
    }

    #[test]
    fn the_model_in_the_program_says_which_words_it_was_never_told() {
        for prompt in ["red apple", "red apple, 3d", "Blue Heart", "green apple", "pizza", "3d", ""]
        {
            assert_eq!(unknown(prompt), None, "{prompt}");
        }
        let note = unknown("a lighthouse at dusk").unwrap();
        assert!(note.contains("“lighthouse”") && note.contains("mote inspect"), "{note}");
        let note = unknown("apple").unwrap();
        assert!(note.contains("“red apple”"), "{note}");
    }

    #[test]
    fn what_is_quoted_is_one_line_and_not_for_ever() {
        assert_eq!(quoted("a\n b\u{1b}[31m"), "“a b[31m”");
        assert_eq!(quoted(&"ä".repeat(1000)).chars().count(), MAX_QUOTED + 3);
    }

    #[test]
    fn a_conversion_names_the_command_that_does_it_once() {
        let note = convert_once(Path::new("models/sd15"), Type::Int8, Duration::from_secs(95));
        let command = "mote convert -m models/sd15 --type int8 -o sd15-int8.safetensors";
        assert!(note.contains("1 min 35 s") && note.ends_with(command), "{note}");
    }
}
