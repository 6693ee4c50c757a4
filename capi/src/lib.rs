//! The C library: `libwarpnorm.so`, `libwarpnorm.a`, and `include/warpnorm.h`, which is made from this crate.
//!
//! A thin skin over [`core::raw`] and [`core::fold`]: integers become the crate's types here, or a status, and nothing
//! else is decided. Every function returns a status, and leaves its sentence for [`wn_last_error`](status::wn_last_error).
//! No panic leaves a function.
//!
//! | file | what |
//! | --- | --- |
//! | `types.rs` | the structures and constants of the header |
//! | `status.rs` | statuses, their names, the thread's last error |
//! | `device.rs` | devices and workspaces |
//! | `layer.rs` | descriptors of layers, and signatures |
//! | `call.rs` | prepared calls, and calls at once |
//! | `fold.rs` | folding |

#![allow(non_camel_case_types, reason = "the names are those of the header")]

mod call;
mod device;
mod fold;
mod layer;
mod status;
mod types;
