//! warpnorm's layers, and how they see candle's tensors.

use candle_core::{Error, Layout, Result, Tensor};
use warpnorm::{Signature, raw};

/// A layer, and so the axes that a tensor is seen by.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::enum_variant_names, reason = "they are called so")]
pub(crate) enum Layer {
    LayerNorm(warpnorm::LayerNorm),
    RmsNorm(warpnorm::RmsNorm),
    GroupNorm(warpnorm::GroupNorm),
    BatchNorm(warpnorm::BatchNorm),
}

impl Layer {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::LayerNorm(_) => "layer-norm",
            Self::RmsNorm(_) => "rms-norm",
            Self::GroupNorm(_) => "group-norm",
            Self::BatchNorm(_) => "batch-norm",
        }
    }

    /// Whether it normalizes rows, which may lie a stride apart.
    const fn has_rows(&self) -> bool {
        matches!(self, Self::LayerNorm(_) | Self::RmsNorm(_))
    }

    /// How many elements weight and bias have for a tensor of these extents; `None` if it has too few axes.
    pub(crate) fn coefficients(&self, dims: &[usize]) -> Option<usize> {
        if self.has_rows() { dims.last().copied() } else { dims.get(1).copied() }
    }

    /// The extents, with those axes made one that the layer does not tell apart: warpnorm's shapes have few.
    pub(crate) fn shape(&self, dims: &[usize]) -> Result<warpnorm::Shape> {
        let product = |dims: &[usize]| dims.iter().product::<usize>();
        match dims {
            [rows @ .., length] if self.has_rows() => Ok([product(rows), *length].into()),
            [samples, channels] => Ok([*samples, *channels].into()),
            [samples, channels, spatial @ ..] => Ok([*samples, *channels, product(spatial)].into()),
            _ => {
                let (expected, got) = (if self.has_rows() { 1 } else { 2 }, dims.len());
                Err(Error::UnexpectedNumberOfDims { expected, got, shape: dims.into() }.bt())
            }
        }
    }

    /// The tensor where it lies, if the layer can read it there, or a contiguous copy.
    pub(crate) fn readable(&self, x: &Tensor) -> Result<Tensor> {
        let is_readable = x.elem_count() == 0 || self.row_stride(x.layout()).is_some();
        if is_readable { Ok(x.clone()) } else { x.contiguous() }
    }

    /// Elements between the starts of a tensor's rows, if the layer has rows, and they are [regular](row_stride).
    pub(crate) fn row_stride(&self, layout: &Layout) -> Option<usize> {
        if self.has_rows() { row_stride(layout) } else { None }
    }

    pub(crate) fn prepare(&self, on: &raw::Device, signature: &Signature) -> warpnorm::Result<raw::Call> {
        match self {
            Self::LayerNorm(layer) => layer.prepare_raw(on, signature),
            Self::RmsNorm(layer) => layer.prepare_raw(on, signature),
            Self::GroupNorm(layer) => layer.prepare_raw(on, signature),
            Self::BatchNorm(layer) => layer.prepare_raw(on, signature),
        }
    }
}

/// Elements between the starts of rows, where rows are contiguous, do not overlap, and follow upon each other at one
/// distance through all leading axes.
fn row_stride(layout: &Layout) -> Option<usize> {
    let (&length, extents) = layout.dims().split_last()?;
    let (&step, strides) = layout.stride().split_last()?;
    if step != 1 && length > 1 {
        return None;
    }
    // The stride of an axis of one element is never used.
    let mut axes = extents.iter().zip(strides).rev().filter(|(extent, _)| **extent != 1);
    let Some((&extent, &stride)) = axes.next() else { return Some(length) };
    let mut next = extent * stride;
    for (&extent, &found) in axes {
        if found != next {
            return None;
        }
        next *= extent;
    }
    (stride >= length).then_some(stride)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Result, Tensor};

    use super::row_stride;

    #[test]
    fn rows_at_one_distance() -> Result<()> {
        let x = Tensor::zeros((4, 3, 8), DType::F32, &Device::Cpu)?;
        let stride = |x: &Tensor| row_stride(x.layout());
        assert_eq!(stride(&x), Some(8));
        assert_eq!(stride(&x.narrow(2, 3, 5)?), Some(8));
        assert_eq!(stride(&x.narrow(0, 1, 2)?), Some(8));
        // One row of each outer index, and one outer index: what is left has one distance again.
        assert_eq!(stride(&x.narrow(1, 2, 1)?), Some(24));
        assert_eq!(stride(&x.narrow(0, 3, 1)?.narrow(2, 0, 2)?), Some(8));
        assert_eq!(stride(&x.narrow(0, 3, 1)?.narrow(1, 0, 1)?.narrow(2, 0, 2)?), Some(2));
        assert_eq!(stride(&x.get(0)?.get(0)?), Some(8));
        // Two rows of each outer index: distances of 8 and 24.
        assert_eq!(stride(&x.narrow(1, 1, 2)?), None);
        assert_eq!(stride(&x.transpose(0, 1)?), None);
        assert_eq!(stride(&x.transpose(1, 2)?), None);
        // A column.
        assert_eq!(stride(&x.get(0)?.get_on_dim(1, 0)?), None);
        // One row again and again.
        assert_eq!(stride(&x.get(0)?.get(0)?.broadcast_as((3, 8))?), None);
        assert_eq!(stride(&Tensor::zeros((), DType::F32, &Device::Cpu)?), None);
        Ok(())
    }
}
