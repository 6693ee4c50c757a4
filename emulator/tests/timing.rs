//! What a block costs, in processor time. Printed by
//! `cargo test -p emulator --test timing -- --ignored --nocapture --exact plain`, or `checked`.

mod harness;

use emulator::{Schedule, Settings, Variant};
use harness::{Device, Launch, Params, address, data};

/// Of all threads: what others do on the machine disturbs it less than it does the clock on the wall.
fn processor_nanoseconds() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of_task = |task: std::path::PathBuf| {
        let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    tasks.filter_map(|task| of_task(task.unwrap().path())).sum()
}

fn measure(variant: Variant) {
    let device = Device::open(variant);
    for columns in [256, 4096] {
        measure_rows(&device, variant, columns);
    }
}

fn measure_rows(device: &Device, variant: Variant, columns: usize) {
    let rows = 256;
    let x = device.stream.clone_htod(&data(rows * columns)).unwrap();
    let y = device.stream.alloc_zeros::<f32>(rows * columns).unwrap();
    for schedule in [Schedule::LockStep, Schedule::RunAhead] {
        for threads in [1, 2] {
            device.emulator.configure(&Settings { schedule, threads, ..Default::default() });
            let launch = Launch { blocks: rows as u32, shared: 33 * 4, ..Default::default() };
            let params = Params { input: address(&x), output: address(&y), count: columns as u32, eps: 1e-5 };
            let best = (0..5)
                .map(|_| {
                    device.launch("smoke_layer_norm", launch, params).unwrap();
                    let start = processor_nanoseconds();
                    device.stream.synchronize().unwrap();
                    processor_nanoseconds() - start
                })
                .min();
            let micros = best.unwrap() as f64 / 1000.0 / rows as f64;
            println!("{variant:?} {schedule:?}, {threads} threads, LayerNorm over {columns}: {micros:.1} us a block");
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn plain() {
    measure(Variant::Plain);
}

#[test]
#[ignore = "a measurement; a process of its own"]
fn checked() {
    measure(Variant::Checked);
}
