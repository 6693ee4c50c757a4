//! Outputs of eight bits, by scales that are given and scales that are made.

use warpnorm::half::{bf16, f16};
use warpnorm::{Activation, Args, Cpu, DType, Error, F8E4M3, LayerNorm, Quantized, QuantizedType, RmsNorm};
use warpnorm::{Scaling, Signature, raw};

use crate::data::{exact, normal, stored};
use crate::device;
use crate::oracle::{Expected, row};
use crate::place::{Held, Place, Real};

/// One or more for each regime of the plan, and on both sides of a group's end.
const LENGTHS: [usize; 13] = [1, 3, 100, 128, 129, 255, 300, 700, 1027, 4096, 5000, 20_000, 90_001];

const ROWS: usize = 3;
const EPS: f64 = 1e-5;
const GUARD: f32 = 0.4375;

const SCALINGS: [Scaling; 4] = [Scaling::Static, Scaling::Rows, Scaling::Groups, Scaling::GroupsByColumn];

/// The nearest value of a type to a number, held to its range; of two, the one whose last bit is 0. In f64, from the list of
/// all values.
fn nearest(scaled: f64, values: &[(f64, bool)]) -> f64 {
    let end = values.partition_point(|&(value, _)| value < scaled);
    let (Some(&(above, above_is_even)), Some(&(below, _))) = (values.get(end), values.get(end.wrapping_sub(1))) else {
        return values[end.min(values.len() - 1)].0;
    };
    match (above - scaled).total_cmp(&(scaled - below)) {
        std::cmp::Ordering::Less => above,
        std::cmp::Ordering::Greater => below,
        std::cmp::Ordering::Equal => {
            if above_is_even {
                above
            } else {
                below
            }
        }
    }
}

/// All finite values of a type in order, and whether their last bit is 0.
fn values_of(quantized: QuantizedType) -> Vec<(f64, bool)> {
    let mut values: Vec<(f64, bool)> = match quantized {
        QuantizedType::I8 => (-128..=127).map(|value: i32| (f64::from(value), value % 2 == 0)).collect(),
        QuantizedType::F8E4M3 => (0..0x7f_u8)
            .flat_map(|code| {
                let (exponent, fraction) = (i32::from(code >> 3), f64::from(code & 7));
                let value =
                    if exponent == 0 { fraction / 512.0 } else { (1.0 + fraction / 8.0) * 2.0_f64.powi(exponent - 7) };
                [(value, code % 2 == 0), (-value, code % 2 == 0)]
            })
            .collect(),
        other => panic!("no values of {other}"),
    };
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    values
}

struct Case {
    length: usize,
    scaling: Scaling,
    subtract_mean: bool,
    /// Elements between an aligned address and the output.
    offset: usize,
}

impl Case {
    /// Where the scale of an element is.
    fn scale_of(&self, row: usize, column: usize) -> usize {
        let groups = self.length.div_ceil(128);
        match self.scaling {
            Scaling::Static => 0,
            Scaling::Rows => row,
            Scaling::Groups => row * groups + column / 128,
            Scaling::GroupsByColumn => column / 128 * ROWS + row,
            other => panic!("no place for {other:?}"),
        }
    }

    /// `(q, scales)`.
    fn run<P: Place, T: Real, Q: Quantized + Held>(&self, place: &P, x: &[T], weight: &[f32]) -> (Vec<Q>, Vec<f32>) {
        let Self { length, scaling, offset, .. } = *self;
        let guard = Q::quantize(GUARD * 16.0);
        let count = scaling.scales(ROWS, length);
        let (x, weight) = (place.put(x), place.put(weight));
        let mut q = place.put(&vec![guard; offset + ROWS * length + 9]);
        let mut scales = place.put(&vec![if scaling == Scaling::Static { 0.03 } else { GUARD }; count + 3]);
        {
            let (x, weight) = (place.view(&x, 0..ROWS * length), place.view(&weight, 0..length));
            let mut q = place.view_mut(&mut q, offset..offset + ROWS * length);
            let mut scales = place.view_mut(&mut scales, 0..count);
            let args = Args::new(place, [ROWS, length]).input(&x).weight(&weight).quantized_output(&mut q);
            let args = args.scales(scaling, &mut scales);
            let done = if self.subtract_mean {
                LayerNorm::new([length]).and_then(|layer| layer.eps(EPS)?.activation(Activation::Silu).forward(args))
            } else {
                RmsNorm::new([length], EPS).and_then(|layer| layer.forward(args))
            };
            done.expect("a valid call");
        }
        let (q, scales) = (place.get(&q), place.get(&scales));
        let (written, behind) = q[offset..].split_at(ROWS * length);
        assert!(q[..offset].iter().chain(behind).all(|q| q.dequantize() == guard.dequantize()), "around the output");
        let untouched = if scaling == Scaling::Static { 0.03 } else { GUARD };
        assert!(scales[count..].iter().all(|&scale| scale == untouched), "behind the scales");
        (written.to_vec(), scales[..count].to_vec())
    }

    fn expected<T: Real>(&self, x: &[T], weight: &[f32]) -> Vec<Expected> {
        let activation = if self.subtract_mean { Activation::Silu } else { Activation::None };
        let affine = |i: usize| (f64::from(weight[i]), 0.0);
        exact(x).chunks(self.length).flat_map(|x| row(x, EPS, self.subtract_mean, &affine, activation)).collect()
    }

    fn check<Q: Quantized>(&self, q: &[Q], scales: &[f32], expected: &[Expected], about: &str) {
        // Of a scale, and of a scaled value: a division, a reciprocal and a product, each rounded to f32.
        const ROUNDINGS: f64 = 3.0 / (1 << 24) as f64;
        if self.scaling != Scaling::Static {
            let mut largest = vec![(0.0_f64, 0.0_f64); scales.len()];
            for (i, y) in expected.iter().enumerate() {
                let (value, slack) = &mut largest[self.scale_of(i / self.length, i % self.length)];
                (*value, *slack) = (value.max(y.value.abs()), slack.max(y.slack));
            }
            for (scale, (value, slack)) in scales.iter().zip(largest) {
                let (found, expected) = (f64::from(*scale), value.max(1e-10) / f64::from(Q::TYPE.max()));
                let slack = slack / f64::from(Q::TYPE.max()) + expected * ROUNDINGS;
                assert!((found - expected).abs() <= slack, "{about}: a scale is {found:e}, expected {expected:e}");
            }
        }
        let values = values_of(Q::TYPE);
        for (i, (q, y)) in q.iter().zip(expected).enumerate() {
            let scale = f64::from(scales[self.scale_of(i / self.length, i % self.length)]);
            let (scaled, slack) = (y.value / scale, y.slack / scale + (y.value / scale).abs() * ROUNDINGS);
            let [low, high] = [scaled - slack, scaled + slack].map(|end| nearest(end, &values));
            let found = f64::from(q.dequantize());
            assert!(low <= found && found <= high, "{about}: element {i} is {found}, expected {low} to {high}");
        }
    }
}

fn quantizes<P: Place, T: Real, Q: Quantized + Held>(place: &P) {
    for length in LENGTHS {
        let x: Vec<T> = stored(normal(ROWS * length, length as u64).map(|v| 2.0 * v + 0.5));
        let weight: Vec<f32> = stored(normal(length, 7).map(|v| 1.0 + 0.2 * v));
        let anywhere = [(true, 0), (false, 1), (true, 3), (false, 8)].into_iter().cycle().skip(length % 4);
        // And all of them where a word begins: rows of whole vectors have kernels of their own there.
        let on_a_word = SCALINGS.into_iter().zip([(false, 16), (true, 16)].into_iter().cycle());
        for (scaling, (subtract_mean, offset)) in SCALINGS.into_iter().zip(anywhere).chain(on_a_word) {
            let case = Case { length, scaling, subtract_mean, offset };
            let about = format!("{} {} {} {length} {scaling:?} at {offset}", P::NAME, T::DTYPE, Q::TYPE);
            let (q, scales) = case.run::<P, T, Q>(place, &x, &weight);
            case.check(&q, &scales, &case.expected(&x, &weight), &about);
        }
    }
}

fn all_types<P: Place>(place: &P) {
    quantizes::<_, f32, i8>(place);
    quantizes::<_, f16, i8>(place);
    quantizes::<_, bf16, i8>(place);
    quantizes::<_, f32, F8E4M3>(place);
    quantizes::<_, f16, F8E4M3>(place);
    quantizes::<_, bf16, F8E4M3>(place);
}

#[test]
fn quantizes_on_cpu() {
    all_types(&Cpu);
}

#[test]
fn quantizes_on_cuda() {
    device::cuda().under_schedules(all_types);
}

/// Zeros, numbers that are none, and infinities stay in what has their scale.
fn edges<P: Place, Q: Quantized + Held>(place: &P) {
    for length in LENGTHS.into_iter().filter(|&length| length > 2) {
        let mut x: Vec<f32> = stored(normal(ROWS * length, 3));
        let weight = vec![1.0; length];
        for scaling in [Scaling::Rows, Scaling::Groups] {
            let case = Case { length, scaling, subtract_mean: false, offset: 0 };
            let (clean, clean_scales) = case.run::<P, f32, Q>(place, &x, &weight);
            x[..length].fill(0.0);
            x[2 * length + 1] = f32::NAN;
            let (q, scales) = case.run::<P, f32, Q>(place, &x, &weight);
            let per_row = scales.len() / ROWS;
            let is_zero = |q: &Q| q.dequantize() == 0.0;
            assert!(q[..length].iter().all(is_zero), "{length} {scaling:?}: a row of zeros");
            let least = 1e-10 / Q::TYPE.max();
            assert!(scales[..per_row].iter().all(|&scale| scale == least), "{length} {scaling:?}: its scales");
            let same = |a: &[Q], b: &[Q]| a.iter().zip(b).all(|(a, b)| a.dequantize() == b.dequantize());
            assert!(same(&q[length..2 * length], &clean[length..2 * length]), "{length} {scaling:?}: the row between");
            assert_eq!(scales[per_row..2 * per_row], clean_scales[per_row..2 * per_row]);
            assert!(scales[2 * per_row..].iter().all(|scale| scale.is_nan()), "{length} {scaling:?}: the scale of NaN");
            let poisoned = &q[2 * length..];
            assert!(poisoned.iter().all(|q| q.dequantize().is_nan() || (Q::TYPE == QuantizedType::I8 && is_zero(q))));
            x.copy_from_slice(&stored::<f32>(normal(ROWS * length, 3)));
        }
    }
}

#[test]
fn edges_on_cpu() {
    edges::<_, i8>(&Cpu);
    edges::<_, F8E4M3>(&Cpu);
}

#[test]
fn edges_on_cuda() {
    let device = device::cuda();
    edges::<_, i8>(&device.cuda);
    edges::<_, F8E4M3>(&device.cuda);
}

#[test]
fn what_does_not_belong_is_refused() {
    let (x, mut y, mut q, mut scales) = ([1.0_f32; 8], [0.0_f32; 8], [0_i8; 8], [0.0_f32; 2]);
    let layer = LayerNorm::new([4]).unwrap();
    let refused = layer.forward(Args::new(&Cpu, [2, 4]).input(&x).quantized_output(&mut q));
    assert_eq!(refused, Err(Error::Missing { layer: "LayerNorm", argument: "scales" }));
    let refused = layer.forward(Args::new(&Cpu, [2, 4]).quantized_output(&mut q).scales(Scaling::Rows, &mut scales));
    assert_eq!(refused, Err(Error::Missing { layer: "LayerNorm", argument: "input" }));
    let refused = layer.forward(Args::new(&Cpu, [2, 4]).input(&x).output(&mut y).scales(Scaling::Rows, &mut scales));
    let hint = " beside an output that is not quantized";
    assert_eq!(refused, Err(Error::Unexpected { layer: "LayerNorm", argument: "scales", hint }));
    let args = Args::new(&Cpu, [2, 4]).input(&x).quantized_output(&mut q).scales(Scaling::Rows, &mut scales[..1]);
    assert_eq!(layer.forward(args), Err(Error::Length { argument: "scales", found: 1, expected: 2 }));
    let images = warpnorm::GroupNorm::new(2, 4).unwrap();
    let args = Args::new(&Cpu, [1, 4, 2]).input(&x).quantized_output(&mut q).static_scale(&[1.0]);
    let hint = ": LayerNorm and RMSNorm have one";
    let expected = Error::Unexpected { layer: "GroupNorm", argument: "quantized_output", hint };
    assert_eq!(images.forward(args), Err(expected));
}

/// By addresses, to the same bytes.
fn raw_layer<P: Place>(place: &P) {
    let (device, stream) = place.raw();
    let x: Vec<bf16> = stored(normal(ROWS * 5000, 1));
    let case = Case { length: 5000, scaling: Scaling::Groups, subtract_mean: false, offset: 0 };
    let weight = vec![1.0; 5000];
    let (expected, expected_scales) = case.run::<P, bf16, F8E4M3>(place, &x, &weight);
    let signature = Signature::new([ROWS, 5000], DType::Bf16).quantized_output(QuantizedType::F8E4M3, Scaling::Groups);
    let call = RmsNorm::new([5000], EPS).unwrap().prepare_raw(&device, &signature.weight(DType::F32)).unwrap();
    let (mut x, mut weight) = (place.put(&x), place.put(&weight));
    let mut q = place.put(&vec![F8E4M3::default(); ROWS * 5000]);
    let mut scales = place.put(&vec![0.0_f32; ROWS * 40]);
    let addresses = raw::Addresses {
        input: place.address(&mut x),
        weight: place.address(&mut weight),
        output: place.address(&mut q),
        scales: place.address(&mut scales),
        ..raw::Addresses::default()
    };
    // SAFETY: buffers of this place, as long as the signature says.
    unsafe { call.launch(&addresses, stream) }.unwrap();
    assert_eq!(place.get(&q), expected);
    assert_eq!(place.get(&scales), expected_scales);
    // SAFETY: refused.
    let refused = unsafe { call.launch(&raw::Addresses { scales: 0, ..addresses }, stream) };
    assert_eq!(refused, Err(Error::Missing { layer: "RMSNorm", argument: "scales" }));
}

#[test]
fn raw_layer_on_cpu() {
    raw_layer(&Cpu);
}

#[test]
fn raw_layer_on_cuda() {
    raw_layer(&device::cuda().cuda);
}
