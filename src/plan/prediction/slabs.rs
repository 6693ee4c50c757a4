//! Channels last, batch statistics, and pointwise maps.

use super::call::Call;
use super::time::Job;
use crate::plan::Launch;
use crate::plan::params::{self, BatchStatisticsParams, ChannelsLastParams, PointwiseParams};

const WARP: f64 = params::WN_WARP as f64;
/// Vectors that a thread has in flight where it sums, and where it writes.
const SUMMED: f64 = 8.0;
const WRITTEN: f64 = 4.0;

/// What a block of slabs or planes does.
struct Tile {
    warps: f64,
    /// Of a thread.
    vectors: f64,
    /// Of a lane, those of other threads that it brings together.
    parts: f64,
    /// Those that the blocks of a slab leave, and how many of them are brought together at a time.
    tiles: f64,
    turns: f64,
}

pub fn channels_last(call: &Call, launch: &Launch, p: &ChannelsLastParams) -> Job {
    let (slab, threads) = (&p.slab, f64::from(launch.block));
    let rows = f64::from((launch.block / slab.strip).max(1));
    let lanes = (threads / slab.groups as f64).log2().floor().exp2().clamp(1.0, WARP);
    let turns = |lanes: f64| (slab.groups as f64 * lanes / threads).ceil();
    let members = rows * f64::from(slab.period) * call.vector() / slab.groups as f64;
    let lanes_of_tiles = (slab.tiles as f64).log2().ceil().exp2().min(WARP);
    let tile = Tile {
        warps: threads / WARP,
        vectors: f64::from(slab.strips) * (slab.tile_rounds as f64 / rows).ceil(),
        parts: turns(lanes) * (members / lanes).ceil(),
        tiles: slab.tiles as f64,
        turns: turns(lanes_of_tiles),
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
        vectors: (p.tile_vectors as f64 / threads).ceil(),
        parts: 1.0,
        tiles: p.tiles as f64,
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
    arrival + tile.turns * together(call, tile.warps, tile.tiles / WARP, call.chip.l2_latency)
}

fn moments(call: &Call, launch: &Launch, tile: &Tile) -> Job {
    let (chip, of, warps) = (call.chip, call.instructions(launch), tile.warps);
    let at_once = SUMMED.min(tile.vectors);
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

/// `is_second`: behind the launch that has read the same.
pub fn pointwise(call: &Call, launch: &Launch, p: &PointwiseParams, is_second: bool) -> Job {
    let (chip, of) = (call.chip, call.instructions(launch));
    let warps = f64::from(launch.block) / WARP;
    let warmth = if is_second { call.warmth_of_second(false) } else { call.warmth() };
    let instructions = of.vector + call.residual(&of) + call.activation();
    // The numbers of one channel after another: those of the next lie beside them.
    let constants = |channels: f64| chip.cycles(chip.l2_latency + (channels - 1.0) * chip.l1_latency);
    let (at_once, steps, constants) = if call.stem(launch) == "pointwise_planes" {
        (f64::from(params::WN_POINTWISE_VECTORS), 1.0, constants(f64::from(params::WN_POINTWISE_VECTORS)))
    } else {
        let vectors = (p.length as f64 / call.vector()).ceil();
        (1.0, (vectors / p.stride as f64).ceil(), constants(call.vector()))
    };
    let executed = chip.execute(at_once * instructions, warps);
    let step =
        chip.latency(warmth) + 2.0 * chip.through_port(warps * WARP * 16.0 * at_once * call.tensors()) + executed;
    let begin = chip.start + constants + chip.execute(of.once, warps);
    Job {
        written: call.bytes(),
        instructions: f64::from(launch.grid) * warps * (of.once + steps * at_once * instructions),
        first: begin + step,
        executed,
        block: begin + steps * step,
        ..call.reading(launch, warmth)
    }
}
