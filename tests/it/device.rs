//! The CUDA device under test: a GPU where there is one, else the emulator. Both run the same tests.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use emulator::{Emulator, Schedule, Settings, Variant};
use warpnorm::Cuda;

/// If it is set, tests take the emulator though there be a GPU; if to `checked`, that which checks every access (see
/// `checked.rs`).
pub const VARIANT: &str = "WARPNORM_EMULATOR";

/// The device, for one test at a time: the emulator's settings belong to the process.
pub struct Device {
    pub cuda: Cuda,
    pub emulator: Option<&'static Emulator>,
    _turn: MutexGuard<'static, ()>,
}

/// Loads the emulator where there is no GPU, once, before the first CUDA call of the process.
fn emulator() -> Option<&'static Emulator> {
    static CHOICE: OnceLock<Option<&'static Emulator>> = OnceLock::new();
    *CHOICE.get_or_init(|| {
        let choice = if emulator::real_gpu() {
            None
        } else {
            assert!(
                std::env::var_os("WARPNORM_REQUIRE_GPU").is_none_or(|value| value != "1"),
                "WARPNORM_REQUIRE_GPU=1, and there is no GPU: the emulator is not enough"
            );
            Some(emulator::preload(variant()))
        };
        let name = Cuda::open(0).and_then(|cuda| cuda.device_name()).unwrap_or_else(|error| error.to_string());
        match choice {
            None => println!("CUDA tests run on {name}"),
            Some(emulator) => println!("CUDA tests run on the emulator ({:?}): {name}", emulator.variant()),
        }
        choice
    })
}

pub fn variant() -> Variant {
    if std::env::var_os(VARIANT).is_some_and(|value| value == "checked") { Variant::Checked } else { Variant::Plain }
}

/// Waits for the device's turn and opens it.
pub fn cuda() -> Device {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let emulator = emulator();
    if let Some(emulator) = emulator {
        emulator.reset();
        emulator.configure(&Settings::default());
    }
    Device { cuda: Cuda::open(0).expect("a CUDA device, real or emulated"), emulator, _turn: turn }
}

/// What the kernels were launched, or captured, so far: how often in all, and how often by programmatic dependent launch.
pub fn launches(emulator: &Emulator) -> [u64; 2] {
    let kernels = emulator.kernels();
    [kernels.iter().map(|at| at.launches).sum(), kernels.iter().map(|at| at.programmatic_launches).sum()]
}

impl Device {
    /// Runs `test` under each schedule of threads and streams that the device knows: lock step and a random order on the
    /// emulator, its own on a GPU. The checked emulator needs one only: it reports a race in whatever order.
    pub fn under_schedules(&self, mut test: impl FnMut(&Cuda)) {
        let Some(emulator) = self.emulator else { return test(&self.cuda) };
        let schedules = [(1, Schedule::RunAhead), (0, Schedule::LockStep)];
        let count = if emulator.variant() == Variant::Checked { 1 } else { schedules.len() };
        for (seed, schedule) in schedules.into_iter().take(count) {
            emulator.configure(&Settings { seed, schedule, ..Settings::default() });
            test(&self.cuda);
        }
    }
}

impl Drop for Device {
    /// Whatever the test itself looked at: a report of the emulator is a failure.
    fn drop(&mut self) {
        if let Some(report) = self.emulator.map(Emulator::take_report).filter(|report| !report.is_empty()) {
            eprintln!("the emulator reports: {report}");
            assert!(std::thread::panicking(), "the emulator reports: {report}");
        }
    }
}
