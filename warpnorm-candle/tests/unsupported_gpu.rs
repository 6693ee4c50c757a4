//! A GPU that warpnorm has no kernels for, in a process of its own: kernels are loaded once a context.

use candle_core::{Device, Error, Tensor};
use emulator::{Profile, Settings, Variant};
use warpnorm_candle::{Module as _, RmsNorm};

#[test]
fn is_an_error_that_can_be_told_from_others() {
    if emulator::real_gpu() {
        return println!("a GPU cannot be older than it is");
    }
    let is_checked = std::env::var_os("WARPNORM_EMULATOR").is_some_and(|value| value == "checked");
    let emulator = emulator::preload(if is_checked { Variant::Checked } else { Variant::Plain });
    emulator.configure(&Settings { profile: Profile::Sm61, ..Settings::default() });

    let device = Device::new_cuda(0).expect("an old GPU");
    let x = Tensor::new(&[[1.0_f32, 2.0]], &device).expect("memory");
    let norm = RmsNorm::new(Tensor::new(&[1.0_f32, 1.0], &device).expect("memory"), 1e-5);
    for _ in 0..2 {
        let error = match norm.forward(&x).expect_err("no kernels") {
            Error::WithBacktrace { inner, .. } => *inner,
            error => error,
        };
        let Error::Cuda(error) = error else { panic!("{error}") };
        let error = error.downcast_ref::<warpnorm::Error>().expect("warpnorm's error");
        // The latter where warpnorm was built without nvcc, and so for no GPU at all.
        assert!(matches!(error, warpnorm::Error::Architecture { .. } | warpnorm::Error::NoKernels { .. }), "{error}");
    }
    assert_eq!(x.to_vec2::<f32>().expect("a usable stream"), [[1.0, 2.0]]);
    let report = emulator.take_report();
    assert!(report.lines().all(|line| line.ends_with("cannot load the image")), "{report}");
}
