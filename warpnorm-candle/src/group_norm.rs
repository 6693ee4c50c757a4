//! Group normalization.

use candle_core::{Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};

use crate::error::refused;
use crate::layer::Layer;
use crate::op::{Affine, norm};

/// `y = (x - mean) / sqrt(var + eps) · weight + bias`, the moments over the spatial axes and the channels of a group:
/// [`candle_nn::GroupNorm`], a chain of a dozen operations, by one launch.
///
/// The input is `[N, C, …]`, with any number of spatial axes.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    layer: warpnorm::GroupNorm,
}

impl GroupNorm {
    /// Weight and bias are `[num_channels]`.
    ///
    /// # Errors
    /// If there are no groups, or they do not divide the channels, or `eps` is negative or not finite.
    pub fn new(weight: Tensor, bias: Tensor, num_channels: usize, num_groups: usize, eps: f64) -> Result<Self> {
        let layer = warpnorm::GroupNorm::new(num_groups, num_channels).and_then(|layer| layer.eps(eps));
        Ok(Self { weight, bias, layer: layer.map_err(refused)? })
    }
}

impl Module for GroupNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        norm(Layer::GroupNorm(self.layer), x, Affine::WeightAndBias(&self.weight, &self.bias))
    }
}

/// A layer of the variables `weight` and `bias`.
///
/// # Errors
/// If they are not there, or not of this size; and as of [`GroupNorm::new`].
pub fn group_norm(num_groups: usize, num_channels: usize, eps: f64, vb: VarBuilder) -> Result<GroupNorm> {
    let weight = vb.get_with_hints(num_channels, "weight", Init::Const(1.0))?;
    let bias = vb.get_with_hints(num_channels, "bias", Init::Const(0.0))?;
    GroupNorm::new(weight, bias, num_channels, num_groups, eps)
}
