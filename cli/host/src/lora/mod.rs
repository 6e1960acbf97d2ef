//! LoRA and its kin: files that say what is to be added to a model's weights. They are added while
//! weights are converted, tensor by tensor, so that a picture takes no more memory than without.

mod delta;
mod merged;
mod names;

pub use merged::Merged;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mote::arch::Isa;
use mote::tensor::{DType, Shape};
use mote::weights::{Weight, Weights};

use crate::checkpoint::first_layout::Blocks;
use crate::checkpoint::mapped::{Mapped, damaged, plain_name};
use crate::checkpoint::place::Place;
use crate::checkpoint::weight_files::WeightFiles;
use crate::embedding::Word;
use crate::error::{Failure, Result};
use crate::pack::to_f32;
use crate::types::{Choice, Type};
use delta::{Delta, Factor, Matrix};

/// A file whose changes are to be added, and how much of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The file.
    pub file: PathBuf,
    /// The changes are multiplied by this; it may be negative.
    pub scale: f32,
}

impl FromStr for Lora {
    type Err = String;

    /// `FILE` or `FILE:SCALE`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let scaled = text.rsplit_once(':').and_then(|(file, scale)| {
            let scale = scale.trim().parse::<f32>().ok().filter(|scale| scale.is_finite())?;
            Some(Self { file: file.into(), scale })
        });
        match scaled.unwrap_or_else(|| Self { file: text.into(), scale: 1.0 }) {
            Self { file, .. } if file.as_os_str().is_empty() => {
                Err("this is FILE or FILE:SCALE, such as woodcut.safetensors:0.8".into())
            }
            lora => Ok(lora),
        }
    }
}

impl fmt::Display for Lora {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.file.file_stem().unwrap_or_default().to_string_lossy();
        write!(f, "{name}:{}", self.scale)
    }
}

/// Takes every `<lora:NAME:SCALE>` out of a text, as web UIs write them; the files lie in `folder`.
///
/// # Errors
/// Where one is not there.
pub fn take_from(text: &mut String, folder: &Path) -> Result<Vec<Lora>> {
    let mut found = Vec::new();
    while let Some(begin) = text.find(TAG) {
        let inner = &text[begin + TAG.len()..];
        let Some(length) = inner.find('>') else { break };
        let inner = &inner[..length];
        let (name, scale) = match inner.split_once(':') {
            None => (inner, 1.0),
            Some((name, scale)) => {
                // A second number is the text encoder's own, of which mote knows none.
                let number = scale.split(':').next().unwrap_or_default().trim().parse::<f32>();
                let Some(number) = number.ok().filter(|number| number.is_finite()) else {
                    return Err(Failure::new(format!("<lora:{inner}> has no number as its scale"))
                        .remedy("Write <lora:NAME:0.8>"));
                };
                (name, number)
            }
        };
        let files = [folder.join(format!("{name}.safetensors")), folder.join(name)];
        let Some(file) = files.iter().find(|file| file.is_file()) else {
            return Err(Failure::new(format!("there is no {}", files[0].display()))
                .remedy("Give the folder that holds it with --lora-dir, or leave <lora:...> out"));
        };
        found.push(Lora { file: file.clone(), scale });
        let end = begin + TAG.len() + length + 1;
        text.replace_range(begin..end, "");
    }
    if !found.is_empty() {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    Ok(found)
}

/// How web UIs begin a LoRA in a prompt.
const TAG: &str = "<lora:";

/// The ends of tensors' names, and what the tensor is to its layer.
const ENDS: [(&str, Role); 35] = [
    (".alpha", Role::Alpha),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".hada_w1_a", Role::A1),
    (".hada_w1_b", Role::B1),
    (".hada_w2_a", Role::A2),
    (".hada_w2_b", Role::B2),
    (".hada_t1", Role::T1),
    (".hada_t2", Role::T2),
    (".lokr_w1", Role::W1),
    (".lokr_w1_a", Role::A1),
    (".lokr_w1_b", Role::B1),
    (".lokr_w2", Role::W2),
    (".lokr_w2_a", Role::A2),
    (".lokr_w2_b", Role::B2),
    (".lokr_t2", Role::T2),
    (".diff", Role::Whole),
    (".w_norm", Role::Whole),
    (".diff_b", Role::Bias),
    (".b_norm", Role::Bias),
    (".dora_scale", Role::Lengths),
    (".lora_magnitude_vector", Role::Lengths),
    (".lora_magnitude_vector.weight", Role::Lengths),
    (".lora_magnitude_vector.default.weight", Role::Lengths),
];

/// What a tensor is to its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Alpha,
    Down,
    Up,
    Mid,
    A1,
    B1,
    T1,
    A2,
    B2,
    T2,
    W1,
    W2,
    Whole,
    Bias,
    Lengths,
}

/// The tensors of one layer in a file.
type Layer = BTreeMap<Role, Weight>;

/// What one file does to one weight.
#[derive(Clone, Copy, Debug)]
struct Change {
    file: usize,
    layer: usize,
    is_bias: bool,
}

/// A file, understood.
#[derive(Debug)]
struct File {
    mapped: Mapped,
    scale: f32,
    /// Its layers, by the names that it gives them.
    layers: Vec<(String, Layer)>,
}

/// A weight that is changed: what it is called, its shape, and what is done to it.
#[derive(Debug)]
struct Changed {
    name: String,
    shape: Shape,
    changes: Vec<Change>,
}

/// The changes of all files.
#[derive(Debug)]
pub struct Loras {
    files: Vec<File>,
    /// The weights that they change, in the order of their names.
    changed: Vec<Changed>,
    /// The type of the model's own weights: half precision where all products' are, or else f32.
    own: Type,
}

/// The weights of a model with what is to be added to them.
#[derive(Debug)]
pub struct Source {
    files: WeightFiles,
    loras: Option<Loras>,
    /// What lies behind the rows of each text encoder's table.
    rows: Vec<(&'static str, Vec<f32>)>,
    /// What there is to say about them.
    notes: Vec<String>,
}

impl Source {
    /// The weights at these places, and the files to be added to them.
    ///
    /// # Errors
    /// Where some cannot be used, or a file was made for another model.
    pub fn open(places: &[(&'static str, Place)], loras: &[Lora]) -> Result<Self> {
        let files = WeightFiles::open(places)?;
        let (mut notes, mut opened) = (Vec::new(), None);
        if !loras.is_empty() {
            refuse_packed(places)?;
            if let Some(file) = files.single() {
                return Err(Failure::new(format!(
                    "{} is a checkpoint in one file, to which mote adds no LoRA as it is",
                    file.display()
                ))
                .remedy(
                    "Convert it with `mote convert --type f16` first, and give -m the result",
                ));
            }
            opened = Some(Loras::open(&files, loras, &mut notes)?);
        }
        let loras = opened.filter(|loras| !loras.changed.is_empty());
        Ok(Self { files, loras, rows: Vec::new(), notes })
    }

    /// The same with words' vectors behind the rows of the text encoders' tables, each as wide.
    #[must_use]
    pub fn with_words(mut self, words: &[Word], widths: &[(&'static str, usize)]) -> Self {
        for &(network, width) in widths {
            let values = words.iter().filter_map(|word| word.values(network, width));
            let rows: Vec<f32> = values.flatten().copied().collect();
            if !rows.is_empty() {
                self.rows.push((network, rows));
            }
        }
        self
    }

    /// The files of the model itself.
    pub fn files(&self) -> &WeightFiles {
        &self.files
    }

    /// What there is to say about the files that are added: one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The type to which weights are converted while something is added to them, where no other is
    /// asked for: as they are, if that is half precision, or else f32. `None`: nothing is added.
    pub fn dtype(&self) -> Option<Type> {
        self.loras.as_ref().map(|loras| loras.own)
    }

    /// Hands all weights, changed, to `body`.
    pub fn with_weights<T>(&self, body: impl FnOnce(&mut dyn Weights) -> T) -> T {
        self.files.with_weights(|weights| match (&self.loras, self.rows.as_slice()) {
            (None, []) => body(weights),
            (loras, rows) => body(&mut Merged::new(weights, loras.as_ref(), rows)),
        })
    }
}

impl From<WeightFiles> for Source {
    fn from(files: WeightFiles) -> Self {
        Self { files, loras: None, rows: Vec::new(), notes: Vec::new() }
    }
}

/// Refuses weights that are in panels: what is lost in them is not known any more.
fn refuse_packed(places: &[(&'static str, Place)]) -> Result<()> {
    let mut packed = places.iter().filter_map(|(_, place)| place.packed());
    match packed.find(|packed| packed.dtype() != Type::F16) {
        None => Ok(()),
        Some(packed) => Err(Failure::new(format!(
            "{} is packed in {}, and a LoRA is added before weights are packed",
            packed.path().display(),
            packed.dtype().name()
        ))
        .remedy("Give the folder that it was converted from, or `mote convert` that with --lora")),
    }
}

impl Loras {
    /// Reads the files, and finds the weights that they change.
    fn open(files: &WeightFiles, loras: &[Lora], notes: &mut Vec<String>) -> Result<Self> {
        let weights = files.named_tensors();
        let layers = |name: &str| name.strip_suffix(".weight").map(str::to_string);
        let unet = weights.iter().filter_map(|(name, _)| layers(name.strip_prefix("unet.")?));
        let unet: Vec<String> = unet.collect();
        let blocks = Blocks::of(unet.iter().map(String::as_str));
        let mut known = HashMap::new();
        for (name, _) in &weights {
            let Some(layer) = name.strip_suffix(".weight") else { continue };
            let Some((network, inner)) = layer.split_once('.') else { continue };
            for other in names::of_layer(network, inner, &blocks) {
                known.entry(other).or_insert(layer);
            }
        }
        let shapes: HashMap<&str, Shape> =
            weights.iter().map(|(name, weight)| (name.as_str(), weight.shape)).collect();
        let (mut opened, mut changes) = (Vec::new(), BTreeMap::<String, Vec<Change>>::new());
        for lora in loras {
            let path = &lora.file;
            let file = File::open(lora)?;
            if lora.scale == 0.0 {
                notes.push(format!("--lora {} has no effect at scale 0", path.display()));
                continue;
            }
            let number = opened.len();
            let mut lost = Vec::new();
            for (layer, (name, tensors)) in file.layers.iter().enumerate() {
                let Some(found) = known.get(name) else {
                    lost.push(name.as_str());
                    continue;
                };
                for (is_bias, end) in [(false, "weight"), (true, "bias")] {
                    let (weight, change) =
                        (format!("{found}.{end}"), Change { file: number, layer, is_bias });
                    let does = tensors.keys().any(|role| match is_bias {
                        true => *role == Role::Bias,
                        false => !matches!(role, Role::Bias | Role::Alpha),
                    });
                    if !does {
                        continue;
                    }
                    let Some(&shape) = shapes.get(weight.as_str()) else {
                        lost.push(name.as_str());
                        continue;
                    };
                    let fits = file.check(change, shape);
                    fits.map_err(|failure| {
                        failure.within(format!("{}: `{name}`", path.display()))
                    })?;
                    changes.entry(weight).or_default().push(change);
                }
            }
            notes.extend(file.lost(path, &lost)?);
            opened.push(file);
        }
        let changed = changes.into_iter().map(|(name, changes)| {
            let shape = shapes.get(name.as_str()).copied().unwrap_or(Shape::new([0]));
            Changed { name, shape, changes }
        });
        let mut products = weights.iter().filter(|(_, weight)| weight.shape.as_slice().len() > 1);
        let is_half = products.all(|(_, weight)| weight.dtype == DType::F16);
        let own = if is_half { Type::F16 } else { Type::F32 };
        Ok(Self { files: opened, changed: changed.collect(), own })
    }

    /// The number of the weight called `name`, if it is changed.
    fn number(&self, name: &str) -> Option<usize> {
        self.changed.binary_search_by(|changed| changed.name.as_str().cmp(name)).ok()
    }

    /// Changes the values of a weight.
    fn change(&self, changed: &Changed, values: &mut [f32]) -> Result<()> {
        let mut changes = changed.changes.iter();
        changes
            .try_for_each(|&change| self.files[change.file].change(change, changed.shape, values))
    }
}

impl File {
    fn open(lora: &Lora) -> Result<Self> {
        let mapped = Mapped::open(&lora.file)?;
        let mut layers: Vec<(String, Layer)> = Vec::new();
        let mut numbers = HashMap::<String, usize>::new();
        let mut unknown = None;
        for (name, tensor) in mapped.weights().index().iter() {
            let name = plain_name(name);
            let Some((layer, role)) = split(&name) else {
                unknown.get_or_insert_with(|| name.to_string());
                continue;
            };
            let number = *numbers.entry(layer.clone()).or_insert_with(|| {
                layers.push((layer, Layer::new()));
                layers.len() - 1
            });
            if !tensor.dtype.is_float() {
                return Err(damaged(&lora.file, format!("`{name}` is {}", tensor.dtype)));
            }
            layers[number].1.insert(role, tensor);
        }
        if layers.is_empty() {
            let what = unknown.map_or("is empty".into(), |name| format!("holds `{name}`"));
            return Err(Failure::new(format!("{} is no LoRA: it {what}", lora.file.display()))
                .remedy("Give a file in the names of kohya, LyCORIS, PEFT or diffusers"));
        }
        Ok(Self { mapped, scale: lora.scale, layers })
    }

    /// What is said of layers that the model has not.
    fn lost(&self, path: &Path, lost: &[&str]) -> Result<Option<String>> {
        let (Some(first), all) = (lost.first(), self.layers.len()) else { return Ok(None) };
        let path = path.display();
        if lost.len() >= all {
            return Err(Failure::new(format!(
                "{path} changes no layer of this model: it has none called `{first}`"
            ))
            .remedy("Give a LoRA that was made for a model of this kind"));
        }
        Ok(Some(format!(
            "{} of the {all} layers in {path} are not in this model, and are passed over; the \
             first is `{first}`",
            lost.len()
        )))
    }

    fn matrix(&self, weight: &Weight) -> Result<Matrix> {
        let bytes = self.mapped.bytes(weight)?;
        let mut values = vec![0.0; bytes.len() / weight.dtype.bytes()];
        to_f32(Isa::SCALAR, weight.dtype, bytes, &mut values);
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Failure::new("it holds a value that is no finite number")
                .remedy("Fetch the file again"));
        }
        Ok(Matrix { shape: weight.shape.as_slice().into(), values })
    }

    /// Refuses a change that does not fit its weight.
    fn check(&self, change: Change, shape: Shape) -> Result<()> {
        let tensors = &self.layers[change.layer].1;
        let get = |role| tensors.get(&role).map(|weight| self.matrix(weight)).transpose();
        if change.is_bias {
            return Delta::Whole(get(Role::Bias)?.unwrap_or_default()).check(shape);
        }
        if let Some(lengths) = get(Role::Lengths)? {
            delta::are_of_outputs(&lengths, shape)?;
        }
        read(&get)?.check(shape)
    }

    /// Adds a change to a weight.
    fn change(&self, change: Change, shape: Shape, values: &mut [f32]) -> Result<()> {
        let tensors = &self.layers[change.layer].1;
        let get = |role| tensors.get(&role).map(|weight| self.matrix(weight)).transpose();
        if change.is_bias {
            let whole = Delta::Whole(get(Role::Bias)?.unwrap_or_default()).values(shape)?;
            values.iter_mut().zip(whole).for_each(|(value, change)| *value += self.scale * change);
            return Ok(());
        }
        let delta = read(&get)?;
        let alpha = get(Role::Alpha)?.and_then(|alpha| alpha.values.first().copied());
        let factor = match (alpha, delta.rank()) {
            (Some(alpha), Some(rank)) => alpha / rank.max(1) as f32,
            _ => 1.0,
        };
        let added = delta.values(shape)?;
        let Some(lengths) = get(Role::Lengths)? else {
            let factor = self.scale * factor;
            values.iter_mut().zip(added).for_each(|(value, change)| *value += factor * change);
            return Ok(());
        };
        let sums = values.iter().zip(added).map(|(value, change)| value + factor * change);
        let mut whole: Vec<f32> = sums.collect();
        delta::with_lengths(&lengths, shape, &mut whole)?;
        let whole = values.iter_mut().zip(whole);
        whole.for_each(|(value, whole)| *value += self.scale * (whole - *value));
        Ok(())
    }
}

/// The change that a layer's tensors describe.
fn read(get: &dyn Fn(Role) -> Result<Option<Matrix>>) -> Result<Delta> {
    let lacks = || Failure::new("its tensors are not complete").remedy("Fetch the file again");
    let need = |role| get(role)?.ok_or_else(lacks);
    if let Some(whole) = get(Role::Whole)? {
        return Ok(Delta::Whole(whole));
    }
    if let Some(up) = get(Role::Up)? {
        return Ok(Delta::LowRank { up, down: need(Role::Down)?, mid: get(Role::Mid)? });
    }
    let factor = |whole, a, b, core| -> Result<Factor> {
        match get(whole)? {
            Some(matrix) => Ok(Factor::Whole(matrix)),
            None => Ok(Factor::Product(need(a)?, need(b)?, core)),
        }
    };
    if get(Role::W1)?.is_some() || get(Role::W2)?.is_some() {
        return Ok(Delta::Kronecker([
            factor(Role::W1, Role::A1, Role::B1, None)?,
            factor(Role::W2, Role::A2, Role::B2, get(Role::T2)?)?,
        ]));
    }
    Ok(Delta::Hadamard([
        (need(Role::A1)?, need(Role::B1)?, get(Role::T1)?),
        (need(Role::A2)?, need(Role::B2)?, get(Role::T2)?),
    ]))
}

/// A tensor's layer, without what one way of writing puts between its parts, and what it is there.
fn split(name: &str) -> Option<(String, Role)> {
    let (layer, role) =
        ENDS.iter().find_map(|(end, role)| Some((name.strip_suffix(end)?, *role)))?;
    let layer = layer.replace(".processor.", ".");
    Some((layer.strip_suffix(".to_out").map_or(layer.clone(), |at| format!("{at}.to_out.0")), role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_comes_behind_the_last_colon() {
        let read = |text: &str| text.parse::<Lora>().map(|lora| (lora.file, lora.scale));
        for (text, file, scale) in [
            ("a.safetensors", "a.safetensors", 1.0),
            ("a.safetensors:0.7", "a.safetensors", 0.7),
            ("a:-0.5", "a", -0.5),
            (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0),
            ("a:inf", "a:inf", 1.0),
        ] {
            assert_eq!(read(text), Ok((file.into(), scale)), "{text}");
        }
        assert!(read("").is_err() && read(":0.5").is_err());
    }

    #[test]
    fn layers_have_one_name_however_a_program_writes_it() {
        for (name, layer, role) in [
            ("lora_te_x.alpha", "lora_te_x", Role::Alpha),
            ("unet.x.attn1.processor.to_q_lora.down.weight", "unet.x.attn1.to_q", Role::Down),
            ("unet.x.attn1.processor.to_out_lora.up.weight", "unet.x.attn1.to_out.0", Role::Up),
            ("unet.x.to_q.lora_A.default.weight", "unet.x.to_q", Role::Down),
            ("unet.x.to_q.lora_A.weight", "unet.x.to_q", Role::Down),
            ("unet.x.to_q.lora_magnitude_vector.weight", "unet.x.to_q", Role::Lengths),
            ("unet.x.to_q.lora_magnitude_vector.default.weight", "unet.x.to_q", Role::Lengths),
            ("lora_unet_x.lokr_w2_b", "lora_unet_x", Role::B2),
        ] {
            assert_eq!(split(name), Some((layer.into(), role)), "{name}");
        }
        assert_eq!(split("emb_params"), None);
    }

    #[test]
    fn a_text_names_files_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cut.safetensors");
        std::fs::write(&file, b"x").unwrap();
        let mut text = "a tree <lora:cut:0.8>, old <lora:cut>".to_string();
        let found = take_from(&mut text, folder.path()).unwrap();
        assert_eq!(text, "a tree , old");
        let scales: Vec<f32> = found.iter().map(|lora| lora.scale).collect();
        assert_eq!(
            (scales, &found[0].file, found[0].to_string()),
            (vec![0.8, 1.0], &file, "cut:0.8".into())
        );
        for (text, says) in [("<lora:none:1>", "none.safetensors"), ("<lora:cut:x>", "scale")] {
            let said = take_from(&mut text.into(), folder.path()).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
    }
}
