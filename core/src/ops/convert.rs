//! Rows of activations from one form to another: what a product's left side is made of.

use super::context::Context;
use super::observe::Op;
use crate::arch::Isa;
use crate::error::Result;
use crate::exec::{even_share, for_each_chunk};
use crate::mem::{floats_of, floats_of_mut};
use crate::tensor::packed::ROW_TAIL;
use crate::tensor::{Form, Shape, Tensor};

/// x with its rows in another form, on top of the stack.
///
/// # Errors
/// Those of memory.
pub fn to_form(cx: &mut Context<'_>, x: Tensor, form: Form) -> Result<Tensor> {
    let out = cx.tensor_in(x.shape(), form)?;
    let c = x.channels();
    let through_f32 = x.form() != Form::F32 && form != Form::F32;
    let row = if through_f32 { c } else { 0 };
    cx.working(|cx| {
        let scratch = cx.tensor(Shape::new([cx.executor.workers(), row]))?;
        if cx.is_planning() || out.is_empty() {
            return without_channels(cx, out);
        }
        let isa = cx.isa;
        let (from, to) = (x.row_bytes(), out.row_bytes());
        let ([result, scratch], [source]) = cx.arena.split_bytes_two([out, scratch], [x]);
        let rows = even_share(cx.executor, x.row_count(), cx.limits.converted_bytes / from);
        let scratch = floats_of_mut(scratch);
        for_each_chunk(cx.executor, result, rows * to, scratch, |index, result, scratch| {
            let source = &source[index * rows * from..][..result.len() / to * from];
            if x.form() == Form::F32 {
                return write_rows(isa, form, floats_of(source), c, result);
            }
            for (source, out) in source.chunks_exact(from).zip(result.chunks_exact_mut(to)) {
                if form == Form::F32 {
                    read_row(isa, x.form(), source, floats_of_mut(out));
                } else {
                    read_row(isa, x.form(), source, scratch);
                    write_rows(isa, form, scratch, c, out);
                }
            }
        });
        Ok(())
    })?;
    cx.ended(Op::Convert, out);
    Ok(out)
}

/// Ends an op whose result `rows` have no elements: what they have beside is that of zeros.
pub(super) fn without_channels(cx: &mut Context<'_>, rows: Tensor) -> Result<()> {
    if !cx.is_planning() {
        cx.arena.split_bytes(rows, []).0.fill(0);
    }
    Ok(())
}

/// Rows of `c` channels in `form`.
pub(super) fn write_rows(isa: Isa, form: Form, x: &[f32], c: usize, out: &mut [u8]) {
    match form {
        Form::F32 => floats_of_mut(out).copy_from_slice(x),
        Form::Q8 => isa.quantise_rows(x, c, out),
        Form::Bf16 if c.is_multiple_of(2) => isa.f32_to_bf16(x, out),
        Form::Bf16 => {
            let rows = x.chunks_exact(c).zip(out.chunks_exact_mut(form.row_bytes(c)));
            rows.for_each(|(x, out)| isa.f32_to_bf16(x, out));
        }
    }
}

/// The channels of a row in `form`.
fn read_row(isa: Isa, form: Form, row: &[u8], out: &mut [f32]) {
    match form {
        Form::F32 => out.copy_from_slice(floats_of(row)),
        Form::Bf16 => isa.bf16_to_f32(&row[..2 * out.len()], out),
        Form::Q8 => {
            let (integers, tail) = row.split_at(row.len() - ROW_TAIL);
            let (scale, zero) = tail.split_at(ROW_TAIL / 2);
            let scale = f32::from_le_bytes(*scale.first_chunk().expect("four bytes"));
            let zero = i32::from_le_bytes(*zero.first_chunk().expect("four bytes"));
            for (out, &q) in out.iter_mut().zip(integers) {
                *out = scale * (i32::from(q) - zero) as f32;
            }
        }
    }
}
