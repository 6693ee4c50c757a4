//! Where an example runs, by its command line, and how it ends.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use warpnorm::{Cpu, Cuda, Error};

use super::network::Result;
use super::network::runner::Device;

#[derive(Clone, Copy, ValueEnum)]
pub enum Choice {
    Cpu,
    Cuda,
}

/// What an example does, on whatever device.
pub trait Demonstration {
    fn run<D: Device>(&self, device: &D, name: &str) -> Result<()>;
}

/// Runs it where it was told to, by default on the GPU if there is one and else on the CPU.
pub fn run(choice: Option<Choice>, demonstration: &impl Demonstration) -> ExitCode {
    ended(run_on(choice, demonstration))
}

/// How the program ends.
pub fn ended(result: Result<()>) -> ExitCode {
    match result {
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

fn run_on(choice: Option<Choice>, demonstration: &impl Demonstration) -> Result<()> {
    match choice {
        Some(Choice::Cpu) => on_cpu(demonstration),
        Some(Choice::Cuda) => on_cuda(&Cuda::open(0)?, demonstration),
        None => match Cuda::open(0) {
            Ok(cuda) => on_cuda(&cuda, demonstration),
            Err(error) if is_absence(&error) => {
                writeln!(io::stderr(), "On the CPU, because {error}.")?;
                on_cpu(demonstration)
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

fn on_cpu(demonstration: &impl Demonstration) -> Result<()> {
    let threads = rayon::current_num_threads();
    let plural = if threads == 1 { "" } else { "s" };
    demonstration.run(&Cpu, &format!("cpu, {threads} thread{plural}"))
}

fn on_cuda(cuda: &Cuda, demonstration: &impl Demonstration) -> Result<()> {
    demonstration.run(cuda, &format!("cuda, {}", cuda.device_name()?))
}
