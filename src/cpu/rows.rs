//! Rows: moments over one contiguous stretch. LayerNorm, RMSNorm, and GroupNorm and InstanceNorm in NCHW.
//!
//! ```text
//! for each row:
//!     with a norm of the input:  for each block:  moments of x + input_bias;  v = that norm of it;  else v = x + input_bias
//!     for each block:  s = v * gate + residual + second_residual;  moments of s
//!     merge the parts' moments into the row's
//!     with a scale for the row:  for each block:  y as below;  its largest magnitude
//!     for each block:  s again;  sum = s;  y = activation((s - mean) * rstd * weight + bias)
//! ```
//!
//! The liberties taken: a row of one block is read once, and stays in its buffer between the steps; so do weight and
//! bias where every row has the same. Rows are spread over threads, and so are the blocks of a long row: a part of it is
//! swept in one go, and parts are merged in a binary tree that is cut by their number alone.

use std::ops::Range;

use super::BLOCK;
use super::activation::activate;
use super::convert::{Convert, round};
use super::input::{Block, Coefficients, Input, combine, part, stretches};
use super::modulation::{Modulation, Pattern};
use super::moments::{Moments, Normalization, Sums};
use super::plain_rows;
use super::quantized::{Amplitude, Destination};
use super::simd::{LANES, Vector};
use super::threads::{for_each_piece, merged};
use super::vectors::{self, Task};
use crate::norm::Rounding;
use crate::problem::{self, Affine, Buffers, PostNorm};
use crate::quantization::Scaling;

/// Blocks whose moments are found in one go, by one thread. Bits depend on it.
pub(super) const BLOCKS_OF_PART: usize = 32;

/// # Safety
/// As [`run`](super::run).
pub(super) unsafe fn run<T: Convert>(problem: &problem::Rows, buffers: &Buffers) {
    if problem.length == 0 {
        return;
    }
    if plain_rows::takes::<T>(problem) {
        // SAFETY: by the caller.
        return unsafe { plain_rows::run::<T>(problem, buffers) };
    }
    let rows = &Rows {
        problem,
        input: Input::<T> { rounds: problem.rounding != Rounding::Once, ..Input::new(buffers) },
        y: buffers.y,
        scales: buffers.scales,
        weight: Coefficients::new(problem.weight, buffers.weight),
        bias: Coefficients::new(problem.bias, buffers.bias),
        input_bias: Coefficients::new(problem.input_bias, buffers.input_bias),
        post_norm: problem.post_norm.map(|PostNorm { weight, bias }| {
            [Coefficients::new(weight, buffers.post_norm_weight), Coefficients::new(bias, buffers.post_norm_bias)]
        }),
        modulation: Modulation::new(&problem.modulation, buffers),
    };
    for_each_piece(0..problem.rows, problem.length, &|piece| {
        if problem.length <= BLOCK {
            vectors::run(WholeRows { rows, piece });
        } else {
            piece.for_each(|row| normalize_by_parts(rows, row));
        }
    });
}

/// The tensors of a problem. It exists within a call of [`run`] alone, so what that was promised holds wherever one is.
struct Rows<'a, T> {
    problem: &'a problem::Rows,
    input: Input<T>,
    y: u64,
    scales: u64,
    weight: Coefficients,
    bias: Coefficients,
    input_bias: Coefficients,
    /// Weight and bias of the input's own norm, if it has one.
    post_norm: Option<[Coefficients; 2]>,
    modulation: Modulation,
}

/// One row of the tensors.
struct Row<'a, T> {
    rows: &'a Rows<'a, T>,
    input: Input<T>,
    y: Destination,
    /// The channel of its first element, with an affine per channel.
    first_channel: usize,
    /// From that channel of its sample on.
    modulation: Modulation,
}

impl<T: Convert> Rows<'_, T> {
    /// `row` is less than `rows`.
    #[inline(always)]
    fn row(&self, row: usize) -> Row<'_, T> {
        let problem = self.problem;
        let (first_channel, of_samples, pattern) = match problem.affine {
            Affine::PerElement { rows_of_sample } => (0, row / rows_of_sample * problem.length, Pattern::Planes(1)),
            Affine::PerChannel { groups, channels_per_group, spatial } => {
                (row % groups * channels_per_group, row * channels_per_group, Pattern::Planes(spatial))
            }
        };
        let modulation = self.modulation.offset(of_samples);
        // SAFETY: the row is one of the tensors'.
        unsafe {
            Row {
                rows: self,
                input: Input {
                    x: self.input.x.offset(row * problem.x_stride),
                    residual: self.input.residual.offset(row * problem.residual_stride),
                    sum: self.input.sum.offset(row * problem.sum_stride),
                    second_residual: self.input.second_residual.offset(row * problem.second_residual_stride),
                    bias: self.input_bias,
                    gate: modulation.gate,
                    added: modulation.added(pattern),
                    rounds: self.input.rounds,
                },
                y: Destination::of_row(problem, self.y, self.scales, row),
                first_channel,
                modulation,
            }
        }
    }

    /// Whether a row has other coefficients than the one before.
    #[inline(always)]
    fn coefficients_change_at(&self, row: usize) -> bool {
        let is_of_sample = !self.modulation.is_absent();
        match self.problem.affine {
            Affine::PerElement { rows_of_sample } => is_of_sample && row.is_multiple_of(rows_of_sample),
            Affine::PerChannel { groups, .. } => groups > 1 || is_of_sample,
        }
    }

    #[inline(always)]
    fn moments<V: Vector>(&self, values: &[f32]) -> Moments {
        match self.problem.moments {
            problem::Moments::MeanAndVariance => Moments::of::<V, true>(values),
            problem::Moments::MeanSquare => Moments::of::<V, false>(values),
        }
    }
}

impl<T: Convert> Row<'_, T> {
    /// The block's place in the row: its first element, and how many there are.
    #[inline(always)]
    fn extent(&self, block: usize) -> (usize, usize) {
        let first = block * BLOCK;
        (first, self.rows.problem.length.saturating_sub(first).min(BLOCK))
    }

    /// Weight and bias of the elements from the one at `first` on, within the row.
    #[inline(always)]
    fn coefficients(&self, first: usize, weight: &mut [f32], bias: &mut [f32]) {
        self.expand(self.rows.weight.offset(self.first_channel), first, 1.0, weight);
        self.expand(self.rows.bias.offset(self.first_channel), first, 0.0, bias);
        if self.rows.problem.weight_plus_one && !self.rows.weight.is_absent() {
            for weight in &mut *weight {
                *weight += 1.0;
            }
        }
        self.modulation.apply(weight, bias, |of_channels, absent, into| self.expand(of_channels, first, absent, into));
    }

    /// Those of the elements from the one at `first` on, of coefficients from the row's first channel on.
    #[inline(always)]
    fn expand(&self, coefficients: Coefficients, first: usize, absent: f32, into: &mut [f32]) {
        match self.rows.problem.affine {
            Affine::PerChannel { spatial, .. } if spatial > 1 && !coefficients.is_absent() => {
                let mut rest = into;
                for (channel, count) in stretches(first, rest.len(), spatial) {
                    let (stretch, left) = rest.split_at_mut(count);
                    let mut one = [0.0];
                    // SAFETY: `first` is in the row, so the channel is one of its group's.
                    unsafe { coefficients.load(channel, absent, &mut one) };
                    stretch.fill(one[0]);
                    rest = left;
                }
            }
            // SAFETY: there is a coefficient for every element of the row, from that of the first one's channel on.
            Affine::PerChannel { .. } | Affine::PerElement { .. } => unsafe {
                coefficients.load(first, absent, into);
            },
        }
    }

    /// What its own norm is of, if there is one and it is not known yet; else what is normalized.
    ///
    /// # Safety
    /// As [`Input::load`].
    #[inline(always)]
    unsafe fn load<V: Vector>(&self, first: usize, values: &mut [f32], post: Option<Normalization>) {
        // SAFETY: by the caller.
        unsafe { self.input.load_own(first, values) };
        if self.rows.post_norm.is_none() || post.is_some() {
            // SAFETY: by the caller.
            unsafe { self.complete::<V>(first, values, post) };
        }
    }

    /// Makes what is normalized of that.
    ///
    /// # Safety
    /// As [`Input::load`].
    #[inline(always)]
    unsafe fn complete<V: Vector>(&self, first: usize, values: &mut [f32], post: Option<Normalization>) {
        if let (Some(post), Some([weight, bias])) = (post, self.rows.post_norm) {
            post.center::<V>(values);
            self.round_normalized(values);
            if !weight.is_absent() {
                let plus = if self.rows.problem.weight_plus_one { 1.0 } else { 0.0 };
                // SAFETY: there is a weight for every element.
                let load = |at, into: &mut [f32]| unsafe { weight.load(first + at, 1.0, into) };
                combine(values, load, |value, weight| value * (weight + plus));
            }
            if !bias.is_absent() {
                // SAFETY: there is a bias for every element.
                let load = |at, into: &mut [f32]| unsafe { bias.load(first + at, 0.0, into) };
                combine(values, load, |value, bias| value + bias);
            }
            if self.input.rounds {
                round::<T>(values);
            }
        }
        // SAFETY: by the caller.
        unsafe { self.input.complete(first, values) };
    }

    #[inline(always)]
    fn round_normalized(&self, values: &mut [f32]) {
        if self.rows.problem.rounding == Rounding::Normalized {
            round::<T>(values);
        }
    }

    /// The second step: makes y of `values`, which are those from the element at `first` on.
    #[inline(always)]
    fn finish<V: Vector>(&self, values: &mut [f32], by: Normalization, weight: &[f32], bias: &[f32]) {
        if self.rows.problem.rounding == Rounding::Normalized {
            by.center::<V>(values);
            self.round_normalized(values);
            Normalization::NONE.apply::<V>(values, weight, bias);
        } else if matches!(self.rows.problem.affine, Affine::PerChannel { .. }) {
            by.apply_by_channel::<V>(values, weight, bias);
        } else {
            by.apply::<V>(values, weight, bias);
        }
        activate::<V>(values, self.rows.problem.activation);
    }

    /// The moments of some blocks.
    ///
    /// # Safety
    /// Nothing of the row is written meanwhile.
    #[inline(always)]
    unsafe fn moments<V: Vector>(
        &self,
        blocks: Range<usize>,
        post: Option<Normalization>,
        buffer: &mut [f32; BLOCK],
    ) -> Moments {
        // SAFETY: by the caller.
        unsafe {
            match self.rows.problem.moments {
                problem::Moments::MeanAndVariance => self.swept::<V, true>(blocks, post, buffer),
                problem::Moments::MeanSquare => self.swept::<V, false>(blocks, post, buffer),
            }
        }
    }

    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn swept<V: Vector, const MEAN: bool>(
        &self,
        blocks: Range<usize>,
        post: Option<Normalization>,
        buffer: &mut [f32; BLOCK],
    ) -> Moments {
        let (first, _) = self.extent(blocks.start);
        let count = self.rows.problem.length.min(blocks.end * BLOCK).saturating_sub(first);
        let values = part(buffer, count.min(LANES));
        // SAFETY: within the row.
        let pivot = unsafe {
            self.load::<V>(first, values, post);
            Sums::<V, MEAN>::pivot(values.as_ptr(), 0, values.len())
        };
        Moments::of_sweeps::<V, MEAN>(
            count,
            pivot,
            #[inline(always)]
            |sums| {
                for block in blocks.clone() {
                    let (first, count) = self.extent(block);
                    let values = part(buffer, count);
                    // SAFETY: within the row, and the buffer.
                    unsafe {
                        self.load::<V>(first, values, post);
                        sums.add_all(values.as_ptr(), 0, count, 0);
                    }
                }
            },
        )
    }

    /// The largest magnitude of what some blocks become.
    ///
    /// # Safety
    /// Nothing of the row is written meanwhile.
    #[inline(always)]
    unsafe fn amplitude<V: Vector>(&self, blocks: Range<usize>, by: Norms, scratch: &mut Scratch) -> Amplitude {
        let mut largest = Amplitude::NONE;
        for block in blocks {
            let (first, count) = self.extent(block);
            let [values, weight, bias] = scratch.parts(count);
            self.coefficients(first, weight, bias);
            // SAFETY: within the row.
            unsafe { self.load::<V>(first, values, by.post) };
            self.finish::<V>(values, by.own, weight, bias);
            largest = largest.max(Amplitude::of(values));
        }
        largest
    }

    /// Writes some blocks, which are read again for it.
    ///
    /// # Safety
    /// No other thread has these blocks, and they were not written before.
    #[inline(always)]
    unsafe fn write_blocks<V: Vector>(&self, blocks: Range<usize>, by: Norms, scratch: &mut Scratch) {
        for block in blocks {
            let (first, count) = self.extent(block);
            let [values, weight, bias] = scratch.parts(count);
            self.coefficients(first, weight, bias);
            // SAFETY: within the row, and not overwritten yet; and by the caller.
            unsafe {
                self.load::<V>(first, values, by.post);
                self.input.write_sum(first, values);
                self.finish::<V>(values, by.own, weight, bias);
                self.y.store(first, values);
            }
        }
    }
}

/// What a row is normalized by, and before that its input, if it has a norm of its own.
#[derive(Clone, Copy)]
struct Norms {
    post: Option<Normalization>,
    own: Normalization,
}

impl problem::Rows {
    fn scales_rows(&self) -> bool {
        self.output.scaling() == Some(Scaling::Rows)
    }
}

/// The buffers of a thread's piece of work. Each begins with a line of the caches.
#[repr(align(64))]
struct Scratch {
    values: [f32; BLOCK],
    weight: [f32; BLOCK],
    bias: [f32; BLOCK],
}

impl Scratch {
    #[inline(always)]
    fn new() -> Self {
        Self { values: [0.0; BLOCK], weight: [0.0; BLOCK], bias: [0.0; BLOCK] }
    }

    #[inline(always)]
    fn parts(&mut self, count: usize) -> [&mut [f32]; 3] {
        [part(&mut self.values, count), part(&mut self.weight, count), part(&mut self.bias, count)]
    }
}

/// Rows of at most one block.
struct WholeRows<'a, T> {
    rows: &'a Rows<'a, T>,
    piece: Range<usize>,
}

impl<T: Convert> Task for WholeRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { rows, piece } = self;
        let problem = rows.problem;
        let scratch = &mut Scratch::new();
        let [values, weight, bias] = scratch.parts(problem.length);
        let first_row = piece.start;
        for row_index in piece {
            let row = rows.row(row_index);
            if row_index == first_row || rows.coefficients_change_at(row_index) {
                row.coefficients(0, weight, bias);
            }
            // SAFETY: this thread alone has the row; all of it is read before anything is written.
            unsafe {
                row.load::<V>(0, values, None);
                if rows.post_norm.is_some() {
                    let post = rows.moments::<V>(values).normalization(problem.eps);
                    row.complete::<V>(0, values, Some(post));
                }
                let normalization = rows.moments::<V>(values).normalization(problem.eps);
                row.input.write_sum(0, values);
                row.finish::<V>(values, normalization, weight, bias);
                if problem.scales_rows() {
                    row.y.scale_row(Amplitude::of(values));
                }
                row.y.store(0, values);
            }
        }
    }
}

fn normalize_by_parts<T: Convert>(rows: &Rows<'_, T>, row: usize) {
    let row = &rows.row(row);
    let blocks = 0..rows.problem.length.div_ceil(BLOCK);
    let normalization = |post| {
        let part = |blocks| vectors::run(MergedBlocks { row, blocks, post });
        merged(blocks.clone(), BLOCKS_OF_PART, BLOCK, &part, &Moments::merge).normalization(rows.problem.eps)
    };
    let post = rows.post_norm.is_some().then(|| normalization(None));
    let by = Norms { post, own: normalization(post) };
    if rows.problem.scales_rows() {
        let part = |blocks| vectors::run(MeasuredBlocks { row, blocks, by });
        let amplitude = merged(blocks.clone(), BLOCKS_OF_PART, BLOCK, &part, &Amplitude::max);
        // SAFETY: this thread alone has the row's scale, and those that it calls upon read it later.
        unsafe { row.y.scale_row(amplitude) };
    }
    for_each_piece(blocks, BLOCK, &|blocks| vectors::run(WrittenBlocks { row, blocks, by }));
}

struct MergedBlocks<'a, T> {
    row: &'a Row<'a, T>,
    blocks: Range<usize>,
    post: Option<Normalization>,
}

impl<T: Convert> Task for MergedBlocks<'_, T> {
    type Output = Moments;

    #[inline(always)]
    fn run<V: Vector>(self) -> Moments {
        // SAFETY: writing begins when all of the row's moments are there.
        unsafe { self.row.moments::<V>(self.blocks, self.post, &mut Block::zeros()) }
    }
}

struct MeasuredBlocks<'a, T> {
    row: &'a Row<'a, T>,
    blocks: Range<usize>,
    by: Norms,
}

impl<T: Convert> Task for MeasuredBlocks<'_, T> {
    type Output = Amplitude;

    #[inline(always)]
    fn run<V: Vector>(self) -> Amplitude {
        // SAFETY: writing begins when all of the row is measured.
        unsafe { self.row.amplitude::<V>(self.blocks, self.by, &mut Scratch::new()) }
    }
}

struct WrittenBlocks<'a, T> {
    row: &'a Row<'a, T>,
    blocks: Range<usize>,
    by: Norms,
}

impl<T: Convert> Task for WrittenBlocks<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        // SAFETY: this thread alone has these blocks, once.
        unsafe { self.row.write_blocks::<V>(self.blocks, self.by, &mut Scratch::new()) };
    }
}
