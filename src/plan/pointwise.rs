//! The pointwise pattern: how a tensor is spread over threads. See kernels/pointwise.cu.

use super::kernels::{POINTWISE_CHANNELS_LAST, POINTWISE_PLANES, POINTWISE_TABLE};
use super::params::{self, ChannelTableParams, PointwiseParams};
use super::{Launch, Limits, Params, activation_code, coefficient_flags, divisor, output_code};
use crate::problem::{ChannelTable, Constants, Pointwise};

/// Threads that a multiprocessor of the big chips (sm_80, 90, 100) can hold; smaller ones hold 1,024 or 1,536 and get
/// a little more than they can keep at once.
const RESIDENT_THREADS: u64 = 2048;

pub(super) fn plan(map: &Pointwise, limits: &Limits) -> Option<Launch> {
    if map.length == 0 {
        return None;
    }
    let per_vector = (16 / map.dtype.size()) as u64;
    let vectors = (map.length as u64).div_ceil(per_vector);
    let block = params::WN_POINTWISE_THREADS;
    let (flags, eps) = match map.constants {
        Constants::Table => (0, 0.0),
        Constants::Statistics { weight, bias, eps } => (coefficient_flags(weight, bias), eps),
    };
    let (family, blocks, stride) = if map.spatial == 1 {
        let stride = channels_last_stride(map.channels as u64, per_vector, vectors, limits);
        (POINTWISE_CHANNELS_LAST, limits.grid(stride.min(vectors), u64::from(block)), stride)
    } else {
        (POINTWISE_PLANES, limits.grid(vectors, u64::from(block * params::WN_POINTWISE_VECTORS)), 0)
    };
    let params = PointwiseParams {
        length: map.length as u64,
        spatial: divisor(map.spatial as u64),
        channels: divisor(map.channels as u64),
        stride,
        activation: activation_code(map.activation),
        flags,
        eps,
        y_type: output_code(map.output, map.dtype),
        ..PointwiseParams::default()
    };
    Some(Launch::plain(family.of(map.dtype), blocks, block, Params::Pointwise(params)))
}

/// The vectors between a thread's vectors: a multiple of the fewest vectors that end where a pixel ends, so that a
/// thread always meets the same channels; and, within that, about as many as the device has threads.
fn channels_last_stride(channels: u64, per_vector: u64, vectors: u64, limits: &Limits) -> u64 {
    let period = channels / gcd(channels, per_vector);
    let threads = (u64::from(limits.multiprocessors) * RESIDENT_THREADS).min(vectors);
    period * (threads / period).max(1)
}

pub(super) fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

pub(super) fn plan_table(table: &ChannelTable, limits: &Limits) -> Option<Launch> {
    if table.channels == 0 {
        return None;
    }
    let block = params::WN_POINTWISE_THREADS;
    let grid = limits.grid(table.channels as u64, u64::from(block));
    let params = ChannelTableParams {
        channels: table.channels as u64,
        flags: coefficient_flags(table.weight, table.bias),
        eps: table.eps,
        ..ChannelTableParams::default()
    };
    Some(Launch::plain(POINTWISE_TABLE.of(table.dtype), grid, block, Params::ChannelTable(params)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::DType;
    use crate::norm::Activation;
    use crate::plan::MAX_GRID;
    use crate::plan::params::Kernel;

    use crate::plan::tests::H200;

    fn map(length: usize, channels: usize, spatial: usize) -> Pointwise {
        let (dtype, activation) = (DType::F16, Activation::None);
        Pointwise { dtype, output: dtype, length, channels, spatial, constants: Constants::Table, activation }
    }

    fn planned(problem: &Pointwise) -> (Launch, PointwiseParams) {
        let launch = plan(problem, &H200).unwrap();
        let Params::Pointwise(params) = launch.params else { panic!("pointwise plans pointwise") };
        (launch, params)
    }

    #[test]
    fn planes_are_covered() {
        for length in [1, 8191, 8192, 8193, 64 * 112 * 112, 1 << 33] {
            let (launch, params) = planned(&map(length, 1, length.max(2)));
            assert_eq!(launch.kernel, Kernel::pointwise_planes_f16);
            let tile = u64::from(launch.block * params::WN_POINTWISE_VECTORS) * 8;
            assert_eq!(u64::from(launch.grid), (length as u64).div_ceil(tile));
            assert_eq!(params.length, length as u64);
        }
        // Past the largest grid, blocks walk on.
        assert_eq!(planned(&map(1 << 46, 1, 2)).0.grid, MAX_GRID);
    }

    /// A thread's vectors lie whole pixels apart, and every vector has a thread.
    #[test]
    fn channels_last_strides() {
        for (channels, pixels) in
            [(3, 1000), (64, 50_000), (2048, 49), (70_001, 2), (1, 1 << 33), (5, 1), (320, 1 << 25)]
        {
            let length = channels * pixels;
            let (launch, params) = planned(&map(length, channels, 1));
            assert_eq!(launch.kernel, Kernel::pointwise_channels_last_f16);
            assert_eq!(params.stride * 8 % channels as u64, 0, "{channels}");
            let vectors = (length as u64).div_ceil(8);
            assert!(u64::from(launch.grid) * u64::from(launch.block) >= params.stride.min(vectors), "{channels}");
        }
    }

    #[test]
    fn an_output_of_another_type() {
        for spatial in [1, 9] {
            let type_of = |output| planned(&Pointwise { output, ..map(36, 4, spatial) }).1.y_type;
            assert_eq!(type_of(DType::F16), params::WN_ELEMENT_AS_INPUT);
            assert_eq!(type_of(DType::F32), params::WN_ELEMENT_F32);
        }
    }

    #[test]
    fn nothing_to_do() {
        assert_eq!(plan(&map(0, 4, 9), &H200), None);
        assert_eq!(plan_table(&table(DType::F32, 0), &H200), None);
    }

    fn table(dtype: DType, channels: usize) -> ChannelTable {
        ChannelTable { dtype, channels, weight: Some(dtype), bias: Some(DType::F32), eps: 0.0 }
    }

    #[test]
    fn the_table_is_made_by_the_instance_of_the_narrow_coefficient() {
        let planned = |dtype| plan_table(&table(dtype, 300), &H200).unwrap();
        assert_eq!(planned(DType::F32).kernel, Kernel::pointwise_table_f32);
        assert_eq!(planned(DType::Bf16).kernel, Kernel::pointwise_table_bf16);
        assert_eq!((planned(DType::F16).kernel, planned(DType::F16).grid), (Kernel::pointwise_table_f16, 2));
    }
}
