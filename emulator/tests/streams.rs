//! Streams and events: lazy execution shows missing joins and synchronizations by wrong results.

mod harness;

use std::sync::Arc;

use cudarc::driver::{CudaStream, sys};
use emulator::{Settings, Variant};
use harness::{Device, assert_close, code, data, launch_layer_norm, layer_norm};

const COLUMNS: usize = 512;

/// Two streams, without cudarc's own events, which would join them.
fn two_streams(device: &Device) -> (Arc<CudaStream>, Arc<CudaStream>) {
    // SAFETY: the tests order what they do themselves, or mean not to.
    unsafe { device.context.disable_event_tracking() };
    (device.context.new_stream().unwrap(), device.context.new_stream().unwrap())
}

/// In how many of 50 seeds one stream reads what another writes before it was written.
fn wrong_results(join: bool) -> usize {
    let device = Device::open(Variant::Plain);
    let (first, second) = two_streams(&device);
    let kernel = device.kernel("smoke_layer_norm");
    let x = data(4 * COLUMNS);
    let want = layer_norm(&x, COLUMNS, 1e-5);
    let wrong = |seed: &u64| {
        device.emulator.configure(&Settings { seed: *seed, ..Default::default() });
        let input = first.clone_htod(&x).unwrap();
        let output = first.alloc_zeros::<f32>(x.len()).unwrap();
        first.synchronize().unwrap();
        launch_layer_norm(&first, &kernel, &input, &output, COLUMNS);
        if join {
            second.join(&first).unwrap();
        }
        let found = second.clone_dtoh(&output).unwrap();
        first.synchronize().unwrap();
        found.iter().zip(&want).any(|(a, b)| (a - b).abs() > 1e-4)
    };
    (0..50).filter(wrong).count()
}

#[test]
fn a_missing_join_gives_wrong_results() {
    let (without, with) = (wrong_results(false), wrong_results(true));
    println!("wrong results in 50 seeds: {without} without the join, {with} with it");
    assert!(without >= 10, "{without} of 50");
    assert_eq!(with, 0);
}

/// A copy into pinned memory is asynchronous: what is read there before a synchronization is a pattern, not the result.
#[test]
fn a_host_read_before_synchronization_shows() {
    let device = Device::open(Variant::Plain);
    let stream = device.context.new_stream().unwrap();
    let x = stream.clone_htod(&data(COLUMNS)).unwrap();
    let mut pinned = PinnedFloats::new(COLUMNS);
    // SAFETY: the pinned memory outlives the copy.
    unsafe { cudarc::driver::result::memcpy_dtoh_async(pinned.slice(), harness::address(&x), stream.cu_stream()) }
        .unwrap();
    assert!(pinned.slice().iter().all(|v| v.is_nan()), "not yet");
    stream.synchronize().unwrap();
    assert_eq!(pinned.slice(), data(COLUMNS));
}

/// A copy from pinned memory reads it when it runs.
#[test]
fn a_host_write_before_synchronization_shows() {
    let device = Device::open(Variant::Plain);
    let stream = device.context.new_stream().unwrap();
    let x = stream.alloc_zeros::<f32>(COLUMNS).unwrap();
    let mut pinned = PinnedFloats::new(COLUMNS);
    pinned.slice().fill(1.0);
    // SAFETY: the pinned memory outlives the copy.
    unsafe { cudarc::driver::result::memcpy_htod_async(harness::address(&x), pinned.slice(), stream.cu_stream()) }
        .unwrap();
    pinned.slice().fill(2.0);
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [2.0; COLUMNS]);
}

struct PinnedFloats {
    address: *mut f32,
    length: usize,
}

impl PinnedFloats {
    fn new(length: usize) -> Self {
        // SAFETY: freed in drop.
        let address = unsafe { cudarc::driver::result::malloc_host(length * 4, 0) }.unwrap().cast();
        Self { address, length }
    }

    fn slice(&mut self) -> &mut [f32] {
        // SAFETY: the allocation has this length, and the emulator has filled it.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.length) }
    }
}

impl Drop for PinnedFloats {
    fn drop(&mut self) {
        // SAFETY: from malloc_host, freed once.
        unsafe { cudarc::driver::result::free_host(self.address.cast()) }.unwrap();
    }
}

/// Streams made with flag 0 wait for the null stream and it for them.
#[test]
fn the_null_stream_joins_blocking_streams() {
    let device = Device::open(Variant::Plain);
    let kernel = device.kernel("smoke_layer_norm");
    let x = data(4 * COLUMNS);
    let want = layer_norm(&x, COLUMNS, 1e-5);
    let null = &device.stream;
    let mut handle = std::ptr::null_mut();
    // SAFETY: destroyed below.
    assert_eq!(unsafe { sys::cuStreamCreate(&mut handle, 0) }, sys::CUresult::CUDA_SUCCESS);
    // SAFETY: the stream is live, and the wrapper does not own it.
    let blocking = unsafe { device.context.wrap_borrowed_stream(handle) };
    for seed in 0..20 {
        device.emulator.configure(&Settings { seed, ..Default::default() });
        let input = null.clone_htod(&x).unwrap();
        let output = null.alloc_zeros::<f32>(x.len()).unwrap();
        launch_layer_norm(&blocking, &kernel, &input, &output, COLUMNS);
        assert_close(&null.clone_dtoh(&output).unwrap(), &want, 1e-5);
    }
    drop(blocking);
    // SAFETY: created above, used no more.
    assert_eq!(unsafe { sys::cuStreamDestroy_v2(handle) }, sys::CUresult::CUDA_SUCCESS);
}

#[test]
fn events_measure_time() {
    let device = Device::open(Variant::Plain);
    let stream = device.context.new_stream().unwrap();
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let start = stream.record_event(timed).unwrap();
    let kernel = device.kernel("smoke_layer_norm");
    let x = stream.clone_htod(&data(64 * COLUMNS)).unwrap();
    let y = stream.alloc_zeros::<f32>(64 * COLUMNS).unwrap();
    launch_layer_norm(&stream, &kernel, &x, &y, COLUMNS);
    let end = stream.record_event(timed).unwrap();
    assert!(start.elapsed_ms(&end).unwrap() > 0.0);
    let untimed = stream.record_event(None).unwrap();
    assert_eq!(start.elapsed_ms(&untimed).map_err(code), Err(400));
}
