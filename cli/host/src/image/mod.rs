//! Pictures: read to start from (PNG, JPEG or WebP in, 8-bit RGB of the size asked for out), and
//! written (`png`, `sink`).
//!
//! A picture is refused by its size before a pixel of it is decoded. A JPEG is decoded as
//! libjpeg-turbo does it (`jpeg`). A picture is turned as its EXIF note says (`orientation`), laid
//! on white where it is transparent, and resized by Lanczos' filter in the arithmetic of Pillow,
//! which diffusers uses: the pixels are the same.

mod jpeg;
mod orientation;
pub mod parameters;
pub mod png;
pub mod sink;

use std::f64::consts::PI;
use std::io::Cursor;
use std::path::Path;

use ::image::{
    DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits,
};
use jpeg::Jpeg;
pub use sink::{PngFile, Sink};

use crate::error::{Failure, Result};
use crate::files;

/// The longest file that is read.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// The most pixels a picture may have: 8192 times 8192, above what cameras make by default.
const MAX_PIXELS: u64 = 1 << 26;

/// The most memory that decoding may take: 16-bit RGBA of the largest picture, twice over.
const MAX_DECODING_BYTES: u64 = 16 * MAX_PIXELS;

/// Lanczos' filter reaches this many pixels to either side.
const LANCZOS_SUPPORT: f64 = 3.0;

/// The filter's weights are whole numbers of this many binary places: with a byte and a sign they
/// fill 32 bits, with one bit to spare for what the negative weights let the others exceed.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// A picture in memory: 8-bit RGB, row by row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

/// Reads a PNG, JPEG or WebP file; what it holds decides, not its name.
///
/// # Errors
/// Where it cannot be read, is none of these, is damaged, or is too large.
pub fn read(path: &Path) -> Result<Picture> {
    decode(&files::read(path, MAX_FILE_BYTES)?, path, MAX_PIXELS)
}

/// The picture that a file holds; `path` is what it is called.
///
/// # Errors
/// Where it is neither PNG, JPEG nor WebP, is damaged, or has more than so many pixels.
pub fn decode(bytes: &[u8], path: &Path, max_pixels: u64) -> Result<Picture> {
    let shown = path.display();
    let damaged = |error: String| {
        Failure::new(format!("{shown} cannot be decoded: {error}"))
            .remedy("Fetch or write the file again; it may have been cut off")
    };
    let check = |size| check_size(path, size, max_pixels);
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => {
            let jpeg = Jpeg::new(bytes).map_err(damaged)?;
            check(jpeg.size())?;
            let notes = jpeg.notes();
            let Picture { width, height, rgb } = jpeg.decode().map_err(damaged)?;
            let rgb = ImageBuffer::from_raw(width as u32, height as u32, rgb);
            let rgb = rgb.ok_or_else(|| damaged("pixels are missing".into()))?;
            Ok(turned(DynamicImage::ImageRgb8(rgb), notes))
        }
        Ok(format @ (ImageFormat::Png | ImageFormat::WebP)) => {
            if let (ImageFormat::Png, Some(size)) = (format, png_size(bytes)) {
                check(size)?;
            }
            let damaged = |error: ImageError| damaged(error.to_string());
            let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
            let mut limits = Limits::default();
            limits.max_alloc = Some(MAX_DECODING_BYTES);
            reader.limits(limits);
            let mut decoder = reader.into_decoder().map_err(damaged)?;
            check(decoder.dimensions().into())?;
            let notes = [decoder.exif_metadata(), decoder.xmp_metadata()];
            let notes = notes.map(|note| note.ok().flatten());
            Ok(turned(DynamicImage::from_decoder(decoder).map_err(damaged)?, notes))
        }
        _ => Err(Failure::new(format!("{shown} is no PNG, JPEG or WebP picture"))
            .remedy("Convert it to PNG first")),
    }
}

/// Refuses a picture that is too large.
fn check_size(path: &Path, [width, height]: [u32; 2], max_pixels: u64) -> Result<()> {
    if u64::from(width) * u64::from(height) <= max_pixels {
        return Ok(());
    }
    let most = max_pixels >> 20;
    let side = max_pixels.isqrt();
    Err(Failure::new(format!("{} is too large: {width}x{height} pixels", path.display())).remedy(
        format!("Scale it down first: mote takes {most} million pixels, such as {side}x{side}"),
    ))
}

/// Width and height as the header of a PNG file claims them: its decoder speaks of damage where
/// they are beyond all reason.
fn png_size(bytes: &[u8]) -> Option<[u32; 2]> {
    let header = bytes.get(12..24)?.strip_prefix(b"IHDR")?;
    let (sides, _) = header.as_chunks();
    Some([u32::from_be_bytes(*sides.first()?), u32::from_be_bytes(*sides.get(1)?)])
}

/// The picture turned as its notes say, in 8-bit RGB.
fn turned(mut picture: DynamicImage, notes: [Option<Vec<u8>>; 2]) -> Picture {
    picture.apply_orientation(orientation::of([notes[0].as_deref(), notes[1].as_deref()]));
    let [width, height] = [picture.width(), picture.height()].map(|side| side as usize);
    Picture { width, height, rgb: on_white(picture) }
}

/// 8-bit RGB, what is transparent laid on white.
fn on_white(picture: DynamicImage) -> Vec<u8> {
    if !picture.color().has_alpha() {
        return picture.into_rgb8().into_raw();
    }
    let rgba = picture.into_rgba8();
    let blend = |pixel: &[u8; 4]| {
        let alpha = u32::from(pixel[3]);
        let over = |i: usize| (u32::from(pixel[i]) * alpha + 255 * (255 - alpha) + 127) / 255;
        [over(0), over(1), over(2)].map(|value| value as u8)
    };
    rgba.as_raw().as_chunks::<4>().0.iter().flat_map(blend).collect()
}

impl Picture {
    /// The picture at another size, by Lanczos' filter: one side, then the other, each rounded to
    /// bytes, as Pillow does it.
    #[must_use]
    pub fn resized(self, [height, width]: [usize; 2]) -> Self {
        let [fewer, lower] =
            [(self.width, width), (self.height, height)].map(|(from, to)| from as i64 - to as i64);
        // Pillow 13's rule, found by comparing the results: earlier ones go across first always.
        // Where the first pass cuts values off at 0 and 255, the order shows.
        if lower > 0 && 2 * fewer < lower {
            self.with_height(height).with_width(width)
        } else {
            self.with_width(width).with_height(height)
        }
    }

    fn with_width(self, width: usize) -> Self {
        if width == self.width {
            return self;
        }
        let spans = spans(self.width, width);
        let mut rgb = Vec::with_capacity(3 * width * self.height);
        for row in self.rgb.chunks_exact(3 * self.width) {
            for span in &spans {
                let pixels = row.as_chunks::<3>().0[span.start..].iter();
                let mut sums = [1 << (WEIGHT_BITS - 1); 3];
                for (pixel, &weight) in pixels.zip(&span.weights) {
                    for (sum, &value) in sums.iter_mut().zip(pixel) {
                        *sum += i64::from(value) * weight;
                    }
                }
                rgb.extend(sums.map(to_byte));
            }
        }
        Self { width, height: self.height, rgb }
    }

    fn with_height(self, height: usize) -> Self {
        if height == self.height {
            return self;
        }
        let row_bytes = 3 * self.width;
        let mut rgb = Vec::with_capacity(row_bytes * height);
        let mut sums = vec![0; row_bytes];
        for span in spans(self.height, height) {
            sums.fill(1 << (WEIGHT_BITS - 1));
            let rows = self.rgb.chunks_exact(row_bytes).skip(span.start);
            for (row, &weight) in rows.zip(&span.weights) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i64::from(value) * weight;
                }
            }
            rgb.extend(sums.iter().map(|&sum| to_byte(sum)));
        }
        Self { width: self.width, height, rgb }
    }
}

fn to_byte(sum: i64) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// The pixels that one pixel of the result is made of, and their shares.
struct Span {
    start: usize,
    weights: Vec<i64>,
}

/// For each of `to` pixels along one side, its share of the `from` pixels it is made of.
fn spans(from: usize, to: usize) -> Vec<Span> {
    let scale = from as f64 / to as f64;
    // A smaller picture needs a wider filter; a larger one does not need a narrower.
    let stretch = scale.max(1.0);
    let reach = LANCZOS_SUPPORT * stretch;
    let span = |at: usize| {
        let centre = (at as f64 + 0.5) * scale;
        // Casts cut off at 0.
        let start = (centre - reach + 0.5) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        let weight = |at: usize| lanczos((at as f64 - centre + 0.5) / stretch);
        let weights: Vec<f64> = (start..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let one = f64::from(1u32 << WEIGHT_BITS);
        // Halves go away from 0.
        let whole = |weight: &f64| (weight / sum * one).round() as i64;
        Span { start, weights: weights.iter().map(whole).collect() }
    };
    (0..to).map(span).collect()
}

/// `sinc(x)·sinc(x / 3)` from -3 to 3 (Duchon 1979, "Lanczos filtering in one and two dimensions").
fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
    if (-LANCZOS_SUPPORT..LANCZOS_SUPPORT).contains(&x) {
        sinc(x) * sinc(x / LANCZOS_SUPPORT)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ::image::{ExtendedColorType, ImageEncoder, Luma, LumaA, Rgb, RgbImage, Rgba};
    use image::codecs::png::PngEncoder;
    use libjpeg_turbo_rs::{Encoder, PixelFormat};

    use super::*;

    /// A picture by a formula.
    fn formula([width, height]: [u32; 2]) -> RgbImage {
        let pixel = |x, y| [0, 1, 2].map(|c| (x * 37 + y * 91 + c * 53 + x * y * 11) as u8);
        RgbImage::from_fn(width, height, |x, y| Rgb(pixel(x, y)))
    }

    fn jpeg(picture: &RgbImage) -> Encoder<'_> {
        let [width, height] = [picture.width(), picture.height()].map(|side| side as usize);
        Encoder::new(picture.as_raw(), width, height, PixelFormat::Rgb).quality(90)
    }

    fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        if format == ImageFormat::Jpeg {
            return jpeg(&picture.into().into_rgb8()).encode().unwrap();
        }
        let mut bytes = Cursor::new(Vec::new());
        picture.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn decoded(bytes: &[u8]) -> Result<Picture> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        read(file.path())
    }

    #[test]
    fn each_format_is_known_by_what_it_holds() {
        let picture = formula([7, 5]);
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let found = decoded(&encoded(picture.clone(), format)).unwrap();
            assert_eq!((found.width, found.height), (7, 5));
            assert_eq!(&found.rgb, picture.as_raw(), "{format:?}");
        }
        let smooth = RgbImage::from_fn(16, 8, |x, y| Rgb([8 * x as u8, 16 * y as u8, 100]));
        let found = decoded(&encoded(smooth.clone(), ImageFormat::Jpeg)).unwrap();
        assert_eq!((found.width, found.height), (16, 8));
        let worst = found.rgb.iter().zip(smooth.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(12), "{worst:?}");
    }

    #[test]
    fn grey_deep_and_transparent_pictures_become_rgb_on_white() {
        let png = |picture: DynamicImage| decoded(&encoded(picture, ImageFormat::Png)).unwrap().rgb;
        let grey = ImageBuffer::from_pixel(2, 1, Luma([9u8]));
        assert_eq!(png(grey.into()), [9; 6]);
        let deep = ImageBuffer::from_pixel(1, 1, Rgb([0xFFFFu16, 0x8080, 0]));
        assert_eq!(png(deep.into()), [255, 128, 0]);
        for (alpha, expected) in [(0, [255, 255, 255]), (255, [10, 20, 30]), (51, [206, 208, 210])]
        {
            let rgba = ImageBuffer::from_pixel(1, 1, Rgba([10u8, 20, 30, alpha]));
            assert_eq!(png(rgba.into()), expected, "{alpha}");
        }
        let grey = ImageBuffer::from_pixel(1, 1, LumaA([0u8, 128]));
        assert_eq!(png(grey.into()), [127; 3]);
    }

    /// One entry: orientation (0x112), a long, 6: to be turned right by a quarter.
    const NOTE: &[u8] = b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\x06\0\0\0\0\0\0\0";

    #[test]
    fn a_photograph_is_turned_as_its_note_says() {
        let picture = formula([16, 8]);
        let xmp = b"<rdf:Description tiff:Orientation=\"6\"/>";
        for bytes in [jpeg(&picture).exif_data(NOTE), jpeg(&picture).xmp_data(xmp)] {
            let found = decoded(&bytes.encode().unwrap()).unwrap();
            assert_eq!((found.width, found.height), (8, 16));
        }
        let mut bytes = Vec::new();
        let mut encoder = PngEncoder::new(&mut bytes);
        encoder.set_exif_metadata(NOTE.to_vec()).unwrap();
        encoder.write_image(picture.as_raw(), 16, 8, ExtendedColorType::Rgb8).unwrap();
        let found = decoded(&bytes).unwrap();
        assert_eq!((found.width, found.height), (8, 16));
        let turned = image::imageops::rotate90(&picture);
        assert_eq!(&found.rgb, turned.as_raw());
    }

    #[test]
    fn a_jpeg_has_the_pixels_that_pillow_makes_of_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/jpeg");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = files.filter(|path| path.extension().unwrap() == "jpg").collect();
        assert_eq!(files.len(), 16);
        for path in files {
            let [found, expected] =
                [path.clone(), path.with_extension("png")].map(|path| read(&path).unwrap());
            assert_eq!(found, expected, "{}", path.display());
        }
    }

    #[test]
    fn what_stands_behind_a_jpegs_end_is_passed_over() {
        let picture = formula([40, 30]);
        let thumbnail = encoded(formula([8, 8]), ImageFormat::Jpeg);
        let exif = [NOTE, &thumbnail].concat();
        for encoder in
            [jpeg(&picture), jpeg(&picture).progressive(true), jpeg(&picture).exif_data(&exif)]
        {
            let whole = encoder.encode().unwrap();
            let expected = decoded(&whole).unwrap();
            let without_end = &whole[..whole.len() - 2];
            for behind in [
                &b"\xff\xd9"[..],
                b"MotionPhoto_Data\xff\xda\0\x0c\xff\xd9\xff\xda\0",
                b"\xff\xd8\xff\xda",
                &[0; 5000],
                &[0xFF; 7],
                &whole,
                &whole[..whole.len() / 2],
                without_end,
                &thumbnail,
            ] {
                assert_eq!(decoded(&[&whole, behind].concat()).unwrap(), expected);
                if behind != b"\xff\xd9" {
                    let cut = &whole[..whole.len() - 30];
                    for start in [without_end, cut] {
                        let said = decoded(&[start, behind].concat()).unwrap_err().to_string();
                        assert!(said.contains("cannot be decoded"), "{said}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_side_beyond_all_reason_is_too_large_and_not_damage() {
        for side in [8193u32, 1 << 20, (1 << 31) - 1, 1 << 31, u32::MAX] {
            let mut bytes = encoded(formula([1, 1]), ImageFormat::Png);
            bytes[16..20].copy_from_slice(&side.to_be_bytes());
            bytes[20..24].copy_from_slice(&side.to_be_bytes());
            let said = decoded(&bytes).unwrap_err().to_string();
            assert!(said.contains(&format!("too large: {side}x{side} pixels")), "{said}");
            assert!(!said.contains("cut off"), "{said}");
        }
        let mut bytes = encoded(formula([8, 8]), ImageFormat::Jpeg);
        let frame = bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
        bytes[frame + 5..frame + 9].fill(0xFF);
        let said = decoded(&bytes).unwrap_err().to_string();
        assert!(said.contains("too large: 65535x65535 pixels"), "{said}");
    }

    #[test]
    fn what_is_cut_off_or_no_picture_is_refused() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let whole = encoded(formula([40, 30]), format);
            for part in 0..20 {
                let len = whole.len() * part / 20;
                assert!(decoded(&whole[..len]).is_err(), "{format:?}, {len} of {}", whole.len());
            }
        }
        for bytes in [&b""[..], b"GIF89a", b"hello", b"BM", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"] {
            let said = decoded(bytes).unwrap_err().to_string();
            assert!(said.contains("picture") || said.contains("decoded"), "{said}");
        }
    }

    #[test]
    fn a_picture_is_refused_by_its_size_before_it_is_decoded() {
        // The header of a PNG of 65535x65535, and nothing behind it that could be decoded.
        let mut bytes = encoded(formula([1, 1]), ImageFormat::Png);
        bytes[16..24].copy_from_slice(&[0, 0, 0xFF, 0xFF, 0, 0, 0xFF, 0xFF]);
        let crc = bytes[12..29].iter().fold(u32::MAX, |mut crc, &byte| {
            crc ^= u32::from(byte);
            (0..8).for_each(|_| crc = (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)));
            crc
        });
        bytes[29..33].copy_from_slice(&(!crc).to_be_bytes());
        let said = decoded(&bytes).unwrap_err().to_string();
        assert!(said.contains("too large: 65535x65535"), "{said}");
    }

    #[test]
    fn resizing_yields_the_pixels_of_pillow() {
        let resized = |size| {
            let picture = formula([7, 5]);
            let picture = Picture { width: 7, height: 5, rgb: picture.into_raw() }.resized(size);
            assert_eq!([picture.height, picture.width], size);
            picture.rgb
        };
        // Image.fromarray(…).resize((4, 3), Image.LANCZOS) of Pillow 13, and so on.
        assert_eq!(
            resized([3, 4]),
            [
                57, 118, 164, 131, 147, 151, 123, 152, 169, 154, 132, 123, 152, 145, 117, 148, 127,
                116, 133, 109, 98, 114, 116, 132, 95, 156, 133, 114, 132, 96, 114, 132, 119, 89,
                148, 125
            ]
        );
        assert_eq!(
            resized([2, 9]),
            [
                75, 133, 114, 109, 110, 167, 123, 145, 153, 131, 164, 110, 166, 103, 156, 105, 136,
                161, 124, 160, 120, 159, 127, 115, 136, 97, 146, 89, 147, 136, 152, 153, 131, 132,
                154, 86, 89, 123, 88, 156, 93, 146, 127, 161, 73, 95, 115, 106, 96, 102, 150, 102,
                176, 113
            ]
        );
        assert_eq!(
            resized([7, 2]),
            [
                41, 109, 171, 179, 170, 140, 103, 140, 158, 137, 140, 152, 171, 161, 128, 102, 102,
                137, 152, 133, 108, 126, 107, 101, 118, 109, 104, 145, 135, 111, 105, 136, 116,
                111, 142, 122, 112, 168, 125, 74, 130, 117
            ]
        );
        assert_eq!(resized([1, 1]), [120, 134, 127]);
        assert_eq!(resized([5, 7]), formula([7, 5]).into_raw());
    }
}
