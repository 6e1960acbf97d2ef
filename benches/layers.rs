//! Layers of Stable Diffusion 1.5's UNet at 512×512, on one thread and the best instruction set.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mote::Result;
use mote::arch::Isa;
use mote::exec::Sequential;
use mote::mem::{ALIGNMENT, Arena};
use mote::ops::{self, Context, Conv2d};
use mote::tensor::{Shape, Tensor};
use mote::weights::Path;
use mote_benches::{Alike, isas};

/// Times a walk that is run in its planned memory.
fn bench(c: &mut Criterion, name: &str, walk: impl Fn(&mut Context<'_>) -> Result<Tensor>) {
    let isa = isas().pop().unwrap_or(Isa::SCALAR);
    let mut weights = Alike::new(1280 * 2560 * 9);
    let mut cx = Context::new(Arena::measuring(), isa, &Sequential, &mut weights);
    walk(&mut cx).expect("the plan succeeds");
    let (planned, work) = (cx.arena().peak(), cx.tally().multiply_adds);
    let mut memory = vec![0u8; planned + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let mut group = c.benchmark_group("layers");
    group.sample_size(10).throughput(Throughput::Elements(work));
    group.bench_function(format!("{name}, {}", isa.name()), |b| {
        b.iter(|| {
            let arena = Arena::new(&mut memory[start..start + planned]);
            let mut cx = Context::new(arena, isa, &Sequential, &mut weights);
            walk(&mut cx).expect("the walk succeeds")
        });
    });
}

fn layers(c: &mut Criterion) {
    for (size, channels) in [(64, 320), (32, 640), (16, 1280)] {
        bench(c, &format!("conv2d 3x3, {size}x{size}x{channels}"), |cx| {
            let x = ops::fill(
                cx,
                Shape::new([1, size, size, channels]),
                &vec![0.5; size * size * channels],
            )?;
            let weight = cx.weight(&Path::root().at("w"), [channels, channels, 3, 3])?;
            ops::conv2d(cx, x, weight, None, Conv2d::padded(1), None)
        });
        bench(c, &format!("linear, {} x {channels} -> {channels}", size * size), |cx| {
            let x = ops::fill(
                cx,
                Shape::new([size * size, channels]),
                &vec![0.5; size * size * channels],
            )?;
            let weight = cx.weight(&Path::root().at("w"), [channels, channels])?;
            ops::linear(cx, x, weight, None, None)
        });
        bench(
            c,
            &format!("attention, {} tokens, 8 heads of {}", size * size, channels / 8),
            |cx| {
                let x = ops::fill(
                    cx,
                    Shape::new([1, size * size, channels]),
                    &vec![0.5; size * size * channels],
                )?;
                ops::attention(cx, x, x, x, 8, false)
            },
        );
    }
}

criterion_group!(benches, layers);
criterion_main!(benches);
