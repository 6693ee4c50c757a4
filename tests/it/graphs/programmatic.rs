//! Programmatic dependent launch: each operation's kernels may begin before those before them have finished, in a stream and in
//! a graph, and every replay has the bits of a plain call.

use warpnorm::half::{bf16, f16};

use super::operations::{Pool, works};
use super::{Branch, Player, expected, replays, streams, under_seeds};
use crate::device;
use crate::place::Real;

/// All operations one after another, and again, so that each finds another one's kernels before it, and next to no time
/// between them.
fn one_after_another<T: Real>(device: &device::Device) {
    let [plain] = streams(&device.cuda);
    let cuda = plain.clone().programmatic_launch(true);
    let (works, pool, replays) = (works(), Pool::<T>::new(), replays(device.emulator).min(10));
    let branch = |cuda| vec![Branch::new(cuda, &pool, &works, replays)];
    let expected = expected(branch(&plain), replays);
    under_seeds(device.emulator, 0..2, || {
        let before = device.emulator.map(device::launches);
        let called = Player::new(branch(&cuda), replays).play_all();
        let captured = Player::captured(branch(&cuda), replays).play_all();
        let after = device.emulator.map(device::launches);
        called.assert_same(&expected);
        captured.assert_same(&expected);
        if let (Some(before), Some(after)) = (before, after) {
            let [all, programmatic] = [0, 1].map(|at| after[at] - before[at]);
            assert!(all > works.len() as u64 && programmatic == all, "{programmatic} of {all} launches");
        }
    });
}

#[test]
fn programmatic_launches_on_cuda() {
    let device = device::cuda();
    one_after_another::<f16>(&device);
    one_after_another::<bf16>(&device);
}
