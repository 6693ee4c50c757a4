//! What is to be computed, once a layer has met a shape: the memory patterns, without names of layers.
//!
//! A [`Problem`] is all that a backend needs beside addresses. The CUDA backend makes launches of it
//! ([`plan`](crate::plan)), the CPU backend runs it as it is.

use crate::element::{DType, Kind};
use crate::norm::{Activation, Rounding};
use crate::quantization::{QuantizedType, Scaling};
use crate::shape::Layout;

/// Weight or bias: its type, if there is one.
pub type Coefficient = Option<DType>;

/// What a result is stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Element(DType),
    Quantized(QuantizedType, Scaling),
}

impl Output {
    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::Element(dtype) => Kind::Element(dtype),
            Self::Quantized(quantized, _) => Kind::Quantized(quantized),
        }
    }

    pub(crate) const fn scaling(self) -> Option<Scaling> {
        match self {
            Self::Element(_) => None,
            Self::Quantized(_, scaling) => Some(scaling),
        }
    }
}

/// A validated computation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Problem {
    Rows(Rows),
    HeadRows(HeadRows),
    ChannelsLast(ChannelsLast),
    BatchStatistics(BatchStatistics),
    Pointwise(Pointwise),
    ChannelTable(ChannelTable),
}

impl Problem {
    /// Whether running statistics are among its tensors, for what is known before there are any.
    pub(crate) fn takes_statistics(&self, moves_them: bool) -> bool {
        match self {
            Self::Rows(_) | Self::HeadRows(_) | Self::ChannelsLast(_) => false,
            Self::BatchStatistics(_) => moves_them,
            Self::Pointwise(map) => map.constants != Constants::Table,
            Self::ChannelTable(_) => true,
        }
    }
}

/// `y = activation((s - mean(s)) / sqrt(var(s) + eps) * weight + bias)` with
/// `s = v * gate + residual + second_residual`, over rows, where `v` is `x + input_bias` or a norm of that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rows {
    /// Type of x, the residuals and the sum.
    pub dtype: DType,
    pub output: Output,
    pub rows: usize,
    /// Elements of a row.
    pub length: usize,
    pub moments: Moments,
    /// Whether x is normalized as it is stored: nothing is added to it, and nothing multiplies it.
    pub is_plain: bool,
    pub residual: bool,
    /// Whether a second residual is added.
    pub second_residual: bool,
    pub affine: Affine,
    pub weight: Coefficient,
    pub bias: Coefficient,
    /// The stored weights are offsets from 1. Only with a weight.
    pub weight_plus_one: bool,
    /// The input's own norm. Only with an affine per element.
    pub post_norm: Option<PostNorm>,
    pub rounding: Rounding,
    pub modulation: Modulation,
    /// `length` of them. Only with an affine per element.
    pub input_bias: Coefficient,
    pub eps: f32,
    pub activation: Activation,
    /// Elements between the starts of rows.
    pub x_stride: usize,
    pub residual_stride: usize,
    pub second_residual_stride: usize,
    pub sum_stride: usize,
    pub y_stride: usize,
}

impl Rows {
    /// Whether anything surrounds the norm but one residual, its sum, weight and bias, and an activation.
    pub(crate) fn is_fused(&self) -> bool {
        let is_biased = self.input_bias.is_some() || self.second_residual;
        let is_modulated = self.modulation != Modulation::default();
        let is_otherwise = self.post_norm.is_some() || self.rounding != Rounding::Once;
        is_biased || is_modulated || is_otherwise || self.output != Output::Element(self.dtype)
    }
}

/// Weight and bias of the input's own norm, by the position in the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostNorm {
    pub weight: Coefficient,
    pub bias: Coefficient,
}

/// What a row is normalized by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moments {
    MeanAndVariance,
    /// The mean is not subtracted: `y = s / sqrt(mean(s²) + eps) * weight + bias`.
    MeanSquare,
}

/// How weight and bias are indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affine {
    /// By the position in the row; `length` of each. So many consecutive rows are one sample.
    PerElement { rows_of_sample: usize },
    /// By channel: row `r` holds the channels `[(r % groups) * channels_per_group ..][..channels_per_group]`, each
    /// `spatial` consecutive elements; `groups * channels_per_group` of each.
    PerChannel { groups: usize, channels_per_group: usize, spatial: usize },
}

/// What differs from sample to sample: tensors `[samples, channels]` where weight and bias go by the channel, and
/// `[samples, length]` where they go by the position in the row.
/// `y = activation((…) * scale + shift)`, and `s = x * gate + residual + channel_bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modulation {
    pub scale: Coefficient,
    pub shift: Coefficient,
    /// Only by the channel.
    pub channel_bias: Coefficient,
    /// Only by the position in the row.
    pub gate: Coefficient,
    /// The stored scale is an offset from 1. Only with a scale.
    pub scale_plus_one: bool,
}

/// The query and key heads of attention, each a row: `y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadRows {
    /// Type of x and y.
    pub dtype: DType,
    pub tokens: usize,
    /// Elements of a head: a row.
    pub length: usize,
    pub moments: Moments,
    pub query: Heads,
    pub key: Heads,
    /// Elements of a token in the one tensor that has its queries, its keys and perhaps more; `None` where queries and keys
    /// are tensors of their own.
    pub packed: Option<usize>,
    /// The stored weights are offsets from 1. Only with weights.
    pub weight_plus_one: bool,
    pub eps: f32,
}

/// The heads of one kind: `count` of a token, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Not 0.
    pub count: usize,
    /// `length` of them, as of the bias.
    pub weight: Coefficient,
    pub bias: Coefficient,
    /// Elements between tokens.
    pub x_stride: usize,
    pub y_stride: usize,
}

/// As [`Rows`] with an affine per channel, over the groups of a tensor `[samples, spatial, channels]`: those of a sample
/// lie between each other in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelsLast {
    /// Type of x, residual and sum.
    pub dtype: DType,
    /// Type of y.
    pub output: DType,
    pub samples: usize,
    /// Pixels of a sample.
    pub spatial: usize,
    pub channels: usize,
    /// Divides the channels.
    pub groups: usize,
    /// Nothing is added to x.
    pub is_plain: bool,
    pub weight: Coefficient,
    pub bias: Coefficient,
    pub modulation: Modulation,
    pub eps: f32,
    pub activation: Activation,
}

/// Each channel normalized by its moments over samples and space, and running statistics moved towards those.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchStatistics {
    /// Type of x, residual and sum.
    pub dtype: DType,
    /// Type of y.
    pub output: DType,
    pub samples: usize,
    /// Elements of one channel in one sample. Together with the samples not one: a variance needs two.
    pub spatial: usize,
    pub channels: usize,
    pub layout: Layout,
    /// As of [`ChannelsLast`].
    pub is_plain: bool,
    pub weight: Coefficient,
    pub bias: Coefficient,
    pub eps: f32,
    pub activation: Activation,
    /// The share of the batch in the new running statistics; `None`: one part of the number of batches so far, this one
    /// included.
    pub momentum: Option<f32>,
}

/// `y = activation((x + residual - mean[c]) * scale[c] + bias[c])` with `c = i / spatial % channels`, element by element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pointwise {
    /// Type of x, residual and sum.
    pub dtype: DType,
    /// Type of y.
    pub output: DType,
    /// Elements of the tensor: a multiple of `channels * spatial`.
    pub length: usize,
    pub channels: usize,
    /// Consecutive elements of one channel; 1 in NHWC.
    pub spatial: usize,
    pub constants: Constants,
    pub activation: Activation,
}

/// Where a pointwise map's constants come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Constants {
    /// `f32 [3, channels]`: mean, scale, bias.
    Table,
    /// `scale = weight / sqrt(running_var + eps)`.
    Statistics { weight: Coefficient, bias: Coefficient, eps: f32 },
}

/// Makes the table of [`Constants::Table`] from running statistics; `y` is the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelTable {
    /// The type of a coefficient that is not f32; f32 if there is none.
    pub dtype: DType,
    pub channels: usize,
    pub weight: Coefficient,
    pub bias: Coefficient,
    pub eps: f32,
}

impl Buffers {
    /// Whether the tensors of rows, and those of heads, all begin on a 16-byte boundary, coefficients aside.
    pub(crate) const fn begin_on_words(&self) -> bool {
        let residuals = self.residual | self.second_residual | self.sum;
        (self.x | residuals | self.y | self.key_x | self.key_y) & 15 == 0
    }

    /// Whether the coefficients do: those that go by the position in a row.
    pub(crate) const fn coefficients_begin_on_words(&self) -> bool {
        let of_sample = self.scale | self.shift | self.gate;
        let of_input = self.input_bias | self.post_norm_weight | self.post_norm_bias;
        (self.weight | self.bias | of_sample | of_input | self.key_weight | self.key_bias) & 15 == 0
    }
}

/// The addresses of a call's tensors; 0 where one is absent. The backend that reads them knows whose memory they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buffers {
    pub x: u64,
    pub residual: u64,
    pub second_residual: u64,
    pub sum: u64,
    pub y: u64,
    pub weight: u64,
    pub bias: u64,
    pub scale: u64,
    pub shift: u64,
    pub channel_bias: u64,
    pub gate: u64,
    pub input_bias: u64,
    pub post_norm_weight: u64,
    pub post_norm_bias: u64,
    /// Read or written, as the output's scaling says.
    pub scales: u64,
    /// Read, or by batch statistics moved.
    pub running_mean: u64,
    pub running_var: u64,
    /// One i64.
    pub num_batches_tracked: u64,
    pub table: u64,
    /// Where there are keys beside queries, they are these; the queries are `x`, `y`, `weight` and `bias`.
    pub key_x: u64,
    pub key_y: u64,
    pub key_weight: u64,
    pub key_bias: u64,
    pub workspace: u64,
    /// Bytes of the workspace.
    pub workspace_bytes: usize,
}
