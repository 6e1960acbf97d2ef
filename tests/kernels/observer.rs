//! The observer of a walk: told once of each op that ends, of what it cost, and of nothing while a
//! walk is planned.

use mote::arch::Isa;
use mote::exec::Sequential;
use mote::mem::Arena;
use mote::ops::{
    self, Activation, Attention, Context, Conv2d, Epilogue, Event, GroupNorm, Op,
    SinusoidalEmbedding,
};
use mote::tensor::{Form, Shape};
use mote::weights::Path;
use mote_tests::{Memory, TestWeights, numbers};

/// A walk through an op of each kind; the tensors are pictures of 4x4 pixels with 4 channels.
fn walk(cx: &mut Context<'_>) -> mote::Result<()> {
    let (root, shape) = (Path::root(), Shape::new([1, 4, 4, 4]));
    let input = ops::fill(cx, shape, &[0.5; 64])?;
    let scale = cx.weight(&root.at("norm.weight"), [4])?;
    let norm =
        GroupNorm { groups: 2, eps: 1e-5, scale_shift: None, activation: None, form: Form::F32 };
    let x = ops::group_norm(cx, input, scale, scale, norm)?;
    let conv = cx.matrix(&root.at("conv.weight"), [4, 4, 3, 3])?;
    let x = ops::conv2d(cx, x, conv, None, Conv2d::padded(3, 1), Epilogue::NONE)?;
    let x = ops::activate(cx, x, Activation::Silu)?;
    ops::add_in_place(cx, x, input)?;
    let tokens = ops::avg_pool_2x2(cx, x)?.reshape([1, 4, 4])?;
    let tokens = ops::layer_norm(cx, tokens, scale, scale, 1e-5, Form::F32)?;
    let projection = cx.matrix(&root.at("to_q.weight"), [4, 4])?;
    let q = ops::linear(cx, tokens, projection, None, Epilogue::NONE)?;
    let attention = Attention { heads: 2, causal: false, form: Form::F32 };
    let y = ops::attention(cx, q, q, q, attention)?;
    ops::geglu(cx, y)?;
    let how = SinusoidalEmbedding { flip_sin_to_cos: true, freq_shift: 0.0 };
    ops::sinusoidal_embedding(cx, &[1.0], 8, how)?;
    Ok(())
}

fn weights() -> TestWeights {
    let mut weights = TestWeights::default();
    weights.push("norm.weight", &[4], &numbers(1, 4));
    weights.push("conv.weight", &[4, 4, 3, 3], &numbers(2, 144));
    weights.push("to_q.weight", &[4, 4], &numbers(3, 16));
    weights
}

#[test]
fn each_op_that_ends_is_told_once_with_its_weight_and_its_cost() {
    let mut weights = weights();
    let mut events = Vec::new();
    let mut observer = |event: Event<'_>| {
        let shape = event.shape.as_slice().to_vec();
        events.push((event.op, event.weight.to_string(), shape, event.cost));
    };
    let mut memory = Memory::dirty(1 << 20, 0);
    let arena = Arena::new(memory.bytes());
    let mut cx = Context::new(arena, Isa::SCALAR, &Sequential, &mut weights);
    cx.observe(&mut observer);
    walk(&mut cx).unwrap();
    let tally = cx.tally();
    let ends: Vec<_> = events.iter().map(|(op, weight, _, _)| (*op, weight.as_str())).collect();
    assert_eq!(
        ends,
        [
            (Op::Copy, ""),
            (Op::GroupNorm, "norm.weight"),
            (Op::Conv2d, "conv.weight"),
            (Op::Activation, "conv.weight"),
            (Op::Elementwise, "conv.weight"),
            (Op::Resample, "conv.weight"),
            (Op::LayerNorm, "conv.weight"),
            (Op::Linear, "to_q.weight"),
            (Op::Attention, "to_q.weight"),
            (Op::Geglu, "to_q.weight"),
            (Op::Embedding, "to_q.weight"),
        ]
    );
    let cost = |at: usize| (events[at].3.multiply_adds, events[at].3.weight_bytes);
    assert_eq!(cost(1), (0, 16));
    assert_eq!(cost(2), (16 * 4 * 36, 4 * 144));
    assert_eq!(cost(7), (4 * 4 * 4, 4 * 16));
    assert_eq!(cost(8), (2 * 4 * 4 * 4, 0));
    assert_eq!((&events[2].2[..], &events[9].2[..]), (&[1, 4, 4, 4][..], &[1, 4, 2][..]));
    let products: u64 = events.iter().map(|event| event.3.multiply_adds).sum();
    let weights: u64 = events.iter().map(|event| event.3.weight_bytes).sum();
    assert_eq!([products, weights], [tally.multiply_adds, tally.weight_bytes]);
}

#[test]
fn a_plan_tells_nothing_as_nothing_happens() {
    let mut weights = weights();
    let mut observer = |event: Event<'_>| panic!("{event:?}");
    let mut cx = Context::new(Arena::measuring(), Isa::SCALAR, &Sequential, &mut weights);
    cx.observe(&mut observer);
    walk(&mut cx).unwrap();
    assert!(cx.tally().multiply_adds > 0);
}

#[test]
fn costs_begin_anew_with_the_tally() {
    let mut weights = weights();
    let mut costs = Vec::new();
    let mut observer = |event: Event<'_>| costs.push(event.cost);
    let mut memory = Memory::dirty(1 << 20, 0);
    let arena = Arena::new(memory.bytes());
    let mut cx = Context::new(arena, Isa::SCALAR, &Sequential, &mut weights);
    cx.observe(&mut observer);
    for _ in 0..2 {
        cx.reset_tally();
        walk(&mut cx).unwrap();
    }
    let (first, second) = costs.split_at(costs.len() / 2);
    assert!(!first.is_empty() && first == second);
}
