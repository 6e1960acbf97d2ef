//! The product of square matrices in f32 on one thread, beside the crate matrixmultiply.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mote::exec::Sequential;
use mote::mem::{ALIGNMENT, Arena};
use mote::ops::{self, Context, Epilogue};
use mote::tensor::{Packing, Shape};
use mote::weights::Path;
use mote_benches::{Alike, best_isa};

const SIDES: [usize; 3] = [256, 512, 1024];

/// The left side, as an input and an output of a layer of this width.
fn halves(side: usize) -> Vec<f32> {
    vec![0.5; side * side]
}

fn ours(c: &mut Criterion) {
    let isa = best_isa();
    for packing in [Packing::Plain, Packing::F32] {
        let mut group = c.benchmark_group(format!("square product, {packing:?}, {}", isa.name()));
        for side in SIDES {
            let mut weights = Alike::new(2 * side * side, packing);
            let mut memory = vec![0u8; 12 * side * side + (4 << 20) + ALIGNMENT];
            let start = memory.as_ptr().align_offset(ALIGNMENT);
            let arena = Arena::new(&mut memory[start..]);
            let mut cx = Context::new(arena, isa, &Sequential, &mut weights);
            let x = ops::fill(&mut cx, Shape::new([side, side]), &halves(side));
            let x = x.expect("there is room");
            group.throughput(Throughput::Elements((side * side * side) as u64));
            group.bench_function(BenchmarkId::from_parameter(side), |b| {
                b.iter(|| {
                    cx.scratch(|cx| {
                        let matrix = cx.matrix(&Path::root().at("w"), [side, side])?;
                        ops::linear(cx, x, matrix, None, Epilogue::NONE)
                    })
                    .expect("there is room")
                });
            });
        }
    }
}

fn matrixmultiply(c: &mut Criterion) {
    let mut group = c.benchmark_group("square product, matrixmultiply");
    for side in SIDES {
        let (a, b, mut out) = (halves(side), halves(side), halves(side));
        let stride = side as isize;
        group.throughput(Throughput::Elements((side * side * side) as u64));
        group.bench_function(BenchmarkId::from_parameter(side), |bencher| {
            bencher.iter(|| {
                let (a, b, out) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
                // SAFETY: all three are `side` rows of `side` elements; b is taken transposed, as
                // a layer's weight is.
                unsafe {
                    matrixmultiply::sgemm(
                        side, side, side, 1.0, a, stride, 1, b, 1, stride, 0.0, out, stride, 1,
                    );
                }
            });
        });
    }
}

criterion_group!(benches, ours, matrixmultiply);
criterion_main!(benches);
