//! State dicts of known names and random pairs. What is folded must compute the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use warpnorm_fuzz::{on_one_thread, state_dict::StateDict};

fuzz_target!(init: on_one_thread(), |dict: StateDict| dict.check());
