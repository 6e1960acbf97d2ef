//! Textual inversion: words with vectors of their own.

use std::fs;
use std::path::Path;

use mote_tests::cases::{self, pipeline};
use mote_tests::files::{self, RawTensor, levels_apart, of_tensors, str, tensors};
use mote_tests::shared;
use serde_json::json;

use crate::command::{drawn, fails, mote, says, text};

fn tensor(name: &str, shape: &[usize], values: &[f32]) -> RawTensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    (name.into(), json!({ "dtype": "F32", "shape": shape }), bytes)
}

/// The shared model's own vectors of these tokens, in a file.
fn vectors(file: &Path, name: &str, ids: &[usize]) -> usize {
    let encoder = fs::read(pipeline("shared-sd/text_encoder/model.safetensors")).unwrap();
    let table = tensors(&encoder).into_iter();
    let (_, told, bytes) =
        table.into_iter().find(|(name, ..)| name.contains("token_embedding")).unwrap();
    let width = told["shape"][1].as_u64().unwrap() as usize;
    let size = bytes.len() / told["shape"][0].as_u64().unwrap() as usize;
    let rows: Vec<u8> = ids.iter().flat_map(|id| bytes[id * size..][..size].to_vec()).collect();
    let told = json!({ "dtype": told["dtype"], "shape": [ids.len(), width] });
    fs::write(file, of_tensors(&[(name.into(), told, rows)])).unwrap();
    width
}

const SAID: [&str; 2] = ["--steps=3", "-s=7"];

#[test]
fn a_word_is_its_vectors_wherever_the_weights_lie() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("thing.safetensors");
    let model = pipeline("shared-sd");
    let picture = |model: &Path, prompt: &str, more: &[&str]| {
        drawn(model, &[&SAID[..], &["-p", prompt], more].concat())
    };
    // The vectors of "a": the word then is what the letter is.
    let plain = picture(&model, "x a y", &[]);
    let id = (0..600).find(|&id| {
        vectors(&file, "emb_params", &[id]);
        let given = format!("--embedding={}:<Thing>", file.display());
        picture(&model, "x <thing> y", &[&given]) == plain
    });
    let id = id.expect("one of the tokens is that letter");
    let given = format!("--embedding={}:<Thing>", file.display());
    assert!(picture(&model, "x<thing>y", &[&given]) == picture(&model, "x a y", &[&given]));
    for dtype in ["f32", "bf16"] {
        let packed = folder.path().join(format!("{dtype}.safetensors"));
        let dtype = format!("--type={dtype}");
        says(&["convert", "--quiet", "-m", str(&model), &dtype, "-o", str(&packed)]);
        let found = picture(&packed, "x <thing> y", &[&given]);
        assert!(found == picture(&packed, "x a y", &[]), "{dtype}");
        assert!(found == picture(&model, "x <thing> y", &[&given, &dtype]), "{dtype} on the way");
    }
    vectors(&file, "<word>", &[id, id]);
    let given = format!("--embedding={}", file.display());
    let found = picture(&model, "x <WORD> y", &[&given]);
    assert!(found == picture(&model, "x a a y", &[]), "two vectors, and the file's own word");
    let dir = format!("--embd-dir={}", folder.path().display());
    let found = picture(&model, "x Thing y", &[&dir]);
    assert!(found == picture(&model, "x a a y", &[]), "found by its file's name");
    let out = folder.path().join("a.png");
    let line = ["generate", "-m", str(&model), "-p", "x", "--steps=1", "-o", str(&out), &given];
    let output = mote(&line);
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("no text holds \"<word>\""), "{said}");
}

#[test]
fn what_is_no_textual_inversion_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("thing.safetensors");
    let width = vectors(&file, "emb_params", &[5]);
    let model = pipeline("shared-sd");
    let whole = fs::read(&file).unwrap();
    let row = vec![0.5; width];
    let nan = vec![f32::NAN; width];
    let many = vec![0.5; 76 * width];
    for (bytes, says) in [
        (whole[..whole.len() - 8].to_vec(), "cannot be used"),
        (of_tensors(&[]), "holds 0 tensors"),
        (of_tensors(&[tensor("a", &[1], &[0.5])]), "are 1 wide"),
        (of_tensors(&[tensor("a", &[1, 1, width], &row)]), "no list of vectors"),
        (of_tensors(&[tensor("a", &[76, width], &many)]), "no list of vectors"),
        (of_tensors(&[tensor("a", &[width], &nan)]), "no number"),
        (of_tensors(&[tensor("a", &[width], &row), tensor("b", &[width], &row)]), "2 tensors"),
    ] {
        fs::write(&file, bytes).unwrap();
        let given = format!("--embedding={}", file.display());
        let said = fails(&["plan", "-m", str(&model), "-p", "a", &given]);
        assert!(said.contains(says), "{said}");
    }
    let said = fails(&["plan", "-m", str(&model), "-p", "a", "--embedding=gone.safetensors"]);
    assert!(said.contains("gone.safetensors"), "{said}");
    let given = format!("--embedding={}", file.display());
    let said = fails(&["bench", "-m", str(&model), &given]);
    assert!(said.contains("--embedding has no meaning here"), "{said}");
}

#[test]
fn a_word_of_three_vectors_draws_what_diffusers_draws() {
    let Some(parent) = shared("goldens") else { return };
    let case = parent.join("textual-inversion");
    let told = mote_tests::json(&case.join("args.json"));
    let mut arguments = cases::arguments(&case, &case.join("model"));
    for word in told["textual_inversion"].as_array().unwrap() {
        let file = case.join(word["file"].as_str().unwrap());
        arguments.push(format!(
            "--embedding={}:{}",
            file.display(),
            word["token"].as_str().unwrap()
        ));
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.png");
    arguments.extend(["--quiet".into(), format!("-o={}", out.display())]);
    says(&arguments);
    let expected = files::pixels(&case.join("expected_0.png"));
    assert!(levels_apart(&files::pixels(&out), &expected) <= 1);
}
