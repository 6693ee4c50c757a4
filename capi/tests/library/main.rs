//! The library as a C program has it: loaded from its file, called through its symbols; on the CPU, and on CUDA, which is a
//! GPU where there is one and else the emulator.

mod branches;
mod c;
mod folding;
mod heads;
mod hostile;
mod layers;
mod load;
mod models;
mod post_norm;
mod quantized;
mod reference;
#[path = "../../src/types.rs"]
#[allow(dead_code, reason = "a test need not name every code")]
#[allow(non_camel_case_types, reason = "the names are those of the header")]
mod types;
