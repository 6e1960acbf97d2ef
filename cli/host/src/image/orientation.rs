//! How a picture is to be turned: as its EXIF note says, or else Adobe's (XMP), as Pillow reads
//! them.

use image::metadata::Orientation;

/// The tag of the orientation in an EXIF note.
const TAG: u16 = 0x112;

/// What may stand before a note in a file.
const PREFIX: &[u8] = b"Exif\0\0";

/// How a picture with these notes is to be turned.
pub fn of([exif, xmp]: [Option<&[u8]>; 2]) -> Orientation {
    let number = exif.and_then(in_exif).or_else(|| xmp.and_then(in_xmp));
    let number = number.and_then(|number| u8::try_from(number).ok());
    number.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
}

/// The orientation in an EXIF note: TIFF's first folder, in either order of bytes.
fn in_exif(note: &[u8]) -> Option<u32> {
    let note = note.strip_prefix(PREFIX).unwrap_or(note);
    let is_little = match note.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let number = |at: usize, len: usize| {
        let bytes = note.get(at..at.checked_add(len)?)?.iter().copied();
        let append = |number: u32, byte| number << 8 | u32::from(byte);
        Some(if is_little { bytes.rev().fold(0, append) } else { bytes.fold(0, append) })
    };
    let folder = number(4, 4)? as usize;
    let entries = number(folder, 2)? as usize;
    let entry = (0..entries).map(|index| folder + 2 + 12 * index);
    let entry = entry.take_while(|&at| at < note.len());
    let at = entry.into_iter().find(|&at| number(at, 2) == Some(u32::from(TAG)))?;
    match number(at + 2, 2)? {
        // A short by the standard; some programs write a long, with a sign or without one.
        3 | 8 => number(at + 8, 2),
        4 | 9 | 13 => number(at + 8, 4),
        6 => number(at + 8, 1),
        // A fraction lies elsewhere: numerator and denominator.
        5 | 10 => {
            let place = number(at + 8, 4)? as usize;
            let [over, under] = [number(place, 4)?, number(place.checked_add(4)?, 4)?];
            over.checked_div(under).filter(|whole| whole * under == over)
        }
        _ => None,
    }
}

/// The orientation in Adobe's note, an attribute or an element of its XML.
fn in_xmp(note: &[u8]) -> Option<u32> {
    let name = b"tiff:Orientation";
    let found = note.windows(name.len()).enumerate().filter(|(_, window)| window == name);
    let mut digits = found.filter_map(|(at, _)| {
        let rest = &note[at + name.len()..];
        let rest = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        rest.first().filter(|digit| digit.is_ascii_digit())
    });
    digits.next().map(|digit| u32::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A note with one entry, its value as it stands in the file.
    fn exif(kind: u16, value: u32, is_little: bool) -> Vec<u8> {
        let short = |n: u16| if is_little { n.to_le_bytes() } else { n.to_be_bytes() };
        let long = |n: u32| if is_little { n.to_le_bytes() } else { n.to_be_bytes() };
        let mut note = if is_little { b"II*\0".to_vec() } else { b"MM\0*".to_vec() };
        note.extend(long(8));
        note.extend([short(1), short(TAG), short(kind)].concat());
        note.extend(long(1));
        match kind {
            3 | 8 => note.extend([short(value as u16), short(0)].concat()),
            5 | 10 => note.extend(long(26)),
            _ => note.extend(long(value)),
        }
        note.extend([long(0), long(value), long(1)].concat());
        note
    }

    #[test]
    fn a_whole_number_of_any_kind_and_order_of_bytes_is_read() {
        for is_little in [true, false] {
            for kind in [3, 4, 5, 8, 9, 10, 13] {
                let note = exif(kind, 6, is_little);
                assert_eq!(of([Some(&note), None]), Orientation::Rotate90, "{kind}, {is_little}");
                let behind = [PREFIX, &note].concat();
                assert_eq!(of([Some(&behind), None]), Orientation::Rotate90);
            }
            let text = exif(2, 6, is_little);
            assert_eq!(of([Some(&text), None]), Orientation::NoTransforms);
        }
        for (number, expected) in [(1, Orientation::NoTransforms), (3, Orientation::Rotate180)] {
            assert_eq!(of([Some(&exif(4, number, true)), None]), expected);
        }
        for number in [0, 9, 256 + 6, u32::MAX] {
            let found = of([Some(&exif(4, number, true)), None]);
            assert_eq!(found, Orientation::NoTransforms, "{number}");
        }
    }

    #[test]
    fn without_an_exif_note_adobes_counts() {
        let attribute = b"<rdf:Description tiff:Orientation=\"8\"/>";
        let element = b"tiff:Orientation, <tiff:Orientation>8</tiff:Orientation>";
        for note in [&attribute[..], element] {
            assert_eq!(of([None, Some(note)]), Orientation::Rotate270);
            assert_eq!(of([Some(&exif(3, 6, true)), Some(note)]), Orientation::Rotate90);
        }
        assert_eq!(of([None, Some(b"tiff:Orientation=\"")]), Orientation::NoTransforms);
    }

    #[test]
    fn a_damaged_note_turns_nothing() {
        let whole = exif(5, 6, true);
        for len in 0..whole.len() {
            for byte in [0, 0x7F, 0xFF] {
                let mut note = whole.clone();
                note[len] = byte;
                let _ = of([Some(&note), None]);
            }
            let _ = of([Some(&whole[..len]), None]);
        }
        assert_eq!(of([Some(&whole[..18]), None]), Orientation::NoTransforms);
    }
}
