//! A cell's output against f64: the formulas of `tests/it/oracle.rs`, over as much of the tensor as a benchmark has time
//! for, and a look at every element for whether it was written at all.

use rayon::prelude::*;
use warpnorm::Layout;

use super::case::{Case, Op};
use super::layer::EPS;
use super::tensors::Numbers;
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

/// The numbers of the units to compare, evenly spread. A unit is what is normalized together or, where each element is by
/// itself, some of them.
fn compared(case: &Case) -> Vec<usize> {
    let length = unit_length(case).max(1);
    let units = case.elements().div_ceil(length);
    let count = (MOST_COMPARED / length).clamp(2, units.max(2));
    let mut chosen: Vec<usize> = (0..count).map(|i| i * units.saturating_sub(1) / (count - 1)).collect();
    chosen.dedup();
    chosen.retain(|&unit| unit < units);
    chosen
}

fn unit_length(case: &Case) -> usize {
    match case.op {
        Op::LayerNorm | Op::RmsNorm | Op::QkRmsNorm { .. } => case.channels(),
        Op::GroupNorm { groups } => case.channels() / groups * case.spatial(),
        Op::InstanceNorm => case.spatial(),
        Op::BatchNormInference => 4096,
        Op::BatchNormTraining => case.extents[0] * case.spatial(),
    }
}

/// Where the elements of a unit lie.
fn members(case: &Case, unit: usize) -> Vec<usize> {
    let length = unit_length(case);
    let (channels, spatial) = (case.channels(), case.spatial());
    let of_last = |groups: usize| {
        let (sample, group, per_group) = (unit / groups, unit % groups, channels / groups);
        let at = move |i: usize| (sample * spatial + i / per_group) * channels + group * per_group + i % per_group;
        (0..length).map(at).collect()
    };
    match (case.op, case.layout) {
        (Op::GroupNorm { groups }, Layout::Nhwc) => of_last(groups),
        (Op::InstanceNorm, Layout::Nhwc) => of_last(channels),
        (Op::BatchNormTraining, Layout::Nhwc) => (0..length).map(|i| i * channels + unit).collect(),
        (Op::BatchNormTraining, _) => {
            (0..length).map(|i| (i / spatial * channels + unit) * spatial + i % spatial).collect()
        }
        _ => (unit * length..((unit + 1) * length).min(case.elements())).collect(),
    }
}

fn unit_err<T: Real>(case: &Case, numbers: &Numbers<T>, y: &[T], unit: usize) -> f64 {
    let members = members(case, unit);
    let s: Vec<f64> = members.iter().map(|&i| summed(numbers, i)).collect();
    let (channels, spatial) = (case.channels(), case.spatial());
    let channel = |i: usize| match case.layout {
        _ if case.has_rows() => i % channels,
        Layout::Nhwc => i % channels,
        _ => i / spatial % channels,
    };
    let bias = |channel: usize| if case.has_bias() { numbers.bias[channel] } else { 0.0 };
    let affine = |member: usize| {
        let channel = channel(members[member]);
        (numbers.weight[channel], bias(channel))
    };
    let eps = f64::from(EPS as f32);
    let expected: Vec<Expected> = if case.op == Op::BatchNormInference {
        let element = |(member, &s): (usize, &f64)| {
            let channel = channel(members[member]);
            let (mean, var) = (f64::from(numbers.running_mean[channel]), f64::from(numbers.running_var[channel]));
            oracle::element(s, mean, var, eps, affine(member), case.activation)
        };
        s.iter().enumerate().map(element).collect()
    } else {
        oracle::row(&s, eps, case.subtracts_mean(), &affine, case.activation)
    };
    members.iter().zip(&expected).map(|(&i, expected)| fraction(y[i], expected)).fold(0.0, f64::max)
}

/// Input and residual are added in f32: part of what the layers promise.
fn summed<T: Real>(numbers: &Numbers<T>, i: usize) -> f64 {
    let x = numbers.x[i].to_f64();
    numbers.residual.get(i).map_or(x, |residual| f64::from((x + residual.to_f64()) as f32))
}

fn sum_err<T: Real>(case: &Case, numbers: &Numbers<T>, sum: &[T]) -> f64 {
    let element = |i: usize| fraction(sum[i], &Expected { value: summed(numbers, i), slack: 0.0 });
    let unit = |unit: usize| members(case, unit).into_iter().map(element).fold(0.0, f64::max);
    compared(case).into_par_iter().map(unit).reduce(|| 0.0, f64::max)
}

fn fraction<T: Real>(found: T, expected: &Expected) -> f64 {
    let missed = (found.to_f64() - expected.value).abs();
    // A NaN here would be lost in a maximum.
    if missed.is_nan() { f64::INFINITY } else { missed / (half_ulp(expected.value, T::DTYPE) + expected.slack) }
}
