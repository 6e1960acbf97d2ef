//! The examples of a step, with their captions, noise and times: all a function of the seed and the
//! number of the step.
//!
//! Times are spread over the batch (Kingma et al. 2021, section I.1 of the appendix): one number is
//! drawn a step, and the times lie evenly from it on, which makes the loss of a step less noisy.

use mote::diffusion::noise::{Noise, NoiseKind};
use mote::models::clip_tokenizer::ClipTokenizer;
use mote::ops::unshuffle;

use super::data::{COLOURS, DataSet, Example};
use super::draw::{Draw, Purpose};
use super::recipe::Training;
use super::recolour::Recolouring;
use mote_host::error::Result;
use mote_host::tokenizer;

/// Turns captions into ids.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    /// The tokenizer.
    pub tokenizer: ClipTokenizer<'a>,
    /// Ids of a caption.
    pub length: usize,
}

/// What steps are made of.
pub struct Batches<'a> {
    examples: &'a [Example],
    /// Other colours of each; none where no example is to have one.
    recolourings: Vec<Option<Recolouring>>,
    training: &'a Training,
    /// Height and width in pixels.
    size: [usize; 2],
    /// The side of the blocks of pixels that an element of a sample stands for.
    block: usize,
    /// Times of training.
    times: usize,
    words: Option<Words<'a>>,
    /// An epoch, and the order of its examples.
    order: (u64, Vec<usize>),
    /// A picture before its pixels are put in blocks.
    picture: Vec<f32>,
}

/// The examples of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// `[n, h, w, c]`, from -1 to 1; `c` is 3 times the pixels of a block.
    pub pictures: Vec<f32>,
    /// `[n, h, w, c]`.
    pub noise: Vec<f32>,
    /// `[n]`.
    pub timesteps: Vec<u32>,
    /// `[n, length]`; none where there are no words.
    pub tokens: Vec<u32>,
}

impl<'a> Batches<'a> {
    /// Batches of these examples.
    pub fn new(
        data: &'a DataSet,
        training: &'a Training,
        (size, block): ([usize; 2], usize),
        times: usize,
        words: Option<Words<'a>>,
    ) -> Self {
        let (order, picture, examples) = ((u64::MAX, Vec::new()), Vec::new(), &data.examples);
        let kept = data.held_out.iter().map(|example| example.caption.name.as_str()).collect();
        let of = |example: &Example| {
            let group = &example.caption.group;
            let changes = training.recolours() && !training.recolour_except.contains(group);
            changes.then(|| Recolouring::new(example, &kept)).flatten()
        };
        let recolourings = examples.iter().map(of).collect();
        Self { examples, recolourings, training, size, block, times, words, order, picture }
    }

    /// Elements of a picture.
    pub fn elements(&self) -> usize {
        self.size[0] * self.size[1] * COLOURS
    }

    /// Fills in the examples of step number `step`, counted from 1.
    ///
    /// # Errors
    /// None that a caption can cause.
    pub fn fill(&mut self, step: u64, out: &mut Step) -> Result<()> {
        let (count, seed) = (self.training.batch_size, self.training.seed);
        let length = self.words.map_or(0, |words| words.length);
        out.pictures.resize(count * self.elements(), 0.0);
        out.noise.resize(count * self.elements(), 0.0);
        out.timesteps.resize(count, 0);
        out.tokens.resize(count * length, 0);
        let first = Draw::new(seed, Purpose::Time, step).unit();
        let (elements, row) = (self.elements(), self.size[1] * COLOURS);
        for index in 0..count {
            let place = (step - 1) * count as u64 + index as u64;
            let number = self.example(place);
            let example = &self.examples[number];
            let mut draw = Draw::new(seed, Purpose::Caption, place);
            let flips = draw.unit() < 0.5 && self.training.flip;
            let range = index * elements..(index + 1) * elements;
            self.picture.clear();
            self.picture.extend(example.values());
            if flips {
                self.picture.chunks_exact_mut(row).for_each(flip);
            }
            let mut colour = Draw::new(seed, Purpose::Recolour, place);
            let recolours = colour.unit() < self.training.recolour;
            let other = self.recolourings[number].as_ref().filter(|_| recolours);
            let name = other.map(|other| other.draw(&mut self.picture, &mut colour));
            let caption = match name {
                Some(name) => &example.caption.renamed(name),
                None => &example.caption,
            };
            let shape = [self.size[0], self.size[1], COLOURS];
            unshuffle(&self.picture, shape, self.block, &mut out.pictures[range.clone()]);
            let noise = Draw::new(seed, Purpose::Noise, place).bits();
            Noise::new(NoiseKind::Pcg, noise).fill(&mut out.noise[range]);
            let share = (first + index as f64 / count as f64).fract();
            out.timesteps[index] = (share * self.times as f64) as u32;
            if let Some(words) = self.words {
                let Training { caption_dropout, keywords, .. } = *self.training;
                let text = caption.draw(caption_dropout, keywords, &mut draw);
                let ids = tokenizer::encode(&words.tokenizer, &text, length)?;
                out.tokens[index * length..(index + 1) * length].copy_from_slice(&ids);
            }
        }
        Ok(())
    }

    /// Which example stands at a place among all: each epoch has an order of its own.
    fn example(&mut self, place: u64) -> usize {
        let count = self.examples.len() as u64;
        let epoch = place / count;
        if self.order.0 != epoch {
            let mut order: Vec<_> = (0..self.examples.len()).collect();
            Draw::new(self.training.seed, Purpose::Order, epoch).shuffle(&mut order);
            self.order = (epoch, order);
        }
        self.order.1[(place % count) as usize]
    }
}

/// Turns a row of pixels around.
fn flip(row: &mut [f32]) {
    row.reverse();
    row.as_chunks_mut::<COLOURS>().0.iter_mut().for_each(|pixel| pixel.reverse());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::Caption;
    use crate::train::recipe::{self, Changes};

    fn examples(count: u8) -> DataSet {
        let example = |i: u8| {
            let caption = Caption { name: i.to_string(), ..Caption::default() };
            Example { path: "x".into(), caption, rgb: vec![i; 12] }
        };
        DataSet { examples: (0..count).map(example).collect(), ..DataSet::default() }
    }

    fn training(batch_size: usize) -> Training {
        let preset = recipe::read("emoji32", Changes::default()).unwrap().training;
        Training { batch_size, ..preset }
    }

    #[test]
    fn an_epoch_shows_every_example_once_and_the_next_in_another_order() {
        let (examples, training) = (examples(10), training(5));
        let mut batches = Batches::new(&examples, &training, ([2, 2], 1), 1000, None);
        let mut orders = Vec::new();
        for epoch in 0..3 {
            let order: Vec<_> = (0..10).map(|i| batches.example(10 * epoch + i)).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
            orders.push(order);
        }
        assert!(orders[0] != orders[1] && orders[1] != orders[2]);
    }

    #[test]
    fn a_step_is_the_same_whatever_came_before() {
        let (examples, training) = (examples(7), training(5));
        let new = || Batches::new(&examples, &training, ([2, 2], 1), 1000, None);
        let (mut one, mut other) = (Step::default(), Step::default());
        let mut batches = new();
        (1..=9).for_each(|step| batches.fill(step, &mut one).unwrap());
        new().fill(9, &mut other).unwrap();
        assert_eq!(one, other);
        new().fill(8, &mut other).unwrap();
        assert_ne!(one, other);
    }

    #[test]
    fn times_are_spread_evenly_over_a_batch() {
        let (examples, training) = (examples(3), training(10));
        let mut batches = Batches::new(&examples, &training, ([2, 2], 1), 1000, None);
        let mut step = Step::default();
        batches.fill(4, &mut step).unwrap();
        let mut tenths: Vec<_> = step.timesteps.iter().map(|t| t / 100).collect();
        tenths.sort_unstable();
        assert_eq!(tenths, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn pictures_are_recoloured_but_for_groups_that_keep_their_colours() {
        let mut data = examples(6);
        for (number, example) in data.examples.iter_mut().enumerate() {
            example.rgb = [220, 30, 30].repeat(4);
            example.caption.group =
                if number.is_multiple_of(2) { "kept".into() } else { String::new() };
        }
        let training =
            Training { recolour: 1.0, recolour_except: vec!["kept".into()], ..training(6) };
        let mut batches = Batches::new(&data, &training, ([2, 2], 1), 1000, None);
        let mut step = Step::default();
        batches.fill(1, &mut step).unwrap();
        let red: Vec<f32> = data.examples[0].values().collect();
        for (place, picture) in (0..6).zip(step.pictures.chunks_exact(red.len())) {
            let keeps = batches.example(place).is_multiple_of(2);
            assert_eq!(picture == red, keeps, "{place}");
        }
    }

    #[test]
    fn a_flip_turns_pixels_around_and_not_colours() {
        let mut row = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        flip(&mut row);
        assert_eq!(row, [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
    }
}
