//! Rounding on the way, as other implementations do it.

use warpnorm::half::{bf16, f16};
use warpnorm::{Activation, Args, Cpu, RmsNorm, Rounding};

use crate::data::{exact, normal, stored};
use crate::device;
use crate::oracle::{Expected, assert_within, row};
use crate::place::{Place, Real};

/// One or more for each regime of the plan.
const LENGTHS: [usize; 8] = [5, 100, 255, 300, 1025, 4097, 20_000, 90_001];

const ROWS: usize = 2;
const EPS: f64 = 1e-6;

/// `(sum, y)` of a norm behind a residual.
fn run<P: Place, T: Real>(place: &P, rounding: Rounding, x: &[T], residual: &[T], weight: &[T]) -> (Vec<T>, Vec<T>) {
    let length = weight.len();
    let (x, mut residual, weight) = (place.put(x), place.put(residual), place.put(weight));
    let mut y = place.put(&vec![T::default(); ROWS * length]);
    RmsNorm::new([length], EPS)
        .and_then(|layer| {
            layer.rounding(rounding).forward(
                Args::new(place, [ROWS, length])
                    .input(&place.view(&x, 0..ROWS * length))
                    .sum_in_residual(&mut place.view_mut(&mut residual, 0..ROWS * length))
                    .weight(&place.view(&weight, 0..length))
                    .output(&mut place.view_mut(&mut y, 0..ROWS * length)),
            )
        })
        .expect("a valid call");
    (place.get(&residual), place.get(&y))
}

fn rounds_as_told<P: Place, T: Real>(place: &P) {
    for length in LENGTHS {
        let take = |count, seed| normal(count, seed + length as u64);
        // A residual far above the input, so that the sum loses much where it is rounded.
        let x: Vec<T> = stored(take(ROWS * length, 1).map(|v| 0.05 * v));
        let residual: Vec<T> = stored(take(ROWS * length, 2).map(|v| 3.0 * v));
        let weight: Vec<T> = stored(take(length, 3).map(|v| 1.0 + 0.1 * v));
        let of_weight = exact(&weight);
        let rounded: Vec<T> = x.iter().zip(&residual).map(|(x, r)| T::from_f32(x.to_f32() + r.to_f32())).collect();
        let about = |rounding| format!("{} {} {length} {rounding:?}", P::NAME, T::DTYPE);

        // What is normalized is the rounded sum, to the tight bound.
        let (sum, y) = run(place, Rounding::Steps, &x, &residual, &weight);
        assert_eq!(exact(&sum), exact(&rounded), "{}", about(Rounding::Steps));
        let expected = exact(&rounded)
            .chunks(length)
            .flat_map(|s| row(s, EPS, false, &|i| (of_weight[i], 0.0), Activation::None))
            .collect::<Vec<_>>();
        assert_within(&y, &expected, &about(Rounding::Steps));

        // And what the weight multiplies is rounded too. Where that could fall on either side of a tie, both are right.
        let (sum, y) = run(place, Rounding::Normalized, &x, &residual, &weight);
        assert_eq!(exact(&sum), exact(&rounded), "{}", about(Rounding::Normalized));
        let normalized = exact(&rounded)
            .chunks(length)
            .flat_map(|s| row(s, EPS, false, &|_| (1.0, 0.0), Activation::None))
            .collect::<Vec<_>>();
        let mut ties = 0;
        let expected: Vec<_> = normalized
            .iter()
            .enumerate()
            .map(|(i, &Expected { value, slack })| {
                let [low, high] = [value - slack, value + slack].map(|end| T::from_f64(end).to_f64());
                ties += usize::from(low != high);
                let w = of_weight[i % length];
                Expected { value: w * (low + high) / 2.0, slack: w.abs() * ((high - low) / 2.0 + slack * 0.5) }
            })
            .collect();
        assert_within(&y, &expected, &about(Rounding::Normalized));
        if size_of::<T>() == 2 {
            assert!(ties * 50 <= normalized.len().max(50), "{ties} ties of {}", normalized.len());
        }
    }
}

#[test]
fn rounds_as_told_on_cpu() {
    rounds_as_told::<_, f32>(&Cpu);
    rounds_as_told::<_, f16>(&Cpu);
    rounds_as_told::<_, bf16>(&Cpu);
}

#[test]
fn rounds_as_told_on_cuda() {
    device::cuda().under_schedules(|cuda| {
        rounds_as_told::<_, f32>(cuda);
        rounds_as_told::<_, f16>(cuda);
        rounds_as_told::<_, bf16>(cuda);
    });
}

/// The three rules differ, where there is something to round: else these tests could not tell them apart.
#[test]
fn the_rules_differ() {
    let length = 4097;
    let x: Vec<bf16> = stored(normal(ROWS * length, 1).map(|v| 0.05 * v));
    let residual: Vec<bf16> = stored(normal(ROWS * length, 2));
    let weight: Vec<bf16> = stored(normal(length, 3));
    let [once, steps, normalized] = [Rounding::Once, Rounding::Steps, Rounding::Normalized]
        .map(|rounding| run(&Cpu, rounding, &x, &residual, &weight).1);
    let differing = |a: &[bf16], b: &[bf16]| a.iter().zip(b).filter(|(a, b)| a != b).count();
    assert!(differing(&once, &steps) > length / 10);
    assert!(differing(&steps, &normalized) > length / 10);
}
