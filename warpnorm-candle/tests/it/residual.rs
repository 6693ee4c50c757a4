//! The norm of a sum, and the sum, at once.

use candle_core::{DType, Result, Tensor};
use warpnorm_candle::{LayerNorm, RmsNorm};

use crate::case::{EPS, Kind, Tensors, expected};
use crate::place::everywhere;
use crate::tensors::{DTYPES, assert_is, assert_same, normal, values};

fn forward(kind: Kind, tensors: &Tensors, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tensor)> {
    let Tensors { weight, bias, .. } = tensors.clone();
    match kind {
        Kind::LayerNorm => LayerNorm::new(weight, bias, EPS).forward_residual(x, residual),
        Kind::LayerNormNoBias => LayerNorm::new_no_bias(weight, EPS).forward_residual(x, residual),
        Kind::RmsNorm => RmsNorm::new(weight, EPS).forward_residual(x, residual),
        other => panic!("{other:?} takes no residual"),
    }
}

const KINDS: [Kind; 3] = [Kind::LayerNorm, Kind::LayerNormNoBias, Kind::RmsNorm];

/// The norm is of the sum in f32, and the sum is the one that candle's addition gives.
#[test]
fn the_norm_and_the_sum() -> Result<()> {
    for kind in KINDS {
        for dtype in DTYPES {
            for dims in [&[33][..], &[3, 100], &[2, 3, 64]] {
                let tensors = Tensors::new(kind, dims, dtype, dtype)?;
                let residual = normal(dims, dtype, 9)?;
                let exact = (tensors.x.to_dtype(DType::F32)? + residual.to_dtype(DType::F32)?)?;
                let expected = expected(kind, &values(&exact)?, dims, &tensors)?;
                let sum = (&tensors.x + &residual)?;
                everywhere(|place| {
                    let on = tensors.to_device(place.device())?;
                    let about = format!("{kind:?} of {dims:?} in {dtype:?}");
                    let (y, found) = forward(kind, &on, &on.x, &residual.to_device(place.device())?)?;
                    assert_same(&found, &sum, &about)?;
                    assert_is(&y, &expected, &about)
                })?;
            }
        }
    }
    Ok(())
}

/// Both where they lie, at strides of their own.
#[test]
fn parts_of_tensors() -> Result<()> {
    for kind in KINDS {
        let (x, residual) = (normal(&[3, 40], DType::F16, 1)?, normal(&[5, 50], DType::F16, 2)?);
        let tensors = Tensors::new(kind, &[3, 33], DType::F16, DType::F32)?;
        everywhere(|place| {
            let on = tensors.to_device(place.device())?;
            let copies = [x.narrow(1, 2, 33)?, residual.narrow(0, 1, 3)?.narrow(1, 10, 33)?];
            let [of_x, of_residual] = copies.map(|copy| copy.force_contiguous()?.to_device(place.device()));
            let (x, residual) = (x.to_device(place.device())?, residual.to_device(place.device())?);
            let (y, sum) = forward(kind, &on, &x.narrow(1, 2, 33)?, &residual.narrow(0, 1, 3)?.narrow(1, 10, 33)?)?;
            let (expected, expected_sum) = forward(kind, &on, &of_x?, &of_residual?)?;
            assert_same(&y, &expected, "norm")?;
            assert_same(&sum, &expected_sum, "sum")
        })?;
    }
    Ok(())
}
