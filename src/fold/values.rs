//! Borrowed arrays of any element type.

use half::{bf16, f16};

/// Evaluates an expression for the slice behind [`Values`], whatever its type.
macro_rules! with_slice {
    ($values:expr, $slice:ident => $body:expr) => {
        match $values {
            $crate::fold::values::Values::F64($slice) => $body,
            $crate::fold::values::Values::F32($slice) => $body,
            $crate::fold::values::Values::F16($slice) => $body,
            $crate::fold::values::Values::Bf16($slice) => $body,
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

    /// The first element that is infinite or NaN, and its place.
    pub(super) fn first_non_finite(&self) -> Option<(usize, f64)> {
        with_slice!(self, values => {
            values.iter().map(|value| value.widen()).enumerate().find(|(_, value)| !value.is_finite())
        })
    }
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
