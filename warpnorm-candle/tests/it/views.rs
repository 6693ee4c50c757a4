//! Parts, transposed and repeated tensors: the same bits as of a contiguous copy.

use candle_core::{D, DType, Result, Tensor};

use crate::case::{Kind, ROWS, Tensors, ours};
use crate::place::everywhere;
use crate::tensors::{DTYPES, assert_same, normal};

/// `view` of a tensor of these extents, where it is and as a copy. `copies` says whether the module must copy it, which
/// candle's own kernels do.
fn check(kind: Kind, dims: &[usize], copies: bool, view: impl Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
    for dtype in DTYPES {
        let whole = normal(dims, dtype, 7)?;
        let part = view(&whole)?.force_contiguous()?;
        let tensors = Tensors { x: part.clone(), ..Tensors::new(kind, part.dims(), dtype, DType::F32)? };
        everywhere(|place| {
            if copies && !place.runs_candle() {
                return Ok(());
            }
            let tensors = tensors.to_device(place.device())?;
            let expected = ours::forward(kind, &tensors)?;
            let x = view(&whole.to_device(place.device())?)?;
            let found = ours::forward(kind, &Tensors { x, ..tensors })?;
            assert_same(&found, &expected, &format!("{kind:?} of part of {dims:?} in {dtype:?}"))
        })?;
    }
    Ok(())
}

#[test]
fn rows() -> Result<()> {
    for kind in ROWS {
        // Not from the beginning, and at odd addresses.
        check(kind, &[5, 33], false, |x| x.narrow(0, 1, 3))?;
        // A stride apart.
        check(kind, &[2, 3, 40], false, |x| x.narrow(2, 3, 33))?;
        check(kind, &[4, 3, 8], false, |x| x.narrow(1, 2, 1))?;
        check(kind, &[4, 3, 8], false, |x| x.get(1)?.get(2))?;
        // Without any one stride.
        check(kind, &[4, 3, 8], true, |x| x.narrow(1, 1, 2))?;
        check(kind, &[5, 4, 3], true, |x| x.transpose(1, 2))?;
        check(kind, &[5, 4, 3], true, |x| x.transpose(0, 1))?;
        check(kind, &[5, 4], true, |x| x.get_on_dim(1, 2))?;
        check(kind, &[3, 8], true, |x| x.narrow(0, 1, 1)?.broadcast_as((4, 8)))?;
        check(kind, &[3, 1], true, |x| x.broadcast_as((3, 8)))?;
    }
    Ok(())
}

#[test]
fn channels() -> Result<()> {
    for kind in [Kind::GroupNorm { groups: 2 }, Kind::BatchNorm, Kind::BatchNormNoBias] {
        check(kind, &[3, 4, 5], false, |x| x.narrow(0, 1, 2))?;
        check(kind, &[2, 6, 3, 5], true, |x| x.narrow(1, 1, 4))?;
        // NHWC, as a convolution of another library leaves it.
        check(kind, &[2, 3, 5, 4], true, |x| x.permute((0, 3, 1, 2)))?;
    }
    Ok(())
}

/// Weight and bias may be parts, too.
#[test]
fn coefficients() -> Result<()> {
    let (kind, dims) = (Kind::LayerNorm, [3, 7]);
    let tensors = Tensors::new(kind, &dims, DType::F32, DType::F32)?;
    let both = Tensor::cat(&[&tensors.weight, &tensors.bias], 0)?;
    let mixed = Tensor::stack(&[&tensors.weight, &tensors.bias], D::Minus1)?;
    everywhere(|place| {
        let on = tensors.to_device(place.device())?;
        let expected = ours::forward(kind, &on)?;
        let both = both.to_device(place.device())?;
        let parts = Tensors { weight: both.narrow(0, 0, 7)?, bias: both.narrow(0, 7, 7)?, ..on.clone() };
        assert_same(&ours::forward(kind, &parts)?, &expected, "parts")?;
        if !place.runs_candle() {
            return Ok(());
        }
        let mixed = mixed.to_device(place.device())?;
        let columns = Tensors { weight: mixed.get_on_dim(1, 0)?, bias: mixed.get_on_dim(1, 1)?, ..on };
        assert_same(&ours::forward(kind, &columns)?, &expected, "columns")
    })
}
