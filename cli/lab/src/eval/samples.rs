//! Which picture a sample is nearest to, and how near.
//!
//! Whether a sample shows what its caption names is judged by its nearest picture among those of
//! its style, in an embedding that forgives small shifts: means of 2x2 blocks of a 32x32 picture
//! (for any size, of the blocks that make a side of about 16), in RGB. How near a sample is to the
//! training pictures is told in whole pixels.

use crate::train::data::Example;
use mote_host::image::Picture;

/// The side that the embedding has, where a picture's side is a multiple of it.
pub const EMBEDDING_SIDE: usize = 16;

/// A picture's embedding: means of blocks, row by row, in RGB.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding(Vec<f32>);

impl Embedding {
    /// That of a picture of this height and width.
    pub fn of(rgb: &[u8], [height, width]: [usize; 2]) -> Self {
        let block = |side: usize| (side / EMBEDDING_SIDE).max(1);
        let (down, across) = (block(height), block(width));
        let [rows, columns] = [height / down, width / across];
        let mut means = vec![0.0; rows * columns * 3];
        for (y, row) in rgb.chunks_exact(3 * width).enumerate().take(rows * down) {
            for (x, pixel) in row.as_chunks::<3>().0.iter().enumerate().take(columns * across) {
                let at = 3 * (y / down * columns + x / across);
                let mean = &mut means[at..at + 3];
                mean.iter_mut().zip(pixel).for_each(|(mean, &value)| *mean += f32::from(value));
            }
        }
        means.iter_mut().for_each(|mean| *mean /= (down * across) as f32);
        Self(means)
    }

    /// The mean squared difference.
    pub fn distance(&self, other: &Self) -> f32 {
        let squares = self.0.iter().zip(&other.0).map(|(a, b)| (a - b) * (a - b));
        squares.sum::<f32>() / self.0.len().max(1) as f32
    }
}

/// The root of the mean squared difference of two pictures, on the scale from 0 to 1.
pub fn pixel_distance(a: &[u8], b: &[u8]) -> f64 {
    let squares = a.iter().zip(b).map(|(&a, &b)| {
        let difference = i64::from(a) - i64::from(b);
        difference * difference
    });
    (squares.sum::<i64>() as f64 / a.len().max(1) as f64).sqrt() / 255.0
}

/// All pictures, with their embeddings.
pub struct Gallery<'a> {
    pictures: Vec<(&'a Example, Embedding)>,
    size: [usize; 2],
}

impl<'a> Gallery<'a> {
    /// Of pictures of this height and width.
    pub fn new(examples: impl Iterator<Item = &'a Example>, size: [usize; 2]) -> Self {
        let embedded = |example: &'a Example| (example, Embedding::of(&example.rgb, size));
        Self { pictures: examples.map(embedded).collect(), size }
    }

    /// At which place the named picture comes when all of its style are ordered by how near they
    /// are: 1 is the nearest. A picture that equals the named one's embedding is not before it.
    pub fn rank(&self, sample: &Picture, wanted: &Example) -> usize {
        let sample = Embedding::of(&sample.rgb, self.size);
        let own = Embedding::of(&wanted.rgb, self.size).distance(&sample);
        let (name, style) = (&wanted.caption.name, &wanted.caption.style);
        let others = self.pictures.iter().filter(|(example, _)| {
            example.caption.style == *style && example.caption.name != *name
        });
        1 + others.filter(|(_, embedding)| embedding.distance(&sample) < own).count()
    }

    /// How far the nearest picture is, in whole pixels; `but` itself does not count.
    pub fn nearest(&self, rgb: &[u8], but: Option<&Example>) -> f64 {
        let others = self.pictures.iter().map(|(example, _)| *example);
        let others = others.filter(|example| but.is_none_or(|but| but.path != example.path));
        others.map(|example| pixel_distance(&example.rgb, rgb)).fold(f64::INFINITY, f64::min)
    }
}

/// The value in the middle.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::Caption;

    fn example(name: &str, style: &str, grey: u8) -> Example {
        let caption = Caption { name: name.into(), style: style.into(), ..Caption::default() };
        Example { path: format!("{name}{style}").into(), caption, rgb: vec![grey; 12] }
    }

    #[test]
    fn an_embedding_is_made_of_means_and_forgives_small_shifts() {
        let dot = |at: usize| {
            let mut rgb = vec![0; 3 * 32 * 32];
            rgb[3 * at..3 * at + 3].fill(200);
            Embedding::of(&rgb, [32, 32])
        };
        assert_eq!(dot(0).0.len(), 3 * 16 * 16);
        assert_eq!(dot(0), dot(33));
        assert!(dot(0).distance(&dot(2)) > 0.0);
        assert_eq!(Embedding::of(&[1, 2, 3], [1, 1]).0, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn the_rank_counts_nearer_pictures_of_the_same_style() {
        let all = [
            example("a", "", 10),
            example("b", "", 50),
            example("c", "", 90),
            example("d", "3d", 52),
        ];
        let gallery = Gallery::new(all.iter(), [2, 2]);
        let sample = |grey| Picture { width: 2, height: 2, rgb: vec![grey; 12] };
        assert_eq!(gallery.rank(&sample(52), &all[1]), 1);
        assert_eq!(gallery.rank(&sample(52), &all[2]), 2);
        assert_eq!(gallery.rank(&sample(52), &all[0]), 3);
        assert_eq!(gallery.rank(&sample(10), &all[3]), 1);
    }

    #[test]
    fn distances_are_in_shares_of_the_whole_scale() {
        assert_eq!(pixel_distance(&[0, 0], &[255, 255]), 1.0);
        let all = [example("a", "", 0), example("b", "", 51)];
        let gallery = Gallery::new(all.iter(), [2, 2]);
        assert!((gallery.nearest(&all[0].rgb, Some(&all[0])) - 0.2).abs() < 1e-9);
        assert_eq!(gallery.nearest(&all[0].rgb, None), 0.0);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
    }
}
