//! The walk backwards: from the gradient of a recorded walk's result to those of its weights, by
//! the chain rule, op by op from the last to the first (Rumelhart, Hinton and Williams 1986).
//!
//! The gradients of tensors mirror them: what belongs to a tensor at some place of the arena lies
//! at the same place of a second block, so that views of a tensor are views of its gradient. All
//! are zero at first and added to. The gradients of weights lie where the host wants them.
//!
//! Sums over pixels and rows go in blocks of fixed size that are added up in their order, so that
//! the number of threads changes no bit.

mod attention;
mod checkpoint;
mod norm;
mod product;
mod simple;

use super::context::Context;
use super::tape::{Record, Recording};
use crate::error::Result;
use crate::exec::for_each_chunk;
use crate::tensor::{DType, Shape, Tensor};

/// A walk that can be begun again: where it is recorded with checkpoints, they are walked again.
pub type Walk<'w, 'm> = dyn FnMut(&mut Context<'m>) -> Result<Tensor> + 'w;

/// A recorded block of the arena.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    first: usize,
    end: usize,
    /// From a tensor to its gradient, in bytes.
    shift: usize,
}

/// The gradients of the tensors of a recorded walk.
#[derive(Clone, Copy, Debug)]
pub struct Mirror {
    walk: Block,
    /// Of the checkpoint that is being walked again.
    again: Block,
}

impl Mirror {
    /// The gradient of `x`, unless x was there before the walk and has none.
    ///
    /// # Errors
    /// Never in practice: the gradient lies in the arena as x does.
    pub fn of(&self, x: Tensor) -> Result<Option<Tensor>> {
        let holds = |block: &&Block| (block.first..block.end).contains(&x.offset());
        let block = [self.walk, self.again];
        let Some(block) = block.iter().find(holds) else { return Ok(None) };
        Tensor::new(x.offset() + block.shift, x.shape(), DType::F32).map(Some)
    }

    /// The gradient of an op's result, which always has one.
    fn of_result(&self, x: Tensor) -> Result<Tensor> {
        Ok(self.of(x)?.expect("a recorded op's result lies in a recorded block"))
    }

    fn and(self, again: Block) -> Self {
        Self { again, ..self }
    }
}

impl<'m> Context<'m> {
    /// Begins to record: ops are written down until [`Context::end_recording`].
    pub fn begin_recording(&mut self, mut recording: Recording<'m>) {
        recording.first = self.arena.top();
        self.recording = Some(recording);
    }

    /// Ends recording and gives the tape back.
    pub fn end_recording(&mut self) -> Option<Recording<'m>> {
        self.recording.take()
    }

    /// Zero gradients for all that was recorded so far, on top of the stack.
    ///
    /// # Errors
    /// Those of memory.
    ///
    /// # Panics
    /// Where the walk is not recorded: that is the caller's mistake.
    pub fn mirror(&mut self) -> Result<Mirror> {
        let recording = self.recording.as_ref().expect("only a recorded walk has gradients");
        let walk = self.block(recording.first)?;
        Ok(Mirror { walk, again: Block::default() })
    }

    /// Zero gradients for all from `first` on.
    fn block(&mut self, first: usize) -> Result<Block> {
        let end = self.arena.top();
        let gradients = self.tensor(Shape::new([(end - first) / 4]))?;
        if !self.is_planning() {
            let each = self.limits.activated_elements;
            let values = self.arena.write(gradients);
            for_each_chunk::<_, f32>(self.executor, values, each, &mut [], |_, x, _| x.fill(0.0));
        }
        Ok(Block { first, end, shift: gradients.offset() - first })
    }

    /// Plays the tape backwards until it is empty: adds the gradients of everything that was
    /// recorded to those in the mirror, in which the caller has put that of the walk's result,
    /// and to those of the weights. Gradients of results are used up. `walk` is what was recorded,
    /// to be begun again where it was recorded with checkpoints.
    ///
    /// # Errors
    /// Those of memory and weights; [`Error::Config`](crate::Error::Config) where a product's
    /// weight is not packed in f32.
    ///
    /// # Panics
    /// Where the walk is not recorded, or `walk` is another.
    pub fn backward(&mut self, mirror: &Mirror, walk: &mut Walk<'_, 'm>) -> Result<()> {
        self.play(mirror, 0, walk)
    }

    /// Plays the entries above number `floor`.
    fn play(&mut self, mirror: &Mirror, floor: usize, walk: &mut Walk<'_, 'm>) -> Result<()> {
        loop {
            let recording = self.recording.as_mut().expect("only a recorded walk is played back");
            let Some(record) = recording.tape.pop(floor) else { return Ok(()) };
            if let Record::Checkpoint { number, out } = record {
                self.backward_again(number, out, mirror, walk)?;
                continue;
            }
            // The ops of the way back are not recorded themselves.
            let mut recording = self.recording.take().expect("seen just now");
            let result = self.working(|cx| cx.backward_of(record, mirror, &mut recording));
            self.recording = Some(recording);
            result?;
        }
    }

    fn backward_of(
        &mut self,
        record: Record,
        mirror: &Mirror,
        recording: &mut Recording<'m>,
    ) -> Result<()> {
        match record {
            Record::Linear(product) => product::linear(self, product, mirror, recording),
            Record::Conv2d(product, conv) => {
                product::conv2d(self, product, conv, mirror, recording)
            }
            Record::GroupNorm { .. } => norm::group_norm(self, record, mirror, recording),
            Record::LayerNorm { .. } => norm::layer_norm(self, record, mirror, recording),
            Record::Attention { q, k, v, attention, out } => {
                attention::attention(self, [q, k, v], attention, out, mirror)
            }
            Record::Embedding { table, ids, out } => {
                simple::embedding(self, table, ids, out, mirror, recording)
            }
            _ => simple::simple(self, record, mirror),
        }
    }
}
