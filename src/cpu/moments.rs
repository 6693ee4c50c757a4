//! Mean and variance: of a block, of many blocks, and what a row is normalized by.
//!
//! A block takes two sweeps in f32. With its first element x₀ as a pivot, `m = fl(x₀ + mean(x - x₀))`; then
//! `c = mean(x - m)` and `Q = sum((x - m)²)` together. `m + c` is the mean to more than the precision of f32, and
//! `Q - n c²` is the sum of squared deviations. The pivot only serves `m`: should it be an outlier, `m` is merely less
//! exact, and `c` makes up for it. Blocks are merged in f64 by Chan's rule.

/// Additions that stay in f32: lanes, and a balanced tree of [`DEPTH`] elements a lane; then on in f64. Deeper sums in
/// f32 would lose too much beside an outlier.
const LANES: usize = 16;
const DEPTH: usize = 8;
const CHUNK: usize = LANES * DEPTH;

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

    #[inline(always)]
    pub(super) fn mean(self) -> f64 {
        self.mean
    }

    /// The variance of what the values are a sample of.
    #[inline(always)]
    pub(super) fn unbiased_variance(self) -> f64 {
        not_negative(self.m2) / (self.count - 1.0)
    }

    /// Mean and squared deviations of some values.
    #[inline(always)]
    pub(super) fn of(values: &[f32]) -> Self {
        let count = count_of(values);
        let pivot = values.first().copied().unwrap_or_default();
        let [total, _] = sums(values, pivot);
        #[expect(clippy::cast_possible_truncation, reason = "the rest is made up for by the second sweep")]
        let middle = (f64::from(pivot) + total / count) as f32;
        let [total, squares] = sums(values, middle);
        let rest = total / count;
        Self { count, mean: f64::from(middle) + rest, m2: squares - total * rest }
    }

    /// The squares of some values, not of their deviations.
    #[inline(always)]
    pub(super) fn of_squares(values: &[f32]) -> Self {
        let [_, squares] = sums(values, 0.0);
        Self { count: count_of(values), mean: 0.0, m2: squares }
    }

    /// The moments of two disjoint sets together (Chan, Golub and LeVeque, 1979).
    #[inline(always)]
    pub(super) fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        let delta = other.mean - self.mean;
        let step = delta * (other.count / count);
        Self { count, mean: self.mean + step, m2: self.m2 + other.m2 + delta * step * self.count }
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounding conversions")]
    #[inline(always)]
    pub(super) fn normalization(self, eps: f32) -> Normalization {
        let variance = not_negative(self.m2 / self.count);
        let high = self.mean as f32;
        Normalization {
            high,
            low: (self.mean - f64::from(high)) as f32,
            rstd: (1.0 / (variance + f64::from(eps)).sqrt()) as f32,
        }
    }
}

/// What a row is normalized by; the mean is `high + low`, to twice the precision of f32.
#[derive(Clone, Copy)]
pub(super) struct Normalization {
    pub high: f32,
    pub low: f32,
    pub rstd: f32,
}

impl Normalization {
    /// Of what is normalized already.
    pub(super) const NONE: Self = Self { high: 0.0, low: 0.0, rstd: 1.0 };

    /// Without weight and bias.
    #[inline(always)]
    pub(super) fn center(self, values: &mut [f32]) {
        for value in values {
            *value = ((*value - self.high) - self.low) * self.rstd;
        }
    }

    #[inline(always)]
    pub(super) fn apply(self, values: &mut [f32], weight: &[f32], bias: &[f32]) {
        for ((value, weight), bias) in values.iter_mut().zip(weight).zip(bias) {
            *value = ((*value - self.high) - self.low) * self.rstd * weight + bias;
        }
    }
}

/// NaN stays.
#[inline(always)]
fn not_negative(value: f64) -> f64 {
    if value < 0.0 { 0.0 } else { value }
}

#[inline(always)]
pub(super) fn count_of<V>(values: &[V]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a block is shorter than 2^52")]
    let count = values.len() as f64;
    count
}

/// `sum(x - pivot)` and `sum((x - pivot)²)`. Where one of them is not used, the compiler drops it.
#[inline(always)]
fn sums(values: &[f32], pivot: f32) -> [f64; 2] {
    let mut totals = [0.0; LANES];
    let mut squares = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<CHUNK>();
    for chunk in chunks {
        add_chunk(chunk, pivot, &mut totals, &mut squares);
    }
    if !rest.is_empty() {
        // Adds nothing to the sums where it is not overwritten, unless the pivot is infinite; then all is NaN anyway.
        let mut chunk = [pivot; CHUNK];
        for (place, value) in chunk.iter_mut().zip(rest) {
            *place = *value;
        }
        add_chunk(&chunk, pivot, &mut totals, &mut squares);
    }
    [tree_sum(totals), tree_sum(squares)]
}

#[inline(always)]
fn add_chunk(chunk: &[f32; CHUNK], pivot: f32, totals: &mut [f64; LANES], squares: &mut [f64; LANES]) {
    for lane in 0..LANES {
        let at = |row: usize| chunk[row * LANES + lane] - pivot;
        let d: [f32; DEPTH] = [at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)];
        totals[lane] += f64::from(((d[0] + d[1]) + (d[2] + d[3])) + ((d[4] + d[5]) + (d[6] + d[7])));
        let q = d.map(|difference| difference * difference);
        squares[lane] += f64::from(((q[0] + q[1]) + (q[2] + q[3])) + ((q[4] + q[5]) + (q[6] + q[7])));
    }
}

#[inline(always)]
fn tree_sum(mut lanes: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}
