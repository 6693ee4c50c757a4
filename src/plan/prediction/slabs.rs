//! Channels last and batch statistics.

use super::call::Call;
use super::time::Job;
use crate::plan::Launch;
use crate::plan::params::{self, BatchStatisticsParams, ChannelsLastParams};

const WARP: f64 = params::WN_WARP as f64;
/// Vectors that a thread has in flight where it sums, slabs and planes, and where it writes.
const SUMMED: f64 = 4.0;
const SUMMED_OF_PLANES: f64 = 8.0;
const WRITTEN: f64 = 4.0;

/// What a block of slabs or planes does.
struct Tile {
    warps: f64,
    /// Of a thread, in flight where it sums.
    summed: f64,
    /// Of a thread.
    vectors: f64,
    /// Of a lane, those of other threads that it brings together.
    parts: f64,
    /// Those that the blocks of a slab leave: of a lane, eight at a time, one turn after another.
    tiles: f64,
    turns: f64,
}

pub fn channels_last(call: &Call, launch: &Launch, p: &ChannelsLastParams) -> Job {
    let (slab, threads) = (&p.slab, f64::from(launch.block));
    let rows = f64::from((launch.block / slab.strip).max(1));
    let lanes = (threads / slab.groups as f64).log2().floor().exp2().clamp(1.0, WARP);
    let turns = |lanes: f64| (slab.groups as f64 * lanes / threads).ceil();
    let members = rows * f64::from(slab.period) * call.vector() / slab.groups as f64;
    let most = f64::from(params::WN_CLUSTER);
    let tiles = slab.tiles as f64;
    let (tiles, turns_of_tiles) = if tiles <= most {
        (1.0, turns(tiles.log2().ceil().exp2()))
    } else {
        // Each thread has a group, and so many of its tiles.
        let slices = (threads / slab.groups as f64).floor().max(1.0);
        ((tiles / slices).ceil(), (slab.groups as f64 / threads).ceil())
    };
    let tile = Tile {
        warps: threads / WARP,
        summed: SUMMED,
        vectors: f64::from(slab.strips) * (slab.tile_rounds as f64 / rows).ceil(),
        parts: turns(lanes) * (members / lanes).ceil(),
        tiles,
        turns: turns_of_tiles,
    };
    match call.stem(launch) {
        "channels_last_moments" => moments(call, launch, &tile),
        "channels_last_apply" => apply(call, launch, &tile),
        _ => resident(call, launch, &tile),
    }
}

pub fn batch_statistics(call: &Call, launch: &Launch, p: &BatchStatisticsParams) -> Job {
    let threads = f64::from(launch.block);
    let tile = Tile {
        warps: threads / WARP,
        summed: SUMMED_OF_PLANES,
        vectors: (p.tile_vectors as f64 / threads).ceil(),
        parts: 1.0,
        tiles: (p.tiles as f64 / WARP).ceil(),
        turns: 1.0,
    };
    match call.stem(launch) {
        "batch_statistics_planes" => moments(call, launch, &tile),
        _ => resident(call, launch, &tile),
    }
}

/// Two sweeps over so many parts of each lane, so far away, and what the lanes then tell each other.
fn together(call: &Call, warps: f64, parts: f64, latency: f64) -> f64 {
    2.0 * (call.chip.execute(parts.ceil() * PART, warps) + call.chip.cycles(latency) + call.shuffles(WARP))
}

/// Instructions for a part in one sweep.
const PART: f64 = 12.0;

/// Within a block.
fn of_block(call: &Call, tile: &Tile) -> f64 {
    2.0 * call.chip.cycles(call.chip.block_barrier) + together(call, tile.warps, tile.parts, call.chip.l1_latency)
}

/// By the last block of a slab: a fence, a counter and a fence, and then what all have left.
fn of_slab(call: &Call, tile: &Tile) -> f64 {
    let arrival = 3.0 * call.chip.cycles(call.chip.l2_latency);
    arrival
        + tile.turns
            * ((tile.tiles / AT_ONCE).ceil()
                * together(call, tile.warps, AT_ONCE.min(tile.tiles), call.chip.l2_latency))
}

/// `see_tiles`.
const AT_ONCE: f64 = 8.0;

fn moments(call: &Call, launch: &Launch, tile: &Tile) -> Job {
    let (chip, of, warps) = (call.chip, call.instructions(launch), tile.warps);
    let at_once = tile.summed.min(tile.vectors);
    let instructions = of.vector + call.residual(&of);
    let executed = chip.execute(at_once * instructions, warps);
    let bytes = warps * WARP * 16.0 * at_once * call.tensors();
    let step = chip.latency(call.warmth()) + chip.through_port(bytes) + executed;
    Job {
        instructions: f64::from(launch.grid) * warps * (of.once + tile.vectors * instructions),
        first: chip.start + step,
        executed,
        block: chip.start + (tile.vectors / at_once).ceil() * step + of_block(call, tile),
        last: of_slab(call, tile),
        ..call.reading(launch, call.warmth())
    }
}

fn apply(call: &Call, launch: &Launch, tile: &Tile) -> Job {
    let (chip, of, warps) = (call.chip, call.instructions(launch), tile.warps);
    let warmth = call.warmth_of_second(true);
    let at_once = WRITTEN.min(tile.vectors);
    let instructions = of.vector + call.residual(&of) + call.activation();
    let maps = 2.0 * chip.cycles(chip.l2_latency) + chip.cycles(chip.block_barrier) + chip.execute(of.once, warps);
    let executed = chip.execute(at_once * instructions, warps);
    let bytes = warps * WARP * 16.0 * at_once * call.tensors();
    let step = chip.latency(warmth) + 2.0 * chip.through_port(bytes) + executed;
    Job {
        written: call.bytes(),
        instructions: f64::from(launch.grid) * warps * (of.once + tile.vectors * instructions),
        first: chip.start + maps + step,
        executed,
        block: chip.start + maps + (tile.vectors / at_once).ceil() * step,
        ..call.reading(launch, warmth)
    }
}

/// All of a tile on its way at once, and written from where it is held.
fn resident(call: &Call, launch: &Launch, tile: &Tile) -> Job {
    let (chip, of, warps) = (call.chip, call.instructions(launch), tile.warps);
    let instructions = of.once + tile.vectors * (of.vector + call.residual(&of) + call.activation());
    let executed = chip.execute(instructions, warps);
    let of_cluster = if launch.cluster > 1 {
        // What lies in another block's shared memory is as far as the L2.
        chip.cycles(chip.cluster_barrier) + tile.turns * together(call, tile.warps, 1.0, chip.l2_latency)
    } else {
        0.0
    };
    let maps = 2.0 * chip.cycles(chip.l2_latency) + chip.cycles(chip.block_barrier);
    let bytes = 2.0 * call.bytes() / f64::from(launch.grid);
    let waiting = chip.latency(call.warmth()) + of_block(call, tile) + of_cluster + maps;
    let block = chip.start + waiting + chip.through_port(bytes) + executed;
    Job {
        written: call.bytes(),
        instructions: f64::from(launch.grid) * warps * instructions,
        first: block,
        executed,
        block,
        ..call.reading(launch, call.warmth())
    }
}
