//! Batch normalization.

use candle_core::{DType, Error, Result, Tensor, Var};
use candle_nn::{Init, ModuleT, VarBuilder};

pub use candle_nn::BatchNormConfig;

use crate::error::refused;
use crate::layer::Layer;
use crate::op::{Affine, Running, norm_by_batch, norm_by_running};

/// `y = (x - mean) / sqrt(var + eps) · weight + bias` for each channel: [`candle_nn::BatchNorm`], a chain of half a dozen
/// operations, by one launch.
///
/// The input is `[N, C, …]`, with any number of spatial axes. In evaluation mean and variance are the running ones. In
/// training they are those of the batch, and the running ones are moved towards them; on a GPU that takes one launch where a
/// channel fits the chip's shared memory, else two, and copies of the `2 C` statistics. Running statistics of another type than f32 are converted at each call.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    running_mean: Var,
    running_var: Var,
    weight_and_bias: Option<(Tensor, Tensor)>,
    remove_mean: bool,
    eps: f64,
    momentum: f64,
    layer: warpnorm::BatchNorm,
}

/// PyTorch's, and candle's.
const DEFAULT_MOMENTUM: f64 = 0.1;

impl BatchNorm {
    /// All tensors are `[num_features]`. The running statistics are copied, unless they are variables.
    ///
    /// # Errors
    /// If a tensor has another shape, or `eps` is negative or not finite.
    pub fn new(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: f64,
    ) -> Result<Self> {
        Self::new_with_momentum(num_features, running_mean, running_var, weight, bias, eps, DEFAULT_MOMENTUM)
    }

    /// A layer without weight and bias.
    ///
    /// # Errors
    /// As of [`new`](Self::new).
    pub fn new_no_bias(num_features: usize, running_mean: Tensor, running_var: Tensor, eps: f64) -> Result<Self> {
        Self::new_no_bias_with_momentum(num_features, running_mean, running_var, eps, DEFAULT_MOMENTUM)
    }

    /// `momentum` is the share of a batch in the new running statistics.
    ///
    /// # Errors
    /// As of [`new`](Self::new), and if `momentum` is no share.
    pub fn new_with_momentum(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: f64,
        momentum: f64,
    ) -> Result<Self> {
        let config = BatchNormConfig { eps, remove_mean: true, affine: true, momentum };
        Self::with(num_features, [&running_mean, &running_var], Some((weight, bias)), config)
    }

    /// As [`new_with_momentum`](Self::new_with_momentum), without weight and bias.
    ///
    /// # Errors
    /// As there.
    pub fn new_no_bias_with_momentum(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        eps: f64,
        momentum: f64,
    ) -> Result<Self> {
        let config = BatchNormConfig { eps, remove_mean: true, affine: false, momentum };
        Self::with(num_features, [&running_mean, &running_var], None, config)
    }

    fn with(
        num_features: usize,
        [running_mean, running_var]: [&Tensor; 2],
        weight_and_bias: Option<(Tensor, Tensor)>,
        BatchNormConfig { eps, remove_mean, momentum, .. }: BatchNormConfig,
    ) -> Result<Self> {
        let named = [("running mean", running_mean), ("running variance", running_var)];
        let affine = weight_and_bias.iter().flat_map(|(weight, bias)| [("weight", weight), ("bias", bias)]);
        for (name, tensor) in named.into_iter().chain(affine) {
            if tensor.dims() != [num_features] {
                let msg = format!("unexpected shape of batch-norm {name}");
                let (expected, got) = (num_features.into(), tensor.shape().clone());
                return Err(Error::UnexpectedShape { msg, expected, got }.bt());
            }
        }
        let layer = warpnorm::BatchNorm::new(num_features).and_then(|layer| layer.eps(eps)?.momentum(Some(momentum)));
        let (running_mean, running_var) = (Var::from_tensor(running_mean)?, Var::from_tensor(running_var)?);
        let layer = layer.map_err(refused)?;
        Ok(Self { running_mean, running_var, weight_and_bias, remove_mean, eps, momentum, layer })
    }

    /// The running mean.
    #[must_use]
    pub fn running_mean(&self) -> &Tensor {
        self.running_mean.as_tensor()
    }

    /// The running variance.
    #[must_use]
    pub fn running_var(&self) -> &Tensor {
        self.running_var.as_tensor()
    }

    /// What is added to the variance.
    #[must_use]
    pub const fn eps(&self) -> f64 {
        self.eps
    }

    /// Weight and bias.
    #[must_use]
    pub fn weight_and_bias(&self) -> Option<(&Tensor, &Tensor)> {
        self.weight_and_bias.as_ref().map(|(weight, bias)| (weight, bias))
    }

    /// The share of a batch in the new running statistics.
    #[must_use]
    pub const fn momentum(&self) -> f64 {
        self.momentum
    }

    /// By the statistics of the batch, which move the running ones: the mean, and the unbiased variance.
    ///
    /// # Errors
    /// As of [`forward_t`](ModuleT::forward_t); for a batch of one value a channel, which has no variance; and for a layer
    /// that was configured without `remove_mean`.
    pub fn forward_train(&self, x: &Tensor) -> Result<Tensor> {
        if !self.remove_mean {
            candle_core::bail!("batch-norm by the statistics of the batch subtracts their mean: remove_mean is false")
        }
        let layer = Layer::BatchNorm(self.layer.batch_statistics(true));
        let (y, Running { mean, var }) = norm_by_batch(layer, x, self.running()?, self.affine())?;
        self.running_mean.set(&mean.to_dtype(self.running_mean.dtype())?)?;
        self.running_var.set(&var.to_dtype(self.running_var.dtype())?)?;
        Ok(y)
    }

    fn running(&self) -> Result<Running> {
        let [mean, var] =
            [&self.running_mean, &self.running_var].map(|var| var.as_detached_tensor().to_dtype(DType::F32));
        Ok(Running { mean: mean?, var: var? })
    }

    const fn affine(&self) -> Affine<'_> {
        match &self.weight_and_bias {
            Some((weight, bias)) => Affine::WeightAndBias(weight, bias),
            None => Affine::None,
        }
    }
}

impl ModuleT for BatchNorm {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if train {
            self.forward_train(x)
        } else {
            norm_by_running(Layer::BatchNorm(self.layer), x, self.running()?, self.affine())
        }
    }
}

/// A layer of the variables `running_mean` and `running_var`, and, if it is affine, `weight` and `bias`.
///
/// # Errors
/// If they are not there, or not of this size; and as of [`BatchNorm::new_with_momentum`].
pub fn batch_norm<C: Into<BatchNormConfig>>(num_features: usize, config: C, vb: VarBuilder) -> Result<BatchNorm> {
    let config = config.into();
    let get = |name, init| vb.get_with_hints(num_features, name, Init::Const(init));
    let running = [get("running_mean", 0.0)?, get("running_var", 1.0)?];
    let weight_and_bias = if config.affine { Some((get("weight", 1.0)?, get("bias", 0.0)?)) } else { None };
    BatchNorm::with(num_features, running.each_ref(), weight_and_bias, config)
}
