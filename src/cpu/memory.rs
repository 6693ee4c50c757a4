//! Memory for what lies between the steps of a call, kept for the calls to come.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::slice;
use std::sync::{Mutex, PoisonError};

use super::moments::Moments;
use super::simd::LINE;

/// Buffers that are kept at most, by each thread and by all together, and lines of one: what takes more is allocated anew by
/// each call.
const MOST_OF_THREAD: usize = 16;
const MOST_OF_ALL: usize = 64;
const MOST_LINES: usize = 16 * 1024;

/// A line of the caches: vectors that lie across two take twice as long to load.
#[derive(Clone, Copy)]
#[repr(align(64))]
#[expect(dead_code, reason = "accessed as numbers")]
struct Line([f64; LINE / size_of::<f64>()]);

/// What nobody uses.
type Unused = Vec<Vec<Line>>;

thread_local! {
    /// What a thread has given back. Where threads merge parts of samples, waiting for what is everybody's would take a fifth of
    /// the time (measured: GroupNorm of NHWC by two threads).
    static OF_THREAD: RefCell<Unused> = const { RefCell::new(Vec::new()) };
}

/// The rest, for what one thread takes another may give back.
static OF_ALL: Mutex<Unused> = Mutex::new(Vec::new());

/// What `work` makes of the thread's own, if it still has any.
fn with_own<R>(work: impl FnOnce(&mut Unused) -> Option<R>) -> Option<R> {
    OF_THREAD.try_with(|own| work(&mut own.borrow_mut())).ok().flatten()
}

fn with_common<R>(work: impl FnOnce(&mut Unused) -> R) -> R {
    work(&mut OF_ALL.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The smallest that fits, lest what needs a larger one finds none: then a second call like the first allocates nothing,
/// whatever sizes it needs in whatever order. Of several, the one used last.
fn take(unused: &mut Unused, needed: usize) -> Option<Vec<Line>> {
    let fitting = unused.iter().enumerate().rev().filter(|(_, lines)| lines.capacity() >= needed);
    let place = fitting.min_by_key(|(_, lines)| lines.capacity()).map(|(place, _)| place);
    place.map(|place| unused.swap_remove(place))
}

/// Gives it back, or returns it where `most` are there.
fn keep(unused: &mut Unused, most: usize, lines: Vec<Line>) -> Option<Vec<Line>> {
    if unused.len() >= most {
        return Some(lines);
    }
    if unused.capacity() == 0 {
        unused.reserve_exact(most);
    }
    unused.push(lines);
    None
}

/// What may be kept.
///
/// # Safety
/// Aligned as a line at most, and all zeros as well as whatever else are values of it; of nothing but numbers.
pub(super) unsafe trait Number: Copy {}

// SAFETY: a number.
unsafe impl Number for f32 {}
// SAFETY: a number.
unsafe impl Number for f64 {}
// SAFETY: three of them.
unsafe impl Number for Moments {}

/// So many numbers, which begin with a line.
pub(super) struct Numbers<N: Number> {
    lines: Vec<Line>,
    count: usize,
    numbers: PhantomData<N>,
}

impl<N: Number> Numbers<N> {
    /// All zero.
    pub(super) fn zeros(count: usize) -> Self {
        const { assert!(align_of::<N>() <= align_of::<Line>()) };
        let needed = (count * size_of::<N>()).div_ceil(size_of::<Line>());
        let mut lines = with_own(|own| take(own, needed))
            .or_else(|| with_common(|common| take(common, needed)))
            .or_else(|| with_own(Vec::pop))
            .or_else(|| with_common(Vec::pop))
            .unwrap_or_default();
        lines.clear();
        lines.resize(needed, Line(Default::default()));
        Self { lines, count, numbers: PhantomData }
    }
}

impl<N: Number> Drop for Numbers<N> {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if lines.capacity() > MOST_LINES {
            return;
        }
        let mut left = Some(lines);
        with_own(|own| {
            left = left.take().and_then(|lines| keep(own, MOST_OF_THREAD, lines));
            Some(())
        });
        if let Some(lines) = left {
            with_common(|common| keep(common, MOST_OF_ALL, lines));
        }
    }
}

impl<N: Number> Deref for Numbers<N> {
    type Target = [N];

    fn deref(&self) -> &[N] {
        // SAFETY: the lines have room for so many, are aligned to them, and hold values of them.
        unsafe { slice::from_raw_parts(self.lines.as_ptr().cast(), self.count) }
    }
}

impl<N: Number> DerefMut for Numbers<N> {
    fn deref_mut(&mut self) -> &mut [N] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.count) }
    }
}
