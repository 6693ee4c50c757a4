//! What folding a `BatchNorm` is worth on the CPU, where convolutions are matrix products by the GEMM crate: every layer shape
//! of ResNet-50 and MobileNetV2, an image at a time, in f32.
//!
//! ```sh
//! cargo bench --bench folding -- --out /tmp/folding.csv     # by one thread and by all; some minutes
//! ```
//!
//! Three ways take turns: the convolution alone, apart from its `BatchNorm` (warpnorm's, in place, with the `ReLU` in it), and
//! folded. The folded bias is what the product begins with or, where an activation has to pass over the output anyhow, added
//! there. `times_alone` is the median over rounds of a way's time by the convolution's alone.

mod harness;

#[path = "../examples/fused_inference/network/convolution.rs"]
mod convolution;
#[path = "../tests/it/data.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod data;
#[path = "../tests/it/oracle.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod oracle;
#[path = "../tests/it/place.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod place;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use convolution::{columns_len, multiply};
use data::normal;
use harness::convolutions::{Behind, Convolution, mobilenetv2, resnet50};
use harness::cpu::{WINDOW_SECONDS, last_level_cache, processor};
use harness::layer::EPS;
use harness::measure::{median, quantile};
use harness::record::{commit, fraction, microseconds, version};
use harness::{Result, cpu};
use rayon::prelude::*;
use serde::Serialize;
use warpnorm::fold::{BatchNormParams, Folded, Layer, LinearOp};
use warpnorm::{Activation, Args, BatchNorm, Cpu, DType, Prepared, Shape, Signature};

/// Measures what folding is worth on the CPU
#[derive(Parser)]
struct Arguments {
    /// The file for the lines
    #[arg(long)]
    out: PathBuf,
    /// Only layers whose name contains this, as in 1x64x56x56/resnet50+c64+k3+s1+relu
    #[arg(long, default_value = "")]
    filter: String,
    /// Windows of each way
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Numbers of threads; by default one, and as many as there are
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// The commit that this is; by default the checkout's
    #[arg(long)]
    commit: Option<String>,
    /// cargo bench says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// The columns of `folding.csv`.
#[derive(Serialize)]
struct Line {
    op: &'static str,
    case: String,
    variant: String,
    dtype: &'static str,
    layout: &'static str,
    #[serde(rename = "impl")]
    way: &'static str,
    version: &'static str,
    threads: usize,
    samples: usize,
    median_us: String,
    p5_us: String,
    p95_us: String,
    times_alone: String,
    max_err: String,
    status: &'static str,
    commit: String,
    device: String,
    toolkit: String,
    date: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Alone,
    Apart,
    Folded,
}

const WAYS: [Way; 3] = [Way::Alone, Way::Apart, Way::Folded];

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Alone => "convolution alone",
            Self::Apart => "apart",
            Self::Folded => "folded",
        }
    }
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

/// Whether every way came out right.
fn run(arguments: &Arguments) -> Result<bool> {
    let mut threads = arguments.threads.clone();
    if threads.is_empty() {
        threads = vec![1, rayon::current_num_threads()];
        threads.dedup();
    }
    let mut out = csv::Writer::from_path(&arguments.out)?;
    let scene = [
        arguments.commit.clone().unwrap_or_else(commit),
        processor(),
        version("rustc", "rustc "),
        humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
    ];
    let mut all_right = true;
    for threads in threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        for layer in [resnet50(), mobilenetv2()].concat() {
            if !format!("{}/{}", layer.case(), layer.variant()).contains(&arguments.filter) {
                continue;
            }
            for line in pool.install(|| lines(&layer, threads, arguments.rounds, &scene))? {
                println!(
                    "{:<15} {:<38} by {threads}  {:<18} {:>10} us  {:>6} of alone  err {}  {}",
                    line.case, line.variant, line.way, line.median_us, line.times_alone, line.max_err, line.status
                );
                all_right &= line.status == "ok";
                out.serialize(line)?;
                out.flush()?;
            }
        }
    }
    Ok(all_right)
}

fn lines(
    layer: &Convolution,
    threads: usize,
    rounds: usize,
    [commit, device, toolkit, date]: &[String; 4],
) -> Result<Vec<Line>> {
    let mut bench = Bench::new(layer, threads)?;
    let errors = WAYS.map(|way| bench.max_err(way)).into_iter().collect::<Result<Vec<f64>>>()?;
    let seconds = bench.measure(rounds)?;
    let lines = WAYS.iter().zip(errors).zip(&seconds).map(|((way, max_err), found)| {
        let ratios: Vec<f64> = found.iter().zip(&seconds[0]).map(|(seconds, alone)| seconds / alone).collect();
        Line {
            op: "conv_batch_norm",
            case: layer.case(),
            variant: layer.variant(),
            dtype: "f32",
            layout: "nchw",
            way: way.name(),
            version: env!("CARGO_PKG_VERSION"),
            threads,
            samples: found.len(),
            median_us: microseconds(1e6 * median(found)),
            p5_us: microseconds(1e6 * quantile(found, 0.05)),
            p95_us: microseconds(1e6 * quantile(found, 0.95)),
            times_alone: fraction(median(&ratios)),
            max_err: fraction(max_err),
            status: if max_err <= 1.0 { "ok" } else { "wrong" },
            commit: commit.clone(),
            device: device.clone(),
            toolkit: toolkit.clone(),
            date: date.clone(),
        }
    });
    Ok(lines.collect())
}

/// Of ‖y − reference‖ / ‖reference‖: products of f32, whose sums have up to 4,608 terms.
const LIMIT: f64 = 1.0 / (1 << 16) as f64;

/// Channels of the output that are compared, spread from the first to the last.
const COMPARED: usize = 8;

struct Bench {
    layer: Convolution,
    threads: usize,
    /// Input and output of each set.
    sets: Vec<[Vec<f32>; 2]>,
    columns: Vec<f32>,
    weight: Vec<f32>,
    /// Weight, bias, running mean and variance of the `BatchNorm`.
    statistics: [Vec<f32>; 4],
    norm: Prepared<Cpu>,
    shape: Shape,
    folded_weight: Vec<f32>,
    folded_bias: Vec<f32>,
    /// Calls of a window, for each way.
    calls: [usize; 3],
    next: usize,
}

impl Bench {
    fn new(layer: &Convolution, threads: usize) -> Result<Self> {
        let geometry = layer.geometry();
        let [inputs, outputs, weights] = layer.elements();
        let floats = |count: usize, seed: u64, form: &dyn Fn(f64) -> f64| -> Vec<f32> {
            normal(count, seed).map(|value| form(value) as f32).collect()
        };
        let fan_in = (weights / layer.channels) as f64;
        let weight = floats(weights, 1, &|value| value / fan_in.sqrt());
        // About those of the convolution's output, as in a trained network.
        let statistics = [
            floats(layer.channels, 2, &|value| 1.0 + 0.1 * value),
            floats(layer.channels, 3, &|value| 0.1 * value),
            floats(layer.channels, 4, &|value| 0.1 * value),
            floats(layer.channels, 5, &|value| 0.5 + value.abs()),
        ];
        let [bn_weight, bn_bias, mean, var] = &statistics;
        let affine = BatchNormParams::new(mean, var, EPS).weight(bn_weight).bias(bn_bias).affine()?;
        let shape = [layer.channels, layer.in_channels / layer.groups, layer.kernel, layer.kernel];
        let op = LinearOp::new(Layer::Conv { groups: layer.groups }, &weight, &shape);
        let Folded { weight: folded_weight, bias: folded_bias, .. } = op.fold_after(&affine)?;

        let [height, width] = geometry.output_size([layer.size; 2]);
        let shape = Shape::from([1, layer.channels, height, width]);
        let signature = Signature::new(shape, DType::F32).weight(DType::F32).bias(DType::F32).in_place();
        let activation = if layer.behind == Behind::Relu { Activation::Relu } else { Activation::None };
        let bytes = (inputs + outputs + weights) * size_of::<f32>();
        let x = floats(inputs, 6, &|value| value);
        let mut bench = Self {
            norm: BatchNorm::new(layer.channels)?.eps(EPS)?.activation(activation).prepare(&Cpu, &signature)?,
            shape,
            layer: *layer,
            threads,
            sets: vec![[x, vec![0.0; outputs]]; (2 * last_level_cache()).div_ceil(bytes).clamp(1, cpu::MOST_SETS)],
            columns: vec![0.0; columns_len(&geometry, [layer.size; 2])],
            weight,
            statistics,
            folded_weight,
            folded_bias,
            calls: [1; 3],
            next: 0,
        };
        for way in WAYS {
            bench.full_window(way)?;
        }
        Ok(bench)
    }

    /// Seconds of one call, for each way and round. The order turns; the first round warms up.
    fn measure(&mut self, rounds: usize) -> Result<[Vec<f64>; 3]> {
        let mut seconds: [Vec<f64>; 3] = Default::default();
        for round in 0..=rounds {
            for turn in 0..WAYS.len() {
                let way = WAYS[(round + turn) % WAYS.len()];
                let window = self.full_window(way)?;
                if round > 0 {
                    seconds[way as usize].push(window);
                }
            }
        }
        Ok(seconds)
    }

    /// A window that is long enough.
    fn full_window(&mut self, way: Way) -> Result<f64> {
        loop {
            let count = self.calls[way as usize];
            let start = Instant::now();
            for _ in 0..count {
                self.next = (self.next + 1) % self.sets.len();
                self.run(way, self.next)?;
            }
            let seconds = start.elapsed().as_secs_f64();
            if seconds >= WINDOW_SECONDS {
                return Ok(seconds / count as f64);
            }
            self.calls[way as usize] = (2 * count).max((WINDOW_SECONDS / seconds * count as f64) as usize);
        }
    }

    fn run(&mut self, way: Way, set: usize) -> Result<()> {
        let Self { layer, threads, columns, statistics, folded_weight, folded_bias, .. } = self;
        let [x, y] = &mut self.sets[set];
        let (geometry, size) = (layer.geometry(), [layer.size; 2]);
        if way != Way::Folded {
            multiply(&geometry, size, x, &self.weight, None, columns, y, *threads);
        }
        match way {
            Way::Alone => {}
            Way::Apart => {
                let [weight, bias, mean, var] = &*statistics;
                let args = Args::new(&Cpu, self.shape).weight(weight).bias(bias).running_mean(mean).running_var(var);
                self.norm.forward(args.output(y))?;
                // A ReLU is in the BatchNorm.
                if layer.behind == Behind::Relu6 {
                    activate(y, layer, None, *threads);
                }
            }
            Way::Folded => {
                let passes = layer.behind != Behind::Nothing && layer.groups == 1;
                let bias = folded_bias.as_slice();
                multiply(&geometry, size, x, folded_weight, (!passes).then_some(bias), columns, y, *threads);
                if layer.behind != Behind::Nothing {
                    activate(y, layer, passes.then_some(bias), *threads);
                }
            }
        }
        Ok(())
    }

    /// The largest error of a way as a fraction of the limit.
    fn max_err(&mut self, way: Way) -> Result<f64> {
        self.sets[0][1].fill(f32::NAN);
        self.run(way, 0)?;
        let layer = self.layer;
        let channels = layer.channels;
        let pixels = self.sets[0][1].len() / channels;
        let (mut missed, mut size) = (0.0, 0.0);
        for index in 0..COMPARED.min(channels) {
            let channel = index * (channels - 1) / (COMPARED.min(channels) - 1).max(1);
            let expected = self.expected(way, channel);
            for (found, expected) in self.sets[0][1][channel * pixels..][..pixels].iter().zip(expected) {
                missed += (f64::from(*found) - expected).powi(2);
                size += expected * expected;
            }
        }
        let error = (missed / size).sqrt() / LIMIT;
        Ok(if error.is_nan() { f64::INFINITY } else { error })
    }

    /// A channel of the output, in f64.
    fn expected(&self, way: Way, channel: usize) -> Vec<f64> {
        let Convolution { in_channels, channels, size, kernel, stride, groups, behind, .. } = self.layer;
        let [x, _] = &self.sets[0];
        let inputs = in_channels / groups;
        let first = channel / (channels / groups) * inputs;
        let weight = &self.weight[channel * inputs * kernel * kernel..][..inputs * kernel * kernel];
        let [bn_weight, bn_bias, mean, var] = self.statistics.each_ref().map(|values| f64::from(values[channel]));
        let [height, width] = self.layer.geometry().output_size([size; 2]);
        let place = |output: usize, tap: usize| (output * stride + tap).checked_sub(kernel / 2).filter(|&at| at < size);
        let pixel = |(row, column): (usize, usize)| {
            let mut sum = 0.0;
            for (tap, &weight) in weight.iter().enumerate() {
                let (input, r, s) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
                if let (Some(row), Some(column)) = (place(row, r), place(column, s)) {
                    sum += f64::from(weight) * f64::from(x[((first + input) * size + row) * size + column]);
                }
            }
            if way == Way::Alone {
                return sum;
            }
            let normalized = (sum - mean) / (var + EPS).sqrt() * bn_weight + bn_bias;
            match behind {
                Behind::Nothing => normalized,
                Behind::Relu => normalized.max(0.0),
                Behind::Relu6 => normalized.clamp(0.0, 6.0),
            }
        };
        (0..height * width).map(|at| pixel((at / width, at % width))).collect()
    }
}

/// The activation behind a layer, on `y + bias`.
fn activate(y: &mut [f32], layer: &Convolution, bias: Option<&[f32]>, threads: usize) {
    let pixels = y.len() / layer.channels;
    let most = if layer.behind == Behind::Relu6 { 6.0 } else { f32::INFINITY };
    let plane = |(channel, y): (usize, &mut [f32])| {
        let bias = bias.map_or(0.0, |bias| bias[channel]);
        y.iter_mut().for_each(|y| *y = (*y + bias).clamp(0.0, most));
    };
    if threads == 1 {
        y.chunks_exact_mut(pixels).enumerate().for_each(plane);
    } else {
        y.par_chunks_exact_mut(pixels).enumerate().for_each(plane);
    }
}
