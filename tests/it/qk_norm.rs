//! QkNorm: every type, weight, layout and head on both backends, against f64 and against the bits of LayerNorm and RMSNorm.

pub mod call;
mod refusals;

use emulator::{Emulator, Variant};
use warpnorm::half::{bf16, f16};
use warpnorm::raw::Addresses;
use warpnorm::{Args, Cpu, DType, Error, QkNorm, Signature};

use crate::call::Coefficient;
use crate::data::{bits, stored};
use crate::device;
use crate::place::{Place, Real};
use call::{Call, Inputs, LAYOUTS, Layout, Norm, run, verify};

/// What models have, both sides of each kernel's lengths, and odd ones.
const HEAD_DIMS: [usize; 15] = [1, 7, 64, 65, 80, 96, 127, 128, 192, 256, 257, 512, 513, 1000, 1024];
/// Queries, keys and values: of grouped and multi-query attention, of one head, of more keys than queries.
const HEADS: [[usize; 3]; 5] = [[32, 8, 8], [28, 4, 4], [1, 1, 1], [2, 3, 0], [5, 1, 1]];
const COEFFICIENTS: [Coefficient; 3] = [Coefficient::Absent, Coefficient::Own, Coefficient::F32];
const NORMS: [Norm; 3] = [Norm::Rms { weight_plus_one: false }, Norm::Layer, Norm::Rms { weight_plus_one: true }];
const RMS: Norm = NORMS[0];

/// Every head with every layout and every type of the queries' weight; the other choices take turns beside them.
fn calls(most_elements: usize) -> impl Iterator<Item = Call> {
    let all = HEAD_DIMS.into_iter().flat_map(|head_dim| LAYOUTS.map(|layout| (head_dim, layout)));
    let all = all.flat_map(|(head_dim, layout)| COEFFICIENTS.map(|weight| (head_dim, layout, weight)));
    all.enumerate().map(move |(turn, (head_dim, layout, weight))| {
        // Numbers without a common divisor, and of weights: so that all pairs are met.
        let norm = match NORMS[turn / 3 % 3] {
            Norm::Rms { .. } if weight == Coefficient::Absent => RMS, // an offset needs something to be an offset of
            norm => norm,
        };
        let other = if weight == Coefficient::Absent { weight } else { COEFFICIENTS[1 + turn / 2 % 2] };
        let biases = match turn % 4 {
            0 | 1 => [Coefficient::Absent; 2],
            2 => [Coefficient::Own, Coefficient::F32],
            _ => [Coefficient::F32, Coefficient::Own],
        };
        let (offset, gaps) = ([0, 1, 3, 8, 5, 0, 4][turn % 7], [[0, 0], [6, 1], [0, 8], [3, 0], [1, 3]][turn % 5]);
        let mut call = Call::new(norm, HEADS[turn / 7 % 5], head_dim, 3);
        if call.elements() > most_elements {
            call.heads = [2, 1, 1];
        }
        Call { layout, weights: [weight, other], biases, offset, gaps, ..call }
    })
}

fn matrix_on_cuda<T: Real>() {
    let device = device::cuda();
    let is_checked = device.emulator.map(Emulator::variant) == Some(Variant::Checked);
    for (seed, call) in calls(if is_checked { 10_000 } else { 200_000 }).enumerate() {
        let inputs = Inputs::<T>::normal(&call, seed as u64);
        device.under_schedules(|cuda| drop(verify(cuda, &call, &inputs)));
    }
}

#[test]
fn matrix_f32_on_cuda() {
    matrix_on_cuda::<f32>();
}

#[test]
fn matrix_f16_on_cuda() {
    matrix_on_cuda::<f16>();
}

#[test]
fn matrix_bf16_on_cuda() {
    matrix_on_cuda::<bf16>();
}

#[test]
fn matrix_on_cpu() {
    fn matrix<T: Real>() {
        for (seed, call) in calls(usize::MAX).enumerate() {
            verify(&Cpu, &call, &Inputs::<T>::normal(&call, seed as u64));
        }
    }
    matrix::<f32>();
    matrix::<f16>();
    matrix::<bf16>();
}

/// Means far above the deviation, outliers and no tokens.
fn numbers<P: Place, T: Real>(place: &P) {
    for head_dim in [64, 80, 128, 256, 1000] {
        let call = Call { weights: [Coefficient::F32; 2], ..Call::new(Norm::Layer, [3, 2, 2], head_dim, 4) };
        for (mean, deviation) in [(1e4, 1.0), (-2000.0, 0.2)] {
            let mut inputs = Inputs::<T>::normal(&call, 3);
            inputs.x.iter_mut().flatten().for_each(|x| *x = T::from_f64(mean + deviation * x.to_f64()));
            verify(place, &call, &inputs);
        }
        for position in [0, head_dim / 2, head_dim - 1] {
            let mut inputs = Inputs::<T>::normal(&call, 4);
            inputs.x.iter_mut().for_each(|x| x.chunks_mut(head_dim).for_each(|head| head[position] = T::from_f64(6e4)));
            verify(place, &call, &inputs);
            verify(place, &Call { norm: RMS, ..call }, &inputs);
        }
        verify(place, &Call { tokens: 0, ..call }, &Inputs::<T>::normal(&Call { tokens: 0, ..call }, 5));
    }
}

#[test]
fn numbers_on_cpu() {
    numbers::<_, f32>(&Cpu);
    numbers::<_, bf16>(&Cpu);
}

#[test]
fn numbers_on_cuda() {
    let device = device::cuda();
    numbers::<_, f32>(&device.cuda);
    numbers::<_, bf16>(&device.cuda);
}

/// Equal elements of a head give exactly the bias where the mean is subtracted.
fn constant_heads<P: Place, T: Real>(place: &P) {
    for head_dim in [1, 7, 80, 128, 500, 1024] {
        for layout in LAYOUTS {
            let biases = [Coefficient::Own, Coefficient::F32];
            let call =
                Call { layout, biases, offset: 1, gaps: [3, 1], ..Call::new(Norm::Layer, [4, 2, 1], head_dim, 2) };
            let mut inputs = Inputs::<T>::normal(&call, 6);
            inputs.x.iter_mut().for_each(|x| {
                x.chunks_mut(head_dim).enumerate().for_each(|(i, head)| head.fill(T::from_f64(1e4 + i as f64)))
            });
            for (kind, found) in verify(place, &call, &inputs).iter().enumerate() {
                let bias: Vec<T> = stored(inputs.biases[kind].iter().copied());
                assert!(found.chunks(head_dim).all(|head| bits(head) == bits(&bias)), "{call:?}");
            }
        }
    }
}

/// A NaN or an infinity stays in its head, and no other head has other bits for it.
fn bad_heads_stay_alone<P: Place, T: Real>(place: &P) {
    for (norm, head_dim) in [(RMS, 64), (RMS, 80), (Norm::Layer, 128), (Norm::Layer, 1000)] {
        let call = Call::new(norm, [5, 3, 1], head_dim, 3);
        let clean = Inputs::<T>::normal(&call, 8);
        let good = verify(place, &call, &clean);
        for (kind, bad_head, value) in [(0, 7, f64::NAN), (1, 4, f64::INFINITY), (1, 8, f64::NAN), (0, 0, f64::NAN)] {
            let mut inputs = clean.clone();
            inputs.x[kind][bad_head * head_dim + head_dim / 2] = T::from_f64(value);
            let found = run(place, &call, &inputs, &|args| call.layer()?.forward(args)).expect("a good call");
            for (of_kind, (found, good)) in found.iter().zip(&good).enumerate() {
                for (head, (found, good)) in found.chunks(head_dim).zip(good.chunks(head_dim)).enumerate() {
                    if (of_kind, head) == (kind, bad_head) {
                        assert!(found.iter().any(|y| y.to_f64().is_nan()), "{call:?}: {value} has vanished");
                    } else {
                        assert_eq!(bits(found), bits(good), "{call:?}: {value} in head {bad_head} of {kind}");
                    }
                }
            }
        }
    }
}

/// A token alone, at another address and in another layout, has the bits that it has in a batch.
fn tokens_agree<P: Place, T: Real>(place: &P) {
    for head_dim in [7, 64, 80, 128, 300, 1000] {
        let batch = Call { weights: [Coefficient::F32; 2], ..Call::new(RMS, [6, 2, 2], head_dim, 5) };
        let inputs = Inputs::<T>::normal(&batch, 12);
        let reference = verify(place, &batch, &inputs);
        let of_token = |values: &[T], kind: usize, token: usize| {
            let width = batch.heads[kind] * head_dim;
            values[token * width..][..width].to_vec()
        };
        for (token, layout) in LAYOUTS.into_iter().enumerate() {
            let alone = Call { tokens: 1, layout, offset: token, ..batch };
            let x = std::array::from_fn(|kind| of_token(&inputs.x[kind], kind, token));
            let found = verify(place, &alone, &Inputs { x, ..inputs.clone() });
            for kind in 0..2 {
                assert_eq!(bits(&found[kind]), bits(&of_token(&reference[kind], kind, token)), "{alone:?}");
            }
        }
    }
}

macro_rules! on_both_backends {
    ($($test:ident: $on_cpu:ident, $on_cuda:ident;)*) => {
        $(#[test]
        fn $on_cpu() {
            $test::<_, f32>(&Cpu);
            $test::<_, f16>(&Cpu);
        }

        #[test]
        fn $on_cuda() {
            device::cuda().under_schedules(|cuda| {
                $test::<_, f32>(cuda);
                $test::<_, f16>(cuda);
            });
        })*
    };
}

on_both_backends! {
    constant_heads: constant_heads_on_cpu, constant_heads_on_cuda;
    bad_heads_stay_alone: bad_heads_stay_alone_on_cpu, bad_heads_stay_alone_on_cuda;
    tokens_agree: tokens_agree_on_cpu, tokens_agree_on_cuda;
}

#[test]
fn one_thread_and_many_on_cpu() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    let call = Call { gaps: [8; 2], ..Call::new(Norm::Layer, [9, 3, 3], 127, 300) };
    let inputs = Inputs::<bf16>::normal(&call, 15);
    let [one, many] = [pool(1), pool(5)].map(|pool| pool.install(|| verify(&Cpu, &call, &inputs)));
    assert_eq!(one.each_ref().map(|y| bits(y)), many.each_ref().map(|y| bits(y)));
}

/// Other layouts by another name, as the documentation has them.
#[test]
fn heads_before_tokens_and_groups_of_heads() {
    let rms = |[q, k]: [usize; 2]| QkNorm::rms([q, k], 16, 1e-6).unwrap();
    let x: Vec<f32> = stored(crate::data::normal(2 * 3 * 4 * 5 * 16, 21));
    let all: Vec<f32> = x
        .chunks(16)
        .flat_map(|head| {
            let square = head.iter().map(|x| x * x).sum::<f32>() / 16.0;
            head.iter().map(move |x| x / (square + 1e-6).sqrt())
        })
        .collect();
    // [batch, heads, seq, head_dim] of 4 query heads and 2 key heads, a batch of 2, 5 tokens.
    let (mut q, mut k) = (x[..2 * 4 * 5 * 16].to_vec(), x[..2 * 2 * 5 * 16].to_vec());
    rms([4 * 5, 2 * 5]).forward(Args::new(&Cpu, [2, 4 * 5, 16]).output(&mut q).key_output(&mut k)).unwrap();
    for (found, expected) in q.iter().zip(&all).chain(k.iter().zip(&all)) {
        approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-5);
    }
    // [tokens, k_heads, q_per_k + 2, head_dim] of 3 queries to a key.
    let mut qkv = x.clone();
    rms([3, 1]).forward(Args::new(&Cpu, [2 * 3, 4, 5, 16]).output(&mut qkv)).unwrap();
    for (head, ((found, normalized), x)) in qkv.chunks(16).zip(all.chunks(16)).zip(x.chunks(16)).enumerate() {
        let expected = if head % 5 < 4 { normalized } else { x };
        for (found, expected) in found.iter().zip(expected) {
            approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-5);
        }
    }
}

/// Prepared once, called as often as one likes, with the bits of a plain call.
fn prepared_like_forward<P: Place>(place: &P) {
    for layout in LAYOUTS {
        let call = Call {
            layout,
            weights: [Coefficient::F32, Coefficient::Own],
            biases: [Coefficient::Own, Coefficient::F32],
            ..Call::new(Norm::Layer, [4, 2, 2], 80, 3)
        };
        let inputs = Inputs::<bf16>::normal(&call, 18);
        let stride = |heads: usize| heads * 80;
        let (total, signature) = (8, call.signature(DType::Bf16));
        let signature = match layout {
            Layout::PackedInPlace => signature.output_row_stride(stride(total)),
            Layout::Packed => signature.input_row_stride(stride(total)).output_row_stride(stride(total)),
            Layout::SeparateInPlace => signature.output_row_stride(stride(4)).key_output_row_stride(stride(2)),
            Layout::Separate | Layout::FromPacked => {
                let [of_q, of_k] = if layout == Layout::Separate { [4, 2] } else { [total; 2] };
                let signature = signature.input_row_stride(stride(of_q)).key_input_row_stride(stride(of_k));
                signature.output_row_stride(stride(4)).key_output_row_stride(stride(2))
            }
        };
        let prepared = call.layer().unwrap().prepare(place, &signature).unwrap();
        let expected = verify(place, &call, &inputs);
        for _ in 0..2 {
            let found = run(place, &call, &inputs, &|args| prepared.forward(args)).expect("as prepared");
            assert_eq!(found.each_ref().map(|y| bits(y)), expected.each_ref().map(|y| bits(y)), "{call:?}");
        }
        let without = Call { weights: [Coefficient::Own; 2], ..call };
        let refused = run(place, &without, &inputs, &|args| prepared.forward(args));
        assert!(matches!(refused, Err(Error::NotAsPrepared { argument: "weight", .. })), "{refused:?}");
        let without = Call { weights: [Coefficient::F32; 2], ..call };
        let refused = run(place, &without, &inputs, &|args| prepared.forward(args));
        assert!(matches!(refused, Err(Error::NotAsPrepared { argument: "key_weight", .. })), "{refused:?}");
    }
}

#[test]
fn prepared_like_forward_on_cpu() {
    prepared_like_forward(&Cpu);
}

#[test]
fn prepared_like_forward_on_cuda() {
    prepared_like_forward(&device::cuda().cuda);
}

#[test]
fn one_launch_on_cuda() {
    let device = device::cuda();
    let layer = QkNorm::rms([32, 8], 128, 1e-6).unwrap();
    let signature = Signature::new([16, 48, 128], DType::Bf16).in_place();
    assert!(layer.prepare(&device.cuda, &signature).unwrap().kernels().eq(["head_rows_group_16_bf16"]));
}

/// By addresses, with the bits of the typed call.
fn raw_like_typed<P: Place, T: Real>(place: &P) {
    let (device, stream) = place.raw();
    for (layout, norm) in LAYOUTS.into_iter().zip(NORMS.into_iter().cycle()) {
        let biases = [Coefficient::Own, Coefficient::Own];
        let call = Call { layout, biases, ..Call::new(norm, [4, 2, 2], 96, 3) };
        let inputs = Inputs::<T>::normal(&call, 24);
        let typed = verify(place, &call, &inputs);
        let [of_q, of_k, of_v] = call.heads.map(|heads| heads * 96);
        let pack = |x: &[Vec<T>; 3]| -> Vec<T> {
            let of_token =
                |t: usize| [&x[0][t * of_q..][..of_q], &x[1][t * of_k..][..of_k], &x[2][t * of_v..][..of_v]].concat();
            (0..call.tokens).flat_map(of_token).collect()
        };
        let mut packed = place.put(&pack(&inputs.x));
        let mut packed_out = place.put(&pack(&inputs.x));
        let [mut q, mut k] = [0, 1].map(|kind| place.put(&inputs.x[kind]));
        let [mut q_out, mut k_out] = [0, 1].map(|kind| place.put(&inputs.x[kind]));
        let put = |values: &[f64]| {
            let mut buffer = place.put(&stored::<T>(values.iter().copied()));
            (place.address(&mut buffer), buffer)
        };
        let coefficients =
            [&inputs.weights[0], &inputs.weights[1], &inputs.biases[0], &inputs.biases[1]].map(|values| put(values));
        let [weight, key_weight, bias, key_bias] = coefficients.each_ref().map(|(address, _)| *address);
        let bytes_of_q = (of_q * size_of::<T>()) as u64;
        let at = Addresses { weight, key_weight, bias, key_bias, ..Addresses::default() };
        let mut signature = call.signature(T::DTYPE);
        let addresses = match layout {
            Layout::PackedInPlace => Addresses { output: place.address(&mut packed), ..at },
            Layout::Packed => {
                Addresses { input: place.address(&mut packed), output: place.address(&mut packed_out), ..at }
            }
            // In place may also be said by the addresses.
            Layout::SeparateInPlace => {
                let (output, key_output) = (place.address(&mut q), place.address(&mut k));
                Addresses { output, key_output, key_input: key_output, ..at }
            }
            Layout::Separate => Addresses {
                input: place.address(&mut q),
                key_input: place.address(&mut k),
                output: place.address(&mut q_out),
                key_output: place.address(&mut k_out),
                ..at
            },
            Layout::FromPacked => {
                signature = signature.input_row_stride(of_q + of_k + of_v).key_input_row_stride(of_q + of_k + of_v);
                let input = place.address(&mut packed);
                let (output, key_output) = (place.address(&mut q_out), place.address(&mut k_out));
                Addresses { input, key_input: input + bytes_of_q, output, key_output, ..at }
            }
        };
        let prepared = call.layer().unwrap().prepare_raw(&device, &signature).unwrap();
        // SAFETY: buffers of this place, as long as the signature says.
        unsafe { prepared.launch(&addresses, stream) }.unwrap_or_else(|error| panic!("{call:?}: {error}"));
        let whole = |packed: &P::Buffer<T>, others: [&P::Buffer<T>; 2]| match layout {
            Layout::PackedInPlace | Layout::Packed => place.get(packed),
            _ => pack(&[place.get(others[0]), place.get(others[1]), inputs.x[2].clone()]),
        };
        let found = match layout {
            Layout::PackedInPlace | Layout::SeparateInPlace => whole(&packed, [&q, &k]),
            _ => whole(&packed_out, [&q_out, &k_out]),
        };
        let [typed_q, typed_k] = typed;
        assert_eq!(bits(&found), bits(&pack(&[typed_q, typed_k, inputs.x[2].clone()])), "{} {call:?}", P::NAME);
    }
}

#[test]
fn raw_like_typed_on_cpu() {
    raw_like_typed::<_, f32>(&Cpu);
    raw_like_typed::<_, f16>(&Cpu);
}

#[test]
fn raw_like_typed_on_cuda() {
    let device = device::cuda();
    raw_like_typed::<_, f32>(&device.cuda);
    raw_like_typed::<_, bf16>(&device.cuda);
}
