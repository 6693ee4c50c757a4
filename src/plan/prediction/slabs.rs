//! Channels last and batch statistics.

use super::call::Call;
use super::instructions::MERGE;
use super::time::Job;
use crate::plan::Launch;
use crate::plan::params::{self, BatchStatisticsParams, ChannelsLastParams, SlabGeometry};

const WARP: f64 = params::WN_WARP as f64;
/// Vectors that a thread of a slab has in flight, `kRoundsInFlight`.
const IN_FLIGHT: f64 = 4.0;

pub fn channels_last(call: &Call, launch: &Launch, p: &ChannelsLastParams) -> Job {
    match call.stem(launch) {
        "channels_last_moments" => slab_moments(call, launch, &p.slab),
        _ => slab_apply(call, launch, &p.slab),
    }
}

pub fn batch_statistics(call: &Call, launch: &Launch, p: &BatchStatisticsParams) -> Job {
    match call.stem(launch) {
        "batch_statistics_planes" => plane_moments(call, launch, &p.slab),
        _ => slab_moments(call, launch, &p.slab),
    }
}

/// Rounds of a slab that a block works at together, one for each row of its threads.
fn rows_of(launch: &Launch, slab: &SlabGeometry) -> f64 {
    f64::from(launch.block / slab.strip).max(1.0)
}

fn slab_moments(call: &Call, launch: &Launch, slab: &SlabGeometry) -> Job {
    let (chip, of) = (call.chip, call.instructions(launch));
    let (warps, rows) = (f64::from(launch.block) / WARP, rows_of(launch, slab));
    let vectors = (slab.tile_rounds as f64 / rows).ceil();
    let instructions = of.vector + call.residual(&of);
    let executed = chip.execute(IN_FLIGHT * instructions, warps);
    let step = chip.latency(call.warmth()) + chip.through_port(warps * WARP * 16.0 * IN_FLIGHT) + executed;
    // The threads' moments are merged over rows in shared memory, then those of each group.
    let over_rows = rows.log2().ceil() * chip.execute(call.vector() * MERGE, warps);
    let members = f64::from(slab.period) * call.vector() / slab.groups as f64;
    let block = chip.start
        + (vectors / IN_FLIGHT).ceil() * step
        + over_rows
        + over_groups(call, slab.groups as f64, members, chip.cycles(chip.l1_latency));
    let parts = slab.tiles as f64 * f64::from(slab.strips);
    Job {
        instructions: f64::from(launch.grid) * warps * (of.once + vectors * instructions),
        first: chip.start + step,
        executed,
        block,
        last: arrival(call) + over_groups(call, slab.groups as f64, parts, chip.cycles(chip.l2_latency)),
        ..call.reading(launch, call.warmth())
    }
}

/// Microseconds in which a block merges, for each group, so many moments, each so long away.
fn over_groups(call: &Call, groups: f64, moments: f64, latency: f64) -> f64 {
    const THREADS: f64 = params::WN_SLAB_THREADS as f64;
    let lanes = moments.log2().ceil().exp2().min(WARP);
    let rounds = (groups / (THREADS / lanes)).ceil();
    let one_by_one = (moments / lanes).ceil() * (latency + call.chip.execute(MERGE, THREADS / WARP));
    rounds * (one_by_one + call.merges(lanes))
}

/// A fence, a counter, and a fence.
fn arrival(call: &Call) -> f64 {
    3.0 * call.chip.cycles(call.chip.l2_latency)
}

fn slab_apply(call: &Call, launch: &Launch, slab: &SlabGeometry) -> Job {
    let (chip, of) = (call.chip, call.instructions(launch));
    let warmth = call.warmth_of_second(true);
    let warps = f64::from(launch.block) / WARP;
    let vectors = (slab.tile_rounds as f64 / rows_of(launch, slab)).ceil();
    let instructions = of.vector + call.residual(&of) + call.activation();
    let constants = 2.0 * chip.cycles(chip.l2_latency) + chip.execute(of.once, warps);
    let executed = chip.execute(instructions, warps);
    let step = chip.latency(warmth) + 2.0 * chip.through_port(warps * WARP * 16.0 * call.tensors()) + executed;
    Job {
        written: call.bytes(),
        instructions: f64::from(launch.grid) * warps * (of.once + vectors * instructions),
        first: chip.start + constants + step,
        executed,
        block: chip.start + constants + vectors * step,
        ..call.reading(launch, warmth)
    }
}

fn plane_moments(call: &Call, launch: &Launch, slab: &SlabGeometry) -> Job {
    let (chip, of) = (call.chip, call.instructions(launch));
    let warps = f64::from(launch.block) / WARP;
    let vectors_of_channel = (call.case.elements() as f64 / call.case.channels() as f64 / call.vector()).ceil();
    let vectors = (vectors_of_channel.min(slab.tile_rounds as f64) / f64::from(launch.block)).ceil();
    let instructions = of.vector + call.residual(&of);
    let executed = chip.execute(instructions, warps);
    let step = chip.latency(call.warmth()) + chip.through_port(warps * WARP * 16.0 * call.tensors()) + executed;
    let merged = call.merges(WARP) + chip.cycles(chip.block_barrier) + call.merges(warps);
    Job {
        instructions: f64::from(launch.grid) * warps * (of.once + vectors * instructions),
        first: chip.start + step,
        executed,
        block: chip.start + vectors * step + merged,
        last: arrival(call) + over_groups(call, 1.0, slab.tiles as f64, chip.cycles(chip.l2_latency)),
        ..call.reading(launch, call.warmth())
    }
}
