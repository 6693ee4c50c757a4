//! `warpnorm info`.

use std::fmt::Write;

use warpnorm::Cuda;

/// What this build and this machine can do.
pub fn text() -> String {
    let mut text = format!("warpnorm {}\n", env!("CARGO_PKG_VERSION"));
    let mut put = |name: &str, what: &str| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{name:9}{what}");
    };
    match Cuda::architectures() {
        Ok(architectures) => put("kernels", architectures),
        Err(error) => put("kernels", &format!("none: {error}")),
    }
    match Cuda::driver() {
        Ok((devices, version)) => {
            put("driver", &format!("CUDA {version}"));
            for ordinal in 0..devices {
                let device = Cuda::open(ordinal).and_then(|cuda| cuda.device_name());
                put(&format!("device {ordinal}"), &device.unwrap_or_else(|error| format!("not usable: {error}")));
            }
            if devices == 0 {
                put("devices", "none: the driver has no CUDA device");
            }
        }
        Err(error) => put("driver", &format!("none: {error}")),
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    put("CPU", &format!("{}, {threads} threads, {}", std::env::consts::ARCH, features().join(" ")));
    text
}

/// The vector instructions that the CPU has, of those that matter here.
fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("sse4.2", std::arch::is_x86_feature_detected!("sse4.2")),
        ("avx", std::arch::is_x86_feature_detected!("avx")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(target_arch = "aarch64")]
    let features = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let features: [(&str, bool); 0] = [];
    features.into_iter().filter(|&(_, has)| has).map(|(name, _)| name).collect()
}
