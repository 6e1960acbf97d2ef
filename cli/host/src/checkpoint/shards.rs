//! Finding a network's weights in its folder: one file or several with an index, plain or of a
//! variant (`fp16`, `bf16`, …), safetensors only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde_json::Value;

use super::format::refuse_foreign;
use super::mapped::{Mapped, damaged};
use crate::error::{Failure, Result};
use crate::{files, json};

/// What transformers calls weights.
const TRANSFORMERS: &str = "model";

/// The file stems by which diffusers and transformers call weights.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", TRANSFORMERS];

/// Variants that are taken where there is no plain one, the first first.
const VARIANTS: [&str; 2] = ["fp16", "bf16"];

/// What stands between the numbers in the name of one file of several.
const SHARD: &str = "-of-";

/// The most files one network may be split into: far above any published one.
const MAX_SHARDS: usize = 1024;

/// The most files of a folder that a sentence names.
const MAX_NAMED: usize = 8;

/// A network's weights: one file or several.
#[derive(Debug)]
pub struct Checkpoint {
    /// The files, in the order of their names.
    pub files: Vec<Mapped>,
}

impl Checkpoint {
    /// Finds and maps the weights in `folder`, by the names that diffusers and transformers give
    /// them. The path of a file stands for that file.
    ///
    /// # Errors
    /// Where there are none, or they cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        if folder.is_file() {
            return Ok(Self { files: vec![Mapped::open(folder)?] });
        }
        let names = files::names(folder)?;
        for stem in STEMS {
            let Some(found) = pick(folder, &names, stem)? else { continue };
            return match found {
                Found { whole: Some(name), index: None } => Self::open_whole(folder, name),
                Found { whole: None, index: Some(name) } => Self::open_shards(folder, name),
                // transformers prefers the whole file; diffusers the index, and fails where its
                // files are gone.
                Found { whole: Some(name), index: Some(index) } => {
                    let is_there = |shard: &String| folder.join(shard).exists();
                    let is_stale = || !shards(folder, index).is_ok_and(|s| s.iter().all(is_there));
                    match stem == TRANSFORMERS || is_stale() {
                        true => Self::open_whole(folder, name),
                        false => Self::open_shards(folder, index),
                    }
                }
                Found { whole: None, index: None } => continue,
            };
        }
        for name in &names {
            refuse_foreign(&folder.join(name))?;
        }
        let found = match names.as_slice() {
            [] => "nothing".into(),
            names if names.len() > MAX_NAMED => {
                format!("{} and {} more", names[..MAX_NAMED].join(", "), names.len() - MAX_NAMED)
            }
            names => names.join(", "),
        };
        Err(Failure::new(format!("no weights in {}: it holds {found}", folder.display())).remedy(
            "mote looks for diffusion_pytorch_model.safetensors, model.safetensors or their index",
        ))
    }

    fn open_whole(folder: &Path, name: &str) -> Result<Self> {
        Ok(Self { files: vec![Mapped::open(&folder.join(name))?] })
    }

    fn open_shards(folder: &Path, index: &str) -> Result<Self> {
        let shards = shards(folder, index)?;
        if let Some(missing) = shards.iter().find(|shard| !folder.join(shard).exists()) {
            let (index, count) = (folder.join(index), shards.len());
            let (index, missing) = (index.display(), folder.join(missing));
            return Err(Failure::new(format!(
                "{} is not there, and {index} names it",
                missing.display()
            ))
            .remedy(format!("Fetch it, too: the weights are split into {count} files")));
        }
        let open = |shard: &String| Mapped::open(&folder.join(shard));
        Ok(Self { files: shards.iter().map(open).collect::<Result<_>>()? })
    }
}

/// The files that an index names.
///
/// # Errors
/// Where it is none, or leads elsewhere.
fn shards(folder: &Path, index: &str) -> Result<BTreeSet<String>> {
    let index = &folder.join(index);
    let text = json::read(index)?;
    let Some(Value::Object(map)) = text.get("weight_map") else {
        return Err(damaged(index, "it has no `weight_map`"));
    };
    let mut shards = BTreeSet::new();
    for (weight, file) in map {
        let Value::String(file) = file else {
            return Err(damaged(index, format!("the file of `{weight}` is not a name")));
        };
        if !stays_inside(file) {
            let what = format!("{} points outside its folder: {file:?}", index.display());
            return Err(Failure::new(what).remedy("Do not trust this checkpoint"));
        }
        shards.insert(file.clone());
    }
    if shards.is_empty() || shards.len() > MAX_SHARDS {
        return Err(damaged(index, format!("it names {} files", shards.len())));
    }
    Ok(shards)
}

/// Whether a path from an index is a plain way down from the index's folder.
fn stays_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components().peekable();
    // A backslash or a colon may lead elsewhere on some systems.
    parts.peek().is_some()
        && !path.contains(['\\', ':', '\0'])
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// The variant of a whole file: `Some("")` for `model.safetensors`, `Some("fp16")` for
/// `model.fp16.safetensors`, `None` for anything else.
fn is_whole<'n>(name: &'n str, stem: &str) -> Option<&'n str> {
    let middle = name.strip_prefix(stem)?.strip_suffix(".safetensors")?;
    if middle.contains(SHARD) {
        return None;
    }
    if middle.is_empty() { Some(middle) } else { middle.strip_prefix('.') }
}

/// The variant of an index, in diffusers' or transformers' order of words.
fn is_index<'n>(name: &'n str, stem: &str) -> Option<&'n str> {
    if let Some(whole) = name.strip_suffix(".index.json") {
        return is_whole(whole, stem);
    }
    let rest = name.strip_prefix(stem)?.strip_prefix(".safetensors.index.")?;
    rest.strip_suffix(".json")
}

/// The weights of one variant.
#[derive(Clone, Copy, Default)]
struct Found<'n> {
    /// One file.
    whole: Option<&'n str>,
    /// The index of several.
    index: Option<&'n str>,
}

/// The weights of this stem in a folder: the plain ones, else `fp16`, else `bf16`, else those
/// of the only variant.
fn pick<'n>(folder: &Path, names: &'n [String], stem: &str) -> Result<Option<Found<'n>>> {
    let mut variants = BTreeMap::<&str, Found<'n>>::new();
    for name in names {
        if let Some(variant) = is_whole(name, stem) {
            variants.entry(variant).or_default().whole = Some(name);
        } else if let Some(variant) = is_index(name, stem) {
            variants.entry(variant).or_default().index = Some(name);
        }
    }
    let known = [""].into_iter().chain(VARIANTS);
    if let Some(found) = known.filter_map(|variant| variants.get(variant)).next() {
        return Ok(Some(*found));
    }
    if variants.len() < 2 {
        return Ok(variants.into_values().next());
    }
    let all: Vec<_> = variants.values().filter_map(|found| found.whole.or(found.index)).collect();
    Err(Failure::new(format!(
        "{} holds several variants of its weights: {}",
        folder.display(),
        all.join(", ")
    ))
    .remedy(format!("Keep one of them, or link it as {stem}.safetensors, such as {}", all[0])))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mote::tensor::Shape;
    use mote::weights::Weights;

    use super::*;

    /// A safetensors file with one f32 tensor of four elements.
    fn safetensors(name: &str) -> Vec<u8> {
        let header =
            format!(r#"{{"{name}":{{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}}}"#);
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend([0u8; 16]);
        file
    }

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    fn failure(files: &[(&str, &[u8])]) -> String {
        Checkpoint::open(folder(files).path()).unwrap_err().to_string()
    }

    #[test]
    fn the_plain_file_comes_before_its_variants() {
        let (plain, half) = (safetensors("plain"), safetensors("half"));
        let folder = folder(&[
            ("diffusion_pytorch_model.safetensors", &plain),
            ("diffusion_pytorch_model.fp16.safetensors", &half),
            ("diffusion_pytorch_model.non_ema.safetensors", &half),
        ]);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let mut weights = checkpoint.files[0].weights();
        let found = weights.find("plain", Shape::new([])).unwrap().unwrap();
        assert_eq!(found.shape, Shape::new([2, 2]));
        assert_eq!(weights.read(&found, 0, 16, &mut []).unwrap(), [0; 16]);
    }

    #[test]
    fn a_variant_alone_is_found_and_two_unknown_ones_are_not_guessed_between() {
        let file = safetensors("a");
        for name in ["model.fp16.safetensors", "model.bf16.safetensors", "model.ema.safetensors"] {
            assert!(Checkpoint::open(folder(&[(name, &file)]).path()).is_ok(), "{name}");
        }
        let both = [("model.a.safetensors", &file[..]), ("model.b.safetensors", &file[..])];
        assert!(failure(&both).contains("several variants"));
    }

    #[test]
    fn shards_are_found_through_either_kind_of_index() {
        let (a, b) = (safetensors("a"), safetensors("b"));
        let index =
            br#"{"metadata":{},"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}}"#;
        for name in ["model.safetensors.index.json", "model.safetensors.index.fp16.json"] {
            let shards = [("x-1.safetensors", &a[..]), ("x-2.safetensors", &b[..])];
            let folder = folder(&[shards[0], shards[1], (name, index)]);
            assert_eq!(Checkpoint::open(folder.path()).unwrap().files.len(), 2, "{name}");
        }
    }

    #[test]
    fn a_whole_file_counts_where_an_index_was_left_behind() {
        let (a, b) = (safetensors("a"), safetensors("b"));
        let index = br#"{"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}}"#;
        let count = |files: &[(&str, &[u8])]| {
            let folder = folder(files);
            Checkpoint::open(folder.path()).unwrap().files.len()
        };
        for stem in ["model", "diffusion_pytorch_model"] {
            let (whole, named) =
                (format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json"));
            let files = [
                (whole.as_str(), &a[..]),
                (named.as_str(), &index[..]),
                ("x-1.safetensors", &a[..]),
                ("x-2.safetensors", &b[..]),
            ];
            assert_eq!(count(&files[..2]), 1, "{stem}");
            assert_eq!(count(&files[..3]), 1, "{stem}");
            // As transformers and diffusers have it.
            assert_eq!(count(&files), if stem == "model" { 1 } else { 2 }, "{stem}");
            assert_eq!(count(&[files[0], (named.as_str(), b"{")]), 1, "{stem}");
        }
    }

    #[test]
    fn a_plain_file_goes_before_any_variants_index() {
        let (a, b) = (safetensors("a"), safetensors("b"));
        let index = br#"{"weight_map":{"a":"model.fp16-00001-of-00001.safetensors"}}"#;
        let files = [
            ("model.fp16-00001-of-00001.safetensors", &a[..]),
            ("model.safetensors.index.fp16.json", &index[..]),
            ("model.safetensors", &b[..]),
        ];
        for (files, expected) in [(&files[..2], files[0].0), (&files, files[2].0)] {
            let folder = folder(files);
            let open = Checkpoint::open(folder.path()).unwrap();
            assert_eq!(open.files[0].path(), folder.path().join(expected));
        }
    }

    #[test]
    fn an_index_cannot_lead_outside_its_folder() {
        for path in ["../a.safetensors", "/etc/passwd", "a/../../b", "", ".", "c:\\x", "a\\..\\b"] {
            assert!(!stays_inside(path), "{path}");
            let index = serde_json::json!({ "weight_map": { "w": path } }).to_string();
            let said = failure(&[("model.safetensors.index.json", index.as_bytes())]);
            assert!(said.contains("outside its folder"), "{said}");
        }
        assert!(stays_inside("model-00001-of-00002.safetensors") && stays_inside("shards/1"));
    }

    #[test]
    fn broken_indices_are_refused() {
        for index in
            ["", "[]", "{}", r#"{"weight_map":{}}"#, r#"{"weight_map":{"a":1}}"#, "{\"weight"]
        {
            let said = failure(&[("model.safetensors.index.json", index.as_bytes())]);
            assert!(said.contains("index.json"), "{said}");
        }
        let missing = br#"{"weight_map":{"a":"gone.safetensors"}}"#;
        let said = failure(&[("model.safetensors.index.json", missing)]);
        assert!(said.contains("gone.safetensors is not there") && said.contains("Fetch"), "{said}");
    }

    #[test]
    fn pickles_are_refused_with_a_way_to_convert_them() {
        let said = failure(&[("diffusion_pytorch_model.bin", b"x")]);
        assert!(
            said.contains("torch.load(") && said.contains("diffusion_pytorch_model.safetensors")
        );
        let said = failure(&[("pytorch_model.bin", b"x")]);
        assert!(said.contains("/model.safetensors'"), "{said}");
        let said = Mapped::open(Path::new("v1-5.ckpt")).unwrap_err().to_string();
        assert!(said.contains("from_single_file('v1-5.ckpt')"), "{said}");
        assert!(Mapped::open(Path::new("a.pth")).unwrap_err().to_string().contains("save_file"));
        assert!(Mapped::open(Path::new("a.gguf")).unwrap_err().to_string().contains("format"));
    }

    #[test]
    fn every_truncation_of_a_file_is_refused() {
        let whole = safetensors("a");
        for len in 0..whole.len() {
            let said = failure(&[("model.safetensors", &whole[..len])]);
            assert!(said.contains("model.safetensors cannot be used"), "{len}: {said}");
        }
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        assert!(failure(&[("model.safetensors", pointer)]).contains("git lfs pull"));
    }

    #[test]
    fn a_folder_without_weights_says_what_it_holds() {
        assert!(failure(&[("config.json", b"{}")]).contains("it holds config.json"));
        assert!(failure(&[]).contains("it holds nothing"));
        let names: Vec<String> = (0..50).map(|number| format!("{number:02}.png")).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &b"x"[..])).collect();
        let said = failure(&files);
        assert!(said.contains("06.png, 07.png and 42 more") && !said.contains("08.png"), "{said}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed() {
        let real = folder(&[("blob", &safetensors("a"))]);
        let linked = folder(&[]);
        let link = linked.path().join("model.safetensors");
        std::os::unix::fs::symlink(real.path().join("blob"), link).unwrap();
        assert!(Checkpoint::open(linked.path()).is_ok());
    }
}
