//! A trained network, before and after its `BatchNorm`s are folded away: accuracy, logits, latency.
//!
//! ```sh
//! cargo run --release --example fused_inference
//! cargo run --release --example fused_inference -- --device cpu --json
//! ```
//!
//! The network and the held-out images are in `digits.safetensors`; `README.md` describes them. It runs once as it was
//! trained, convolution, `BatchNorm` and `ReLU` each a pass over memory, and once folded.

mod command_line;
mod measure;
#[expect(dead_code, reason = "the example `reestimation` has the network too, and does more with it")]
mod network;
#[cfg(feature = "models")]
mod onnx;
mod report;

use std::io::{self, Write};
#[cfg(feature = "models")]
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use command_line::{Choice, Demonstration};
use measure::{compare, latency};
use network::Result;
use network::checkpoint::Checkpoint;
use network::runner::Device;

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
    /// An ONNX model to fold instead, and to evaluate before and after, in f64 on the CPU
    #[cfg(feature = "models")]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["device", "batch", "json"])]
    onnx: Option<PathBuf>,
    /// Print one JSON object instead, with the latencies for the largest batch
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(feature = "models")]
    if let Some(path) = &arguments.onnx {
        return command_line::ended(onnx::run(path));
    }
    command_line::run(arguments.device, &arguments)
}

impl Demonstration for Arguments {
    fn run<D: Device>(&self, device: &D, name: &str) -> Result<()> {
        let checkpoint = Checkpoint::read(FILE)?;
        let (folded, reports) = checkpoint.network.fold()?;
        let mut batches: Vec<_> = self.batch.iter().copied().map(usize::from).collect();
        batches.sort_unstable();
        batches.dedup();

        let outcome = compare(device, &checkpoint, &folded)?;
        let mut out = io::stdout().lock();
        if self.json {
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
}
