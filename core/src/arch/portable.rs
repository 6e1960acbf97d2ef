//! Algorithms written once, in plain Rust without branches, so that the compiler turns each into
//! the vectors of whatever instruction set its caller is compiled for. All are `inline(always)`: an
//! instruction set's file gives them a body with its features.

use super::kernels::{Activation, Adam};
use crate::tensor::Form;

/// Partial sums of a reduction: one AVX-512 register of f32. The same on every instruction set, so
/// that sums have one order.
const LANES: usize = 16;

/// Adding it puts the nearest whole number into the low bits, as the exponent of that power of two.
const EXPONENT: f32 = ROUND + 127.0;

/// `exp(x)` within 2 ULP where the result is normal; below that at most 1.2e-38, above 3.4e38.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, exp(r) by a Taylor polynomial of degree 7 (remainder 5e-9),
/// 2ⁿ by the exponent's bits. The rounding to n is done by adding a large number whose low mantissa
/// bits then are n, so there is no conversion to an integer.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_145_75;
    const LN_2_LOW: f32 = 1.428_606_8e-6;
    let x = if x > 88.37 { 88.37 } else { x };
    let x = if x < -87.3 { -87.3 } else { x };
    let shifted = x * core::f32::consts::LOG2_E + EXPONENT;
    let n = shifted - EXPONENT;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    p * f32::from_bits(shifted.to_bits() << 23)
}

/// `x · sigmoid(x)` within 1e-5 of itself, for what is rounded to bf16 or eight bits afterwards:
/// half of what [`exp`] takes.
///
/// 2ⁿ⁺ʳ with |r| ≤ 1/2, 2ʳ by the polynomial of degree 4 whose largest relative error is least
/// (2.6e-6).
#[inline(always)]
fn silu_near(x: f32) -> f32 {
    let power = x * -core::f32::consts::LOG2_E;
    let power = if power > 126.0 { 126.0 } else { power };
    let power = if power < -126.0 { -126.0 } else { power };
    let shifted = power + EXPONENT;
    let r = power - (shifted - EXPONENT);
    let p = 9.570_102e-3;
    let p = p * r + 5.591_786_3e-2;
    let p = p * r + 0.240_247_44;
    let p = p * r + 0.693_121_8;
    let p = p * r + 0.999_999_3;
    x / (1.0 + p * f32::from_bits(shifted.to_bits() << 23))
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh(x)` within 1.8e-7.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// The error function within 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = f32::from_bits(x.to_bits() & 0x7FFF_FFFF);
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let y = 1.0 - p * t * exp(-a * a);
    f32::from_bits(y.to_bits() | (x.to_bits() & 0x8000_0000))
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * core::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    x.iter_mut().for_each(|x| *x = f(*x));
}

#[inline(always)]
pub fn activate(activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Silu => map(x, |x| x * sigmoid(x)),
        Activation::Gelu => map(x, gelu),
        Activation::GeluTanh => map(x, |x| {
            // sqrt(2/pi)
            0.5 * x * (1.0 + tanh(0.797_884_6 * (x + 0.044_715 * x * x * x)))
        }),
        Activation::QuickGelu => map(x, |x| x * sigmoid(1.702 * x)),
        Activation::Relu => map(x, |x| if x < 0.0 { 0.0 } else { x }),
        Activation::ClampTanh3 => map(x, |x| 3.0 * tanh(x * (1.0 / 3.0))),
    }
}

#[inline(always)]
pub fn exp_sub_sum(x: &mut [f32], max: f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (whole, rest) = x.as_chunks_mut::<LANES>();
    for chunk in whole {
        for (x, sum) in chunk.iter_mut().zip(&mut sums) {
            *x = exp(*x - max);
            *sum += *x;
        }
    }
    for (x, sum) in rest.iter_mut().zip(&mut sums) {
        *x = exp(*x - max);
        *sum += *x;
    }
    sums.iter().sum()
}

/// All lanes as one, by halves.
#[inline(always)]
fn reduce(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Combines all elements, lane by lane and then the lanes.
#[inline(always)]
fn fold(x: &[f32], first: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [first; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = f(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = f(*lane, x);
    }
    reduce(lanes, f)
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if b < a { b } else { a }
}

#[inline(always)]
pub fn max(x: &[f32], max: f32) -> f32 {
    fold(x, max, larger)
}

/// `x ← own·x + factor·other`
#[inline(always)]
pub fn scale_add(x: &mut [f32], own: f32, other: &[f32], factor: f32) {
    for (x, other) in x.iter_mut().zip(other) {
        *x = own * *x + factor * other;
    }
}

/// `out ← a − b`
#[inline(always)]
pub fn subtract(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((a, b), out) in a.iter().zip(b).zip(out) {
        *out = a - b;
    }
}

/// Two neighbouring outputs of a doubled convolution. `products`: three of a pixel's own line,
/// three of the other's.
#[inline(always)]
pub fn double(products: [[&[f32]; 3]; 2], bias: &[f32], [one, two]: [&mut [f32]; 2]) {
    let [[left, whole, right], [other_left, other_whole, other_right]] = products;
    double_one([left, whole, other_left, other_whole], bias, one);
    double_one([right, whole, other_right, other_whole], bias, two);
}

#[inline(always)]
fn double_one([a, b, c, d]: [&[f32]; 4], bias: &[f32], out: &mut [f32]) {
    let sums = a.iter().zip(b).zip(c.iter().zip(d)).zip(bias);
    for (out, (((a, b), (c, d)), bias)) in out.iter_mut().zip(sums) {
        *out = ((b + d) + (a + c)) + bias;
    }
}

/// `x ← x · gelu(gate)`
#[inline(always)]
pub fn gelu_times(gate: &[f32], x: &mut [f32]) {
    for (x, &gate) in x.iter_mut().zip(gate) {
        *x *= gelu(gate);
    }
}

/// The mean of each channel over a block of pixels `[pixels, c]`, and the sum of squared deviations
/// from it: `[2, c]`.
#[inline(always)]
pub fn moments(x: &[f32], moments: &mut [f32]) {
    let c = moments.len() / 2;
    let (mean, squares) = moments.split_at_mut(c);
    mean.fill(0.0);
    squares.fill(0.0);
    for row in x.chunks_exact(c) {
        for (mean, x) in mean.iter_mut().zip(row) {
            *mean += x;
        }
    }
    let share = 1.0 / (x.len() / c) as f32;
    for mean in mean.iter_mut() {
        *mean *= share;
    }
    for row in x.chunks_exact(c) {
        for ((square, mean), x) in squares.iter_mut().zip(&*mean).zip(row) {
            *square += (x - mean) * (x - mean);
        }
    }
}

/// `affine`: what to subtract, to multiply with, to add, for each row of c channels; the rows of x
/// are `stride` apart, those of `out` `pitch`. Then SiLU, within 1e-5 of itself, or nothing.
#[inline(always)]
pub fn normalise(
    x: &[f32],
    stride: usize,
    affine: [&[f32]; 3],
    silu: bool,
    out: &mut [f32],
    pitch: usize,
) {
    if silu {
        normalise_then([stride, pitch], x, affine, out, silu_near);
    } else {
        normalise_then([stride, pitch], x, affine, out, |x| x);
    }
}

#[inline(always)]
fn normalise_then(
    [stride, pitch]: [usize; 2],
    x: &[f32],
    [mean, scale, shift]: [&[f32]; 3],
    out: &mut [f32],
    f: impl Fn(f32) -> f32,
) {
    let c = mean.len();
    let blocks = mean.as_chunks::<LANES>().0.iter();
    let blocks = blocks.zip(scale.as_chunks::<LANES>().0).zip(shift.as_chunks::<LANES>().0);
    let mut whole = 0;
    // All rows of some channels, whose numbers stay in registers.
    for ((mean, scale), shift) in blocks {
        for (x, out) in x[whole..].chunks(stride).zip(out[whole..].chunks_mut(pitch)) {
            let rows = (x.first_chunk::<LANES>(), out.first_chunk_mut::<LANES>());
            if let (Some(x), Some(out)) = rows {
                for i in 0..LANES {
                    out[i] = f((x[i] - mean[i]) * scale[i] + shift[i]);
                }
            }
        }
        whole += LANES;
    }
    if whole == c {
        return;
    }
    for (x, out) in x.chunks(stride).zip(out.chunks_mut(pitch)) {
        let rest = x[whole..c].iter().zip(&mut out[whole..c]);
        let affine = mean[whole..].iter().zip(&scale[whole..]).zip(&shift[whole..]);
        for ((x, out), ((mean, scale), shift)) in rest.zip(affine) {
            *out = f((x - mean) * scale + shift);
        }
    }
}

/// The sum of `f` of each element, in 16 interleaved partial sums.
#[inline(always)]
pub fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f(x);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f(x);
    }
    reduce(sums, |a, b| a + b)
}

#[inline(always)]
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let count = x.len() as f32;
    let mean = sum(x, |x| x) / count;
    let squares = sum(x, |x| (x - mean) * (x - mean));
    let scale = 1.0 / libm::sqrtf(squares / count + eps);
    for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - mean) * scale * weight + bias;
    }
}

/// The derivative of an activation.
#[inline(always)]
fn slope(activation: Activation, x: f32) -> f32 {
    // sqrt(2/pi), and 1 over sqrt(2 pi)
    const ROOT: f32 = 0.797_884_6;
    const DENSITY: f32 = 0.398_942_3;
    match activation {
        Activation::Silu => {
            let s = sigmoid(x);
            s * (1.0 + x * (1.0 - s))
        }
        Activation::Gelu => {
            let phi = DENSITY * exp(-0.5 * x * x);
            0.5 * (1.0 + erf(x * core::f32::consts::FRAC_1_SQRT_2)) + x * phi
        }
        Activation::GeluTanh => {
            let t = tanh(ROOT * (x + 0.044_715 * x * x * x));
            let inner = ROOT * (1.0 + 3.0 * 0.044_715 * x * x);
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
        }
        Activation::QuickGelu => {
            let s = sigmoid(1.702 * x);
            s + 1.702 * x * s * (1.0 - s)
        }
        Activation::Relu => f32::from(u8::from(x > 0.0)),
        Activation::ClampTanh3 => {
            let t = tanh(x * (1.0 / 3.0));
            1.0 - t * t
        }
    }
}

/// `dx ← dx + dy · f'(x)`
#[inline(always)]
pub fn activate_backward(activation: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let all = dx.iter_mut().zip(x).zip(dy);
    match activation {
        Activation::Silu => all.for_each(|((dx, &x), dy)| *dx += dy * slope(Activation::Silu, x)),
        Activation::Gelu => all.for_each(|((dx, &x), dy)| *dx += dy * slope(Activation::Gelu, x)),
        other => all.for_each(|((dx, &x), dy)| *dx += dy * slope(other, x)),
    }
}

/// For rows `[value, gate]` of x and dx: `dvalue += dy·gelu(gate)` and `dgate +=
/// dy·value·gelu'(gate)`.
#[inline(always)]
pub fn geglu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let m = dy.len();
    let ((value, gate), (dvalue, dgate)) = (x.split_at(m), dx.split_at_mut(m));
    let left = dvalue.iter_mut().zip(value).zip(gate).zip(dy);
    for ((((dvalue, value), &gate), dy), dgate) in left.zip(dgate) {
        *dvalue += dy * gelu(gate);
        *dgate += dy * value * slope(Activation::Gelu, gate);
    }
}

/// The sum of each channel over rows of c channels, added to `sums` `[c]`.
#[inline(always)]
pub fn sum_rows(x: &[f32], sums: &mut [f32]) {
    for row in x.chunks_exact(sums.len()) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
    }
}

/// The first pass of a group norm backwards, for some rows: `dy` becomes the gradient before the
/// activation, and its sum and that with `x − mean` are added to `sums` `[2, c]`.
#[inline(always)]
pub fn group_norm_sums(silu: bool, x: &[f32], affine: &[f32], dy: &mut [f32], sums: &mut [f32]) {
    let c = affine.len() / 3;
    let (mean, rest) = affine.split_at(c);
    let (scale, shift) = rest.split_at(c);
    let (plain, centred) = sums.split_at_mut(c);
    for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact_mut(c)) {
        let left = x.iter().zip(mean).zip(scale).zip(shift).zip(dy);
        let right = plain.iter_mut().zip(&mut *centred);
        for (((((x, mean), scale), shift), dy), (plain, centred)) in left.zip(right) {
            let deviation = x - mean;
            if silu {
                *dy *= slope(Activation::Silu, deviation * scale + shift);
            }
            *plain += *dy;
            *centred += *dy * deviation;
        }
    }
}

/// The second pass: `dx ← dx + dy·a + (x − mean)·b + c` with `[mean, a, b, c]` `[4, c]`.
#[inline(always)]
pub fn group_norm_backward(x: &[f32], factors: &[f32], dy: &[f32], dx: &mut [f32]) {
    let c = factors.len() / 4;
    let ((mean, own), (spread, shift)) = {
        let (first, second) = factors.split_at(2 * c);
        (first.split_at(c), second.split_at(c))
    };
    let rows = x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c));
    for ((x, dy), dx) in rows {
        let left = dx.iter_mut().zip(x).zip(dy).zip(mean);
        for ((((dx, x), dy), mean), ((own, spread), shift)) in
            left.zip(own.iter().zip(spread).zip(shift))
        {
            *dx += dy * own + (x - mean) * spread + shift;
        }
    }
}

/// A layer norm backwards, for one row: `dx` is added to, and `dweight` and `dbias` in `sums`.
#[inline(always)]
pub fn layer_norm_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    sums: &mut [f32],
) {
    let count = x.len() as f32;
    let mean = sum(x, |x| x) / count;
    let squares = sum(x, |x| (x - mean) * (x - mean));
    let scale = 1.0 / libm::sqrtf(squares / count + eps);
    let (dweight, dbias) = sums.split_at_mut(x.len());
    let mut plain = [0.0; LANES];
    let mut centred = [0.0; LANES];
    let mut lane = 0;
    for (((x, weight), dy), (dweight, dbias)) in
        x.iter().zip(weight).zip(dy).zip(dweight.iter_mut().zip(dbias))
    {
        let normalised = (x - mean) * scale;
        *dweight += dy * normalised;
        *dbias += dy;
        plain[lane] += dy * weight;
        centred[lane] += dy * weight * normalised;
        lane = (lane + 1) % LANES;
    }
    let plain = reduce(plain, |a, b| a + b) / count;
    let centred = reduce(centred, |a, b| a + b) / count;
    for (((dx, x), weight), dy) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
        *dx += scale * (dy * weight - plain - (x - mean) * scale * centred);
    }
}

/// Rows and columns of a block that is transposed at a time.
pub const SIDE: usize = 16;

/// A block of rows that are `stride` apart, as rows that are `pitch` apart.
#[inline(always)]
pub fn transpose_block(from: &[f32], stride: usize, to: &mut [f32], pitch: usize) {
    let mut block = [[0.0; SIDE]; SIDE];
    for (r, row) in block.iter_mut().enumerate() {
        row.copy_from_slice(&from[r * stride..][..SIDE]);
    }
    for j in 0..SIDE {
        let to = &mut to[j * pitch..][..SIDE];
        for (r, to) in to.iter_mut().enumerate() {
            *to = block[r][j];
        }
    }
}

/// The nearest bf16, in the upper half; what is no number stays none.
#[inline(always)]
fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
    if x.is_nan() { bits | 0x40_0000 } else { rounded }
}

/// Words of two bf16 from rows of `width` elements that are `stride` apart: those of an even row in
/// the lower halves, those of the next in the upper. A last row alone goes with zeros.
#[inline(always)]
pub fn bf16_pairs(x: &[f32], stride: usize, width: usize, out: &mut [u8]) {
    for (pair, out) in x.chunks(2 * stride).zip(out.chunks_exact_mut(4 * width)) {
        let words = out.as_chunks_mut::<4>().0;
        let even = &pair[..width];
        match pair.get(stride..).and_then(|odd| odd.get(..width)) {
            Some(odd) => {
                for ((word, &low), &high) in words.iter_mut().zip(even).zip(odd) {
                    *word = (to_bf16(low) >> 16 | to_bf16(high) & 0xFFFF_0000).to_le_bytes();
                }
            }
            None => {
                for (word, &low) in words.iter_mut().zip(even) {
                    *word = (to_bf16(low) >> 16).to_le_bytes();
                }
            }
        }
    }
}

/// One step of AdamW (Loshchilov and Hutter 2019): see [`Isa::adamw_f32`](super::Isa::adamw_f32).
#[inline(always)]
pub fn adamw(adam: &Adam, gradients: &[f32], [x, m, v]: [&mut [f32]; 3]) {
    let Adam { factor, betas: [beta1, beta2], rate, decay, root, eps } = *adam;
    for (((x, m), v), g) in x.iter_mut().zip(m).zip(v).zip(gradients) {
        let g = g * factor;
        *m += (1.0 - beta1) * (g - *m);
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        *x = *x * decay - rate * *m / (sqrt(*v) * root + eps);
    }
}

/// The square root, for vectors: one instruction where there is one.
#[inline(always)]
fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}

/// Adding it puts the nearest whole number, ties to even, into the low bits: for |x| < 2²².
pub const ROUND: f32 = 12_582_912.0;

/// The nearest whole number, ties to even, from 0 to 255; 0 for what is no number.
#[inline(always)]
pub fn byte(x: f32) -> u8 {
    let x = if x > 0.0 { x } else { 0.0 };
    let x = if x < 255.0 { x } else { 255.0 };
    (x + ROUND).to_bits() as u8
}

/// How the range of a row is cut into steps.
#[derive(Clone, Copy)]
pub struct Steps {
    /// From one integer to the next.
    pub scale: f32,
    /// 1 over that; 0 where all elements are 0.
    pub inverse: f32,
    /// The whole number that stands for 0.
    pub zero: f32,
}

impl Steps {
    /// The range, which holds 0, in 255 steps. `flaw` is 0, or no number where an element is none.
    #[inline(always)]
    pub fn new([smallest, largest]: [f32; 2], flaw: f32) -> Self {
        let scale = (largest - smallest) / 255.0 + flaw;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let zero = (-smallest * inverse + ROUND) - ROUND;
        // No number where all elements are next to nothing, or one is none.
        Self { scale, inverse, zero: if zero > 0.0 { zero } else { 0.0 } }
    }

    /// What follows a row's integers: the scale's bits and the whole number that stands for 0.
    #[inline(always)]
    pub fn tail(&self) -> [u32; 2] {
        [self.scale.to_bits(), (self.zero + ROUND).to_bits() & 0xFF]
    }

    /// Writes a row's [`Steps::tail`].
    #[inline(always)]
    pub fn write(tail: [u32; 2], to: &mut [u8]) {
        for (to, word) in to.as_chunks_mut().0.iter_mut().zip(tail) {
            *to = word.to_le_bytes();
        }
    }
}

/// Quantises a row to [`Form::Q8`](crate::tensor::Form): the range, which always holds 0, is cut
/// into 255 steps. A row that is not finite throughout gets a scale that is no number, so that it
/// does not pass for one that is; `is_finite` says that none is.
#[inline(always)]
fn quantise_row(x: &[f32], is_finite: bool, out: &mut [u8]) {
    let largest = fold(x, 0.0, larger);
    let smallest = fold(x, 0.0, smaller);
    // Zero, or no number.
    let flaw = if is_finite { 0.0 } else { sum(x, |x| x * 0.0) };
    let steps = Steps::new([smallest, largest], flaw);
    let padded = x.len().next_multiple_of(4);
    let (integers, tail) = out.split_at_mut(padded);
    for (q, &x) in integers.iter_mut().zip(x) {
        *q = byte(x * steps.inverse + steps.zero);
    }
    integers[x.len()..].fill(steps.zero as u8);
    Steps::write(steps.tail(), tail);
}

/// Quantises each row of `c` channels.
#[inline(always)]
pub fn quantise_rows(x: &[f32], c: usize, out: &mut [u8]) {
    let row = Form::Q8.row_bytes(c);
    // Asked once for all rows, as nearly always there is nothing to find.
    let is_finite = sum(x, |x| x * 0.0) == 0.0;
    for (x, out) in x.chunks_exact(c).zip(out.chunks_exact_mut(row)) {
        quantise_row(x, is_finite, out);
    }
}

/// The nearest bf16, ties to even, as little-endian bytes, of the first `width` elements of rows
/// that are `stride` apart, into rows of bytes that are `pitch` apart; a last odd channel is
/// followed by 0.
#[inline(always)]
pub fn bf16_rows(x: &[f32], stride: usize, width: usize, out: &mut [u8], pitch: usize) {
    for (x, out) in x.chunks(stride).zip(out.chunks_mut(pitch)) {
        for (out, &x) in out.as_chunks_mut::<2>().0.iter_mut().zip(&x[..width]) {
            *out = ((to_bf16(x) >> 16) as u16).to_le_bytes();
        }
        if width % 2 == 1 {
            out[2 * width..][..2].fill(0);
        }
    }
}

/// The exponent is rebased by a multiplication, which makes subnormals right as well; what was
/// infinite or not a number gets its exponent back afterwards.
#[inline(always)]
pub fn f16_to_f32(from: &[u8], to: &mut [f32]) {
    const REBASE: f32 = f32::from_bits((254 - 15) << 23);
    const INFINITE: f32 = 65536.0;
    for (&bytes, to) in from.as_chunks::<2>().0.iter().zip(to) {
        let half = u32::from(u16::from_le_bytes(bytes));
        let value = f32::from_bits((half & 0x7FFF) << 13) * REBASE;
        let special = if value >= INFINITE { 0xFF << 23 } else { 0 };
        *to = f32::from_bits(value.to_bits() | special | (half & 0x8000) << 16);
    }
}

#[inline(always)]
pub fn bf16_to_f32(from: &[u8], to: &mut [f32]) {
    for (&bytes, to) in from.as_chunks::<2>().0.iter().zip(to) {
        *to = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
    }
}
