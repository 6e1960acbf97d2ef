//! What computes: an instruction set and threads, which always go together.

use crate::arch::Isa;
use crate::exec::{Executor, Sequential};

/// An instruction set, and the threads that use it.
#[derive(Clone, Copy)]
pub struct Cpu<'a> {
    /// The kernels.
    pub isa: Isa,
    /// The threads.
    pub executor: &'a dyn Executor,
}

impl From<Isa> for Cpu<'_> {
    /// One thread.
    fn from(isa: Isa) -> Self {
        Self { isa, executor: &Sequential }
    }
}

impl core::fmt::Debug for Cpu<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} on {} threads", self.isa.name(), self.executor.workers())
    }
}
