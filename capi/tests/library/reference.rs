//! What the layers compute, in f64, element by element, from their definitions.

use crate::types::{wn_activation, wn_dtype};
use half::{bf16, f16};

/// How a tensor is normalized: which elements belong together, and what they meet.
pub struct Norm<'a> {
    /// Which set of moments an element belongs to.
    pub set: &'a dyn Fn(usize) -> usize,
    /// Given moments of a set, in place of the input's own.
    pub given: Option<&'a dyn Fn(usize) -> (f64, f64)>,
    pub subtract_mean: bool,
    pub eps: f64,
    /// Weight and bias of an element.
    pub affine: &'a dyn Fn(usize) -> (f64, f64),
    pub activation: i32,
}

/// Value and what it may be off by beside half a unit of its type.
pub fn norm(x: &[f64], norm: &Norm<'_>) -> Vec<(f64, f64)> {
    let sets = (0..x.len()).map(norm.set).max().map_or(0, |last| last + 1);
    let mut members = vec![Vec::new(); sets];
    (0..x.len()).for_each(|index| members[(norm.set)(index)].push(index));
    let mut all = vec![(f64::NAN, 0.0); x.len()];
    for (set, members) in members.iter().enumerate() {
        let count = members.len() as f64;
        let own = || {
            let mean = members.iter().map(|&at| x[at]).sum::<f64>() / count;
            let center = if norm.subtract_mean { mean } else { 0.0 };
            (center, members.iter().map(|&at| (x[at] - center).powi(2)).sum::<f64>() / count)
        };
        let (mean, var) = norm.given.map_or_else(own, |given| given(set));
        for &at in members {
            let (weight, bias) = (norm.affine)(at);
            let xhat = (x[at] - mean) / (var + norm.eps).sqrt();
            let slack = (weight.abs() * (xhat.abs() + 1.0) + bias.abs()) * 2.0_f64.powi(-21);
            all[at] = activated(norm.activation, xhat * weight + bias, slack);
        }
    }
    all
}

/// The same of rows whose elements may each be off by a slack, to first order in it: mean and deviation move by no more than
/// the mean of the slacks, and that of their products with what is normalized.
pub fn norm_of_uncertain(x: &[(f64, f64)], length: usize, norm: &Norm<'_>) -> Vec<(f64, f64)> {
    let values: Vec<f64> = x.iter().map(|x| x.0).collect();
    let mut all = self::norm(&values, norm);
    for (row, (values, of_row)) in values.chunks(length).zip(x.chunks(length)).enumerate() {
        let mean_of = |of: &dyn Fn(usize) -> f64| (0..length).map(of).sum::<f64>() / length as f64;
        let subtracted = if norm.subtract_mean { 1.0 } else { 0.0 };
        let mean = subtracted * mean_of(&|i| values[i]);
        let deviation = (mean_of(&|i| (values[i] - mean).powi(2)) + norm.eps).sqrt();
        let xhat = |i: usize| ((values[i] - mean) / deviation).abs();
        let of_mean = subtracted * mean_of(&|i| of_row[i].1);
        let of_deviation = mean_of(&|i| of_row[i].1 * xhat(i));
        for (i, (_, slack)) in all[row * length..][..length].iter_mut().enumerate() {
            let weight = (norm.affine)(row * length + i).0.abs();
            *slack += weight * (of_row[i].1 + of_mean + xhat(i) * of_deviation) / deviation;
        }
    }
    all
}

fn activated(activation: i32, value: f64, slack: f64) -> (f64, f64) {
    const RELU: i32 = wn_activation::Relu as i32;
    const SILU: i32 = wn_activation::Silu as i32;
    match activation {
        RELU => (value.max(0.0), slack),
        // Its slope is 1.1 at most, and it is evaluated in f32.
        SILU => {
            let silu = value / (1.0 + (-value).exp());
            (silu, slack * 1.1 + silu.abs() * 2.0_f64.powi(-21))
        }
        _ => (value, slack),
    }
}

/// What the library stores.
pub trait Number: Copy + Default + warpnorm_rs::cudarc::driver::DeviceRepr {
    const DTYPE: wn_dtype;
    /// Binary digits of the significand.
    const DIGITS: i32;
    const LEAST_EXPONENT: i32;
    fn of(value: f64) -> Self;
    fn value(self) -> f64;
}

macro_rules! number {
    ($type:ty, $dtype:ident, $digits:literal, $least:literal, $of:expr) => {
        impl Number for $type {
            const DTYPE: wn_dtype = wn_dtype::$dtype;
            const DIGITS: i32 = $digits;
            const LEAST_EXPONENT: i32 = $least;
            fn of(value: f64) -> Self {
                $of(value)
            }
            fn value(self) -> f64 {
                f64::from(self)
            }
        }
    };
}

number!(f32, F32, 24, -126, |value| value as f32);
number!(f16, F16, 11, -14, |value| f16::from_f32(value as f32));
number!(bf16, Bf16, 8, -126, |value| bf16::from_f32(value as f32));

/// The crate's bound: half a unit in the last place of the type, and the slack.
#[track_caller]
pub fn assert_within<T: Number>(found: &[T], expected: &[(f64, f64)], about: &str) {
    assert_eq!(found.len(), expected.len(), "{about}");
    for (index, (found, &(value, slack))) in found.iter().zip(expected).enumerate() {
        let exponent = if value == 0.0 { T::LEAST_EXPONENT } else { value.abs().log2().floor() as i32 };
        let half_unit = 2.0_f64.powi(exponent.max(T::LEAST_EXPONENT) - T::DIGITS);
        let error = (found.value() - value).abs();
        assert!(
            error <= half_unit + slack,
            "{about}: element {index} is {}, not {value}: off by {error:e}",
            found.value()
        );
    }
}

/// Numbers that look random, and are the same each time.
pub fn noise(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..count).map(|_| (next() + next() + next() - 1.5) * 2.0).collect()
}
