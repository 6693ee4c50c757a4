//! What a call looks like before there are buffers.

use crate::element::DType;
use crate::problem::Output;
use crate::quantization::{QuantizedType, Scaling};
use crate::shape::Shape;

/// Shape, element types and optional tensors of a call: what [`prepare`](crate::LayerNorm::prepare) needs to know.
///
/// ```
/// use warpnorm::{DType, Signature};
/// // f16 activations with an f32 weight, a residual, and the sum written out
/// let signature = Signature::new([32, 4096], DType::F16).weight(DType::F32).residual().sum();
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct Signature {
    pub(crate) shape: Shape,
    pub(crate) dtype: DType,
    pub(crate) output: Output,
    pub(crate) weight: Option<DType>,
    pub(crate) bias: Option<DType>,
    pub(crate) scale: Option<DType>,
    pub(crate) shift: Option<DType>,
    pub(crate) channel_bias: Option<DType>,
    pub(crate) gate: Option<DType>,
    pub(crate) input_bias: Option<DType>,
    pub(crate) post_norm_weight: Option<DType>,
    pub(crate) post_norm_bias: Option<DType>,
    pub(crate) residual: bool,
    pub(crate) second_residual: bool,
    pub(crate) sum: bool,
    pub(crate) channel_table: bool,
    pub(crate) updates: bool,
    pub(crate) counts: bool,
    pub(crate) key_weight: Option<DType>,
    pub(crate) key_bias: Option<DType>,
    pub(crate) key_output: bool,
    strides: Strides,
    in_place: bool,
    key_in_place: bool,
    sum_in_residual: bool,
}

/// Elements between the starts of rows, where a caller has given them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Strides {
    pub input: Option<usize>,
    pub residual: Option<usize>,
    pub second_residual: Option<usize>,
    pub sum: Option<usize>,
    pub output: Option<usize>,
    pub key_input: Option<usize>,
    pub key_output: Option<usize>,
}

impl Signature {
    /// A call on a tensor of this shape, and of this type for input, residual, sum and output, unless
    /// [`output`](Self::output) says otherwise.
    pub fn new(shape: impl Into<Shape>, dtype: DType) -> Self {
        Self {
            shape: shape.into(),
            dtype,
            output: Output::Element(dtype),
            weight: None,
            bias: None,
            scale: None,
            shift: None,
            channel_bias: None,
            gate: None,
            input_bias: None,
            post_norm_weight: None,
            post_norm_bias: None,
            residual: false,
            second_residual: false,
            sum: false,
            channel_table: false,
            updates: false,
            counts: false,
            key_weight: None,
            key_bias: None,
            key_output: false,
            strides: Strides::default(),
            in_place: false,
            key_in_place: false,
            sum_in_residual: false,
        }
    }

    /// The strides of all tensors: one that is the same buffer as another has the other's.
    pub(crate) fn strides(&self) -> Strides {
        let Strides { input, residual, second_residual, sum, output, key_input, key_output } = self.strides;
        Strides {
            input: if self.in_place { output } else { input },
            residual,
            second_residual,
            sum: if self.sum_in_residual { residual } else { sum },
            output,
            key_input: if self.key_in_place { key_output } else { key_input },
            key_output,
        }
    }

    /// Whether the input is normalized as it is stored: nothing is added to it, and nothing multiplies it.
    pub(crate) const fn takes_plain_input(&self) -> bool {
        let is_biased = self.input_bias.is_some() || self.channel_bias.is_some();
        !(self.residual || self.second_residual || is_biased || self.gate.is_some())
    }

    pub(crate) const fn is_in_place(&self) -> bool {
        self.in_place
    }

    pub(crate) const fn is_sum_in_residual(&self) -> bool {
        self.sum_in_residual
    }

    pub(crate) const fn with_strides(mut self, strides: Strides) -> Self {
        self.strides = strides;
        self
    }

    /// The output is of this type, and not of the input's. The result is rounded once, to this type. In place only where both
    /// types are of one size.
    pub const fn output(mut self, dtype: DType) -> Self {
        self.output = Output::Element(dtype);
        self
    }

    /// LayerNorm, RMSNorm: the output is quantized to this type, by scales that are given or made as the scaling says. Not in
    /// place.
    pub const fn quantized_output(mut self, quantized: QuantizedType, scaling: Scaling) -> Self {
        self.output = Output::Quantized(quantized, scaling);
        self
    }

    /// There is a weight of this type: the input's, or f32.
    pub const fn weight(mut self, dtype: DType) -> Self {
        self.weight = Some(dtype);
        self
    }

    /// There is a bias of this type: the input's, or f32.
    pub const fn bias(mut self, dtype: DType) -> Self {
        self.bias = Some(dtype);
        self
    }

    /// Each sample has a scale of this type: the input's, or f32.
    pub const fn scale(mut self, dtype: DType) -> Self {
        self.scale = Some(dtype);
        self
    }

    /// Each sample has a shift of this type: the input's, or f32.
    pub const fn shift(mut self, dtype: DType) -> Self {
        self.shift = Some(dtype);
        self
    }

    /// Each sample has a bias on its input, of this type: the input's, or f32.
    pub const fn channel_bias(mut self, dtype: DType) -> Self {
        self.channel_bias = Some(dtype);
        self
    }

    /// Each sample has a gate on its input, of this type: the input's, or f32.
    pub const fn gate(mut self, dtype: DType) -> Self {
        self.gate = Some(dtype);
        self
    }

    /// A bias is added to the input, of this type: the input's, or f32.
    pub const fn input_bias(mut self, dtype: DType) -> Self {
        self.input_bias = Some(dtype);
        self
    }

    /// There is a weight of the input's own norm, of this type: the input's, or f32.
    pub const fn post_norm_weight(mut self, dtype: DType) -> Self {
        self.post_norm_weight = Some(dtype);
        self
    }

    /// There is a bias of the input's own norm, of this type: the input's, or f32.
    pub const fn post_norm_bias(mut self, dtype: DType) -> Self {
        self.post_norm_bias = Some(dtype);
        self
    }

    /// A residual is added to the input.
    pub const fn residual(mut self) -> Self {
        self.residual = true;
        self
    }

    /// Another residual is added behind the first.
    pub const fn second_residual(mut self) -> Self {
        self.second_residual = true;
        self
    }

    /// The sum of input and residual is written out.
    pub const fn sum(mut self) -> Self {
        self.sum = true;
        self
    }

    /// There is no input of its own: the layer works in place on the output.
    pub const fn in_place(mut self) -> Self {
        self.in_place = true;
        self
    }

    /// A residual is added to the input, and the sum overwrites it.
    pub const fn sum_in_residual(mut self) -> Self {
        self.residual = true;
        self.sum = true;
        self.sum_in_residual = true;
        self
    }

    /// The constants come from a table that [`BatchNorm::channel_table`](crate::BatchNorm::channel_table) has made.
    pub const fn channel_table(mut self) -> Self {
        self.channel_table = true;
        self
    }

    /// Running statistics are moved by those of the batch.
    pub const fn update_running_statistics(mut self) -> Self {
        self.updates = true;
        self
    }

    /// The batches that the running statistics have seen are counted.
    pub const fn num_batches_tracked(mut self) -> Self {
        self.counts = true;
        self
    }

    /// QkNorm: the keys have a weight of this type: the input's, or f32.
    pub const fn key_weight(mut self, dtype: DType) -> Self {
        self.key_weight = Some(dtype);
        self
    }

    /// QkNorm: the keys have a bias of this type: the input's, or f32.
    pub const fn key_bias(mut self, dtype: DType) -> Self {
        self.key_bias = Some(dtype);
        self
    }

    /// QkNorm: queries and keys are tensors of their own.
    pub const fn key_output(mut self) -> Self {
        self.key_output = true;
        self
    }

    /// QkNorm: the same, and there is no input of the keys' own.
    pub const fn key_in_place(mut self) -> Self {
        self.key_output = true;
        self.key_in_place = true;
        self
    }

    /// Elements between the starts of the input's rows.
    pub const fn input_row_stride(mut self, elements: usize) -> Self {
        self.strides.input = Some(elements);
        self
    }

    /// Elements between the starts of the residual's rows.
    pub const fn residual_row_stride(mut self, elements: usize) -> Self {
        self.strides.residual = Some(elements);
        self
    }

    /// Elements between the starts of the second residual's rows.
    pub const fn second_residual_row_stride(mut self, elements: usize) -> Self {
        self.strides.second_residual = Some(elements);
        self
    }

    /// Elements between the starts of the sum's rows.
    pub const fn sum_row_stride(mut self, elements: usize) -> Self {
        self.strides.sum = Some(elements);
        self
    }

    /// Elements between the starts of the output's rows; in place, also of the input's.
    pub const fn output_row_stride(mut self, elements: usize) -> Self {
        self.strides.output = Some(elements);
        self
    }

    /// QkNorm: elements between tokens in the keys' input.
    pub const fn key_input_row_stride(mut self, elements: usize) -> Self {
        self.strides.key_input = Some(elements);
        self
    }

    /// QkNorm: elements between tokens in the keys' output; in place, also in their input.
    pub const fn key_output_row_stride(mut self, elements: usize) -> Self {
        self.strides.key_output = Some(elements);
        self
    }
}
