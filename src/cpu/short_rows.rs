//! Rows of whole turns that are not long: the moments of some are found while others are written.
//!
//! ```text
//! for each eight rows:
//!     for each of them:  the sums of its elements;  write one of the eight before
//!     the normalizations of all, by vectors
//! ```
//!
//! What follows upon a row's sums, two divisions and a root, each of which waits for the one before, takes as long as some
//! hundred elements. So it is done for eight rows at once, and there is other work beside it.

use std::ops::Range;

use super::convert::Convert;
use super::moments::{self, Moments, Normalizations, Sums, Values, count_of};
use super::plain_rows::{PlainRows, RowAffine};
use super::seam::{Lines, Seam};
use super::simd::{LANES, Vector};
use super::stretch::{Inputs, Map, TURN, TURN_LANES};
use super::vectors::Task;
use crate::norm::Activation;
use crate::problem;

/// Rows whose normalizations are found together.
const ROWS: usize = 8;

/// Some rows, at least one, such as it [`takes`](Self::takes).
pub(super) struct ShortRows<'a, T, A> {
    pub rows: &'a PlainRows<'a, T, A>,
    pub range: Range<usize>,
    /// Where the thread's output ends.
    pub seam: &'a mut Seam<T>,
}

impl<T: Convert, A: RowAffine> ShortRows<'_, T, A> {
    pub(super) fn takes(rows: &PlainRows<'_, T, A>) -> bool {
        let (problem, tensors) = (rows.problem, &rows.rows.first);
        // What goes past the caches is one output, by whole lines.
        let is_one_stretch = tensors.sum.is_absent() && problem.y_stride == problem.length;
        A::IS_THE_SAME_IN_ALL_ROWS
            && problem.length.is_multiple_of(TURN_LANES)
            && problem.activation == Activation::None
            && (!tensors.streams || is_one_stretch)
    }

    /// # Safety
    /// This thread alone has the rows.
    #[inline(always)]
    unsafe fn normalize<V: Vector, R: Values<V>, const MEAN: bool, const STREAMS: bool>(
        self,
        input: impl Fn(Inputs<T>) -> R,
    ) {
        let Self { rows, range, seam } = self;
        let problem::Rows { length, eps, .. } = *rows.problem;
        let [x_stride, residual_stride, sum_stride, y_stride] = rows.rows.strides;
        let ahead = moments::ahead::<T>(rows.rows.first.streams);
        // SAFETY: by the caller; what is not there any more is not accessed.
        unsafe {
            let first = rows.rows.from(range.start);
            let (mut swept, mut written) = (first.inputs(), first.inputs());
            let (mut sum, mut y) = (first.sum.wrapping_at(0).cast_mut(), first.y.wrapping_at(0).cast_mut());
            let mut lines = if STREAMS { Some(Lines::<V>::begin(y, seam)) } else { None };
            let (mut means, mut m2) = ([0.0; ROWS], [0.0; ROWS]);
            let mut by = Normalizations::<ROWS>::NONE;
            let (mut left, mut found) = (range.len(), 0);
            while left + found > 0 {
                let next = left.min(ROWS);
                for row in 0..next.max(found) {
                    if row < next {
                        let moments = moments_of::<V, MEAN>(input(swept), length, ahead);
                        (means[row], m2[row]) = (moments.mean(), moments.m2());
                        swept = swept.behind([x_stride, residual_stride]);
                    }
                    if row < found {
                        let (map, _) = rows.affine.map::<V>(0, 0, &by.of(row), &mut A::Known::default());
                        for first in (0..length).step_by(TURN_LANES) {
                            let values: [V; TURN] = input(written).load(first);
                            if !STREAMS && !sum.is_null() {
                                T::store_each(values, sum.add(first), false);
                            }
                            let values = map.of_turn(values, first);
                            match &mut lines {
                                Some(lines) => T::stream_lines(values, lines),
                                None => T::store_each(values, y.add(first), false),
                            }
                        }
                        written = written.behind([x_stride, residual_stride]);
                        y = y.wrapping_add(y_stride);
                        sum = if sum.is_null() { sum } else { sum.wrapping_add(sum_stride) };
                    }
                }
                by = Normalizations::new::<MEAN>(count_of(length), &means, &m2, eps);
                (left, found) = (left - next, next);
            }
            if let Some(lines) = lines {
                lines.end(seam);
            }
        }
    }

    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn run_with<V: Vector, const MEAN: bool, const STREAMS: bool>(self) {
        // SAFETY: by the caller.
        unsafe {
            // Without a residual on its own, for registers are scarce.
            if self.rows.rows.first.residual.is_absent() {
                self.normalize::<V, _, MEAN, STREAMS>(|input| input.x);
            } else {
                self.normalize::<V, _, MEAN, STREAMS>(|input| input);
            }
        }
    }
}

impl<T: Convert, A: RowAffine> Task for ShortRows<'_, T, A> {
    type Output = ();
    const ROUNDS_TO_BF16: bool = T::ROUNDS_TO_BF16;

    #[inline(always)]
    fn run<V: Vector>(self) {
        let streams = V::STREAMS && self.rows.rows.first.streams;
        // SAFETY: this thread alone has the rows.
        unsafe {
            match (self.rows.problem.moments, streams) {
                (problem::Moments::MeanAndVariance, true) => self.run_with::<V, true, true>(),
                (problem::Moments::MeanAndVariance, false) => self.run_with::<V, true, false>(),
                (problem::Moments::MeanSquare, true) => self.run_with::<V, false, true>(),
                (problem::Moments::MeanSquare, false) => self.run_with::<V, false, false>(),
            }
        }
    }
}

/// # Safety
/// There are so many values, whole turns of them.
#[inline(always)]
unsafe fn moments_of<V: Vector, const MEAN: bool>(values: impl Values<V>, count: usize, ahead: usize) -> Moments {
    // SAFETY: by the caller.
    unsafe {
        let pivot = Sums::<V, MEAN>::pivot(values, 0, LANES);
        Moments::of_sweeps::<V, MEAN>(
            count,
            pivot,
            #[inline(always)]
            |sums| sums.add_halves_of_chunks(values, count, ahead),
        )
    }
}
