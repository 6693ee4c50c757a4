//! The cells of the benchmark, and what is predicted of each.

#[path = "../../../benches/harness/case.rs"]
#[allow(dead_code, reason = "the benchmarks use the rest")]
pub mod case;
#[path = "../../../benches/harness/layer.rs"]
#[allow(dead_code, reason = "the benchmarks use the rest")]
mod layer;
#[path = "../../../benches/harness/suites.rs"]
#[allow(dead_code, reason = "the benchmarks use the rest")]
mod suites;

use case::{Case, Op};

use super::call::{self, Call};
use super::chip::Chip;
use super::record::MachineCode;
use super::time::{Bound, Time, time};
use super::{copy, pointwise, rows, slabs};
use crate::Cpu;
use crate::norm::Activation;
use crate::plan::{Launch, Limits, Params, plan, tests};

/// As the harness has it.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What the harness does (benches/harness/cuda.rs): launches of a graph, and how many bytes a graph must read for its
/// windows to be of several.
const LAUNCHES: f64 = 20.0;
const COLD_BYTES: f64 = 256.0 * 1024.0 * 1024.0;

/// All cells of a GPU, with the name of their suite.
pub fn all() -> Vec<(&'static str, Case)> {
    let suites = [("rows", suites::rows_on_gpu()), ("decode", suites::decode()), ("images", suites::images_on_gpu())];
    let mut cells: Vec<(&str, Case)> = Vec::new();
    for (suite, cases) in suites {
        for case in cases {
            // A shape of two lists is one cell, and so are two of one list that are the same.
            if !cells.iter().any(|(_, other)| *other == case) {
                cells.push((suite, case));
            }
        }
    }
    cells
}

pub struct Prediction {
    pub kernels: Vec<&'static str>,
    /// Blocks on a multiprocessor, of each launch.
    pub blocks: Vec<f64>,
    /// Of each launch.
    pub times: Vec<Time>,
    pub us: f64,
    pub copy_us: f64,
    /// Of a read of as many bytes as the first launch reads.
    pub read_us: f64,
}

impl Prediction {
    pub fn copy_fraction(&self) -> f64 {
        self.copy_us / self.us
    }

    /// The first launch's time beside a read's.
    pub fn read_fraction(&self) -> f64 {
        self.read_us / self.times[0].us
    }

    /// Of the launch that takes longest.
    pub fn bound(&self) -> Bound {
        self.times.iter().max_by(|a, b| a.us.total_cmp(&b.us)).unwrap().bound
    }
}

pub fn predict(case: &Case, chip: &Chip, code: &MachineCode) -> Prediction {
    let limits = Limits { multiprocessors: chip.multiprocessors as u32, ..tests::H200 };
    let problem = *layer::prepare(&Cpu, case).unwrap().resolved();
    let plan = plan(&problem, &limits);
    let launches: Vec<&Launch> = plan.launches().collect();
    let call = Call { case, chip, code };
    let time_of = |(number, launch): (usize, &&Launch)| {
        let job = match &launch.params {
            Params::Rows(p) => rows::job(&call, launch, p),
            Params::HeadRows(p) => rows::heads(&call, launch, p),
            Params::ChannelsLast(p) => slabs::channels_last(&call, launch, p),
            Params::BatchStatistics(p) => slabs::batch_statistics(&call, launch, p),
            Params::Pointwise(p) => pointwise::pointwise(&call, launch, p, number > 0),
            Params::ChannelTable(_) | Params::Convolution(_) => panic!("no cell is planned so"),
        };
        time(&job, chip)
    };
    let times: Vec<Time> = launches.iter().enumerate().map(time_of).collect();
    let is_single_graph = !case.warm && LAUNCHES * (case.read_bytes() as f64) < COLD_BYTES;
    let wait = if is_single_graph { chip.graph_start / LAUNCHES } else { 0.0 };
    Prediction {
        kernels: launches.iter().map(|launch| call::name(launch)).collect(),
        blocks: launches.iter().map(|launch| call.blocks_of_multiprocessor(launch)).collect(),
        us: wait + times.iter().map(|time| time.us).sum::<f64>(),
        copy_us: wait + copy::copy(case.bytes() as f64, case.warm, chip, code).us,
        read_us: copy::read(case.read_bytes() as f64, case.warm, chip, code).us,
        times,
    }
}

/// How far off the microseconds are if guesses are, each by a quarter and each for itself: the square root of the sum of
/// squares.
pub fn uncertainty(case: &Case, chip: &Chip, code: &MachineCode) -> f64 {
    let half_width =
        |[smaller, larger]: [Chip; 2]| (predict(case, &larger, code).us - predict(case, &smaller, code).us) / 2.0;
    chip.varied().into_iter().map(|both| half_width(both).powi(2)).sum::<f64>().sqrt()
}

/// What is aimed at in a cell with cold buffers: a part of a copy, or, of batch statistics' first launch, of a read.
/// `None`: nothing, or, of decode shapes, microseconds with programmatic dependent launch, which cells are without.
pub fn goal(suite: &str, case: &Case) -> Option<f64> {
    const LARGE: usize = 128_000_000;
    let length = case.extents[1];
    let is_large = case.elements() * case.dtype.size() > LARGE;
    match case.op {
        _ if case.warm || suite == "decode" => None,
        Op::QkRmsNorm { .. } => Some(0.92),
        Op::LayerNorm | Op::RmsNorm => (512..=200_000).contains(&length).then_some(if is_large { 0.95 } else { 0.92 }),
        Op::GroupNorm { .. } if case.activation == Activation::Silu => Some(0.85),
        Op::GroupNorm { .. } | Op::InstanceNorm => None,
        Op::BatchNormInference => Some(0.97),
        Op::BatchNormTraining | Op::BatchNormStatistics => Some(0.92),
    }
}
