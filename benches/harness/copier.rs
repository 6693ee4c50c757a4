//! The ways to copy, by as many threads as there are.

use std::hint::black_box;
use std::sync::atomic::{Ordering, compiler_fence};

use rayon::prelude::*;

/// Bytes up to which one thread moves them all: it would take longer to wake others.
pub const ONE_THREAD: usize = 256 * 1024;

/// Sixteen bytes, and aligned to them.
pub type Word = u128;

/// Which is the fastest depends on the size: the C library's own changes with it, a plain loop loads the line that it will
/// overwrite, and one that stores past the caches does not.
#[derive(Debug, Clone, Copy)]
pub enum Copier {
    Memcpy,
    Loop,
    #[cfg(target_arch = "x86_64")]
    Streaming,
}

pub const COPIERS: &[Copier] = &[
    Copier::Memcpy,
    Copier::Loop,
    #[cfg(target_arch = "x86_64")]
    Copier::Streaming,
];

impl Copier {
    pub fn copy(self, source: &[Word], target: &mut [Word]) {
        let one = |source: &[Word], target: &mut [Word]| match self {
            Self::Memcpy => black_box(target).copy_from_slice(black_box(source)),
            Self::Loop => plain_loop(source, target),
            #[cfg(target_arch = "x86_64")]
            Self::Streaming => streaming_loop(source, target),
        };
        if size_of_val(source) <= ONE_THREAD {
            return one(source, target);
        }
        let piece = source.len().div_ceil(rayon::current_num_threads());
        target.par_chunks_mut(piece).zip(source.par_chunks(piece)).for_each(|(target, source)| one(source, target));
    }
}

/// Words that a loop moves at a time: a cache line's.
pub const LINE: usize = 64 / size_of::<Word>();

fn plain_loop(source: &[Word], target: &mut [Word]) {
    for (target, source) in target.chunks_mut(LINE).zip(source.chunks(LINE)) {
        for (target, source) in target.iter_mut().zip(source) {
            *target = *source;
        }
        // Else the compiler sees what this is, and calls memcpy.
        compiler_fence(Ordering::SeqCst);
    }
}

#[cfg(target_arch = "x86_64")]
fn streaming_loop(source: &[Word], target: &mut [Word]) {
    use std::arch::x86_64::{__m128i, _mm_load_si128, _mm_sfence, _mm_stream_si128};
    assert_eq!(source.len(), target.len());
    let (from, to) = (source.as_ptr().cast::<__m128i>(), target.as_mut_ptr().cast::<__m128i>());
    for i in 0..source.len() {
        // SAFETY: both slices have a word at `i`, aligned to its 16 bytes.
        unsafe { _mm_stream_si128(to.add(i), _mm_load_si128(from.add(i))) };
    }
    // SAFETY: orders the stores above before whatever follows; SSE2 is part of x86-64.
    unsafe { _mm_sfence() };
}
