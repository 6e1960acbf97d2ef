//! That pages and scripts say what is: the projects on the page for firmware are the folders that
//! are built and run, and the scripts name what this machine lacks.

mod header;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What lies between the fences of a page.
fn blocks(page: &str) -> Vec<String> {
    let (mut blocks, mut open) = (Vec::new(), None::<String>);
    for line in page.lines() {
        match (&mut open, line.starts_with("```")) {
            (None, true) => open = Some(String::new()),
            (Some(_), true) => blocks.extend(open.take()),
            (Some(block), false) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, false) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    blocks
}

#[test]
fn the_projects_on_the_firmware_page_are_the_folders_that_are_built() {
    let projects = [
        ("tests/c/hello", ["main.c", "model.S", "start.c", "part.ld"].as_slice()),
        (
            "tests/firmware/hello",
            &["Cargo.toml", ".cargo/config.toml", "memory.x", "build.rs", "src/main.rs"],
        ),
    ];
    let page = blocks(&read(&root().join("core/FIRMWARE.md")));
    let mut files = Vec::new();
    for (folder, names) in projects {
        for name in names {
            files.push(read(&root().join(folder).join(name)));
            assert!(page.contains(files.last().unwrap()), "{folder}/{name} is not on the page");
        }
        let listed = Command::new("git")
            .args(["ls-files", folder])
            .current_dir(root())
            .output()
            .expect("git lists the folder");
        let known = |line: &str| {
            let name = line.trim_start_matches(folder).trim_start_matches('/');
            names.contains(&name) || ["Cargo.lock", ".gitignore"].contains(&name)
        };
        let listed = String::from_utf8(listed.stdout).expect("names are UTF-8");
        let unknown: Vec<&str> = listed.lines().filter(|line| !known(line)).collect();
        assert!(unknown.is_empty(), "the page says nothing of {unknown:?}");
    }
    for block in &page {
        assert!(files.contains(block), "the page shows what is in no file:\n{block}");
    }
}

/// A filter that fits no test runs none, and nobody hears of it.
#[test]
fn the_files_of_tests_that_pages_and_scripts_ask_for_are_there() {
    let mut named = Vec::new();
    for page in [".ci/run", "CONTRIBUTING.md", "tests/README.md"] {
        let text = read(&root().join(page));
        for line in text.lines() {
            let Some((_, rest)) = line.split_once("--test ") else { continue };
            let (binary, filters) = rest.split_once(' ').unwrap_or((rest, ""));
            let modules = filters.split(' ').filter_map(|word| word.split_once("::"));
            named.extend(modules.map(|(module, _)| format!("{binary}/{module}")));
        }
    }
    let boards = read(&root().join("tests/boards/run"));
    let words = boards.split([' ', ',']).filter(|word| !word.contains('.'));
    let is_named = |word: &&str| word.starts_with("kernels/") || word.starts_with("pipelines/");
    named.extend(words.filter(is_named).map(String::from));
    assert!(named.len() > 15, "the test must see the names that it judges: {named:?}");
    for name in named {
        assert!(root().join(format!("tests/{name}.rs")).is_file(), "there is no tests/{name}.rs");
    }
}

/// A script's output, with a `rustc` before the others that tells of an empty sysroot.
#[cfg(unix)]
fn without_targets(script: &str, arguments: &[&str]) -> Output {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder can be made");
    let rustc = folder.path().join("rustc");
    fs::write(&rustc, format!("#!/bin/sh\necho {}\n", folder.path().display())).expect("a file");
    fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).expect("its mode");
    let mut path = vec![folder.path().to_path_buf()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    Command::new(root().join("tests").join(script))
        .args(arguments)
        .env("PATH", std::env::join_paths(path).expect("a path"))
        .output()
        .expect("the script runs")
}

#[cfg(unix)]
#[test]
fn scripts_name_each_target_that_is_missing_and_do_not_succeed() {
    let scripts = [
        ("boards/run", vec!["aarch64-unknown-linux-musl", "s390x-unknown-linux-gnu"]),
        ("firmware/run", vec!["thumbv6m-none-eabi", "riscv64gc-unknown-none-elf"]),
        ("c/run", vec!["thumbv7em-none-eabihf"]),
        ("wasm/run", vec!["wasm32-wasip1"]),
    ];
    for (script, targets) in scripts {
        let output = without_targets(script, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{script} succeeds");
        for target in targets {
            let remedy = format!("rustup target add {target}");
            assert!(said.contains(&remedy), "{script} does not say {remedy}:\n{said}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_board_is_asked_for_by_name_and_no_other_is_looked_at() {
    let output = without_targets("boards/run", &["big-endian"]);
    let (said, table) =
        (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(!output.status.success());
    assert!(said.contains("s390x") && !said.contains("aarch64"), "{said}");
    assert!(table.contains("big-endian") && table.contains("NOT RUN"), "{table}");

    let output = without_targets("boards/run", &["raspberry-pi-9"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no board raspberry-pi-9") && said.contains("--list"), "{said}");

    let output = without_targets("boards/run", &["--list"]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.lines().count(), 4, "{said}");
    assert!(said.contains("raspberry-pi-4 ") && said.contains("qemu-aarch64"), "{said}");
}

#[cfg(unix)]
#[test]
fn scripts_build_where_cargo_is_told_to() {
    let told = |folder: Option<&str>| {
        let script = "source tests/host.sh; cd tests/firmware; target_directory Cargo.toml";
        let mut bash = Command::new("bash");
        bash.args(["-euc", script]).current_dir(root()).env_remove("CARGO_TARGET_DIR");
        let output =
            bash.envs(folder.map(|to| ("CARGO_TARGET_DIR", to))).output().expect("bash runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    };
    let root = root().canonicalize().expect("the root is there");
    assert_eq!(told(Some("elsewhere")), root.join("elsewhere"));
    assert_eq!(told(Some("/elsewhere/yet")), Path::new("/elsewhere/yet"));
    assert_eq!(told(None), root.join("tests/firmware/target"));
}
