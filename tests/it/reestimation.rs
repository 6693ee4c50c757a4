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
use shift::SHIFTS;
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

fn assert_folding_changes_nothing(outcome: &Outcome, about: &str) {
    assert_eq!(outcome.after, outcome.folded, "{about}: predictions changed by folding");
    assert!(outcome.max_logit_diff <= FOLDING, "{about}: a logit differs by {}", outcome.max_logit_diff);
}

#[test]
fn statistics_of_the_stream_repair_the_accuracy_on_cpu() {
    let Checkpoint { network, images, .. } = checkpoint();
    // The least that must be right before and after, and the most before, of the 225 judged images: some images beside
    // what was seen, for another machine may round otherwise.
    let expected =
        [("none", 220..=225, 219), ("contrast", 0..=70, 212), ("noise", 90..=150, 150), ("both", 0..=70, 200)];
    for (shift, (name, before, least_after)) in SHIFTS.iter().zip(expected) {
        assert_eq!(shift.name, name);
        let shifted = shift.of(&images);
        let (stream, judged) = shifted.split_at(STREAM * network.input_len());
        let reestimated = reestimate(&Cpu, &network, stream, BATCH).expect("statistics");
        assert_first_is_exact(&Cpu, &network, &reestimated, stream, BATCH);
        assert_all_moved(&network, &reestimated, STREAM.div_ceil(BATCH) as i64);

        let outcome = Outcome::new(&Cpu, &network, &reestimated, judged).expect("an outcome");
        let right = |predictions: &[usize]| right(predictions, &images[STREAM..]);
        let (found_before, found_after) = (right(&outcome.before), right(&outcome.after));
        assert!(before.contains(&found_before), "{name}: {found_before} right before");
        assert!(found_after >= least_after, "{name}: {found_after} right after");
        assert_folding_changes_nothing(&outcome, name);
    }
}

/// The emulator takes seconds for all images.
#[test]
fn statistics_of_a_short_stream_repair_the_accuracy_on_cuda() {
    const SHORT_STREAM: usize = 24;
    const SHORT_BATCH: usize = 16;
    const JUDGED: usize = 16;

    let Checkpoint { network, images, .. } = checkpoint();
    let shifted = SHIFTS[3].of(&images);
    let image = network.input_len();
    let (stream, judged) = (&shifted[..SHORT_STREAM * image], &shifted[STREAM * image..][..JUDGED * image]);
    let device = crate::device::cuda();

    let reestimated = reestimate(&device.cuda, &network, stream, SHORT_BATCH).expect("statistics");
    assert_first_is_exact(&device.cuda, &network, &reestimated, stream, SHORT_BATCH);
    assert_all_moved(&network, &reestimated, 2);

    let outcome = Outcome::new(&device.cuda, &network, &reestimated, judged).expect("an outcome");
    let right = |predictions: &[usize]| right(predictions, &images[STREAM..][..JUDGED]);
    let (before, after) = (right(&outcome.before), right(&outcome.after));
    assert!(before + JUDGED / 2 <= after, "of {JUDGED}, {before} right before and {after} after");
    assert_folding_changes_nothing(&outcome, "both");
}
