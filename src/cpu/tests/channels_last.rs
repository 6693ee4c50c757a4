use half::{bf16, f16};

use super::images::{Data, Images, Sets, Shape};
use super::{Numbers, activated, bits, check_aliases, in_pool, input, output, run, ulp, ulps_of};
use crate::cpu::caches::tests::with_caches_for;
use crate::cpu::convert::Convert;
use crate::cpu::vectors::tests::{for_each_level, on_every_level};
use crate::element::DType;
use crate::norm::Activation;
use crate::problem::{Buffers, ChannelsLast, Modulation, Problem};

fn problem<T: Convert>(shape: Shape, groups: usize) -> ChannelsLast {
    ChannelsLast {
        dtype: T::DTYPE,
        output: T::DTYPE,
        samples: shape.samples,
        spatial: shape.spatial,
        channels: shape.channels,
        groups,
        is_plain: true,
        weight: Some(DType::F32),
        bias: Some(DType::F32),
        modulation: Modulation::default(),
        eps: 1e-5,
        activation: Activation::None,
    }
}

fn forward<T: Convert>(images: &Images<T>, problem: &ChannelsLast) -> Vec<T> {
    let mut y = vec![T::default(); images.x.len()];
    run(Problem::ChannelsLast(*problem), Buffers { y: output(&mut y), ..images.buffers() });
    y
}

fn check<T: Convert>(images: &Images<T>, groups: usize, what: &str) {
    let problem = problem::<T>(images.shape, groups);
    images.check(&forward(images, &problem), Sets::groups(images.shape, groups), problem.eps, what);
}

const CHANNELS: [usize; 12] = [1, 3, 5, 8, 10, 20, 64, 128, 257, 1088, 1500, 2050];

fn groups_of(channels: usize) -> impl Iterator<Item = usize> {
    [1, 2, 5, channels].into_iter().filter(move |groups| channels.is_multiple_of(*groups))
}

fn shapes(most_elements: usize) -> impl Iterator<Item = Shape> {
    let shapes = CHANNELS.into_iter().flat_map(|channels| {
        [1, 2, 7, 49, 1000].into_iter().flat_map(move |spatial| [1, 3].map(|n| Shape::nhwc(n, spatial, channels)))
    });
    shapes.filter(move |shape| shape.elements() <= most_elements)
}

fn meets_the_bound<T: Convert>(outlier: f64) {
    let mut numbers = Numbers(31);
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
            let images = Images::<T>::new(shape, data, &mut numbers);
            for groups in groups_of(shape.channels) {
                check(&images, groups, &format!("{data:?}"));
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

/// Samples of many parts.
#[test]
fn large_samples_meet_the_bound() {
    let mut numbers = Numbers(32);
    for (spatial, channels) in [(300_001, 1), (123_457, 3), (20_000, 10), (3001, 64), (1000, 257), (333, 1500)] {
        let shape = Shape::nhwc(1, spatial, channels);
        let middle = shape.elements() / 2;
        for data in [
            Data::Far(1e4),
            Data::UnlikeChannels,
            Data::Periodic,
            Data::Outlier(0, 1e6),
            Data::Outlier(middle, 1e6),
            Data::Outlier(shape.elements() - 1, 1e6),
        ] {
            let images = Images::<f32>::new(shape, data, &mut numbers);
            check(&images, 1, &format!("{data:?}"));
            check(&images, channels, &format!("{data:?}"));
        }
    }
}

/// Squares just below half an ulp of the outlier's, which a long sum in f32 would all lose.
#[test]
fn many_small_squares_beside_a_large_one_are_not_lost() {
    for (spatial, channels, groups) in [(4096, 1, 1), (4096, 5, 5), (16, 256, 1), (64, 64, 1), (2000, 64, 64)] {
        let shape = Shape::nhwc(1, spatial, channels);
        for place in [0, shape.elements() / 3, shape.elements() - 1] {
            let mut images = Images::<f32>::new(shape, Data::Plain, &mut Numbers(33));
            for (element, x) in images.x.iter_mut().enumerate() {
                let [_, pixel, channel] = shape.place(element);
                *x = if (pixel + channel) % 2 == 0 { 11.0 } else { -11.0 };
            }
            images.x[place] = 6e4;
            check(&images, groups, "small squares");
        }
    }
}

#[test]
fn a_constant_group_gives_the_bias() {
    fn check<T: Convert>() {
        for shape in shapes(70_000) {
            for value in [0.0, 3.1, -1e4, 6e4] {
                let images = Images::<T>::new(shape, Data::Constant(value), &mut Numbers(34));
                let bias: Vec<T> = Numbers(35).take(shape.channels, 0.0, 1.0);
                let expected: Vec<T> = (0..shape.elements()).map(|i| bias[i % shape.channels]).collect();
                for groups in groups_of(shape.channels) {
                    let problem = ChannelsLast { bias: Some(T::DTYPE), ..problem::<T>(shape, groups) };
                    let mut y = vec![T::default(); shape.elements()];
                    let buffers = Buffers { bias: input(&bias), y: output(&mut y), ..images.buffers() };
                    run(Problem::ChannelsLast(problem), buffers);
                    assert_eq!(bits(&y), bits(&expected), "{shape:?} {groups} {value}");
                    let y = forward(&images, &ChannelsLast { eps: 0.0, bias: None, ..problem });
                    assert!(y.iter().all(|y| y.to_f64().is_nan()), "eps = 0, {shape:?} {groups} {value}");
                }
            }
        }
    }
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

/// The pivots of a part are found from its first 16 or 32 pixels here.
#[test]
fn the_first_pixels_may_lie_far_from_the_others() {
    for (spatial, pixels) in [(254, 16), (512, 32), (5000, 32)] {
        for step in 1..40 {
            let numbers = [1e3 + 0.37 * f64::from(step), 0.123 * f64::from(step)];
            let shape = Shape::nhwc(1, spatial, 64);
            let images = Images::<f32>::new(shape, Data::Step(pixels, numbers), &mut Numbers(45));
            check(&images, 64, &format!("{pixels} pixels of {numbers:?}"));
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_group() {
    for shape in [(3, 1, 10), (2, 5, 10), (2, 49, 20), (2, 100, 5), (2, 3000, 10), (2, 40, 1500)]
        .map(|(samples, spatial, channels)| Shape::nhwc(samples, spatial, channels))
    {
        for groups in [1, 5, shape.channels] {
            let problem = problem::<f32>(shape, groups);
            let mut images = Images::<f32>::new(shape, Data::Plain, &mut Numbers(36));
            let clean = forward(&images, &problem);
            for element in [0, shape.elements() / 2 + 1, shape.elements() - 1] {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let good = std::mem::replace(&mut images.x[element], bad);
                    let group = |element| {
                        let [sample, _, channel] = shape.place(element);
                        (sample, channel / (shape.channels / groups))
                    };
                    for (other, (y, clean)) in forward(&images, &problem).iter().zip(&clean).enumerate() {
                        if group(other) == group(element) {
                            assert!(y.is_nan(), "{shape:?} {groups}: {bad} at {element}, {y} at {other}");
                        } else {
                            assert_eq!(y.to_bits(), clean.to_bits(), "{shape:?} {groups}: {bad} at {element}");
                        }
                    }
                    images.x[element] = good;
                }
            }
        }
    }
}

const LARGE_OR_MANY: [(usize, usize, usize, usize); 10] = [
    (700, 1, 100, 10),
    (2000, 4, 8, 2),
    (7, 49, 64, 32),
    (5, 100, 3, 1),
    (3, 2000, 5, 5),
    (3, 20_011, 3, 3),
    (2, 90_001, 1, 1),
    (3, 1500, 64, 8),
    (2, 64, 1500, 1500),
    (3, 33, 2050, 2),
];

/// Alone or in a batch, at any address, in place or not, by any number of threads.
#[test]
fn bits_depend_on_the_sample_alone() {
    fn check<T: Convert>(shape: Shape, groups: usize) {
        let problem = problem::<T>(shape, groups);
        let images = Images::<T>::new(shape, Data::UnlikeChannels, &mut Numbers(37));
        let expected = bits(&forward(&images, &problem));
        let what = format!("{} {shape:?} {groups}", T::DTYPE);
        for threads in 1..=3 {
            in_pool(threads, || {
                assert_eq!(bits(&forward(&images, &problem)), expected, "{what}, {threads} threads");
            });
        }
        let length = shape.spatial * shape.channels;
        for sample in [0, shape.samples / 2, shape.samples - 1] {
            let mut y = vec![T::default(); length];
            let x = &images.x[sample * length..][..length];
            let buffers = Buffers { x: input(x), y: output(&mut y), ..images.buffers() };
            run(Problem::ChannelsLast(ChannelsLast { samples: 1, ..problem }), buffers);
            assert_eq!(bits(&y), expected[sample * length..][..length], "{what}, sample {sample} alone");
        }
        let mut shifted: Vec<T> = [T::default()].into_iter().chain(images.x.iter().copied()).collect();
        let address = output(&mut shifted[1..]);
        run(Problem::ChannelsLast(problem), Buffers { x: address, y: address, ..images.buffers() });
        assert_eq!(bits(&shifted[1..]), expected, "{what}, in place, one element further");
    }
    for (samples, spatial, channels, groups) in LARGE_OR_MANY {
        let shape = Shape::nhwc(samples, spatial, channels);
        check::<f32>(shape, groups);
        check::<f16>(shape, groups);
        check::<bf16>(shape, groups);
    }
}

#[test]
fn wider_vectors_change_no_bit() {
    fn check<T: Convert>(shape: Shape, groups: usize) {
        let problem = ChannelsLast { activation: Activation::Silu, ..problem::<T>(shape, groups) };
        let images = Images::<T>::new(shape, Data::Plain, &mut Numbers(38));
        let widest = bits(&forward(&images, &problem));
        on_every_level(|level| {
            let found = bits(&forward(&images, &problem));
            assert!(found == widest, "{level:?} {} {shape:?} {groups}", T::DTYPE);
        });
    }
    for (samples, spatial, channels, groups) in LARGE_OR_MANY {
        let shape = Shape::nhwc(samples.min(3), spatial, channels);
        check::<f32>(shape, groups);
        check::<f16>(shape, groups);
        check::<bf16>(shape, groups);
    }
}

/// Where the caches hold some samples, but not all: then one is swept while another is written.
#[test]
fn samples_in_turn_have_the_bits_of_single_ones() {
    const SAMPLES: usize = 12;
    fn check<T: Convert>(shape: Shape, groups: usize, activation: Activation, has_residual: bool) {
        let modulation = Modulation { scale: Some(DType::F32), shift: Some(DType::F32), ..Modulation::default() };
        let problem = ChannelsLast { activation, modulation, ..problem::<T>(shape, groups) };
        let mut images = Images::<T>::new(shape, Data::UnlikeChannels, &mut Numbers(46));
        images.residual = has_residual.then(|| Numbers(47).take(shape.elements(), 3.0, 1.0));
        let [scale, shift] = [48, 49].map(|seed| Numbers(seed).take::<f32>(SAMPLES * shape.channels, 1.0, 0.5));
        let (length, width) = (shape.spatial * shape.channels, shape.channels);
        let buffers_of = |sample: usize| Buffers {
            x: input(&images.x[sample * length..]),
            residual: images.residual.as_ref().map_or(0, |residual| input(&residual[sample * length..])),
            scale: input(&scale[sample * width..]),
            shift: input(&shift[sample * width..]),
            ..images.buffers()
        };
        let mut expected = vec![T::default(); shape.elements()];
        for (sample, y) in expected.chunks_exact_mut(length).enumerate() {
            let buffers = Buffers { y: output(y), ..buffers_of(sample) };
            run(Problem::ChannelsLast(ChannelsLast { samples: 1, ..problem }), buffers);
        }
        for threads in 1..=3 {
            let what = format!("{} {shape:?} {groups} {activation:?} {has_residual} {threads} threads", T::DTYPE);
            in_pool(threads, || {
                with_caches_for(2 * threads * length * size_of::<T>(), || {
                    // The second tensor does not begin with a line.
                    for offset in [0, 5] {
                        let mut y = vec![T::default(); T::OF_LINE + offset + shape.elements()];
                        let first = T::to_line(y.as_ptr()) + offset;
                        let y = &mut y[first..first + shape.elements()];
                        run(Problem::ChannelsLast(problem), Buffers { y: output(y), ..buffers_of(0) });
                        assert!(bits(y) == bits(&expected), "{what}, {offset} elements behind a line");
                    }
                    let mut x = images.x.clone();
                    let address = output(&mut x);
                    run(Problem::ChannelsLast(problem), Buffers { x: address, y: address, ..buffers_of(0) });
                    assert!(bits(&x) == bits(&expected), "{what}, in place");
                });
            });
        }
    }
    // Of whole parts and turns, and not; of several pixels a row and several columns; and of no whole columns.
    let shapes =
        [(512, 64, 32), (6001, 3, 1), (900, 20, 5), (61, 320, 8), (17, 1088, 17), (350, 96, 96), (200, 100, 10)];
    for_each_level(|_| {
        for (index, (spatial, channels, groups)) in shapes.into_iter().enumerate() {
            let shape = Shape::nhwc(SAMPLES, spatial, channels);
            let activation = [Activation::None, Activation::Relu, Activation::Silu][index % 3];
            check::<f32>(shape, groups, activation, index % 2 == 1);
            check::<f16>(shape, groups, Activation::Silu, index % 2 == 1);
            check::<bf16>(shape, groups, activation, index % 2 == 0);
            check::<bf16>(shape, groups, Activation::None, index % 2 == 1);
        }
    });
}

#[test]
fn residual_and_sum_in_every_exact_alias() {
    fn check<T: Convert>(shape: Shape, groups: usize) {
        let mut images = Images::<T>::new(shape, Data::Plain, &mut Numbers(39));
        let residual: Vec<T> = Numbers(40).take(shape.elements(), 100.0, 1.0);
        images.residual = Some(residual.clone());
        super::channels_last::check(&images, groups, "residual");
        let problem = problem::<T>(shape, groups);
        let y = forward(&images, &problem);
        check_aliases(Problem::ChannelsLast(problem), images.buffers(), &images.x, &residual, &y);
    }
    for (samples, spatial, channels, groups) in LARGE_OR_MANY {
        let shape = Shape::nhwc(samples.min(20), spatial, channels);
        check::<f32>(shape, groups);
        check::<f16>(shape, groups);
        check::<bf16>(shape, groups);
    }
}

#[test]
fn coefficients_of_either_type_or_none() {
    fn check<T: Convert>() {
        for (spatial, channels, groups) in [(49, 10, 5), (9, 257, 1), (30, 1500, 2)] {
            let shape = Shape::nhwc(2, spatial, channels);
            let wide = problem::<T>(shape, groups);
            let mut images = Images::<T>::new(shape, Data::Plain, &mut Numbers(41));
            let weight: Vec<T> = images.weight.iter().map(|&w| T::from_f32(w)).collect();
            let bias: Vec<T> = images.bias.iter().map(|&b| T::from_f32(b)).collect();
            images.weight = weight.iter().map(|w| w.to_f32()).collect();
            images.bias = bias.iter().map(|b| b.to_f32()).collect();
            let expected = forward(&images, &wide);
            let narrow = ChannelsLast { weight: Some(T::DTYPE), bias: Some(T::DTYPE), ..wide };
            let mut y = vec![T::default(); expected.len()];
            let buffers = Buffers { weight: input(&weight), bias: input(&bias), y: output(&mut y), ..images.buffers() };
            run(Problem::ChannelsLast(narrow), buffers);
            assert_eq!(bits(&y), bits(&expected));

            let no_weight = forward(&images, &ChannelsLast { weight: None, ..wide });
            let neither = forward(&images, &ChannelsLast { weight: None, bias: None, ..wide });
            images.weight.fill(1.0);
            assert_eq!(bits(&no_weight), bits(&forward(&images, &wide)));
            images.bias.fill(0.0);
            assert_eq!(bits(&neither), bits(&forward(&images, &wide)));
        }
    }
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

#[test]
fn activations_follow() {
    for activation in [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        for shape in [Shape::nhwc(2, 49, 20), Shape::nhwc(1, 2000, 64)] {
            let plain = problem::<f32>(shape, 4);
            let images = Images::<f32>::new(shape, Data::Plain, &mut Numbers(42));
            let before = forward(&images, &plain);
            let after = forward(&images, &ChannelsLast { activation, ..plain });
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
    for (samples, spatial, channels) in [(0, 5, 4), (5, 0, 4), (5, 4, 0)] {
        let groups = channels.max(1);
        run(Problem::ChannelsLast(problem::<f32>(Shape::nhwc(samples, spatial, channels), groups)), Buffers::default());
    }
}
