//! The norm of an input, a residual, and the norm of their sum, in one call.

use warpnorm::half::{bf16, f16};
use warpnorm::{Args, Backend, Cpu, DType, Error, LayerNorm, Result, RmsNorm, Signature};

use crate::data::{bits, exact, normal, stored};
use crate::device;
use crate::oracle::{Expected, assert_within, row, uncertain_row};
use crate::place::{Place, Real};

/// One or more for each regime of the plan.
const LENGTHS: [usize; 11] = [1, 5, 100, 255, 300, 700, 1025, 4097, 20_000, 90_001, 1_000_000];

const ROWS: usize = 3;
const EPS: f64 = 1e-5;

#[derive(Clone, Copy)]
struct Case {
    length: usize,
    subtract_mean: bool,
    plus_one: bool,
    gated: bool,
    /// Elements between an aligned address and the tensors.
    offset: usize,
}

struct Tensors<T> {
    x: Vec<T>,
    residual: Vec<T>,
    gate: Vec<f32>,
    post_weight: Vec<T>,
    post_bias: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<T>,
}

impl<T: Real> Tensors<T> {
    fn new(length: usize) -> Self {
        let take = |count, seed| normal(count, seed + length as u64);
        Self {
            x: stored(take(ROWS * length, 1).map(|v| 3.0 * v + 1.0)),
            residual: stored(take(ROWS * length, 2).map(|v| 2.0 * v)),
            gate: stored(take(ROWS * length, 3).map(|v| 1.0 + 0.1 * v)),
            post_weight: stored(take(length, 4).map(|v| 1.0 + 0.1 * v)),
            post_bias: stored(take(length, 5)),
            weight: stored(take(length, 6).map(|v| 1.0 + 0.1 * v)),
            bias: stored(take(length, 7)),
        }
    }

    /// The sum, and what is made of it.
    fn expected(&self, case: Case) -> (Vec<Expected>, Vec<Expected>) {
        let Case { length, subtract_mean, .. } = case;
        let plus = if case.plus_one { 1.0 } else { 0.0 };
        let [x, residual] = [exact(&self.x), exact(&self.residual)];
        let [post_weight, bias] = [exact(&self.post_weight), exact(&self.bias)];
        let post = |i: usize| (post_weight[i] + plus, f64::from(self.post_bias[i]));
        let own = |i: usize| (f64::from(self.weight[i]) + plus, bias[i]);
        let (mut sums, mut outputs) = (Vec::new(), Vec::new());
        for (index, x) in x.chunks(length).enumerate() {
            let normalized = row(x, EPS, subtract_mean, &post, warpnorm::Activation::None);
            let sum = |(i, y): (usize, Expected)| {
                let at = index * length + i;
                let gate = if case.gated { f64::from(self.gate[at]) } else { 1.0 };
                // Three roundings of f32 on the way: of the norm's own sum, of the product, of the sum.
                let value = y.value * gate + residual[at];
                let rounded = (y.value.abs() * gate.abs() * 2.0 + value.abs()) / f64::from(1 << 24);
                Expected { value, slack: y.slack * gate.abs() + rounded }
            };
            let sum: Vec<_> = normalized.into_iter().enumerate().map(sum).collect();
            outputs.extend(uncertain_row(&sum, EPS, subtract_mean, &own));
            sums.extend(sum);
        }
        (sums, outputs)
    }

    /// The call with the sum in the residual; what was there before them stays.
    fn run<P: Place>(&self, place: &P, case: Case) -> (Vec<T>, Vec<T>) {
        let Case { length, offset, .. } = case;
        let shifted = |values: &[T]| [&vec![T::from_f64(0.5); offset][..], values].concat();
        let (x, mut residual) = (place.put(&shifted(&self.x)), place.put(&shifted(&self.residual)));
        let (post_weight, bias) = (place.put(&shifted(&self.post_weight)), place.put(&self.bias));
        let (post_bias, weight, gate) = (place.put(&self.post_bias), place.put(&self.weight), place.put(&self.gate));
        let mut y = place.put(&vec![T::from_f64(0.5); offset + ROWS * length + 5]);
        {
            let all = offset..offset + ROWS * length;
            let (x, gate) = (place.view(&x, all.clone()), place.view(&gate, 0..ROWS * length));
            let mut residual = place.view_mut(&mut residual, all.clone());
            let (post_weight, post_bias) =
                (place.view(&post_weight, offset..offset + length), place.view(&post_bias, 0..length));
            let (weight, bias) = (place.view(&weight, 0..length), place.view(&bias, 0..length));
            let mut y = place.view_mut(&mut y, all);
            let mut args = Args::new(place, [ROWS, length])
                .input(&x)
                .post_norm_weight(&post_weight)
                .post_norm_bias(&post_bias)
                .sum_in_residual(&mut residual)
                .weight(&weight)
                .bias(&bias)
                .output(&mut y);
            if case.gated {
                args = args.gate(&gate);
            }
            case.forward(args).expect("a valid call");
        }
        let (residual, y) = (place.get(&residual), place.get(&y));
        let (written, behind) = y[offset..].split_at(ROWS * length);
        assert!(y[..offset].iter().chain(behind).chain(&residual[..offset]).all(|v| v.to_f64() == 0.5));
        (residual[offset..].to_vec(), written.to_vec())
    }
}

impl Case {
    fn forward<B: Backend>(self, args: Args<'_, B>) -> Result<()> {
        if self.subtract_mean {
            LayerNorm::new([self.length])?.eps(EPS)?.post_norm(true).forward(args)
        } else {
            RmsNorm::new([self.length], EPS)?.weight_plus_one(self.plus_one).post_norm(true).forward(args)
        }
    }
}

fn post_norms<P: Place, T: Real>(place: &P) {
    for length in LENGTHS.into_iter().filter(|&length| length < 500_000 || T::DTYPE == DType::Bf16) {
        for (subtract_mean, plus_one, gated, offset) in
            [(true, false, false, 0), (false, true, false, 1), (false, false, true, 3), (true, false, true, 8)]
        {
            let case = Case { length, subtract_mean, plus_one, gated, offset };
            if length == 1 && subtract_mean {
                continue; // the norm of one number is 0, and its deviation the root of eps: tested as a constant row
            }
            let tensors = Tensors::<T>::new(length);
            let (sums, outputs) = tensors.expected(case);
            let about = format!("{} {} {length} {subtract_mean} {plus_one} {gated} {offset}", P::NAME, T::DTYPE);
            let (sum, y) = tensors.run(place, case);
            assert_within(&sum, &sums, &format!("sum of {about}"));
            assert_within(&y, &outputs, &about);
        }
    }
}

#[test]
fn post_norms_on_cpu() {
    post_norms::<_, f32>(&Cpu);
    post_norms::<_, f16>(&Cpu);
    post_norms::<_, bf16>(&Cpu);
}

#[test]
fn post_norms_on_cuda() {
    device::cuda().under_schedules(|cuda| {
        post_norms::<_, f32>(cuda);
        post_norms::<_, f16>(cuda);
        post_norms::<_, bf16>(cuda);
    });
}

/// A row's bits do not depend on the rows beside it.
fn rows_alone<P: Place>(place: &P) {
    for length in LENGTHS.into_iter().filter(|&length| length < 100_000) {
        let case = Case { length, subtract_mean: true, plus_one: false, gated: false, offset: 0 };
        let tensors = Tensors::<bf16>::new(length);
        let (sum, y) = tensors.run(place, case);
        let mut other = Tensors::<bf16>::new(length);
        other.x[..length].fill(bf16::NAN);
        let (other_sum, other_y) = other.run(place, case);
        assert_eq!(bits(&sum[length..]), bits(&other_sum[length..]), "{length}");
        assert_eq!(bits(&y[length..]), bits(&other_y[length..]), "{length}");
        assert!(other_y[..length].iter().all(|y| y.is_nan()));
    }
}

#[test]
fn rows_alone_on_cpu() {
    rows_alone(&Cpu);
}

#[test]
fn rows_alone_on_cuda() {
    rows_alone(&device::cuda().cuda);
}

#[test]
fn what_does_not_belong_is_refused() {
    let (x, w, mut y) = ([1.0_f32; 8], [1.0_f32; 4], [0.0_f32; 8]);
    let layer = RmsNorm::new([4], EPS).unwrap();
    let refused = layer.forward(Args::new(&Cpu, [2, 4]).input(&x).post_norm_weight(&w).output(&mut y));
    let hint = ": it has no post_norm";
    assert_eq!(refused, Err(Error::Unexpected { layer: "RMSNorm", argument: "post_norm_weight", hint }));
    let signature = Signature::new([2, 4], DType::F32).post_norm_bias(DType::F32);
    let refused = layer.prepare(&Cpu, &signature).map(drop);
    assert_eq!(refused, Err(Error::Unexpected { layer: "RMSNorm", argument: "post_norm_bias", hint }));
    let refused = layer
        .post_norm(true)
        .weight_plus_one(true)
        .forward(Args::new(&Cpu, [2, 4]).input(&x).weight(&w).output(&mut y));
    assert_eq!(refused, Err(Error::Missing { layer: "RMSNorm", argument: "post_norm_weight" }));
    let signature = Signature::new([2, 4], DType::F32).post_norm_weight(DType::F16);
    let refused = layer.post_norm(true).prepare(&Cpu, &signature).map(drop);
    let expected = "the input's type or f32";
    assert_eq!(refused, Err(Error::ElementType { argument: "post_norm_weight", found: DType::F16, expected }));
}
