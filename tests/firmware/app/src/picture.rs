//! A model in flash draws what its prompts say: its checksum is compared, words become tokens, and
//! a session plans and runs in memory of exactly the size that is needed; rows of pixels go out as
//! text.

use core::fmt;

use mote::arch::Isa;
use mote::diffusion::sampler::{Ddim, Row};
use mote::models::autoencoder::Nothing;
use mote::models::clip_tokenizer::ClipTokenizer;
use mote::pipeline::recipe::Networks;
use mote::pipeline::{Fault, ImageSink, Kit, Model as Packed, Request, Session};
use mote::weights::Slot;
use mote::{Error, Result};

use crate::model::Model;

/// What the models in flash take: words become pictures by DDIM, and the sample is the picture.
#[derive(Clone, Copy, Debug)]
struct Emoji;

impl Kit for Emoji {
    type Sampler = Ddim;
    type Autoencoders = Nothing;
    const UNCONDITIONAL: bool = false;
    const TEXT_TO_IMAGE: bool = true;
}

/// Tokens of a prompt, at most: CLIP's.
const MAX_TOKENS: usize = 77;

/// Pixels of a row, at most: more would take the stack that a small part has.
const MAX_WIDTH: usize = 64;

/// Words of the tokenizer's scratch: four for each byte of a prompt's longest word.
const SCRATCH: usize = 4 * 32;

/// The tables beside the arena.
pub struct Tables<const SLOTS: usize, const ROWS: usize> {
    slots: [Slot; SLOTS],
    rows: [Row; ROWS],
}

impl<const SLOTS: usize, const ROWS: usize> Tables<SLOTS, ROWS> {
    /// Nothing in them yet.
    pub const NEW: Self = Self { slots: [Slot::EMPTY; SLOTS], rows: [Row::EMPTY; ROWS] };

    /// Draws each prompt's picture and writes it to `out`.
    ///
    /// # Errors
    /// Where the model is damaged, or the memory is too small for it.
    ///
    /// # Panics
    /// Where the plan on the part is another than the host's.
    #[allow(clippy::result_large_err, reason = "a fault names a weight: there is no allocator")]
    pub fn draw(
        &mut self,
        arena: &mut [u8],
        out: &mut dyn fmt::Write,
        isa: Isa,
        model: &Model,
    ) -> Result<(), Fault> {
        let packed = Packed::open(model.file)?.with_kit::<Emoji>();
        let tokenizer = ClipTokenizer::new(model.tokenizer)?;
        let _ = writeln!(out, "model {}", model.file.len() + model.tokenizer.len());
        let count = tokens(&packed)?;
        for words in model.prompts {
            let (mut prompt, mut negative) = ([0; MAX_TOKENS], [0; MAX_TOKENS]);
            for (ids, words) in [(&mut prompt, *words), (&mut negative, "")] {
                tokenizer.encode(words, &mut ids[..count], &mut [0; SCRATCH])?;
            }
            let request = Request {
                prompt: &prompt[..count],
                negative_prompt: &negative[..count],
                guidance_scale: model.guidance_scale,
                steps: model.steps,
                seed: model.seed,
                ..Request::default()
            };
            let Self { slots, rows } = self;
            let mut session = Session::begin(packed, request, isa, rows, slots, arena)?;
            assert_eq!(session.needs(), model.needs, "the plan on the part is the host's");
            while session.step()? {}
            send(&mut session, &mut Text(out))?;
        }
        Ok(())
    }
}

/// How many tokens the text encoder takes. The recipe leaves the stack with this function.
#[inline(never)]
fn tokens(packed: &Packed<'_, Emoji>) -> Result<usize> {
    match packed.recipe(None)?.networks {
        Networks::TextToImage { text_encoder, .. } => {
            Ok(text_encoder.max_position_embeddings.min(MAX_TOKENS))
        }
        Networks::Unconditional(_) => {
            Err(Error::Config { key: "the model", what: "takes no words" })
        }
    }
}

fn send(session: &mut Session<'_, Emoji>, sink: &mut dyn ImageSink) -> Result<()> {
    let [height, width] = session.size();
    let mut row = [0; 3 * MAX_WIDTH];
    sink.begin(width, height)?;
    while session.row(&mut row)? {
        sink.row(&row[..3 * width])?;
    }
    sink.end()
}

/// Writes rows of pixels as text.
pub struct Text<'a>(pub &'a mut dyn fmt::Write);

impl ImageSink for Text<'_> {
    fn begin(&mut self, width: usize, height: usize) -> Result<()> {
        writeln!(self.0, "picture {width} {height}").map_err(|_| Error::Sink)
    }

    fn row(&mut self, rgb: &[u8]) -> Result<()> {
        rgb.iter().try_for_each(|byte| write!(self.0, "{byte:02x}")).map_err(|_| Error::Sink)?;
        self.0.write_char('\n').map_err(|_| Error::Sink)
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// That a model with one flipped bit is refused, whatever the bit: `copy` has room for the model.
///
/// # Errors
/// Where a damaged model is not refused.
pub fn refuse_damage(out: &mut dyn fmt::Write, file: &[u8], copy: &mut [u8]) -> Result<()> {
    let copy = &mut copy[..file.len()];
    copy.copy_from_slice(file);
    let mut refused = 0;
    for at in [9, file.len() / 3, file.len() / 2, file.len() - 5, file.len() - 1] {
        copy[at] ^= 4;
        match Packed::open(copy) {
            Err(Error::Checksum { .. } | Error::Format { .. }) => refused += 1,
            _ => return Err(Error::Format { what: "a flipped bit was not noticed", at }),
        }
        copy[at] ^= 4;
    }
    let _ = writeln!(out, "{refused} damaged models refused");
    Packed::open(copy).map(drop)
}
