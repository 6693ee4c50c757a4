//! Plain rows where the tensors exceed the caches: one is swept for its moments while another is written.
//!
//! ```text
//! for each row, until all are written:
//!     for each chunk:  add it to the row's sums;  write a chunk of the row before, or of the one before that
//!     its moments
//! ```
//!
//! By itself a sweep would leave memory idle, and writing the units that compute. Turns are as short as a chunk, for what
//! overlaps is what the processor has under way: by blocks of a thousand elements little was gained.

use std::ops::Range;

use super::BLOCK;
use super::activation;
use super::convert::Convert;
use super::moments::{CHUNK, Interrupted, Moments, Normalization, Sums};
use super::plain_rows::{MOST_PENDING, PlainRows, RowAffine};
use super::seam::Seam;
use super::simd::Vector;
use super::stretch::Inputs;
use super::vectors::Task;
use crate::problem;

/// Rows of which each is swept while one before it is written.
pub(super) struct InTurn<'a, T, A> {
    pub rows: &'a PlainRows<'a, T, A>,
    pub range: Range<usize>,
}

impl<T: Convert, A: RowAffine> Task for InTurn<'_, T, A> {
    type Output = ();
    const ROUNDS_TO_BF16: bool = T::ROUNDS_TO_BF16;

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { rows, range } = self;
        let problem::Rows { length, eps, .. } = *rows.problem;
        // The last steps to a row's moments are a long chain. Short rows are written one row later: it is under way meanwhile.
        let lag = if length <= MOST_PENDING { 2 } else { 1 };
        let mut by = [Normalization::NONE; 2];
        let [_, _, sum, y] = rows.rows.strides.map(|stride| stride == length);
        let mut seam = Seam::new(&rows.rows.first, [y, sum]);
        for row in range.start..range.end + lag {
            let swept = (row < range.end).then_some(row);
            let written = row.checked_sub(lag).filter(|written| range.contains(written));
            let written = written.map(|row| (row, by[row % 2]));
            // SAFETY: this thread alone has the rows, and the moments of what is written are there.
            by[row % 2] = unsafe { rows.sweep_and_write::<V>(swept, written, &mut seam) }.normalization(eps);
        }
        // SAFETY: as above.
        unsafe { seam.end() };
    }
}

impl<T: Convert, A: RowAffine> PlainRows<'_, T, A> {
    /// Writes a row by its normalization, and finds the moments of another; without one, those of nothing.
    ///
    /// # Safety
    /// They are rows of the tensors, which no other thread has.
    #[inline(always)]
    unsafe fn sweep_and_write<V: Vector>(
        &self,
        swept: Option<usize>,
        written: Option<(usize, Normalization)>,
        seam: &mut Seam<T>,
    ) -> Moments {
        // SAFETY: by the caller.
        unsafe {
            let Some(swept) = swept else {
                if let Some((row, by)) = written {
                    self.write::<V>(row, &by, None, seam);
                }
                return Moments::NONE;
            };
            let mut sweep = Sweep::begin::<V>(self, swept);
            if let Some((row, by)) = written {
                self.write::<V>(row, &by, Some(&mut sweep), seam);
            }
            sweep.finish::<V>()
        }
    }

    /// Writes a row, and goes on with a sweep over another one by as many elements, or as there are whole chunks.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn write<V: Vector>(
        &self,
        row: usize,
        by: &Normalization,
        mut sweep: Option<&mut Sweep<T>>,
        seam: &mut Seam<T>,
    ) {
        let length = self.problem.length;
        // SAFETY: by the caller.
        unsafe {
            let stretch = self.rows.from(row);
            let has_room = V::HAS_MANY_REGISTERS || !T::ROUNDS_TO_BF16;
            let takes_chunks = has_room && activation::is_for_long_loops(stretch.activation);
            let mut known = A::Known::default();
            let (mut next, mut streams, mut next_plane) = (0, false, 0);
            while next < length {
                let (map, end) = self.affine.map::<V>(row, next, by, &mut known);
                let end = end.min(length);
                if next == next_plane {
                    streams = stretch.streams_of(next, end - next);
                    if streams {
                        let step = if end - next == length { self.rows.strides[3] } else { end - next };
                        seam.others(stretch).prefetch_ends(end + step);
                    }
                    next_plane = end;
                }
                let head = T::to_line(stretch.y.at(next));
                let left = sweep.as_ref().map_or(0, |sweep| sweep.end - sweep.next);
                let chunks = if head == 0 && takes_chunks { (end - next).min(left) / CHUNK } else { 0 };
                match &mut sweep {
                    Some(sweep) if chunks > 0 => {
                        sweep.go_on::<V>(
                            chunks * CHUNK,
                            #[inline(always)]
                            |chunk| stretch.write_chunk::<V>(next + chunk * CHUNK, &map, streams),
                        );
                        next += chunks * CHUNK;
                    }
                    _ => {
                        let mut stretch = stretch.from(next);
                        let held = seam.hold(&mut stretch, end - next, streams);
                        let count = held.unwrap_or_else(|| {
                            let count = (end - next).min(if head > 0 { head } else { BLOCK });
                            let part = if streams && head == 0 && seam.holds_ends() { count % T::OF_LINE } else { 0 };
                            count - part
                        });
                        let streams = streams && head == 0 && held.is_none();
                        stretch.write_by::<V, false>(0, count, next.wrapping_neg(), &map, streams);
                        if held.is_some() {
                            seam.release::<V>();
                        }
                        next += count;
                        if let Some(sweep) = &mut sweep {
                            let due = (next - next % CHUNK).saturating_sub(sweep.next);
                            sweep.go_on::<V>(due.min(left), |_| ());
                        }
                    }
                }
            }
        }
    }
}

/// A sweep over a row, which goes on now and then.
struct Sweep<T> {
    values: Inputs<T>,
    has_mean: bool,
    /// Elements that memory is asked for ahead.
    ahead: usize,
    sums: Interrupted,
    next: usize,
    end: usize,
}

impl<T: Convert> Sweep<T> {
    /// # Safety
    /// The row is one of the tensors'.
    #[inline(always)]
    unsafe fn begin<V: Vector>(rows: &PlainRows<'_, T, impl RowAffine>, row: usize) -> Self {
        let has_mean = rows.problem.moments == problem::Moments::MeanAndVariance;
        let end = rows.problem.length;
        // SAFETY: by the caller.
        unsafe {
            let values = rows.rows.from(row).inputs();
            let pivot = if has_mean { Sums::<V, true>::pivot(values, 0, end) } else { 0.0 };
            Self { values, has_mean, ahead: rows.ahead, sums: Interrupted::about(pivot), next: 0, end }
        }
    }

    /// Adds so many elements, which are whole chunks or all that are left, and calls `other` with the index of each whole chunk.
    ///
    /// # Safety
    /// The row's are there to be read.
    #[inline(always)]
    unsafe fn go_on<V: Vector>(&mut self, count: usize, other: impl FnMut(usize)) {
        let Self { values, has_mean, ahead, ref mut sums, next, .. } = *self;
        macro_rules! add {
            ($has_mean:literal, $values:expr) => {
                sums.go_on::<V, $has_mean, _>(
                    #[inline(always)]
                    // SAFETY: by the caller.
                    |sums| unsafe { sums.add_all_and($values, next, count, ahead, T::IS_NARROW, other) },
                )
            };
        }
        // Without a residual on its own, for registers are scarce.
        match (has_mean, values.residual.is_null()) {
            (true, true) => add!(true, values.x),
            (true, false) => add!(true, values),
            (false, true) => add!(false, values.x),
            (false, false) => add!(false, values),
        }
        self.next += count;
    }

    /// Adds the rest. The moments of all.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn finish<V: Vector>(mut self) -> Moments {
        let count = self.end;
        let mut is_second = false;
        loop {
            // SAFETY: by the caller.
            unsafe { self.go_on::<V>(self.end - self.next, |_| ()) };
            let (better, moments) = if self.has_mean {
                self.sums.go_on::<V, true, _>(
                    #[inline(always)]
                    |sums| (sums.better_pivot(count), sums.moments(count)),
                )
            } else {
                self.sums.go_on::<V, false, _>(
                    #[inline(always)]
                    |sums| (None, sums.moments(count)),
                )
            };
            match better {
                Some(better) if !is_second => (self.sums, self.next) = (Interrupted::about(better), 0),
                _ => return moments,
            }
            is_second = true;
        }
    }
}
