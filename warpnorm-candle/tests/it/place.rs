//! Where tests run.

use candle_core::{Device, Result};

/// A device, for as long as a test needs it.
pub trait Place {
    fn device(&self) -> &Device;

    /// Whether candle's own kernels run there: on the emulated driver they do not.
    fn runs_candle(&self) -> bool;
}

pub struct Cpu;

impl Place for Cpu {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn runs_candle(&self) -> bool {
        true
    }
}

/// Runs a test on every device there is.
pub fn everywhere(mut test: impl FnMut(&dyn Place) -> Result<()>) -> Result<()> {
    test(&Cpu)?;
    #[cfg(feature = "cuda")]
    crate::cuda::gpu().under_schedules(|gpu| test(gpu))?;
    Ok(())
}
