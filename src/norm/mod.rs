//! The layers: plain validated data that knows no device.

mod activation;
mod batch_norm;
mod group_norm;
mod instance_norm;
mod layer_norm;
mod qk_norm;
mod rms_norm;
mod rounding;

pub use activation::Activation;
pub use batch_norm::BatchNorm;
pub use group_norm::GroupNorm;
pub use instance_norm::InstanceNorm;
pub use layer_norm::LayerNorm;
pub use qk_norm::QkNorm;
pub use rms_norm::RmsNorm;
pub use rounding::Rounding;

use crate::args::Args;
use crate::backend::{Backend, Prepared};
use crate::check::check;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::problem::{Modulation, Output, PostNorm, Problem};
use crate::raw;
use crate::shape::{Layout, Shape};
use crate::signature::Signature;

/// PyTorch's default for every layer but `RMSNorm`, which has none there.
pub(crate) const DEFAULT_EPS: f64 = 1e-5;

/// A layer that can meet a shape.
pub(crate) trait Layer {
    const NAME: &'static str;

    /// What a call of this signature computes.
    fn problem(&self, signature: &Signature) -> Result<Problem>;
}

pub(crate) fn forward<L: Layer, B: Backend>(layer: &L, args: &Args<'_, B>) -> Result<()> {
    let problem = problem(layer, &args.tensors.signature(L::NAME)?)?;
    let buffers = check(L::NAME, &problem, &args.tensors)?;
    args.on.submit(&args.on.resolve(&problem)?, &buffers)
}

pub(crate) fn prepare<L: Layer, B: Backend>(layer: &L, on: &B, signature: &Signature) -> Result<Prepared<B>> {
    Prepared::new(L::NAME, on, *signature, problem(layer, signature)?)
}

pub(crate) fn prepare_raw<L: Layer>(layer: &L, on: &raw::Device, signature: &Signature) -> Result<raw::Call> {
    Ok(on.prepare(L::NAME, signature, problem(layer, signature)?))
}

fn problem<L: Layer>(layer: &L, signature: &Signature) -> Result<Problem> {
    refuse_strides_of_absent(L::NAME, signature)?;
    layer.problem(signature)
}

/// They would be ignored in silence otherwise.
fn refuse_strides_of_absent(layer: &'static str, signature: &Signature) -> Result<()> {
    let strides = signature.strides();
    let of_absent = [
        ("residual_row_stride", strides.residual, signature.residual),
        ("second_residual_row_stride", strides.second_residual, signature.second_residual),
        ("sum_row_stride", strides.sum, signature.sum),
        ("key_input_row_stride", strides.key_input, signature.key_output),
        ("key_output_row_stride", strides.key_output, signature.key_output),
    ];
    match of_absent.iter().find(|(_, stride, is_there)| stride.is_some() && !is_there) {
        Some((argument, ..)) => Err(Error::Unexpected { layer, argument, hint: ": there is no such tensor" }),
        None => Ok(()),
    }
}

/// The setter of `eps`, for the layers that have a default.
macro_rules! eps {
    ($layer:ty) => {
        impl $layer {
            /// Added to the variance, inside the root.
            ///
            /// # Errors
            /// [`Error::Eps`](crate::Error::Eps) if it is negative or not finite.
            pub fn eps(self, eps: f64) -> crate::Result<Self> {
                Ok(Self { eps: crate::norm::checked_eps(eps)?, ..self })
            }
        }
    };
}
pub(crate) use eps;

/// What layers over trailing axes have beside weight and bias.
macro_rules! of_rows {
    ($layer:ty) => {
        impl $layer {
            /// Whether the [`scale`](crate::Args::scale) of a sample is stored as an offset from 1, as diffusion transformers
            /// have it.
            #[must_use]
            pub const fn scale_plus_one(self, scale_plus_one: bool) -> Self {
                Self { scale_plus_one, ..self }
            }

            /// Whether the input has a norm of its own before the residual is added: the same over the same axes, with the
            /// same `eps`, and with [`post_norm_weight`](crate::Args::post_norm_weight) and
            /// [`post_norm_bias`](crate::Args::post_norm_bias). It is what stands between two blocks of a transformer that
            /// normalizes what a block gives before it adds it to the residual stream, as Gemma 2 and 3 do.
            #[must_use]
            pub const fn post_norm(self, post_norm: bool) -> Self {
                Self { post_norm, ..self }
            }

            /// Where results are rounded to the input's type on the way: by default nowhere before the last store.
            #[must_use]
            pub const fn rounding(self, rounding: crate::Rounding) -> Self {
                Self { rounding, ..self }
            }
        }
    };
}
pub(crate) use of_rows;

/// The setter of the activation behind a layer.
macro_rules! with_activation {
    ($layer:ty) => {
        impl $layer {
            /// Applied to the result, in the same pass over memory.
            #[must_use]
            pub const fn activation(self, activation: crate::Activation) -> Self {
                Self { activation, ..self }
            }
        }
    };
}
pub(crate) use with_activation;

/// What every layer has beside its parameters.
macro_rules! entry_points {
    ($layer:ty) => {
        impl $layer {
            /// Runs the layer on these buffers: on the caller's stream, without waiting for it, where they are a GPU's.
            ///
            /// # Errors
            /// Whatever [`Error`](crate::Error) says about the arguments, before anything is launched; or a failure of
            /// the driver.
            pub fn forward<B: crate::Backend>(&self, args: crate::Args<'_, B>) -> crate::Result<()> {
                crate::norm::forward(self, &args)
            }

            /// Makes all decisions of a call once, so that [`Prepared::forward`](crate::Prepared::forward) only checks
            /// addresses and launches.
            ///
            /// # Errors
            /// As [`forward`](Self::forward), for what the signature says.
            pub fn prepare<B: crate::Backend>(
                &self,
                on: &B,
                signature: &crate::Signature,
            ) -> crate::Result<crate::Prepared<B>> {
                crate::norm::prepare(self, on, signature)
            }

            /// As [`prepare`](Self::prepare), for the [raw layer](crate::raw).
            ///
            /// # Errors
            /// As [`forward`](Self::forward), for what the signature says.
            pub fn prepare_raw(
                &self,
                on: &crate::raw::Device,
                signature: &crate::Signature,
            ) -> crate::Result<crate::raw::Call> {
                crate::norm::prepare_raw(self, on, signature)
            }
        }
    };
}
pub(crate) use entry_points;

/// `eps` as the kernels take it.
pub(crate) fn checked_eps(eps: f64) -> Result<f32> {
    if eps.is_finite() && eps >= 0.0 && eps <= f64::from(f32::MAX) {
        Ok(eps as f32)
    } else {
        Err(Error::Eps { found: eps })
    }
}

/// The type of a weight or bias: the tensors', or f32.
pub(crate) fn coefficient(argument: &'static str, found: Option<DType>, tensors: DType) -> Result<Option<DType>> {
    match found {
        Some(dtype) if dtype != tensors && dtype != DType::F32 => {
            Err(Error::ElementType { argument, found: dtype, expected: "the input's type or f32" })
        }
        other => Ok(other),
    }
}

/// The input's own norm, if the layer has one.
pub(crate) fn post_norm(
    layer: &'static str,
    signature: &Signature,
    is_there: bool,
    weight_plus_one: bool,
) -> Result<Option<PostNorm>> {
    if !is_there {
        const HINT: &str = ": it has no post_norm";
        return match (signature.post_norm_weight, signature.post_norm_bias) {
            (None, None) => Ok(None),
            (Some(_), _) => Err(Error::Unexpected { layer, argument: "post_norm_weight", hint: HINT }),
            (None, Some(_)) => Err(Error::Unexpected { layer, argument: "post_norm_bias", hint: HINT }),
        };
    }
    if weight_plus_one && signature.post_norm_weight.is_none() {
        return Err(Error::Missing { layer, argument: "post_norm_weight" });
    }
    Ok(Some(PostNorm {
        weight: coefficient("post_norm_weight", signature.post_norm_weight, signature.dtype)?,
        bias: coefficient("post_norm_bias", signature.post_norm_bias, signature.dtype)?,
    }))
}

/// What a call has for each sample.
pub(crate) fn modulation(layer: &'static str, signature: &Signature, scale_plus_one: bool) -> Result<Modulation> {
    if scale_plus_one && signature.scale.is_none() {
        return Err(Error::Missing { layer, argument: "scale" });
    }
    let of_sample = |argument, found| coefficient(argument, found, signature.dtype);
    Ok(Modulation {
        scale: of_sample("scale", signature.scale)?,
        shift: of_sample("shift", signature.shift)?,
        channel_bias: of_sample("channel_bias", signature.channel_bias)?,
        gate: of_sample("gate", signature.gate)?,
        scale_plus_one,
    })
}

/// Batch, channels and spatial size of an image-like tensor: `[N, C, spatial…]` or `[N, spatial…, C]`, with 0 to 3
/// spatial axes.
pub(crate) fn image_axes(
    layer: &'static str,
    shape: &Shape,
    channels: usize,
    layout: Layout,
) -> Result<(usize, usize)> {
    let expected = || match layout {
        Layout::Nchw => format!("[N, {channels}] and up to 3 spatial axes behind"),
        Layout::Nhwc => format!("[N, {channels}] with up to 3 spatial axes between"),
    };
    let unfit = || Error::Shape { layer, found: *shape, expected: expected() };
    let (batch, found, spatial) = match (layout, shape.extents()) {
        (Layout::Nchw, [batch, found, spatial @ ..]) | (Layout::Nhwc, [batch, spatial @ .., found]) => {
            (*batch, *found, spatial)
        }
        _ => return Err(unfit()),
    };
    if spatial.len() > 3 || found != channels {
        return Err(unfit());
    }
    shape.elements()?;
    // With a batch or channels of zero, the spatial extents alone may exceed any address space.
    let spatial = crate::shape::product(spatial).ok_or(Error::ShapeOverflow { shape: *shape })?;
    Ok((batch, spatial))
}

/// The type of an output that is not quantized, which may be another than the input's; in place, one of its size.
pub(crate) fn output_type(layer: &'static str, signature: &Signature) -> Result<DType> {
    match signature.output {
        Output::Element(found) if signature.is_in_place() && found.size() != signature.dtype.size() => {
            let expected = "one of the input's size, in place";
            Err(Error::ElementType { argument: "output", found, expected })
        }
        Output::Element(found) => Ok(found),
        Output::Quantized(..) => {
            let hint = ": LayerNorm and RMSNorm have one";
            Err(Error::Unexpected { layer, argument: "quantized_output", hint })
        }
    }
}

/// An output of another type.
pub(crate) fn refuse_conversion(layer: &'static str, signature: &Signature) -> Result<()> {
    match output_type(layer, signature)? {
        found if found != signature.dtype => {
            Err(Error::ElementType { argument: "output", found, expected: signature.dtype.name() })
        }
        _ => Ok(()),
    }
}

/// Row strides belong to the layers over rows.
pub(crate) fn refuse_row_strides(layer: &'static str, signature: &Signature) -> Result<()> {
    let strides = signature.strides();
    let given = [
        ("input_row_stride", strides.input),
        ("residual_row_stride", strides.residual),
        ("second_residual_row_stride", strides.second_residual),
        ("sum_row_stride", strides.sum),
        ("output_row_stride", strides.output),
    ];
    match given.iter().find(|(_, stride)| stride.is_some()) {
        Some((argument, _)) => Err(Error::Unexpected { layer, argument, hint: ": its tensors are contiguous" }),
        None => Ok(()),
    }
}
