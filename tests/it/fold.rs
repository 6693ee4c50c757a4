//! Folded layers against plain loops: every stored number bit for bit, and every output to a bound.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "test data are small, and exact results are the point"
)]

use half::{bf16, f16};
use proptest::prelude::*;
use warpnorm::{
    DType, Element,
    fold::{Affine, BatchNormParams, Folded, Layer, LinearOp, Padding, Warning},
};

/// The layers and the rounding, written apart from the code under test and as plainly as they can be.
pub mod reference {
    use super::{DType, Element};

    /// Depth, height and width; layers of fewer axes have 1 (or padding 0) in front.
    pub type Axes = [usize; 3];

    #[derive(Debug, Clone, Copy)]
    pub struct Window {
        pub stride: Axes,
        pub padding: Axes,
        pub dilation: Axes,
        pub output_padding: Axes,
    }

    pub const PLAIN: Window = Window { stride: [1; 3], padding: [0; 3], dilation: [1; 3], output_padding: [0; 3] };

    #[derive(Debug, Clone, PartialEq)]
    pub struct Tensor {
        pub batch: usize,
        pub channels: usize,
        pub size: Axes,
        pub data: Vec<f64>,
    }

    impl Tensor {
        pub fn zeros(batch: usize, channels: usize, size: Axes) -> Self {
            let data = vec![0.0; batch * channels * size.iter().product::<usize>()];
            Self { batch, channels, size, data }
        }

        pub fn index(&self, n: usize, c: usize, at: Axes) -> usize {
            (((n * self.channels + c) * self.size[0] + at[0]) * self.size[1] + at[1]) * self.size[2] + at[2]
        }

        /// The channel of an element.
        pub fn channel_of(&self, index: usize) -> usize {
            index / self.size.iter().product::<usize>() % self.channels
        }

        pub fn map(&self, f: impl Fn(usize, f64) -> f64) -> Self {
            let data = self.data.iter().enumerate().map(|(index, &x)| f(self.channel_of(index), x)).collect();
            Self { data, ..self.clone() }
        }

        pub fn abs(&self) -> Self {
            self.map(|_, x| x.abs())
        }
    }

    pub fn positions(size: Axes) -> impl Iterator<Item = Axes> {
        (0..size[0]).flat_map(move |z| (0..size[1]).flat_map(move |y| (0..size[2]).map(move |x| [z, y, x])))
    }

    fn each_axis(f: impl Fn(usize) -> usize) -> Axes {
        [f(0), f(1), f(2)]
    }

    /// Weight `[outputs, inputs / groups, kernel]`.
    pub fn conv(x: &Tensor, weight: &[f64], outputs: usize, kernel: Axes, groups: usize, window: &Window) -> Tensor {
        let &Window { stride, padding, dilation, .. } = window;
        let size = each_axis(|a| (x.size[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) / stride[a] + 1);
        let inputs_per_group = x.channels / groups;
        let mut y = Tensor::zeros(x.batch, outputs, size);
        for n in 0..x.batch {
            for o in 0..outputs {
                let group = o / (outputs / groups);
                for at in positions(size) {
                    let mut sum = 0.0;
                    for c in 0..inputs_per_group {
                        for (tap, k) in positions(kernel).enumerate() {
                            let from = each_axis(|a| (at[a] * stride[a] + k[a] * dilation[a]).wrapping_sub(padding[a]));
                            if (0..3).all(|a| from[a] < x.size[a]) {
                                let taps = kernel.iter().product::<usize>();
                                let w = weight[(o * inputs_per_group + c) * taps + tap];
                                sum += w * x.data[x.index(n, group * inputs_per_group + c, from)];
                            }
                        }
                    }
                    let index = y.index(n, o, at);
                    y.data[index] = sum;
                }
            }
        }
        y
    }

    /// Weight `[inputs, outputs / groups, kernel]`: each input scatters into the outputs of its group.
    pub fn conv_transpose(
        x: &Tensor,
        weight: &[f64],
        outputs_per_group: usize,
        kernel: Axes,
        groups: usize,
        window: &Window,
    ) -> Tensor {
        let &Window { stride, padding, dilation, output_padding } = window;
        let size = each_axis(|a| {
            (x.size[a] - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + output_padding[a] + 1 - 2 * padding[a]
        });
        let inputs_per_group = x.channels / groups;
        let taps = kernel.iter().product::<usize>();
        let mut y = Tensor::zeros(x.batch, groups * outputs_per_group, size);
        for n in 0..x.batch {
            for group in 0..groups {
                for c in group * inputs_per_group..(group + 1) * inputs_per_group {
                    for j in 0..outputs_per_group {
                        for at in positions(x.size) {
                            for (tap, k) in positions(kernel).enumerate() {
                                let to =
                                    each_axis(|a| (at[a] * stride[a] + k[a] * dilation[a]).wrapping_sub(padding[a]));
                                if (0..3).all(|a| to[a] < size[a]) {
                                    let index = y.index(n, group * outputs_per_group + j, to);
                                    let w = weight[(c * outputs_per_group + j) * taps + tap];
                                    y.data[index] += w * x.data[x.index(n, c, at)];
                                }
                            }
                        }
                    }
                }
            }
        }
        y
    }

    /// Weight `[outputs, inputs]`.
    pub fn linear(x: &Tensor, weight: &[f64], outputs: usize) -> Tensor {
        let mut y = Tensor::zeros(x.batch, outputs, [1; 3]);
        for n in 0..x.batch {
            for o in 0..outputs {
                for c in 0..x.channels {
                    y.data[n * outputs + o] += weight[o * x.channels + c] * x.data[n * x.channels + c];
                }
            }
        }
        y
    }

    /// (Bits of the significand, exponent of the smallest normal number).
    pub fn format(dtype: DType) -> (i32, i32) {
        match dtype {
            DType::F32 => (24, -126),
            DType::F16 => (11, -14),
            DType::Bf16 => (8, -126),
            other => unreachable!("{other}"),
        }
    }

    /// The finite `value` to the nearest number of a type, by scaling its last bit to 1.
    pub fn round<T: Element>(value: f64) -> f64 {
        let (bits, min_exponent) = format(T::DTYPE);
        if value == 0.0 {
            return value;
        }
        let exponent = (((value.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(min_exponent);
        let last_bit = 2.0_f64.powi(exponent - bits + 1);
        (value / last_bit).round_ties_even() * last_bit
    }
}

use reference::{Axes, PLAIN, Tensor, Window};

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 * 2.0_f64.powi(-53)
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    pub fn values(&mut self, len: usize, low: f64, high: f64) -> Vec<f32> {
        (0..len).map(|_| self.between(low, high) as f32).collect()
    }
}

/// The statistics and parameters of a trained network: some weights negative, one 0, variances over four decades.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    mean: Vec<f32>,
    var: Vec<f32>,
    eps: f64,
}

impl BatchNorm {
    pub fn random(random: &mut Random, channels: usize, weight: bool, bias: bool) -> Self {
        let mut weights = random.values(channels, -0.5, 1.5);
        if channels > 2 {
            weights[2] = 0.0;
        }
        Self {
            weight: weight.then_some(weights),
            bias: bias.then(|| random.values(channels, -1.0, 1.0)),
            mean: random.values(channels, -1.0, 1.0),
            var: (0..channels).map(|_| 10.0_f64.powf(random.between(-3.0, 1.0)) as f32).collect(),
            eps: 1e-3,
        }
    }

    /// Takes 0 to 0.
    fn without_shift(mut self) -> Self {
        self.bias = None;
        self.mean.fill(0.0);
        self
    }

    fn params(&self) -> BatchNormParams<'_> {
        let mut params = BatchNormParams::new(&self.mean, &self.var, self.eps);
        if let Some(weight) = &self.weight {
            params = params.weight(weight);
        }
        if let Some(bias) = &self.bias {
            params = params.bias(bias);
        }
        params
    }

    pub fn affine(&self) -> Affine {
        self.params().affine().unwrap()
    }

    fn weight(&self, channel: usize) -> f64 {
        self.weight.as_ref().map_or(1.0, |weight| f64::from(weight[channel]))
    }

    fn bias(&self, channel: usize) -> f64 {
        self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[channel]))
    }

    pub fn scale(&self, channel: usize) -> f64 {
        self.weight(channel) / (f64::from(self.var[channel]) + self.eps).sqrt()
    }

    pub fn apply(&self, x: &Tensor) -> Tensor {
        x.map(|c, x| {
            (x - f64::from(self.mean[c])) / (f64::from(self.var[c]) + self.eps).sqrt() * self.weight(c) + self.bias(c)
        })
    }
}

/// A layer and an input for it.
#[derive(Debug, Clone)]
struct Case {
    layer: Layer,
    shape: Vec<usize>,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
    window: Window,
    x: Tensor,
}

impl Case {
    /// `spatial` axes: 0 for Linear. Kernel and input differ along each axis, so that no two can be confused.
    fn new(random: &mut Random, layer: Layer, inputs: usize, outputs: usize, spatial: usize, bias: bool) -> Self {
        let lead = 3 - spatial;
        let axes = |values: Axes| -> Axes { std::array::from_fn(|a| if a < lead { 1 } else { values[a] }) };
        let (kernel, size) = (axes([2, 1, 3]), axes([4, 3, 6]));
        let mut shape = match layer {
            Layer::Conv { groups } => vec![outputs, inputs / groups],
            Layer::ConvTranspose { groups } => vec![inputs, outputs / groups],
            _ => vec![outputs, inputs],
        };
        shape.extend(&kernel[lead..]);
        let weight = random.values(shape.iter().product(), -1.0, 1.0);
        let bias = bias.then(|| random.values(outputs, -1.0, 1.0));
        let mut x = Tensor::zeros(2, inputs, size);
        x.data.fill_with(|| random.between(-1.0, 1.0));
        Self { layer, shape, weight, bias, inputs, outputs, window: PLAIN, x }
    }

    /// Stride, dilation, padding and output padding on the axes that the layer has.
    fn with_border(mut self) -> Self {
        let lead = 5 - self.shape.len();
        let axes = |values: Axes, other| std::array::from_fn(|a| if a < lead { other } else { values[a] });
        self.window = Window {
            stride: axes([2, 1, 3], 1),
            padding: axes([1, 0, 2], 0),
            dilation: axes([1, 2, 2], 1),
            output_padding: axes([1, 0, 2], 0),
        };
        self
    }

    fn op(&self) -> LinearOp<'_> {
        let op = LinearOp::new(self.layer, &self.weight, &self.shape);
        self.bias.as_ref().map_or(op, |bias| op.bias(bias))
    }

    fn run(&self, x: &Tensor, weight: &[f64], bias: &[f64]) -> Tensor {
        let mut kernel = [1; 3];
        let taps = &self.shape[2..];
        kernel[3 - taps.len()..].copy_from_slice(taps);
        let y = match self.layer {
            Layer::Conv { groups } => reference::conv(x, weight, self.outputs, kernel, groups, &self.window),
            Layer::ConvTranspose { groups } => {
                reference::conv_transpose(x, weight, self.shape[1], kernel, groups, &self.window)
            }
            _ => reference::linear(x, weight, self.outputs),
        };
        y.map(|c, y| y + bias[c])
    }

    /// The layer as it was before the fold.
    fn run_unfolded(&self, x: &Tensor) -> Tensor {
        let weight: Vec<_> = self.weight.iter().copied().map(f64::from).collect();
        let bias: Vec<_> = (0..self.outputs).map(|o| self.bias_of(o)).collect();
        self.run(x, &weight, &bias)
    }

    fn bias_of(&self, output: usize) -> f64 {
        self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[output]))
    }

    /// (Input channel, output channel) of an element of the weight.
    fn channels_of(&self, index: usize) -> (usize, usize) {
        let taps: usize = self.shape[2..].iter().product();
        let (first, second) = (index / taps / self.shape[1], index / taps % self.shape[1]);
        match self.layer {
            Layer::Conv { groups } => (first / (self.outputs / groups) * (self.inputs / groups) + second, first),
            Layer::ConvTranspose { groups } => {
                (first, first / (self.inputs / groups) * (self.outputs / groups) + second)
            }
            _ => (second, first),
        }
    }

    /// The weights before they are rounded.
    fn expected_weight(&self, before: Option<&BatchNorm>, after: Option<&BatchNorm>) -> Vec<f64> {
        let weights = self.weight.iter().enumerate();
        weights
            .map(|(index, &weight)| {
                let (input, output) = self.channels_of(index);
                let before = before.map_or(1.0, |before| before.scale(input));
                f64::from(weight) * before * after.map_or(1.0, |after| after.scale(output))
            })
            .collect()
    }

    /// Folds into `T`, and checks every stored number and every output.
    fn check<T: Element>(&self, before: Option<&BatchNorm>, after: Option<&BatchNorm>, padding: Padding) {
        let (first, last) = (before.map(BatchNorm::affine), after.map(BatchNorm::affine));
        let folded: Folded<T> = self.op().fold(first.as_ref().map(|map| (map, padding)), last.as_ref()).unwrap();
        let weight: Vec<f64> = folded.weight.iter().map(|value| value.to_f64()).collect();
        let bias: Vec<f64> = folded.bias.iter().map(|value| value.to_f64()).collect();

        for (index, expected) in self.expected_weight(before, after).into_iter().enumerate() {
            assert_eq!(
                weight[index].to_bits(),
                reference::round::<T>(expected).to_bits(),
                "weight {index} of {self:?}"
            );
        }
        if let (None, Some(after)) = (before, after) {
            for (o, bias) in bias.iter().enumerate() {
                let expected = (self.bias_of(o) - f64::from(after.mean[o])) * after.scale(o) + after.bias(o);
                assert_eq!(bias.to_bits(), reference::round::<T>(expected).to_bits(), "bias {o} of {self:?}");
            }
        }

        // Each weight, and the bias, is off by at most half its last bit, and so is their sum; the rest is f64's.
        let (digits, min_exponent) = reference::format(T::DTYPE);
        let relative = 2.0_f64.powi(-digits) + 1e-13;
        let subnormal = 2.0_f64.powi(min_exponent - digits);
        let abs = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
        let normalized = before.map_or_else(|| self.x.clone(), |before| before.apply(&self.x));
        let unfolded = self.run_unfolded(&normalized);
        let expected = after.map_or_else(|| unfolded.clone(), |after| after.apply(&unfolded));
        let found = self.run(&self.x, &weight, &bias);
        let magnitude = self.run(&self.x.abs(), &abs(&weight), &abs(&bias));
        assert_eq!((found.size, found.channels), (expected.size, expected.channels));
        for (index, (found, expected)) in found.data.iter().zip(&expected.data).enumerate() {
            let bound = relative * magnitude.data[index] + subnormal * (1.0 + self.weight.len() as f64);
            let error = (found - expected).abs();
            // What the unfolded layer itself loses in f64 where a large intermediate value cancels.
            assert!(error <= bound + 1e-10, "{}: {error:e} > {bound:e} in {self:?}", T::DTYPE);
        }
    }

    fn check_all_types(&self, before: Option<&BatchNorm>, after: Option<&BatchNorm>, padding: Padding) {
        self.check::<f32>(before, after, padding);
        self.check::<f16>(before, after, padding);
        self.check::<bf16>(before, after, padding);
    }
}

/// (Inputs, outputs, groups): the last two are depthwise, with multipliers 1 and 2.
const CONVOLUTIONS: [(usize, usize, usize); 5] = [(3, 5, 1), (4, 6, 2), (8, 4, 4), (5, 5, 5), (3, 6, 3)];

const BOTH: [bool; 2] = [false, true];

#[test]
fn batch_norm_after_convolution() {
    let mut random = Random(1);
    for spatial in 1..=3 {
        for (inputs, outputs, groups) in CONVOLUTIONS {
            for bias in BOTH {
                for (bn_weight, bn_bias) in [(false, false), (false, true), (true, false), (true, true)] {
                    let case = Case::new(&mut random, Layer::Conv { groups }, inputs, outputs, spatial, bias);
                    let batch_norm = BatchNorm::random(&mut random, outputs, bn_weight, bn_bias);
                    case.check_all_types(None, Some(&batch_norm), Padding::None);
                    case.with_border().check_all_types(None, Some(&batch_norm), Padding::Zeros);
                }
            }
        }
    }
}

#[test]
fn batch_norm_after_transposed_convolution() {
    let mut random = Random(2);
    for spatial in 1..=3 {
        // The third is the trap: its axis 0 has as many channels as the output.
        for (inputs, outputs, groups) in [(3, 5, 1), (6, 4, 2), (4, 4, 1), (4, 4, 2), (5, 5, 5), (3, 6, 3)] {
            for bias in BOTH {
                for bn_weight in BOTH {
                    let layer = Layer::ConvTranspose { groups };
                    let case = Case::new(&mut random, layer, inputs, outputs, spatial, bias);
                    let batch_norm = BatchNorm::random(&mut random, outputs, bn_weight, bn_weight);
                    case.check_all_types(None, Some(&batch_norm), Padding::None);
                    case.with_border().check_all_types(None, Some(&batch_norm), Padding::None);
                }
            }
        }
    }
}

#[test]
fn batch_norm_beside_linear() {
    let mut random = Random(3);
    for (inputs, outputs) in [(1, 1), (7, 3), (5, 5), (2, 9)] {
        for bias in BOTH {
            for bn_weight in BOTH {
                let case = Case::new(&mut random, Layer::Linear, inputs, outputs, 0, bias);
                let after = BatchNorm::random(&mut random, outputs, bn_weight, bn_weight);
                let before = BatchNorm::random(&mut random, inputs, bn_weight, bn_weight);
                case.check_all_types(None, Some(&after), Padding::None);
                case.check_all_types(Some(&before), None, Padding::None);
                case.check_all_types(Some(&before), Some(&after), Padding::None);
            }
        }
    }
}

#[test]
fn batch_norm_before_convolution_without_padding() {
    let mut random = Random(4);
    for spatial in 1..=3 {
        for (inputs, outputs, groups) in CONVOLUTIONS {
            for bias in BOTH {
                let mut case = Case::new(&mut random, Layer::Conv { groups }, inputs, outputs, spatial, bias);
                let before = BatchNorm::random(&mut random, inputs, bias, true);
                let after = BatchNorm::random(&mut random, outputs, true, bias);
                case.check_all_types(Some(&before), None, Padding::None);
                case.check_all_types(Some(&before), Some(&after), Padding::None);
                case = case.with_border();
                case.window.padding = [0; 3];
                case.check_all_types(Some(&before), None, Padding::None);
            }
        }
    }
}

#[test]
fn a_map_without_a_shift_folds_into_what_follows_whatever_its_border() {
    let mut random = Random(5);
    for spatial in 1..=3 {
        for layer in [Layer::Conv { groups: 2 }, Layer::ConvTranspose { groups: 2 }] {
            let case = Case::new(&mut random, layer, 4, 6, spatial, true).with_border();
            let before = BatchNorm::random(&mut random, 4, true, false).without_shift();
            let after = BatchNorm::random(&mut random, 6, true, true);
            case.check_all_types(Some(&before), None, Padding::Zeros);
            case.check_all_types(Some(&before), Some(&after), Padding::Zeros);
        }
    }
}

/// Which element of a row of some width stands at a place, which may be negative or beyond the width.
type Source = fn(isize, isize) -> isize;

#[test]
fn a_border_of_input_values_has_gone_through_the_batch_norm() {
    let mut random = Random(6);
    let (border, width) = (2_isize, 6_isize);
    let sources: [(Padding, Source); 3] = [
        (Padding::Reflect, |at, width| {
            if at < 0 {
                -at
            } else if at >= width {
                2 * (width - 1) - at
            } else {
                at
            }
        }),
        (Padding::Replicate, |at, width| at.clamp(0, width - 1)),
        (Padding::Circular, isize::rem_euclid),
    ];
    for (padding, source) in sources {
        let case = Case::new(&mut random, Layer::Conv { groups: 1 }, 2, 3, 1, true);
        let before = BatchNorm::random(&mut random, 2, true, true);
        let pad = |x: &Tensor| {
            let mut padded = Tensor::zeros(x.batch, x.channels, [1, 1, (width + 2 * border) as usize]);
            for n in 0..x.batch {
                for c in 0..x.channels {
                    for at in 0..width + 2 * border {
                        let index = padded.index(n, c, [0, 0, at as usize]);
                        let from = source(at - border, width) as usize;
                        padded.data[index] = x.data[x.index(n, c, [0, 0, from])];
                    }
                }
            }
            padded
        };
        let folded: Folded<f32> = case.op().fold_before(&before.affine(), padding).unwrap();
        let expected = case.run_unfolded(&pad(&before.apply(&case.x)));
        let found = case.run(&pad(&case.x), &to_f64(&folded.weight), &to_f64(&folded.bias));
        approx::assert_abs_diff_eq!(found.data[..], expected.data[..], epsilon = 1e-4);
    }
}

fn to_f64<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    a.data.iter().zip(&b.data).fold(0.0, |most, (a, b)| (a - b).abs().max(most))
}

/// The tests above would catch a transposed weight that is scaled along the wrong axis.
#[test]
fn scaling_a_transposed_convolution_along_axis_0_is_wrong() {
    let mut random = Random(7);
    for (groups, channels) in [(1, 4), (2, 4), (2, 6)] {
        let case = Case::new(&mut random, Layer::ConvTranspose { groups }, channels, channels, 2, false);
        let batch_norm = BatchNorm::random(&mut random, channels, true, false);
        let expected = batch_norm.apply(&case.run_unfolded(&case.x));

        let folded: Folded<f32> = case.op().fold_after(&batch_norm.affine()).unwrap();
        let bias = to_f64(&folded.bias);
        let right = case.run(&case.x, &to_f64(&folded.weight), &bias);
        assert!(max_difference(&right, &expected) < 1e-4);

        let row = case.weight.len() / channels;
        let weight = case.weight.iter().enumerate();
        let wrong: Vec<_> = weight.map(|(index, &w)| f64::from(w) * batch_norm.scale(index / row)).collect();
        assert!(max_difference(&case.run(&case.x, &wrong, &bias), &expected) > 1e-2);
    }
}

/// What the refusal of a padded convolution protects from.
#[test]
fn folding_a_shift_through_zero_padding_is_wrong_at_the_border() {
    let mut random = Random(8);
    let mut case = Case::new(&mut random, Layer::Conv { groups: 1 }, 2, 3, 1, true);
    case.window.padding = [0, 0, 1];
    let before = BatchNorm::random(&mut random, 2, true, true);
    let naive: Folded<f32> = case.op().fold_before(&before.affine(), Padding::None).unwrap();
    let found = case.run(&case.x, &to_f64(&naive.weight), &to_f64(&naive.bias));
    let expected = case.run_unfolded(&before.apply(&case.x));
    let width = found.size[2];
    for (index, (found, expected)) in found.data.iter().zip(&expected.data).enumerate() {
        let at_border = index % width == 0 || index % width == width - 1;
        assert_eq!((found - expected).abs() > 1e-2, at_border, "output {index}");
    }
}

#[test]
fn batch_norm_after_batch_norm() {
    let mut random = Random(9);
    let case = Case::new(&mut random, Layer::Conv { groups: 2 }, 4, 6, 2, true);
    let norms: Vec<_> = BOTH.map(|affine| BatchNorm::random(&mut random, 6, affine, affine)).into();
    let (factor, term) = (random.values(6, -2.0, 2.0), random.values(6, -1.0, 1.0));
    let map = norms[0].affine().then(&norms[1].affine()).unwrap();
    let map =
        map.then(&Affine::from_scale(&factor).unwrap()).unwrap().then(&Affine::from_shift(&term).unwrap()).unwrap();
    assert_eq!(map.center(), norms[0].affine().center());

    let y = norms[1].apply(&norms[0].apply(&case.run_unfolded(&case.x)));
    let expected = y.map(|c, y| y * f64::from(factor[c]) + f64::from(term[c]));
    let folded: Folded<f32> = case.op().fold_after(&map).unwrap();
    let found = case.run(&case.x, &to_f64(&folded.weight), &to_f64(&folded.bias));
    let largest = expected.abs().data.into_iter().fold(1.0, f64::max);
    assert!(max_difference(&found, &expected) < 1e-5 * largest);

    let weakest = norms.iter().flat_map(|norm| norm.var.iter().map(|&var| f64::from(var) + norm.eps)).reduce(f64::min);
    assert_eq!(map.report().min_var_plus_eps, weakest);
}

#[test]
fn identity_only_converts() {
    let weight = [1.0_f32, 1.0 + 2.0_f32.powi(-11), -3.0, 0.5];
    let op = LinearOp::new(Layer::Linear, &weight, &[2, 2]);
    let identity = Affine::identity(2);
    for maps in BOTH {
        let (before, after) = (maps.then_some((&identity, Padding::None)), maps.then_some(&identity));
        let folded: Folded<f16, f32> = op.fold(before, after).unwrap();
        assert_eq!(folded.weight, [1.0, 1.0, -3.0, 0.5].map(f16::from_f32));
        assert_eq!(folded.bias, [0.0, 0.0]);
    }
    assert_eq!(identity.then(&identity), Ok(identity));
}

#[test]
fn arguments_of_any_type_fold_into_any_type() {
    let weight = [bf16::from_f32(3.0), bf16::from_f32(-0.5)];
    let (var, bias) = (vec![f16::from_f32(3.0)], [f16::from_f32(1.0)]);
    let batch_norm = BatchNormParams::new(&[0.25_f64], &var, 1.0).weight(&[0.1_f32][..]);
    let op = LinearOp::new(Layer::Linear, &weight, &[1, 2]).bias(&bias);
    let scale = f64::from(0.1_f32) / 2.0;
    let folded: Folded<f16, f32> = op.fold_after(&batch_norm.affine().unwrap()).unwrap();
    assert_eq!(to_f64(&folded.weight), [3.0 * scale, -0.5 * scale].map(reference::round::<f16>));
    assert_eq!(to_f64(&folded.bias), [reference::round::<f32>(0.75 * scale)]);
}

/// bias·scale + (shift − mean·scale), the other way to write it, is off by a third here.
#[test]
fn a_bias_close_to_the_mean_does_not_cancel() {
    let (mean, bias) = (1e16_f64, 1e16_f64 + 2.0);
    let batch_norm = BatchNormParams::new(&[mean], &[9.0], 0.0).affine().unwrap();
    let op_bias = [bias];
    let op = LinearOp::new(Layer::Linear, &[1.0_f32], &[1, 1]).bias(&op_bias);
    let expected = (2.0_f64 / 3.0) as f32;
    assert_eq!(op.fold_after::<f32, f32>(&batch_norm).unwrap().bias, [expected]);
    assert!((bias * (1.0 / 3.0) + (0.0 - mean * (1.0 / 3.0)) - 2.0 / 3.0).abs() > 0.3);
    let composed = batch_norm.then(&Affine::from_scale(&[1.0]).unwrap()).unwrap();
    assert_eq!(op.fold_after::<f32, f32>(&composed).unwrap().bias, [expected]);
}

/// The products are a hair above the midpoints of adjacent f16 and bf16; through f32 they would become the midpoints.
#[test]
fn results_are_rounded_once() {
    let weight = [1.0 + 2.0_f32.powi(-11), 1.0 + 2.0_f32.powi(-8)];
    let scale = Affine::from_scale(&[1.0 + 2.0_f64.powi(-40)]).unwrap();
    let op = LinearOp::new(Layer::Linear, &weight, &[1, 2]);
    let folded: Folded<f16> = op.fold_after(&scale).unwrap();
    assert_eq!(folded.weight[0].to_f64(), 1.0 + 2.0_f64.powi(-10));
    let folded: Folded<bf16> = op.fold_after(&scale).unwrap();
    assert_eq!(folded.weight[1].to_f64(), 1.0 + 2.0_f64.powi(-7));
}

#[test]
fn a_weight_of_zero_leaves_the_batch_norms_bias() {
    let batch_norm = BatchNormParams::new(&[5.0_f32, 1.0], &[1.0_f32; 2], 0.0);
    let affine = batch_norm.weight(&[0.0_f32, -1.0]).bias(&[0.25_f32, 0.0]).affine().unwrap();
    let op = LinearOp::new(Layer::Conv { groups: 2 }, &[3.0_f32, 4.0], &[2, 1, 1]).bias(&[7.0_f32, 8.0]);
    let folded: Folded<f32> = op.fold_after(&affine).unwrap();
    assert_eq!((&folded.weight[..], &folded.bias[..]), (&[0.0, -4.0][..], &[0.25, -7.0][..]));
    let report = folded.report.after.unwrap();
    assert_eq!((report.dead_channels, report.max_abs_scale, report.warnings), (vec![0], 1.0, vec![]));
    assert_eq!(folded.report.weight.underflowed, 0);
}

#[test]
fn the_report_tells_what_rounding_did() {
    let batch_norm = BatchNormParams::new(&[0.0_f32; 3], &[1.0_f32, 0.0, 4e-9], 1e-9).affine().unwrap();
    let weight = [3e-5_f32, -1e-8, 1.0, 0.0, 1.0, 0.5];
    let op = LinearOp::new(Layer::Linear, &weight, &[3, 2]);
    let folded: Folded<f16> = op.fold_after(&batch_norm).unwrap();
    let report = &folded.report;
    assert_eq!((report.weight.subnormal, report.weight.underflowed), (1, 1));
    assert_eq!(report.weight.max_abs, reference::round::<f16>(1.0 / 1e-9_f64.sqrt()));
    assert_eq!((report.bias.max_abs, report.before.as_ref()), (0.0, None));
    let after = report.after.as_ref().unwrap();
    assert_eq!(after.min_var_plus_eps, Some(1e-9));
    let scale = 1.0 / 1e-9_f64.sqrt();
    let var_plus_eps = f64::from(4e-9_f32) + 1e-9;
    assert_eq!(
        after.warnings,
        [
            Warning::SmallVariance { channel: 1, var_plus_eps: 1e-9 },
            Warning::SmallVariance { channel: 2, var_plus_eps },
            Warning::LargeScale { channel: 1, scale },
            Warning::LargeScale { channel: 2, scale: 1.0 / var_plus_eps.sqrt() },
        ]
    );
    assert_eq!(after.warnings[0].to_string(), "running_var + eps of channel 1 is only 1e-9");
    assert_eq!(after.warnings[2].to_string(), format!("channel 1 is scaled by {scale:?}"));
    assert_eq!(after.warnings.iter().map(Warning::code).collect::<Vec<_>>()[1..3], ["small-variance", "large-scale"]);
}

#[test]
fn folding_into_slices_gives_the_same_and_writes_nothing_when_refused() {
    let mut random = Random(10);
    let case = Case::new(&mut random, Layer::Conv { groups: 2 }, 4, 6, 2, true);
    let (before, after) =
        (BatchNorm::random(&mut random, 4, true, true), BatchNorm::random(&mut random, 6, true, true));
    let (before, after) = (before.affine(), after.affine());
    let folded: Folded<bf16, f32> = case.op().fold(Some((&before, Padding::None)), Some(&after)).unwrap();
    let mut weight = vec![bf16::ZERO; case.weight.len()];
    let mut bias = vec![0.0_f32; 6];
    let report = case.op().fold_into(Some((&before, Padding::None)), Some(&after), &mut weight, &mut bias).unwrap();
    assert_eq!(folded, Folded { weight: weight.clone(), bias: bias.clone(), report });

    let large = Affine::from_scale(&[1.0, 1.0, 1.0, 1.0, 1.0, 1e39]).unwrap();
    let kept = (weight.clone(), bias.clone());
    let refusal = case.op().fold_into(None, Some(&large), &mut weight, &mut bias).unwrap_err();
    assert_eq!(refusal.code(), "overflow");
    assert_eq!((weight, bias), kept);
}

#[test]
fn layers_without_channels_fold() {
    let none = Affine::identity(0);
    let empty: [f32; 0] = [];
    for (layer, shape) in [
        (Layer::Conv { groups: 3 }, &[0, 4, 3][..]),
        (Layer::ConvTranspose { groups: 3 }, &[6, 0, 3]),
        (Layer::Linear, &[0, 5]),
        (Layer::Linear, &[0, usize::MAX]),
    ] {
        let folded: Folded<f32> = LinearOp::new(layer, &empty, shape).fold_after(&none).unwrap();
        assert!(folded.weight.is_empty() && folded.bias.is_empty());
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Conv,
    ConvTranspose,
    Linear,
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Conv), Just(Kind::ConvTranspose), Just(Kind::Linear)]
}

/// Numbers that parameters should not have, among some that they may.
fn odd_values(len: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<f64>> {
    let value = prop_oneof![
        6 => -2.0..2.0_f64,
        1 => prop::sample::select(vec![0.0, -0.0, 5e-324, 1e-310, 1e155, 1e308, -1e308, f64::NAN, f64::INFINITY]),
    ];
    prop::collection::vec(value, len)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn folds_of_random_layers_are_exact(
        kind in kinds(), inputs_per_group in 1..4_usize, outputs_per_group in 1..4_usize, groups in 1..5_usize,
        spatial in 1..=3_usize, border: bool, bias: bool, bn_weight: bool, bn_bias: bool, seed: u64,
    ) {
        let mut random = Random(seed);
        let (layer, spatial) = match kind {
            Kind::Conv => (Layer::Conv { groups }, spatial),
            Kind::ConvTranspose => (Layer::ConvTranspose { groups }, spatial),
            Kind::Linear => (Layer::Linear, 0),
        };
        let (inputs, outputs) = (groups * inputs_per_group, groups * outputs_per_group);
        let mut case = Case::new(&mut random, layer, inputs, outputs, spatial, bias);
        if border && spatial > 0 {
            case = case.with_border();
        }
        let after = BatchNorm::random(&mut random, outputs, bn_weight, bn_bias);
        let mut before = BatchNorm::random(&mut random, inputs, bn_weight, bn_bias);
        case.check_all_types(None, Some(&after), Padding::Zeros);
        let padding = if border || matches!(kind, Kind::ConvTranspose) {
            before = before.without_shift();
            Padding::Zeros
        } else {
            Padding::None
        };
        case.check_all_types(Some(&before), Some(&after), padding);
    }

    #[test]
    fn no_input_panics_and_no_result_is_infinite(
        kind in kinds(), groups in 0..4_usize,
        shape in prop::collection::vec(
            prop_oneof![8 => 0..4_usize, 1 => Just(usize::MAX), 1 => Just(1 << 40)], 0..7,
        ),
        fits in prop::bool::weighted(0.9), weight in odd_values(0..40), bias in prop::option::of(odd_values(0..7)),
        statistics in prop::collection::vec((odd_values(0..7), odd_values(0..7), -0.1..1.0_f64), 2), zeros: bool,
    ) {
        let layer = match kind {
            Kind::Conv => Layer::Conv { groups },
            Kind::ConvTranspose => Layer::ConvTranspose { groups },
            Kind::Linear => Layer::Linear,
        };
        let product = shape.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis));
        let mut weight = weight;
        if let Some(len) = product.filter(|&len| fits && len < 1000) {
            weight.resize(len, 1.0);
        }
        let maps: Vec<_> = statistics
            .iter()
            .map(|(mean, var, eps)| BatchNormParams::new(mean, var, *eps).affine().ok())
            .collect();
        let mut op = LinearOp::new(layer, &weight, &shape);
        if let Some(bias) = &bias {
            op = op.bias(bias);
        }
        let padding = if zeros { Padding::Zeros } else { Padding::None };
        for before in [None, maps[0].as_ref()] {
            for after in [None, maps[1].as_ref()] {
                let before = before.map(|before| (before, padding));
                match op.fold::<f16, f32>(before, after) {
                    Ok(folded) => {
                        prop_assert!(folded.weight.iter().all(|value| value.is_finite()));
                        prop_assert!(folded.bias.iter().all(|value| value.is_finite()));
                        prop_assert_eq!(folded.weight.len(), weight.len());
                    }
                    Err(refusal) => prop_assert!(!refusal.to_string().is_empty()),
                }
            }
        }
    }

    #[test]
    fn maps_compose(first in odd_values(3), second in odd_values(3), third in odd_values(3), x in -10.0..10.0_f64) {
        let maps = [&first, &second, &third].map(|v| {
            BatchNormParams::new(v, &[0.5, 1.5, 2.0], 0.25).weight(&[2.0, -0.5, 1.0]).bias(v).affine()
        });
        let [Ok(first), Ok(second), Ok(third)] = maps else { return Ok(()) };
        let (Ok(left), Ok(right)) = (
            first.then(&second).and_then(|map| map.then(&third)),
            second.then(&third).and_then(|map| first.then(&map)),
        ) else {
            return Ok(());
        };
        let apply = |map: &Affine, c: usize, x: f64| (x - map.center()[c]) * map.scale()[c] + map.shift()[c];
        for c in 0..3 {
            let steps = apply(&third, c, apply(&second, c, apply(&first, c, x)));
            // One map after another may overflow where their composition does not.
            prop_assume!(steps.is_finite());
            let terms = [&first, &second, &third].map(|map| map.center()[c].abs() + map.shift()[c].abs());
            let bound = 1e-13 * (x.abs() + terms.iter().sum::<f64>() + 1.0);
            prop_assert!((apply(&left, c, x) - steps).abs() <= bound);
            prop_assert!((apply(&right, c, x) - steps).abs() <= bound);
        }
    }
}
