//! Pieces of work for the threads of rayon's current pool.
//!
//! Halving by `rayon::join` needs neither allocation nor a list of pieces; what is small stays on the calling thread and
//! never touches the pool.

use std::ops::Range;

/// Elements that stay on the thread which has them. Waking rayon's threads from outside takes 10 to 20 us, if they do not
/// sleep deeply (measured on two cores: LayerNorm of f32 is as fast by one as by two for 80 to 128 Ki elements, BatchNorm for
/// 256 Ki). Bits do not depend on it: where tests can, they share smaller tensors out.
const GRAIN: usize = if cfg!(test) { 16 * 1024 } else { 128 * 1024 };

/// Pieces for each thread, of what is large: some, so that all threads end together, and few, for each begins anew with empty
/// buffers and ends with a wait for memory.
const PIECES_OF_THREAD: usize = 16;

/// Those that work is shared out among.
pub(super) fn count() -> usize {
    rayon::current_num_threads()
}

/// Calls `work` on pieces of `items` that together are all of it, in parallel if that is worth it.
pub(super) fn for_each_piece(items: Range<usize>, elements_per_item: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    for_each_of_pieces(PIECES_OF_THREAD, items, elements_per_item, work);
}

/// The same, on so many of them for each thread.
pub(super) fn for_each_of_pieces(
    pieces_of_thread: usize,
    items: Range<usize>,
    elements_per_item: usize,
    work: &(impl Fn(Range<usize>) + Sync),
) {
    let elements = items.len().saturating_mul(elements_per_item);
    if are_shared(elements) {
        let grain = GRAIN.max(elements / (pieces_of_thread * count()));
        // One that is shared out by `work` itself is in the pool from here on.
        in_pool(elements, || halve(items, elements_per_item, grain, work));
    } else if !items.is_empty() {
        work(items);
    }
}

/// Does `work`, which has several steps that are shared out, in the pool if they are: entering it takes long, and so is done
/// once.
pub(super) fn in_pool(elements: usize, work: impl FnOnce() + Send) {
    if are_shared(elements) && rayon::current_thread_index().is_none() {
        rayon::join(work, || ());
    } else {
        work();
    }
}

/// Whether so many elements are shared out. What is small does not even ask for the threads; and if there is but one, it would
/// have to be woken for what the calling thread can do itself.
fn are_shared(elements: usize) -> bool {
    elements > GRAIN && count() > 1
}

fn halve(items: Range<usize>, elements_per_item: usize, grain: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    let count = items.len();
    if count > 1 && count.saturating_mul(elements_per_item) > grain {
        let middle = items.start + count / 2;
        rayon::join(
            || halve(items.start..middle, elements_per_item, grain, work),
            || halve(middle..items.end, elements_per_item, grain, work),
        );
    } else if count > 0 {
        work(items);
    }
}

/// Does both, in parallel if together they are worth it.
pub(super) fn both<A: Send, B: Send>(
    elements: usize,
    left: impl FnOnce() -> A + Send,
    right: impl FnOnce() -> B + Send,
) -> (A, B) {
    if are_shared(elements) { rayon::join(left, right) } else { (left(), right()) }
}

/// What `part` makes of parts of `items`, merged in a binary tree that is cut by their number alone: whole parts on the
/// left, so that only the last one is not full. Bits depend on `items_of_part`, but not on what runs in parallel.
pub(super) fn merged<M: Send>(
    items: Range<usize>,
    items_of_part: usize,
    elements_per_item: usize,
    part: &(impl Fn(Range<usize>) -> M + Sync),
    merge: &(impl Fn(M, M) -> M + Sync),
) -> M {
    let count = items.len();
    if count <= items_of_part {
        return part(items);
    }
    let middle = middle(&items, items_of_part);
    let (left, right) = both(
        count.saturating_mul(elements_per_item),
        || merged(items.start..middle, items_of_part, elements_per_item, part, merge),
        || merged(middle..items.end, items_of_part, elements_per_item, part, merge),
    );
    merge(left, right)
}

/// The same on this thread, from the first part to the last.
pub(super) fn merged_in_turn<M>(
    items: Range<usize>,
    items_of_part: usize,
    part: &mut impl FnMut(Range<usize>) -> M,
    merge: &impl Fn(M, M) -> M,
) -> M {
    if items.len() <= items_of_part {
        return part(items);
    }
    let middle = middle(&items, items_of_part);
    let left = merged_in_turn(items.start..middle, items_of_part, part, merge);
    let right = merged_in_turn(middle..items.end, items_of_part, part, merge);
    merge(left, right)
}

/// Where items are cut whose parts are merged.
fn middle(items: &Range<usize>, items_of_part: usize) -> usize {
    items.start + (items.len() / 2).next_multiple_of(items_of_part)
}

/// Calls `work` on chunks of `places` and the index of their first one, in parallel if that is worth it. All chunks but
/// the last are of `places_of_chunk`.
pub(super) fn for_each_chunk<P: Send>(
    places: &mut [P],
    first: usize,
    places_of_chunk: usize,
    elements_per_place: usize,
    work: &(impl Fn(usize, &mut [P]) + Sync),
) {
    if places.len() <= places_of_chunk {
        return work(first, places);
    }
    let elements = places.len().saturating_mul(elements_per_place);
    let middle = (places.len() / 2).next_multiple_of(places_of_chunk);
    let (left, right) = places.split_at_mut(middle);
    both(
        elements,
        || for_each_chunk(left, first, places_of_chunk, elements_per_place, work),
        || for_each_chunk(right, first + middle, places_of_chunk, elements_per_place, work),
    );
}
