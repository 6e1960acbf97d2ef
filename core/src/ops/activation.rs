//! Functions of one element.

use super::context::Context;
use super::observe::Op;
use super::tape::Record;
use crate::arch::Activation;
use crate::error::{Error, Result};
use crate::exec::for_each_chunk;
use crate::tensor::Tensor;

/// Applies an activation to every element of x: the result is x itself or, where the walk is
/// recorded, a new tensor.
///
/// # Errors
/// Those of memory.
pub fn activate(cx: &mut Context<'_>, x: Tensor, activation: Activation) -> Result<Tensor> {
    if cx.is_recording() {
        let out = cx.tensor(x.shape())?;
        cx.record(|| Record::Activation { x, activation, out })?;
        if !cx.is_planning() {
            let (to, [from]) = cx.arena.split(out, [x]);
            to.copy_from_slice(from);
        }
        activate_in_place(cx, out, activation);
        return Ok(out);
    }
    activate_in_place(cx, x, activation);
    Ok(x)
}

fn activate_in_place(cx: &mut Context<'_>, x: Tensor, activation: Activation) {
    if cx.is_planning() {
        return;
    }
    let (isa, each) = (cx.isa, cx.limits.activated_elements);
    let values = cx.arena.write(x);
    for_each_chunk::<_, f32>(cx.executor, values, each, &mut [], |_, x, _| {
        isa.activate_f32(activation, x);
    });
    cx.ended(Op::Activation, x);
}

/// `[.., 2m]` to `[.., m]`: the first half times GELU of the second (GEGLU, Shazeer 2020).
///
/// # Errors
/// [`Error::Shape`] where the number of channels is odd, and those of memory.
pub fn geglu(cx: &mut Context<'_>, x: Tensor) -> Result<Tensor> {
    let m = x.channels() / 2;
    if x.channels() != 2 * m {
        let expected = x.shape().with_last(2 * m).to_dims();
        return Err(Error::Shape { what: "geglu", expected, found: x.shape().to_dims() });
    }
    let out = cx.tensor(x.shape().with_last(m))?;
    cx.record(|| Record::Geglu { x, out })?;
    geglu_into(cx, x, out)?;
    Ok(out)
}

/// [`geglu`] into a tensor of its result's shape.
pub(super) fn geglu_into(cx: &mut Context<'_>, x: Tensor, out: Tensor) -> Result<()> {
    if cx.is_planning() || out.is_empty() {
        return Ok(());
    }
    let (isa, m) = (cx.isa, out.channels());
    let (rows, [x]) = cx.arena.split(out, [x]);
    for_each_chunk::<_, f32>(cx.executor, rows, m, &mut [], |row, out, _| {
        let (value, gate) = x[row * 2 * m..][..2 * m].split_at(m);
        out.copy_from_slice(value);
        isa.gelu_times_f32(gate, out);
    });
    cx.ended(Op::Geglu, out);
    Ok(())
}
