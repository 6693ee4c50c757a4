//! Tensors of numbers that are the same in every run, and what they are compared with.

use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};

use crate::data;
use crate::oracle::{Expected, assert_within};

pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Of a standard normal distribution, on the CPU.
pub fn normal(dims: &[usize], dtype: DType, seed: u64) -> Result<Tensor> {
    let values: Vec<f64> = data::normal(dims.iter().product(), seed).collect();
    Tensor::from_vec(values, dims, &Device::Cpu)?.to_dtype(dtype)
}

/// Positive, as variances are.
pub fn positive(dims: &[usize], dtype: DType, seed: u64) -> Result<Tensor> {
    (normal(dims, DType::F64, seed)?.abs()? + 0.1)?.to_dtype(dtype)
}

/// The elements, exactly.
pub fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// Panics unless the tensor is what was expected, rounded to its type.
pub fn assert_is(found: &Tensor, expected: &[Expected], about: &str) -> Result<()> {
    let found = found.to_device(&Device::Cpu)?.flatten_all()?;
    match found.dtype() {
        DType::F32 => assert_within(&found.to_vec1::<f32>()?, expected, &about),
        DType::F16 => assert_within(&found.to_vec1::<f16>()?, expected, &about),
        DType::BF16 => assert_within(&found.to_vec1::<bf16>()?, expected, &about),
        other => panic!("{about}: the result is {other:?}"),
    }
    Ok(())
}

/// Panics unless both are the same within what candle's modules lose: they round to the type after each of a few
/// operations, and add up numbers one after another in f32.
pub fn assert_near(found: &Tensor, other: &Tensor, about: &str) -> Result<()> {
    assert_eq!((found.shape(), found.dtype()), (other.shape(), other.dtype()), "{about}");
    let bits_of_fraction = match found.dtype() {
        DType::F32 => 24,
        DType::F16 => 11,
        DType::BF16 => 8,
        other => panic!("{about}: the result is {other:?}"),
    };
    let rounding = 2.0_f64.powi(-bits_of_fraction) + (found.elem_count() as f64).sqrt() * 2.0_f64.powi(-24);
    for (i, (found, other)) in values(found)?.iter().zip(values(other)?).enumerate() {
        let allowed = 4.0 * rounding * (1.0 + other.abs());
        assert!((found - other).abs() <= allowed, "{about}: element {i} is {found}, and the other one {other}");
    }
    Ok(())
}

/// Panics unless both have the same bits.
pub fn assert_same(found: &Tensor, expected: &Tensor, about: &str) -> Result<()> {
    assert_eq!((found.shape(), found.dtype()), (expected.shape(), expected.dtype()), "{about}");
    let bits = |tensor| -> Result<Vec<u64>> { Ok(values(tensor)?.iter().map(|value| value.to_bits()).collect()) };
    assert_eq!(bits(found)?, bits(expected)?, "{about}");
    Ok(())
}
