#![doc = include_str!("../README.md")]
#![warn(missing_docs, missing_copy_implementations, missing_debug_implementations)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod batch_norm;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
pub mod group_norm;
mod layer;
pub mod layer_norm;
mod memory;
mod op;
pub mod ops;

pub use batch_norm::{BatchNorm, BatchNormConfig, batch_norm};
pub use candle_nn::{Module, ModuleT, VarBuilder};
pub use group_norm::{GroupNorm, group_norm};
pub use layer_norm::{LayerNorm, LayerNormConfig, RmsNorm, layer_norm, layer_norm_no_bias, rms_norm};
