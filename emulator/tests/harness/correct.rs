//! Launches of all correct kernels of `faults/smoke.cu`, with their results checked.

use cudarc::driver::{LaunchConfig, PushKernelArg as _};

use super::{Device, Launch, Params, address, assert_close, data, layer_norm};

pub fn all(device: &Device) {
    rows(device);
    clusters(device);
    last_block(device);
    grid_barrier(device);
    exchanges(device);
    conversions(device);
    atomics(device);
    shared_counter(device);
}

fn rows(device: &Device) {
    let (rows, columns) = (8, 1000);
    let x = data(rows * columns);
    assert_close(&device.layer_norm(&x, columns), &layer_norm(&x, columns, 1e-5), 1e-5);
}

fn clusters(device: &Device) {
    let (rows, columns) = (3, 3000);
    let x = data(rows * columns);
    for cluster in [1, 2, 4, 8] {
        let input = device.stream.clone_htod(&x).unwrap();
        let output = device.stream.alloc_zeros::<f32>(x.len()).unwrap();
        let launch = Launch { blocks: rows as u32 * cluster, cluster, shared: 33 * 4, ..Default::default() };
        let params = Params { input: address(&input), output: address(&output), count: columns as u32, eps: 1e-5 };
        device.launch("smoke_cluster_layer_norm", launch, params).unwrap();
        assert_close(&device.stream.clone_dtoh(&output).unwrap(), &layer_norm(&x, columns, 1e-5), 1e-5);
    }
}

fn last_block(device: &Device) {
    let (blocks, columns) = (40, 300);
    let x: Vec<f32> = (0..blocks * columns).map(|i| (i % 7) as f32).collect();
    let total: f32 = x.iter().sum();
    let input = device.stream.clone_htod(&x).unwrap();
    let output = device.stream.alloc_zeros::<f32>(blocks + 2).unwrap();
    let launch = Launch { blocks: blocks as u32, shared: 33 * 4, ..Default::default() };
    let params = Params { input: address(&input), output: address(&output), count: columns as u32, eps: 0.0 };
    // Twice: the counter must be back at zero.
    for _ in 0..2 {
        device.launch("smoke_last_block_sum", launch, params).unwrap();
        assert_eq!(device.stream.clone_dtoh(&output).unwrap()[blocks], total);
    }
}

fn grid_barrier(device: &Device) {
    let blocks = 12;
    let output = device.stream.alloc_zeros::<f32>(2 * blocks + 1).unwrap();
    let launch = Launch { blocks: blocks as u32, cooperative: true, ..Default::default() };
    let params = Params { input: 0, output: address(&output), count: 0, eps: 0.0 };
    device.launch("smoke_grid_barrier", launch, params).unwrap();
    let sums = device.stream.clone_dtoh(&output).unwrap();
    assert_eq!(sums[blocks..2 * blocks], [78.0; 12]);
}

fn exchanges(device: &Device) {
    let output = device.stream.alloc_zeros::<u32>(10 * 256).unwrap();
    let params = Params { input: 0, output: address(&output), count: 0, eps: 0.0 };
    device.launch("smoke_exchanges", Launch::default(), params).unwrap();
    let found = device.stream.clone_dtoh(&output).unwrap();
    for thread in 0..256 {
        let lane = thread as u32 % 32;
        let up = if lane < 3 { lane } else { lane - 3 };
        let down = if lane + 3 > 31 { lane } else { lane + 3 };
        let down_in_eight = if lane % 8 + 3 > 7 { lane } else { lane + 3 };
        let threes = (0..32).filter(|i| i % 3 == 0).fold(0, |mask, i| mask | 1 << i);
        let half = if lane < 16 { lane ^ 15 } else { 0 };
        let want = [5, up, down, lane ^ 9, down_in_eight, threes, 2, lane ^ 1, half, 6 * (lane ^ 7)];
        for (kind, want) in want.into_iter().enumerate() {
            assert_eq!(found[kind * 256 + thread], want, "exchange {kind}, thread {thread}");
        }
    }
}

/// Every value survives the way through float; NaN becomes the canonical one.
fn conversions(device: &Device) {
    let x: Vec<u16> = (0..=u16::MAX).collect();
    let input = device.stream.clone_htod(&x).unwrap();
    let output = device.stream.alloc_zeros::<u32>(x.len()).unwrap();
    let params = Params { input: address(&input), output: address(&output), count: x.len() as u32, eps: 0.0 };
    device.launch("smoke_conversions", Launch { blocks: 4, ..Default::default() }, params).unwrap();
    for (bits, found) in x.into_iter().zip(device.stream.clone_dtoh(&output).unwrap()) {
        let half = if bits & 0x7fff > 0x7c00 { 0x7fff } else { bits };
        let brain = if bits & 0x7fff > 0x7f80 { 0x7fff } else { bits };
        assert_eq!(found, u32::from(half) << 16 | u32::from(brain), "{bits:#x}");
    }
}

fn shared_counter(device: &Device) {
    let output = device.stream.alloc_zeros::<u32>(256).unwrap();
    let params = Params { input: 0, output: address(&output), count: 0, eps: 0.0 };
    device.launch("smoke_shared_counter", Launch::default(), params).unwrap();
    assert_eq!(device.stream.clone_dtoh(&output).unwrap(), [517; 256]);
}

fn atomics(device: &Device) {
    let mut sums = device.stream.alloc_zeros::<f32>(8).unwrap();
    let mut total = device.stream.alloc_zeros::<u64>(1).unwrap();
    let count = 8_u32;
    let kernel = device.kernel("smoke_atomics");
    let mut launch = device.stream.launch_builder(&kernel);
    launch.arg(&mut sums).arg(&count).arg(&mut total);
    let config = LaunchConfig { grid_dim: (50, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(config) }.unwrap();
    let sums = device.stream.clone_dtoh(&sums).unwrap();
    for (i, sum) in sums.into_iter().enumerate() {
        assert_eq!(sum, 50.0 * (0..32).map(|k| (k * 8 + i) as f32).sum::<f32>());
    }
    assert_eq!(device.stream.clone_dtoh(&total).unwrap(), [50 * 256]);
}
