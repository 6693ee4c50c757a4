//! The CUDA side: a GPU, or the emulated driver (`scripts/cargo-on-emulator test`). There must be one.

mod calls;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use candle_core::{Device, Result};
use emulator::{Emulator, Schedule, Settings, Variant};

use crate::place::Place;

/// The device, for one test at a time: the emulator's settings belong to the process.
pub struct Gpu {
    device: Device,
    pub emulator: Option<&'static Emulator>,
    _turn: MutexGuard<'static, ()>,
}

/// Loads the emulator where there is no GPU, once.
fn emulator() -> Option<&'static Emulator> {
    static CHOICE: OnceLock<Option<&'static Emulator>> = OnceLock::new();
    *CHOICE.get_or_init(|| {
        let is_checked = std::env::var_os("WARPNORM_EMULATOR").is_some_and(|value| value == "checked");
        let variant = if is_checked { Variant::Checked } else { Variant::Plain };
        (!emulator::real_gpu()).then(|| emulator::preload(variant))
    })
}

/// Waits for the device's turn and opens it.
pub fn gpu() -> Gpu {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let emulator = emulator();
    if let Some(emulator) = emulator {
        emulator.reset();
        emulator.configure(&Settings::default());
    }
    Gpu { device: Device::new_cuda(0).expect("a CUDA device, real or emulated"), emulator, _turn: turn }
}

impl Gpu {
    /// Runs `test` under each schedule of threads and streams that the device knows.
    pub fn under_schedules(&self, mut test: impl FnMut(&Self) -> Result<()>) -> Result<()> {
        let Some(emulator) = self.emulator else { return test(self) };
        for (seed, schedule) in [(1, Schedule::RunAhead), (0, Schedule::LockStep)] {
            emulator.configure(&Settings { seed, schedule, ..Settings::default() });
            test(self)?;
        }
        Ok(())
    }
}

impl Place for Gpu {
    fn device(&self) -> &Device {
        &self.device
    }

    fn runs_candle(&self) -> bool {
        self.emulator.is_none()
    }
}

impl Drop for Gpu {
    /// A report of the emulator is a failure.
    fn drop(&mut self) {
        if let Some(report) = self.emulator.map(Emulator::take_report).filter(|report| !report.is_empty()) {
            eprintln!("the emulator reports: {report}");
            assert!(std::thread::panicking(), "the emulator reports: {report}");
        }
    }
}
