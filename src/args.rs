//! The buffers of one call.

use crate::backend::sealed::Token;
use crate::backend::{Backend, Sink, Source};
use crate::element::{DType, Element};
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::signature::{Signature, Strides};
use crate::workspace::Workspace;

/// A buffer without its Rust type: where it lies, how long it is, and what its elements are.
///
/// Holds whatever the backend needs to keep until the call is on its way (for cudarc's slices, what orders streams).
pub struct Operand<'a, B: Backend> {
    pub(crate) address: u64,
    /// In elements.
    pub(crate) len: usize,
    /// `None` for what is no tensor: counters and workspaces.
    pub(crate) dtype: Option<DType>,
    /// Whether it lies in the memory of another device than the call's.
    pub(crate) elsewhere: bool,
    /// Dropped after the launch.
    pub(crate) _guard: B::Guard<'a>,
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
    pub(crate) shape: Shape,
    pub(crate) strides: Strides,
    pub(crate) input: Option<Operand<'a, B>>,
    pub(crate) residual: Option<Operand<'a, B>>,
    pub(crate) sum: Option<Operand<'a, B>>,
    pub(crate) sum_in_residual: bool,
    pub(crate) output: Option<Operand<'a, B>>,
    pub(crate) weight: Option<Operand<'a, B>>,
    pub(crate) bias: Option<Operand<'a, B>>,
    pub(crate) scale: Option<Operand<'a, B>>,
    pub(crate) shift: Option<Operand<'a, B>>,
    pub(crate) channel_bias: Option<Operand<'a, B>>,
    pub(crate) running_mean: Option<Operand<'a, B>>,
    pub(crate) running_var: Option<Operand<'a, B>>,
    pub(crate) num_batches_tracked: Option<Operand<'a, B>>,
    pub(crate) channel_table: Option<Operand<'a, B>>,
    pub(crate) workspace: Option<Operand<'a, B>>,
    /// Whether the running statistics may be written.
    pub(crate) updates: bool,
}

impl<B: Backend> std::fmt::Debug for Operand<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let element = self.dtype.map_or("untyped", DType::name);
        write!(f, "{} × {element} at {:#x}", self.len, self.address)
    }
}

impl<B: Backend> std::fmt::Debug for Args<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Args")
            .field("shape", &self.shape)
            .field("input", &self.input)
            .field("residual", &self.residual)
            .field("sum", &self.sum)
            .field("output", &self.output)
            .field("weight", &self.weight)
            .field("bias", &self.bias)
            .finish_non_exhaustive()
    }
}

impl<'a, B: Backend> Args<'a, B> {
    /// A call on this backend, on tensors of this shape (extents in the order in which they lie in memory).
    pub fn new(on: &'a B, shape: impl Into<Shape>) -> Self {
        Self {
            on,
            shape: shape.into(),
            strides: Strides::default(),
            input: None,
            residual: None,
            sum: None,
            sum_in_residual: false,
            output: None,
            weight: None,
            bias: None,
            scale: None,
            shift: None,
            channel_bias: None,
            running_mean: None,
            running_var: None,
            num_batches_tracked: None,
            channel_table: None,
            workspace: None,
            updates: false,
        }
    }

    /// The input, of the output's type.
    pub fn input<T: Element>(mut self, x: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.input = Some(x.read(self.on, Token));
        self
    }

    /// Where the result goes; also the input, if there is no other.
    pub fn output<T: Element>(mut self, y: &'a mut (impl Sink<B, T> + ?Sized)) -> Self {
        self.output = Some(y.write(self.on, Token));
        self
    }

    /// Added to the input before everything else, in f32; of the output's type.
    pub fn residual<T: Element>(mut self, residual: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.residual = Some(residual.read(self.on, Token));
        self
    }

    /// Receives input + residual, rounded once to its type; the layer itself goes on with the unrounded sum.
    pub fn sum<T: Element>(mut self, sum: &'a mut (impl Sink<B, T> + ?Sized)) -> Self {
        self.sum = Some(sum.write(self.on, Token));
        self
    }

    /// The residual, which the sum overwrites: the residual stream of a transformer, updated in place.
    pub fn sum_in_residual<T: Element>(mut self, residual: &'a mut (impl Sink<B, T> + ?Sized)) -> Self {
        self.residual = Some(residual.write(self.on, Token));
        self.sum_in_residual = true;
        self
    }

    /// The weight, of the input's type or f32. Its shape is the layer's `weight_shape`. Without one it is 1.
    pub fn weight<T: Element>(mut self, weight: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.weight = Some(weight.read(self.on, Token));
        self
    }

    /// The bias, of the input's type or f32, shaped as the weight. Without one it is 0.
    pub fn bias<T: Element>(mut self, bias: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.bias = Some(bias.read(self.on, Token));
        self
    }

    /// What multiplies the result of weight and bias in each sample and channel, `[N, C]`, of the input's type or f32:
    /// adaptive instance normalization, and with [`GroupNorm::scale_plus_one`](crate::GroupNorm::scale_plus_one) the
    /// conditioning of a diffusion model. Without one it is 1.
    pub fn scale<T: Element>(mut self, scale: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.scale = Some(scale.read(self.on, Token));
        self
    }

    /// What is added behind the scale in each sample and channel, `[N, C]`, of the input's type or f32.
    pub fn shift<T: Element>(mut self, shift: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.shift = Some(shift.read(self.on, Token));
        self
    }

    /// Added to the input of each sample and channel before the moments, in f32 and behind the residual: `[N, C]`, of the
    /// input's type or f32. The embedding of a diffusion model's time step, say.
    pub fn channel_bias<T: Element>(mut self, bias: &'a (impl Source<B, T> + ?Sized)) -> Self {
        self.channel_bias = Some(bias.read(self.on, Token));
        self
    }

    /// The running mean of each channel.
    pub fn running_mean(mut self, mean: &'a (impl Source<B, f32> + ?Sized)) -> Self {
        self.running_mean = Some(mean.read(self.on, Token));
        self
    }

    /// The running variance of each channel.
    pub fn running_var(mut self, variance: &'a (impl Source<B, f32> + ?Sized)) -> Self {
        self.running_var = Some(variance.read(self.on, Token));
        self
    }

    /// The running statistics of each channel, which batch statistics move.
    pub fn update_running_statistics(
        mut self,
        mean: &'a mut (impl Sink<B, f32> + ?Sized),
        variance: &'a mut (impl Sink<B, f32> + ?Sized),
    ) -> Self {
        self.running_mean = Some(mean.write(self.on, Token));
        self.running_var = Some(variance.write(self.on, Token));
        self.updates = true;
        self
    }

    /// One number: how many batches the running statistics have seen. A call adds one to it.
    pub fn num_batches_tracked(mut self, count: &'a mut (impl Sink<B, i64> + ?Sized)) -> Self {
        self.num_batches_tracked = Some(count.write(self.on, Token));
        self
    }

    /// Memory of a call that needs some (see [`Workspace`]).
    pub fn workspace(mut self, workspace: &'a mut Workspace<B>) -> Self {
        self.workspace = Some(self.on.memory(&mut workspace.memory));
        self
    }

    /// The constants of each channel, as [`BatchNorm::channel_table`](crate::BatchNorm::channel_table) made them, in
    /// place of running statistics, weight and bias.
    pub fn channel_table(mut self, table: &'a (impl Source<B, f32> + ?Sized)) -> Self {
        self.channel_table = Some(table.read(self.on, Token));
        self
    }

    /// Elements between the starts of the input's rows, where that is more than a row's length.
    pub fn input_row_stride(mut self, elements: usize) -> Self {
        self.strides.input = Some(elements);
        self
    }

    /// Elements between the starts of the residual's rows.
    pub fn residual_row_stride(mut self, elements: usize) -> Self {
        self.strides.residual = Some(elements);
        self
    }

    /// Elements between the starts of the sum's rows.
    pub fn sum_row_stride(mut self, elements: usize) -> Self {
        self.strides.sum = Some(elements);
        self
    }

    /// Elements between the starts of the output's rows; in place, also of the input's.
    pub fn output_row_stride(mut self, elements: usize) -> Self {
        self.strides.output = Some(elements);
        self
    }

    /// What these arguments look like without their buffers.
    ///
    /// # Errors
    /// [`Error::Missing`] without an output, whose type is the call's.
    pub(crate) fn signature(&self, layer: &'static str) -> Result<Signature> {
        let output = self.output.as_ref().ok_or(Error::Missing { layer, argument: "output" })?;
        // Always there: an output is made of elements.
        let dtype = output.dtype.ok_or(Error::Missing { layer, argument: "output" })?;
        let mut signature = Signature::new(self.shape, dtype);
        signature.weight = self.weight.as_ref().and_then(|operand| operand.dtype);
        signature.bias = self.bias.as_ref().and_then(|operand| operand.dtype);
        signature.scale = self.scale.as_ref().and_then(|operand| operand.dtype);
        signature.shift = self.shift.as_ref().and_then(|operand| operand.dtype);
        signature.channel_bias = self.channel_bias.as_ref().and_then(|operand| operand.dtype);
        signature.residual = self.residual.is_some();
        signature.sum = self.sum.is_some();
        signature.channel_table = self.channel_table.is_some();
        signature.updates = self.updates;
        signature.counts = self.num_batches_tracked.is_some();
        signature = signature.with_strides(self.strides);
        if self.input.is_none() {
            signature = signature.in_place();
        }
        Ok(if self.sum_in_residual { signature.sum_in_residual() } else { signature })
    }
}
