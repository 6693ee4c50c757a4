use super::layer_norm::{row_length, trailing_rows};
use super::{Activation, Layer, Rounding, checked_eps, entry_points, modulation, of_rows, post_norm, with_activation};
use crate::error::{Error, Result};
use crate::problem::{Moments, Problem, Rows};
use crate::shape::Shape;
use crate::signature::Signature;

/// Root mean square normalization (Zhang and Sennrich, 2019) over the trailing axes of each sample:
///
/// `y = weight · x / sqrt(mean(x²) + eps) + bias`
///
/// Weight and bias have the shape `normalized_shape`; each may be absent. Squares are taken in f32: beyond magnitudes of
/// 1.8e19 they overflow, and the row becomes zero, as in PyTorch.
///
/// ```
/// use warpnorm::{Args, Cpu, RmsNorm};
///
/// // Gemma stores the weight as an offset from 1.
/// let layer = RmsNorm::new([2], 1e-6)?.weight_plus_one(true);
/// let mut y = [0.0_f32; 2];
/// layer.forward(Args::new(&Cpu, [1, 2]).input(&[3.0_f32, 4.0]).weight(&[0.0_f32, 1.0]).output(&mut y))?;
/// assert!((y[1] - 2.0 * 4.0 / 12.5_f32.sqrt()).abs() < 1e-6);
/// # Ok::<(), warpnorm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsNorm {
    normalized_shape: Shape,
    length: usize,
    eps: f32,
    weight_plus_one: bool,
    scale_plus_one: bool,
    post_norm: bool,
    rounding: Rounding,
    activation: Activation,
}

impl RmsNorm {
    /// A layer over these trailing axes. `eps` has no default: models differ (1e-5 and 1e-6 are both common), and a wrong
    /// one is silent.
    ///
    /// # Errors
    /// [`Error::Empty`] for no axes, [`Error::ShapeOverflow`] beyond the address space, [`Error::Eps`] if `eps` is
    /// negative or not finite.
    pub fn new(normalized_shape: impl Into<Shape>, eps: f64) -> Result<Self> {
        let normalized_shape = normalized_shape.into();
        let length = row_length(Self::NAME, &normalized_shape)?;
        Ok(Self {
            normalized_shape,
            length,
            eps: checked_eps(eps)?,
            weight_plus_one: false,
            scale_plus_one: false,
            post_norm: false,
            rounding: Rounding::Once,
            activation: Activation::None,
        })
    }

    /// Whether the stored weight is an offset from 1, as in Gemma; that of a [`post_norm`](Self::post_norm) too.
    #[must_use]
    pub const fn weight_plus_one(self, weight_plus_one: bool) -> Self {
        Self { weight_plus_one, ..self }
    }

    /// The shape of weight and bias: the `normalized_shape`.
    #[must_use]
    pub const fn weight_shape(&self) -> Shape {
        self.normalized_shape
    }
}

of_rows!(RmsNorm);
with_activation!(RmsNorm);
entry_points!(RmsNorm);

impl Layer for RmsNorm {
    const NAME: &'static str = "RMSNorm";

    fn problem(&self, signature: &Signature) -> Result<Problem> {
        if self.weight_plus_one && signature.weight.is_none() {
            return Err(Error::Missing { layer: Self::NAME, argument: "weight" });
        }
        let rows = trailing_rows(Self::NAME, signature, &self.normalized_shape, self.length)?;
        Ok(Problem::Rows(Rows {
            moments: Moments::MeanSquare,
            weight_plus_one: self.weight_plus_one,
            post_norm: post_norm(Self::NAME, signature, self.post_norm, self.weight_plus_one)?,
            rounding: self.rounding,
            modulation: modulation(Self::NAME, signature, self.scale_plus_one)?,
            eps: self.eps,
            activation: self.activation,
            ..rows
        }))
    }
}
