//! The buffers of one call.

use crate::backend::sealed::Token;
use crate::backend::{Backend, Sink, Source};
use crate::element::Element;
use crate::quantization::{Quantized, Scaling};
use crate::shape::Shape;
use crate::tensors::{Tensor, Tensors};
use crate::workspace::Workspace;

/// A buffer without its Rust type: where it lies, how long it is, and what its elements are.
///
/// Holds whatever the backend needs to keep until the call is on its way (for cudarc's slices, what orders streams).
pub struct Operand<'a, B: Backend> {
    pub(crate) tensor: Tensor,
    /// Dropped after the launch.
    pub(crate) guard: B::Guard<'a>,
}

/// The buffers of one call, on one backend.
///
/// Without an `input`, the layer works in place on `output`. `sum` may be the same buffer as `residual`, given through
/// [`sum_in_residual`](Args::sum_in_residual). Each tensor may have its own row stride where the layer has rows.
///
/// ```
/// use warpnorm::{Args, Cpu, LayerNorm};
///
/// let x = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let weight = [1.0_f32, 1.0, 2.0];
/// let mut y = [0.0_f32; 6];
/// LayerNorm::new([3])?.forward(Args::new(&Cpu, [2, 3]).input(&x).weight(&weight).output(&mut y))?;
/// assert!((y[2] - 2.449_474_6).abs() < 1e-5);
/// # Ok::<(), warpnorm::Error>(())
/// ```
#[must_use]
pub struct Args<'a, B: Backend> {
    pub(crate) on: &'a B,
    pub(crate) tensors: Tensors,
    /// One for each argument, kept until the call is on its way.
    guards: [Option<B::Guard<'a>>; ARGUMENTS],
}

/// Places in the list of guards: an argument that is given twice has one.
#[derive(Clone, Copy)]
enum Argument {
    Input,
    Residual,
    SecondResidual,
    Sum,
    Output,
    Weight,
    Bias,
    Scale,
    Shift,
    ChannelBias,
    Gate,
    InputBias,
    PostNormWeight,
    PostNormBias,
    Scales,
    RunningMean,
    RunningVar,
    NumBatchesTracked,
    ChannelTable,
    KeyInput,
    KeyOutput,
    KeyWeight,
    KeyBias,
    Workspace,
}

const ARGUMENTS: usize = Argument::Workspace as usize + 1;

impl<B: Backend> std::fmt::Debug for Operand<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.tensor.fmt(f)
    }
}

impl<B: Backend> std::fmt::Debug for Args<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Args")
            .field("shape", &self.tensors.shape)
            .field("input", &self.tensors.input)
            .field("residual", &self.tensors.residual)
            .field("second_residual", &self.tensors.second_residual)
            .field("sum", &self.tensors.sum)
            .field("output", &self.tensors.output)
            .field("weight", &self.tensors.weight)
            .field("bias", &self.tensors.bias)
            .field("key_input", &self.tensors.key_input)
            .field("key_output", &self.tensors.key_output)
            .field("key_weight", &self.tensors.key_weight)
            .field("key_bias", &self.tensors.key_bias)
            .finish_non_exhaustive()
    }
}

impl<'a, B: Backend> Args<'a, B> {
    /// A call on this backend, on tensors of this shape (extents in the order in which they lie in memory).
    pub fn new(on: &'a B, shape: impl Into<Shape>) -> Self {
        Self { on, tensors: Tensors::new(shape.into()), guards: [const { None }; ARGUMENTS] }
    }

    /// The tensor of an operand, whose guard stays here.
    fn keep(&mut self, argument: Argument, operand: Operand<'a, B>) -> Option<Tensor> {
        self.guards[argument as usize] = Some(operand.guard);
        Some(operand.tensor)
    }

    /// The input. The output may be of another type.
    pub fn input<T: Element>(mut self, x: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.input = self.keep(Argument::Input, x.read(self.on, Token));
        self
    }

    /// Where the result goes; also the input, if there is no other.
    pub fn output<T: Element>(mut self, y: &'a mut (impl Sink<B, T> + ?Sized)) -> Self {
        self.tensors.output = self.keep(Argument::Output, y.write(self.on, Token));
        self
    }

    /// LayerNorm, RMSNorm: where the result goes, quantized: `q = round(y / scale)`, by
    /// [`static_scale`](Self::static_scale) or [`scales`](Self::scales). There must be an input then.
    ///
    /// ```
    /// use warpnorm::{Args, Cpu, F8E4M3, Quantized, RmsNorm, Scaling};
    ///
    /// let x: Vec<f32> = (0..512).map(|i| (i as f32 * 0.1).sin()).collect();
    /// let (mut q, mut scales) = ([F8E4M3::default(); 512], [0.0_f32; 2]);
    /// let args = Args::new(&Cpu, [2, 256]).input(&x).quantized_output(&mut q).scales(Scaling::Rows, &mut scales);
    /// RmsNorm::new([256], 1e-6)?.forward(args)?;
    /// let largest = q.iter().map(|q| q.dequantize()).fold(0.0, f32::max);
    /// assert!(largest == 448.0 && scales[0] > 0.0); // y is about q · scale of its row
    /// # Ok::<(), warpnorm::Error>(())
    /// ```
    pub fn quantized_output<Q: Quantized>(mut self, q: &'a mut (impl Sink<B, Q> + ?Sized)) -> Self {
        self.tensors.output = self.keep(Argument::Output, q.write(self.on, Token));
        self
    }

    /// The scale of a quantized output: one number, on the device where the tensors are.
    pub fn static_scale(mut self, scale: &'a (impl Source<B, f32> + ?Sized)) -> Self {
        self.tensors.scaling = Some(Scaling::Static);
        self.tensors.scales = self.keep(Argument::Scales, scale.read(self.on, Token));
        self
    }

    /// Receives the scales of a quantized output, which are made of what belongs to each of them: its largest magnitude, at
    /// least 1e-10, by the type's largest value (127, 448). Where an element is NaN, so is its scale. With
    /// [`Scaling::Static`] nothing is made, and the number is read.
    pub fn scales(mut self, scaling: Scaling, scales: &'a mut (impl Sink<B, f32> + ?Sized)) -> Self {
        self.tensors.scaling = Some(scaling);
        self.tensors.scales = self.keep(Argument::Scales, scales.write(self.on, Token));
        self
    }

    /// Added to the input before the moments, in f32; of the input's type.
    pub fn residual<T: Element>(mut self, residual: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.residual = self.keep(Argument::Residual, residual.read(self.on, Token));
        self
    }

    /// LayerNorm, RMSNorm: added behind the residual, in f32; of the input's type. What stands behind `input`, `input_bias`,
    /// `gate`, `residual` and this is `((input + input_bias) · gate + residual) + second_residual`.
    pub fn second_residual<T: Element>(mut self, residual: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.second_residual = self.keep(Argument::SecondResidual, residual.read(self.on, Token));
        self
    }

    /// Receives the sum of input and residuals, rounded once to its type; the layer itself goes on with the unrounded sum.
    pub fn sum<T: Element>(mut self, sum: &'a mut (impl Sink<B, T> + ?Sized)) -> Self {
        self.tensors.sum = self.keep(Argument::Sum, sum.write(self.on, Token));
        self
    }

    /// The residual, which the sum overwrites: the residual stream of a transformer, updated in place.
    pub fn sum_in_residual<T: Element>(mut self, residual: &'a mut (impl Sink<B, T> + ?Sized)) -> Self {
        self.tensors.residual = self.keep(Argument::Residual, residual.write(self.on, Token));
        self.tensors.sum_in_residual = true;
        self
    }

    /// The weight, of the input's type or f32. Its shape is the layer's `weight_shape`. Without one it is 1.
    pub fn weight<T: Element>(mut self, weight: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.weight = self.keep(Argument::Weight, weight.read(self.on, Token));
        self
    }

    /// The bias, of the input's type or f32, shaped as the weight. Without one it is 0.
    pub fn bias<T: Element>(mut self, bias: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.bias = self.keep(Argument::Bias, bias.read(self.on, Token));
        self
    }

    /// What multiplies the result of weight and bias in each sample, of the input's type or f32. Without one it is 1.
    ///
    /// GroupNorm and InstanceNorm have one a channel, `[N, C]`: adaptive instance normalization, and with
    /// [`scale_plus_one`](crate::GroupNorm::scale_plus_one) the conditioning of a diffusion model. LayerNorm and RMSNorm
    /// have one an element, `[shape[0], normalized_shape…]`, shared by the rows of one index of the first axis: the
    /// adaptive layer normalization of a diffusion transformer.
    pub fn scale<T: Element>(mut self, scale: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.scale = self.keep(Argument::Scale, scale.read(self.on, Token));
        self
    }

    /// What is added behind the scale, shaped as that, of the input's type or f32.
    pub fn shift<T: Element>(mut self, shift: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.shift = self.keep(Argument::Shift, shift.read(self.on, Token));
        self
    }

    /// Added to the input of each sample and channel before the moments, in f32 and behind the residual: `[N, C]`, of the
    /// input's type or f32. The embedding of a diffusion model's time step, say.
    pub fn channel_bias<T: Element>(mut self, bias: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.channel_bias = self.keep(Argument::ChannelBias, bias.read(self.on, Token));
        self
    }

    /// LayerNorm, RMSNorm: added to the input before everything else, in f32; shaped as the weight, of the input's type or
    /// f32. The bias of the linear layer that the input comes from.
    pub fn input_bias<T: Element>(mut self, bias: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.input_bias = self.keep(Argument::InputBias, bias.read(self.on, Token));
        self
    }

    /// LayerNorm, RMSNorm with [`post_norm`](crate::RmsNorm::post_norm): the weight of the input's own norm, shaped as the
    /// weight, of the input's type or f32. Without one it is 1.
    pub fn post_norm_weight<T: Element>(mut self, weight: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.post_norm_weight = self.keep(Argument::PostNormWeight, weight.read(self.on, Token));
        self
    }

    /// The bias of the input's own norm, likewise. Without one it is 0.
    pub fn post_norm_bias<T: Element>(mut self, bias: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.post_norm_bias = self.keep(Argument::PostNormBias, bias.read(self.on, Token));
        self
    }

    /// LayerNorm, RMSNorm: what multiplies the input before the residual is added, `[shape[0], normalized_shape…]`, of the
    /// input's type or f32. `(input + input_bias) · gate + residual`, each step rounded to f32: the gated residual of a
    /// diffusion transformer, and what `sum` receives.
    pub fn gate<T: Element>(mut self, gate: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.gate = self.keep(Argument::Gate, gate.read(self.on, Token));
        self
    }

    /// The running mean of each channel.
    pub fn running_mean(mut self, mean: &'a (impl Source<B, f32> + ?Sized)) -> Self {
        self.tensors.running_mean = self.keep(Argument::RunningMean, mean.read(self.on, Token));
        self
    }

    /// The running variance of each channel.
    pub fn running_var(mut self, variance: &'a (impl Source<B, f32> + ?Sized)) -> Self {
        self.tensors.running_var = self.keep(Argument::RunningVar, variance.read(self.on, Token));
        self
    }

    /// The running statistics of each channel, which batch statistics move.
    pub fn update_running_statistics(
        mut self,
        mean: &'a mut (impl Sink<B, f32> + ?Sized),
        variance: &'a mut (impl Sink<B, f32> + ?Sized),
    ) -> Self {
        self.tensors.running_mean = self.keep(Argument::RunningMean, mean.write(self.on, Token));
        self.tensors.running_var = self.keep(Argument::RunningVar, variance.write(self.on, Token));
        self.tensors.updates = true;
        self
    }

    /// One number: how many batches the running statistics have seen. A call adds one to it.
    pub fn num_batches_tracked(mut self, count: &'a mut (impl Sink<B, i64> + ?Sized)) -> Self {
        self.tensors.num_batches_tracked = self.keep(Argument::NumBatchesTracked, count.write(self.on, Token));
        self
    }

    /// Memory of a call that needs some (see [`Workspace`]).
    pub fn workspace(mut self, workspace: &'a mut Workspace<B>) -> Self {
        self.tensors.workspace = self.keep(Argument::Workspace, self.on.memory(&mut workspace.memory));
        self
    }

    /// The constants of each channel, as [`BatchNorm::channel_table`](crate::BatchNorm::channel_table) made them, in
    /// place of running statistics, weight and bias.
    pub fn channel_table(mut self, table: &'a (impl Source<B, f32> + ?Sized)) -> Self {
        self.tensors.channel_table = self.keep(Argument::ChannelTable, table.read(self.on, Token));
        self
    }

    /// QkNorm: the keys `[…, k_heads, head_dim]`, of the queries' type, where they are a tensor of their own. Without them the
    /// keys are normalized in place, in `key_output`.
    pub fn key_input<T: Element>(mut self, keys: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.key_input = self.keep(Argument::KeyInput, keys.read(self.on, Token));
        self
    }

    /// QkNorm: where the keys go, if queries and keys are tensors of their own. Without it they are in one, `input` and
    /// `output`.
    pub fn key_output<T: Element>(mut self, keys: &'a mut (impl Sink<B, T> + ?Sized)) -> Self {
        self.tensors.key_output = self.keep(Argument::KeyOutput, keys.write(self.on, Token));
        self
    }

    /// QkNorm: the keys' weight `[head_dim]`, of the input's type or f32; `weight` is then that of the queries.
    pub fn key_weight<T: Element>(mut self, weight: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.key_weight = self.keep(Argument::KeyWeight, weight.read(self.on, Token));
        self
    }

    /// QkNorm: the keys' bias `[head_dim]`, of the input's type or f32; `bias` is then that of the queries.
    pub fn key_bias<T: Element>(mut self, bias: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.tensors.key_bias = self.keep(Argument::KeyBias, bias.read(self.on, Token));
        self
    }

    /// Elements between the starts of the input's rows, where that is more than a row's length. To QkNorm, all that a tensor
    /// has of one token is a row.
    pub fn input_row_stride(mut self, elements: usize) -> Self {
        self.tensors.strides.input = Some(elements);
        self
    }

    /// Elements between the starts of the residual's rows.
    pub fn residual_row_stride(mut self, elements: usize) -> Self {
        self.tensors.strides.residual = Some(elements);
        self
    }

    /// Elements between the starts of the second residual's rows.
    pub fn second_residual_row_stride(mut self, elements: usize) -> Self {
        self.tensors.strides.second_residual = Some(elements);
        self
    }

    /// Elements between the starts of the sum's rows.
    pub fn sum_row_stride(mut self, elements: usize) -> Self {
        self.tensors.strides.sum = Some(elements);
        self
    }

    /// Elements between the starts of the output's rows; in place, also of the input's.
    pub fn output_row_stride(mut self, elements: usize) -> Self {
        self.tensors.strides.output = Some(elements);
        self
    }

    /// QkNorm: elements between tokens in `key_input`, where that is more than its heads.
    pub fn key_input_row_stride(mut self, elements: usize) -> Self {
        self.tensors.strides.key_input = Some(elements);
        self
    }

    /// QkNorm: elements between tokens in `key_output`; in place, also of the keys that are read.
    pub fn key_output_row_stride(mut self, elements: usize) -> Self {
        self.tensors.strides.key_output = Some(elements);
        self
    }
}
