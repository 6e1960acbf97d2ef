//! CLIP's tokenizer against transformers' on hostile texts, and against hostile files and tables.
//! The goldens come from `../golden/tokenizer.py`.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use mote::Error;
use mote::models::clip_tokenizer::{ClipTokenizer, SCRATCH_PER_BYTE, Segment};
use mote_host::Place;
use mote_host::checkpoint::built_in;
use mote_host::tokenizer::{Tokenizer, encode};
use mote_tests::{golden, json, shared};
use serde_json::Value;
use tempfile::TempDir;

const LENGTH: usize = 77;

fn expected() -> Value {
    json(&golden("tokenizer/expected.json"))
}

fn small() -> Tokenizer {
    Tokenizer::from_folder(golden("tokenizer/small")).expect("the small tokenizer is good")
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().expect("a list").iter();
    list.map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// Compares all texts' ids; the goldens leave the padding out.
fn compare(what: &str, tokenizer: &Tokenizer, texts: &[&str], goldens: &Value) {
    let goldens = goldens.as_array().expect("a list");
    assert_eq!(texts.len(), goldens.len());
    let core = tokenizer.core().expect("a good table");
    let mut wrong = 0;
    for (text, golden) in texts.iter().zip(goldens) {
        let mut golden = ids(golden);
        golden.resize(LENGTH, core.pad());
        let found = encode(&core, text, LENGTH).expect("a text is always encoded");
        if found != golden {
            wrong += 1;
            let short: String = text.chars().take(60).collect();
            println!("{what}: {short:?}\n  found    {found:?}\n  expected {golden:?}");
        }
    }
    assert_eq!(wrong, 0, "{what}: {wrong} of {} texts", texts.len());
}

/// A folder with the small vocabulary's `vocab.json` and `merges.txt`, and some files more.
fn folder_with<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(golden("tokenizer/small").join(name), folder.path().join(name)).unwrap();
    }
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// `vocab.json` and `merges.txt` as OpenAI's CLIP builds them from its list of merges.
fn full_folder(list: &Path) -> TempDir {
    let mut text = String::new();
    let file = std::fs::File::open(list).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let merges: Vec<&str> = text.lines().skip(1).take(49152 - 256 - 2).collect();
    let visible = |b: &u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let bytes: Vec<u32> = (0..256).filter(visible).chain(256..256 + 68).collect();
    let bytes: Vec<String> =
        bytes.into_iter().map(|c| char::from_u32(c).unwrap().to_string()).collect();
    let mut vocab = bytes.clone();
    vocab.extend(bytes.iter().map(|c| format!("{c}</w>")));
    vocab.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    vocab.extend(["<|startoftext|>".to_owned(), "<|endoftext|>".to_owned()]);
    assert_eq!(vocab.len(), 49408);
    let folder = TempDir::new().unwrap();
    let map: serde_json::Map<String, Value> =
        vocab.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    std::fs::write(folder.path().join("vocab.json"), Value::Object(map).to_string()).unwrap();
    let lines = format!("#version: 0.2\n{}\n", merges.join("\n"));
    std::fs::write(folder.path().join("merges.txt"), lines).unwrap();
    folder
}

#[test]
fn a_vocabulary_made_of_captions_gives_the_ids_of_transformers() {
    let place = Place::model(Path::new(built_in::NAME)).expect("the model in the program is good");
    let tokenizer = Tokenizer::from_folder(place.join("tokenizer")).expect("so is its tokenizer");
    let core = tokenizer.core().expect("and its table");
    let goldens = json(&golden("tokenizer/trained.json"));
    let goldens = goldens.as_array().expect("a list");
    assert!(goldens.len() > 10);
    for pair in goldens {
        let (text, mut expected) = (pair[0].as_str().expect("a text"), ids(&pair[1]));
        expected.resize(LENGTH, core.pad());
        assert_eq!(encode(&core, text, LENGTH).expect("it is encoded"), expected, "{text:?}");
    }
}

#[test]
fn hostile_texts_have_the_ids_that_transformers_gives_with_a_small_vocabulary() {
    let expected = expected();
    let texts = texts(&expected["texts"]);
    assert!(texts.len() > 1000);
    compare("small", &small(), &texts, &expected["small"]);
}

#[test]
fn hostile_texts_have_the_ids_that_transformers_gives_with_clips_vocabulary() {
    let Some(list) = shared("data/clip/bpe_simple_vocab_16e6.txt.gz") else { return };
    let folder = full_folder(&list);
    let begin = Instant::now();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    println!("table of {} bytes built in {:?}", tokenizer.table().len(), begin.elapsed());
    let core = tokenizer.core().unwrap();
    assert_eq!(
        (core.vocab_size(), core.bos(), core.eos(), core.pad()),
        (49408, 49406, 49407, 49407)
    );
    let expected = expected();
    compare("full", &tokenizer, &texts(&expected["texts"]), &expected["full"]);

    let prompt = "a highly detailed photograph, of an astronaut riding a horse on mars; ".repeat(6);
    let (mut out, mut scratch) = ([0; LENGTH], [0; SCRATCH_PER_BYTE * 64]);
    let begin = Instant::now();
    for _ in 0..1000 {
        assert_eq!(core.encode(&prompt, &mut out, &mut scratch), Ok(LENGTH));
    }
    println!("a prompt of 77 tokens: {:?}", begin.elapsed() / 1000);
    let begin = Instant::now();
    ClipTokenizer::new(tokenizer.table()).unwrap();
    println!("the table checked in {:?}", begin.elapsed());
}

#[test]
fn conformance_prompts_have_their_ids() {
    let expected = expected();
    let cases = expected["conformance"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    let tokenizer = small();
    for case in cases {
        let prompt = case["prompt"].as_str().unwrap();
        assert_eq!(tokenizer.encode(prompt).unwrap(), ids(&case["ids"]), "{prompt}");
    }
}

#[test]
fn configurations_of_all_ages_are_read_as_transformers_reads_them() {
    let expected = expected();
    let texts = texts(&expected["config_texts"]);
    for case in expected["configs"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let files: Vec<(String, String)> = case["files"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, content)| (name.clone(), content.to_string()))
            .collect();
        let folder = folder_with(files.iter().map(|(n, c)| (n.as_str(), c.as_bytes())));
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        assert_eq!(u64::from(tokenizer.core().unwrap().pad()), case["pad"], "{name}");
        compare(name, &tokenizer, &texts, &case["ids"]);
    }
}

#[test]
fn both_forms_of_the_files_give_the_same_table() {
    let small = small();
    assert_eq!(small.model_max_length(), Some(77));
    let config = std::fs::read(golden("tokenizer/small/tokenizer_config.json")).unwrap();
    let folder = folder_with([("tokenizer_config.json", config.as_slice())]);
    let other = Tokenizer::from_folder(folder.path()).unwrap();
    let words = ["<|startoftext|>", "it's the <|endoftext|> <|STARTOFTEXT|> end"];
    for text in words {
        assert_eq!(other.encode(text).unwrap(), small.encode(text).unwrap());
    }
    assert_eq!(other.table(), small.table());
    assert_eq!(Tokenizer::from_table(other.table().to_vec()).unwrap().table(), small.table());
}

#[test]
fn a_length_that_is_not_a_length_is_not_taken() {
    let length = |text: &str| {
        let config = format!("{{\"model_max_length\": {text}}}");
        let folder = folder_with([("tokenizer_config.json", config.as_bytes())]);
        Tokenizer::from_folder(folder.path()).map(|tokenizer| tokenizer.model_max_length())
    };
    assert_eq!(length("1000000000000000019884624838656").unwrap(), None);
    assert_eq!(length("null").unwrap(), None);
    assert_eq!(length("64").unwrap(), Some(64));
    for bad in ["-1", "0", "1", "\"77\"", "[]"] {
        assert!(length(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_long_word_takes_scratch_and_one_entry_less_is_an_error() {
    let tokenizer = small();
    let core = tokenizer.core().unwrap();
    let mut out = [0; LENGTH];
    for word in ["a".repeat(100_000), "the".repeat(30_000), "\u{6771}".repeat(20_000)] {
        let text = format!("a {word}");
        let mut scratch = vec![0; core.scratch_len(&text)];
        assert_eq!(scratch.len(), word.len() * SCRATCH_PER_BYTE);
        let begin = Instant::now();
        core.encode(&text, &mut out, &mut scratch).unwrap();
        println!("a word of {} bytes: {:?}", word.len(), begin.elapsed());
        let (needed, limit) = (scratch.len(), scratch.len() - 1);
        let found = core.encode(&text, &mut out, &mut scratch[1..]);
        let what = "scratch of the tokenizer";
        assert_eq!(found, Err(Error::Capacity { what, needed, limit }));
    }
}

#[test]
fn a_word_merges_as_if_by_a_plain_search_for_the_lowest_rank() {
    // Merges by hand over the small vocabulary, without any of the tokenizer's machinery.
    let file = std::fs::read_to_string(golden("tokenizer/small/merges.txt")).unwrap();
    let merges: Vec<(&str, &str)> =
        file.lines().skip(1).filter_map(|l| l.split_once(' ')).collect();
    let vocab = json(&golden("tokenizer/small/vocab.json"));
    let tokenizer = small();
    let mut state = 7_u32;
    for _ in 0..300 {
        let mut symbols: Vec<String> = Vec::new();
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for _ in 0..=next() % 40 {
            symbols.push(char::from(b"thesraniodltcmup"[next() as usize % 16]).to_string());
        }
        let word: String = symbols.concat();
        symbols.last_mut().unwrap().push_str("</w>");
        let pair_rank =
            |pair: &[String]| merges.iter().position(|(a, b)| *a == pair[0] && *b == pair[1]);
        while let Some((_, at)) = symbols
            .windows(2)
            .enumerate()
            .filter_map(|(at, pair)| Some((pair_rank(pair)?, at)))
            .min()
        {
            let right = symbols.remove(at + 1);
            symbols[at].push_str(&right);
        }
        let hand: Vec<u32> =
            symbols.iter().map(|symbol| vocab[symbol].as_u64().unwrap() as u32).collect();
        let found = encode(&tokenizer.core().unwrap(), &word, 64).unwrap();
        assert_eq!(found[1..=hand.len()], hand, "{word}");
    }
}

#[test]
fn the_shortest_sequence_is_bos_and_eos_and_nothing_is_shorter() {
    let tokenizer = small();
    let core = tokenizer.core().unwrap();
    let mut scratch = [0; 64];
    assert_eq!(core.encode("a cat", &mut [0; 2], &mut scratch), Ok(2));
    for len in 0..2 {
        let found = core.encode("", &mut vec![0; len], &mut scratch);
        let what = "token ids";
        assert_eq!(found, Err(Error::Capacity { what, needed: 2, limit: len }));
    }
    assert_eq!(core.encode("", &mut [0; 9], &mut []), Ok(2));
}

#[test]
fn segments_are_the_text_without_its_added_tokens() {
    let tokenizer = small();
    let core = tokenizer.core().unwrap();
    let found: Vec<Segment> = core.segments("a<|endoftext|><|endoftext|\u{e9}").collect();
    let expected =
        [Segment::Text("a"), Segment::Added(core.eos()), Segment::Text("<|endoftext|\u{e9}")];
    assert_eq!(found, expected);
    assert_eq!(core.segments("").count(), 0);
}

#[test]
fn a_damaged_table_is_refused_or_read_but_never_a_panic() {
    let added = br#"{"<Dog>": 1000, "\u00e9t": 1001, "house": 1002}"#.as_slice();
    let folder = folder_with([("added_tokens.json", added)]);
    let good = Tokenizer::from_folder(folder.path()).unwrap().table().to_vec();
    let text =
        "The <dog>'s h\u{e9}t\u{130} <|endoftext|> <|STARTOFTEXT|> 12 \u{6771}\u{4eac}! house";
    let (mut out, mut scratch) = ([0; LENGTH], [0; 256]);
    let mut refused = 0;
    let mut attempt = |table: &[u8]| match ClipTokenizer::new(table) {
        Ok(core) => {
            let used = core.encode(text, &mut out, &mut scratch).unwrap();
            assert!(used <= LENGTH && out.iter().all(|&id| (id as usize) < core.vocab_size()));
            false
        }
        Err(Error::Format { .. }) => true,
        Err(other) => panic!("{other}"),
    };
    assert!(!attempt(&good));
    for len in 0..good.len() {
        assert!(attempt(&good[..len]), "cut to {len}");
    }
    let mut bad = good.clone();
    bad.push(0);
    assert!(attempt(&bad), "one byte more");
    let mut bad = good.clone();
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            bad[at] ^= flip;
            refused += usize::from(attempt(&bad));
            bad[at] = good[at];
        }
    }
    assert!(refused > good.len() / 4, "{refused}");
}

/// The whole sentence of a refusal.
fn refusal(files: &[(&str, &[u8])]) -> String {
    let folder = folder_with(files.iter().copied());
    let error = Tokenizer::from_folder(folder.path()).expect_err("these files are refused");
    let sentence = format!("{error:#}");
    println!("{sentence}");
    sentence
}

#[test]
fn bad_files_are_refused_with_the_place_and_the_reason() {
    let cases: [(&str, &[u8], &[&str]); 17] = [
        (
            "merges.txt",
            b"#version: 0.2\nt h\nth\n",
            &["merges.txt, line 3", "two tokens", "\"th\""],
        ),
        ("merges.txt", b"t h\nt  h\n", &["line 2", "one space"]),
        ("merges.txt", b"t \n", &["line 1", "missing"]),
        ("merges.txt", b"t h\n\n", &["line 2", "two tokens"]),
        ("merges.txt", b"t zzzzz\n", &["line 1", "vocab.json has no token"]),
        ("merges.txt", b"t h\n\xff\xfe\n", &["merges.txt, line 2", "not UTF-8"]),
        ("vocab.json", b"", &["vocab.json", "is empty"]),
        ("vocab.json", b"{\"a\": 1,\n \"b\"}", &["vocab.json", "line 2"]),
        ("vocab.json", b"[]", &["vocab.json", "object"]),
        ("vocab.json", b"{\"a\": -1}", &["token \"a\"", "-1", "from 0 to"]),
        ("vocab.json", b"{\"a\": 1.5}", &["1.5"]),
        ("vocab.json", b"{\"a\": 4294967296}", &["4294967296"]),
        ("vocab.json", b"{\"a\": 7, \"b\": 7}", &["\"a\" and \"b\" share the id 7"]),
        ("vocab.json", b"{\"a\": 0}", &["byte 0", "unk_token"]),
        ("vocab.json", b"{\"\\ud800\": 0}", &["vocab.json", "not JSON", "line 1 column"]),
        (
            "tokenizer.json",
            b"{\"model\": {\"type\": \"Unigram\"}}",
            &["tokenizer.json", "model.type is \"Unigram\""],
        ),
        ("tokenizer.json", b"{}", &["tokenizer.json", "model"]),
    ];
    for (name, content, words) in cases {
        let sentence = refusal(&[(name, content)]);
        for word in words {
            assert!(sentence.contains(word), "{sentence:?} does not say {word:?}");
        }
    }
}

#[test]
fn bad_configurations_are_refused_with_the_place_and_the_reason() {
    let cases: [(&str, &[&str]); 9] = [
        ("{\"pad_token\": null}", &["tokenizer_config.json", "pad_token is null"]),
        ("{\"bos_token\": 7}", &["bos_token is 7"]),
        ("{\"eos_token\": \"\"}", &["vocab.json", "no token \"\"", "eos_token"]),
        ("{\"padding_side\": \"left\"}", &["padding_side", "left"]),
        ("{\"truncation_side\": 1}", &["truncation_side"]),
        ("{\"split_special_tokens\": true}", &["split_special_tokens"]),
        ("{\"added_tokens_decoder\": {\"x\": {}}}", &["added_tokens_decoder", "\"x\""]),
        ("{\"added_tokens_decoder\": 3}", &["added_tokens_decoder"]),
        (
            "{\"added_tokens_decoder\": {\"1\": {\"content\": \"AB\", \"normalized\": true},
          \"2\": {\"content\": \"ab\", \"normalized\": true}}}",
            &["\"ab\" once normalised"],
        ),
    ];
    for (content, words) in cases {
        let sentence = refusal(&[("tokenizer_config.json", content.as_bytes())]);
        for word in words {
            assert!(sentence.contains(word), "{sentence:?} does not say {word:?}");
        }
    }
    let deep = "[".repeat(100_000);
    refusal(&[("tokenizer_config.json", deep.as_bytes())]);
    refusal(&[("special_tokens_map.json", b"[1]")]);
    refusal(&[("added_tokens.json", b"{\"a b\": \"x\"}")]);
}

#[test]
fn missing_files_are_named() {
    let folder = TempDir::new().unwrap();
    let sentence = format!("{:#}", Tokenizer::from_folder(folder.path()).unwrap_err());
    assert!(sentence.contains("no vocab.json"), "{sentence}");
    let file = folder.path().join("tokenizer.json");
    std::fs::create_dir(&file).unwrap();
    assert!(Tokenizer::from_folder(folder.path()).is_err());
}
