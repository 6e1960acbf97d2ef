//! What the machine gives: an instruction set, threads, memory.

pub mod isa;
#[forbid(unsafe_code)]
pub mod memory;

use std::num::NonZero;
use std::thread;

use mote::arch::Isa;
use mote::mem::Arena;
use mote::ops::Context;
use mote::weights::Weights;
use mote_executor::Pool;

use crate::error::{Failure, Result};
use crate::explain::explain;

/// What is taken of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The number of threads; `None`: as many as there are CPUs.
    pub threads: Option<NonZero<usize>>,
}

/// An instruction set and threads: who computes.
pub struct Machine {
    isa: Isa,
    pool: Pool,
}

impl Machine {
    /// This machine, with the best kernels that its CPU runs, or those that the environment
    /// variable [`isa::VARIABLE`] names.
    ///
    /// # Errors
    /// Where the CPU does not run what the variable names, or the system starts no threads.
    pub fn new(options: &Options) -> Result<Self> {
        let available = || thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        Self::with_isa(isa::choose()?, options.threads.unwrap_or_else(available))
    }

    /// So many threads with these kernels.
    ///
    /// # Errors
    /// Where the system starts no threads.
    pub fn with_isa(isa: Isa, threads: NonZero<usize>) -> Result<Self> {
        let pool = Pool::new(threads.get())
            .map_err(|error| Failure::new(format!("cannot start {threads} threads: {error}")))?;
        Ok(Self { isa, pool })
    }

    /// One thread with plain kernels: what a plan for a part without operating system is made on.
    ///
    /// # Errors
    /// None that is known: no thread is started.
    pub fn plain() -> Result<Self> {
        Self::with_isa(Isa::SCALAR, NonZero::<usize>::MIN)
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Lets `body` compute in `arena`; an error of the core's becomes a sentence.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn compute<'m, T>(
        &'m self,
        arena: Arena<'m>,
        weights: &'m mut dyn Weights,
        body: impl FnOnce(&mut Context<'m>) -> mote::Result<T>,
    ) -> Result<T> {
        let mut cx = Context::new(arena, self.isa, &self.pool, weights);
        body(&mut cx).map_err(|error| explain(error, cx.weight_name()))
    }
}
