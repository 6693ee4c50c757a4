//! Correct kernels give correct results under every schedule.

mod harness;

use emulator::{Schedule, Settings, Variant};
use harness::Device;

#[test]
fn correct_kernels() {
    let device = Device::open(Variant::Plain);
    for seed in 0..10 {
        let schedule = if seed % 2 == 0 { Schedule::LockStep } else { Schedule::RunAhead };
        let settings =
            Settings { seed, schedule, lazy_streams: seed != 3, threads: seed as usize % 3, ..Default::default() };
        device.emulator.configure(&settings);
        harness::correct::all(&device);
        assert_eq!(device.emulator.report(), "", "{settings:?}");
    }
}
