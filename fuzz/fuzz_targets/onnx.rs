//! Files that are, or nearly are, ONNX models: whatever is in them, they are refused or folded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use warpnorm_fuzz::{on_one_thread, seeds};

fuzz_target!(init: on_one_thread(), |bytes: &[u8]| seeds::exercise(bytes.to_vec()));
