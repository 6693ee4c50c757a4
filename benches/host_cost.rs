//! What a call costs the host: a prepared call by the raw layer and by the typed one, beside the driver's bare launch of a
//! kernel that does nothing. The goal: at most 0.3 µs more than that, by the raw layer.
//!
//! `cargo bench --bench host_cost`. Without a GPU it runs on the emulated driver with execution turned off, where a launch is
//! checked and forgotten. What matters is the difference: the bare call of a real driver costs one or two microseconds.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use emulator::{Settings, Variant};
use probe::Probe;
use warpnorm::cudarc::driver::{CudaSlice, DevicePtr as _};
use warpnorm::half::f16;
use warpnorm::{Args, Cuda, DType, LayerNorm, RmsNorm, Signature, raw};

const ROWS: usize = 128;
const LENGTH: usize = 4096;

fn host_cost(criterion: &mut Criterion) {
    if !emulator::real_gpu() {
        let emulator = emulator::preload(Variant::Plain);
        emulator.configure(&Settings { execute: false, ..Settings::default() });
        println!("no GPU: on the emulated driver, which executes nothing");
    }
    let cuda = Cuda::open(0).expect("a device");
    let stream = cuda.stream();
    let context = stream.context();
    // SAFETY: one stream until the last measurement, so nothing needs cudarc's events.
    unsafe { context.disable_event_tracking() };
    let mut group = criterion.benchmark_group("host");

    let probe = Probe::load(context).expect("the probe");
    group.bench_function("bare launch", |bencher| bencher.iter(probe.bare_launch(stream)));

    let place = || stream.alloc_zeros::<f16>(ROWS * LENGTH).expect("memory");
    let (x, residual, mut y, mut sum) = (place(), place(), place(), place());
    let coefficient = || stream.alloc_zeros::<f16>(LENGTH).expect("memory");
    let (weight, bias) = (coefficient(), coefficient());
    let address = |slice: &CudaSlice<f16>| slice.device_ptr(stream).0;

    // A call of the fewest tensors that occur, and one of many.
    let layer = LayerNorm::new([LENGTH]).expect("a layer");
    let signature = Signature::new([ROWS, LENGTH], DType::F16).weight(DType::F16).bias(DType::F16);
    let fused = RmsNorm::new([LENGTH], 1e-6).expect("a layer");
    let fused_signature = Signature::new([ROWS, LENGTH], DType::F16).weight(DType::F16).residual().sum();

    let device = raw::Device::from(&cuda);
    let handle = stream.cu_stream().cast();
    let addresses = raw::Addresses {
        input: address(&x),
        weight: address(&weight),
        bias: address(&bias),
        output: address(&y),
        ..Default::default()
    };
    let fused_addresses = raw::Addresses { bias: 0, residual: address(&residual), sum: address(&sum), ..addresses };
    let call = layer.prepare_raw(&device, &signature).expect("a call");
    group.bench_function("raw, layer norm", |bencher| {
        // SAFETY: buffers of this device, as long as the signature says.
        bencher.iter(|| unsafe { call.launch(black_box(&addresses), handle).expect("a launch") });
    });
    let call = layer.prepare_raw(&device.clone().programmatic_launch(true), &signature).expect("a call");
    group.bench_function("raw, layer norm, by programmatic launch", |bencher| {
        // SAFETY: buffers of this device, as long as the signature says.
        bencher.iter(|| unsafe { call.launch(black_box(&addresses), handle).expect("a launch") });
    });
    let call = fused.prepare_raw(&device, &fused_signature).expect("a call");
    group.bench_function("raw, rms norm with residual and sum", |bencher| {
        // SAFETY: buffers of this device, as long as the signature says.
        bencher.iter(|| unsafe { call.launch(black_box(&fused_addresses), handle).expect("a launch") });
    });

    let prepared = layer.prepare(&cuda, &signature).expect("a call");
    let typed = |y: &mut CudaSlice<f16>| {
        let args = Args::new(&cuda, [ROWS, LENGTH]).input(&x).weight(&weight).bias(&bias);
        prepared.forward(args.output(y)).expect("a launch");
    };
    group.bench_function("typed, layer norm, without event tracking", |bencher| bencher.iter(|| typed(&mut y)));
    let prepared = fused.prepare(&cuda, &fused_signature).expect("a call");
    let mut typed = |y: &mut CudaSlice<f16>| {
        let args = Args::new(&cuda, [ROWS, LENGTH]).input(&x).weight(&weight).residual(&residual);
        prepared.forward(args.sum(&mut sum).output(y)).expect("a launch");
    };
    group.bench_function("typed, rms norm with residual and sum, without event tracking", |bencher| {
        bencher.iter(|| typed(&mut y));
    });
    let unprepared = |y: &mut CudaSlice<f16>| {
        let args = Args::new(&cuda, [ROWS, LENGTH]).input(&x).weight(&weight).bias(&bias);
        layer.forward(args.output(y)).expect("a launch");
    };
    group.bench_function("typed, layer norm, not prepared, without event tracking", |bencher| {
        bencher.iter(|| unprepared(&mut y));
    });
    group.finish();
    stream.synchronize().expect("all launches");
}

criterion_group!(benches, host_cost);
criterion_main!(benches);
