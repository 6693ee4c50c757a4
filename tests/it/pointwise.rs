//! BatchNorm inference in both layouts, and InstanceNorm with running statistics.

use emulator::{Profile, Settings, Variant};
use warpnorm::half::{bf16, f16};
use warpnorm::{Activation, Cuda, Layout, Shape};

use crate::call::{Call, Coefficient, Inputs, Layer, PerTensor, Residual, expected, verify, verify_cpu, verify_cuda};
use crate::data::bits;
use crate::device::{self, Device};
use crate::place::Real;
use crate::rows::IMAGES;

/// Tensors with no room to spare for the channels, of more channels than a device has threads for, and of odd sizes.
const WIDE: [&[usize]; 9] = [
    &[5, 1],
    &[1, 70_001],
    &[7, 49],
    &[3, 129, 31],
    &[3, 130, 4, 4],
    &[2, 2100, 2, 2],
    &[2, 9, 4, 8],
    &[2, 3, 100, 101],
    &[4, 2048, 7, 7],
];

fn calls() -> impl Iterator<Item = Call> {
    let shapes = || IMAGES.iter().map(|&(shape, _)| shape).chain(WIDE);
    let layouts = [Layout::Nchw, Layout::Nhwc];
    let batch_norms = shapes().flat_map(move |shape| {
        layouts.into_iter().flat_map(move |layout| {
            [false, true].into_iter().map(move |table| {
                let mut shape = shape.to_vec();
                if layout == Layout::Nhwc {
                    shape[1..].rotate_left(1);
                }
                Call::new(Layer::BatchNorm { layout, table }, &shape)
            })
        })
    });
    batch_norms.chain(shapes().map(|shape| Call::new(Layer::InstanceNormTracked, shape)))
}

fn all<T: Real>(verify: &dyn Fn(&Call, &Inputs<T>)) {
    for call in calls() {
        verify(&call, &Inputs::normal(&call, 13));
    }
}

#[test]
fn every_layout_on_cuda() {
    let device = device::cuda();
    all::<f32>(&|call, inputs| drop(verify_cuda(&device, call, inputs)));
    all::<f16>(&|call, inputs| drop(verify_cuda(&device, call, inputs)));
    all::<bf16>(&|call, inputs| drop(verify_cuda(&device, call, inputs)));
}

#[test]
fn every_layout_on_cpu() {
    all::<f32>(&|call, inputs| drop(verify_cpu(call, inputs)));
    all::<f16>(&|call, inputs| drop(verify_cpu(call, inputs)));
    all::<bf16>(&|call, inputs| drop(verify_cpu(call, inputs)));
}

/// A mean four digits above the deviation, which `a·x + b` would lose.
fn far_mean<T: Real>(verify: &dyn Fn(&Call, &Inputs<T>)) {
    for (layout, table) in [(Layout::Nchw, false), (Layout::Nchw, true), (Layout::Nhwc, false), (Layout::Nhwc, true)] {
        let shape: &[usize] = if layout == Layout::Nchw { &[2, 5, 6, 7] } else { &[2, 6, 7, 5] };
        let mut call = Call::new(Layer::BatchNorm { layout, table }, shape);
        call.weight = Coefficient::F32;
        let mut inputs = Inputs::<T>::normal(&call, 17);
        inputs.x.iter_mut().for_each(|x| *x = T::from_f64(x.to_f64() + 1e4));
        inputs.running_mean.iter_mut().for_each(|mean| *mean = 1e4 + 0.01 * *mean);
        inputs.running_var.fill(1.0);
        verify(&call, &inputs);
    }
}

#[test]
fn a_mean_far_from_zero_on_cuda() {
    let device = device::cuda();
    far_mean::<f32>(&|call, inputs| drop(verify_cuda(&device, call, inputs)));
    far_mean::<f16>(&|call, inputs| drop(verify_cuda(&device, call, inputs)));
}

#[test]
fn a_mean_far_from_zero_on_cpu() {
    far_mean::<f32>(&|call, inputs| drop(verify_cpu(call, inputs)));
    far_mean::<f16>(&|call, inputs| drop(verify_cpu(call, inputs)));
}

/// A chip of few multiprocessors, on which a thread has many vectors: with and without a residual, in place, off alignment.
fn on_a_small_chip<T: Real>(device: &Device) {
    let cuda = device.emulator.map_or_else(
        || device.cuda.clone(),
        |emulator| {
            emulator.configure(&Settings { profile: Profile::Sm110ByOldPtx, ..Settings::default() });
            Cuda::open(0).expect("a device")
        },
    );
    let (nchw, nhwc) = (Layout::Nchw, Layout::Nhwc);
    for (layout, shape) in [
        (nchw, [8, 40, 52, 52]),
        (nchw, [70, 240, 7, 7]),
        (nchw, [400, 360, 2, 3]),
        (nhwc, [8, 52, 52, 40]),
        (nhwc, [9, 48, 48, 41]),
    ] {
        let plain = Call::new(Layer::BatchNorm { layout, table: false }, &shape);
        let summed = Call {
            residual: Residual::SumWritten,
            activation: Activation::Relu,
            weight: Coefficient::F32,
            ..plain.clone()
        };
        let moved = Call { in_place: true, offsets: PerTensor::unlike(0, &[1, 3, 2, 7, 5]), ..summed.clone() };
        let inputs = Inputs::<T>::normal(&plain, 19);
        let [_, summed, moved] =
            [plain, summed, moved].map(|call| bits(&verify(&cuda, &call, &inputs, &expected(&call, &inputs)).y));
        assert_eq!(summed, moved, "{layout:?} {shape:?}: another address");
    }
}

#[test]
fn many_vectors_of_a_thread_on_cuda() {
    let device = device::cuda();
    on_a_small_chip::<f16>(&device);
    if device::variant() == Variant::Plain {
        on_a_small_chip::<f32>(&device);
        on_a_small_chip::<bf16>(&device);
    }
}

#[test]
fn a_negative_running_variance_shows() {
    let device = device::cuda();
    let call = Call::new(Layer::BatchNorm { layout: Layout::Nchw, table: false }, &[1, 2, 9]);
    let mut inputs = Inputs::<f32>::normal(&call, 1);
    inputs.running_var = vec![1.0, -1.0];
    for y in [verify_cpu(&call, &inputs).y, verify_cuda(&device, &call, &inputs).y] {
        assert!(y[..9].iter().all(|v| v.is_finite()) && y[9..].iter().all(|v| v.is_nan()));
    }
}

#[test]
fn shapes_of_parameters() {
    let layer = warpnorm::BatchNorm::new(5).unwrap();
    assert_eq!(layer.weight_shape(), Shape::from([5]));
    assert_eq!(layer.channel_table_shape(), Shape::from([3, 5]));
}
