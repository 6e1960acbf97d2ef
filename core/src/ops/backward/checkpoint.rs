//! Parts of a walk of which only the result is kept, to be walked again when the tape comes to them
//! (Chen et al. 2016).
//!
//! A walk is a function and cannot be begun in the middle. So it is begun again from the start:
//! ops on the way to the checkpoint take their places in the arena, without computing, since
//! everything they made is still there; the checkpoint itself is recorded above all that; and
//! there the walk is broken off.

use super::{Mirror, Walk};
use crate::error::{Error, Result};
use crate::ops::context::Context;
use crate::ops::tape::{Record, State};
use crate::tensor::Tensor;

impl<'m> Context<'m> {
    /// Runs `body`, a part of the walk that reads tensors from outside but changes none. Where the
    /// walk is recorded with checkpoints, only its result is kept.
    ///
    /// # Errors
    /// The body's; [`Error::Capacity`] where the tape is full.
    pub fn checkpoint(&mut self, body: impl FnOnce(&mut Self) -> Result<Tensor>) -> Result<Tensor> {
        let floor = self.arena.top();
        let Some(recording) = self.recording.as_mut().filter(|recording| recording.checkpoints)
        else {
            return body(self);
        };
        let number = recording.next;
        match recording.state {
            State::Written => {
                recording.next += 1;
                recording.state = State::Passed { floor };
                let result = self.scope(body);
                self.set_state(State::Written);
                let out = result?;
                self.record(|| Record::Checkpoint { number, out })?;
                Ok(out)
            }
            State::Skipped { target, .. } if number < target => {
                recording.next += 1;
                let kept = recording.tape.checkpoint(number).ok_or(Error::Cancelled)?;
                let out = self.tensor(kept.shape())?;
                assert!(out == kept, "a walk that is walked again takes the same places");
                Ok(out)
            }
            State::Skipped { top, tally, .. } => {
                self.arena.take_again(top);
                self.set_tally(tally);
                self.set_state(State::Written);
                let checkpoints = self.set_checkpoints(false);
                let result = body(self);
                self.set_checkpoints(checkpoints);
                let (out, end) = (result?, self.arena.top());
                self.set_state(State::Reached { out, end });
                Err(Error::Cancelled)
            }
            State::Passed { .. } | State::Reached { .. } => body(self),
        }
    }

    fn set_state(&mut self, state: State) {
        if let Some(recording) = &mut self.recording {
            recording.state = state;
        }
    }

    fn set_checkpoints(&mut self, checkpoints: bool) -> bool {
        let recording = self.recording.as_mut();
        recording
            .is_some_and(|recording| core::mem::replace(&mut recording.checkpoints, checkpoints))
    }

    /// Records checkpoint `number`, whose result is `out`, and plays it backwards.
    pub(super) fn backward_again(
        &mut self,
        number: usize,
        out: Tensor,
        mirror: &Mirror,
        walk: &mut Walk<'_, 'm>,
    ) -> Result<()> {
        let (top, tally) = (self.arena.top(), self.tally());
        let Some(recording) = &mut self.recording else { return Ok(()) };
        let (floor, first) = (recording.tape.len(), recording.first);
        recording.state = State::Skipped { target: number, top, tally };
        recording.next = 0;
        self.arena.release(first);
        let result = walk(self);
        let state = self.recording.as_ref().map(|recording| recording.state);
        let again = match (result, state) {
            (Err(Error::Cancelled), Some(State::Reached { out, end })) => {
                self.arena.take_again(end);
                out
            }
            (Err(error), _) => return Err(error),
            (Ok(_), _) => unreachable!("a walk that is walked again reaches its checkpoints"),
        };
        self.set_state(State::Written);
        let inner = mirror.and(self.block(top)?);
        if let Some(to) = inner.of(again)? {
            super::simple::add(self, mirror.of_result(out)?, to);
        }
        self.play(&inner, floor, walk)?;
        self.arena.release(top);
        Ok(())
    }
}
