//! Every module, type and kind of shape: within warpnorm's bound of the formula in f64, and near candle's modules.

use candle_core::{DType, Result};

use crate::case::{Kind, ROWS, Tensors, candles, expected, ours};
use crate::place::everywhere;
use crate::tensors::{DTYPES, assert_is, assert_near, values};

const SHAPES_OF_ROWS: [&[usize]; 8] =
    [&[1], &[5], &[1, 1], &[3, 7], &[2, 3, 64], &[2, 2, 3, 33], &[3, 4096], &[1, 2, 65_537]];

const GROUPS: [(&[usize], usize); 6] = [
    (&[2, 6, 5], 3),
    (&[1, 8, 4, 4], 2),
    (&[1, 32, 9, 9], 8),
    (&[2, 4, 2, 3, 2], 1),
    (&[1, 4, 2, 1, 3, 2], 2),
    (&[1, 2, 190, 191], 2),
];

const IMAGES: [&[usize]; 6] =
    [&[4, 3], &[2, 5, 7], &[2, 3, 8, 9], &[2, 2, 2, 3, 4], &[1, 3, 2, 1, 2, 3], &[1, 16, 40, 41]];

/// On every device; weights of the input's type, and in f32 beside it.
fn check(kind: Kind, dims: &[usize], dtype: DType) -> Result<()> {
    for coefficients in [dtype, DType::F32] {
        let tensors = Tensors::new(kind, dims, dtype, coefficients)?;
        let expected = expected(kind, &values(&tensors.x)?, dims, &tensors)?;
        // candle has no modules of two types.
        let candles = if coefficients == dtype { Some(candles::forward(kind, &tensors)?) } else { None };
        everywhere(|place| {
            if !place.runs_candle()
                && matches!(kind, Kind::BatchNorm | Kind::BatchNormNoBias)
                && coefficients != DType::F32
            {
                // Its running statistics are converted by a kernel of candle's.
                return Ok(());
            }
            let about =
                format!("{kind:?} of {dims:?} in {dtype:?}, weight in {coefficients:?}, on {:?}", place.device());
            let y = ours::forward(kind, &tensors.to_device(place.device())?)?;
            assert_eq!((y.dims(), y.dtype()), (dims, dtype), "{about}");
            assert_is(&y, &expected, &about)?;
            candles.as_ref().map_or(Ok(()), |candles| assert_near(&y, candles, &about))
        })?;
    }
    Ok(())
}

#[test]
fn rows() -> Result<()> {
    for dtype in DTYPES {
        for kind in ROWS {
            SHAPES_OF_ROWS.iter().try_for_each(|dims| check(kind, dims, dtype))?;
        }
    }
    Ok(())
}

#[test]
fn groups() -> Result<()> {
    for dtype in DTYPES {
        GROUPS.iter().try_for_each(|&(dims, groups)| check(Kind::GroupNorm { groups }, dims, dtype))?;
    }
    Ok(())
}

/// candle's has no groups of single values.
#[test]
fn groups_without_spatial_axes() -> Result<()> {
    let kind = Kind::GroupNorm { groups: 3 };
    let tensors = Tensors::new(kind, &[4, 6], DType::F32, DType::F32)?;
    let expected = expected(kind, &values(&tensors.x)?, &[4, 6], &tensors)?;
    everywhere(|place| assert_is(&ours::forward(kind, &tensors.to_device(place.device())?)?, &expected, "[4, 6]"))
}

#[test]
fn batches() -> Result<()> {
    for dtype in DTYPES {
        for kind in [Kind::BatchNorm, Kind::BatchNormNoBias] {
            IMAGES.iter().try_for_each(|dims| check(kind, dims, dtype))?;
        }
    }
    Ok(())
}

/// What candle cannot say: its sums of squares lose everything where the mean is large.
#[test]
fn means_far_above_the_deviation() -> Result<()> {
    for kind in [Kind::LayerNorm, Kind::GroupNorm { groups: 2 }] {
        let dims = [2, 4, 300];
        let mut tensors = Tensors::new(kind, &dims, DType::F32, DType::F32)?;
        tensors.x = (tensors.x + 10_000.0)?;
        let expected = expected(kind, &values(&tensors.x)?, &dims, &tensors)?;
        everywhere(|place| {
            assert_is(&ours::forward(kind, &tensors.to_device(place.device())?)?, &expected, &format!("{kind:?}"))
        })?;
    }
    Ok(())
}

#[test]
fn nothing() -> Result<()> {
    let empty: [(Kind, &[usize]); 4] = [
        (Kind::LayerNorm, &[0, 8]),
        (Kind::RmsNorm, &[2, 0, 8]),
        (Kind::GroupNorm { groups: 2 }, &[0, 4, 3]),
        (Kind::BatchNorm, &[2, 4, 0]),
    ];
    for (kind, dims) in empty {
        let some: Vec<usize> = dims.iter().map(|&extent| extent.max(1)).collect();
        let axis = dims.iter().position(|&extent| extent == 0).expect("an axis of nothing");
        let tensors = Tensors::new(kind, &some, DType::F32, DType::F32)?;
        everywhere(|place| {
            let tensors = tensors.to_device(place.device())?;
            // A part of something: CUDA has no memory of nothing.
            let y = ours::forward(kind, &Tensors { x: tensors.x.narrow(axis, 0, 0)?, ..tensors })?;
            assert_eq!(y.dims(), dims, "{kind:?}");
            assert_eq!(values(&y)?.len(), 0);
            Ok(())
        })?;
    }
    Ok(())
}
