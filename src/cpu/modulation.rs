//! What differs from sample to sample: scale and shift behind weight and bias, and a bias on the input, by the channel; or
//! scale, shift, and a gate on the input, by the position in the row.

use super::BLOCK;
use super::input::{Coefficients, stretches};
use crate::problem::{self, Buffers};

/// The tensors, `[samples, channels]` or `[samples, length]`; or those of one sample from one of its channels on.
#[derive(Clone, Copy)]
pub(super) struct Modulation {
    scale: Coefficients,
    shift: Coefficients,
    channel_bias: Coefficients,
    /// From the first element on.
    pub gate: Coefficients,
    scale_plus_one: bool,
}

impl Modulation {
    pub(super) const NONE: Self = Self {
        scale: Coefficients::NONE,
        shift: Coefficients::NONE,
        channel_bias: Coefficients::NONE,
        gate: Coefficients::NONE,
        scale_plus_one: false,
    };

    pub(super) fn new(problem: &problem::Modulation, buffers: &Buffers) -> Self {
        Self {
            scale: Coefficients::new(problem.scale, buffers.scale),
            shift: Coefficients::new(problem.shift, buffers.shift),
            channel_bias: Coefficients::new(problem.channel_bias, buffers.channel_bias),
            gate: Coefficients::new(problem.gate, buffers.gate),
            scale_plus_one: problem.scale_plus_one,
        }
    }

    /// Whether weight and bias are all.
    pub(super) fn is_absent(self) -> bool {
        self.scale.is_absent() && self.shift.is_absent()
    }

    /// From the element at `elements` on.
    #[inline(always)]
    pub(super) fn offset(self, elements: usize) -> Self {
        Self {
            scale: self.scale.offset(elements),
            shift: self.shift.offset(elements),
            channel_bias: self.channel_bias.offset(elements),
            gate: self.gate.offset(elements),
            ..self
        }
    }

    /// The bias on the input of elements that lie as `pattern` says.
    #[inline(always)]
    pub(super) fn added(self, pattern: Pattern) -> Added {
        Added { bias: self.channel_bias, pattern }
    }

    /// `(value * weight + bias) * scale + shift` as one map, for a block of elements. `load` reads the coefficients that
    /// belong to them.
    #[inline(always)]
    pub(super) fn apply(self, weight: &mut [f32], bias: &mut [f32], load: impl Fn(Coefficients, f32, &mut [f32])) {
        if self.is_absent() {
            return;
        }
        const CHUNK: usize = BLOCK;
        let mut buffer = [0.0; CHUNK];
        let (values, _) = buffer.split_at_mut(weight.len().min(CHUNK));
        load(self.scale, 1.0, values);
        let plus = if self.scale_plus_one && !self.scale.is_absent() { 1.0 } else { 0.0 };
        for ((weight, bias), scale) in weight.iter_mut().zip(&mut *bias).zip(&*values) {
            *weight *= scale + plus;
            *bias *= scale + plus;
        }
        load(self.shift, 0.0, values);
        for (bias, shift) in bias.iter_mut().zip(values) {
            *bias += *shift;
        }
    }
}

/// How the channels of a stretch of elements follow upon each other.
#[derive(Clone, Copy)]
pub(super) enum Pattern {
    /// So many elements of each.
    Planes(usize),
    /// One element each, and after so many again the first.
    Pixels(usize),
}

/// A bias on the input, of a stretch that begins with the first of its channels.
#[derive(Clone, Copy)]
pub(super) struct Added {
    bias: Coefficients,
    pattern: Pattern,
}

impl Added {
    pub(super) const NONE: Self = Self { bias: Coefficients::NONE, pattern: Pattern::Planes(1) };

    pub(super) fn is_absent(self) -> bool {
        self.bias.is_absent()
    }

    /// Adds it to the elements from the one at `first` on.
    ///
    /// # Safety
    /// As [`Coefficients::load`], for the channels of these elements.
    #[inline(always)]
    pub(super) unsafe fn add(self, first: usize, values: &mut [f32]) {
        let mut one = [0.0];
        match self.pattern {
            Pattern::Planes(spatial) => {
                let mut rest = values;
                for (channel, count) in stretches(first, rest.len(), spatial) {
                    let (plane, left) = rest.split_at_mut(count);
                    // SAFETY: by the caller.
                    unsafe { self.bias.load(channel, 0.0, &mut one) };
                    for value in plane {
                        *value += one[0];
                    }
                    rest = left;
                }
            }
            Pattern::Pixels(channels) => {
                const CHUNK: usize = 128;
                let mut buffer = [0.0; CHUNK];
                let (mut channel, mut rest) = (first % channels, values);
                while !rest.is_empty() {
                    let (some, left) = rest.split_at_mut(rest.len().min(channels - channel).min(CHUNK));
                    let (bias, _) = buffer.split_at_mut(some.len());
                    // SAFETY: by the caller.
                    unsafe { self.bias.load(channel, 0.0, bias) };
                    for (value, bias) in some.iter_mut().zip(bias) {
                        *value += *bias;
                    }
                    channel = (channel + some.len()) % channels;
                    rest = left;
                }
            }
        }
    }
}
