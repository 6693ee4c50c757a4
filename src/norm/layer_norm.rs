use super::{
    Activation, DEFAULT_EPS, Layer, Rounding, checked_eps, coefficient, entry_points, eps, modulation, of_rows,
    output_type, post_norm, with_activation,
};
use crate::error::{Error, Result};
use crate::problem::{Affine, Moments, Output, Problem, Rows};
use crate::shape::Shape;
use crate::signature::Signature;

/// Layer normalization (Ba, Kiros and Hinton, 2016) over the trailing axes of each sample:
///
/// `y = weight · (x − mean(x)) / sqrt(var(x) + eps) + bias`
///
/// Weight and bias have the shape `normalized_shape`; each may be absent. The variance is the biased one, as in PyTorch.
/// A row of equal elements gives exactly `bias` if `eps > 0`, and NaN if `eps` is 0.
///
/// ```
/// use warpnorm::{Activation, Args, Cpu, LayerNorm};
///
/// let layer = LayerNorm::new([4])?.eps(1e-6)?.activation(Activation::Silu);
/// let mut x = [1.0_f32, -2.0, 3.0, 0.5];
/// let mut y = [warpnorm::half::bf16::ZERO; 4];
/// layer.forward(Args::new(&Cpu, [1, 4]).input(&x).output(&mut y))?; // rounded once, to the output's type
/// layer.forward(Args::new(&Cpu, [1, 4]).output(&mut x))?; // in place
/// # Ok::<(), warpnorm::Error>(())
/// ```
///
/// The middle of a block of a diffusion transformer (Peebles and Xie, 2023), two samples of three tokens: what attention has
/// found is gated into the residual stream, which is normalized without weight and bias, then scaled and shifted.
///
/// ```
/// use warpnorm::{Args, Cpu, LayerNorm};
///
/// let attention = [0.5_f32; 2 * 3 * 4];
/// let mut stream: Vec<f32> = (0..24).map(|i| (i % 5) as f32).collect();
/// let (gate, scale, shift) = ([0.1_f32; 8], [0.2_f32; 8], [0.3_f32; 8]); // one of each for a sample and channel
/// let mut y = [0.0_f32; 24];
/// LayerNorm::new([4])?.scale_plus_one(true).forward(
///     Args::new(&Cpu, [2, 3, 4])
///         .input(&attention)
///         .gate(&gate)
///         .sum_in_residual(&mut stream)
///         .scale(&scale)
///         .shift(&shift)
///         .output(&mut y),
/// )?;
/// assert_eq!(stream[1], 1.0 + 0.5 * 0.1);
/// # Ok::<(), warpnorm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNorm {
    normalized_shape: Shape,
    length: usize,
    eps: f32,
    scale_plus_one: bool,
    post_norm: bool,
    rounding: Rounding,
    activation: Activation,
}

impl LayerNorm {
    /// A layer over these trailing axes, with PyTorch's `eps` of 1e-5.
    ///
    /// # Errors
    /// [`Error::Empty`] for no axes, [`Error::ShapeOverflow`] beyond the address space.
    pub fn new(normalized_shape: impl Into<Shape>) -> Result<Self> {
        let normalized_shape = normalized_shape.into();
        let length = row_length(Self::NAME, &normalized_shape)?;
        Ok(Self {
            normalized_shape,
            length,
            eps: checked_eps(DEFAULT_EPS)?,
            scale_plus_one: false,
            post_norm: false,
            rounding: Rounding::Once,
            activation: Activation::None,
        })
    }

    /// The shape of weight and bias: the `normalized_shape`.
    #[must_use]
    pub const fn weight_shape(&self) -> Shape {
        self.normalized_shape
    }
}

eps!(LayerNorm);
of_rows!(LayerNorm);
with_activation!(LayerNorm);
entry_points!(LayerNorm);

impl Layer for LayerNorm {
    const NAME: &'static str = "LayerNorm";

    fn problem(&self, signature: &Signature) -> Result<Problem> {
        let rows = trailing_rows(Self::NAME, signature, &self.normalized_shape, self.length)?;
        let modulation = modulation(Self::NAME, signature, self.scale_plus_one)?;
        let post_norm = post_norm(Self::NAME, signature, self.post_norm, false)?;
        let (eps, rounding, activation) = (self.eps, self.rounding, self.activation);
        Ok(Problem::Rows(Rows { post_norm, rounding, modulation, eps, activation, ..rows }))
    }
}

pub(super) fn row_length(layer: &'static str, normalized_shape: &Shape) -> Result<usize> {
    if normalized_shape.rank() == 0 {
        return Err(Error::Empty { layer, parameter: "normalized_shape" });
    }
    normalized_shape.elements()
}

/// The rows of a layer over trailing axes: `normalized_shape` ends the tensor's shape.
pub(super) fn trailing_rows(
    layer: &'static str,
    signature: &Signature,
    normalized_shape: &Shape,
    length: usize,
) -> Result<Rows> {
    let shape = signature.shape;
    let leading = shape.extents().strip_suffix(normalized_shape.extents()).ok_or_else(|| Error::Shape {
        layer,
        found: shape,
        expected: format!("one that ends in {normalized_shape}"),
    })?;
    shape.elements()?;
    let count = |axes| crate::shape::product(axes).ok_or(Error::ShapeOverflow { shape });
    let rows = count(leading)?;
    // What differs from sample to sample goes by the first axis; without one, all is one sample.
    let rows_of_sample = count(leading.get(1..).unwrap_or_default())?;
    let strides = signature.strides();
    let output = match signature.output {
        Output::Element(_) => Output::Element(output_type(layer, signature)?),
        Output::Quantized(..) if signature.is_in_place() => return Err(Error::Missing { layer, argument: "input" }),
        quantized => quantized,
    };
    Ok(Rows {
        dtype: signature.dtype,
        output,
        rows,
        length,
        moments: Moments::MeanAndVariance,
        is_plain: signature.takes_plain_input(),
        residual: signature.residual,
        second_residual: signature.second_residual,
        affine: Affine::PerElement { rows_of_sample },
        weight: coefficient("weight", signature.weight, signature.dtype)?,
        bias: coefficient("bias", signature.bias, signature.dtype)?,
        weight_plus_one: false,
        post_norm: None,
        rounding: Rounding::Once,
        modulation: Default::default(),
        input_bias: coefficient("input_bias", signature.input_bias, signature.dtype)?,
        eps: 0.0,
        activation: Activation::None,
        x_stride: strides.input.unwrap_or(length),
        residual_stride: strides.residual.unwrap_or(length),
        second_residual_stride: strides.second_residual.unwrap_or(length),
        sum_stride: strides.sum.unwrap_or(length),
        y_stride: strides.output.unwrap_or(length),
    })
}
