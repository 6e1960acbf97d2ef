//! Layers of Stable Diffusion 1.5's UNet at 512×512 and a small UNet as a whole, on one thread and
//! the best instruction set.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mote::Result;
use mote::exec::Sequential;
use mote::ops::{self, Attention, Context, Conv2d, Epilogue};
use mote::tensor::{Form, Packing, Shape, Tensor};
use mote::weights::Path;
use mote_benches::{Alike, Planned, best_isa};
use mote_host::config::unet_2d;

const PACKINGS: [Packing; 5] =
    [Packing::Plain, Packing::F32, Packing::Bf16, Packing::Q8, Packing::Q4];

/// Times a walk that is run in its planned memory, with all weights of products packed.
fn bench(
    c: &mut Criterion,
    name: &str,
    packing: Packing,
    walk: impl Fn(&mut Context<'_>) -> Result<Tensor>,
) {
    let isa = best_isa();
    let mut weights = Alike::new(1280 * 1280 * 9, packing);
    let planned = Planned::new(isa, &Sequential, &mut weights, &walk);
    let mut planned = planned.expect("the plan succeeds");
    let mut group = c.benchmark_group("layers");
    group.sample_size(10).throughput(Throughput::Elements(planned.multiply_adds));
    group.bench_function(format!("{name}, {packing:?}, {}", isa.name()), |b| {
        b.iter(|| {
            let mut cx = Context::new(planned.arena(), isa, &Sequential, &mut weights);
            walk(&mut cx).expect("the walk succeeds")
        });
    });
}

/// `[rows, channels]` of a half.
fn halves(cx: &mut Context<'_>, shape: Shape) -> Result<Tensor> {
    ops::fill(cx, shape, &vec![0.5; shape.elements()?])
}

fn layers(c: &mut Criterion) {
    let root = Path::root();
    for (size, channels) in [(64, 320), (32, 640), (16, 1280)] {
        let (pixels, heads) = (size * size, 8);
        for packing in PACKINGS {
            bench(c, &format!("conv2d 3x3, {size}x{size}x{channels}"), packing, |cx| {
                let x = halves(cx, Shape::new([1, size, size, channels]))?;
                let matrix = cx.matrix(&root.at("w"), [channels, channels, 3, 3])?;
                ops::conv2d(cx, x, matrix, None, Conv2d::padded(3, 1), Epilogue::NONE)
            });
            bench(c, &format!("linear, {pixels} x {channels} -> {channels}"), packing, |cx| {
                let x = halves(cx, Shape::new([pixels, channels]))?;
                let matrix = cx.matrix(&root.at("w"), [channels, channels])?;
                ops::linear(cx, x, matrix, None, Epilogue::NONE)
            });
        }
        for form in [Form::F32, Form::Bf16] {
            let name = format!("attention, {pixels} tokens, {heads} heads of {}", channels / heads);
            bench(c, &format!("{name}, {form:?}"), Packing::Plain, |cx| {
                let x = halves(cx, Shape::new([1, pixels, channels]))?;
                ops::attention(cx, x, x, x, Attention { heads, causal: false, form })
            });
        }
    }
}

/// One evaluation of a small noise predictor, as one step of sampling takes.
fn unet(c: &mut Criterion) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/conformance/ddpm-uncond/");
    let config = format!("{folder}model/unet/config.json");
    let config = unet_2d::read(std::path::Path::new(&config)).expect("the repository has it");
    let [h, w] = config.sample_size.unwrap_or([32, 32]);
    for packing in PACKINGS {
        bench(c, &format!("UNet2DModel, {h}x{w}"), packing, |cx| {
            let x = halves(cx, Shape::new([1, h, w, config.in_channels]))?;
            config.forward(cx, &Path::root(), x, &[500.0], None)
        });
    }
}

criterion_group!(benches, layers, unet);
criterion_main!(benches);
