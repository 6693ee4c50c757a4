//! Channels last: GroupNorm and InstanceNorm in NHWC, over the groups of `[samples, spatial, channels]`.
//!
//! ```text
//! for each sample:
//!     moments of every channel                            slabs.rs
//!     merge those of a group; a table of constants        constants.rs
//!     y = activation((s - mean) * (rstd * weight) + bias)     pointwise.rs
//! ```
//!
//! Samples are spread over threads, and so are the parts of a large one, in both steps. A thread that has whole samples
//! uses the same moments, table and buffers for all of them. Where the tensors exceed the caches, most are done in turns
//! (`samples_in_turn.rs`).

use std::ops::Range;

use super::caches;
use super::constants::{Constants, Table};
use super::convert::Convert;
use super::input::{Coefficients, Input, Output};
use super::modulation::{Modulation, Pattern};
use super::moments;
use super::pointwise::{self, Map, bytes_of_element};
use super::samples_in_turn;
use super::simd::finish_streaming;
use super::slabs::{Channels, Slab};
use super::stretch::Ahead;
use super::threads::{self, for_each_piece};
use crate::problem::{self, Buffers};

/// What the second step asks for ahead, of what the caches hold.
const AHEAD_BYTES: usize = 512;

/// # Safety
/// As [`run`](super::run).
pub(super) unsafe fn run<T: Convert>(problem: &problem::ChannelsLast, buffers: &Buffers) {
    let length = problem.spatial * problem.channels;
    if length == 0 {
        return;
    }
    let streams = caches::are_exceeded_by(problem.samples * length * bytes_of_element::<T>(buffers, problem.output));
    let tensor = &Samples {
        problem,
        input: Input::<T>::new(buffers),
        y: Output { dtype: problem.output, address: buffers.y },
        weight: Coefficients::new(problem.weight, buffers.weight),
        bias: Coefficients::new(problem.bias, buffers.bias),
        modulation: Modulation::new(&problem.modulation, buffers),
        streams,
        fetches_next: streams && !caches::are_exceeded_by(2 * threads::count() * length * size_of::<T>()),
    };
    // SAFETY: by the caller.
    if unsafe { samples_in_turn::run(tensor) } {
        return;
    }
    for_each_piece(0..problem.samples, length, &|samples| {
        if tensor.slab(samples.start).is_one_part() {
            normalize_whole(tensor, samples);
        } else {
            samples.for_each(|sample| normalize_by_parts(tensor, sample));
        }
    });
}

/// The tensors of a problem. It exists within a call of [`run`] alone, so what that was promised holds wherever one is.
pub(super) struct Samples<'a, T> {
    pub problem: &'a problem::ChannelsLast,
    input: Input<T>,
    y: Output,
    weight: Coefficients,
    bias: Coefficients,
    modulation: Modulation,
    /// Whether the tensors exceed the caches.
    streams: bool,
    /// Whether the next sample is fetched while one is written, which reads nothing else from memory: the caches hold two for
    /// each thread (measured: 5 to 15 %).
    pub fetches_next: bool,
}

impl<T: Convert> Samples<'_, T> {
    /// Elements of one.
    pub(super) fn length(&self) -> usize {
        self.problem.spatial * self.problem.channels
    }

    /// `sample` is less than `samples`.
    #[inline(always)]
    pub(super) fn slab(&self, sample: usize) -> Slab<T> {
        let (pixels, channels) = (self.problem.spatial, self.problem.channels);
        // SAFETY: the sample is one of the tensors'.
        let mut input = unsafe { self.input.offset(sample * pixels * channels) };
        input.added = self.modulation.offset(sample * channels).added(Pattern::Pixels(channels));
        Slab { input, pixels, channels, ahead: moments::ahead::<T>(self.streams) }
    }

    #[inline(always)]
    pub(super) fn fill(&self, sample: usize, table: &mut Table, moments: &Channels) {
        let channels_per_group = self.problem.channels / self.problem.groups;
        let groups = moments.groups(channels_per_group).map(|moments| moments.normalization(self.problem.eps));
        // SAFETY: there is a coefficient for every channel.
        unsafe {
            let modulation = self.modulation.offset(sample * self.problem.channels);
            table.fill(self.weight, self.bias, modulation, channels_per_group, groups);
        }
    }

    /// The second step of a sample, by the constants of the table.
    #[inline(always)]
    pub(super) fn map(&self, sample: usize, table: &Table) -> Map<T> {
        let Slab { input, pixels, channels, .. } = self.slab(sample);
        let length = pixels * channels;
        let y = self.y.offset(sample * length);
        Map {
            length,
            channels,
            spatial: 1,
            activation: self.problem.activation,
            input,
            y,
            source: table.source(),
            streams: self.streams,
            ahead: if self.fetches_next {
                Ahead { last: AHEAD_BYTES / size_of::<T>(), next: length }
            } else {
                pointwise::ahead::<T>(self.streams)
            },
        }
    }
}

/// Samples of one part each.
fn normalize_whole<T: Convert>(tensor: &Samples<'_, T>, samples: Range<usize>) {
    let mut moments = Channels::new(tensor.problem.channels);
    let mut table = Table::new(tensor.problem.channels);
    let mut constants = Constants::new();
    for sample in samples {
        // SAFETY: this thread alone has the sample; it is written when its moments are there.
        unsafe {
            tensor.slab(sample).moments_of(0..tensor.problem.spatial, &mut moments);
            tensor.fill(sample, &mut table, &moments);
            tensor.map(sample, &table).write_pixels(&mut constants);
        }
    }
    if tensor.streams {
        finish_streaming();
    }
}

fn normalize_by_parts<T: Convert>(tensor: &Samples<'_, T>, sample: usize) {
    let mut table = Table::new(tensor.problem.channels);
    // SAFETY: this thread alone, and those which it calls upon, have the sample; it is written when its moments are there.
    unsafe {
        tensor.fill(sample, &mut table, &tensor.slab(sample).moments());
        tensor.map(sample, &table).write();
    }
}
