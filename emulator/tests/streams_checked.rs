//! The checked build finds a missing join between streams exactly, in whatever order the operations happened to run.

mod harness;

use std::sync::Arc;

use cudarc::driver::{CudaStream, sys};
use emulator::{Settings, Variant};
use harness::{Device, code, data, launch_layer_norm};

const COLUMNS: usize = 512;

fn two_streams(device: &Device) -> (Arc<CudaStream>, Arc<CudaStream>) {
    // SAFETY: the tests order what they do themselves, or mean not to.
    unsafe { device.context.disable_event_tracking() };
    (device.context.new_stream().unwrap(), device.context.new_stream().unwrap())
}

/// One stream normalizes into `output`, and another normalizes that in turn: the error of the latter's result.
fn chain(device: &Device, join: impl Fn(&CudaStream, &Arc<CudaStream>)) -> Result<(), u32> {
    let (first, second) = two_streams(device);
    let kernel = device.kernel("smoke_layer_norm");
    let input = first.clone_htod(&data(2 * COLUMNS)).unwrap();
    let middle = first.alloc_zeros::<f32>(2 * COLUMNS).unwrap();
    let output = first.alloc_zeros::<f32>(2 * COLUMNS).unwrap();
    first.synchronize().unwrap();
    launch_layer_norm(&first, &kernel, &input, &middle, COLUMNS);
    join(&second, &first);
    launch_layer_norm(&second, &kernel, &middle, &output, COLUMNS);
    let result = second.clone_dtoh(&output).map(|_| ()).map_err(code).and(first.synchronize().map_err(code));
    // Before the buffers go: their release in the first stream must not be another race.
    first.join(&second).ok();
    result
}

#[test]
fn a_missing_join_is_reported_under_every_seed() {
    for seed in 0..10 {
        let device = Device::open(Variant::Checked);
        device.emulator.configure(&Settings { seed, ..Default::default() });
        assert_eq!(chain(&device, |_, _| {}), Err(719), "seed {seed}");
        let report = device.emulator.take_report();
        assert!(report.contains("missing join") && report.contains("kernel smoke_layer_norm, block ("), "{report}");
        device.emulator.reset();
    }
}

#[test]
fn joins_are_understood() {
    for seed in 0..5 {
        let device = Device::open(Variant::Checked);
        device.emulator.configure(&Settings { seed, ..Default::default() });
        chain(&device, |second, first| second.join(first).unwrap()).unwrap();
        chain(&device, |_, first| first.synchronize().unwrap()).unwrap();
        chain(&device, |_, first| first.context().synchronize().unwrap()).unwrap();
        chain(&device, |_, first| first.record_event(None).unwrap().synchronize().unwrap()).unwrap();
        assert_eq!(device.emulator.report(), "", "seed {seed}");
    }
}

#[test]
fn two_streams_may_share_an_allocation() {
    let device = Device::open(Variant::Checked);
    let (first, second) = two_streams(&device);
    let x = first.clone_htod(&data(2 * COLUMNS)).unwrap();
    let mut y = first.alloc_zeros::<f32>(2 * COLUMNS).unwrap();
    first.synchronize().unwrap();
    let (mut low, mut high) = y.split_at_mut(COLUMNS);
    first.memcpy_dtod(&x.slice(..COLUMNS), &mut low).unwrap();
    second.memcpy_dtod(&x.slice(COLUMNS..), &mut high).unwrap();
    second.synchronize().unwrap();
    assert_eq!(first.clone_dtoh(&y).unwrap(), data(2 * COLUMNS));
    assert_eq!(device.emulator.report(), "");
}

/// A fork in a capture that is joined only at the end: two branches that touch the same memory race inside the graph.
#[test]
fn branches_of_a_graph_are_not_ordered() {
    for share in [false, true] {
        let device = Device::open(Variant::Checked);
        let (first, second) = two_streams(&device);
        let kernel = device.kernel("smoke_layer_norm");
        let x = first.clone_htod(&data(2 * COLUMNS)).unwrap();
        let a = first.alloc_zeros::<f32>(2 * COLUMNS).unwrap();
        let b = first.alloc_zeros::<f32>(2 * COLUMNS).unwrap();
        first.synchronize().unwrap();
        first.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        second.join(&first).unwrap();
        launch_layer_norm(&first, &kernel, &x, &a, COLUMNS);
        launch_layer_norm(&second, &kernel, &x, if share { &a } else { &b }, COLUMNS);
        first.join(&second).unwrap();
        let graph = first.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        let result = first.synchronize().map_err(code);
        let report = device.emulator.take_report();
        assert_eq!(result, if share { Err(719) } else { Ok(()) }, "{report}");
        assert_eq!(report.contains("missing join"), share, "{report}");
        device.emulator.reset();
    }
}
