//! What the comparison with others needs of Rust, as a C library: candle's layers, and a CPU's fastest copy.
//!
//! A function that can fail returns null, or what went wrong as a text that is never freed.

mod candle;
#[path = "../../../harness/copier.rs"]
#[allow(dead_code, reason = "the benchmarks use the rest")]
mod copier;

use copier::{COPIERS, Word};

/// How many ways to copy there are.
#[unsafe(no_mangle)]
pub extern "C" fn copiers() -> usize {
    COPIERS.len()
}

/// Copies so many words of 16 bytes by one of the ways, on as many threads as rayon has.
///
/// # Safety
///
/// Both are aligned to 16 bytes, hold so many words, and do not overlap; nobody else writes to them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy(way: usize, source: *const Word, target: *mut Word, words: usize) {
    // SAFETY: the caller's promise.
    let (source, target) =
        unsafe { (std::slice::from_raw_parts(source, words), std::slice::from_raw_parts_mut(target, words)) };
    COPIERS[way].copy(source, target);
}
