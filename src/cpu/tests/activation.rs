use super::{activated, ulps_of};
use crate::cpu::activation::activate;
use crate::cpu::simd::Portable;
use crate::norm::Activation;

const ALL: [Activation; 5] =
    [Activation::None, Activation::Relu, Activation::Silu, Activation::Gelu, Activation::GeluTanh];

fn of(x: f32, activation: Activation) -> f32 {
    let mut values = [x];
    activate::<Portable>(&mut values, activation);
    values[0]
}

#[test]
fn within_some_ulps_from_tail_to_tail() {
    for activation in ALL {
        for step in -40_000..=40_000 {
            let x = step as f32 / 1999.0;
            let reference = activated(f64::from(x), activation);
            // What is subnormal in f32 has fewer digits.
            let ulp = (reference.abs() * 2.0_f64.powi(-23)).max(2.0_f64.powi(-149));
            let error = (f64::from(of(x, activation)) - reference).abs();
            assert!(
                error <= 0.5 * ulps_of(activation).max(2.0) * ulp,
                "{activation:?} of {x}: {} for {reference}",
                of(x, activation)
            );
        }
    }
}

/// By the widest vectors, or those that the environment asks for: it is called, and the caller's do not matter.
#[test]
fn silu_is_within_three_ulps_in_its_tail_too() {
    for step in -90_000..=90_000 {
        let x = step as f32 / 1009.0;
        let (reference, found) = (activated(f64::from(x), Activation::Silu), f64::from(of(x, Activation::Silu)));
        if reference.abs() < 2.0_f64.powi(-120) && found == 0.0 {
            continue;
        }
        let ulp = 2.0_f64.powi(reference.abs().log2().floor() as i32 - 23);
        let error = (found - reference).abs();
        assert!(error <= 3.0 * ulp, "{x}: {found:e} for {reference:e}, {} ulps", error / ulp);
    }
}

#[test]
fn special_values() {
    for activation in ALL {
        assert!(of(f32::NAN, activation).is_nan(), "{activation:?}");
        assert_eq!(of(f32::INFINITY, activation), f32::INFINITY, "{activation:?}");
        assert_eq!(of(0.0, activation), 0.0, "{activation:?}");
        assert_eq!(of(f32::MAX, activation), f32::MAX, "{activation:?}");
        if activation != Activation::None {
            assert_eq!(of(-1e6, activation), 0.0, "{activation:?}");
        }
    }
    assert_eq!(of(f32::NEG_INFINITY, Activation::Relu), 0.0);
    // By their formulas: minus infinity times zero.
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        assert!(of(f32::NEG_INFINITY, activation).is_nan(), "{activation:?}");
    }
}
