//! The peak of this machine: the most multiply-adds that its threads can do together, measured by a
//! loop over registers.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use mote::arch::Isa;

use crate::args::Type;

/// How long one trial takes, about: long beside the time that threads take to begin.
const TRIAL: Duration = Duration::from_millis(30);

/// Trials. The best counts: whatever else runs on the machine only ever takes away.
const TRIALS: usize = 12;

/// What the multiply-adds are done in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32.
    F32,
}

impl From<Type> for Arithmetic {
    fn from(dtype: Type) -> Self {
        match dtype {
            Type::F32 => Self::F32,
        }
    }
}

impl Arithmetic {
    /// Does some rounds on registers alone; how many multiply-adds they were.
    fn register_loop(self, isa: Isa, rounds: usize) -> u64 {
        let (sum, multiply_adds) = match self {
            Self::F32 => isa.register_loop_f32(rounds),
        };
        black_box(sum);
        multiply_adds
    }
}

/// Billions of operations (two for each multiply-add) in a second, by `threads` threads at once.
pub fn gops(isa: Isa, arithmetic: Arithmetic, threads: usize) -> f64 {
    let mut rounds = 1 << 10;
    loop {
        let begin = Instant::now();
        arithmetic.register_loop(isa, rounds);
        if begin.elapsed() >= TRIAL {
            break;
        }
        rounds *= 2;
    }
    let trials = (0..TRIALS).map(|_| trial(isa, arithmetic, threads.max(1), rounds));
    trials.fold(0.0, f64::max)
}

/// All threads begin together, and it is over when the last one ends.
fn trial(isa: Isa, arithmetic: Arithmetic, threads: usize, rounds: usize) -> f64 {
    let barrier = Barrier::new(threads);
    let one = || {
        barrier.wait();
        let begin = Instant::now();
        let multiply_adds = arithmetic.register_loop(isa, rounds);
        (begin, Instant::now(), multiply_adds)
    };
    let (mut times, mut multiply_adds) = (Vec::with_capacity(threads), 0.0);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(one)).collect();
        let own = one();
        for (begin, end, count) in others.into_iter().flat_map(|thread| thread.join()).chain([own])
        {
            times.push((begin, end));
            multiply_adds += count as f64;
        }
    });
    let begin = times.iter().map(|(begin, _)| *begin).min();
    let end = times.iter().map(|(_, end)| *end).max();
    let seconds = begin.zip(end).map_or(0.0, |(begin, end)| (end - begin).as_secs_f64());
    super::gops(multiply_adds, seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_what_a_machine_can_do() {
        let gops = gops(Isa::SCALAR, Arithmetic::F32, 2);
        // From the slowest board to far beyond any CPU's plain loop.
        assert!(gops > 0.01 && gops < 1e6, "{gops}");
    }
}
