//! A panic, as the command line meets one: from the thread that asks and from a worker of the pool,
//! while a file is being written. It must become a failure, and leave what was there as it was.

use std::fs;
use std::path::Path;
use std::process::Command;

use mote::exec::Executor;
use mote_cli::guard::guarded;
use mote_host::error::{FAULT, Failure, Result};
use mote_host::executor::Pool;
use mote_host::image::png::PngWriter;
use mote_host::stop::Stop;
use mote_host::write::FileWriter;

use crate::command::text;

/// Is set in a process that carries out one test.
const ALONE: &str = "MOTE_TEST_ALONE";

/// Carries out a test of this file in a process of its own: while one keeps panics quiet, the whole
/// process does, and of another test that fails beside it nobody would hear why.
fn alone(name: &str, test: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let program = std::env::current_exe().expect("this program has a path");
    let arguments = ["--exact", &format!("faults::{name}"), "--nocapture"];
    let output = Command::new(program).args(arguments).env(ALONE, "").output().expect("it runs");
    let [said, error] = [&output.stdout, &output.stderr].map(|bytes| text(bytes));
    assert!(output.status.success() && said.contains(" 1 passed"), "{said}\n{error}");
}

fn failure(work: impl FnOnce() -> Result<()>) -> Failure {
    guarded(work).expect_err("the work panics")
}

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    fs::read_dir(folder).unwrap().map(|e| name(e).into_string().unwrap()).collect()
}

fn is_a_request_for_a_report(failure: &Failure, said: &str) {
    let text = failure.to_string();
    assert_eq!(failure.code(), FAULT, "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(&format!("{said} ({}:", file!())), "{text}");
    for word in ["report", "command line", "mote --version", "mote inspect", "lscpu"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn a_panic_of_the_calling_thread_is_a_failure_that_asks_for_a_report() {
    alone("a_panic_of_the_calling_thread_is_a_failure_that_asks_for_a_report", || {
        let failure = failure(|| panic!("range end index {}\n out of range", 2304));
        is_a_request_for_a_report(&failure, "range end index 2304 out of range");
    });
}

#[test]
fn a_panic_of_a_worker_is_the_same_failure_and_the_pool_ends() {
    alone("a_panic_of_a_worker_is_the_same_failure_and_the_pool_ends", || {
        for workers in [1, 2, 5] {
            let failure = failure(|| {
                let pool = Pool::new(workers).unwrap();
                pool.run(100, &|index, _| assert!(index != 73, "row {index}"));
                Ok(())
            });
            is_a_request_for_a_report(&failure, "row 73");
        }
    });
}

#[test]
fn what_was_being_written_is_taken_away_and_what_was_there_stays() {
    alone("what_was_being_written_is_taken_away_and_what_was_there_stays", || {
        let folder = tempfile::tempdir().unwrap();
        let [picture, model] = ["a.png", "b.safetensors"].map(|name| folder.path().join(name));
        for path in [&picture, &model] {
            fs::write(path, "as it was").unwrap();
        }
        let failure = failure(|| {
            let stop = Stop::default();
            let mut png = PngWriter::begin(Some(&picture), [2, 3], "", &stop)?;
            let mut file = FileWriter::begin(Some(&model), &stop)?;
            png.row(&[0; 6])?;
            file.write(&[0; 1 << 16])?;
            assert_eq!(names(folder.path()).len(), 4, "both are being written");
            Pool::new(3).unwrap().run(9, &|index, _| assert!(index != 8, "the last"));
            png.end()?;
            file.end()
        });
        is_a_request_for_a_report(&failure, "the last");
        let mut left = names(folder.path());
        left.sort();
        assert_eq!(left, ["a.png", "b.safetensors"]);
        for path in [&picture, &model] {
            assert_eq!(fs::read_to_string(path).unwrap(), "as it was");
        }
    });
}

#[test]
fn a_failure_passes_through_and_a_success_is_one() {
    alone("a_failure_passes_through_and_a_success_is_one", || {
        assert_eq!(guarded(|| Ok(())), Ok(()));
        let wrong = Failure::new("no");
        assert_eq!(guarded(|| Err(Failure::new("no"))), Err(wrong));
    });
}

#[test]
fn the_program_that_is_shipped_unwinds_and_firmware_aborts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let profile = |file: &str| {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let release = text.split("[profile.release]").nth(1).unwrap().to_string();
        release.split("\n[").next().unwrap().to_string()
    };
    assert!(!profile("Cargo.toml").contains("panic"), "a panic must unwind to become a sentence");
    assert!(profile("tests/firmware/Cargo.toml").contains("panic = \"abort\""));
}
