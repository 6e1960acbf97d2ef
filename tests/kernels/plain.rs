//! What ops are, as loops in f64: several tests compare with them.

use mote::ops::Conv2d;

/// The same numbers, wider.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// The same numbers, rounded.
pub fn narrow(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|value| value as f32).collect()
}

/// A convolution of `[n, h, w, ci]` with `[co, ci, kh, kw]` and a bias for each output channel.
pub fn conv2d(
    x: &[f64],
    [n, h, w, ci]: [usize; 4],
    weight: &[f64],
    bias: &[f64],
    conv: Conv2d,
) -> Vec<f64> {
    let co = bias.len();
    let [out_h, out_w] = conv.output_size([h, w]).expect("the kernel fits");
    let [size_h, size_w] = conv.upsample_to.unwrap_or([h, w]);
    let ([kh, kw], [top, _, left, _]) = (conv.kernel, conv.padding);
    let nearest = |at: usize, from: usize, to: usize| {
        ((at as f32 * (from as f32 / to as f32)) as usize).min(from - 1)
    };
    let mut out = Vec::new();
    for i in 0..n * out_h * out_w * co {
        let (to, across, down) = (i % co, i / co % out_w, i / co / out_w % out_h);
        let image = i / co / out_w / out_h;
        let mut sum = bias[to];
        for tap in 0..kh * kw {
            let y = (down * conv.stride + tap / kw).wrapping_sub(top);
            let z = (across * conv.stride + tap % kw).wrapping_sub(left);
            if y < size_h && z < size_w {
                let (y, z) = (nearest(y, h, size_h), nearest(z, w, size_w));
                let x = &x[((image * h + y) * w + z) * ci..][..ci];
                let weight = weight[to * ci * kh * kw + tap..].iter().step_by(kh * kw);
                sum += x.iter().zip(weight).map(|(a, b)| a * b).sum::<f64>();
            }
        }
        out.push(sum);
    }
    out
}

/// Attention of `[n, tq, c]` to `[n, tk, c]`.
pub fn attention(
    [q, k, v]: [&[f64]; 3],
    [n, tq, tk, c]: [usize; 4],
    heads: usize,
    causal: bool,
) -> Vec<f64> {
    let (mut out, d) = (vec![0.0; q.len()], c / heads);
    for (sample, head, query) in
        (0..n * heads * tq).map(|i| (i / heads / tq, i / tq % heads, i % tq))
    {
        let at = |token: usize, of: usize| (sample * of + token) * c + head * d;
        let seen = if causal { tk.min(query + 1) } else { tk };
        let score = |key: usize| -> f64 {
            let (q, k) = (&q[at(query, tq)..][..d], &k[at(key, tk)..][..d]);
            q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt()
        };
        let weights: Vec<f64> = (0..seen).map(|key| score(key).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (key, weight) in weights.iter().enumerate() {
            for i in 0..d {
                out[at(query, tq) + i] += weight / sum * v[at(key, tk) + i];
            }
        }
    }
    out
}
