//! Where a training stands, in one file: the parameters, AdamW's two moments and the average of the
//! parameters. All else is a function of the seed and the step.
//!
//! It is safetensors, so that other programs can look into it. It is written beside its place and
//! moved there when it is whole: whenever the program is ended, one whole state is there.

use std::path::Path;

use mote::mem::bytes_of;
use mote::tensor::Shape;
use mote::weights::Weights;
use serde_json::{Value, json};

use mote_host::checkpoint::mapped::{Mapped, damaged};
use mote_host::error::{Failure, Result};
use mote_host::stop::Stop;
use mote_host::write::FileWriter;

/// What `format` says in the metadata.
const FORMAT: &str = "mote training";

/// The version of the format.
const VERSION: &str = "1";

/// The tensors, in their order.
pub const TENSORS: [&str; 4] = ["parameters", "first_moment", "second_moment", "average"];

/// Bytes before the header: its length.
const PREFIX: usize = 8;

/// Tensors begin at a multiple of this.
const ALIGNMENT: usize = 64;

/// What a state belongs to, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Steps that are done.
    pub step: u64,
    /// The recipe's fingerprint.
    pub recipe: u64,
    /// The data set's.
    pub data: u64,
}

/// Writes a state.
///
/// # Errors
/// Where it cannot be written; what was there before is still there then.
pub fn write(path: &Path, mark: Mark, tensors: [&[f32]; TENSORS.len()], stop: &Stop) -> Result<()> {
    let metadata = json!({
        "format": FORMAT, "version": VERSION, "step": mark.step.to_string(),
        "recipe": format!("{:016x}", mark.recipe), "data": format!("{:016x}", mark.data)
    });
    let mut text = format!("{{\"__metadata__\":{metadata}");
    let mut begin = 0;
    for (name, values) in TENSORS.iter().zip(tensors) {
        let end = begin + size_of_val(values);
        let tensor =
            json!({ "dtype": "F32", "shape": [values.len()], "data_offsets": [begin, end] });
        text.push_str(&format!(",\"{name}\":{tensor}"));
        begin = end;
    }
    text.push('}');
    while !(PREFIX + text.len()).is_multiple_of(ALIGNMENT) {
        text.push(' ');
    }
    let mut file = FileWriter::begin(Some(path), stop)?;
    file.write(&(text.len() as u64).to_le_bytes())?;
    file.write(text.as_bytes())?;
    tensors.iter().try_for_each(|values| file.write(bytes_of(values)))?;
    file.end()
}

/// What a state belongs to.
///
/// # Errors
/// Where the file is none, or damaged.
pub fn mark(path: &Path, mapped: &Mapped) -> Result<Mark> {
    let header: Value = serde_json::from_slice(mapped.header())
        .map_err(|error| damaged(path, format!("its header is not JSON: {error}")))?;
    let text = |key: &str| header["__metadata__"][key].as_str().unwrap_or_default().to_string();
    if text("format") != FORMAT {
        return Err(Failure::new(format!("{} is no state of a training", path.display()))
            .remedy("Give the folder that `mote train` wrote"));
    }
    if text("version") != VERSION {
        let found = text("version");
        return Err(Failure::new(format!("{} is of version {found:?}", path.display()))
            .remedy("Go on with the mote that began"));
    }
    let number = |key: &str, radix| {
        u64::from_str_radix(&text(key), radix)
            .map_err(|_| damaged(path, format!("its metadata name no `{key}`")))
    };
    Ok(Mark { step: number("step", 10)?, recipe: number("recipe", 16)?, data: number("data", 16)? })
}

/// Reads a state into the four tensors; tells how far it is.
///
/// # Errors
/// Where it is damaged, or belongs to another recipe or other data.
pub fn read(path: &Path, expected: Mark, tensors: [&mut [f32]; TENSORS.len()]) -> Result<u64> {
    let mapped = Mapped::open(path)?;
    let found = mark(path, &mapped)?;
    let shown = path.display();
    if found.recipe != expected.recipe {
        return Err(Failure::new(format!("{shown} was trained by another recipe"))
            .remedy("Give the recipe it was begun with, or another -o"));
    }
    if found.data != expected.data {
        return Err(Failure::new(format!("{shown} was trained on other pictures or captions"))
            .remedy("Give the data it was begun with, or another -o"));
    }
    let mut weights = mapped.weights();
    for (name, values) in TENSORS.iter().zip(tensors) {
        let shape = Shape::new([values.len()]);
        let weight = weights.find(name, shape).ok().flatten();
        let weight = weight.filter(|weight| weight.shape == shape);
        let weight = weight.ok_or_else(|| damaged(path, format!("`{name}` is not as it was")))?;
        let bytes = weights.read(&weight, 0, weight.bytes, &mut []);
        let bytes = bytes.map_err(|error| damaged(path, error))?;
        for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
    }
    Ok(found.step)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MARK: Mark = Mark { step: 7, recipe: 0xFEDC_BA98_7654_3210, data: 5 };

    fn written() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        let values: [Vec<f32>; 4] =
            [0.0, 1.0, 2.0, 3.0].map(|x| vec![x, f32::MIN_POSITIVE / 2.0, -0.0]);
        let slices = [0, 1, 2, 3].map(|i| values[i].as_slice());
        write(&path, MARK, slices, &Stop::default()).unwrap();
        (folder, path)
    }

    fn read_back(path: &Path, mark: Mark) -> Result<(u64, Vec<Vec<f32>>)> {
        let mut values = vec![vec![9.0; 3]; 4];
        let [a, b, c, d] = values.as_mut_slice() else { unreachable!("there are four") };
        let step = read(path, mark, [a, b, c, d])?;
        Ok((step, values))
    }

    #[test]
    fn a_state_comes_back_to_the_bit() {
        let (_folder, path) = written();
        let (step, values) = read_back(&path, MARK).unwrap();
        assert_eq!((step, values[3][0]), (7, 3.0));
        let bits: Vec<_> = values[2].iter().map(|value| value.to_bits()).collect();
        assert_eq!(bits, [2.0f32, f32::MIN_POSITIVE / 2.0, -0.0].map(f32::to_bits));
    }

    #[test]
    fn another_recipe_and_other_data_are_refused() {
        let (_folder, path) = written();
        let said = read_back(&path, Mark { recipe: 1, ..MARK }).unwrap_err().to_string();
        assert!(said.contains("was trained by another recipe. Give"), "{said}");
        let said = read_back(&path, Mark { data: 1, ..MARK }).unwrap_err().to_string();
        assert!(said.contains("other pictures or captions"), "{said}");
    }

    #[test]
    fn every_truncation_is_refused_and_other_files_are_told_apart() {
        let (_folder, path) = written();
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(read_back(&path, MARK).is_err(), "{len}");
        }
        let text = String::from_utf8_lossy(&whole).replace("mote training", "some training");
        fs::write(&path, text.as_bytes()).unwrap();
        assert!(read_back(&path, MARK).is_err());
    }
}
