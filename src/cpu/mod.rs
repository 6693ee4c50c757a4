//! The CPU backend's execution: the same formulas as `kernels/*.cu`, with SIMD and threads.
//!
//! What most calls ask for is computed from tensor to tensor in registers, sixteen numbers at a time: one sweep for the
//! moments, one for the result. What is rarer (a norm of the input, gates, intermediate roundings, outputs of eight bits or of
//! another type) goes by buffers: blocks of at most [`BLOCK`] elements, widened to f32, stay in the nearest cache from step
//! to step. Which way a call takes is a matter of the problem alone, never of addresses or sizes of batches.
//!
//! | file | idea |
//! | --- | --- |
//! | `rows.rs` | LayerNorm, RMSNorm, GroupNorm and InstanceNorm in NCHW |
//! | `plain_rows.rs` | the same, of most calls |
//! | `short_rows.rs` | and of rows of whole turns, some of them at a time |
//! | `rows_in_turn.rs` | and of those that exceed the caches |
//! | `seam.rs` | lines of the outputs in which one stretch ends and the next begins |
//! | `head_rows.rs` | QkNorm: the heads of attention as rows |
//! | `channels_last.rs` | GroupNorm and InstanceNorm in NHWC |
//! | `samples_in_turn.rs` | and those that exceed the caches |
//! | `batch_statistics.rs` | BatchNorm by the batch's own moments, and the running ones |
//! | `pointwise.rs` | BatchNorm inference, the table of its constants, and the second step of the two above |
//! | `moments.rs` | mean and variance: of a stretch, and of many |
//! | `slabs.rs` | the same of channels that lie between each other |
//! | `stretch.rs` | the last step, over consecutive elements |
//! | `constants.rs` | a pointwise map's constants |
//! | `activation.rs` | the activations |
//! | `modulation.rs` | what differs from sample to sample: scale, shift, a bias on the input |
//! | `input.rs` | a call's tensors, and the prologue: residual in, sum out |
//! | `quantized.rs` | outputs of eight bits, and their scales |
//! | `convert.rs` | storage types to f32 and back, for a block |
//! | `backend.rs` | the backend type, and slices as arguments |
//! | `threads.rs` | pieces of work for the threads |
//! | `memory.rs` | memory between the steps, kept for the calls to come |
//! | `caches.rs` | what the caches hold |
//! | `simd.rs` | sixteen numbers, by the instructions of each level |
//! | `vectors.rs` | machine code for wider vectors than the compiler may assume |
//!
//! **Bits.** What is computed for a row depends on its length and the types alone: parts, and the tree in which their
//! moments are merged, are cut by the row's length, and threads only take over branches of that tree. So it is with a
//! sample in NHWC, by its pixels, channels and groups, and with a channel of a batch. Elements past the moments do not
//! see each other. So neither the batch (but where the moments are its own), nor an address, nor the number of threads
//! changes a bit. Between machines bits agree too, if both have fused multiply-add (ARM's, and x86's with AVX2): the
//! sources say where it is meant, and no function of the platform's mathematical library is called beyond the square root.
//! Where it is lacking, product and sum are rounded each.
//!
//! **In place.** Nothing is written before all moments that it counts in are there. A block's inputs are read before its
//! outputs are written, and no other block touches them. So `y` may be `x` or the residual, and `sum` the residual or
//! `x`.
//!
//! **Memory.** Buffers are on the stack. Only what is of a size with the channels, where their moments are found side by
//! side, and coefficients made ready for all rows are on the heap, in buffers that are kept (`memory.rs`): once there are as
//! many and as large ones as calls need, no call allocates.

#![allow(clippy::inline_always, reason = "what a task calls must be compiled for the task's vectors, see `vectors.rs`")]

mod activation;
mod backend;
mod batch_statistics;
mod caches;
mod channels_last;
mod constants;
mod convert;
mod head_rows;
mod input;
mod memory;
mod modulation;
mod moments;
mod plain_rows;
mod pointwise;
mod quantized;
mod rows;
mod rows_in_turn;
mod samples_in_turn;
mod seam;
mod short_rows;
mod simd;
mod slabs;
mod stretch;
#[cfg(test)]
mod tests;
mod threads;
mod vectors;

pub use backend::Cpu;

use half::{bf16, f16};

use crate::element::DType;
use crate::problem::{Buffers, Problem};

/// The most elements that are held at once: 4 KiB of f32, so that a block with its coefficients fits the nearest cache.
const BLOCK: usize = 1024;

/// Computes `problem`. Returns when all of it is written.
///
/// # Safety
/// Every address in `buffers` that the problem uses must be valid for its extent, aligned to its type, and initialized,
/// inputs for reads and outputs for writes, until this returns; nothing else may write the inputs or touch the outputs.
/// An output may be an input only exactly: the same address and strides.
pub(crate) unsafe fn run(problem: &Problem, buffers: &Buffers) {
    // SAFETY: the caller's promise is handed on as it is.
    unsafe {
        match problem {
            Problem::Rows(rows) => match rows.dtype {
                DType::F32 => rows::run::<f32>(rows, buffers),
                DType::F16 => rows::run::<f16>(rows, buffers),
                DType::Bf16 => rows::run::<bf16>(rows, buffers),
            },
            Problem::HeadRows(heads) => match heads.dtype {
                DType::F32 => head_rows::run::<f32>(heads, buffers),
                DType::F16 => head_rows::run::<f16>(heads, buffers),
                DType::Bf16 => head_rows::run::<bf16>(heads, buffers),
            },
            Problem::Pointwise(pointwise) => match pointwise.dtype {
                DType::F32 => pointwise::run::<f32>(pointwise, buffers),
                DType::F16 => pointwise::run::<f16>(pointwise, buffers),
                DType::Bf16 => pointwise::run::<bf16>(pointwise, buffers),
            },
            Problem::ChannelsLast(tensor) => match tensor.dtype {
                DType::F32 => channels_last::run::<f32>(tensor, buffers),
                DType::F16 => channels_last::run::<f16>(tensor, buffers),
                DType::Bf16 => channels_last::run::<bf16>(tensor, buffers),
            },
            Problem::BatchStatistics(batch) => match batch.dtype {
                DType::F32 => batch_statistics::run::<f32>(batch, buffers),
                DType::F16 => batch_statistics::run::<f16>(batch, buffers),
                DType::Bf16 => batch_statistics::run::<bf16>(batch, buffers),
            },
            Problem::ChannelTable(table) => pointwise::run_table(table, buffers),
        }
    }
}
