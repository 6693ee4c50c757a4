//! The C library: `libwarpnorm.so`, `libwarpnorm.a`, and `include/warpnorm.h`, which is made from this crate.
//!
//! A thin skin over [`warpnorm_rs::raw`] and [`warpnorm_rs::fold`]: integers become the crate's types here, or a status, and nothing
//! else is decided. Every function returns a status, and leaves its sentence for [`wn_last_error`](status::wn_last_error).
//! No panic leaves a function.
//!
//! # Safety
//! What holds of every exported function: a pointer is null, which is refused where something is needed, or points to what
//! its name and type say, for as many elements as the call says, valid as long as the call lasts; what is written, nobody
//! else uses meanwhile. A handle was made by this library and not destroyed yet. Buffers of a call belong to its device,
//! until the call has finished on its stream.
//!
//! | file | what |
//! | --- | --- |
//! | `types.rs` | the structures and constants of the header |
//! | `status.rs` | statuses, their names, the thread's last error |
//! | `device.rs` | devices and workspaces |
//! | `layer.rs` | descriptors of layers, and signatures |
//! | `call.rs` | prepared calls, and calls at once |
//! | `fold.rs` | folding one layer, and branches |
//! | `fold_model.rs` | folding whole models |

#![allow(clippy::missing_safety_doc, reason = "the contract of all exported functions stands above")]
#![allow(non_camel_case_types, reason = "the names are those of the header")]

mod call;
mod device;
mod fold;
mod fold_model;
mod layer;
mod status;
mod types;
