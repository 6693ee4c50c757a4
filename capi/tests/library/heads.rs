//! QkNorm: queries and keys in one tensor and in two, on both devices and in three types, against f64.

use std::mem::zeroed;
use std::ptr::{null, null_mut};

use half::{bf16, f16};

use crate::load::{Buffer, Place, library, ok, refused};
use crate::reference::{Norm, Number, assert_within, noise, norm};
use crate::types::{
    wn_activation, wn_dtype, wn_layer, wn_layer_flag, wn_signature, wn_signature_flag, wn_status, wn_tensors,
};

const TOKENS: usize = 3;
/// Of queries, keys and values.
const HEADS: [usize; 3] = [4, 2, 1];
const HEAD_DIM: usize = 80;

fn layer(is_rms: bool) -> wn_layer {
    let [q_heads, k_heads, _] = HEADS.map(|heads| heads as i64);
    // SAFETY: plain numbers, and a layer to write to.
    unsafe {
        let mut layer = zeroed();
        ok(if is_rms {
            (library().wn_qk_rms_norm)(&raw mut layer, q_heads, k_heads, HEAD_DIM as i64, 1e-6)
        } else {
            (library().wn_qk_layer_norm)(&raw mut layer, q_heads, k_heads, HEAD_DIM as i64)
        });
        layer
    }
}

fn signature<T: Number>(heads: usize) -> wn_signature {
    let shape = [TOKENS, heads, HEAD_DIM].map(|extent| extent as i64);
    // SAFETY: plain numbers, and a signature to write to.
    unsafe {
        let mut signature = zeroed();
        ok((library().wn_signature_init)(&raw mut signature, 3, shape.as_ptr(), T::DTYPE as i32));
        signature
    }
}

fn forward(place: &Place, layer: &wn_layer, signature: &wn_signature, tensors: &wn_tensors) -> i32 {
    // SAFETY: buffers of this device, as large as the signature says; the default stream.
    unsafe { (library().wn_forward)(place.device, layer, signature, tensors, null_mut()) }
}

fn expected(x: &[f64], is_rms: bool, weight: &[f64], bias: &[f64]) -> Vec<(f64, f64)> {
    norm(
        x,
        &Norm {
            set: &|at| at / HEAD_DIM,
            given: None,
            subtract_mean: !is_rms,
            eps: f64::from(if is_rms { 1e-6_f32 } else { 1e-5_f32 }),
            affine: &|at| (weight[at % HEAD_DIM] + 1.0, bias[at % HEAD_DIM]),
            activation: wn_activation::None as i32,
        },
    )
}

fn run<T: Number>(place: &Place, is_rms: bool) {
    let about = |what: &str| format!("{what} of {}", if is_rms { "RMSNorm" } else { "LayerNorm" });
    let stored = |values: &[f64]| values.iter().map(|&value| T::of(value)).collect::<Vec<_>>();
    let exact = |values: &[T]| values.iter().map(|value| value.value()).collect::<Vec<_>>();
    let x: [Vec<T>; 3] = std::array::from_fn(|kind| stored(&noise(TOKENS * HEADS[kind] * HEAD_DIM, kind as u64 + 1)));
    let of_key: Vec<T> = stored(&noise(HEAD_DIM, 5));
    let f32s = |seed| noise(HEAD_DIM, seed).iter().map(|&value| value as f32).collect::<Vec<_>>();
    let (of_query, biases) = (f32s(4), [f32s(6), f32s(7)]);
    let mut key_weight = place.put(&of_key);
    let mut weight = place.put(&of_query);
    let [mut bias, mut key_bias] = biases.each_ref().map(|bias| place.put(bias));
    let double = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    let answers = [
        expected(&exact(&x[0]), is_rms, &double(&of_query), &double(&biases[0])),
        expected(&exact(&x[1]), is_rms, &exact(&of_key), &double(&biases[1])),
    ];

    let mut layer = layer(is_rms);
    layer.flags |= wn_layer_flag::WeightPlusOne as u32;
    let f32 = wn_dtype::F32 as i32;
    let mut signed = signature::<T>(HEADS.iter().sum());
    (signed.weight, signed.key_weight, signed.bias, signed.key_bias) = (f32, T::DTYPE as i32, f32, f32);
    // SAFETY: null pointers are nothing.
    let mut tensors: wn_tensors = unsafe { zeroed() };
    (tensors.weight, tensors.key_weight) = (weight.pointer(), key_weight.pointer());
    (tensors.bias, tensors.key_bias) = (bias.pointer(), key_bias.pointer());

    let of_token = |kind: usize, token: usize| &x[kind][token * HEADS[kind] * HEAD_DIM..][..HEADS[kind] * HEAD_DIM];
    let packed: Vec<T> =
        (0..TOKENS).flat_map(|token| (0..3).flat_map(move |kind| of_token(kind, token))).copied().collect();
    let mut qkv = place.put(&packed);
    tensors.output = qkv.pointer();
    ok(forward(place, &layer, &signed, &tensors));
    let found = place.get(&qkv);
    let mut rest = &found[..];
    for token in 0..TOKENS {
        for (kind, heads) in HEADS.into_iter().enumerate() {
            let (part, behind) = rest.split_at(heads * HEAD_DIM);
            match answers.get(kind) {
                Some(answer) => assert_within(part, &answer[token * part.len()..][..part.len()], &about("qkv")),
                None => assert_eq!(exact(part), exact(of_token(kind, token)), "values were changed"),
            }
            rest = behind;
        }
    }

    // From one tensor into two, of which the keys' has gaps.
    let row = HEADS.iter().sum::<usize>() * HEAD_DIM;
    let (of_q, of_k, gap) = (HEADS[0] * HEAD_DIM, HEADS[1] * HEAD_DIM, 9);
    let query = wn_signature { rank: 3, shape: signature::<T>(HEADS[0]).shape, ..signed };
    let mut separate = wn_signature {
        flags: wn_signature_flag::KeyOutput as u32,
        input_row_stride: row as i64,
        key_input_row_stride: row as i64,
        key_output_row_stride: (of_k + gap) as i64,
        ..query
    };
    let mut qkv = place.put(&packed);
    let mut q = place.put(&vec![T::default(); TOKENS * of_q]);
    let mut k = place.put(&vec![T::of(7.0); TOKENS * (of_k + gap)]);
    tensors.input = qkv.pointer();
    tensors.key_input = qkv.pointer().wrapping_byte_add(of_q * size_of::<T>());
    (tensors.output, tensors.key_output) = (q.pointer(), k.pointer());
    ok(forward(place, &layer, &separate, &tensors));
    assert_within(&place.get(&q), &answers[0], &about("queries"));
    for (token, found) in place.get(&k).chunks(of_k + gap).enumerate() {
        assert_within(&found[..of_k], &answers[1][token * of_k..][..of_k], &about("keys"));
        assert!(found[of_k..].iter().all(|value| value.value() == 7.0), "memory between tokens was changed");
    }

    // Both in place.
    let put = |kind: usize| -> Buffer<T> { place.put(&x[kind]) };
    let (mut q, mut k) = (put(0), put(1));
    separate = wn_signature {
        flags: wn_signature_flag::InPlace as u32 | wn_signature_flag::KeyInPlace as u32,
        input_row_stride: 0,
        key_input_row_stride: 0,
        key_output_row_stride: 0,
        ..separate
    };
    (tensors.input, tensors.key_input) = (null(), null());
    (tensors.output, tensors.key_output) = (q.pointer(), k.pointer());
    ok(forward(place, &layer, &separate, &tensors));
    assert_within(&place.get(&q), &answers[0], &about("queries"));
    assert_within(&place.get(&k), &answers[1], &about("keys"));
    refused(
        forward(place, &layer, &separate, &wn_tensors { key_output: null_mut(), ..tensors }),
        wn_status::Missing,
        "`key_output`",
    );
    refused(
        forward(place, &layer, &wn_signature { key_bias: 0, ..separate }, &tensors),
        wn_status::Missing,
        "`key_bias`",
    );
}

fn run_all(place: &Place) {
    for is_rms in [true, false] {
        run::<f32>(place, is_rms);
        run::<f16>(place, is_rms);
        run::<bf16>(place, is_rms);
    }
}

#[test]
fn heads_on_cpu() {
    run_all(&Place::cpu());
}

#[test]
fn heads_on_cuda() {
    run_all(&Place::cuda());
    if let Some(emulator) = crate::load::preload() {
        assert_eq!(emulator.take_report(), "");
    }
}

#[test]
fn refusals() {
    let c = library();
    // SAFETY: plain numbers.
    let mut layer: wn_layer = unsafe { zeroed() };
    let l = &raw mut layer;
    // SAFETY: a layer to write to, or null, which is what is tried.
    unsafe {
        refused((c.wn_qk_rms_norm)(null_mut(), 1, 1, 64, 1e-6), wn_status::Null, "`layer`");
        refused((c.wn_qk_layer_norm)(null_mut(), 1, 1, 64), wn_status::Null, "`layer`");
        refused((c.wn_qk_rms_norm)(l, -1, 1, 64, 1e-6), wn_status::InvalidValue, "q_heads");
        refused((c.wn_qk_rms_norm)(l, 1, i64::MIN, 64, 1e-6), wn_status::InvalidValue, "k_heads");
        refused((c.wn_qk_rms_norm)(l, 1, 0, 64, 1e-6), wn_status::Empty, "k_heads");
        refused((c.wn_qk_layer_norm)(l, 1, 1, -64), wn_status::InvalidValue, "head_dim");
        refused((c.wn_qk_layer_norm)(l, 1, 1, 2048), wn_status::TooLarge, "head_dim");
        refused((c.wn_qk_layer_norm)(l, i64::MAX, i64::MAX, 64), wn_status::ShapeOverflow, "address");
        refused((c.wn_qk_rms_norm)(l, 1, 1, 64, f64::NAN), wn_status::Eps, "NaN");
    }
    assert_eq!(layer.kind, 0, "a refusal has written");
    let place = Place::cpu();
    let signed = signature::<f32>(7);
    // SAFETY: null pointers are nothing.
    let tensors: wn_tensors = unsafe { zeroed() };
    let good = self::layer(true);
    let refuses = |layer: wn_layer, words| {
        refused(forward(&place, &layer, &signed, &tensors), wn_status::InvalidValue, words);
    };
    refuses(wn_layer { activation: wn_activation::Silu as i32, ..good }, "activation");
    refuses(wn_layer { layout: 1, ..good }, "no layout");
    refuses(wn_layer { flags: wn_layer_flag::ScalePlusOne as u32, ..good }, "flags");
    refused(forward(&place, &good, &signature::<f32>(5), &tensors), wn_status::Shape, "[6 or more, 80]");
}
