//! Folding: the `BatchNorm` beside a linear layer becomes part of that layer's weight and bias.
//!
//! In inference a `BatchNorm` is a fixed affine map of each channel,
//!
//! ```text
//! y = a·(x − running_mean) + bias,    a = weight / sqrt(running_var + eps)
//! ```
//!
//! and a convolution, a transposed convolution and a linear layer are linear, so they absorb it (Jacob et al.,
//! "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018, section 3.2):
//!
//! ```text
//! layer → BatchNorm    W'[o, …] = W[o, …]·a[o]       bias'[o] = (bias[o] − running_mean[o])·a[o] + bn_bias[o]
//! BatchNorm → layer    W'[o, c] = W[o, c]·a[c]       bias'[o] = bias[o] + Σ W[o, c, k]·(bn_bias[c] − a[c]·running_mean[c])
//! ```
//!
//! The folded network computes what the unfolded one did, without the `BatchNorm`'s pass over memory.
//!
//! # The parts
//!
//! - [`BatchNormParams`] holds a `BatchNorm`'s arrays, and [`BatchNormParams::affine`] checks them.
//! - [`Affine`] is any per-channel affine map. Maps are composed with [`Affine::then`]: a `BatchNorm` after a
//!   `BatchNorm`, or a multiplication and an addition of constants.
//! - [`LinearOp`] is the layer; it absorbs one map before it, one after it, or both.
//! - [`merge_branches`] makes one convolution of parallel ones whose outputs are added.
//! - [`Folded`] holds the new weight and bias, with a [`FoldReport`] on what the rounding did to them.
//!
//! Arrays are row-major and come as [`Values`], of any mix of `f64`, `f32`, `f16` and `bf16`. The result is `f32`, `f16`
//! or `bf16`, whatever the input was: fold from the f32 checkpoint, and let the fold do the conversion.
//!
//! A service that folds layer after layer need not allocate: [`BatchNormParams::affine_into`], [`Affine::then_in_place`],
//! [`LinearOp::fold_into`] and [`merge_branches_into`] write into what is there, and [`Layer::fold_in_place`] into the
//! layer's own arrays.
//!
//! ```
//! use warpnorm::fold::{BatchNormParams, Folded, Layer, LinearOp};
//!
//! // Conv1d(1, 2, kernel_size=2) and the BatchNorm1d(2) behind it.
//! let weight = [1.0_f32, 2.0, 3.0, 4.0];
//! let batch_norm = BatchNormParams::new(&[0.5_f32, 1.0], &[4.0_f32, 0.25], 0.0)
//!     .weight(&[1.0_f32, 2.0])
//!     .bias(&[0.0_f32, 10.0])
//!     .affine()?;
//! let folded: Folded<f32> = LinearOp::new(Layer::Conv { groups: 1 }, &weight, &[2, 1, 2]).fold_after(&batch_norm)?;
//! assert_eq!(folded.weight, [0.5, 1.0, 12.0, 16.0]);
//! assert_eq!(folded.bias, [-0.25, 6.0]);
//! # Ok::<(), warpnorm::fold::FoldError>(())
//! ```
//!
//! # Numbers
//!
//! All arithmetic is in f64, and every result is rounded to its type once. With u = 2⁻⁵³, the input arrays taken as
//! exact, and n the terms of the sum, the value before that rounding is off by at most
//!
//! ```text
//! 4u·|W'|                                                  a weight, one BatchNorm
//! 6u·(|a·(bias − running_mean)| + |bn_bias|)               a bias, BatchNorm after the layer
//! (n + 5)·u·(Σ |W|·(|a·running_mean| + |bn_bias|) + |bias|)   a bias, BatchNorm before the layer
//! ```
//!
//! The second holds because the mean is subtracted first, and stays apart in every composition of maps: a bias close to
//! the mean costs nothing.
//!
//! Against the rounding to the result's own type, up to 2⁻²⁴ of it in f32, these are nothing.
//!
//! # What is refused
//!
//! Whatever would not be exact, or not finite, is a [`FoldError`] that names the argument, the channel and the numbers,
//! and leaves the caller's slices as they were. What can be folded but deserves a look is a [`Warning`].

mod absorb;
mod affine;
mod branches;
#[cfg(feature = "models")]
pub mod checkpoint;
mod error;
mod layer;
#[cfg(feature = "models")]
mod models;
#[cfg(feature = "models")]
pub mod onnx;
mod refusal;
#[cfg(test)]
mod refusals;
mod report;
mod rounding;
#[cfg(feature = "models")]
mod stream;
mod values;

pub use absorb::{Folded, LinearOp};
pub use affine::{Affine, BatchNormParams};
pub use branches::{Branch, Placement, largest_kernel, merge_branches, merge_branches_into};
pub use error::{FoldError, Side};
pub use layer::{Layer, Padding};
pub use refusal::Refusal;
pub use report::{AffineReport, FoldReport, RoundingReport, Warning};
pub use values::{Le, Values};
