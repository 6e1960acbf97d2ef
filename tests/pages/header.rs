//! C's header against the Rust that it describes: constants, codes, fields, functions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mote::diffusion::sampler::{Named, SAMPLERS};
use mote::mem::ALIGNMENT;
use mote_c::{MESSAGE_BYTES, ROW_BYTES, SLOT_BYTES, STATE_BYTES, Status};
use mote_cli::target;

fn source(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/c");
    fs::read_to_string(root.join(path)).expect("the sources are there")
}

/// The header without its comments.
fn header() -> String {
    let (text, mut clean) = (source("mote.h"), String::new());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("/*") {
        clean.push_str(before);
        rest = after.split_once("*/").expect("comments end").1;
    }
    clean + rest
}

/// What stands in braces after `name`.
fn body<'a>(text: &'a str, name: &str) -> &'a str {
    let at = text.find(name).unwrap_or_else(|| panic!("{name} is missing"));
    let rest = &text[at + name.len()..];
    let open = rest.find('{').expect("a body");
    &rest[open + 1..rest.find('}').expect("a body ends")]
}

/// The names and values of an enum.
fn values(header: &str, name: &str) -> BTreeMap<String, i32> {
    let one = |line: &str| {
        let (name, value) = line.split_once('=')?;
        Some((name.trim().to_string(), value.trim().parse().expect("a number")))
    };
    body(header, name).split(',').filter_map(one).collect()
}

#[test]
fn constants_are_the_same() {
    let header = header();
    let constant = |name: &str| {
        let line = header.lines().find_map(|line| line.strip_prefix(&format!("#define {name} ")));
        line.unwrap_or_else(|| panic!("{name} is missing")).trim().to_string()
    };
    for (name, value) in [
        ("MOTE_ALIGNMENT", ALIGNMENT),
        ("MOTE_MESSAGE_BYTES", MESSAGE_BYTES),
        ("MOTE_ROW_BYTES", ROW_BYTES),
    ] {
        assert_eq!(constant(name), value.to_string(), "{name}");
    }
    for (name, value, on_small_part) in [
        ("MOTE_SLOT_BYTES", SLOT_BYTES, target::SLOT_BYTES),
        ("MOTE_STATE_BYTES", STATE_BYTES, target::STATE_BYTES),
    ] {
        let text = constant(name);
        let text = text.strip_prefix("(sizeof(size_t) == 8 ? ").expect("by the width");
        let (wide, narrow) = text.trim_end_matches(')').split_once(" : ").expect("two sizes");
        let expected = if size_of::<usize>() == 8 { wide } else { narrow };
        assert_eq!(expected, value.to_string(), "{name}");
        assert_eq!(narrow, on_small_part.to_string(), "{name}");
    }
}

#[test]
fn codes_are_the_same() {
    let header = header();
    let expected = [
        Status::Ok,
        Status::More,
        Status::Memory,
        Status::Argument,
        Status::Format,
        Status::Model,
        Status::Request,
        Status::NotFinite,
        Status::Failed,
    ];
    let name = |status: &Status| match status {
        Status::NotFinite => "MOTE_NOT_FINITE".to_string(),
        status => format!("MOTE_{}", format!("{status:?}").to_uppercase()),
    };
    let expected: BTreeMap<_, _> = expected.iter().map(|s| (name(s), *s as i32)).collect();
    assert_eq!(values(&header, "enum mote_status"), expected);
    let mut samplers = values(&header, "enum mote_sampler");
    assert_eq!(samplers.remove("MOTE_SAMPLER_MODEL"), Some(-1));
    let constant = |named: &Named| {
        let name = named.name.replace("dpm++", "dpmpp_").to_uppercase();
        (format!("MOTE_SAMPLER_{name}"), named.number as i32)
    };
    let expected: BTreeMap<_, _> = SAMPLERS.iter().map(constant).collect();
    assert_eq!(samplers, expected);
    assert_eq!(values(&header, "enum mote_noise").len(), 3);
}

/// The fields of a structure in C, as Rust would write them.
fn fields_of_c(text: &str) -> Vec<String> {
    let mut fields = Vec::new();
    for declaration in text.split(';').map(str::trim).filter(|line| !line.is_empty()) {
        let (kind, names) = match declaration.split_once('*') {
            Some((kind, names)) => (kind.trim(), names),
            None => declaration.split_once(' ').expect("a type and names"),
        };
        let kind = match kind {
            "uint64_t" => "u64",
            "uint32_t" => "u32",
            "int32_t" => "i32",
            "size_t" => "usize",
            "float" => "f32",
            "const uint32_t" => "*const u32",
            other => panic!("{other} has no counterpart"),
        };
        fields.extend(names.split(',').map(|name| format!("{}: {kind}", name.trim())));
    }
    fields
}

#[test]
fn structures_have_the_same_fields_in_the_same_order() {
    let header = header();
    for (c, rust, path) in [
        ("struct mote_request", "pub struct MoteRequest", "src/request.rs"),
        ("struct mote_plan", "pub struct MotePlan", "src/lib.rs"),
    ] {
        let source = source(path);
        let fields = body(&source, rust).split(',').map(str::trim);
        let fields = fields.filter_map(|field| field.strip_prefix("pub "));
        assert_eq!(fields_of_c(body(&header, c)), fields.collect::<Vec<_>>(), "{c}");
    }
}

#[test]
fn functions_have_the_same_names_and_arguments() {
    let (header, source) = (header(), source("src/lib.rs"));
    let in_c: Vec<(String, usize)> = header
        .split(';')
        .filter_map(|declaration| {
            let (before, arguments) = declaration.split_once('(')?;
            let name = before.rsplit([' ', '*', '\n']).next()?;
            let count = arguments.split(',').count();
            name.starts_with("mote_").then(|| (name.to_string(), count))
        })
        .collect();
    let in_rust: Vec<(String, usize)> = source
        .split("pub unsafe extern \"C\" fn ")
        .skip(1)
        .map(|function| {
            let (name, rest) = function.split_once('(').expect("arguments");
            let arguments = rest.split_once(')').expect("arguments end").0;
            (name.to_string(), arguments.split(':').count() - 1)
        })
        .collect();
    assert_eq!(in_c.len(), 6);
    assert_eq!(in_c, in_rust);
}
