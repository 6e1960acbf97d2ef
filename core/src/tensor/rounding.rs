//! Rounding weights by what they meet, so that their errors make up for each other.
//!
//! With inputs x and `H = E[x·xᵀ]`, errors d of one output channel's weights cost `dᵀ·H·d`. Where
//! `H = R·Rᵀ` and R is upper triangular, that is the sum over k of `(Σ_{j≤k} d_j·R_jk)²`, and each
//! term is as small as rounding allows if weight k is rounded from `w_k + Σ_{j<k} d_j·R_jk/R_kk`.
//! That is GPTQ (Frantar et al. 2023, "GPTQ: Accurate post-training quantization for generative
//! pre-trained transformers", there by the inverse of H).

use super::PANEL;
use super::packed::to_bf16;

/// Inputs that are added up at a time.
pub const INPUTS: usize = 8;

/// Sums that are kept at hand meanwhile.
const RUN: usize = 16;

/// Added to a number of a magnitude below 2²², and taken off again, it leaves the nearest integer,
/// the even one of two.
const TO_INTEGER: f32 = 12_582_912.0;

/// Adds `Σ x·xᵀ` of some inputs of n elements to `squares` `[n, n]`, on and above the diagonal;
/// what lies below it means nothing.
///
/// # Panics
/// Where the slices do not fit.
pub fn add_products(inputs: [&[f32]; INPUTS], squares: &mut [f32]) {
    let n = inputs[0].len();
    assert!(squares.len() == n * n && inputs.iter().all(|input| input.len() == n), "n by n");
    for (i, squares) in squares.chunks_exact_mut(n.max(1)).enumerate() {
        // Whole runs from the one that holds the diagonal on.
        let first = i / RUN * RUN;
        let own = inputs.map(|input| input[i]);
        let rest = inputs.map(|input| input[first..].as_chunks::<RUN>());
        let (runs, last) = squares[first..].as_chunks_mut::<RUN>();
        for (number, run) in runs.iter_mut().enumerate() {
            let mut sums = *run;
            for (own, (rest, _)) in own.iter().zip(&rest) {
                sums.iter_mut().zip(&rest[number]).for_each(|(sum, x)| *sum += own * x);
            }
            *run = sums;
        }
        for (own, (_, rest)) in own.iter().zip(&rest) {
            last.iter_mut().zip(*rest).for_each(|(sum, x)| *sum += own * x);
        }
    }
}

/// `R_jk/R_kk` for `j < k`, k after k, with `R·Rᵀ` the `squares` `[n, n]`, to whose diagonal
/// `damping` times its mean is added: what was met is not all that there is. `columns` is room for
/// `[n, n]`. Yields whether there is such an R: there is none where nothing was met.
///
/// # Panics
/// Where `factors` has not n·(n − 1)/2 elements, or another slice does not fit.
pub fn factor(
    squares: &[f32],
    n: usize,
    damping: f64,
    columns: &mut [f64],
    factors: &mut [f32],
) -> bool {
    assert!(squares.len() == n * n && columns.len() == n * n, "n by n");
    assert!(2 * factors.len() == n * n.saturating_sub(1), "what lies above the diagonal");
    let diagonal = (0..n).map(|i| f64::from(squares[i * n + i])).sum::<f64>();
    let damping = damping * diagonal / n as f64;
    for k in (0..n).rev() {
        let (column, later) = columns[k * n..].split_at_mut(n);
        for (j, value) in column[..=k].iter_mut().enumerate() {
            *value = f64::from(squares[j * n + k]);
        }
        column[k] += damping;
        for later in later.chunks_exact(n) {
            let factor = later[k];
            column[..=k].iter_mut().zip(later).for_each(|(value, x)| *value -= factor * x);
        }
        let pivot = libm::sqrt(column[k]);
        if !pivot.is_normal() {
            return false;
        }
        column[..=k].iter_mut().for_each(|value| *value /= pivot);
    }
    let mut rest = factors;
    for (k, column) in columns.chunks_exact(n.max(1)).enumerate() {
        let (own, after) = rest.split_at_mut(k);
        own.iter_mut().zip(column).for_each(|(to, value)| *to = (value / column[k]) as f32);
        rest = after;
    }
    true
}

/// The values that weights may have, of a panel's output channels.
#[derive(Clone, Copy, Debug)]
pub enum Grid<'a> {
    /// bf16.
    Bf16,
    /// Whole multiples of `steps` `[n, 16]`, from the first to the second of `limits`; where a step
    /// is not above zero, zero.
    Steps {
        /// The steps.
        steps: &'a [[f32; PANEL]],
        /// The least and the most multiple.
        limits: [f32; 2],
    },
}

impl Grid<'_> {
    /// The values of weight k nearest to those wanted.
    fn nearest(&self, k: usize, wanted: [f32; PANEL]) -> [f32; PANEL] {
        match self {
            Self::Bf16 => wanted.map(|wanted| f32::from_bits(u32::from(to_bf16(wanted)) << 16)),
            Self::Steps { steps, limits: [least, most] } => {
                let mut near = wanted;
                for (near, step) in near.iter_mut().zip(&steps[k]) {
                    let inverse = if *step > 0.0 { 1.0 / step } else { 0.0 };
                    let multiple = (*near * inverse).clamp(*least, *most);
                    *near = ((multiple + TO_INTEGER) - TO_INTEGER) * step;
                }
                near
            }
        }
    }
}

/// Rounds weights of a panel's output channels, `[n, 16]`, to values of a grid. `factors` are those
/// of [`factor`], `errors` room for `[n, 16]`.
///
/// # Panics
/// Where the slices do not fit.
pub fn round(
    weights: &mut [[f32; PANEL]],
    grid: Grid<'_>,
    factors: &[f32],
    errors: &mut [[f32; PANEL]],
) {
    let n = weights.len();
    assert!(errors.len() == n, "an error for each weight");
    assert!(2 * factors.len() == n * n.saturating_sub(1), "factors of as many weights");
    let mut rest = factors;
    for (k, weights) in weights.iter_mut().enumerate() {
        let (own, after) = rest.split_at(k);
        rest = after;
        let mut wanted = *weights;
        for (factor, errors) in own.iter().zip(&*errors) {
            wanted.iter_mut().zip(errors).for_each(|(wanted, error)| *wanted += factor * error);
        }
        let near = grid.nearest(k, wanted);
        for ((error, weight), near) in errors[k].iter_mut().zip(&*weights).zip(near) {
            *error = weight - near;
        }
        *weights = near;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// n inputs that have much in common, of any magnitude.
    fn inputs(n: usize, count: usize) -> Vec<Vec<f32>> {
        let mut state = 1u32;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let one = |draw: &mut dyn FnMut() -> f32| {
            let common = draw();
            (0..n).map(|i| common * (1 + i % 3) as f32 + 0.5 * draw()).collect()
        };
        (0..count).map(|_| one(&mut draw)).collect()
    }

    fn squares(inputs: &[Vec<f32>], n: usize) -> Vec<f32> {
        let mut squares = vec![0.0; n * n];
        for eight in inputs.chunks_exact(INPUTS) {
            add_products(core::array::from_fn(|i| &eight[i][..]), &mut squares);
        }
        squares
    }

    #[test]
    fn products_are_added_on_and_above_the_diagonal() {
        for n in [1, 3, 16, 37] {
            let inputs = inputs(n, 2 * INPUTS);
            let squares = squares(&inputs, n);
            for i in 0..n {
                for j in i..n {
                    let sum: f32 = inputs.iter().map(|x| x[i] * x[j]).sum();
                    assert!((squares[i * n + j] - sum).abs() < 1e-4, "{n} {i} {j}");
                }
            }
        }
    }

    #[test]
    fn factors_are_those_of_a_triangular_root() {
        let r = [[2.0, 0.5, -1.0], [0.0, 1.5, 0.25], [0.0, 0.0, 4.0f32]];
        let mut squares = [f32::NAN; 9];
        for i in 0..3 {
            for j in i..3 {
                squares[3 * i + j] = (0..3).map(|k| r[i][k] * r[j][k]).sum();
            }
        }
        let (mut columns, mut factors) = ([0.0; 9], [0.0; 3]);
        assert!(factor(&squares, 3, 0.0, &mut columns, &mut factors));
        for (found, expected) in factors.iter().zip([0.5 / 1.5, -0.25, 0.0625]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        assert!(!factor(&[0.0; 9], 3, 0.01, &mut columns, &mut factors));
    }

    #[test]
    fn errors_make_up_for_each_other_and_all_is_on_the_grid() {
        let n = 40;
        let met = inputs(n, 64 * INPUTS);
        let (mut columns, mut factors) = (vec![0.0; n * n], vec![0.0; n * (n - 1) / 2]);
        assert!(factor(&squares(&met, n), n, 0.01, &mut columns, &mut factors));
        let exact: Vec<[f32; PANEL]> =
            (0..n).map(|k| core::array::from_fn(|j| ((k * 7 + j * 3) as f32).sin())).collect();
        let steps: Vec<[f32; PANEL]> =
            vec![core::array::from_fn(|j| if j == 5 { 0.0 } else { 1.0 / 7.0 }); n];
        let rounded = |grid, factors: &[f32]| {
            let (mut near, mut errors) = (exact.clone(), vec![[0.0; PANEL]; n]);
            round(&mut near, grid, factors, &mut errors);
            near
        };
        // How far outputs are off, all channels but the one without a step.
        let error = |near: &[[f32; PANEL]]| {
            let mut sum = 0.0;
            for x in &met {
                for j in (0..PANEL).filter(|&j| j != 5) {
                    let off: f32 = (0..n).map(|k| x[k] * (near[k][j] - exact[k][j])).sum();
                    sum += off * off;
                }
            }
            sum
        };
        let none = vec![0.0; factors.len()];
        let steps = Grid::Steps { steps: &steps, limits: [-8.0, 7.0] };
        for grid in [steps, Grid::Bf16] {
            let [nearest, moved] = [&none, &factors].map(|factors| error(&rounded(grid, factors)));
            assert!(moved < 0.3 * nearest, "{grid:?}: {moved} {nearest}");
        }
        for near in &rounded(steps, &factors) {
            for (j, near) in near.iter().enumerate() {
                let whole = near * 7.0;
                assert!((whole - whole.round()).abs() < 1e-4 && (-8.1..7.1).contains(&whole));
                assert!(j != 5 || *near == 0.0);
            }
        }
    }
}
