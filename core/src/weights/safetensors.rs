//! The header of a safetensors file: eight bytes of length, then JSON, then the tensors' bytes.
//!
//! The index is a slice of [`Slot`]s the host gives, sorted by name: no allocation, and a look-up
//! is a binary search. Format: <https://huggingface.co/docs/safetensors>.

use core::cmp::Ordering;

use super::Weight;
use super::json::Reader;
use crate::error::{Error, Result};
use crate::tensor::{DType, Shape};

/// The longest header that is believed, the same limit as the reference implementation's.
pub const MAX_HEADER_BYTES: usize = 100_000_000;

/// Bytes of the length before the header.
const PREFIX: usize = 8;

/// One tensor of a file: its name as a range of the header, and what the header says of it.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    name: [usize; 2],
    weight: Weight,
}

impl Slot {
    /// A slot that is to be filled.
    pub const EMPTY: Self = Self {
        name: [0, 0],
        weight: Weight { dtype: DType::U8, shape: Shape::new([0]), part: 0, begin: 0, bytes: 0 },
    };
}

/// The bytes of the header of a file that begins with `beginning` and is `file_bytes` long: where
/// the JSON lies.
///
/// # Errors
/// [`Error::Format`] where the file is too short for its header or the header is absurdly long.
pub fn header_bytes(beginning: &[u8], file_bytes: u64) -> Result<core::ops::Range<usize>> {
    let prefix: [u8; PREFIX] = beginning
        .get(..PREFIX)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Error::Format { what: "the file is shorter than 8 bytes", at: 0 })?;
    let len = u64::from_le_bytes(prefix);
    if len > MAX_HEADER_BYTES as u64 {
        return Err(Error::Format {
            what: "this is no safetensors header: its length is absurd",
            at: 0,
        });
    }
    if len > file_bytes.saturating_sub(PREFIX as u64) {
        return Err(Error::Format { what: "the file ends inside its header", at: PREFIX });
    }
    Ok(PREFIX..PREFIX + len as usize)
}

/// The tensors of one file, by name.
#[derive(Clone, Copy, Debug)]
pub struct Index<'a> {
    header: &'a [u8],
    slots: &'a [Slot],
}

impl<'a> Index<'a> {
    /// How many slots [`Index::parse`] needs for this header (the JSON alone).
    ///
    /// # Errors
    /// [`Error::Format`] where the header is not what it should be.
    pub fn count(header: &[u8]) -> Result<usize> {
        let mut count = 0;
        each_tensor(header, u64::MAX, |_| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    /// Looks for one tensor of a header (the JSON alone) whose file is `file_bytes` long in all,
    /// from its beginning: without memory, and slow.
    ///
    /// # Errors
    /// [`Error::Format`] as [`Index::parse`], but for names that are there twice: the first counts.
    pub fn search(header: &[u8], file_bytes: u64, name: &str) -> Result<Option<Weight>> {
        let mut found = None;
        each_tensor(header, file_bytes, |slot| {
            if found.is_none() && letters(name_of(header, &slot)).eq(name.bytes()) {
                found = Some(slot.weight);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Reads a header (the JSON alone) whose file is `file_bytes` long in all.
    ///
    /// # Errors
    /// [`Error::Format`] where the header is malformed, names a tensor twice, or speaks of bytes
    /// the file does not have; [`Error::Capacity`] where there are more tensors than slots.
    pub fn parse(header: &'a [u8], file_bytes: u64, slots: &'a mut [Slot]) -> Result<Self> {
        let limit = slots.len();
        let mut count = 0;
        each_tensor(header, file_bytes, |slot| {
            let needed = count + 1;
            *slots.get_mut(count).ok_or(Error::Capacity { what: "tensors", needed, limit })? = slot;
            count = needed;
            Ok(())
        })?;
        let slots = &mut slots[..count];
        let order = |a: &Slot, b: &Slot| compare(name_of(header, a), name_of(header, b));
        slots.sort_unstable_by(order);
        let is_twice = |pair: &&[Slot]| order(&pair[0], &pair[1]).is_eq();
        if let Some(twice) = slots.windows(2).find(is_twice) {
            return Err(Error::Format { what: "a tensor is named twice", at: twice[1].name[0] });
        }
        Ok(Self { header, slots })
    }

    /// The tensors of a header (the JSON alone) that [`Index::parse`] has read into these slots.
    ///
    /// Slots of another header lead to other names, and may panic.
    pub fn parsed(header: &'a [u8], slots: &'a [Slot]) -> Self {
        Self { header, slots }
    }

    /// The tensor called `name`.
    pub fn find(&self, name: &str) -> Option<Weight> {
        self.find_near(name, &mut 0)
    }

    /// The tensor called `name`, which is looked for around number `near` first, and whose number
    /// `near` becomes: a layer's tensors follow each other by name.
    pub fn find_near(&self, name: &str, near: &mut usize) -> Option<Weight> {
        let name = name.as_bytes();
        let around = near.saturating_sub(2)..self.slots.len().min(near.saturating_add(2));
        let is_plain = !name.contains(&b'\\');
        let is_it = |&at: &usize| is_plain && name_of(self.header, &self.slots[at]) == name;
        let found = around.rev().find(is_it).or_else(|| self.place_of(name.iter().copied()));
        *near = found.unwrap_or(*near);
        found.map(|at| self.slots[at].weight)
    }

    /// The number of the tensor of this name.
    fn place_of(&self, name: impl Iterator<Item = u8> + Clone) -> Option<usize> {
        let order = |slot: &Slot| compare_to(name_of(self.header, slot), name.clone());
        self.slots.binary_search_by(order).ok()
    }

    /// Whether one of the tensors is a quantised weight of a product: panels of integers and,
    /// beside them, their scales. Integers alone are something else that nobody asks for.
    pub fn is_quantised(&self) -> bool {
        self.slots.iter().any(|slot| {
            let name = letters(name_of(self.header, slot));
            let is_integer = matches!(slot.weight.dtype, DType::I8 | DType::U8);
            is_integer && self.place_of(name.chain(*b".scale")).is_some()
        })
    }

    /// All tensors with their names, in the order of the names. A name is given as the header has
    /// it: where there are backslashes in it, they begin JSON's escapes.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Weight)> + use<'a> {
        let header = self.header;
        self.slots.iter().map(move |slot| {
            // The parser has let only UTF-8 through.
            (core::str::from_utf8(name_of(header, slot)).unwrap_or(""), slot.weight)
        })
    }
}

fn name_of<'a>(header: &'a [u8], slot: &Slot) -> &'a [u8] {
    &header[slot.name[0]..slot.name[1]]
}

/// The order of two names as JSON writes them, by the letters that they stand for. It is a function
/// of its own: inside of a sort it would be there many times.
#[inline(never)]
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    match [a, b].iter().any(|name| name.contains(&b'\\')) {
        true => letters(a).cmp(letters(b)),
        false => a.cmp(b),
    }
}

/// As [`compare`], with a name that is written without escapes.
#[inline(never)]
fn compare_to(name: &[u8], plain: impl Iterator<Item = u8>) -> Ordering {
    letters(name).cmp(plain)
}

/// Bytes of a name as JSON writes it, without its escapes. [`is_readable`] has checked those.
fn letters(name: &[u8]) -> impl Iterator<Item = u8> + Clone {
    let mut rest = name;
    let mut pending: heapless::Deque<u8, 4> = heapless::Deque::new();
    core::iter::from_fn(move || {
        if let Some(byte) = pending.pop_front() {
            return Some(byte);
        }
        let (&first, after) = rest.split_first()?;
        rest = after;
        if first != b'\\' {
            return Some(first);
        }
        let (letter, taken) = escape(rest)?;
        rest = &rest[taken..];
        let mut bytes = [0; 4];
        for &byte in letter.encode_utf8(&mut bytes).as_bytes() {
            pending.push_back(byte).ok()?;
        }
        pending.pop_front()
    })
}

/// The character of the escape that `rest` goes on with after its backslash, and its bytes; `None`
/// for half of a pair of surrogates.
fn escape(rest: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = core::str::from_utf8(rest.get(at..at + 4)?).ok()?;
        u32::from_str_radix(digits, 16).ok()
    };
    let plain = |letter| Some((letter, 1));
    match rest.first()? {
        b'b' => plain('\u{8}'),
        b'f' => plain('\u{c}'),
        b'n' => plain('\n'),
        b'r' => plain('\r'),
        b't' => plain('\t'),
        b'u' => match unit(1)? {
            high @ 0xD800..0xDC00 => {
                let low = unit(7).filter(|_| rest.get(5..7) == Some(b"\\u"))?;
                let low = low.checked_sub(0xDC00).filter(|&low| low < 0x400)?;
                let letter = char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + low)?;
                Some((letter, 11))
            }
            one => Some((char::from_u32(one)?, 5)),
        },
        &other => plain(char::from(other)),
    }
}

/// Whether a name is UTF-8 and each of its escapes stands for a character.
fn is_readable(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        match escape(&rest[at + 1..]) {
            Some((_, taken)) => rest = &rest[at + 1 + taken..],
            None => return false,
        }
    }
    core::str::from_utf8(name).is_ok()
}

/// Calls `found` for each tensor of a header.
fn each_tensor(
    header: &[u8],
    file_bytes: u64,
    mut found: impl FnMut(Slot) -> Result<()>,
) -> Result<()> {
    let data = (PREFIX + header.len()) as u64;
    let mut reader = Reader::new(header);
    reader.expect(b'{', "the header does not begin with {")?;
    if reader.take(b'}') {
        return reader.end();
    }
    loop {
        let name = reader.string()?;
        let end = reader.at() - 1;
        reader.expect(b':', "a colon was expected")?;
        if name == b"__metadata__" {
            reader.skip_value()?;
        } else {
            if !is_readable(name) {
                return reader.fail("a tensor's name is not UTF-8");
            }
            if let Some(weight) = read_tensor(&mut reader, data, file_bytes)? {
                found(Slot { name: [end - name.len(), end], weight })?;
            }
        }
        if reader.take(b'}') {
            return reader.end();
        }
        reader.expect(b',', "a comma was expected")?;
    }
}

/// `{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}`, in any order, each once. A tensor
/// of more than four dimensions is checked like any other, but no network of ours asks for it:
/// `None`.
fn read_tensor(reader: &mut Reader<'_>, data: u64, file_bytes: u64) -> Result<Option<Weight>> {
    let (mut dtype, mut shape, mut offsets) = (None, None, None);
    reader.expect(b'{', "a tensor's description was expected")?;
    loop {
        let key = reader.string()?;
        reader.expect(b':', "a colon was expected")?;
        let twice = match key {
            b"dtype" => dtype.replace(read_dtype(reader)?).is_some(),
            b"shape" => shape.replace(read_shape(reader)?).is_some(),
            b"data_offsets" => offsets.replace(read_offsets(reader)?).is_some(),
            _ => return reader.fail("a tensor's description holds an unknown key"),
        };
        if twice {
            return reader.fail("a tensor's description says something twice");
        }
        if reader.take(b'}') {
            break;
        }
        reader.expect(b',', "a comma was expected")?;
    }
    let (Some(dtype), Some((shape, elements)), Some([begin, end])) = (dtype, shape, offsets) else {
        return reader.fail("a tensor's description lacks its dtype, shape or data_offsets");
    };
    let found = end.checked_sub(begin).and_then(|len| usize::try_from(len).ok());
    // How long a tensor of a type that is not known should be, nobody can say.
    let fits = |&bytes: &usize| match dtype.bits() {
        None => true,
        Some(bits) if bits < 8 => {
            elements.checked_mul(bits).is_some_and(|all| all.div_ceil(8) == bytes)
        }
        Some(_) => elements.checked_mul(dtype.bytes()) == Some(bytes),
    };
    let Some(bytes) = found.filter(fits) else {
        return reader.fail("a tensor's data_offsets do not fit its shape");
    };
    if end > file_bytes.saturating_sub(data) {
        return reader.fail("the file ends before a tensor's bytes: it is truncated");
    }
    Ok(shape.map(|shape| Weight { dtype, shape, part: 0, begin: data + begin, bytes }))
}

fn read_dtype(reader: &mut Reader<'_>) -> Result<DType> {
    Ok(DType::from_name(reader.string()?).unwrap_or(DType::Unknown))
}

/// The shape, where it has at most four dimensions, and the number of elements.
fn read_shape(reader: &mut Reader<'_>) -> Result<(Option<Shape>, usize)> {
    let mut dims = heapless::Vec::<usize, 4>::new();
    let (mut elements, mut fits) = (1usize, true);
    each_integer(reader, |dim| {
        let Ok(dim) = usize::try_from(dim) else { return false };
        fits &= dims.push(dim).is_ok();
        elements.checked_mul(dim).map(|product| elements = product).is_some()
    })?;
    Ok((Shape::from_slice(&dims).filter(|_| fits), elements))
}

fn read_offsets(reader: &mut Reader<'_>) -> Result<[u64; 2]> {
    let mut offsets = heapless::Vec::<u64, 2>::new();
    each_integer(reader, |offset| offsets.push(offset).is_ok())?;
    match offsets.as_slice() {
        &[begin, end] => Ok([begin, end]),
        _ => reader.fail("data_offsets are not two numbers"),
    }
}

/// Hands each number of a list to `take`, which says whether it has room for it.
fn each_integer(reader: &mut Reader<'_>, mut take: impl FnMut(u64) -> bool) -> Result<()> {
    reader.expect(b'[', "a list of numbers was expected")?;
    if reader.take(b']') {
        return Ok(());
    }
    loop {
        let value = reader.integer()?;
        if !take(value) {
            return reader.fail("a list of numbers is too long, or a number too large");
        }
        if reader.take(b']') {
            return Ok(());
        }
        reader.expect(b',', "a comma was expected")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = br#"{"__metadata__":{"format":"pt","x":"a\"\u00e4"},
        "b.weight":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},
        "a":{"shape":[],"data_offsets":[0,4],"dtype":"F32"}} "#;

    fn parse(header: &[u8], data: u64) -> Result<usize> {
        let mut slots = [Slot::EMPTY; 4];
        let index = Index::parse(header, (PREFIX + header.len()) as u64 + data, &mut slots)?;
        Ok(index.iter().count())
    }

    #[test]
    fn a_good_header_is_found_by_name() {
        let mut slots = [Slot::EMPTY; 2];
        assert_eq!(Index::count(GOOD), Ok(2));
        let total = (PREFIX + GOOD.len()) as u64;
        let index = Index::parse(GOOD, total + 16, &mut slots).unwrap();
        let b = index.find("b.weight").unwrap();
        assert_eq!((b.dtype, b.shape, b.bytes), (DType::F16, Shape::new([2, 3]), 12));
        assert_eq!(b.begin, total + 4);
        assert_eq!(index.find("a").unwrap().shape, Shape::new([]));
        assert!(index.find("b").is_none());
        assert_eq!(
            index.iter().map(|(name, _)| name).collect::<heapless::Vec<_, 2>>(),
            ["a", "b.weight"]
        );
    }

    #[test]
    fn every_truncation_is_an_error() {
        assert_eq!(parse(GOOD, 16), Ok(2));
        let end = GOOD.len() - 1;
        for len in 0..end {
            assert!(matches!(parse(&GOOD[..len], 16), Err(Error::Format { .. })), "{len}");
        }
        assert!(matches!(parse(GOOD, 15), Err(Error::Format { .. })));
    }

    #[test]
    fn lies_are_refused() {
        for lie in [
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#,
            r#"{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,65]}}"#,
            r#"{"a":{"dtype":"F33","shape":[1],"data_offsets":[4,0]}}"#,
            r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#,
            r#"{"a":{"dtype":4,"shape":[1],"data_offsets":[0,4]}}"#,
            r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
            r#"{"a":{"dtype":"F32","shape":[1,1,1,1,2],"data_offsets":[0,4]}}"#,
            r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#,
            r#"{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            r#"{"a":{"dtype":"F32","shape":[1]}}"#,
            r#"{"\ud83d":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            r#"{"\ude00\ud83d":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            r#"{"\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}"#,
            r#"{"a":{}}"#,
            r#"{} {}"#,
            r#"[]"#,
            r#""#,
        ] {
            assert!(matches!(parse(lie.as_bytes(), 64), Err(Error::Format { .. })), "{lie}");
        }
        let deep = [b'['; 10_000];
        assert!(Reader::new(&deep).skip_value().is_err());
    }

    #[test]
    fn a_name_is_found_however_json_writes_it() {
        let header = r#"{"\u0063onv_in\u002ew\/\"\\\n":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},
            "\ud83d\ude00é\u00E4":{"dtype":"I8","shape":[2],"data_offsets":[1,3]},
            "b":{"dtype":"I8","shape":[3],"data_offsets":[3,6]}}"#;
        let mut slots = [Slot::EMPTY; 3];
        let index = Index::parse(header.as_bytes(), 1000, &mut slots).unwrap();
        for (name, bytes) in [("conv_in.w/\"\\\n", 1), ("😀éä", 2), ("b", 3)] {
            assert_eq!(index.find(name).unwrap().bytes, bytes, "{name}");
            let found = Index::search(header.as_bytes(), 1000, name).unwrap();
            assert_eq!(found, index.find(name));
        }
        assert!(index.find("\\u0063onv_in").is_none() && index.find("c").is_none());
    }

    #[test]
    fn types_that_nobody_needs_are_passed_over() {
        for (dtype, elements, bytes) in [
            ("U64", 3, 24),
            ("F8_E4M3", 3, 3),
            ("F8_E8M0", 3, 3),
            ("C64", 3, 24),
            ("F4", 4, 2),
            ("F6_E2M3", 4, 3),
            ("BF8_OF_THE_FUTURE", 3, 5),
        ] {
            let header = std::format!(
                r#"{{"x":{{"dtype":"{dtype}","shape":[{elements}],"data_offsets":[0,{bytes}]}}}}"#
            );
            assert_eq!(parse(header.as_bytes(), bytes), Ok(1), "{dtype}");
            assert!(parse(header.as_bytes(), bytes - 1).is_err(), "{dtype}");
        }
    }

    #[test]
    fn a_tensor_of_five_dimensions_is_checked_and_left_out() {
        let five = r#"{"a":{"dtype":"F32","shape":[1,2,1,2,1],"data_offsets":[0,16]},
            "b":{"dtype":"F32","shape":[1],"data_offsets":[16,20]}}"#;
        assert_eq!(parse(five.as_bytes(), 20), Ok(1));
        assert!(parse(five.as_bytes(), 19).is_err());
    }

    #[test]
    fn too_few_slots_is_an_error() {
        let error = Index::parse(GOOD, 1 << 20, &mut [Slot::EMPTY; 1]).unwrap_err();
        assert_eq!(error, Error::Capacity { what: "tensors", needed: 2, limit: 1 });
    }

    #[test]
    fn the_length_before_the_header_is_checked() {
        assert_eq!(header_bytes(&[3, 0, 0, 0, 0, 0, 0, 0], 11), Ok(8..11));
        assert!(header_bytes(&[4, 0, 0, 0, 0, 0, 0, 0], 11).is_err());
        assert!(header_bytes(&[0xFF; 8], u64::MAX).is_err());
        assert!(header_bytes(&[0; 7], 7).is_err());
    }
}
