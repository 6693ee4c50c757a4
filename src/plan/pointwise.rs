//! The pointwise pattern: how a tensor is spread over threads. See kernels/pointwise.cu.

use super::kernels::{POINTWISE_CHANNELS_LAST, POINTWISE_PLANES, POINTWISE_TABLE};
use super::params::{self, ChannelTableParams, PointwiseParams};
use super::{Launch, Limits, Params, activation_code, coefficient_flags, divisor, output_code, short_divisor};
use crate::problem::{ChannelTable, Constants, Pointwise};

/// Threads of a multiprocessor that the registers of the big chips (sm_80, 90, 100) have room for.
const RESIDENT_OF_PLANES: u64 = 1024;
const RESIDENT_OF_CHANNELS_LAST: u64 = 768;
const LEAST_BLOCK: u32 = 64;
/// Vectors of a thread, channels last: so many that what it costs to find a thread's maps is little.
const MOST_ROUNDS: u64 = 8;
/// From here on all planes are one, as far as a tile can tell.
const LARGEST_PLANE: u64 = 1 << 30;

pub(super) fn plan(map: &Pointwise, limits: &Limits) -> Option<Launch> {
    if map.length == 0 {
        return None;
    }
    let per_vector = (16 / map.dtype.size()) as u64;
    let vectors = (map.length as u64).div_ceil(per_vector);
    let (flags, eps) = match map.constants {
        Constants::Table => (0, 0.0),
        Constants::Statistics { weight, bias, eps } => (coefficient_flags(weight, bias), eps),
    };
    let spatial = map.spatial as u64;
    let params = PointwiseParams {
        length: map.length as u64,
        spatial: divisor(spatial),
        channels: divisor(map.channels as u64),
        plane: short_divisor(spatial.min(LARGEST_PLANE)),
        activation: activation_code(map.activation),
        flags,
        eps,
        y_type: output_code(map.output, map.dtype),
        ..PointwiseParams::default()
    };
    if spatial >= u64::from(params::WN_POINTWISE_PLANE) {
        // As many vectors of a thread as leave none without work.
        let of_thread = (vectors / (u64::from(limits.multiprocessors) * RESIDENT_OF_PLANES))
            .clamp(1, u64::from(params::WN_POINTWISE_VECTORS));
        let block = block(vectors.div_ceil(of_thread), limits);
        let grid = limits.grid(vectors, u64::from(block) * of_thread);
        let tiles = vectors.div_ceil(u64::from(block) * of_thread);
        let params = PointwiseParams { vectors: of_thread as u32, tiles, ..params };
        return Some(Launch::plain(POINTWISE_PLANES.of(map.dtype), grid, block, Params::Pointwise(params)));
    }
    let rounds = Rounds::of(map, per_vector, vectors, limits);
    let (grid, block) = (limits.grid(rounds.tiles(), 1), rounds.block);
    let params = PointwiseParams {
        stride: rounds.stride,
        rounds: rounds.count,
        parts: divisor(rounds.parts),
        vectors: rounds.of_thread as u32, // at most MOST_ROUNDS
        tiles: rounds.tiles(),
        ..params
    };
    let launch = Launch::plain(POINTWISE_CHANNELS_LAST.of(map.dtype), grid, block, Params::Pointwise(params));
    Some(Launch { shared: bytes_of_maps(map, u64::from(block) * per_vector), ..launch })
}

/// Threads of a block: fewer where there would be less than two blocks for a multiprocessor.
fn block(threads: u64, limits: &Limits) -> u32 {
    let mut block = params::WN_POINTWISE_THREADS;
    while block > LEAST_BLOCK && threads.div_ceil(u64::from(block)) < 2 * u64::from(limits.multiprocessors) {
        block /= 2;
    }
    block
}

/// A tensor as rounds of vectors, each so many of the fewest after which the channels repeat as fill a block, or one of those:
/// then a thread that has the same place in several rounds meets the same channels in all of them.
struct Rounds {
    /// Vectors of a round.
    stride: u64,
    /// Blocks of a round.
    parts: u64,
    /// Threads of a block.
    block: u32,
    /// Of the tensor.
    count: u64,
    /// Rounds in which a thread has a vector.
    of_thread: u64,
}

impl Rounds {
    /// Blocks are smaller where there would be less than two for a multiprocessor.
    fn of(map: &Pointwise, per_vector: u64, vectors: u64, limits: &Limits) -> Self {
        let elements = map.channels as u64 * map.spatial as u64;
        let period = elements / gcd(elements, per_vector);
        let multiprocessors = u64::from(limits.multiprocessors);
        let of_thread = (vectors / (multiprocessors * RESIDENT_OF_CHANNELS_LAST)).clamp(1, MOST_ROUNDS);
        let mut threads = u64::from(params::WN_POINTWISE_THREADS);
        loop {
            let rounds = Self::of_blocks(period, vectors, threads, of_thread);
            if threads == u64::from(LEAST_BLOCK) || rounds.tiles() >= 2 * multiprocessors {
                return rounds;
            }
            threads /= 2;
        }
    }

    fn of_blocks(period: u64, vectors: u64, threads: u64, of_thread: u64) -> Self {
        let stride = period * (threads / period).max(1);
        // Of a tensor that ends within its first round, what there is of it.
        let used = stride.min(vectors);
        let parts = used.div_ceil(threads);
        // Parts of one size, and whole warps.
        let block = used.div_ceil(parts).next_multiple_of(u64::from(params::WN_WARP)) as u32; // at most `threads`
        let parts = used.div_ceil(u64::from(block));
        Self { stride, parts, block, count: vectors.div_ceil(stride), of_thread }
    }

    fn tiles(&self) -> u64 {
        self.count.div_ceil(self.of_thread) * self.parts
    }
}

/// Of the maps of the channels that so many consecutive elements have, as kernels/pointwise.cu lays them out.
fn bytes_of_maps(map: &Pointwise, elements: u64) -> u32 {
    const BYTES_OF_MAP: u64 = 16;
    let planes = (elements - 1).div_ceil(map.spatial as u64) + 1;
    let maps = planes.min(map.channels as u64);
    ((maps + maps.div_ceil(8)) * BYTES_OF_MAP) as u32 // at most 36 KiB
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

    /// Every vector has a thread, and the maps of a tile have room.
    #[test]
    fn planes_are_covered() {
        for (length, spatial) in [
            (32, 32),
            (8191, 8191),
            (8193, 8193),
            (256 * 64 * 3136, 3136),
            (32 * 256 * 49, 49),
            (1 << 33, 1 << 33),
            (330, 33),
        ] {
            let (launch, params) = planned(&map(length, length.div_ceil(spatial), spatial));
            assert_eq!(launch.kernel, Kernel::pointwise_planes_f16);
            let tile = u64::from(launch.block * params.vectors) * 8;
            assert_eq!(u64::from(launch.grid), (length as u64).div_ceil(tile), "{length}");
            assert_eq!((params.length, params.tiles), (length as u64, u64::from(launch.grid)));
            assert_eq!(u64::from(params.plane.divisor), (spatial as u64).min(1 << 30));
            assert!((1..=params::WN_POINTWISE_VECTORS).contains(&params.vectors));
        }
        // Past the largest grid, blocks walk on.
        let (launch, params) = planned(&map(1 << 46, 1, 1 << 46));
        assert_eq!((launch.grid, params.tiles), (MAX_GRID, 1 << 33));
    }

    /// (elements, threads of a block, vectors of a thread, blocks) of planes on an H200: small maps are spread over all of it.
    #[test]
    fn small_maps_fill_the_chip() {
        for (elements, block, of_thread, grid) in [
            (64 * 49, 64, 1, 7),
            (32 * 256 * 49, 128, 1, 392),
            (1 << 21, 256, 1, 1024),
            (3 << 20, 256, 2, 768),
            (256 * 64 * 112 * 112, 256, 4, 25_088),
        ] {
            let (launch, params) = planned(&map(elements, elements / 49, 49));
            assert_eq!((launch.block, params.vectors, launch.grid), (block, of_thread, grid), "{elements}");
        }
    }

    /// (vectors of a round, blocks of it, their threads, vectors of a thread, blocks) of NHWC maps on an H200.
    #[test]
    fn rounds_fill_blocks_and_blocks_the_chip() {
        for (channels, pixels, expected) in [
            (64, 256 * 112 * 112, (256, 1, 256, 8, 12_544)),
            (320, 8 * 64 * 64, (240, 1, 256, 8, 683)),
            (2056, 32 * 56 * 56, (257, 2, 160, 8, 25_088)),
            (3, 32 * 224 * 224, (255, 1, 256, 5, 473)),
            (256, 32 * 49, (128, 1, 128, 1, 392)),
            (8, 5, (64, 1, 32, 1, 1)),
            (70_001, 2, (70_001, 274, 64, 1, 274)),
            (4097, 1, (4097, 9, 64, 1, 9)),
        ] {
            let (launch, params) = planned(&map(channels * pixels, channels, 1));
            let found = (params.stride, params.parts.divisor, launch.block, params.vectors, launch.grid);
            assert_eq!(found, expected, "{channels}");
        }
    }

    /// A thread's vectors lie whole periods of the channels apart, every vector has a thread, and its block room for its maps:
    /// those of all channels, or of as many as its elements have, and one more where its first one is cut.
    #[test]
    fn channels_last_strides() {
        for (channels, spatial, pixels) in [
            (3, 1, 1000),
            (64, 1, 50_000),
            (2048, 1, 49),
            (70_001, 1, 2),
            (1, 1, 1 << 33),
            (5, 1, 1),
            (320, 1, 1 << 25),
            (1000, 4, 8),
            (7, 31, 100),
            (513, 2, 3),
        ] {
            let length = channels * spatial * pixels;
            let (launch, params) = planned(&map(length, channels, spatial));
            assert_eq!(launch.kernel, Kernel::pointwise_channels_last_f16);
            assert_eq!(params.stride * 8 % (channels * spatial) as u64, 0, "{channels}");
            let vectors = (length as u64).div_ceil(8);
            let (parts, block) = (params.parts.divisor, u64::from(launch.block));
            let used = params.stride.min(vectors);
            assert!((parts - 1) * block < used && used <= parts * block, "{channels}");
            assert!(block.is_multiple_of(32) && block <= 256, "{channels}");
            assert!((params.rounds - 1) * params.stride < vectors && vectors <= params.rounds * params.stride);
            assert_eq!(params.tiles, params.rounds.div_ceil(params.vectors.into()) * parts, "{channels}");
            assert_eq!(u64::from(launch.grid), params.tiles.min(MAX_GRID.into()), "{channels}");
            let planes = (u64::from(launch.block) * 8 + spatial as u64 - 2) / spatial as u64 + 1;
            let last = planes.min(channels as u64) - 1;
            assert!(u64::from(launch.shared) > (last + last / 8) * 16 && launch.shared <= 48 * 1024, "{channels}");
        }
    }

    #[test]
    fn an_output_of_another_type() {
        for spatial in [1, 9, 36] {
            let type_of = |output| planned(&Pointwise { output, ..map(144, 4, spatial) }).1.y_type;
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
