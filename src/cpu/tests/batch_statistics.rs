use half::{bf16, f16};

use super::images::{Data, Images, Sets, Shape};
use super::{Numbers, activated, bits, check_aliases, in_pool, input, output, run, ulp, ulps_of};
use crate::cpu::convert::Convert;
use crate::cpu::vectors::tests::on_every_level;
use crate::element::DType;
use crate::norm::Activation;
use crate::problem::{BatchStatistics, Buffers, Problem};
use crate::shape::Layout;

fn problem<T: Convert>(shape: Shape) -> BatchStatistics {
    BatchStatistics {
        dtype: T::DTYPE,
        output: T::DTYPE,
        samples: shape.samples,
        spatial: shape.spatial,
        channels: shape.channels,
        layout: shape.layout,
        is_plain: true,
        weight: Some(DType::F32),
        bias: Some(DType::F32),
        eps: 1e-5,
        activation: Activation::None,
        momentum: Some(0.1),
    }
}

/// Running statistics, and the number of batches.
#[derive(Clone, Debug)]
struct Running {
    mean: Vec<f32>,
    var: Vec<f32>,
    batches: i64,
}

impl Running {
    fn new(channels: usize, numbers: &mut Numbers) -> Self {
        let var = numbers.take::<f32>(channels, 2.0, 0.5);
        Self { mean: numbers.take(channels, 0.0, 1.0), var, batches: 0 }
    }

    fn addresses(&mut self) -> Buffers {
        Buffers {
            running_mean: output(&mut self.mean),
            running_var: output(&mut self.var),
            num_batches_tracked: output(std::slice::from_mut(&mut self.batches)),
            ..Buffers::default()
        }
    }

    fn bits(&self) -> Vec<u64> {
        [bits(&self.mean), bits(&self.var), vec![self.batches as u64]].concat()
    }

    /// By the formula, in f64, and the bound of a result.
    fn check(&self, before: &Self, moments: &[[f64; 3]], share: f64, what: &str) {
        for (channel, &[mean, variance, count]) in moments.iter().enumerate() {
            // The mean is as exact as the deviation allows, the variance as a sum of squares in f32.
            let slack = 2.0_f64.powi(-21) * variance.sqrt();
            let moved = |old: f32, batch: f64| (1.0 - share) * f64::from(old) + share * batch;
            let expected = moved(before.mean[channel], mean);
            let error = (f64::from(self.mean[channel]) - expected).abs();
            assert!(error <= 0.501 * ulp(DType::F32, expected) + slack, "{what}: mean of {channel} by {error:e}");
            let unbiased = variance * count / (count - 1.0);
            let expected = moved(before.var[channel], unbiased);
            let error = (f64::from(self.var[channel]) - expected).abs();
            let slack = 2.0_f64.powi(-21) * unbiased;
            assert!(error <= 0.501 * ulp(DType::F32, expected) + slack, "{what}: variance of {channel} by {error:e}");
        }
        assert_eq!(self.batches, before.batches + 1);
    }
}

fn forward<T: Convert>(images: &Images<T>, problem: &BatchStatistics, running: Option<&mut Running>) -> Vec<T> {
    let Buffers { running_mean, running_var, num_batches_tracked, .. } =
        running.map_or_else(Buffers::default, Running::addresses);
    let mut y = vec![T::default(); images.x.len()];
    let buffers = Buffers { y: output(&mut y), running_mean, running_var, num_batches_tracked, ..images.buffers() };
    run(Problem::BatchStatistics(*problem), buffers);
    y
}

fn check<T: Convert>(images: &Images<T>, what: &str) {
    let problem = problem::<T>(images.shape);
    let sets = Sets::channels(images.shape);
    let before = Running::new(images.shape.channels, &mut Numbers(50));
    let mut running = before.clone();
    images.check(&forward(images, &problem, Some(&mut running)), sets, problem.eps, what);
    let share = f64::from(0.1_f32);
    running.check(&before, &images.moments(sets), share, &format!("{what}, {:?}", images.shape));
}

/// The pivots of a part are found from its first 16 or 32 pixels here. The whole of the batch's variance is seen.
#[test]
fn the_first_pixels_may_lie_far_from_the_others() {
    for layout in [Layout::Nchw, Layout::Nhwc] {
        for (spatial, pixels) in [(254, 16), (512, 32), (5000, 32)] {
            for step in 1..40 {
                let numbers = [1e3 + 0.37 * f64::from(step), 0.123 * f64::from(step)];
                let shape = Shape { samples: 1, spatial, channels: 64, layout };
                let images = Images::<f32>::new(shape, Data::Step(pixels, numbers), &mut Numbers(74));
                let before = Running::new(shape.channels, &mut Numbers(50));
                let mut running = before.clone();
                forward(&images, &BatchStatistics { momentum: Some(1.0), ..problem::<f32>(shape) }, Some(&mut running));
                let moments = images.moments(Sets::channels(shape));
                running.check(&before, &moments, 1.0, &format!("{pixels} pixels of {numbers:?}, {shape:?}"));
            }
        }
    }
}

const CHANNELS: [usize; 10] = [1, 3, 5, 8, 10, 20, 64, 257, 1500, 2050];

/// Those of more than one value a channel.
fn shapes(most_elements: usize) -> impl Iterator<Item = Shape> {
    let shapes = CHANNELS.into_iter().flat_map(|channels| {
        [1, 2, 49, 1000, 1025].into_iter().flat_map(move |spatial| {
            [1, 3, 50].into_iter().flat_map(move |samples| {
                [Layout::Nchw, Layout::Nhwc].map(|layout| Shape { samples, spatial, channels, layout })
            })
        })
    });
    shapes.filter(move |shape| shape.samples * shape.spatial > 1 && shape.elements() <= most_elements)
}

fn meets_the_bound<T: Convert>(outlier: f64) {
    let mut numbers = Numbers(51);
    for shape in shapes(60_000) {
        let last = shape.elements() - 1;
        for data in [
            Data::Plain,
            Data::Far(1e4),
            Data::UnlikeChannels,
            Data::Periodic,
            Data::Outlier(0, outlier),
            Data::Outlier(last / 2, outlier),
            Data::Outlier(last, outlier),
        ] {
            check(&Images::<T>::new(shape, data, &mut numbers), &format!("{data:?}"));
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

/// Batches of many parts, by few channels and by many.
#[test]
fn large_batches_meet_the_bound() {
    for (samples, spatial, channels) in [(300, 1001, 1), (2, 70_000, 3), (1000, 49, 10), (20_000, 1, 20), (40, 9, 1500)]
    {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let shape = Shape { samples, spatial, channels, layout };
            let middle = shape.elements() / 2;
            for data in [Data::Far(1e4), Data::UnlikeChannels, Data::Periodic, Data::Outlier(middle, 1e6)] {
                check(&Images::<f32>::new(shape, data, &mut Numbers(52)), &format!("{data:?}"));
            }
        }
    }
}

#[test]
fn both_layouts_have_the_same_moments() {
    for (samples, spatial, channels) in [(3, 2, 5), (7, 49, 20), (100, 49, 3), (2, 40_000, 3), (4, 100, 257)] {
        let planes = Shape { samples, spatial, channels, layout: Layout::Nchw };
        let images = Images::<f32>::new(planes, Data::UnlikeChannels, &mut Numbers(53));
        let pixels = Shape { layout: Layout::Nhwc, ..planes };
        let mut transposed = Images::<f32>::new(pixels, Data::Plain, &mut Numbers(53));
        (transposed.weight, transposed.bias) = (images.weight.clone(), images.bias.clone());
        for (element, x) in images.x.iter().enumerate() {
            let [sample, pixel, channel] = planes.place(element);
            transposed.x[(sample * spatial + pixel) * channels + channel] = *x;
        }
        let before = Running::new(channels, &mut Numbers(54));
        let (mut of_planes, mut of_pixels) = (before.clone(), before.clone());
        let y = forward(&images, &problem::<f32>(planes), Some(&mut of_planes));
        let y_of_pixels = forward(&transposed, &problem::<f32>(pixels), Some(&mut of_pixels));
        let moments = images.moments(Sets::channels(planes));
        for running in [of_planes, of_pixels] {
            running.check(&before, &moments, f64::from(0.1_f32), "both layouts");
        }
        for (element, y) in y.iter().enumerate() {
            let [sample, pixel, channel] = planes.place(element);
            let other = y_of_pixels[(sample * spatial + pixel) * channels + channel];
            let bias = f64::from(images.bias[channel]).abs();
            let bound = 2.0_f64.powi(-20) * (f64::from(y.abs()) + 2.0 * bias + 2.0);
            assert!(f64::from((y - other).abs()) <= bound, "{planes:?} {element}: {y} and {other}");
        }
    }
}

#[test]
fn a_constant_channel_gives_the_bias() {
    fn check<T: Convert>() {
        for shape in shapes(70_000) {
            for value in [0.0, 3.1, -1e4, 6e4] {
                let images = Images::<T>::new(shape, Data::Constant(value), &mut Numbers(55));
                let bias: Vec<T> = Numbers(56).take(shape.channels, 0.0, 1.0);
                let expected: Vec<T> = (0..shape.elements()).map(|element| bias[shape.place(element)[2]]).collect();
                let problem = BatchStatistics { bias: Some(T::DTYPE), ..problem::<T>(shape) };
                let mut y = vec![T::default(); shape.elements()];
                let buffers = Buffers { bias: input(&bias), y: output(&mut y), ..images.buffers() };
                run(Problem::BatchStatistics(problem), buffers);
                assert_eq!(bits(&y), bits(&expected), "{shape:?} {value}");
                let y = forward(&images, &BatchStatistics { eps: 0.0, bias: None, ..problem }, None);
                assert!(y.iter().all(|y| y.to_f64().is_nan()), "eps = 0, {shape:?} {value}");
            }
        }
    }
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

#[test]
fn what_is_not_finite_stays_in_its_channel() {
    for layout in [Layout::Nchw, Layout::Nhwc] {
        for (samples, spatial, channels) in [(5, 1, 10), (2, 5, 10), (3, 49, 20), (2, 3000, 10), (40, 3, 1500)] {
            let shape = Shape { samples, spatial, channels, layout };
            let problem = problem::<f32>(shape);
            let mut images = Images::<f32>::new(shape, Data::Plain, &mut Numbers(57));
            let before = Running::new(channels, &mut Numbers(58));
            let mut of_clean = before.clone();
            let clean = forward(&images, &problem, Some(&mut of_clean));
            for element in [0, shape.elements() / 2 + 1, shape.elements() - 1] {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let good = std::mem::replace(&mut images.x[element], bad);
                    let mut running = before.clone();
                    let y = forward(&images, &problem, Some(&mut running));
                    let channel = shape.place(element)[2];
                    for (other, (y, clean)) in y.iter().zip(&clean).enumerate() {
                        if shape.place(other)[2] == channel {
                            assert!(y.is_nan(), "{shape:?}: {bad} at {element}, {y} at {other}");
                        } else {
                            assert_eq!(y.to_bits(), clean.to_bits(), "{shape:?}: {bad} at {element}");
                        }
                    }
                    assert!(!running.mean[channel].is_finite() && running.var[channel].is_nan(), "{shape:?} {bad}");
                    (running.mean[channel], running.var[channel]) = (of_clean.mean[channel], of_clean.var[channel]);
                    assert_eq!(running.bits(), of_clean.bits());
                    images.x[element] = good;
                }
            }
        }
    }
}

const LARGE_OR_MANY: [(usize, usize, usize); 9] = [
    (2, 3, 5),
    (7000, 1, 30),
    (50, 49, 64),
    (200, 100, 3),
    (3, 1025, 40),
    (3, 50_011, 3),
    (2, 90_001, 1),
    (40, 2, 1500),
    (30, 7, 2050),
];

/// At any address, in place or not, by any number of threads.
#[test]
fn bits_depend_on_neither_threads_nor_addresses() {
    fn check<T: Convert>(shape: Shape) {
        let problem = problem::<T>(shape);
        let images = Images::<T>::new(shape, Data::UnlikeChannels, &mut Numbers(59));
        let before = Running::new(shape.channels, &mut Numbers(60));
        let mut running = before.clone();
        let expected = bits(&forward(&images, &problem, Some(&mut running)));
        let expected_running = running.bits();
        let what = format!("{} {shape:?}", T::DTYPE);
        for threads in 1..=3 {
            in_pool(threads, || {
                let mut running = before.clone();
                let y = forward(&images, &problem, Some(&mut running));
                assert_eq!(bits(&y), expected, "{what}, {threads} threads");
                assert_eq!(running.bits(), expected_running, "{what}, {threads} threads");
            });
        }
        let mut shifted: Vec<T> = [T::default()].into_iter().chain(images.x.iter().copied()).collect();
        let address = output(&mut shifted[1..]);
        run(Problem::BatchStatistics(problem), Buffers { x: address, y: address, ..images.buffers() });
        assert_eq!(bits(&shifted[1..]), expected, "{what}, in place, one element further");
    }
    for (samples, spatial, channels) in LARGE_OR_MANY {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let shape = Shape { samples, spatial, channels, layout };
            check::<f32>(shape);
            check::<f16>(shape);
            check::<bf16>(shape);
        }
    }
}

#[test]
fn wider_vectors_change_no_bit() {
    fn check<T: Convert>(shape: Shape) {
        let problem = BatchStatistics { activation: Activation::Gelu, ..problem::<T>(shape) };
        let images = Images::<T>::new(shape, Data::Plain, &mut Numbers(61));
        let widest = bits(&forward(&images, &problem, None));
        on_every_level(|level| {
            let found = bits(&forward(&images, &problem, None));
            assert!(found == widest, "{level:?} {} {shape:?}", T::DTYPE);
        });
    }
    for (samples, spatial, channels) in LARGE_OR_MANY {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let shape = Shape { samples, spatial, channels, layout };
            check::<f32>(shape);
            check::<f16>(shape);
            check::<bf16>(shape);
        }
    }
}

#[test]
fn residual_and_sum_in_every_exact_alias() {
    fn check<T: Convert>(shape: Shape) {
        let mut images = Images::<T>::new(shape, Data::Plain, &mut Numbers(62));
        let residual: Vec<T> = Numbers(63).take(shape.elements(), 100.0, 1.0);
        images.residual = Some(residual.clone());
        super::batch_statistics::check(&images, "residual");
        let problem = problem::<T>(shape);
        let y = forward(&images, &problem, None);
        check_aliases(Problem::BatchStatistics(problem), images.buffers(), &images.x, &residual, &y);
    }
    for (samples, spatial, channels) in LARGE_OR_MANY {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let shape = Shape { samples: samples.min(100), spatial, channels, layout };
            check::<f32>(shape);
            check::<f16>(shape);
            check::<bf16>(shape);
        }
    }
}

#[test]
fn running_statistics_by_momentum_or_as_an_average() {
    for layout in [Layout::Nchw, Layout::Nhwc] {
        let shape = Shape { samples: 6, spatial: 30, channels: 1100, layout };
        for momentum in [Some(0.0), Some(0.3), Some(1.0), None] {
            let mut running = Running::new(shape.channels, &mut Numbers(64));
            for batch in 0..4_u32 {
                let images = Images::<f32>::new(shape, Data::Plain, &mut Numbers(65 + u64::from(batch)));
                let problem = BatchStatistics { momentum, ..problem::<f32>(shape) };
                let before = running.clone();
                forward(&images, &problem, Some(&mut running));
                let share = momentum.map_or(1.0 / f64::from(batch + 1), f64::from);
                let moments = images.moments(Sets::channels(shape));
                running.check(&before, &moments, share, &format!("{momentum:?}, batch {batch}"));
                if momentum == Some(0.0) {
                    assert_eq!((&running.mean, &running.var), (&before.mean, &before.var));
                }
            }
            assert_eq!(running.batches, 4);
        }
    }
}

/// Each of the running ones may be absent, and then the rest is as it would be otherwise.
#[test]
fn absent_running_statistics() {
    for layout in [Layout::Nchw, Layout::Nhwc] {
        let shape = Shape { samples: 3, spatial: 4, channels: 5, layout };
        let problem = problem::<f32>(shape);
        let images = Images::<f32>::new(shape, Data::Plain, &mut Numbers(70));
        let before = Running { batches: 41, ..Running::new(5, &mut Numbers(71)) };
        let mut all = before.clone();
        let expected = bits(&forward(&images, &problem, Some(&mut all)));
        assert_eq!(all.batches, 42);
        for present in 0..8 {
            let mut running = before.clone();
            let mut y = vec![0.0; shape.elements()];
            let mut buffers = Buffers {
                x: input(&images.x),
                weight: input(&images.weight),
                bias: input(&images.bias),
                ..running.addresses()
            };
            buffers.y = output(&mut y);
            for (bit, address) in
                [&mut buffers.running_mean, &mut buffers.running_var, &mut buffers.num_batches_tracked]
                    .into_iter()
                    .enumerate()
            {
                *address *= present >> bit & 1;
            }
            run(Problem::BatchStatistics(problem), buffers);
            assert_eq!(bits(&y), expected);
            let is_present = |bit: u64| present >> bit & 1 == 1;
            assert_eq!(running.mean, if is_present(0) { &all } else { &before }.mean);
            assert_eq!(running.var, if is_present(1) { &all } else { &before }.var);
            assert_eq!(running.batches, if is_present(2) { 42 } else { 41 });
        }
    }
}

#[test]
fn coefficients_of_either_type_or_none() {
    fn check<T: Convert>(layout: Layout) {
        let shape = Shape { samples: 3, spatial: 5, channels: 1100, layout };
        let wide = problem::<T>(shape);
        let mut images = Images::<T>::new(shape, Data::Plain, &mut Numbers(72));
        let weight: Vec<T> = images.weight.iter().map(|&w| T::from_f32(w)).collect();
        let bias: Vec<T> = images.bias.iter().map(|&b| T::from_f32(b)).collect();
        images.weight = weight.iter().map(|w| w.to_f32()).collect();
        images.bias = bias.iter().map(|b| b.to_f32()).collect();
        let expected = forward(&images, &wide, None);
        let narrow = BatchStatistics { weight: Some(T::DTYPE), bias: Some(T::DTYPE), ..wide };
        let mut y = vec![T::default(); expected.len()];
        let buffers = Buffers { weight: input(&weight), bias: input(&bias), y: output(&mut y), ..images.buffers() };
        run(Problem::BatchStatistics(narrow), buffers);
        assert_eq!(bits(&y), bits(&expected));
        let neither = forward(&images, &BatchStatistics { weight: None, bias: None, ..wide }, None);
        images.weight.fill(1.0);
        images.bias.fill(0.0);
        assert_eq!(bits(&neither), bits(&forward(&images, &wide, None)));
    }
    for layout in [Layout::Nchw, Layout::Nhwc] {
        check::<f32>(layout);
        check::<f16>(layout);
        check::<bf16>(layout);
    }
}

#[test]
fn activations_follow() {
    for layout in [Layout::Nchw, Layout::Nhwc] {
        let shape = Shape { samples: 3, spatial: 49, channels: 20, layout };
        let plain = problem::<f32>(shape);
        let images = Images::<f32>::new(shape, Data::Plain, &mut Numbers(73));
        let before = forward(&images, &plain, None);
        for activation in [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            let after = forward(&images, &BatchStatistics { activation, ..plain }, None);
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
fn nothing_is_done_and_nothing_counted_without_values() {
    for layout in [Layout::Nchw, Layout::Nhwc] {
        for (samples, spatial, channels) in [(0, 5, 4), (5, 0, 4), (5, 4, 0)] {
            let shape = Shape { samples, spatial, channels, layout };
            let mut running = Running::new(channels, &mut Numbers(74));
            let before = running.bits();
            run(Problem::BatchStatistics(problem::<f32>(shape)), running.addresses());
            assert_eq!(running.bits(), before);
        }
    }
}
