//! Every layer on this machine, by criterion: throughput in bytes read and written, beside a copy of the same size.
//!
//! `cargo bench` measures the CPU and, where there is a GPU, CUDA by its events. `cargo bench -- cpu/LayerNorm` picks.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use warpnorm::cudarc::driver::sys::CUevent_flags;
use warpnorm::half::bf16;
use warpnorm::{Args, BatchNorm, Cpu, Cuda, DType, GroupNorm, LayerNorm, Layout, RmsNorm, Shape, Signature};

/// Rows and row length of the layers over rows.
const ROWS: [usize; 2] = [4096, 4096];
/// Of the layers over images.
const IMAGES: [usize; 4] = [16, 64, 56, 56];

fn cpu(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cpu");
    let rows: usize = ROWS.iter().product();
    let x = vec![bf16::ONE; rows];
    let weight = vec![1.0_f32; ROWS[1]];
    let mut y = vec![bf16::ZERO; rows];
    group.throughput(Throughput::Bytes(2 * size_of_val(x.as_slice()) as u64));
    group.bench_function("copy/bf16/4096x4096", |b| b.iter(|| black_box(&mut y).copy_from_slice(black_box(&x))));
    let layer = LayerNorm::new([ROWS[1]]).expect("a layer");
    group.bench_function("LayerNorm/bf16/4096x4096", |b| {
        b.iter(|| layer.forward(Args::new(&Cpu, ROWS).input(&x).weight(&weight).output(&mut y)).expect("a call"));
    });
    let layer = RmsNorm::new([ROWS[1]], 1e-6).expect("a layer");
    group.bench_function("RMSNorm/bf16/4096x4096", |b| {
        b.iter(|| layer.forward(Args::new(&Cpu, ROWS).input(&x).weight(&weight).output(&mut y)).expect("a call"));
    });

    let x = vec![1.0_f32; IMAGES.iter().product()];
    let mut y = x.clone();
    group.throughput(Throughput::Bytes(2 * size_of_val(x.as_slice()) as u64));
    group.bench_function("copy/f32/16x64x56x56", |b| b.iter(|| black_box(&mut y).copy_from_slice(black_box(&x))));
    let layer = GroupNorm::new(32, IMAGES[1]).expect("a layer");
    group.bench_function("GroupNorm/f32/16x64x56x56", |b| {
        b.iter(|| layer.forward(Args::new(&Cpu, IMAGES).input(&x).output(&mut y)).expect("a call"));
    });
    let statistics = vec![1.0_f32; IMAGES[1]];
    for (layout, name) in [(Layout::Nchw, "NCHW"), (Layout::Nhwc, "NHWC")] {
        let layer = BatchNorm::new(IMAGES[1]).expect("a layer").layout(layout);
        let shape = in_layout(layout);
        group.bench_function(format!("BatchNorm/f32/16x64x56x56/{name}"), |b| {
            b.iter(|| {
                let args = Args::new(&Cpu, shape).running_mean(&statistics).running_var(&statistics);
                layer.forward(args.input(&x).output(&mut y)).expect("a call");
            });
        });
    }
    group.finish();
}

fn in_layout(layout: Layout) -> Shape {
    let [n, c, h, w] = IMAGES;
    if layout == Layout::Nchw { IMAGES.into() } else { [n, h, w, c].into() }
}

fn cuda(criterion: &mut Criterion) {
    let cuda = match Cuda::open(0) {
        Ok(cuda) => cuda,
        Err(error) => return println!("cuda: not measured: {error}"),
    };
    let stream = cuda.stream();
    let mut group = criterion.benchmark_group("cuda");
    let timed = |iterations: u64, call: &mut dyn FnMut()| {
        let event = || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).expect("an event");
        let start = event();
        (0..iterations).for_each(|_| call());
        Duration::from_secs_f64(f64::from(start.elapsed_ms(&event()).expect("a time")) * 1e-3)
    };
    let rows: usize = ROWS.iter().product();
    let x = stream.clone_htod(&vec![bf16::ONE; rows]).expect("memory");
    let weight = stream.clone_htod(&vec![1.0_f32; ROWS[1]]).expect("memory");
    let mut y = stream.alloc_zeros::<bf16>(rows).expect("memory");
    group.throughput(Throughput::Bytes(4 * rows as u64));
    group.bench_function("copy/bf16/4096x4096", |b| {
        b.iter_custom(|iterations| timed(iterations, &mut || stream.memcpy_dtod(&x, &mut y).expect("a copy")));
    });
    let layer = LayerNorm::new([ROWS[1]]).expect("a layer");
    let prepared = layer.prepare(&cuda, &Signature::new(ROWS, DType::Bf16).weight(DType::F32)).expect("a plan");
    group.bench_function("LayerNorm/bf16/4096x4096", |b| {
        b.iter_custom(|iterations| {
            timed(iterations, &mut || {
                let args = Args::new(&cuda, ROWS).input(&x).weight(&weight).output(&mut y);
                prepared.forward(args).expect("a launch");
            })
        });
    });
    group.finish();
}

criterion_group!(benches, cpu, cuda);
criterion_main!(benches);
