//! Pointwise maps: kernels/pointwise.cu.

use super::call::Call;
use super::instructions;
use super::time::Job;
use crate::plan::Launch;
use crate::plan::params::{self, PointwiseParams};

const WARP: f64 = params::WN_WARP as f64;
const IN_FLIGHT: f64 = params::WN_POINTWISE_VECTORS as f64;

/// `is_second`: behind the launch that has read the same, the last of it first.
pub fn pointwise(call: &Call, launch: &Launch, p: &PointwiseParams, is_second: bool) -> Job {
    let (chip, of) = (call.chip, call.instructions(launch));
    let warps = f64::from(launch.block) / WARP;
    let warmth = if is_second { call.warmth_of_second(true) } else { call.warmth() };
    let vectors = f64::from(p.vectors);
    let at_once = vectors.min(IN_FLIGHT / call.tensors());
    let steps = (vectors / at_once).ceil();
    let instructions = of.vector + over_ends(call, p) + call.residual(&of) + call.activation();
    let executed = chip.execute(at_once * instructions, warps);
    let port = chip.through_port(warps * WARP * 16.0 * at_once * call.tensors());
    // While its first vectors are on their way, a block makes its maps: of numbers that lie in the L2, which are asked for at
    // once.
    let maps = chip.cycles(chip.l2_latency + chip.block_barrier) + chip.execute(of.once, warps);
    let first = chip.start + (chip.latency(warmth) + port).max(maps) + executed + port;
    Job {
        written: call.bytes(),
        instructions: f64::from(launch.grid) * warps * (of.once + vectors * instructions),
        first,
        executed,
        block: first + (steps - 1.0) * (chip.latency(warmth) + 2.0 * port + executed),
        ..call.reading(launch, warmth)
    }
}

/// Of a vector, where planes end inside some.
fn over_ends(call: &Call, p: &PointwiseParams) -> f64 {
    let (spatial, vector) = (p.spatial.divisor, call.vector() as u64);
    let has_ends = spatial >= u64::from(params::WN_POINTWISE_PLANE) && !spatial.is_multiple_of(vector);
    if has_ends { call.vector() * instructions::OVER_END } else { 0.0 }
}
