//! Lines of the outputs in which one stretch ends and the next begins.
//!
//! They are made in a buffer, and go past the caches when they are whole. In two parts, each by the caches, they would be read from
//! memory first: rows of 1024 elements of sixteen bits took half as long again. Longer rows of f32 have time to ask for them, and
//! lost three hundredths by the buffer, which is read where it has just been written; so they are left to the caches.

use std::mem::MaybeUninit;
use std::ptr;

use super::convert::Convert;
use super::input::Tensor;
use super::simd::{LINE, Vector};
use super::stretch::Stretch;

/// Of y, and of the sum where that is cut into lines at the same elements.
pub(super) struct Seam<T> {
    lines: [Unfinished; 2],
    /// Whether they are made here.
    joins: [bool; 2],
    /// Elements of a line that are there, from its beginning on.
    held: usize,
    /// Where the lines belong.
    into: [*mut T; 2],
}

/// A line, and what need not be looked at: the line that ends with the elements that are there begins within it.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Unfinished {
    before: [MaybeUninit<u8>; LINE],
    line: [MaybeUninit<u8>; LINE],
}

impl Unfinished {
    const NONE: Self = Self { before: [MaybeUninit::uninit(); LINE], line: [MaybeUninit::uninit(); LINE] };

    /// The line that ends with so many bytes of the unfinished one.
    fn ending_with(&mut self, bytes: usize) -> *mut f32 {
        ptr::from_mut(self).wrapping_byte_add(bytes).cast()
    }
}

impl<T: Convert> Seam<T> {
    /// Of long stretches past the caches, of which y or the sum `are_joined`: there each begins where one ends.
    pub(super) fn new(outputs: &Stretch<T>, are_joined: [bool; 2]) -> Self {
        let to_line = |output: Tensor<T>| T::to_line(output.wrapping_at(0));
        let y = outputs.streams && are_joined[0] && T::IS_NARROW;
        let sum = y && are_joined[1] && !outputs.sum.is_absent() && to_line(outputs.sum) == to_line(outputs.y);
        Self { joins: [y, sum], ..Self::of_y() }
    }

    /// Of one output.
    pub(super) fn of_y() -> Self {
        Self { lines: [Unfinished::NONE; 2], joins: [true, false], held: 0, into: [ptr::null_mut(); 2] }
    }

    /// Those of the outputs that are not joined.
    #[inline(always)]
    pub(super) fn others(&self, outputs: Stretch<T>) -> Stretch<T> {
        if !T::IS_NARROW {
            return outputs;
        }
        let unless = |joins: bool, output| if joins { Tensor::new(0) } else { output };
        Stretch { y: unless(self.joins[0], outputs.y), sum: unless(self.joins[1], outputs.sum), ..outputs }
    }

    /// Whether the whole lines of a stretch are all that is to be written of it, for the rest will be held.
    #[inline(always)]
    pub(super) fn holds_ends(&self) -> bool {
        T::IS_NARROW && self.joins[0]
    }

    /// Of a stretch `left` elements are to be written, those of whole lines past the caches if it `streams`. If the next of them
    /// belong to a line that is made here: has the stretch's outputs be the buffer's, and says how many these are.
    #[inline(always)]
    pub(super) fn hold(&mut self, stretch: &mut Stretch<T>, left: usize, streams: bool) -> Option<usize> {
        if !T::IS_NARROW {
            return None;
        }
        let begins = streams && self.holds_ends() && left < T::OF_LINE && T::to_line(stretch.y.wrapping_at(0)) == 0;
        if self.held == 0 && !begins {
            return None;
        }
        let outputs = [&mut stretch.y, &mut stretch.sum].into_iter().zip(&mut self.lines).zip(&mut self.into);
        for (((output, unfinished), into), joins) in outputs.zip(self.joins) {
            if joins {
                if self.held == 0 {
                    *into = output.wrapping_at(0).cast_mut();
                }
                let next = unfinished.line.as_mut_ptr().wrapping_add(self.held * size_of::<T>());
                *output = Tensor::new(next.expose_provenance() as u64);
            }
        }
        let count = left.min(T::OF_LINE - self.held);
        self.held += count;
        Some(count)
    }

    /// What was held is written.
    ///
    /// # Safety
    /// This thread alone has the outputs.
    #[inline(always)]
    pub(super) unsafe fn release<V: Vector>(&mut self) {
        if self.held < T::OF_LINE {
            return;
        }
        self.held = 0;
        for ((unfinished, into), joins) in self.lines.iter().zip(self.into).zip(self.joins) {
            if joins {
                // SAFETY: by the caller; both are whole lines.
                unsafe { V::load(unfinished.line.as_ptr().cast()).stream(into.cast()) };
            }
        }
    }

    /// Writes what is left.
    ///
    /// # Safety
    /// As above.
    pub(super) unsafe fn end(&mut self) {
        for ((unfinished, into), joins) in self.lines.iter().zip(self.into).zip(self.joins) {
            if joins && self.held > 0 {
                // SAFETY: by the caller; so many are there.
                unsafe { into.copy_from_nonoverlapping(unfinished.line.as_ptr().cast(), self.held) };
            }
        }
        self.held = 0;
    }
}

/// Writes an output whose vectors follow upon each other, wherever they begin, by whole lines, past the caches.
pub(super) struct Lines<V> {
    /// What was written last. Its end is not in memory yet.
    before: V,
    /// Halves of it that are not; as many as `y` begins behind a line.
    halves: usize,
    /// The line that is next.
    into: *mut f32,
    /// Whether the beginning of that is another's.
    begins_within: bool,
}

impl<V: Vector> Lines<V> {
    /// From `y` on; where the seam ends there, it is gone on with.
    ///
    /// # Safety
    /// This thread alone has the output, and had what is in the seam.
    #[inline(always)]
    pub(super) unsafe fn begin<T: Convert>(y: *mut T, seam: &mut Seam<T>) -> Self {
        let bytes = y.addr() % LINE;
        let goes_on = seam.held * size_of::<T>() == bytes && y == seam.into[0].wrapping_add(seam.held);
        // SAFETY: by the caller; the buffer has so many bytes.
        unsafe {
            if !goes_on {
                seam.end();
            }
            let before = if goes_on { V::load(seam.lines[0].ending_with(bytes)) } else { V::splat(0.0) };
            let into = y.wrapping_byte_sub(bytes).cast();
            Self { before, halves: bytes / 2, into, begins_within: !goes_on && bytes > 0 }
        }
    }

    /// # Safety
    /// There is room for the line.
    #[inline(always)]
    pub(super) unsafe fn push(&mut self, line: V) {
        // SAFETY: by the caller; fewer halves than a line has.
        unsafe {
            let joined = V::joined(self.before, line, self.halves);
            if self.begins_within {
                self.begins_within = false;
                self.push_first(joined);
            } else {
                joined.stream(self.into);
            }
        }
        self.into = self.into.wrapping_byte_add(LINE);
        self.before = line;
    }

    /// The part of a line that belongs to the output.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn push_first(&self, line: V) {
        let mut unfinished = Unfinished::NONE;
        let bytes = 2 * self.halves;
        // SAFETY: by the caller.
        unsafe {
            line.store(unfinished.line.as_mut_ptr().cast());
            let (from, into) = (unfinished.line.as_ptr().cast::<u8>().add(bytes), self.into.cast::<u8>().add(bytes));
            into.copy_from_nonoverlapping(from, LINE - bytes);
        }
    }

    /// Leaves what is not in memory yet to the seam.
    ///
    /// # Safety
    /// As [`begin`](Self::begin).
    #[inline(always)]
    pub(super) unsafe fn end<T: Convert>(self, seam: &mut Seam<T>) {
        let bytes = 2 * self.halves;
        // SAFETY: the buffer's own.
        unsafe { self.before.store(seam.lines[0].ending_with(bytes)) };
        (seam.held, seam.into[0]) = (bytes / size_of::<T>(), self.into.cast());
    }
}
