//! Every kernel on every instruction set of this machine.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mote::arch::{Activation, Gather};
use mote_benches::isas;

fn gemm(c: &mut Criterion) {
    let mut group = c.benchmark_group("gemm_f32 of 1024");
    for isa in isas() {
        let [mr, nr] = isa.gemm_f32_tile();
        let k = 1024;
        let (data, zeros) = (vec![0.5; mr * k], vec![0.0; k]);
        let offsets: Vec<usize> = (0..mr).map(|row| row * k).collect();
        let panel = vec![0.25; nr * k];
        let mut tile = vec![0.0; mr * nr];
        group.throughput(Throughput::Elements((mr * nr * k) as u64));
        group.bench_function(BenchmarkId::from_parameter(isa.name()), |b| {
            let gather =
                Gather { data: &data, zeros: &zeros, offsets: &offsets, taps: 1, channels: k };
            b.iter(|| isa.gemm_f32(black_box(&gather), black_box(&panel), &mut tile));
        });
    }
}

fn elementwise(c: &mut Criterion) {
    const LEN: usize = 16 * 1024;
    let x: Vec<f32> = (0..LEN).map(|i| (i % 100) as f32 * 0.1 - 5.0).collect();
    let mut group = c.benchmark_group("elementwise of 16384");
    group.throughput(Throughput::Elements(LEN as u64));
    for isa in isas() {
        for activation in Activation::ALL {
            let mut y = x.clone();
            group.bench_function(BenchmarkId::new(format!("{activation:?}"), isa.name()), |b| {
                b.iter(|| {
                    y.copy_from_slice(&x);
                    isa.activate_f32(activation, black_box(&mut y));
                });
            });
        }
        let mut y = x.clone();
        group.bench_function(BenchmarkId::new("exp_sub_sum", isa.name()), |b| {
            b.iter(|| {
                y.copy_from_slice(&x);
                isa.exp_sub_sum_f32(black_box(&mut y), 5.0)
            });
        });
        let halves = vec![0x3Cu8; 2 * LEN];
        group.bench_function(BenchmarkId::new("f16_to_f32", isa.name()), |b| {
            b.iter(|| isa.f16_to_f32(black_box(&halves), &mut y));
        });
    }
}

criterion_group!(benches, gemm, elementwise);
criterion_main!(benches);
