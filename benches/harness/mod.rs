//! What the benchmarks share: `layers.rs`, by criterion for people, `record.rs`, for the record, and `folding.rs`.
//!
//! | file | idea |
//! | --- | --- |
//! | `case.rs` | one cell: a layer, a shape, types, what is fused; its name in the record and its bytes |
//! | `suites.rs` | the lists of cells |
//! | `layer.rs` | a cell's layer, prepared |
//! | `tensors.rs` | its numbers, its buffers on a backend, and the call |
//! | `check.rs` | its output against f64 |
//! | `cell.rs` | what can be timed: the call, a copy of as many bytes, a read |
//! | `cpu.rs`, `cuda.rs` | the two kinds of cells |
//! | `convolutions.rs` | layers of networks, to be folded |
//! | `copier.rs` | the ways to copy on a CPU |
//! | `limits.rs` | the chip's own limits |
//! | `measure.rs` | rounds of windows, and what is said of them |
//! | `record.rs` | a line of the record |

// Each benchmark uses a part of it.
#![allow(dead_code)]

pub mod case;
pub mod cell;
pub mod check;
pub mod convolutions;
pub mod copier;
pub mod cpu;
pub mod cuda;
pub mod layer;
pub mod limits;
pub mod measure;
pub mod record;
pub mod suites;
pub mod tensors;

/// Whatever may go wrong with one cell.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
