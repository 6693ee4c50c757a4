use half::{bf16, f16};

use super::{Guarded, Numbers, bits, in_pool, input, output, places_in_line, run};
use crate::cpu::caches::tests::with_tiny_caches;
use crate::cpu::convert::Convert;
use crate::cpu::vectors::tests::for_each_level;
use crate::element::DType;
use crate::problem::{self, Affine, Buffers, HeadRows, Heads, Moments, Problem, Rows};

const TOKENS: usize = 5;

/// Elements between tokens: as many as the heads have, or more, in x and in y.
#[derive(Clone, Copy, Debug)]
struct Strides {
    x: usize,
    y: usize,
}

fn heads<T: Convert>(length: usize, moments: Moments, counts: [usize; 2], strides: Strides) -> HeadRows {
    let heads = |count| Heads { count, weight: Some(DType::F32), bias: None, x_stride: strides.x, y_stride: strides.y };
    HeadRows {
        dtype: T::DTYPE,
        tokens: TOKENS,
        length,
        moments,
        query: heads(counts[0]),
        key: heads(counts[1]),
        packed: Some(strides.x),
        weight_plus_one: false,
        eps: 1e-6,
    }
}

/// The heads as what they are, rows: each alone, with the caches as they are.
fn expected<T: Convert>(problem: &HeadRows, x: &[T], weights: &[Vec<f32>; 2]) -> Vec<Vec<u64>> {
    let length = problem.length;
    let kinds = [(problem.query, 0, &weights[0]), (problem.key, problem.query.count * length, &weights[1])];
    let row = |x: &[T], weight: &[f32]| {
        let mut y = vec![T::default(); length];
        let problem = Rows {
            dtype: T::DTYPE,
            output: problem::Output::Element(T::DTYPE),
            rows: 1,
            length,
            moments: problem.moments,
            is_plain: true,
            residual: false,
            second_residual: false,
            affine: Affine::PerElement { rows_of_sample: 1 },
            weight: Some(DType::F32),
            bias: None,
            weight_plus_one: false,
            post_norm: None,
            rounding: crate::norm::Rounding::Once,
            modulation: Default::default(),
            input_bias: None,
            eps: problem.eps,
            activation: crate::norm::Activation::None,
            x_stride: length,
            residual_stride: length,
            second_residual_stride: length,
            sum_stride: length,
            y_stride: length,
        };
        run(
            Problem::Rows(problem),
            Buffers { x: input(x), weight: input(weight), y: output(&mut y), ..Default::default() },
        );
        bits(&y)
    };
    (0..TOKENS)
        .map(|token| {
            let of_kind = |(heads, first, weight): (Heads, usize, &Vec<f32>)| {
                let first = token * heads.x_stride + first;
                (0..heads.count)
                    .flat_map(move |head| row(&x[first + head * length..][..length], weight))
                    .collect::<Vec<_>>()
            };
            kinds.into_iter().flat_map(of_kind).collect()
        })
        .collect()
}

/// Past the caches, where a token's last line is also the next one's, or is not.
#[test]
fn tokens_past_the_caches_have_the_bits_of_single_rows() {
    fn check<T: Convert>(problem: &HeadRows) {
        let x: Vec<T> = Numbers(91).take(TOKENS * problem.query.x_stride, 0.5, 2.0);
        let weights = [92, 93].map(|seed| Numbers(seed).take::<f32>(problem.length, 1.0, 0.5));
        let expected = expected(problem, &x, &weights);
        let y_stride = problem.query.y_stride;
        let keys = problem.query.count * problem.length;
        for (behind, threads) in places_in_line::<T>().zip([1, 2, 3].into_iter().cycle()) {
            let mut y = Guarded::<T>::new(behind, TOKENS * y_stride);
            let address = y.address();
            let buffers = Buffers {
                x: input(&x),
                y: address,
                weight: input(&weights[0]),
                key_x: input(&x[keys..]),
                key_y: address + (keys * size_of::<T>()) as u64,
                key_weight: input(&weights[1]),
                ..Buffers::default()
            };
            in_pool(threads, || with_tiny_caches(|| run(Problem::HeadRows(*problem), buffers)));
            let what = format!("{} {problem:?}, {behind} behind a line", T::DTYPE);
            let of_token = |y: &[T]| -> Vec<Vec<u64>> { y.chunks_exact(y_stride).map(bits).collect() };
            for (found, expected) in of_token(y.check_guards(&what)).iter().zip(&expected) {
                let (found, gap) = found.split_at(expected.len());
                assert!(found == expected, "{what}");
                assert!(gap.iter().all(|gap| *gap == Guarded::<T>::GUARD.to_bits()), "{what}: a gap was written");
            }
        }
    }
    fn check_type<T: Convert>() {
        for (length, moments) in [(64, Moments::MeanSquare), (128, Moments::MeanAndVariance), (80, Moments::MeanSquare)]
        {
            for (query, key) in [(3, 1), (9, 8)] {
                let heads_of = (query + key) * length;
                for strides in [Strides { x: heads_of + 64, y: heads_of }, Strides { x: heads_of, y: heads_of + 16 }] {
                    check::<T>(&heads::<T>(length, moments, [query, key], strides));
                }
            }
        }
    }
    for_each_level(|_| {
        check_type::<f32>();
        check_type::<f16>();
        check_type::<bf16>();
    });
}
