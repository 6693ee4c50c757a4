//! Merging of branches through the library, against the sum of the branches in f64.

use std::ffi::c_void;
use std::mem::zeroed;
use std::ptr::{null, null_mut};

use half::{bf16, f16};

use crate::folding::{NOTHING, array, linear};
use crate::load::{library, ok, refused};
use crate::reference::{Number, noise};
use crate::types::{
    wn_affine, wn_affine_kind, wn_branch, wn_branch_kind, wn_fold_report, wn_linear, wn_linear_kind, wn_status,
};

const CHANNELS: usize = 4;

/// A convolution of rank 1 in two groups, `pad` inputs before and behind.
fn conv(weight: &[f32], bias: &[f32], pad: i64) -> wn_branch {
    let taps = (weight.len() / (CHANNELS * 2)) as i64;
    let bias = if bias.is_empty() { NOTHING } else { array(bias) };
    let linear = linear(wn_linear_kind::Conv, 2, array(weight), &[CHANNELS as i64, 2, taps], bias);
    wn_branch {
        kind: wn_branch_kind::Conv as i32,
        reserved: 0,
        linear,
        // What is beyond the kernel's axes does not count.
        strides: [1, -7, 0],
        dilations: [1, -7, 0],
        pads_begin: [pad, -7, -7],
        pads_end: [pad, -7, -7],
        after: null(),
        after_count: 0,
    }
}

fn identity() -> wn_branch {
    // SAFETY: plain numbers and null pointers.
    let linear: wn_linear = unsafe { zeroed() };
    wn_branch { kind: wn_branch_kind::Identity as i32, linear, ..conv(&[], &[], 0) }
}

fn scale_shift(scale: &[f32], shift: &[f32]) -> wn_affine {
    wn_affine {
        kind: wn_affine_kind::ScaleShift as i32,
        reserved: 0,
        running_mean: NOTHING,
        running_var: NOTHING,
        weight: array(scale),
        bias: array(shift),
        eps: 0.0,
    }
}

fn merge<T: Number>(
    branches: &[wn_branch],
    weight: &mut [T],
    bias: &mut [T],
    largest: *mut u64,
    report: *mut wn_fold_report,
) -> i32 {
    // SAFETY: the lengths are those of the slices.
    unsafe {
        (library().wn_fold_branches)(
            branches.as_ptr(),
            branches.len() as u64,
            T::DTYPE as i32,
            weight.as_mut_ptr().cast::<c_void>(),
            weight.len() as i64,
            bias.as_mut_ptr().cast::<c_void>(),
            bias.len() as i64,
            largest,
            report,
        )
    }
}

fn floats(len: usize, seed: u64) -> Vec<f32> {
    noise(len, seed).iter().map(|&value| value as f32).collect()
}

fn check<T: Number>() {
    let (pointwise, wide, bias) = (floats(CHANNELS * 2, 1), floats(CHANNELS * 6, 2), floats(CHANNELS, 3));
    let (scale, shift) = (floats(CHANNELS, 4), floats(CHANNELS, 5));
    let maps = [scale_shift(&scale, &shift), scale_shift(&shift, &scale)];
    let mapped = |branch| wn_branch { after: maps.as_ptr(), after_count: 2, ..branch };
    let branches = [conv(&pointwise, &bias, 0), mapped(conv(&wide, &bias, 1)), mapped(identity())];
    let (mut weight, mut merged_bias) = (vec![T::default(); wide.len()], vec![T::default(); CHANNELS]);
    // SAFETY: plain numbers.
    let (mut largest, mut report): (u64, wn_fold_report) = (9, unsafe { zeroed() });
    ok(merge(&branches, &mut weight, &mut merged_bias, &raw mut largest, &raw mut report));
    assert_eq!(largest, 1);

    let double = |value: f32| f64::from(value);
    let close = |found: T, expected: f64| {
        let bound = 2.0_f64.powi(-T::DIGITS) * expected.abs() * 1.001 + 1e-7;
        assert!((found.value() - expected).abs() <= bound, "{} for {expected}", found.value());
    };
    for output in 0..CHANNELS {
        let (first, second) = (double(scale[output]), double(shift[output]));
        let map = |x: f64| (x * first + second) * second + first;
        for column in 0..2 {
            for tap in 0..3 {
                let row = output * 2 + column;
                let mut expected = double(wide[row * 3 + tap]) * first * second;
                if tap == 1 {
                    expected += double(pointwise[row]);
                    expected += if output % 2 == column { first * second } else { 0.0 };
                }
                close(weight[row * 3 + tap], expected);
            }
        }
        close(merged_bias[output], double(bias[output]) + map(double(bias[output])) + map(0.0));
    }
    let most = weight.iter().fold(0.0_f64, |most, value| most.max(value.value().abs()));
    assert_eq!((report.weight.max_abs, report.min_var_plus_eps), (most, f64::INFINITY));
    // Who does not ask where the largest kernel is, nor for a report, is not told.
    let first = weight[0].value();
    weight[0] = T::default();
    ok(merge(&branches, &mut weight, &mut merged_bias, null_mut(), null_mut()));
    assert_eq!(weight[0].value(), first);
}

#[test]
fn branches_become_one() {
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

#[test]
fn refusals_of_branches_have_their_statuses() {
    let (pointwise, wide) = (floats(CHANNELS * 2, 1), floats(CHANNELS * 6, 2));
    let (mut weight, mut bias) = ([8.0_f32; CHANNELS * 6], [8.0_f32; CHANNELS]);
    let good = [conv(&wide, &[], 1), conv(&pointwise, &[], 0)];
    let mut largest = 9;
    let mut attempt = |branches: &[wn_branch], status, words: &str| {
        refused(merge(branches, &mut weight, &mut bias, &raw mut largest, null_mut()), status, words);
        assert!(weight == [8.0; CHANNELS * 6] && bias == [8.0; CHANNELS] && largest == 9, "a refusal has written");
    };
    let second = |spoil: &dyn Fn(&mut wn_branch)| {
        let mut branches = good;
        spoil(&mut branches[1]);
        branches
    };
    attempt(&[], wn_status::FoldNothingToMerge, "none of the 0 branches");
    attempt(&[identity()], wn_status::FoldNothingToMerge, "none of the 1 branches");
    let transposed = second(&|branch| branch.linear.kind = wn_linear_kind::ConvTranspose as i32);
    attempt(&transposed, wn_status::FoldNotAConvolution, "of branch 1: it is a ConvTranspose");
    let groups = second(&|branch| branch.linear.groups = 1);
    attempt(&groups, wn_status::FoldUnequalBranches, "of branch 1: it has 1 groups");
    let rectangle = linear(wn_linear_kind::Conv, 1, array(&wide), &[3, 4, 2], NOTHING);
    let rectangle = [wn_branch { linear: rectangle, ..good[1] }, identity()];
    attempt(&rectangle, wn_status::FoldIdentityChannels, "of branch 1: it is an identity");
    attempt(&second(&|branch| branch.strides[0] = 0), wn_status::FoldZeroStep, "strides of axis 0 is 0");
    attempt(&second(&|branch| branch.strides[0] = 2), wn_status::FoldUnequalStrides, "is 2, but that of the largest");
    attempt(&second(&|branch| branch.pads_begin[0] = 2), wn_status::FoldKernelOutside, "on axis 0");
    // What concerns one of the branches has the status that it has without branches.
    attempt(
        &second(&|branch| branch.linear.weight_shape[2] = 2),
        wn_status::FoldWeightLength,
        "of branch 1: layer.weight",
    );
    let infinite = [f32::INFINITY; CHANNELS * 2];
    attempt(&[good[0], conv(&infinite, &[], 0)], wn_status::FoldNonFinite, "of branch 1: layer.weight of channel 0");
    let large = [3e38; CHANNELS * 2];
    let sum = [good[0], conv(&large, &[], 0), conv(&large, &[], 0)];
    attempt(&sum, wn_status::FoldOverflow, "the largest f32");

    let mut odd = |spoil: &dyn Fn(&mut wn_branch), status, words: &str| attempt(&second(spoil), status, words);
    let invalid = || wn_status::InvalidValue;
    for code in [0, 3, -1, i32::MAX] {
        odd(&|branch| branch.kind = code, invalid(), "`kind` of a branch");
        odd(&|branch| branch.linear.kind = if code == 3 { 9 } else { code.min(0) }, invalid(), "`kind` of a layer");
    }
    odd(&|branch| branch.reserved = 1, invalid(), "`reserved` of a branch");
    odd(&|branch| branch.kind = wn_branch_kind::Identity as i32, invalid(), "no weight");
    odd(&|branch| branch.strides[0] = -1, invalid(), "`strides`");
    odd(&|branch| branch.dilations[0] = i64::MIN, invalid(), "`dilations`");
    odd(&|branch| branch.pads_begin[0] = -1, invalid(), "`pads_begin`");
    odd(&|branch| branch.pads_end[0] = -1, invalid(), "`pads_end`");
    odd(&|branch| branch.pads_end[0] = i64::MAX, wn_status::FoldKernelOutside, "on axis 0");
    odd(&|branch| branch.linear.padding = 9, invalid(), "`padding`");
    odd(&|branch| branch.linear.weight_rank = 9, wn_status::Rank, "9 axes");
    odd(&|branch| branch.linear.weight_rank = 2, wn_status::FoldWeightRank, "2 axes");
    odd(&|branch| branch.linear.weight = NOTHING, wn_status::Null, "linear.weight");
    odd(&|branch| branch.after_count = 1, wn_status::Null, "`after`");
    let none = null::<wn_branch>();
    let (w, b) = (weight.as_mut_ptr().cast::<c_void>(), bias.as_mut_ptr().cast::<c_void>());
    let (c, list, nobody) = (library(), good.as_ptr(), null_mut::<wn_fold_report>());
    let (lens, places) = ((24_i64, 4_i64), null_mut::<u64>());
    // SAFETY: what is not null is as long as said, or refused.
    unsafe {
        let attempt = |list, count, dtype, w, w_len, b, b_len| {
            (c.wn_fold_branches)(list, count, dtype, w, w_len, b, b_len, places, nobody)
        };
        refused(attempt(none, 2, 1, w, lens.0, b, lens.1), wn_status::Null, "branches");
        refused(attempt(none, u64::MAX, 1, w, lens.0, b, lens.1), wn_status::Null, "branches");
        refused(attempt(list, u64::MAX, 1, w, lens.0, b, lens.1), invalid(), "branches");
        let misplaced = list.wrapping_byte_add(1);
        refused(attempt(misplaced, 2, 1, w, lens.0, b, lens.1), wn_status::Misaligned, "branches");
        refused(attempt(list, 2, 1, null_mut(), lens.0, b, lens.1), wn_status::Null, "weight");
        refused(attempt(list, 2, 1, w, lens.0, null_mut(), lens.1), wn_status::Null, "bias");
        refused(attempt(list, 2, 1, w, -1, b, lens.1), invalid(), "weight_len");
        refused(attempt(list, 2, 1, w, lens.0, b, i64::MIN), invalid(), "bias_len");
        refused(attempt(list, 2, 1, w, 23, b, lens.1), wn_status::FoldLengthMismatch, "23 elements");
        for dtype in [0, 4, -1] {
            refused(attempt(list, 2, dtype, w, lens.0, b, lens.1), invalid(), "dtype");
        }
        ok(attempt(list, 2, 1, w, lens.0, b, lens.1));
    }
}
