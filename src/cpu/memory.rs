//! Memory for what lies between the steps of a call, kept for the calls to come.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::slice;
use std::sync::{Mutex, PoisonError};

use super::moments::Moments;

/// Buffers that are kept at most, and words of one: what takes more is allocated anew by each call.
const MOST_BUFFERS: usize = 64;
const MOST_WORDS: usize = 128 * 1024;

/// What nobody uses. All threads', for what one takes another may give back.
static UNUSED: Mutex<Vec<Vec<f64>>> = Mutex::new(Vec::new());

/// What may be kept.
///
/// # Safety
/// Aligned as f64 at most, and all zeros as well as whatever else are values of it; of nothing but numbers.
pub(super) unsafe trait Number: Copy {}

// SAFETY: a number.
unsafe impl Number for f32 {}
// SAFETY: a number.
unsafe impl Number for f64 {}
// SAFETY: three of them.
unsafe impl Number for Moments {}

/// So many numbers.
pub(super) struct Numbers<N: Number> {
    words: Vec<f64>,
    count: usize,
    numbers: PhantomData<N>,
}

impl<N: Number> Numbers<N> {
    /// All zero.
    pub(super) fn zeros(count: usize) -> Self {
        const { assert!(align_of::<N>() <= align_of::<f64>()) };
        let needed = (count * size_of::<N>()).div_ceil(size_of::<f64>());
        let mut words = {
            let mut unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
            let fitting = unused.iter().rposition(|words| words.capacity() >= needed);
            fitting.map(|place| unused.swap_remove(place)).or_else(|| unused.pop()).unwrap_or_default()
        };
        words.clear();
        words.resize(needed, 0.0);
        Self { words, count, numbers: PhantomData }
    }
}

impl<N: Number> Drop for Numbers<N> {
    fn drop(&mut self) {
        let words = std::mem::take(&mut self.words);
        if words.capacity() > MOST_WORDS {
            return;
        }
        let mut unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
        if unused.capacity() == 0 {
            unused.reserve_exact(MOST_BUFFERS);
        }
        if unused.len() < MOST_BUFFERS {
            unused.push(words);
        }
    }
}

impl<N: Number> Deref for Numbers<N> {
    type Target = [N];

    fn deref(&self) -> &[N] {
        // SAFETY: the words have room for so many, are aligned to them, and hold values of them.
        unsafe { slice::from_raw_parts(self.words.as_ptr().cast(), self.count) }
    }
}

impl<N: Number> DerefMut for Numbers<N> {
    fn deref_mut(&mut self) -> &mut [N] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.count) }
    }
}
