//! What the processor's caches hold.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Where the machine does not say.
const GUESS: usize = 32 << 20;

/// Bytes; 0 until they are known.
static LAST_LEVEL: AtomicUsize = AtomicUsize::new(0);

/// Whether tensors of so many bytes, all of a call's together, do not fit the last-level cache: a quarter is for all else.
pub(super) fn are_exceeded_by(bytes: usize) -> bool {
    let mut last_level = LAST_LEVEL.load(Ordering::Relaxed);
    if last_level == 0 {
        last_level = of_machine().unwrap_or(GUESS);
        LAST_LEVEL.store(last_level, Ordering::Relaxed);
    }
    bytes > last_level / 4 * 3
}

/// The largest of the first processor's.
fn of_machine() -> Option<usize> {
    let size = |index: u32| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok()
    };
    (0..8).filter_map(size).max().filter(|&kib| kib > 0).map(|kib| kib << 10)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::Ordering;
    use std::sync::{Mutex, PoisonError};

    use super::LAST_LEVEL;

    /// Calls `body` as if whatever it computes did not fit the caches. Of no effect on the bits of tests that run beside.
    pub(in crate::cpu) fn with_tiny_caches<R>(body: impl FnOnce() -> R) -> R {
        with_caches_for(0, body)
    }

    /// The same as if they held so many bytes, and hardly more.
    pub(in crate::cpu) fn with_caches_for<R>(bytes: usize, body: impl FnOnce() -> R) -> R {
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        LAST_LEVEL.store(bytes.div_ceil(3) * 4 + 1, Ordering::Relaxed);
        let result = body();
        LAST_LEVEL.store(0, Ordering::Relaxed);
        result
    }

    #[test]
    fn the_last_level_is_known_and_not_tiny() {
        assert!(super::of_machine().unwrap_or(super::GUESS) >= 256 << 10);
    }
}
