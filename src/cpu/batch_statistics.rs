//! Batch statistics: BatchNorm by the moments of each channel over samples and space, and the running ones moved.
//!
//! ```text
//! moments of every channel                NCHW: below; NHWC: slabs.rs, one slab of all samples
//! running_mean = (1 - share) * running_mean + share * mean, running_var likewise; a table of constants
//! y = activation((s - mean) * (rstd * weight) + bias)                              pointwise.rs
//! ```
//!
//! In NCHW a channel is a row that is torn into planes. Its blocks are one or more of them, or parts of large ones. A thread
//! takes the same block of some channels in turn, for the planes of neighbours lie behind each other.
//!
//! The moments of all channels, and their table, are in memory that is kept: they are as many as there are channels.

use std::ops::Range;
use std::ptr;

use super::BLOCK;
use super::caches;
use super::constants::Table;
use super::convert::Convert;
use super::input::{Block, Coefficients, Input, Output, Tensor, part, stretches};
use super::memory::Numbers;
use super::modulation::Modulation;
use super::moments::{self, Moments, Sums};
use super::pointwise::{self, Map, bytes_of_element};
use super::simd::Vector;
use super::slabs::Slab;
use super::stretch::Inputs;
use super::threads::{for_each_chunk, in_pool, merged};
use super::vectors::{self, Task};
use crate::problem::{self, Buffers};
use crate::shape::Layout;

/// Elements whose blocks' moments are merged in order, by one thread. Bits depend on it.
const ELEMENTS_OF_PART: usize = 32 * BLOCK;

/// The largest plane that is one block.
const MOST_WHOLE: usize = 16 * BLOCK;

/// The most channels that a thread walks over together.
const CHANNELS: usize = 16;

/// # Safety
/// As [`run`](super::run).
pub(super) unsafe fn run<T: Convert>(problem: &problem::BatchStatistics, buffers: &Buffers) {
    let problem::BatchStatistics { samples, spatial, channels, .. } = *problem;
    let length = samples * spatial * channels;
    if length > 0 {
        // SAFETY: by the caller.
        in_pool(length, || unsafe { normalize::<T>(problem, buffers) });
    }
}

/// # Safety
/// As [`run`]; there are values.
unsafe fn normalize<T: Convert>(problem: &problem::BatchStatistics, buffers: &Buffers) {
    let problem::BatchStatistics { samples, spatial, channels, .. } = *problem;
    let length = samples * spatial * channels;
    let input = Input::<T>::new(buffers);
    let streams = caches::are_exceeded_by(length * bytes_of_element::<T>(buffers, problem.output));
    // Without spatial axes both layouts are the same memory.
    let is_planes = problem.layout == Layout::Nchw && spatial > 1;
    let mut moments = Numbers::<Moments>::zeros(channels);
    let ahead = moments::ahead::<T>(streams);
    // SAFETY: by the caller; nothing is written before all moments are there.
    unsafe {
        if is_planes {
            let values = Inputs::new(input.x, input.residual);
            Planes { values, samples, spatial, channels, ahead }.find(&mut moments);
        } else {
            let slab = Slab { input, pixels: samples * spatial, channels, ahead };
            for (moments, found) in moments.iter_mut().zip(slab.moments().groups(1)) {
                *moments = found;
            }
        }
    }
    let mut table = Table::new(channels);
    // SAFETY: by the caller.
    unsafe {
        move_running_statistics(problem, buffers, &moments);
        let weight = Coefficients::new(problem.weight, buffers.weight);
        let bias = Coefficients::new(problem.bias, buffers.bias);
        table.fill(weight, bias, Modulation::NONE, 1, moments.iter().map(|moments| moments.normalization(problem.eps)));
    }
    let spatial = if is_planes { spatial } else { 1 };
    let (y, source) = (Output { dtype: problem.output, address: buffers.y }, table.source());
    let map = Map {
        length,
        channels,
        spatial,
        activation: problem.activation,
        input,
        y,
        source,
        streams,
        ahead: pointwise::ahead::<T>(streams),
    };
    // SAFETY: by the caller, and the table is there.
    unsafe { map.write() };
}

/// Moves what is there of the running statistics, and counts the batch.
///
/// # Safety
/// As [`run`](super::run).
unsafe fn move_running_statistics(problem: &problem::BatchStatistics, buffers: &Buffers, moments: &[Moments]) {
    // SAFETY: by the caller: the only one to access the counter, if it is there, and it is there if it is needed.
    let share = unsafe {
        let counter = counter(buffers.num_batches_tracked);
        let batches = counter.map(|counter| counter.read().wrapping_add(1));
        if let (Some(counter), Some(batches)) = (counter, batches) {
            counter.write(batches);
        }
        #[expect(clippy::cast_precision_loss, reason = "2^53 batches are never reached")]
        problem.momentum.map_or_else(|| 1.0 / batches.unwrap_or(1) as f64, f64::from)
    };
    let running_mean = Tensor::<f32>::new(buffers.running_mean);
    let running_var = Tensor::<f32>::new(buffers.running_var);
    for (block, moments) in moments.chunks(BLOCK).enumerate() {
        // SAFETY: each has a number for every channel, and nobody else accesses them.
        unsafe {
            move_towards(running_mean, block * BLOCK, moments.iter().map(|moments| moments.mean()), share);
            move_towards(running_var, block * BLOCK, moments.iter().map(|moments| moments.unbiased_variance()), share);
        }
    }
}

/// # Safety
/// The address is 0 or that of an i64 which may be written.
unsafe fn counter(address: u64) -> Option<ptr::NonNull<i64>> {
    #[expect(clippy::cast_possible_truncation, reason = "an address of this machine")]
    ptr::NonNull::new(ptr::with_exposed_provenance_mut(address as usize))
}

/// Moves the statistics of channels from `first` on towards those of the batch, at most a block. In f64, rounded once.
///
/// # Safety
/// As [`Tensor::load`] and [`Tensor::store`], if the statistics are there.
unsafe fn move_towards(running: Tensor<f32>, first: usize, batch: impl ExactSizeIterator<Item = f64>, share: f64) {
    if running.is_absent() {
        return;
    }
    let mut buffer = Block::zeros();
    let values = part(&mut buffer, batch.len());
    // SAFETY: by the caller.
    unsafe { running.load(first, values) };
    for (value, batch) in values.iter_mut().zip(batch) {
        #[expect(clippy::cast_possible_truncation, reason = "the one rounding")]
        let moved = ((1.0 - share) * f64::from(*value) + share * batch) as f32;
        *value = moved;
    }
    // SAFETY: by the caller.
    unsafe { running.store(first, values) };
}

/// NCHW. Nothing of the tensors is written while one exists.
struct Planes<T> {
    values: Inputs<T>,
    samples: usize,
    spatial: usize,
    channels: usize,
    /// Elements that memory is asked for ahead.
    ahead: usize,
}

// SAFETY: the values are read only, while the call lasts whose tensors they are.
unsafe impl<T> Sync for Planes<T> {}

impl<T: Convert> Planes<T> {
    /// Elements of a channel.
    #[inline(always)]
    fn length(&self) -> usize {
        self.samples * self.spatial
    }

    /// Elements of a block.
    #[inline(always)]
    fn block(&self) -> usize {
        if self.spatial <= MOST_WHOLE { (BLOCK / self.spatial).max(1) * self.spatial } else { BLOCK }
    }

    /// The moments of all channels.
    ///
    /// # Safety
    /// The values may be read, until `self` is dropped.
    unsafe fn find(self, moments: &mut [Moments]) {
        let (planes, blocks) = (&self, self.length().div_ceil(self.block()));
        let channels = if self.spatial <= MOST_WHOLE { CHANNELS } else { 1 };
        for_each_chunk(moments, 0, channels, self.length(), &|first, moments| {
            let channels = first..first + moments.len();
            let part = |blocks| vectors::run(BlocksOfChannels { planes, channels: channels.clone(), blocks });
            let found = merged(
                0..blocks,
                ELEMENTS_OF_PART / planes.block(),
                channels.len() * planes.block(),
                &part,
                &merge_each,
            );
            for (moments, found) in moments.iter_mut().zip(found) {
                *moments = found;
            }
        });
    }

    /// The moments of one block of a channel.
    #[inline(always)]
    fn moments_of_block<V: Vector>(&self, channel: usize, block: usize) -> Moments {
        let first = block * self.block();
        let count = self.length().saturating_sub(first).min(self.block());
        let offset = first % self.spatial;
        let start = |sample| (sample * self.channels + channel) * self.spatial;
        let pivot_from = start(first / self.spatial) + offset;
        // SAFETY: within the planes.
        unsafe {
            let pivot = Sums::<V, true>::pivot(self.values, pivot_from, count.min(self.spatial - offset));
            Moments::of_sweeps::<V, true>(
                count,
                pivot,
                #[inline(always)]
                |sums| {
                    // Only a part of a plane is not met at the plane's start.
                    let mut offset = offset;
                    for (sample, count) in stretches(first, count, self.spatial) {
                        sums.add_all(self.values, start(sample) + offset, count, self.ahead);
                        offset = 0;
                    }
                },
            )
        }
    }
}

fn merge_each(mut left: [Moments; CHANNELS], right: [Moments; CHANNELS]) -> [Moments; CHANNELS] {
    for (left, right) in left.iter_mut().zip(right) {
        *left = left.merge(right);
    }
    left
}

/// The same blocks of some channels, at most [`CHANNELS`].
struct BlocksOfChannels<'a, T> {
    planes: &'a Planes<T>,
    channels: Range<usize>,
    blocks: Range<usize>,
}

impl<T: Convert> Task for BlocksOfChannels<'_, T> {
    type Output = [Moments; CHANNELS];

    /// The moments of each channel, merged in order.
    #[inline(always)]
    fn run<V: Vector>(self) -> Self::Output {
        let mut merged = [Moments::NONE; CHANNELS];
        let first_block = self.blocks.start;
        for block in self.blocks {
            for (channel, merged) in self.channels.clone().zip(&mut merged) {
                let moments = self.planes.moments_of_block::<V>(channel, block);
                *merged = if block == first_block { moments } else { merged.merge(moments) };
            }
        }
        merged
    }
}
