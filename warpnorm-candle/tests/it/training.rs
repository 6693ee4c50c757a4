//! Batch normalization by the statistics of the batch, and the running ones after it.

use candle_core::{DType, Result, Tensor, Var};
use warpnorm_candle::{BatchNorm, ModuleT as _};

use crate::case::EPS;
use crate::oracle::{self, Expected};
use crate::place::everywhere;
use crate::tensors::{DTYPES, assert_is, assert_near, assert_same, normal, positive, values};

const MOMENTUM: f64 = 0.25;
const DIMS: [usize; 4] = [3, 5, 4, 3];

/// Batches that differ in mean and deviation.
fn batches(dtype: DType) -> Result<Vec<Tensor>> {
    (0..4_u32)
        .map(|batch| normal(&DIMS, DType::F64, batch.into())?.affine(1.0 + f64::from(batch), f64::from(batch) - 1.0))
        .map(|batch| batch?.to_dtype(dtype))
        .collect()
}

/// What each channel holds.
fn channels(x: &Tensor) -> Result<Vec<Vec<f64>>> {
    let rows = x.transpose(0, 1)?.flatten_from(1)?;
    (0..rows.dim(0)?).map(|channel| values(&rows.get(channel)?)).collect()
}

/// The formula for one batch, and the running statistics moved by it.
fn step(x: &Tensor, weight: &[f64], bias: &[f64], running: &mut [(f64, f64)]) -> Result<Vec<Expected>> {
    let mut rows = Vec::new();
    for (channel, values) in channels(x)?.iter().enumerate() {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let (of_mean, of_var) = &mut running[channel];
        *of_mean = (1.0 - MOMENTUM) * *of_mean + MOMENTUM * mean;
        *of_var = (1.0 - MOMENTUM) * *of_var + MOMENTUM * squares / (n - 1.0);
        let affine = (weight[channel], bias[channel]);
        rows.push(oracle::row(values, EPS, true, &|_| affine, warpnorm::Activation::None));
    }
    // From channels first, back to samples first.
    let (samples, spatial) = (DIMS[0], DIMS[2] * DIMS[3]);
    let parts =
        (0..samples).flat_map(|sample| rows.iter().map(move |row| &row[sample * spatial..(sample + 1) * spatial]));
    Ok(parts.flatten().copied().collect())
}

#[test]
fn several_batches() -> Result<()> {
    let tensor = |seed| normal(&[DIMS[1]], DType::F32, seed);
    let (weight, bias, mean, var) = (tensor(1)?, tensor(2)?, tensor(3)?, positive(&[DIMS[1]], DType::F32, 4)?);
    for dtype in DTYPES {
        everywhere(|place| {
            let on = |tensor: &Tensor| tensor.to_device(place.device());
            let (mean_there, var_there) = (on(&mean)?, on(&var)?);
            let ours = BatchNorm::new_with_momentum(
                DIMS[1],
                mean_there.clone(),
                var_there.clone(),
                on(&weight)?,
                on(&bias)?,
                EPS,
                MOMENTUM,
            )?;
            let candles = candle_nn::BatchNorm::new_with_momentum(
                DIMS[1],
                mean.clone(),
                var.clone(),
                weight.to_dtype(dtype)?,
                bias.to_dtype(dtype)?,
                EPS,
                MOMENTUM,
            )?;
            let mut running: Vec<_> = values(&mean)?.into_iter().zip(values(&var)?).collect();
            for (batch, x) in batches(dtype)?.iter().enumerate() {
                let about = format!("batch {batch} in {dtype:?} on {:?}", place.device());
                let y = ours.forward_t(&on(x)?, true)?;
                assert_is(&y, &step(x, &values(&weight)?, &values(&bias)?, &mut running)?, &about)?;
                assert_near(&y.to_device(x.device())?, &candles.forward_t(x, true)?, &about)?;
                for (found, expected) in
                    values(ours.running_mean())?.into_iter().zip(values(ours.running_var())?).zip(&running)
                {
                    let near = |found: f64, expected: f64| (found - expected).abs() <= 1e-6 * (1.0 + expected.abs());
                    assert!(near(found.0, expected.0) && near(found.1, expected.1), "{about}: {found:?}, {expected:?}");
                }
            }
            assert_near(&ours.running_mean().to_device(mean.device())?, candles.running_mean(), "running mean")?;
            assert_near(&ours.running_var().to_device(var.device())?, candles.running_var(), "running variance")?;
            // The tensors that the layer was made of are no variables: it has its own.
            assert_same(&mean_there, &mean, "the tensor given")?;
            assert_same(&var_there, &var, "the tensor given")
        })?;
    }
    Ok(())
}

/// Variables are moved themselves, as an optimizer's are, and evaluation goes by what they have become.
#[test]
fn variables_are_shared() -> Result<()> {
    everywhere(|place| {
        let mean = Var::from_tensor(&normal(&[2], DType::F32, 1)?.to_device(place.device())?)?;
        let var = Var::from_tensor(&positive(&[2], DType::F32, 2)?.to_device(place.device())?)?;
        let layer = BatchNorm::new_no_bias(2, mean.as_tensor().clone(), var.as_tensor().clone(), EPS)?;
        let x = Tensor::new(&[[1.0_f32, 10.0], [3.0, 30.0]], place.device())?;
        let before = layer.forward_t(&x, false)?;
        assert_same(&layer.forward_t(&x, false)?, &before, "evaluation moves nothing")?;
        let expected: Vec<f64> =
            values(&mean)?.iter().zip([2.0, 20.0]).map(|(old, new)| 0.9 * old + 0.1 * new).collect();
        layer.forward_train(&x)?;
        for (found, expected) in values(&mean)?.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        assert_ne!(values(&layer.forward_t(&x, false)?)?, values(&before)?);
        let again = BatchNorm::new_no_bias(2, mean.as_detached_tensor(), var.as_detached_tensor(), EPS)?;
        assert_same(&layer.forward_t(&x, false)?, &again.forward_t(&x, false)?, "the same variables")
    })
}

/// Running statistics of a model that was loaded in half precision.
#[test]
fn statistics_in_other_types() -> Result<()> {
    let tensor = |values: [f32; 2], dtype| Tensor::new(&values, &candle_core::Device::Cpu)?.to_dtype(dtype);
    for dtype in DTYPES {
        let layer = BatchNorm::new_no_bias(2, tensor([0.5, -1.0], dtype)?, tensor([4.0, 0.25], dtype)?, 0.0)?;
        let x = tensor([2.5, 1.0], dtype)?.reshape((1, 2))?;
        assert_eq!(values(&layer.forward_t(&x, false)?)?, [1.0, 4.0]);
        let x = Tensor::new(&[[1.0_f32, 2.0], [3.0, 2.0]], &candle_core::Device::Cpu)?.to_dtype(dtype)?;
        layer.forward_t(&x, true)?;
        assert_eq!((layer.running_mean().dtype(), layer.running_var().dtype()), (dtype, dtype));
        // 0.9 · 0.5 + 0.1 · 2, and 0.9 · 4 + 0.1 · 2: the variance of 1 and 3 is 2.
        let (mean, var) = (values(layer.running_mean())?, values(layer.running_var())?);
        assert!((mean[0] - 0.65).abs() < 0.65 / 256.0 && (var[0] - 3.8).abs() < 3.8 / 256.0, "{mean:?} {var:?}");
    }
    Ok(())
}
