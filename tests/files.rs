//! Files that tests read, copy and change: folders of models, pictures, JSON and safetensors.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Copies a folder and all that is in it.
///
/// # Panics
/// Where that cannot be done; so for the others.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder can be read") {
        let path = entry.expect("an entry can be read").path();
        let to = to.join(path.file_name().expect("an entry has a name"));
        match path.is_dir() {
            true => copy(&path, &to),
            false => drop(fs::copy(path, to).expect("a file can be copied")),
        }
    }
}

/// A copy of a model's folder that may be changed, and what keeps it.
pub fn copied(model: &Path) -> (TempDir, PathBuf) {
    let kept = tempfile::tempdir().expect("a folder can be made");
    let folder = kept.path().join("model");
    copy(model, &folder);
    (kept, folder)
}

/// A path as an argument.
pub fn str(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}

/// Sets a key of a JSON file.
pub fn set(path: &Path, key: &str, value: Value) {
    let mut json = crate::json(path);
    json[key] = value;
    fs::write(path, json.to_string()).expect("a file can be written");
}

/// The pixels of a PNG file in RGB, row by row, and its height and width.
pub fn png(path: &Path) -> ([usize; 2], Vec<u8>) {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info().expect("a PNG");
    let mut bytes = vec![0; reader.output_buffer_size().expect("a size")];
    let info = reader.next_frame(&mut bytes).expect("a picture");
    let pixels = match info.color_type {
        png::ColorType::Grayscale => bytes.iter().flat_map(|&grey| [grey; 3]).collect(),
        png::ColorType::Rgb => bytes,
        other => panic!("{}: {other:?}", path.display()),
    };
    ([info.height as usize, info.width as usize], pixels)
}

/// The pixels alone.
pub fn pixels(path: &Path) -> Vec<u8> {
    png(path).1
}

/// How far the most different values of two pictures are apart.
pub fn levels_apart(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len(), "as many values");
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

/// A tensor of a safetensors file: its name, what the header says of it, its bytes.
pub type RawTensor = (String, Value, Vec<u8>);

/// The header and the data of a safetensors file.
pub fn parts(file: &[u8]) -> (Value, &[u8]) {
    let (len, rest) = file.split_first_chunk().expect("a header's length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*len) as usize);
    (serde_json::from_slice(header).expect("a header in JSON"), data)
}

/// A safetensors file of a header and data.
pub fn whole(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// The tensors of a safetensors file, as they lie in it.
pub fn tensors(file: &[u8]) -> Vec<RawTensor> {
    let (header, data) = parts(file);
    let bytes = |tensor: &Value| {
        let at = |i: usize| tensor["data_offsets"][i].as_u64().expect("an offset") as usize;
        data[at(0)..at(1)].to_vec()
    };
    let tensors = header.as_object().expect("a header is an object").iter();
    let tensors = tensors.filter(|(name, _)| *name != "__metadata__");
    tensors.map(|(name, tensor)| (name.clone(), tensor.clone(), bytes(tensor))).collect()
}

/// A safetensors file of these tensors.
pub fn of_tensors(tensors: &[RawTensor]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, tensor, bytes) in tensors {
        let mut tensor = tensor.clone();
        tensor["data_offsets"] = json!([data.len(), data.len() + bytes.len()]);
        header.insert(name.clone(), tensor);
        data.extend(bytes);
    }
    whole(&Value::Object(header).to_string(), &data)
}
