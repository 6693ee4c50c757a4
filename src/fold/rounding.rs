//! What rounding to the result's type will do, told from the f64 values alone.

use std::marker::PhantomData;

#[cfg(feature = "models")]
use super::values::{Values, Widen, with_slice};
use super::{error::FoldError, report::RoundingReport};
use crate::element::{DType, Element};

/// Where a magnitude's rounded value changes kind: rounding is monotonic, so comparing with these saves doing it.
#[derive(Debug, Clone, Copy)]
struct Thresholds {
    /// The smallest magnitude that becomes infinite.
    infinite: f64,
    /// The smallest magnitude that becomes a normal number.
    normal: f64,
    /// The largest magnitude that becomes 0.
    zero: f64,
}

impl Thresholds {
    fn of(dtype: DType) -> Self {
        // The bits of the significand with the hidden one, and the exponents of the largest and smallest normal numbers.
        let (bits, max_exponent, min_exponent) = match dtype {
            DType::F32 => (24, 127, -126),
            DType::F16 => (11, 15, -14),
            DType::Bf16 => (8, 127, -126),
        };
        let power = |exponent: i32| 2.0_f64.powi(exponent);
        Self {
            infinite: power(max_exponent + 1) - power(max_exponent - bits),
            normal: power(min_exponent) - power(min_exponent - bits),
            zero: power(min_exponent - bits),
        }
    }
}

/// Elements that are looked at between two calls of `seen`.
#[cfg(feature = "models")]
const SEEN_AT_ONCE: usize = 1 << 20;

/// Whether all finite values stay finite in a type. `seen` is told which elements have been looked at.
#[cfg(feature = "models")]
pub(super) fn fits(values: &Values<'_>, dtype: DType, mut seen: impl FnMut(std::ops::Range<usize>)) -> bool {
    let Thresholds { infinite, .. } = Thresholds::of(dtype);
    with_slice!(values, values => values.chunks(SEEN_AT_ONCE).enumerate().all(|(index, chunk)| {
        let start = index * SEEN_AT_ONCE;
        let beyond = |value: f64| value.abs() >= infinite && value.is_finite();
        let fits = !chunk.iter().fold(false, |any, value| any | beyond(value.widen()));
        seen(start..start + chunk.len());
        fits
    }))
}

/// Goes over the values of one array of the result before any of them is stored.
#[derive(Debug)]
pub(super) struct RoundingSurvey<T> {
    argument: &'static str,
    target: PhantomData<T>,
    thresholds: Thresholds,
    max_abs: f64,
    below_normal: usize,
    below_subnormal: usize,
    underflowed: usize,
}

impl<T: Element> RoundingSurvey<T> {
    pub(super) fn new(argument: &'static str) -> Self {
        let thresholds = Thresholds::of(T::DTYPE);
        Self {
            argument,
            target: PhantomData,
            thresholds,
            max_abs: 0.0,
            below_normal: 0,
            below_subnormal: 0,
            underflowed: 0,
        }
    }

    #[inline]
    pub(super) fn add(&mut self, channel: usize, value: f64) -> Result<(), FoldError> {
        let magnitude = value.abs();
        if magnitude.is_nan() || magnitude >= self.thresholds.infinite {
            return Err(self.overflow(channel, value));
        }
        self.max_abs = self.max_abs.max(magnitude);
        self.below_normal += usize::from(magnitude < self.thresholds.normal);
        self.below_subnormal += usize::from(magnitude <= self.thresholds.zero);
        self.underflowed += usize::from(magnitude <= self.thresholds.zero && magnitude != 0.0);
        Ok(())
    }

    /// As [`Self::add`], of values of one channel. Their order is only looked at when one of them is refused.
    #[inline]
    pub(super) fn add_all(
        &mut self,
        channel: usize,
        values: impl Iterator<Item = f64> + Clone,
    ) -> Result<(), FoldError> {
        let Thresholds { infinite, normal, zero } = self.thresholds;
        let (mut max_abs, mut beyond, mut below_normal, mut below_subnormal, mut zeros) = (0.0_f64, 0, 0, 0, 0);
        for value in values.clone() {
            let magnitude = value.abs();
            max_abs = if magnitude > max_abs { magnitude } else { max_abs };
            beyond += u64::from(magnitude >= infinite) + u64::from(magnitude.is_nan());
            below_normal += u64::from(magnitude < normal);
            below_subnormal += u64::from(magnitude <= zero);
            zeros += u64::from(magnitude == 0.0);
        }
        if beyond > 0 {
            return values.into_iter().try_for_each(|value| self.add(channel, value));
        }
        self.max_abs = self.max_abs.max(max_abs);
        self.below_normal += below_normal as usize;
        self.below_subnormal += below_subnormal as usize;
        self.underflowed += (below_subnormal - zeros) as usize;
        Ok(())
    }

    pub(super) fn report(&self) -> RoundingReport {
        RoundingReport {
            max_abs: T::from_f64(self.max_abs).to_f64(),
            subnormal: self.below_normal - self.below_subnormal,
            underflowed: self.underflowed,
        }
    }

    #[cold]
    fn overflow(&self, channel: usize, value: f64) -> FoldError {
        FoldError::Overflow { argument: self.argument, channel, value, limit: T::MAX, target: T::DTYPE.name() }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact values are the point")]
mod tests {
    use super::*;
    use half::{bf16, f16};

    fn check_against_rounding<T: Element>(min_positive: f64) {
        let Thresholds { infinite, normal, zero } = Thresholds::of(T::DTYPE);
        assert!(T::from_f64(infinite).to_f64().is_infinite());
        assert_eq!(T::from_f64(infinite.next_down()).to_f64(), T::MAX);
        assert_eq!(T::from_f64(normal).to_f64(), min_positive);
        assert!(T::from_f64(normal.next_down()).to_f64() < min_positive);
        assert_eq!(T::from_f64(zero).to_f64(), 0.0);
        assert!(T::from_f64(zero.next_up()).to_f64() > 0.0);
    }

    #[test]
    fn thresholds_are_where_rounding_changes_kind() {
        check_against_rounding::<f32>(f64::from(f32::MIN_POSITIVE));
        check_against_rounding::<f16>(f16::MIN_POSITIVE.to_f64());
        check_against_rounding::<bf16>(bf16::MIN_POSITIVE.to_f64());
    }

    #[test]
    fn zeros_are_not_losses() {
        let mut survey = RoundingSurvey::<f16>::new("");
        for value in [0.0, -0.0, 1e-9, -1e-9, 3e-5, 1.0, -65519.0] {
            survey.add(0, value).unwrap();
        }
        assert_eq!(survey.report(), RoundingReport { max_abs: 65504.0, subnormal: 1, underflowed: 2 });
    }
}
