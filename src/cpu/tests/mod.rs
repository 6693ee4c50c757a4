//! The CPU backend against the formulas in f64.

mod activation;
mod batch_statistics;
mod channels_last;
mod head_rows;
mod images;
mod pointwise;
mod rows;

use rayon::ThreadPoolBuilder;

use super::caches::tests::with_tiny_caches;
use super::convert::Convert;
use crate::element::DType;
use crate::norm::Activation;
use crate::problem::{Buffers, Problem};

/// Numbers about as normal as is needed, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        let uniform = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 40) as f64 / f64::from(1 << 23) - 1.0
        };
        (0..3).map(|_| uniform(&mut self.0)).sum()
    }

    fn take<T: Convert>(&mut self, count: usize, mean: f64, deviation: f64) -> Vec<T> {
        (0..count).map(|_| T::from_f64(mean + deviation * self.next())).collect()
    }
}

fn in_pool(threads: usize, work: impl FnOnce() + Send) {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work);
}

fn input<T>(slice: &[T]) -> u64 {
    slice.as_ptr().expose_provenance() as u64
}

fn output<T>(slice: &mut [T]) -> u64 {
    slice.as_mut_ptr().expose_provenance() as u64
}

/// Every tensor of a call is a slice that the test holds on to.
fn run(problem: Problem, buffers: Buffers) {
    // SAFETY: the tests hand over addresses of slices that are long enough, the outputs' from exclusive borrows.
    unsafe { super::run(&problem, &buffers) };
}

fn bits<T: Convert>(values: &[T]) -> Vec<u64> {
    values.iter().map(|value| value.to_f64().to_bits()).collect()
}

/// A tensor that begins so many elements behind a line of the caches, with more before and behind it.
struct Guarded<T> {
    all: Vec<T>,
    first: usize,
    count: usize,
}

impl<T: Convert> Guarded<T> {
    /// What no test computes.
    const GUARD: f64 = -77.0;

    fn new(behind: usize, count: usize) -> Self {
        let all = vec![T::from_f64(Self::GUARD); count + 3 * T::OF_LINE];
        let first = T::to_line(all.as_ptr()) + behind;
        Self { all, first, count }
    }

    fn address(&mut self) -> u64 {
        output(&mut self.all[self.first..])
    }

    /// The tensor, beside which nothing was written.
    fn check_guards(&self, what: &str) -> &[T] {
        let (before, rest) = self.all.split_at(self.first);
        let (found, behind) = rest.split_at(self.count);
        assert!(
            before.iter().chain(behind).all(|guard| guard.to_f64() == Self::GUARD),
            "{what}: written beyond the tensor"
        );
        found
    }
}

/// How many elements behind a line of the caches a tensor may begin: even and odd numbers, and the middle.
fn places_in_line<T: Convert>() -> impl Iterator<Item = usize> {
    (0..T::OF_LINE).step_by(3).chain([T::OF_LINE / 2])
}

/// Runs a problem of x and a residual with `sum`, and `sum` and `y` wherever they may be: all give the same.
fn check_aliases<T: Convert>(problem: Problem, buffers: Buffers, x: &[T], residual: &[T], y: &[T]) {
    let sum: Vec<T> = x.iter().zip(residual).map(|(x, r)| T::from_f32(x.to_f32() + r.to_f32())).collect();
    // Indices into x, residual and two more.
    let places = [(2, 3), (0, 1), (1, 0), (0, 2), (1, 2), (2, 0), (2, 1)];
    // Also past the caches.
    for ((y_place, sum_place), is_tiny) in places.into_iter().flat_map(|places| [(places, false), (places, true)]) {
        let blank = vec![T::default(); x.len()];
        let mut tensors = [x.to_vec(), residual.to_vec(), blank.clone(), blank];
        let addresses = tensors.each_mut().map(|tensor| output(tensor));
        let buffers = Buffers {
            x: addresses[0],
            residual: addresses[1],
            sum: addresses[sum_place],
            y: addresses[y_place],
            ..buffers
        };
        if is_tiny {
            with_tiny_caches(|| run(problem, buffers));
        } else {
            run(problem, buffers);
        }
        assert_eq!(bits(&tensors[y_place]), bits(y), "y at {y_place}, sum at {sum_place}");
        assert_eq!(bits(&tensors[sum_place]), bits(&sum), "y at {y_place}, sum at {sum_place}");
    }
}

/// The distance between the neighbours of `reference` among the values of a type.
fn ulp(dtype: DType, reference: f64) -> f64 {
    let (digits, least_exponent) = match dtype {
        DType::F32 => (24, -126),
        DType::F16 => (11, -14),
        DType::Bf16 => (8, -126),
    };
    let exponent = if reference == 0.0 { least_exponent } else { reference.abs().log2().floor() as i32 };
    2.0_f64.powi(exponent.max(least_exponent) - digits + 1)
}

/// A result and what its error is measured by: `normalized · weight + bias`.
#[derive(Clone, Copy, Debug)]
struct Expected {
    normalized: f64,
    weight: f64,
    bias: f64,
}

impl Expected {
    /// The bound of the design: half an ulp, and some ulps of f32 of the terms that may cancel.
    fn check<T: Convert>(self, found: T, place: impl std::fmt::Display) {
        let Self { normalized, weight, bias } = self;
        let reference = normalized * weight + bias;
        if !reference.is_finite() || reference.abs() >= T::MAX {
            return;
        }
        let slack = 2.0_f64.powi(-21) * (weight.abs() * (normalized.abs() + 1.0) + bias.abs());
        let bound = 0.5 * ulp(T::DTYPE, reference) + slack;
        let error = (found.to_f64() - reference).abs();
        assert!(error <= bound, "{} {place}: found {found:?}, error {error:e} of {bound:e}, {self:?}", T::DTYPE);
    }
}

/// What an activation may be off by, in ulps.
fn ulps_of(activation: Activation) -> f64 {
    // SiLU's three roundings in f32, and those of the exponential.
    if activation == Activation::Silu { 3.0 } else { 1.0 }
}

/// `x · Φ(x)` and the others, in f64. Φ by its Taylor series, or by the continued fraction of erfc far out.
fn activated(x: f64, activation: Activation) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => x * normal_distribution(x),
        Activation::GeluTanh => x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))),
    }
}

fn normal_distribution(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 0.5 + density * sum;
    }
    let fraction = (1..200).rev().fold(x.abs(), |fraction, k| x.abs() + f64::from(k) / fraction);
    let tail = density / fraction;
    if x < 0.0 { tail } else { 1.0 - tail }
}
