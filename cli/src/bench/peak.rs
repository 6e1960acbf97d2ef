//! The peak of this machine: the most multiply-adds that its threads can do together, measured by a
//! loop over registers.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use mote::arch::{Arithmetic, Isa};

use mote_host::types::Type;

/// How long the threads run: as many trials as find room.
const DURATION: Duration = Duration::from_millis(400);

/// How long one trial takes, about: less than the slice of time that a scheduler gives, so that on
/// a busy machine, too, some trials run undisturbed.
const TRIAL: Duration = Duration::from_millis(2);

/// What the products of a network are computed in, for a type of weights; without one they are as
/// the checkpoint has them.
pub fn arithmetic(dtype: Option<Type>) -> Arithmetic {
    match dtype {
        None | Some(Type::F16 | Type::F32) => Arithmetic::F32,
        Some(Type::Bf16) => Arithmetic::Bf16,
        Some(Type::Int8 | Type::Int4) => Arithmetic::Q8,
    }
}

/// Does some rounds on registers alone; how many multiply-adds they were.
fn register_loop(isa: Isa, arithmetic: Arithmetic, rounds: usize) -> u64 {
    let (sum, multiply_adds) = isa.register_loop(arithmetic, rounds);
    black_box(sum);
    multiply_adds
}

/// Billions of operations (two for each multiply-add) in a second, by `threads` threads at once:
/// the sum of what each reaches in its best trial while all of them run. Whatever else happens on
/// the machine only ever takes away.
pub fn gops(isa: Isa, arithmetic: Arithmetic, threads: usize) -> f64 {
    let mut rounds = 1 << 8;
    loop {
        let begin = Instant::now();
        register_loop(isa, arithmetic, rounds);
        if begin.elapsed() >= TRIAL {
            break;
        }
        rounds *= 2;
    }
    let barrier = Barrier::new(threads.max(1));
    let one = || {
        barrier.wait();
        best_trial(isa, arithmetic, rounds)
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(one)).collect();
        let own = one();
        others.into_iter().filter_map(|thread| thread.join().ok()).fold(own, |sum, one| sum + one)
    })
}

/// The best rate of one thread over [`DURATION`]. The last trial, for which others may have made
/// room, does not count unless it is the only one.
fn best_trial(isa: Isa, arithmetic: Arithmetic, rounds: usize) -> f64 {
    let (start, mut best) = (Instant::now(), 0.0);
    loop {
        let begin = Instant::now();
        let multiply_adds = register_loop(isa, arithmetic, rounds);
        let rate = super::gops(multiply_adds as f64, begin.elapsed().as_secs_f64());
        if best == 0.0 || start.elapsed() < DURATION {
            best = f64::max(best, rate);
        }
        if start.elapsed() >= DURATION {
            return best;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_what_a_machine_can_do() {
        for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Q8] {
            let gops = gops(Isa::SCALAR, arithmetic, 2);
            // From the slowest board to far beyond any CPU's plain loop.
            assert!(gops > 0.01 && gops < 1e6, "{arithmetic:?}: {gops}");
        }
    }
}
