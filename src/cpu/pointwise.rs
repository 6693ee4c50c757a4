//! Pointwise: one affine map a channel. BatchNorm inference in both layouts, and the table of its constants.
//!
//! ```text
//! y = activation((x + residual - mean[c]) * scale[c] + bias[c]),   scale = weight / sqrt(running_var + eps)
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
use super::convert::Convert;
use super::input::{Coefficients, Input, Tensor, part, stretches, within};
use super::threads::for_each_piece;
use super::vectors::{self, Task};
use crate::problem::{self, Buffers, ChannelTable};

/// # Safety
/// As [`run`](super::run).
pub(super) unsafe fn run<T: Convert>(problem: &problem::Pointwise, buffers: &Buffers) {
    if problem.length == 0 {
        return;
    }
    let map = &Pointwise {
        problem,
        input: Input::<T>::new(buffers),
        y: Tensor::new(buffers.y),
        source: Source::new(problem, buffers),
    };
    if problem.spatial == 1 {
        // As many pixels as fit a block, lest few channels make short loops.
        let width = problem.channels * (BLOCK / problem.channels).max(1);
        let rows = problem.length.div_ceil(width);
        for_each_piece(0..rows, width, &|rows| vectors::run(Pixels { map, width, rows }));
    } else {
        let blocks = problem.length.div_ceil(BLOCK);
        for_each_piece(0..blocks, BLOCK, &|blocks| vectors::run(Planes { map, blocks }));
    }
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

/// Where the constants come from.
struct Source {
    channels: usize,
    mean: Tensor<f32>,
    kind: Kind,
}

enum Kind {
    Table,
    Statistics { variance: Tensor<f32>, weight: Coefficients, bias: Coefficients, eps: f32 },
}

impl Source {
    fn new(problem: &problem::Pointwise, buffers: &Buffers) -> Self {
        match problem.constants {
            problem::Constants::Table => {
                Self { channels: problem.channels, mean: Tensor::new(buffers.table), kind: Kind::Table }
            }
            problem::Constants::Statistics { weight, bias, eps } => {
                Self::of_statistics(problem.channels, weight, bias, eps, buffers)
            }
        }
    }

    fn of_statistics(
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

/// Mean, scale and bias of consecutive channels, or of consecutive elements in NHWC.
struct Constants {
    mean: [f32; BLOCK],
    scale: [f32; BLOCK],
    bias: [f32; BLOCK],
}

impl Constants {
    #[inline(always)]
    fn new() -> Self {
        Self { mean: [0.0; BLOCK], scale: [0.0; BLOCK], bias: [0.0; BLOCK] }
    }

    /// Those of `count` channels from `first` on, at most a block; the first channel follows upon the last.
    #[inline(always)]
    fn load(&mut self, source: &Source, first: usize, count: usize) {
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
                    let mut buffer = [0.0; BLOCK];
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

/// The tensors of a problem. It exists within a call of [`run`] alone, so what that was promised holds wherever one is.
struct Pointwise<'a, T> {
    problem: &'a problem::Pointwise,
    input: Input<T>,
    y: Tensor<T>,
    source: Source,
}

impl<T: Convert> Pointwise<'_, T> {
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
        activate(values, self.problem.activation);
        // SAFETY: by the caller.
        unsafe { self.y.store(first, values) };
    }
}

/// NCHW: some blocks of the flat tensor.
struct Planes<'a, T> {
    map: &'a Pointwise<'a, T>,
    blocks: Range<usize>,
}

impl<T: Convert> Task for Planes<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let problem = self.map.problem;
        let mut constants = Constants::new();
        let mut buffer = [0.0; BLOCK];
        for block in self.blocks {
            let first = block * BLOCK;
            let count = problem.length.saturating_sub(first).min(BLOCK);
            let first_plane = first / problem.spatial;
            let planes = (first + count).div_ceil(problem.spatial) - first_plane;
            constants.load(&self.map.source, first_plane % problem.channels, planes);
            // SAFETY: within the tensor; this thread alone has this block.
            unsafe {
                self.map.map(first, part(&mut buffer, count), |values| {
                    apply_by_plane(values, stretches(first, count, problem.spatial), &constants);
                });
            }
        }
    }
}

#[inline(always)]
fn apply_by_plane(values: &mut [f32], planes: impl Iterator<Item = (usize, usize)>, constants: &Constants) {
    let mut rest = values;
    let constants = constants.mean.iter().zip(&constants.scale).zip(&constants.bias);
    for ((_, count), ((mean, scale), bias)) in planes.zip(constants) {
        let (plane, left) = rest.split_at_mut(count);
        for value in plane {
            *value = (*value - mean) * scale + bias;
        }
        rest = left;
    }
}

/// NHWC: some rows of the tensor as a matrix of `width` columns, a multiple of the channels. The last row may be short.
struct Pixels<'a, T> {
    map: &'a Pointwise<'a, T>,
    width: usize,
    rows: Range<usize>,
}

impl<T: Convert> Task for Pixels<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let problem = self.map.problem;
        let mut constants = Constants::new();
        let mut buffer = [0.0; BLOCK];
        for column in (0..self.width).step_by(BLOCK) {
            let columns = (self.width - column).min(BLOCK);
            constants.load(&self.map.source, column % problem.channels, columns);
            for row in self.rows.clone() {
                let first = row * self.width + column;
                let count = problem.length.saturating_sub(first).min(columns);
                // SAFETY: within the tensor; this thread alone has this row.
                unsafe {
                    self.map.map(first, part(&mut buffer, count), |values| apply_by_element(values, &constants));
                }
            }
        }
    }
}

#[inline(always)]
fn apply_by_element(values: &mut [f32], constants: &Constants) {
    let constants = constants.mean.iter().zip(&constants.scale).zip(&constants.bias);
    for (value, ((mean, scale), bias)) in values.iter_mut().zip(constants) {
        *value = (*value - mean) * scale + bias;
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
