//! Tensors of samples, space and channels, and their moments over any sets of channels, in f64.

use super::{Expected, Numbers, input};
use crate::cpu::convert::Convert;
use crate::problem::Buffers;
use crate::shape::Layout;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub samples: usize,
    pub spatial: usize,
    pub channels: usize,
    pub layout: Layout,
}

impl Shape {
    pub fn nhwc(samples: usize, spatial: usize, channels: usize) -> Self {
        Self { samples, spatial, channels, layout: Layout::Nhwc }
    }

    pub fn elements(self) -> usize {
        self.samples * self.spatial * self.channels
    }

    /// Sample, pixel and channel of an element.
    pub fn place(self, element: usize) -> [usize; 3] {
        let sample = element / (self.spatial * self.channels);
        match self.layout {
            Layout::Nchw => [sample, element % self.spatial, element / self.spatial % self.channels],
            Layout::Nhwc => [sample, element / self.channels % self.spatial, element % self.channels],
        }
    }
}

/// What to be wary of.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    Plain,
    /// All around this mean.
    Far(f64),
    /// Channels around means of their own, 1000 apart.
    UnlikeChannels,
    /// The same in every fourth pixel, so that rounding errors are, too.
    Periodic,
    /// At this element, this number.
    Outlier(usize, f64),
    Constant(f64),
    /// In the first pixels one number, and in all others another: pivots lie far from the mean, and rounding errors add up.
    Step(usize, [f64; 2]),
}

pub struct Images<T> {
    pub shape: Shape,
    pub x: Vec<T>,
    pub residual: Option<Vec<T>>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

impl<T: Convert> Images<T> {
    pub fn new(shape: Shape, data: Data, numbers: &mut Numbers) -> Self {
        let mut x: Vec<T> = (0..shape.elements())
            .map(|element| {
                let [_, pixel, channel] = shape.place(element);
                T::from_f64(match data {
                    Data::Plain => 0.5 + 2.0 * numbers.next(),
                    Data::Far(mean) => mean + numbers.next(),
                    Data::UnlikeChannels => 1000.0 * (channel % 7) as f64 + numbers.next(),
                    Data::Periodic => [0.1, 3.7, -1.3, 11.1][pixel % 4],
                    Data::Outlier(..) => numbers.next(),
                    Data::Constant(value) => value,
                    Data::Step(pixels, [first, other]) => {
                        if pixel < pixels {
                            first
                        } else {
                            other
                        }
                    }
                })
            })
            .collect();
        if let Data::Outlier(place, outlier) = data {
            x[place] = T::from_f64(outlier);
        }
        let (weight, bias) = (numbers.take(shape.channels, 0.5, 1.0), numbers.take(shape.channels, 0.0, 1.0));
        Self { shape, x, residual: None, weight, bias }
    }

    pub fn buffers(&self) -> Buffers {
        Buffers {
            x: input(&self.x),
            residual: self.residual.as_ref().map_or(0, |residual| input(residual)),
            weight: input(&self.weight),
            bias: input(&self.bias),
            ..Buffers::default()
        }
    }

    /// `x + residual` in f32.
    pub fn sums(&self) -> Vec<f32> {
        let residual = |i: usize| self.residual.as_ref().map_or(0.0, |residual| residual[i].to_f32());
        self.x.iter().enumerate().map(|(i, x)| x.to_f32() + residual(i)).collect()
    }

    /// Mean, biased variance and count of each set.
    pub fn moments(&self, sets: Sets) -> Vec<[f64; 3]> {
        let sums = self.sums();
        let set_of: Vec<usize> = (0..sums.len()).map(|element| sets.of(self.shape.place(element))).collect();
        let mut counts = vec![0.0; sets.count];
        for &set in &set_of {
            counts[set] += 1.0;
        }
        let averages = |of: &dyn Fn(f64, usize) -> f64| {
            let mut totals = vec![0.0; sets.count];
            for (&s, &set) in sums.iter().zip(&set_of) {
                totals[set] += of(f64::from(s), set);
            }
            totals.iter().zip(&counts).map(|(total, count)| total / count).collect::<Vec<f64>>()
        };
        // Twice, for the sum's own rounding.
        let mut means = averages(&|s, _| s);
        let rests = averages(&|s, set| s - means[set]);
        for (mean, rest) in means.iter_mut().zip(rests) {
            *mean += rest;
        }
        let variances = averages(&|s, set| (s - means[set]).powi(2));
        (0..sets.count).map(|set| [means[set], variances[set], counts[set]]).collect()
    }

    /// With weight and bias.
    pub fn check(&self, y: &[T], sets: Sets, eps: f32, what: &str) {
        let moments = self.moments(sets);
        assert_eq!(y.len(), self.x.len());
        for (element, (y, s)) in y.iter().zip(self.sums()).enumerate() {
            let place @ [_, _, channel] = self.shape.place(element);
            let [mean, variance, _] = moments[sets.of(place)];
            let expected = Expected {
                normalized: (f64::from(s) - mean) / (variance + f64::from(eps)).sqrt(),
                weight: f64::from(self.weight[channel]),
                bias: f64::from(self.bias[channel]),
            };
            expected.check(*y, format_args!("{what}, {:?}, {sets:?}, element {element}", self.shape));
        }
    }
}

/// Which moments an element counts in.
#[derive(Clone, Copy, Debug)]
pub struct Sets {
    count: usize,
    channels_per_group: usize,
    /// 0 where samples count together.
    groups_of_sample: usize,
}

impl Sets {
    pub fn groups(shape: Shape, groups: usize) -> Self {
        let channels_per_group = shape.channels / groups;
        Self { count: shape.samples * groups, channels_per_group, groups_of_sample: groups }
    }

    pub fn channels(shape: Shape) -> Self {
        Self { count: shape.channels, channels_per_group: 1, groups_of_sample: 0 }
    }

    fn of(self, [sample, _, channel]: [usize; 3]) -> usize {
        sample * self.groups_of_sample + channel / self.channels_per_group
    }
}
