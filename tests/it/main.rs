//! The integration tests: every layer on the CPU and on CUDA, which is a GPU where there is one and else the emulator.
//!
//! `WARPNORM_REQUIRE_GPU=1` makes the emulator insufficient.

mod activations;
mod benchmark;
mod bits;
mod bound;
mod branches;
mod call;
mod checked;
mod conversion;
mod data;
mod device;
mod errors;
mod fold;
mod fusions;
mod graphs;
mod huge;
mod images;
mod network;
mod onnx;
mod oracle;
mod place;
mod pointwise;
mod post_norm;
mod prepared;
mod profiles;
mod pytorch;
mod qk_norm;
mod quantized;
mod raw;
mod reestimation;
mod rounding;
mod rows;
mod sanitized;
mod vectors;
