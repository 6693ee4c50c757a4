//! The rows pattern: which regime holds a row. See kernels/rows.cuh for what each does.

use super::kernels::{self, Family};
use super::params::{self, RowsParams};
use super::slabs::{BYTES_OF_MOMENTS, workspace};
use super::{
    Launch, Limits, Params, Plan, activation_code, coefficient_flags, divisor, modulation_flags, output_code,
    quantized_code, short_divisor,
};
use crate::element::DType;
use crate::norm::{Activation, Rounding};
use crate::problem::{Affine, Moments, Output, Rows};
use crate::quantization::{GROUP, Scaling};

const WARP: u32 = params::WN_WARP;
const CHUNK: u64 = params::WN_CHUNK as u64;
/// Warps of a block that holds its part of a row in shared memory, at most.
const MOST_WARPS: u32 = 16;
/// Warps of a block of which each has a row of one chunk in shared memory, whole vectors all: few, so that blocks with a
/// residual are not too large for several of them.
const WARPS_OF_GROUP: u32 = 4;
/// Blocks for a multiprocessor where rows are split, and warps of each.
const BLOCKS_OF_SPLIT_ROWS: u64 = 8;
const WARPS_OF_LONG_ROW: u32 = params::WN_ROWS_LONG_THREADS / WARP;
/// What the warps of a block can merge.
const MOST_LEAVES_OF_SPLIT: u64 = (params::WN_ROWS_LEAVES * params::WN_ROWS_SUBTREES) as u64;
/// Of shared memory, the driver keeps so much for each block.
const KEPT_BY_DRIVER: u32 = 1024;

/// Which kernels will do for some rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernels {
    /// rows.cu: nothing around the norm but what most calls have.
    Plain,
    /// fused_batches.cuh: anything around it, but whole vectors of tensors that begin on 16-byte boundaries, and weight and
    /// bias by the position.
    Whole,
    /// fused_rows.cuh
    Any,
}

impl Kernels {
    fn of(rows: &Rows) -> Self {
        match (has_whole_vectors(rows), rows.affine) {
            (true, _) if !rows.is_fused() => Self::Plain,
            (true, Affine::PerElement { .. }) => Self::Whole,
            _ => Self::Any,
        }
    }
}

/// Who holds a row. What a row's bits are is not decided here: every regime walks the same tree over the same chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Regime {
    family: Family,
    /// Threads of a block.
    block: u32,
    /// Threads of a block that share a row.
    lanes: u32,
    /// Blocks that share a row.
    cluster: u32,
    /// Bytes of shared memory.
    shared: u32,
    /// A warp has 2^this chunks of a row.
    leaf_shift: u32,
    /// Of the shared memory, 16-byte words in front of the chunks.
    parts_words: u32,
}

impl Regime {
    /// By the row's length, by how many bytes of it an element takes where it is held, and by the device.
    fn of(rows: &Rows, kernels: Kernels, limits: &Limits) -> Self {
        let length = rows.length as u64;
        let chunks = length.div_ceil(CHUNK);
        let mut lanes = length.div_ceil(16).next_power_of_two().min(u64::from(WARP));
        if length > GROUP as u64 && matches!(rows.output.scaling(), Some(Scaling::Groups | Scaling::GroupsByColumn)) {
            // A scale's group is a vector of each of so many lanes, which have the same row.
            lanes = lanes.max((GROUP * rows.dtype.size() / 16) as u64);
        }
        match (kernels, length) {
            (Kernels::Plain, 0..=512) => Self::group(kernels::ROWS_GROUP_16, lanes),
            (Kernels::Plain, 513..=CHUNK) => Self::group(kernels::ROWS_GROUP_32, lanes),
            (Kernels::Whole | Kernels::Any, 0..=256) => Self::group(kernels::FUSED_ROWS_GROUP_16, lanes),
            (Kernels::Whole, 257..=CHUNK) => {
                let shared = WARPS_OF_GROUP * size_of_chunk(rows, kernels) as u32; // at most 32 KiB
                Self { shared, lanes: WARP, ..Self::block(kernels::FUSED_ROWS_SHARED, WARPS_OF_GROUP * WARP, 0) }
            }
            // Whole vectors with a residual take more room than the others, who may so have it where they have not.
            _ => Self::shared(rows, kernels, chunks, limits)
                .or_else(|| {
                    if kernels == Kernels::Whole { Self::shared(rows, Kernels::Any, chunks, limits) } else { None }
                })
                .unwrap_or_else(|| Self::long(chunks, size_of_chunk(rows, Kernels::Any))),
        }
    }

    fn group(family: Family, lanes: u64) -> Self {
        // At most 32 lanes.
        Self { lanes: lanes as u32, ..Self::block(family, params::WN_ROWS_GROUP_THREADS, 0) }
    }

    fn block(family: Family, threads: u32, leaf_shift: u32) -> Self {
        Self { family, block: threads, lanes: threads, cluster: 1, shared: 0, leaf_shift, parts_words: 0 }
    }

    fn long(chunks: u64, bytes_of_chunk: u64) -> Self {
        let leaf_shift = chunks.div_ceil(u64::from(params::WN_ROWS_LEAVES)).next_power_of_two().ilog2();
        let shared = WARPS_OF_LONG_ROW * bytes_of_chunk as u32; // at most 32 KiB
        Self { shared, ..Self::block(kernels::FUSED_ROWS_LONG, params::WN_ROWS_LONG_THREADS, leaf_shift) }
    }

    /// As many blocks in a cluster as make room, at first for three of them on a multiprocessor: while one waits for its
    /// cluster, the others move bytes; and for so many warps as registers allow, of which none has more than two chunks: with
    /// four chunks for each of half as many warps, rows of 32,768 took 1.4 times as long (H200).
    fn shared(rows: &Rows, kernels: Kernels, chunks: u64, limits: &Limits) -> Option<Self> {
        let (family, threads) = match kernels {
            Kernels::Plain if is_usual(rows) => (kernels::ROWS_SHARED, params::WN_ROWS_SHARED_THREADS),
            Kernels::Plain => (kernels::ROWS_ANY_SHARED, params::WN_ROWS_ANY_SHARED_THREADS),
            Kernels::Whole => (kernels::FUSED_ROWS_SHARED, params::WN_FUSED_ROWS_SHARED_THREADS),
            Kernels::Any => (kernels::FUSED_ROWS_ANY_SHARED, params::WN_FUSED_ROWS_THREADS),
        };
        let bytes_of_chunk = size_of_chunk(rows, kernels);
        for blocks in [3, 2, 1] {
            let room = ((limits.shared + KEPT_BY_DRIVER) / blocks).saturating_sub(KEPT_BY_DRIVER);
            let warps = u64::from((threads / WARP / blocks).min(MOST_WARPS));
            let clusters = (0..).map(|power| 1 << power).take_while(|&cluster| cluster <= limits.cluster);
            for cluster in clusters {
                let regime = Self::sharing(family, chunks, bytes_of_chunk, cluster, warps);
                let suits = |regime: &Self| regime.shared <= room && (blocks < 3 || regime.leaf_shift <= 1);
                if let Some(regime) = regime.filter(suits) {
                    return Some(regime);
                }
            }
        }
        None
    }

    /// A row in the shared memory of so many blocks of at most so many warps; `None` if that is more than 4 GiB.
    fn sharing(family: Family, chunks: u64, bytes_of_chunk: u64, cluster: u32, most_warps: u64) -> Option<Self> {
        let leaf = chunks.div_ceil(u64::from(cluster) * most_warps).next_power_of_two();
        let warps = chunks.div_ceil(leaf).div_ceil(u64::from(cluster));
        let parts = 2 * u64::from(cluster) * warps * BYTES_OF_MOMENTS;
        let parts_words = parts.div_ceil(16) + 1; // and what the row is normalized by
        let shared = parts_words * 16 + (warps * leaf).checked_mul(bytes_of_chunk)?;
        Some(Self {
            cluster,
            shared: u32::try_from(shared).ok()?,
            parts_words: parts_words as u32, // at most 641
            ..Self::block(family, warps as u32 * WARP, leaf.ilog2())
        })
    }

    /// Blocks of a launch.
    fn grid(&self, rows: &Rows, limits: &Limits) -> u32 {
        // Whole clusters, also where the largest grid is none.
        let clusters = Limits { max_grid: (limits.max_grid / self.cluster).max(1), ..*limits };
        clusters.grid(rows.rows as u64, u64::from(self.block / self.lanes)) * self.cluster
    }
}

/// Whether every row that begins on a 16-byte boundary ends with a vector, and so do those that follow it, and all of a vector
/// is of one channel. (A channel's number has 31 bits there, and so has a place in a row that has channels.)
fn has_whole_vectors(rows: &Rows) -> bool {
    let vector = 16 / rows.dtype.size();
    let is_of_one_channel = match rows.affine {
        Affine::PerElement { .. } => true,
        Affine::PerChannel { groups, channels_per_group, spatial } => {
            let is_short = |number| i32::try_from(number).is_ok();
            spatial.is_multiple_of(vector) && is_short(groups * channels_per_group) && is_short(rows.length)
        }
    };
    let strides = [rows.x_stride, rows.residual_stride, rows.second_residual_stride, rows.sum_stride, rows.y_stride];
    let mut lengths = strides.iter().chain([&rows.length]);
    is_of_one_channel && lengths.all(|elements| elements.is_multiple_of(vector))
}

/// LayerNorm with weight and bias, RMSNorm with a weight, of the input's type, and nothing else.
fn is_usual(rows: &Rows) -> bool {
    rows.is_plain && matches!(form(rows), params::WN_FORM_LAYER_NORM | params::WN_FORM_RMS_NORM)
}

/// How rows.cu writes rows, whatever is added to them.
fn form(rows: &Rows) -> u32 {
    let of_type = |dtype| dtype == Some(rows.dtype);
    let bare = of_type(rows.weight) && !rows.weight_plus_one && rows.activation == Activation::None;
    match (rows.affine, rows.moments) {
        (Affine::PerChannel { .. }, _) => params::WN_FORM_BY_CHANNEL,
        (_, Moments::MeanAndVariance) if bare && of_type(rows.bias) => params::WN_FORM_LAYER_NORM,
        (_, Moments::MeanSquare) if bare && rows.bias.is_none() => params::WN_FORM_RMS_NORM,
        _ => params::WN_FORM_BY_POSITION,
    }
}

/// Bytes of a chunk where it is held in shared memory: as stored, x and the residual; or in f32, and of whole vectors the
/// residual as stored.
fn size_of_chunk(rows: &Rows, kernels: Kernels) -> u64 {
    let (stored, f32) = (rows.dtype.size(), DType::F32.size());
    let bytes = match kernels {
        Kernels::Plain if rows.residual => 2 * stored,
        Kernels::Plain => stored,
        Kernels::Whole if rows.residual => f32 + stored,
        Kernels::Whole | Kernels::Any => f32,
    };
    CHUNK * bytes as u64
}

pub(super) fn plan(rows: &Rows, limits: &Limits) -> Plan {
    if rows.rows == 0 || rows.length == 0 {
        return Plan::NONE;
    }
    let kernels = Kernels::of(rows);
    let regime = Regime::of(rows, kernels, limits);
    let single = launch(rows, &regime, limits);
    if regime.family != kernels::FUSED_ROWS_LONG {
        let any = Regime::of(rows, Kernels::Any, limits);
        let unaligned = (any.family != regime.family).then(|| launch(rows, &any, limits));
        return Plan { unaligned: [unaligned, None], ..Plan::single(Some(single)) };
    }
    // What needs something of the whole row twice is left to a block.
    let is_one_step = rows.post_norm.is_none() && rows.output.scaling() != Some(Scaling::Rows);
    let split = if is_one_step { split(rows, &single, kernels == Kernels::Plain, limits) } else { None };
    split.unwrap_or_else(|| Plan::single(Some(single)))
}

fn launch(rows: &Rows, regime: &Regime, limits: &Limits) -> Launch {
    let (affine, groups, channels_per_group, spatial) = match rows.affine {
        Affine::PerElement { rows_of_sample } => (params::WN_AFFINE_PER_ELEMENT, rows_of_sample as u64, 0, 1),
        Affine::PerChannel { groups, channels_per_group, spatial } => {
            (params::WN_AFFINE_PER_CHANNEL, groups as u64, channels_per_group as u64, spatial as u64)
        }
    };
    let (scaling, scales_row_stride, scales_group_stride) = scaling(rows);
    Launch {
        kernel: regime.family.of(rows.dtype),
        grid: regime.grid(rows, limits),
        block: regime.block,
        cluster: regime.cluster,
        shared: regime.shared,
        params: Params::Rows(RowsParams {
            rows: rows.rows as u64,
            length: rows.length as u64,
            x_stride: rows.x_stride as u64,
            residual_stride: rows.residual_stride as u64,
            second_residual_stride: rows.second_residual_stride as u64,
            sum_stride: rows.sum_stride as u64,
            y_stride: rows.y_stride as u64,
            spatial: divisor(spatial),
            short_spatial: short_divisor(spatial),
            groups: divisor(groups),
            channels_per_group,
            lanes: regime.lanes,
            affine,
            activation: activation_code(rows.activation),
            flags: flags(rows),
            eps: rows.eps,
            inverse_length: 1.0 / rows.length as f32,
            inverse_rest: 1.0 / ((rows.length as u64 - 1) % CHUNK + 1) as f32,
            form: form(rows),
            leaf_shift: regime.leaf_shift,
            parts_words: regime.parts_words,
            y_type: match rows.output {
                Output::Element(dtype) => output_code(dtype, rows.dtype),
                Output::Quantized(quantized, _) => quantized_code(quantized),
            },
            splits: 1,
            step: params::WN_STEP_ALL,
            scaling,
            scales_row_stride,
            scales_group_stride,
            ..RowsParams::default()
        }),
    }
}

fn flags(rows: &Rows) -> u32 {
    let (post_weight, post_bias) = rows.post_norm.map_or((None, None), |norm| (norm.weight, norm.bias));
    [
        (rows.input_bias == Some(DType::F32), params::WN_FLAG_INPUT_BIAS_F32),
        (rows.weight_plus_one, params::WN_FLAG_WEIGHT_PLUS_ONE),
        (rows.moments == Moments::MeanSquare, params::WN_FLAG_MEAN_SQUARE),
        (rows.post_norm.is_some(), params::WN_FLAG_POST_NORM),
        (post_weight == Some(DType::F32), params::WN_FLAG_POST_WEIGHT_F32),
        (post_bias == Some(DType::F32), params::WN_FLAG_POST_BIAS_F32),
        (rows.rounding != Rounding::Once, params::WN_FLAG_ROUND_STEPS),
        (rows.rounding == Rounding::Normalized, params::WN_FLAG_ROUND_NORMALIZED),
    ]
    .iter()
    .filter(|(is_set, _)| *is_set)
    .fold(coefficient_flags(rows.weight, rows.bias) | modulation_flags(&rows.modulation), |all, (_, flag)| all | flag)
}

/// Whose scales there are, and elements between those of two rows, and of two groups.
fn scaling(rows: &Rows) -> (u32, u64, u64) {
    let Some(scaling) = rows.output.scaling() else { return (params::WN_SCALING_NONE, 0, 0) };
    // A row of one group has one scale.
    let groups = (rows.length as u64).div_ceil(GROUP as u64);
    let by_group = if groups == 1 { params::WN_SCALING_ROWS } else { params::WN_SCALING_GROUPS };
    match scaling {
        Scaling::Static => (params::WN_SCALING_STATIC, 0, 0),
        Scaling::Rows => (params::WN_SCALING_ROWS, 1, 0),
        Scaling::Groups => (by_group, groups, 1),
        Scaling::GroupsByColumn => (by_group, 1, rows.rows as u64),
    }
}

/// Two launches for rows that nobody holds, where a block for each of them would leave the device idle.
fn split(rows: &Rows, single: &Launch, is_plain: bool, limits: &Limits) -> Option<Plan> {
    let Params::Rows(params) = single.params else { return None };
    let (rows_of_all, chunks) = (rows.rows as u64, (rows.length as u64).div_ceil(CHUNK));
    let wanted = (u64::from(limits.multiprocessors) * BLOCKS_OF_SPLIT_ROWS).div_ceil(rows_of_all);
    let warps = u64::from(WARPS_OF_LONG_ROW);
    let leaf = chunks.div_ceil(wanted.min(MOST_LEAVES_OF_SPLIT / warps) * warps).next_power_of_two();
    let leaves = chunks.div_ceil(leaf);
    let splits = leaves.div_ceil(warps);
    if splits == 1 {
        return None;
    }
    let (workspace_bytes, parts) = workspace(0, rows_of_all * leaves * BYTES_OF_MOMENTS);
    let params = RowsParams { leaf_shift: leaf.ilog2(), splits: splits as u32, parts, ..params }; // at most 512 splits
    let grid = limits.grid(rows_of_all * splits, 1);
    let launch = |kernel, step, shared| {
        Some(Launch { kernel, grid, shared, params: Params::Rows(RowsParams { step, ..params }), ..*single })
    };
    let both =
        |kernel, shared| [launch(kernel, params::WN_STEP_MOMENTS, shared), launch(kernel, params::WN_STEP_APPLY, 0)];
    let any = both(single.kernel, single.shared);
    let plain =
        [params::WN_STEP_MOMENTS, params::WN_STEP_APPLY].map(|step| launch(kernels::ROWS_LONG.of(rows.dtype), step, 0));
    let (launches, unaligned) = if is_plain { (plain, any) } else { (any, [None; 2]) };
    Some(Plan { launches, workspace_bytes, otherwise: Some(*single), unaligned })
}

#[cfg(test)]
mod tests;
