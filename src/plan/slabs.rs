//! Channels last, and batch statistics: how a slab of `[pixels, channels]`, or the planes of a channel, are shared by blocks.
//!
//! Everything that decides the order of additions follows from the size of a sample and the type: not from how many samples
//! there are, nor from the device. What the device decides is whether blocks hold what they have read until it is written.

use super::kernels::{
    BATCH_STATISTICS_PLANES, BATCH_STATISTICS_PLANES_RESIDENT, CHANNELS_LAST_ANY_APPLY, CHANNELS_LAST_ANY_MOMENTS,
    CHANNELS_LAST_ANY_RESIDENT, CHANNELS_LAST_APPLY, CHANNELS_LAST_MOMENTS, CHANNELS_LAST_RESIDENT, Family,
};
use super::params::{self, BatchStatisticsParams, ChannelsLastParams, Running, SlabGeometry};
use super::{
    Launch, Limits, Params, Plan, activation_code, coefficient_flags, divisor, modulation_flags, output_code, pointwise,
};
use crate::element::DType;
use crate::problem::{BatchStatistics, ChannelsLast, Constants, Pointwise};
use crate::shape::Layout;

const THREADS: u64 = params::WN_SLAB_THREADS as u64;
const WORD: u64 = 16;

/// Blocks of a cluster, where every chip with clusters is to hold some.
const MOST_RESIDENT_TILES: u64 = params::WN_CLUSTER as u64;
/// Bytes of a tile that half of [`THREADS`] have; of one of which a multiprocessor holds three, and two, with what else their
/// blocks of [`THREADS`] need; and of the largest that it holds.
const TINY_TILE: u64 = 16 << 10;
const SMALL_TILE: u64 = 40 << 10;
const MIDDLE_TILE: u64 = 78 << 10;
const LARGEST_TILE: u64 = 184 << 10;
/// The same of planes, which need little else.
const SMALL_PLANE_TILE: u64 = 72 << 10;
const LARGEST_PLANE_TILE: u64 = 208 << 10;
/// Blocks without which it is not worth it to hold a batch, or larger tiles of planes: two launches read from the L2 on more
/// multiprocessors.
const LEAST_RESIDENT_BLOCKS: u64 = 64;
/// Blocks of a batch that give most chips' multiprocessors one.
const BLOCKS_THAT_FILL: u64 = 128;

/// Threads of a multiprocessor, by the registers of the kernels that hold tiles: whole ones, and any.
const RESIDENT_THREADS: u64 = 3 * THREADS;
const ANY_RESIDENT_THREADS: u64 = 2 * THREADS;
/// Of shared memory, the driver keeps so much for each block.
const KEPT_BY_DRIVER: u64 = 1024;

/// Bytes of a tile of what is not held; of a batch that has fewer tiles than `LEAST_TILES`, smaller ones, as many as fill a chip.
/// (A tile costs its merging: with twice as many, a batch of 147 took 1.4 times as long on an H100, one of 49 two thirds.)
const TILE: u64 = 64 << 10;
const LEAST_TILE: u64 = 8 << 10;
const LEAST_TILES: u64 = 96;
const TILES_THAT_FILL: u64 = 256;
/// Tiles of a slab of a sample, of all slabs of a batch, and of a channel's planes: the last block has to merge as many parts.
const MOST_TILES_OF_SAMPLE: u64 = 256;
const MOST_TILES_OF_BATCH: u64 = 512;
const MOST_TILES_OF_PLANES: u64 = 1024;

/// Bytes beside each other in a section that is held, in one of a batch whose wider ones do not fill a chip, and in one that is
/// not held: whole sectors, and mostly whole lines.
const NARROW_SECTION: u64 = 128;
const NARROWEST_SECTION: u64 = 64;
const WIDE_SECTION: u64 = 512;
const SECTOR: u64 = 32;
/// What the vectors of a thread are a multiple of, so that none is summed alone; and as many as it sums at most.
const BATCH: u64 = 8;
const MOST_OF_THREAD: u64 = 64;
/// Vectors that a thread writes of what is not held: as many as make little of what it costs a block to begin, and no more, since
/// a multiprocessor has several blocks and some begin while others end.
const WRITTEN_OF_THREAD: u64 = 8;

/// Samples from which on small planes that do not end with a vector are channels of a sample, and the largest such planes.
const LEAST_SAMPLES_OF_SLAB: u64 = 8;
const LARGEST_PLANE_OF_SLAB: u64 = 4096;

/// Columns have a counter each; the last counter is their own.
const MOST_COLUMNS: u64 = params::WN_COUNTERS as u64 - 1;

/// Where the parts of a workspace begin, in bytes from its start: behind the counters, the results, then partials.
const RESULTS: u64 = params::WN_COUNTERS as u64 * size_of::<u32>() as u64;
/// Of the kernels' `Moments`: five floats.
pub(super) const BYTES_OF_MOMENTS: u64 = 5 * size_of::<f32>() as u64;
/// Of their `Part` and their `Normalization`.
const BYTES_OF_PART: u64 = WORD;

fn vector(dtype: DType) -> u64 {
    (16 / dtype.size()) as u64
}

/// Samples of `[rounds, channels]`, the moments over groups of neighbouring channels.
#[derive(Clone, Copy)]
struct Slabs {
    dtype: DType,
    samples: u64,
    /// Elements of a sample.
    length: u64,
    channels: u64,
    groups: u64,
    /// All samples of a batch are one.
    is_batch: bool,
}

/// How slabs are cut, and the threads of a block; addresses aside.
#[derive(Clone, Copy)]
struct Cut {
    slab: SlabGeometry,
    threads: u64,
}

impl Slabs {
    /// Where blocks could hold sections of the sample, so small that they can; else wider ones.
    ///
    /// A batch is one sample: what there is of sections and tiles is all that a chip can share out.
    fn cut(&self) -> Cut {
        let blocks = |cut: &Cut| cut.slab.sections.divisor * cut.slab.tiles;
        let cuts = [NARROW_SECTION, NARROWEST_SECTION].map(|least_section| self.held(least_section));
        let suits = |cut: &Cut| {
            if self.is_batch { blocks(cut) >= BLOCKS_THAT_FILL } else { cut.tile_bytes() <= MIDDLE_TILE }
        };
        let is_enough = |cut: &Cut| !self.is_batch || blocks(cut) >= LEAST_RESIDENT_BLOCKS;
        let all = || cuts.into_iter().flatten();
        all().find(suits).or_else(|| all().rfind(is_enough)).unwrap_or_else(|| self.streamed())
    }

    /// Into how many sections of so many bytes the channels fall apart; 1 if that cannot be.
    fn section(&self, is_enough: impl Fn(u64) -> bool) -> u64 {
        let vector = vector(self.dtype);
        let of_group = self.channels / self.groups;
        let unit = of_group / pointwise::gcd(of_group, vector) * vector;
        if !self.channels.is_multiple_of(unit) {
            return 1;
        }
        let units = self.channels / unit;
        let bytes = |count: u64| count * unit * self.dtype.size() as u64;
        // No section that need be found has more vectors than a block has threads.
        let most = units.min(THREADS);
        (1..=most)
            .find(|&count| units.is_multiple_of(count) && is_enough(bytes(count)))
            .map_or(1, |count| units / count)
    }

    fn geometry(&self, sections: u64) -> SlabGeometry {
        let vector = vector(self.dtype);
        let channels = self.channels / sections;
        let period = channels / pointwise::gcd(channels, vector);
        let strips = period.div_ceil(THREADS);
        let strip = period.div_ceil(strips);
        let round = sections * period * vector;
        SlabGeometry {
            samples: self.samples,
            length: self.length,
            round,
            rounds: self.length.div_ceil(round),
            whole_rounds: self.length / round,
            columns: (self.samples * sections).min(MOST_COLUMNS),
            groups: self.groups / sections,
            sections: divisor(sections),
            channels: divisor(channels),
            group: divisor(self.channels / self.groups),
            period: period as u32, // no tensor of the address space has so many channels that it would not fit
            strip: strip as u32,   // at most THREADS
            strip_magic: params::WN_STRIP_ONE / strip as u32 + 1,
            strips: period.div_ceil(strip) as u32,
            pixels: (period * vector / channels) as u32, // at most a vector's elements
            ..SlabGeometry::default()
        }
    }

    /// In sections of at least so many bytes, whole sectors if that can be.
    fn held(&self, least_section: u64) -> Option<Cut> {
        let sections = match self.section(|bytes| bytes >= least_section && bytes.is_multiple_of(SECTOR)) {
            1 => self.section(|bytes| bytes >= least_section),
            sections => sections,
        };
        let slab = self.geometry(sections);
        let bytes_of_round = u64::from(slab.period) * WORD;
        let bytes = slab.rounds.checked_mul(bytes_of_round)?;
        let mut tiles = bytes.div_ceil(SMALL_TILE).checked_next_power_of_two()?.min(MOST_RESIDENT_TILES);
        // A cluster has a power of two of them, and none is empty.
        while !slab.rounds.div_ceil(slab.rounds.div_ceil(tiles)).is_power_of_two() {
            tiles /= 2;
        }
        let tile_rounds = slab.rounds.div_ceil(tiles);
        let threads = if tile_rounds * bytes_of_round <= TINY_TILE { THREADS / 2 } else { THREADS };
        let threads = threads.max(u64::from(slab.strip).next_multiple_of(u64::from(params::WN_WARP)));
        Some(Cut::new(slab, tile_rounds, threads)).filter(|cut| cut.tile_bytes() <= LARGEST_TILE)
    }

    fn streamed(&self) -> Cut {
        let slab = self.geometry(self.section(|bytes| bytes >= WIDE_SECTION));
        // Whole batches of each thread.
        let rows = (THREADS / u64::from(slab.strip)).max(1);
        let sections = slab.sections.divisor;
        let bytes = self.length * self.dtype.size() as u64;
        let is_small = self.is_batch && bytes < LEAST_TILES * TILE;
        let tile = if is_small { (bytes / TILES_THAT_FILL).clamp(LEAST_TILE, TILE) } else { TILE };
        let batches = (tile / WORD / u64::from(slab.period) / (BATCH * rows)).max(1);
        let most_tiles = if self.is_batch { (MOST_TILES_OF_BATCH / sections).max(32) } else { MOST_TILES_OF_SAMPLE };
        let least = slab.rounds.div_ceil(most_tiles);
        Cut::new(slab, (batches * BATCH * rows).max(least.next_multiple_of(BATCH * rows)), THREADS)
    }
}

impl Cut {
    fn new(slab: SlabGeometry, tile_rounds: u64, most_threads: u64) -> Self {
        let strip = u64::from(slab.strip);
        let tile_rounds = tile_rounds.min(slab.rounds);
        // Whole warps, and no more rows of them than there are rounds.
        let rows = (most_threads / strip).min(tile_rounds).max(1);
        let threads = (strip * rows).next_multiple_of(u64::from(params::WN_WARP)).min(most_threads);
        let tiles = slab.rounds.div_ceil(tile_rounds);
        let piece_rounds = MOST_OF_THREAD * (threads / strip);
        let rows = (threads / strip) as u32; // at most THREADS
        Self { slab: SlabGeometry { tiles, tile_rounds, piece_rounds, rows, ..slab }, threads }
    }

    fn tile_bytes(&self) -> u64 {
        self.slab.tile_rounds * u64::from(self.slab.period) * WORD
    }

    /// Bytes of shared memory in which the threads of a block bring together what they have found.
    fn scratch(&self, dtype: DType) -> u64 {
        vector(dtype) * (self.threads + 1) * BYTES_OF_PART
    }

    /// Shared memory of a block that holds its tile, an element of it in so many bytes.
    fn shared_bytes(&self, dtype: DType, size: u64) -> u64 {
        let tile = self.tile_bytes() / dtype.size() as u64 * size;
        WORD + self.scratch(dtype) + 2 * self.slab.groups * BYTES_OF_PART + tile
    }

    /// Whether clusters of blocks with so much shared memory, and of a kernel of which a multiprocessor runs so many threads, keep
    /// the chip busy: where they leave it idle for two fifths of their turns, it takes less to read everything twice.
    fn fills(&self, shared: u64, resident_threads: u64, limits: &Limits) -> bool {
        let by_shared = (u64::from(limits.shared) + KEPT_BY_DRIVER) / (shared + KEPT_BY_DRIVER);
        let of_multiprocessor = (resident_threads / self.threads).min(by_shared).max(1);
        let blocks = u64::from(limits.multiprocessors) * of_multiprocessor;
        // A cluster is within a group of multiprocessors, whose number is none of its multiples: of 132 on an H100, 112 have room
        // for one of 16, 120 for one of 8 or 4.
        let places =
            if self.slab.tiles > 2 { blocks / self.slab.tiles * 7 / 8 } else { blocks / self.slab.tiles }.max(1);
        let slabs = self.slab.samples * self.slab.sections.divisor;
        let turns = slabs.div_ceil(places);
        turns == 1 || slabs * 5 >= turns * places * 3
    }

    /// `params` lack the geometry alone.
    fn plan(self, dtype: DType, params: &ChannelsLastParams, needs_counters: bool, limits: &Limits) -> Plan {
        let (mut slab, block) = (self.slab, self.threads as u32); // at most THREADS
        let is_stored = params.flags & params::WN_FLAG_HELD_AS_STORED != 0;
        let is_as_input = params.y_type == params::WN_ELEMENT_AS_INPUT;
        let is_whole = is_stored && is_as_input && slab.length.is_multiple_of(vector(dtype));
        let shared = self.shared_bytes(dtype, if is_stored { dtype } else { DType::F32 }.size() as u64);
        let can_be_held = slab.tiles <= u64::from(limits.cluster) && shared <= u64::from(limits.shared);
        let any_held = can_be_held.then(|| Launch {
            kernel: CHANNELS_LAST_ANY_RESIDENT.of(dtype),
            grid: limits.columns(slab.columns, slab.tiles),
            block,
            cluster: slab.tiles as u32, // these two are no larger than what they were held against
            shared: shared as u32,
            params: Params::ChannelsLast(ChannelsLastParams { slab, ..*params }),
        });
        let resident_threads = if is_whole { RESIDENT_THREADS } else { ANY_RESIDENT_THREADS };
        if let Some(any) = any_held.filter(|_| self.fills(shared, resident_threads, limits)) {
            let plan = resident(any, needs_counters);
            if !is_whole {
                return plan;
            }
            let whole = Launch { kernel: CHANNELS_LAST_RESIDENT.of(dtype), ..any };
            return Plan { unaligned: plan.launches, launches: [Some(whole), None], ..plan };
        }
        let slabs = slab.samples * slab.sections.divisor;
        let (workspace_bytes, begin) =
            workspace(slabs * slab.groups * BYTES_OF_PART, slabs * slab.tiles * slab.groups * BYTES_OF_PART);
        let grid = limits.columns(slab.columns, slab.tiles);
        slab.columns = u64::from(grid) / slab.tiles;
        slab.partials = begin;
        let params = Params::ChannelsLast(ChannelsLastParams { results: RESULTS, slab, ..*params });
        let shared = self.scratch(dtype) as u32; // 16 bytes for each element that its threads read at a time
        let launch = |family: Family| Launch { kernel: family.of(dtype), grid, block, cluster: 1, shared, params };
        let any = [CHANNELS_LAST_ANY_MOMENTS, CHANNELS_LAST_ANY_APPLY].map(|family| Some(launch(family)));
        // Counters are in the workspace.
        let otherwise = any_held.filter(|_| !needs_counters);
        let plan = Plan { launches: any, workspace_bytes, otherwise, ..Plan::NONE };
        if !is_whole {
            return plan;
        }
        let moments = launch(CHANNELS_LAST_MOMENTS);
        let apply = self.written(&launch(CHANNELS_LAST_APPLY), limits);
        Plan { launches: [Some(moments), Some(apply)], unaligned: any, ..plan }
    }

    /// The same launch by smaller tiles: what is written does not depend on who writes it.
    fn written(&self, launch: &Launch, limits: &Limits) -> Launch {
        let params = params_of(&launch.params);
        let mut slab = params.slab;
        slab.tile_rounds = (WRITTEN_OF_THREAD * (self.threads / u64::from(slab.strip)).max(1)).min(slab.rounds);
        slab.tiles = slab.rounds.div_ceil(slab.tile_rounds);
        let grid = limits.columns(slab.samples * slab.sections.divisor, slab.tiles);
        slab.columns = u64::from(grid) / slab.tiles;
        Launch { grid, params: Params::ChannelsLast(ChannelsLastParams { slab, ..*params }), ..*launch }
    }
}

fn params_of(params: &Params) -> &ChannelsLastParams {
    let Params::ChannelsLast(params) = params else { unreachable!("slabs plan slabs") };
    params
}

/// A single launch, which needs a workspace only for its counters.
fn resident(launch: Launch, needs_counters: bool) -> Plan {
    let workspace_bytes = if needs_counters { RESULTS as usize } else { 0 };
    Plan { workspace_bytes, ..Plan::single(Some(launch)) }
}

impl Limits {
    /// Blocks of so many columns, as far as a grid goes: blocks walk on over columns.
    fn columns(&self, columns: u64, tiles: u64) -> u32 {
        let columns = columns.min((u64::from(self.max_grid) / tiles).max(1));
        u32::try_from(columns * tiles).unwrap_or(self.max_grid)
    }
}

/// Bytes of a workspace, and where its partials begin.
pub(super) fn workspace(results: u64, partials: u64) -> (usize, u64) {
    let begin = (RESULTS + results).next_multiple_of(256);
    (usize::try_from(begin + partials).unwrap_or(usize::MAX), begin)
}

pub(super) fn plan(tensor: &ChannelsLast, limits: &Limits) -> Plan {
    let (samples, spatial, channels) = (tensor.samples as u64, tensor.spatial as u64, tensor.channels as u64);
    if samples == 0 || spatial == 0 || channels == 0 {
        return Plan::NONE;
    }
    let slabs = Slabs {
        dtype: tensor.dtype,
        samples,
        length: spatial * channels,
        channels,
        groups: tensor.groups as u64,
        is_batch: false,
    };
    let params = ChannelsLastParams {
        activation: activation_code(tensor.activation),
        flags: coefficient_flags(tensor.weight, tensor.bias)
            | modulation_flags(&tensor.modulation)
            | held_flag(tensor.is_plain),
        eps: tensor.eps,
        y_type: output_code(tensor.output, tensor.dtype),
        ..ChannelsLastParams::default()
    };
    slabs.cut().plan(tensor.dtype, &params, false, limits)
}

const fn held_flag(is_stored: bool) -> u32 {
    if is_stored { params::WN_FLAG_HELD_AS_STORED } else { 0 }
}

pub(super) fn plan_batch(batch: &BatchStatistics, limits: &Limits) -> Plan {
    let (samples, spatial, channels) = (batch.samples as u64, batch.spatial as u64, batch.channels as u64);
    if samples == 0 || spatial == 0 || channels == 0 {
        return Plan::NONE;
    }
    let flags = coefficient_flags(batch.weight, batch.bias)
        | held_flag(batch.is_plain)
        | if batch.momentum.is_none() { params::WN_FLAG_CUMULATIVE } else { 0 };
    let running =
        Running { values: samples * spatial, momentum: batch.momentum.unwrap_or_default(), ..Running::default() };
    let is_uneven = !spatial.is_multiple_of(vector(batch.dtype));
    // Without spatial axes both layouts are the same memory.
    let (channels_of_slab, by_group) = if batch.layout == Layout::Nhwc || spatial == 1 {
        (channels, false)
    } else if is_uneven && samples >= LEAST_SAMPLES_OF_SLAB && spatial <= LARGEST_PLANE_OF_SLAB {
        (channels * spatial, true)
    } else {
        return plan_planes(batch, flags, running, limits);
    };
    let slabs = Slabs {
        dtype: batch.dtype,
        samples: 1,
        length: samples * spatial * channels,
        channels: channels_of_slab,
        groups: channels,
        is_batch: true,
    };
    let params = ChannelsLastParams {
        running,
        activation: activation_code(batch.activation),
        flags: flags | if by_group { params::WN_FLAG_AFFINE_BY_GROUP } else { 0 },
        eps: batch.eps,
        y_type: output_code(batch.output, batch.dtype),
        ..ChannelsLastParams::default()
    };
    slabs.cut().plan(batch.dtype, &params, batch.momentum.is_none(), limits)
}

fn plan_planes(batch: &BatchStatistics, flags: u32, running: Running, limits: &Limits) -> Plan {
    let channels = batch.channels as u64;
    let plane_vectors = (batch.spatial as u64).div_ceil(vector(batch.dtype));
    let vectors = batch.samples as u64 * plane_vectors;
    let resident_tiles = resident_tiles(vectors, channels);
    let tile_vectors = resident_tiles
        .map_or_else(|| (TILE / WORD).max(vectors.div_ceil(MOST_TILES_OF_PLANES)), |tiles| vectors.div_ceil(tiles));
    let tiles = vectors.div_ceil(tile_vectors);
    let columns = channels.min(MOST_COLUMNS);
    let (kernel, block) = (BATCH_STATISTICS_PLANES.of(batch.dtype), params::WN_SLAB_THREADS);
    let grid = limits.columns(columns, tiles);
    let (workspace_bytes, begin) = workspace(channels * 3 * 4, channels * tiles * BYTES_OF_PART);
    let params = BatchStatisticsParams {
        channels,
        columns: u64::from(grid) / tiles,
        tiles,
        tile_vectors,
        vectors,
        plane_vectors: divisor(plane_vectors),
        spatial: batch.spatial as u64,
        running,
        activation: activation_code(batch.activation),
        flags,
        eps: batch.eps,
        y_type: output_code(batch.output, batch.dtype),
        ..BatchStatisticsParams::default()
    };
    let size = if batch.is_plain { batch.dtype } else { DType::F32 }.size() as u64;
    let shared = u64::from(params::WN_PLANES_WORDS) * WORD + tile_vectors * vector(batch.dtype) * size;
    if resident_tiles.is_some() && tiles <= u64::from(limits.cluster) && shared <= u64::from(limits.shared) {
        let (cluster, shared) = (tiles as u32, shared as u32); // both no larger than what they were held against
        let params = Params::BatchStatistics(params);
        let kernel = BATCH_STATISTICS_PLANES_RESIDENT.of(batch.dtype);
        return resident(Launch { kernel, grid, block, cluster, shared, params }, batch.momentum.is_none());
    }
    let params = Params::BatchStatistics(BatchStatisticsParams { table: RESULTS, partials: begin, ..params });
    let statistics = Launch::plain(kernel, grid, block, params);
    let map = Pointwise {
        dtype: batch.dtype,
        output: batch.output,
        length: batch.samples * batch.spatial * batch.channels,
        channels: batch.channels,
        spatial: batch.spatial,
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

/// Tiles of a channel, if blocks are to hold them.
fn resident_tiles(vectors: u64, channels: u64) -> Option<u64> {
    let bytes = vectors.checked_mul(WORD)?;
    let mut tiles = bytes.div_ceil(SMALL_PLANE_TILE).next_power_of_two().min(MOST_RESIDENT_TILES);
    // A cluster has a power of two of them, and none is empty.
    while !vectors.div_ceil(vectors.div_ceil(tiles)).is_power_of_two() {
        tiles /= 2;
    }
    let tile = vectors.div_ceil(tiles) * WORD;
    let is_small = tile <= SMALL_PLANE_TILE;
    let is_worth_it = tile <= LARGEST_PLANE_TILE && channels * tiles >= LEAST_RESIDENT_BLOCKS;
    (is_small || is_worth_it).then_some(tiles)
}

#[cfg(test)]
mod tests;
