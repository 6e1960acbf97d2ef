//! Pictures drawn before a conversion, so that its weights can be rounded by what they meet.

use mote::mem::Arena;
use mote::models::unet_2d::ClassEmbedding;
use mote::ops::LeftSide;
use mote::progress::{Progress, Stage};
use mote::weights::Weights;

use crate::checkpoint::place::Place;
use crate::config::unet_2d;
use crate::error::{Failure, Result};
use crate::image::Picture;
use crate::machine::Machine;
use crate::machine::memory::Block;
use crate::pack::rounding::Calibration;
use crate::plan::plan_as_it_is;
use crate::progress::Reporter;
use crate::request::{Parts, Request};
use crate::resolve::{self, Resolved};
use crate::stop::Stop;
use crate::types::Seed;

/// Steps of a picture: as many as pictures are mostly drawn in.
const STEPS: u32 = 20;

/// The seed of the first picture, which is nobody's first choice.
const SEED: u64 = 1_000_003;

/// What is drawn where no prompt is given.
const PROMPTS: [&str; 4] = [
    "a portrait of an old fisherman, oil on canvas",
    "a red bicycle in front of a bakery, photograph",
    "mountains at dawn, mist in the valley, watercolour",
    "a cat asleep on a pile of books",
];

/// The pictures that a conversion draws first.
#[derive(Clone, Copy, Debug)]
pub struct Calibrate<'a> {
    /// Steps in all, 20 to a picture.
    pub steps: u32,
    /// What the pictures show; where nothing is said, some texts of ours.
    pub prompts: &'a [String],
}

/// Draws pictures with the model at `place` and looks at what its products are fed with.
///
/// # Errors
/// Where the model cannot draw, there is no memory, or it is to stop.
pub fn watch(
    calibration: &mut Calibration,
    place: &Place,
    wanted: Calibrate<'_>,
    machine: &Machine,
    weights: &mut dyn Weights,
    reporter: &mut dyn Reporter,
    stop: &Stop,
) -> Result<()> {
    let Calibrate { steps: all, prompts } = wanted;
    let pictures = all.div_ceil(STEPS) as usize;
    if pictures < prompts.len() {
        reporter.remark(&[format!(
            "{pictures} of {} prompts serve, as a picture takes {STEPS} steps; more prompts want a \
             larger --calibrate",
            prompts.len()
        )]);
    }
    reporter.begin("calibrating", u64::from(all));
    let mut done = 0;
    while done < all {
        let (number, steps) = (done / STEPS, STEPS.min(all - done));
        let request = Request { steps, seed: Seed::Given(SEED), ..Request::default() };
        let resolved = resolve_for(place, request, prompts, number)?;
        if (number as usize) < prompts.len() {
            reporter.remark(&resolved.notes);
        }
        let plan = plan_as_it_is(&resolved, machine, weights)?;
        let mut block = Block::new(plan.arena_bytes)?;
        let mut inputs = |left: LeftSide<'_>| calibration.add(machine.pool(), &left);
        let mut progress = |progress: Progress<'_>| {
            if progress.stage == Stage::Unet {
                let part = (steps as usize * progress.done / progress.total) as u32;
                reporter.note(u64::from(done + part), &format!("picture {}", number + 1));
            }
            stop.flow()
        };
        machine.compute(Arena::new(block.bytes()), weights, |cx| {
            cx.observe_inputs(&mut inputs);
            resolved.work(number).run(cx, &mut Picture::default(), &mut progress)
        })?;
        done += steps;
    }
    reporter.end();
    Ok(())
}

/// The picture of this number: with one prompt after the other where the model takes a text, one
/// class after the other where it knows classes.
fn resolve_for(
    place: &Place,
    request: Request,
    prompts: &[String],
    number: u32,
) -> Result<Resolved> {
    let own = PROMPTS.map(str::to_string);
    let has_text = place.part("text_encoder").is_folder();
    if !has_text && !prompts.is_empty() {
        return Err(Failure::new("this model makes pictures from noise alone, and knows no text")
            .remedy("Leave out --prompt"));
    }
    let request = if has_text {
        let prompts = if prompts.is_empty() { &own[..] } else { prompts };
        let prompt = prompts.get(number as usize % prompts.len().max(1)).cloned();
        Request { prompt, ..request }
    } else {
        let unet = unet_2d::read(place.part("unet").join("config.json"))?;
        let class_label = match unet.class_embedding {
            ClassEmbedding::Table(classes) => Some(number % (classes as u32).max(1)),
            ClassEmbedding::Timestep => Some(number),
            _ => None,
        };
        Request { class_label, ..request }
    };
    resolve::resolve(place, &Parts::default(), &request)
}
