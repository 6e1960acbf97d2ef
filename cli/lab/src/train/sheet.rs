//! Samples of a model that is being trained, on one sheet: the same captions and seeds each time,
//! so that sheets can be compared.

use std::path::Path;

use mote::diffusion::noise::NoiseKind;
use mote::mem::{Arena, Plan};
use mote::pipeline::{Sampling, TextToImage, Unconditional, Work};
use mote::progress::Progress;
use mote::weights::Weights;
use mote_host::error::Result;
use mote_host::image::Picture;
use mote_host::image::png::PngWriter;
use mote_host::machine::Machine;
use mote_host::machine::memory::Block;
use mote_host::stop::Stop;
use mote_host::table::{Table, table};
use mote_host::tokenizer;

use super::batch::Words;
use super::recipe::{Networks, Recipe};

/// White pixels between pictures.
const GAP: usize = 2;

/// Makes samples.
pub struct Sampler<'a> {
    /// What was trained, and how its noise is taken away.
    pub recipe: &'a Recipe,
    /// The networks.
    pub networks: &'a Networks,
    /// Where there are words.
    pub words: Option<Words<'a>>,
    /// Who computes.
    pub machine: &'a Machine,
    /// Who may wish for an end, which then comes between two steps.
    pub stop: Stop,
}

/// A caption and a seed.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The caption.
    pub prompt: &'a str,
    /// The seed.
    pub seed: u64,
}

impl Sampler<'_> {
    /// The table of the recipe's sampler.
    ///
    /// # Errors
    /// Where it cannot take so many steps.
    pub fn table(&self, steps: usize) -> Result<Table> {
        table(&self.recipe.scheduler, steps, None)
    }

    /// Does something with the core's request.
    fn with_work<T>(
        &self,
        table: &Table,
        cfg_scale: f32,
        sample: Sample<'_>,
        body: impl FnOnce(Work<'_>) -> Result<T>,
    ) -> Result<T> {
        let sampling = Sampling {
            rows: &table.rows,
            init_noise_sigma: table.init_noise_sigma,
            clipping: self.recipe.scheduler.clipping,
            guidance_scale: match self.networks {
                Networks::Text { .. } => cfg_scale,
                Networks::Unconditional(_) => 1.0,
            },
            noise: NoiseKind::Pcg,
            seed: sample.seed,
        };
        let size = self.recipe.size();
        match (self.networks, self.words) {
            (Networks::Text { text_encoder, unet, .. }, Some(words)) => {
                let encode = |text| tokenizer::encode(&words.tokenizer, text, words.length);
                let (prompt, negative) = (encode(sample.prompt)?, encode("")?);
                body(Work::TextToImage(TextToImage {
                    text_encoder,
                    unet,
                    vae: None,
                    vae_tile: None,
                    sampling,
                    prompt: &prompt,
                    negative_prompt: &negative,
                    clip_skip: 0,
                    embedded_guidance: None,
                    token_weights: None,
                    size,
                    init_image: None,
                }))
            }
            (Networks::Unconditional(unet), _) => {
                let class_label = None;
                body(Work::Unconditional(Unconditional { unet, sampling, size, class_label }))
            }
            (Networks::Text { .. }, None) => unreachable!("a text encoder comes with its words"),
        }
    }

    /// What a sample needs.
    ///
    /// # Errors
    /// Where the networks cannot draw it.
    pub fn plan(&self, table: &Table, cfg_scale: f32, weights: &mut dyn Weights) -> Result<Plan> {
        self.with_work(table, cfg_scale, Sample { prompt: "", seed: 0 }, |work| {
            self.machine.compute(Arena::measuring(), weights, |cx| work.plan(cx))
        })
    }

    /// One sample.
    ///
    /// # Errors
    /// Where the networks yield what is no number, or the work is to stop.
    pub fn picture(
        &self,
        table: &Table,
        cfg_scale: f32,
        sample: Sample<'_>,
        memory: &mut [u8],
        weights: &mut dyn Weights,
    ) -> Result<Picture> {
        self.with_work(table, cfg_scale, sample, |work| {
            let mut picture = Picture::default();
            let mut flow = |_: Progress<'_>| self.stop.flow();
            let arena = Arena::new(memory);
            self.machine.compute(arena, weights, |cx| work.run(cx, &mut picture, &mut flow))?;
            Ok(picture)
        })
    }

    /// A sheet of the recipe's samples; picture k has the seed k.
    ///
    /// # Errors
    /// Where the networks yield what is no number, there is no memory, or the work is to stop.
    pub fn sheet(&self, weights: &mut dyn Weights) -> Result<Picture> {
        let samples = &self.recipe.samples;
        let table = self.table(samples.steps)?;
        let plan = self.plan(&table, samples.cfg_scale, weights)?;
        let mut block = Block::new(plan.arena_bytes)?;
        let wanted = samples.prompts.iter().zip(0..);
        let pictures = wanted.map(|(prompt, seed)| {
            let sample = Sample { prompt, seed };
            self.picture(&table, samples.cfg_scale, sample, block.bytes(), weights)
        });
        Ok(arranged(&pictures.collect::<Result<Vec<_>>>()?, samples.columns))
    }
}

/// Pictures of one size in rows of so many, with white between them.
pub fn arranged(pictures: &[Picture], columns: usize) -> Picture {
    let [w, h] = pictures.first().map_or([0, 0], |first| [first.width, first.height]);
    let columns = columns.clamp(1, pictures.len().max(1));
    let rows = pictures.len().div_ceil(columns);
    let (width, height) = (columns * (w + GAP) + GAP, rows * (h + GAP) + GAP);
    let mut sheet = Picture { width, height, rgb: vec![255; 3 * width * height] };
    for (index, picture) in pictures.iter().enumerate() {
        let left = index % columns * (w + GAP) + GAP;
        let top = index / columns * (h + GAP) + GAP;
        for (y, row) in picture.rgb.chunks_exact(3 * w).enumerate() {
            let at = 3 * ((top + y) * width + left);
            sheet.rgb[at..at + 3 * w].copy_from_slice(row);
        }
    }
    sheet
}

/// Writes a picture as PNG.
///
/// # Errors
/// Where it cannot be written.
pub fn write(path: &Path, picture: &Picture, text: &str, stop: &Stop) -> Result<()> {
    let size = [picture.width, picture.height].map(|side| side as u32);
    let mut png = PngWriter::begin(Some(path), size, text, stop)?;
    picture.rgb.chunks_exact(3 * picture.width.max(1)).try_for_each(|row| png.row(row))?;
    png.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_in_rows_with_white_between_them() {
        let picture = |grey| Picture { width: 2, height: 1, rgb: vec![grey; 6] };
        let sheet = arranged(&[picture(1), picture(2), picture(3)], 2);
        assert_eq!((sheet.width, sheet.height), (10, 8));
        let at = |x: usize, y: usize| sheet.rgb[3 * (y * sheet.width + x)];
        assert_eq!([at(2, 2), at(6, 2), at(2, 5), at(6, 5), at(0, 0)], [1, 2, 3, 255, 255]);
        assert_eq!((arranged(&[], 3).width, arranged(&[picture(9)], 8).width), (4, 6));
    }
}
