//! One step after another: the gradients of the examples, part by part, then AdamW and the average.

use mote::diffusion::schedule::Schedule;
use mote::mem::Arena;
use mote::ops::{Recording, Tape, TapeSlot};
use mote::train::{
    AdamW, Batch, Denoiser, Ema, LearningRate, Objective, TrainPlan, Weighting, norm,
};
use mote::weights::Weights;

use super::batch::Step;
use super::recipe::{Networks, Recipe, Training};
use super::store::Store;
use mote_host::error::{Failure, Result};
use mote_host::machine::Machine;
use mote_host::machine::memory::Block;

/// Room for the tape of a plan, far above what a network of any published size takes.
const MAX_TAPE_SLOTS: usize = 1 << 16;

/// What is learned, and by whom it is computed.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The networks, their vocabulary known.
    pub networks: &'a Networks,
    /// The schedule of noise.
    pub schedule: &'a Schedule<'a>,
    /// Ids of a caption.
    pub tokens: usize,
    /// Who computes.
    pub machine: &'a Machine,
    /// Whether of each block only its result is kept, and the block walked again on the way back.
    pub checkpoints: bool,
}

impl Task<'_> {
    /// The core's objective.
    pub fn objective(&self) -> Objective<'_> {
        let denoiser = match self.networks {
            Networks::Unconditional(unet) => Denoiser::Unconditional(unet),
            Networks::Text { text_encoder, unet, .. } => Denoiser::Text { text_encoder, unet },
        };
        let weighting = match self.recipe.training.min_snr_gamma {
            Some(gamma) => Weighting::MinSnr(gamma),
            None => Weighting::Constant,
        };
        let prediction = self.recipe.scheduler.prediction;
        Objective { denoiser, schedule: self.schedule, prediction, weighting }
    }

    /// What the gradients of `count` examples take.
    ///
    /// # Errors
    /// Where the networks contradict themselves, or hold what cannot be trained.
    pub fn plan(&self, count: usize, weights: &mut dyn Weights, begin: usize) -> Result<TrainPlan> {
        let [height, width, channels] = self.recipe.sample();
        let (timesteps, tokens) = (vec![0; count], vec![0; count * self.tokens]);
        let batch = Batch {
            size: [count, height, width, channels],
            pictures: &[],
            noise: &[],
            timesteps: &timesteps,
            tokens: &tokens,
            labels: None,
        };
        let mut slots = vec![TapeSlot::EMPTY; MAX_TAPE_SLOTS];
        let recording = Recording::new(Tape::new(&mut slots), &mut [], begin as u64)
            .with_checkpoints(self.checkpoints);
        let objective = self.objective();
        self.machine
            .compute(Arena::measuring(), weights, |cx| objective.plan(cx, &batch, recording))
    }
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Done {
    /// The mean loss of its examples.
    pub loss: f64,
    /// The learning rate.
    pub learning_rate: f32,
    /// The length of the gradient, before it was shortened.
    pub gradient_norm: f64,
}

/// Parameters and what belongs to them.
pub struct Fit<'a> {
    task: Task<'a>,
    /// The parameters.
    pub parameters: Store,
    /// Their average.
    pub average: Store,
    /// AdamW's moments.
    pub moments: [Vec<f32>; 2],
    gradients: Vec<f32>,
    losses: Vec<f32>,
    slots: Vec<TapeSlot>,
    block: Block,
}

impl<'a> Fit<'a> {
    /// The parameters as they are, and the rest at its beginning.
    ///
    /// # Errors
    /// Where there is no memory.
    pub fn new(task: Task<'a>, parameters: Store, plan: &TrainPlan) -> Result<Self> {
        let count = parameters.values().len();
        Ok(Self {
            task,
            average: parameters.copy()?,
            parameters,
            moments: [vec![0.0; count], vec![0.0; count]],
            gradients: vec![0.0; count],
            losses: vec![0.0; task.recipe.training.micro_batch],
            slots: vec![TapeSlot::EMPTY; plan.tape_slots],
            block: Block::new(plan.arena_bytes)?,
        })
    }

    /// Step number `number`, counted from 1.
    ///
    /// # Errors
    /// Where a loss is no number any more.
    pub fn step(&mut self, number: u64, examples: &Step) -> Result<Done> {
        let training = &self.task.recipe.training;
        self.gradients.fill(0.0);
        let mut sum = 0.0;
        for part in 0..training.batch_size / training.micro_batch {
            self.gradients(part, examples)
                .map_err(|failure| failure.within(format!("step {number}")))?;
            sum += self.losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        }
        let gradient_norm = norm(&self.gradients);
        if !gradient_norm.is_finite() {
            return Err(Failure::new(format!("step {number}: the gradient is no number any more"))
                .remedy("Lower `learning_rate`"));
        }
        let Training { betas, eps, weight_decay, clip_norm, ema_decay, .. } = *training;
        let factor = (f64::from(clip_norm) / gradient_norm.max(f64::MIN_POSITIVE)).min(1.0);
        let Training { learning_rate: peak, warmup_steps: warmup, steps: total, .. } = *training;
        let learning_rate = LearningRate { peak, warmup, total }.at(number);
        let (isa, executor) = (self.task.machine.isa(), self.task.machine.pool());
        let [first, second] = &mut self.moments;
        let state = [self.parameters.values_mut(), first, second];
        AdamW { betas, eps, weight_decay }.step(
            isa,
            executor,
            number,
            learning_rate,
            factor as f32,
            &self.gradients,
            state,
        );
        let ema = Ema { decay: ema_decay };
        ema.update(isa, executor, number, self.parameters.values(), self.average.values_mut());
        Ok(Done { loss: sum / training.batch_size as f64, learning_rate, gradient_norm })
    }

    /// Adds the gradients of a part of the examples up.
    fn gradients(&mut self, part: usize, examples: &Step) -> Result<()> {
        let (task, training) = (self.task, &self.task.recipe.training);
        let [height, width, channels] = task.recipe.sample();
        let count = training.micro_batch;
        let of = |each: usize| part * count * each..(part + 1) * count * each;
        let pixels = of(height * width * channels);
        let batch = Batch {
            size: [count, height, width, channels],
            pictures: &examples.pictures[pixels.clone()],
            noise: &examples.noise[pixels],
            timesteps: &examples.timesteps[of(1)],
            tokens: &examples.tokens[of(task.tokens)],
            labels: None,
        };
        let begin = self.parameters.begin() as u64;
        let recording = Recording::new(Tape::new(&mut self.slots), &mut self.gradients, begin)
            .with_checkpoints(task.checkpoints);
        let mut weights = self.parameters.weights();
        let share = 1.0 / training.batch_size as f32;
        let (objective, losses) = (task.objective(), &mut self.losses);
        task.machine.compute(Arena::new(self.block.bytes()), &mut weights, |cx| {
            objective.gradients(cx, &batch, recording, share, losses)
        })
    }
}
