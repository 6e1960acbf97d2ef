//! What one layer's tensors in a file say is to be added to its weight.

use mote::tensor::Shape;

use crate::error::{Failure, Result};

/// A tensor of a file, read.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

impl Matrix {
    fn side(&self, at: usize) -> usize {
        self.shape.get(at).copied().unwrap_or(1)
    }

    /// What lies behind the first two sides: a convolution's taps.
    fn taps(&self) -> usize {
        self.shape.iter().skip(2).product()
    }

    /// Values of each of the first side.
    fn row(&self) -> usize {
        self.shape.iter().skip(1).product()
    }
}

/// How a layer's change is written down. Rank is the width between two factors.
#[derive(Clone, Debug)]
pub enum Delta {
    /// `up·down` (Hu et al. 2021), with a core between where it is a convolution's (LoCon).
    LowRank {
        /// `[out, rank]`.
        up: Matrix,
        /// `[rank, in, ...]`.
        down: Matrix,
        /// `[rank, rank, ...]`.
        mid: Option<Matrix>,
    },
    /// `(a1·b1) ∘ (a2·b2)` (LoHa; Hyeon-Woo et al. 2021), each with a core where it is a
    /// convolution's.
    Hadamard([(Matrix, Matrix, Option<Matrix>); 2]),
    /// `w1 ⊗ w2` (LoKr).
    Kronecker([Factor; 2]),
    /// As it is.
    Whole(Matrix),
}

/// A factor of a Kronecker product.
#[derive(Clone, Debug)]
pub enum Factor {
    /// As it is.
    Whole(Matrix),
    /// `a·b`, with a core where it is a convolution's.
    Product(Matrix, Matrix, Option<Matrix>),
}

/// `[m, k]·[k, n]`.
fn product(a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    let mut out = vec![0.0; m * n];
    for (out, a) in out.chunks_exact_mut(n.max(1)).zip(a.chunks_exact(k.max(1))) {
        for (&a, b) in a.iter().zip(b.chunks_exact(n.max(1))) {
            out.iter_mut().zip(b).for_each(|(out, b)| *out += a * b);
        }
    }
    out
}

fn transposed(a: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| a[r * columns + c])).collect()
}

/// `[out, in, taps]` of a core `[i, j, taps]` between `[out, i]` and `[j, in]`.
fn around(core: &Matrix, left: &[f32], right: &[f32], [out, inputs]: [usize; 2]) -> Vec<f32> {
    let (i, j, taps) = (core.side(0), core.side(1), core.taps());
    let mut inner = vec![0.0; i * inputs * taps];
    for x in 0..i {
        for y in 0..j {
            for input in 0..inputs {
                let factor = right[y * inputs + input];
                let from = &core.values[(x * j + y) * taps..][..taps];
                let to = &mut inner[(x * inputs + input) * taps..][..taps];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
            }
        }
    }
    product(left, &inner, [out, i, inputs * taps])
}

/// Refuses tensors that do not fit each other and the weight.
fn fits(is: bool) -> Result<()> {
    match is {
        true => Ok(()),
        false => Err(Failure::new("its tensors do not fit the weight that they change")),
    }
}

impl Delta {
    /// The rank, by which alpha is divided; a change that has none ignores alpha.
    pub fn rank(&self) -> Option<usize> {
        match self {
            Self::LowRank { down, .. } => Some(down.side(0)),
            Self::Hadamard([(_, b, _), _]) => Some(b.side(0)),
            Self::Kronecker(factors) => {
                let rank = |factor: &Factor| match factor {
                    Factor::Whole(_) => None,
                    Factor::Product(_, b, _) => Some(b.side(0)),
                };
                rank(&factors[1]).or(rank(&factors[0]))
            }
            Self::Whole(_) => None,
        }
    }

    /// Refuses tensors that do not fit a weight of this shape.
    ///
    /// # Errors
    /// Where they do not.
    pub fn check(&self, weight: Shape) -> Result<()> {
        let [out, inputs, taps] = sides(weight);
        let columns = inputs * taps;
        match self {
            Self::LowRank { up, down, mid: None } => {
                let rank = down.side(0);
                fits(up.values.len() == out * rank && down.values.len() == rank * columns)
            }
            Self::LowRank { up, down, mid: Some(mid) } => {
                fits(up.values.len() == out * mid.side(0) && mid.taps() == taps)?;
                fits(down.values.len() == mid.side(1) * inputs)
            }
            Self::Hadamard(factors) => factors.iter().try_for_each(|(a, b, core)| match core {
                None => {
                    let rank = b.side(0);
                    fits(a.values.len() == out * rank && b.values.len() == rank * columns)
                }
                Some(core) => {
                    fits(a.values.len() == core.side(0) * out && core.taps() == taps)?;
                    fits(b.values.len() == core.side(1) * inputs)
                }
            }),
            Self::Kronecker([first, second]) => {
                let most = out * columns;
                let [first, second] = [first.whole(most)?, second.whole(most)?];
                let [a, c] = [first.side(0), second.side(0)];
                let [b, d] = [first.side(1), second.side(1)];
                fits(a.checked_mul(c) == Some(out) && b.checked_mul(d) == Some(inputs))?;
                fits(first.taps() == 1 && second.taps() == taps)
            }
            Self::Whole(whole) => fits(whole.values.len() == out * columns),
        }
    }

    /// The change of a weight of this shape.
    ///
    /// # Errors
    /// Where its tensors do not fit it.
    pub fn values(&self, weight: Shape) -> Result<Vec<f32>> {
        self.check(weight)?;
        let [out, inputs, taps] = sides(weight);
        Ok(match self {
            Self::LowRank { up, down, mid: None } => {
                product(&up.values, &down.values, [out, down.side(0), inputs * taps])
            }
            Self::LowRank { up, down, mid: Some(mid) } => {
                around(mid, &up.values, &down.values, [out, inputs])
            }
            Self::Hadamard(factors) => {
                let [first, second] = [0, 1].map(|at| hadamard(&factors[at], [out, inputs, taps]));
                first.iter().zip(&second).map(|(a, b)| a * b).collect()
            }
            Self::Kronecker([first, second]) => {
                let most = out * inputs * taps;
                kronecker(&first.whole(most)?, &second.whole(most)?)
            }
            Self::Whole(whole) => whole.values.clone(),
        })
    }
}

/// Outputs, inputs and taps of a weight.
fn sides(weight: Shape) -> [usize; 3] {
    let sides = weight.as_slice();
    let side = |at: usize| sides.get(at).copied().unwrap_or(1);
    [side(0), side(1), sides.iter().skip(2).product()]
}

fn hadamard(
    (a, b, core): &(Matrix, Matrix, Option<Matrix>),
    [out, inputs, taps]: [usize; 3],
) -> Vec<f32> {
    let Some(core) = core else {
        return product(&a.values, &b.values, [out, b.side(0), inputs * taps]);
    };
    around(core, &transposed(&a.values, [core.side(0), out]), &b.values, [out, inputs])
}

impl Factor {
    /// Multiplied out, where that yields `most` values at most: a file may say anything.
    fn whole(&self, most: usize) -> Result<Matrix> {
        match self {
            Self::Whole(matrix) => Ok(matrix.clone()),
            Self::Product(a, b, None) => {
                let [m, k] = [a.side(0), a.row()];
                let taps = b.shape.get(1..).unwrap_or_default();
                fits(b.side(0) == k && m.checked_mul(b.row()).is_some_and(|n| n <= most))?;
                let shape = [&[m], taps].concat();
                Ok(Matrix { shape, values: product(&a.values, &b.values, [m, k, b.row()]) })
            }
            Self::Product(a, b, Some(core)) => {
                let (out, inputs) = (a.side(1), b.side(1));
                fits(a.side(0) == core.side(0) && b.side(0) == core.side(1))?;
                fits(a.values.len() == a.side(0) * out && b.values.len() == b.side(0) * inputs)?;
                let all = out.checked_mul(inputs).and_then(|n| n.checked_mul(core.taps()));
                fits(all.is_some_and(|n| n <= most))?;
                let left = transposed(&a.values, [a.side(0), out]);
                let taps = core.shape.get(2..).unwrap_or_default();
                let shape = [&[out, inputs], taps].concat();
                Ok(Matrix { shape, values: around(core, &left, &b.values, [out, inputs]) })
            }
        }
    }
}

/// `[a·c, b·d, taps]` of `[a, b]` and `[c, d, taps]`.
fn kronecker(first: &Matrix, second: &Matrix) -> Vec<f32> {
    let ([a, b], [c, d]) = ([first.side(0), first.side(1)], [second.side(0), second.side(1)]);
    let taps = second.taps();
    let mut out = Vec::with_capacity(first.values.len() * second.values.len());
    for row in 0..a * c {
        for column in 0..b {
            let factor = first.values[row / c * b + column];
            let from = &second.values[row % c * d * taps..][..d * taps];
            out.extend(from.iter().map(|value| factor * value));
        }
    }
    out
}

/// Whether lengths that were learned are those of a weight's outputs, or of its inputs.
///
/// # Errors
/// Where they are neither.
pub fn are_of_outputs(lengths: &Matrix, weight: Shape) -> Result<bool> {
    let ([out, inputs, _], count) = (sides(weight), lengths.values.len());
    fits(count == out || count == inputs)?;
    Ok(lengths.side(0) == out && count == out)
}

/// Gives the outputs of a changed weight, or its inputs, the lengths that were learned for them
/// (DoRA; Liu et al. 2024).
///
/// # Errors
/// As [`are_of_outputs`].
pub fn with_lengths(lengths: &Matrix, weight: Shape, values: &mut [f32]) -> Result<()> {
    let ([_, inputs, taps], by_output) = (sides(weight), are_of_outputs(lengths, weight)?);
    let group = |at: usize| if by_output { at / (inputs * taps) } else { at / taps % inputs };
    let mut sums = vec![0.0_f64; lengths.values.len()];
    for (at, value) in values.iter().enumerate() {
        sums[group(at)] += f64::from(*value).powi(2);
    }
    for (at, value) in values.iter_mut().enumerate() {
        let group = group(at);
        *value *= lengths.values[group] / (sums[group].sqrt() as f32 + f32::EPSILON);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(shape: &[usize], values: &[f32]) -> Matrix {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Matrix { shape: shape.into(), values: values.into() }
    }

    #[test]
    fn two_factors_a_core_and_a_kronecker_product_are_multiplied_out() {
        let up = matrix(&[2, 1], &[1.0, 2.0]);
        let down = matrix(&[1, 3], &[1.0, 10.0, 100.0]);
        let low = Delta::LowRank { up: up.clone(), down: down.clone(), mid: None };
        let expected = [1.0, 10.0, 100.0, 2.0, 20.0, 200.0];
        assert_eq!(low.values(Shape::new([2, 3])).unwrap(), expected);
        assert_eq!(low.rank(), Some(1));
        let core = matrix(&[1, 1, 1, 2], &[1.0, -1.0]);
        let mid = Delta::LowRank { up: up.clone(), down: down.clone(), mid: Some(core) };
        let values = mid.values(Shape::new([2, 3, 1, 2])).unwrap();
        assert_eq!(values[..6], [1.0, -1.0, 10.0, -10.0, 100.0, -100.0]);
        let half = || (up.clone(), down.clone(), None);
        let loha = Delta::Hadamard([half(), half()]);
        let squares = expected.map(|value| value * value);
        assert_eq!(loha.values(Shape::new([2, 3])).unwrap(), squares);
        let first = Factor::Whole(matrix(&[1, 2], &[1.0, 2.0]));
        let second = Factor::Product(up, matrix(&[1, 2], &[1.0, 3.0]), None);
        let lokr = Delta::Kronecker([first, second]);
        let expected = [1.0, 3.0, 2.0, 6.0, 2.0, 6.0, 4.0, 12.0];
        assert_eq!(lokr.values(Shape::new([2, 4])).unwrap(), expected);
    }

    #[test]
    fn lengths_are_each_outputs_or_each_inputs() {
        let shape = Shape::new([2, 3]);
        let mut values = [3.0, 4.0, 0.0, 0.0, 0.0, 2.0];
        with_lengths(&matrix(&[2, 1], &[10.0, 1.0]), shape, &mut values).unwrap();
        assert!((values[0] - 6.0).abs() < 1e-5 && (values[5] - 1.0).abs() < 1e-5);
        with_lengths(&matrix(&[1, 3], &[1.0, 1.0, 2.0]), shape, &mut values).unwrap();
        assert!((values[0] - 1.0).abs() < 1e-5 && (values[5] - 2.0).abs() < 1e-5);
        assert!(with_lengths(&matrix(&[4], &[1.0; 4]), shape, &mut values).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let low = Delta::LowRank {
            up: matrix(&[2, 1], &[1.0; 2]),
            down: matrix(&[1, 3], &[1.0; 3]),
            mid: None,
        };
        for shape in [Shape::new([2, 4]), Shape::new([3, 3]), Shape::new([2, 3, 2, 1])] {
            assert!(low.values(shape).is_err());
        }
    }
}
