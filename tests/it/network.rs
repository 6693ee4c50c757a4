//! The example `fused_inference`: a trained network on both devices, as it was trained and folded.
//!
//! Logits are compared, not only predictions: an `eps` of 1e-5 for the network's 1e-3, or a convolution's bias forgotten
//! before its `BatchNorm`, changes them by a tenth and may still leave every prediction right.

#[path = "../../examples/fused_inference/network/mod.rs"]
#[allow(dead_code, reason = "the example also prints it")]
mod example;

use example::Network;
use example::checkpoint::{Checkpoint, Image};
use example::runner::{Convolve, Device, Runner};
use warpnorm::{Activation, Cpu, DirectConvolution};

use crate::data;

/// Between logits of up to 15: f32 through nine layers, against f64.
const TOLERANCE: f32 = 1e-4;

fn checkpoint() -> Checkpoint {
    let file = include_bytes!("../../examples/fused_inference/digits.safetensors");
    Checkpoint::read(file).expect("the example's file")
}

fn folded(network: &Network) -> Network {
    let (folded, reports) = network.fold().expect("a network that folds");
    let found = network.blocks.iter().map(|block| block.batch_norm.is_some());
    assert!(found.eq(reports.iter().map(Option::is_some)), "a report for each BatchNorm");
    assert!(folded.blocks.iter().all(|block| block.batch_norm.is_none()), "no BatchNorm is left");
    folded
}

fn logits<D: Device>(device: &D, network: &Network, images: &[Image]) -> Vec<f32> {
    let mut runner = Runner::new(device, network, images.len()).expect("a network on the device");
    runner.set_images(&images.iter().flat_map(Image::input).collect::<Vec<_>>()).expect("images");
    // The second pass must not see anything of the first.
    for _ in 0..2 {
        runner.run().expect("a pass");
    }
    runner.synchronize().expect("the end of the pass");
    runner.logits().expect("logits")
}

fn assert_close(found: &[f32], expected: &[f32], about: &str) {
    assert_eq!(found.len(), expected.len(), "{about}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let right = (found - expected).abs() <= TOLERANCE;
        assert!(right, "{about}: element {i} is {found}, expected {expected}");
    }
}

fn predictions(logits: &[f32]) -> Vec<usize> {
    let largest = |logits: &[f32]| (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("classes");
    logits.chunks_exact(10).map(largest).collect()
}

#[test]
fn the_network_folds_without_a_change_on_the_cpu() {
    let Checkpoint { network, images, logits: expected, correct } = checkpoint();
    let unfused = logits(&Cpu, &network, &images);
    let fused = logits(&Cpu, &folded(&network), &images);
    assert_close(&unfused, &expected, "as trained, against PyTorch");
    assert_close(&fused, &expected, "folded, against PyTorch");
    assert_close(&fused, &unfused, "folded, against as trained");

    let (unfused, fused) = (predictions(&unfused), predictions(&fused));
    assert_eq!(unfused, fused, "predictions changed");
    let right = fused.iter().zip(&images).filter(|(found, image)| **found == usize::from(image.label)).count();
    assert_eq!((right, images.len()), (correct, 450));
    assert_eq!(correct, 446);
}

#[test]
fn the_network_folds_without_a_change_on_cuda() {
    let Checkpoint { network, images, logits: expected, .. } = checkpoint();
    let device = crate::device::cuda();
    // The emulator takes seconds for all of them.
    let images = &images[..8];
    let expected = &expected[..8 * network.classes()];
    assert_close(&logits(&device.cuda, &network, images), expected, "as trained, against PyTorch");
    assert_close(&logits(&device.cuda, &folded(&network), images), expected, "folded, against PyTorch");
}

#[test]
fn a_batch_of_one_is_classified_as_in_company() {
    let Checkpoint { network, images, logits: expected, .. } = checkpoint();
    for network in [folded(&network), network] {
        for index in [0, images.len() - 1] {
            let found = logits(&Cpu, &network, &images[index..=index]);
            assert_close(&found, &expected[index * 10..][..10], "alone");
        }
    }
}

/// What the network has no layer for: every device says the same, and that is the definition.
#[test]
fn both_devices_convolve_by_the_definition_on_cuda() {
    let device = crate::device::cuda();
    let cases = [
        // channels, kernel, stride, padding, groups, size
        ([4, 6], [2, 3], 2, 1, 2, [5, 7]),
        ([3, 3], [3, 3], 1, 1, 3, [4, 5]),
        ([3, 3], [3, 2], 3, 2, 3, [5, 4]),
        ([2, 4], [1, 1], 1, 0, 1, [3, 3]),
        ([2, 4], [1, 1], 2, 1, 1, [3, 3]),
        ([2, 4], [1, 1], 2, 0, 2, [4, 3]),
        ([4, 4], [4, 4], 1, 0, 4, [4, 4]),
        ([1, 2], [5, 5], 2, 4, 1, [2, 1]),
    ];
    for (index, ([in_channels, out_channels], kernel, stride, padding, groups, size)) in cases.into_iter().enumerate() {
        let activation = Activation::None;
        let geometry = DirectConvolution { in_channels, out_channels, kernel, stride, padding, groups, activation };
        let [height, width] = geometry.output_size(size);
        let (batch, outputs) = (3, out_channels * height * width);
        let random = |len: usize, seed: u64| data::normal(len, seed).map(|v| v as f32).collect::<Vec<_>>();
        let (bias, residual) = (random(out_channels, 1), random(batch * outputs, 2));
        let weight = random(out_channels * in_channels / groups * kernel[0] * kernel[1], 3);
        let x = random(batch * in_channels * size[0] * size[1], 4);
        let relu = index % 2 == 0;
        let convolution = Host { geometry, batch, size, x, weight, bias, residual, relu };

        let expected = convolution.by_definition();
        assert_close(&convolution.on(&Cpu), &expected, &format!("{geometry:?} on the CPU"));
        let mut first: Option<Vec<u64>> = None;
        device.under_schedules(|cuda| {
            let found = convolution.on(cuda);
            assert_close(&found, &expected, &format!("{geometry:?} on CUDA"));
            let found = data::bits(&found);
            assert_eq!(first.get_or_insert(found.clone()), &found, "{geometry:?}: two schedules differ");
        });
    }
}

struct Host {
    geometry: DirectConvolution,
    batch: usize,
    size: [usize; 2],
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    relu: bool,
}

impl Host {
    fn on<D: Device>(&self, device: &D) -> Vec<f32> {
        let network = Network {
            blocks: vec![example::Block {
                name: String::new(),
                convolution: self.geometry,
                weight: Vec::new(),
                bias: None,
                batch_norm: None,
                residual: None,
                relu: self.relu,
                input: self.size,
            }],
        };
        let mut workspace = device.workspace(&network, self.batch).expect("a workspace");
        let upload = |values: &[f32]| device.upload(values).expect("an upload");
        let (x, weight) = (upload(&self.x), upload(&self.weight));
        let (bias, residual) = (upload(&self.bias), upload(&self.residual));
        let mut y = upload(&vec![f32::NAN; self.residual.len()]);
        let Self { geometry, batch, size, relu, .. } = *self;
        let (bias, residual) = (Some(&bias), Some(&residual));
        let call = Convolve { geometry, batch, size, weight: &weight, bias, residual, relu };
        device.convolve(&mut workspace, &call, &x, &mut y).expect("a convolution");
        device.download(&y).expect("a download")
    }

    fn by_definition(&self) -> Vec<f32> {
        let DirectConvolution { in_channels, out_channels, kernel, stride, padding, groups, .. } = self.geometry;
        let [out_height, out_width] = self.geometry.output_size(self.size);
        let [height, width] = self.size;
        let (inputs, outputs) = (in_channels / groups, out_channels / groups);
        let mut y = Vec::with_capacity(self.residual.len());
        for image in 0..self.batch {
            for output in 0..out_channels {
                for (h, w) in (0..out_height).flat_map(|h| (0..out_width).map(move |w| (h, w))) {
                    let mut sum = f64::from(self.bias[output]) + f64::from(self.residual[y.len()]);
                    for input in 0..inputs {
                        for (r, s) in (0..kernel[0]).flat_map(|r| (0..kernel[1]).map(move |s| (r, s))) {
                            let (row, column) = (h * stride + r, w * stride + s);
                            let inside = |at: usize, extent: usize| (padding..padding + extent).contains(&at);
                            if !inside(row, height) || !inside(column, width) {
                                continue;
                            }
                            let plane = image * in_channels + output / outputs * inputs + input;
                            let x = self.x[(plane * height + row - padding) * width + column - padding];
                            let tap = ((output * inputs + input) * kernel[0] + r) * kernel[1] + s;
                            sum += f64::from(x) * f64::from(self.weight[tap]);
                        }
                    }
                    y.push(if self.relu { sum.max(0.0) as f32 } else { sum as f32 });
                }
            }
        }
        y
    }
}
