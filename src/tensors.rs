//! The buffers of one call without their Rust types: what the typed and the raw layer have in common.

use crate::element::{DType, Kind};
use crate::error::{Error, Result};
use crate::problem::Output;
use crate::quantization::Scaling;
use crate::shape::Shape;
use crate::signature::{Signature, Strides};

/// A buffer: where it lies, how long it is, and what its elements are.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Tensor {
    pub address: u64,
    /// In elements; `None` where the caller vouches for it.
    pub len: Option<usize>,
    pub kind: Kind,
    /// Whether it lies in the memory of another device than the call's.
    pub elsewhere: bool,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let element = self.kind.name();
        match self.len {
            Some(len) => write!(f, "{len} × {element} at {:#x}", self.address),
            None => write!(f, "{element} at {:#x}", self.address),
        }
    }
}

/// What [`Args`](crate::Args) collects.
#[derive(Clone, Copy)]
pub(crate) struct Tensors {
    pub shape: Shape,
    pub strides: Strides,
    pub input: Option<Tensor>,
    pub residual: Option<Tensor>,
    pub second_residual: Option<Tensor>,
    pub sum: Option<Tensor>,
    /// The sum overwrites the residual.
    pub sum_in_residual: bool,
    pub output: Option<Tensor>,
    pub weight: Option<Tensor>,
    pub bias: Option<Tensor>,
    pub scale: Option<Tensor>,
    pub shift: Option<Tensor>,
    pub channel_bias: Option<Tensor>,
    pub gate: Option<Tensor>,
    pub input_bias: Option<Tensor>,
    pub post_norm_weight: Option<Tensor>,
    pub post_norm_bias: Option<Tensor>,
    pub scaling: Option<Scaling>,
    pub scales: Option<Tensor>,
    pub running_mean: Option<Tensor>,
    pub running_var: Option<Tensor>,
    pub num_batches_tracked: Option<Tensor>,
    pub channel_table: Option<Tensor>,
    pub key_input: Option<Tensor>,
    pub key_output: Option<Tensor>,
    pub key_weight: Option<Tensor>,
    pub key_bias: Option<Tensor>,
    pub workspace: Option<Tensor>,
    /// Whether the running statistics may be written.
    pub updates: bool,
}

impl Tensors {
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            shape,
            strides: Strides::default(),
            input: None,
            residual: None,
            second_residual: None,
            sum: None,
            sum_in_residual: false,
            output: None,
            weight: None,
            bias: None,
            scale: None,
            shift: None,
            channel_bias: None,
            gate: None,
            input_bias: None,
            post_norm_weight: None,
            post_norm_bias: None,
            scaling: None,
            scales: None,
            running_mean: None,
            running_var: None,
            num_batches_tracked: None,
            channel_table: None,
            key_input: None,
            key_output: None,
            key_weight: None,
            key_bias: None,
            workspace: None,
            updates: false,
        }
    }

    /// What the call looks like without its buffers.
    ///
    /// # Errors
    /// [`Error::Missing`] without an output.
    pub(crate) fn signature(&self, layer: &'static str) -> Result<Signature> {
        let dtype_of = |tensor: Option<Tensor>| tensor.and_then(|tensor| tensor.kind.dtype());
        let missing = |argument| Error::Missing { layer, argument };
        let output = match self.output.map(|output| output.kind).ok_or(missing("output"))? {
            Kind::Element(dtype) => Output::Element(dtype),
            Kind::Quantized(quantized) => Output::Quantized(quantized, self.scaling.ok_or(missing("scales"))?),
            // Neither can be given as an output.
            Kind::Count | Kind::Bytes => return Err(missing("output")),
        };
        if let (Output::Element(_), Some(_)) = (output, self.scaling) {
            let hint = " beside an output that is not quantized";
            return Err(Error::Unexpected { layer, argument: "scales", hint });
        }
        let in_place = dtype_of(self.output);
        let dtype: DType = dtype_of(self.input).or(in_place).ok_or(missing("input"))?;
        let mut signature = Signature::new(self.shape, dtype);
        signature.output = output;
        signature.weight = dtype_of(self.weight);
        signature.bias = dtype_of(self.bias);
        signature.scale = dtype_of(self.scale);
        signature.shift = dtype_of(self.shift);
        signature.channel_bias = dtype_of(self.channel_bias);
        signature.gate = dtype_of(self.gate);
        signature.input_bias = dtype_of(self.input_bias);
        signature.post_norm_weight = dtype_of(self.post_norm_weight);
        signature.post_norm_bias = dtype_of(self.post_norm_bias);
        signature.residual = self.residual.is_some();
        signature.second_residual = self.second_residual.is_some();
        signature.sum = self.sum.is_some();
        signature.channel_table = self.channel_table.is_some();
        signature.updates = self.updates;
        signature.counts = self.num_batches_tracked.is_some();
        signature.key_weight = dtype_of(self.key_weight);
        signature.key_bias = dtype_of(self.key_bias);
        signature.key_output = self.key_output.is_some();
        signature = signature.with_strides(self.strides);
        if self.input.is_none() {
            signature = signature.in_place();
        }
        if self.key_output.is_some() && self.key_input.is_none() {
            signature = signature.key_in_place();
        }
        Ok(if self.sum_in_residual { signature.sum_in_residual() } else { signature })
    }
}
