//! Every option with every other: a set of calls in which each pair of choices occurs, over every layer and type.

use std::collections::HashSet;

use warpnorm::half::{bf16, f16};
use warpnorm::{Activation, Layout};

use crate::call::{Call, Coefficient, Inputs, Layer, Modulation, PerTensor, Residual, verify_cpu, verify_cuda};
use crate::device;
use crate::place::Real;

const LAYERS: [Layer; 13] = [
    Layer::LayerNorm,
    Layer::RmsNorm { weight_plus_one: false },
    Layer::RmsNorm { weight_plus_one: true },
    Layer::group_norm(3),
    Layer::INSTANCE_NORM,
    Layer::InstanceNormTracked,
    Layer::BatchNorm { layout: Layout::Nchw, table: false },
    Layer::BatchNorm { layout: Layout::Nhwc, table: false },
    Layer::BatchNorm { layout: Layout::Nhwc, table: true },
    Layer::GroupNorm { groups: 2, layout: Layout::Nhwc },
    Layer::InstanceNorm { layout: Layout::Nhwc },
    Layer::BatchStatistics { layout: Layout::Nchw, momentum: Some(0.1) },
    Layer::BatchStatistics { layout: Layout::Nhwc, momentum: None },
];
const COEFFICIENTS: [Coefficient; 3] = [Coefficient::Absent, Coefficient::Own, Coefficient::F32];
const RESIDUALS: [Residual; 4] = [Residual::Absent, Residual::Added, Residual::SumWritten, Residual::SumInPlace];
const ACTIVATIONS: [Activation; 5] =
    [Activation::None, Activation::Relu, Activation::Silu, Activation::Gelu, Activation::GeluTanh];
const OFFSETS: [usize; 4] = [0, 1, 3, 4];
const GAPS: [usize; 4] = [0, 1, 8, 3];
/// A length, and a spatial size, for each regime.
const SIZES: [(usize, [usize; 2]); 7] = [
    (37, [1, 1]),
    (256, [7, 7]),
    (500, [8, 8]),
    (1000, [16, 17]),
    (2056, [32, 32]),
    (17_001, [95, 94]),
    (33_000, [128, 128]),
];

/// What samples have of their own; for the layers that take it, and of channel bias and gate the one that they take.
const MODULATIONS: [Modulation; 4] = [
    Modulation::NONE,
    Modulation { scale: Coefficient::Own, shift: Coefficient::F32, scale_plus_one: true, ..Modulation::NONE },
    Modulation { channel_bias: Coefficient::Own, gate: Coefficient::Own, ..Modulation::NONE },
    Modulation {
        scale: Coefficient::F32,
        shift: Coefficient::Own,
        channel_bias: Coefficient::F32,
        gate: Coefficient::F32,
        scale_plus_one: false,
    },
];

/// How many choices there are of each kind.
const CHOICES: [usize; 11] = [
    LAYERS.len(),
    COEFFICIENTS.len(),
    COEFFICIENTS.len(),
    RESIDUALS.len(),
    ACTIVATIONS.len(),
    2,
    OFFSETS.len() * GAPS.len(),
    SIZES.len(),
    MODULATIONS.len(),
    COEFFICIENTS.len(),
    2,
];

/// Rows of choices in which every pair of choices of different kinds occurs: each time the best of some random ones.
fn pairwise() -> Vec<[usize; CHOICES.len()]> {
    let pairs_of = |row: &[usize; CHOICES.len()]| {
        let row = *row;
        (0..row.len()).flat_map(move |i| (i + 1..row.len()).map(move |j| (i, row[i], j, row[j])))
    };
    let mut missing = HashSet::new();
    for (i, &first) in CHOICES.iter().enumerate() {
        for (j, &second) in CHOICES.iter().enumerate().skip(i + 1) {
            missing.extend((0..first).flat_map(|a| (0..second).map(move |b| (i, a, j, b))));
        }
    }
    let mut state = 1_u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut rows = Vec::new();
    while !missing.is_empty() {
        let candidates: Vec<_> = (0..40).map(|_| CHOICES.map(&mut draw)).collect();
        let gain = |row: &[usize; CHOICES.len()]| pairs_of(row).filter(|pair| missing.contains(pair)).count();
        if let Some(best) = candidates.into_iter().max_by_key(gain).filter(|best| gain(best) > 0) {
            missing = &missing - &pairs_of(&best).collect();
            rows.push(best);
        }
    }
    rows
}

fn calls() -> impl Iterator<Item = Call> {
    pairwise().into_iter().map(|choices| {
        let [layer, weight, bias, residual, activation, in_place, place, size, modulation, input_bias, second] =
            choices;
        let (length, [height, width]) = SIZES[size];
        let layer = LAYERS[layer];
        let shape = match layer {
            Layer::LayerNorm | Layer::RmsNorm { .. } => vec![2, 2, length],
            layer if layer.is_channels_last() => vec![2, height, width, 6],
            _ => vec![2, 6, height, width],
        };
        let rows = matches!(layer, Layer::LayerNorm | Layer::RmsNorm { .. });
        let mut weight = COEFFICIENTS[weight];
        if layer == (Layer::RmsNorm { weight_plus_one: true }) && weight == Coefficient::Absent {
            weight = Coefficient::Own; // an offset needs something to be an offset of
        }
        let modulation = match layer {
            Layer::GroupNorm { .. } | Layer::InstanceNorm { .. } => {
                Modulation { gate: Coefficient::Absent, ..MODULATIONS[modulation] }
            }
            _ if rows => Modulation { channel_bias: Coefficient::Absent, ..MODULATIONS[modulation] },
            _ => Modulation::NONE,
        };
        Call {
            modulation,
            weight,
            bias: COEFFICIENTS[bias],
            residual: RESIDUALS[residual],
            second_residual: rows && RESIDUALS[residual] != Residual::Absent && second == 1,
            input_bias: if rows { COEFFICIENTS[input_bias] } else { Coefficient::Absent },
            activation: ACTIVATIONS[activation],
            in_place: in_place == 1,
            offsets: places(&OFFSETS, place / GAPS.len()),
            gaps: if rows { places(&GAPS, place % GAPS.len()) } else { PerTensor::default() },
            ..Call::new(layer, &shape)
        }
    })
}

/// The first choice is the plain case, the same for every tensor; the others are unlike.
fn places(choices: &[usize], start: usize) -> PerTensor {
    if start == 0 { PerTensor::all(choices[0]) } else { PerTensor::unlike(start, choices) }
}

fn all<T: Real>(verify: &dyn Fn(&Call, &Inputs<T>)) {
    for (seed, call) in calls().enumerate() {
        verify(&call, &Inputs::normal(&call, seed as u64));
    }
}

#[test]
fn pairs_of_options_f32_on_cuda() {
    let device = device::cuda();
    all::<f32>(&|call, inputs| drop(verify_cuda(&device, call, inputs)));
}

#[test]
fn pairs_of_options_f16_on_cuda() {
    let device = device::cuda();
    all::<f16>(&|call, inputs| drop(verify_cuda(&device, call, inputs)));
}

#[test]
fn pairs_of_options_bf16_on_cuda() {
    let device = device::cuda();
    all::<bf16>(&|call, inputs| drop(verify_cuda(&device, call, inputs)));
}

#[test]
fn pairs_of_options_on_cpu() {
    all::<f32>(&|call, inputs| drop(verify_cpu(call, inputs)));
    all::<f16>(&|call, inputs| drop(verify_cpu(call, inputs)));
    all::<bf16>(&|call, inputs| drop(verify_cpu(call, inputs)));
}
