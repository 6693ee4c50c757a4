//! The chip's own limits: bandwidth by size, clusters, and what launching costs.

use std::time::Instant;

use probe::Attributes;
use serde::Serialize;
use warpnorm::{Cuda, DType};

use super::Result;
use super::case::{Case, Op};
use super::cuda::{Arenas, Gpu, LAUNCHES};
use super::layer::prepare;
use super::measure::{median, quantile};
use super::record::{Line, Scene, Status, microseconds};
use super::tensors::{Constants, Numbers, Output, Tensors, call};
use crate::place::Place as _;

/// A line of `probe.csv`.
#[derive(Debug, Clone, Serialize)]
pub struct Limit {
    pub name: String,
    pub value: String,
    pub unit: &'static str,
    pub detail: String,
}

/// Bytes that a copy moves in all, or a read reads: from what a launch costs up to gigabytes.
fn sizes(is_dry: bool) -> impl Iterator<Item = usize> {
    let largest = if is_dry { 16 } else { 32 };
    (12..=largest).step_by(2).map(|bit| 1 << bit)
}

/// Every copy and every read, by size.
pub fn bandwidth(
    gpu: &Gpu,
    scene: &Scene,
    rounds: usize,
    is_dry: bool,
    write: &mut dyn FnMut(Line) -> Result<()>,
) -> Result<()> {
    let numbers: Vec<f32> = crate::data::stored(crate::data::normal(1 << 16, 1));
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let sample = gpu.stream().clone_htod(&bytes)?;
    for bytes in sizes(is_dry) {
        let (sets, flush) = gpu.sets(bytes);
        let arenas = Arenas::new(gpu, bytes / 2, bytes, sets, &sample)?;
        for (op, ways) in [("copy", arenas.copies(gpu)?), ("read", arenas.reads(gpu)?)] {
            for (mover, graph) in ways {
                let repeats = gpu.repeats(&graph, flush)?;
                let windows: Vec<f64> =
                    (0..=rounds).map(|_| gpu.window(&graph, repeats, flush)).collect::<Result<_>>()?;
                let micro = |share| microseconds(1e6 * quantile(&windows[1..], share));
                let line = Line {
                    samples: rounds.to_string(),
                    median_us: micro(0.5),
                    p5_us: micro(0.05),
                    p95_us: micro(0.95),
                    ..scene.line_of_mover(op, &mover, bytes)
                };
                write(line.with_status(Status::Ok))?;
            }
        }
    }
    Ok(())
}

/// What is one number each. What fails is named, and the rest is there all the same.
pub fn limits(gpu: &Gpu, rounds: usize) -> (Vec<Limit>, Vec<String>) {
    let (mut limits, mut failures) = (Vec::new(), Vec::new());
    for (what, found) in
        [("clusters", clusters(gpu)), ("launches", launches(gpu, rounds)), ("the host's costs", host(gpu, rounds))]
    {
        match found {
            Ok(found) => limits.extend(found),
            Err(error) => failures.push(format!("{what}: {error}")),
        }
    }
    (limits, failures)
}

fn limit(name: impl Into<String>, value: String, unit: &'static str, detail: impl Into<String>) -> Limit {
    Limit { name: name.into(), value, unit, detail: detail.into() }
}

/// Blocks of the clusters that are tried.
const CLUSTERS: [u32; 5] = [1, 2, 4, 8, 16];

fn clusters(gpu: &Gpu) -> Result<Vec<Limit>> {
    use warpnorm::cudarc::driver::sys::CUdevice_attribute as Attribute;
    // Chips before Hopper have none.
    if gpu.context().compute_capability()?.0 < 9 {
        return Ok(Vec::new());
    }
    let shared =
        gpu.context().attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?.unsigned_abs();
    let mut found = Vec::new();
    let mut largest = 0;
    for blocks in CLUSTERS {
        for (threads, shared) in [(1024, 0), (1024, shared)] {
            let resident = gpu.probe.resident_clusters(blocks, threads, shared)?;
            let detail = format!("of {blocks} blocks of {threads} threads and {} KiB", shared >> 10);
            let name = format!("resident_clusters_{blocks}_of_{}_kib", shared >> 10);
            found.push(limit(name, resident.to_string(), "clusters", detail));
            // That it is said to fit is one thing, that it runs another.
            let run = || gpu.probe.places(gpu.stream(), blocks, 2 * resident, (threads, shared));
            if resident > 0 && run()?.iter().all(|&(size, _)| size == blocks) {
                largest = largest.max(blocks);
            }
        }
    }
    found.insert(0, limit("largest_cluster", largest.to_string(), "blocks", "that was launched and ran as one"));
    Ok(found)
}

/// An empty launch, as the device sees it.
fn launches(gpu: &Gpu, rounds: usize) -> Result<Vec<Limit>> {
    let stream = gpu.stream();
    let nothing = |programmatic| Ok(gpu.probe.launch_nothing(stream, Attributes { cluster: 1, programmatic })?);
    let of_graph = |programmatic| -> Result<String> {
        let graph = gpu.capture(1, |_| nothing(programmatic))?;
        let repeats = gpu.repeats(&graph, false)?;
        let windows: Vec<f64> = (0..rounds).map(|_| gpu.window(&graph, repeats, false)).collect::<Result<_>>()?;
        Ok(microseconds(1e6 * median(&windows)))
    };
    let mut found = vec![
        limit(
            "launch_and_wait",
            microseconds(host_time(gpu, rounds, 1, &mut || nothing(false))?),
            "us",
            "an empty kernel alone: from the call to the end of waiting for it",
        ),
        limit("launch_graph", of_graph(false)?, "us", format!("one of {LAUNCHES} empty kernels of a graph")),
    ];
    // Chips before Hopper have none.
    if gpu.context().compute_capability()?.0 >= 9 {
        let detail = "the same, each by programmatic dependent launch";
        found.push(limit("launch_graph_programmatic", of_graph(true)?, "us", detail));
    }
    Ok(found)
}

/// What the caller's thread spends.
fn host(gpu: &Gpu, rounds: usize) -> Result<Vec<Limit>> {
    /// Few enough that the driver's queue never fills.
    const CALLS: usize = 200;
    let case = Case::new(Op::RmsNorm, &[1, 4096], DType::Bf16);
    let numbers = Numbers::<warpnorm::half::bf16>::new(&case);
    let prepared = prepare(&gpu.cuda, &case)?;
    let mut constants = Constants::new(&gpu.cuda, &case, &prepared, &numbers)?;
    let y = gpu.cuda.put(&numbers.x);
    let mut tensors = Tensors { x: gpu.cuda.put(&numbers.x), residual: None, sum: None, y: Output::Elements(y) };
    let prepared_call =
        host_time(gpu, rounds, CALLS, &mut || call(&gpu.cuda, &case, &prepared, &mut constants, &mut tensors))?;
    let mut bare = gpu.probe.bare_launch(gpu.stream());
    let bare_call = host_time(gpu, rounds, CALLS, &mut || {
        bare();
        Ok(())
    })?;
    let loads: Vec<f64> = (0..3)
        .map(|_| {
            let start = Instant::now();
            Cuda::on(gpu.stream())?;
            Ok(start.elapsed().as_secs_f64())
        })
        .collect::<Result<_>>()?;
    Ok(vec![
        limit("host_prepared_call", microseconds(prepared_call), "us", "the caller's time: Args, Prepared::forward"),
        limit("host_bare_launch", microseconds(bare_call), "us", "the caller's time for cuLaunchKernelEx alone"),
        limit(
            "image_load",
            format!("{:.2}", 1e3 * median(&loads)),
            "ms",
            "Cuda::on once more; where the driver loads lazily, a kernel's code comes with its first launch",
        ),
    ])
}

/// Microseconds of the caller's thread for one of `calls`, between two waits; with a single call the second wait counts.
fn host_time(gpu: &Gpu, rounds: usize, calls: usize, call: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..=rounds {
        gpu.stream().synchronize()?;
        let start = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        if calls == 1 {
            gpu.stream().synchronize()?;
        }
        times.push(1e6 * start.elapsed().as_secs_f64() / calls as f64);
    }
    gpu.stream().synchronize()?;
    Ok(median(&times[1..]))
}
