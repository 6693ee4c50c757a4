//! warpnorm's errors as candle's.

use candle_core::Error;

/// What concerns the driver, the device or the kernels is candle's `Cuda`, from which it can be downcast.
pub(crate) fn refused(error: warpnorm::Error) -> Error {
    use warpnorm::Error as E;
    match error {
        E::NoDriver
        | E::NoDevice { .. }
        | E::NoContext
        | E::Context
        | E::OldDriver { .. }
        | E::NoKernels { .. }
        | E::Architecture { .. }
        | E::NoKernel { .. }
        | E::Driver { .. } => Error::Cuda(Box::new(error)).bt(),
        _ => Error::wrap(error),
    }
}
