//! Every module against candle's own, and against f64 within warpnorm's bound: on the CPU, and with the feature `cuda` on a
//! GPU too, or on the emulated driver (`scripts/cargo-on-emulator test`).

#[path = "../../../tests/it/data.rs"]
#[allow(dead_code, reason = "warpnorm's tests use the rest")]
mod data;
#[path = "../../../tests/it/oracle.rs"]
#[allow(dead_code, reason = "warpnorm's tests use the rest")]
mod oracle;

mod agreement;
mod case;
#[cfg(feature = "cuda")]
mod cuda;
mod errors;
mod gradients;
mod model;
mod place;
mod residual;
mod tensors;
mod training;
mod variables;
mod views;
