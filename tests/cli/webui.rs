//! Prompts in the web UIs' syntax.

use mote_tests::cases::{self, pipeline};
use mote_tests::files::{self, levels_apart, str};
use mote_tests::shared;

use crate::command::{drawn, fails, mote, says, text};

const SAID: [&str; 3] = ["--steps=3", "-s=7", "--prompt-syntax=webui"];

/// The picture of a prompt and a negative prompt.
fn picture(prompt: &str, negative: &str) -> Vec<u8> {
    let said = ["-p", prompt, "-n", negative];
    drawn(&pipeline("shared-sd"), &[&SAID[..], &said].concat())
}

#[test]
fn weights_breaks_and_length_change_the_picture_and_plain_words_do_not() {
    let plain = ["-p", "a red cat", "-n", "bad", "--steps=3", "-s=7"];
    let plain = drawn(&pipeline("shared-sd"), &plain);
    assert!(picture("a red cat", "bad") == plain, "as a plain prompt");
    assert!(picture("a (red:1.0) cat", "bad") == plain, "a weight of 1");
    let weighed = picture("a (red:1.8) cat", "bad");
    assert!(weighed != plain && weighed == picture("a (red:1.8 ) cat", "bad"));
    let broken = picture("a red BREAK cat", "bad");
    assert!(broken != plain);
    let long = "a red cat, ".repeat(40);
    assert!(picture(&long, "bad") != picture("a red cat", &long), "either may be the longer");
}

#[test]
fn a_picture_remembers_its_syntax_and_what_cannot_be_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["a.png", "b.png"].map(|name| folder.path().join(name));
    let model = pipeline("shared-sd");
    let line = ["generate", "-m", str(&model), "-p", "(cat:1.4) [a:b:0.5]", "-o", str(&first)];
    let output = mote(&[&line[..], &SAID].concat());
    let said = text(&output.stderr);
    assert!(
        output.status.success() && said.contains("changes no prompt from step to step"),
        "{said}"
    );
    let again = ["generate", "--quiet", "-m", str(&model), "--request", str(&first)];
    says(&[&again[..], &["-o", str(&second)]].concat());
    assert!(files::pixels(&first) == files::pixels(&second));
    let xl = pipeline("sdxl-sizes/model");
    let said = fails(&["plan", "-m", str(&xl), "-p", "a", "--prompt-syntax=webui"]);
    assert!(said.contains("not for Stable Diffusion XL yet"), "{said}");
}

#[test]
fn prompts_weigh_what_they_weigh_in_web_uis() {
    let Some(parent) = shared("goldens") else { return };
    for name in ["prompt-weights", "prompt-long"] {
        let case = parent.join(name);
        let mut arguments = cases::arguments(&case, &case.join("model"));
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a.png");
        let more = ["--quiet", "--prompt-syntax=webui", "-o", str(&out)];
        arguments.extend(more.map(String::from));
        says(&arguments);
        let expected = files::pixels(&case.join("expected_0.png"));
        assert!(levels_apart(&files::pixels(&out), &expected) <= 1, "{name}");
    }
}
