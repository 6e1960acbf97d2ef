//! Weights as PyTorch saves them, `.ckpt` and `.pt`: a zip with a pickle that says which tensors
//! there are, and their bytes. A pickle is a program; here it is read as a description, by a reader
//! that knows dictionaries, numbers and tensors, and calls nothing. What else it asks for is
//! refused by name.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::path::Path;

use mote::tensor::{DType, Shape};
use mote::weights::Weight;
use zip::{CompressionMethod, ZipArchive};

use super::mapped::{Raw, damaged};
use crate::error::{Failure, Result};

/// What a zip begins with.
pub const ZIP: &[u8] = b"PK\x03\x04";

/// The longest description that is read: those of the largest models have a few MiB.
const MAX_PICKLE: u64 = 64 << 20;

/// The most files of an archive: a model has some thousands of tensors.
const MAX_FILES: usize = 100_000;

/// The classes of storages, and what lies in them.
const STORAGES: [(&str, DType); 10] = [
    ("torch FloatStorage", DType::F32),
    ("torch HalfStorage", DType::F16),
    ("torch BFloat16Storage", DType::BF16),
    ("torch DoubleStorage", DType::F64),
    ("torch LongStorage", DType::I64),
    ("torch IntStorage", DType::I32),
    ("torch ShortStorage", DType::I16),
    ("torch CharStorage", DType::I8),
    ("torch ByteStorage", DType::U8),
    ("torch BoolStorage", DType::Bool),
];

/// A file of PyTorch's, mapped, its tensors known by name.
#[derive(Debug)]
pub struct Pickled {
    raw: Raw,
    tensors: HashMap<String, Weight>,
    /// Tensors that lie across in the file, in order.
    turned: Vec<u8>,
}

impl Pickled {
    /// Maps the file at `path` and reads its description.
    ///
    /// # Errors
    /// Where it cannot be read, or its description asks for more than tensors.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(Raw::open(path)?)
    }

    fn of(raw: Raw) -> Result<Self> {
        let path = raw.path().to_path_buf();
        let bad = |why: String| damaged(&path, why);
        let mut archive = ZipArchive::new(Cursor::new(raw.bytes()))
            .map_err(|error| bad(format!("it is no whole zip ({error})")))?;
        if archive.len() > MAX_FILES {
            return Err(bad(format!("it holds {} files", archive.len())));
        }
        let (mut description, mut storages) = (None, HashMap::new());
        for number in 0..archive.len() {
            let mut file = archive.by_index(number).map_err(|error| bad(error.to_string()))?;
            let name = file.name().map_err(|error| bad(error.to_string()))?.into_owned();
            if name.ends_with("/data.pkl") || name == "data.pkl" {
                let mut bytes = Vec::new();
                let read = file.by_ref().take(MAX_PICKLE + 1).read_to_end(&mut bytes);
                read.map_err(|error| bad(format!("{name} cannot be read: {error}")))?;
                if bytes.len() as u64 > MAX_PICKLE {
                    return Err(bad(format!("{name} is longer than 64 MiB")));
                }
                description = Some(bytes);
            } else if let Some((_, key)) = name.rsplit_once("data/") {
                if file.compression() != CompressionMethod::Stored {
                    return Err(bad(format!("{name} is compressed, which PyTorch never does")));
                }
                let begin = file.data_start().ok_or_else(|| bad(format!("{name} lies nowhere")))?;
                storages.insert(key.to_string(), (begin, file.size()));
            }
        }
        let Some(description) = description else {
            return Err(bad("it holds no data.pkl, as PyTorch's files do".into()));
        };
        let found = Reader::new(&description).run().map_err(|why| refused(&path, &why))?;
        let mut pickled = Self { raw, tensors: HashMap::new(), turned: Vec::new() };
        for (name, tensor) in found {
            let placed = pickled.place(&tensor, &storages);
            if let Some(weight) = placed.map_err(|why| bad(format!("`{name}` {why}")))? {
                pickled.tensors.insert(name, weight);
            }
        }
        Ok(pickled)
    }

    /// Where a tensor lies; none has more than four sides.
    fn place(
        &mut self,
        tensor: &Described,
        storages: &HashMap<String, (u64, u64)>,
    ) -> std::result::Result<Option<Weight>, String> {
        let Some(shape) = Shape::from_slice(&tensor.shape) else { return Ok(None) };
        let size = tensor.dtype.bytes();
        let (begin, length) = storages.get(&tensor.key).ok_or("lies in no file of the archive")?;
        let count = tensor.shape.iter().try_fold(1_usize, |all, &side| all.checked_mul(side));
        let count = count.ok_or("has too many elements")?;
        let bytes = count.checked_mul(size).ok_or("has too many elements")?;
        let mut rows = Vec::new();
        let mut expected = 1;
        for &side in tensor.shape.iter().rev() {
            rows.push(expected);
            expected *= side;
        }
        rows.reverse();
        let sides = tensor.shape.iter().zip(&tensor.strides).zip(&rows);
        let is_whole = count == 0 || sides.clone().all(|((&side, s), row)| side == 1 || s == row);
        // The last element that is read, in elements of the storage.
        let last =
            tensor.shape.iter().zip(&tensor.strides).try_fold(tensor.offset, |at, (n, s)| {
                n.saturating_sub(1).checked_mul(*s).and_then(|step| at.checked_add(step))
            });
        let fits = |last: usize| (last as u64).checked_add(1)?.checked_mul(size as u64);
        let ends = last.and_then(fits).filter(|&end| count == 0 || end <= *length);
        ends.ok_or("reaches beyond its file")?;
        let first = begin + (tensor.offset * size) as u64;
        let (dtype, part) = (tensor.dtype, 0);
        if is_whole {
            return Ok(Some(Weight { dtype, shape, part, begin: first, bytes }));
        }
        // What lies across is written down anew, and never more than the file itself has.
        let all = self.raw.bytes().len();
        if self.turned.len().checked_add(bytes).is_none_or(|total| total > all) {
            return Err("stands for more values than the file holds".into());
        }
        let own = (all + self.turned.len()) as u64;
        let mut index = vec![0; tensor.shape.len()];
        for _ in 0..count {
            let places = index.iter().zip(&tensor.strides);
            let at = tensor.offset + places.map(|(i, s)| i * s).sum::<usize>();
            let at = *begin as usize + at * size;
            let value = self.raw.bytes().get(at..at + size).ok_or("reaches beyond the file")?;
            self.turned.extend_from_slice(value);
            for (i, &side) in index.iter_mut().zip(&tensor.shape).rev() {
                *i += 1;
                if *i < side {
                    break;
                }
                *i = 0;
            }
        }
        Ok(Some(Weight { dtype, shape, part, begin: own, bytes }))
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        self.raw.path()
    }

    /// The names of its tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor called `name`.
    pub fn find(&self, name: &str) -> Option<Weight> {
        self.tensors.get(name).copied()
    }

    /// Some of the bytes of a tensor.
    pub fn read(&self, weight: &Weight, start: usize, len: usize) -> Option<&[u8]> {
        let (file, begin) = (self.raw.bytes(), usize::try_from(weight.begin).ok()?);
        let whole = match begin.checked_sub(file.len()) {
            Some(behind) => self.turned.get(behind..)?,
            None => file.get(begin..)?,
        };
        whole.get(..weight.bytes)?.get(start..)?.get(..len)
    }
}

fn refused(path: &Path, why: &str) -> Failure {
    Failure::new(format!("{} is not read: {why}", path.display())).remedy(
        "mote reads tensors and calls nothing: take the file from somebody you trust, and save it \
         as safetensors",
    )
}

/// A tensor as a pickle describes it.
#[derive(Clone, Debug)]
struct Described {
    key: String,
    dtype: DType,
    /// The first element.
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// The number of an object.
type Ref = usize;

/// What a pickle makes.
#[derive(Clone, Debug)]
enum Object {
    Dict(Vec<(Ref, Ref)>),
    List(Vec<Ref>),
    Text(String),
    Int(i64),
    Name(String),
    Storage { key: String, dtype: DType },
    Tensor(Described),
    Other,
}

/// Reads a pickle. Its objects lie side by side and know each other by number, so that none lies in
/// another, however deep the pickle says.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object>,
    stack: Vec<Ref>,
    marks: Vec<usize>,
    memo: HashMap<u32, Ref>,
}

type Parsed<T> = std::result::Result<T, String>;

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let (objects, stack, marks, memo) = Default::default();
        Self { bytes, at: 0, objects, stack, marks, memo }
    }

    fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or("its description is cut short")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| "its description is cut short".into())
    }

    fn line(&mut self) -> Parsed<String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&b| b == b'\n').ok_or("its description is cut short")?;
        let line = self.take(end)?;
        self.at += 1;
        String::from_utf8(line.to_vec()).map_err(|_| "a name in it is no text".into())
    }

    fn text(&mut self, length: usize) -> Parsed<()> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.push(Object::Text(text));
        Ok(())
    }

    fn push(&mut self, object: Object) {
        self.objects.push(object);
        self.stack.push(self.objects.len() - 1);
    }

    fn pop(&mut self) -> Parsed<Ref> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => {
                self.stack.pop().ok_or_else(|| "its description takes what is not there".into())
            }
            false => Err("its description takes what is not there".into()),
        }
    }

    fn top(&self) -> Parsed<Ref> {
        self.stack.last().copied().ok_or_else(|| "its description takes what is not there".into())
    }

    /// What lies above the last mark.
    fn above_mark(&mut self) -> Parsed<Vec<Ref>> {
        let mark = self.marks.pop().ok_or("its description takes what is not there")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn tuple(&mut self, count: usize) -> Parsed<()> {
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Object::List(items));
        Ok(())
    }

    fn remember(&mut self, number: u32) -> Parsed<()> {
        let top = self.top()?;
        self.memo.insert(number, top);
        Ok(())
    }

    fn recall(&mut self, number: u32) -> Parsed<()> {
        let found = self.memo.get(&number).copied();
        self.stack.push(found.ok_or("its description recalls what it never said")?);
        Ok(())
    }

    fn set(&mut self, pairs: &[Ref]) -> Parsed<()> {
        let target = self.top()?;
        let Object::Dict(items) = &mut self.objects[target] else {
            return Err("its description fills what is no dictionary".into());
        };
        items.extend(pairs.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn append(&mut self, more: &[Ref]) -> Parsed<()> {
        let target = self.top()?;
        let Object::List(items) = &mut self.objects[target] else {
            return Err("its description fills what is no list".into());
        };
        items.extend(more);
        Ok(())
    }

    fn list(&self, of: Ref) -> Parsed<&[Ref]> {
        match &self.objects[of] {
            Object::List(items) => Ok(items),
            _ => Err("its description calls with no list".into()),
        }
    }

    fn name(&self, of: Ref) -> &str {
        match &self.objects[of] {
            Object::Name(name) | Object::Text(name) => name,
            _ => "",
        }
    }

    fn sizes(&self, of: Ref) -> Parsed<Vec<usize>> {
        let size = |&item: &Ref| match self.objects[item] {
            Object::Int(size) => usize::try_from(size).ok(),
            _ => None,
        };
        let sizes = self.list(of)?.iter().map(size).collect::<Option<Vec<_>>>();
        sizes.ok_or_else(|| "a tensor in it has a side that is no size".into())
    }

    /// Calls the few things that describe tensors, and refuses all others.
    fn call(&mut self) -> Parsed<()> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let object = match self.name(callee) {
            "collections OrderedDict" => Object::Dict(Vec::new()),
            "torch._utils _rebuild_tensor_v2" => self.tensor(arguments)?,
            "torch._utils _rebuild_parameter" => {
                let inner = self.list(arguments)?.first().copied();
                self.objects[inner.ok_or("a parameter in it is none")?].clone()
            }
            other => return Err(format!("its description would call {other:?}")),
        };
        self.push(object);
        Ok(())
    }

    fn tensor(&self, arguments: Ref) -> Parsed<Object> {
        let &[storage, offset, shape, strides, ..] = self.list(arguments)? else {
            return Err("a tensor in it is not described in full".into());
        };
        let (Object::Storage { key, dtype }, Object::Int(offset)) =
            (&self.objects[storage], &self.objects[offset])
        else {
            return Err("a tensor in it has no storage".into());
        };
        let offset = usize::try_from(*offset).map_err(|_| "a tensor in it begins nowhere")?;
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err("a tensor in it has not as many strides as sides".into());
        }
        Ok(Object::Tensor(Described { key: key.clone(), dtype: *dtype, offset, shape, strides }))
    }

    /// `('storage', class, key, device, elements)`.
    fn storage(&mut self) -> Parsed<()> {
        let id = self.pop()?;
        let &[kind, class, key, ..] = self.list(id)? else {
            return Err("it refers to what is no storage".into());
        };
        if self.name(kind) != "storage" {
            return Err(format!("it refers to {:?}, which is no storage", self.name(kind)));
        }
        let class = self.name(class);
        let Some((_, dtype)) = STORAGES.iter().find(|(name, _)| *name == class) else {
            return Err(format!("a storage in it is of {class:?}, which mote does not know"));
        };
        let object = Object::Storage { key: self.name(key).to_string(), dtype: *dtype };
        self.push(object);
        Ok(())
    }

    /// All tensors of the dictionary that the pickle is, or of its `state_dict`.
    fn run(mut self) -> Parsed<Vec<(String, Described)>> {
        while self.step()? {}
        let root = self.pop()?;
        let named = |of: Ref, wanted: &str| match &self.objects[of] {
            Object::Dict(items) => {
                items.iter().find(|(key, _)| self.name(*key) == wanted).map(|(_, value)| *value)
            }
            _ => None,
        };
        let root = named(root, "state_dict").unwrap_or(root);
        let Object::Dict(items) = &self.objects[root] else {
            return Err("it is no dictionary of tensors".into());
        };
        let tensor = |&(key, value): &(Ref, Ref)| match &self.objects[value] {
            Object::Tensor(tensor) => Some((self.name(key).to_string(), tensor.clone())),
            _ => None,
        };
        Ok(items.iter().filter_map(tensor).collect())
    }

    /// Carries out one instruction; tells whether more follow.
    fn step(&mut self) -> Parsed<bool> {
        let [code] = self.array()?;
        match code {
            0x80 => drop(self.array::<1>()?),
            0x95 => drop(self.array::<8>()?),
            b'}' => self.push(Object::Dict(Vec::new())),
            b']' | b')' => self.push(Object::List(Vec::new())),
            b'(' => self.marks.push(self.stack.len()),
            b'N' | 0x88 | 0x89 => self.push(Object::Other),
            b'J' => self.number::<4>()?,
            b'M' => self.number::<2>()?,
            b'K' => self.number::<1>()?,
            0x8a => {
                let [length] = self.array()?;
                let bytes = self.take(usize::from(length))?;
                let value = bytes.iter().rev().fold(0_i64, |all, &b| all << 8 | i64::from(b));
                self.push(if bytes.len() < 8 { Object::Int(value) } else { Object::Other });
            }
            b'G' => {
                self.array::<8>()?;
                self.push(Object::Other);
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.text(length)?;
            }
            0x8c | b'U' => {
                let [length] = self.array()?;
                self.text(usize::from(length))?;
            }
            _ => return self.build(code),
        }
        Ok(true)
    }

    /// Carries out an instruction that puts together what is there.
    fn build(&mut self, code: u8) -> Parsed<bool> {
        match code {
            b'q' => {
                let [number] = self.array()?;
                self.remember(u32::from(number))?;
            }
            b'r' => {
                let number = u32::from_le_bytes(self.array()?);
                self.remember(number)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let [number] = self.array()?;
                self.recall(u32::from(number))?;
            }
            b'j' => {
                let number = u32::from_le_bytes(self.array()?);
                self.recall(number)?;
            }
            b'c' => {
                let name = format!("{} {}", self.line()?, self.line()?);
                self.push(Object::Name(name));
            }
            0x93 => {
                let (inner, module) = (self.pop()?, self.pop()?);
                let name = format!("{} {}", self.name(module), self.name(inner));
                self.push(Object::Name(name));
            }
            b't' => {
                let items = self.above_mark()?;
                self.push(Object::List(items));
            }
            0x85..=0x87 => self.tuple(usize::from(code - 0x84))?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let pairs = self.above_mark()?;
                self.set(&pairs)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.above_mark()?;
                self.append(&items)?;
            }
            // What is set on a dictionary beside its items says nothing of tensors.
            b'b' => drop(self.pop()?),
            b'R' => self.call()?,
            b'Q' => self.storage()?,
            b'.' => return Ok(false),
            other => return Err(format!("its description has the instruction {other:#04x}")),
        }
        Ok(true)
    }

    fn number<const N: usize>(&mut self) -> Parsed<()> {
        let bytes = self.array::<N>()?;
        let value = bytes.iter().rev().fold(0_u32, |all, &b| all << 8 | u32::from(b));
        // Of four bytes the number has a sign.
        let value = if N == 4 { i64::from(value as i32) } else { i64::from(value) };
        self.push(Object::Int(value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(bytes: &[u8]) -> Parsed<Vec<(String, Described)>> {
        Reader::new(bytes).run()
    }

    /// `{"w": _rebuild_tensor_v2(storage, 0, (2, 3), (3, 1), False, OrderedDict())}` in protocol 2.
    const ONE: &[u8] =
        b"\x80\x02}q\x00X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\
        \x00\x00storagectorch\nHalfStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x00K\x02\
        K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)Rt(t\x85Rs.";

    fn one() -> Vec<u8> {
        // The inner tuple of arguments ends at the first `t` behind the dictionary.
        let text = ONE.to_vec();
        let end = text.len() - b"t(t\x85Rs.".len();
        [&text[..end], b"tRs."].concat()
    }

    #[test]
    fn a_tensor_is_described_and_nothing_is_called() {
        let found = run(&one()).unwrap();
        let (name, tensor) = &found[0];
        assert_eq!((name.as_str(), tensor.key.as_str(), tensor.dtype), ("w", "0", DType::F16));
        assert_eq!((&tensor.shape[..], &tensor.strides[..]), (&[2, 3][..], &[3, 1][..]));
    }

    #[test]
    fn what_would_be_called_is_refused_by_its_name() {
        for (bytes, says) in [
            (&b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R."[..], "os system"),
            (b"cbuiltins\neval\n)R.", "builtins eval"),
            (b"\x8c\x02os\x8c\x06system\x93)R.", "os system"),
            (b"cos\nsystem\n)\x81.", "0x81"),
            (b"ios\nsystem\n.", "0x69"),
            (b"]cos\nsystem\na.", "no dictionary"),
            (b"X\xff\xff\xff\xffa", "cut short"),
            (b"h\x00.", "never said"),
            (b"s.", "not there"),
            (b"(K\x01R.", "not there"),
            (b".", "not there"),
            (b"", "cut short"),
        ] {
            let said = run(bytes).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn any_bytes_at_all_are_read_or_refused() {
        let mut state = 1_u64;
        let mut dice = |sides: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % sides
        };
        let codes = b"\x80}])(NJMKGXqrhjctsuaebRQ.\x85\x86\x87\x88\x8a\x8c\x93\x94\x95";
        for round in 0..20_000 {
            let mut bytes = one();
            for _ in 0..=dice(6) {
                let at = dice(bytes.len());
                match round % 3 {
                    0 => bytes[at] = dice(256) as u8,
                    1 => bytes.insert(at, codes[dice(codes.len())]),
                    _ => drop(bytes.remove(at)),
                }
            }
            let _ = run(&bytes);
        }
    }
}
