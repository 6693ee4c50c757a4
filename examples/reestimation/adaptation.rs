//! The running statistics estimated anew, and what the network says before and after.

use super::network::logits::{largest_difference, predictions};
use super::network::runner::{Device, Runner};
use super::network::{Network, Result};

/// The images that the statistics are estimated from; those behind them are judged.
pub const STREAM: usize = 225;
/// Half of it is the last batch of the stream.
pub const BATCH: usize = 30;

/// The network with running statistics of these images alone: the average over batches of so many images, and what is
/// left as a smaller last one, which counts as much as any other.
///
/// As PyTorch's `update_bn` does: every `BatchNorm` normalizes by the batch, so that what it hands on is what the next one
/// will see when all are estimated. Nobody has to say what the images show.
pub fn reestimate<D: Device>(device: &D, network: &Network, stream: &[f32], batch: usize) -> Result<Network> {
    let mut network = network.clone();
    network.reset_running_statistics();
    let image = network.input_len();
    let (whole, rest) = stream.split_at(stream.len() / (batch * image) * (batch * image));
    // A runner is for batches of one size. That of the rest begins where the other's statistics have arrived.
    for (images, batch) in [(whole, batch), (rest, rest.len() / image)] {
        if images.is_empty() {
            continue;
        }
        let mut runner = Runner::reestimating(device, &network, batch)?;
        for images in images.chunks_exact(batch * image) {
            runner.set_images(images)?;
            runner.run()?;
        }
        runner.read_statistics(&mut network)?;
    }
    Ok(network)
}

/// What the network says of the judged images: by the statistics of its training, by those of the stream, and with these
/// folded away.
pub struct Outcome {
    pub before: Vec<usize>,
    pub after: Vec<usize>,
    pub folded: Vec<usize>,
    /// The largest difference that folding makes to a logit.
    pub max_logit_diff: f32,
}

impl Outcome {
    pub fn new<D: Device>(device: &D, trained: &Network, reestimated: &Network, judged: &[f32]) -> Result<Self> {
        let (folded, _) = reestimated.fold()?;
        let logits = |network| {
            let mut runner = Runner::new(device, network, judged.len() / trained.input_len())?;
            runner.set_images(judged)?;
            runner.run()?;
            runner.logits()
        };
        let (before, after, folded) = (logits(trained)?, logits(reestimated)?, logits(&folded)?);
        let predictions = |logits: &[f32]| predictions(logits, trained.classes());
        Ok(Self {
            before: predictions(&before),
            after: predictions(&after),
            folded: predictions(&folded),
            max_logit_diff: largest_difference(&after, &folded),
        })
    }
}
