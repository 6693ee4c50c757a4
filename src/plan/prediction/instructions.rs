//! How many instructions a warp runs, by kernel.
//!
//! Counted by hand from what `scripts/shortest-ways` finds in the machine code of sm_90 (nvcc 13.0.88, 2026-11-25): the
//! shortest way through each kernel, and through each of its loops, that makes the 128-bit loads and stores, the shuffles
//! and the divisions that must be made. What is called out of line, and what f32 takes where only 16 bits were counted, is
//! estimated. The record of machine code does not have these numbers: where kernels change, they have to be counted anew.
//!
//! Those of `rows_any_shared`, `rows_long` and `head_rows_*` are the operations of the source, vector by vector: in their loops a
//! lane without a vector steps over what the others do, so the shortest way is none that a warp takes. Those of `rows_group_*`,
//! `rows_shared` and `fused_rows_shared` are what warps execute (`scripts/executed-instructions`, rows of 128 and of 4,096
//! elements), and those of `channels_last_moments` and `channels_last_resident` the lengths
//! of its loops (2026-11-28).

use super::cells::case::Around;
use crate::element::DType;
use crate::norm::Activation;

/// A warp's instructions. A vector is 16 bytes of each lane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Instructions {
    /// And, behind a comma, which of its launches.
    pub kernel: &'static str,
    /// Of a 16-bit type, and of f32.
    pub of_width: [OfWidth; 2],
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OfWidth {
    /// Once a row, or once a block of a kernel without rows.
    pub once: f64,
    /// Each vector, all of the following aside.
    pub vector: f64,
    /// The mean of a vector, which RMSNorm does without.
    pub mean: f64,
    /// Of weight and bias each.
    pub coefficient: f64,
    /// A residual added, and the sum written.
    pub residual: f64,
}

const fn of(kernel: &'static str, narrow: [f64; 5], wide: [f64; 5]) -> Instructions {
    const fn of_width([once, vector, mean, coefficient, residual]: [f64; 5]) -> OfWidth {
        OfWidth { once, vector, mean, coefficient, residual }
    }
    Instructions { kernel, of_width: [of_width(narrow), of_width(wide)] }
}

pub const ALL: &[Instructions] = &[
    of("rows_group_16", [174.0, 40.0, 44.0, 12.0, 25.0], [174.0, 18.0, 22.0, 4.0, 10.0]),
    of("rows_group_32", [174.0, 40.0, 44.0, 12.0, 25.0], [174.0, 18.0, 22.0, 4.0, 10.0]),
    of("rows_any_shared", [200.0, 48.0, 52.0, 12.0, 25.0], [186.0, 22.0, 26.0, 4.0, 10.0]),
    of("rows_shared", [273.0, 50.0, 36.0, 12.0, 25.0], [273.0, 26.0, 18.0, 4.0, 12.0]),
    of("rows_long, moments", [150.0, 34.0, 40.0, 0.0, 25.0], [150.0, 16.0, 20.0, 0.0, 10.0]),
    of("rows_long, apply", [300.0, 50.0, 0.0, 12.0, 25.0], [300.0, 26.0, 0.0, 4.0, 10.0]),
    of("fused_rows_group_16", [250.0, 190.0, 60.0, 30.0, 50.0], [220.0, 130.0, 25.0, 22.0, 40.0]),
    of("fused_rows_shared", [400.0, 72.0, 34.0, 17.0, 47.0], [400.0, 38.0, 18.0, 8.0, 24.0]),
    of("fused_rows_any_shared", [370.0, 225.0, 58.0, 20.0, 60.0], [350.0, 150.0, 25.0, 20.0, 45.0]),
    of("fused_rows_long, moments", [120.0, 105.0, 58.0, 0.0, 25.0], [120.0, 55.0, 25.0, 0.0, 20.0]),
    of("fused_rows_long, apply", [400.0, 104.0, 0.0, 20.0, 50.0], [400.0, 92.0, 0.0, 18.0, 40.0]),
    of("head_rows_group_16", [220.0, 60.0, 40.0, 17.0, 0.0], [200.0, 32.0, 20.0, 8.0, 0.0]),
    of("pointwise_planes", [140.0, 62.0, 0.0, 0.0, 35.0], [140.0, 45.0, 0.0, 0.0, 25.0]),
    of("pointwise_channels_last", [330.0, 59.0, 0.0, 0.0, 35.0], [280.0, 42.0, 0.0, 0.0, 25.0]),
    of("channels_last_moments", [550.0, 44.0, 0.0, 0.0, 0.0], [500.0, 24.0, 0.0, 0.0, 0.0]),
    of("channels_last_apply", [450.0, 44.0, 0.0, 0.0, 0.0], [400.0, 26.0, 0.0, 0.0, 0.0]),
    of("channels_last_resident", [1700.0, 97.0, 0.0, 0.0, 35.0], [1500.0, 60.0, 0.0, 0.0, 25.0]),
    of("batch_statistics_planes", [300.0, 55.0, 0.0, 0.0, 25.0], [300.0, 38.0, 0.0, 0.0, 20.0]),
    of("batch_statistics_planes_resident", [500.0, 125.0, 0.0, 0.0, 35.0], [500.0, 90.0, 0.0, 0.0, 25.0]),
    of("probe_copy_1", [30.0, 6.0, 0.0, 0.0, 0.0], [30.0, 6.0, 0.0, 0.0, 0.0]),
    of("probe_copy_4", [30.0, 6.0, 0.0, 0.0, 0.0], [30.0, 6.0, 0.0, 0.0, 0.0]),
    of("probe_read_4", [30.0, 6.0, 0.0, 0.0, 0.0], [30.0, 6.0, 0.0, 0.0, 0.0]),
];

/// Of a vector of one channel in `rows_*`: to find its channel, and, where a loop does not keep the last one's, for weight and
/// bias each.
pub const CHANNEL: f64 = 10.0;
pub const OF_CHANNEL: f64 = 10.0;

/// Of an element, what a channel's map saves beside a norm, a weight and a bias.
pub const SAVED_BY_MAP: f64 = 2.0;

/// Of an element of planes that end inside vectors.
pub const OVER_END: f64 = 4.8;

/// Of a vector that is no aligned 16-byte word: the call that loads it and the call that stores it.
pub const IRREGULAR: f64 = 170.0;

pub fn of_kernel(stem: &str, dtype: DType) -> OfWidth {
    let all = ALL.iter().find(|instructions| instructions.kernel == stem);
    let all = all.unwrap_or_else(|| panic!("{stem}: its instructions are not counted in prediction/instructions.rs"));
    all.of_width[usize::from(dtype == DType::F32)]
}

/// Of an element, and so of each of a lane's.
pub const fn of_activation(activation: Activation) -> f64 {
    match activation {
        Activation::None => 0.0,
        Activation::Relu => 2.0,
        Activation::Silu => 5.0,
        Activation::Gelu => 15.0,
        Activation::GeluTanh => 7.0,
    }
}

/// Likewise, coefficients aside: two more sweeps and the arithmetic of a norm; and a product, a conversion and a maximum.
pub const fn of_around(around: Around) -> f64 {
    match around {
        Around::Nothing | Around::Modulated { .. } => 0.0,
        Around::PostNorm => 16.0,
        Around::Quantized(_) => 5.0,
    }
}

/// What is counted is a kernel of the crate or of the probe.
#[test]
fn no_kernel_is_listed_that_is_gone() {
    use crate::plan::params::KERNEL_NAMES;
    for Instructions { kernel, .. } in ALL {
        let stem = kernel.split(',').next().unwrap();
        let is_of = |name: &&std::ffi::CStr| name.to_str().unwrap() == format!("{stem}_f32");
        assert!(kernel.starts_with("probe_") || KERNEL_NAMES.iter().any(is_of), "{kernel}");
    }
}
