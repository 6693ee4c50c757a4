//! A cell's output against f64: the formulas of `tests/it/oracle.rs`, over as much of the tensor as a benchmark has time
//! for, and a look at every element for whether it was written at all.

use rayon::prelude::*;
use warpnorm::Layout;

use super::case::{Case, Op};
use super::tensors::{EPS, Numbers};
use crate::oracle::{self, Expected, half_ulp};
use crate::place::Real;

/// Elements that are compared. The first and the last set of moments always are.
const MOST_COMPARED: usize = 1 << 22;

/// What fills outputs before a call: NaN in every type. No cell has a NaN of its own.
pub const POISON: u8 = 0xFF;

/// The largest error of `y`, and of `sum` where there is one, as a fraction of what is allowed; infinite where an element
/// is not a number or was not written.
pub fn max_err<T: Real>(case: &Case, numbers: &Numbers<T>, y: &[T], sum: Option<&[T]>) -> f64 {
    let outputs = [Some(y), sum];
    if outputs.into_iter().flatten().any(|output| output.par_iter().any(|value| value.to_f64().is_nan())) {
        return f64::INFINITY;
    }
    let of_y = compared(case).into_par_iter().map(|unit| unit_err(case, numbers, y, unit)).reduce(|| 0.0, f64::max);
    let of_sum = sum.map_or(0.0, |sum| sum_err(case, numbers, sum));
    of_y.max(of_sum)
}

/// The numbers of the units to compare, evenly spread. A unit is the elements `[u * length..][..length]`.
fn compared(case: &Case) -> Vec<usize> {
    let units = case.elements().div_ceil(unit_length(case).max(1));
    let count = (MOST_COMPARED / unit_length(case).max(1)).clamp(2, units.max(2));
    let mut chosen: Vec<usize> = (0..count).map(|i| i * units.saturating_sub(1) / (count - 1)).collect();
    chosen.dedup();
    chosen.retain(|&unit| unit < units);
    chosen
}

/// Consecutive elements that are normalized together, or, where each is by itself, some of them.
fn unit_length(case: &Case) -> usize {
    let spatial = || case.extents[2..].iter().product::<usize>();
    match case.op {
        Op::LayerNorm | Op::RmsNorm => case.channels(),
        Op::GroupNorm { groups } => case.channels() / groups * spatial(),
        Op::InstanceNorm => spatial(),
        Op::BatchNormInference => 4096,
    }
}

fn unit_err<T: Real>(case: &Case, numbers: &Numbers<T>, y: &[T], unit: usize) -> f64 {
    let start = unit * unit_length(case);
    let end = (start + unit_length(case)).min(y.len());
    let s: Vec<f64> = (start..end).map(|i| summed(numbers, i)).collect();
    let spatial: usize = if case.has_rows() { 1 } else { case.extents[2..].iter().product() };
    let channels = case.channels();
    let channel = |i: usize| match case.layout {
        _ if case.has_rows() => i % channels,
        Layout::Nhwc => i % channels,
        _ => i / spatial % channels,
    };
    let bias = |channel: usize| if case.has_bias() { numbers.bias[channel] } else { 0.0 };
    let affine = |i: usize| (numbers.weight[channel(start + i)], bias(channel(start + i)));
    let eps = f64::from(EPS as f32);
    let expected: Vec<Expected> = if case.op == Op::BatchNormInference {
        let element = |(i, &s): (usize, &f64)| {
            let channel = channel(start + i);
            let (mean, var) = (f64::from(numbers.running_mean[channel]), f64::from(numbers.running_var[channel]));
            oracle::element(s, mean, var, eps, affine(i), case.activation)
        };
        s.iter().enumerate().map(element).collect()
    } else {
        oracle::row(&s, eps, case.op != Op::RmsNorm, &affine, case.activation)
    };
    y[start..end].iter().zip(&expected).map(|(&found, expected)| fraction(found, expected)).fold(0.0, f64::max)
}

/// Input and residual are added in f32: part of what the layers promise.
fn summed<T: Real>(numbers: &Numbers<T>, i: usize) -> f64 {
    let x = numbers.x[i].to_f64();
    numbers.residual.get(i).map_or(x, |residual| f64::from((x + residual.to_f64()) as f32))
}

fn sum_err<T: Real>(case: &Case, numbers: &Numbers<T>, sum: &[T]) -> f64 {
    let length = unit_length(case);
    let unit = |unit: usize| {
        let elements = unit * length..((unit + 1) * length).min(sum.len());
        elements.map(|i| fraction(sum[i], &Expected { value: summed(numbers, i), slack: 0.0 })).fold(0.0, f64::max)
    };
    compared(case).into_par_iter().map(unit).reduce(|| 0.0, f64::max)
}

fn fraction<T: Real>(found: T, expected: &Expected) -> f64 {
    let missed = (found.to_f64() - expected.value).abs();
    // A NaN here would be lost in a maximum.
    if missed.is_nan() { f64::INFINITY } else { missed / (half_ulp(expected.value, T::DTYPE) + expected.slack) }
}
