//! Layer and root mean square normalization, over the last axis.

use candle_core::{D, Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};

pub use candle_nn::LayerNormConfig;

use crate::error::refused;
use crate::layer::Layer;
use crate::op::{Affine, norm, norm_of_sum};

/// `y = (x - mean) / sqrt(var + eps) · weight + bias` over the last axis: [`candle_nn::LayerNorm`] by one launch.
///
/// By [`rms_norm`](Self::rms_norm), or a configuration without `remove_mean`, it is `y = x / sqrt(mean(x²) + eps) · weight`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    remove_mean: bool,
    eps: f64,
}

impl LayerNorm {
    /// Weight and bias have the extent of the last axis.
    #[must_use]
    pub const fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias: Some(bias), remove_mean: true, eps }
    }

    /// A layer that adds nothing.
    #[must_use]
    pub const fn new_no_bias(weight: Tensor, eps: f64) -> Self {
        Self { weight, bias: None, remove_mean: true, eps }
    }

    /// A layer that does not subtract the mean, and adds nothing.
    #[must_use]
    pub const fn rms_norm(weight: Tensor, eps: f64) -> Self {
        Self { weight, bias: None, remove_mean: false, eps }
    }

    /// The weight.
    #[must_use]
    pub const fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias.
    #[must_use]
    pub const fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// What is added to the variance.
    #[must_use]
    pub const fn eps(&self) -> f64 {
        self.eps
    }

    /// Whether the mean is subtracted.
    #[must_use]
    pub const fn remove_mean(&self) -> bool {
        self.remove_mean
    }

    /// The norm of `x + residual`, and that sum, which is the residual of what follows: one pass over memory instead of
    /// two. The norm is of the exact sum of each two elements, before it is rounded to their type.
    ///
    /// ```
    /// use candle_core::{Device, Result, Tensor};
    /// use warpnorm_candle::RmsNorm;
    ///
    /// let norm = RmsNorm::new(Tensor::new(&[1.0_f32, 1.0], &Device::Cpu)?, 1e-6);
    /// let residual = Tensor::new(&[[1.0_f32, 2.0]], &Device::Cpu)?;
    /// let x = Tensor::new(&[[2.0_f32, 2.0]], &Device::Cpu)?;
    /// let (y, residual) = norm.forward_residual(&x, &residual)?;
    /// assert_eq!(residual.to_vec2::<f32>()?, [[3.0, 4.0]]);
    /// assert!((y.to_vec2::<f32>()?[0][1] - 4.0 / 12.5_f32.sqrt()).abs() < 1e-6);
    /// # Result::Ok(())
    /// ```
    ///
    /// # Errors
    /// As of [`forward`](Module::forward); and where `x` and `residual` differ in shape or type.
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        norm_of_sum(self.layer(x)?, x, residual, self.affine())
    }

    fn layer(&self, x: &Tensor) -> Result<Layer> {
        layer(x, self.remove_mean, self.eps)
    }

    fn affine(&self) -> Affine<'_> {
        match &self.bias {
            Some(bias) => Affine::WeightAndBias(&self.weight, bias),
            None => Affine::Weight(&self.weight),
        }
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        norm(self.layer(x)?, x, self.affine())
    }
}

/// The layer over the last axis of `x`.
pub(crate) fn layer(x: &Tensor, remove_mean: bool, eps: f64) -> Result<Layer> {
    let shape = [x.dim(D::Minus1)?];
    if remove_mean {
        let layer = warpnorm::LayerNorm::new(shape).and_then(|layer| layer.eps(eps));
        layer.map(Layer::LayerNorm).map_err(refused)
    } else {
        warpnorm::RmsNorm::new(shape, eps).map(Layer::RmsNorm).map_err(refused)
    }
}

/// A layer of the variables `weight` and `bias`, or, where there are such, `gamma` and `beta`.
///
/// # Errors
/// If they are not there, or not of this size.
pub fn layer_norm<C: Into<LayerNormConfig>>(size: usize, config: C, vb: VarBuilder) -> Result<LayerNorm> {
    let LayerNormConfig { eps, remove_mean, affine } = config.into();
    let get = |[name, alias]: [&str; 2], init| {
        let is_aliased = !vb.contains_tensor(name) && vb.contains_tensor(alias);
        vb.get_with_hints(size, if is_aliased { alias } else { name }, Init::Const(init))
    };
    let weight = get(["weight", "gamma"], 1.0)?;
    let bias = if affine { Some(get(["bias", "beta"], 0.0)?) } else { None };
    Ok(LayerNorm { weight, bias, remove_mean, eps })
}

/// As [`layer_norm`], without a bias.
///
/// # Errors
/// As of [`layer_norm`].
pub fn layer_norm_no_bias(size: usize, eps: f64, vb: VarBuilder) -> Result<LayerNorm> {
    layer_norm(size, LayerNormConfig { eps, remove_mean: true, affine: false }, vb)
}

/// `y = x / sqrt(mean(x²) + eps) · weight` over the last axis: [`candle_nn::RmsNorm`] by one launch.
#[derive(Clone, Debug)]
pub struct RmsNorm(LayerNorm);

impl RmsNorm {
    /// The weight has the extent of the last axis.
    #[must_use]
    pub const fn new(weight: Tensor, eps: f64) -> Self {
        Self(LayerNorm::rms_norm(weight, eps))
    }

    /// The same as a [`LayerNorm`] that does not subtract the mean.
    #[must_use]
    pub fn into_inner(self) -> LayerNorm {
        self.0
    }

    /// The weight.
    #[must_use]
    pub const fn weight(&self) -> &Tensor {
        self.0.weight()
    }

    /// What is added to the mean square.
    #[must_use]
    pub const fn eps(&self) -> f64 {
        self.0.eps()
    }

    /// [`candle_nn`]'s own chain of operations, through which gradients flow.
    ///
    /// # Errors
    /// As there.
    pub fn forward_diff(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::RmsNorm::new(self.weight().clone(), self.eps()).forward_diff(x)
    }

    /// As [`LayerNorm::forward_residual`].
    ///
    /// # Errors
    /// As there.
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        self.0.forward_residual(x, residual)
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}

/// A layer of the variable `weight`, or, where there is such, `gamma`.
///
/// # Errors
/// If it is not there, or not of this size.
pub fn rms_norm(size: usize, eps: f64, vb: VarBuilder) -> Result<RmsNorm> {
    Ok(RmsNorm(layer_norm(size, LayerNormConfig { eps, remove_mean: false, affine: false }, vb)?))
}
