//! Every kernel on every instruction set of this machine.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use mote::arch::{
    Activation, Attend, Finish, Gather, Isa, KEYS, MAX_TAPS, MR_MAX, NO_ROW, NR_MAX, Panels,
};
use mote::tensor::{Form, PANEL};
use mote_benches::isas;

const FORMS: [Form; 3] = [Form::F32, Form::Bf16, Form::Q8];

/// A tile of a linear layer: as many rows as fit, two panels of columns.
fn product(c: &mut Criterion) {
    const K: usize = 1024;
    for form in FORMS {
        let mut group = c.benchmark_group(format!("product of 1024 in {form:?}"));
        let (row_bytes, steps) = (form.row_bytes(K), form.steps(K));
        for isa in isas() {
            let rows = isa.tile_rows()[isa.tile_panels() - 1];
            let (data, zeros) = (vec![0; rows * row_bytes], vec![0; row_bytes]);
            let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
            for (row, offset) in offsets.iter_mut().enumerate().take(rows) {
                *offset = row * row_bytes;
            }
            let gather =
                Gather { data: &data, zeros: &zeros, offsets: &offsets, taps: 1, steps, row_bytes };
            let (panels, scales) = (vec![0; 4 * NR_MAX * steps], vec![1.0; 2 * NR_MAX]);
            let panels = Panels { data: &panels, scales: &scales, gate: None, next: &[] };
            let mut out = vec![0.0; rows * NR_MAX];
            let mut out: Vec<&mut [f32]> = out.chunks_exact_mut(NR_MAX).collect();
            let mut finish = Finish {
                out: &mut out,
                bias: None,
                residual: None,
                accumulate: false,
                activation: None,
            };
            group.throughput(Throughput::Elements((rows * NR_MAX * K) as u64));
            group.bench_function(BenchmarkId::from_parameter(isa.name()), |b| {
                b.iter(|| isa.product(form.into(), black_box(&gather), &panels, &mut finish));
            });
        }
    }
}

/// A block of queries over 1024 keys of 64 channels.
fn attend(c: &mut Criterion) {
    const TK: usize = 1024;
    const D: usize = 64;
    for form in [Form::F32, Form::Bf16] {
        let mut group = c.benchmark_group(format!("attention of 1024 keys of 64 in {form:?}"));
        let (steps, size) = (form.steps(D), 4 / form.per_step());
        for isa in isas() {
            let count = isa.attend_queries();
            let (queries, keys) = (vec![0; 4 * count * steps], vec![0; TK * 4 * steps]);
            let values = vec![0; TK.next_multiple_of(KEYS) * D * size];
            let mut weights = vec![0; count * KEYS * size];
            let (mut out, mut sums) = (vec![0.0; D * count], vec![0.0; count]);
            group.throughput(Throughput::Elements((2 * count * TK * D) as u64));
            group.bench_function(BenchmarkId::from_parameter(isa.name()), |b| {
                b.iter(|| {
                    isa.attend(black_box(&mut Attend {
                        arithmetic: form.into(),
                        queries: &queries,
                        steps,
                        keys: &keys,
                        key_stride: 4 * steps,
                        values: &values,
                        tk: TK,
                        causal: false,
                        first_query: 0,
                        weights: &mut weights,
                        out: &mut out,
                        sums: &mut sums,
                    }));
                });
            });
        }
    }
}

const LEN: usize = 16 * 1024;

/// Channels of a row.
const ROW: usize = 512;

fn numbers() -> Vec<f32> {
    (0..LEN).map(|i| (i % 100) as f32 * 0.1 - 5.0).collect()
}

/// Times a kernel of 16384 elements on one instruction set.
fn bench(group: &mut BenchmarkGroup<'_, WallTime>, isa: Isa, name: &str, mut run: impl FnMut()) {
    group.throughput(Throughput::Elements(LEN as u64));
    group.bench_function(BenchmarkId::new(name, isa.name()), |b| b.iter(&mut run));
}

fn elementwise(c: &mut Criterion) {
    let x = numbers();
    let mut group = c.benchmark_group("elementwise of 16384");
    for isa in isas() {
        let mut y = x.clone();
        for activation in Activation::ALL {
            bench(&mut group, isa, &format!("{activation:?}"), || {
                y.copy_from_slice(&x);
                isa.activate_f32(activation, black_box(&mut y));
            });
        }
        bench(&mut group, isa, "gelu_times", || {
            y.copy_from_slice(&x);
            isa.gelu_times_f32(&x, black_box(&mut y));
        });
        bench(&mut group, isa, "exp_sub_sum", || {
            y.copy_from_slice(&x);
            black_box(isa.exp_sub_sum_f32(black_box(&mut y), 5.0));
        });
        bench(&mut group, isa, "max", || {
            black_box(isa.max_f32(black_box(&x), 0.0));
        });
        bench(&mut group, isa, "scale_add", || {
            isa.scale_add_f32(black_box(&mut y), 0.5, &x, 0.25);
        });
        bench(&mut group, isa, "subtract", || isa.subtract_f32(black_box(&x), &x, &mut y));
        let mut second = x.clone();
        bench(&mut group, isa, "double", || {
            isa.double_f32([[&x; 3]; 2], black_box(&x), [&mut y, &mut second]);
        });
    }
}

fn rows(c: &mut Criterion) {
    let x = numbers();
    let mut group = c.benchmark_group("rows of 512, 16384 in all");
    let weight = vec![0.5; ROW];
    for isa in isas() {
        let mut y = x.clone();
        let mut moments = vec![0.0; 2 * ROW];
        bench(&mut group, isa, "moments", || isa.moments_f32(black_box(&x), &mut moments));
        for (name, silu) in [("normalise", false), ("normalise_silu", true)] {
            bench(&mut group, isa, name, || {
                isa.normalise_f32(black_box(&x), ROW, [&weight; 3], silu, &mut y, ROW);
            });
        }
        bench(&mut group, isa, "transpose", || {
            for from in (0..ROW).step_by(16) {
                let to = &mut y[from * (LEN / ROW)..];
                isa.transpose_f32(black_box(&x[from..]), ROW, LEN / ROW, to, LEN / ROW);
            }
        });
        bench(&mut group, isa, "layer_norm", || {
            for (x, y) in x.chunks_exact(ROW).zip(y.chunks_exact_mut(ROW)) {
                isa.layer_norm_f32(black_box(x), &weight, &weight, 1e-5, y);
            }
        });
        let mut bytes = vec![0; LEN / ROW * Form::Q8.row_bytes(ROW)];
        bench(&mut group, isa, "quantise_rows", || {
            isa.quantise_rows(black_box(&x), ROW, &mut bytes);
        });
        let mut halves = vec![0x3C; 2 * LEN];
        bench(&mut group, isa, "f16_to_f32", || isa.f16_to_f32(black_box(&halves), &mut y));
        bench(&mut group, isa, "bf16_to_f32", || isa.bf16_to_f32(black_box(&halves), &mut y));
        bench(&mut group, isa, "f32_to_bf16", || isa.f32_to_bf16(black_box(&x), &mut halves));
    }
}

const _: () = assert!(NR_MAX == 2 * PANEL, "the product's tile above has two panels");

criterion_group!(benches, product, attend, elementwise, rows);
criterion_main!(benches);
