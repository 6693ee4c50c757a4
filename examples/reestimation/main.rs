//! A trained network whose data has shifted since: the running statistics of its `BatchNorm`s are estimated anew, from a
//! stream of images that nobody has labelled.
//!
//! ```sh
//! cargo run --release --example reestimation
//! cargo run --release --example reestimation -- --device cpu --json
//! ```
//!
//! Network and images are those of the example `fused_inference`; `README.md` says what is done to them.

mod adaptation;
#[path = "../fused_inference/command_line.rs"]
mod command_line;
#[path = "../fused_inference/network/mod.rs"]
#[expect(dead_code, reason = "the example `fused_inference` tells more about the network")]
mod network;
mod report;
mod shift;

use std::io;
use std::process::ExitCode;

use adaptation::{BATCH, Outcome, STREAM, reestimate};
use clap::Parser;
use command_line::{Choice, Demonstration};
use network::Result;
use network::checkpoint::Checkpoint;
use network::runner::Device;
use shift::SHIFTS;

static FILE: &[u8] = include_bytes!("../fused_inference/digits.safetensors");

/// Adapts a network to images that have shifted since its training, by their statistics alone
#[derive(Parser)]
struct Arguments {
    /// Where to run; by default on the GPU if there is one, else on the CPU
    #[arg(long, value_enum)]
    device: Option<Choice>,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    command_line::run(arguments.device, &arguments)
}

impl Demonstration for Arguments {
    fn run<D: Device>(&self, device: &D, name: &str) -> Result<()> {
        let Checkpoint { network, images, .. } = Checkpoint::read(FILE)?;
        let outcomes = SHIFTS.iter().map(|shift| {
            let shifted = shift.of(&images);
            // Nothing is judged on what it was adapted to.
            let (stream, judged) = shifted.split_at(STREAM * network.input_len());
            let reestimated = reestimate(device, &network, stream, BATCH)?;
            Outcome::new(device, &network, &reestimated, judged)
        });
        let outcomes: Vec<_> = outcomes.collect::<Result<_>>()?;
        let mut out = io::stdout().lock();
        let judged = &images[STREAM..];
        if self.json {
            return report::json(&mut out, name, judged, &outcomes);
        }
        report::table(&mut out, name, judged, &outcomes)?;
        report::digit(&mut out, &images, &outcomes)
    }
}
