//! Layers of a `VarBuilder`: names, initial values, and what is said where they do not fit.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarMap;
use warpnorm_candle::{BatchNormConfig, LayerNormConfig, VarBuilder};

use crate::tensors::values;

/// What each of two libraries makes of an empty `VarMap`: the names, with the values.
macro_rules! made_by {
    ($library:ident) => {{
        use $library::{batch_norm, group_norm, layer_norm, layer_norm_no_bias, rms_norm};
        let variables = VarMap::new();
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        layer_norm(3, 1e-5, vb.pp("layer"))?;
        layer_norm(3, LayerNormConfig { affine: false, ..1e-5.into() }, vb.pp("plain"))?;
        layer_norm_no_bias(3, 1e-5, vb.pp("no_bias"))?;
        rms_norm(3, 1e-5, vb.pp("rms"))?;
        group_norm(2, 4, 1e-5, vb.pp("group"))?;
        batch_norm(4, 1e-5, vb.pp("batch"))?;
        batch_norm(4, BatchNormConfig { affine: false, ..Default::default() }, vb.pp("no_affine"))?;
        let variables = variables.data().lock().expect("the only thread");
        let mut named =
            variables.iter().map(|(name, var)| Ok((name.clone(), values(var)?))).collect::<Result<Vec<_>>>()?;
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named
    }};
}

#[test]
fn names_and_initial_values() -> Result<()> {
    let ours = made_by!(warpnorm_candle);
    assert_eq!(ours, made_by!(candle_nn));
    assert!(ours.contains(&("batch.running_var".to_owned(), vec![1.0; 4])), "{ours:?}");
    Ok(())
}

fn builder(names: &[&str]) -> Result<VarBuilder<'static>> {
    let named = |(i, name): (usize, &&str)| Ok((name.to_string(), Tensor::full(i as f32, 3, &Device::Cpu)?));
    let tensors: HashMap<_, _> = names.iter().enumerate().map(named).collect::<Result<_>>()?;
    Ok(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
}

#[test]
fn older_names() -> Result<()> {
    let first = |tensor: &Tensor| values(tensor).map(|values| values[0]);
    let layer = warpnorm_candle::layer_norm(3, 1e-5, builder(&["gamma", "beta"])?)?;
    assert_eq!((first(layer.weight())?, first(layer.bias().expect("a bias"))?), (0.0, 1.0));
    let layer = warpnorm_candle::layer_norm(3, 1e-5, builder(&["gamma", "beta", "weight", "bias"])?)?;
    assert_eq!((first(layer.weight())?, first(layer.bias().expect("a bias"))?), (2.0, 3.0));
    let layer = warpnorm_candle::rms_norm(3, 1e-5, builder(&["gamma"])?)?;
    assert_eq!((first(layer.weight())?, layer.eps()), (0.0, 1e-5));
    let refused = warpnorm_candle::layer_norm(3, 1e-5, builder(&["weight"])?).expect_err("no bias");
    assert!(refused.to_string().contains("bias"), "{refused}");
    Ok(())
}

#[test]
fn what_a_layer_was_made_of() -> Result<()> {
    let vb = builder(&["weight", "bias", "running_mean", "running_var"])?;
    let config = LayerNormConfig { eps: 1e-3, remove_mean: false, affine: false };
    let layer = warpnorm_candle::layer_norm(3, config, vb.clone())?;
    assert_eq!((layer.eps(), layer.remove_mean(), layer.bias().is_none()), (1e-3, false, true));
    let inner = warpnorm_candle::rms_norm(3, 1e-3, vb.clone())?.into_inner();
    assert_eq!((inner.eps(), inner.remove_mean(), inner.bias().is_none()), (1e-3, false, true));
    let config = BatchNormConfig { eps: 1e-3, momentum: 0.5, ..Default::default() };
    let layer = warpnorm_candle::batch_norm(3, config, vb)?;
    assert_eq!((layer.eps(), layer.momentum(), layer.weight_and_bias().is_some()), (1e-3, 0.5, true));
    assert_eq!((values(layer.running_mean())?, values(layer.running_var())?), (vec![2.0; 3], vec![3.0; 3]));
    Ok(())
}
