//! The rows of most calls: of one type, with at most one residual, and with coefficients that are the same for every row or
//! stand still for a channel. The same steps as in `rows.rs`, which has the others, without a buffer between them.
//!
//! ```text
//! for each row, or each part of a long one:   moments of x + residual           moments.rs
//! merge the parts' moments in the tree of rows.rs
//! for each row, or each part:  s = x + residual;  sum = s;  y = activation((s - mean) * rstd * weight + bias)    stretch.rs
//! ```
//!
//! A row is read twice, the second time from the nearest cache that holds it. Rows of whole turns, if they are not long, are done by
//! eights (`short_rows.rs`), other short ones some at a time, and long ones by parts, all of whose moments come first. Those between
//! are done one by one, or, where the tensors exceed the caches, in turns (`rows_in_turn.rs`).

use std::mem::MaybeUninit;
use std::ops::Range;

use super::BLOCK;
use super::caches;
use super::convert::Convert;
use super::input::{Coefficients, Tensor, stretches};
use super::memory::Numbers;
use super::modulation::Modulation;
use super::moments::{self, Moments, Normalization, Sums, Values};
use super::rows::BLOCKS_OF_PART;
use super::rows_in_turn::InTurn;
use super::seam::Seam;
use super::short_rows::ShortRows;
use super::simd::{LANES, LINE, Vector, finish_streaming};
use super::stretch::{Ahead, Inputs, Map, Normalized, Plane, Planes, Rows, Stretch, Strided};
use super::threads::{for_each_piece, merged};
use super::vectors::{self, Task};
use crate::norm::Rounding;
use crate::problem::{self, Affine, Buffers, Output};

/// The longest row whose coefficients are made ready for all rows at once.
const MOST_COEFFICIENTS: usize = 64 * 1024;

/// Planes of fewer elements are many and short: there the constants are better expanded.
const LEAST_PLANE: usize = LANES;

/// The most rows whose moments are found together, and the elements of those: for short ones, getting there is what takes time.
const ROWS: usize = 16;
const MOST_TOGETHER: usize = 1024;

/// A buffer that short rows are written to where they end within lines: of the nearest cache, beside the rows.
const STAGE_BYTES: usize = 16 * 1024;

/// Rows of so many elements are done one at a time, and where memory is far, each while another is written.
const LEAST_IN_TURN: usize = MOST_TOGETHER / 2 + 1;
const MOST_IN_TURN: usize = BLOCKS_OF_PART * BLOCK;

/// Some rows of so many elements fit the nearer caches.
pub(super) const MOST_PENDING: usize = 4096;

/// Channels whose constants are found together.
const PLANES: usize = 16;

/// Bytes of a row that is done by parts up to which the nearer caches of most processors hold it, and much of the two that follow
/// (measured: 5 to 9 % for rows of 200 to 400 KB; those of 3 MB are slower by as much).
const MOST_NEAR: usize = 512 * 1024;

pub(super) fn takes<T: Convert>(problem: &problem::Rows) -> bool {
    let problem::Rows { modulation, .. } = problem;
    let is_plain = problem.output == Output::Element(T::DTYPE)
        && !problem.second_residual
        && problem.rounding == Rounding::Once
        && problem.post_norm.is_none()
        && problem.input_bias.is_none()
        && modulation.gate.is_none()
        && modulation.channel_bias.is_none();
    is_plain
        && match problem.affine {
            Affine::PerElement { .. } => {
                modulation.scale.is_none() && modulation.shift.is_none() && problem.length <= MOST_COEFFICIENTS
            }
            Affine::PerChannel { spatial, .. } => spatial >= LEAST_PLANE,
        }
}

/// A problem that this [`takes`], and is not empty.
///
/// # Safety
/// As [`run`](super::run).
pub(super) unsafe fn run<T: Convert>(problem: &problem::Rows, buffers: &Buffers) {
    let affine = match problem.affine {
        Affine::PerElement { .. } => {
            return with_ready_coefficients::<T>(problem, buffers, |affine| {
                // SAFETY: by the caller; the coefficients are there until this returns.
                unsafe { run_with::<T, _>(problem, buffers, &affine) };
            });
        }
        Affine::PerChannel { groups, channels_per_group, spatial } => Channels {
            channels: groups * channels_per_group,
            channels_per_group,
            spatial,
            weight: Coefficients::new(problem.weight, buffers.weight),
            bias: Coefficients::new(problem.bias, buffers.bias),
            weight_plus_one: problem.weight_plus_one,
            modulation: Modulation::new(&problem.modulation, buffers),
        },
    };
    // SAFETY: by the caller.
    unsafe { run_with::<T, _>(problem, buffers, &affine) };
}

/// # Safety
/// As [`run`].
unsafe fn run_with<T: Convert, A: RowAffine>(problem: &problem::Rows, buffers: &Buffers, affine: &A) {
    let tensors = [buffers.x, buffers.residual, buffers.sum, buffers.y];
    let present = tensors.iter().filter(|&&address| address != 0).count();
    let streams = caches::are_exceeded_by(problem.rows * problem.length * size_of::<T>() * present);
    let rows = &PlainRows::<T, _>::new(problem, buffers, affine, streams);
    for_each_piece(0..problem.rows, problem.length, &|piece| {
        if problem.length <= MOST_IN_TURN {
            let mut seam = Seam::of_y();
            rows.normalize_whole(piece, &mut seam);
            // SAFETY: this thread alone has the rows.
            unsafe { seam.end() };
            rows.finish();
        } else {
            piece.for_each(|row| rows.normalize_by_parts(row));
        }
    });
}

/// Elements that a sweep asks memory for ahead, and those that writing does, unless both are done in turns: the rows that are
/// taken next, or the row after the one whose moments are known by then.
fn ahead<T: Convert>(problem: &problem::Rows) -> (usize, usize) {
    let length = problem.length;
    let near = moments::ahead::<T>(true);
    let together = length * rows_together(length);
    match length {
        ..LEAST_IN_TURN => (near.min(together), together),
        _ if length > MOST_IN_TURN && length * size_of::<T>() <= MOST_NEAR => (near, 2 * length),
        _ => (near, 0),
    }
}

/// Rows that are taken together.
fn rows_together(length: usize) -> usize {
    (MOST_TOGETHER / length).clamp(1, ROWS)
}

/// Weight and bias as f32, the former with one added where that is asked for; null where absent. A line of the first row's
/// output meets lines of theirs.
pub(super) fn with_ready_coefficients<T: Convert>(
    problem: &problem::Rows,
    buffers: &Buffers,
    work: impl FnOnce(Elements),
) {
    let length = problem.length;
    let aligned = T::to_line(Tensor::<T>::new(buffers.y).wrapping_at(0));
    let mut ready: Option<Numbers<f32>> = None;
    let given = [(problem.weight, buffers.weight, problem.weight_plus_one), (problem.bias, buffers.bias, false)];
    let mut place = aligned.next_multiple_of(f32::OF_LINE) - aligned;
    let [weight, bias] = given.map(|(dtype, address, plus_one)| {
        let coefficients = Coefficients::new(dtype, address);
        if coefficients.is_absent() {
            return Constant::NONE;
        }
        if let (Some(in_place), false) = (coefficients.as_f32(), plus_one) {
            return Constant(in_place);
        }
        let ready = ready.get_or_insert_with(|| Numbers::zeros(2 * (length + f32::OF_LINE)));
        let into = ready.get_mut(place..place + length).unwrap_or_default();
        // SAFETY: there is a coefficient for every element.
        vectors::run(Ready { coefficients, plus_one, into });
        place += length.next_multiple_of(f32::OF_LINE);
        Constant(into.as_ptr())
    });
    work(Elements { weight, bias });
}

struct Ready<'a> {
    coefficients: Coefficients,
    plus_one: bool,
    into: &'a mut [f32],
}

impl Task for Ready<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        // SAFETY: promised where the task was made.
        unsafe { self.coefficients.load(0, 1.0, self.into) };
        if self.plus_one {
            for value in self.into {
                *value += 1.0;
            }
        }
    }
}

/// A number for each element of a row, or null.
#[derive(Clone, Copy)]
pub(super) struct Constant(*const f32);

impl Constant {
    const NONE: Self = Self(std::ptr::null());
}

// SAFETY: they are read only, while the call lasts whose coefficients they are.
unsafe impl Sync for Constant {}

/// What weight and bias are.
pub(super) trait RowAffine: Sync {
    const IS_THE_SAME_IN_ALL_ROWS: bool;

    /// Writes the elements `range` of a row, or all of some rows, from the one with the number `first` on.
    ///
    /// # Safety
    /// The range is of the rows, no other thread has it, and it was not written before.
    unsafe fn write<T: Convert>(&self, rows: &Strided<T>, first: usize, range: Range<usize>, by: &[Normalization]);

    /// What elements of one row become.
    type Map<V: Vector>: Map<V>;
    /// What is known of a row while it is written.
    type Known: Default;

    /// The map of the element at `at` of a row, and where the elements end that have the same one, or behind the row's end.
    fn map<V: Vector>(
        &self,
        row: usize,
        at: usize,
        by: &Normalization,
        known: &mut Self::Known,
    ) -> (Self::Map<V>, usize);
}

/// A weight and a bias for each element, the same in all rows.
pub(super) struct Elements {
    weight: Constant,
    bias: Constant,
}

impl RowAffine for Elements {
    const IS_THE_SAME_IN_ALL_ROWS: bool = true;

    unsafe fn write<T: Convert>(&self, rows: &Strided<T>, first: usize, range: Range<usize>, by: &[Normalization]) {
        let (weight, bias) = (self.weight.0, self.bias.0);
        let (first_row, first, count) = (first, range.start, range.len());
        // SAFETY: by the caller.
        unsafe { Rows { rows, first_row, first, count, by, weight, bias }.write() };
    }

    type Map<V: Vector> = Normalized<V>;
    type Known = ();

    #[inline(always)]
    fn map<V: Vector>(&self, _: usize, _: usize, by: &Normalization, (): &mut ()) -> (Normalized<V>, usize) {
        (Normalized::new(by, self.weight.0, self.bias.0), usize::MAX)
    }
}

/// A weight and a bias for each channel, a group of which is a row, and a scale and a shift for each of a sample.
struct Channels {
    channels: usize,
    channels_per_group: usize,
    spatial: usize,
    weight: Coefficients,
    bias: Coefficients,
    weight_plus_one: bool,
    modulation: Modulation,
}

impl RowAffine for Channels {
    const IS_THE_SAME_IN_ALL_ROWS: bool = false;

    /// Rows of channels lie behind each other: they are planes.
    unsafe fn write<T: Convert>(&self, rows: &Strided<T>, row: usize, range: Range<usize>, by: &[Normalization]) {
        let Self { channels, channels_per_group, spatial, .. } = *self;
        let length = channels_per_group * spatial;
        // SAFETY: by the caller.
        let stretch = unsafe { rows.from(row) };
        let (mut weight, mut bias) = ([0.0; PLANES], [0.0; PLANES]);
        let mut planes = [Plane::NONE; PLANES];
        let (mut first, end) = (range.start, (by.len() - 1) * length + range.end);
        while first < end {
            let plane = first / spatial;
            let of_samples = row * channels_per_group + plane;
            let channel = of_samples % channels;
            let most = PLANES.min(channels - channel);
            let count = ((plane + most) * spatial).min(end) - first;
            let found = (first + count).div_ceil(spatial) - plane;
            let (weight, bias) = (&mut weight[..found], &mut bias[..found]);
            // SAFETY: there are these channels.
            unsafe { self.load(channel, of_samples, weight, bias) };
            let of_planes = stretches(plane, found, channels_per_group)
                .zip(by.iter().skip(plane / channels_per_group))
                .flat_map(|((_, planes), by)| std::iter::repeat_n(by, planes));
            for ((plane, by), (weight, bias)) in planes.iter_mut().zip(of_planes).zip(weight.iter().zip(&*bias)) {
                *plane = by.of_plane(*weight, *bias);
            }
            let planes = planes.get(..found).unwrap_or_default();
            // SAFETY: by the caller.
            unsafe { Planes { stretch, first, count, spatial, planes }.write() };
            first += count;
        }
    }

    type Map<V: Vector> = Plane;
    type Known = KnownPlanes;

    #[inline(always)]
    fn map<V: Vector>(&self, row: usize, at: usize, by: &Normalization, known: &mut KnownPlanes) -> (Plane, usize) {
        let plane = at / self.spatial;
        if plane >= known.end {
            self.know(row, plane, by, known);
        }
        let constants = known.planes.get(plane - known.first).copied().unwrap_or(Plane::NONE);
        (constants, (plane + 1) * self.spatial)
    }
}

/// The constants of some planes of a row.
pub(super) struct KnownPlanes {
    first: usize,
    end: usize,
    planes: [Plane; PLANES],
}

impl Default for KnownPlanes {
    fn default() -> Self {
        Self { first: 0, end: 0, planes: [Plane::NONE; PLANES] }
    }
}

impl Channels {
    /// Finds the constants of a row's planes from one on.
    fn know(&self, row: usize, plane: usize, by: &Normalization, known: &mut KnownPlanes) {
        let of_samples = row * self.channels_per_group + plane;
        let found = PLANES.min(self.channels_per_group - plane);
        let (mut weight, mut bias) = ([0.0; PLANES], [0.0; PLANES]);
        let (weight, bias) = (&mut weight[..found], &mut bias[..found]);
        // SAFETY: there are these channels.
        unsafe { self.load(of_samples % self.channels, of_samples, weight, bias) };
        for (plane, (weight, bias)) in known.planes.iter_mut().zip(weight.iter().zip(&*bias)) {
            *plane = by.of_plane(*weight, *bias);
        }
        (known.first, known.end) = (plane, plane + found);
    }

    /// Weights and biases of channels from one on, which has another index among all channels of all samples.
    ///
    /// # Safety
    /// As [`Coefficients::load`].
    unsafe fn load(&self, channel: usize, of_samples: usize, weight: &mut [f32], bias: &mut [f32]) {
        // SAFETY: by the caller.
        unsafe {
            self.weight.load(channel, 1.0, weight);
            self.bias.load(channel, 0.0, bias);
        }
        if self.weight_plus_one && !self.weight.is_absent() {
            for weight in &mut *weight {
                *weight += 1.0;
            }
        }
        self.modulation.apply(weight, bias, |of_channels, absent, into| {
            // SAFETY: by the caller.
            unsafe { of_channels.load(of_samples, absent, into) };
        });
    }
}

/// What a problem asks for. It exists within a call of [`run`] alone, so what that was promised holds wherever one is.
pub(super) struct PlainRows<'a, T, A> {
    pub problem: &'a problem::Rows,
    pub rows: Strided<T>,
    /// Elements that the first reading asks for ahead.
    pub ahead: usize,
    pub affine: &'a A,
}

impl<'a, T: Convert, A: RowAffine> PlainRows<'a, T, A> {
    pub(super) fn new(problem: &'a problem::Rows, buffers: &Buffers, affine: &'a A, streams: bool) -> Self {
        let [x, residual, sum, y] = [buffers.x, buffers.residual, buffers.sum, buffers.y].map(Tensor::new);
        let (ahead, ahead_of_writing) = if streams { ahead::<T>(problem) } else { (0, 0) };
        let first = Stretch {
            x,
            residual,
            sum,
            y,
            activation: problem.activation,
            streams,
            ahead: Ahead { next: ahead_of_writing, ..Ahead::NONE },
        };
        let strides = [problem.x_stride, problem.residual_stride, problem.sum_stride, problem.y_stride];
        Self { problem, rows: Strided { first, strides }, ahead, affine }
    }

    /// Normalizes the rows that lie so many elements further in x and in y. They are short enough. The seam is the thread's.
    ///
    /// # Safety
    /// There x and y, which are all, have as many rows, and this thread alone has them.
    pub(super) unsafe fn normalize_at(&self, x: usize, y: usize, seam: &mut Seam<T>) {
        let Strided { first, strides } = self.rows;
        // SAFETY: by the caller.
        let first = unsafe { Stretch { x: first.x.offset(x), y: first.y.offset(y), ..first } };
        Self { rows: Strided { first, strides }, ..*self }.normalize_whole(0..self.problem.rows, seam);
    }

    /// Of a part of each of some rows, from the one with the number `row` on.
    #[inline(always)]
    fn find_moments(&self, row: usize, range: Range<usize>, into: &mut [Moments]) {
        let (problem, ahead) = (self.problem, self.ahead);
        // SAFETY: the row is one of the tensors'.
        let values = unsafe { self.rows.from(row) }.inputs();
        let strides = [problem.x_stride, problem.residual_stride];
        let (first, count) = (range.start, range.len());
        vectors::run(Sweeps { values, strides, first, count, ahead, moments: problem.moments, into });
    }

    /// Rows that are not done by parts.
    fn normalize_whole(&self, rows: Range<usize>, seam: &mut Seam<T>) {
        if rows.is_empty() {
            return;
        }
        let (length, streams) = (self.problem.length, self.rows.first.streams);
        // Longer rows go past the caches in finer turns.
        let most_short = if streams { LEAST_IN_TURN - 1 } else { MOST_PENDING };
        if length <= most_short && ShortRows::takes(self) {
            vectors::run(ShortRows { rows: self, range: rows, seam });
        } else if length >= LEAST_IN_TURN && streams {
            vectors::run(InTurn { rows: self, range: rows });
        } else if length >= LEAST_IN_TURN {
            // In turns, f16 and bf16 from the last level took a fifth longer.
            self.normalize_one_by_one(rows);
        } else if A::IS_THE_SAME_IN_ALL_ROWS && self.are_better_staged() {
            self.normalize_staged(rows);
        } else {
            self.normalize_some_at_a_time(rows);
        }
    }

    fn normalize_some_at_a_time(&self, rows: Range<usize>) {
        let together = rows_together(self.problem.length);
        let (mut moments, mut by) = ([Moments::NONE; ROWS], [Normalization::NONE; ROWS]);
        for first in rows.clone().step_by(together) {
            let count = (rows.end - first).min(together);
            self.normalize_some(first, &mut moments[..count], &mut by[..count]);
        }
    }

    /// Whether the outputs go past the caches, but not row by row, for rows end within lines. (Of sixteen bits, what is computed
    /// takes so long that the way by a buffer does not pay: measured, 64 to 61 % of a copy, where f32 goes from 60 to 70.)
    fn are_better_staged(&self) -> bool {
        let (first, length) = (&self.rows.first, self.problem.length);
        let is_one_stretch = first.sum.is_absent() && self.problem.y_stride == length;
        size_of::<T>() == size_of::<f32>() && first.streams && is_one_stretch && !first.streams_of(0, length)
    }

    /// Many at a time, by a buffer, from which whole lines go past the caches, whatever rows they are of.
    fn normalize_staged(&self, rows: Range<usize>) {
        let length = self.problem.length;
        let mut stage = MaybeUninit::<Stage>::uninit();
        let at_once = STAGE_BYTES / (length * size_of::<T>());
        for first_row in rows.clone().step_by(at_once) {
            let count = (rows.end - first_row).min(at_once);
            // SAFETY: this thread alone has these rows, for which there is room.
            unsafe {
                let first = self.rows.from(first_row);
                let y = first.y.at(0);
                first.prefetch_ends(count * length);
                let staged = stage.as_mut_ptr().cast::<u8>();
                let first = Stretch { y: Tensor::new(staged.expose_provenance() as u64), streams: false, ..first };
                let strides = self.rows.strides;
                Self { rows: Strided { first, strides }, ..*self }.normalize_some_at_a_time(0..count);
                vectors::run(CopyOnce { from: staged, into: y.cast(), bytes: count * length * size_of::<T>() });
            }
        }
    }

    fn normalize_some(&self, first: usize, moments: &mut [Moments], by: &mut [Normalization]) {
        let problem::Rows { length, eps, .. } = *self.problem;
        self.find_moments(first, 0..length, moments);
        for (by, moments) in by.iter_mut().zip(moments) {
            *by = moments.normalization(eps);
        }
        // SAFETY: this thread alone has the rows, all of whose moments are there.
        unsafe { self.affine.write(&self.rows, first, 0..length, by) };
    }

    fn normalize_one_by_one(&self, rows: Range<usize>) {
        let problem::Rows { length, eps, .. } = *self.problem;
        // SAFETY: this thread alone has the row, all of whose moments are there.
        let write = |(row, by)| unsafe { self.affine.write(&self.rows, row, 0..length, &[by]) };
        // While a row is written, the last steps to the next one's moments are under way: they are a long chain.
        let mut pending = None;
        for row in rows {
            let mut moments = [Moments::NONE];
            self.find_moments(row, 0..length, &mut moments);
            let [moments] = moments;
            if let Some(before) = pending.replace((row, moments.normalization(eps))) {
                write(before);
            }
            if length > MOST_PENDING
                && let Some(found) = pending.take()
            {
                write(found);
            }
        }
        if let Some(last) = pending {
            write(last);
        }
    }

    fn normalize_by_parts(&self, row: usize) {
        let length = self.problem.length;
        // The tree of `rows.rs`, which is cut by blocks.
        let part = |blocks: Range<usize>| {
            let mut moments = [Moments::NONE];
            self.find_moments(row, blocks.start * BLOCK..(blocks.end * BLOCK).min(length), &mut moments);
            let [moments] = moments;
            moments
        };
        let by = merged(0..length.div_ceil(BLOCK), BLOCKS_OF_PART, BLOCK, &part, &Moments::merge);
        let by = by.normalization(self.problem.eps);
        for_each_piece(0..length, 1, &|range| {
            // SAFETY: this thread alone has these elements, once, and all of the row's moments are there.
            unsafe { self.affine.write(&self.rows, row, range, &[by]) };
            self.finish();
        });
    }

    /// To be called by each thread behind what it wrote.
    pub(super) fn finish(&self) {
        if self.rows.first.streams {
            finish_streaming();
        }
    }
}

/// It begins with a line.
#[repr(align(64))]
#[expect(dead_code, reason = "accessed as bytes")]
struct Stage([u8; STAGE_BYTES]);

/// A copy that goes past the caches, but for the lines that are not whole.
struct CopyOnce {
    from: *const u8,
    into: *mut u8,
    bytes: usize,
}

impl Task for CopyOnce {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        const { assert!(LINE == LANES * size_of::<f32>()) };
        let Self { from, into, bytes } = self;
        let head = (into.addr().wrapping_neg() % LINE).min(bytes);
        let tail = head + (bytes - head) / LINE * LINE;
        // SAFETY: promised where it was made; from the head on, lines begin in `into`.
        unsafe {
            into.copy_from_nonoverlapping(from, head);
            for line in (head..tail).step_by(LINE) {
                V::load(from.add(line).cast()).stream(into.add(line).cast());
            }
            into.add(tail).copy_from_nonoverlapping(from.add(tail), bytes - tail);
        }
    }
}

/// The moments of some elements of some rows, as many as there are places. It is made before anything of them is written.
struct Sweeps<'a, T> {
    values: Inputs<T>,
    /// Of x and residual.
    strides: [usize; 2],
    first: usize,
    count: usize,
    ahead: usize,
    moments: problem::Moments,
    into: &'a mut [Moments],
}

impl<T: Convert> Sweeps<'_, T> {
    #[inline(always)]
    fn of<V: Vector, R: Values<V>, const MEAN: bool>(self, row: impl Fn(Inputs<T>) -> R) {
        let Self { mut values, strides, first, count, ahead, into, .. } = self;
        for moments in into {
            let numbers = row(values);
            // SAFETY: within the row.
            unsafe {
                let pivot = Sums::<V, MEAN>::pivot(numbers, first, count);
                *moments = Moments::of_sweeps::<V, MEAN>(
                    count,
                    pivot,
                    #[inline(always)]
                    |sums| sums.add_all(numbers, first, count, ahead),
                );
            }
            values = values.behind(strides);
        }
    }
}

impl<T: Convert> Task for Sweeps<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        // Without a residual on its own, for registers are scarce.
        match (self.moments, self.values.residual.is_null()) {
            (problem::Moments::MeanAndVariance, false) => self.of::<V, _, true>(|values| values),
            (problem::Moments::MeanSquare, false) => self.of::<V, _, false>(|values| values),
            (problem::Moments::MeanAndVariance, true) => self.of::<V, _, true>(|values| values.x),
            (problem::Moments::MeanSquare, true) => self.of::<V, _, false>(|values| values.x),
        }
    }
}
