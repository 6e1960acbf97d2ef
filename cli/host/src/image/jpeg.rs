//! JPEG as everyone decodes it: libjpeg-turbo's pixels, by a crate whose inverse transform, smooth
//! upsampling of colours and conversion are its own to the bit. Pillow, and with it diffusers,
//! reads by libjpeg-turbo.
//!
//! What stands behind the picture's end (a movie, a maker's trailer, further pictures, zeros) is
//! not the picture's; a picture without its end is refused, where decoders tend to fill in grey.

use libjpeg_turbo_rs::{DecodeLimits, Decoder, PixelFormat};

use super::{MAX_DECODING_BYTES, Picture};

/// The most scans of a picture: encoders make some ten, and each is a walk over all of it.
const MAX_SCANS: usize = 1000;

/// A scan begins.
const SCAN: u8 = 0xDA;

/// The picture ends.
const END: u8 = 0xD9;

/// A JPEG file whose header is read.
pub struct Jpeg<'a> {
    bytes: &'a [u8],
    decoder: Decoder<'a>,
}

impl<'a> Jpeg<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// Where it is damaged.
    pub fn new(bytes: &'a [u8]) -> Result<Self, String> {
        let limits = DecodeLimits {
            max_scans: MAX_SCANS,
            max_memory: Some(MAX_DECODING_BYTES),
            ..DecodeLimits::default()
        };
        let decoder = Decoder::new_with_limits(bytes, limits).map_err(|error| error.to_string())?;
        Ok(Self { bytes, decoder })
    }

    /// Width and height.
    pub fn size(&self) -> [u32; 2] {
        let header = self.decoder.header();
        [header.width(), header.height()].map(|side| side as u32)
    }

    /// The EXIF note, and Adobe's.
    pub fn notes(&self) -> [Option<Vec<u8>>; 2] {
        [self.decoder.exif_data(), self.decoder.xmp_data()].map(|note| note.map(<[u8]>::to_vec))
    }

    /// The pixels.
    ///
    /// # Errors
    /// Where the picture is damaged or its end is missing, or it is of a kind that is not decoded.
    pub fn decode(mut self) -> Result<Picture, String> {
        if !has_end(self.bytes) {
            return Err("its end is missing".into());
        }
        let components = &self.decoder.header().components;
        let sampling =
            |at: usize| (components[at].horizontal_sampling, components[at].vertical_sampling);
        let is_cmyk = components.len() == 4;
        // The decoder takes for granted that the first and last are alike, and the two between, of
        // which each fits a whole number of times: it reads beyond the planes of others.
        let fits = |[(w, h), (x, y)]: [(u8, u8); 2]| w.is_multiple_of(x) && h.is_multiple_of(y);
        let is_usual = || {
            let [first, second, third, last] = [0, 1, 2, 3].map(sampling);
            first == last && second == third && fits([first, second])
        };
        if is_cmyk && !is_usual() {
            return Err("its four colours are sampled unlike each other".into());
        }
        let format = if is_cmyk { PixelFormat::Cmyk } else { PixelFormat::Rgb };
        self.decoder.set_output_format(format);
        // Of a picture whose scans leave details out, libjpeg-turbo smooths the blocks.
        self.decoder.set_block_smoothing(true);
        let image = self.decoder.decode_image().map_err(|error| error.to_string())?;
        let (width, height) = (image.width, image.height);
        let rgb = match is_cmyk {
            false => image.into_vec(),
            true => image.as_bytes().as_chunks().0.iter().flat_map(without_ink).collect(),
        };
        Ok(Picture { width, height, rgb })
    }
}

/// Cyan, magenta, yellow and black, each as how much it leaves (as Adobe's programs write them, and
/// as Pillow takes them always), as red, green and blue.
fn without_ink(&[c, m, y, k]: &[u8; 4]) -> [u8; 3] {
    // Pillow's arithmetic: a product of two bytes over 255, rounded.
    let share = |ink: u8| {
        let product = u32::from(ink) * u32::from(k) + 128;
        ((product >> 8) + product) >> 8
    };
    [c, m, y].map(|left| (u32::from(k) - share(255 - left)) as u8)
}

/// Whether the mark of the end follows the last scan: a walk from segment to segment, as their
/// lengths say, so that what a thumbnail or a movie holds is not looked at.
fn has_end(bytes: &[u8]) -> bool {
    let (mut rest, mut scanned) = (bytes.get(2..).unwrap_or_default(), false);
    while let Some((&first, behind)) = rest.split_first() {
        let mark = match (first, behind.first()) {
            // Marks may have any number of 0xFF before them.
            (0xFF, Some(&mark)) if mark != 0xFF => mark,
            (0xFF, _) => {
                rest = behind;
                continue;
            }
            // Stray bytes between the segments of a header are passed over, as in libjpeg. Behind a
            // scan they tell that something else begins.
            _ if scanned => return false,
            _ => {
                rest = behind;
                continue;
            }
        };
        if mark == END {
            return scanned;
        }
        if scanned && !may_follow_scan(mark) {
            return false;
        }
        let segment = behind.get(1..3).map(|len| usize::from(u16::from_be_bytes([len[0], len[1]])));
        let Some(after) = segment.and_then(|len| behind.get(1 + len..)) else { return false };
        rest = after;
        if mark == SCAN {
            scanned = true;
            rest = &after[scan_len(after)..];
        }
    }
    false
}

/// Tables, notes and further scans may stand between a scan and the end.
fn may_follow_scan(mark: u8) -> bool {
    matches!(mark, 0xC4 | 0xCC | SCAN..=0xDD | 0xE0..=0xEF | 0xFE)
}

/// How long the data of a scan are: in them 0xFF is followed by 0, or by the mark of a restart.
fn scan_len(data: &[u8]) -> usize {
    let is_mark = |pair: &[u8; 2]| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xD0..=0xD7 | 0xFF);
    data.array_windows().position(is_mark).unwrap_or(data.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_colours_of_unlike_sampling_are_refused() {
        let whole = include_bytes!("../../../../tests/golden/jpeg/cmyk.jpg");
        assert!(Jpeg::new(whole).unwrap().decode().is_ok());
        let frame = whole.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
        for component in 0..4 {
            let mut bytes = whole.to_vec();
            bytes[frame + 11 + 3 * component] = 0x13;
            let said = Jpeg::new(&bytes).unwrap().decode().err().unwrap();
            assert!(said.contains("sampled unlike each other"), "{component}: {said}");
        }
        for [outer, inner] in [[0x11, 0x12], [0x21, 0x22], [0x31, 0x21], [0x22, 0x41]] {
            let mut bytes = whole.to_vec();
            for (component, sampling) in [outer, inner, inner, outer].into_iter().enumerate() {
                bytes[frame + 11 + 3 * component] = sampling;
            }
            assert!(Jpeg::new(&bytes).unwrap().decode().is_err(), "{outer:x} {inner:x}");
        }
    }
}
