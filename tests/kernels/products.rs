//! The matrix product of every instruction set this machine has, in all its arithmetics, against a
//! plain loop in f64.

use std::panic::catch_unwind;

use half::bf16;
use mote::arch::{
    Activation, Arithmetic, Finish, Gate, Gather, Isa, MAX_TAPS, MR_MAX, NO_ROW, Panels,
};
use mote::tensor::{Form, PANEL};
use mote_tests::{Choices, isas};

const FORMS: [Form; 3] = [Form::F32, Form::Bf16, Form::Q8];

/// Rows of the input that the left side's rows are picked from.
const PIXELS: usize = 9;

/// Bytes before the first row, so that nothing is aligned, and between two rows.
const ODD: usize = 3;

/// Numbers in one of the forms, and what they stand for.
struct Numbers {
    form: Form,
    /// One step after the other.
    bytes: Vec<u8>,
    values: Vec<f64>,
}

impl Numbers {
    fn new(form: Form) -> Self {
        Self { form, bytes: Vec::new(), values: Vec::new() }
    }

    /// Adds one between -1 and 1; in integers `integer`, times `scale`.
    fn push(&mut self, choices: &mut Choices, integer: i32, scale: f32) {
        let x = choices.between(-1.0, 1.0);
        match self.form {
            Form::F32 => self.bytes.extend(x.to_le_bytes()),
            Form::Bf16 => self.bytes.extend(bf16::from_f32(x).to_le_bytes()),
            Form::Q8 => self.bytes.push(integer as u8),
        }
        self.values.push(match self.form {
            Form::F32 => f64::from(x),
            Form::Bf16 => bf16::from_f32(x).to_f64(),
            Form::Q8 => f64::from(integer) * f64::from(scale),
        });
    }

    /// Adds a zero.
    fn push_zero(&mut self) {
        self.bytes.resize(self.bytes.len() + 4 / self.form.per_step(), 0);
        self.values.push(0.0);
    }
}

/// How large a product is.
#[derive(Clone, Copy, Debug)]
struct Size {
    rows: usize,
    taps: usize,
    channels: usize,
    columns: usize,
}

/// Whole numbers with scales of 1, at the ends of their ranges or anywhere.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Scaled,
    Whole,
    Extreme,
}

/// The operands of a product and what they stand for.
struct Case {
    form: Form,
    size: Size,
    gather: Vec<u8>,
    zeros: Vec<u8>,
    offsets: [usize; MAX_TAPS * MR_MAX],
    /// `[PIXELS, channels]`
    left: Vec<f64>,
    panels: Vec<u8>,
    scales: Vec<f32>,
    /// `[columns of all panels, taps, channels]`
    right: Vec<f64>,
    gate: Option<Gate>,
    bias: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
    before: Option<Vec<f32>>,
    activation: Option<Activation>,
}

impl Case {
    /// Operands for a product of this size. Beyond the channels the left side holds anything, the
    /// right side zeros.
    fn new(choices: &mut Choices, form: Form, size: Size, gated: bool, kind: Kind) -> Self {
        let Size { rows, taps, channels, columns } = size;
        let (gather, left) = left_side(choices, form, channels, kind);
        let row_bytes = form.row_bytes(channels);
        let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
        for tap in 0..taps {
            for offset in &mut offsets[tap * MR_MAX..][..rows] {
                let pixel = choices.below(PIXELS + 2);
                *offset = if pixel < PIXELS { ODD + pixel * (row_bytes + ODD) } else { NO_ROW };
            }
        }
        let wanted = columns.div_ceil(PANEL);
        let gate = gated.then(|| wanted + choices.below(3));
        let count = wanted + gate.unwrap_or(0);
        let (panels, scales, right) = right_side(choices, form, size, count, kind);
        let gate = gate.map(|gate| Gate { data: gate, columns: gate });
        let mut vector = |len: usize| {
            let wanted = choices.flag();
            wanted.then(|| (0..len).map(|_| choices.between(-1.0, 1.0)).collect())
        };
        let [bias, residual, before] = match kind {
            Kind::Scaled => [count * PANEL, rows * columns, rows * columns].map(&mut vector),
            _ => [const { None }; 3],
        };
        let activation = match kind {
            Kind::Scaled if choices.flag() => Some(choices.pick(&Activation::ALL)),
            _ => None,
        };
        let zeros = vec![0; row_bytes];
        Self {
            form,
            size,
            gather,
            zeros,
            offsets,
            left,
            panels,
            scales,
            right,
            gate,
            bias,
            residual,
            before,
            activation,
        }
    }

    /// Rows `first..first + rows` of the product, panels `panel..` up to `columns` columns.
    fn part(&self, isa: Isa, [first, rows]: [usize; 2], [panel, columns]: [usize; 2]) -> Vec<f32> {
        let Size { taps, channels, columns: width, .. } = self.size;
        let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
        for tap in 0..taps {
            let from = &self.offsets[tap * MR_MAX + first..][..rows];
            offsets[tap * MR_MAX..][..rows].copy_from_slice(from);
        }
        let begin = panel * PANEL;
        let of_row =
            |all: &[f32], row: usize| all[(first + row) * width + begin..][..columns].to_vec();
        let mut out: Vec<Vec<f32>> = (0..rows)
            .map(|row| match &self.before {
                None => vec![f32::NAN; columns],
                Some(before) => of_row(before, row),
            })
            .collect();
        let residual: Option<Vec<Vec<f32>>> = (self.residual.as_ref())
            .map(|residual| (0..rows).map(|row| of_row(residual, row)).collect());
        let residual: Option<Vec<&[f32]>> =
            residual.as_ref().map(|rows| rows.iter().map(|row| &row[..]).collect());
        let steps = self.form.steps(channels);
        let gather = Gather {
            data: &self.gather,
            zeros: &self.zeros,
            offsets: &offsets,
            taps,
            steps,
            row_bytes: self.form.row_bytes(channels),
        };
        let data = &self.panels[panel * taps * steps * 4 * PANEL..];
        let scales = &self.scales[(panel * (1 + taps) * PANEL).min(self.scales.len())..];
        let mut rows: Vec<&mut [f32]> = out.iter_mut().map(|row| &mut row[..]).collect();
        let mut finish = Finish {
            out: &mut rows,
            bias: self.bias.as_ref().map(|bias| &bias[begin..]),
            residual: residual.as_deref(),
            accumulate: self.before.is_some(),
            activation: self.activation,
        };
        let panels = Panels { data, scales, gate: self.gate, next: &[] };
        isa.product(self.form.into(), &gather, &panels, &mut finish);
        out.concat()
    }

    fn compute(&self, isa: Isa) -> Vec<f32> {
        self.part(isa, [0, self.size.rows], [0, self.size.columns])
    }

    /// The sum of one output, with its bias, and the sum of all magnitudes in it.
    fn sum(&self, row: usize, column: usize) -> [f64; 2] {
        let Size { taps, channels, .. } = self.size;
        let stride = self.form.row_bytes(channels) + ODD;
        let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[column]));
        let mut sums = [bias, bias.abs()];
        for tap in 0..taps {
            let offset = self.offsets[tap * MR_MAX + row];
            if offset == NO_ROW {
                continue;
            }
            let left = &self.left[(offset - ODD) / stride * channels..][..channels];
            let right = &self.right[(column * taps + tap) * channels..][..channels];
            for (a, b) in left.iter().zip(right) {
                sums = [sums[0] + a * b, sums[1] + (a * b).abs()];
            }
        }
        sums
    }

    /// One output and how far from it a kernel may be: rounding of the sums, and what the functions
    /// promise.
    fn expected(&self, row: usize, column: usize) -> [f64; 2] {
        const ROUNDING: f64 = 4e-7;
        let at = row * self.size.columns + column;
        let [mut x, magnitude] = self.sum(row, column);
        let mut limit = ROUNDING * magnitude;
        if let Some(gate) = self.gate {
            let [g, magnitude] = self.sum(row, column + gate.columns * PANEL);
            let gelu = applied(Activation::Gelu, g);
            let error = 1.2 * ROUNDING * magnitude + 3e-7 * g.abs().max(1.0);
            limit = limit * gelu.abs() + (x.abs() + limit) * error;
            x *= gelu;
        }
        for more in [&self.residual, &self.before].into_iter().flatten() {
            x += f64::from(more[at]);
            limit += ROUNDING * f64::from(more[at]).abs();
        }
        if let Some(activation) = self.activation {
            // None of them is steeper than 1.2.
            limit = 1.2 * limit + 1e-6 * x.abs().max(1.0);
            x = applied(activation, x);
        }
        [x, limit + 1e-7 * x.abs() + 1e-12]
    }

    fn check(&self, isa: Isa) {
        let found = self.compute(isa);
        for (at, &found) in found.iter().enumerate() {
            let (row, column) = (at / self.size.columns, at % self.size.columns);
            let [x, limit] = self.expected(row, column);
            let is_close = (f64::from(found) - x).abs() <= limit;
            let Self { form, size, .. } = self;
            assert!(
                is_close,
                "{isa:?} {form:?} {size:?}: [{row}, {column}] {found}, not {x}±{limit}"
            );
        }
    }
}

/// An activation by the scalar kernel, which has a test of its own.
fn applied(activation: Activation, x: f64) -> f64 {
    let mut x = [x as f32];
    Isa::SCALAR.activate_f32(activation, &mut x);
    f64::from(x[0])
}

/// `[PIXELS, channels]` in a form, each row after a gap, and what they stand for.
fn left_side(
    choices: &mut Choices,
    form: Form,
    channels: usize,
    kind: Kind,
) -> (Vec<u8>, Vec<f64>) {
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for _ in 0..PIXELS {
        bytes.extend([0xAA; ODD]);
        let scale = if kind == Kind::Scaled { choices.between(0.001, 0.1) } else { 1.0 };
        let number = |choices: &mut Choices| match kind {
            Kind::Extreme => choices.pick(&[0, 255, 255]),
            _ => choices.below(256) as i32,
        };
        let zero = number(choices);
        let mut row = Numbers::new(form);
        for _ in 0..channels.next_multiple_of(form.per_step()) {
            let integer = number(choices);
            row.push(choices, integer, scale);
        }
        match form {
            // f32 of the left side are the machine's own, those of panels little-endian.
            Form::F32 => bytes.extend(
                row.bytes.as_chunks().0.iter().flat_map(|x| f32::from_le_bytes(*x).to_ne_bytes()),
            ),
            _ => bytes.extend(row.bytes),
        }
        let zero_point = f64::from(zero) * f64::from(scale);
        let of_integers = |x: &f64| if form == Form::Q8 { x - zero_point } else { *x };
        values.extend(row.values[..channels].iter().map(of_integers));
        if form == Form::Q8 {
            bytes.extend(scale.to_le_bytes());
            bytes.extend(zero.to_le_bytes());
        }
    }
    (bytes, values)
}

/// So many panels: their bytes, their scales and sums, and what they stand for, column by column.
fn right_side(
    choices: &mut Choices,
    form: Form,
    Size { taps, channels, .. }: Size,
    count: usize,
    kind: Kind,
) -> (Vec<u8>, Vec<f32>, Vec<f64>) {
    let (step, steps) = (form.per_step(), form.steps(channels));
    let mut scales = vec![0.0; count * (1 + taps) * PANEL];
    let mut right = vec![0.0; count * PANEL * taps * channels];
    let mut numbers = Numbers::new(form);
    for panel in 0..count {
        let scales = &mut scales[panel * (1 + taps) * PANEL..][..(1 + taps) * PANEL];
        for scale in &mut scales[..PANEL] {
            *scale = if kind == Kind::Scaled { choices.between(0.001, 0.1) } else { 1.0 };
        }
        for at in 0..taps * steps * PANEL * step {
            let (tap, channel) = (at / (steps * PANEL * step), at / (PANEL * step) % steps * step);
            let (j, channel) = (at / step % PANEL, channel + at % step);
            if channel >= channels {
                numbers.push_zero();
                continue;
            }
            let integer = match kind {
                Kind::Extreme => choices.pick(&[-127, -127, 127]),
                _ => choices.below(255) as i32 - 127,
            };
            numbers.push(choices, integer, scales[j]);
            scales[(1 + tap) * PANEL + j] += integer as f32;
            let column = (panel * PANEL + j) * taps + tap;
            right[column * channels + channel] = *numbers.values.last().expect("just pushed");
        }
    }
    let scales = if form == Form::Q8 { scales } else { Vec::new() };
    (numbers.bytes, scales, right)
}

/// The most rows that a product may have.
fn most_rows(isa: Isa, gated: bool) -> usize {
    isa.tile_rows()[if gated { 2 } else { isa.tile_panels() } - 1]
}

/// Sizes among which each number of rows, taps, columns and channels occurs, and most pairs of rows
/// and taps.
fn sizes(choices: &mut Choices, most_rows: usize) -> Vec<Size> {
    let mut any = |most: usize| 1 + choices.below(most);
    let mut sizes = Vec::new();
    for rows in 1..=most_rows {
        for taps in 1..=MAX_TAPS {
            sizes.push(Size { rows, taps, channels: any(70), columns: any(70) });
        }
    }
    for n in 1..=70 {
        let (rows, taps) = (any(most_rows), any(MAX_TAPS));
        sizes.push(Size { rows, taps, channels: n, columns: any(70) });
        sizes.push(Size { rows, taps, channels: any(70), columns: n });
    }
    sizes
}

/// Runs `test` on every instruction set, form and size, with a gate and without.
fn everywhere(seed: u64, mut test: impl FnMut(Isa, &mut Choices, Form, Size, bool)) {
    for isa in isas() {
        for (form, gated) in FORMS.into_iter().flat_map(|form| [(form, false), (form, true)]) {
            let mut choices = Choices::new(seed);
            for size in sizes(&mut choices, most_rows(isa, gated)) {
                test(isa, &mut choices, form, size, gated);
            }
        }
    }
}

#[test]
fn a_product_is_a_sum_over_taps_and_channels_with_its_end() {
    everywhere(1, |isa, choices, form, size, gated| {
        Case::new(choices, form, size, gated, Kind::Scaled).check(isa);
    });
}

#[test]
fn sums_of_integers_are_exact() {
    for isa in isas() {
        let mut choices = Choices::new(2);
        for size in sizes(&mut choices, most_rows(isa, false)) {
            // All sums stay below 2²⁴, so that f32 holds them.
            let size = Size { taps: size.taps.min(7), ..size };
            for kind in [Kind::Whole, Kind::Extreme] {
                let case = Case::new(&mut choices, Form::Q8, size, false, kind);
                for (at, found) in case.compute(isa).into_iter().enumerate() {
                    let [sum, _] = case.sum(at / size.columns, at % size.columns);
                    assert_eq!(f64::from(found), sum, "{isa:?} {size:?}: number {at}");
                }
            }
        }
    }
}

#[test]
fn exact_products_are_the_same_on_every_instruction_set() {
    everywhere(5, |isa, choices, form, size, gated| {
        let isa = isa.exact();
        let size = Size { rows: size.rows.min(most_rows(isa, gated)), ..size };
        let case = Case::new(choices, form, size, gated, Kind::Scaled);
        let found = case.compute(isa);
        let row = |row| case.part(Isa::SCALAR, [row, 1], [0, size.columns]);
        let expected = (0..size.rows).flat_map(row);
        assert!(
            found.iter().map(|x| x.to_bits()).eq(expected.map(f32::to_bits)),
            "{isa:?} {form:?} {size:?}, gated {gated}"
        );
    });
}

#[test]
fn an_output_does_not_depend_on_the_tile_it_is_computed_in() {
    everywhere(3, |isa, choices, form, size, gated| {
        let case = Case::new(choices, form, size, gated, Kind::Scaled);
        let whole = case.compute(isa);
        let row = choices.below(size.rows);
        let rows = 1 + choices.below(size.rows - row);
        let panel = if gated { 0 } else { choices.below(size.columns.div_ceil(PANEL)) };
        let columns = 1 + choices.below(size.columns - panel * PANEL);
        let part = case.part(isa, [row, rows], [panel, columns]);
        for (at, found) in part.iter().enumerate() {
            let (r, column) = (row + at / columns, panel * PANEL + at % columns);
            let expected = whole[r * size.columns + column];
            assert_eq!(found.to_bits(), expected.to_bits(), "{isa:?} {form:?} {size:?}");
        }
    });
}

#[test]
fn a_product_without_rows_columns_taps_or_channels_is_its_end() {
    for (isa, form) in isas().into_iter().flat_map(|isa| FORMS.map(|form| (isa, form))) {
        let mut choices = Choices::new(4);
        for nothing in 0..4 {
            let mut size = [2, 3, 5, 37];
            size[nothing] = 0;
            let [rows, taps, channels, columns] = size;
            let size = Size { rows, taps, channels, columns };
            Case::new(&mut choices, form, size, false, Kind::Scaled).check(isa);
        }
    }
}

#[test]
fn a_product_in_which_something_is_no_number_is_none() {
    for isa in isas() {
        let size = Size { rows: 2, taps: 1, channels: 5, columns: 33 };
        for form in [Form::F32, Form::Bf16] {
            let mut case = Case::new(&mut Choices::new(5), form, size, false, Kind::Whole);
            case.offsets[..2].copy_from_slice(&[ODD, NO_ROW]);
            let nan = f32::NAN;
            match form {
                Form::F32 => case.gather[ODD + 4..][..4].copy_from_slice(&nan.to_ne_bytes()),
                _ => case.gather[ODD + 2..][..2].copy_from_slice(&nan.to_le_bytes()[2..]),
            }
            let found = case.compute(isa);
            assert!(found[..33].iter().all(|x| x.is_nan()), "{isa:?} {form:?}");
            assert!(found[33..].iter().all(|&x| x == 0.0), "{isa:?} {form:?}");
        }
    }
}

/// What is taken away from a product's operands.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    RowOutside,
    RowTooShort,
    FewZeros,
    TooManyTaps,
    ShortPanel,
    FewScales,
    ShortBias,
    FewResidualRows,
    ShortResidual,
    RaggedRows,
    TooManyRows,
}

/// A product of 8-bit integers: two rows, three panels of which the last is not whole.
fn faulty(isa: Isa, fault: Fault) -> bool {
    let is = |other: Fault| core::mem::discriminant(&fault) == core::mem::discriminant(&other);
    let less = |fault: Fault| usize::from(is(fault));
    let (steps, taps) = (3, 2);
    let row_bytes = Form::Q8.row_bytes(4 * steps) - less(Fault::RowTooShort);
    let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
    offsets[0] = 0;
    offsets[MR_MAX + 1] = 5 + less(Fault::RowOutside);
    let (data, zeros) = (vec![1; row_bytes + 5], vec![0; row_bytes - less(Fault::FewZeros)]);
    let gather = Gather {
        data: &data,
        zeros: &zeros,
        offsets: &offsets,
        taps: if is(Fault::TooManyTaps) { MAX_TAPS + 1 } else { taps },
        steps,
        row_bytes,
    };
    let panels = vec![1; 3 * taps * steps * 4 * PANEL - less(Fault::ShortPanel)];
    let scales = vec![1.0; 3 * (1 + taps) * PANEL - less(Fault::FewScales)];
    let panels = Panels { data: &panels, scales: &scales, gate: None, next: &[] };
    let rows = if is(Fault::TooManyRows) {
        most_rows(isa, false) + 1
    } else {
        2.min(most_rows(isa, false))
    };
    let mut out = vec![vec![0.0; 37]; rows];
    let mut out: Vec<&mut [f32]> = out.iter_mut().map(|row| &mut row[..]).collect();
    if let (true, Some(row)) = (is(Fault::RaggedRows), out.last_mut()) {
        *row = &mut core::mem::take(row)[..36];
    }
    let bias = vec![0.0; 3 * PANEL - less(Fault::ShortBias)];
    let residual = vec![0.0; 37 - less(Fault::ShortResidual)];
    let residual = vec![&residual[..]; rows - less(Fault::FewResidualRows)];
    let mut finish = Finish {
        out: &mut out,
        bias: Some(&bias),
        residual: Some(&residual),
        accumulate: true,
        activation: None,
    };
    catch_unwind(std::panic::AssertUnwindSafe(|| {
        isa.product(Arithmetic::Q8, &gather, &panels, &mut finish);
    }))
    .is_err()
}

#[test]
fn operands_that_are_too_short_are_caught() {
    let faults = [
        Fault::RowOutside,
        Fault::RowTooShort,
        Fault::FewZeros,
        Fault::TooManyTaps,
        Fault::ShortPanel,
        Fault::FewScales,
        Fault::ShortBias,
        Fault::FewResidualRows,
        Fault::ShortResidual,
        Fault::TooManyRows,
    ];
    for isa in isas() {
        assert!(!faulty(isa, Fault::None), "{isa:?}: the operands are good");
        for fault in faults {
            assert!(faulty(isa, fault), "{isa:?}: {fault:?}");
        }
        if most_rows(isa, false) > 1 {
            assert!(faulty(isa, Fault::RaggedRows), "{isa:?}");
        }
    }
}
