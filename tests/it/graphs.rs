//! CUDA graphs: every operation captured once, and replayed a hundred times with new contents in the same buffers. Every
//! replay must have the bits of a plain call, on one stream, on two at once, and where a graph has two branches.
//!
//! Between replays nobody waits: contents are uploaded, and results copied to a tape on the device, in the order of the
//! stream, so that the emulator is free to run the streams in whatever order it draws.

use std::sync::Arc;

use emulator::{Emulator, Schedule, Settings, Variant};
use warpnorm::cudarc::driver::{CudaGraph, CudaSlice, CudaStream, DeviceRepr, sys};
use warpnorm::half::{bf16, f16};
use warpnorm::{
    Activation, Args, BatchNorm, Cuda, DType, DirectConvolution, Error, GroupNorm, LayerNorm, Layout, RmsNorm, Shape,
    Signature, Workspace, raw,
};

use crate::call::{
    BATCHES_BEFORE, Call, Coefficient, Inputs, Layer, Modulation, Residual, forward, prepare_raw, workspace_bytes,
};
use crate::data::{bits, normal, stored};
use crate::device::{self, Device};
use crate::place::{Place, Real};

const REPLAYS: u64 = 100;

fn capture(stream: &Arc<CudaStream>, work: impl FnOnce()) -> CudaGraph {
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("a capture begins");
    work();
    stream.end_capture(sys::CUgraphInstantiate_flags(0)).expect("a capture ends").expect("a graph")
}

/// Streams that can be captured, which the null stream cannot; their slices have no events, for which a capture would wait.
fn streams<const COUNT: usize>(device: &Device) -> [Cuda; COUNT] {
    let context = device.cuda.stream().context();
    // SAFETY: a buffer belongs to one stream in these tests, or they join the streams themselves.
    unsafe { context.disable_event_tracking() };
    std::array::from_fn(|_| device.cuda.with_stream(&context.new_stream().unwrap()).unwrap())
}

/// What one buffer held after each replay.
struct Tape<E> {
    memory: CudaSlice<E>,
    recorded: usize,
}

impl<E: DeviceRepr + Default + Clone> Tape<E> {
    fn new(cuda: &Cuda, of: &CudaSlice<E>) -> Self {
        let memory = vec![E::default(); of.len() * REPLAYS as usize];
        Self { memory: cuda.stream().clone_htod(&memory).unwrap(), recorded: 0 }
    }

    fn record(&mut self, cuda: &Cuda, from: &CudaSlice<E>) {
        let frame = self.recorded..self.recorded + from.len();
        self.recorded = frame.end;
        cuda.stream().memcpy_dtod(from, &mut self.memory.slice_mut(frame)).unwrap();
    }

    /// A frame for each replay.
    fn frames(&self, cuda: &Cuda) -> Vec<Vec<E>> {
        assert_eq!(self.recorded, self.memory.len(), "as many frames as there are replays");
        let all = cuda.stream().clone_dtoh(&self.memory).unwrap();
        all.chunks(all.len() / REPLAYS as usize).map(<[E]>::to_vec).collect()
    }
}

/// What an operation wrote in one replay: floating-point numbers by their bits, and the count of batches.
type Results = (Vec<u64>, i64);

/// Work to capture, with buffers of its own that stay where they are.
trait Operation {
    fn name(&self) -> String;
    fn workspace_bytes(&self, cuda: &Cuda) -> usize;
    /// New contents of all that it reads, and of what it writes in place.
    fn fill(&mut self, cuda: &Cuda, seed: u64);
    fn submit(&mut self, cuda: &Cuda, workspace: &mut Workspace<Cuda>);
    fn record(&mut self, cuda: &Cuda);
    fn results(&self, cuda: &Cuda) -> Vec<Results>;
}

/// A coefficient in both of the types that it may have.
struct Both<T: Real> {
    own: CudaSlice<T>,
    single: CudaSlice<f32>,
}

impl<T: Real> Both<T> {
    fn new(cuda: &Cuda, values: &[f64]) -> Self {
        let own = cuda.put(&stored::<T>(values.iter().copied()));
        Self { own, single: cuda.put(&stored::<f32>(values.iter().copied())) }
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

/// Whether a layer is given slices, or addresses.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Api {
    Typed,
    Raw,
}

/// A call of a layer. Of BatchNorm by a channel table, the call that makes the table belongs to it.
struct OfLayer<T: Real> {
    call: Call,
    api: Api,
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
    /// Of `y`, `sum` and `residual`; of `mean`, `var` and `table`; of `batches`.
    tapes: ([Tape<T>; 3], [Tape<f32>; 3], Tape<i64>),
}

impl<T: Real> OfLayer<T> {
    fn new(cuda: &Cuda, call: &Call, api: Api) -> Self {
        let inputs = Inputs::<T>::normal(call, 1);
        let [x, residual, sum, y] = [(); 4].map(|()| cuda.put(&inputs.x));
        let [mean, var] = [&inputs.running_mean, &inputs.running_var].map(|values| cuda.put(values));
        let table = cuda.put(&vec![f32::NAN; 3 * call.channels()]);
        let batches = cuda.put_counter(BATCHES_BEFORE);
        let tapes = (
            [&y, &sum, &residual].map(|of| Tape::new(cuda, of)),
            [&mean, &var, &table].map(|of| Tape::new(cuda, of)),
            Tape::new(cuda, &batches),
        );
        let [weight, bias, scale, shift, channel_bias] =
            [&inputs.weight, &inputs.bias, &inputs.scale, &inputs.shift, &inputs.channel_bias]
                .map(|values| Both::new(cuda, values));
        let call = call.clone();
        Self { call, api, x, residual, sum, y, weight, bias, scale, shift, channel_bias, mean, var, table, batches, tapes }
    }

    fn moves_statistics(&self) -> bool {
        matches!(self.call.layer, Layer::BatchStatistics { .. })
    }

    fn submit_typed(&mut self, cuda: &Cuda, workspace: &mut Workspace<Cuda>) {
        let call = &self.call;
        macro_rules! with_coefficients {
            ($args:expr, $($method:ident: $which:expr),*) => {{
                let mut args = $args;
                $(args = match $which {
                    Coefficient::Absent => args,
                    Coefficient::Own => args.$method(&self.$method.own),
                    Coefficient::F32 => args.$method(&self.$method.single),
                };)*
                args
            }};
        }
        if let Layer::BatchNorm { table: true, .. } = call.layer {
            let args = Args::new(cuda, [call.channels()]).running_mean(&self.mean).running_var(&self.var);
            let args = with_coefficients!(args, weight: call.weight, bias: call.bias).output(&mut self.table);
            let layer = BatchNorm::new(call.channels()).unwrap().eps(call.eps).unwrap();
            layer.channel_table(args).expect("a valid table");
        }
        let mut args = Args::new(cuda, Shape::new(&call.shape).unwrap()).output(&mut self.y).workspace(workspace);
        if !call.in_place {
            args = args.input(&self.x);
        }
        args = match call.residual {
            Residual::Absent => args,
            Residual::Added => args.residual(&self.residual),
            Residual::SumWritten => args.residual(&self.residual).sum(&mut self.sum),
            Residual::SumInPlace => args.sum_in_residual(&mut self.residual),
        };
        args = match call.layer {
            Layer::BatchNorm { table: true, .. } => args.channel_table(&self.table),
            Layer::BatchNorm { .. } | Layer::InstanceNormTracked => {
                args.running_mean(&self.mean).running_var(&self.var)
            }
            Layer::BatchStatistics { .. } => {
                args.update_running_statistics(&mut self.mean, &mut self.var).num_batches_tracked(&mut self.batches)
            }
            _ => args,
        };
        if !matches!(call.layer, Layer::BatchNorm { table: true, .. }) {
            args = with_coefficients!(args, weight: call.weight, bias: call.bias);
        }
        let Modulation { scale, shift, channel_bias, .. } = call.modulation;
        args = with_coefficients!(args, scale: scale, shift: shift, channel_bias: channel_bias);
        forward(call, args).unwrap_or_else(|error| panic!("{call:?}: {error}"));
    }

    fn submit_raw(&mut self, cuda: &Cuda, workspace: &mut CudaSlice<f32>) {
        let prepared = prepare_raw(&self.call, &raw::Device::from(cuda), T::DTYPE).expect("a valid call");
        let given = |address, is_given| if is_given { address } else { 0 };
        let takes_statistics = self.moves_statistics()
            || matches!(self.call.layer, Layer::BatchNorm { table: false, .. } | Layer::InstanceNormTracked);
        let Modulation { scale, shift, channel_bias, .. } = self.call.modulation;
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
            running_mean: given(cuda.address(&mut self.mean), takes_statistics),
            running_var: given(cuda.address(&mut self.var), takes_statistics),
            num_batches_tracked: given(cuda.address_of_counter(&mut self.batches), self.moves_statistics()),
            workspace: given(cuda.address(workspace), prepared.workspace_bytes() > 0),
            workspace_bytes: prepared.workspace_bytes(),
            ..raw::Addresses::default()
        };
        // SAFETY: buffers of this context, as long as the call says, which the stream's order keeps for it.
        unsafe { prepared.launch(&addresses, cuda.raw().1) }.expect("a valid call");
    }
}
