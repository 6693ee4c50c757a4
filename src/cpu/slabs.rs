//! Moments of channels that lie between each other in memory: of a slab `[pixels, channels]`.
//!
//! ```text
//! for each part of the pixels:
//!     for each 8 rows:  for each slot, many at once:  moments of its 8 elements, merged into the slot's
//!     merge the slots of each channel
//! merge the parts
//! ```
//!
//! A row is as many pixels as fit [`COLUMN`], at least one, and each of its elements has a slot: few channels make no
//! short loops. Memory is walked once, from one end to the other, [`COLUMN`] slots of 8 rows at a time.
//!
//! The moments of 8 elements take two sweeps in f32, as those of a block in `moments.rs` do, but over numbers that stay
//! in registers: with the first as a pivot `m = fl(x₀ + mean(x - x₀))`, then `mean(x - m)` and `sum((x - m)²)`. All that
//! follows is Chan's rule in f64. All slots have as many elements, so its weights are the same for all of them.
//!
//! A slot takes two f64, and each of the parts that are being merged has its own: they are on the heap. Where a slab is
//! one part, a thread uses the same ones for all its slabs.

use std::array;
use std::ops::Range;

use super::BLOCK;
use super::convert::Convert;
use super::input::Input;
use super::moments::{Moments, count_of};
use super::threads::merged;
use super::vectors::{self, Task};

/// Rows whose elements meet in f32, in a balanced tree.
const DEPTH: usize = 8;

/// Slots of which a block holds that many rows.
const COLUMN: usize = BLOCK / DEPTH;

/// Slots of a turn of the innermost loop.
const LANES: usize = 8;

/// The size of a part: so large that merging parts costs little, and so small that wide slabs have several. Bits depend
/// on both.
const ELEMENTS_OF_PART: usize = 32 * 1024;
const LEAST_ROWS_OF_PART: usize = 2 * DEPTH;

/// Neither pixels nor channels are zero.
pub(super) struct Slab<T> {
    pub input: Input<T>,
    pub pixels: usize,
    pub channels: usize,
}

impl<T: Convert> Slab<T> {
    fn pixels_of_part(&self) -> usize {
        let pixels = pixels_of_row(self.channels);
        (ELEMENTS_OF_PART / (pixels * self.channels)).max(LEAST_ROWS_OF_PART) * pixels
    }

    pub(super) fn is_one_part(&self) -> bool {
        self.pixels <= self.pixels_of_part()
    }

    /// The moments of all channels.
    ///
    /// # Safety
    /// As [`Input::load`], for the whole slab.
    pub(super) unsafe fn moments(&self) -> Channels {
        let part = |pixels| vectors::run(Part { slab: self, pixels });
        merged(0..self.pixels, self.pixels_of_part(), self.channels, &part, &Channels::merge)
    }

    /// Those of some pixels, in place of what is in `into`; `buffer` is one.
    ///
    /// # Safety
    /// As [`Input::load`], for these pixels.
    #[inline(always)]
    pub(super) unsafe fn moments_of(&self, pixels: Range<usize>, into: &mut Channels, buffer: &mut [f32; BLOCK]) {
        into.clear();
        let pixels_of_row = pixels_of_row(self.channels);
        let (mut rows, rest) = (pixels.len() / pixels_of_row, pixels.len() % pixels_of_row);
        let mut walk = Walk {
            input: self.input,
            next: pixels.start * self.channels,
            width: pixels_of_row * self.channels,
            buffer: buffer.as_chunks_mut().0,
        };
        // SAFETY: what is walked over are these pixels.
        unsafe {
            while rows >= 8 {
                walk.add_rows::<8>(into);
                rows -= 8;
            }
            if rows >= 4 {
                walk.add_rows::<4>(into);
                rows -= 4;
            }
            if rows >= 2 {
                walk.add_rows::<2>(into);
                rows -= 2;
            }
            if rows == 1 {
                walk.add_row(walk.width, into);
                into.count += 1.0;
            }
            walk.add_row(rest * self.channels, into);
        }
        into.merge_slots(pixels_of_row, rest);
    }
}

fn pixels_of_row(channels: usize) -> usize {
    (COLUMN / channels).max(1)
}

struct Part<'a, T> {
    slab: &'a Slab<T>,
    pixels: Range<usize>,
}

impl<T: Convert> Task for Part<'_, T> {
    type Output = Channels;

    #[inline(always)]
    fn run(self) -> Channels {
        let mut channels = Channels::new(self.slab.channels);
        // SAFETY: promised for the whole slab where the task was made.
        unsafe { self.slab.moments_of(self.pixels, &mut channels, &mut [0.0; BLOCK]) };
        channels
    }
}

/// The moments of many channels, each of as many values.
pub(super) struct Channels {
    channels: usize,
    /// Values of a slot; at last, of a channel.
    count: f64,
    /// Of the slots, up to whole [`LANES`]; at last, the first ones are those of the channels.
    means: Vec<f64>,
    m2: Vec<f64>,
}

impl Channels {
    pub(super) fn new(channels: usize) -> Self {
        let slots = (pixels_of_row(channels) * channels).next_multiple_of(LANES);
        Self { channels, count: 0.0, means: vec![0.0; slots], m2: vec![0.0; slots] }
    }

    #[inline(always)]
    fn clear(&mut self) {
        self.count = 0.0;
        self.means.fill(0.0);
        self.m2.fill(0.0);
    }

    /// Makes slots into channels. Those of the first `rest` pixels have one value more.
    #[inline(always)]
    fn merge_slots(&mut self, pixels_of_row: usize, rest: usize) {
        let rows = self.count;
        let count = |pixel| if pixel < rest { rows + 1.0 } else { rows };
        let (means, other_means) = self.means.split_at_mut(self.channels);
        let (m2, other_m2) = self.m2.split_at_mut(self.channels);
        self.count = count(0);
        let others = other_means.chunks_exact(self.channels).zip(other_m2.chunks_exact(self.channels));
        for (pixel, (other_means, other_m2)) in (1..pixels_of_row).zip(others) {
            let count = count(pixel);
            if count == 0.0 {
                break;
            }
            Weights::new(self.count, count).merge(means, m2, other_means, other_m2);
            self.count += count;
        }
    }

    fn merge(mut self, other: Self) -> Self {
        Weights::new(self.count, other.count).merge(&mut self.means, &mut self.m2, &other.means, &other.m2);
        self.count += other.count;
        self
    }

    /// The moments of each group of channels.
    #[inline(always)]
    pub(super) fn groups(&self, channels_per_group: usize) -> impl Iterator<Item = Moments> {
        let means = self.means.chunks_exact(channels_per_group);
        let groups = means.zip(self.m2.chunks_exact(channels_per_group)).take(self.channels / channels_per_group);
        groups.map(|(means, m2)| merged_group(self.count, means, m2))
    }
}

/// Chan's rule for many sets at once, all of one count. Means of equal numbers in f32 are summed without rounding, so
/// constant channels have exactly their value as mean.
#[inline(always)]
fn merged_group(count: f64, means: &[f64], m2: &[f64]) -> Moments {
    let channels = count_of(means);
    let mean = means.iter().sum::<f64>() / channels;
    let (mut within, mut between) = (0.0, 0.0);
    for (channel_mean, m2) in means.iter().zip(m2) {
        let delta = channel_mean - mean;
        within += m2;
        between += delta * delta;
    }
    Moments::new(count * channels, mean, within + count * between)
}

/// What Chan's rule weighs a difference of means by, in the mean and in the squares.
#[derive(Clone, Copy)]
struct Weights {
    of_mean: f64,
    of_squares: f64,
}

impl Weights {
    #[inline(always)]
    fn new(count: f64, other: f64) -> Self {
        let of_mean = other / (count + other);
        Self { of_mean, of_squares: of_mean * count }
    }

    #[inline(always)]
    fn merge_one(self, mean: &mut f64, m2: &mut f64, other_mean: f64, other_m2: f64) {
        let delta = other_mean - *mean;
        *mean += delta * self.of_mean;
        *m2 += other_m2 + delta * delta * self.of_squares;
    }

    #[inline(always)]
    fn merge(self, means: &mut [f64], m2: &mut [f64], other_means: &[f64], other_m2: &[f64]) {
        for ((mean, m2), (other_mean, other_m2)) in means.iter_mut().zip(m2).zip(other_means.iter().zip(other_m2)) {
            self.merge_one(mean, m2, *other_mean, *other_m2);
        }
    }
}

/// A walk over rows.
struct Walk<'a, T> {
    input: Input<T>,
    /// The first element of the next row.
    next: usize,
    width: usize,
    /// [`DEPTH`] of them.
    buffer: &'a mut [[f32; COLUMN]],
}

impl<T: Convert> Walk<'_, T> {
    /// Merges the next `ROWS` rows into the slots.
    ///
    /// # Safety
    /// As [`Input::load`], for these rows.
    #[inline(always)]
    unsafe fn add_rows<const ROWS: usize>(&mut self, slots: &mut Channels) {
        let Some(buffer) = self.buffer.first_chunk_mut::<ROWS>() else { return };
        let count = count_of(buffer);
        let weights = Weights::new(slots.count, count);
        for column in (0..self.width).step_by(COLUMN) {
            let columns = (self.width - column).min(COLUMN);
            for (row, values) in buffer.iter_mut().enumerate() {
                let (values, _) = values.split_at_mut(columns);
                // SAFETY: by the caller.
                unsafe { self.input.load(self.next + row * self.width + column, values) };
            }
            let means = slots.means.as_chunks_mut::<LANES>().0.iter_mut().skip(column / LANES);
            let m2 = slots.m2.as_chunks_mut::<LANES>().0.iter_mut().skip(column / LANES);
            // Beyond the last slot of all, the lanes have left-overs, and nobody reads what becomes of them.
            let lanes = (0..COLUMN / LANES).take(columns.div_ceil(LANES));
            for ((lane, means), m2) in lanes.zip(means).zip(m2) {
                let rows = array::from_fn(|row| buffer[row].as_chunks::<LANES>().0[lane]);
                add_lanes::<ROWS>(&rows, means, m2, count, weights);
            }
        }
        self.next += ROWS * self.width;
        slots.count += count;
    }

    /// Merges the next `count` elements into the first slots, one each.
    ///
    /// # Safety
    /// As [`Input::load`], for these elements.
    #[inline(always)]
    unsafe fn add_row(&mut self, count: usize, slots: &mut Channels) {
        let weights = Weights::new(slots.count, 1.0);
        let Some(values) = self.buffer.first_mut() else { return };
        let (means, _) = slots.means.split_at_mut(count);
        let (m2, _) = slots.m2.split_at_mut(count);
        for (means, m2) in means.chunks_mut(COLUMN).zip(m2.chunks_mut(COLUMN)) {
            let (values, _) = values.split_at_mut(means.len());
            // SAFETY: by the caller.
            unsafe { self.input.load(self.next, values) };
            for ((mean, m2), value) in means.iter_mut().zip(m2).zip(values) {
                weights.merge_one(mean, m2, f64::from(*value), 0.0);
            }
            self.next += means.len();
        }
    }
}

/// Merges the elements of some rows into the slots that they have side by side.
#[inline(always)]
fn add_lanes<const ROWS: usize>(
    rows: &[[f32; LANES]; ROWS],
    means: &mut [f64; LANES],
    m2: &mut [f64; LANES],
    count: f64,
    weights: Weights,
) {
    for lane in 0..LANES {
        let x: [f32; ROWS] = array::from_fn(|row| rows[row][lane]);
        let pivot = x[0];
        #[expect(clippy::cast_possible_truncation, reason = "a power of two")]
        let middle = pivot + tree_sum(x.map(|x| x - pivot)) / count as f32;
        let d = x.map(|x| x - middle);
        let (total, squares) = (f64::from(tree_sum(d)), f64::from(tree_sum(d.map(|d| d * d))));
        let rest = total / count;
        weights.merge_one(&mut means[lane], &mut m2[lane], f64::from(middle) + rest, squares - total * rest);
    }
}

/// Of a power of two of numbers.
#[inline(always)]
fn tree_sum<const COUNT: usize>(mut numbers: [f32; COUNT]) -> f32 {
    let mut width = COUNT / 2;
    while width > 0 {
        for place in 0..width {
            numbers[place] += numbers[place + width];
        }
        width /= 2;
    }
    numbers[0]
}
