//! Files that are, or nearly are, state dicts, each with a file of pairs behind it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use warpnorm_fuzz::{on_one_thread, seeds};

fuzz_target!(init: on_one_thread(), |bytes: &[u8]| seeds::exercise_dict(bytes.to_vec()));
