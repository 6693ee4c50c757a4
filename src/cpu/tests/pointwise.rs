use half::{bf16, f16};

use super::{Expected, Numbers, activated, bits, in_pool, input, output, run, ulp};
use crate::cpu::convert::Convert;
use crate::element::DType;
use crate::norm::Activation;
use crate::problem::{Buffers, ChannelTable, Constants, Pointwise, Problem};

const STATISTICS: Constants = Constants::Statistics { weight: Some(DType::F32), bias: Some(DType::F32), eps: 1e-5 };

fn pointwise<T: Convert>(samples: usize, channels: usize, spatial: usize, constants: Constants) -> Pointwise {
    let length = samples * channels * spatial;
    Pointwise { dtype: T::DTYPE, output: T::DTYPE, length, channels, spatial, constants, activation: Activation::None }
}

struct Tensors<T> {
    x: Vec<T>,
    mean: Vec<f32>,
    variance: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl<T: Convert> Tensors<T> {
    fn of(problem: &Pointwise, numbers: &mut Numbers) -> Self {
        let channels = problem.channels;
        Self {
            x: numbers.take(problem.length, 1000.0, 2.0),
            mean: numbers.take(channels, 1000.0, 1.0),
            variance: numbers.take::<f32>(channels, 0.0, 4.0).into_iter().map(f32::abs).collect(),
            weight: numbers.take(channels, 0.5, 1.0),
            bias: numbers.take(channels, 0.0, 1.0),
        }
    }

    fn buffers(&self) -> Buffers {
        Buffers {
            x: input(&self.x),
            weight: input(&self.weight),
            bias: input(&self.bias),
            running_mean: input(&self.mean),
            running_var: input(&self.variance),
            ..Buffers::default()
        }
    }

    fn forward(&self, problem: &Pointwise) -> Vec<T> {
        let mut y = vec![T::default(); problem.length];
        run(Problem::Pointwise(*problem), Buffers { y: output(&mut y), ..self.buffers() });
        y
    }

    fn table(&self) -> Vec<f32> {
        let channels = self.mean.len();
        let mut table = vec![0.0; 3 * channels];
        let problem =
            ChannelTable { dtype: DType::F32, channels, weight: Some(DType::F32), bias: Some(DType::F32), eps: 1e-5 };
        run(Problem::ChannelTable(problem), Buffers { y: output(&mut table), ..self.buffers() });
        table
    }

    fn check(&self, problem: &Pointwise, what: &str) {
        let (weight, bias, eps) = match problem.constants {
            Constants::Table => (true, true, 1e-5_f32),
            Constants::Statistics { weight, bias, eps } => (weight.is_some(), bias.is_some(), eps),
        };
        for (i, y) in self.forward(problem).into_iter().enumerate() {
            let c = i / problem.spatial % problem.channels;
            let deviation = (f64::from(self.variance[c]) + f64::from(eps)).sqrt();
            let expected = Expected {
                normalized: (self.x[i].to_f64() - f64::from(self.mean[c])) / deviation,
                weight: if weight { f64::from(self.weight[c]) } else { 1.0 },
                bias: if bias { f64::from(self.bias[c]) } else { 0.0 },
            };
            expected.check(y, format_args!("{what}, {problem:?}, element {i}"));
        }
    }
}

const SHAPES: [(usize, usize, usize); 23] = [
    (1, 1, 1),
    (7, 3, 1),
    (2000, 3, 1),
    (50, 64, 1),
    (3, 341, 1),
    (5, 1000, 1),
    (3, 1024, 1),
    (20, 1025, 1),
    (17, 2500, 1),
    (40_000, 1, 1),
    (200, 64, 1),
    (300, 48, 1),
    (20, 1088, 1),
    (3, 1, 5),
    (100, 7, 2),
    (5, 600, 2),
    (2, 1030, 2),
    (4, 64, 49),
    (2, 3, 1023),
    (2, 3, 1024),
    (2, 3, 1025),
    (2, 5, 3136),
    (1, 2, 40_000),
];

#[test]
fn meets_the_bound() {
    fn check<T: Convert>() {
        for (samples, channels, spatial) in SHAPES {
            let problem = pointwise::<T>(samples, channels, spatial, STATISTICS);
            let tensors = Tensors::<T>::of(&problem, &mut Numbers(21));
            tensors.check(&problem, "full");
            let constants = Constants::Statistics { weight: None, bias: None, eps: 0.25 };
            tensors.check(&Pointwise { constants, ..problem }, "bare");
        }
    }
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

#[test]
fn a_table_gives_the_bits_of_the_statistics() {
    for (samples, channels, spatial) in SHAPES {
        let problem = pointwise::<f32>(samples, channels, spatial, STATISTICS);
        let tensors = Tensors::<f32>::of(&problem, &mut Numbers(22));
        let table = tensors.table();
        assert_eq!(table[..channels], tensors.mean);
        assert_eq!(table[2 * channels..], tensors.bias);
        let mut y = vec![0.0; problem.length];
        let by_table = Problem::Pointwise(Pointwise { constants: Constants::Table, ..problem });
        run(by_table, Buffers { x: input(&tensors.x), table: input(&table), y: output(&mut y), ..Buffers::default() });
        assert_eq!(bits(&y), bits(&tensors.forward(&problem)));
    }
}

#[test]
fn narrow_coefficients() {
    let problem = pointwise::<bf16>(2, 300, 3, STATISTICS);
    let mut tensors = Tensors::<bf16>::of(&problem, &mut Numbers(23));
    let weight: Vec<bf16> = tensors.weight.iter().map(|&w| bf16::from_f32(w)).collect();
    tensors.weight = weight.iter().map(|w| w.to_f32()).collect();
    let expected = tensors.forward(&problem);
    let constants = Constants::Statistics { weight: Some(DType::Bf16), bias: Some(DType::F32), eps: 1e-5 };
    let mut y = vec![bf16::ZERO; problem.length];
    let buffers = Buffers { weight: input(&weight), y: output(&mut y), ..tensors.buffers() };
    run(Problem::Pointwise(Pointwise { constants, ..problem }), buffers);
    assert_eq!(y, expected);
}

#[test]
fn bits_depend_on_neither_threads_nor_addresses() {
    fn check<T: Convert>(samples: usize, channels: usize, spatial: usize) {
        let problem = pointwise::<T>(samples, channels, spatial, STATISTICS);
        let tensors = Tensors::<T>::of(&problem, &mut Numbers(24));
        let expected = bits(&tensors.forward(&problem));
        for threads in 1..=3 {
            in_pool(threads, || assert_eq!(bits(&tensors.forward(&problem)), expected, "{threads} threads"));
        }
        let mut shifted: Vec<T> = [T::default()].into_iter().chain(tensors.x.iter().copied()).collect();
        let address = output(&mut shifted[1..]);
        run(Problem::Pointwise(problem), Buffers { x: address, y: address, ..tensors.buffers() });
        assert_eq!(bits(&shifted[1..]), expected, "in place, one element further");
        // The first sample alone.
        let one = Pointwise { length: channels * spatial, ..problem };
        assert_eq!(bits(&tensors.forward(&one)), expected[..one.length], "alone");
    }
    for (samples, channels, spatial) in [(700, 3, 49), (30_000, 3, 1), (80, 1025, 1), (2, 3, 20_000)] {
        check::<f32>(samples, channels, spatial);
        check::<f16>(samples, channels, spatial);
        check::<bf16>(samples, channels, spatial);
    }
}

/// What holds the constants of a turn begins where a line of the output does, wherever that is.
#[test]
fn many_pixels_have_the_bits_of_single_ones() {
    fn check<T: Convert>(channels: usize, activation: Activation, has_residual: bool) {
        let samples = 20_000_usize.div_ceil(channels);
        let problem = Pointwise { activation, ..pointwise::<T>(samples, channels, 1, STATISTICS) };
        let tensors = Tensors::<T>::of(&problem, &mut Numbers(27));
        let residual: Vec<T> = Numbers(28).take(problem.length, 0.0, 1.0);
        let forward = |samples: std::ops::Range<usize>, y: &mut [T]| {
            let (first, end) = (samples.start * channels, samples.end * channels);
            let residual = if has_residual { input(&residual[first..end]) } else { 0 };
            let buffers = Buffers { x: input(&tensors.x[first..end]), residual, y: output(y), ..tensors.buffers() };
            run(Problem::Pointwise(Pointwise { length: end - first, ..problem }), buffers);
        };
        let mut expected = vec![T::default(); problem.length];
        for (sample, y) in expected.chunks_mut(channels).enumerate() {
            forward(sample..sample + 1, y);
        }
        for offset in 0..64 / size_of::<T>() {
            let mut y = vec![T::default(); offset + problem.length];
            in_pool(1, || forward(0..samples, &mut y[offset..]));
            assert!(bits(&y[offset..]) == bits(&expected), "{channels} channels, {activation:?}, from {offset} on");
        }
    }
    for channels in [1, 3, 20, 64, 96, 320, 1088, 2048] {
        for activation in [Activation::None, Activation::Relu] {
            check::<f32>(channels, activation, false);
            check::<f16>(channels, activation, true);
        }
        check::<bf16>(channels, Activation::Silu, false);
    }
}

#[test]
fn residual_sum_and_activation() {
    for (samples, channels, spatial) in SHAPES {
        let plain = pointwise::<f16>(samples, channels, spatial, STATISTICS);
        let problem = Pointwise { activation: Activation::Gelu, ..plain };
        let mut tensors = Tensors::<f16>::of(&problem, &mut Numbers(25));
        let residual: Vec<f16> = Numbers(26).take(problem.length, 0.0, 1.0);
        let x = tensors.x.clone();
        let s: Vec<f32> = x.iter().zip(&residual).map(|(x, r)| x.to_f32() + r.to_f32()).collect();

        let (mut y, mut sum) = (x.clone(), residual.clone());
        let (y_address, sum_address) = (output(&mut y), output(&mut sum));
        let buffers =
            Buffers { x: y_address, residual: sum_address, y: y_address, sum: sum_address, ..tensors.buffers() };
        run(Problem::Pointwise(problem), buffers);
        assert_eq!(sum, s.iter().map(|&s| f16::from_f32(s)).collect::<Vec<_>>());

        // The same through f32, whose sum is exact.
        let wide = Tensors::<f32> {
            x: s,
            mean: std::mem::take(&mut tensors.mean),
            variance: std::mem::take(&mut tensors.variance),
            weight: std::mem::take(&mut tensors.weight),
            bias: std::mem::take(&mut tensors.bias),
        };
        let before = wide.forward(&Pointwise { dtype: DType::F32, output: DType::F32, ..plain });
        for (y, before) in y.iter().zip(before) {
            let reference = activated(f64::from(before), Activation::Gelu);
            let bound = 0.501 * ulp(DType::F16, reference) + reference.abs() * 2.0_f64.powi(-23);
            assert!((y.to_f64() - reference).abs() <= bound, "{y} for {reference}");
        }
    }
}

#[test]
fn what_is_not_finite() {
    let problem = pointwise::<f32>(2, 3, 4, STATISTICS);
    let mut tensors = Tensors::<f32>::of(&problem, &mut Numbers(27));
    tensors.x[2] = f32::NAN;
    tensors.x[3] = f32::INFINITY;
    tensors.weight[0] = 1.0;
    tensors.variance[1] = -1.0;
    let y = tensors.forward(&problem);
    assert!(y[2].is_nan());
    assert_eq!(y[3], f32::INFINITY);
    for (i, y) in y.iter().enumerate() {
        assert_eq!(y.is_nan(), i == 2 || i / 4 % 3 == 1, "element {i}");
    }
}

#[test]
fn nothing_to_do() {
    run(Problem::Pointwise(pointwise::<f32>(0, 5, 3, STATISTICS)), Buffers::default());
    run(Problem::Pointwise(pointwise::<f32>(0, 5, 1, STATISTICS)), Buffers::default());
    run(
        Problem::ChannelTable(ChannelTable { dtype: DType::F32, channels: 0, weight: None, bias: None, eps: 1e-5 }),
        Buffers::default(),
    );
}
