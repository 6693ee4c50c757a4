//! Pointwise: one affine map a channel. BatchNorm inference in both layouts, the table of its constants, and the second
//! step where moments were found channel by channel.
//!
//! ```text
//! y = activation((x + residual - mean[c]) * scale[c] + bias[c])
//! ```
//!
//! The mean is subtracted first: `a x + b` with `b = bias - mean a` would cancel.
//!
//! NCHW is walked flat, block by block, each with the constants of the channels that it meets. NHWC is walked as a
//! matrix of whole pixels a row, columns of at most a block at a time: the constants of a column stand in a buffer for
//! all the rows of a thread's piece. Where it can be, those of a turn stay in registers for some rows.

use std::ops::Range;

use super::BLOCK;
use super::activation::activate;
use super::caches;
use super::constants::{Constants, Source};
use super::convert::Convert;
use super::input::{Block, Input, Output, Tensor, part, stretches};
use super::simd::{Vector, finish_streaming, mul_add};
use super::stretch::{self, Ahead, Plane, Stretch, TURN_LANES};
use super::threads::for_each_piece;
use super::vectors::{self, Task};
use crate::element::DType;
use crate::norm::Activation;
use crate::problem::{self, Buffers, ChannelTable};

/// Planes whose constants are found together.
const PLANES: usize = 16;

/// Elements from which on NHWC is done by constants in registers: before that, they are loaded about as often without.
const LEAST_OF_TURNS: usize = 8 * BLOCK;

/// What an input is asked for ahead, where it comes from memory.
const AHEAD_BYTES: usize = 2048;

/// The same, for tensors that are not read again.
pub(super) fn ahead<T>(streams: bool) -> Ahead {
    if streams { Ahead { last: AHEAD_BYTES / size_of::<T>(), ..Ahead::NONE } } else { Ahead::NONE }
}

/// Of all tensors of a call together.
pub(super) fn bytes_of_element<T: Convert>(buffers: &Buffers, output: DType) -> usize {
    let inputs = [buffers.x, buffers.residual, buffers.sum].iter().filter(|&&address| address != 0).count();
    inputs * size_of::<T>() + output.size()
}

/// # Safety
/// As [`run`](super::run).
pub(super) unsafe fn run<T: Convert>(problem: &problem::Pointwise, buffers: &Buffers) {
    let streams = caches::are_exceeded_by(problem.length * bytes_of_element::<T>(buffers, problem.output));
    let map = Map {
        length: problem.length,
        channels: problem.channels,
        spatial: problem.spatial,
        activation: problem.activation,
        input: Input::<T>::new(buffers),
        y: Output { dtype: problem.output, address: buffers.y },
        source: Source::new(problem, buffers),
        streams,
        ahead: ahead::<T>(streams),
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
    /// Whether the tensors, of which these may be a part, exceed the caches.
    pub streams: bool,
    pub ahead: Ahead,
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
            for_each_piece(0..rows, self.width(), &|rows| {
                // SAFETY: by the caller; this thread alone has these rows.
                unsafe { map.write_rows(rows, &mut Constants::new()) };
                map.finish();
            });
        } else {
            let blocks = self.length.div_ceil(BLOCK);
            for_each_piece(0..blocks, BLOCK, &|blocks| {
                let (first, end) = (blocks.start * BLOCK, (blocks.end * BLOCK).min(map.length));
                // SAFETY: by the caller; this thread alone has these blocks.
                unsafe { map.write_planes(first, end - first) };
                map.finish();
            });
        }
    }

    /// To be called by each thread behind what it wrote.
    pub(super) fn finish(&self) {
        if self.streams {
            finish_streaming();
        }
    }

    /// NHWC as a matrix: as many pixels a row as fit a block, lest few channels make short loops, and leave room for a turn.
    fn width(&self) -> usize {
        self.channels * ((BLOCK - TURN_LANES) / self.channels).max(1)
    }

    /// The tensors, if elements can go from one to another without a buffer between.
    pub(super) fn stretch(&self) -> Option<Stretch<T>> {
        let Input { x, residual, sum, .. } = self.input;
        (self.input.plain().is_some() && self.y.dtype == T::DTYPE).then(|| Stretch {
            x,
            residual,
            sum,
            y: Tensor::new(self.y.address),
            activation: self.activation,
            streams: self.streams,
            ahead: self.ahead,
        })
    }

    /// NHWC: writes some rows of the tensor as a matrix. The last row may be short.
    ///
    /// # Safety
    /// As [`write`](Self::write), for these rows.
    unsafe fn write_rows(&self, rows: Range<usize>, constants: &mut Constants) {
        let width = self.width();
        let Some(stretch) = self.stretch() else {
            return vectors::run(BufferedPixels { map: self, rows, constants });
        };
        let (first, end) = (rows.start * width, (rows.end * width).min(self.length));
        let width_of_turns = self.width_of_turns().filter(|_| stretch::Columns::takes(&stretch));
        if let (Some(width), true) = (width_of_turns, end - first >= LEAST_OF_TURNS) {
            // SAFETY: within the tensor; the caller alone has these rows.
            unsafe { self.write_turns(stretch, first..end, width, constants) };
            return;
        }
        if width + TURN_LANES <= BLOCK {
            // SAFETY: within the tensor; the caller alone has these rows.
            unsafe {
                let count = end - first;
                // The constants begin with those of what is aligned; those of a row are followed by some of the next, for no
                // stop is made where it ends.
                let head = if count > width { T::to_line(stretch.y.at(first)) } else { 0 };
                constants.load(&self.source, head % self.channels, (width + TURN_LANES).min(count));
                stretch::Pixels { stretch, first, count, head, width, constants }.write();
            }
            return;
        }
        for column in (0..width).step_by(BLOCK) {
            let columns = (width - column).min(BLOCK);
            // Where the tensor is shorter than a row, not more than it needs.
            constants.load(&self.source, column % self.channels, columns.min(self.length));
            for row in rows.clone() {
                let first = row * width + column;
                let count = self.length.saturating_sub(first).min(columns);
                // SAFETY: within the tensor; the caller alone has this row.
                unsafe { stretch::Pixels { stretch, first, count, head: 0, width: columns, constants }.write() };
            }
        }
    }

    /// NHWC: the elements of whole pixels that are whole turns too, if they are few or one pixel.
    pub(super) fn width_of_turns(&self) -> Option<usize> {
        let pixels = TURN_LANES >> self.channels.trailing_zeros().min(TURN_LANES.ilog2());
        let width = pixels * self.channels;
        (pixels == 1 || width <= BLOCK).then_some(width)
    }

    /// NHWC: writes some pixels, as rows of so many elements.
    ///
    /// # Safety
    /// As [`write`](Self::write), for these elements.
    unsafe fn write_turns(&self, stretch: Stretch<T>, elements: Range<usize>, width: usize, constants: &mut Constants) {
        // Rows begin where lines of the output do.
        let head = T::to_line(stretch.y.wrapping_at(elements.start));
        let (aligned, rows) = (elements.start + head, (elements.len() - head) / width);
        // SAFETY: by the caller.
        unsafe {
            self.write_part_of_row(stretch, elements.start..aligned, 0, constants);
            for column in (0..width).step_by(BLOCK) {
                let columns = (width - column).min(BLOCK);
                constants.load(&self.source, (head + column) % self.channels, columns);
                stretch::Columns { stretch, first: aligned + column, rows, stride: width, columns, constants }.write();
            }
            self.write_part_of_row(stretch, aligned + rows * width..elements.end, head, constants);
        }
    }

    /// NHWC: writes some elements, of which the first has the constants of the channel, or of one that is as many pixels on.
    ///
    /// # Safety
    /// As [`write`](Self::write), for these elements.
    unsafe fn write_part_of_row(
        &self,
        stretch: Stretch<T>,
        elements: Range<usize>,
        channel: usize,
        constants: &mut Constants,
    ) {
        for first in elements.clone().step_by(BLOCK) {
            let count = (elements.end - first).min(BLOCK);
            constants.load(&self.source, (channel + first - elements.start) % self.channels, count);
            // SAFETY: by the caller.
            unsafe { stretch::Pixels { stretch, first, count, head: 0, width: count, constants }.write() };
        }
    }

    /// NHWC: writes some elements, on this thread, if there is a [`stretch`](Self::stretch).
    ///
    /// # Safety
    /// As [`write`](Self::write), for these elements.
    pub(super) unsafe fn write_some_pixels(&self, elements: Range<usize>, constants: &mut Constants) {
        if let Some(stretch) = self.stretch() {
            let channel = elements.start % self.channels;
            // SAFETY: by the caller.
            unsafe { self.write_part_of_row(stretch, elements, channel, constants) };
        }
    }

    /// NHWC: writes all of it, on this thread.
    ///
    /// # Safety
    /// As [`write`](Self::write).
    pub(super) unsafe fn write_pixels(&self, constants: &mut Constants) {
        // SAFETY: by the caller.
        unsafe { self.write_rows(0..self.length.div_ceil(self.width()), constants) };
    }

    /// NCHW: writes `[first, first + count)` of the flat tensor.
    ///
    /// # Safety
    /// As [`write`](Self::write), for these elements.
    unsafe fn write_planes(&self, first: usize, count: usize) {
        let mut constants = Constants::new();
        let mut planes = [Plane::NONE; PLANES];
        let stretch = self.stretch();
        let end = first + count;
        let mut next = first;
        while next < end {
            // Constants are found for some planes at a time.
            let plane = next / self.spatial;
            let count = ((plane + PLANES) * self.spatial).min(end) - next;
            let found = (next + count).div_ceil(self.spatial) - plane;
            constants.load(&self.source, plane % self.channels, found);
            for (place, plane) in planes.iter_mut().enumerate().take(found) {
                *plane = constants.plane(place);
            }
            let planes = planes.get(..found).unwrap_or_default();
            match stretch {
                // SAFETY: by the caller.
                Some(stretch) => unsafe {
                    stretch::Planes { stretch, first: next, count, spatial: self.spatial, planes }.write();
                },
                None => vectors::run(BufferedPlanes { map: self, first: next, count, planes }),
            }
            next += count;
        }
    }

    /// Maps `values.len()` elements from the one at `first` on by `apply`; `values` is a buffer.
    ///
    /// # Safety
    /// Those elements belong to the tensors, and no other thread has them.
    #[inline(always)]
    unsafe fn map<V: Vector>(&self, first: usize, values: &mut [f32], apply: impl FnOnce(&mut [f32])) {
        // SAFETY: by the caller; everything is read before any of it is written.
        unsafe {
            self.input.load(first, values);
            self.input.write_sum(first, values);
        }
        apply(values);
        activate::<V>(values, self.activation);
        // SAFETY: by the caller.
        unsafe { self.y.store(first, values) };
    }
}

/// NCHW by a buffer: some planes, or parts of them.
struct BufferedPlanes<'a, T> {
    map: &'a Map<T>,
    first: usize,
    count: usize,
    planes: &'a [Plane],
}

impl<T: Convert> Task for BufferedPlanes<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let mut buffer = Block::zeros();
        let mut next = self.first;
        for ((_, count), plane) in stretches(self.first, self.count, self.map.spatial).zip(self.planes) {
            for start in (0..count).step_by(BLOCK) {
                let values = part(&mut buffer, (count - start).min(BLOCK));
                // SAFETY: within the tensor; this thread alone has these elements.
                unsafe { self.map.map::<V>(next + start, values, |values| plane.apply::<V>(values)) };
            }
            next += count;
        }
    }
}

/// NHWC by a buffer: some rows of the tensor as a matrix.
struct BufferedPixels<'a, T> {
    map: &'a Map<T>,
    rows: Range<usize>,
    constants: &'a mut Constants,
}

impl<T: Convert> Task for BufferedPixels<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { map, rows, constants } = self;
        let width = map.width();
        let mut buffer = Block::zeros();
        for column in (0..width).step_by(BLOCK) {
            let columns = (width - column).min(BLOCK);
            // Where the tensor is shorter than a row, not more than it needs.
            constants.load(&map.source, column % map.channels, columns.min(map.length));
            for row in rows.clone() {
                let first = row * width + column;
                let values = part(&mut buffer, map.length.saturating_sub(first).min(columns));
                // SAFETY: within the tensor; this thread alone has this row.
                unsafe { map.map::<V>(first, values, |values| apply_by_element::<V>(values, constants)) };
            }
        }
    }
}

#[inline(always)]
fn apply_by_element<V: Vector>(values: &mut [f32], constants: &Constants) {
    let Constants { mean, scale, bias } = constants;
    for (value, ((mean, scale), bias)) in values.iter_mut().zip(mean.iter().zip(scale).zip(bias)) {
        *value = mul_add::<V>(*value - mean, *scale, *bias);
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
    fn run<V: Vector>(self) {
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
