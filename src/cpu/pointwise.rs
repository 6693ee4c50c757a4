//! Pointwise: one affine map a channel. BatchNorm inference in both layouts, the table of its constants, and the second
//! step where moments were found channel by channel.
//!
//! ```text
//! y = activation(((x + residual - mean[c]) - rest[c]) * scale[c] + bias[c])
//! ```
//!
//! The mean is subtracted first: `a x + b` with `b = bias - mean a` would cancel.
//!
//! NCHW is walked flat, block by block, each with the constants of the channels that it meets. NHWC is walked as a
//! matrix of whole pixels a row, columns of at most a block at a time: the constants of a column stand in a buffer for
//! all the rows of a thread's piece.

use std::ops::Range;

use super::BLOCK;
use super::activation::activate;
use super::constants::{Constants, Source};
use super::convert::Convert;
use super::input::{Input, Output, Tensor, part, stretches};
use super::threads::for_each_piece;
use super::vectors::{self, Task};
use crate::norm::Activation;
use crate::problem::{self, Buffers, ChannelTable};

/// # Safety
/// As [`run`](super::run).
pub(super) unsafe fn run<T: Convert>(problem: &problem::Pointwise, buffers: &Buffers) {
    let map = Map {
        length: problem.length,
        channels: problem.channels,
        spatial: problem.spatial,
        activation: problem.activation,
        input: Input::<T>::new(buffers),
        y: Output { dtype: problem.output, address: buffers.y },
        source: Source::new(problem, buffers),
    };
    // SAFETY: by the caller.
    unsafe { map.write() };
}

/// Writes the table of constants, `f32 [3, channels]`, into `y`.
///
/// # Safety
/// As [`run`](super::run).
pub(super) unsafe fn run_table(table: &ChannelTable, buffers: &Buffers) {
    let channels = table.channels;
    let source = &Source::of_statistics(channels, table.weight, table.bias, table.eps, buffers);
    let y = Tensor::new(buffers.y);
    for_each_piece(0..channels.div_ceil(BLOCK), BLOCK, &|blocks| vectors::run(Table { channels, source, y, blocks }));
}

/// A map of tensors.
pub(super) struct Map<T> {
    /// A multiple of `channels * spatial`.
    pub length: usize,
    pub channels: usize,
    /// Consecutive elements of one channel; 1 in NHWC.
    pub spatial: usize,
    pub activation: Activation,
    pub input: Input<T>,
    pub y: Output,
    pub source: Source,
}

impl<T: Convert> Map<T> {
    /// Writes all of it.
    ///
    /// # Safety
    /// As [`run`](super::run), for the tensors and what the constants are read from.
    pub(super) unsafe fn write(&self) {
        let map = self;
        if self.length == 0 {
            return;
        }
        if self.spatial == 1 {
            let rows = self.length.div_ceil(self.width());
            for_each_piece(0..rows, self.width(), &|rows| vectors::run(Pixels { map, rows }));
        } else {
            let blocks = self.length.div_ceil(BLOCK);
            for_each_piece(0..blocks, BLOCK, &|blocks| vectors::run(Planes { map, blocks }));
        }
    }

    /// NHWC as a matrix: as many pixels a row as fit a block, lest few channels make short loops.
    fn width(&self) -> usize {
        self.channels * (BLOCK / self.channels).max(1)
    }

    /// Writes some rows of the tensor as a matrix. The last row may be short.
    ///
    /// # Safety
    /// As [`write`](Self::write), for these rows.
    #[inline(always)]
    unsafe fn write_rows(&self, rows: Range<usize>, constants: &mut Constants, buffer: &mut [f32; BLOCK]) {
        let width = self.width();
        for column in (0..width).step_by(BLOCK) {
            let columns = (width - column).min(BLOCK);
            // Where the tensor is shorter than a row, not more than it needs.
            constants.load(&self.source, column % self.channels, columns.min(self.length));
            for row in rows.clone() {
                let first = row * width + column;
                let count = self.length.saturating_sub(first).min(columns);
                // SAFETY: within the tensor; the caller alone has this row.
                unsafe { self.map(first, part(buffer, count), |values| apply_by_element(values, constants)) };
            }
        }
    }

    /// NHWC: writes all of it, on this thread.
    ///
    /// # Safety
    /// As [`write`](Self::write).
    #[inline(always)]
    pub(super) unsafe fn write_pixels(&self, constants: &mut Constants, buffer: &mut [f32; BLOCK]) {
        // SAFETY: by the caller.
        unsafe { self.write_rows(0..self.length.div_ceil(self.width()), constants, buffer) };
    }

    /// Maps `values.len()` elements from the one at `first` on by `apply`; `values` is a buffer.
    ///
    /// # Safety
    /// Those elements belong to the tensors, and no other thread has them.
    #[inline(always)]
    unsafe fn map(&self, first: usize, values: &mut [f32], apply: impl FnOnce(&mut [f32])) {
        // SAFETY: by the caller; everything is read before any of it is written.
        unsafe {
            self.input.load(first, values);
            self.input.write_sum(first, values);
        }
        apply(values);
        activate(values, self.activation);
        // SAFETY: by the caller.
        unsafe { self.y.store(first, values) };
    }
}

/// NCHW: some blocks of the flat tensor.
struct Planes<'a, T> {
    map: &'a Map<T>,
    blocks: Range<usize>,
}

impl<T: Convert> Task for Planes<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let map = self.map;
        let mut constants = Constants::new();
        let mut buffer = [0.0; BLOCK];
        for block in self.blocks {
            let first = block * BLOCK;
            let count = map.length.saturating_sub(first).min(BLOCK);
            let first_plane = first / map.spatial;
            let planes = (first + count).div_ceil(map.spatial) - first_plane;
            constants.load(&map.source, first_plane % map.channels, planes);
            // SAFETY: within the tensor; this thread alone has this block.
            unsafe {
                map.map(first, part(&mut buffer, count), |values| {
                    apply_by_plane(values, stretches(first, count, map.spatial), &constants);
                });
            }
        }
    }
}

#[inline(always)]
fn apply_by_plane(values: &mut [f32], planes: impl Iterator<Item = (usize, usize)>, constants: &Constants) {
    let mut left = values;
    let Constants { mean, rest, scale, bias } = constants;
    for ((_, count), (((mean, rest), scale), bias)) in planes.zip(mean.iter().zip(rest).zip(scale).zip(bias)) {
        let (plane, others) = left.split_at_mut(count);
        for value in plane {
            *value = ((*value - mean) - rest) * scale + bias;
        }
        left = others;
    }
}

/// NHWC: some rows of the tensor as a matrix.
struct Pixels<'a, T> {
    map: &'a Map<T>,
    rows: Range<usize>,
}

impl<T: Convert> Task for Pixels<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        // SAFETY: this thread alone has these rows.
        unsafe { self.map.write_rows(self.rows, &mut Constants::new(), &mut [0.0; BLOCK]) };
    }
}

#[inline(always)]
fn apply_by_element(values: &mut [f32], constants: &Constants) {
    let Constants { mean, rest, scale, bias } = constants;
    for (value, (((mean, rest), scale), bias)) in values.iter_mut().zip(mean.iter().zip(rest).zip(scale).zip(bias)) {
        *value = ((*value - mean) - rest) * scale + bias;
    }
}

/// Some blocks of channels of the table.
struct Table<'a> {
    channels: usize,
    source: &'a Source,
    y: Tensor<f32>,
    blocks: Range<usize>,
}

impl Task for Table<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut constants = Constants::new();
        for block in self.blocks {
            let first = block * BLOCK;
            let count = self.channels.saturating_sub(first).min(BLOCK);
            constants.load(self.source, first, count);
            // SAFETY: within the table, which is `f32 [3, channels]`; this thread alone has these channels.
            unsafe {
                self.y.store(first, part(&mut constants.mean, count));
                self.y.store(self.channels + first, part(&mut constants.scale, count));
                self.y.store(2 * self.channels + first, part(&mut constants.bias, count));
            }
        }
    }
}
