//! Going back through a module is an error, whatever the result depends on; candle's own modules lose gradients in silence.

use candle_core::{DType, Device, Error, Result, Tensor, Var};
use warpnorm_candle::{BatchNorm, GroupNorm, LayerNorm, Module as _, ModuleT as _, RmsNorm};

fn refuses(y: &Tensor, op: &str) {
    match y.sum_all().and_then(|loss| loss.backward()) {
        Err(Error::BackwardNotSupported { op: found }) => assert_eq!(found, op),
        other => panic!("{op}: {other:?}"),
    }
}

fn tensor() -> Result<(Tensor, Var)> {
    let variable = Var::ones(4, DType::F32, &Device::Cpu)?;
    Ok((variable.as_detached_tensor(), variable))
}

#[test]
fn of_inputs() -> Result<()> {
    let (one, _) = tensor()?;
    let x = Var::ones((2, 4), DType::F32, &Device::Cpu)?;
    refuses(&LayerNorm::new(one.clone(), one.clone(), 1e-5).forward(&x)?, "layer-norm");
    refuses(&RmsNorm::new(one.clone(), 1e-5).forward(&x)?, "rms-norm");
    refuses(&GroupNorm::new(one.clone(), one.clone(), 4, 2, 1e-5)?.forward(&x)?, "group-norm");
    let norm = BatchNorm::new_no_bias(4, one.clone(), one, 1e-5)?;
    refuses(&norm.forward_t(&x, false)?, "batch-norm");
    refuses(&norm.forward_t(&x, true)?, "batch-norm");
    Ok(())
}

#[test]
fn of_weights_and_biases() -> Result<()> {
    let (one, variable) = tensor()?;
    let x = Tensor::ones((2, 4), DType::F32, &Device::Cpu)?;
    let variable = variable.as_tensor().clone();
    refuses(&LayerNorm::new(variable.clone(), one.clone(), 1e-5).forward(&x)?, "layer-norm");
    refuses(&LayerNorm::new(one.clone(), variable.clone(), 1e-5).forward(&x)?, "layer-norm");
    refuses(&RmsNorm::new(variable.clone(), 1e-5).forward(&x)?, "rms-norm");
    refuses(&GroupNorm::new(one.clone(), variable, 4, 2, 1e-5)?.forward(&x)?, "group-norm");
    Ok(())
}

#[test]
fn of_either_part_of_a_sum() -> Result<()> {
    let (one, _) = tensor()?;
    let norm = RmsNorm::new(one, 1e-5);
    let (x, variable) = (Tensor::ones((2, 4), DType::F32, &Device::Cpu)?, Var::ones((2, 4), DType::F32, &Device::Cpu)?);
    for (x, residual) in [(&x, variable.as_tensor()), (variable.as_tensor(), &x)] {
        let (y, sum) = norm.forward_residual(x, residual)?;
        refuses(&y, "rms-norm");
        refuses(&sum, "rms-norm");
    }
    Ok(())
}

/// Without variables there is nothing to go back to, and nothing is kept for it. Running statistics are none.
#[test]
fn nothing_is_kept_of_what_does_not_matter() -> Result<()> {
    let (one, variable) = tensor()?;
    let x = Tensor::ones((2, 4), DType::F32, &Device::Cpu)?;
    assert!(!LayerNorm::new(one.clone(), one.clone(), 1e-5).forward(&x)?.track_op());
    let statistics = variable.as_tensor().clone();
    let norm = BatchNorm::new(4, statistics.clone(), statistics, one.clone(), one, 1e-5)?;
    assert!(!norm.forward_t(&x, false)?.track_op());
    assert!(!norm.forward_t(&x, true)?.track_op());
    Ok(())
}

/// The one path that gradients flow through is candle's.
#[test]
fn forward_diff() -> Result<()> {
    let (one, _) = tensor()?;
    let x = Var::new(&[[1.0_f32, 2.0, 3.0, 4.0]], &Device::Cpu)?;
    let norm = RmsNorm::new(one, 1e-5);
    let gradients = norm.forward_diff(&x)?.sqr()?.narrow(1, 0, 1)?.sum_all()?.backward()?;
    let gradient = gradients.get(&x).expect("a gradient").to_vec2::<f32>()?;
    // d/dx0 of x0² / m with m = mean(x²) = 7.5 is 2·x0/m - x0²·x0/2/m².
    assert!((gradient[0][0] - (2.0 / 7.5 - 0.5 / 7.5_f32.powi(2))).abs() < 1e-5, "{gradient:?}");
    Ok(())
}
