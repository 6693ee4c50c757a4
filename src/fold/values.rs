//! Borrowed arrays of any element type.

use std::marker::PhantomData;

use half::{bf16, f16};

use crate::element::DType;

/// Evaluates an expression for the slice behind [`Values`], whatever its type.
macro_rules! with_slice {
    ($values:expr, $slice:ident => $body:expr) => {
        match $values {
            $crate::fold::values::Values::F64($slice) => $body,
            $crate::fold::values::Values::F32($slice) => $body,
            $crate::fold::values::Values::F16($slice) => $body,
            $crate::fold::values::Values::Bf16($slice) => $body,
            $crate::fold::values::Values::F64Le($slice) => $body,
            $crate::fold::values::Values::F32Le($slice) => $body,
            $crate::fold::values::Values::F16Le($slice) => $body,
            $crate::fold::values::Values::Bf16Le($slice) => $body,
        }
    };
}
pub(super) use with_slice;

/// A borrowed array whose element type is known at run time, as in a model file.
///
/// Slices, arrays and `Vec`s convert into it by reference, so that each argument of a fold has its own type.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Values<'a> {
    /// IEEE 754 binary64.
    F64(&'a [f64]),
    /// IEEE 754 binary32.
    F32(&'a [f32]),
    /// IEEE 754 binary16.
    F16(&'a [f16]),
    /// The upper half of a binary32.
    Bf16(&'a [bf16]),
    /// As `F64`, from a file.
    F64Le(&'a [Le<8, f64>]),
    /// As `F32`, from a file.
    F32Le(&'a [Le<4, f32>]),
    /// As `F16`, from a file.
    F16Le(&'a [Le<2, f16>]),
    /// As `Bf16`, from a file.
    Bf16Le(&'a [Le<2, bf16>]),
}

/// An element as it lies in a file: `N` bytes, little-endian, at any address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Le<const N: usize, T>([u8; N], PhantomData<T>);

impl<const N: usize, T> Le<N, T> {
    /// The elements that lie in `bytes`; what is left over at the end is dropped.
    fn slice(bytes: &[u8]) -> &[Self] {
        let (elements, _) = bytes.as_chunks::<N>();
        // SAFETY: `Le` is transparent over its bytes, as the marker has no size.
        unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), elements.len()) }
    }
}

impl<'a> Values<'a> {
    /// The elements of an array that lies in a file, little-endian and without gaps, at any address. Bytes at the end that
    /// make no whole element are left out.
    #[must_use]
    pub fn from_le_bytes(dtype: DType, bytes: &'a [u8]) -> Self {
        match dtype {
            DType::F32 => Self::F32Le(Le::slice(bytes)),
            DType::F16 => Self::F16Le(Le::slice(bytes)),
            DType::Bf16 => Self::Bf16Le(Le::slice(bytes)),
        }
    }

    /// As [`Values::from_le_bytes`], of `f64`.
    #[must_use]
    pub fn f64_from_le_bytes(bytes: &'a [u8]) -> Self {
        Self::F64Le(Le::slice(bytes))
    }
}

impl Values<'_> {
    /// The number of elements.
    #[must_use]
    pub const fn len(&self) -> usize {
        with_slice!(self, values => values.len())
    }

    /// Whether there are no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index`, exactly; `index` must be less than `len()`.
    pub(super) fn at(&self, index: usize) -> f64 {
        with_slice!(self, values => values[index].widen())
    }

    /// All elements, exactly.
    #[cfg(feature = "models")]
    pub(super) fn to_vec(self) -> Vec<f64> {
        with_slice!(self, values => values.iter().map(|value| value.widen()).collect())
    }

    /// The first element that is infinite or NaN, and its place.
    pub(super) fn first_non_finite(&self) -> Option<(usize, f64)> {
        with_slice!(self, values => first_non_finite(values))
    }
}

/// The first element that is infinite or NaN, and its place.
pub(super) fn first_non_finite<I: Widen>(values: &[I]) -> Option<(usize, f64)> {
    let values = values.iter().map(|value| value.widen());
    // Nearly always all are finite, and to see only that takes less.
    let all_finite = values.clone().fold(true, |all, value| all & value.is_finite());
    if all_finite { None } else { values.enumerate().find(|(_, value)| !value.is_finite()) }
}

/// A type that [`Values`] hold.
pub(super) trait Widen: Copy {
    /// Exact.
    fn widen(self) -> f64;
}

macro_rules! from_slices {
    ($($variant:ident($type:ty)),*) => {$(
        impl Widen for $type {
            fn widen(self) -> f64 {
                f64::from(self)
            }
        }
        impl Widen for Le<{ size_of::<$type>() }, $type> {
            fn widen(self) -> f64 {
                f64::from(<$type>::from_le_bytes(self.0))
            }
        }
        impl<'a> From<&'a [$type]> for Values<'a> {
            fn from(values: &'a [$type]) -> Self {
                Self::$variant(values)
            }
        }
        impl<'a, const N: usize> From<&'a [$type; N]> for Values<'a> {
            fn from(values: &'a [$type; N]) -> Self {
                Self::$variant(values)
            }
        }
        impl<'a> From<&'a Vec<$type>> for Values<'a> {
            fn from(values: &'a Vec<$type>) -> Self {
                Self::$variant(values)
            }
        }
    )*};
}

from_slices!(F64(f64), F32(f32), F16(f16), Bf16(bf16));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_file_are_elements_at_any_address() {
        let mut bytes = vec![0];
        bytes.extend([1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()));
        bytes.push(7);
        let values = Values::from_le_bytes(DType::F32, &bytes[1..]);
        assert_eq!((values.len(), values.at(0), values.at(1)), (2, 1.5, -2.0));
        let bytes = bf16::from_f32(0.5).to_le_bytes();
        assert_eq!(Values::from_le_bytes(DType::Bf16, &bytes).at(0), 0.5);
        assert_ne!(Values::from_le_bytes(DType::F16, &bytes).at(0), 0.5);
        assert_eq!(Values::f64_from_le_bytes(&0.1_f64.to_le_bytes()).at(0), 0.1);
    }
}
