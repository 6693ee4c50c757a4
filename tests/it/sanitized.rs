//! Every kernel once, with everything around it, small: what compute-sanitizer has time for on a GPU, where each of its
//! tools makes a launch hundreds of times slower.

use emulator::{Profile, Settings};
use warpnorm::cudarc::driver::DevicePtr;
use warpnorm::half::{bf16, f16};
use warpnorm::{Activation, Args, Cuda, DirectConvolution, LayerNorm, Layout};

use crate::call::{Call, Coefficient, Inputs, Layer, Modulation, PerTensor, Residual, expected, verify};
use crate::data::{bits, normal, stored};
use crate::device::{self, Device};
use crate::place::{Place as _, Real};
use crate::qk_norm;

/// Nothing that a sanitizer looks at: if this fails under one, it cannot work on this machine.
#[test]
fn a_device_answers_on_cuda() {
    let device = device::cuda();
    assert_eq!(device.cuda.get(&device.cuda.put(&[1.0_f32, 2.0])), [1.0, 2.0]);
}

/// A call for each kernel: plain, with a residual, and off alignment with all stages.
fn calls() -> impl Iterator<Item = Call> {
    // A length for each regime that holds rows, in clusters and without: in whole vectors, and not.
    let rows = [5, 104, 300, 304, 704, 1030, 1032, 5000, 90_000].into_iter().flat_map(|length| {
        [Layer::LayerNorm, Layer::RmsNorm { weight_plus_one: true }].map(|layer| Call::new(layer, &[3, length]))
    });
    let images = [
        Call::new(Layer::group_norm(2), &[2, 6, 9, 9]),
        Call::new(Layer::INSTANCE_NORM, &[2, 3, 40, 41]),
        // A vector is of one channel: for each regime of whole vectors.
        Call { activation: Activation::Silu, ..Call::new(Layer::group_norm(2), &[3, 6, 4, 8]) },
        Call { activation: Activation::GeluTanh, ..Call::new(Layer::group_norm(2), &[2, 8, 10, 10]) },
        Call { activation: Activation::Relu, ..Call::new(Layer::group_norm(1), &[2, 10, 8, 8]) },
        Call { activation: Activation::Silu, ..Call::new(Layer::group_norm(2), &[1, 80, 8, 8]) },
        Call { activation: Activation::Silu, ..Call::new(Layer::group_norm(1), &[1, 10, 64, 64]) },
        Call::new(Layer::InstanceNormTracked, &[2, 3, 7, 7]),
        Call::new(Layer::BatchNorm { layout: Layout::Nchw, table: false }, &[2, 10, 31, 31]),
        Call::new(Layer::BatchNorm { layout: Layout::Nchw, table: true }, &[2, 70, 2, 3]),
        Call::new(Layer::BatchNorm { layout: Layout::Nhwc, table: true }, &[2, 31, 31, 10]),
        Call::new(Layer::GroupNorm { groups: 2, layout: Layout::Nhwc }, &[2, 25, 25, 10]),
        Call::new(Layer::InstanceNorm { layout: Layout::Nhwc }, &[2, 9, 9, 5]),
        Call::new(Layer::BatchStatistics { layout: Layout::Nchw, momentum: Some(0.1) }, &[2, 5, 31, 33]),
        Call::new(Layer::BatchStatistics { layout: Layout::Nhwc, momentum: None }, &[2, 31, 33, 5]),
        // Of several blocks, and as channels of a sample.
        Call::new(Layer::GroupNorm { groups: 2, layout: Layout::Nhwc }, &[2, 50, 61, 12]),
        Call::new(Layer::BatchStatistics { layout: Layout::Nchw, momentum: Some(0.1) }, &[4, 5, 104, 96]),
        Call::new(Layer::BatchStatistics { layout: Layout::Nchw, momentum: Some(0.1) }, &[8, 5, 7, 7]),
    ];
    // With all that may surround a norm, in whole vectors: a warp's, a block's and, where there are clusters, a cluster's.
    let (scale, shift, gate) = (Coefficient::F32, Coefficient::F32, Coefficient::Own);
    let whole = [304, 1032, 90_000].map(|length| Call {
        modulation: Modulation { scale, shift, gate, ..Modulation::NONE },
        residual: Residual::SumWritten,
        second_residual: true,
        input_bias: Coefficient::F32,
        ..Call::new(Layer::LayerNorm, &[2, 2, length])
    });
    let others = rows.chain(images).flat_map(|call| {
        let surrounded = Call {
            residual: Residual::SumWritten,
            activation: Activation::Gelu,
            weight: Coefficient::F32,
            offsets: PerTensor::unlike(0, &[1, 3, 2, 5, 7]),
            ..call.clone()
        };
        let summed = Call { residual: Residual::SumWritten, ..call.clone() };
        [call, summed, surrounded]
    });
    others.chain(whole)
}

fn run<T: Real>(cuda: &Cuda) {
    for call in calls() {
        let inputs = Inputs::<T>::normal(&call, 3);
        verify(cuda, &call, &inputs, &expected(&call, &inputs));
    }
}

/// Queries and keys, plain, and off alignment with all that they may have.
fn run_heads<T: Real>(cuda: &Cuda) {
    use qk_norm::call::{Call, Inputs, Layout, Norm, verify};
    for head_dim in [80, 300, 700] {
        let plain = Call::new(Norm::Rms { weight_plus_one: true }, [3, 2, 1], head_dim, 2);
        let (weights, biases) = ([Coefficient::F32; 2], [Coefficient::Own; 2]);
        let surrounded =
            Call { norm: Norm::Layer, layout: Layout::FromPacked, weights, biases, offset: 1, gaps: [3, 1], ..plain };
        for call in [plain, surrounded] {
            verify(cuda, &call, &Inputs::<T>::normal(&call, 3));
        }
    }
}

/// A chip with room for little, so that what does not fit there need not be large, if it is emulated; and how many times as
/// large it must be.
fn small_chip(device: &Device) -> (Cuda, usize) {
    let Some(emulator) = device.emulator else { return (device.cuda.clone(), 48) };
    emulator.configure(&Settings { profile: Profile::Sm75, ..Settings::default() });
    (Cuda::open(0).expect("a device"), 1)
}

/// Rows that do not fit on the chip: split among blocks, and, without a workspace, not.
fn run_unheld_rows<T: Real>(cuda: &Cuda, length: usize) {
    for activation in [Activation::None, Activation::Silu] {
        let none = Coefficient::Absent;
        let call = Call { weight: none, bias: none, activation, ..Call::new(Layer::LayerNorm, &[2, length]) };
        let inputs = Inputs::<T>::normal(&call, 3);
        let split = verify(cuda, &call, &inputs, &expected(&call, &inputs)).y;

        let (x, mut y) = (cuda.put(&inputs.x), cuda.put(&inputs.residual));
        let layer = LayerNorm::new([length]).and_then(|layer| layer.eps(call.eps)).expect("a layer");
        let args = Args::new(cuda, [2, length]).input(&x).output(&mut y);
        layer.activation(activation).forward(args).expect("a call without a workspace");
        assert_eq!(bits(&cuda.get(&y)), bits(&split));
    }
}

/// Maps that do not fit there.
fn run_unheld_maps<T: Real>(cuda: &Cuda, times: usize) {
    for call in [
        Call::new(Layer::GroupNorm { groups: 2, layout: Layout::Nhwc }, &[2, 50 * times, 70, 12]),
        Call::new(Layer::group_norm(2), &[2, 6, 150 * times, 160]),
        Call::new(Layer::BatchStatistics { layout: Layout::Nchw, momentum: Some(0.1) }, &[2, 3, 150 * times, 160]),
        Call::new(Layer::BatchStatistics { layout: Layout::Nhwc, momentum: None }, &[2, 40 * times, 70, 10]),
    ] {
        let offsets = PerTensor::unlike(0, &[1, 3, 2, 5, 7]);
        let surrounded = Call { residual: Residual::SumWritten, offsets, ..call.clone() };
        for call in [call, surrounded] {
            let inputs = Inputs::<T>::normal(&call, 3);
            verify(cuda, &call, &inputs, &expected(&call, &inputs));
        }
    }
}

fn run_unheld<T: Real>(device: &Device) {
    let (cuda, times) = small_chip(device);
    run_unheld_rows::<T>(&cuda, 40_000 * times);
    run_unheld_rows::<T>(&cuda, 40_000 * times + 1);
    run_unheld_maps::<T>(&cuda, times);
}

fn convolve(cuda: &Cuda) {
    let convolution = DirectConvolution {
        in_channels: 2,
        out_channels: 4,
        kernel: [3, 3],
        stride: 1,
        padding: 1,
        groups: 1,
        activation: Activation::Relu,
    };
    let random = |count: usize, seed| cuda.put(&stored::<f32>(normal(count, seed)));
    let (x, weight, mut y) = (random(2 * 2 * 25, 1), random(4 * 2 * 9, 2), random(2 * 4 * 25, 3));
    convolution.forward(cuda, 2, [5, 5], &x, &weight, None, None, &mut y).expect("a convolution");
    assert!(cuda.get(&y).iter().all(|&y| y >= 0.0));
}

/// The kernels that norms are measured against.
fn probe(cuda: &Cuda) {
    let stream = cuda.stream();
    let probe = probe::Probe::load(stream.context()).expect("the probe's kernels");
    let source = cuda.put(&stored::<f32>(normal(25_000, 1)));
    for mover in probe.copiers().iter().chain(probe.readers()) {
        let target = cuda.put(&[7.0_f32; 25_000]);
        let (from, to) = (source.device_ptr(stream).0, target.device_ptr(stream).0);
        // SAFETY: both hold so many bytes, and live until the download.
        unsafe { mover.launch(stream, from, to, 100_000) }.expect("a launch");
        let is_copier = mover.name().contains("copy");
        assert_eq!(
            cuda.get(&target),
            if is_copier { cuda.get(&source) } else { vec![7.0; 25_000] },
            "{}",
            mover.name()
        );
    }
    probe.launch_nothing(stream, probe::Attributes::default()).expect("a launch");
    assert_eq!(probe.places(stream, 1, 3, (32, 0)).expect("a launch"), [(1, 0); 3]);
}

#[test]
fn every_kernel_once_on_cuda() {
    let device = device::cuda();
    let launches = || device.emulator.map(|emulator| emulator.kernels()).unwrap_or_default();
    let before = launches();
    run::<f32>(&device.cuda);
    run::<f16>(&device.cuda);
    run::<bf16>(&device.cuda);
    run_heads::<f32>(&device.cuda);
    run_heads::<f16>(&device.cuda);
    run_heads::<bf16>(&device.cuda);
    run_unheld::<f32>(&device);
    run_unheld::<f16>(&device);
    run_unheld::<bf16>(&device);
    convolve(&device.cuda);
    probe(&device.cuda);
    // The emulator knows them all, its own two files of examples aside.
    let never: Vec<String> = std::iter::zip(before, launches())
        .filter(|(before, after)| before.launches == after.launches)
        .map(|(kernel, _)| kernel)
        .filter(|kernel| !["faults.cu", "smoke.cu"].contains(&kernel.file.as_str()))
        .map(|kernel| kernel.name)
        .collect();
    assert!(never.is_empty(), "add a call for {never:?}");
}
