//! Moments of channels that lie between each other in memory: of a slab `[pixels, channels]`.
//!
//! ```text
//! for each part of the pixels:
//!     for each slot, many at once:  a pivot, the mean of its first elements
//!     for each 8 rows:  for each slot:  sum(x - pivot) and sum((x - pivot)²), added to the slot's in f64
//!     merge the slots of each channel
//! merge the parts
//! ```
//!
//! A row is as many pixels as fit [`COLUMN`], at least one, and each of its elements has a slot: few channels make no
//! short loops. Memory is walked once, from one end to the other. As with the stretches of `moments.rs`, a part is swept
//! again where a pivot turns out to lie far from its slot's mean.
//!
//! A slot takes two f64 and a pivot, and each of the parts that are being merged has its own: they are in memory that is
//! kept. Where a slab is one part, a thread uses the same ones for all its slabs.

use std::ops::Range;

use super::BLOCK;
use super::convert::Convert;
use super::input::{Block, Input};
use super::memory::Numbers;
use super::moments::{self, Moments, TreeSums, Values, count_of};
use super::simd::{LANES, Vector};
use super::stretch::Inputs;
use super::threads::{merged, merged_in_turn};
use super::vectors::{self, Task};

/// Rows of a turn, whose sums stay in f32: two of the trees that `moments.rs` has.
const DEPTH: usize = 2 * moments::DEPTH;

/// Elements that are swept at once: a vector of slots in each row of a turn.
pub(super) const SWEPT_AT_ONCE: usize = DEPTH * LANES;

/// Slots of which a block holds [`DEPTH`] rows.
const COLUMN: usize = BLOCK / DEPTH;

/// Rows that pivots are found from: the more, the less often is a part swept again.
const ROWS_OF_PIVOT: usize = 2 * DEPTH;

/// The size of a part: so large that merging parts costs little, and so small that wide slabs have several. Bits depend
/// on both.
const ELEMENTS_OF_PART: usize = 32 * 1024;
const LEAST_ROWS_OF_PART: usize = 2 * DEPTH;

/// Neither pixels nor channels are zero.
pub(super) struct Slab<T> {
    pub input: Input<T>,
    pub pixels: usize,
    pub channels: usize,
    /// Elements that memory is asked for ahead; 0 for none.
    pub ahead: usize,
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
        let part = |pixels| {
            let mut channels = Channels::new(self.channels);
            // SAFETY: by the caller.
            unsafe { self.moments_of(pixels, &mut channels) };
            channels
        };
        merged(0..self.pixels, self.pixels_of_part(), self.channels, &part, &Channels::merge)
    }

    /// Those of some pixels, in place of what is in `into`.
    ///
    /// # Safety
    /// As [`Input::load`], for these pixels.
    pub(super) unsafe fn moments_of(&self, pixels: Range<usize>, into: &mut Channels) {
        vectors::run(Part { slab: self, pixels, into });
    }

    /// The moments of all channels, found by this thread in turn with other work.
    ///
    /// # Safety
    /// As [`moments`](Self::moments); `x` and the residual are all that there is of the input.
    pub(super) unsafe fn moments_in_turn(&self, other: &mut impl OtherWork) -> Channels {
        let mut part = |pixels| {
            let mut channels = Channels::new(self.channels);
            vectors::run(PartInTurn { slab: self, pixels, into: &mut channels, other });
            channels
        };
        merged_in_turn(0..self.pixels, self.pixels_of_part(), &mut part, &Channels::merge)
    }

    fn walk(&self, pixels: &Range<usize>) -> Walk {
        let pixels_of_row = pixels_of_row(self.channels);
        Walk {
            first: pixels.start * self.channels,
            width: pixels_of_row * self.channels,
            rows: pixels.len() / pixels_of_row,
            of_last_row: pixels.len() % pixels_of_row * self.channels,
        }
    }

    /// Walks over these pixels.
    ///
    /// # Safety
    /// As [`Input::load`], for them.
    #[inline(always)]
    unsafe fn sweep_plain<V: Vector>(
        &self,
        walk: &Walk,
        input: Inputs<T>,
        into: &mut Channels,
        other: &mut impl OtherWork,
    ) {
        let ahead = if self.ahead > 0 { walk.whole_turns(self.ahead) } else { 0 };
        // SAFETY: by the caller.
        unsafe {
            // Without a residual on its own, for registers are scarce.
            if input.residual.is_null() {
                walk.run::<V>(&DirectRows { values: input.x, ahead }, into, other);
            } else {
                walk.run::<V>(&DirectRows { values: input, ahead }, into, other);
            }
        }
    }
}

fn pixels_of_row(channels: usize) -> usize {
    (COLUMN / channels).max(1)
}

struct Part<'a, T> {
    slab: &'a Slab<T>,
    pixels: Range<usize>,
    into: &'a mut Channels,
}

impl<T: Convert> Task for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { slab, pixels, into } = self;
        let walk = &slab.walk(&pixels);
        let buffer = &mut Block::zeros();
        // SAFETY: promised where the task was made.
        unsafe {
            match slab.input.plain() {
                Some(input) => slab.sweep_plain::<V>(walk, input, into, &mut ()),
                None => {
                    walk.run::<V>(&BufferedRows { input: slab.input, buffer: (&mut **buffer).into() }, into, &mut ())
                }
            }
        }
        into.merge_slots(walk);
    }
}

/// A part while other work goes on.
struct PartInTurn<'a, T, O> {
    slab: &'a Slab<T>,
    pixels: Range<usize>,
    into: &'a mut Channels,
    other: &'a mut O,
}

impl<T: Convert, O: OtherWork> Task for PartInTurn<'_, T, O> {
    type Output = ();
    const ROUNDS_TO_BF16: bool = O::ROUNDS_TO_BF16;

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { slab, pixels, into, other } = self;
        let walk = &slab.walk(&pixels);
        // SAFETY: promised where the task was made.
        unsafe { slab.sweep_plain::<V>(walk, Inputs::new(slab.input.x, slab.input.residual), into, other) };
        into.merge_slots(walk);
    }
}

/// Work that goes on while a slab is swept.
pub(super) trait OtherWork {
    /// As [`Task::ROUNDS_TO_BF16`].
    const ROUNDS_TO_BF16: bool = false;
    /// Called whenever [`SWEPT_AT_ONCE`] elements were swept; not for the few of what are no whole turns of rows. Implementations
    /// are `#[inline(always)]`.
    fn go_on<V: Vector>(&mut self);
}

/// None.
impl OtherWork for () {
    #[inline(always)]
    fn go_on<V: Vector>(&mut self) {}
}

/// The moments of many channels, each of as many values.
pub(super) struct Channels {
    channels: usize,
    /// Values of a channel, at last.
    count: f64,
    /// Of the slots, up to whole [`LANES`].
    pivots: Numbers<f32>,
    /// Sums of the slots' deviations from their pivots, and of the squares; at last, means and squared deviations, the first
    /// ones those of the channels.
    means: Numbers<f64>,
    m2: Numbers<f64>,
}

impl Channels {
    pub(super) fn new(channels: usize) -> Self {
        let slots = (pixels_of_row(channels) * channels).next_multiple_of(LANES);
        Self {
            channels,
            count: 0.0,
            pivots: Numbers::zeros(slots),
            means: Numbers::zeros(slots),
            m2: Numbers::zeros(slots),
        }
    }

    /// Makes sums of slots into means and squared deviations. Whether all pivots were near enough; else they are now the
    /// means.
    #[inline(always)]
    fn settle(&mut self, walk: &Walk) -> bool {
        let (longer, shorter) = (walk.of_last_row, if walk.rows > 0 { walk.width } else { walk.of_last_row });
        let are_near = self.settle_some(0..longer, walk.rows + 1) & self.settle_some(longer..shorter, walk.rows);
        if !are_near {
            for (pivot, mean) in self.pivots.iter_mut().zip(&*self.means) {
                #[expect(clippy::cast_possible_truncation, reason = "a pivot need not be exact")]
                let near = *mean as f32;
                *pivot = near;
            }
        }
        are_near
    }

    /// The same for slots of so many values.
    #[inline(always)]
    fn settle_some(&mut self, slots: Range<usize>, count: usize) -> bool {
        let (count, mut are_near) = (count_of(count), true);
        let sums = self.means[slots.clone()].iter_mut().zip(&mut self.m2[slots.clone()]);
        for (pivot, (mean, m2)) in self.pivots[slots].iter().zip(sums) {
            let (total, squares) = (*mean, *m2);
            let rest = total / count;
            *mean = f64::from(*pivot) + rest;
            *m2 = squares - total * rest;
            // NaN is near.
            let is_far = 2.0 * total * rest > squares;
            are_near &= !is_far;
        }
        are_near
    }

    /// Makes slots into channels. Each has as many values as there are rows, and those of the last row's pixels one more.
    #[inline(always)]
    fn merge_slots(&mut self, walk: &Walk) {
        let (pixels_of_row, rest) = (walk.width / self.channels, walk.of_last_row / self.channels);
        let count = |pixel| count_of(walk.rows + usize::from(pixel < rest));
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
    let channels = count_of(means.len());
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
struct Walk {
    /// The first element.
    first: usize,
    width: usize,
    /// Whole ones.
    rows: usize,
    /// Elements of the one that is not.
    of_last_row: usize,
}

/// Rows of elements, of which some slots are taken.
trait RowSource<V: Vector> {
    /// Calls `work` on all slots, a vector of them at a time, with the numbers of `rows` rows from the element at `first` on.
    ///
    /// # Safety
    /// They may be read.
    unsafe fn each_slot(&self, first: usize, width: usize, slots: usize, rows: usize, work: &mut impl SlotWork<V>);
}

trait SlotWork<V: Vector> {
    /// What to take for a number that is not there.
    ///
    /// # Safety
    /// The slots belong to those that it was made for.
    unsafe fn filler(&self, slot: usize) -> V;
    /// Some rows' numbers, each to be asked for when it is needed, for registers are scarce.
    ///
    /// # Safety
    /// As above.
    unsafe fn take(&mut self, slot: usize, numbers: impl Fn(usize) -> V);
    /// What follows upon a whole turn's.
    #[inline(always)]
    fn go_on(&mut self) {}
}

impl Walk {
    /// About so many elements, as those of turns of [`DEPTH`] rows; at least one turn.
    #[inline(always)]
    fn whole_turns(&self, elements: usize) -> usize {
        let turn = DEPTH * self.width;
        (elements / turn).max(1) * turn
    }

    /// # Safety
    /// As [`RowSource::each_slot`], for all rows.
    #[inline(always)]
    unsafe fn run<V: Vector>(&self, source: &impl RowSource<V>, into: &mut Channels, other: &mut impl OtherWork) {
        // SAFETY: by the caller; there is a place for every slot, up to whole vectors.
        unsafe {
            self.find_pivots::<V>(source, into);
            for _ in 0..2 {
                self.sweep::<V>(source, into, other);
                if into.settle(self) {
                    break;
                }
            }
        }
    }

    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn find_pivots<V: Vector>(&self, source: &impl RowSource<V>, into: &mut Channels) {
        into.pivots.fill(0.0);
        into.means.fill(0.0);
        // SAFETY: by the caller.
        unsafe {
            // The first row, or what there is of it: also the first step to the others' mean.
            let slots = if self.rows > 0 { self.width } else { self.of_last_row };
            source.each_slot(self.first, self.width, slots, 1, &mut FirstRow { pivots: into.pivots.as_mut_ptr() });
            let rows = if self.rows < 8 * ROWS_OF_PIVOT { self.rows.min(DEPTH) } else { ROWS_OF_PIVOT };
            if rows < 2 {
                return;
            }
            let (pivots, totals) = (into.pivots.as_ptr(), into.means.as_mut_ptr());
            for row in (0..rows).step_by(DEPTH) {
                let first = self.first + row * self.width;
                source.each_slot(
                    first,
                    self.width,
                    self.width,
                    (rows - row).min(DEPTH),
                    &mut Totals { pivots, totals },
                );
            }
            for (pivot, total) in into.pivots.iter_mut().zip(&*into.means) {
                #[expect(clippy::cast_possible_truncation, reason = "a pivot need not be exact")]
                let mean = (f64::from(*pivot) + total / count_of(rows)) as f32;
                *pivot = mean;
            }
        }
    }

    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn sweep<V: Vector>(&self, source: &impl RowSource<V>, into: &mut Channels, other: &mut impl OtherWork) {
        into.means.fill(0.0);
        into.m2.fill(0.0);
        let pivots = into.pivots.as_ptr();
        let (totals, squares) = (into.means.as_mut_ptr(), into.m2.as_mut_ptr());
        let sums = &mut Both { pivots, totals, squares, other };
        let mut first = self.first;
        // SAFETY: by the caller.
        unsafe {
            let mut left = self.rows;
            loop {
                let (slots, rows) = if left > 0 { (self.width, left.min(DEPTH)) } else { (self.of_last_row, 1) };
                source.each_slot(first, self.width, slots, rows, sums);
                first += rows * self.width;
                if left == 0 {
                    break;
                }
                left -= rows;
            }
        }
    }
}

/// The elements as they lie.
struct DirectRows<S> {
    values: S,
    /// Elements of whole turns that memory is asked for ahead; 0 for none.
    ahead: usize,
}

impl<V: Vector, S: Values<V>> RowSource<V> for DirectRows<S> {
    #[inline(always)]
    unsafe fn each_slot(&self, first: usize, width: usize, slots: usize, rows: usize, work: &mut impl SlotWork<V>) {
        let whole = slots - slots % LANES;
        for slot in (0..whole).step_by(LANES) {
            // SAFETY: by the caller.
            unsafe {
                if rows == DEPTH {
                    // Slot by slot, all of a turn's rows.
                    if self.ahead > 0 {
                        self.values.prefetch::<DEPTH>(first + self.ahead + DEPTH * slot);
                    }
                    work.take(
                        slot,
                        #[inline(always)]
                        |row| {
                            let [number] = self.values.load(first + row * width + slot);
                            number
                        },
                    );
                    work.go_on();
                } else {
                    let mut numbers = [work.filler(slot); DEPTH];
                    for (row, number) in numbers.iter_mut().enumerate().take(rows) {
                        [*number] = self.values.load(first + row * width + slot);
                    }
                    work.take(
                        slot,
                        #[inline(always)]
                        |row| numbers[row],
                    );
                }
            }
        }
        if whole < slots {
            // SAFETY: by the caller.
            unsafe {
                let filler = work.filler(whole);
                let mut numbers = [filler; DEPTH];
                for (row, number) in numbers.iter_mut().enumerate().take(rows) {
                    let some = self.values.load_some(first + row * width + whole, slots - whole);
                    *number = some.first(slots - whole, filler);
                }
                work.take(
                    whole,
                    #[inline(always)]
                    |row| numbers[row],
                );
            }
        }
    }
}

/// The elements as they come out of a prologue, by a buffer.
struct BufferedRows<T> {
    input: Input<T>,
    /// Of f32, a block.
    buffer: std::ptr::NonNull<[f32; BLOCK]>,
}

impl<V: Vector, T: Convert> RowSource<V> for BufferedRows<T> {
    #[inline(always)]
    unsafe fn each_slot(&self, first: usize, width: usize, slots: usize, rows: usize, work: &mut impl SlotWork<V>) {
        let buffer = self.buffer.cast::<f32>().as_ptr();
        for column in (0..slots).step_by(COLUMN) {
            let columns = (slots - column).min(COLUMN);
            for row in 0..rows {
                // SAFETY: the buffer has so many rows of so many columns, and this alone uses it; and by the caller.
                unsafe {
                    let values = std::slice::from_raw_parts_mut(buffer.add(row * COLUMN), columns);
                    self.input.load(first + row * width + column, values);
                }
            }
            // SAFETY: as above.
            unsafe {
                let rows_here = DirectRows { values: buffer.cast_const(), ahead: 0 };
                rows_here.each_slot(0, COLUMN, columns, rows, &mut Shifted { work, by: column });
            }
        }
    }
}

/// Work on slots that begin elsewhere.
struct Shifted<'a, W> {
    work: &'a mut W,
    by: usize,
}

impl<V: Vector, W: SlotWork<V>> SlotWork<V> for Shifted<'_, W> {
    #[inline(always)]
    unsafe fn filler(&self, slot: usize) -> V {
        // SAFETY: by the caller.
        unsafe { self.work.filler(slot + self.by) }
    }
    #[inline(always)]
    unsafe fn take(&mut self, slot: usize, numbers: impl Fn(usize) -> V) {
        // SAFETY: by the caller.
        unsafe { self.work.take(slot + self.by, numbers) };
    }
}

/// Takes the first row for pivots.
struct FirstRow {
    pivots: *mut f32,
}

impl<V: Vector> SlotWork<V> for FirstRow {
    #[inline(always)]
    unsafe fn filler(&self, _: usize) -> V {
        V::splat(0.0)
    }
    #[inline(always)]
    unsafe fn take(&mut self, slot: usize, numbers: impl Fn(usize) -> V) {
        // SAFETY: by the caller.
        unsafe { numbers(0).store(self.pivots.add(slot)) };
    }
}

/// Adds up deviations.
struct Totals {
    pivots: *const f32,
    totals: *mut f64,
}

impl<V: Vector> SlotWork<V> for Totals {
    #[inline(always)]
    unsafe fn filler(&self, slot: usize) -> V {
        // SAFETY: by the caller.
        unsafe { V::load(self.pivots.add(slot)) }
    }
    #[inline(always)]
    unsafe fn take(&mut self, slot: usize, numbers: impl Fn(usize) -> V) {
        // SAFETY: by the caller.
        unsafe {
            let sums = sums_of_turn(V::load(self.pivots.add(slot)), numbers);
            add_at(sums.total, self.totals.add(slot));
        }
    }
}

/// Adds up deviations and their squares.
struct Both<'a, O> {
    pivots: *const f32,
    totals: *mut f64,
    squares: *mut f64,
    other: &'a mut O,
}

impl<V: Vector, O: OtherWork> SlotWork<V> for Both<'_, O> {
    #[inline(always)]
    unsafe fn filler(&self, slot: usize) -> V {
        // SAFETY: by the caller.
        unsafe { V::load(self.pivots.add(slot)) }
    }
    #[inline(always)]
    unsafe fn take(&mut self, slot: usize, numbers: impl Fn(usize) -> V) {
        // SAFETY: by the caller.
        unsafe {
            let sums = sums_of_turn(V::load(self.pivots.add(slot)), numbers);
            add_at(sums.total, self.totals.add(slot));
            add_at(sums.squares, self.squares.add(slot));
        }
    }
    #[inline(always)]
    fn go_on(&mut self) {
        self.other.go_on::<V>();
    }
}

#[inline(always)]
fn sums_of_turn<V: Vector>(pivot: V, numbers: impl Fn(usize) -> V) -> TreeSums<V, true> {
    let lower = TreeSums::about(pivot, moments::DEPTH, &numbers);
    lower.add(TreeSums::about(
        pivot,
        moments::DEPTH,
        #[inline(always)]
        |row| numbers(moments::DEPTH + row),
    ))
}

/// Adds to the sums in memory.
///
/// # Safety
/// There are [`LANES`] of them.
#[inline(always)]
unsafe fn add_at<V: Vector>(numbers: V, sums: *mut f64) {
    // SAFETY: by the caller.
    unsafe {
        let mut before = V::load_sums(sums);
        numbers.add_to(&mut before);
        V::store_sums(before, sums);
    }
}
