use super::{
    Activation, DEFAULT_EPS, Layer, checked_eps, coefficient, entry_points, eps, forward, image_axes, output_type,
    prepare_raw, refuse_conversion, refuse_row_strides, with_activation,
};
use crate::args::Args;
use crate::backend::Backend;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::problem::{BatchStatistics, ChannelTable, Constants, Pointwise, Problem};
use crate::raw;
use crate::shape::{Layout, Shape};
use crate::signature::Signature;

/// Batch normalization (Ioffe and Szegedy, 2015): at inference by running statistics,
///
/// `y = weight[c] · (x − running_mean[c]) / sqrt(running_var[c] + eps) + bias[c]`
///
/// and, with [`batch_statistics`](Self::batch_statistics), by those of the batch.
///
/// The tensor is `[N, C, spatial…]` or, with [`Layout::Nhwc`], `[N, spatial…, C]`, with 0 to 3 spatial axes. Running
/// statistics are `[C]` in f32; weight and bias are `[C]`; each may be absent. One launch on a GPU.
///
/// Where the layer follows a convolution, [`fold`](crate::fold) makes it disappear. Where it cannot be folded, its
/// constants can be computed once, by [`channel_table`](Self::channel_table), and used by every call.
///
/// ```
/// use warpnorm::{Args, BatchNorm, Cpu};
///
/// let layer = BatchNorm::new(2)?;
/// let (mean, var) = ([1.0_f32, -1.0], [4.0_f32, 0.25]);
/// let mut table = [0.0_f32; 6];
/// layer.channel_table(Args::new(&Cpu, [2]).running_mean(&mean).running_var(&var).output(&mut table))?;
///
/// let mut x = [3.0_f32, 0.0];
/// layer.forward(Args::new(&Cpu, [1, 2]).channel_table(&table).output(&mut x))?;
/// assert!((x[0] - 1.0).abs() < 1e-4 && (x[1] - 2.0).abs() < 1e-4);
/// # Ok::<(), warpnorm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNorm {
    num_features: usize,
    layout: Layout,
    eps: f32,
    activation: Activation,
    batch_statistics: bool,
    momentum: Option<f32>,
}

/// PyTorch's default.
const DEFAULT_MOMENTUM: f32 = 0.1;

impl BatchNorm {
    /// A layer over `num_features` channels in NCHW, with PyTorch's `eps` of 1e-5.
    ///
    /// # Errors
    /// None today; a `Result` as of every other layer.
    pub fn new(num_features: usize) -> Result<Self> {
        let eps = checked_eps(DEFAULT_EPS)?;
        Ok(Self {
            num_features,
            layout: Layout::Nchw,
            eps,
            activation: Activation::None,
            batch_statistics: false,
            momentum: Some(DEFAULT_MOMENTUM),
        })
    }

    /// Where the channels lie.
    #[must_use]
    pub const fn layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// Whether mean and variance are those of the batch, over N and the spatial axes, and the running statistics are moved
    /// towards them: what PyTorch does in training, and what estimates the running statistics anew for a model whose data
    /// has shifted since.
    ///
    /// A call then takes running statistics, if at all, by
    /// [`update_running_statistics`](crate::Args::update_running_statistics), and counts itself in
    /// [`num_batches_tracked`](crate::Args::num_batches_tracked), if that is given. It normalizes by the biased variance;
    /// the running variance moves towards the unbiased one. A batch of one value a channel is an error. On a GPU, what does
    /// not fit into a cluster's shared memory takes two launches and a [`Workspace`](crate::Workspace).
    ///
    /// ```
    /// use warpnorm::{Args, BatchNorm, Cpu};
    ///
    /// // Running statistics over a stream of batches: their average, whatever they were before.
    /// let layer = BatchNorm::new(2)?.batch_statistics(true).momentum(None)?;
    /// let (mut mean, mut var, mut batches) = ([0.0_f32; 2], [1.0_f32; 2], [0_i64]);
    /// for batch in [[1.0_f32, 5.0, 3.0, 5.0], [2.0, 6.0, 4.0, 8.0]] {
    ///     let mut y = [0.0_f32; 4];
    ///     let args = Args::new(&Cpu, [2, 2]).input(&batch).output(&mut y);
    ///     layer.forward(args.update_running_statistics(&mut mean, &mut var).num_batches_tracked(&mut batches))?;
    /// }
    /// assert_eq!((mean, var, batches), ([2.5, 6.0], [2.0, 1.0], [2]));
    /// # Ok::<(), warpnorm::Error>(())
    /// ```
    #[must_use]
    pub const fn batch_statistics(self, batch_statistics: bool) -> Self {
        Self { batch_statistics, ..self }
    }

    /// The share of a batch in the new running statistics, 0.1 by default. `None`: an average over all batches, each as much
    /// as any other, for which a call needs their number.
    ///
    /// # Errors
    /// [`Error::Momentum`] if it is no share.
    pub fn momentum(self, momentum: Option<f64>) -> Result<Self> {
        if let Some(found) = momentum.filter(|momentum| !(0.0..=1.0).contains(momentum)) {
            return Err(Error::Momentum { found });
        }
        Ok(Self { momentum: momentum.map(|momentum| momentum as f32), ..self })
    }

    /// The shape of weight, bias and running statistics: `[C]`.
    #[must_use]
    pub fn weight_shape(&self) -> Shape {
        [self.num_features].into()
    }

    /// The shape of the table that [`channel_table`](Self::channel_table) makes: `[3, C]`, f32.
    #[must_use]
    pub fn channel_table_shape(&self) -> Shape {
        [3, self.num_features].into()
    }

    /// Computes each channel's constants once: mean, `weight / sqrt(running_var + eps)` and bias.
    ///
    /// The arguments are the shape `[C]`, the running statistics, weight and bias if there are any, and the table as
    /// output. Three constants and not the two of `a·x + b`: there `b = bias − mean·a` cancels against `a·x`, and loses
    /// as many digits as the mean has above the deviation.
    ///
    /// # Errors
    /// As of [`forward`](Self::forward).
    pub fn channel_table<B: Backend>(&self, args: Args<'_, B>) -> Result<()> {
        forward(&TableOf(*self), &args)
    }

    /// Makes all decisions of [`channel_table`](Self::channel_table) for the [raw layer](crate::raw). The signature has the
    /// shape `[C]`, f32, and the types of weight and bias; the table is the call's output.
    ///
    /// # Errors
    /// As of [`channel_table`](Self::channel_table), for what the signature says.
    pub fn prepare_channel_table_raw(&self, on: &raw::Device, signature: &Signature) -> Result<raw::Call> {
        prepare_raw(&TableOf(*self), on, signature)
    }
}

eps!(BatchNorm);
with_activation!(BatchNorm);
entry_points!(BatchNorm);

impl Layer for BatchNorm {
    const NAME: &'static str = "BatchNorm";

    fn problem(&self, signature: &Signature) -> Result<Problem> {
        if self.batch_statistics {
            return self.batch(signature);
        }
        let map = channel_map(Self::NAME, signature, self.num_features, self.layout, self.eps, self.activation)?;
        Ok(Problem::Pointwise(map))
    }
}

impl BatchNorm {
    fn batch(&self, signature: &Signature) -> Result<Problem> {
        refuse_row_strides(Self::NAME, signature)?;
        let (samples, spatial) = image_axes(Self::NAME, &signature.shape, self.num_features, self.layout)?;
        if self.num_features > 0 && samples == 1 && spatial == 1 {
            return Err(Error::OneValue { layer: Self::NAME, found: signature.shape });
        }
        Ok(Problem::BatchStatistics(BatchStatistics {
            dtype: signature.dtype,
            output: output_type(Self::NAME, signature)?,
            samples,
            spatial,
            channels: self.num_features,
            layout: self.layout,
            is_plain: signature.takes_plain_input(),
            weight: coefficient("weight", signature.weight, signature.dtype)?,
            bias: coefficient("bias", signature.bias, signature.dtype)?,
            eps: self.eps,
            activation: self.activation,
            momentum: self.momentum,
        }))
    }
}

/// The making of a layer's table, as a layer.
struct TableOf(BatchNorm);

impl Layer for TableOf {
    const NAME: &'static str = "BatchNorm::channel_table";

    fn problem(&self, signature: &Signature) -> Result<Problem> {
        let channels = self.0.num_features;
        if signature.shape.extents() != [channels] {
            let expected = self.0.weight_shape().to_string();
            return Err(Error::Shape { layer: Self::NAME, found: signature.shape, expected });
        }
        refuse_row_strides(Self::NAME, signature)?;
        refuse_conversion(Self::NAME, signature)?;
        let (weight, bias) = (signature.weight, signature.bias);
        let dtype = [weight, bias].into_iter().flatten().find(|&dtype| dtype != DType::F32).unwrap_or(DType::F32);
        if let Some(found) = bias.filter(|&bias| bias != DType::F32 && bias != dtype) {
            let expected = "the weight's type or f32";
            return Err(Error::ElementType { argument: "bias", found, expected });
        }
        channels.checked_mul(3).ok_or(Error::ShapeOverflow { shape: signature.shape })?;
        Ok(Problem::ChannelTable(ChannelTable { dtype, channels, weight, bias, eps: self.0.eps }))
    }
}

/// An affine map of each channel by running statistics, or by the table made of them.
pub(super) fn channel_map(
    layer: &'static str,
    signature: &Signature,
    channels: usize,
    layout: Layout,
    eps: f32,
    activation: Activation,
) -> Result<Pointwise> {
    refuse_row_strides(layer, signature)?;
    let (_, spatial) = image_axes(layer, &signature.shape, channels, layout)?;
    let constants = if signature.channel_table {
        channels.checked_mul(3).ok_or(Error::ShapeOverflow { shape: signature.shape })?;
        Constants::Table
    } else {
        let weight = coefficient("weight", signature.weight, signature.dtype)?;
        let bias = coefficient("bias", signature.bias, signature.dtype)?;
        Constants::Statistics { weight, bias, eps }
    };
    Ok(Pointwise {
        dtype: signature.dtype,
        output: output_type(layer, signature)?,
        length: signature.shape.elements()?,
        channels,
        spatial: match layout {
            Layout::Nchw => spatial,
            Layout::Nhwc => 1,
        },
        constants,
        activation,
    })
}
