//! The binary as tests run it: what it says, and the one sentence with which it fails.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Output};

use mote_tests::files::{pixels, str};
use serde_json::Value;

/// The binary, to be given arguments.
pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mote"))
}

/// The binary where no file may grow beyond so many blocks: as if the disk were full after them.
#[cfg(unix)]
pub fn program_on_a_full_disk(blocks: u32) -> Command {
    let mut command = Command::new("sh");
    let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    command.args(["-c", &limited, env!("CARGO_BIN_EXE_mote")]);
    command
}

/// What comes of a run.
pub fn mote(arguments: &[impl AsRef<OsStr>]) -> Output {
    program().args(arguments).output().expect("the binary runs")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the binary speaks UTF-8")
}

/// Standard output and standard error of a run that succeeds.
pub fn says_both(arguments: &[impl AsRef<OsStr>]) -> [String; 2] {
    let output = mote(arguments);
    let said = [&output.stdout, &output.stderr].map(|bytes| text(bytes));
    let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
    assert!(output.status.success(), "{arguments:?}: {}", said[1]);
    said
}

/// Standard output of a run that succeeds.
pub fn says(arguments: &[impl AsRef<OsStr>]) -> String {
    let [said, _] = says_both(arguments);
    said
}

/// Standard output of a run that succeeds, which is JSON.
pub fn reports(arguments: &[impl AsRef<OsStr>]) -> Value {
    let said = says(arguments);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// The pixels that `generate` makes with a model.
pub fn drawn(model: &Path, more: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let out = folder.path().join("a.png");
    says(&[&["generate", "--quiet", "-m", str(model), "-o", str(&out)], more].concat());
    pixels(&out)
}

/// The one sentence on standard error of a run that fails.
pub fn fails(arguments: &[impl AsRef<OsStr>]) -> String {
    sentence(&mote(arguments))
}

/// The one sentence of a run that failed and has written nothing else.
pub fn sentence(output: &Output) -> String {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(output.stdout.is_empty(), "it wrote {}", text(&output.stdout));
    assert!(error.starts_with("error: ") && error.lines().count() == 1, "{error}");
    error
}

/// What a run that is asked for in a wrong way says of it.
pub fn misused(arguments: &[impl AsRef<OsStr>]) -> String {
    let output = mote(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.starts_with("error: ") && output.stdout.is_empty(), "{error}");
    error
}

/// Sends a signal, as `kill` names it, to a run.
#[cfg(unix)]
pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([name, &pid]).status().expect("there is `kill`");
    assert!(sent.success(), "{name} is sent");
}
