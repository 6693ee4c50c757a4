//! One call of a layer, described as a value: run on a backend, and compared with the oracle.

use std::collections::BTreeMap;

use warpnorm::{
    Activation, Args, BatchNorm, Cpu, Cuda, DType, Element, GroupNorm, InstanceNorm, LayerNorm, Layout, Result,
    RmsNorm, Shape, Signature, Workspace, raw,
};

use crate::data::{bits, exact, normal, stored};
use crate::oracle::{self, Expected, assert_within};
use crate::place::{Place, Real};

#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(clippy::enum_variant_names, reason = "these are the layers' names")]
pub enum Layer {
    /// Over the last axis of `[rows, length]`.
    LayerNorm,
    RmsNorm {
        weight_plus_one: bool,
    },
    /// Over `[N, C, spatial]`, or `[N, spatial, C]`.
    GroupNorm {
        groups: usize,
        layout: Layout,
    },
    InstanceNorm {
        layout: Layout,
    },
    InstanceNormTracked,
    BatchNorm {
        layout: Layout,
        table: bool,
    },
    /// BatchNorm by the batch's own statistics, which move the running ones; without a momentum as the average of all.
    BatchStatistics {
        layout: Layout,
        momentum: Option<f64>,
    },
}

impl Layer {
    pub const fn group_norm(groups: usize) -> Self {
        Self::GroupNorm { groups, layout: Layout::Nchw }
    }

    pub const INSTANCE_NORM: Self = Self::InstanceNorm { layout: Layout::Nchw };

    pub fn is_channels_last(self) -> bool {
        use Layout::Nhwc;
        match self {
            Self::LayerNorm | Self::RmsNorm { .. } => true,
            Self::InstanceNormTracked => false,
            Self::GroupNorm { layout, .. }
            | Self::InstanceNorm { layout }
            | Self::BatchNorm { layout, .. }
            | Self::BatchStatistics { layout, .. } => layout == Nhwc,
        }
    }
}

/// Weight or bias: absent, of the tensors' type, or f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Coefficient {
    Absent,
    Own,
    F32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Residual {
    Absent,
    Added,
    SumWritten,
    SumInPlace,
}

/// What a sample has of its own, for the layers that take it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Modulation {
    pub scale: Coefficient,
    pub shift: Coefficient,
    /// By the channel.
    pub channel_bias: Coefficient,
    /// By the position in the row.
    pub gate: Coefficient,
    pub scale_plus_one: bool,
}

impl Modulation {
    pub const NONE: Self = Self {
        scale: Coefficient::Absent,
        shift: Coefficient::Absent,
        channel_bias: Coefficient::Absent,
        gate: Coefficient::Absent,
        scale_plus_one: false,
    };
}

#[derive(Debug, Clone)]
pub struct Call {
    pub layer: Layer,
    pub shape: Vec<usize>,
    pub eps: f64,
    pub weight: Coefficient,
    pub bias: Coefficient,
    pub residual: Residual,
    /// Of rows, behind a residual.
    pub second_residual: bool,
    /// Of rows.
    pub input_bias: Coefficient,
    pub modulation: Modulation,
    pub activation: Activation,
    pub in_place: bool,
    /// Elements before a tensor, so that it starts off an aligned address.
    pub offsets: PerTensor,
    /// Elements between a row's end and the next one's start.
    pub gaps: PerTensor,
}

/// A number for each of the tensors that have rows, and one for weight, bias and what samples have of their own. What is one buffer has one number: in
/// place that of `y`, with the sum in the residual that of `residual`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PerTensor {
    pub x: usize,
    pub residual: usize,
    pub sum: usize,
    pub y: usize,
    pub coefficients: usize,
    pub second_residual: usize,
}

impl PerTensor {
    pub const fn all(number: usize) -> Self {
        Self { x: number, residual: number, sum: number, y: number, coefficients: number, second_residual: number }
    }

    /// Numbers that differ where there are enough of them to choose from.
    pub fn unlike(start: usize, choices: &[usize]) -> Self {
        let pick = |step: usize| choices[(start + step) % choices.len()];
        let [x, residual, sum, y, coefficients, second_residual] = [0, 1, 2, 3, 4, 5].map(pick);
        Self { x, residual, sum, y, coefficients, second_residual }
    }
}

impl Call {
    pub fn new(layer: Layer, shape: &[usize]) -> Self {
        Self {
            layer,
            shape: shape.to_vec(),
            eps: 1e-5,
            weight: Coefficient::Own,
            bias: Coefficient::Own,
            residual: Residual::Absent,
            second_residual: false,
            input_bias: Coefficient::Absent,
            modulation: Modulation::NONE,
            activation: Activation::None,
            in_place: false,
            offsets: PerTensor::default(),
            gaps: PerTensor::default(),
        }
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn channels(&self) -> usize {
        if self.layer.is_channels_last() { self.shape[self.shape.len() - 1] } else { self.shape[1] }
    }

    /// Whether the moments run over the last axis.
    pub fn has_rows(&self) -> bool {
        matches!(self.layer, Layer::LayerNorm | Layer::RmsNorm { .. })
    }

    /// Row count and length as they lie in memory: one row where rows have no stride of their own.
    fn memory(&self) -> (usize, usize) {
        if self.has_rows() {
            let length = self.shape[self.shape.len() - 1];
            (self.shape[..self.shape.len() - 1].iter().product(), length)
        } else {
            (1, self.elements())
        }
    }
}

/// The numbers of a call.
#[derive(Debug, Clone, Default)]
pub struct Inputs<T> {
    pub x: Vec<T>,
    pub residual: Vec<T>,
    pub second_residual: Vec<T>,
    pub weight: Vec<f64>,
    pub bias: Vec<f64>,
    pub input_bias: Vec<f64>,
    /// `[samples, channels]`, as the two that follow.
    pub scale: Vec<f64>,
    pub shift: Vec<f64>,
    /// Channel bias or gate, of the layer that is called.
    pub of_input: Vec<f64>,
    pub running_mean: Vec<f32>,
    pub running_var: Vec<f32>,
}

impl<T: Element> Inputs<T> {
    /// Normal numbers, with coefficients that can be stored exactly in every type.
    pub fn normal(call: &Call, seed: u64) -> Self {
        let (elements, channels) = (call.elements(), call.channels());
        let eighths = |count, seed, middle: f64| {
            normal(count, seed).map(|v| middle + (v.clamp(-3.0, 3.0) * 8.0).round() / 8.0).collect()
        };
        Self {
            x: stored(normal(elements, seed)),
            residual: stored(normal(elements, seed + 1)),
            second_residual: stored(normal(elements, seed + 9)),
            weight: eighths(channels, seed + 2, 1.0),
            bias: eighths(channels, seed + 3, 0.0),
            input_bias: eighths(channels, seed + 10, 0.0),
            scale: eighths(call.shape[0] * channels, seed + 6, 1.0),
            shift: eighths(call.shape[0] * channels, seed + 7, 0.0),
            of_input: eighths(call.shape[0] * channels, seed + 8, 0.0),
            running_mean: normal(channels, seed + 4).map(|v| v as f32).collect(),
            running_var: normal(channels, seed + 5).map(|v| (v * v + 0.01) as f32).collect(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Outputs<T> {
    pub y: Vec<T>,
    pub sum: Option<Vec<T>>,
    /// Mean, variance and the number of batches, as the call has left them.
    pub running: (Vec<f32>, Vec<f32>, i64),
}

/// Batches that the running statistics have seen before a call.
pub const BATCHES_BEFORE: i64 = 4;

/// What fills memory that belongs to nobody: no kernel may change it.
const GUARD: f64 = 0.4375;

fn shifted(values: &[f64], offset: usize) -> impl Iterator<Item = f64> {
    std::iter::repeat_n(GUARD, offset).chain(values.iter().copied())
}

/// What goes by the channel, in both of the types that it may have.
struct Affine<'v, P: Place + 'v, T: Real> {
    weight: P::View<'v, T>,
    weight_f32: P::View<'v, f32>,
    bias: P::View<'v, T>,
    bias_f32: P::View<'v, f32>,
    input_bias: P::View<'v, T>,
    input_bias_f32: P::View<'v, f32>,
}

impl<P: Place, T: Real> Affine<'_, P, T> {
    fn add<'a>(&'a self, call: &Call, args: Args<'a, P>) -> Args<'a, P> {
        let args = match call.weight {
            Coefficient::Absent => args,
            Coefficient::Own => args.weight(&self.weight),
            Coefficient::F32 => args.weight(&self.weight_f32),
        };
        let args = match call.bias {
            Coefficient::Absent => args,
            Coefficient::Own => args.bias(&self.bias),
            Coefficient::F32 => args.bias(&self.bias_f32),
        };
        match call.input_bias {
            Coefficient::Absent => args,
            Coefficient::Own => args.input_bias(&self.input_bias),
            Coefficient::F32 => args.input_bias(&self.input_bias_f32),
        }
    }
}

/// Runs the call, and checks that nothing around its outputs changed.
pub fn run<P: Place, T: Real>(place: &P, call: &Call, inputs: &Inputs<T>) -> Result<Outputs<T>> {
    let (rows, length) = call.memory();
    let (offsets, gaps) = (call.offsets, call.gaps);
    let span = |gap: usize| if rows == 0 { 0 } else { (rows - 1) * (length + gap) + length };
    let range = |offset: usize, gap: usize| offset..offset + span(gap);
    let row_at = |row: usize, offset: usize, gap: usize| {
        let start = offset + row * (length + gap);
        start..start + length
    };
    let spread = |values: Option<&[T]>, offset: usize, gap: usize| {
        let mut memory = vec![T::from_f64(GUARD); offset + span(gap) + 9];
        if let Some(values) = values {
            (0..rows)
                .for_each(|row| memory[row_at(row, offset, gap)].copy_from_slice(&values[row * length..][..length]));
        }
        memory
    };
    let gather = |memory: &[T], offset: usize, gap: usize, name: &str| {
        let mut guard = memory.to_vec();
        (0..rows).for_each(|row| guard[row_at(row, offset, gap)].fill(T::from_f64(GUARD)));
        let untouched = vec![T::from_f64(GUARD); memory.len()];
        assert_eq!(bits(&guard), bits(&untouched), "{call:?}: memory around {name} was changed");
        (0..rows).flat_map(|row| memory[row_at(row, offset, gap)].to_vec()).collect()
    };

    let x = place.put(&spread(Some(&inputs.x), offsets.x, gaps.x));
    let mut residual = place.put(&spread(Some(&inputs.residual), offsets.residual, gaps.residual));
    let second_residual = place.put(&spread(
        call.second_residual.then_some(&inputs.second_residual[..]),
        offsets.second_residual,
        gaps.second_residual,
    ));
    let mut sum = place.put(&spread(None, offsets.sum, gaps.sum));
    let mut y = place.put(&spread(call.in_place.then_some(&inputs.x), offsets.y, gaps.y));
    let channels = call.channels();
    let coefficient_range = offsets.coefficients..offsets.coefficients + channels;
    let input_bias_range = offsets.coefficients..offsets.coefficients + inputs.input_bias.len();
    let own = |values: &[f64]| place.put(&stored::<T>(shifted(values, offsets.coefficients)));
    let single = |values: &[f64]| place.put(&stored::<f32>(shifted(values, offsets.coefficients)));
    let of_samples = [&inputs.scale, &inputs.shift, &inputs.of_input].map(|values| (own(values), single(values)));
    let (weight, weight_f32) = (own(&inputs.weight), single(&inputs.weight));
    let (bias, bias_f32) = (own(&inputs.bias), single(&inputs.bias));
    let (input_bias, input_bias_f32) = (own(&inputs.input_bias), single(&inputs.input_bias));
    let mut mean = place.put(&inputs.running_mean);
    let mut var = place.put(&inputs.running_var);
    let mut batches = place.put_counter(BATCHES_BEFORE);
    let mut workspace = Workspace::init(place, workspace_bytes(place, call, T::DTYPE)?)?;
    let mut table = place.put(&vec![0.0_f32; 3 * channels]);

    {
        let views = Affine::<P, T> {
            weight: place.view(&weight, coefficient_range.clone()),
            weight_f32: place.view(&weight_f32, coefficient_range.clone()),
            bias: place.view(&bias, coefficient_range.clone()),
            bias_f32: place.view(&bias_f32, coefficient_range),
            input_bias: place.view(&input_bias, input_bias_range.clone()),
            input_bias_f32: place.view(&input_bias_f32, input_bias_range),
        };
        // Either read or moved.
        let moved = matches!(call.layer, Layer::BatchStatistics { .. });
        let (mut mean_out, mut var_out, mut batches_out, mean, var) = if moved {
            let (mean, var) = (place.view_mut(&mut mean, 0..channels), place.view_mut(&mut var, 0..channels));
            (Some(mean), Some(var), Some(place.view_counter(&mut batches)), None, None)
        } else {
            (None, None, None, Some(place.view(&mean, 0..channels)), Some(place.view(&var, 0..channels)))
        };
        if let Layer::BatchNorm { table: true, .. } = call.layer {
            let mut made = place.view_mut(&mut table, 0..3 * channels);
            let args = with_statistics(Args::new(place, [channels]), &mean, &var).output(&mut made);
            BatchNorm::new(channels)?.eps(call.eps)?.channel_table(views.add(call, args))?;
        }
        let table = place.view(&table, 0..3 * channels);
        let x = place.view(&x, range(offsets.x, gaps.x));
        let residual_in = call.residual != Residual::SumInPlace;
        let (mut residual_out, residual) = if residual_in {
            (None, Some(place.view(&residual, range(offsets.residual, gaps.residual))))
        } else {
            (Some(place.view_mut(&mut residual, range(offsets.residual, gaps.residual))), None)
        };
        let second_residual = place.view(&second_residual, range(offsets.second_residual, gaps.second_residual));
        let mut sum = place.view_mut(&mut sum, range(offsets.sum, gaps.sum));
        let mut y = place.view_mut(&mut y, range(offsets.y, gaps.y));

        let of_samples_range = offsets.coefficients..offsets.coefficients + inputs.scale.len();
        let of_samples = of_samples.each_ref().map(|(own, single)| {
            (place.view(own, of_samples_range.clone()), place.view(single, of_samples_range.clone()))
        });
        let mut args = Args::new(place, Shape::new(&call.shape)?).output(&mut y);
        if !call.in_place {
            args = args.input(&x);
        }
        match (call.residual, &residual, &mut residual_out) {
            (Residual::Added, Some(residual), _) => args = args.residual(residual),
            (Residual::SumWritten, Some(residual), _) => args = args.residual(residual).sum(&mut sum),
            (Residual::SumInPlace, _, Some(residual)) => args = args.sum_in_residual(residual),
            _ => {}
        }
        if call.second_residual {
            args = args.second_residual(&second_residual);
            if gaps.second_residual > 0 {
                args = args.second_residual_row_stride(length + gaps.second_residual);
            }
        }
        if gaps.y > 0 {
            args = args.output_row_stride(length + gaps.y);
        }
        if gaps.x > 0 && !call.in_place {
            args = args.input_row_stride(length + gaps.x);
        }
        if gaps.residual > 0 && call.residual != Residual::Absent {
            args = args.residual_row_stride(length + gaps.residual);
        }
        if gaps.sum > 0 && call.residual == Residual::SumWritten {
            args = args.sum_row_stride(length + gaps.sum);
        }
        match call.layer {
            Layer::BatchNorm { table: true, .. } => args = args.channel_table(&table),
            Layer::BatchNorm { .. } | Layer::InstanceNormTracked => {
                args = views.add(call, with_statistics(args, &mean, &var));
            }
            Layer::BatchStatistics { .. } => {
                if let (Some(mean), Some(var), Some(batches)) = (&mut mean_out, &mut var_out, &mut batches_out) {
                    args = args.update_running_statistics(mean, var).num_batches_tracked(batches);
                }
                args = views.add(call, args);
            }
            _ => args = views.add(call, args),
        }
        args = add_modulation(call, args, &of_samples);
        forward(call, args.workspace(&mut workspace))?;
    }

    let sum = match call.residual {
        Residual::SumWritten => Some(gather(&place.get(&sum), offsets.sum, gaps.sum, "sum")),
        Residual::SumInPlace => Some(gather(&place.get(&residual), offsets.residual, gaps.residual, "residual")),
        _ => None,
    };
    let running = (place.get(&mean), place.get(&var), place.get_counter(&batches));
    Ok(Outputs { y: gather(&place.get(&y), offsets.y, gaps.y, "output"), sum, running })
}

/// One tensor in the tensors' type and in f32.
type InBothTypes<'v, P, T> = (<P as Place>::View<'v, T>, <P as Place>::View<'v, f32>);

/// Scale, shift, and channel bias or gate.
fn add_modulation<'a, 'v, P: Place, T: Real>(
    call: &Call,
    mut args: Args<'a, P>,
    [scale, shift, of_input]: &'a [InBothTypes<'v, P, T>; 3],
) -> Args<'a, P> {
    args = match call.modulation.scale {
        Coefficient::Absent => args,
        Coefficient::Own => args.scale(&scale.0),
        Coefficient::F32 => args.scale(&scale.1),
    };
    args = match call.modulation.shift {
        Coefficient::Absent => args,
        Coefficient::Own => args.shift(&shift.0),
        Coefficient::F32 => args.shift(&shift.1),
    };
    args = match call.modulation.channel_bias {
        Coefficient::Absent => args,
        Coefficient::Own => args.channel_bias(&of_input.0),
        Coefficient::F32 => args.channel_bias(&of_input.1),
    };
    match call.modulation.gate {
        Coefficient::Absent => args,
        Coefficient::Own => args.gate(&of_input.0),
        Coefficient::F32 => args.gate(&of_input.1),
    }
}

fn with_statistics<'a, 'v, P: Place>(
    args: Args<'a, P>,
    mean: &'a Option<P::View<'v, f32>>,
    var: &'a Option<P::View<'v, f32>>,
) -> Args<'a, P> {
    match (mean, var) {
        (Some(mean), Some(var)) => args.running_mean(mean).running_var(var),
        _ => args,
    }
}

/// Evaluates an expression on the call's layer, whichever it is.
macro_rules! with_layer {
    ($call:expr, $layer:ident => $body:expr) => {{
        let Call { layer, eps, activation, .. } = *$call;
        let channels = $call.channels();
        match layer {
            Layer::LayerNorm => {
                let $layer = LayerNorm::new([channels])?.eps(eps)?.activation(activation);
                let $layer = $layer.scale_plus_one($call.modulation.scale_plus_one);
                $body
            }
            Layer::RmsNorm { weight_plus_one } => {
                let $layer = RmsNorm::new([channels], eps)?.weight_plus_one(weight_plus_one).activation(activation);
                let $layer = $layer.scale_plus_one($call.modulation.scale_plus_one);
                $body
            }
            Layer::GroupNorm { groups, layout } => {
                let $layer = GroupNorm::new(groups, channels)?.layout(layout).eps(eps)?.activation(activation);
                let $layer = $layer.scale_plus_one($call.modulation.scale_plus_one);
                $body
            }
            Layer::InstanceNorm { layout } => {
                let $layer = InstanceNorm::new(channels)?.layout(layout).eps(eps)?.activation(activation);
                let $layer = $layer.scale_plus_one($call.modulation.scale_plus_one);
                $body
            }
            Layer::InstanceNormTracked => {
                let $layer = InstanceNorm::new(channels)?.track_running_stats(true).eps(eps)?.activation(activation);
                $body
            }
            Layer::BatchNorm { layout, .. } => {
                let $layer = BatchNorm::new(channels)?.layout(layout).eps(eps)?.activation(activation);
                $body
            }
            Layer::BatchStatistics { layout, momentum } => {
                let $layer = BatchNorm::new(channels)?.layout(layout).eps(eps)?.activation(activation);
                let $layer = $layer.batch_statistics(true).momentum(momentum)?;
                $body
            }
        }
    }};
}

/// Runs the call's layer on these buffers.
pub fn forward<P: Place>(call: &Call, args: Args<'_, P>) -> Result<()> {
    with_layer!(call, layer => layer.forward(args))
}

/// Bytes of the workspace that the call needs.
pub fn workspace_bytes<P: Place>(place: &P, call: &Call, dtype: DType) -> Result<usize> {
    let signature = signature(call, dtype)?;
    Ok(with_layer!(call, layer => layer.prepare(place, &signature)?.workspace_bytes()))
}

/// The call for the raw layer.
pub fn prepare_raw(call: &Call, on: &raw::Device, dtype: DType) -> Result<raw::Call> {
    let signature = signature(call, dtype)?;
    with_layer!(call, layer => layer.prepare_raw(on, &signature))
}

/// What a prepared call must know.
fn signature(call: &Call, dtype: DType) -> Result<Signature> {
    let stored = |coefficient| match coefficient {
        Coefficient::Absent => None,
        Coefficient::Own => Some(dtype),
        Coefficient::F32 => Some(DType::F32),
    };
    let mut signature = Signature::new(Shape::new(&call.shape)?, dtype);
    if let Layer::BatchNorm { table: true, .. } = call.layer {
        signature = signature.channel_table();
    } else {
        signature = stored(call.weight).map_or(signature, |dtype| signature.weight(dtype));
        signature = stored(call.bias).map_or(signature, |dtype| signature.bias(dtype));
    }
    signature = stored(call.modulation.scale).map_or(signature, |dtype| signature.scale(dtype));
    signature = stored(call.modulation.shift).map_or(signature, |dtype| signature.shift(dtype));
    signature = stored(call.modulation.channel_bias).map_or(signature, |dtype| signature.channel_bias(dtype));
    signature = stored(call.modulation.gate).map_or(signature, |dtype| signature.gate(dtype));
    signature = stored(call.input_bias).map_or(signature, |dtype| signature.input_bias(dtype));
    if call.second_residual {
        signature = signature.second_residual();
    }
    if let Layer::BatchStatistics { .. } = call.layer {
        signature = signature.update_running_statistics().num_batches_tracked();
    }
    if call.in_place {
        signature = signature.in_place();
    }
    Ok(match call.residual {
        Residual::Absent => signature,
        Residual::Added => signature.residual(),
        Residual::SumWritten => signature.residual().sum(),
        Residual::SumInPlace => signature.sum_in_residual(),
    })
}

/// Positions of a sample: the product of the spatial axes.
pub fn spatial_of(call: &Call) -> usize {
    let axes = if call.layer.is_channels_last() { 1..call.shape.len() - 1 } else { 2..call.shape.len() };
    call.shape[axes].iter().product()
}

/// Input, its bias and a sample's, gate and residuals, brought together in f32: part of what the layers promise. Each step may be
/// rounded to 24 bits, and to no fewer, before the sum is normalized.
fn summed<T: Element>(call: &Call, inputs: &Inputs<T>) -> Vec<f64> {
    let mut s = exact(&inputs.x);
    let (channels, spatial) = (call.channels(), spatial_of(call));
    let channel = |i: usize| if call.layer.is_channels_last() { i % channels } else { i / spatial % channels };
    let of_input = |i: usize| inputs.of_input[i / (spatial * channels) * channels + channel(i)];
    if call.input_bias != Coefficient::Absent {
        s.iter_mut().enumerate().for_each(|(i, s)| *s = f64::from((*s + inputs.input_bias[channel(i)]) as f32));
    }
    if call.modulation.gate != Coefficient::Absent {
        s.iter_mut().enumerate().for_each(|(i, s)| *s = f64::from((*s * of_input(i)) as f32));
    }
    if call.residual != Residual::Absent {
        s.iter_mut().zip(&inputs.residual).for_each(|(s, residual)| *s = f64::from((*s + residual.to_f64()) as f32));
    }
    if call.second_residual {
        let second = inputs.second_residual.iter();
        s.iter_mut().zip(second).for_each(|(s, residual)| *s = f64::from((*s + residual.to_f64()) as f32));
    }
    if call.modulation.channel_bias != Coefficient::Absent {
        s.iter_mut().enumerate().for_each(|(i, s)| *s = f64::from((*s + of_input(i)) as f32));
    }
    s
}

/// What the oracle says.
pub fn expected<T: Element>(call: &Call, inputs: &Inputs<T>) -> Vec<Expected> {
    let s = summed(call, inputs);
    let (channels, spatial) = (call.channels(), || spatial_of(call));
    let plus = if call.layer == (Layer::RmsNorm { weight_plus_one: true }) { 1.0 } else { 0.0 };
    // Of a channel, counted through the samples where they have something of their own.
    let affine = |of_sample: usize| {
        let channel = of_sample % channels;
        let weight = if call.weight == Coefficient::Absent { 1.0 } else { inputs.weight[channel] + plus };
        let bias = if call.bias == Coefficient::Absent { 0.0 } else { inputs.bias[channel] };
        let affine = oracle::Affine::from((weight, bias));
        if call.modulation == Modulation::NONE {
            return affine;
        }
        let scale = match call.modulation.scale {
            Coefficient::Absent => 1.0,
            _ => inputs.scale[of_sample] + if call.modulation.scale_plus_one { 1.0 } else { 0.0 },
        };
        let shift = if call.modulation.shift == Coefficient::Absent { 0.0 } else { inputs.shift[of_sample] };
        affine.modulated(scale, shift)
    };
    let eps = f64::from(call.eps as f32);
    // Elements that are normalized together wherever they lie, by the number of their set.
    let sets = |set_of: &dyn Fn(usize) -> usize, channel_of: &dyn Fn(usize) -> usize| {
        let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        (0..s.len()).for_each(|i| members.entry(set_of(i)).or_default().push(i));
        let mut all = vec![Expected { value: f64::NAN, slack: 0.0 }; s.len()];
        for members in members.values() {
            let values: Vec<f64> = members.iter().map(|&i| s[i]).collect();
            let affine = |member: usize| affine(channel_of(members[member]));
            let expected = oracle::row(&values, eps, true, &affine, call.activation);
            members.iter().zip(expected).for_each(|(&i, expected)| all[i] = expected);
        }
        all
    };
    let rows = |length: usize, channel: &dyn Fn(usize, usize) -> usize, subtract_mean: bool| {
        let rows = if length == 0 { &[][..] } else { &s[..] };
        rows.chunks(length.max(1))
            .enumerate()
            .flat_map(|(row, s)| oracle::row(s, eps, subtract_mean, &|i| affine(channel(row, i)), call.activation))
            .collect()
    };
    let elements = |spatial: usize| {
        let element = |(i, s): (usize, &f64)| {
            let channel = i / spatial % channels;
            let (mean, var) = (f64::from(inputs.running_mean[channel]), f64::from(inputs.running_var[channel]));
            oracle::element(*s, mean, var, eps, affine(channel), call.activation)
        };
        s.iter().enumerate().map(element).collect()
    };
    match call.layer {
        Layer::LayerNorm | Layer::RmsNorm { .. } => {
            let of_sample = |row: usize, i: usize| row / spatial() * channels + i;
            rows(channels, &of_sample, call.layer == Layer::LayerNorm)
        }
        Layer::GroupNorm { groups, layout: Layout::Nhwc } => {
            let (sample, per_group) = (spatial() * channels, channels / groups);
            let channel = |i: usize| i / sample * channels + i % channels;
            sets(&|i| i / sample * groups + i % channels / per_group, &channel)
        }
        Layer::InstanceNorm { layout: Layout::Nhwc } => {
            let sample = spatial() * channels;
            let channel = |i: usize| i / sample * channels + i % channels;
            sets(&channel, &channel)
        }
        Layer::BatchStatistics { layout: Layout::Nhwc, .. } => sets(&|i| i % channels, &|i| i % channels),
        Layer::BatchStatistics { .. } => {
            let channel = |i| i / spatial() % channels;
            sets(&channel, &channel)
        }
        Layer::GroupNorm { groups, .. } => {
            let (spatial, per_group) = (spatial(), channels / groups);
            rows(per_group * spatial, &|row, i| row * per_group + i / spatial, true)
        }
        Layer::InstanceNorm { .. } => rows(spatial(), &|row, _| row, true),
        Layer::InstanceNormTracked | Layer::BatchNorm { layout: Layout::Nchw, .. } => elements(spatial()),
        Layer::BatchNorm { .. } => elements(1),
    }
}

/// Runs the call on a backend and holds it against the oracle.
pub fn verify<P: Place, T: Real>(place: &P, call: &Call, inputs: &Inputs<T>, expected: &[Expected]) -> Outputs<T> {
    let about = format!("{} {} {call:?}", P::NAME, T::DTYPE);
    let outputs = run(place, call, inputs).unwrap_or_else(|error| panic!("{about}: {error}"));
    assert_within(&outputs.y, expected, &about);
    if let Some(sum) = &outputs.sum {
        // In f32, and rounded to the type: half a unit in the last place of each.
        let expected: Vec<_> = summed(call, inputs)
            .into_iter()
            .map(|value| Expected { value, slack: value.abs() * 2.0_f64.powi(-24) })
            .collect();
        assert_within(sum, &expected, &format!("sum of {about}"));
    }
    outputs
}

/// The call on the CPU.
pub fn verify_cpu<T: Real>(call: &Call, inputs: &Inputs<T>) -> Outputs<T> {
    verify(&Cpu, call, inputs, &expected(call, inputs))
}

/// The call on the CUDA device, under every schedule, which must agree in every bit.
pub fn verify_cuda<T: Real>(device: &crate::device::Device, call: &Call, inputs: &Inputs<T>) -> Outputs<T> {
    let expected = expected(call, inputs);
    let mut first: Option<Outputs<T>> = None;
    device.under_schedules(|cuda: &Cuda| {
        let outputs = verify(cuda, call, inputs, &expected);
        if let Some(first) = &first {
            assert_eq!(bits(&first.y), bits(&outputs.y), "{} {call:?}: two schedules differ", T::DTYPE);
        } else {
            first = Some(outputs);
        }
    });
    first.expect("at least one schedule")
}
