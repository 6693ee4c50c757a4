//! What a capture holds, what spoils it, and what cudarc's event tracking does in it.

use std::sync::Arc;

use emulator::Emulator;
use warpnorm::cudarc::driver::{CudaGraph, CudaStream, DriverError, sys};
use warpnorm::{
    Args, BatchNorm, Cpu, Cuda, DType, Error, GroupNorm, LayerNorm, Layout, RmsNorm, Signature, Workspace, raw,
};

use super::operations::{Pool, Work, images, is_small, rows, small_works};
use super::{Branch, Player, begin, end, expected, replays, streams, try_end, under_seeds};
use crate::data::{normal, stored};
use crate::device;
use crate::place::Place;

/// Runs something, and counts the driver's calls in it: those that were made, by name.
fn driver_calls(emulator: Option<&Emulator>, work: impl FnOnce()) -> Vec<(String, u64)> {
    let before = emulator.map(Emulator::calls).unwrap_or_default();
    work();
    let after = emulator.map(Emulator::calls).unwrap_or_default();
    let earlier = |name: &str| before.iter().find(|(found, _)| found == name).map_or(0, |(_, count)| *count);
    let made = after.into_iter().map(|(name, count)| (count - earlier(&name), name));
    made.filter(|(count, _)| *count > 0).map(|(count, name)| (name, count)).collect()
}

fn nodes(graph: &CudaGraph) -> usize {
    let mut count = 0;
    // SAFETY: a live graph, and a number to write to.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &raw mut count) }.result().unwrap();
    count
}

/// Captures prepared calls. The graph has a node for each kernel, and the driver was asked for nothing but that.
fn assert_only_launches(stream: &Arc<CudaStream>, emulator: Option<&Emulator>, kernels: usize, calls: impl FnOnce()) {
    begin(stream);
    let made = driver_calls(emulator, calls);
    assert_eq!(nodes(&end(stream)), kernels);
    for (name, count) in made {
        // Which context is current: a question, for each call and for each operand.
        let is_launch = name == "cuLaunchKernelEx" && count == kernels as u64;
        assert!(is_launch || name == "cuCtxGetCurrent", "{name}, {count} times, for {kernels} kernels");
    }
}

/// No allocation, no event, no synchronization.
#[test]
fn a_capture_holds_launches_alone_on_cuda() {
    let device = device::cuda();
    let [cuda] = streams(&device.cuda);
    let stream = cuda.stream();
    let mut y = cuda.put(&stored::<f32>(normal(2 * 60 * 61 * 5, 1)));
    let (mut mean, mut var, mut batches) = (cuda.put(&[0.0_f32; 5]), cuda.put(&[1.0_f32; 5]), cuda.put_counter(0));
    let mut workspace = Workspace::init(&cuda, 1 << 20).unwrap();
    let rows = Signature::new([122 * 60, 5], DType::F32);
    let image = Signature::new([2, 60, 61, 5], DType::F32);
    stream.synchronize().unwrap();

    let prepared = RmsNorm::new([5], 1e-6).unwrap().prepare(&cuda, &rows).unwrap();
    assert_only_launches(stream, device.emulator, prepared.kernels().count(), || {
        prepared.forward(Args::new(&cuda, [122 * 60, 5]).output(&mut y)).unwrap();
    });
    let layer = GroupNorm::new(1, 5).unwrap().layout(Layout::Nhwc);
    let prepared = layer.prepare(&cuda, &image).unwrap();
    assert_only_launches(stream, device.emulator, prepared.kernels().count(), || {
        prepared.forward(Args::new(&cuda, [2, 60, 61, 5]).output(&mut y).workspace(&mut workspace)).unwrap();
    });
    let layer = BatchNorm::new(5).unwrap().layout(Layout::Nhwc).batch_statistics(true);
    let prepared = layer.prepare(&cuda, &image.update_running_statistics().num_batches_tracked()).unwrap();
    assert_only_launches(stream, device.emulator, prepared.kernels().count(), || {
        let args = Args::new(&cuda, [2, 60, 61, 5]).output(&mut y).workspace(&mut workspace);
        let args = args.update_running_statistics(&mut mean, &mut var).num_batches_tracked(&mut batches);
        prepared.forward(args).unwrap();
    });
}

/// A call that is refused for its arguments has not touched the stream, and the capture goes on.
#[test]
fn a_refused_call_leaves_the_capture_whole_on_cuda() {
    let device = device::cuda();
    let [cuda] = streams(&device.cuda);
    let mut y = cuda.put(&stored::<f32>(normal(512 * 256 * 8, 1)));
    let groups = GroupNorm::new(2, 8).unwrap().layout(Layout::Nhwc);
    let (instances, shape) = (LayerNorm::new([8]).unwrap(), [1, 512, 256, 8]);
    cuda.stream().synchronize().unwrap();

    begin(cuda.stream());
    let without = groups.forward(Args::new(&cuda, shape).output(&mut y));
    assert!(matches!(without, Err(Error::Workspace { found: 0, .. })), "{without:?}");
    let too_long = instances.forward(Args::new(&cuda, [9, 512, 256, 8]).output(&mut y));
    assert!(matches!(too_long, Err(Error::Length { argument: "output", .. })), "{too_long:?}");
    instances.forward(Args::new(&cuda, shape).output(&mut y)).unwrap();
    assert_eq!(nodes(&end(cuda.stream())), 1);
}

/// One of two streams whose context orders them by events, as cudarc does unless it is told not to.
fn tracked(cuda: &Cuda) -> (Cuda, Arc<CudaStream>) {
    let context = cuda.stream().context();
    let [stream, other] = [(); 2].map(|()| context.new_stream().unwrap());
    assert!(context.is_managing_stream_synchronization());
    (cuda.with_stream(&stream).unwrap(), other)
}

/// Addresses have no events: cudarc may track what it likes.
#[test]
fn the_raw_layer_is_captured_while_cudarc_tracks_on_cuda() {
    let device = device::cuda();
    let (cuda, _other) = tracked(&device.cuda);
    let works: Vec<_> = rows().chain(images()).filter(is_small).map(Work::ByAddresses).collect();
    let (pool, replays) = (Pool::<f32>::new(), replays(device.emulator));
    let branch = || vec![Branch::new(&cuda, &pool, &works, replays)];
    let expected = expected(branch(), replays);
    under_seeds(device.emulator, 1..2, || Player::captured(branch(), replays).play_all().assert_same(&expected));
}

/// Slices that were uploaded have an event from before the capture, for which a typed call then waits. The call says so, and
/// nothing else is harmed: without tracking, stream and slices serve on.
#[test]
fn tracked_slices_are_refused_in_a_capture_on_cuda() {
    let device = device::cuda();
    let (cuda, _other) = tracked(&device.cuda);
    let (stream, context) = (cuda.stream(), cuda.stream().context());
    let layer = LayerNorm::new([64]).unwrap();
    let x = cuda.put(&stored::<f32>(normal(64, 3)));
    let mut y = cuda.put(&[0.0_f32; 64]);
    layer.forward(Args::new(&cuda, [1, 64]).input(&x).output(&mut y)).unwrap();
    let expected = cuda.get(&y);
    stream.memset_zeros(&mut y).unwrap();
    let addresses = raw::Addresses { output: cuda.address(&mut y), ..Default::default() };
    let by_address = layer.prepare_raw(&raw::Device::from(&cuda), &Signature::new([1, 64], DType::F32)).unwrap();
    stream.synchronize().unwrap();

    begin(stream);
    let refused = layer.forward(Args::new(&cuda, [1, 64]).input(&x).output(&mut y));
    // SAFETY: one row of 64 elements.
    let too_late = unsafe { by_address.launch(&addresses, cuda.raw().1) };
    // Else cudarc would return what it has kept, and not end the capture.
    let _ = context.check_err();
    let ended = try_end(stream).map(|_| "a graph");
    let Err(Error::Driver { code, .. }) = refused else { panic!("{refused:?}") };
    let Err(Error::Driver { code: later, .. }) = too_late else { panic!("{too_late:?}") };
    let Err(DriverError(ended)) = ended else { panic!("{ended:?}") };
    let (isolation, invalidated) = (905, sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    match device.emulator {
        None => println!("the call was refused by {code}, the next by {later}, the capture ended with {ended:?}"),
        Some(emulator) => {
            assert_eq!((code, later, ended), (isolation, invalidated as u32, invalidated));
            let report = emulator.take_report();
            assert!(report.contains("recorded outside of the capture"), "{report}");
        }
    }

    // SAFETY: all that follows is on one stream.
    unsafe { context.disable_event_tracking() };
    assert_eq!(cuda.get(&y), [0.0; 64], "nothing was launched");
    begin(stream);
    layer.forward(Args::new(&cuda, [1, 64]).input(&x).output(&mut y)).unwrap();
    end(stream).launch().unwrap();
    assert_eq!(cuda.get(&y), expected);
}

/// For a service that wants its tracking back: off for as long as the capture lasts.
#[test]
fn tracking_may_be_off_for_the_capture_alone_on_cuda() {
    let device = device::cuda();
    let (cuda, other) = tracked(&device.cuda);
    let context = cuda.stream().context();
    let elsewhere = cuda.with_stream(&other).unwrap();
    let (works, replays, pool) = (small_works(), replays(device.emulator), Pool::<f32>::new());
    let branch = || vec![Branch::new(&cuda, &pool, &works, replays)];
    let expected = expected(branch(), replays);
    under_seeds(device.emulator, 1..2, || {
        let branch = branch();
        // SAFETY: nothing is used on another stream before it is on again.
        unsafe { context.disable_event_tracking() };
        let player = Player::captured(branch, replays);
        // SAFETY: on is the safe state.
        unsafe { context.enable_event_tracking() };
        player.play_all().assert_same(&expected);
    });
    // cudarc does not see what a graph reads and writes: another stream has to be joined by hand.
    let (layer, mut y) = (LayerNorm::new([64]).unwrap(), cuda.put(&stored::<f32>(normal(64, 3))));
    // SAFETY: as above.
    unsafe { context.disable_event_tracking() };
    begin(cuda.stream());
    layer.forward(Args::new(&cuda, [1, 64]).output(&mut y)).unwrap();
    let graph = end(cuda.stream());
    // SAFETY: on is the safe state.
    unsafe { context.enable_event_tracking() };
    graph.launch().unwrap();
    other.join(cuda.stream()).unwrap();
    let found = elsewhere.get(&y);
    let mut expected = stored::<f32>(normal(64, 3));
    layer.forward(Args::new(&Cpu, [1, 64]).output(&mut expected)).unwrap();
    approx::assert_abs_diff_eq!(found.as_slice(), expected.as_slice(), epsilon = 1e-5);
}

/// Slices that nothing has used yet can be captured while cudarc tracks. It adds waits and records, no nodes; and what was
/// recorded belongs to the capture, so that every later wait for it fails, and some innocent call gets the error.
#[test]
fn events_recorded_in_a_capture_stay_in_it() {
    let device = device::cuda();
    let Some(emulator) = device.emulator else { return println!("a GPU's driver does not count its calls") };
    let (cuda, _other) = tracked(&device.cuda);
    let stream = cuda.stream();
    // SAFETY: read by the graph alone, which is not launched before it is written.
    let mut y = unsafe { stream.alloc::<f32>(64) }.unwrap();
    let layer = LayerNorm::new([64]).unwrap();
    let prepared = layer.prepare(&cuda, &Signature::new([1, 64], DType::F32).in_place()).unwrap();
    begin(stream);
    let mut made = driver_calls(Some(emulator), || {
        prepared.forward(Args::new(&cuda, [1, 64]).output(&mut y)).unwrap();
    });
    made.retain(|(name, _)| name != "cuCtxGetCurrent");
    let expected = [("cuEventRecord", 1), ("cuLaunchKernelEx", 1), ("cuStreamWaitEvent", 2)];
    assert!(made.iter().map(|(name, count)| (name.as_str(), *count)).eq(expected), "{made:?}");
    assert_eq!(nodes(&end(stream)), 1);

    for value in [1.0_f32, 2.0] {
        // The copy is made; that it did not wait comes out at the next call. A new record, after which it would be well,
        // cudarc does not make: it finds the error first.
        stream.memcpy_htod(&[value; 64], &mut y).unwrap();
        assert_eq!(stream.synchronize(), Err(DriverError(sys::CUresult::CUDA_ERROR_CAPTURED_EVENT)));
    }
    let report = emulator.take_report();
    assert!(report.contains("recorded in an ended capture"), "{report}");

    // SAFETY: all of it is on one stream.
    unsafe { stream.context().disable_event_tracking() };
    assert_eq!(cuda.get(&y), [2.0; 64]);
}
