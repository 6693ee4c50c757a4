//! The constants of a pointwise map, `y = (s - mean) * scale + bias`: where they come from, and a block of them.
//!
//! What f32 leaves of a mean that was found here, is in the bias.

use super::BLOCK;
use super::input::{Block, Coefficients, Tensor, part, within};
use super::memory::Numbers;
use super::modulation::Modulation;
use super::moments::Normalization;
use super::stretch::Plane;
use crate::problem::{self, Buffers};

/// Where the constants come from.
pub(super) struct Source {
    channels: usize,
    mean: Tensor<f32>,
    kind: Kind,
}

enum Kind {
    /// Mean, scale and bias behind each other.
    Table,
    Statistics {
        variance: Tensor<f32>,
        weight: Coefficients,
        bias: Coefficients,
        eps: f32,
    },
}

impl Source {
    pub(super) fn new(problem: &problem::Pointwise, buffers: &Buffers) -> Self {
        match problem.constants {
            problem::Constants::Table => {
                Self { channels: problem.channels, mean: Tensor::new(buffers.table), kind: Kind::Table }
            }
            problem::Constants::Statistics { weight, bias, eps } => {
                Self::of_statistics(problem.channels, weight, bias, eps, buffers)
            }
        }
    }

    pub(super) fn of_statistics(
        channels: usize,
        weight: problem::Coefficient,
        bias: problem::Coefficient,
        eps: f32,
        buffers: &Buffers,
    ) -> Self {
        let weight = Coefficients::new(weight, buffers.weight);
        let bias = Coefficients::new(bias, buffers.bias);
        let variance = Tensor::new(buffers.running_var);
        let kind = Kind::Statistics { variance, weight, bias, eps };
        Self { channels, mean: Tensor::new(buffers.running_mean), kind }
    }
}

/// The constants of channels whose moments were found here: `f32 [3, channels]`.
pub(super) struct Table {
    channels: usize,
    values: Numbers<f32>,
}

impl Table {
    pub(super) fn new(channels: usize) -> Self {
        Self { channels, values: Numbers::zeros(3 * channels) }
    }

    /// Means, scales and biases.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.channels)
    }

    /// Valid until the table is filled again.
    pub(super) fn source(&self) -> Source {
        let mean = Tensor::new(self.values.as_ptr().expose_provenance() as u64);
        Source { channels: self.channels, mean, kind: Kind::Table }
    }

    /// Each of the normalizations is that of `channels_per_group` channels.
    ///
    /// # Safety
    /// As [`Tensor::load`], for all channels of the coefficients that are there.
    #[inline(always)]
    pub(super) unsafe fn fill(
        &mut self,
        weight: Coefficients,
        bias: Coefficients,
        modulation: Modulation,
        channels_per_group: usize,
        normalizations: impl Iterator<Item = Normalization>,
    ) {
        let (mean, others) = self.values.split_at_mut(self.channels);
        let (scale, biases) = others.split_at_mut(self.channels);
        // SAFETY: by the caller.
        unsafe {
            weight.load(0, 1.0, scale);
            bias.load(0, 0.0, biases);
        }
        for (block, (scale, bias)) in scale.chunks_mut(BLOCK).zip(biases.chunks_mut(BLOCK)).enumerate() {
            let load = |of_channels: Coefficients, absent, into: &mut [f32]| {
                // SAFETY: by the caller.
                unsafe { of_channels.load(block * BLOCK, absent, into) };
            };
            modulation.apply(scale, bias, load);
        }
        let groups = mean.chunks_exact_mut(channels_per_group).zip(scale.chunks_exact_mut(channels_per_group));
        let groups = groups.zip(biases.chunks_exact_mut(channels_per_group));
        for (((mean, scale), biases), by) in groups.zip(normalizations) {
            mean.fill(by.mean);
            for (scale, bias) in scale.iter_mut().zip(biases) {
                (*scale, *bias) = by.of_channel(*scale, *bias);
            }
        }
    }
}

/// The constants of consecutive channels, or of consecutive elements in NHWC. Each kind begins with a line of the caches.
#[repr(align(64))]
pub(super) struct Constants {
    pub mean: [f32; BLOCK],
    pub scale: [f32; BLOCK],
    pub bias: [f32; BLOCK],
}

impl Constants {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self { mean: [0.0; BLOCK], scale: [0.0; BLOCK], bias: [0.0; BLOCK] }
    }

    /// Of one channel.
    #[inline(always)]
    pub(super) fn plane(&self, place: usize) -> Plane {
        let at = |constants: &[f32; BLOCK]| constants.get(place).copied().unwrap_or_default();
        Plane { mean: at(&self.mean), scale: at(&self.scale), bias: at(&self.bias) }
    }

    /// Where the constants from a place on are: mean, scale and bias.
    #[inline(always)]
    pub(super) fn from(&self, place: usize) -> [*const f32; 3] {
        [&self.mean, &self.scale, &self.bias].map(|constants| constants.as_ptr().wrapping_add(place))
    }

    /// Those of `count` channels from `first` on, at most a block; the first channel follows upon the last.
    #[inline(always)]
    pub(super) fn load(&mut self, source: &Source, first: usize, count: usize) {
        let channels = source.channels;
        let distinct = count.min(channels);
        let before_wrap = distinct.min(channels - first);
        self.load_consecutive(source, first, 0, before_wrap);
        self.load_consecutive(source, 0, before_wrap, distinct - before_wrap);
        let mut filled = distinct;
        while filled < count {
            let more = filled.min(count - filled);
            for constants in [&mut self.mean, &mut self.scale, &mut self.bias] {
                constants.copy_within(..more, filled);
            }
            filled += more;
        }
    }

    /// Those of `count` channels from `first` on, into the places from `place` on.
    #[inline(always)]
    fn load_consecutive(&mut self, source: &Source, first: usize, place: usize, count: usize) {
        let mean = within(&mut self.mean, place, count);
        let scale = within(&mut self.scale, place, count);
        let bias = within(&mut self.bias, place, count);
        // SAFETY: each has a number for every channel, and the table three.
        unsafe {
            source.mean.load(first, mean);
            match source.kind {
                Kind::Table => {
                    source.mean.load(source.channels + first, scale);
                    source.mean.load(2 * source.channels + first, bias);
                }
                Kind::Statistics { variance, weight, bias: biases, eps } => {
                    biases.load(first, 0.0, bias);
                    weight.load(first, 1.0, scale);
                    let mut buffer = Block::zeros();
                    let variances = part(&mut buffer, count);
                    variance.load(first, variances);
                    scale_by_deviation(scale, variances, eps);
                }
            }
        }
    }
}

/// Not clamped at zero: a negative running variance is a broken model and shall show as NaN.
#[inline(always)]
fn scale_by_deviation(scale: &mut [f32], variance: &[f32], eps: f32) {
    for (scale, variance) in scale.iter_mut().zip(variance) {
        #[expect(clippy::cast_possible_truncation, reason = "the one rounding")]
        let scaled = (f64::from(*scale) / (f64::from(*variance) + f64::from(eps)).sqrt()) as f32;
        *scale = scaled;
    }
}
