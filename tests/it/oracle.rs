//! The answer in f64, from the formulas alone. Shares nothing with the crate but element types and the activation's name.

use warpnorm::Activation;

/// What a value should be, and what it may miss it by before it is rounded to its type.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    pub value: f64,
    pub slack: f64,
}

/// Weight and bias of an element; 1 and 0 where absent.
#[derive(Debug, Clone, Copy)]
pub struct Affine {
    weight: f64,
    bias: f64,
    /// What the bias is the sum of, each without its sign.
    addends: f64,
}

impl From<(f64, f64)> for Affine {
    fn from((weight, bias): (f64, f64)) -> Self {
        Self { weight, bias, addends: bias.abs() }
    }
}

impl Affine {
    /// Multiplied by a scale and then moved by a shift, which may leave little of both.
    pub fn modulated(self, scale: f64, shift: f64) -> Self {
        Self {
            weight: self.weight * scale,
            bias: self.bias * scale + shift,
            addends: self.addends * scale.abs() + shift.abs(),
        }
    }
}

/// 2⁻²¹: the part of |weight|·(|x̂| + 1) + |bias| that every layer may miss.
const BOUND: f64 = 1.0 / (1 << 21) as f64;

/// One row, normalized by its own moments. `subtract_mean` is false for RMSNorm.
pub fn row<A: Into<Affine>>(
    s: &[f64],
    eps: f64,
    subtract_mean: bool,
    affine: &dyn Fn(usize) -> A,
    activation: Activation,
) -> Vec<Expected> {
    let n = s.len() as f64;
    // Two passes around a first guess: exact to f64 whatever the mean.
    let guess = s.iter().sum::<f64>() / n;
    let mean = if subtract_mean { guess + s.iter().map(|v| v - guess).sum::<f64>() / n } else { 0.0 };
    let variance = s.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    let deviation = (variance + eps).sqrt();
    s.iter().enumerate().map(|(i, v)| finish((v - mean) / deviation, affine(i).into(), activation)).collect()
}

/// The same of a row whose elements may each be off by their slack, to first order in it.
pub fn uncertain_row(
    s: &[Expected],
    eps: f64,
    subtract_mean: bool,
    affine: &dyn Fn(usize) -> (f64, f64),
) -> Vec<Expected> {
    let n = s.len() as f64;
    let values: Vec<f64> = s.iter().map(|s| s.value).collect();
    let normalized: Vec<f64> =
        row(&values, eps, subtract_mean, &|_| (1.0, 0.0), Activation::None).iter().map(|y| y.value).collect();
    let mean = if subtract_mean { values.iter().sum::<f64>() / n } else { 0.0 };
    let deviation = (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n + eps).sqrt();
    let of_mean = if subtract_mean { s.iter().map(|s| s.slack).sum::<f64>() / n } else { 0.0 };
    let of_deviation = s.iter().zip(&normalized).map(|(s, x)| s.slack * x.abs()).sum::<f64>() / n;
    let exact = row(&values, eps, subtract_mean, affine, Activation::None);
    let slacks = s.iter().zip(&normalized).map(|(s, x)| (s.slack + of_mean + x.abs() * of_deviation) / deviation);
    let with_slack = |(i, (y, slack)): (usize, (Expected, f64))| Expected {
        value: y.value,
        slack: y.slack + affine(i).0.abs() * slack,
    };
    exact.into_iter().zip(slacks).enumerate().map(with_slack).collect()
}

/// One element, normalized by given moments.
pub fn element(
    s: f64,
    mean: f64,
    variance: f64,
    eps: f64,
    affine: impl Into<Affine>,
    activation: Activation,
) -> Expected {
    finish((s - mean) / (variance + eps).sqrt(), affine.into(), activation)
}

fn finish(normalized: f64, Affine { weight, bias, addends }: Affine, activation: Activation) -> Expected {
    let linear = normalized * weight + bias;
    let slack = BOUND * (weight.abs() * (normalized.abs() + 1.0) + addends);
    if activation == Activation::None {
        return Expected { value: linear, slack };
    }
    // No activation here is steeper than 1.13; its own evaluation in f32 may add a few units in the last place.
    Expected { value: activate(linear, activation), slack: 1.13 * slack + BOUND * linear.abs() }
}

pub fn activate(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        other => panic!("no oracle for {other:?}"),
    }
}

/// The complementary error function: a power series near zero, and beyond it the integral by Simpson's rule.
fn erfc(x: f64) -> f64 {
    let two_by_root_pi = std::f64::consts::FRAC_2_SQRT_PI;
    if x.is_nan() {
        return x;
    }
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for k in 1..200 {
            term *= -x * x / f64::from(k);
            sum += term / f64::from(2 * k + 1);
        }
        return 1.0 - two_by_root_pi * sum;
    }
    // erfc(x) = 2/sqrt(pi) * exp(-x^2) * integral over t > 0 of exp(-t^2 - 2 x t)
    let tail = |x: f64| {
        let (steps, end) = (2000, 10.0);
        let h = end / f64::from(steps);
        let f = |i: i32| {
            let t = h * f64::from(i);
            (-t * t - 2.0 * x * t).exp()
        };
        let inner: f64 = (1..steps).map(|i| f(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        two_by_root_pi * (-x * x).exp() * (f(0) + inner + f(steps)) * h / 3.0
    };
    if x > 0.0 { tail(x) } else { 2.0 - tail(-x) }
}

/// Half the distance between neighbours of the type around `value`.
pub fn half_ulp(value: f64, dtype: warpnorm::DType) -> f64 {
    let (fraction_bits, least_exponent) = match dtype {
        warpnorm::DType::F32 => (23, -126),
        warpnorm::DType::F16 => (10, -14),
        warpnorm::DType::Bf16 => (7, -126),
        other => panic!("no oracle for {other}"),
    };
    let exponent = if value == 0.0 { least_exponent } else { (value.abs().log2().floor() as i32).max(least_exponent) };
    0.5 * 2.0_f64.powi(exponent - fraction_bits)
}

/// Panics unless `found` is what `expected` says, rounded to `T`.
pub fn assert_within<T: warpnorm::Element>(found: &[T], expected: &[Expected], about: &dyn std::fmt::Display) {
    assert_eq!(found.len(), expected.len(), "{about}: length");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let found = found.to_f64();
        let Expected { value, slack } = *expected;
        let right = if value.is_nan() || found.is_nan() {
            value.is_nan() && found.is_nan()
        } else if found.is_infinite() || value.is_infinite() {
            // Overflow of the type: the nearest thing to a value at or beyond its largest.
            found == value || (found.signum() == value.signum() && value.abs() + slack >= T::MAX)
        } else {
            (found - value).abs() <= half_ulp(value, T::DTYPE) + slack
        };
        assert!(right, "{about}: element {i} is {found:e}, expected {value:e}, slack {slack:e} beside rounding");
    }
}
