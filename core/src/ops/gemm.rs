//! The matrix product behind linear layers and convolutions: implicit, blocked, with its end fused.
//!
//! The right side is read where it lies, where it lies in panels; a plain weight is packed and an
//! int4 weight expanded, a block of columns at a time. The left side is never copied: a row is an
//! address per tap. A task goes through its rows tile by tile with all its columns, which are few
//! enough to stay in a core's cache (Goto and van de Geijn 2008). Every output element is one sum
//! in the order of k, whatever the number of threads.

use core::ops::Range;

use super::context::{Context, to_f32};
use super::convert::to_form;
use super::limits::Limits;
use super::matrix::Matrix;
use super::observe::LeftSide;
use super::rows::Rows;
use crate::arch::{Activation, Finish, Gate, Gather, Isa, MAX_TAPS, MR_MAX, NO_ROW, PACE, Panels};
use crate::error::{Error, Result};
use crate::exec::{Executor, TileMut, for_each_chunk, for_each_tile, longest_share};
use crate::mem::{bytes_of, bytes_of_mut, floats_of, floats_of_mut};
use crate::tensor::packed::{Sizes, expand_q4};
use crate::tensor::{Channels, Form, PANEL, Packing, Shape, Tensor};
use crate::weights::{Weight, Weights};

/// Rows that lie a multiple of so many bytes apart share the same few places in the nearest cache,
const ALIASED: usize = 4096;

/// which are so many: with more rows, none is found there again.
const PLACES: usize = 8;

/// Elements of a plain weight converted at a time.
const RUN: usize = 28 * MAX_TAPS;

/// What happens at the end of a product.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    /// Of the output's shape; added.
    pub residual: Option<Tensor>,
    /// `[samples, n]`: added to every row of a sample.
    pub per_sample: Option<Tensor>,
    /// Applied last.
    pub activation: Option<Activation>,
    /// Whether the product is added to what the output holds.
    pub accumulate: bool,
    /// The output's second half, after GELU, is the gate of the first (GEGLU, Shazeer 2020). Alone:
    /// nothing else but a bias goes with it.
    pub geglu: bool,
}

impl Epilogue {
    /// Nothing but the bias.
    pub const NONE: Self = Self {
        residual: None,
        per_sample: None,
        activation: None,
        accumulate: false,
        geglu: false,
    };
}

/// One product `out[m, n] = rows[m, taps·channels] · weightᵀ + bias + …`.
#[derive(Clone, Copy)]
pub(super) struct Gemm {
    /// The input that the rows are taken from, in any form.
    pub x: Tensor,
    /// The right side.
    pub matrix: Matrix,
    /// `[n]`.
    pub bias: Option<Weight>,
    /// What happens at the end.
    pub epilogue: Epilogue,
    /// Of `m·n` elements.
    pub out: Tensor,
    /// Samples, that each have their share of `epilogue.per_sample`; else 1.
    pub samples: usize,
}

/// Carries out a product.
///
/// # Errors
/// [`Error::OutOfMemory`] for its working memory, [`Error::WeightRead`].
pub(super) fn gemm(cx: &mut Context<'_>, p: Gemm, rows: &impl Rows) -> Result<()> {
    let Sizes { n, channels, taps } = p.matrix.sizes;
    cx.count([p.out.row_count(), n, taps, channels]);
    let form = p.matrix.packing.form();
    cx.working(|cx| {
        let x = match p.x.form() == form {
            true => p.x,
            false => to_form(cx, p.x, form)?,
        };
        let mut product = Product::new(cx, p.matrix, p.bias, p.epilogue)?;
        if cx.is_planning() || p.out.is_empty() {
            return Ok(());
        }
        product.multiply(cx, x, rows, Channels::all(p.out), p.samples)
    })
}

/// `rows[m, taps·channels] · panels`, put into `out` or added to what it holds, for rows of x and
/// panels of its form that lie in the arena, beside as many zeros as a row has bytes.
pub(super) fn multiply_panels(
    cx: &mut Context<'_>,
    x: Tensor,
    rows: &impl Rows,
    [panels, zeros]: [Tensor; 2],
    sizes: Sizes,
    out: Tensor,
    accumulate: bool,
) {
    let (isa, executor, limits, form) = (cx.isa, cx.executor, cx.limits, x.form());
    let (out, [x, panels, zeros]) = cx.arena.split_bytes(out, [x, panels, zeros]);
    let bias = None;
    let product = Panelled { isa, limits, form, sizes, x, panels, zeros, bias, accumulate };
    product.multiply(executor, rows, 0, floats_of_mut(out));
}

/// A product with panels that are at hand.
pub(super) struct Panelled<'a> {
    pub isa: Isa,
    pub limits: &'a Limits,
    /// That of x and of the panels.
    pub form: Form,
    pub sizes: Sizes,
    pub x: &'a [u8],
    pub panels: &'a [u8],
    /// As many as a row of x has bytes.
    pub zeros: &'a [u8],
    /// Padded to whole panels.
    pub bias: Option<&'a [f32]>,
    /// Whether the product is added to what the output holds.
    pub accumulate: bool,
}

impl Panelled<'_> {
    /// Some rows of the product, from number `first_row` on.
    pub fn multiply(
        &self,
        executor: &dyn Executor,
        rows: &impl Rows,
        first_row: usize,
        out: &mut [f32],
    ) {
        let Self { isa, limits, form, sizes, x, panels, zeros, bias, accumulate } = *self;
        let n = sizes.n;
        let tiles = Tiles {
            isa,
            rows,
            form,
            sizes,
            first_row,
            x,
            zeros,
            data: panels,
            data_first: 0,
            gate: None,
            accumulate,
            bias,
            scales: None,
            residual: None,
            activation: None,
            ahead: 0,
            first_column: 0,
            width: n,
        };
        let (row_bytes, panel) = (form.row_bytes(sizes.channels), sizes.panel_bytes(form));
        let (workers, size) = (executor.workers(), [out.len() / n, n]);
        let tile = tile_size(isa, limits, workers, size, row_bytes, panel);
        for_each_tile(executor, out, n, 0..n, tile, &mut [], |tile, _| tiles.compute(tile));
    }
}

/// Where the panels of a block lie.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// In the checkpoint, all of them.
    InPlace,
    /// In the arena: the block's panels of each part.
    Packed(Tensor),
}

impl Source {
    /// The tensor that holds the panels, or `none` where they lie in the checkpoint.
    pub fn packed_or(self, none: Tensor) -> Tensor {
        match self {
            Self::InPlace => none,
            Self::Packed(packed) => packed,
        }
    }

    /// The panels' bytes, where those of [`Source::packed_or`] are `packed`.
    ///
    /// # Errors
    /// [`Error::WeightRead`].
    pub fn data<'a>(
        self,
        weights: &'a mut dyn Weights,
        weight: &Weight,
        packed: &'a [u8],
    ) -> Result<&'a [u8]> {
        match self {
            Self::InPlace => weights.read(weight, 0, weight.bytes, &mut []),
            Self::Packed(_) => Ok(packed),
        }
    }
}

/// Brings panels to where a kernel can read them: of several parts of a weight, as many at a time.
pub(super) struct Packer {
    matrix: Matrix,
    /// Parts that are needed together: values and gates with GEGLU.
    parts: usize,
    /// Panels of a part.
    panels: usize,
    /// Panels at a time, and where to; `None` where they are read in place.
    packed: Option<(usize, Tensor)>,
    staging: Tensor,
    /// Of int4; empty otherwise.
    groups: Tensor,
    /// The block that `packed` holds.
    held: Option<Range<usize>>,
}

impl Packer {
    /// # Errors
    /// Those of memory and weights.
    pub fn new(cx: &mut Context<'_>, matrix: Matrix, parts: usize) -> Result<Self> {
        let Matrix { packing, sizes, .. } = matrix;
        let panels = sizes.panels() / parts;
        let panel = sizes.panel_bytes(packing.form());
        let is_direct = matches!(packing, Packing::F32 | Packing::Bf16 | Packing::Q8);
        let copies = !is_direct || cx.weights.is_staged();
        let count = (cx.limits.packed_bytes / parts / panel.max(1)).max(2).min(panels);
        let mut packed = None;
        if copies {
            let bytes = panel.checked_mul(parts * count).ok_or(OVERFLOW)?;
            packed = Some((count, cx.tensor(Shape::new([bytes.div_ceil(4)]))?));
        }
        let staged = match packing {
            Packing::Plain => count * PANEL * source_row(matrix),
            Packing::Q4 => count * panel / 2,
            _ => 0,
        };
        let staging = cx.staging(staged)?;
        let groups = match matrix.groups {
            None => cx.tensor(Shape::new([0]))?,
            Some(groups) => cx.load_bytes(groups)?,
        };
        Ok(Self { matrix, parts, panels, packed, staging, groups, held: None })
    }

    /// The blocks of a part's panels, in order.
    pub fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (panels, step) = (self.panels, self.packed.map_or(self.panels, |(count, _)| count));
        (0..panels).step_by(step.max(1)).map(move |first| first..panels.min(first + step))
    }

    /// Makes a block's panels readable in all parts, if they are not yet.
    ///
    /// # Errors
    /// [`Error::WeightRead`].
    pub fn fill(&mut self, cx: &mut Context<'_>, block: Range<usize>) -> Result<Source> {
        let Some((_, packed)) = self.packed else { return Ok(Source::InPlace) };
        if self.held.as_ref() == Some(&block) {
            return Ok(Source::Packed(packed));
        }
        if packed.is_empty() {
            return Ok(Source::Packed(packed));
        }
        for part in 0..self.parts {
            let first = part * self.panels;
            let panels = first + block.start..first + block.end;
            self.fill_part(cx, panels, packed, part * block.len())?;
        }
        self.held = Some(block);
        Ok(Source::Packed(packed))
    }

    /// Fills the packed panels from number `at` on.
    fn fill_part(
        &self,
        cx: &mut Context<'_>,
        block: Range<usize>,
        packed: Tensor,
        at: usize,
    ) -> Result<()> {
        let Matrix { weight, packing, sizes, .. } = self.matrix;
        let panel = sizes.panel_bytes(packing.form());
        let ([packed, staging], [groups]) =
            cx.arena.split_two([packed, self.staging], [self.groups]);
        let packed = &mut bytes_of_mut(packed)[at * panel..][..block.len() * panel];
        let staging = bytes_of_mut(staging);
        match packing {
            Packing::F32 | Packing::Bf16 | Packing::Q8 => {
                let (start, len) = (block.start * panel, block.len() * panel);
                let begin = packed.as_ptr();
                // One of several sources may have its bytes in place after all.
                if cx.weights.read(&weight, start, len, packed)?.as_ptr() != begin {
                    packed.copy_from_slice(cx.weights.read(&weight, start, len, &mut [])?);
                }
            }
            Packing::Q4 => {
                let (half, count) = (panel / 2, sizes.groups() * PANEL);
                let (start, len) = (block.start * half, block.len() * half);
                let bytes = cx.weights.read(&weight, start, len, staging)?;
                let groups = bytes_of(groups);
                for_each_chunk::<_, u8>(cx.executor, packed, panel, &mut [], |i, panel, _| {
                    let groups = &groups[(block.start + i) * count..][..count];
                    expand_q4(sizes, &bytes[i * half..][..half], groups, panel);
                });
            }
            Packing::Plain => {
                let row = source_row(self.matrix);
                let columns = block.start * PANEL..sizes.n.min(block.end * PANEL);
                let (start, len) = (columns.start * row, columns.len() * row);
                let bytes = cx.weights.read(&weight, start, len, staging)?;
                let source = Plain { bytes, weight, sizes, columns: columns.len() };
                let (isa, packed) = (cx.isa, floats_of_mut(packed));
                for_each_chunk::<_, f32>(cx.executor, packed, panel / 4, &mut [], |i, panel, _| {
                    source.pack(isa, i * PANEL, panel);
                });
            }
        }
        Ok(())
    }
}

/// Bytes of one output channel of a plain weight.
fn source_row(matrix: Matrix) -> usize {
    matrix.sizes.channels * matrix.sizes.taps * matrix.weight.dtype.bytes()
}

const OVERFLOW: Error = Error::Overflow { what: "a packed weight" };

/// The right side of a product and its working memory, for any number of left sides.
pub(super) struct Product {
    matrix: Matrix,
    epilogue: Epilogue,
    packer: Packer,
    zeros: Tensor,
    bias: Option<Tensor>,
    /// The bias, with what belongs to one sample.
    biases: Option<Tensor>,
    scales: Option<Tensor>,
}

/// A left side and where the product with it goes.
struct Sides<'a, R> {
    x: Tensor,
    rows: &'a R,
    out: Channels,
    samples: usize,
}

impl Product {
    /// Takes the working memory from the top of the stack.
    ///
    /// # Errors
    /// Those of memory and weights.
    pub fn new(
        cx: &mut Context<'_>,
        matrix: Matrix,
        bias: Option<Weight>,
        epilogue: Epilogue,
    ) -> Result<Self> {
        let Sizes { n, channels, .. } = matrix.sizes;
        let zeros =
            cx.tensor(Shape::new([matrix.packing.form().row_bytes(channels).div_ceil(4)]))?;
        let bias = bias.map(|bias| cx.load_padded(bias, n)).transpose()?;
        let scales = matrix.scales.map(|scales| cx.load(scales)).transpose()?;
        let packer = Packer::new(cx, matrix, if epilogue.geglu { 2 } else { 1 })?;
        let biases = match (epilogue.per_sample, bias) {
            (Some(_), _) => Some(cx.tensor(Shape::new([n.next_multiple_of(PANEL)]))?),
            (None, bias) => bias,
        };
        if !cx.is_planning() {
            cx.arena.write(zeros).fill(0.0);
        }
        Ok(Self { matrix, epilogue, packer, zeros, bias, biases, scales })
    }

    /// The product with rows of `x`, which is in the weight's form; `out` has as many channels as
    /// the product.
    ///
    /// # Errors
    /// [`Error::WeightRead`].
    pub fn multiply(
        &mut self,
        cx: &mut Context<'_>,
        x: Tensor,
        rows: &impl Rows,
        out: Channels,
        samples: usize,
    ) -> Result<()> {
        let sides = Sides { x, rows, out, samples };
        if let Some(observer) = cx.inputs.as_mut().filter(|_| x.form() == Form::F32) {
            let Matrix { weight, sizes, .. } = self.matrix;
            let (x, rows) = (cx.arena.read(x), out.of().row_count());
            observer(LeftSide { weight, sizes, rows, x, gather: sides.rows });
        }
        for block in self.packer.blocks() {
            let panels = self.packer.fill(cx, block.clone())?;
            for sample in 0..samples {
                self.add_bias_of(cx, sample);
                self.multiply_block(cx, &sides, block.clone(), panels, sample)?;
            }
        }
        Ok(())
    }

    /// Bias and what is added to every row of a sample, as one.
    fn add_bias_of(&self, cx: &mut Context<'_>, sample: usize) {
        let (Some(shift), Some(biases)) = (self.epilogue.per_sample, self.biases) else {
            return;
        };
        join_biases(cx, self.bias, Some(shift), sample, biases);
    }

    fn multiply_block<R: Rows>(
        &self,
        cx: &mut Context<'_>,
        sides: &Sides<'_, R>,
        block: Range<usize>,
        panels: Source,
        sample: usize,
    ) -> Result<()> {
        let Sides { x, rows, out: to, samples } = *sides;
        let Matrix { weight, sizes, packing, .. } = self.matrix;
        let (form, epilogue, none) = (packing.form(), self.epilogue, self.zeros);
        let (stride, width) = (to.of().channels(), to.count());
        let data_first = if matches!(panels, Source::Packed(_)) { block.start } else { 0 };
        let (out, [x, packed, bias, scales, zeros, residual]) = cx.arena.split_bytes(
            to.of(),
            [
                x,
                panels.packed_or(none),
                self.biases.unwrap_or(none),
                self.scales.unwrap_or(none),
                none,
                epilogue.residual.unwrap_or(none),
            ],
        );
        let data = panels.data(cx.weights, &weight, packed)?;
        let m = to.of().row_count() / samples;
        let out = &mut floats_of_mut(out)[sample * m * stride..][..m * stride];
        let columns = sizes.panels() / 2;
        let gate = match (epilogue.geglu, panels) {
            (false, _) => None,
            (true, Source::Packed(_)) => Some(Gate { data: block.len(), columns }),
            (true, Source::InPlace) => Some(Gate { data: columns, columns }),
        };
        let columns = block.start * PANEL..width.min(block.end * PANEL);
        let row_bytes = form.row_bytes(sizes.channels);
        let panel = sizes.panel_bytes(form) * if gate.is_some() { 2 } else { 1 };
        let (workers, size) = (cx.executor.workers(), [m, columns.len()]);
        let tile = tile_size(cx.isa, cx.limits, workers, size, row_bytes, panel);
        let tiles = Tiles {
            isa: cx.isa,
            rows,
            form,
            sizes,
            first_row: sample * m,
            x,
            zeros,
            data,
            data_first,
            gate,
            accumulate: epilogue.accumulate,
            bias: self.biases.map(|_| floats_of(bias)),
            scales: self.scales.map(|_| floats_of(scales)),
            residual: epilogue.residual.map(|_| floats_of(residual)),
            activation: epilogue.activation,
            ahead: if tile[0] >= m && gate.is_none() { cx.executor.workers() } else { 0 },
            first_column: to.first(),
            width,
        };
        let columns = to.first() + columns.start..to.first() + columns.end;
        for_each_tile(cx.executor, out, stride, columns, tile, &mut [], |tile, _| {
            tiles.compute(tile);
        });
        Ok(())
    }
}

/// A bias, padded or none, and what `shift` `[samples, n]` adds to every row of a sample, as one.
pub(super) fn join_biases(
    cx: &mut Context<'_>,
    bias: Option<Tensor>,
    shift: Option<Tensor>,
    sample: usize,
    out: Tensor,
) {
    match bias {
        None => cx.arena.write(out).fill(0.0),
        Some(bias) => {
            let (out, [bias]) = cx.arena.split(out, [bias]);
            out.copy_from_slice(bias);
        }
    }
    if let Some(shift) = shift {
        let n = shift.channels();
        let (out, [shift]) = cx.arena.split(out, [shift]);
        let shift = &shift[sample * n..][..n];
        out.iter_mut().zip(shift).for_each(|(out, shift)| *out += shift);
    }
}

/// Rows and columns of a task: so many columns that their panels stay in a core's cache, so many
/// rows that the columns are worth fetching, and so few of both that all workers find something to
/// do.
fn tile_size(
    isa: Isa,
    limits: &Limits,
    workers: usize,
    [m, n]: [usize; 2],
    row_bytes: usize,
    panel: usize,
) -> [usize; 2] {
    let step = PANEL * isa.tile_panels();
    let mr = isa.tile_rows()[isa.tile_panels() - 1];
    let work = m.saturating_mul(n.div_ceil(PANEL)).saturating_mul(panel / (4 * PANEL));
    let wanted = (workers * limits.tasks_per_worker).min(work / limits.least_steps).max(1);
    let most_columns = (limits.column_bytes / panel.max(1) * PANEL).max(step);
    let most_rows = (limits.row_bytes / row_bytes.max(1)).max(mr);
    let row_blocks = m.div_ceil(most_rows);
    let column_blocks = n.div_ceil(most_columns);
    // What is missing is cut from the longer side first: rows while a task keeps eight tiles, or
    // two where all columns fit into a core's cache. Cut by columns, the next op finds half of each
    // row in another core's.
    let least = if column_blocks == 1 { 2 } else { 8 };
    let missing = wanted.div_ceil(row_blocks * column_blocks);
    let more_rows = missing.min((m / row_blocks / (least * mr)).max(1));
    let rows_of = |more_rows: usize| {
        let even = m.div_ceil(row_blocks * more_rows);
        even.next_multiple_of(if even < 8 * mr { 4 } else { mr })
    };
    let share = |more_rows: &usize| longest_share(m, rows_of(*more_rows), workers);
    let more_rows = (more_rows.div_ceil(2)..=more_rows).rev().min_by_key(share).unwrap_or(1);
    let (missing, rows) = (missing.div_ceil(more_rows), rows_of(more_rows));
    let columns = n.div_ceil(column_blocks * missing).next_multiple_of(step);
    [rows, columns]
}

/// All that the tiles of one block have in common.
struct Tiles<'a, R> {
    isa: Isa,
    rows: &'a R,
    form: Form,
    sizes: Sizes,
    /// The output's first row, as `rows` counts.
    first_row: usize,
    x: &'a [u8],
    zeros: &'a [u8],
    /// Panels, the first of which is number `data_first`.
    data: &'a [u8],
    data_first: usize,
    gate: Option<Gate>,
    bias: Option<&'a [f32]>,
    scales: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    accumulate: bool,
    activation: Option<Activation>,
    /// How many blocks of columns ahead the panels are that will be wanted next; 0 where there is
    /// nothing to fetch ahead.
    ahead: usize,
    /// Where in its rows the output begins.
    first_column: usize,
    /// Columns of the output.
    width: usize,
}

impl<R: Rows> Tiles<'_, R> {
    /// One worker's tile: tile of rows by tile of rows, each with all columns.
    fn compute(&self, mut tile: TileMut<'_>) {
        let place = tile.place();
        let wide = if self.gate.is_some() { 2 } else { self.isa.tile_panels() };
        let row_bytes = self.form.row_bytes(self.sizes.channels);
        let limit = if row_bytes.is_multiple_of(ALIASED) { PLACES } else { MR_MAX };
        let mr = self.isa.tile_rows()[wide - 1].min(limit);
        let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
        for row in (0..place.rows).step_by(mr) {
            let rows = mr.min(place.rows - row);
            self.rows.gather(self.first_row + place.row + row, rows, row_bytes, &mut offsets);
            let gather = Gather {
                data: self.x,
                zeros: self.zeros,
                offsets: &offsets,
                taps: self.sizes.taps,
                steps: self.form.steps(self.sizes.channels),
                row_bytes,
            };
            self.one(&mut tile, [row, rows], row / mr, &gather);
        }
    }

    /// Of the panels that will be wanted next, the part that is fetched during a tile of rows: the
    /// first tile fetches its own, which the others find in the cache.
    fn next(&self, first: usize, columns: usize, tile: usize) -> &[u8] {
        let panel = self.sizes.panel_bytes(self.form);
        let block = columns.div_ceil(PANEL) * panel;
        let part = block / PACE;
        let begin = (first - self.data_first) * panel + self.ahead * block;
        match tile {
            1..=PACE if self.ahead > 0 => {
                let begin = (begin + (tile - 1) * part).min(self.data.len());
                &self.data[begin..self.data.len().min(begin + part)]
            }
            _ => &[],
        }
    }

    /// Some rows of the tile, with all its columns.
    fn one(
        &self,
        tile: &mut TileMut<'_>,
        [row, rows]: [usize; 2],
        tile_number: usize,
        gather: &Gather<'_>,
    ) {
        let place = tile.place();
        let column = place.column - self.first_column;
        let first = column / PANEL;
        let panel = self.sizes.panel_bytes(self.form);
        let scales = self.scales.map_or(&[][..], |all| &all[first * self.sizes.scales()..]);
        let panels = Panels {
            data: &self.data[(first - self.data_first) * panel..],
            scales,
            gate: self.gate,
            next: self.next(first, place.columns, tile_number),
        };
        let residual: Option<[&[f32]; MR_MAX]> = self.residual.map(|residual| {
            core::array::from_fn(|r| match r < rows {
                false => &[][..],
                true => {
                    let row = self.first_row + place.row + row + r;
                    &residual[row * self.width + column..][..place.columns]
                }
            })
        });
        let mut out: [&mut [f32]; MR_MAX] = tile.rows(row, 0..place.columns);
        let mut finish = Finish {
            out: &mut out[..rows],
            bias: self.bias.map(|bias| &bias[column..]),
            residual: residual.as_ref().map(|rows| &rows[..]),
            accumulate: self.accumulate,
            activation: self.activation,
        };
        self.isa.product(self.form.into(), gather, &panels, &mut finish);
    }
}

/// The checkpoint's bytes of some output channels: `[columns, channels, taps]`.
struct Plain<'a> {
    bytes: &'a [u8],
    weight: Weight,
    sizes: Sizes,
    columns: usize,
}

impl Plain<'_> {
    /// Packs the columns from `column` on into a panel; columns that are not there are 0.
    fn pack(&self, isa: Isa, column: usize, panel: &mut [f32]) {
        let Sizes { channels, taps, .. } = self.sizes;
        if column + PANEL > self.columns {
            panel.fill(0.0);
        }
        let size = self.weight.dtype.bytes();
        let mut run = [0.0; RUN];
        for j in 0..PANEL.min(self.columns.saturating_sub(column)) {
            let row = (column + j) * channels * taps;
            for channel in (0..channels).step_by(RUN / MAX_TAPS) {
                let count = (RUN / MAX_TAPS).min(channels - channel);
                let run = &mut run[..count * taps];
                let first = row + channel * taps;
                let bytes = &self.bytes[first * size..(first + run.len()) * size];
                to_f32(isa, self.weight.dtype, bytes, run);
                for tap in 0..taps {
                    let column = &mut panel[(tap * channels + channel) * PANEL + j..];
                    let values = run[tap..].iter().step_by(taps);
                    column
                        .iter_mut()
                        .step_by(PANEL)
                        .zip(values)
                        .for_each(|(to, x)| *to = in_panel(*x));
                }
            }
        }
    }
}

/// An f32 as panels hold it on every machine: little-endian.
pub(super) fn in_panel(x: f32) -> f32 {
    f32::from_ne_bytes(x.to_le_bytes())
}

/// # Errors
/// [`Error::Shape`] where what is added does not fit the output of so many samples.
pub(super) fn check_epilogue(
    what: &'static str,
    epilogue: &Epilogue,
    out: Shape,
    samples: usize,
) -> Result<()> {
    if let Some(residual) = epilogue.residual {
        residual.expect(what, out)?;
    }
    if let Some(shift) = epilogue.per_sample {
        let n = out.as_slice().last().copied().unwrap_or(1);
        shift.expect(what, Shape::new([samples, n]))?;
    }
    Ok(())
}
