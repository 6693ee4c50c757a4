//! What the fuzz targets share.

pub mod graph;
#[path = "../../tests/models/seeds.rs"]
pub mod seeds;
pub mod state_dict;
#[path = "../../tests/models/writer.rs"]
pub mod writer;

use std::{alloc::System, sync::Once};

use cap::Cap;

/// The bytes that may be allocated at any time. The longest input of `scripts/fuzz` has 4 KiB; an array of the evaluator may
/// have 2 MiB, and these are a few of them. libFuzzer's own limits look at its own memory too, and only once a second.
const MOST_BYTES: usize = 64 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MOST_BYTES);

/// Has all of a target's work done by the thread that calls it, so that a run can be repeated.
pub fn on_one_thread() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().expect("no pool before");
    });
}
