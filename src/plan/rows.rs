//! The rows pattern: which regime holds a row. See kernels/rows.cu for what each does.

use super::kernels::{
    Family, ROWS_BLOCK_32X512, ROWS_BLOCK_32X1024, ROWS_GROUP_8, ROWS_GROUP_16, ROWS_GROUP_32, ROWS_STREAM,
};
use super::params::{self, RowsParams};
use super::{Launch, Params, activation_code, coefficient_flags, divisor, grid};
use crate::problem::{Affine, Moments, Rows};

const WARP: usize = params::WN_WARP as usize;
const BLOCK: usize = params::WN_ROWS_BLOCK_THREADS as usize;
const WIDE_BLOCK: usize = params::WN_ROWS_WIDE_BLOCK_THREADS as usize;
/// Elements that a thread of the block regimes holds.
const HELD: usize = 32;

/// Who holds a row.
struct Regime {
    family: Family,
    /// Threads of a block.
    block: u32,
    /// Threads that share a row.
    lanes: u32,
}

impl Regime {
    /// By the row's length alone.
    fn of(length: usize) -> Self {
        let group = |family, lanes: usize| Self {
            family,
            block: params::WN_ROWS_GROUP_THREADS,
            lanes: lanes as u32, // at most 32
        };
        let block = |family| {
            let threads = length.div_ceil(HELD).next_multiple_of(WARP) as u32; // at most 1024
            Self { family, block: threads, lanes: threads }
        };
        match length {
            0..=256 => group(ROWS_GROUP_8, length.div_ceil(8).next_power_of_two()),
            257..=512 => group(ROWS_GROUP_16, WARP),
            513..=1024 => group(ROWS_GROUP_32, WARP),
            _ if length <= HELD * BLOCK => block(ROWS_BLOCK_32X512),
            _ if length <= HELD * WIDE_BLOCK => block(ROWS_BLOCK_32X1024),
            _ => {
                let threads = params::WN_ROWS_STREAM_THREADS;
                Self { family: ROWS_STREAM, block: threads, lanes: threads }
            }
        }
    }
}

pub(super) fn plan(rows: &Rows) -> Option<Launch> {
    if rows.rows == 0 || rows.length == 0 {
        return None;
    }
    let regime = Regime::of(rows.length);
    let mut flags = coefficient_flags(rows.weight, rows.bias);
    if rows.weight_plus_one {
        flags |= params::WN_FLAG_WEIGHT_PLUS_ONE;
    }
    if rows.moments == Moments::MeanSquare {
        flags |= params::WN_FLAG_MEAN_SQUARE;
    }
    let (affine, groups, channels_per_group, spatial) = match rows.affine {
        Affine::PerElement => (params::WN_AFFINE_PER_ELEMENT, 1, 0, 1),
        Affine::PerChannel { groups, channels_per_group, spatial } => {
            (params::WN_AFFINE_PER_CHANNEL, groups as u64, channels_per_group as u64, spatial as u64)
        }
    };
    let rows_per_block = u64::from(regime.block / regime.lanes);
    Some(Launch {
        kernel: regime.family.of(rows.dtype),
        grid: grid(rows.rows as u64, rows_per_block),
        block: regime.block,
        params: Params::Rows(RowsParams {
            rows: rows.rows as u64,
            length: rows.length as u64,
            x_stride: rows.x_stride as u64,
            residual_stride: rows.residual_stride as u64,
            sum_stride: rows.sum_stride as u64,
            y_stride: rows.y_stride as u64,
            spatial: divisor(spatial),
            groups: divisor(groups),
            channels_per_group,
            lanes: regime.lanes,
            affine,
            activation: activation_code(rows.activation),
            flags,
            eps: rows.eps,
            ..RowsParams::default()
        }),
    })
}
