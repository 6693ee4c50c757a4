//! The norms of a transformer's decoding step, captured into a CUDA graph once and replayed with new contents.
//!
//! ```sh
//! cargo run --release --example captured_graph
//! cargo run --release --example captured_graph -- --emulator --tokens 2
//! ```
//!
//! On a GPU if there is one, else on the emulated driver; a CPU has no graphs. What to learn from it is in `stack.rs`.

mod stack;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use stack::{Result, Stack, Step, weights};
use warpnorm::Cuda;
use warpnorm::cudarc::driver::{CudaGraph, sys};
use warpnorm::half::bf16;

/// Captures a stack of RMSNorms into a CUDA graph, and replays it with new contents
#[derive(Parser)]
struct Arguments {
    /// Run on the emulated driver though there be a GPU
    #[arg(long)]
    emulator: bool,
    /// Rows of a tensor: tokens that are decoded at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=4096))]
    tokens: u16,
    /// Columns of a tensor
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(64..=32_768))]
    hidden: u16,
    /// Layers of the transformer, with two norms each; one more follows them
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    layers: u8,
    /// How often the graph is replayed
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    replays: u16,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has had enough, as in `… | head`.
        Err(error) if error.downcast_ref().is_some_and(|io: &io::Error| io.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Nothing can be done about a closed stderr.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    // Before the first call into CUDA.
    let is_emulated = arguments.emulator || !emulator::real_gpu();
    let emulator = is_emulated.then(|| emulator::preload(emulator::Variant::Plain));
    let mut out = io::stdout().lock();
    let shape = [usize::from(arguments.tokens), usize::from(arguments.hidden)];
    let norms = 2 * usize::from(arguments.layers) + 1;
    writeln!(out, "{norms} RMSNorms of a decoding step, as one CUDA graph\n")?;

    let context = Cuda::open(0)?.stream().context().clone();
    // Slices that record events cannot be captured: docs/cuda-graphs.md says why.
    // SAFETY: every slice is used on one stream.
    unsafe { context.disable_event_tracking() };
    // The default stream cannot be captured either.
    let cuda = Cuda::on(&context.new_stream()?)?;
    let why = if is_emulated && !arguments.emulator { ", because there is no GPU" } else { "" };
    writeln!(out, "device    {}{why}", cuda.device_name()?)?;
    writeln!(out, "tensors   {shape:?} bf16, weights in f32")?;

    let weights = weights(norms, shape[1]);
    let mut captured = Stack::new(&cuda, shape, &weights)?;
    let graph = captured.capture()?;
    let kernels = captured.kernels();
    let expected = norms * kernels.len() + norms - 1;
    let nodes = nodes(&graph)?;
    writeln!(out, "captured  {nodes} nodes: {} for each norm, and copies between", kernels.join(", "))?;
    if nodes != expected {
        return Err(format!("there should be {expected} nodes: more than launches and copies were captured").into());
    }

    let mut called = Stack::new(&cuda, shape, &weights)?;
    // A norm rounds its sum and its result to a bf16, by 2^-8 of a number at most, up or down, and so does the other device.
    let allowed = (4.0 * norms as f64).sqrt() * 2.0_f64.powi(-8);
    let mut farthest = 0.0_f64;
    for replay in 0..arguments.replays {
        let step = Step::new(shape, 1000 + u64::from(replay));
        captured.fill(&step)?;
        graph.launch()?;
        called.fill(&step)?;
        called.submit()?;
        let found = captured.results()?;
        if !are_same(&found, &called.results()?) {
            return Err(format!("replay {replay} differs from the same calls one by one").into());
        }
        let distance = distance(&found, &step.on_cpu(shape, &weights)?);
        if distance.is_nan() || distance > allowed {
            return Err(format!("replay {replay} is {distance:.5} of its size from the CPU's: too far").into());
        }
        farthest = farthest.max(distance);
    }
    writeln!(out, "replayed  {} times with new contents: the bits of calls one by one,", arguments.replays)?;
    writeln!(out, "          and {farthest:.5} of their size from the CPU's (up to {allowed:.5} may be rounding)")?;
    writeln!(out)?;

    let steps = if is_emulated { 3 } else { 300 };
    let by_calls = time(&cuda, steps, || called.submit())?;
    let by_graph = time(&cuda, steps, || Ok(graph.launch()?))?;
    writeln!(out, "a step    {by_calls:.1} us by calls, {by_graph:.1} us by the graph, submitted and finished")?;
    let Some(emulator) = emulator else { return Ok(()) };
    writeln!(out, "          on an emulated driver, whose times mean nothing")?;
    match emulator.take_report() {
        report if report.is_empty() => Ok(()),
        report => Err(format!("the emulator reports: {report}").into()),
    }
}

fn nodes(graph: &CudaGraph) -> Result<usize> {
    let mut count = 0;
    // SAFETY: a live graph; the nodes themselves are not asked for.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &raw mut count) }.result()?;
    Ok(count)
}

fn are_same(found: &[Vec<bf16>; 2], expected: &[Vec<bf16>; 2]) -> bool {
    found.iter().flatten().map(|v| v.to_bits()).eq(expected.iter().flatten().map(|v| v.to_bits()))
}

/// How far apart the tensors are, as a part of their size, both in the Euclidean norm; of two pairs the greater.
fn distance(found: &[Vec<bf16>; 2], expected: &[Vec<bf16>; 2]) -> f64 {
    let of_pair = |(found, expected): (&Vec<bf16>, &Vec<bf16>)| {
        let pairs = found.iter().zip(expected).map(|(found, expected)| (found.to_f64(), expected.to_f64()));
        let (apart, size) = pairs.fold((0.0, 0.0), |(apart, size), (found, expected)| {
            (apart + (found - expected).powi(2), size + expected.powi(2))
        });
        (apart / size).sqrt()
    };
    let [y, hidden] = [(&found[0], &expected[0]), (&found[1], &expected[1])].map(of_pair);
    // Unlike `f64::max`, keeps what is no number.
    if y > hidden || y.is_nan() { y } else { hidden }
}

/// Microseconds of a step, of several that are submitted one behind the other; the median of some such runs.
fn time(cuda: &Cuda, steps: u32, mut submit: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut run = || -> Result<f64> {
        cuda.stream().synchronize()?;
        let start = Instant::now();
        (0..steps).try_for_each(|_| submit())?;
        cuda.stream().synchronize()?;
        Ok(1e6 * start.elapsed().as_secs_f64() / f64::from(steps))
    };
    run()?;
    let mut times = (0..5).map(|_| run()).collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
