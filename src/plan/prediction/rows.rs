//! Rows: kernels/rows.cuh.

use super::call::Call;
use super::instructions::{CHANNEL, IRREGULAR, OF_CHANNEL, OfWidth, SAVED_BY_MAP};
use super::record::l1_left;
use super::time::Job;
use crate::plan::Launch;
use crate::plan::params::{self, HeadRowsParams, RowsParams};

const WARP: f64 = params::WN_WARP as f64;
const CHUNK: f64 = params::WN_CHUNK as f64;

pub fn job(call: &Call, launch: &Launch, p: &RowsParams) -> Job {
    match p.step {
        params::WN_STEP_MOMENTS => moments(call, launch, p),
        params::WN_STEP_APPLY => apply(call, launch, p),
        _ if call.stem(launch) == "fused_rows_long" => {
            panic!("no cell of the benchmark is planned so: describe it here")
        }
        _ => held(call, launch, p),
    }
}

/// Heads are rows.
pub fn heads(call: &Call, launch: &Launch, p: &HeadRowsParams) -> Job {
    let length = u64::from(p.length);
    let rows =
        RowsParams { rows: p.rows, length, x_stride: length, lanes: p.lanes, flags: p.flags, ..RowsParams::default() };
    held(call, launch, &rows)
}

/// A row that is held, by some lanes or by the blocks of a cluster.
struct Held {
    is_shared: bool,
    warps: f64,
    /// Of a block.
    rows: f64,
    /// Of a warp's row, one after another.
    chunks: f64,
    /// Of a lane.
    vectors: f64,
    /// Of the tensors, by a block.
    bytes: f64,
    bytes_written: f64,
}

impl Held {
    fn new(call: &Call, launch: &Launch, p: &RowsParams) -> Self {
        let is_shared = call.stem(launch).ends_with("_shared");
        let (length, rows) = (p.length as f64, f64::from(launch.block / p.lanes));
        let chunks = if is_shared { f64::from(1 << p.leaf_shift) } else { 1.0 };
        let vectors = if is_shared {
            chunks * CHUNK / WARP / call.vector()
        } else {
            (length / call.vector() / f64::from(p.lanes)).ceil()
        };
        let bytes = rows * call.tensors() * length * call.size() / f64::from(launch.cluster);
        let of_rows = rows / p.rows as f64 / f64::from(launch.cluster);
        let bytes_written = of_rows * call.case.written_bytes() as f64;
        Self { is_shared, warps: f64::from(launch.block) / WARP, rows, chunks, vectors, bytes, bytes_written }
    }
}

fn held(call: &Call, launch: &Launch, p: &RowsParams) -> Job {
    // Whoever walks on is taken for as many blocks: that the next row comes while this one is dealt with is not in the model.
    let blocks = p.rows.div_ceil(u64::from(launch.block / p.lanes)) * u64::from(launch.cluster);
    let launch = &Launch { grid: u32::try_from(blocks).unwrap_or(u32::MAX), ..*launch };
    let (chip, held) = (call.chip, Held::new(call, launch, p));
    let of = call.instructions(launch);
    let irregular = part_irregular(call, p);
    let instructions = of.once + held.vectors * (of_vector(call, launch, &of, p) + irregular * IRREGULAR);
    let coefficients = Coefficients::new(call, launch, p, &held);
    let executed = chip.execute(instructions, held.warps);
    let block = chip.start
        + chip.latency(call.warmth())
        + chip.through_port(held.bytes + held.bytes_written)
        + executed
        + reductions(call, p, &held)
        + together(call, launch, &held)
        + coefficients.rounds * coefficients.latency;
    Job {
        written: call.case.written_bytes() as f64,
        coefficients: f64::from(launch.grid) * coefficients.bytes_from_l2,
        partial_sectors: irregular * partial_sectors(call),
        instructions: instructions * held.warps * f64::from(launch.grid),
        first: block,
        executed,
        block,
        ..call.reading(launch, call.warmth())
    }
}

/// Weight and bias go by the channel, and a vector has one.
fn is_plain_by_channel(call: &Call, launch: &Launch, p: &RowsParams) -> bool {
    p.affine == params::WN_AFFINE_PER_CHANNEL && call.stem(launch).starts_with("rows_")
}

fn of_vector(call: &Call, launch: &Launch, of: &OfWidth, p: &RowsParams) -> f64 {
    let mean = if p.flags & params::WN_FLAG_MEAN_SQUARE == 0 { of.mean } else { 0.0 };
    // A coefficient of f32 beside 16-bit elements is two words.
    let words = (call.case.weight.size() as f64 / call.size()).max(1.0);
    let coefficients = if is_plain_by_channel(call, launch, p) {
        let kept = call.stem(launch).ends_with("_shared");
        let of_channel = if kept { 0.0 } else { call.coefficients() * OF_CHANNEL };
        CHANNEL + of_channel - call.vector() * SAVED_BY_MAP
    } else {
        call.coefficients() * words * of.coefficient
    };
    of.vector + mean + coefficients + call.residual(of) + call.activation() + call.around()
}

/// Of the rows, those that do not begin on a 16-byte word.
fn part_irregular(call: &Call, p: &RowsParams) -> f64 {
    let bytes = p.x_stride * call.case.dtype.size() as u64;
    let aligned = bytes.trailing_zeros().min(4);
    1.0 - 1.0 / f64::from(16 >> aligned)
}

/// Off a 16-byte boundary: at the ends of what a warp stores together, an element at a time.
fn partial_sectors(call: &Call) -> f64 {
    call.bytes() / (WARP * 16.0) * call.vector()
}

/// One chunk after another, for each norm of a row and for the largest of a quantized one.
fn reductions(call: &Call, p: &RowsParams, held: &Held) -> f64 {
    let passes = if p.flags & params::WN_FLAG_MEAN_SQUARE == 0 { 2.0 } else { 1.0 };
    let lanes = f64::from(p.lanes);
    let tree = if held.is_shared { call.merges(2.0) } else { 0.0 };
    held.chunks * (call.norms() * (passes * call.shuffles(lanes) + tree) + call.maxima() * call.shuffles(lanes))
}

/// Until all warps of a row know its moments, and its largest magnitude.
fn together(call: &Call, launch: &Launch, held: &Held) -> f64 {
    let warps_of_row = held.warps * f64::from(launch.cluster);
    if held.rows > 1.0 {
        return 0.0;
    }
    let barrier = if launch.cluster > 1 { call.chip.cluster_barrier } else { call.chip.block_barrier };
    (call.norms() + call.maxima()) * call.chip.cycles(barrier) + call.norms() * call.merges(warps_of_row)
}

/// Weight and bias of a block.
struct Coefficients {
    bytes_from_l2: f64,
    /// How often a warp waits for some of them.
    rounds: f64,
    latency: f64,
}

impl Coefficients {
    fn new(call: &Call, launch: &Launch, p: &RowsParams, held: &Held) -> Self {
        let chip = call.chip;
        // Those of a channel are a few numbers.
        let of_element = if p.affine == params::WN_AFFINE_PER_ELEMENT {
            call.coefficients() * call.case.weight.size() as f64
        } else {
            0.0
        };
        let bytes = of_element * p.length as f64 / f64::from(launch.cluster);
        let blocks = call.blocks_of_multiprocessor(launch);
        // What is copied to shared memory passes the L1 by; loads do not.
        let passing = if held.is_shared { bytes } else { blocks * held.bytes };
        let fits = bytes + passing <= l1_left(1024.0 * chip.l1_bytes, blocks, launch.shared);
        // Vectors whose coefficients a warp asks for together, or that have those of the one before.
        let unrolled = match call.stem(launch) {
            "rows_shared" if is_plain_by_channel(call, launch, p) => {
                (p.spatial.divisor as f64 / (WARP * call.vector())).clamp(1.0, held.vectors / held.chunks)
            }
            "rows_shared" => 2.0,
            "fused_rows_any_shared" => 1.0,
            "fused_rows_shared" => 2.0,
            _ => held.vectors,
        };
        Self {
            bytes_from_l2: if fits { 0.0 } else { bytes },
            rounds: held.vectors / unrolled,
            latency: chip.cycles(if fits { chip.l1_latency } else { chip.l2_latency }),
        }
    }
}

/// The first launch of rows that nobody holds: a warp goes through its chunks one by one.
fn moments(call: &Call, launch: &Launch, p: &RowsParams) -> Job {
    let (chip, of) = (call.chip, call.instructions(launch));
    let (warps, chunks) = (f64::from(launch.block) / WARP, f64::from(1 << p.leaf_shift));
    let vectors = CHUNK / WARP / call.vector();
    let instructions = vectors * (of.vector + of.mean + call.residual(&of));
    let executed = chip.execute(instructions, warps);
    let step = chip.latency(call.warmth())
        + chip.through_port(warps * CHUNK * call.size() * call.tensors())
        + executed
        + 2.0 * call.shuffles(WARP)
        + call.merges(2.0);
    Job {
        instructions: f64::from(launch.grid) * warps * (of.once + chunks * instructions),
        first: chip.start + step,
        executed,
        block: chip.start + chunks * step,
        ..call.reading(launch, call.warmth())
    }
}

/// The second: a warp merges what the first has left, and goes back through its chunks vector by vector.
fn apply(call: &Call, launch: &Launch, p: &RowsParams) -> Job {
    /// Of a lane, one after another.
    const PARTS: f64 = 8.0;
    let (chip, of) = (call.chip, call.instructions(launch));
    let warmth = call.warmth_of_second(true);
    let (warps, chunks) = (f64::from(launch.block) / WARP, f64::from(1 << p.leaf_shift));
    let vectors = chunks * CHUNK / WARP / call.vector();
    let instructions = of_vector(call, launch, &of, p);
    let merged = PARTS * chip.cycles(chip.l2_latency) + call.merges(PARTS) + call.merges(WARP) + call.merges(warps);
    let executed = chip.execute(instructions, warps);
    let step = chip.latency(warmth) + 2.0 * chip.through_port(warps * WARP * 16.0 * call.tensors()) + executed;
    Job {
        written: call.case.written_bytes() as f64,
        instructions: f64::from(launch.grid) * warps * (of.once + vectors * instructions),
        first: chip.start + merged + step,
        executed,
        block: chip.start + merged + vectors * step,
        ..call.reading(launch, warmth)
    }
}
