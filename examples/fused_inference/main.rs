//! A trained network, before and after its `BatchNorm`s are folded away: accuracy, logits, latency.
//!
//! ```sh
//! cargo run --release --example fused_inference
//! cargo run --release --example fused_inference -- --device cpu --json
//! ```
//!
//! The network and the held-out images are in `digits.safetensors`; `README.md` describes them. It runs once as it was
//! trained, convolution, `BatchNorm` and `ReLU` each a pass over memory, and once folded.

mod measure;
mod network;
mod report;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use measure::{compare, latency};
use network::Result;
use network::checkpoint::Checkpoint;
use network::runner::Device;
use warpnorm::{Cpu, Cuda, Error};

static FILE: &[u8] = include_bytes!("digits.safetensors");

/// Classifies handwritten digits by a small residual network, as it was trained and with its BatchNorms folded away
#[derive(Parser)]
struct Arguments {
    /// Where to run; by default on the GPU if there is one, else on the CPU
    #[arg(long, value_enum)]
    device: Option<Choice>,
    /// Images per pass, to measure latencies for; may be repeated
    #[arg(long, value_delimiter = ',', value_name = "N", default_values_t = [1, 16, 64, 256])]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: Vec<u16>,
    /// Print one JSON object instead, with the latencies for the largest batch
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    Cpu,
    Cuda,
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
    match arguments.device {
        Some(Choice::Cpu) => on_cpu(arguments),
        Some(Choice::Cuda) => on_cuda(&Cuda::open(0)?, arguments),
        None => match Cuda::open(0) {
            Ok(cuda) => on_cuda(&cuda, arguments),
            Err(error) if is_absence(&error) => {
                writeln!(io::stderr(), "On the CPU, because {error}.")?;
                on_cpu(arguments)
            }
            Err(error) => Err(error.into()),
        },
    }
}

/// Whether there is no GPU for this program, as opposed to one that fails.
const fn is_absence(error: &Error) -> bool {
    matches!(
        error,
        Error::NoDriver
            | Error::NoDevice { .. }
            | Error::NoKernels { .. }
            | Error::OldDriver { .. }
            | Error::Architecture { .. }
    )
}

fn on_cpu(arguments: &Arguments) -> Result<()> {
    let threads = rayon::current_num_threads();
    let plural = if threads == 1 { "" } else { "s" };
    demonstrate(&Cpu, &format!("cpu, {threads} thread{plural}"), arguments)
}

fn on_cuda(cuda: &Cuda, arguments: &Arguments) -> Result<()> {
    demonstrate(cuda, &format!("cuda, {}", cuda.device_name()?), arguments)
}

fn demonstrate<D: Device>(device: &D, name: &str, arguments: &Arguments) -> Result<()> {
    let checkpoint = Checkpoint::read(FILE)?;
    let (folded, reports) = checkpoint.network.fold()?;
    let mut batches: Vec<_> = arguments.batch.iter().copied().map(usize::from).collect();
    batches.sort_unstable();
    batches.dedup();

    let outcome = compare(device, &checkpoint, &folded)?;
    let mut out = io::stdout().lock();
    if arguments.json {
        let batch = batches.last().copied().unwrap_or(1);
        let latency = latency(device, &checkpoint, &folded, batch)?;
        return report::json(&mut out, name, &checkpoint, &outcome, &latency);
    }
    writeln!(out, "A residual network for handwritten digits, before and after folding")?;
    writeln!(out, "\ndevice   {name}\n")?;
    report::layers(&mut out, &checkpoint.network, &folded, &reports)?;
    report::outcome(&mut out, &checkpoint, &outcome)?;
    report::latencies(&mut out, batches.into_iter().map(|batch| latency(device, &checkpoint, &folded, batch)))?;
    report::digits(&mut out, &checkpoint.images, &outcome)
}
