//! Folding whole ONNX models.
//!
//! A [`Model`] is opened, a [`Plan`] says what can be folded and why the rest cannot, and [`Plan::save`] writes the folded
//! model. The file is edited, not written anew: whatever is not changed is the same bytes.
//!
//! ```no_run
//! use warpnorm::fold::onnx::{Model, Options, Plan};
//!
//! let model = Model::open("model.onnx")?;
//! let plan = Plan::new(&model, &Options::default())?;
//! for row in &plan.report().rows {
//!     println!("{}: {}", row.node, row.verdict);
//! }
//! plan.save("folded.onnx")?;
//! # Ok::<(), warpnorm::fold::onnx::ModelError>(())
//! ```
//!
//! # What is folded
//!
//! Everything foldable is a per-channel map: `BatchNormalization` in inference mode; `Mul`, `Add`, `Sub` and `Div` by a
//! constant that varies along no axis but the channels'; and chains of them. They are composed in f64 and absorbed once, by
//! `Conv`, `ConvTranspose`, `Gemm` or `MatMul`, before them or behind, directly or through operators that a per-channel map
//! commutes with: `Concat`, sums, averages, `MaxPool` (of scales that are not negative), `Transpose`, `Reshape` and the
//! like. What no layer absorbs is merged with the map next to it.
//!
//! Opsets from 6 on are understood. Graphs within nodes, functions, and operators of other domains are left as they are.

mod constants;
mod evaluate;
mod file;
mod graph;
mod node;
mod options;
mod pass;
mod plan;
mod shapes;
mod splice;
mod tensor;
mod verify;
mod wire;

pub use super::models::{Conversion, ModelError, PairCheck, Report, Row, Summary, Verdict, Verification, Whole};
pub use evaluate::{Array, EvaluationError, ModelInput};
pub use file::Model;
pub use options::{Forward, Options};
pub use plan::Plan;
