//! Products of 8-bit integers by the core's own kernels, compared with the scalar ones: to the bit.

use core::fmt;

use mote::arch::{
    Activation, Arithmetic, Finish, Gate, Gather, Isa, MAX_TAPS, MR_MAX, NO_ROW, Panels,
};
use mote::tensor::packed::{PanelMut, Sizes, pack_panel};
use mote::tensor::{Form, PANEL, Packing};
use mote::{Error, Result};

use crate::drawn::Drawn;

/// Rows that the left side picks from.
const PIXELS: usize = 12;

/// The largest of the sizes below.
const CHANNELS: usize = 520;
const COLUMNS: usize = 4 * PANEL;

/// What is multiplied, at the largest.
struct Operands {
    data: [u8; PIXELS * (CHANNELS + 8) + 4],
    weight: [f32; PANEL * CHANNELS],
    panels: [u8; COLUMNS * CHANNELS + 4],
    scales: [f32; COLUMNS * (1 + MAX_TAPS)],
    values: [f32; MR_MAX * COLUMNS],
}

/// How large a product is, and what else happens.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    columns: usize,
    channels: usize,
    taps: usize,
    /// Bytes before the first row: rows may begin anywhere.
    shift: usize,
    gated: bool,
    residual: bool,
    accumulate: bool,
    activation: Option<Activation>,
}

/// Sizes about those of steps, blocks of steps, buffers, tiles and panels.
const CHANNELS_OF: [(usize, usize); 16] = [
    (1, 9),
    (3, 9),
    (4, 2),
    (5, 1),
    (8, 9),
    (12, 3),
    (15, 1),
    (16, 9),
    (20, 4),
    (32, 9),
    (33, 2),
    (36, 9),
    (64, 1),
    (130, 1),
    (172, 1),
    (520, 1),
];

/// # Errors
/// [`Error::NotFinite`] where a result differs, which is then told.
pub fn compare(out: &mut dyn fmt::Write, isa: Isa) -> Result<()> {
    let mut operands = Operands {
        data: [0; _],
        weight: [0.0; _],
        panels: [0; _],
        scales: [0.0; _],
        values: [0.0; _],
    };
    let mut drawn = Drawn(7);
    let mut count = 0;
    for (channels, taps) in CHANNELS_OF {
        for rows in 1..=isa.tile_rows()[isa.tile_panels() - 1] {
            for columns in [1, 15, 16, 17, 32, 40] {
                let mut case = Case {
                    rows,
                    columns,
                    channels,
                    taps,
                    shift: drawn.below(5),
                    gated: false,
                    residual: drawn.below(2) == 0,
                    accumulate: drawn.below(2) == 0,
                    activation: (drawn.below(2) == 0).then_some(Activation::Silu),
                };
                count += one(out, isa, case, &mut operands, &mut drawn)?;
                if columns <= 2 * PANEL {
                    (case.gated, case.residual, case.accumulate) = (true, false, false);
                    count += one(out, isa, case, &mut operands, &mut drawn)?;
                }
            }
        }
    }
    let _ = writeln!(out, "{count} products by {} are those of the scalar kernels", isa.name());
    Ok(())
}

/// Draws rows and weights of a case; yields the panels and where in `panels` they begin.
fn draw(case: Case, operands: &mut Operands, drawn: &mut Drawn) -> (usize, usize) {
    let Case { columns, channels, taps, shift, gated, .. } = case;
    let count = columns.div_ceil(PANEL) * if gated { 2 } else { 1 };
    let sizes = Sizes { n: PANEL, channels, taps };
    let (bytes, scales) = (sizes.panel_bytes(Form::Q8), sizes.scales());
    // Weights are seldom where no word can be read.
    let begin = [0, 0, 0, 1][drawn.below(4)];
    for panel in 0..count {
        let weight = &mut operands.weight[..PANEL * channels * taps];
        weight.iter_mut().for_each(|weight| *weight = drawn.value());
        let mut packed = PanelMut {
            data: &mut operands.panels[begin + panel * bytes..][..bytes],
            scales: &mut operands.scales[panel * scales..][..scales],
            groups: &mut [],
        };
        pack_panel(Packing::Q8, sizes, weight, 0, &mut packed);
    }
    let row_bytes = Form::Q8.row_bytes(channels);
    for row in operands.data[shift..].chunks_exact_mut(row_bytes).take(PIXELS) {
        let (integers, tail) = row.split_at_mut(row_bytes - 8);
        integers.iter_mut().for_each(|q| *q = (drawn.bits() >> 24) as u8);
        tail[..4].copy_from_slice(&(0.01 + drawn.value().abs()).to_le_bytes());
        tail[4..].copy_from_slice(&(drawn.below(256) as i32).to_le_bytes());
    }
    operands.values.iter_mut().for_each(|value| *value = drawn.value());
    (count, begin)
}

type Results = [f32; MR_MAX * COLUMNS];

/// Computes a case, as many rows at a time as the kernels take.
fn multiply(isa: Isa, case: Case, gather: &Gather<'_>, panels: &Panels<'_>, results: &mut Results) {
    let values = *results;
    let most = isa.tile_rows()[if case.gated { 1 } else { isa.tile_panels() - 1 }];
    for first in (0..case.rows).step_by(most) {
        let now = most.min(case.rows - first);
        let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
        for tap in 0..case.taps {
            let from = &gather.offsets[tap * MR_MAX + first..][..now];
            offsets[tap * MR_MAX..][..now].copy_from_slice(from);
        }
        let mut lines = results.chunks_exact_mut(COLUMNS).skip(first);
        let mut out: [&mut [f32]; MR_MAX] = core::array::from_fn(|_| {
            lines.next().map_or(&mut [][..], |line| &mut line[..case.columns])
        });
        let residual: [&[f32]; MR_MAX] =
            core::array::from_fn(|r| values.chunks_exact(COLUMNS).nth(first + r).unwrap_or(&[]));
        let mut finish = Finish {
            out: &mut out[..now],
            bias: Some(&values),
            residual: case.residual.then_some(&residual[..now]),
            accumulate: case.accumulate,
            activation: case.activation,
        };
        let gather = Gather { offsets: &offsets, ..*gather };
        isa.product(Arithmetic::Q8, &gather, panels, &mut finish);
    }
}

fn one(
    out: &mut dyn fmt::Write,
    isa: Isa,
    case: Case,
    operands: &mut Operands,
    drawn: &mut Drawn,
) -> Result<usize> {
    let Case { rows, channels, taps, shift, gated, .. } = case;
    let (count, begin) = draw(case, operands, drawn);
    let row_bytes = Form::Q8.row_bytes(channels);
    let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
    for tap in 0..taps {
        let all_in_padding = drawn.below(4) == 0;
        for r in 0..rows {
            if !all_in_padding && drawn.below(4) > 0 {
                offsets[tap * MR_MAX + r] = shift + drawn.below(PIXELS) * row_bytes;
            }
        }
    }
    let gather = Gather {
        data: &operands.data,
        zeros: &[0; CHANNELS + 8],
        offsets: &offsets,
        taps,
        steps: Form::Q8.steps(channels),
        row_bytes,
    };
    let half = count / 2;
    let panels = Panels {
        data: &operands.panels[begin..],
        scales: &operands.scales,
        gate: gated.then_some(Gate { data: half, columns: half }),
        next: &[],
    };
    let [mut found, mut expected] = [operands.values; 2];
    multiply(isa, case, &gather, &panels, &mut found);
    multiply(Isa::SCALAR, case, &gather, &panels, &mut expected);
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        if found.to_bits() != expected.to_bits() {
            let [r, j] = [at / COLUMNS, at % COLUMNS];
            let _ = writeln!(out, "{case:?}: row {r}, column {j}: {found} is not {expected}");
            return Err(Error::NotFinite { what: "a product differs" });
        }
    }
    Ok(1)
}
