//! The pointwise pattern: how a tensor is spread over threads. See kernels/pointwise.cu.

use super::kernels::{CHANNEL_TABLE, POINTWISE_CHANNELS_LAST, POINTWISE_PLANES};
use super::params::{self, ChannelTableParams, PointwiseParams};
use super::{Launch, Limits, Params, activation_code, coefficient_flags, divisor, grid};
use crate::element::DType;
use crate::problem::{ChannelTable, Constants, Pointwise};

/// Threads that a multiprocessor can hold at most, on every chip of the list but sm_75 (1,024) and the sm_8x without
/// an HBM (1,536).
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
        (POINTWISE_CHANNELS_LAST, grid(stride.min(vectors), u64::from(block)), stride)
    } else {
        (POINTWISE_PLANES, grid(vectors, u64::from(block * params::WN_POINTWISE_VECTORS)), 0)
    };
    Some(Launch {
        kernel: family.of(map.dtype),
        grid: blocks,
        block,
        params: Params::Pointwise(PointwiseParams {
            length: map.length as u64,
            spatial: divisor(map.spatial as u64),
            channels: divisor(map.channels as u64),
            stride,
            activation: activation_code(map.activation),
            flags,
            eps,
            ..PointwiseParams::default()
        }),
    })
}

/// The vectors between a thread's vectors: a multiple of the fewest vectors that end where a pixel ends, so that a
/// thread always meets the same channels; and, within that, about as many as the device has threads.
fn channels_last_stride(channels: u64, per_vector: u64, vectors: u64, limits: &Limits) -> u64 {
    let period = channels / gcd(channels, per_vector);
    let threads = (u64::from(limits.multiprocessors) * RESIDENT_THREADS).min(vectors);
    period * (threads / period).max(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

pub(super) fn plan_table(table: &ChannelTable) -> Option<Launch> {
    if table.channels == 0 {
        return None;
    }
    // The instance is that of the coefficient which is not f32, if there is one.
    let coefficients = [table.weight, table.bias];
    let dtype = coefficients.into_iter().flatten().find(|&dtype| dtype != DType::F32).unwrap_or(DType::F32);
    let block = params::WN_POINTWISE_THREADS;
    Some(Launch {
        kernel: CHANNEL_TABLE.of(dtype),
        grid: grid(table.channels as u64, u64::from(block)),
        block,
        params: Params::ChannelTable(ChannelTableParams {
            channels: table.channels as u64,
            flags: coefficient_flags(table.weight, table.bias),
            eps: table.eps,
            ..ChannelTableParams::default()
        }),
    })
}
