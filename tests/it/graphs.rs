//! CUDA graphs: every operation captured once, and replayed a hundred times with new contents in the same buffers. Every
//! replay must have the bits of a plain call: on one stream, on two at once, and where a graph has two branches.
//!
//! Nobody waits between replays: contents are uploaded, and results copied to a tape on the device, in the stream's order.
//! So the emulator is free to run the streams in whatever order it draws.

use std::sync::Arc;

use emulator::{Emulator, Schedule, Settings, Variant};
use warpnorm::cudarc::driver::{CudaGraph, CudaSlice, CudaStream, CudaView, DeviceRepr, sys};
use warpnorm::half::bf16;
use warpnorm::{
    Activation, Args, BatchNorm, Cuda, DType, DirectConvolution, Error, LayerNorm, Layout, Shape, Signature, Workspace,
    raw,
};

use crate::call::{
    BATCHES_BEFORE, Call, Coefficient, Inputs, Layer, Modulation, Residual, forward, prepare_raw, workspace_bytes,
};
use crate::data::{normal, stored};
use crate::device::{self, Device};
use crate::place::{Place, Real};

const REPLAYS: usize = 100;

fn begin(stream: &Arc<CudaStream>) {
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("a capture begins");
}

fn end(stream: &Arc<CudaStream>) -> CudaGraph {
    stream.end_capture(sys::CUgraphInstantiate_flags(0)).expect("a capture ends").expect("a graph")
}

/// Streams of one context that can be captured, which the null stream cannot, and whose slices have no events, for which a
/// capture would wait.
fn streams<const COUNT: usize>(cuda: &Cuda) -> [Cuda; COUNT] {
    let context = cuda.stream().context();
    // SAFETY: here a buffer is used by one stream alone, or the test joins the streams.
    unsafe { context.disable_event_tracking() };
    std::array::from_fn(|_| cuda.with_stream(&context.new_stream().unwrap()).unwrap())
}

/// Work to capture, with buffers of its own that stay where they are.
trait Operation {
    fn name(&self) -> String;
    fn workspace_bytes(&self, cuda: &Cuda) -> usize;
    /// New contents for all that it reads, what it changes in place included.
    fn fill(&mut self, cuda: &Cuda, seed: u64);
    fn submit(&mut self, cuda: &Cuda, workspace: &mut Workspace<Cuda>);
    /// All that it writes.
    fn written(&self) -> Vec<CudaView<'_, u8>>;
}

fn bytes<E: DeviceRepr>(slice: &CudaSlice<E>) -> CudaView<'_, u8> {
    // SAFETY: numbers of whatever type are bytes.
    unsafe { slice.transmute(slice.num_bytes()) }.expect("as long as itself")
}

/// A coefficient in both of the types that it may have.
struct Both<T: Real> {
    own: CudaSlice<T>,
    single: CudaSlice<f32>,
}

impl<T: Real> Both<T> {
    fn new(cuda: &Cuda, values: &[f64]) -> Self {
        let single = cuda.put(&stored::<f32>(values.iter().copied()));
        Self { own: cuda.put(&stored::<T>(values.iter().copied())), single }
    }

    fn fill(&mut self, stream: &Arc<CudaStream>, values: &[f64]) {
        stream.memcpy_htod(&stored::<T>(values.iter().copied()), &mut self.own).unwrap();
        stream.memcpy_htod(&stored::<f32>(values.iter().copied()), &mut self.single).unwrap();
    }

    fn address(&mut self, cuda: &Cuda, which: Coefficient) -> u64 {
        match which {
            Coefficient::Absent => 0,
            Coefficient::Own => cuda.address(&mut self.own),
            Coefficient::F32 => cuda.address(&mut self.single),
        }
    }
}

/// A call of a layer. Where BatchNorm goes by a channel table, the call that makes the table is part of it.
struct OfLayer<T: Real> {
    call: Call,
    x: CudaSlice<T>,
    residual: CudaSlice<T>,
    sum: CudaSlice<T>,
    y: CudaSlice<T>,
    weight: Both<T>,
    bias: Both<T>,
    scale: Both<T>,
    shift: Both<T>,
    channel_bias: Both<T>,
    mean: CudaSlice<f32>,
    var: CudaSlice<f32>,
    table: CudaSlice<f32>,
    batches: CudaSlice<i64>,
    /// A workspace of its own, if it goes by addresses.
    by_addresses: Option<CudaSlice<f32>>,
}

impl<T: Real> OfLayer<T> {
    fn new(cuda: &Cuda, call: &Call) -> Self {
        let inputs = Inputs::<T>::normal(call, 0);
        let [x, residual, sum, y] = [(); 4].map(|()| cuda.put(&inputs.x));
        let [mean, var] = [&inputs.running_mean, &inputs.running_var].map(|values| cuda.put(values));
        let table = cuda.put(&vec![f32::NAN; 3 * call.channels()]);
        let batches = cuda.put_counter(BATCHES_BEFORE);
        let Inputs { weight, bias, scale, shift, channel_bias, .. } = &inputs;
        let [weight, bias, scale, shift, channel_bias] =
            [weight, bias, scale, shift, channel_bias].map(|values| Both::new(cuda, values));
        let (call, by_addresses) = (call.clone(), None);
        Self {
            call,
            x,
            residual,
            sum,
            y,
            weight,
            bias,
            scale,
            shift,
            channel_bias,
            mean,
            var,
            table,
            batches,
            by_addresses,
        }
    }

    fn by_addresses(cuda: &Cuda, call: &Call) -> Self {
        let bytes = workspace_bytes(cuda, call, T::DTYPE).expect("a valid call");
        let memory = cuda.stream().alloc_zeros(bytes.div_ceil(4).max(1)).unwrap();
        Self { by_addresses: Some(memory), ..Self::new(cuda, call) }
    }

    fn has_table(&self) -> bool {
        matches!(self.call.layer, Layer::BatchNorm { table: true, .. })
    }

    fn moves_statistics(&self) -> bool {
        matches!(self.call.layer, Layer::BatchStatistics { .. })
    }

    fn submit_addresses(&mut self, cuda: &Cuda) {
        let prepared = prepare_raw(&self.call, &raw::Device::from(cuda), T::DTYPE).expect("a valid call");
        let given = |address, is_given| if is_given { address } else { 0 };
        let (is_moved, Modulation { scale, shift, channel_bias, .. }) = (self.moves_statistics(), self.call.modulation);
        let has_statistics =
            is_moved || matches!(self.call.layer, Layer::BatchNorm { .. } | Layer::InstanceNormTracked);
        let workspace = self.by_addresses.as_mut().expect("a call by addresses");
        let addresses = raw::Addresses {
            input: given(cuda.address(&mut self.x), !self.call.in_place),
            output: cuda.address(&mut self.y),
            residual: given(cuda.address(&mut self.residual), self.call.residual != Residual::Absent),
            sum: given(cuda.address(&mut self.sum), self.call.residual == Residual::SumWritten),
            weight: self.weight.address(cuda, self.call.weight),
            bias: self.bias.address(cuda, self.call.bias),
            scale: self.scale.address(cuda, scale),
            shift: self.shift.address(cuda, shift),
            channel_bias: self.channel_bias.address(cuda, channel_bias),
            running_mean: given(cuda.address(&mut self.mean), has_statistics),
            running_var: given(cuda.address(&mut self.var), has_statistics),
            num_batches_tracked: given(cuda.address_of_counter(&mut self.batches), is_moved),
            channel_table: 0,
            workspace: given(cuda.address(workspace), prepared.workspace_bytes() > 0),
            workspace_bytes: prepared.workspace_bytes(),
        };
        // SAFETY: buffers of this context, as long as the call says, which nothing uses but this stream.
        unsafe { prepared.launch(&addresses, cuda.raw().1) }.expect("a valid call");
    }
}

impl<T: Real> Operation for OfLayer<T> {
    fn name(&self) -> String {
        let by = if self.by_addresses.is_some() { " by addresses" } else { "" };
        format!("{} {:?}{by}", T::DTYPE, self.call)
    }

    fn workspace_bytes(&self, cuda: &Cuda) -> usize {
        workspace_bytes(cuda, &self.call, T::DTYPE).expect("a valid call")
    }

    fn fill(&mut self, cuda: &Cuda, seed: u64) {
        let (stream, inputs) = (cuda.stream(), Inputs::<T>::normal(&self.call, seed));
        stream.memcpy_htod(&inputs.x, if self.call.in_place { &mut self.y } else { &mut self.x }).unwrap();
        stream.memcpy_htod(&inputs.residual, &mut self.residual).unwrap();
        self.weight.fill(stream, &inputs.weight);
        self.bias.fill(stream, &inputs.bias);
        self.scale.fill(stream, &inputs.scale);
        self.shift.fill(stream, &inputs.shift);
        self.channel_bias.fill(stream, &inputs.channel_bias);
        // What is moved goes on from where the last replay has left it.
        if !self.moves_statistics() {
            stream.memcpy_htod(&inputs.running_mean, &mut self.mean).unwrap();
            stream.memcpy_htod(&inputs.running_var, &mut self.var).unwrap();
        }
    }

    fn submit(&mut self, cuda: &Cuda, workspace: &mut Workspace<Cuda>) {
        if self.by_addresses.is_some() {
            return self.submit_addresses(cuda);
        }
        let (has_table, moves_statistics, call) = (self.has_table(), self.moves_statistics(), &self.call);
        macro_rules! with {
            ($args:expr, $($coefficient:ident: $which:expr),*) => {{
                let args = $args;
                $(let args = match $which {
                    Coefficient::Absent => args,
                    Coefficient::Own => args.$coefficient(&self.$coefficient.own),
                    Coefficient::F32 => args.$coefficient(&self.$coefficient.single),
                };)*
                args
            }};
        }
        if has_table {
            let args = Args::new(cuda, [call.channels()]).running_mean(&self.mean).running_var(&self.var);
            let args = with!(args, weight: call.weight, bias: call.bias).output(&mut self.table);
            let layer = BatchNorm::new(call.channels()).and_then(|layer| layer.eps(call.eps)).expect("a valid layer");
            layer.channel_table(args).expect("a valid table");
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
        let args = if has_table { args } else { with!(args, weight: call.weight, bias: call.bias) };
        let Modulation { scale, shift, channel_bias, .. } = call.modulation;
        let args = with!(args, scale: scale, shift: shift, channel_bias: channel_bias);
        forward(call, args).unwrap_or_else(|error| panic!("{call:?}: {error}"));
    }

    fn written(&self) -> Vec<CudaView<'_, u8>> {
        let sum = match self.call.residual {
            Residual::SumWritten => Some(&self.sum),
            Residual::SumInPlace => Some(&self.residual),
            Residual::Absent | Residual::Added => None,
        };
        let mut written = vec![bytes(&self.y)];
        written.extend(sum.map(bytes));
        if self.has_table() {
            written.push(bytes(&self.table));
        }
        if self.moves_statistics() {
            written.extend([bytes(&self.mean), bytes(&self.var), bytes(&self.batches)]);
        }
        written
    }
}

/// The direct convolution, with a residual.
struct Convolution {
    layer: DirectConvolution,
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
        Self { layer, x, weight, bias, residual, y }
    }
}

impl Operation for Convolution {
    fn name(&self) -> String {
        format!("{:?}", self.layer)
    }

    fn workspace_bytes(&self, _: &Cuda) -> usize {
        0
    }

    fn fill(&mut self, cuda: &Cuda, seed: u64) {
        let buffers = [&mut self.x, &mut self.weight, &mut self.bias, &mut self.residual];
        for (number, buffer) in buffers.into_iter().enumerate() {
            let values = stored::<f32>(normal(buffer.len(), seed + number as u64));
            cuda.stream().memcpy_htod(&values, buffer).unwrap();
        }
    }

    fn submit(&mut self, cuda: &Cuda, _: &mut Workspace<Cuda>) {
        let Self { layer, x, weight, bias, residual, y } = self;
        layer.forward(cuda, 2, [5, 5], x, weight, Some(bias), Some(residual), y).expect("a convolution");
    }

    fn written(&self) -> Vec<CudaView<'_, u8>> {
        vec![bytes(&self.y)]
    }
}

/// Whatever has kernels of its own, with all that it can take: every regime of the rows, and in the other patterns tensors
/// of one tile and of several, which meet in the workspace.
fn calls() -> Vec<Call> {
    use Coefficient::{F32, Own};
    let (nchw, nhwc) = (Layout::Nchw, Layout::Nhwc);
    let modulation = Modulation { scale: F32, shift: Own, channel_bias: F32, scale_plus_one: true };
    let mut calls = Vec::new();
    for (rows, length) in [(9, 5), (3, 100), (2, 300), (2, 700), (2, 1030), (1, 17_000), (1, 33_000)] {
        let summed = Call { residual: Residual::SumInPlace, ..Call::new(Layer::LayerNorm, &[rows, length]) };
        let layer = Layer::RmsNorm { weight_plus_one: true };
        let in_place = Call { in_place: true, weight: F32, ..Call::new(layer, &[rows, length]) };
        calls.extend([summed, Call { residual: Residual::SumWritten, ..in_place }]);
    }
    for (layer, shape) in [
        (Layer::group_norm(2), [2, 6, 9, 9]),
        (Layer::GroupNorm { groups: 2, layout: nhwc }, [2, 9, 9, 6]),
        (Layer::INSTANCE_NORM, [2, 3, 20, 21]),
        (Layer::InstanceNorm { layout: nhwc }, [2, 9, 9, 5]),
    ] {
        calls.push(Call { in_place: true, activation: Activation::Silu, ..Call::new(layer, &shape) });
        calls.push(Call { modulation, residual: Residual::SumInPlace, ..Call::new(layer, &shape) });
    }
    // In f32 these, and those called large below, have two tiles.
    calls.push(Call::new(Layer::GroupNorm { groups: 2, layout: nhwc }, &[1, 41, 41, 10]));
    calls.push(Call::new(Layer::InstanceNormTracked, &[2, 3, 7, 7]));
    for (layout, shape, large) in [(nchw, [2, 5, 6, 7], [2, 2, 91, 91]), (nhwc, [2, 6, 7, 5], [2, 41, 41, 5])] {
        let by_batch = |momentum| Layer::BatchStatistics { layout, momentum };
        calls.extend([
            Call::new(Layer::BatchNorm { layout, table: true }, &shape),
            Call { residual: Residual::SumInPlace, ..Call::new(Layer::BatchNorm { layout, table: false }, &shape) },
            Call { residual: Residual::SumWritten, ..Call::new(by_batch(Some(0.1)), &shape) },
            Call { in_place: true, ..Call::new(by_batch(None), &large) },
        ]);
    }
    calls
}

fn operations<T: Real>(cuda: &Cuda) -> Vec<Box<dyn Operation>> {
    let mut operations: Vec<Box<dyn Operation>> = vec![Box::new(Convolution::new(cuda))];
    operations.extend(calls().iter().map(|call| Box::new(OfLayer::<T>::new(cuda, call)) as Box<dyn Operation>));
    operations
}

/// Operations one after another on one stream, with one workspace; captured, or called anew each time.
struct Player {
    graph: Option<CudaGraph>,
    cuda: Cuda,
    operations: Vec<Box<dyn Operation>>,
    workspace: Workspace<Cuda>,
    /// Of each operation: what it has written in every replay, one behind the other.
    tapes: Vec<CudaSlice<u8>>,
    played: usize,
    /// Of another branch of the graph.
    _workspace: Option<Workspace<Cuda>>,
}

impl Player {
    fn new(cuda: &Cuda, operations: Vec<Box<dyn Operation>>) -> Self {
        let most = operations.iter().map(|operation| operation.workspace_bytes(cuda)).max();
        let workspace = Workspace::init(cuda, most.unwrap_or(0)).unwrap();
        let tape = |operation: &dyn Operation| {
            let frame: usize = operation.written().iter().map(CudaView::len).sum();
            cuda.stream().alloc_zeros(frame * REPLAYS).unwrap()
        };
        let tapes = operations.iter().map(|operation| tape(operation.as_ref())).collect();
        Self { graph: None, cuda: cuda.clone(), operations, workspace, tapes, played: 0, _workspace: None }
    }

    fn captured(cuda: &Cuda, operations: Vec<Box<dyn Operation>>) -> Self {
        let mut player = Self::new(cuda, operations);
        begin(cuda.stream());
        player.submit();
        player.graph = Some(end(cuda.stream()));
        player
    }

    /// One graph of two branches, which may run at once, each with its own workspace; played on the first stream.
    fn forked([first, second]: &[Cuda; 2], branches: [Vec<Box<dyn Operation>>; 2]) -> Self {
        let [mut player, mut other] = {
            let [here, there] = branches;
            [Self::new(first, here), Self::new(second, there)]
        };
        first.stream().synchronize().unwrap();
        second.stream().synchronize().unwrap();
        begin(first.stream());
        second.stream().join(first.stream()).unwrap();
        player.submit();
        other.submit();
        first.stream().join(second.stream()).unwrap();
        player.graph = Some(end(first.stream()));
        player.operations.append(&mut other.operations);
        player.tapes.append(&mut other.tapes);
        player._workspace = Some(other.workspace);
        player
    }

    fn submit(&mut self) {
        self.operations.iter_mut().for_each(|operation| operation.submit(&self.cuda, &mut self.workspace));
    }

    /// Once, with new contents; without waiting for the end.
    fn play(&mut self) {
        let seed = 10 * self.played as u64 + 1;
        self.operations.iter_mut().for_each(|operation| operation.fill(&self.cuda, seed));
        match &self.graph {
            Some(graph) => graph.launch().unwrap(),
            None => self.submit(),
        }
        for (operation, tape) in self.operations.iter().zip(&mut self.tapes) {
            let mut at = self.played * (tape.len() / REPLAYS);
            for written in operation.written() {
                let mut frame = tape.slice_mut(at..at + written.len());
                self.cuda.stream().memcpy_dtod(&written, &mut frame).unwrap();
                at += written.len();
            }
        }
        self.played += 1;
    }

    fn play_all(mut self) -> Self {
        (0..REPLAYS).for_each(|_| self.play());
        self
    }

    fn results(&self) -> Vec<Vec<u8>> {
        assert_eq!(self.played, REPLAYS);
        self.tapes.iter().map(|tape| self.cuda.stream().clone_dtoh(tape).unwrap()).collect()
    }

    /// Holds every replay against the plain calls' results.
    fn assert_same(&self, expected: &[Vec<u8>]) {
        for ((operation, found), expected) in self.operations.iter().zip(self.results()).zip(expected) {
            let length = found.len() / REPLAYS;
            let differing = (0..REPLAYS).find(|at| found[at * length..][..length] != expected[at * length..][..length]);
            assert_eq!(differing, None, "{}: a replay differs from a plain call", operation.name());
        }
    }
}

/// What plain calls give. No two of them give the same, so a graph that ran on old contents, or not at all, is found out.
fn expected<T: Real>(cuda: &Cuda) -> Vec<Vec<u8>> {
    let results = Player::new(cuda, operations::<T>(cuda)).play_all().results();
    for tape in &results {
        let frames: Vec<&[u8]> = tape.chunks(tape.len() / REPLAYS).collect();
        assert!(frames.windows(2).all(|pair| pair[0] != pair[1]));
    }
    results
}

/// Orders of the streams, and of the branches of graphs, to try on the emulator; the checked one finds races in any.
fn under_seeds(emulator: Option<&Emulator>, seeds: u64, mut test: impl FnMut()) {
    let Some(emulator) = emulator else { return test() };
    for seed in 0..if emulator.variant() == Variant::Checked { 1 } else { seeds } {
        let schedule = if seed % 2 == 0 { Schedule::LockStep } else { Schedule::RunAhead };
        emulator.configure(&Settings { seed, schedule, ..Settings::default() });
        test();
    }
}

/// A graph of each operation alone.
fn each_operation<T: Real>(device: &Device) {
    let [cuda] = streams(&device.cuda);
    let expected = expected::<T>(&cuda);
    under_seeds(device.emulator, 2, || {
        for (operation, expected) in operations::<T>(&cuda).into_iter().zip(&expected) {
            Player::captured(&cuda, vec![operation]).play_all().assert_same(std::slice::from_ref(expected));
        }
    });
}

#[test]
fn each_operation_replayed_on_cuda() {
    let device = device::cuda();
    each_operation::<f32>(&device);
    each_operation::<bf16>(&device);
}

/// By device pointers and a stream's handle, with cudarc's tracking on: the raw layer has no events.
#[test]
fn raw_calls_replayed_on_cuda() {
    let device = device::cuda();
    let [cuda] = streams(&device.cuda);
    let calls: Vec<Call> =
        calls().into_iter().filter(|call| !matches!(call.layer, Layer::BatchNorm { table: true, .. })).collect();
    let plain = |call: &Call| Box::new(OfLayer::<f32>::new(&cuda, call)) as Box<dyn Operation>;
    let expected = Player::new(&cuda, calls.iter().map(plain).collect()).play_all().results();
    under_seeds(device.emulator, 2, || {
        let raw = |call: &Call| Box::new(OfLayer::<f32>::by_addresses(&cuda, call)) as Box<dyn Operation>;
        Player::captured(&cuda, calls.iter().map(raw).collect()).play_all().assert_same(&expected);
    });
}

/// All operations in one graph, and two such graphs on two streams, neither of which waits for the other.
#[test]
fn two_streams_at_once_on_cuda() {
    let device = device::cuda();
    let cuda = streams::<2>(&device.cuda);
    let expected = expected::<f32>(&cuda[0]);
    under_seeds(device.emulator, 4, || {
        let mut players = cuda.each_ref().map(|cuda| Player::captured(cuda, operations::<f32>(cuda)));
        for _ in 0..REPLAYS {
            players.iter_mut().for_each(Player::play);
        }
        players.iter().for_each(|player| player.assert_same(&expected));
    });
}

/// Two branches of one graph, with all operations in each.
#[test]
fn two_branches_of_a_graph_on_cuda() {
    let device = device::cuda();
    let cuda = streams::<2>(&device.cuda);
    let expected = expected::<f32>(&cuda[0]);
    let twice = [expected.clone(), expected].concat();
    under_seeds(device.emulator, 4, || {
        let branches = cuda.each_ref().map(operations::<f32>);
        Player::forked(&cuda, branches).play_all().assert_same(&twice);
    });
}

/// With cudarc's tracking on and a second stream, a typed call in a capture waits for events from outside of it, which a
/// capture cannot hold; the raw layer's does not, and is one call of the driver.
#[test]
fn event_tracking_in_a_capture_on_cuda() {
    let device = device::cuda();
    let [cuda, _other] = streams::<2>(&device.cuda);
    let context = cuda.stream().context();
    // SAFETY: on is the safe state.
    unsafe { context.enable_event_tracking() };
    let mut y = cuda.put(&[1.0_f32; 64]);
    let address = cuda.address(&mut y);
    cuda.stream().synchronize().unwrap();
    let (layer, signature) = (LayerNorm::new([64]).unwrap(), Signature::new([1, 64], DType::F32));
    let call = layer.prepare_raw(&raw::Device::from(&cuda), &signature).unwrap();

    begin(cuda.stream());
    let before = device.emulator.map(Emulator::calls).unwrap_or_default();
    let addresses = raw::Addresses { output: address, ..Default::default() };
    // SAFETY: one row of 64 elements.
    unsafe { call.launch(&addresses, cuda.raw().1) }.expect("a launch");
    let after = device.emulator.map(Emulator::calls).unwrap_or_default();
    end(cuda.stream()).launch().unwrap();
    let count = |calls: &[(String, u64)], name: &str| calls.iter().find(|(found, _)| found == name).map_or(0, |c| c.1);
    for (name, total) in &after {
        let made = total - count(&before, name);
        let expected = u64::from(matches!(name.as_str(), "cuLaunchKernelEx" | "cuCtxGetCurrent"));
        assert_eq!(made, expected, "{name} in a raw call");
    }
    assert_eq!(cuda.get(&y), [0.0; 64]);

    // Its events will belong to the capture that failed, and nothing may wait for them.
    let mut y = std::mem::ManuallyDrop::new(y);
    begin(cuda.stream());
    let refused = layer.forward(Args::new(&cuda, [1, 64]).output(&mut *y));
    // Whatever is left of the capture is given up.
    let _ = cuda.stream().end_capture(sys::CUgraphInstantiate_flags(0));
    assert!(matches!(refused, Err(Error::Driver { .. })), "{refused:?}");
    let _ = context.check_err();
    cuda.stream().synchronize().unwrap();
    if let Some(emulator) = device.emulator {
        println!("the driver says: {refused:?}; {}", emulator.take_report());
    }
    // SAFETY: the memory of `y`, which is given back here alone.
    let y = unsafe { cuda.stream().upgrade_device_ptr::<f32>(address, 64) };
    assert_eq!(cuda.get(&y), [0.0; 64], "the stream serves as before");
}
