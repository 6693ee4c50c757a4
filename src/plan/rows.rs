//! The rows pattern: which regime holds a row. See kernels/rows.cuh for what each does.

use super::kernels::{self, Family};
use super::params::{self, Kernel, RowsParams};
use super::slabs::workspace;
use super::{
    Launch, Limits, PORTABLE_CLUSTER, Params, Plan, activation_code, coefficient_flags, divisor, modulation_flags,
    output_code,
};
use crate::element::DType;
use crate::problem::{Affine, Moments, Rows};

/// Kernels without and with what may surround a norm. There is one kind alone for rows that are too long to be held, and for
/// those that a block holds in registers.
type Families = [Family; 2];

macro_rules! families {
    ($($name:ident = $plain:ident $fused:ident;)*) => {
        $(const $name: Families = [kernels::$plain, kernels::$fused];)*
    };
}

families! {
    GROUP_8 = ROWS_GROUP_8 FUSED_ROWS_GROUP_8;
    GROUP_16 = ROWS_GROUP_16 FUSED_ROWS_GROUP_16;
    GROUP_32 = ROWS_GROUP_32 FUSED_ROWS_GROUP_32;
    BLOCK = ROWS_BLOCK ROWS_BLOCK;
    SHARED = ROWS_SHARED FUSED_ROWS_SHARED;
    STREAM = FUSED_ROWS_STREAM FUSED_ROWS_STREAM;
    SPLIT_MOMENTS = FUSED_ROWS_SPLIT_MOMENTS FUSED_ROWS_SPLIT_MOMENTS;
    SPLIT_APPLY = FUSED_ROWS_SPLIT_APPLY FUSED_ROWS_SPLIT_APPLY;
}

fn kernel(families: Families, rows: &Rows) -> Kernel {
    families[usize::from(rows.is_fused())].of(rows.dtype)
}

const WARP: u32 = params::WN_WARP;
const CHUNK: u64 = params::WN_CHUNK as u64;
/// The most chunks of a row that are held in registers.
const CHUNKS_IN_REGISTERS: u64 = 4;
/// Warps of a block that holds its part of a row in shared memory: fewer where three blocks are to share a multiprocessor,
/// whose registers are enough for 24.
const WARPS_OF_THREE: u64 = 8;
const WARPS_OF_FEWER: u64 = 16;
/// Blocks for a multiprocessor where rows are split.
const BLOCKS_OF_SPLIT_ROWS: u64 = 4;
/// What the warps of a block can merge.
const MOST_LEAVES_OF_SPLIT: u64 = (params::WN_ROWS_LEAVES * params::WN_ROWS_BLOCK_WARPS) as u64;
/// Of shared memory, the driver keeps so much for each block.
const KEPT_BY_DRIVER: u32 = 1024;

/// Who holds a row. What a row's bits are is not decided here: every regime walks the same tree over the same chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Regime {
    families: Families,
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
    /// By the row's length, by how many bytes of it an element takes where it is held, by what surrounds the norm, and by the
    /// device.
    fn of(rows: &Rows, limits: &Limits) -> Self {
        let length = rows.length as u64;
        let held = if rows.is_plain { rows.dtype } else { DType::F32 }.size() as u64;
        let chunks = length.div_ceil(CHUNK);
        match length {
            0..=256 => Self::group(GROUP_8, length.div_ceil(8).next_power_of_two()),
            257..=512 => Self::group(GROUP_16, u64::from(WARP)),
            513..=CHUNK => Self::group(GROUP_32, u64::from(WARP)),
            _ if chunks <= CHUNKS_IN_REGISTERS && !rows.is_fused() => Self::block(BLOCK, chunks as u32 * WARP, 0),
            _ => Self::shared(chunks, held * CHUNK, limits).unwrap_or_else(|| Self::stream(chunks)),
        }
    }

    fn group(families: Families, lanes: u64) -> Self {
        // At most 32 lanes.
        Self { lanes: lanes as u32, ..Self::block(families, params::WN_ROWS_GROUP_THREADS, 0) }
    }

    fn block(families: Families, threads: u32, leaf_shift: u32) -> Self {
        Self { families, block: threads, lanes: threads, cluster: 1, shared: 0, leaf_shift, parts_words: 0 }
    }

    fn stream(chunks: u64) -> Self {
        let leaf_shift = chunks.div_ceil(u64::from(params::WN_ROWS_LEAVES)).next_power_of_two().ilog2();
        Self::block(STREAM, params::WN_ROWS_STREAM_THREADS, leaf_shift)
    }

    /// As many blocks in a cluster as make room, at first for three of them on a multiprocessor: while one waits for its
    /// cluster, the others move bytes.
    fn shared(chunks: u64, bytes_of_chunk: u64, limits: &Limits) -> Option<Self> {
        for blocks in [3, 2, 1] {
            let room = ((limits.shared + KEPT_BY_DRIVER) / blocks).saturating_sub(KEPT_BY_DRIVER);
            let warps = if blocks == 3 { WARPS_OF_THREE } else { WARPS_OF_FEWER };
            let most = if blocks == 3 { limits.cluster.min(PORTABLE_CLUSTER) } else { limits.cluster };
            let clusters = (0..).map(|power| 1 << power).take_while(|&cluster| cluster <= most);
            for cluster in clusters {
                let regime = Self::sharing(chunks, bytes_of_chunk, cluster, warps);
                if let Some(regime) = regime.filter(|regime| regime.shared <= room) {
                    return Some(regime);
                }
            }
        }
        None
    }

    /// A row in the shared memory of so many blocks of at most so many warps; `None` if that is more than 4 GiB.
    fn sharing(chunks: u64, bytes_of_chunk: u64, cluster: u32, most_warps: u64) -> Option<Self> {
        let leaf = chunks.div_ceil(u64::from(cluster) * most_warps).next_power_of_two();
        let warps = chunks.div_ceil(leaf).div_ceil(u64::from(cluster));
        let parts = 2 * u64::from(cluster) * warps * size_of_part();
        let parts_words = parts.div_ceil(16);
        let shared = parts_words * 16 + (warps * leaf).checked_mul(bytes_of_chunk)?;
        Some(Self {
            cluster,
            shared: u32::try_from(shared).ok()?,
            parts_words: parts_words as u32, // at most 640
            ..Self::block(SHARED, warps as u32 * WARP, leaf.ilog2())
        })
    }
}

/// Of the kernels' `Moments`: five floats.
const fn size_of_part() -> u64 {
    5 * size_of::<f32>() as u64
}

pub(super) fn plan(rows: &Rows, limits: &Limits) -> Plan {
    if rows.rows == 0 || rows.length == 0 {
        return Plan::NONE;
    }
    let regime = Regime::of(rows, limits);
    let single = launch(rows, &regime, limits);
    let is_held = regime.families != STREAM;
    if is_held { None } else { split(rows, &single, limits) }.unwrap_or_else(|| Plan::single(Some(single)))
}

fn launch(rows: &Rows, regime: &Regime, limits: &Limits) -> Launch {
    let mut flags = coefficient_flags(rows.weight, rows.bias) | modulation_flags(&rows.modulation);
    if rows.input_bias == Some(DType::F32) {
        flags |= params::WN_FLAG_INPUT_BIAS_F32;
    }
    if rows.weight_plus_one {
        flags |= params::WN_FLAG_WEIGHT_PLUS_ONE;
    }
    if rows.moments == Moments::MeanSquare {
        flags |= params::WN_FLAG_MEAN_SQUARE;
    }
    if rows.is_plain {
        flags |= params::WN_FLAG_HELD_AS_STORED;
    }
    let (affine, groups, channels_per_group, spatial) = match rows.affine {
        Affine::PerElement { rows_of_sample } => (params::WN_AFFINE_PER_ELEMENT, rows_of_sample as u64, 0, 1),
        Affine::PerChannel { groups, channels_per_group, spatial } => {
            (params::WN_AFFINE_PER_CHANNEL, groups as u64, channels_per_group as u64, spatial as u64)
        }
    };
    let rows_at_once = u64::from(regime.block / regime.lanes);
    // Whole clusters, also where the largest grid is none.
    let clusters = Limits { max_grid: (limits.max_grid / regime.cluster).max(1), ..*limits };
    Launch {
        kernel: kernel(regime.families, rows),
        grid: clusters.grid(rows.rows as u64, rows_at_once) * regime.cluster,
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
            groups: divisor(groups),
            channels_per_group,
            lanes: regime.lanes,
            affine,
            activation: activation_code(rows.activation),
            flags,
            eps: rows.eps,
            leaf_shift: regime.leaf_shift,
            parts_words: regime.parts_words,
            y_type: output_code(rows.output, rows.dtype),
            ..RowsParams::default()
        }),
    }
}

/// Two launches for rows that nobody holds, where a block for each of them would leave the device idle.
fn split(rows: &Rows, single: &Launch, limits: &Limits) -> Option<Plan> {
    let Params::Rows(params) = single.params else { return None };
    let (rows_of_all, chunks) = (rows.rows as u64, (rows.length as u64).div_ceil(CHUNK));
    let wanted = (u64::from(limits.multiprocessors) * BLOCKS_OF_SPLIT_ROWS).div_ceil(rows_of_all);
    let warps = u64::from(params::WN_ROWS_STREAM_THREADS / WARP);
    let leaf = chunks.div_ceil(wanted.min(MOST_LEAVES_OF_SPLIT / warps) * warps).next_power_of_two();
    let leaves = chunks.div_ceil(leaf);
    let splits = leaves.div_ceil(warps);
    if splits == 1 {
        return None;
    }
    let (workspace_bytes, parts) = workspace(0, rows_of_all * leaves);
    let params = RowsParams { leaf_shift: leaf.ilog2(), splits: splits as u32, parts, ..params }; // at most 256 splits
    let launch = |families| Launch {
        kernel: kernel(families, rows),
        grid: limits.grid(rows_of_all * splits, 1),
        params: Params::Rows(params),
        ..*single
    };
    let launches = [SPLIT_MOMENTS, SPLIT_APPLY].map(|families| Some(launch(families)));
    Some(Plan { launches, workspace_bytes, otherwise: Some(*single) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::norm::Activation;
    use crate::plan::MAX_GRID;
    use crate::problem::Modulation;

    use crate::plan::tests::H200;

    fn rows(rows: usize, length: usize) -> Rows {
        Rows {
            dtype: DType::Bf16,
            output: DType::Bf16,
            rows,
            length,
            moments: Moments::MeanAndVariance,
            is_plain: true,
            second_residual: false,
            affine: Affine::PerElement { rows_of_sample: 1 },
            weight: None,
            bias: None,
            weight_plus_one: false,
            modulation: Default::default(),
            input_bias: None,
            eps: 1e-5,
            activation: Activation::None,
            x_stride: length,
            residual_stride: length,
            second_residual_stride: length,
            sum_stride: length,
            y_stride: length,
        }
    }

    /// The launch that needs no workspace.
    fn planned(problem: &Rows) -> (Launch, RowsParams) {
        planned_on(&H200, problem)
    }

    fn planned_on(limits: &Limits, problem: &Rows) -> (Launch, RowsParams) {
        let plan = plan(problem, limits);
        let launch = plan.otherwise.or_else(|| plan.launches().next().copied()).unwrap();
        let Params::Rows(params) = launch.params else { panic!("rows plan rows") };
        (launch, params)
    }

    /// (rows, chunks of a row, blocks of a row, chunks of a warp) of rows that nothing holds, on an H200; one block where a
    /// workspace would be of no use.
    #[test]
    fn long_rows_are_split() {
        for (count, chunks, splits, leaf) in [
            (1, 2000, 125, 1),
            (1, 9000, 141, 4),
            (1, 1 << 20, 256, 256),
            (32, 2000, 16, 8),
            (132, 2000, 4, 32),
            (300, 2000, 2, 64),
            (528, 2000, 1, 0),
            (5000, 2000, 1, 0),
        ] {
            let plan = plan(&rows(count, chunks * 1024), &H200);
            let launches: Vec<_> = plan.launches().collect();
            if splits == 1 {
                assert_eq!((launches.len(), plan.workspace_bytes, plan.otherwise), (1, 0, None), "{count} x {chunks}");
                continue;
            }
            let kernels = [Kernel::fused_rows_split_moments_bf16, Kernel::fused_rows_split_apply_bf16];
            assert!(launches.iter().map(|launch| launch.kernel).eq(kernels));
            for launch in launches {
                let Params::Rows(params) = launch.params else { panic!("rows plan rows") };
                assert_eq!((params.splits, 1 << params.leaf_shift), (splits, leaf), "{count} x {chunks}");
                assert_eq!(u64::from(launch.grid), count as u64 * u64::from(splits));
                // A warp for each leaf, a place for each part.
                let leaves = (chunks as u64).div_ceil(leaf);
                assert!(leaves <= u64::from(splits * launch.block / WARP));
                let parts = count as u64 * leaves * size_of_part();
                assert_eq!(plan.workspace_bytes as u64, params.parts + parts);
            }
            assert_eq!(plan.otherwise.unwrap().kernel, Kernel::fused_rows_stream_bf16);
        }
    }

    /// (length, kernel, threads of a block, lanes of a row) on both sides of every boundary.
    #[test]
    fn regimes() {
        let group = 256;
        for (length, kernel, block, lanes) in [
            (1, Kernel::rows_group_8_bf16, group, 1),
            (8, Kernel::rows_group_8_bf16, group, 1),
            (9, Kernel::rows_group_8_bf16, group, 2),
            (128, Kernel::rows_group_8_bf16, group, 16),
            (129, Kernel::rows_group_8_bf16, group, 32),
            (256, Kernel::rows_group_8_bf16, group, 32),
            (257, Kernel::rows_group_16_bf16, group, 32),
            (512, Kernel::rows_group_16_bf16, group, 32),
            (513, Kernel::rows_group_32_bf16, group, 32),
            (1024, Kernel::rows_group_32_bf16, group, 32),
            (1025, Kernel::rows_block_bf16, 64, 64),
            (4096, Kernel::rows_block_bf16, 128, 128),
            (4097, Kernel::rows_shared_bf16, 160, 160),
            (8192, Kernel::rows_shared_bf16, 256, 256),
            (12_288, Kernel::rows_shared_bf16, 192, 192),
            (1 << 40, Kernel::fused_rows_stream_bf16, 512, 512),
        ] {
            let (launch, params) = planned(&rows(3, length));
            assert_eq!((launch.kernel, launch.block, params.lanes), (kernel, block, lanes), "{length}");
            assert_eq!(launch.cluster, 1, "{length}");
        }
    }

    /// (length, whether it is held in f32, blocks of a cluster, warps of a block, chunks of a warp) of a bf16 row on an H200,
    /// on both sides of some boundaries; 0 blocks where it is not held.
    #[test]
    fn clusters() {
        for (chunks, in_f32, cluster, warps, leaf) in [
            (5, false, 1, 5, 1),
            (9, false, 1, 5, 2),
            (32, false, 1, 8, 4),
            (36, false, 2, 5, 4),
            (64, false, 2, 8, 4),
            (65, false, 4, 5, 4),
            (128, false, 4, 8, 4),
            (256, false, 8, 8, 4),
            (586, false, 16, 10, 4),
            (1024, false, 16, 16, 4),
            (1600, false, 16, 13, 8),
            (1800, false, 0, 0, 0),
            (18, true, 2, 5, 2),
            (128, true, 8, 8, 2),
            (129, true, 8, 9, 2),
            (832, true, 16, 13, 4),
            (900, true, 0, 0, 0),
        ] {
            let (launch, params) = planned(&Rows { is_plain: !in_f32, ..rows(3, chunks * 1024) });
            let is_held = launch.kernel == Kernel::rows_shared_bf16;
            let found = (launch.cluster, launch.block / WARP, 1 << params.leaf_shift);
            assert_eq!(if is_held { found } else { (0, 0, 0) }, (cluster, warps, leaf), "{chunks} chunks");
        }
    }

    /// Whatever the device has: the shared memory and the cluster are to be had, there is a warp for each leaf, the kernel has
    /// room for all parts, and its chunks follow them.
    #[test]
    fn what_is_held_fits() {
        for (shared, cluster) in [(64, 1), (99, 1), (163, 1), (227, 8), (227, 16), (227, 2)] {
            let limits = Limits { shared: shared * 1024, cluster, ..H200 };
            for (chunks, dtype, is_plain) in (5..2000).step_by(7).flat_map(|chunks| {
                [(chunks, DType::F32, true), (chunks, DType::F16, true), (chunks, DType::Bf16, false)]
            }) {
                let problem = Rows { dtype, is_plain, ..rows(7, chunks * 1024 - 5) };
                let (launch, params) = planned_on(&limits, &problem);
                assert!(
                    launch.shared <= limits.shared && launch.cluster <= cluster && launch.grid % launch.cluster == 0
                );
                let warps = u64::from(launch.block / WARP);
                let leaves = (chunks as u64).div_ceil(1 << params.leaf_shift);
                assert!(leaves <= u64::from(params::WN_ROWS_LEAVES));
                if launch.shared == 0 {
                    continue;
                }
                assert!(leaves <= warps * u64::from(launch.cluster));
                assert!(launch.block <= params::WN_ROWS_SHARED_THREADS);
                let words = u64::from(params.parts_words);
                assert!(words * 16 >= 2 * u64::from(launch.cluster) * warps * size_of_part());
                let held = if is_plain { dtype.size() as u64 } else { 4 };
                assert_eq!(u64::from(launch.shared), words * 16 + (warps << params.leaf_shift) * CHUNK * held);
            }
        }
    }

    #[test]
    fn the_regime_does_not_depend_on_the_rows() {
        for length in [7, 300, 1000, 3000, 5000, 20_000, 100_000, 3_000_000] {
            let (one, _) = planned(&rows(1, length));
            for count in [2, 131, 132, 133, 1 << 20] {
                let (many, _) = planned(&rows(count, length));
                assert_eq!((one.kernel, one.block, one.cluster), (many.kernel, many.block, many.cluster));
            }
        }
    }

    /// Every row has its team, in grids that a device accepts, also where the tensor exceeds 2³¹ elements or rows.
    #[test]
    fn beyond_32_bits() {
        let big = 1_usize << 33;
        for (count, length) in
            [(big, 1), (big, 8), (big + 1, 256), (1 << 22, 1024), (3 << 20, 4096), (3, big), (1 << 16, 65_537)]
        {
            let problem = Rows { x_stride: length + 8, ..rows(count, length) };
            let (launch, params) = planned(&problem);
            assert_eq!((params.rows, params.length), (count as u64, length as u64));
            assert_eq!(params.x_stride, length as u64 + 8);
            assert!(launch.grid >= 1 && launch.grid <= MAX_GRID);
            let per_round = u64::from(launch.grid / launch.cluster) * u64::from(launch.block / params.lanes);
            // The kernels walk on by whole grids; only the largest grid may leave rows for another round.
            assert!(per_round >= count as u64 || launch.grid > MAX_GRID - launch.cluster, "{count} x {length}");
        }
    }

    #[test]
    fn nothing_to_do() {
        assert_eq!(plan(&rows(0, 5), &H200), Plan::NONE);
        assert_eq!(plan(&rows(5, 0), &H200), Plan::NONE);
    }

    #[test]
    fn channels_and_flags() {
        let problem = Rows {
            affine: Affine::PerChannel { groups: 4, channels_per_group: 5, spatial: 49 },
            weight: Some(DType::F32),
            bias: Some(DType::Bf16),
            ..rows(8, 245)
        };
        let (_, params) = planned(&problem);
        assert_eq!((params.groups.divisor, params.spatial.divisor, params.channels_per_group), (4, 49, 5));
        assert_eq!(params.affine, params::WN_AFFINE_PER_CHANNEL);
        assert_eq!(params.flags, params::WN_FLAG_WEIGHT_F32 | params::WN_FLAG_HELD_AS_STORED);
    }

    #[test]
    fn what_surrounds_a_norm_has_kernels_of_its_own() {
        let plain = Rows { weight: Some(DType::F32), is_plain: false, ..rows(3, 12_288) };
        assert_eq!(planned(&plain).0.kernel, Kernel::rows_shared_bf16);
        let scale = Modulation { scale: Some(DType::F32), ..Modulation::default() };
        let channels = Affine::PerChannel { groups: 1, channels_per_group: 3, spatial: 4096 };
        for fused in [
            Rows { activation: Activation::Relu, ..plain },
            Rows { output: DType::F32, ..plain },
            Rows { input_bias: Some(DType::F32), ..plain },
            Rows { second_residual: true, ..plain },
            Rows { modulation: scale, ..plain },
            Rows { affine: channels, ..plain },
        ] {
            assert_eq!(planned(&fused).0.kernel, Kernel::fused_rows_shared_bf16, "{fused:?}");
        }
    }

    #[test]
    fn an_output_of_another_type() {
        let type_of = |output| planned(&Rows { output, ..rows(8, 245) }).1.y_type;
        assert_eq!(type_of(DType::Bf16), params::WN_ELEMENT_AS_INPUT);
        assert_eq!(type_of(DType::F16), params::WN_ELEMENT_F16);
        assert_eq!(type_of(DType::F32), params::WN_ELEMENT_F32);
    }

    #[test]
    fn samples_and_flags() {
        let modulation = Modulation {
            scale: Some(DType::F32),
            shift: Some(DType::Bf16),
            gate: Some(DType::F32),
            scale_plus_one: true,
            ..Modulation::default()
        };
        let (affine, input_bias) = (Affine::PerElement { rows_of_sample: 4 }, Some(DType::F32));
        let problem = Rows { affine, modulation, input_bias, second_residual_stride: 250, ..rows(8, 245) };
        let (_, params) = planned(&problem);
        assert_eq!((params.groups.divisor, params.affine), (4, params::WN_AFFINE_PER_ELEMENT));
        assert_eq!(params.second_residual_stride, 250);
        let scale = params::WN_FLAG_SCALE_F32 | params::WN_FLAG_SCALE_PLUS_ONE | params::WN_FLAG_HELD_AS_STORED;
        assert_eq!(params.flags, scale | params::WN_FLAG_GATE_F32 | params::WN_FLAG_INPUT_BIAS_F32);
    }
}
