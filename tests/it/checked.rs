//! The CUDA tests once more, on the emulator that checks every access: bounds, races, alignment, unwritten memory.

use std::process::Command;

use emulator::Variant;

use crate::device::{VARIANT, variant};

#[test]
fn every_cuda_test_under_the_checked_emulator() {
    if emulator::real_gpu() {
        return println!("a GPU is there: compute-sanitizer does this");
    }
    if variant() == Variant::Checked {
        return; // this is the child
    }
    let output = Command::new(std::env::current_exe().expect("own path"))
        .args(["_on_cuda", "--test-threads", "2"])
        .env(VARIANT, "checked")
        .output()
        .expect("a child process");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let summary = text.lines().find(|line| line.starts_with("test result:")).expect("a summary");
    let passed: usize = summary.split_whitespace().nth(3).and_then(|count| count.parse().ok()).expect("a count");
    assert!(passed >= 20, "too few CUDA tests ran: {summary}");
    println!("checked: {summary}");
}
