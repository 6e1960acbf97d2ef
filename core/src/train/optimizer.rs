//! From gradients to better parameters: AdamW, the learning rate over time, the moving average.

use crate::arch::{Adam, Isa};
use crate::exec::{Executor, for_each_chunk, for_each_together};

/// Parameters in one task.
const CHUNK: usize = 16 * 1024;

/// Partial sums of a norm.
const LANES: usize = 16;

/// AdamW (Loshchilov and Hutter 2019, algorithm 2), as PyTorch's `torch.optim.AdamW`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// How much of the first and of the second moment is kept at each step.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// The share of each parameter, times the learning rate, that is taken off at each step.
    pub weight_decay: f32,
}

impl Default for AdamW {
    /// PyTorch's.
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-2 }
    }
}

impl AdamW {
    /// Step number `step`, counted from 1. Gradients are multiplied with `factor` first.
    ///
    /// # Panics
    /// Where there is not one gradient and one of each moment for each parameter.
    pub fn step(
        &self,
        isa: Isa,
        executor: &dyn Executor,
        step: u64,
        learning_rate: f32,
        factor: f32,
        gradients: &[f32],
        [parameters, first, second]: [&mut [f32]; 3],
    ) {
        let lengths = [parameters.len(), first.len(), second.len()];
        assert!(lengths == [gradients.len(); 3], "a gradient and moments for each parameter");
        let powers = self.betas.map(|beta| 1.0 - libm::pow(f64::from(beta), step as f64));
        let adam = Adam {
            factor,
            betas: self.betas,
            rate: (f64::from(learning_rate) / powers[0]) as f32,
            decay: 1.0 - learning_rate * self.weight_decay,
            root: (1.0 / libm::sqrt(powers[1])) as f32,
            eps: self.eps,
        };
        let cut = [(parameters, CHUNK), (first, CHUNK), (second, CHUNK)];
        for_each_together(executor, cut, |index, state| {
            let gradients = &gradients[index * CHUNK..][..state[0].len()];
            isa.adamw_f32(&adam, gradients, state);
        });
    }
}

/// The Euclidean norm of all gradients, by which they are clipped (Pascanu et al. 2013).
pub fn norm(gradients: &[f32]) -> f64 {
    // Sums of f32 in blocks, of blocks in f64: one order, whatever the number of threads.
    let square = |block: &[f32]| -> f64 {
        let mut lanes = [0.0f32; LANES];
        for chunk in block.chunks(LANES) {
            lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += x * x);
        }
        lanes.iter().map(|&lane| f64::from(lane)).sum()
    };
    libm::sqrt(gradients.chunks(CHUNK).map(square).sum())
}

/// The learning rate over time: it rises in a straight line over the first steps, and falls along
/// half a cosine to 0 at the last (Loshchilov and Hutter 2017).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    /// The highest.
    pub peak: f32,
    /// Steps until it is reached.
    pub warmup: u64,
    /// Steps in all.
    pub total: u64,
}

impl LearningRate {
    /// At step number `step`, counted from 1.
    pub fn at(&self, step: u64) -> f32 {
        if step <= self.warmup {
            return self.peak * (step as f64 / self.warmup as f64) as f32;
        }
        let span = self.total.saturating_sub(self.warmup).max(1);
        let share = ((step - self.warmup) as f64 / span as f64).min(1.0);
        self.peak * (0.5 * (1.0 + libm::cos(core::f64::consts::PI * share))) as f32
    }
}

/// The exponential moving average of the parameters, which is the model in the end (Ho et al. 2020,
/// appendix B).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ema {
    /// How much is kept at each step, in the long run.
    pub decay: f32,
}

impl Ema {
    /// Takes the parameters after step number `step`, counted from 1, in. Early averages are short:
    /// the decay is at most `(1 + step) / (10 + step)`.
    ///
    /// # Panics
    /// Where there is not one average for each parameter.
    pub fn update(
        &self,
        isa: Isa,
        executor: &dyn Executor,
        step: u64,
        parameters: &[f32],
        averages: &mut [f32],
    ) {
        assert!(parameters.len() == averages.len(), "an average for each parameter");
        let decay = self.decay.min((1 + step) as f32 / (10 + step) as f32);
        for_each_chunk::<_, f32>(executor, averages, CHUNK, &mut [], |index, averages, _| {
            let parameters = &parameters[index * CHUNK..][..averages.len()];
            isa.scale_add_f32(averages, decay, parameters, 1.0 - decay);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::assert_eq;

    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let rate = LearningRate { peak: 2.0, warmup: 10, total: 110 };
        assert_eq!([1, 5, 10].map(|step| rate.at(step)), [0.2, 1.0, 2.0]);
        assert_eq!([60, 110, 500].map(|step| rate.at(step)), [1.0, 0.0, 0.0]);
        assert_eq!(LearningRate { peak: 2.0, warmup: 0, total: 0 }.at(1), 0.0);
    }

    #[test]
    fn a_norm_is_that_of_all_blocks() {
        let gradients = std::vec![0.5f32; 3 * CHUNK + 5];
        let expected = 0.5 * ((3 * CHUNK + 5) as f64).sqrt();
        assert!((norm(&gradients) - expected).abs() < 1e-9 * expected);
        assert_eq!(norm(&[]), 0.0);
    }
}
