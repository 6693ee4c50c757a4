//! A cell's output against f64: the formulas of `tests/it/oracle.rs`, over as much of the tensor as a benchmark has time
//! for, and a look at every element for whether it was written at all.

use rayon::prelude::*;
use warpnorm::{Activation, Cpu, F8E4M3, Layout, Quantized as _, Scaling};

use super::case::{Around, Case, Op};
use super::layer::EPS;
use super::tensors::{Numbers, Output};
use crate::oracle::{self, Expected, half_ulp};
use crate::place::Real;

/// Elements that are compared. The first and the last set of moments always are.
const MOST_COMPARED: usize = 1 << 22;

/// What fills outputs before a call: NaN in every type. No cell has a NaN of its own.
pub const POISON: u8 = 0xFF;

/// The largest error of `y`, and of `sum` where there is one, as a fraction of what is allowed; infinite where an element
/// is not a number or was not written.
pub fn max_err<T: Real>(case: &Case, numbers: &Numbers<T>, y: &Output<Cpu, T>, sum: Option<&[T]>) -> f64 {
    let has_nan = |values: &[T]| values.par_iter().any(|value| value.to_f64().is_nan());
    let y_has_nan = match y {
        Output::Elements(y) => has_nan(y),
        Output::Quantized { q, scales, .. } => {
            q.par_iter().any(|q| q.to_f32().is_nan()) || scales.iter().any(|scale| scale.is_nan())
        }
    };
    if y_has_nan || sum.is_some_and(has_nan) {
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
        Op::BatchNormTraining | Op::BatchNormStatistics => case.extents[0] * case.spatial(),
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
        (Op::BatchNormTraining | Op::BatchNormStatistics, Layout::Nhwc) => {
            (0..length).map(|i| i * channels + unit).collect()
        }
        (Op::BatchNormTraining | Op::BatchNormStatistics, _) => {
            (0..length).map(|i| (i / spatial * channels + unit) * spatial + i % spatial).collect()
        }
        _ => (unit * length..((unit + 1) * length).min(case.elements())).collect(),
    }
}

fn unit_err<T: Real>(case: &Case, numbers: &Numbers<T>, y: &Output<Cpu, T>, unit: usize) -> f64 {
    let members = members(case, unit);
    let expected = expected(case, numbers, &members);
    match y {
        Output::Elements(y) => {
            members.iter().zip(&expected).map(|(&i, expected)| fraction(y[i], expected)).fold(0.0, f64::max)
        }
        Output::Quantized { scaling, q, scales } => {
            let (of_row, length) = match scaling {
                Scaling::Groups => (case.channels().div_ceil(128), 128),
                Scaling::Rows => (1, case.channels()),
                other => panic!("no cell is scaled by {other:?}"),
            };
            let q = q[unit * case.channels()..].chunks(length);
            let scales = &scales[unit * of_row..];
            let groups = q.zip(expected.chunks(length)).zip(scales);
            groups.map(|((q, expected), &scale)| group_err(q, expected, f64::from(scale))).fold(0.0, f64::max)
        }
    }
}

/// Of what has one scale, and of that.
fn group_err(q: &[F8E4M3], expected: &[Expected], scale: f64) -> f64 {
    // Of a scale, and of a scaled value: a division, a reciprocal and a product, each rounded to f32.
    const ROUNDINGS: f64 = 3.0 / (1 << 24) as f64;
    let most = f64::from(F8E4M3::TYPE.max());
    let largest = expected.iter().map(|y| y.value.abs()).fold(0.0, f64::max) / most;
    let slack = expected.iter().map(|y| y.slack).fold(0.0, f64::max) / most;
    let of_scale = (scale - largest).abs() / (slack + largest * ROUNDINGS);
    let of_element = |(q, y): (&F8E4M3, &Expected)| {
        let (scaled, slack) = (y.value / scale, (y.slack + y.value.abs() * ROUNDINGS) / scale);
        // Three bits of fraction, and subnormals below 2⁻⁶.
        let half_ulp = 0.5 * 2.0_f64.powi((scaled.abs().log2().floor() as i32).max(-6) - 3);
        (f64::from(q.to_f32()) - scaled).abs() / (half_ulp + slack)
    };
    q.iter().zip(expected).map(of_element).fold(of_scale, f64::max)
}

fn expected<T: Real>(case: &Case, numbers: &Numbers<T>, members: &[usize]) -> Vec<Expected> {
    let s = summed(case, numbers, members);
    let (channels, spatial) = (case.channels(), case.spatial());
    let channel = |i: usize| match case.layout {
        _ if case.has_rows() => i % channels,
        Layout::Nhwc => i % channels,
        _ => i / spatial % channels,
    };
    let [weight, bias, _, _, scale, shift] = &numbers.coefficients;
    let affine = |member: usize| {
        if let Around::Modulated { .. } = case.around {
            let at = modulated_by(case, members[member]);
            return (scale[at] + 1.0, shift[at]);
        }
        let channel = channel(members[member]);
        (weight[channel], bias.get(channel).copied().unwrap_or(0.0))
    };
    let eps = f64::from(EPS as f32);
    if case.op == Op::BatchNormInference {
        let element = |(member, s): (usize, &Expected)| {
            let channel = channel(members[member]);
            let (mean, var) = (f64::from(numbers.running_mean[channel]), f64::from(numbers.running_var[channel]));
            oracle::element(s.value, mean, var, eps, affine(member), case.activation)
        };
        return s.iter().enumerate().map(element).collect();
    }
    if case.around == Around::PostNorm {
        return oracle::uncertain_row(&s, eps, case.subtracts_mean(), &affine);
    }
    let s: Vec<f64> = s.iter().map(|s| s.value).collect();
    oracle::row(&s, eps, case.subtracts_mean(), &affine, case.activation)
}

/// Where gate, scale and shift of an element are.
fn modulated_by(case: &Case, i: usize) -> usize {
    let Around::Modulated { samples } = case.around else { unreachable!("only of a modulated row") };
    let channels = case.channels();
    i / (case.elements() / samples) * channels + i % channels
}

/// What is normalized. Products and sums are rounded to f32: part of what the layers promise.
fn summed<T: Real>(case: &Case, numbers: &Numbers<T>, members: &[usize]) -> Vec<Expected> {
    let to_f32 = |value: f64| f64::from(value as f32);
    let residual = |i: usize| numbers.residual.get(i).map_or(0.0, |residual| residual.to_f64());
    let x: Vec<f64> = members.iter().map(|&i| numbers.x[i].to_f64()).collect();
    if case.around == Around::PostNorm {
        let affine = |member: usize| (numbers.coefficients[2][member], 0.0);
        let normalized = oracle::row(&x, f64::from(EPS as f32), case.subtracts_mean(), &affine, Activation::None);
        let added = |(y, &i): (Expected, &usize)| {
            let value = y.value + residual(i);
            // Three roundings of f32 on the way: two of the norm's own result, one of the sum.
            Expected { value, slack: y.slack + (2.0 * y.value.abs() + value.abs()) / f64::from(1 << 24) }
        };
        return normalized.into_iter().zip(members).map(added).collect();
    }
    let gate = |i: usize| match case.around {
        Around::Modulated { .. } => numbers.coefficients[3][modulated_by(case, i)],
        _ => 1.0,
    };
    let exact = |(x, &i): (f64, &usize)| Expected { value: to_f32(to_f32(x * gate(i)) + residual(i)), slack: 0.0 };
    x.into_iter().zip(members).map(exact).collect()
}

fn sum_err<T: Real>(case: &Case, numbers: &Numbers<T>, sum: &[T]) -> f64 {
    let unit = |unit: usize| {
        let members = members(case, unit);
        let expected = summed(case, numbers, &members);
        members.iter().zip(&expected).map(|(&i, expected)| fraction(sum[i], expected)).fold(0.0, f64::max)
    };
    compared(case).into_par_iter().map(unit).reduce(|| 0.0, f64::max)
}

fn fraction<T: Real>(found: T, expected: &Expected) -> f64 {
    let missed = (found.to_f64() - expected.value).abs();
    // A NaN here would be lost in a maximum.
    if missed.is_nan() { f64::INFINITY } else { missed / (half_ulp(expected.value, T::DTYPE) + expected.slack) }
}
