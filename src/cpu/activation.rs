//! The activations, a vector at a time.
//!
//! SiLU is computed in f32, from a formula that does not cancel: it is within three ulps, tail included, but that results
//! below 2⁻¹²⁰ may be zero. The two GELUs are computed in f64 and rounded once: they are within an ulp everywhere,
//! their far negative tails included. f64 costs vector width, but it leaves so much precision to spare that a short
//! polynomial suffices, without tables or special cases.

use super::moments::Values;
use super::simd::{LANES, Vector, each, mul_add_in_f64};
use super::vectors::{self, Task};
use crate::norm::Activation;

#[inline(always)]
pub(super) fn of_vectors<V: Vector, const COUNT: usize>(values: [V; COUNT], activation: Activation) -> [V; COUNT] {
    if is_inlined(activation) { inlined(values, activation) } else { out_of_line(values, activation) }
}

/// Whether it is so short that there is no call: a loop with one cannot keep numbers in registers.
#[inline(always)]
pub(super) fn is_inlined(activation: Activation) -> bool {
    matches!(activation, Activation::None | Activation::Relu)
}

/// One that [`is_inlined`].
#[inline(always)]
fn inlined<V: Vector, const COUNT: usize>(values: [V; COUNT], activation: Activation) -> [V; COUNT] {
    if activation == Activation::Relu {
        // NaN is not below zero, so it stays.
        each(
            values,
            #[inline(always)]
            |value| value.at_least(V::splat(0.0)),
        )
    } else {
        values
    }
}

/// Whether it is one for loops that are worth its code.
#[inline(always)]
pub(super) fn is_for_long_loops(activation: Activation) -> bool {
    is_inlined(activation) || activation == Activation::Silu
}

/// One that [`is_for_long_loops`].
#[inline(always)]
pub(super) fn in_long_loop<V: Vector, const COUNT: usize>(values: [V; COUNT], activation: Activation) -> [V; COUNT] {
    if activation == Activation::Silu {
        each(
            values,
            #[inline(always)]
            |value| silu(value),
        )
    } else {
        inlined(values, activation)
    }
}

/// The same of values that lie behind each other.
#[inline(always)]
pub(super) fn activate<V: Vector>(values: &mut [f32], activation: Activation) {
    if activation == Activation::None {
        return;
    }
    for values in values.chunks_mut(LANES) {
        // SAFETY: the chunk's own.
        unsafe {
            let [result] = of_vectors([V::load_some(values.as_ptr(), values.len())], activation);
            result.store_some(values.as_mut_ptr(), values.len());
        }
    }
}

/// They are long beside a call, and there are many callers.
#[inline(always)]
fn out_of_line<V: Vector, const COUNT: usize>(values: [V; COUNT], activation: Activation) -> [V; COUNT] {
    let mut lanes = Lines([[0.0; LANES]; COUNT]);
    for (lanes, value) in lanes.0.iter_mut().zip(values) {
        // SAFETY: the array has that many.
        unsafe { value.store(lanes.as_mut_ptr()) };
    }
    vectors::run(Lanes { lanes: lanes.0.as_flattened_mut(), activation });
    // SAFETY: as above.
    unsafe { lanes.0.as_ptr().cast::<f32>().load(0) }
}

/// Lines of the cache: what is stored into two of them is not to be had again at once.
#[repr(align(64))]
struct Lines<const COUNT: usize>([[f32; LANES]; COUNT]);

/// Whole vectors.
struct Lanes<'a> {
    lanes: &'a mut [f32],
    activation: Activation,
}

impl Task for Lanes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        match self.activation {
            Activation::Gelu => map_in_f64(self.lanes, gelu::<V>),
            Activation::GeluTanh => map_in_f64(self.lanes, gelu_tanh::<V>),
            _ => {
                for lanes in self.lanes.as_chunks_mut::<LANES>().0 {
                    // SAFETY: the array has that many.
                    unsafe { silu(V::load(lanes.as_ptr())).store(lanes.as_mut_ptr()) };
                }
            }
        }
    }
}

#[inline(always)]
fn map_in_f64(values: &mut [f32], function: impl Fn(f64) -> f64) {
    for value in values {
        #[expect(clippy::cast_possible_truncation, reason = "the one rounding")]
        let rounded = function(f64::from(*value)) as f32;
        *value = rounded;
    }
}

#[inline(always)]
fn silu<V: Vector>(x: V) -> V {
    x.div(one_plus_exp_of_negative(x))
}

/// `1 + e⁻ˣ`, infinity from x = -88.03 down. Not NaN.
///
/// `-x = n ln 2 / 16 - r` with `|r| <= ln 2 / 32`, where `ln 2` is a number of few digits, so that its product is exact, and a
/// rest; 2ⁿᐟ¹⁶ from a table, with what its rounding adds to r; and the Taylor polynomial of e⁻ʳ.
#[inline(always)]
fn one_plus_exp_of_negative<V: Vector>(x: V) -> V {
    use std::f32::consts::{LN_2, LOG2_E};
    // Added to a number, it rounds it to an integer, which then stands in the lowest bits.
    const ROUNDER: f32 = 12_582_912.0; // 1.5 · 2^23
    const LN_2_HIGH: f32 = 0.693_359_4; // 355 / 512
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Where n is 16 · 127.
    let x = x.within(127.0 * LN_2);
    let shifted = x.mul_add(V::splat(-16.0 * LOG2_E), V::splat(ROUNDER));
    let n = shifted.sub(V::splat(ROUNDER));
    let [twice_the_root, rounded_up_by] = shifted.twice_the_root();
    let r = n.mul_add(V::splat(LN_2_LOW / 16.0), n.mul_add(V::splat(LN_2_HIGH / 16.0), x)).add(rounded_up_by);
    // Half of 1 - r + r² / 2 - r³ / 6.
    let half = V::splat(-1.0 / 12.0).mul_add(r, V::splat(0.25)).mul_add(r, V::splat(-0.5)).mul_add(r, V::splat(0.5));
    twice_the_root.mul_add(half, V::splat(1.0))
}

/// `x · Φ(x)` with `Φ(x) = erfc(-x/√2) / 2`, for `1 + erf` would cancel.
#[inline(always)]
fn gelu<V: Vector>(x: f64) -> f64 {
    let tail = erfc_of_magnitude::<V>(x * std::f64::consts::FRAC_1_SQRT_2);
    0.5 * x * if x > 0.0 { 2.0 - tail } else { tail }
}

/// `1 + tanh(u) = 2 / (1 + exp(-2u))`, for the left side would cancel.
#[inline(always)]
fn gelu_tanh<V: Vector>(x: f64) -> f64 {
    const TWICE_SQRT_2_OVER_PI: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::SQRT_2;
    x / (1.0 + exp::<V>(-TWICE_SQRT_2_OVER_PI * mul_add_in_f64::<V>(0.044_715 * x * x, x, x)))
}

/// `eˣ` to a relative error of 1e-11, with infinity, zero and NaN where they belong; results below 1e-307 are zero.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, and the Taylor polynomial of `eʳ`.
#[inline(always)]
fn exp<V: Vector>(x: f64) -> f64 {
    use std::f64::consts::{LN_2, LOG2_E};
    // Added to a number, it rounds it to an integer, which then stands in the lowest bits.
    const ROUNDER: f64 = 6_755_399_441_055_744.0; // 1.5 · 2^52
    const TAYLOR: [f64; 8] =
        [1.0 / 362_880.0, 1.0 / 40_320.0, 1.0 / 5_040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 1.0 / 2.0];
    // At the ends the scale's exponent field is all ones, which is infinity, and all zeros. NaN passes.
    let x = x.clamp(-1023.0 * LN_2, 1024.0 * LN_2);
    let shifted = mul_add_in_f64::<V>(x, LOG2_E, ROUNDER);
    let r = mul_add_in_f64::<V>(shifted - ROUNDER, -LN_2, x);
    let polynomial = polynomial::<V, _>(&TAYLOR, r);
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    mul_add_in_f64::<V>(mul_add_in_f64::<V>(polynomial, r, 1.0), r, 1.0) * scale
}

/// `erfc(|z|)` to a relative error of 1e-9.
///
/// `erfc(z) = t exp(-z² + P(2t - 1))` with `t = 2 / (2 + z)`, after W. J. Cody's and Numerical Recipes' erfc; here P is
/// the polynomial of degree 14 through the Chebyshev points of `t` in (0, 1], its error below 4e-10.
#[inline(always)]
fn erfc_of_magnitude<V: Vector>(z: f64) -> f64 {
    const P: [f64; 15] = [
        -8.911_520_297_068_038e-6,
        2.071_326_497_779_069e-5,
        4.457_592_711_538_686e-5,
        -1.546_028_373_503_421e-4,
        -7.504_293_179_806_387e-5,
        6.579_165_587_086_303e-4,
        -1.534_932_188_098_354_7e-4,
        -2.339_256_406_229_101e-3,
        1.760_406_764_498_951_3e-3,
        8.823_552_357_702_618e-3,
        -9.872_823_288_244_586e-3,
        -4.689_548_150_027_719e-2,
        4.734_331_040_211_687_4e-2,
        0.672_643_220_525_790_8,
        -0.671_794_084_056_692_3,
    ];
    let z = z.abs();
    let t = 2.0 / (2.0 + z);
    let s = 2.0 * t - 1.0;
    t * exp::<V>(mul_add_in_f64::<V>(-z, z, polynomial::<V, _>(&P, s)))
}

/// The polynomial of these coefficients, the highest power first: its odd and its even powers apart, as two chains of
/// operations that do not wait for each other.
#[inline(always)]
fn polynomial<V: Vector, const N: usize>(coefficients: &[f64; N], x: f64) -> f64 {
    let square = x * x;
    let (lone, pairs) = coefficients.as_rchunks::<2>();
    let (mut odd, mut even) = (0.0, lone.first().copied().unwrap_or_default());
    for [of_odd, of_even] in pairs {
        odd = mul_add_in_f64::<V>(odd, square, *of_odd);
        even = mul_add_in_f64::<V>(even, square, *of_even);
    }
    mul_add_in_f64::<V>(odd, x, even)
}
