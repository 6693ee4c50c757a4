//! CUDA graphs: every operation captured once, and replayed a hundred times with new contents in the same buffers. Every
//! replay must have the bits of a plain call: on one stream, on two at once, and where a graph has two branches.
//!
//! Nobody waits between replays: contents are uploaded, and results copied to a tape on the device, in the stream's order.
//! So the emulator is free to run the streams in whatever order it draws.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use emulator::{Emulator, Schedule, Settings, Variant};
use warpnorm::cudarc::driver::{CudaGraph, CudaSlice, CudaStream, CudaView, DeviceRepr, DriverError, sys};
use warpnorm::half::{bf16, f16};
use warpnorm::{
    Activation, Args, BatchNorm, Cpu, Cuda, DType, DirectConvolution, Error, GroupNorm, LayerNorm, Layout, RmsNorm,
    Shape, Signature, Workspace, raw,
};

use crate::call::{
    BATCHES_BEFORE, Call, Coefficient, Layer, Modulation, Residual, forward, prepare_raw, workspace_bytes,
};
use crate::data::{normal, stored};
use crate::device;
use crate::place::{Place, Real};

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

/// Numbers that contents are cut from: another piece of them for every tensor and every replay.
struct Pool<T> {
    own: Vec<T>,
    single: Vec<f32>,
    /// For variances.
    positive: Vec<f32>,
}

impl<T: Real> Pool<T> {
    fn new() -> Rc<Self> {
        let numbers = || normal(100_003, 1);
        let positive = stored(numbers().map(|v| v * v + 0.01));
        Rc::new(Self { own: stored(numbers()), single: stored(numbers()), positive })
    }
}

fn fill<E: DeviceRepr>(stream: &Arc<CudaStream>, buffer: &mut CudaSlice<E>, pool: &[E], seed: usize) {
    let start = seed * 7919 % (pool.len() - buffer.len());
    stream.memcpy_htod(&pool[start..][..buffer.len()], buffer).unwrap();
}

/// A coefficient, in whichever type it has.
enum Given<T> {
    Absent,
    Own(CudaSlice<T>),
    Single(CudaSlice<f32>),
}

impl<T: Real> Given<T> {
    fn new(cuda: &Cuda, which: Coefficient, count: usize) -> Self {
        match which {
            Coefficient::Absent => Self::Absent,
            Coefficient::Own => Self::Own(cuda.put(&vec![T::default(); count])),
            Coefficient::F32 => Self::Single(cuda.put(&vec![0.0; count])),
        }
    }

    fn fill(&mut self, stream: &Arc<CudaStream>, pool: &Pool<T>, seed: usize) {
        match self {
            Self::Absent => {}
            Self::Own(values) => fill(stream, values, &pool.own, seed),
            Self::Single(values) => fill(stream, values, &pool.single, seed),
        }
    }

    fn dtype(&self) -> Option<DType> {
        match self {
            Self::Absent => None,
            Self::Own(_) => Some(T::DTYPE),
            Self::Single(_) => Some(DType::F32),
        }
    }

    fn address(&mut self, cuda: &Cuda) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Own(values) => cuda.address(values),
            Self::Single(values) => cuda.address(values),
        }
    }
}

fn bytes<E: DeviceRepr>(slice: &CudaSlice<E>) -> CudaView<'_, u8> {
    // SAFETY: numbers of whatever type are bytes.
    unsafe { slice.transmute(slice.num_bytes()) }.expect("as long as itself")
}

/// Work to capture, with buffers of its own that stay where they are.
trait Operation {
    fn name(&self) -> String;
    fn workspace_bytes(&self, cuda: &Cuda) -> usize;
    /// New contents for all that it reads, what it changes in place included.
    fn fill(&mut self, stream: &Arc<CudaStream>, seed: usize);
    fn submit(&mut self, cuda: &Cuda, workspace: &mut Workspace<Cuda>);
    /// All that it writes.
    fn written(&self) -> Vec<CudaView<'_, u8>>;
}

/// A call of a layer. Where BatchNorm goes by a channel table, the call that makes the table is part of it.
struct OfLayer<T: Real> {
    call: Call,
    pool: Rc<Pool<T>>,
    x: CudaSlice<T>,
    residual: CudaSlice<T>,
    sum: CudaSlice<T>,
    y: CudaSlice<T>,
    weight: Given<T>,
    bias: Given<T>,
    scale: Given<T>,
    shift: Given<T>,
    channel_bias: Given<T>,
    mean: CudaSlice<f32>,
    var: CudaSlice<f32>,
    table: CudaSlice<f32>,
    batches: CudaSlice<i64>,
}

impl<T: Real> OfLayer<T> {
    fn new(cuda: &Cuda, pool: &Rc<Pool<T>>, call: &Call) -> Self {
        let (channels, of_samples) = (call.channels(), call.shape[0] * call.channels());
        let tensor = || cuda.put(&vec![T::default(); call.elements()]);
        let Modulation { scale, shift, channel_bias, .. } = call.modulation;
        Self {
            call: call.clone(),
            pool: pool.clone(),
            x: tensor(),
            residual: tensor(),
            sum: tensor(),
            y: tensor(),
            weight: Given::new(cuda, call.weight, channels),
            bias: Given::new(cuda, call.bias, channels),
            scale: Given::new(cuda, scale, of_samples),
            shift: Given::new(cuda, shift, of_samples),
            channel_bias: Given::new(cuda, channel_bias, of_samples),
            mean: cuda.put(&vec![0.0; channels]),
            var: cuda.put(&vec![1.0; channels]),
            table: cuda.put(&vec![0.0; 3 * channels]),
            batches: cuda.put_counter(BATCHES_BEFORE),
        }
    }

    fn has_table(&self) -> bool {
        matches!(self.call.layer, Layer::BatchNorm { table: true, .. })
    }

    fn moves_statistics(&self) -> bool {
        matches!(self.call.layer, Layer::BatchStatistics { .. })
    }

    fn table_of(&self) -> BatchNorm {
        BatchNorm::new(self.call.channels()).and_then(|layer| layer.eps(self.call.eps)).expect("a valid layer")
    }
}

impl<T: Real> Operation for OfLayer<T> {
    fn name(&self) -> String {
        format!("{} {:?}", T::DTYPE, self.call)
    }

    fn workspace_bytes(&self, cuda: &Cuda) -> usize {
        workspace_bytes(cuda, &self.call, T::DTYPE).expect("a valid call")
    }

    fn fill(&mut self, stream: &Arc<CudaStream>, seed: usize) {
        let is_moved = self.moves_statistics();
        let Self { call, pool, weight, bias, scale, shift, channel_bias, .. } = self;
        fill(stream, if call.in_place { &mut self.y } else { &mut self.x }, &pool.own, seed);
        if call.residual != Residual::Absent {
            fill(stream, &mut self.residual, &pool.own, seed + 1);
        }
        for (number, given) in [weight, bias, scale, shift, channel_bias].into_iter().enumerate() {
            given.fill(stream, pool, seed + 2 + number);
        }
        // What is moved goes on from where the last replay has left it.
        if !is_moved {
            fill(stream, &mut self.mean, &pool.single, seed + 7);
            fill(stream, &mut self.var, &pool.positive, seed + 8);
        }
    }

    fn submit(&mut self, cuda: &Cuda, workspace: &mut Workspace<Cuda>) {
        macro_rules! with {
            ($args:expr, $($coefficient:ident),*) => {{
                let args = $args;
                $(let args = match &self.$coefficient {
                    Given::Absent => args,
                    Given::Own(values) => args.$coefficient(values),
                    Given::Single(values) => args.$coefficient(values),
                };)*
                args
            }};
        }
        let (has_table, moves_statistics, call) = (self.has_table(), self.moves_statistics(), &self.call);
        if has_table {
            let layer = self.table_of();
            let args = Args::new(cuda, [call.channels()]).running_mean(&self.mean).running_var(&self.var);
            layer.channel_table(with!(args, weight, bias).output(&mut self.table)).expect("a valid table");
        }
        let args = Args::new(cuda, Shape::new(&call.shape).unwrap()).output(&mut self.y).workspace(workspace);
        let args = if call.in_place { args } else { args.input(&self.x) };
        let args = match call.residual {
            Residual::Absent => args,
            Residual::Added => args.residual(&self.residual),
            Residual::SumWritten => args.residual(&self.residual).sum(&mut self.sum),
            Residual::SumInPlace => args.sum_in_residual(&mut self.residual),
        };
        let args = match call.layer {
            _ if has_table => args.channel_table(&self.table),
            _ if moves_statistics => {
                args.update_running_statistics(&mut self.mean, &mut self.var).num_batches_tracked(&mut self.batches)
            }
            Layer::BatchNorm { .. } | Layer::InstanceNormTracked => {
                args.running_mean(&self.mean).running_var(&self.var)
            }
            _ => args,
        };
        let args = if has_table { args } else { with!(args, weight, bias) };
        let args = with!(args, scale, shift, channel_bias);
        forward(call, args).unwrap_or_else(|error| panic!("{}: {error}", self.name()));
    }

    fn written(&self) -> Vec<CudaView<'_, u8>> {
        let mut written = vec![bytes(&self.y)];
        match self.call.residual {
            Residual::SumWritten => written.push(bytes(&self.sum)),
            Residual::SumInPlace => written.push(bytes(&self.residual)),
            Residual::Absent | Residual::Added => {}
        }
        if self.has_table() {
            written.push(bytes(&self.table));
        }
        if self.moves_statistics() {
            written.extend([bytes(&self.mean), bytes(&self.var), bytes(&self.batches)]);
        }
        written
    }
}

/// The same by addresses, which are asked for before a capture.
struct ByAddresses<T: Real> {
    of: OfLayer<T>,
    launches: Vec<(raw::Call, raw::Addresses)>,
    _workspace: CudaSlice<f32>,
}

impl<T: Real> ByAddresses<T> {
    fn new(cuda: &Cuda, pool: &Rc<Pool<T>>, call: &Call) -> Self {
        let mut of = OfLayer::new(cuda, pool, call);
        let device = raw::Device::from(cuda);
        let prepared = prepare_raw(call, &device, T::DTYPE).expect("a valid call");
        let workspace_bytes = prepared.workspace_bytes();
        let mut workspace = cuda.put(&vec![f32::NAN; workspace_bytes.div_ceil(4)]);
        let when = |is_given, address| if is_given { address } else { 0 };
        let workspace_address = when(workspace_bytes > 0, cuda.address(&mut workspace));
        // SAFETY: the buffer has so many bytes, or there are none.
        unsafe { device.init_workspace(workspace_address, workspace_bytes, cuda.raw().1) }.expect("a workspace");

        let (has_table, is_moved) = (of.has_table(), of.moves_statistics());
        let [running_mean, running_var] = [&mut of.mean, &mut of.var].map(|statistic| cuda.address(statistic));
        let [weight, bias, scale, shift, channel_bias] =
            [&mut of.weight, &mut of.bias, &mut of.scale, &mut of.shift, &mut of.channel_bias]
                .map(|given| given.address(cuda));
        let table = cuda.address(&mut of.table);
        let mut launches = Vec::new();
        if has_table {
            let (of_weight, of_bias) = (of.weight.dtype().expect("a weight"), of.bias.dtype().expect("a bias"));
            let signature = Signature::new([call.channels()], DType::F32).weight(of_weight).bias(of_bias);
            let prepared = of.table_of().prepare_channel_table_raw(&device, &signature).expect("a valid table");
            let addresses =
                raw::Addresses { running_mean, running_var, weight, bias, output: table, ..Default::default() };
            launches.push((prepared, addresses));
        }
        let has_statistics =
            is_moved || matches!(call.layer, Layer::BatchNorm { table: false, .. } | Layer::InstanceNormTracked);
        let addresses = raw::Addresses {
            input: when(!call.in_place, cuda.address(&mut of.x)),
            output: cuda.address(&mut of.y),
            residual: when(call.residual != Residual::Absent, cuda.address(&mut of.residual)),
            sum: when(call.residual == Residual::SumWritten, cuda.address(&mut of.sum)),
            weight: when(!has_table, weight),
            bias: when(!has_table, bias),
            scale,
            shift,
            channel_bias,
            running_mean: when(has_statistics, running_mean),
            running_var: when(has_statistics, running_var),
            num_batches_tracked: when(is_moved, cuda.address_of_counter(&mut of.batches)),
            channel_table: when(has_table, table),
            workspace: workspace_address,
            workspace_bytes,
        };
        launches.push((prepared, addresses));
        Self { of, launches, _workspace: workspace }
    }
}

impl<T: Real> Operation for ByAddresses<T> {
    fn name(&self) -> String {
        format!("by addresses: {}", self.of.name())
    }

    fn workspace_bytes(&self, _: &Cuda) -> usize {
        0
    }

    fn fill(&mut self, stream: &Arc<CudaStream>, seed: usize) {
        self.of.fill(stream, seed);
    }

    fn submit(&mut self, cuda: &Cuda, _: &mut Workspace<Cuda>) {
        for (call, addresses) in &self.launches {
            // SAFETY: buffers of this context, as long as the call says, which nothing uses but this stream.
            unsafe { call.launch(addresses, cuda.raw().1) }.unwrap_or_else(|error| panic!("{}: {error}", self.name()));
        }
    }

    fn written(&self) -> Vec<CudaView<'_, u8>> {
        self.of.written()
    }
}

/// The direct convolution, with a residual.
struct Convolution {
    layer: DirectConvolution,
    pool: Vec<f32>,
    x: CudaSlice<f32>,
    weight: CudaSlice<f32>,
    bias: CudaSlice<f32>,
    residual: CudaSlice<f32>,
    y: CudaSlice<f32>,
}

impl Convolution {
    fn new(cuda: &Cuda) -> Self {
        let layer = DirectConvolution {
            in_channels: 2,
            out_channels: 4,
            kernel: [3, 3],
            stride: 1,
            padding: 1,
            groups: 1,
            activation: Activation::Silu,
        };
        let [x, weight, bias, residual, y] =
            [2 * 2 * 25, 4 * 2 * 9, 4, 2 * 4 * 25, 2 * 4 * 25].map(|count| cuda.put(&vec![0.0; count]));
        Self { layer, pool: stored(normal(10_007, 2)), x, weight, bias, residual, y }
    }
}

impl Operation for Convolution {
    fn name(&self) -> String {
        format!("{:?}", self.layer)
    }

    fn workspace_bytes(&self, _: &Cuda) -> usize {
        0
    }

    fn fill(&mut self, stream: &Arc<CudaStream>, seed: usize) {
        let buffers = [&mut self.x, &mut self.weight, &mut self.bias, &mut self.residual];
        for (number, buffer) in buffers.into_iter().enumerate() {
            fill(stream, buffer, &self.pool, seed + number);
        }
    }

    fn submit(&mut self, cuda: &Cuda, _: &mut Workspace<Cuda>) {
        let Self { layer, x, weight, bias, residual, y, .. } = self;
        layer.forward(cuda, 2, [5, 5], x, weight, Some(bias), Some(residual), y).expect("a convolution");
    }

    fn written(&self) -> Vec<CudaView<'_, u8>> {
        vec![bytes(&self.y)]
    }
}

/// What to capture.
enum Work {
    Layer(Call),
    ByAddresses(Call),
    Convolution,
}

impl Work {
    fn build<T: Real>(&self, cuda: &Cuda, pool: &Rc<Pool<T>>) -> Box<dyn Operation> {
        match self {
            Self::Layer(call) => Box::new(OfLayer::new(cuda, pool, call)),
            Self::ByAddresses(call) => Box::new(ByAddresses::new(cuda, pool, call)),
            Self::Convolution => Box::new(Convolution::new(cuda)),
        }
    }
}

/// Rows of each regime.
fn rows() -> impl Iterator<Item = Call> {
    [(9, 5), (3, 100), (2, 300), (2, 700), (2, 1030), (1, 17_000), (1, 33_000)].into_iter().flat_map(
        |(rows, length)| {
            let summed = Call { residual: Residual::SumInPlace, ..Call::new(Layer::LayerNorm, &[rows, length]) };
            let layer = Layer::RmsNorm { weight_plus_one: true };
            let in_place = Call { in_place: true, weight: Coefficient::F32, ..Call::new(layer, &[rows, length]) };
            [summed, Call { residual: Residual::SumWritten, ..in_place }]
        },
    )
}

/// The other patterns, with what each can take, over tensors of one tile, and over tensors of several, whose blocks meet in
/// the workspace.
fn images() -> impl Iterator<Item = Call> {
    use Coefficient::{F32, Own};
    let (nchw, nhwc) = (Layout::Nchw, Layout::Nhwc);
    let modulation = Modulation { scale: F32, shift: Own, channel_bias: F32, scale_plus_one: true };
    let groups_and_instances = [
        (Layer::group_norm(2), [2, 6, 9, 9]),
        (Layer::GroupNorm { groups: 2, layout: nhwc }, [2, 9, 9, 6]),
        (Layer::GroupNorm { groups: 2, layout: nhwc }, [1, 70, 61, 10]),
        (Layer::INSTANCE_NORM, [2, 3, 20, 21]),
        (Layer::InstanceNorm { layout: nhwc }, [2, 9, 9, 5]),
    ];
    let groups_and_instances = groups_and_instances.into_iter().flat_map(move |(layer, shape)| {
        let in_place = Call { in_place: true, activation: Activation::Silu, ..Call::new(layer, &shape) };
        [in_place, Call { modulation, residual: Residual::SumInPlace, ..Call::new(layer, &shape) }]
    });
    let batches = [(nchw, [2, 5, 6, 7], [3, 1, 101, 100]), (nhwc, [2, 6, 7, 5], [2, 60, 61, 5])];
    let batches = batches.into_iter().flat_map(|(layout, shape, large)| {
        let by_batch = |momentum| Layer::BatchStatistics { layout, momentum };
        [
            Call::new(Layer::BatchNorm { layout, table: true }, &shape),
            Call { residual: Residual::SumInPlace, ..Call::new(Layer::BatchNorm { layout, table: false }, &shape) },
            Call { residual: Residual::SumWritten, ..Call::new(by_batch(Some(0.1)), &shape) },
            Call { in_place: true, ..Call::new(by_batch(None), &large) },
        ]
    });
    groups_and_instances.chain([Call::new(Layer::InstanceNormTracked, &[2, 3, 7, 7])]).chain(batches)
}

/// Everything that has kernels of its own.
fn works() -> Vec<Work> {
    rows().chain(images()).map(Work::Layer).chain([Work::Convolution]).collect()
}

fn is_small(call: &Call) -> bool {
    call.elements() < 3000
}

/// Every pattern, for what takes many seeds, with blocks that meet in the workspace among them.
fn small_works() -> Vec<Work> {
    let several_tiles = images().filter(|call| call.shape == [2, 60, 61, 5]);
    let calls = rows().chain(images()).filter(is_small).chain(several_tiles);
    calls.map(Work::Layer).chain([Work::Convolution]).collect()
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
        assert!(name == "cuCtxGetCurrent" || (name, count) == ("cuLaunchKernelEx".to_owned(), kernels as u64));
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
    let mut y = cuda.put(&stored::<f32>(normal(5 * 5 * 8, 1)));
    let groups = GroupNorm::new(2, 8).unwrap().layout(Layout::Nhwc);
    let (instances, shape) = (LayerNorm::new([8]).unwrap(), [1, 5, 5, 8]);
    cuda.stream().synchronize().unwrap();

    begin(cuda.stream());
    let without = groups.forward(Args::new(&cuda, shape).output(&mut y));
    assert!(matches!(without, Err(Error::Workspace { found: 0, .. })), "{without:?}");
    let too_long = instances.forward(Args::new(&cuda, [9, 5, 5, 8]).output(&mut y));
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
    stream.synchronize().unwrap();

    begin(stream);
    let refused = layer.forward(Args::new(&cuda, [1, 64]).input(&x).output(&mut y));
    // Else cudarc would return what it has kept, and not end the capture.
    let _ = context.check_err();
    let ended = try_end(stream).map(|_| "a graph");
    let Err(Error::Driver { code, .. }) = refused else { panic!("{refused:?}") };
    let Err(DriverError(ended)) = ended else { panic!("{ended:?}") };
    let (isolation, invalidated) = (905, sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    match device.emulator {
        None => println!("the call was refused by {code}, the capture ended with {ended:?}"),
        Some(emulator) => {
            assert_eq!((code, ended), (isolation, invalidated));
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
