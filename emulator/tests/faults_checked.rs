//! The checked build names every planted bug, with kernel, block, thread and source line, and accuses no correct
//! kernel.

mod harness;

use emulator::{Schedule, Settings, Variant};
use harness::{Device, Launch, Params, address, data, planted};

/// Runs a faulty kernel and checks the error and the report: the words, and the places in the source.
#[track_caller]
fn expect(kernel: &str, launch: Launch, error: u32, words: &str, tags: &[&str]) {
    let device = Device::open(Variant::Checked);
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

const ILLEGAL_ADDRESS: u32 = 700;
const MISALIGNED: u32 = 716;
const LAUNCH_FAILED: u32 = 719;

#[test]
fn wrong_index() {
    let launch = Launch { blocks: 2, ..Default::default() };
    expect("fault_wrong_index", launch, LAUNCH_FAILED, "race between blocks", &["wrong-index"]);
}

#[test]
fn missing_barrier() {
    let launch = Launch { shared: 32, ..Default::default() };
    let tags = ["missing-barrier", "missing-barrier-other"];
    expect("fault_missing_barrier", launch, LAUNCH_FAILED, "shared memory race", &tags);
}

#[test]
fn rare_missing_barrier() {
    let launch = Launch { shared: 32, ..Default::default() };
    expect("fault_rare_missing_barrier", launch, LAUNCH_FAILED, "shared memory race", &["rare-missing-barrier"]);
}

#[test]
fn divergent_barrier() {
    let tags = ["divergent-barrier", "divergent-barrier-other"];
    expect("fault_divergent_barrier", Launch::default(), LAUNCH_FAILED, "divergent barrier", &tags);
}

#[test]
fn early_return() {
    expect("fault_early_return", Launch::default(), LAUNCH_FAILED, "224 of 256 threads", &["early-return"]);
}

#[test]
fn unwritten_shared() {
    let words = "nobody wrote: 4 bytes at offset 128 of parts";
    expect("fault_unwritten_shared", Launch::default(), LAUNCH_FAILED, words, &["unwritten-shared"]);
}

#[test]
fn misaligned_vector() {
    expect("fault_misaligned_vector", Launch::default(), MISALIGNED, "misaligned", &["misaligned-vector"]);
}

#[test]
fn two_blocks() {
    let launch = Launch { blocks: 4, ..Default::default() };
    expect("fault_two_blocks", launch, LAUNCH_FAILED, "race between blocks", &["two-blocks"]);
}

#[test]
fn global_end() {
    let words = "4-byte read at offset 2048 of an allocation of 2048 bytes";
    expect("fault_global_end", Launch::default(), ILLEGAL_ADDRESS, words, &["global-end"]);
}

#[test]
fn global_write() {
    let words = "4-byte write at offset 2048 of an allocation of 2048 bytes";
    expect("fault_global_write", Launch::default(), ILLEGAL_ADDRESS, words, &["global-write"]);
}

#[test]
fn shared_end() {
    let words = "4-byte read at offset 1024 of first, which has 1024 bytes";
    expect("fault_shared_end", Launch::default(), ILLEGAL_ADDRESS, words, &["shared-end"]);
}

#[test]
fn lane_returned() {
    expect("fault_lane_returned", Launch::default(), LAUNCH_FAILED, "returned", &["lane-returned"]);
}

#[test]
fn lane_not_in_mask() {
    expect("fault_lane_not_in_mask", Launch::default(), LAUNCH_FAILED, "does not name it", &["lane-not-in-mask"]);
}

#[test]
fn different_shuffles() {
    let tags = ["different-shuffles", "different-shuffles-other"];
    expect("fault_different_shuffles", Launch::default(), LAUNCH_FAILED, "different exchanges", &tags);
}

#[test]
fn cluster_without_barrier() {
    let launch = Launch { blocks: 2, cluster: 2, ..Default::default() };
    expect("fault_cluster_barrier", launch, LAUNCH_FAILED, "shared memory", &["cluster-barrier"]);
}

#[test]
fn cluster_exit() {
    let launch = Launch { blocks: 2, cluster: 2, ..Default::default() };
    expect("fault_cluster_exit", launch, ILLEGAL_ADDRESS, "already returned", &["cluster-exit"]);
}

#[test]
fn division_by_zero() {
    expect("fault_division", Launch::default(), LAUNCH_FAILED, "division by zero", &["division"]);
}

#[test]
fn missing_wait_in_a_programmatic_launch() {
    let launch = Launch { programmatic: true, ..Default::default() };
    expect("fault_early_read", launch, LAUNCH_FAILED, "missing wait: 4-byte read", &["early-read"]);
    expect("fault_early_atomic", launch, LAUNCH_FAILED, "missing wait: 4-byte atomic", &["early-atomic"]);
    expect("fault_one_waits", launch, LAUNCH_FAILED, "missing wait: 4-byte write", &["one-waits"]);
    expect("fault_no_wait", launch, LAUNCH_FAILED, "returned without waiting", &[]);
    // Launched as ever, they have nothing to wait for.
    let device = Device::open(Variant::Checked);
    for kernel in ["fault_early_read", "fault_early_atomic", "fault_one_waits", "fault_no_wait"] {
        device.run(kernel, Launch::default(), &data(256), 256).unwrap_or_else(|error| panic!("{kernel}: {error}"));
    }
}

#[test]
fn use_after_free() {
    let device = Device::open(Variant::Checked);
    let y = device.stream.alloc_zeros::<f32>(256).unwrap();
    let x = device.stream.clone_htod(&data(256)).unwrap();
    let params = Params { input: address(&x), output: address(&y), count: 256, eps: 0.0 };
    drop(x);
    device.launch("fault_host_pointer", Launch::default(), params).unwrap();
    assert_eq!(device.stream.clone_dtoh(&y).map_err(harness::code), Err(ILLEGAL_ADDRESS));
    let report = device.emulator.take_report();
    assert!(report.contains("use after free: 4-byte read at offset 0"), "{report}");
    assert!(report.contains(&planted("host-pointer")), "{report}");
    device.emulator.reset();
}

#[test]
fn host_pointer() {
    let device = Device::open(Variant::Checked);
    let x = data(256);
    let y = device.stream.alloc_zeros::<f32>(256).unwrap();
    let params = Params { input: x.as_ptr() as u64, output: address(&y), count: 256, eps: 0.0 };
    device.launch("fault_host_pointer", Launch::default(), params).unwrap();
    assert_eq!(device.stream.clone_dtoh(&y).map_err(harness::code), Err(ILLEGAL_ADDRESS));
    let report = device.emulator.take_report();
    assert!(report.contains("neither device nor shared memory"), "{report}");
    assert!(report.contains(&planted("host-pointer")), "{report}");
    device.emulator.reset();
}

#[test]
fn endless_loops() {
    for (kernel, tag) in [("fault_endless_loop", "endless-loop"), ("fault_endless_wait", "endless-wait")] {
        let device = Device::open(Variant::Checked);
        device.emulator.configure(&Settings { watchdog_seconds: 0.2, ..Default::default() });
        let result = device.run(kernel, Launch::default(), &data(256), 256);
        let report = device.emulator.take_report();
        println!("{report}");
        assert_eq!(result.err(), Some(LAUNCH_FAILED));
        assert!(report.contains("endless loop") && report.contains(&planted(tag)), "{report}");
        device.emulator.reset();
    }
}

#[test]
fn correct_kernels_are_not_accused() {
    let device = Device::open(Variant::Checked);
    for seed in 0..6 {
        let schedule = if seed == 0 { Schedule::LockStep } else { Schedule::RunAhead };
        device.emulator.configure(&Settings { seed, schedule, ..Default::default() });
        harness::correct::all(&device);
        assert_eq!(device.emulator.report(), "", "seed {seed}");
    }
}
