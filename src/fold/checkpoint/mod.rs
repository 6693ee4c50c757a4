//! Folding state dicts in safetensors files.
//!
//! Such a file holds tensors by name and nothing else: not what is connected to what, nor in which order, nor the
//! `BatchNorm`s' `eps`. Which `BatchNorm` belongs to which layer is therefore found by the names that torchvision, timm and
//! ultralytics give their modules, and refused where names contradict each other; or it is given as [`Pair`]s. `eps` is
//! never guessed.
//!
//! ```no_run
//! use warpnorm::fold::checkpoint::{Checkpoint, Options, Plan};
//!
//! let checkpoint = Checkpoint::open("resnet50.safetensors")?;
//! let options = Options { eps: vec![("*".to_owned(), 1e-5)], ..Options::default() };
//! let plan = Plan::new(&checkpoint, &options);
//! for row in &plan.report().rows {
//!     println!("{}: {}", row.node, row.verdict);
//! }
//! plan.save("folded.safetensors")?;
//! # Ok::<(), warpnorm::fold::onnx::ModelError>(())
//! ```

mod file;
mod names;
mod pairs;
mod plan;
mod verify;

pub use file::Checkpoint;
pub use pairs::{Kind, Pair, pairs_from_json, preset, presets};
pub use plan::{Options, Plan};
