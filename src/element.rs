//! The element types of tensors.

use std::cmp::Ordering;

use half::{bf16, f16};

use crate::quantization::QuantizedType;

/// The type of a tensor's elements, as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl DType {
    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name used in kernel names and messages: `f32`, `f16` or `bf16`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

pub(crate) mod sealed {
    pub trait Sealed {}
    impl Sealed for i64 {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// What a buffer is made of.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Elements of a tensor.
    Element(DType),
    /// Those of a quantized output.
    Quantized(QuantizedType),
    /// Numbers of batches.
    Count,
    /// A workspace.
    Bytes,
}

impl Kind {
    pub(crate) const fn dtype(self) -> Option<DType> {
        match self {
            Self::Element(dtype) => Some(dtype),
            Self::Quantized(_) | Self::Count | Self::Bytes => None,
        }
    }

    /// Bytes of one.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::Element(dtype) => dtype.size(),
            Self::Quantized(_) | Self::Bytes => 1,
            Self::Count => size_of::<i64>(),
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Element(dtype) => dtype.name(),
            Self::Quantized(quantized) => quantized.name(),
            Self::Count => "i64",
            Self::Bytes => "bytes",
        }
    }
}

/// A type that buffers are made of: every [`Element`], every [`Quantized`](crate::Quantized), and `i64`, in which batches
/// are counted.
pub trait Stored: sealed::Sealed + Copy + 'static {
    /// The type as a value.
    #[doc(hidden)]
    const STORED: Kind;
}

macro_rules! stored {
    ($($type:ty => $kind:expr;)*) => {
        $(impl Stored for $type {
            const STORED: Kind = $kind;
        })*
    };
}

stored! {
    f32 => Kind::Element(DType::F32);
    f16 => Kind::Element(DType::F16);
    bf16 => Kind::Element(DType::Bf16);
    i64 => Kind::Count;
}

/// A type that tensors are made of: `f32`, [`f16`](half::f16) or [`bf16`](half::bf16).
pub trait Element: Stored + Send + Sync + Default + std::fmt::Debug + 'static {
    /// The type as a value.
    const DTYPE: DType;
    /// The largest finite magnitude.
    const MAX: f64;
    /// Rounds once, to nearest, ties to even; what rounds past the largest finite value becomes infinite.
    fn from_f64(value: f64) -> Self;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// Exact.
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    const MAX: f64 = f32::MAX as f64;
    #[expect(clippy::cast_possible_truncation, reason = "a rounding conversion")]
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn from_f32(value: f32) -> Self {
        value
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn to_f32(self) -> f32 {
        self
    }
}

/// Narrows to f32 such that a second rounding, to a type with at least two bits less, is the only one that counts.
///
/// An inexact result is truncated and its last bit set, so it can be neither a value of the narrower type nor a midpoint
/// of two, and it stays on its side of every midpoint (Boldo and Melquiond, "Emulation of a FMA and correctly rounded
/// sums: proved algorithms using rounding to odd", 2008).
fn round_to_odd(value: f64) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "what is lost is made up for below")]
    let nearest = value as f32;
    match f64::from(nearest).abs().partial_cmp(&value.abs()) {
        Some(Ordering::Less) => f32::from_bits(nearest.to_bits() | 1),
        Some(Ordering::Greater) => f32::from_bits((nearest.to_bits() - 1) | 1),
        Some(Ordering::Equal) | None => nearest,
    }
}

macro_rules! half_element {
    ($type:ty, $dtype:expr, $max:expr) => {
        impl Element for $type {
            const DTYPE: DType = $dtype;
            const MAX: f64 = $max;
            fn from_f64(value: f64) -> Self {
                // Not `half`'s own conversion: 2.7 drops the low half of the mantissa before it rounds.
                <$type>::from_f32(round_to_odd(value))
            }
            fn from_f32(value: f32) -> Self {
                <$type>::from_f32(value)
            }
            fn to_f64(self) -> f64 {
                <$type>::to_f64(self)
            }
            fn to_f32(self) -> f32 {
                <$type>::to_f32(self)
            }
        }
    };
}

half_element!(f16, DType::F16, 65504.0);
half_element!(bf16, DType::Bf16, 3.389_531_389_251_535_5e38);

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact values are the point")]
mod tests {
    use super::*;

    /// Walks every pair of adjacent finite magnitudes, the step to infinity included, and checks the conversion at both
    /// ends, at the midpoint, and as close to the midpoint as f64 can go.
    fn check_every_midpoint<T: Element>(from_bits: impl Fn(u16) -> T, to_bits: impl Fn(T) -> u16, infinity: u16) {
        for low in 0..infinity {
            let high = low + 1;
            let low_value = from_bits(low).to_f64();
            let step_up = if high == infinity {
                low_value - from_bits(low - 1).to_f64()
            } else {
                from_bits(high).to_f64() - low_value
            };
            let midpoint = low_value + step_up / 2.0;
            let even = if low % 2 == 0 { low } else { high };
            let cases = [
                (low_value, low),
                (low_value.next_up(), low),
                (midpoint.next_down(), low),
                (midpoint - step_up * 1e-9, low),
                (midpoint, even),
                (midpoint + step_up * 1e-9, high),
                (midpoint.next_up(), high),
                ((low_value + step_up).next_down(), high),
            ];
            for (value, expected) in cases {
                assert_eq!(to_bits(T::from_f64(value)), expected, "{} of {value:e}", T::DTYPE);
                assert_eq!(to_bits(T::from_f64(-value)), expected | 0x8000, "{} of -{value:e}", T::DTYPE);
            }
        }
    }

    #[test]
    fn f64_to_f16_rounds_once() {
        check_every_midpoint(f16::from_bits, f16::to_bits, 0x7c00);
    }

    #[test]
    fn f64_to_bf16_rounds_once() {
        check_every_midpoint(bf16::from_bits, bf16::to_bits, 0x7f80);
    }

    #[test]
    fn overflow_begins_at_the_midpoint_past_the_largest_value() {
        assert_eq!(<f16 as Element>::from_f64(65520.0), f16::INFINITY);
        assert_eq!(<f16 as Element>::from_f64(65520.0_f64.next_down()), f16::MAX);
        assert_eq!(<f16 as Element>::from_f64(-65520.0), f16::NEG_INFINITY);
        let half_past = bf16::MAX.to_f64() + 2.0_f64.powi(119);
        assert_eq!(<bf16 as Element>::from_f64(half_past), bf16::INFINITY);
        assert_eq!(<bf16 as Element>::from_f64(half_past.next_down()), bf16::MAX);
        let between_f32_and_bf16 = f64::from(f32::MAX).next_up();
        assert_eq!(<bf16 as Element>::from_f64(between_f32_and_bf16), bf16::INFINITY);
    }

    #[test]
    fn special_values_survive() {
        for value in [0.0, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(<f16 as Element>::from_f64(value).to_f64(), value);
            assert_eq!(<bf16 as Element>::from_f64(value).to_f64(), value);
        }
        assert!(<f16 as Element>::from_f64(-0.0).is_sign_negative());
        assert!(<bf16 as Element>::from_f64(-0.0).is_sign_negative());
        assert!(<f16 as Element>::from_f64(f64::NAN).is_nan());
        assert!(<bf16 as Element>::from_f64(f64::NAN).is_nan());
        assert_eq!(<f16 as Element>::from_f64(f64::MIN_POSITIVE), f16::ZERO);
        assert_eq!(<bf16 as Element>::from_f64(f64::MAX), bf16::INFINITY);
    }

    #[test]
    fn the_largest_value_is_the_constant() {
        assert_eq!(<f16 as Element>::MAX, f16::MAX.to_f64());
        assert_eq!(<bf16 as Element>::MAX, bf16::MAX.to_f64());
    }
}
