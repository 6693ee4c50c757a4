//! Channels last, and batch statistics: how a slab of `[pixels, channels]`, or the planes of a channel, are shared by blocks.
//!
//! Everything that decides the order of additions follows from the size of a slab and the type: not from how many slabs
//! there are, nor from the device.

use super::kernels::{
    BATCH_STATISTICS_CHANNELS_LAST, BATCH_STATISTICS_PLANES, CHANNELS_LAST_APPLY, CHANNELS_LAST_MOMENTS,
};
use super::params::{self, BatchStatisticsParams, ChannelsLastParams, SlabGeometry};
use super::{
    Launch, Limits, Params, Plan, activation_code, coefficient_flags, divisor, modulation_flags, output_code, pointwise,
};
use crate::element::DType;
use crate::problem::{BatchStatistics, ChannelsLast, Constants, Pointwise};
use crate::shape::Layout;

const THREADS: u64 = params::WN_SLAB_THREADS as u64;

/// Vectors of a tile: 64 KiB.
const TILE_VECTORS: u64 = 4096;

/// Tiles of a sample, and of a channel of a batch: the last block has to merge as many partials.
const MOST_TILES_OF_SAMPLE: u64 = 256;
const MOST_TILES_OF_BATCH: u64 = 1024;

/// Columns have a counter each; the last counter is their own.
const MOST_COLUMNS: u64 = params::WN_COUNTERS as u64 - 1;

/// Where the parts of a workspace begin, in bytes from its start: behind the counters, the results, then partials.
const RESULTS: u64 = params::WN_COUNTERS as u64 * size_of::<u32>() as u64;
/// Of the kernels' `Moments`: five floats.
pub(super) const BYTES_OF_MOMENTS: u64 = 5 * size_of::<f32>() as u64;

fn vector(dtype: DType) -> u64 {
    (16 / dtype.size()) as u64
}

/// How slabs of `length` elements are cut; addresses aside.
fn geometry(dtype: DType, slabs: u64, length: u64, channels: u64, groups: u64, most_tiles: u64) -> SlabGeometry {
    let period = channels / pointwise::gcd(channels, vector(dtype));
    let strips = period.div_ceil(THREADS);
    let strip = period.div_ceil(strips);
    let strips = period.div_ceil(strip);
    let rounds = length.div_ceil(vector(dtype)).div_ceil(period);
    let tile_rounds = (TILE_VECTORS / strip).max(1).max(rounds.div_ceil(most_tiles));
    SlabGeometry {
        slabs,
        length,
        channels: divisor(channels),
        groups,
        channels_per_group: channels / groups,
        columns: slabs.min(MOST_COLUMNS),
        tiles: rounds.div_ceil(tile_rounds),
        tile_rounds,
        period: period as u32, // no tensor of the address space has so many channels that it would not fit
        strip: strip as u32,   // at most 256
        strips: strips as u32,
        ..SlabGeometry::default()
    }
}

/// Threads of a block: whole warps, and no more rows of them than there are rounds.
fn threads(slab: &SlabGeometry) -> u32 {
    let strip = u64::from(slab.strip);
    let rounds = slab.length.div_ceil(u64::from(slab.period)).min(slab.tile_rounds);
    let rows = (THREADS / strip).min(rounds).max(1);
    (strip * rows).next_multiple_of(u64::from(params::WN_WARP)).min(THREADS) as u32
}

/// Columns times what a column has, as far as a grid goes: blocks walk on over columns.
fn grid(slab: &mut SlabGeometry, limits: &Limits) -> u32 {
    let blocks_of_column = slab.tiles * u64::from(slab.strips);
    slab.columns = slab.columns.min((u64::from(limits.max_grid) / blocks_of_column).max(1));
    u32::try_from(slab.columns * blocks_of_column).unwrap_or(limits.max_grid)
}

/// Bytes of a workspace, and where its partials begin.
pub(super) fn workspace(results: u64, partials: u64) -> (usize, u64) {
    let begin = (RESULTS + results).next_multiple_of(256);
    (usize::try_from(begin + partials * BYTES_OF_MOMENTS).unwrap_or(usize::MAX), begin)
}

pub(super) fn plan(tensor: &ChannelsLast, limits: &Limits) -> Plan {
    let (samples, spatial, channels) = (tensor.samples as u64, tensor.spatial as u64, tensor.channels as u64);
    if samples == 0 || spatial == 0 || channels == 0 {
        return Plan::NONE;
    }
    let groups = tensor.groups as u64;
    let mut slab = geometry(tensor.dtype, samples, spatial * channels, channels, groups, MOST_TILES_OF_SAMPLE);
    let (grid, block) = (grid(&mut slab, limits), threads(&slab));
    let partials = samples * slab.tiles * u64::from(slab.strips) * groups;
    let (workspace_bytes, begin) = workspace(samples * groups * 3 * 4, partials);
    slab.partials = begin;
    let params = Params::ChannelsLast(ChannelsLastParams {
        results: RESULTS,
        slab,
        group: divisor(slab.channels_per_group),
        activation: activation_code(tensor.activation),
        flags: coefficient_flags(tensor.weight, tensor.bias) | modulation_flags(&tensor.modulation),
        eps: tensor.eps,
        y_type: output_code(tensor.output, tensor.dtype),
        ..ChannelsLastParams::default()
    });
    let launch = |kernel| Some(Launch::plain(kernel, grid, block, params));
    let kernels = [CHANNELS_LAST_MOMENTS, CHANNELS_LAST_APPLY].map(|family| family.of(tensor.dtype));
    Plan { launches: kernels.map(launch), workspace_bytes, ..Plan::NONE }
}

pub(super) fn plan_batch(batch: &BatchStatistics, limits: &Limits) -> Plan {
    let (samples, spatial, channels) = (batch.samples as u64, batch.spatial as u64, batch.channels as u64);
    if samples == 0 || spatial == 0 || channels == 0 {
        return Plan::NONE;
    }
    // Without spatial axes both layouts are the same memory.
    let is_planes = batch.layout == Layout::Nchw && spatial > 1;
    let plane_vectors = spatial.div_ceil(vector(batch.dtype));
    let (family, mut slab) = if is_planes {
        (BATCH_STATISTICS_PLANES, planes(samples * plane_vectors, spatial, channels))
    } else {
        let length = samples * spatial * channels;
        let slab = geometry(batch.dtype, 1, length, channels, channels, MOST_TILES_OF_BATCH);
        (BATCH_STATISTICS_CHANNELS_LAST, slab)
    };
    let grid = grid(&mut slab, limits);
    let block = if is_planes { params::WN_SLAB_THREADS } else { threads(&slab) };
    let partials = slab.tiles * u64::from(slab.strips) * channels;
    let (workspace_bytes, begin) = workspace(channels * 3 * 4, partials);
    slab.partials = begin;
    let mut flags = coefficient_flags(batch.weight, batch.bias);
    if batch.momentum.is_none() {
        flags |= params::WN_FLAG_CUMULATIVE;
    }
    let params = BatchStatisticsParams {
        table: RESULTS,
        samples,
        values: samples * spatial,
        slab,
        plane_vectors: divisor(plane_vectors),
        momentum: batch.momentum.unwrap_or_default(),
        flags,
        eps: batch.eps,
        ..BatchStatisticsParams::default()
    };
    let statistics = Launch::plain(family.of(batch.dtype), grid, block, Params::BatchStatistics(params));
    let map = Pointwise {
        dtype: batch.dtype,
        output: batch.output,
        length: batch.samples * batch.spatial * batch.channels,
        channels: batch.channels,
        spatial: if is_planes { batch.spatial } else { 1 },
        constants: Constants::Table,
        activation: batch.activation,
    };
    let normalization = pointwise::plan(&map, limits).map(|launch| match launch.params {
        Params::Pointwise(mut params) => {
            params.table = RESULTS;
            Launch { params: Params::Pointwise(params), ..launch }
        }
        _ => launch,
    });
    Plan { launches: [Some(statistics), normalization], workspace_bytes, ..Plan::NONE }
}

/// A channel's planes, cut by their vectors: a round is one vector.
fn planes(vectors: u64, length: u64, channels: u64) -> SlabGeometry {
    let tile_rounds = TILE_VECTORS.max(vectors.div_ceil(MOST_TILES_OF_BATCH));
    SlabGeometry {
        length,
        channels: divisor(channels),
        columns: channels.min(MOST_COLUMNS),
        tiles: vectors.div_ceil(tile_rounds),
        tile_rounds,
        strips: 1,
        ..SlabGeometry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::norm::Activation;
    use crate::plan::params::Kernel;

    use crate::plan::tests::H200;

    fn tensor(samples: usize, spatial: usize, channels: usize, groups: usize) -> ChannelsLast {
        let (dtype, activation) = (DType::F16, Activation::None);
        let (weight, bias, modulation) = (None, None, Default::default());
        ChannelsLast {
            dtype,
            output: dtype,
            samples,
            spatial,
            channels,
            groups,
            weight,
            bias,
            modulation,
            eps: 0.0,
            activation,
        }
    }

    fn planned(tensor: &ChannelsLast) -> (Launch, SlabGeometry, usize) {
        let Plan { launches: [Some(moments), Some(apply)], workspace_bytes, .. } = plan(tensor, &H200) else {
            panic!("two launches")
        };
        assert_eq!(
            (moments.kernel, apply.kernel),
            (Kernel::channels_last_moments_f16, Kernel::channels_last_apply_f16)
        );
        let Params::ChannelsLast(params) = moments.params else { panic!("of slabs") };
        (moments, params.slab, workspace_bytes)
    }

    /// Every vector of every slab has a thread, and every part its partial.
    #[test]
    fn slabs_are_covered() {
        for (spatial, channels, groups) in [
            (64 * 64, 320, 32),
            (1, 8, 8),
            (49, 5, 1),
            (49, 10, 2),
            (3, 2048, 2048),
            (1000, 257, 257),
            (7, 5000, 50),
            (1024 * 1024, 128, 32),
            (1 << 30, 3, 3),
        ] {
            let (launch, slab, bytes) = planned(&tensor(3, spatial, channels, groups));
            let elements_of_period = u64::from(slab.period) * 8;
            assert_eq!(elements_of_period % channels as u64, 0, "{channels}");
            assert!(slab.strip * slab.strips >= slab.period && slab.strip <= params::WN_SLAB_THREADS, "{channels}");
            let covered = slab.tiles * slab.tile_rounds * elements_of_period;
            assert!(covered >= (spatial * channels) as u64, "{spatial} {channels}");
            assert!((slab.tiles - 1) * slab.tile_rounds * elements_of_period < (spatial * channels) as u64);
            assert!(slab.tiles <= MOST_TILES_OF_SAMPLE);
            assert_eq!(u64::from(launch.grid), 3 * slab.tiles * u64::from(slab.strips));
            assert!(launch.block >= slab.strip && launch.block.is_multiple_of(32) && launch.block <= 256);
            let partials = 3 * slab.tiles * u64::from(slab.strips) * groups as u64;
            assert!(bytes as u64 >= slab.partials + partials * BYTES_OF_MOMENTS);
        }
    }

    #[test]
    fn a_slab_is_cut_by_its_size_alone() {
        let cut = |samples| {
            let (launch, slab, _) = planned(&tensor(samples, 4096, 320, 32));
            (launch.block, slab.tiles, slab.tile_rounds, slab.strip)
        };
        assert_eq!(cut(1), cut(1000));
        assert_eq!(cut(1), (256, 41, 102, 40));
    }

    #[test]
    fn more_slabs_than_counters_share_columns() {
        let (launch, slab, _) = planned(&tensor(10_000, 4, 8, 2));
        assert_eq!((slab.columns, launch.grid), (MOST_COLUMNS, MOST_COLUMNS as u32));
    }

    fn batch(samples: usize, spatial: usize, channels: usize, layout: Layout) -> BatchStatistics {
        let (dtype, activation) = (DType::F32, Activation::None);
        let momentum = Some(0.1);
        BatchStatistics {
            dtype,
            output: dtype,
            samples,
            spatial,
            channels,
            layout,
            weight: None,
            bias: None,
            eps: 0.0,
            activation,
            momentum,
        }
    }

    #[test]
    fn batches_take_statistics_and_a_pointwise_map() {
        let kernels = |batch: &BatchStatistics| plan_batch(batch, &H200).launches.map(|launch| launch.unwrap().kernel);
        let planes = [Kernel::batch_statistics_planes_f32, Kernel::pointwise_planes_f32];
        let last = [Kernel::batch_statistics_channels_last_f32, Kernel::pointwise_channels_last_f32];
        assert_eq!(kernels(&batch(4, 49, 6, Layout::Nchw)), planes);
        assert_eq!(kernels(&batch(4, 49, 6, Layout::Nhwc)), last);
        assert_eq!(kernels(&batch(4, 1, 6, Layout::Nchw)), last);
        assert_eq!(plan_batch(&batch(0, 49, 6, Layout::Nchw), &H200), Plan::NONE);
    }

    #[test]
    fn outputs_of_another_type() {
        let last = |plan: Plan| plan.launches[1].expect("two launches").params;
        let Params::ChannelsLast(params) =
            last(plan(&ChannelsLast { output: DType::Bf16, ..tensor(2, 9, 8, 2) }, &H200))
        else {
            panic!("of slabs")
        };
        assert_eq!(params.y_type, params::WN_ELEMENT_BF16);
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let batch = BatchStatistics { output: DType::F16, ..batch(4, 49, 6, layout) };
            let Params::Pointwise(params) = last(plan_batch(&batch, &H200)) else { panic!("a map") };
            assert_eq!(params.y_type, params::WN_ELEMENT_F16);
        }
    }

    /// Three channels of a large batch still fill the chip.
    #[test]
    fn few_channels_are_split() {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let [Some(statistics), _] = plan_batch(&batch(256, 224 * 224, 3, layout), &H200).launches else {
                panic!("a launch")
            };
            assert!(statistics.grid > 4 * 132, "{layout:?}: {}", statistics.grid);
        }
    }
}
