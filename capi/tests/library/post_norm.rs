//! Post-norm, and rounding on the way, on both devices and in three types, against f64.

use std::mem::zeroed;
use std::ptr::null_mut;

use half::{bf16, f16};

use crate::load::{Place, library, ok, refused};
use crate::reference::{Norm, Number, assert_within, noise, norm, norm_of_uncertain};
use crate::types::{
    wn_activation, wn_dtype, wn_layer, wn_layer_flag, wn_signature, wn_signature_flag, wn_status, wn_tensors,
};

const ROWS: usize = 3;
const LENGTH: usize = 300;

fn layer(is_rms: bool, flags: u32) -> wn_layer {
    let normalized = [LENGTH as i64];
    // SAFETY: plain numbers, and a layer to write to.
    unsafe {
        let mut layer: wn_layer = zeroed();
        ok(if is_rms {
            (library().wn_rms_norm)(&raw mut layer, 1, normalized.as_ptr(), 1e-5)
        } else {
            (library().wn_layer_norm)(&raw mut layer, 1, normalized.as_ptr())
        });
        layer.flags = flags;
        layer
    }
}

/// With a residual that becomes the sum, and a weight of the tensors' type.
fn signature<T: Number>() -> wn_signature {
    let shape = [ROWS, LENGTH].map(|extent| extent as i64);
    // SAFETY: plain numbers, and a signature to write to.
    unsafe {
        let mut signature: wn_signature = zeroed();
        ok((library().wn_signature_init)(&raw mut signature, 2, shape.as_ptr(), T::DTYPE as i32));
        signature.flags = wn_signature_flag::Residual as u32 | wn_signature_flag::SumInResidual as u32;
        signature.weight = T::DTYPE as i32;
        signature
    }
}

fn forward(place: &Place, layer: &wn_layer, signature: &wn_signature, tensors: &wn_tensors) -> i32 {
    // SAFETY: buffers of this device, as large as the signature says; the default stream.
    unsafe { (library().wn_forward)(place.device, layer, signature, tensors, null_mut()) }
}

fn stored<T: Number>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&value| T::of(value)).collect()
}

fn exact<T: Number>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.value()).collect()
}

fn around_one(seed: u64) -> Vec<f64> {
    noise(LENGTH, seed).iter().map(|value| 1.0 + 0.1 * value).collect()
}

/// Rows, by weight and bias of their columns.
fn rows<'a>(is_rms: bool, affine: &'a dyn Fn(usize) -> (f64, f64)) -> Norm<'a> {
    Norm {
        set: &|at| at / LENGTH,
        given: None,
        subtract_mean: !is_rms,
        eps: f64::from(1e-5_f32),
        affine,
        activation: wn_activation::None as i32,
    }
}

fn post_norm<T: Number>(place: &Place, is_rms: bool) {
    let about = format!("{} in {} bytes", if is_rms { "RMSNorm" } else { "LayerNorm" }, size_of::<T>());
    let (x, residual) = (stored::<T>(&noise(ROWS * LENGTH, 1)), stored::<T>(&noise(ROWS * LENGTH, 2)));
    let (weight, post_weight) = (stored::<T>(&around_one(3)), stored::<f32>(&around_one(4)));
    let post_bias = stored::<T>(&noise(LENGTH, 5));
    let (mut x_buffer, mut sum, mut weight_buffer) = (place.put(&x), place.put(&residual), place.put(&weight));
    let (mut post_weight_buffer, mut post_bias_buffer) = (place.put(&post_weight), place.put(&post_bias));
    let mut y = place.put(&[T::of(9.0); ROWS * LENGTH]);

    let layer = layer(is_rms, wn_layer_flag::PostNorm as u32);
    let mut signed = signature::<T>();
    (signed.post_norm_weight, signed.post_norm_bias) = (wn_dtype::F32 as i32, T::DTYPE as i32);
    // SAFETY: null pointers are nothing.
    let mut tensors: wn_tensors = unsafe { zeroed() };
    (tensors.input, tensors.output, tensors.residual) = (x_buffer.pointer(), y.pointer(), sum.pointer());
    tensors.weight = weight_buffer.pointer();
    tensors.post_norm_weight = post_weight_buffer.pointer();
    tensors.post_norm_bias = post_bias_buffer.pointer();
    ok(forward(place, &layer, &signed, &tensors));

    let post = |at: usize| (f64::from(post_weight[at % LENGTH]), post_bias[at % LENGTH].value());
    let added = |((value, slack), residual): ((f64, f64), &T)| {
        let sum = value + residual.value();
        // Three roundings of f32 on the way: two of the norm's own result, one of the sum.
        (sum, slack + (2.0 * value.abs() + sum.abs()) / f64::from(1 << 24))
    };
    let sums: Vec<_> = norm(&exact(&x), &rows(is_rms, &post)).into_iter().zip(&residual).map(added).collect();
    assert_within(&place.get(&sum), &sums, &format!("sum of {about}"));
    let own = |at: usize| (weight[at % LENGTH].value(), 0.0);
    assert_within(&place.get(&y), &norm_of_uncertain(&sums, LENGTH, &rows(is_rms, &own)), &about);

    let missing = wn_tensors { post_norm_bias: std::ptr::null(), ..tensors };
    refused(forward(place, &layer, &signed, &missing), wn_status::Missing, "`post_norm_bias`");
    let without = wn_layer { flags: 0, ..layer };
    refused(forward(place, &without, &signed, &tensors), wn_status::Unexpected, "`post_norm_weight`");
}

/// The sum, and what it is normalized to.
fn rounded<T: Number>(place: &Place, flags: u32, [x, residual, weight]: [&[T]; 3]) -> [Vec<T>; 2] {
    let [mut x, mut residual, mut weight] = [x, residual, weight].map(|values| place.put(values));
    let mut y = place.put(&[T::of(9.0); ROWS * LENGTH]);
    // SAFETY: null pointers are nothing.
    let mut tensors: wn_tensors = unsafe { zeroed() };
    (tensors.input, tensors.output, tensors.residual) = (x.pointer(), y.pointer(), residual.pointer());
    tensors.weight = weight.pointer();
    ok(forward(place, &layer(true, flags), &signature::<T>(), &tensors));
    [place.get(&residual), place.get(&y)]
}

fn rounding<T: Number>(place: &Place) {
    // A residual far above the input, so that the sum loses much where it is rounded.
    let small: Vec<f64> = noise(ROWS * LENGTH, 1).iter().map(|value| 0.05 * value).collect();
    let [x, residual, weight] = [stored::<T>(&small), stored(&noise(ROWS * LENGTH, 2)), stored(&around_one(3))];
    let given = [&x[..], &residual, &weight];
    let sums: Vec<T> =
        x.iter().zip(&residual).map(|(x, residual)| T::of(f64::from((x.value() + residual.value()) as f32))).collect();
    let weight_of = |at: usize| weight[at % LENGTH].value();

    let [sum, steps] = rounded(place, wn_layer_flag::RoundSteps as u32, given);
    assert_eq!(exact(&sum), exact(&sums));
    assert_within(&steps, &norm(&exact(&sums), &rows(true, &|at| (weight_of(at), 0.0))), "steps rounded");

    let [sum, normalized] = rounded(place, wn_layer_flag::RoundNormalized as u32, given);
    assert_eq!(exact(&sum), exact(&sums));
    // Where the normalized value could fall on either side of a tie, both are right.
    let of_normalized = |(at, (value, slack)): (usize, (f64, f64))| {
        let [low, high] = [value - slack, value + slack].map(|end| T::of(end).value());
        let weight = weight_of(at);
        (weight * (low + high) / 2.0, weight.abs() * ((high - low) / 2.0 + slack / 2.0))
    };
    let expected: Vec<_> =
        norm(&exact(&sums), &rows(true, &|_| (1.0, 0.0))).into_iter().enumerate().map(of_normalized).collect();
    assert_within(&normalized, &expected, "the normalized rounded");

    let [_, once] = rounded(place, 0, given);
    let differ = size_of::<T>() == 2;
    assert_eq!(exact(&once) != exact(&steps), differ, "only f32 has nothing to round");
    assert_eq!(exact(&steps) != exact(&normalized), differ, "only f32 has nothing to round");
}

fn run_all(place: &Place) {
    for is_rms in [true, false] {
        post_norm::<f32>(place, is_rms);
        post_norm::<f16>(place, is_rms);
        post_norm::<bf16>(place, is_rms);
    }
    rounding::<f32>(place);
    rounding::<f16>(place);
    rounding::<bf16>(place);
}

#[test]
fn post_norm_and_rounding_on_cpu() {
    run_all(&Place::cpu());
}

#[test]
fn post_norm_and_rounding_on_cuda() {
    run_all(&Place::cuda());
    if let Some(emulator) = crate::load::preload() {
        assert_eq!(emulator.take_report(), "");
    }
}
