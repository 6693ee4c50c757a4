//! The functions of [`candle_nn::ops`] that normalize.

use candle_core::{Result, Tensor};

use crate::layer_norm::layer;
use crate::op::{Affine, norm};

/// `(x - mean) / sqrt(var + eps) · alpha + beta` over the last axis.
///
/// # Errors
/// If `alpha` and `beta` are not of that axis' extent; for a type or a device that there is no such layer for.
pub fn layer_norm(xs: &Tensor, alpha: &Tensor, beta: &Tensor, eps: f32) -> Result<Tensor> {
    norm(layer(xs, true, eps.into())?, xs, Affine::WeightAndBias(alpha, beta))
}

/// `x / sqrt(mean(x²) + eps) · alpha` over the last axis.
///
/// # Errors
/// As of [`layer_norm`].
pub fn rms_norm(xs: &Tensor, alpha: &Tensor, eps: f32) -> Result<Tensor> {
    norm(layer(xs, false, eps.into())?, xs, Affine::Weight(alpha))
}
