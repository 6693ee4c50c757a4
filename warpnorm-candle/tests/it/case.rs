//! One call of a module: by this crate, by candle, and by the formula in f64.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{LayerNormConfig, VarBuilder};

use crate::oracle::{self, Expected};
use crate::tensors::{normal, positive, values};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    LayerNorm,
    LayerNormNoBias,
    /// `LayerNorm::rms_norm`.
    LayerNormAsRms,
    /// A `LayerNorm` that was configured without `remove_mean`.
    RmsNormWithBias,
    RmsNorm,
    OpsLayerNorm,
    OpsRmsNorm,
    GroupNorm {
        groups: usize,
    },
    BatchNorm,
    BatchNormNoBias,
}

pub const ROWS: [Kind; 7] = [
    Kind::LayerNorm,
    Kind::LayerNormNoBias,
    Kind::LayerNormAsRms,
    Kind::RmsNormWithBias,
    Kind::RmsNorm,
    Kind::OpsLayerNorm,
    Kind::OpsRmsNorm,
];

pub const EPS: f64 = 1e-5;

impl Kind {
    const fn has_rows(self) -> bool {
        !matches!(self, Self::GroupNorm { .. } | Self::BatchNorm | Self::BatchNormNoBias)
    }

    const fn has_weight(self) -> bool {
        !matches!(self, Self::BatchNormNoBias)
    }

    const fn has_bias(self) -> bool {
        matches!(
            self,
            Self::LayerNorm | Self::RmsNormWithBias | Self::OpsLayerNorm | Self::GroupNorm { .. } | Self::BatchNorm
        )
    }

    const fn subtracts_mean(self) -> bool {
        !matches!(self, Self::LayerNormAsRms | Self::RmsNormWithBias | Self::RmsNorm | Self::OpsRmsNorm)
    }
}

/// Whatever a module may need.
#[derive(Debug, Clone)]
pub struct Tensors {
    pub x: Tensor,
    pub weight: Tensor,
    pub bias: Tensor,
    pub running_mean: Tensor,
    pub running_var: Tensor,
}

impl Tensors {
    /// On the CPU; weight, bias and running statistics of the type `coefficients`.
    pub fn new(kind: Kind, dims: &[usize], dtype: DType, coefficients: DType) -> Result<Self> {
        let channels = if kind.has_rows() { dims[dims.len() - 1] } else { dims[1] };
        Ok(Self {
            x: normal(dims, dtype, 1)?,
            weight: normal(&[channels], coefficients, 2)?,
            bias: normal(&[channels], coefficients, 3)?,
            running_mean: normal(&[channels], coefficients, 4)?,
            running_var: positive(&[channels], coefficients, 5)?,
        })
    }

    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self {
            x: self.x.to_device(device)?,
            weight: self.weight.to_device(device)?,
            bias: self.bias.to_device(device)?,
            running_mean: self.running_mean.to_device(device)?,
            running_var: self.running_var.to_device(device)?,
        })
    }
}

/// The same source, compiled with this crate's modules and with candle's.
macro_rules! library {
    ($name:ident, $library:ident) => {
        pub mod $name {
            use super::*;
            use $library::{BatchNorm, GroupNorm, LayerNorm, Module, ModuleT, RmsNorm, layer_norm, ops};

            pub fn forward(kind: Kind, tensors: &Tensors) -> Result<Tensor> {
                let Tensors { x, weight, bias, running_mean, running_var } = tensors.clone();
                match kind {
                    Kind::LayerNorm => LayerNorm::new(weight, bias, EPS).forward(&x),
                    Kind::LayerNormNoBias => LayerNorm::new_no_bias(weight, EPS).forward(&x),
                    Kind::LayerNormAsRms => LayerNorm::rms_norm(weight, EPS).forward(&x),
                    Kind::RmsNormWithBias => {
                        let (size, dtype, device) = (weight.dim(0)?, weight.dtype(), weight.device().clone());
                        let tensors = HashMap::from([("weight".to_owned(), weight), ("bias".to_owned(), bias)]);
                        let config = LayerNormConfig { eps: EPS, remove_mean: false, affine: true };
                        layer_norm(size, config, VarBuilder::from_tensors(tensors, dtype, &device))?.forward(&x)
                    }
                    Kind::RmsNorm => RmsNorm::new(weight, EPS).forward(&x),
                    Kind::OpsLayerNorm => ops::layer_norm(&x, &weight, &bias, EPS as f32),
                    Kind::OpsRmsNorm => ops::rms_norm(&x, &weight, EPS as f32),
                    Kind::GroupNorm { groups } => GroupNorm::new(weight, bias, x.dim(1)?, groups, EPS)?.forward(&x),
                    Kind::BatchNorm => {
                        let channels = x.dim(1)?;
                        BatchNorm::new(channels, running_mean, running_var, weight, bias, EPS)?.forward_t(&x, false)
                    }
                    Kind::BatchNormNoBias => {
                        BatchNorm::new_no_bias(x.dim(1)?, running_mean, running_var, EPS)?.forward_t(&x, false)
                    }
                }
            }
        }
    };
}

library!(ours, warpnorm_candle);
library!(candles, candle_nn);

/// The formula, of an input that need not be the one in `tensors`.
pub fn expected(kind: Kind, x: &[f64], dims: &[usize], tensors: &Tensors) -> Result<Vec<Expected>> {
    let (weight, bias) = (values(&tensors.weight)?, values(&tensors.bias)?);
    let affine = |channel: usize| {
        (if kind.has_weight() { weight[channel] } else { 1.0 }, if kind.has_bias() { bias[channel] } else { 0.0 })
    };
    let normalized = |rows: usize, affine: &dyn Fn(usize, usize) -> (f64, f64)| {
        let rows = x.chunks(x.len() / rows).enumerate();
        rows.flat_map(|(row, values)| {
            oracle::row(values, EPS, kind.subtracts_mean(), &|i| affine(row, i), warpnorm::Activation::None)
        })
        .collect()
    };
    if kind.has_rows() {
        return Ok(normalized(x.len() / dims[dims.len() - 1], &|_, i| affine(i)));
    }
    let (channels, spatial) = (dims[1], dims[2..].iter().product::<usize>());
    if let Kind::GroupNorm { groups } = kind {
        let of_group = channels / groups;
        return Ok(normalized(dims[0] * groups, &|row, i| affine(row % groups * of_group + i / spatial)));
    }
    let (mean, var) = (values(&tensors.running_mean)?, values(&tensors.running_var)?);
    let element = |(i, &x): (usize, &f64)| {
        let channel = i / spatial % channels;
        oracle::element(x, mean[channel], var[channel], EPS, affine(channel), warpnorm::Activation::None)
    };
    Ok(x.iter().enumerate().map(element).collect())
}
