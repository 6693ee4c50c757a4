//! Capture and replay, and the mistakes that spoil a capture.

mod harness;

use std::sync::Arc;

use cudarc::driver::{CudaGraph, CudaStream, sys};
use emulator::{Settings, Variant};
use harness::{Device, assert_close, code, data, launch_layer_norm, layer_norm};

const COLUMNS: usize = 512;
const COUNT: usize = 4 * COLUMNS;
const MODE: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

fn end(stream: &Arc<CudaStream>) -> Result<Option<CudaGraph>, u32> {
    stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(code)
}

/// cudarc's own events would make a capture wait for events from outside of it.
fn open() -> Device {
    let device = Device::open(Variant::Plain);
    // SAFETY: the tests order what they do themselves.
    unsafe { device.context.disable_event_tracking() };
    device
}

#[test]
fn capture_and_replay() {
    let device = open();
    let stream = device.context.new_stream().unwrap();
    let kernel = device.kernel("smoke_layer_norm");
    let mut x = data(COUNT);
    let mut input = stream.clone_htod(&x).unwrap();
    let middle = stream.alloc_zeros::<f32>(COUNT).unwrap();
    let mut output = stream.alloc_zeros::<f32>(COUNT).unwrap();
    stream.synchronize().unwrap();

    stream.begin_capture(MODE).unwrap();
    let active = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
    assert_eq!(stream.capture_status().unwrap(), active);
    launch_layer_norm(&stream, &kernel, &input, &middle, COLUMNS);
    stream.memcpy_dtod(&middle, &mut output).unwrap();
    let graph = end(&stream).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&output).unwrap(), [0.0; COUNT], "a capture runs nothing");

    graph.upload().unwrap();
    for _ in 0..2 {
        graph.launch().unwrap();
        assert_close(&stream.clone_dtoh(&output).unwrap(), &layer_norm(&x, COLUMNS, 1e-5), 1e-5);
        x.iter_mut().for_each(|v| *v = *v * *v + 0.1);
        stream.memcpy_htod(&x, &mut input).unwrap();
    }
}

#[test]
fn fork_and_join() {
    let device = open();
    let (main, side) = (device.context.new_stream().unwrap(), device.context.new_stream().unwrap());
    let kernel = device.kernel("smoke_layer_norm");
    let x = data(COUNT);
    let want = layer_norm(&x, COLUMNS, 1e-5);
    let input = main.clone_htod(&x).unwrap();
    main.synchronize().unwrap();
    for seed in 0..10 {
        device.emulator.configure(&Settings { seed, ..Default::default() });
        let a = main.alloc_zeros::<f32>(COUNT).unwrap();
        let b = main.alloc_zeros::<f32>(COUNT).unwrap();
        let mut c = main.alloc_zeros::<f32>(COUNT).unwrap();
        main.synchronize().unwrap();
        main.begin_capture(MODE).unwrap();
        side.join(&main).unwrap();
        launch_layer_norm(&side, &kernel, &input, &a, COLUMNS);
        launch_layer_norm(&main, &kernel, &input, &b, COLUMNS);
        main.join(&side).unwrap();
        main.memcpy_dtod(&a, &mut c).unwrap();
        end(&main).unwrap().unwrap().launch().unwrap();
        for buffer in [&a, &b, &c] {
            assert_close(&main.clone_dtoh(buffer).unwrap(), &want, 1e-5);
        }
    }
}

#[test]
fn mistakes() {
    let device = open();
    let (main, side) = (device.context.new_stream().unwrap(), device.context.new_stream().unwrap());
    let kernel = device.kernel("smoke_layer_norm");
    let x = main.clone_htod(&data(COUNT)).unwrap();
    let y = main.alloc_zeros::<f32>(COUNT).unwrap();
    main.synchronize().unwrap();

    // Work on a forked stream that is never joined.
    main.begin_capture(MODE).unwrap();
    side.join(&main).unwrap();
    launch_layer_norm(&side, &kernel, &x, &y, COLUMNS);
    assert_eq!(end(&main).err(), Some(904));

    // An event from outside of the capture.
    let outside = side.record_event(None).unwrap();
    main.begin_capture(MODE).unwrap();
    assert_eq!(main.wait(&outside).map_err(code), Err(905));
    assert_eq!(end(&main).err(), Some(901));

    // Synchronizing a capturing stream.
    main.begin_capture(MODE).unwrap();
    assert_eq!(main.synchronize().map_err(code), Err(900));
    assert_eq!(end(&main).err(), Some(901));

    // Allocating at once while a stream captures.
    main.begin_capture(MODE).unwrap();
    // SAFETY: refused.
    assert_eq!(unsafe { cudarc::driver::result::malloc_sync(16) }.map_err(code), Err(900));
    assert_eq!(end(&main).err(), Some(901));

    // A captured event outside of its capture.
    main.begin_capture(MODE).unwrap();
    let inside = main.record_event(None).unwrap();
    assert_eq!(inside.synchronize().map_err(code), Err(907));
    end(&main).unwrap();

    // Ending on another stream than it began.
    main.begin_capture(MODE).unwrap();
    side.join(&main).unwrap();
    assert_eq!(end(&side).err(), Some(903));
    main.join(&side).unwrap();
    end(&main).unwrap();

    // Two captures that meet.
    main.begin_capture(MODE).unwrap();
    side.begin_capture(MODE).unwrap();
    assert_eq!(main.join(&side).map_err(code), Err(902));
    assert_eq!(end(&main).err(), Some(901));
    assert_eq!(end(&side).err(), Some(901));

    // The null stream.
    assert_eq!(device.stream.begin_capture(MODE).map_err(code), Err(900));

    // None of this was a fault.
    main.synchronize().unwrap();
    assert_eq!(main.clone_dtoh(&x).unwrap(), data(COUNT));
}

/// The trap that cudarc's event tracking sets: the slices' earlier events lie outside of the capture.
#[test]
fn tracked_events_spoil_a_capture() {
    let device = Device::open(Variant::Plain);
    let stream = device.context.new_stream().unwrap();
    let x = stream.clone_htod(&data(COUNT)).unwrap();
    let mut y = device.context.new_stream().unwrap().alloc_zeros::<f32>(COUNT).unwrap();
    stream.begin_capture(MODE).unwrap();
    // cudarc keeps the 905 of the wait to itself until its next call.
    assert_eq!(stream.memcpy_dtod(&x, &mut y).map_err(code), Err(901));
    assert_eq!(end(&stream).err(), Some(905));
    let report = device.emulator.report();
    assert!(report.contains("event recorded outside of the capture"), "{report}");
}
