//! The network as trained against the folded one: what they say, and how long they take.

use std::time::{Duration, Instant};

use crate::network::checkpoint::{Checkpoint, Image};
use crate::network::logits::{changed, largest_difference, predictions};
use crate::network::runner::{Device, Runner};
use crate::network::{Network, Result};

/// What both networks make of the held-out images.
pub struct Outcome {
    pub unfused: Vec<usize>,
    pub fused: Vec<usize>,
    /// The largest difference of a logit between the two networks, and of each from what PyTorch computed in f64.
    pub max_logit_diff: f32,
    pub unfused_from_pytorch: f32,
    pub fused_from_pytorch: f32,
}

/// Of a pass over a batch that already is on the device, until its logits are there; in milliseconds.
pub struct Latency {
    pub batch: usize,
    pub unfused: f64,
    pub fused: f64,
}

/// What a batch's measurement may take, beside the pass that is under way.
const BUDGET: Duration = Duration::from_millis(1000);
const WARM_UP: usize = 5;
const LEAST_ROUNDS: usize = 11;
const MOST_ROUNDS: usize = 2001;

impl Outcome {
    /// How many images the predictions change between the two networks.
    pub fn changed(&self) -> usize {
        changed(&self.unfused, &self.fused)
    }
}

/// Classifies the held-out images by both networks.
pub fn compare<D: Device>(device: &D, checkpoint: &Checkpoint, folded: &Network) -> Result<Outcome> {
    let images: Vec<f32> = checkpoint.images.iter().flat_map(Image::input).collect();
    let logits = |network| {
        let mut runner = Runner::new(device, network, checkpoint.images.len())?;
        runner.set_images(&images)?;
        runner.run()?;
        runner.logits()
    };
    let (unfused, fused) = (logits(&checkpoint.network)?, logits(folded)?);
    let classes = folded.classes();
    Ok(Outcome {
        unfused: predictions(&unfused, classes),
        fused: predictions(&fused, classes),
        max_logit_diff: largest_difference(&unfused, &fused),
        unfused_from_pytorch: largest_difference(&unfused, &checkpoint.logits),
        fused_from_pytorch: largest_difference(&fused, &checkpoint.logits),
    })
}

/// Medians of passes taken in turn, so that whatever else the machine does meets both networks alike.
pub fn latency<D: Device>(device: &D, checkpoint: &Checkpoint, folded: &Network, batch: usize) -> Result<Latency> {
    let images: Vec<f32> = checkpoint.images.iter().cycle().take(batch).flat_map(Image::input).collect();
    let mut unfused = Runner::new(device, &checkpoint.network, batch)?;
    let mut fused = Runner::new(device, folded, batch)?;
    for runner in [&mut unfused, &mut fused] {
        runner.set_images(&images)?;
        for _ in 0..WARM_UP {
            pass(runner)?;
        }
    }
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while before.len() < LEAST_ROUNDS || (before.len() < MOST_ROUNDS && start.elapsed() < BUDGET) {
        before.push(pass(&mut unfused)?);
        after.push(pass(&mut fused)?);
    }
    Ok(Latency { batch, unfused: median(before), fused: median(after) })
}

/// Runs one pass to its end; in milliseconds.
fn pass<D: Device>(runner: &mut Runner<'_, D>) -> Result<f64> {
    let start = Instant::now();
    runner.run()?;
    runner.synchronize()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
