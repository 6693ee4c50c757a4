//! The benchmark for the record: every cell of a suite checked against f64, timed in rounds beside a copy and a read of the
//! same size, and written down as a line of `bench.csv`.
//!
//! ```sh
//! cargo bench --bench record -- cpu             # on this machine's CPU, into benches/record/cpu-<model>/<now>-<commit>/
//! cargo bench --bench record -- rows images decode probe    # on its GPU
//! cargo bench --bench record -- rows --dry-run --out /tmp/x # everything but speed, on the emulator, in seconds
//! ```

mod harness;

#[path = "../tests/it/data.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod data;
#[path = "../tests/it/oracle.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod oracle;
#[path = "../tests/it/place.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod place;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use harness::case::Case;
use harness::cell::Cell;
use harness::cuda::{self, Gpu, NoRoom};
use harness::measure::measure;
use harness::record::{Line, Scene, Status, Writer, commit, fraction, slug, version};
use harness::{Result, cpu, limits, suites};

/// Measures this crate's layers for the record
#[derive(Parser)]
struct Arguments {
    /// What to measure
    #[arg(required = true, value_enum)]
    suites: Vec<Suite>,
    /// Folder for bench.csv, and probe.csv with `probe`; by default a new one under benches/record/
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only cells whose name contains this, as in rms_norm/8192x8192/bf16
    #[arg(long, default_value = "")]
    filter: String,
    /// Windows of each cell; by default 15, and 2 in a dry run
    #[arg(long)]
    rounds: Option<usize>,
    /// Small cells on the emulated driver: shows that everything works, and nothing of speed
    #[arg(long)]
    dry_run: bool,
    /// The commit that this is; by default the checkout's
    #[arg(long)]
    commit: Option<String>,
    /// The driver's version; by default the CUDA version that it supports
    #[arg(long)]
    driver: Option<String>,
    /// The compiler of the kernels; by default what `nvcc --version` says
    #[arg(long)]
    toolkit: Option<String>,
    /// cargo bench says so
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// The chip's own limits: copies, reads, clusters, launches
    Probe,
    /// LayerNorm and RMSNorm over many rows, on a GPU
    Rows,
    /// GroupNorm, InstanceNorm and BatchNorm, on a GPU
    Images,
    /// One to 64 rows, on a GPU
    Decode,
    /// Every layer, on the CPU
    Cpu,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every cell came out right.
fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.dry_run {
        emulator::preload(emulator::Variant::Plain);
    }
    let on_gpu = arguments.suites.iter().any(|&suite| suite != Suite::Cpu);
    if on_gpu && arguments.suites.contains(&Suite::Cpu) {
        return Err("cpu has a record of its own: measure it apart".into());
    }
    let gpu = on_gpu.then(|| Gpu::open(arguments.dry_run.then_some(DRY_COLD_BYTES))).transpose()?;
    let scene = scene(arguments, gpu.as_ref())?;
    let out = out_folder(arguments, &scene)?;
    println!("{}, commit {}: into {}", scene.device, scene.commit, out.display());

    let mut writer = Writer::new(File::create(out.join("bench.csv"))?);
    let all_right = std::cell::Cell::new(true);
    let mut write = |line: Line| {
        println!("{}", line.summary());
        // A cell that this device has no room for is no fault.
        let is_right = [Status::Ok, Status::Unsupported].iter().any(|status| status.name() == line.status);
        all_right.set(all_right.get() && is_right);
        writer.write(&line)
    };
    let rounds = arguments.rounds.unwrap_or(if arguments.dry_run { 2 } else { 15 });
    for suite in &arguments.suites {
        let cases = match (suite, &gpu) {
            (Suite::Probe, Some(gpu)) => {
                let mut probed = csv::Writer::from_path(out.join("probe.csv"))?;
                let (limits, failures) = limits::limits(gpu, rounds);
                for failure in failures {
                    println!("failed: {failure}");
                    all_right.set(false);
                }
                for limit in limits {
                    println!("{:<36} {:>10} {:<9} {}", limit.name, limit.value, limit.unit, limit.detail);
                    probed.serialize(limit)?;
                }
                probed.flush()?;
                limits::bandwidth(gpu, &scene, rounds, arguments.dry_run, &mut write)?;
                continue;
            }
            (Suite::Rows, _) => suites::rows_on_gpu(),
            (Suite::Images, _) => suites::images_on_gpu(),
            (Suite::Decode, _) => suites::decode(),
            (Suite::Cpu, _) => suites::cpu(),
            (Suite::Probe, None) => unreachable!("a GPU was opened for it"),
        };
        for case in if arguments.dry_run { suites::shrunk(cases) } else { cases } {
            if case.to_string().contains(&arguments.filter) {
                write(line(&case, gpu.as_ref(), &scene, rounds))?;
            }
        }
    }
    Ok(all_right.get())
}

/// What the caches are taken to hold in a dry run: the emulator has none, and writing 256 MB between windows takes time.
const DRY_COLD_BYTES: usize = 1 << 20;

/// One cell, whatever becomes of it.
fn line(case: &Case, gpu: Option<&Gpu>, scene: &Scene, rounds: usize) -> Line {
    let blank = scene.line(case);
    let measured = || -> Result<Line> {
        let mut cell: Box<dyn Cell + '_> = match gpu {
            Some(gpu) => cuda::cell(gpu, case)?,
            None => cpu::cell(case)?,
        };
        let max_err = cell.max_err()?;
        let status = if max_err <= 1.0 { Status::Ok } else { Status::Wrong };
        let line = blank.clone().with_figures(&measure(cell.as_mut(), rounds)?).with_status(status);
        let [copier, reader] = cell.movers();
        println!("  beside {copier} and {reader}:");
        Ok(Line { kernel: cell.kernel(), max_err: fraction(max_err), ..line })
    };
    measured().unwrap_or_else(|error| {
        println!("  {case}: {error}");
        let status = if error.is::<NoRoom>() { Status::Unsupported } else { Status::Failed };
        blank.clone().with_status(status)
    })
}

fn scene(arguments: &Arguments, gpu: Option<&Gpu>) -> Result<Scene> {
    let common = Scene {
        commit: arguments.commit.clone().unwrap_or_else(commit),
        date: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        ..Scene::default()
    };
    Ok(match gpu {
        Some(gpu) => Scene {
            mode: "graph",
            device: gpu.cuda.device_name()?,
            driver: arguments.driver.clone().map_or_else(|| gpu.cuda_version(), Ok)?,
            toolkit: arguments.toolkit.clone().unwrap_or_else(|| version("nvcc", "V")),
            ..common
        },
        None => Scene {
            mode: "cpu",
            device: cpu::processor(),
            threads: rayon::current_num_threads().to_string(),
            toolkit: arguments.toolkit.clone().unwrap_or_else(|| version("rustc", "rustc ")),
            ..common
        },
    })
}

/// Where the record goes: `benches/record/<device>/<date>T<time>-<commit>`, if nothing else was said.
fn out_folder(arguments: &Arguments, scene: &Scene) -> Result<PathBuf> {
    let folder = match &arguments.out {
        Some(folder) => folder.clone(),
        None if arguments.dry_run => return Err("a dry run is no record: say --out".into()),
        None => {
            let prefix = if scene.mode == "cpu" { "cpu-" } else { "" };
            let moment = scene.date.trim_end_matches('Z').replace(':', "");
            let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/record");
            root.join(format!("{prefix}{}", slug(&scene.device))).join(format!("{moment}-{}", scene.commit))
        }
    };
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
