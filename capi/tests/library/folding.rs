//! Folding through the library, against the unfolded layers in f64.

use std::ffi::c_void;
use std::mem::zeroed;

use half::{bf16, f16};

use crate::load::{library, ok, refused};
use crate::reference::{Number, noise};
use crate::types::{
    wn_affine, wn_affine_kind, wn_array, wn_dtype, wn_fold_report, wn_linear, wn_linear_kind, wn_padding, wn_status,
};

pub fn array<T: Number>(values: &[T]) -> wn_array {
    let len = values.len() as i64;
    wn_array { data: values.as_ptr().cast(), len, dtype: T::DTYPE as i32, reserved: 0 }
}

fn doubles(values: &[f64]) -> wn_array {
    wn_array { data: values.as_ptr().cast(), len: values.len() as i64, dtype: wn_dtype::F64 as i32, reserved: 0 }
}

pub const NOTHING: wn_array = wn_array { data: std::ptr::null(), len: 0, dtype: 0, reserved: 0 };

pub fn linear(kind: wn_linear_kind, groups: i64, weight: wn_array, shape: &[i64], bias: wn_array) -> wn_linear {
    let mut weight_shape = [0; 8];
    weight_shape[..shape.len()].copy_from_slice(shape);
    let padding = wn_padding::None as i32;
    wn_linear { kind: kind as i32, padding, groups, weight, weight_rank: shape.len() as i64, weight_shape, bias }
}

pub fn fold<T: Number>(
    linear: &wn_linear,
    before: &[wn_affine],
    after: &[wn_affine],
    weight: &mut [T],
    bias: &mut [T],
    report: Option<&mut wn_fold_report>,
) -> i32 {
    // SAFETY: the lengths are those of the slices.
    unsafe {
        (library().wn_fold)(
            linear,
            before.as_ptr(),
            before.len() as u64,
            after.as_ptr(),
            after.len() as u64,
            T::DTYPE as i32,
            weight.as_mut_ptr().cast::<c_void>(),
            weight.len() as i64,
            bias.as_mut_ptr().cast::<c_void>(),
            bias.len() as i64,
            report.map_or(std::ptr::null_mut(), std::ptr::from_mut),
        )
    }
}

/// A BatchNorm with numbers of its own.
struct Statistics {
    mean: Vec<f64>,
    var: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
}

const EPS: f64 = 1e-3;

impl Statistics {
    fn new(channels: usize, seed: u64) -> Self {
        Self {
            mean: noise(channels, seed),
            var: noise(channels, seed + 1).iter().map(|v| v * v + 0.2).collect(),
            weight: noise(channels, seed + 2).iter().map(|v| v + 1.0).collect(),
            bias: noise(channels, seed + 3),
        }
    }

    fn map(&self) -> wn_affine {
        wn_affine {
            kind: wn_affine_kind::BatchNorm as i32,
            reserved: 0,
            running_mean: doubles(&self.mean),
            running_var: doubles(&self.var),
            weight: doubles(&self.weight),
            bias: doubles(&self.bias),
            eps: EPS,
        }
    }

    fn apply(&self, channel: usize, x: f64) -> f64 {
        (x - self.mean[channel]) / (self.var[channel] + EPS).sqrt() * self.weight[channel] + self.bias[channel]
    }
}

/// A layer's output for one pixel that all taps see: as a matrix over input channels, groups apart.
fn outputs(
    kind: wn_linear_kind,
    groups: usize,
    weight: &[f64],
    [rows, columns, taps]: [usize; 3],
    x: &[f64],
) -> Vec<f64> {
    let transposed = matches!(kind, wn_linear_kind::ConvTranspose);
    let (inputs, outs) = if transposed { (rows, columns * groups) } else { (columns * groups, rows) };
    let mut y = vec![0.0; outs];
    assert_eq!(x.len(), inputs * taps);
    for row in 0..rows {
        for column in 0..columns {
            let across = row / (rows / groups) * columns + column;
            let (input, output) = if transposed { (row, across) } else { (across, row) };
            for tap in 0..taps {
                y[output] += weight[(row * columns + column) * taps + tap] * x[input * taps + tap];
            }
        }
    }
    y
}

fn check<T: Number>(kind: wn_linear_kind, groups: usize, shape: &[i64], both_sides: bool) {
    let [rows, columns] = [shape[0] as usize, shape[1] as usize];
    let taps = shape[2..].iter().product::<i64>() as usize;
    let transposed = matches!(kind, wn_linear_kind::ConvTranspose);
    let (inputs, outs) = if transposed { (rows, columns * groups) } else { (columns * groups, rows) };
    let weight: Vec<f32> = noise(rows * columns * taps, 1).iter().map(|&value| value as f32).collect();
    let bias: Vec<f16> = noise(outs, 2).iter().map(|&value| f16::from_f64(value)).collect();
    // Before: one BatchNorm. After: a BatchNorm and a scale and shift behind it.
    let (first, second) = (Statistics::new(inputs, 10), Statistics::new(outs, 20));
    let (scale, shift) = (noise(outs, 30), noise(outs, 31));
    let scale_shift = wn_affine {
        kind: wn_affine_kind::ScaleShift as i32,
        reserved: 0,
        running_mean: NOTHING,
        running_var: NOTHING,
        weight: doubles(&scale),
        bias: doubles(&shift),
        eps: 0.0,
    };
    let before = if both_sides { vec![first.map()] } else { Vec::new() };
    let mut folded_weight = vec![T::default(); weight.len()];
    let mut folded_bias = vec![T::default(); outs];
    // SAFETY: plain numbers.
    let mut report: wn_fold_report = unsafe { zeroed() };
    let layer = linear(kind, groups as i64, array(&weight), shape, array(&bias));
    let after = [second.map(), scale_shift];
    ok(fold(&layer, &before, &after, &mut folded_weight, &mut folded_bias, Some(&mut report)));

    let x = noise(inputs * taps, 40);
    let normed: Vec<f64> =
        x.iter().enumerate().map(|(at, &x)| if both_sides { first.apply(at / taps, x) } else { x }).collect();
    let exact: Vec<f64> = weight.iter().map(|&value| f64::from(value)).collect();
    let unfolded = outputs(kind, groups, &exact, [rows, columns, taps], &normed);
    let kept: Vec<f64> = folded_weight.iter().map(|value| value.value()).collect();
    let folded = outputs(kind, groups, &kept, [rows, columns, taps], &x);
    let magnitudes: Vec<f64> = kept.iter().map(|value| value.abs()).collect();
    let most: Vec<f64> = x.iter().map(|x| x.abs()).collect();
    let terms = outputs(kind, groups, &magnitudes, [rows, columns, taps], &most);
    for channel in 0..outs {
        let plain = unfolded[channel] + bias[channel].to_f64();
        let expected = second.apply(channel, plain) * scale[channel] + shift[channel];
        let stored_bias = folded_bias[channel].value();
        // One rounding of each weight and of the bias.
        let bound = 2.0_f64.powi(-T::DIGITS) * (terms[channel] + stored_bias.abs()) * 1.001 + 1e-12;
        let error = (folded[channel] + stored_bias - expected).abs();
        assert!(error <= bound, "channel {channel} of {shape:?}: off by {error:e}, allowed {bound:e}");
    }
    let largest = kept.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    assert_eq!(report.weight.max_abs, largest);
    assert!(report.min_var_plus_eps >= 0.2 && report.max_abs_scale > 0.0 && report.dead_channels == 0);
}

#[test]
fn every_kind_of_layer() {
    for both_sides in [false, true] {
        check::<f32>(wn_linear_kind::Conv, 1, &[6, 4, 3, 3], both_sides);
        check::<f32>(wn_linear_kind::Conv, 6, &[6, 1, 5], both_sides);
        check::<bf16>(wn_linear_kind::Conv, 2, &[4, 3, 2, 2, 2], both_sides);
        check::<f16>(wn_linear_kind::Linear, 1, &[7, 5], both_sides);
    }
    // Before a transposed convolution a shift cannot be folded.
    check::<f32>(wn_linear_kind::ConvTranspose, 2, &[4, 3, 3, 3], false);
    check::<f16>(wn_linear_kind::ConvTranspose, 1, &[3, 2, 4], false);
}

#[test]
fn refusals_have_their_statuses() {
    let weight = [1.0_f32; 18];
    let statistics = Statistics::new(2, 3);
    let (mut folded, mut bias) = ([8.0_f32; 18], [8.0_f32; 2]);
    let conv = linear(wn_linear_kind::Conv, 1, array(&weight), &[2, 1, 3, 3], NOTHING);
    let mut attempt = |linear: &wn_linear, before: &[wn_affine], after: &[wn_affine], status, words: &str| {
        refused(fold(linear, before, after, &mut folded, &mut bias, None), status, words);
        assert!(folded == [8.0; 18] && bias == [8.0; 2], "a refused fold has written");
    };
    let map = statistics.map();
    let zero = [0.0_f64, -1.0];
    let mut bad = map;
    bad.running_var = doubles(&zero);
    attempt(&conv, &[], &[bad], wn_status::FoldInvalidVariance, "running_var of channel 1 is -1.0");
    bad.eps = f64::NAN;
    attempt(&conv, &[], &[bad], wn_status::FoldInvalidEps, "eps is NaN");
    bad = map;
    bad.bias = doubles(&zero[..1]);
    attempt(&conv, &[], &[bad], wn_status::FoldLengthMismatch, "bn.bias has 1 elements");
    let huge = [1e300, 1e300];
    bad = map;
    bad.weight = doubles(&huge);
    attempt(&conv, &[], &[bad], wn_status::FoldOverflow, "largest f32");
    let infinite = [f64::INFINITY, 0.0];
    bad.weight = doubles(&infinite);
    attempt(&conv, &[], &[bad], wn_status::FoldNonFinite, "bn.weight of channel 0");
    let none = [0.0, 0.0];
    bad = map;
    bad.running_var = doubles(&none);
    bad.eps = 0.0;
    attempt(&conv, &[], &[bad], wn_status::FoldZeroVariance, "divides by 0");
    let three = Statistics::new(3, 3);
    attempt(&conv, &[], &[three.map()], wn_status::FoldChannelMismatch, "3 channels");
    attempt(&conv, &[], &[map, three.map()], wn_status::FoldCompositionMismatch, "followed by one of 3");
    let one = Statistics::new(1, 3);
    let mut padded = conv;
    padded.padding = wn_padding::Zeros as i32;
    attempt(&padded, &[one.map()], &[], wn_status::FoldPaddedShift, "zero-padded");
    let transposed = linear(wn_linear_kind::ConvTranspose, 1, array(&weight), &[1, 2, 3, 3], NOTHING);
    attempt(&transposed, &[one.map()], &[], wn_status::FoldTransposedShift, "transposed");
    let shaped = |groups, shape: &[i64]| linear(wn_linear_kind::Conv, groups, array(&weight), shape, NOTHING);
    attempt(&shaped(1, &[2, 9]), &[], &[map], wn_status::FoldWeightRank, "axes");
    attempt(&shaped(1, &[2, 1, 3, 4]), &[], &[map], wn_status::FoldWeightLength, "18 elements");
    attempt(&shaped(0, &[2, 1, 3, 3]), &[], &[map], wn_status::FoldZeroGroups, "groups is 0");
    attempt(&shaped(3, &[2, 1, 3, 3]), &[], &[map], wn_status::FoldIndivisibleGroups, "3 equal groups");
    attempt(&shaped(1, &[i64::MAX, i64::MAX, 3]), &[], &[map], wn_status::FoldShapeOverflow, "counted");
    let empty = linear(wn_linear_kind::Conv, 1, array(&weight[..0]), &[2, 0, 3], NOTHING);
    attempt(&empty, &[], &[map], wn_status::FoldEmptyWeight, "length 0");
}
