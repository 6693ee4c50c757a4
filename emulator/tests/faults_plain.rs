//! What the plain build finds of the planted bugs: everything that crashes or waits for ever, damage beside an
//! allocation, and, by wrong results under some seeds, missing barriers.

mod harness;

use emulator::{Schedule, Settings, Variant};
use harness::{Device, Launch, Params, address, code, data, planted};

const ILLEGAL_ADDRESS: u32 = 700;
const LAUNCH_FAILED: u32 = 719;

#[track_caller]
fn expect(kernel: &str, error: u32, words: &str, tags: &[&str]) {
    expect_of(kernel, Launch::default(), error, words, tags);
}

#[track_caller]
fn expect_of(kernel: &str, launch: Launch, error: u32, words: &str, tags: &[&str]) {
    let device = Device::open(Variant::Plain);
    device.emulator.configure(&Settings { watchdog_seconds: 0.2, ..Default::default() });
    let result = device.run(kernel, launch, &data(512), 512);
    let report = device.emulator.take_report();
    println!("{report}");
    assert_eq!(result.err(), Some(error), "{report}");
    for part in [words, &format!("kernel {kernel}, block (")] {
        assert!(report.contains(part), "{part:?} is not in: {report}");
    }
    for tag in tags {
        assert!(report.contains(&planted(tag)), "{tag}, {}, is not in: {report}", planted(tag));
    }
    device.emulator.reset();
}

#[test]
fn divergent_barrier() {
    let tags = ["divergent-barrier", "divergent-barrier-other"];
    expect("fault_divergent_barrier", LAUNCH_FAILED, "divergent barrier", &tags);
}

#[test]
fn early_return() {
    expect("fault_early_return", LAUNCH_FAILED, "224 of 256 threads", &["early-return"]);
}

#[test]
fn lane_returned() {
    expect("fault_lane_returned", LAUNCH_FAILED, "returned", &["lane-returned"]);
}

#[test]
fn lane_not_in_mask() {
    expect("fault_lane_not_in_mask", LAUNCH_FAILED, "does not name it", &["lane-not-in-mask"]);
}

#[test]
fn global_end_at_a_guard_page() {
    expect("fault_global_end", ILLEGAL_ADDRESS, "at offset 2048 of an allocation of 2048 bytes", &["global-end"]);
}

#[test]
fn far_away() {
    expect("fault_far_away", ILLEGAL_ADDRESS, "illegal address", &["far-away"]);
}

#[test]
fn endless_loops() {
    expect("fault_endless_loop", LAUNCH_FAILED, "endless loop", &["endless-loop"]);
    expect("fault_endless_wait", LAUNCH_FAILED, "endless loop", &["endless-wait"]);
}

#[test]
fn a_programmatic_launch_that_does_not_wait() {
    let launch = Launch { programmatic: true, ..Default::default() };
    expect_of("fault_no_wait", launch, LAUNCH_FAILED, "returned without waiting for the kernel before", &[]);
}

/// 500 floats do not end at a page: the write past them is found by its damage, at the next synchronization.
#[test]
fn damaged_canary() {
    let device = Device::open(Variant::Plain);
    let y = device.stream.alloc_zeros::<f32>(500).unwrap();
    let params = Params { input: 0, output: address(&y), count: 500, eps: 0.0 };
    device.launch("fault_global_write", Launch::default(), params).unwrap();
    assert_eq!(device.stream.synchronize().map_err(code), Err(ILLEGAL_ADDRESS));
    let report = device.emulator.take_report();
    assert!(report.contains("the bytes after an allocation of 2000 bytes were overwritten"), "{report}");
    device.emulator.reset();
}

#[test]
fn use_after_free() {
    let device = Device::open(Variant::Plain);
    let y = device.stream.alloc_zeros::<f32>(256).unwrap();
    let x = device.stream.clone_htod(&data(256)).unwrap();
    let params = Params { input: address(&x), output: address(&y), count: 256, eps: 0.0 };
    drop(x);
    device.launch("fault_host_pointer", Launch::default(), params).unwrap();
    assert_eq!(device.stream.clone_dtoh(&y).map_err(code), Err(ILLEGAL_ADDRESS));
    let report = device.emulator.take_report();
    assert!(report.contains("use after free") && report.contains(&planted("host-pointer")), "{report}");
    device.emulator.reset();
}

#[test]
fn unwritten_shared_memory_is_nan() {
    let device = Device::open(Variant::Plain);
    let y = device.run("fault_unwritten_shared", Launch::default(), &data(256), 256).unwrap();
    for (i, value) in y.iter().enumerate() {
        assert_eq!(value.is_nan(), i % 40 >= 32, "element {i}");
    }
}

#[test]
fn fresh_device_memory_is_nan() {
    let device = Device::open(Variant::Plain);
    // SAFETY: reading it before anything was written is what the test is about.
    let fresh = unsafe { device.stream.alloc::<f32>(100) }.unwrap();
    assert!(device.stream.clone_dtoh(&fresh).unwrap().iter().all(|v| v.is_nan()));
}

#[test]
fn wrong_index_gives_wrong_results() {
    let device = Device::open(Variant::Plain);
    let x = data(512);
    let y = device.run("fault_wrong_index", Launch { blocks: 2, ..Default::default() }, &x, 512).unwrap();
    assert_ne!(y, x);
}

/// How many of 100 seeds give a wrong result.
fn seeds_that_expose(kernel: &str, schedule: Schedule) -> usize {
    let device = Device::open(Variant::Plain);
    let x: Vec<f32> = (0..256).map(|i| (i % 17) as f32).collect();
    let total: f32 = x.iter().map(|v| v + v * v).sum();
    let exposed = |seed: &u64| {
        device.emulator.configure(&Settings { seed: *seed, schedule, ..Default::default() });
        let y = device.run(kernel, Launch { shared: 32, ..Default::default() }, &x, 256).unwrap();
        y[224..].iter().any(|&sum| (sum - total).abs() > 0.5)
    };
    (0..100).filter(exposed).count()
}

#[test]
fn running_ahead_exposes_missing_barriers() {
    let found = |kernel| {
        let [lock_step, ahead] = [Schedule::LockStep, Schedule::RunAhead].map(|s| seeds_that_expose(kernel, s));
        println!("{kernel}: wrong result under {lock_step} of 100 seeds in lock step, {ahead} of 100 running ahead");
        (lock_step, ahead)
    };
    let (_, plain) = found("fault_missing_barrier");
    assert!(plain >= 50, "{plain} of 100");
    let (lock_step, rare) = found("fault_rare_missing_barrier");
    assert_eq!(lock_step, 0, "the rare one is meant to hide from a fixed order");
    assert!(rare >= 50, "{rare} of 100");
}

/// The error stays until the process would end; here, until a reset.
#[test]
fn faults_are_sticky() {
    let device = Device::open(Variant::Plain);
    assert!(device.run("fault_far_away", Launch::default(), &data(256), 256).is_err());
    assert_eq!(device.stream.synchronize().map_err(code), Err(ILLEGAL_ADDRESS));
    assert_eq!(device.stream.alloc_zeros::<f32>(1).map_err(code).err(), Some(ILLEGAL_ADDRESS));
    device.emulator.reset();
    device.stream.synchronize().unwrap();
}

/// The text of an error that cudarc formats is the report.
#[test]
fn errors_say_what_happened() {
    let device = Device::open(Variant::Plain);
    let y = device.stream.alloc_zeros::<f32>(256).unwrap();
    let params = Params { input: 0, output: address(&y), count: 0, eps: 0.0 };
    device.launch("fault_divergent_barrier", Launch::default(), params).unwrap();
    let error = device.stream.synchronize().unwrap_err();
    assert!(format!("{error:?}").contains(&planted("divergent-barrier")), "{error:?}");
    device.emulator.reset();
}

/// The emulator's signal handlers leave other faults to their owners.
#[test]
fn a_stack_overflow_in_rust_is_rusts() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "overflow_the_stack", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("has overflowed its stack"), "{text}");
}

#[test]
#[ignore = "run by a_stack_overflow_in_rust_is_rusts, which expects it to die"]
fn overflow_the_stack() {
    fn recurse(depth: u64) -> u64 {
        let room = std::hint::black_box([depth; 512]);
        if depth == u64::MAX { 0 } else { recurse(depth + 1) + room[3] }
    }
    let device = Device::open(Variant::Plain);
    // Installs the emulator's handlers.
    device.layer_norm(&data(256), 256);
    println!("{}", recurse(0));
}
