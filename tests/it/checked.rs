//! The CUDA tests once more, on the emulator that checks every access: bounds, races, alignment, unwritten memory.

use std::process::{Command, Stdio};

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
    let names = names_of_tests();
    assert!(names.len() >= 80, "too few CUDA tests: {names:?}");
    // A device is for one test at a time, and a process has one.
    let (even, odd): (Vec<_>, Vec<_>) = names.iter().enumerate().partition(|(index, _)| index % 2 == 0);
    let children = [even, odd].map(|tests| {
        let child = own_program()
            .args(["--exact", "--test-threads", "1"])
            .args(tests.iter().map(|(_, name)| name))
            .env(VARIANT, "checked")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a child process");
        (child, tests.len())
    });
    // What they print is read by threads of their own: a pipe that is full would stop them.
    let threads = children.map(|(child, tests)| std::thread::spawn(move || (child.wait_with_output(), tests)));
    for (output, tests) in threads.map(|thread| thread.join().expect("no panic")) {
        let output = output.expect("a child process");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let summary = text.lines().find(|line| line.starts_with("test result:")).expect("a summary");
        let passed = summary.split_whitespace().nth(3).and_then(|count| count.parse::<usize>().ok());
        assert_eq!(passed, Some(tests), "of {tests} CUDA tests: {summary}");
        println!("checked: {summary}");
    }
}

fn own_program() -> Command {
    Command::new(std::env::current_exe().expect("own path"))
}

/// Those that run on a device.
fn names_of_tests() -> Vec<String> {
    let output = own_program().args(["_on_cuda", "--list", "--format", "terse"]).output().expect("a child process");
    let list = String::from_utf8(output.stdout).expect("names");
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}
