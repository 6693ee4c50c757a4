//! The activations alone, over everything that a number can be: behind a norm that changes nothing.

use warpnorm::half::{bf16, f16};
use warpnorm::{Activation, Cpu, Layout};

use crate::call::{Call, Coefficient, Inputs, Layer, run};
use crate::device;
use crate::oracle::{Expected, activate, assert_within};
use crate::place::{Place, Real};

const ACTIVATIONS: [Activation; 4] = [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::GeluTanh];

/// What the approximations of a chip add at most, by docs/design.md: three quarters of what the bound leaves an activation.
const SLACK: f64 = 0.75 / (1 << 21) as f64;

/// Where exponentials overflow, denormals, the ends of every type; and densely, where the activations bend.
fn values<T: Real>() -> Vec<T> {
    let ends = [1e-40, 1e-6, 20.0, 80.0, 87.0, 87.4, 88.0, 88.8, 89.0, 104.0, 6e4, 1e19, 2e19, 1e30, 3.4e38];
    let numbers = ends.into_iter().chain((0..4000).map(|i| f64::from(i) * 0.003));
    let both = numbers.flat_map(|number| [number, -number]);
    both.map(T::from_f64).filter(|value| value.to_f64().is_finite()).collect()
}

/// A map of running mean 0 and variance 1, which changes nothing, and the activation.
fn activated<P: Place, T: Real>(place: &P, x: &[T], activation: Activation) -> Vec<T> {
    let mut call = Call::new(Layer::BatchNorm { layout: Layout::Nchw, table: false }, &[1, 1, x.len()]);
    (call.weight, call.bias) = (Coefficient::Absent, Coefficient::Absent);
    (call.eps, call.activation) = (0.0, activation);
    let mut inputs = Inputs::<T>::normal(&call, 1);
    inputs.x = x.to_vec();
    (inputs.running_mean, inputs.running_var) = (vec![0.0], vec![1.0]);
    run(place, &call, &inputs).expect("a valid call").y
}

fn within_their_error<P: Place, T: Real>(place: &P) {
    let x = values::<T>();
    for activation in ACTIVATIONS {
        let expect = |x: &T| {
            let x = x.to_f64();
            Expected { value: activate(x, activation), slack: SLACK * x.abs() }
        };
        let expected: Vec<Expected> = x.iter().map(expect).collect();
        let about = format!("{} {} {activation:?}", P::NAME, T::DTYPE);
        assert_within(&activated(place, &x, activation), &expected, &about);
    }
}

/// Infinity stays; what has no limit by the formula, minus infinity times zero, is NaN, as in other frameworks; NaN stays.
fn what_is_not_finite<P: Place, T: Real>(place: &P) {
    let x = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN].map(T::from_f64);
    for activation in ACTIVATIONS {
        let found: Vec<f64> = activated(place, &x, activation).iter().map(|y| y.to_f64()).collect();
        assert_eq!(found[0], f64::INFINITY, "{activation:?}");
        let is_as_expected = if activation == Activation::Relu { found[1] == 0.0 } else { found[1].is_nan() };
        assert!(is_as_expected && found[2].is_nan(), "{activation:?}: {found:?}");
    }
}

fn all<P: Place>(place: &P) {
    within_their_error::<_, f32>(place);
    within_their_error::<_, f16>(place);
    within_their_error::<_, bf16>(place);
    what_is_not_finite::<_, f32>(place);
    what_is_not_finite::<_, f16>(place);
}

#[test]
fn activations_on_cuda() {
    all(&device::cuda().cuda);
}

#[test]
fn activations_on_cpu() {
    all(&Cpu);
}
