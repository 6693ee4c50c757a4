//! The example `reestimation`: running statistics from a stream of images, on both devices.

#[path = "../../examples/reestimation/adaptation.rs"]
mod adaptation;
#[path = "../../examples/fused_inference/network/mod.rs"]
#[allow(dead_code, reason = "the examples also print it")]
#[allow(clippy::duplicate_mod, reason = "the modules of an example find each other beside themselves")]
mod network;
#[path = "../../examples/reestimation/shift.rs"]
mod shift;

use adaptation::{BATCH, Outcome, STREAM, reestimate};
use network::checkpoint::Checkpoint;
use network::logits::right;
use network::runner::{Device, Runner};
use network::{Block, Network};
use shift::{SHIFTS, Shift};
use warpnorm::Cpu;

/// Of statistics in f32 that were averaged over a few batches, relative to what they should be.
const TOLERANCE: f64 = 1e-5;

/// Of a logit of up to 15, by folding.
const FOLDING: f32 = 1e-4;

fn checkpoint() -> Checkpoint {
    Checkpoint::read(include_bytes!("../../examples/fused_inference/digits.safetensors")).expect("the example's file")
}

/// Mean and unbiased variance of each channel of `[images, channels, pixels]`, averaged over batches; in f64.
fn average(x: &[f32], channels: usize, pixels: usize, batch: usize) -> (Vec<f64>, Vec<f64>) {
    let batches: Vec<_> = x.chunks(batch * channels * pixels).collect();
    let over_batches = |of: &dyn Fn(&[f64]) -> f64| -> Vec<f64> {
        let of_channel = |channel: usize| {
            let of_batch = |x: &&[f32]| {
                let planes = x.chunks_exact(pixels).skip(channel).step_by(channels);
                of(&planes.flatten().map(|&x| f64::from(x)).collect::<Vec<_>>())
            };
            batches.iter().map(of_batch).sum::<f64>() / batches.len() as f64
        };
        (0..channels).map(of_channel).collect()
    };
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let variance = |x: &[f64]| {
        let mean = mean(x);
        x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (x.len() - 1) as f64
    };
    (over_batches(&mean), over_batches(&variance))
}

/// What the first `BatchNorm` sees: its convolution's output, which does not depend on any statistics.
fn inputs_of_the_first<D: Device>(device: &D, network: &Network, stream: &[f32]) -> Vec<f32> {
    let stem = Block { batch_norm: None, relu: false, ..network.blocks[0].clone() };
    let stem = Network { blocks: vec![stem] };
    let mut runner = Runner::new(device, &stem, stream.len() / stem.input_len()).expect("a convolution");
    runner.set_images(stream).expect("images");
    runner.run().expect("a pass");
    runner.logits().expect("its output")
}

fn assert_first_is_exact<D: Device>(device: &D, trained: &Network, found: &Network, stream: &[f32], batch: usize) {
    let block = &found.blocks[0];
    let norm = block.batch_norm.as_ref().expect("a BatchNorm behind the stem");
    let channels = norm.weight.len();
    let x = inputs_of_the_first(device, trained, stream);
    let (mean, var) = average(&x, channels, block.output_len() / channels, batch);
    for (about, found, expected) in [("mean", &norm.running_mean, mean), ("variance", &norm.running_var, var)] {
        assert_eq!(found.len(), expected.len());
        for (channel, (&found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(found) - expected).abs() / expected.abs();
            assert!(
                error <= TOLERANCE,
                "{about} of channel {channel} is {found}, expected {expected}: off by {error:e}"
            );
        }
    }
}

/// Every `BatchNorm` has seen every batch once, and has left the statistics of the training.
fn assert_all_moved(trained: &Network, found: &Network, batches: i64) {
    for (trained, found) in trained.blocks.iter().zip(&found.blocks) {
        let (Some(trained), Some(found)) = (&trained.batch_norm, &found.batch_norm) else { continue };
        assert_eq!(found.num_batches_tracked, batches, "{}", found.name);
        assert_ne!(found.running_mean, trained.running_mean, "{}", found.name);
        assert_ne!(found.running_var, trained.running_var, "{}", found.name);
    }
}

/// Of all layers, by the same stream on two devices whose convolutions round otherwise; in deviations of the channel.
fn assert_same_statistics(found: &Network, expected: &Network) {
    for (found, expected) in found.blocks.iter().zip(&expected.blocks) {
        let (Some(found), Some(expected)) = (&found.batch_norm, &expected.batch_norm) else { continue };
        for channel in 0..expected.running_mean.len() {
            let at = |values: &[f32]| f64::from(values[channel]);
            let variance = at(&expected.running_var);
            let mean_error = (at(&found.running_mean) - at(&expected.running_mean)).abs() / variance.sqrt();
            let var_error = (at(&found.running_var) - variance).abs() / variance;
            let about = format!("{}, channel {channel}", expected.name);
            assert!(mean_error <= TOLERANCE && var_error <= TOLERANCE, "{about}: off by {mean_error:e}, {var_error:e}");
        }
    }
}

fn assert_folding_changes_nothing(outcome: &Outcome, about: &str) {
    assert_eq!(outcome.after, outcome.folded, "{about}: predictions changed by folding");
    assert!(outcome.max_logit_diff <= FOLDING, "{about}: a logit differs by {}", outcome.max_logit_diff);
}

fn shift(name: &str) -> &'static Shift {
    SHIFTS.iter().find(|shift| shift.name == name).expect("a shift of the example")
}

/// What the example does.
#[test]
fn statistics_of_the_stream_repair_the_accuracy_on_cpu() {
    let Checkpoint { network, images, .. } = checkpoint();
    // How many of the 225 judged images must be right: at most before, if the shift is to matter, and at least after. 223
    // and 222, 42 and 207 were seen.
    for (name, most_before, least_after) in [("none", 225, 219), ("both", 70, 195)] {
        let shifted = shift(name).of(&images);
        let (stream, judged) = shifted.split_at(STREAM * network.input_len());
        let reestimated = reestimate(&Cpu, &network, stream, BATCH).expect("statistics");
        assert_first_is_exact(&Cpu, &network, &reestimated, stream, BATCH);
        assert_all_moved(&network, &reestimated, STREAM.div_ceil(BATCH) as i64);

        let outcome = Outcome::new(&Cpu, &network, &reestimated, judged).expect("an outcome");
        let right = |predictions: &[usize]| right(predictions, &images[STREAM..]);
        let (before, after) = (right(&outcome.before), right(&outcome.after));
        assert!(before <= most_before && after >= least_after, "{name}: {before} right before and {after} after");
        assert_folding_changes_nothing(&outcome, name);
    }
}

/// With fewer images: the emulator would take seconds for all of them.
#[test]
fn statistics_of_a_short_stream_repair_the_accuracy_on_cuda() {
    const STREAM: usize = 48;
    const BATCH: usize = 32;
    const JUDGED: usize = 32;

    let Checkpoint { network, images, .. } = checkpoint();
    let images = &images[..STREAM + JUDGED];
    let shifted = shift("both").of(images);
    let (stream, judged) = shifted.split_at(STREAM * network.input_len());
    let device = crate::device::cuda();

    let reestimated = reestimate(&device.cuda, &network, stream, BATCH).expect("statistics");
    assert_first_is_exact(&device.cuda, &network, &reestimated, stream, BATCH);
    assert_all_moved(&network, &reestimated, 2);
    assert_same_statistics(&reestimated, &reestimate(&Cpu, &network, stream, BATCH).expect("statistics"));

    let outcome = Outcome::new(&device.cuda, &network, &reestimated, judged).expect("an outcome");
    let right = |predictions: &[usize]| right(predictions, &images[STREAM..]);
    let (before, after) = (right(&outcome.before), right(&outcome.after));
    assert!(before + JUDGED / 2 <= after, "of {JUDGED}, {before} right before and {after} after");
    assert_folding_changes_nothing(&outcome, "both");
}
