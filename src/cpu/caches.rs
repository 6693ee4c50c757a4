//! What the processor's caches hold.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Where the machine does not say.
const GUESS: usize = 32 << 20;

/// Whether tensors of so many bytes, all of a call's together, do not fit the last-level cache.
pub(super) fn are_exceeded_by(bytes: usize) -> bool {
    /// 0 until it is known.
    static LAST_LEVEL: AtomicUsize = AtomicUsize::new(0);
    let mut last_level = LAST_LEVEL.load(Ordering::Relaxed);
    if last_level == 0 {
        last_level = of_machine().unwrap_or(GUESS);
        LAST_LEVEL.store(last_level, Ordering::Relaxed);
    }
    bytes > last_level
}

/// The largest of the first processor's.
fn of_machine() -> Option<usize> {
    let size = |index: u32| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok()
    };
    (0..8).filter_map(size).max().filter(|&kib| kib > 0).map(|kib| kib << 10)
}
