#![doc = include_str!("../README.md")]
#![warn(missing_docs, missing_copy_implementations, missing_debug_implementations)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

// The benchmark's cells, which name the crate as its users do, are read by a unit test too.
#[cfg(test)]
extern crate self as warpnorm;

mod args;
mod backend;
mod check;
mod cpu;
mod cuda;
mod element;
mod error;
pub mod fold;
mod norm;
mod plan;
mod problem;
mod quantization;
pub mod raw;
mod shape;
mod signature;
mod tensors;
mod workspace;

pub use cudarc;
pub use half;

pub use args::{Args, Operand};
pub use backend::{Backend, Prepared, Sink, Source};
pub use cpu::Cpu;
pub use cuda::{Cuda, DirectConvolution};
pub use element::{DType, Element, Stored};
pub use error::{Error, Result};
pub use norm::{Activation, BatchNorm, GroupNorm, InstanceNorm, LayerNorm, QkNorm, RmsNorm, Rounding};
pub use quantization::{F8E4M3, Quantized, QuantizedType, Scaling};
pub use shape::{Layout, Shape};
pub use signature::Signature;
pub use workspace::Workspace;
