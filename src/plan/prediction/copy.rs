//! The copies and the read that cells are measured against, by the same formula: probe/kernels/probe.cu.

use super::chip::Chip;
use super::instructions;
use super::record::MachineCode;
use super::time::{Job, Time, time};
use crate::element::DType;

const THREADS: u32 = 256;

/// Of the fastest copy that moves so many bytes in all: small ones are faster with one word a thread, on more multiprocessors.
pub fn copy(bytes: f64, is_warm: bool, chip: &Chip, code: &MachineCode) -> Time {
    let both = [1.0, 4.0].map(|words| copy_by_words(words, bytes, is_warm, chip, code));
    both.into_iter().min_by(|a, b| a.us.total_cmp(&b.us)).unwrap()
}

/// Of the copy with so many words a thread.
pub fn copy_by_words(words: f64, bytes: f64, is_warm: bool, chip: &Chip, code: &MachineCode) -> Time {
    moved(&format!("probe_copy_{words}"), words, [bytes / 2.0; 2], is_warm, chip, code)
}

/// Of a read of so many bytes.
pub fn read(bytes: f64, is_warm: bool, chip: &Chip, code: &MachineCode) -> Time {
    moved("probe_read_4", 4.0, [bytes, 0.0], is_warm, chip, code)
}

fn moved(kernel: &str, words: f64, [read, written]: [f64; 2], is_warm: bool, chip: &Chip, code: &MachineCode) -> Time {
    let of = instructions::of_kernel(kernel, DType::F32);
    let (warps, tile) = (f64::from(THREADS / 32), f64::from(THREADS) * words * 16.0);
    let instructions = of.once + words * of.vector;
    let (blocks, warmth) = ((read / tile).ceil(), if is_warm { 1.0 } else { 0.0 });
    let executed = chip.execute(instructions, warps);
    let block = chip.start + chip.latency(warmth) + 2.0 * chip.through_port(tile) + executed;
    let job = Job {
        blocks,
        resident: chip.resident(code.blocks(kernel, THREADS, 0), 1.0),
        read,
        read_in_l2: warmth * read,
        written,
        is_warm,
        instructions: blocks * warps * instructions,
        first: block,
        executed,
        block,
        ..Job::default()
    };
    time(&job, chip)
}
