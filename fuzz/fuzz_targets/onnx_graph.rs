//! Graphs of random wiring. Of those that are valid, what is folded must compute the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use warpnorm_fuzz::{graph::Case, on_one_thread};

fuzz_target!(init: on_one_thread(), |case: Case| case.check());
