//! Mean and variance: of a stretch, of many stretches, and what a row is normalized by.
//!
//! A stretch takes one sweep in f32, about a pivot `p`, the mean of its first elements: `t = sum(x - p)` and
//! `Q = sum((x - p)²)`. Its mean is `p + t / n`, and `Q - t² / n` the sum of squared deviations, in f64. That subtraction
//! costs digits where the pivot lies far from the mean: where it is more than a standard deviation away, the stretch is
//! swept again about the mean found. Stretches are merged in f64 by Chan's rule.

use super::convert::Convert;
use super::simd::{LANES, Vector, mul_add, prefetch};
use super::stretch::Plane;

/// Additions that stay in f32: a balanced tree of so many elements a lane; then on in f64. Deeper sums in f32 would lose too
/// much beside an outlier.
pub(super) const DEPTH: usize = 8;
/// Elements that meet in f32, [`LANES`] by [`LANES`].
pub(super) const CHUNK: usize = LANES * DEPTH;

/// What a sweep asks memory for ahead.
const AHEAD_BYTES: usize = 8 * 1024;

/// The elements of that; none where `streams` is not set, for then they are in the caches.
pub(super) fn ahead<T>(streams: bool) -> usize {
    if streams { AHEAD_BYTES / size_of::<T>() } else { 0 }
}

/// Count, mean and sum of squared deviations of a set of numbers.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    count: f64,
    mean: f64,
    m2: f64,
}

impl Moments {
    /// Those of the empty set.
    pub(super) const NONE: Self = Self { count: 0.0, mean: 0.0, m2: 0.0 };

    #[inline(always)]
    pub(super) fn new(count: f64, mean: f64, m2: f64) -> Self {
        Self { count, mean, m2 }
    }

    /// Of values that lie behind each other.
    #[inline(always)]
    pub(super) fn of<V: Vector, const MEAN: bool>(values: &[f32]) -> Self {
        let (count, values) = (values.len(), values.as_ptr());
        // SAFETY: the slice's own.
        unsafe {
            let pivot = Sums::<V, MEAN>::pivot(values, 0, count);
            Self::of_sweeps::<V, MEAN>(
                count,
                pivot,
                #[inline(always)]
                |sums| sums.add_all(values, 0, count, 0),
            )
        }
    }

    #[inline(always)]
    pub(super) fn mean(self) -> f64 {
        self.mean
    }

    /// The sum of squared deviations from it.
    #[inline(always)]
    pub(super) fn m2(self) -> f64 {
        self.m2
    }

    /// The variance of what the values are a sample of.
    #[inline(always)]
    pub(super) fn unbiased_variance(self) -> f64 {
        not_negative(self.m2) / (self.count - 1.0)
    }

    /// Of so many values, as `sweep` adds them up about the pivot that it is given: `pivot`, or a better one.
    #[inline(always)]
    pub(super) fn of_sweeps<V: Vector, const MEAN: bool>(
        count: usize,
        pivot: f32,
        mut sweep: impl FnMut(&mut Sums<V, MEAN>),
    ) -> Self {
        // A loop of two turns, for the sweep is long code.
        let mut sums = Sums::about(pivot);
        let mut is_second = false;
        loop {
            sweep(&mut sums);
            match sums.better_pivot(count) {
                Some(better) if !is_second => sums = Sums::about(better),
                _ => break,
            }
            is_second = true;
        }
        sums.moments(count)
    }

    /// The moments of two disjoint sets together (Chan, Golub and LeVeque, 1979).
    #[inline(always)]
    pub(super) fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        let delta = other.mean - self.mean;
        let step = delta * (other.count / count);
        Self { count, mean: self.mean + step, m2: self.m2 + other.m2 + delta * step * self.count }
    }

    #[inline(always)]
    pub(super) fn normalization(self, eps: f32) -> Normalization {
        Normalizations::new::<true>(self.count, &[self.mean], &[self.m2], eps).of(0)
    }
}

/// Values that are swept over, by their index.
pub(super) trait Values<V: Vector>: Copy {
    /// Consecutive vectors.
    ///
    /// # Safety
    /// There are that many values from there on, to be read.
    unsafe fn load<const COUNT: usize>(self, first: usize) -> [V; COUNT];
    /// Zero beyond `count`.
    ///
    /// # Safety
    /// There are so many of them, at most [`LANES`].
    unsafe fn load_some(self, first: usize, count: usize) -> V;
    /// Of the lines of consecutive vectors, which are there or are not.
    fn prefetch<const COUNT: usize>(self, first: usize);
}

impl<V: Vector, T: Convert> Values<V> for *const T {
    #[inline(always)]
    unsafe fn load<const COUNT: usize>(self, first: usize) -> [V; COUNT] {
        let mut vectors = [V::splat(0.0); COUNT];
        for (index, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: by the caller.
            *vector = unsafe { T::load(self.add(first + index * LANES)) };
        }
        vectors
    }
    #[inline(always)]
    unsafe fn load_some(self, first: usize, count: usize) -> V {
        // SAFETY: by the caller.
        unsafe { T::load_some(self.add(first), count) }
    }
    #[inline(always)]
    fn prefetch<const COUNT: usize>(self, first: usize) {
        for line in (0..COUNT * LANES).step_by(T::OF_LINE) {
            prefetch(self.wrapping_add(first + line));
        }
    }
}

/// A sweep: `sum(x - pivot)` and `sum((x - pivot)²)`; without `MEAN` the latter alone, about zero.
#[derive(Clone, Copy)]
pub(super) struct Sums<V: Vector, const MEAN: bool> {
    pivot: f32,
    totals: V::Sums,
    squares: V::Sums,
}

impl<V: Vector, const MEAN: bool> Sums<V, MEAN> {
    #[inline(always)]
    pub(super) fn about(pivot: f32) -> Self {
        Self { pivot: if MEAN { pivot } else { 0.0 }, totals: V::no_sums(), squares: V::no_sums() }
    }

    /// The mean of the first values of some: as a pivot, which need not be exact.
    ///
    /// # Safety
    /// As [`Values::load_some`], for the first of them, of which there are `count` and at least one.
    #[inline(always)]
    pub(super) unsafe fn pivot(values: impl Values<V>, first: usize, count: usize) -> f32 {
        if !MEAN {
            return 0.0;
        }
        let count = count.min(LANES);
        // SAFETY: by the caller.
        let some: V = unsafe { values.load_some(first, count) };
        let lowest = some.lowest();
        let one = V::splat(lowest);
        let mut sums = V::no_sums();
        some.first(count, one).sub(one).add_to(&mut sums);
        #[expect(clippy::cast_possible_truncation, reason = "a pivot need not be exact")]
        let pivot = (f64::from(lowest) + V::total(sums) / count_of(count)) as f32;
        pivot
    }

    /// Adds the values `[first, first + count)`, and prefetches what lies `ahead` values further on, if it is not 0.
    ///
    /// # Safety
    /// As [`Values::load`], for these.
    #[inline(always)]
    pub(super) unsafe fn add_all(&mut self, values: impl Values<V>, first: usize, count: usize, ahead: usize) {
        // SAFETY: by the caller.
        unsafe { self.add_all_and(values, first, count, ahead, true, |_| ()) };
    }

    /// The same, and calls `other` with the index of each whole chunk, before it is added or once it is. (If once it is, the compiler
    /// keeps all that it has loaded of it, in memory where it must, until the other work is done. Of numbers that are converted
    /// that is a loss. Those that are not come earlier that way, and past the caches that is a gain: three hundredths.)
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    pub(super) unsafe fn add_all_and(
        &mut self,
        values: impl Values<V>,
        first: usize,
        count: usize,
        ahead: usize,
        other_comes_first: bool,
        other: impl FnMut(usize),
    ) {
        // SAFETY: by the caller.
        unsafe { self.add_chunks(values, first, count / CHUNK, ahead, other_comes_first, other) };
        let rest = count % CHUNK;
        let (pivot, next) = (V::splat(self.pivot), first + count - rest);
        if rest > 0 {
            // What equals the pivot adds nothing, unless the pivot is infinite; then all is NaN anyway.
            let (whole, some) = (rest / LANES, rest % LANES);
            let last = if some > 0 {
                // SAFETY: by the caller.
                unsafe { values.load_some(next + whole * LANES, some) }.first(some, pivot)
            } else {
                pivot
            };
            self.add(
                pivot,
                rest.div_ceil(LANES),
                #[inline(always)]
                |index| {
                    if index < whole {
                        // SAFETY: by the caller.
                        let [vector] = unsafe { values.load(next + index * LANES) };
                        vector
                    } else if index == whole {
                        last
                    } else {
                        pivot
                    }
                },
            );
        }
    }

    /// The same for so many whole chunks.
    ///
    /// # Safety
    /// As [`Values::load`], for these.
    #[inline(always)]
    unsafe fn add_chunks(
        &mut self,
        values: impl Values<V>,
        first: usize,
        chunks: usize,
        ahead: usize,
        other_comes_first: bool,
        mut other: impl FnMut(usize),
    ) {
        let pivot = V::splat(self.pivot);
        for chunk in 0..chunks {
            let next = first + chunk * CHUNK;
            if ahead > 0 {
                values.prefetch::<DEPTH>(next + ahead);
            }
            if other_comes_first {
                other(chunk);
            }
            self.add(
                pivot,
                DEPTH,
                #[inline(always)]
                |index| {
                    // SAFETY: by the caller.
                    let [vector] = unsafe { values.load(next + index * LANES) };
                    vector
                },
            );
            if !other_comes_first {
                other(chunk);
            }
        }
    }

    /// Adds the first `count` values, as [`add_all`](Self::add_all) does. They are half chunks.
    ///
    /// # Safety
    /// As [`Values::load`], for these.
    #[inline(always)]
    pub(super) unsafe fn add_halves_of_chunks(&mut self, values: impl Values<V>, count: usize, ahead: usize) {
        // SAFETY: by the caller.
        unsafe {
            self.add_chunks(values, 0, count / CHUNK, ahead, true, |_| ());
            if !count.is_multiple_of(CHUNK) {
                let next = count - count % CHUNK;
                if ahead > 0 {
                    values.prefetch::<{ DEPTH / 2 }>(next + ahead);
                }
                self.add(
                    V::splat(self.pivot),
                    DEPTH / 2,
                    #[inline(always)]
                    |index| {
                        let [vector] = values.load(next + index * LANES);
                        vector
                    },
                );
            }
        }
    }

    /// Adds [`DEPTH`] vectors, by their index, of which those from `count` on are the pivot.
    #[inline(always)]
    fn add(&mut self, pivot: V, count: usize, vector: impl Fn(usize) -> V) {
        let sums = TreeSums::<V, MEAN>::about(pivot, count, vector);
        if MEAN {
            sums.total.add_to(&mut self.totals);
        }
        sums.squares.add_to(&mut self.squares);
    }

    /// The mean, if the pivot lies so far from it that another sweep is due.
    #[inline(always)]
    pub(super) fn better_pivot(&self, count: usize) -> Option<f32> {
        if !MEAN {
            return None;
        }
        let (total, squares) = (V::total(self.totals), V::total(self.squares));
        // In terms of the deviation of the mean from the pivot, d: n d² is more than half of the squares about the pivot.
        // NaN is due nothing.
        let is_far = 2.0 * total * total > squares * count_of(count);
        #[expect(clippy::cast_possible_truncation, reason = "a pivot need not be exact")]
        is_far.then(|| (f64::from(self.pivot) + total / count_of(count)) as f32)
    }

    #[inline(always)]
    pub(super) fn moments(&self, count: usize) -> Moments {
        let count = count_of(count);
        let squares = V::total(self.squares);
        if !MEAN {
            return Moments { count, mean: 0.0, m2: squares };
        }
        let total = V::total(self.totals);
        let rest = total / count;
        Moments { count, mean: f64::from(self.pivot) + rest, m2: squares - total * rest }
    }
}

/// A sweep that is interrupted: what [`Sums`] have added up so far, in memory.
#[repr(C, align(64))]
pub(super) struct Interrupted {
    totals: [f64; LANES],
    squares: [f64; LANES],
    pivot: f32,
}

impl Interrupted {
    pub(super) fn about(pivot: f32) -> Self {
        Self { totals: [0.0; LANES], squares: [0.0; LANES], pivot }
    }

    /// Goes on with it.
    #[inline(always)]
    pub(super) fn go_on<V: Vector, const MEAN: bool, R>(&mut self, work: impl FnOnce(&mut Sums<V, MEAN>) -> R) -> R {
        // Else the compiler keeps it in registers all the time, runs out of them, and spills the sums within `work`'s loops.
        let Self { totals, squares, pivot } = std::hint::black_box(self);
        // SAFETY: there are that many.
        unsafe {
            let (totals_now, squares_now) = (V::load_sums(totals.as_ptr()), V::load_sums(squares.as_ptr()));
            let mut sums = Sums { pivot: *pivot, totals: totals_now, squares: squares_now };
            let result = work(&mut sums);
            V::store_sums(sums.totals, totals.as_mut_ptr());
            V::store_sums(sums.squares, squares.as_mut_ptr());
            result
        }
    }
}

/// Of [`DEPTH`] vectors `((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))`, and the same of the squares, about a pivot; without `MEAN`,
/// the latter is of use, about zero.
#[derive(Clone, Copy)]
pub(super) struct TreeSums<V, const MEAN: bool> {
    pub total: V,
    pub squares: V,
}

impl<V: Vector, const MEAN: bool> TreeSums<V, MEAN> {
    /// Asks for each vector when it is needed, for registers are scarce. Those from `count` on are the pivot.
    #[inline(always)]
    pub(super) fn about(pivot: V, count: usize, vector: impl Fn(usize) -> V) -> Self {
        let left = Self::of_two(pivot, vector(0), vector(1)).add(Self::of_two(pivot, vector(2), vector(3)));
        // The sums of the others are zeros.
        if count <= DEPTH / 2 {
            return left;
        }
        left.add(Self::of_two(pivot, vector(4), vector(5)).add(Self::of_two(pivot, vector(6), vector(7))))
    }

    #[inline(always)]
    fn of_two(pivot: V, mut first: V, mut second: V) -> Self {
        if MEAN {
            (first, second) = (first.sub(pivot), second.sub(pivot));
        }
        Self { total: first.add(second), squares: second.mul_add(second, first.mul(first)) }
    }

    #[inline(always)]
    pub(super) fn add(self, other: Self) -> Self {
        Self { total: self.total.add(other.total), squares: self.squares.add(other.squares) }
    }
}

/// What a row is normalized by: `(s - mean) * rstd + shift`, where `shift` is for what f32 leaves of the mean.
#[derive(Clone, Copy)]
pub(super) struct Normalization {
    pub mean: f32,
    pub rstd: f32,
    pub shift: f32,
}

impl Normalization {
    /// Of what is normalized already.
    pub(super) const NONE: Self = Self { mean: 0.0, rstd: 1.0, shift: -0.0 };

    /// Without weight and bias.
    #[inline(always)]
    pub(super) fn center<V: Vector>(self, values: &mut [f32]) {
        for value in values {
            *value = mul_add::<V>(*value - self.mean, self.rstd, self.shift);
        }
    }

    #[inline(always)]
    pub(super) fn apply<V: Vector>(self, values: &mut [f32], weight: &[f32], bias: &[f32]) {
        for ((value, weight), bias) in values.iter_mut().zip(weight).zip(bias) {
            *value = mul_add::<V>(mul_add::<V>(*value - self.mean, self.rstd, self.shift), *weight, *bias);
        }
    }

    /// As planes have it, whose scale and bias are one number each.
    #[inline(always)]
    pub(super) fn apply_by_channel<V: Vector>(self, values: &mut [f32], weight: &[f32], bias: &[f32]) {
        for ((value, weight), bias) in values.iter_mut().zip(weight).zip(bias) {
            let (scale, bias) = self.of_channel(*weight, *bias);
            *value = mul_add::<V>(*value - self.mean, scale, bias);
        }
    }

    /// What the elements of a channel become.
    #[inline(always)]
    pub(super) fn of_plane(self, weight: f32, bias: f32) -> Plane {
        let (scale, bias) = self.of_channel(weight, bias);
        Plane { mean: self.mean, scale, bias }
    }

    /// The scale and the bias of a channel: `y = (s - mean) * scale + bias`.
    #[inline(always)]
    pub(super) fn of_channel(self, weight: f32, bias: f32) -> (f32, f32) {
        (self.rstd * weight, self.shift * weight + bias)
    }
}

/// Those of some rows.
#[derive(Clone, Copy)]
pub(super) struct Normalizations<const ROWS: usize> {
    mean: [f32; ROWS],
    rstd: [f32; ROWS],
    shift: [f32; ROWS],
}

impl<const ROWS: usize> Normalizations<ROWS> {
    pub(super) const NONE: Self = Self { mean: [0.0; ROWS], rstd: [1.0; ROWS], shift: [-0.0; ROWS] };

    /// Of rows of one count, by their means and sums of squared deviations; without `MEAN` all means are zero.
    #[expect(clippy::cast_possible_truncation, reason = "rounding conversions")]
    #[inline(always)]
    pub(super) fn new<const MEAN: bool>(count: f64, means: &[f64; ROWS], m2: &[f64; ROWS], eps: f32) -> Self {
        let mut by = Self::NONE;
        for (rstd, m2) in by.rstd.iter_mut().zip(m2) {
            *rstd = (1.0 / (not_negative(m2 / count) + f64::from(eps)).sqrt()) as f32;
        }
        if MEAN {
            let into = by.mean.iter_mut().zip(&mut by.shift).zip(&by.rstd);
            for (((mean, shift), rstd), exact) in into.zip(means) {
                *mean = *exact as f32;
                let rest = exact - f64::from(*mean);
                // Without a rest, -0 is shifted to itself, also where rstd is infinite: without eps, where squares are zero.
                *shift = if rest == 0.0 { -0.0 } else { -(rest * f64::from(*rstd)) as f32 };
            }
        }
        by
    }

    #[inline(always)]
    pub(super) fn of(&self, row: usize) -> Normalization {
        Normalization { mean: self.mean[row], rstd: self.rstd[row], shift: self.shift[row] }
    }
}

/// NaN stays.
#[inline(always)]
fn not_negative(value: f64) -> f64 {
    if value < 0.0 { 0.0 } else { value }
}

/// Of a set of numbers.
#[inline(always)]
pub(super) fn count_of(count: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = count as f64;
    count
}
