//! Pieces of work for the threads of rayon's current pool.
//!
//! Halving by `rayon::join` needs neither allocation nor a list of pieces; what is small stays on the calling thread and
//! never touches the pool.

use std::ops::Range;

/// Elements that are worth handing to another thread: tens of microseconds of work, against a few to wake it.
pub(super) const GRAIN: usize = 32 * 1024;

/// Calls `work` on pieces of `items` that together are all of it, in parallel if that is worth it.
pub(super) fn for_each_piece(items: Range<usize>, elements_per_item: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    let count = items.len();
    if count <= 1 || count.saturating_mul(elements_per_item) <= GRAIN {
        if count > 0 {
            work(items);
        }
        return;
    }
    let middle = items.start + count / 2;
    rayon::join(
        || for_each_piece(items.start..middle, elements_per_item, work),
        || for_each_piece(middle..items.end, elements_per_item, work),
    );
}
