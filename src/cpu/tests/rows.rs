use half::{bf16, f16};

use super::{
    Expected, Guarded, Numbers, activated, bits, check_aliases, in_pool, input, output, places_in_line, run, ulp,
    ulps_of,
};
use crate::cpu::caches::tests::with_tiny_caches;
use crate::cpu::convert::Convert;
use crate::cpu::vectors::tests::{for_each_level, on_every_level};
use crate::element::{DType, Element};
use crate::norm::{Activation, Rounding};
use crate::problem::{self, Affine, Buffers, Coefficient, Modulation, Moments, Problem, Rows};

fn rows<T: Convert>(rows: usize, length: usize) -> Rows {
    Rows {
        dtype: T::DTYPE,
        output: problem::Output::Element(T::DTYPE),
        rows,
        length,
        moments: Moments::MeanAndVariance,
        is_plain: true,
        residual: false,
        second_residual: false,
        affine: Affine::PerElement { rows_of_sample: 1 },
        weight: None,
        bias: None,
        weight_plus_one: false,
        post_norm: None,
        rounding: Rounding::Once,
        modulation: Modulation::default(),
        input_bias: None,
        eps: 1e-5,
        activation: Activation::None,
        x_stride: length,
        residual_stride: length,
        second_residual_stride: length,
        sum_stride: length,
        y_stride: length,
    }
}

/// The tensors of a problem, f32 where a coefficient is present.
struct Tensors<T> {
    x: Vec<T>,
    residual: Option<Vec<T>>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl<T: Convert> Tensors<T> {
    fn of(problem: &Rows, numbers: &mut Numbers) -> Self {
        let coefficients = match problem.affine {
            Affine::PerElement { .. } => problem.length,
            Affine::PerChannel { groups, channels_per_group, .. } => groups * channels_per_group,
        };
        Self {
            x: numbers.take(problem.rows * problem.x_stride, 0.5, 2.0),
            residual: None,
            weight: numbers.take(coefficients, 0.5, 1.0),
            bias: numbers.take(coefficients, 0.0, 1.0),
        }
    }

    fn buffers(&self) -> Buffers {
        Buffers {
            x: input(&self.x),
            residual: self.residual.as_ref().map_or(0, |residual| input(residual)),
            weight: input(&self.weight),
            bias: input(&self.bias),
            ..Buffers::default()
        }
    }

    fn forward(&self, problem: &Rows) -> Vec<T> {
        let mut y = vec![T::default(); problem.rows * problem.y_stride];
        run(Problem::Rows(*problem), Buffers { y: output(&mut y), ..self.buffers() });
        y
    }

    /// In f64, from the sum in f32.
    fn expected(&self, problem: &Rows) -> Vec<Expected> {
        (0..problem.rows).flat_map(|row| self.expected_of_row(problem, row)).collect()
    }

    fn expected_of_row(&self, problem: &Rows, row: usize) -> Vec<Expected> {
        let s: Vec<f64> = (0..problem.length)
            .map(|i| {
                let residual = self.residual.as_ref().map_or(0.0, |r| r[row * problem.residual_stride + i].to_f32());
                f64::from(self.x[row * problem.x_stride + i].to_f32() + residual)
            })
            .collect();
        let n = problem.length as f64;
        let mean = match problem.moments {
            // Twice, for the sum's own rounding.
            Moments::MeanAndVariance => {
                let mean = s.iter().sum::<f64>() / n;
                mean + s.iter().map(|s| s - mean).sum::<f64>() / n
            }
            Moments::MeanSquare => 0.0,
        };
        let variance = s.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n;
        let coefficient = |present: Coefficient, from: &[f32], i: usize, absent: f64| match (present, problem.affine) {
            (None, _) => absent,
            (Some(_), Affine::PerElement { .. }) => f64::from(from[i]),
            (Some(_), Affine::PerChannel { groups, channels_per_group, spatial }) => {
                f64::from(from[row % groups * channels_per_group + i / spatial])
            }
        };
        let offset = f64::from(u8::from(problem.weight_plus_one));
        (0..problem.length)
            .map(|i| Expected {
                normalized: (s[i] - mean) / (variance + f64::from(problem.eps)).sqrt(),
                weight: coefficient(problem.weight, &self.weight, i, 1.0) + offset,
                bias: coefficient(problem.bias, &self.bias, i, 0.0),
            })
            .collect()
    }

    /// Also past the caches, where rows take another way to the same bits.
    fn check(&self, problem: &Rows, what: &str) {
        let y = self.forward(problem);
        let past_caches = with_tiny_caches(|| self.forward(problem));
        assert!(bits(&past_caches) == bits(&y), "{what}, {} {problem:?}, past the caches", T::DTYPE);
        let expected = self.expected(problem);
        assert_eq!(y.len(), expected.len());
        for (i, (y, expected)) in y.into_iter().zip(expected).enumerate() {
            expected.check(y, format_args!("{what}, {} x {}, element {i}", problem.rows, problem.length));
        }
    }
}

const LENGTHS: [usize; 22] =
    [1, 2, 3, 7, 8, 15, 16, 17, 31, 64, 127, 128, 129, 768, 1000, 1023, 1024, 1025, 2049, 5000, 32_769, 100_001];

fn meets_the_bound<T: Convert>(outlier: f64) {
    let mut numbers = Numbers(1);
    for length in LENGTHS {
        for moments in [Moments::MeanAndVariance, Moments::MeanSquare] {
            let problem = Rows {
                moments,
                weight: Some(DType::F32),
                bias: Some(DType::F32),
                ..rows::<T>(if length < 2000 { 3 } else { 1 }, length)
            };
            let mut tensors = Tensors::<T>::of(&problem, &mut numbers);
            tensors.check(&problem, "plain");
            for (mean, deviation) in [(1e4, 1.0), (2000.0, 0.2), (-3e-3, 1e-2)] {
                tensors.x = numbers.take(tensors.x.len(), mean, deviation);
                tensors.check(&problem, "offset");
            }
            for place in [0, length / 2, length - 1] {
                tensors.x = numbers.take(tensors.x.len(), 0.0, 1.0);
                tensors.x[place] = T::from_f64(outlier);
                tensors.check(&problem, "outlier");
            }
        }
    }
}

#[test]
fn f32_meets_the_bound() {
    meets_the_bound::<f32>(1e6);
    meets_the_bound::<f32>(3e4);
}

#[test]
fn f16_meets_the_bound() {
    meets_the_bound::<f16>(6e4);
}

#[test]
fn bf16_meets_the_bound() {
    meets_the_bound::<bf16>(1e6);
}

/// Squares just below half an ulp of the outlier's, which a long sum in f32 would all lose.
#[test]
fn many_small_squares_beside_a_large_one_are_not_lost() {
    for place in [0, 700, 4095] {
        let problem = rows::<f32>(1, 4096);
        let mut tensors = Tensors::<f32>::of(&problem, &mut Numbers(2));
        tensors.x.fill(0.0);
        for (i, x) in tensors.x.iter_mut().enumerate() {
            *x = if i % 2 == 0 { 11.0 } else { -11.0 };
        }
        tensors.x[place] = 6e4;
        tensors.check(&problem, "small squares");
    }
}

/// The pivot is the mean of the first 16, and rounding errors of those that are equal add up.
#[test]
fn the_first_elements_may_lie_far_from_the_others() {
    for length in [40, 1000, 5000, 30_000, 100_001] {
        for step in 1..20 {
            let problem = rows::<f32>(1, length);
            let mut tensors = Tensors::<f32>::of(&problem, &mut Numbers(2));
            tensors.x.fill(0.123 * step as f32);
            tensors.x[..16].fill(1e3 + 0.37 * step as f32);
            tensors.check(&problem, "a far pivot");
            tensors.check(&Rows { second_residual: true, ..problem }, "a far pivot, by buffers");
        }
    }
}

#[test]
fn a_constant_row_gives_the_bias() {
    fn check<T: Convert>() {
        for length in LENGTHS {
            let problem = Rows { weight: Some(DType::F32), bias: Some(T::DTYPE), ..rows::<T>(1, length) };
            for value in [0.0, 3.1, -1e4, 6e4] {
                let mut tensors = Tensors::<T>::of(&problem, &mut Numbers(3));
                tensors.x.fill(T::from_f64(value));
                let bias: Vec<T> = Numbers(4).take(length, 0.0, 1.0);
                let mut y = vec![T::default(); length];
                run(Problem::Rows(problem), Buffers { bias: input(&bias), y: output(&mut y), ..tensors.buffers() });
                assert_eq!(bits(&y), bits(&bias), "{length} times {value}");
                let y = tensors.forward(&Rows { eps: 0.0, bias: None, ..problem });
                assert!(y.iter().all(|y| y.to_f64().is_nan()), "eps = 0, {length} times {value}");
            }
        }
    }
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    for length in [1, 40, 1024, 3000, 40_000] {
        for moments in [Moments::MeanAndVariance, Moments::MeanSquare] {
            for place in [0, length / 2, length - 1] {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let problem = Rows { moments, ..rows::<f32>(3, length) };
                    let mut tensors = Tensors::<f32>::of(&problem, &mut Numbers(5));
                    let clean = tensors.forward(&problem);
                    tensors.x[length + place] = bad;
                    let y = tensors.forward(&problem);
                    assert_eq!(bits(&y[..length]), bits(&clean[..length]));
                    assert_eq!(bits(&y[2 * length..]), bits(&clean[2 * length..]));
                    let row = &y[length..2 * length];
                    if moments == Moments::MeanAndVariance || bad.is_nan() {
                        assert!(row.iter().all(|y| y.is_nan()), "{bad} at {place} of {length}");
                    } else {
                        // The others are divided by infinity.
                        for (i, y) in row.iter().enumerate() {
                            assert!(if i == place { y.is_nan() } else { *y == 0.0 }, "{bad} at {place}: {y} at {i}");
                        }
                    }
                }
            }
        }
    }
}

/// The bits of dense tensors, where all four have gaps of their own.
fn check_strided_residual<T: Convert>(tensors: &Tensors<T>, problem: &Rows, what: &str) {
    let Rows { rows, length, .. } = *problem;
    let spread = |dense: &[T], stride: usize| {
        let mut spread = vec![T::from_f64(7.0); rows * stride];
        for (spread, dense) in spread.chunks_mut(stride).zip(dense.chunks(length)) {
            spread[..length].copy_from_slice(dense);
        }
        spread
    };
    // The same numbers in another order.
    let residual: Vec<T> = tensors.x.iter().rev().copied().collect();
    let (mut y, mut sum) = (vec![T::default(); rows * length], vec![T::default(); rows * length]);
    let buffers = Buffers { residual: input(&residual), y: output(&mut y), sum: output(&mut sum), ..tensors.buffers() };
    run(Problem::Rows(*problem), buffers);
    let [x_stride, residual_stride, sum_stride, y_stride] = [3, 5, 2, 1].map(|gap| length + gap);
    let (x, residual) = (spread(&tensors.x, x_stride), spread(&residual, residual_stride));
    let (mut strided_y, mut strided_sum) =
        (vec![T::from_f64(7.0); rows * y_stride], vec![T::from_f64(7.0); rows * sum_stride]);
    let buffers = Buffers {
        x: input(&x),
        residual: input(&residual),
        y: output(&mut strided_y),
        sum: output(&mut strided_sum),
        ..tensors.buffers()
    };
    run(Problem::Rows(Rows { x_stride, residual_stride, sum_stride, y_stride, ..*problem }), buffers);
    assert_eq!(bits(&strided_y), bits(&spread(&y, y_stride)), "{what}, strided, with a residual");
    assert_eq!(bits(&strided_sum), bits(&spread(&sum, sum_stride)), "{what}, strided, the sum");
}

/// Alone or in a batch, at any address, with any strides, in place or not, by any number of threads.
#[test]
fn bits_depend_on_the_row_alone() {
    fn check<T: Convert>(rows_count: usize, length: usize) {
        let problem = Rows { weight: Some(DType::F32), bias: Some(DType::F32), ..rows::<T>(rows_count, length) };
        let tensors = Tensors::<T>::of(&problem, &mut Numbers(6));
        let expected = bits(&tensors.forward(&problem));
        let what = format!("{} {rows_count} x {length}", T::DTYPE);
        for threads in 1..=3 {
            in_pool(threads, || {
                assert_eq!(bits(&tensors.forward(&problem)), expected, "{what}, {threads} threads");
            });
        }
        for row in 0..rows_count {
            let x = tensors.x[row * length..][..length].to_vec();
            let mut y = vec![T::default(); length];
            let buffers = Buffers { x: input(&x), y: output(&mut y), ..tensors.buffers() };
            run(Problem::Rows(Rows { rows: 1, ..problem }), buffers);
            assert_eq!(bits(&y), expected[row * length..][..length], "{what}, row {row} alone");
        }
        // One element further, with gaps between rows that stay as they are.
        let (x_stride, y_stride) = (length + 3, length + 1);
        let mut x = vec![T::from_f64(7.0); 1 + rows_count * x_stride];
        for row in 0..rows_count {
            x[1 + row * x_stride..][..length].copy_from_slice(&tensors.x[row * length..][..length]);
        }
        let mut y = vec![T::from_f64(-7.0); 1 + rows_count * y_stride];
        let strided = Problem::Rows(Rows { x_stride, y_stride, ..problem });
        run(strided, Buffers { x: input(&x[1..]), y: output(&mut y[1..]), ..tensors.buffers() });
        assert_eq!(y[0].to_f64(), -7.0);
        for row in 0..rows_count {
            let row_of_y = &y[1 + row * y_stride..][..y_stride];
            assert_eq!(bits(&row_of_y[..length]), expected[row * length..][..length], "{what}, strided");
            assert_eq!(row_of_y[length].to_f64(), -7.0, "{what}: a gap was written");
        }
        check_strided_residual(&tensors, &problem, &what);
        let mut in_place = x.clone();
        let address = output(&mut in_place[1..]);
        let strided = Problem::Rows(Rows { x_stride, y_stride: x_stride, ..problem });
        run(strided, Buffers { x: address, y: address, ..tensors.buffers() });
        for row in 0..rows_count {
            let row_of_y = &in_place[1 + row * x_stride..][..length];
            assert_eq!(bits(row_of_y), expected[row * length..][..length], "{what}, in place");
        }
    }
    for (rows, length) in [(700, 100), (5, 1), (50, 1024), (40, 1500), (3, 40_000), (1, 100_000), (2, 131_072)] {
        check::<f32>(rows, length);
        check::<f16>(rows, length);
        check::<bf16>(rows, length);
    }
}

#[test]
fn wider_vectors_change_no_bit() {
    fn check<T: Convert>(activation: Activation) {
        for length in [77, 1000, 5000, 70_000] {
            let problem = Rows { activation, weight: Some(DType::F32), ..rows::<T>(2, length) };
            let tensors = Tensors::<T>::of(&problem, &mut Numbers(12));
            let widest = bits(&tensors.forward(&problem));
            on_every_level(|level| {
                let found = bits(&tensors.forward(&problem));
                assert!(found == widest, "{level:?} {} {length} {activation:?}", T::DTYPE);
            });
        }
    }
    for activation in [Activation::None, Activation::Relu, Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        check::<f32>(activation);
        check::<f16>(activation);
        check::<bf16>(activation);
    }
}

/// Most calls go from tensor to tensor in registers; one that may have a second residual, even if it has none, by buffers.
#[test]
fn by_buffers_and_in_registers_bits_are_the_same() {
    fn check<T: Convert>(problem: Rows, residual: bool) {
        let mut tensors = Tensors::<T>::of(&problem, &mut Numbers(14));
        tensors.residual = residual.then(|| Numbers(15).take(problem.rows * problem.length, 100.0, 1.0));
        let in_registers = bits(&tensors.forward(&problem));
        let past_caches = bits(&with_tiny_caches(|| tensors.forward(&problem)));
        let by_buffers = bits(&tensors.forward(&Rows { second_residual: true, ..problem }));
        assert!(in_registers == by_buffers, "{} {problem:?}", T::DTYPE);
        assert!(past_caches == by_buffers, "{} {problem:?}, past the caches", T::DTYPE);
    }
    fn check_type<T: Convert>(residual: bool) {
        let with_affine = |rows| Rows { weight: Some(DType::F32), bias: Some(DType::F32), ..rows };
        for length in LENGTHS {
            for moments in [Moments::MeanAndVariance, Moments::MeanSquare] {
                for weight_plus_one in [false, true] {
                    check::<T>(with_affine(Rows { moments, weight_plus_one, ..rows::<T>(3, length) }), residual);
                }
            }
        }
        for (channels_per_group, spatial) in [(1, 16), (20, 49), (3, 2000), (2, 32_769), (1, 100_000)] {
            let affine = Affine::PerChannel { groups: 2, channels_per_group, spatial };
            let activation = Activation::Silu;
            check::<T>(
                with_affine(Rows { affine, activation, ..rows::<T>(4, channels_per_group * spatial) }),
                residual,
            );
        }
    }
    for residual in [false, true] {
        check_type::<f32>(residual);
        check_type::<f16>(residual);
        check_type::<bf16>(residual);
    }
}

#[test]
fn residual_and_sum_in_every_exact_alias() {
    fn check<T: Convert>(rows_count: usize, length: usize) {
        let problem = Rows { weight: Some(DType::F32), ..rows::<T>(rows_count, length) };
        let mut tensors = Tensors::<T>::of(&problem, &mut Numbers(7));
        tensors.residual = Some(Numbers(8).take(rows_count * length, 100.0, 1.0));
        tensors.check(&problem, "residual");
        let y = tensors.forward(&problem);
        check_aliases(
            Problem::Rows(problem),
            tensors.buffers(),
            &tensors.x,
            tensors.residual.as_deref().unwrap_or_default(),
            &y,
        );
    }
    for (rows, length) in [(3, 100), (21, 128), (19, 1024), (100, 1000), (2, 5000), (1, 70_000)] {
        check::<f32>(rows, length);
        check::<f16>(rows, length);
        check::<bf16>(rows, length);
    }
}

/// Past the caches, rows and planes whose outputs meet within lines, at every place of one, and beside a sum that meets at the same
/// places or at others.
#[test]
fn lines_of_two_rows_are_written_whole() {
    fn check<T: Convert>(problem: &Rows, has_residual: bool, threads: usize) {
        let count = problem.rows * problem.length;
        let problem = Rows { weight: Some(DType::F32), bias: Some(DType::F32), residual: has_residual, ..*problem };
        let mut tensors = Tensors::<T>::of(&problem, &mut Numbers(81));
        tensors.residual = has_residual.then(|| Numbers(82).take(count, 3.0, 1.0));
        let y = bits(&tensors.forward(&problem));
        let sums = tensors.x.iter().zip(tensors.residual.iter().flatten());
        let sum = bits(&sums.map(|(x, r)| T::from_f32(x.to_f32() + r.to_f32())).collect::<Vec<_>>());
        for behind in places_in_line::<T>() {
            let places = [None, Some(behind), Some((behind + 5) % T::OF_LINE)];
            for sum_behind in places.into_iter().take(if has_residual { 3 } else { 1 }) {
                let what = format!("{} {problem:?}, {behind} behind a line, sum {sum_behind:?}", T::DTYPE);
                let mut found = Guarded::<T>::new(behind, count);
                let mut found_sum = sum_behind.map(|behind| Guarded::<T>::new(behind, count));
                let sum_address = found_sum.as_mut().map_or(0, Guarded::address);
                let buffers = Buffers { y: found.address(), sum: sum_address, ..tensors.buffers() };
                in_pool(threads, || with_tiny_caches(|| run(Problem::Rows(problem), buffers)));
                assert!(bits(found.check_guards(&what)) == y, "{what}");
                if let Some(found) = found_sum {
                    assert!(bits(found.check_guards(&what)) == sum, "{what}, the sum");
                }
            }
        }
    }
    fn check_type<T: Convert>() {
        for (index, length) in [64, 448, 513, 600, 1024, 1531].into_iter().enumerate() {
            let rows_count = if length < 512 { 21 } else { 5 };
            for has_residual in [false, true] {
                check::<T>(&rows::<T>(rows_count, length), has_residual, 1 + index % 2);
            }
            let moments = Moments::MeanSquare;
            check::<T>(&Rows { moments, ..rows::<T>(rows_count, length) }, false, 1 + index % 2);
        }
        for (channels_per_group, spatial) in [(3, 529), (2, 1000), (5, 210)] {
            let affine = Affine::PerChannel { groups: 2, channels_per_group, spatial };
            check::<T>(&Rows { affine, ..rows::<T>(6, channels_per_group * spatial) }, true, 2);
        }
    }
    for_each_level(|_| {
        check_type::<f32>();
        check_type::<f16>();
        check_type::<bf16>();
    });
}

#[test]
fn affine_per_channel() {
    for (groups, channels_per_group, spatial) in
        [(1, 1, 1), (4, 3, 1), (2, 5, 7), (8, 1, 49), (2, 2, 1024), (3, 2, 1500), (1, 64, 31), (2, 1, 70_000)]
    {
        let length = channels_per_group * spatial;
        for (weight, bias) in [(Some(DType::F32), Some(DType::F32)), (None, Some(DType::F32)), (None, None)] {
            let affine = Affine::PerChannel { groups, channels_per_group, spatial };
            let problem =
                Rows { affine, weight, bias, ..rows::<f32>(groups * if length > 9000 { 1 } else { 2 }, length) };
            Tensors::<f32>::of(&problem, &mut Numbers(9)).check(&problem, "per channel");
        }
    }
}

#[test]
fn coefficients_of_either_type_and_one_plus_weight() {
    fn check<T: Convert>() {
        for length in [5, 900, 2500] {
            for affine in [
                Affine::PerElement { rows_of_sample: 1 },
                Affine::PerChannel { groups: 1, channels_per_group: 5, spatial: length / 5 },
            ] {
                for weight_plus_one in [false, true] {
                    let wide = Rows {
                        affine,
                        weight_plus_one,
                        weight: Some(DType::F32),
                        bias: Some(DType::F32),
                        ..rows::<T>(2, length)
                    };
                    let mut tensors = Tensors::<T>::of(&wide, &mut Numbers(10));
                    let weight: Vec<T> = tensors.weight.iter().map(|&w| T::from_f32(w)).collect();
                    let bias: Vec<T> = tensors.bias.iter().map(|&b| T::from_f32(b)).collect();
                    tensors.weight = weight.iter().map(|w| w.to_f32()).collect();
                    tensors.bias = bias.iter().map(|b| b.to_f32()).collect();
                    tensors.check(&wide, "wide coefficients");
                    let expected = tensors.forward(&wide);
                    let narrow = Rows { weight: Some(T::DTYPE), bias: Some(T::DTYPE), ..wide };
                    let mut y = vec![T::default(); expected.len()];
                    let buffers =
                        Buffers { weight: input(&weight), bias: input(&bias), y: output(&mut y), ..tensors.buffers() };
                    run(Problem::Rows(narrow), buffers);
                    assert_eq!(bits(&y), bits(&expected));
                }
            }
        }
    }
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

#[test]
fn activations_follow() {
    for activation in [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        for length in [100, 1500] {
            let plain = rows::<f32>(2, length);
            let tensors = Tensors::<f32>::of(&plain, &mut Numbers(11));
            let before = tensors.forward(&plain);
            let after = tensors.forward(&Rows { activation, ..plain });
            for (before, after) in before.iter().zip(after) {
                let reference = activated(f64::from(*before), activation);
                assert!(
                    (f64::from(after) - reference).abs() <= ulps_of(activation) * ulp(DType::F32, reference),
                    "{activation:?} {before}"
                );
            }
        }
    }
}

#[test]
fn nothing_to_do() {
    run(Problem::Rows(rows::<f32>(0, 5)), Buffers::default());
    run(Problem::Rows(rows::<f32>(5, 0)), Buffers::default());
}

#[test]
fn narrowing_is_that_of_single_elements() {
    fn check<T: Convert>() {
        let mut wide: Vec<f32> =
            (0..200_000_u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).chain([f32::MAX, -0.0]).collect();
        wide.push(f32::from_bits(0x7f80_0001));
        let mut narrow = vec![T::default(); wide.len()];
        T::narrow(&wide, &mut narrow);
        for (wide, narrow) in wide.iter().zip(&narrow) {
            let expected = T::from_f32(*wide).to_f32();
            assert!(narrow.to_f32().to_bits() == expected.to_bits() || (expected.is_nan() && narrow.to_f32().is_nan()));
        }
        let mut back = vec![0.0; wide.len()];
        T::widen(&narrow, &mut back);
        for (back, narrow) in back.iter().zip(&narrow) {
            assert!(back.to_bits() == narrow.to_f32().to_bits() || (back.is_nan() && narrow.to_f32().is_nan()));
        }
    }
    check::<f32>();
    check::<f16>();
    check::<bf16>();
    assert_eq!(<f16 as Element>::DTYPE, DType::F16);
}
