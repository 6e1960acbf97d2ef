//! The rules of the house, read off the sources: which module may use which, where `unsafe` may
//! stand, how long lines and functions may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the core with their ranks: each may use those of lower rank only.
const RANKS: [(&str, u8); 14] = [
    ("error", 0),
    ("fields", 0),
    ("progress", 0),
    ("tensor", 1),
    ("mem", 2),
    ("exec", 2),
    ("weights", 2),
    ("arch", 2),
    ("ops", 3),
    ("nn", 4),
    ("models", 5),
    ("diffusion", 5),
    ("pipeline", 6),
    ("train", 6),
];

/// The modules in which `unsafe` may stand, of the core and of the command line.
const ISLANDS: [&str; 7] = [
    "core/c/",
    "core/src/mem/",
    "core/src/exec.rs",
    "core/src/arch/",
    "cli/executor/src/lib.rs",
    "cli/host/src/checkpoint/mapped.rs",
    "cli/host/src/machine/isa.rs",
];

/// The folders of the crates' sources, and at least how many arrows there are between their files.
const CRATES: [(&str, usize); 4] =
    [("core/src", 200), ("cli/host/src", 100), ("cli/lab/src", 20), ("cli/src", 20)];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Rust files below a folder, with their paths from the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn visit(path: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(path).expect("a folder can be read") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() && !path.ends_with("target") {
                visit(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    visit(&root.join(folder), &mut found);
    found.sort();
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// The source without its comments and its unit tests, which stand last.
fn code(source: &str) -> impl Iterator<Item = &str> {
    let lines = source.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    lines.filter(|line| !line.trim_start().starts_with("//"))
}

fn rank(module: &str) -> u8 {
    let known = RANKS.iter().find(|(name, _)| *name == module);
    known.unwrap_or_else(|| panic!("module {module} has no rank: give it one in tests/tidy.rs")).1
}

/// The modules that a line names behind `crate::`.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap_or(""))
}

#[test]
fn modules_use_only_modules_of_lower_rank() {
    let mut uses = 0;
    for (path, source) in sources("core/src") {
        let module = path.trim_start_matches("core/src/").split(['/', '.']).next().unwrap();
        if module == "lib" {
            continue;
        }
        for line in code(&source) {
            for used in named(line).filter(|used| !used.is_empty() && *used != module) {
                uses += 1;
                assert!(rank(used) < rank(module), "{path} uses {used}: {line}");
            }
            if rank(module) >= 4 && module != "pipeline" && module != "train" {
                assert!(!line.contains("crate::arch"), "{path} knows the arch: {line}");
            }
            let handle = line.contains("crate::tensor") && line.contains("Tensor");
            assert!(module != "arch" || !handle, "{path} knows tensors");
            assert!(
                module != "diffusion" || !line.contains("crate::tensor"),
                "{path} knows tensors"
            );
        }
    }
    assert!(uses > 50, "the test must see the uses it judges: {uses}");
}

/// A module and the modules of its crate that its `use` lines name, each as a path.
fn used_modules(module: &str, source: &str) -> Vec<String> {
    let code: Vec<&str> = code(source).collect();
    let code = code.join(" ");
    let mut found = Vec::new();
    for statement in code.split(" use ").skip(1).chain(code.strip_prefix("use ")) {
        let statement = statement.split(';').next().unwrap_or_default().replace(' ', "");
        let up = statement.matches("super::").count();
        let base: Vec<&str> = match statement.split("::").next() {
            Some("crate") => Vec::new(),
            Some("super") => {
                let parts: Vec<&str> = module.split("::").collect();
                parts[..parts.len().saturating_sub(up)].to_vec()
            }
            _ => continue,
        };
        let rest = statement.trim_start_matches("crate::").replace("super::", "");
        // `a::{b::C, d}` names `a::b::C` and `a::d`; deeper braces name nothing of another file.
        let (start, list) = rest.split_once('{').unwrap_or((rest.as_str(), ""));
        let ends: Vec<&str> = if list.is_empty() { vec![""] } else { list.split(',').collect() };
        found.extend(ends.iter().map(|end| {
            let path = format!("{start}{end}");
            base.iter().copied().chain(path.split("::")).collect::<Vec<_>>().join("::")
        }));
    }
    found
}

/// Files of a crate by module, and for each the files that it uses. A folder's `mod.rs` and the
/// files behind it count as one door: between them there are no arrows.
fn arrows(folder: &str) -> BTreeMap<String, BTreeSet<String>> {
    let module = |path: &str| {
        let path = path.trim_start_matches(folder).trim_start_matches('/');
        path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::")
    };
    let files: BTreeMap<String, String> =
        sources(folder).into_iter().map(|(path, source)| (module(&path), source)).collect();
    let file_of = |path: &str| {
        let mut path = path;
        loop {
            match (files.contains_key(path), path.rsplit_once("::")) {
                (true, _) => return Some(path.to_string()),
                (false, Some((shorter, _))) => path = shorter,
                (false, None) => return None,
            }
        }
    };
    let is_door =
        |door: &str, file: &str| file.strip_prefix(door).is_some_and(|rest| rest.starts_with("::"));
    let uses = |module: &String, source: &String| {
        let used = used_modules(module, source).into_iter().filter_map(|path| file_of(&path));
        used.filter(|used| used != module && !is_door(used, module) && !is_door(module, used))
            .collect()
    };
    files.iter().map(|(module, source)| (module.clone(), uses(module, source))).collect()
}

/// What is in a circle of these arrows, and what of the circle each uses.
fn circle(mut left: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    // What uses nothing that is left is in no circle.
    loop {
        let names: BTreeSet<String> = left.keys().cloned().collect();
        let before = left.len();
        left.retain(|_, uses| uses.iter().any(|used| names.contains(used)));
        if left.len() == before {
            break;
        }
    }
    let names: BTreeSet<&String> = left.keys().collect();
    let circle = left.iter().map(|(module, uses)| {
        let uses: Vec<_> = uses.iter().filter(|used| names.contains(used)).cloned().collect();
        format!("{module} uses {}", uses.join(", "))
    });
    circle.collect()
}

/// The same arrows between folders: a file in a folder stands for it, one beside it for itself.
fn of_folders(files: &BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    let folder = |module: &String| module.split("::").next().unwrap_or_default().to_string();
    let mut folders = BTreeMap::<String, BTreeSet<String>>::new();
    for (module, uses) in files {
        let own = folder(module);
        let others = uses.iter().map(folder).filter(|used| *used != own);
        folders.entry(own.clone()).or_default().extend(others);
    }
    folders
}

#[test]
fn neither_files_nor_folders_use_themselves_in_a_circle() {
    for (crate_folder, least) in CRATES {
        let mut files = arrows(crate_folder);
        let count: usize = files.values().map(BTreeSet::len).sum();
        assert!(count >= least, "the test must see the arrows of {crate_folder}: {count}");
        // Who opens the crate's doors uses nothing of it.
        files.retain(|module, _| module != "lib" && module != "main");
        let found = circle(files.clone());
        assert!(found.is_empty(), "{crate_folder}:\n{}", found.join("\n"));
        if crate_folder != "core/src" {
            let found = circle(of_folders(&files));
            assert!(found.is_empty(), "folders of {crate_folder}:\n{}", found.join("\n"));
        }
    }
}

#[test]
fn libraries_for_hosts_leave_the_terminal_and_the_process_to_the_program() {
    let mut seen = 0;
    for (path, source) in ["cli/host/src", "cli/lab/src"].into_iter().flat_map(sources) {
        seen += 1;
        for line in code(&source) {
            for word in ["clap", "println!", "eprintln!", "print!(", "process::exit", "stderr()"] {
                assert!(!line.contains(word), "{path} knows {word}: {line}");
            }
        }
    }
    assert!(seen > 40, "the test must see the libraries: {seen}");
}

#[test]
fn the_core_knows_no_std_and_no_alloc() {
    for (path, source) in sources("core/src") {
        for line in code(&source) {
            let clean = !line.contains("std::") && !line.contains("alloc::");
            assert!(clean && !line.contains("extern crate"), "{path}: {line}");
        }
    }
}

#[test]
fn unsafe_stands_in_the_islands_only() {
    let mut seen = 0;
    let folders = ["core/src", "core/c", "cli"];
    for (path, source) in folders.into_iter().flat_map(sources) {
        let island = ISLANDS.iter().any(|island| path.starts_with(island));
        let words = |line: &str| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
        };
        for line in code(&source).filter(|line| words(line)) {
            seen += 1;
            assert!(island, "{path} is no island of unsafe: {line}");
        }
    }
    assert!(seen > 20, "the test must see the islands: {seen}");
    let lib = fs::read_to_string(root().join("core/src/lib.rs")).unwrap();
    let lines: Vec<&str> = lib.lines().collect();
    for (before, line) in lines.iter().zip(&lines[1..]) {
        let Some(module) = line.strip_prefix("pub mod ") else { continue };
        let island = ["mem;", "exec;", "arch;"].contains(&module);
        assert_eq!(!island, *before == "#[forbid(unsafe_code)]", "lib.rs: {module}");
    }
}

#[test]
fn lines_and_functions_are_short_and_files_say_what_they_hold() {
    let folders = ["core/src", "core/c", "cli", "tests", "benches", "fuzz"];
    let mut faults = Vec::new();
    for (path, source) in folders.into_iter().flat_map(sources) {
        if !source.starts_with("//!") {
            faults.push(format!("{path} does not open by saying what it holds"));
        }
        let mut start = None;
        for (number, line) in (1..).zip(source.lines()) {
            let columns = line.chars().count();
            if columns > 100 && !line.contains("r#\"") {
                faults.push(format!("{path}:{number}: {columns} columns"));
            }
            let text = line.trim_start();
            let begins = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "unsafe fn "];
            if begins.iter().any(|begin| text.starts_with(begin)) && !text.ends_with(';') {
                start = Some((number, line.len() - text.len()));
            }
            if let Some((first, indent)) = start
                && line.trim_end() == format!("{}}}", " ".repeat(indent))
            {
                let lines = number - first + 1;
                if lines > 70 {
                    faults.push(format!("{path}:{first}: a function of {lines} lines"));
                }
                start = None;
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_readme_names_every_instruction_set() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for level in mote::arch::Level::ALL {
        assert!(readme.contains(&format!("`{}`", level.name())), "{level:?} has no place there");
    }
}

#[test]
fn nothing_is_left_to_be_done() {
    for (path, source) in ["core/src", "core/c", "cli"].into_iter().flat_map(sources) {
        for word in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!("] {
            assert!(!source.contains(word), "{path} holds {word}");
        }
        let unwraps = code(&source).filter(|line| line.contains(".unwrap()")).count();
        assert_eq!(unwraps, 0, "{path} unwraps");
    }
}
