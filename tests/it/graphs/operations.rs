//! What the tests of graphs capture: every operation of the crate, by slices and by addresses.

use std::rc::Rc;
use std::sync::Arc;

use warpnorm::cudarc::driver::{CudaSlice, CudaStream, CudaView, DeviceRepr};
use warpnorm::{
    Activation, Args, BatchNorm, Cuda, DType, DirectConvolution, Layout, QkNorm, Shape, Signature, Workspace, raw,
};

use crate::call::{
    BATCHES_BEFORE, Call, Coefficient, Layer, Modulation, Residual, forward, prepare_raw, workspace_bytes,
};
use crate::data::{normal, stored};
use crate::place::{Place, Real};

/// Numbers that contents are cut from: another piece of them for every tensor and every replay.
pub struct Pool<T> {
    own: Vec<T>,
    single: Vec<f32>,
    /// For variances.
    positive: Vec<f32>,
}

impl<T: Real> Pool<T> {
    pub fn new() -> Rc<Self> {
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
pub trait Operation {
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
    gate: Given<T>,
    mean: CudaSlice<f32>,
    var: CudaSlice<f32>,
    table: CudaSlice<f32>,
    batches: CudaSlice<i64>,
}

impl<T: Real> OfLayer<T> {
    fn new(cuda: &Cuda, pool: &Rc<Pool<T>>, call: &Call) -> Self {
        let (channels, of_samples) = (call.channels(), call.shape[0] * call.channels());
        let tensor = || cuda.put(&vec![T::default(); call.elements()]);
        let Modulation { scale, shift, channel_bias, gate, .. } = call.modulation;
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
            gate: Given::new(cuda, gate, of_samples),
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
        let Self { call, pool, weight, bias, scale, shift, channel_bias, gate, .. } = self;
        fill(stream, if call.in_place { &mut self.y } else { &mut self.x }, &pool.own, seed);
        if call.residual != Residual::Absent {
            fill(stream, &mut self.residual, &pool.own, seed + 1);
        }
        for (number, given) in [weight, bias, scale, shift, channel_bias, gate].into_iter().enumerate() {
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
        let args = with!(args, scale, shift, channel_bias, gate);
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
        let [weight, bias, scale, shift, channel_bias, gate] =
            [&mut of.weight, &mut of.bias, &mut of.scale, &mut of.shift, &mut of.channel_bias, &mut of.gate]
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
            gate,
            running_mean: when(has_statistics, running_mean),
            running_var: when(has_statistics, running_var),
            num_batches_tracked: when(is_moved, cuda.address_of_counter(&mut of.batches)),
            channel_table: when(has_table, table),
            workspace: workspace_address,
            workspace_bytes,
            ..raw::Addresses::default()
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

/// Query and key heads of one tensor, in place.
struct Heads<T: Real> {
    pool: Rc<Pool<T>>,
    qkv: CudaSlice<T>,
    weights: [CudaSlice<f32>; 2],
}

impl<T: Real> Heads<T> {
    const SHAPE: [usize; 3] = [3, 8, 80];

    fn new(cuda: &Cuda, pool: &Rc<Pool<T>>) -> Self {
        let qkv = cuda.put(&vec![T::default(); Self::SHAPE.iter().product()]);
        Self { pool: pool.clone(), qkv, weights: [80, 80].map(|count| cuda.put(&vec![0.0; count])) }
    }
}

impl<T: Real> Operation for Heads<T> {
    fn name(&self) -> String {
        format!("{} QkNorm of {:?}", T::DTYPE, Self::SHAPE)
    }

    fn workspace_bytes(&self, _: &Cuda) -> usize {
        0
    }

    fn fill(&mut self, stream: &Arc<CudaStream>, seed: usize) {
        fill(stream, &mut self.qkv, &self.pool.own, seed);
        for (number, weight) in self.weights.iter_mut().enumerate() {
            fill(stream, weight, &self.pool.single, seed + 1 + number);
        }
    }

    fn submit(&mut self, cuda: &Cuda, _: &mut Workspace<Cuda>) {
        let [weight, key_weight] = &self.weights;
        let args = Args::new(cuda, Self::SHAPE).weight(weight).key_weight(key_weight).output(&mut self.qkv);
        QkNorm::rms([4, 2], 80, 1e-6).and_then(|layer| layer.forward(args)).expect("a valid call");
    }

    fn written(&self) -> Vec<CudaView<'_, u8>> {
        vec![bytes(&self.qkv)]
    }
}

/// What to capture.
pub enum Work {
    Layer(Call),
    ByAddresses(Call),
    Convolution,
    Heads,
}

impl Work {
    pub fn build<T: Real>(&self, cuda: &Cuda, pool: &Rc<Pool<T>>) -> Box<dyn Operation> {
        match self {
            Self::Layer(call) => Box::new(OfLayer::new(cuda, pool, call)),
            Self::ByAddresses(call) => Box::new(ByAddresses::new(cuda, pool, call)),
            Self::Convolution => Box::new(Convolution::new(cuda)),
            Self::Heads => Box::new(Heads::new(cuda, pool)),
        }
    }
}

/// Rows of each regime.
pub fn rows() -> impl Iterator<Item = Call> {
    use Coefficient::{F32, Own};
    [(9, 5), (3, 100), (2, 300), (2, 700), (2, 1030), (1, 17_000), (1, 33_000)].into_iter().flat_map(
        |(rows, length)| {
            let summed = Call { residual: Residual::SumInPlace, ..Call::new(Layer::LayerNorm, &[rows, length]) };
            let layer = Layer::RmsNorm { weight_plus_one: true };
            let in_place = Call { in_place: true, weight: Coefficient::F32, ..Call::new(layer, &[rows, length]) };
            let modulation = Modulation { scale: F32, shift: Own, gate: Own, scale_plus_one: true, ..Modulation::NONE };
            let gated = Call { modulation, residual: Residual::SumInPlace, ..Call::new(layer, &[rows, length]) };
            [summed, Call { residual: Residual::SumWritten, ..in_place }, gated]
        },
    )
}

/// The other patterns, with what each can take, over tensors of one tile, and over tensors of several, whose blocks meet in
/// the workspace.
pub fn images() -> impl Iterator<Item = Call> {
    use Coefficient::{F32, Own};
    let (nchw, nhwc) = (Layout::Nchw, Layout::Nhwc);
    let modulation = Modulation { scale: F32, shift: Own, channel_bias: F32, scale_plus_one: true, ..Modulation::NONE };
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
pub fn works() -> Vec<Work> {
    rows().chain(images()).map(Work::Layer).chain([Work::Convolution, Work::Heads]).collect()
}

pub fn is_small(call: &Call) -> bool {
    call.elements() < 3000
}

/// Every pattern, for what takes many seeds, with blocks that meet in the workspace among them.
pub fn small_works() -> Vec<Work> {
    let several_tiles = images().filter(|call| call.shape == [2, 60, 61, 5]);
    let calls = rows().chain(images()).filter(is_small).chain(several_tiles);
    calls.map(Work::Layer).chain([Work::Convolution, Work::Heads]).collect()
}
