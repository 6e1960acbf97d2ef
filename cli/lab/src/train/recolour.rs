//! Pictures in other colours: from a red apple a blue one, with the caption to it.
//!
//! A data set shows most things in one colour, and a model then takes the colour for a part of the
//! thing: told of a blue apple, it draws a red one, or something blue. A share of the examples
//! therefore gets another main colour, and its name says which. Names that are held out are left
//! out here too: what they show is still for the words alone to say.

use std::collections::BTreeSet;

use super::data::{COLOURS, Example};
use super::draw::Draw;

/// The colours by their words, in sRGB.
const PALETTE: [(&str, [u8; COLOURS]); 9] = [
    ("red", [0xF8, 0x31, 0x2F]),
    ("orange", [0xFF, 0x67, 0x23]),
    ("yellow", [0xFC, 0xD5, 0x3F]),
    ("green", [0x00, 0xD2, 0x6A]),
    ("blue", [0x00, 0x74, 0xBA]),
    ("purple", [0x8D, 0x65, 0xC5]),
    ("pink", [0xFF, 0x8A, 0xC4]),
    ("brown", [0x6D, 0x45, 0x34]),
    ("black", [0x1C, 0x1C, 0x1C]),
];

/// A colour that nothing is put in: most of it would be lost before a white ground.
const WHITE: &str = "white";

/// The part of a colour that is not grey, from -1 to 1 a channel, and its length squared.
#[derive(Clone, Copy)]
struct Chroma {
    parts: [f32; COLOURS],
    square: f32,
}

/// The least length of the chroma of what counts as coloured.
const COLOURED: f32 = 0.2;

/// The least cosine between the chromas of what has one colour: some 35 degrees.
const ALIKE: f32 = 0.82;

/// The least share of a picture, and of its coloured part, that its main colour takes.
const LEAST: [f32; 2] = [0.08, 0.55];

/// A picture that can be shown in another colour.
#[derive(Clone, Debug, PartialEq)]
pub struct Recolouring {
    /// The mean of what has the main colour, from 0 to 1.
    main: [f32; COLOURS],
    /// Colours that it can have, with the name that then fits.
    names: Vec<(usize, String)>,
}

fn dot(a: [f32; COLOURS], b: [f32; COLOURS]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Chroma {
    fn new(rgb: [f32; COLOURS]) -> Self {
        let grey = rgb.iter().sum::<f32>() / COLOURS as f32;
        let parts = rgb.map(|value| value - grey);
        Self { parts, square: dot(parts, parts) }
    }

    /// Whether two are of one colour.
    fn is_like(self, other: Self) -> bool {
        dot(self.parts, other.parts) > ALIKE * (self.square * other.square).sqrt()
    }
}

fn unit(rgb: [u8; COLOURS]) -> [f32; COLOURS] {
    rgb.map(|byte| f32::from(byte) / 255.0)
}

/// The mean of the main colour's pixels; none where a picture has none.
fn main_colour(rgb: &[u8]) -> Option<[f32; COLOURS]> {
    let pixels: Vec<_> = rgb.as_chunks::<COLOURS>().0.iter().map(|&pixel| unit(pixel)).collect();
    let with_chroma = pixels.iter().map(|&pixel| (pixel, Chroma::new(pixel)));
    let coloured: Vec<_> =
        with_chroma.filter(|(_, chroma)| chroma.square > COLOURED * COLOURED).collect();
    let like = |one: Chroma| coloured.iter().filter(move |(_, other)| one.is_like(*other));
    // Some hundred are tried: as many as a thousand pixels have neighbours that differ.
    let tried = coloured.iter().step_by(coloured.len() / 100 + 1);
    let counted = tried.map(|&(_, one)| (like(one).count(), one));
    let (count, one) = counted.max_by_key(|&(count, _)| count)?;
    let [of_all, of_coloured] = [pixels.len(), coloured.len()].map(|all| count as f32 / all as f32);
    let enough = of_all >= LEAST[0] && of_coloured >= LEAST[1];
    let sum = like(one).fold([0.0; COLOURS], |sum, (pixel, _)| {
        std::array::from_fn(|channel| sum[channel] + pixel[channel])
    });
    enough.then(|| sum.map(|sum| sum / count as f32))
}

impl Recolouring {
    /// What other colours a picture can have; none where it has no main colour, or a name that
    /// speaks of another.
    pub fn new(example: &Example, held_out: &BTreeSet<&str>) -> Option<Self> {
        let main = main_colour(&example.rgb)?;
        let distance = |&(_, rgb): &(&str, [u8; COLOURS])| {
            let apart = unit(rgb).iter().zip(main).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            (apart * 1e6) as u64
        };
        let nearest = (0..PALETTE.len()).min_by_key(|&colour| distance(&PALETTE[colour]))?;
        let words: Vec<_> = example.caption.name.split(' ').collect();
        let is_colour = |word: &str| word == WHITE || PALETTE.iter().any(|(c, _)| *c == word);
        let told: Vec<_> = words.iter().filter(|word| is_colour(word)).collect();
        if told.iter().any(|word| **word != PALETTE[nearest].0) {
            return None;
        }
        let renamed = |colour: &str| {
            let with = |word: &&str| if is_colour(word) { colour.into() } else { (*word).into() };
            let mut renamed: Vec<String> = words.iter().map(with).collect();
            if told.is_empty() {
                renamed.insert(0, colour.into());
            }
            renamed.join(" ")
        };
        let others = (0..PALETTE.len()).filter(|&colour| colour != nearest);
        let names = others.map(|colour| (colour, renamed(PALETTE[colour].0)));
        let names: Vec<_> = names.filter(|(_, name)| !held_out.contains(name.as_str())).collect();
        (!names.is_empty()).then_some(Self { main, names })
    }

    /// The words that may be drawn.
    pub fn words() -> impl Iterator<Item = &'static str> {
        PALETTE.iter().map(|(word, _)| *word)
    }

    /// Puts the picture, values from -1 to 1, in a drawn colour; its name then.
    ///
    /// A pixel is taken to be a mixture of the main colour and something else, the share told by
    /// its chroma, and as much of the other colour takes the place: so edges stay smooth, and
    /// light and shadow stay.
    pub fn draw(&self, picture: &mut [f32], draw: &mut Draw) -> &str {
        let (colour, name) = &self.names[draw.below(self.names.len())];
        let (from, to) = (Chroma::new(self.main), unit(PALETTE[*colour].1));
        for pixel in picture.as_chunks_mut::<COLOURS>().0 {
            let own = Chroma::new(pixel.map(|value| (value + 1.0) / 2.0));
            if own.is_like(from) {
                let share = (dot(own.parts, from.parts) / from.square).min(1.0);
                for ((value, main), to) in pixel.iter_mut().zip(self.main).zip(to) {
                    *value = (*value + 2.0 * share * (to - main)).clamp(-1.0, 1.0);
                }
            }
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::Caption;
    use crate::train::draw::Purpose;

    const RED: [u8; 3] = [200, 40, 40];
    const GREY: [u8; 3] = [240, 240, 240];

    fn example(name: &str, pixels: &[[u8; 3]]) -> Example {
        let caption = Caption { name: name.into(), ..Caption::default() };
        Example { path: "x".into(), caption, rgb: pixels.concat() }
    }

    #[test]
    fn the_model_in_the_program_was_told_of_these_colours() {
        assert!(Recolouring::words().eq(mote_host::checkpoint::built_in::COLOURS));
    }

    fn names(name: &str, pixels: &[[u8; 3]], held_out: &[&str]) -> Vec<String> {
        let held_out = held_out.iter().copied().collect();
        let found = Recolouring::new(&example(name, pixels), &held_out);
        found.map_or(vec![], |found| found.names.into_iter().map(|(_, name)| name).collect())
    }

    #[test]
    fn a_name_says_the_other_colour_and_those_held_out_are_left_out() {
        let pixels = [RED, RED, GREY, GREY];
        let found = names("apple", &pixels, &["green apple"]);
        assert_eq!(found.len(), PALETTE.len() - 2);
        assert_eq!(found[0], "orange apple");
        assert!(!found.contains(&"green apple".into()));
        assert_eq!(names("big red apple", &pixels, &[])[2], "big green apple");
    }

    #[test]
    fn what_has_no_main_colour_or_a_name_of_another_stays_as_it_is() {
        let [blue, green] = [[0, 60, 200], [0, 200, 80]];
        assert!(names("x", &[GREY; 4], &[]).is_empty());
        assert!(names("x", &[RED, blue, green, GREY], &[]).is_empty());
        assert!(names("white apple", &[RED, RED, GREY, GREY], &[]).is_empty());
        assert!(names("x", &[], &[]).is_empty());
    }

    #[test]
    fn the_main_colour_changes_and_edges_stay_mixtures() {
        let edge = [0, 1, 2].map(|i| (RED[i] / 2) + (GREY[i] / 2));
        let example = example("apple", &[RED, RED, RED, edge, GREY, [0, 60, 200]]);
        let found = Recolouring::new(&example, &BTreeSet::new()).unwrap();
        let mut seen = BTreeSet::new();
        for place in 0..100 {
            let mut picture: Vec<f32> = example.values().collect();
            let mut draw = Draw::new(1, Purpose::Recolour, place);
            let name = found.draw(&mut picture, &mut draw).to_string();
            let colour = name.split(' ').next().unwrap();
            let (_, to) = PALETTE.iter().find(|(word, _)| *word == colour).unwrap();
            let after: Vec<_> = picture.iter().map(|x| ((x + 1.0) * 127.5).round()).collect();
            let to = to.map(f32::from);
            for channel in 0..3 {
                let main = RED[channel] as f32;
                let mean = (3.0 * main + f32::from(edge[channel])) / 4.0;
                let near = |found: f32, wanted: f32| (found - wanted.clamp(0.0, 255.0)).abs() < 9.0;
                assert!(near(after[channel], to[channel] + main - mean), "{name}: {after:?}");
                let half = f32::from(GREY[channel]) / 2.0 + to[channel] / 2.0;
                assert!((after[9 + channel] - half).abs() < 25.0, "{name}: {after:?}");
                assert_eq!(after[12 + channel], 240.0);
            }
            assert_eq!(after[15..], [0.0, 60.0, 200.0]);
            seen.insert(name);
        }
        assert_eq!(seen.len(), found.names.len());
    }
}
