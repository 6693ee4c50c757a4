//! CUDA graphs: every operation captured once, and replayed a hundred times with new contents in the same buffers. Every
//! replay must have the bits of a plain call: on one stream, on two at once, and where a graph has two branches.
//!
//! Nobody waits between replays: contents are uploaded, and results copied to a tape on the device, in the stream's order.
//! So the emulator is free to run the streams in whatever order it draws.

mod captures;
mod operations;
mod programmatic;

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use emulator::{Emulator, Schedule, Settings, Variant};
use warpnorm::cudarc::driver::{CudaGraph, CudaSlice, CudaStream, CudaView, DriverError, sys};
use warpnorm::half::{bf16, f16};
use warpnorm::{Cuda, Workspace};

use crate::device;
use crate::place::Real;
use operations::{Operation, Pool, Work, small_works, works};

/// The checked emulator, which is slow, need only see every kernel's accesses: it gets fewer.
fn replays(emulator: Option<&Emulator>) -> usize {
    if emulator.is_some_and(|emulator| emulator.variant() == Variant::Checked) { 3 } else { 100 }
}

fn begin(stream: &Arc<CudaStream>) {
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("a capture begins");
}

fn try_end(stream: &Arc<CudaStream>) -> std::result::Result<CudaGraph, DriverError> {
    stream.end_capture(sys::CUgraphInstantiate_flags(0)).map(|graph| graph.expect("a graph"))
}

fn end(stream: &Arc<CudaStream>) -> CudaGraph {
    try_end(stream).expect("a capture ends")
}

/// Streams of one context that can be captured, which the null stream cannot, and whose slices have no events, for which a
/// capture would wait.
fn streams<const COUNT: usize>(cuda: &Cuda) -> [Cuda; COUNT] {
    let context = cuda.stream().context();
    // SAFETY: a buffer is used by one stream, or the test joins the streams.
    unsafe { context.disable_event_tracking() };
    std::array::from_fn(|_| cuda.with_stream(&context.new_stream().unwrap()).unwrap())
}

/// Operations one after another, with a workspace, and what each has written: of every replay, one behind the other.
struct Branch {
    cuda: Cuda,
    operations: Vec<Box<dyn Operation>>,
    workspace: Workspace<Cuda>,
    tapes: Vec<CudaSlice<u8>>,
}

impl Branch {
    fn new<T: Real>(cuda: &Cuda, pool: &Rc<Pool<T>>, works: &[Work], replays: usize) -> Self {
        let operations: Vec<_> = works.iter().map(|work| work.build(cuda, pool)).collect();
        let most = operations.iter().map(|operation| operation.workspace_bytes(cuda)).max();
        let workspace = Workspace::init(cuda, most.unwrap_or(0)).unwrap();
        let tape = |operation: &dyn Operation| {
            let frame: usize = operation.written().iter().map(CudaView::len).sum();
            cuda.stream().alloc_zeros(frame * replays).unwrap()
        };
        let tapes = operations.iter().map(|operation| tape(operation.as_ref())).collect();
        // Whichever stream is to use these buffers.
        cuda.stream().synchronize().unwrap();
        Self { cuda: cuda.clone(), operations, workspace, tapes }
    }

    fn submit(&mut self) {
        self.operations.iter_mut().for_each(|operation| operation.submit(&self.cuda, &mut self.workspace));
    }

    fn fill(&mut self, stream: &Arc<CudaStream>, seed: usize) {
        for (number, operation) in self.operations.iter_mut().enumerate() {
            operation.fill(stream, seed + 7 * number);
        }
    }

    fn record(&mut self, stream: &Arc<CudaStream>, replay: usize, replays: usize) {
        for (operation, tape) in self.operations.iter().zip(&mut self.tapes) {
            let mut at = replay * (tape.len() / replays);
            for written in operation.written() {
                let mut frame = tape.slice_mut(at..at + written.len());
                stream.memcpy_dtod(&written, &mut frame).unwrap();
                at += written.len();
            }
        }
    }
}

/// Branches of work, the first on the stream of the whole; captured, or called anew each time.
struct Player {
    graph: Option<CudaGraph>,
    branches: Vec<Branch>,
    played: usize,
    replays: usize,
}

impl Player {
    fn new(branches: Vec<Branch>, replays: usize) -> Self {
        Self { graph: None, branches, played: 0, replays }
    }

    fn captured(branches: Vec<Branch>, replays: usize) -> Self {
        let mut player = Self::new(branches, replays);
        let stream = player.stream();
        begin(&stream);
        player.submit();
        player.graph = Some(end(&stream));
        player
    }

    fn stream(&self) -> Arc<CudaStream> {
        self.branches[0].cuda.stream().clone()
    }

    fn submit(&mut self) {
        let stream = self.stream();
        for side in &self.branches[1..] {
            side.cuda.stream().join(&stream).unwrap();
        }
        self.branches.iter_mut().for_each(Branch::submit);
        for side in &self.branches[1..] {
            stream.join(side.cuda.stream()).unwrap();
        }
    }

    /// Once, with new contents; without waiting for the end.
    fn play(&mut self) {
        let (stream, replay) = (self.stream(), self.played);
        for (number, branch) in self.branches.iter_mut().enumerate() {
            branch.fill(&stream, 1000 * replay + 300 * number);
        }
        match &self.graph {
            Some(graph) => graph.launch().unwrap(),
            None => self.submit(),
        }
        self.branches.iter_mut().for_each(|branch| branch.record(&stream, replay, self.replays));
        self.played += 1;
    }

    fn play_all(mut self) -> Self {
        (0..self.replays).for_each(|_| self.play());
        self
    }

    /// Of every operation.
    fn results(&self) -> Vec<Vec<u8>> {
        assert_eq!(self.played, self.replays);
        let stream = self.stream();
        let tapes = self.branches.iter().flat_map(|branch| &branch.tapes);
        tapes.map(|tape| stream.clone_dtoh(tape).unwrap()).collect()
    }

    /// Holds every replay against the plain calls' results.
    fn assert_same(&self, expected: &[Vec<u8>]) {
        let operations = self.branches.iter().flat_map(|branch| &branch.operations);
        let results = self.results();
        assert_eq!(results.len(), expected.len());
        for ((operation, found), expected) in operations.zip(results).zip(expected) {
            let length = found.len() / self.replays;
            let differs = |at: &usize| found[at * length..][..length] != expected[at * length..][..length];
            let first = (0..self.replays).find(differs);
            assert_eq!(first, None, "{}: this replay differs from a plain call", operation.name());
        }
    }
}

/// What plain calls give. No two of them give the same, so a graph that ran on old contents, or not at all, is found out.
fn expected(branches: Vec<Branch>, replays: usize) -> Vec<Vec<u8>> {
    let results = Player::new(branches, replays).play_all().results();
    for tape in &results {
        let frames: Vec<&[u8]> = tape.chunks(tape.len() / replays).collect();
        assert!(frames.windows(2).all(|pair| pair[0] != pair[1]));
    }
    results
}

/// Orders of the streams, and of the branches of graphs, to try on the emulator; the checked one finds races in any.
fn under_seeds(emulator: Option<&Emulator>, seeds: Range<u64>, mut test: impl FnMut()) {
    let Some(emulator) = emulator else { return test() };
    for seed in seeds.take(if emulator.variant() == Variant::Checked { 1 } else { usize::MAX }) {
        let schedule = if seed % 2 == 0 { Schedule::LockStep } else { Schedule::RunAhead };
        emulator.configure(&Settings { seed, schedule, ..Settings::default() });
        test();
    }
}

/// A graph of each operation alone.
#[test]
fn each_operation_replayed_on_cuda() {
    fn each_operation<T: Real>(cuda: &Cuda, emulator: Option<&Emulator>, seed: u64) {
        let (replays, pool) = (replays(emulator), Pool::<T>::new());
        for work in works() {
            let alone = || vec![Branch::new(cuda, &pool, std::slice::from_ref(&work), replays)];
            let expected = expected(alone(), replays);
            under_seeds(emulator, seed..seed + 1, || {
                Player::captured(alone(), replays).play_all().assert_same(&expected)
            });
        }
    }
    let device = device::cuda();
    let [cuda] = streams(&device.cuda);
    each_operation::<f32>(&cuda, device.emulator, 0);
    each_operation::<bf16>(&cuda, device.emulator, 1);
}

/// Two graphs of many operations, each with buffers and a workspace of its own, launched in turn and never waited for.
#[test]
fn two_graphs_on_two_streams_on_cuda() {
    let device = device::cuda();
    let [first, second] = streams(&device.cuda);
    let (works, replays) = (small_works(), replays(device.emulator));
    let (pool, pool_of_halves) = (Pool::<f32>::new(), Pool::<f16>::new());
    let on_first = || vec![Branch::new(&first, &pool, &works, replays)];
    let on_second = || vec![Branch::new(&second, &pool_of_halves, &works, replays)];
    let (of_first, of_second) = (expected(on_first(), replays), expected(on_second(), replays));
    under_seeds(device.emulator, 0..3, || {
        let (mut first, mut second) = (Player::captured(on_first(), replays), Player::captured(on_second(), replays));
        for _ in 0..replays {
            first.play();
            second.play();
        }
        first.assert_same(&of_first);
        second.assert_same(&of_second);
    });
}

/// One graph that forks into two streams, each with a workspace, and joins them.
#[test]
fn a_graph_of_two_branches_on_cuda() {
    let device = device::cuda();
    let [main, side] = streams(&device.cuda);
    let (works, replays, pool) = (small_works(), replays(device.emulator), Pool::<bf16>::new());
    let branches = || [&main, &side].map(|cuda| Branch::new(cuda, &pool, &works, replays)).into();
    let expected = expected(branches(), replays);
    under_seeds(device.emulator, 0..3, || Player::captured(branches(), replays).play_all().assert_same(&expected));
}
