//! What is refused, and in which words.

use candle_core::{DType, Device, Error, Result, Tensor};
use warpnorm_candle::{
    BatchNorm, BatchNormConfig, GroupNorm, LayerNorm, Module as _, ModuleT as _, RmsNorm, VarBuilder, batch_norm,
};

fn ones(dims: &[usize], dtype: DType) -> Tensor {
    Tensor::ones(dims, dtype, &Device::Cpu).expect("memory")
}

fn f32(dims: &[usize]) -> Tensor {
    ones(dims, DType::F32)
}

/// The error itself: with RUST_BACKTRACE set, candle wraps it.
fn refused<T>(result: Result<T>) -> Error {
    match result.err().expect("an error") {
        Error::WithBacktrace { inner, .. } => *inner,
        error => error,
    }
}

fn says<T>(result: Result<T>, words: &str) {
    let error = refused(result).to_string();
    assert!(error.contains(words), "{error:?} does not say {words:?}");
}

#[test]
fn shapes() {
    let norm = LayerNorm::new(f32(&[4]), f32(&[4]), 1e-5);
    for x in [f32(&[2, 3]), f32(&[4, 1])] {
        assert!(matches!(refused(norm.forward(&x)), Error::ShapeMismatchBinaryOp { op: "layer-norm", .. }));
    }
    assert!(matches!(refused(norm.forward(&f32(&[]))), Error::DimOutOfRange { .. }));
    let norm = LayerNorm::new(f32(&[4]), f32(&[3]), 1e-5);
    assert!(matches!(refused(norm.forward(&f32(&[2, 4]))), Error::ShapeMismatchBinaryOp { .. }));
    let norm = LayerNorm::new_no_bias(f32(&[1, 4]), 1e-5);
    assert!(matches!(refused(norm.forward(&f32(&[2, 4]))), Error::ShapeMismatchBinaryOp { .. }));

    let norm = GroupNorm::new(f32(&[4]), f32(&[4]), 4, 2, 1e-5).expect("a layer");
    assert!(matches!(refused(norm.forward(&f32(&[4]))), Error::ShapeMismatchBinaryOp { op: "group-norm", .. }));
    assert!(matches!(refused(norm.forward(&f32(&[2, 6, 3]))), Error::ShapeMismatchBinaryOp { .. }));
    let norm = GroupNorm::new(f32(&[6]), f32(&[6]), 4, 2, 1e-5).expect("a layer");
    says(norm.forward(&f32(&[2, 6, 3])), "expected [N, 4]");

    let norm = BatchNorm::new_no_bias(4, f32(&[4]), f32(&[4]), 1e-5).expect("a layer");
    says(norm.forward_t(&f32(&[2, 3]), false), "expected [N, 4]");
    says(norm.forward_t(&f32(&[2, 3]), true), "expected [N, 4]");
    assert!(matches!(
        refused(norm.forward_t(&f32(&[4]), false)),
        Error::UnexpectedNumberOfDims { expected: 2, got: 1, .. }
    ));
}

#[test]
fn constructors() {
    let group_norm = |channels, groups, eps| GroupNorm::new(f32(&[4]), f32(&[4]), channels, groups, eps);
    says(group_norm(4, 3, 1e-5), "3 groups do not divide 4 channels");
    says(group_norm(4, 0, 1e-5), "num_groups");
    says(group_norm(4, 2, -1.0), "eps");
    let batch_norm = |mean, var, weight, eps, momentum| {
        BatchNorm::new_with_momentum(4, f32(&[mean]), f32(&[var]), f32(&[weight]), f32(&[4]), eps, momentum)
    };
    says(batch_norm(3, 4, 4, 1e-5, 0.1), "running mean");
    says(batch_norm(4, 3, 4, 1e-5, 0.1), "running variance");
    says(batch_norm(4, 4, 3, 1e-5, 0.1), "weight");
    says(batch_norm(4, 4, 4, -1e-5, 0.1), "eps");
    says(batch_norm(4, 4, 4, 1e-5, 1.5), "momentum");
    // As candle's, this one cannot fail before it is used.
    says(RmsNorm::new(f32(&[4]), f64::NAN).forward(&f32(&[2, 4])), "eps");
}

#[test]
fn types() {
    let norm = |dtype| LayerNorm::new_no_bias(ones(&[4], dtype), 1e-5);
    let error = refused(norm(DType::F64).forward(&ones(&[2, 4], DType::F64)));
    assert!(matches!(error, Error::UnsupportedDTypeForOp(DType::F64, _)), "{error:?}");
    let error = refused(norm(DType::U8).forward(&ones(&[2, 4], DType::F32)));
    assert!(matches!(error, Error::UnsupportedDTypeForOp(DType::U8, _)), "{error:?}");
    says(norm(DType::BF16).forward(&ones(&[2, 4], DType::F16)), "`weight` is bf16, expected the input's type or f32");
    says(norm(DType::F16).forward(&ones(&[2, 4], DType::F32)), "`weight` is f16");
}

#[test]
fn sums() {
    let norm = RmsNorm::new(f32(&[4]), 1e-5);
    let error = refused(norm.forward_residual(&f32(&[2, 4]), &f32(&[1, 4])));
    assert!(matches!(error, Error::ShapeMismatchBinaryOp { .. }), "{error:?}");
    let error = refused(norm.forward_residual(&f32(&[2, 4]), &ones(&[2, 4], DType::F16)));
    assert!(matches!(error, Error::DTypeMismatchBinaryOp { .. }), "{error:?}");
}

#[test]
fn statistics_of_nothing() {
    let norm = BatchNorm::new_no_bias(4, f32(&[4]), f32(&[4]), 1e-5).expect("a layer");
    says(norm.forward_train(&f32(&[1, 4])), "one value a channel");
    let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
    let config = BatchNormConfig { remove_mean: false, ..Default::default() };
    let norm = batch_norm(4, config, vb).expect("a layer");
    says(norm.forward_train(&f32(&[2, 4])), "remove_mean");
}
