use super::{
    Activation, DEFAULT_EPS, Layer, Rounding, checked_eps, coefficient, entry_points, eps, image_axes, modulation,
    output_type, refuse_row_strides, with_activation,
};
use crate::error::{Error, Result};
use crate::problem::{Affine, ChannelsLast, Modulation, Moments, Output, Problem, Rows};
use crate::shape::{Layout, Shape};
use crate::signature::Signature;

/// Group normalization (Wu and He, 2018): the moments of each sample run over the spatial axes and the channels of
/// a group.
///
/// `y = weight[c] · (x − mean(group)) / sqrt(var(group) + eps) + bias[c]`
///
/// The tensor is `[N, C, spatial…]` or, with [`Layout::Nhwc`], `[N, spatial…, C]`, with 0 to 3 spatial axes; weight and bias
/// are `[C]`; each may be absent. The variance is the biased one. In NHWC a sample that does not fit into a
/// cluster's shared memory takes a GPU two launches and a [`Workspace`](crate::Workspace).
///
/// ```
/// use warpnorm::{Args, Cpu, GroupNorm};
///
/// let (n, c, h, w) = (2, 6, 5, 5);
/// let x: Vec<f32> = (0..n * c * h * w).map(|i| (i % 17) as f32).collect();
/// let mut y = vec![0.0_f32; x.len()];
/// GroupNorm::new(3, c)?.forward(Args::new(&Cpu, [n, c, h, w]).input(&x).output(&mut y))?;
/// # Ok::<(), warpnorm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    num_groups: usize,
    num_channels: usize,
    layout: Layout,
    eps: f32,
    scale_plus_one: bool,
    activation: Activation,
}

impl GroupNorm {
    /// A layer of `num_groups` groups of `num_channels / num_groups` channels, with PyTorch's `eps` of 1e-5.
    ///
    /// # Errors
    /// [`Error::Empty`] for no groups, [`Error::Groups`] if they do not divide the channels.
    pub fn new(num_groups: usize, num_channels: usize) -> Result<Self> {
        if num_groups == 0 {
            return Err(Error::Empty { layer: Self::NAME, parameter: "num_groups" });
        }
        if !num_channels.is_multiple_of(num_groups) {
            return Err(Error::Groups { num_channels, num_groups });
        }
        let eps = checked_eps(DEFAULT_EPS)?;
        let (layout, activation) = (Layout::Nchw, Activation::None);
        Ok(Self { num_groups, num_channels, layout, eps, scale_plus_one: false, activation })
    }

    /// Whether the [`scale`](crate::Args::scale) of a sample is stored as an offset from 1, as diffusion models have it.
    #[must_use]
    pub const fn scale_plus_one(self, scale_plus_one: bool) -> Self {
        Self { scale_plus_one, ..self }
    }

    /// Where the channels lie.
    #[must_use]
    pub const fn layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// The shape of weight and bias: `[C]`.
    #[must_use]
    pub fn weight_shape(&self) -> Shape {
        [self.num_channels].into()
    }
}

eps!(GroupNorm);
with_activation!(GroupNorm);
entry_points!(GroupNorm);

impl Layer for GroupNorm {
    const NAME: &'static str = "GroupNorm";

    fn problem(&self, signature: &Signature) -> Result<Problem> {
        let Self { num_groups, num_channels, layout, eps, scale_plus_one, activation } = *self;
        groups(Self::NAME, signature, [num_groups, num_channels], layout, scale_plus_one, eps, activation)
    }
}

/// Groups of channels, in either layout.
pub(super) fn groups(
    layer: &'static str,
    signature: &Signature,
    [groups, channels]: [usize; 2],
    layout: Layout,
    scale_plus_one: bool,
    eps: f32,
    activation: Activation,
) -> Result<Problem> {
    let modulation = modulation(layer, signature, scale_plus_one)?;
    if layout == Layout::Nhwc {
        refuse_row_strides(layer, signature)?;
        let (samples, spatial) = image_axes(layer, &signature.shape, channels, layout)?;
        // Without spatial axes both layouts are the same memory.
        if spatial != 1 {
            return Ok(Problem::ChannelsLast(ChannelsLast {
                dtype: signature.dtype,
                output: output_type(layer, signature)?,
                samples,
                spatial,
                channels,
                groups,
                is_plain: signature.takes_plain_input(),
                weight: coefficient("weight", signature.weight, signature.dtype)?,
                bias: coefficient("bias", signature.bias, signature.dtype)?,
                modulation,
                eps,
                activation,
            }));
        }
    }
    let rows = group_rows(layer, signature, groups, channels, layout)?;
    Ok(Problem::Rows(Rows { modulation, eps, activation, ..rows }))
}

/// In NCHW a group of channels is one contiguous stretch: a row for each sample and group.
fn group_rows(
    layer: &'static str,
    signature: &Signature,
    groups: usize,
    channels: usize,
    layout: Layout,
) -> Result<Rows> {
    refuse_row_strides(layer, signature)?;
    let (batch, spatial) = image_axes(layer, &signature.shape, channels, layout)?;
    let overflow = || Error::ShapeOverflow { shape: signature.shape };
    let channels_per_group = channels / groups;
    let length = channels_per_group.checked_mul(spatial).ok_or_else(overflow)?;
    // A single group without spatial axes is a row of LayerNorm, to the last bit; what that has besides, this has not.
    let has_foreign = signature.channel_bias.is_some() || signature.input_bias.is_some() || signature.gate.is_some();
    let affine = if groups == 1 && spatial == 1 && !has_foreign {
        Affine::PerElement { rows_of_sample: 1 }
    } else {
        Affine::PerChannel { groups, channels_per_group, spatial }
    };
    Ok(Rows {
        dtype: signature.dtype,
        output: Output::Element(output_type(layer, signature)?),
        rows: batch.checked_mul(groups).ok_or_else(overflow)?,
        length,
        moments: Moments::MeanAndVariance,
        is_plain: signature.takes_plain_input(),
        residual: signature.residual,
        second_residual: signature.second_residual,
        affine,
        weight: coefficient("weight", signature.weight, signature.dtype)?,
        bias: coefficient("bias", signature.bias, signature.dtype)?,
        weight_plus_one: false,
        post_norm: None,
        rounding: Rounding::Once,
        modulation: Modulation::default(),
        input_bias: None,
        eps: 0.0,
        activation: Activation::None,
        x_stride: length,
        residual_stride: length,
        second_residual_stride: length,
        sum_stride: length,
        y_stride: length,
    })
}
