//! LayerNorm and RMSNorm over every row count and length; GroupNorm and InstanceNorm in NCHW over theirs.

use emulator::{Emulator, Variant};
use warpnorm::half::{bf16, f16};

use crate::call::{Call, Inputs, Layer, verify_cpu, verify_cuda};
use crate::data::row_matrix;
use crate::device::{self, Device};
use crate::place::Real;

const RMS: Layer = Layer::RmsNorm { weight_plus_one: false };

/// The most elements of a pair: on the emulator few enough to wait for, the more so on the checked one.
fn most_elements(device: &Device) -> usize {
    match device.emulator.map(Emulator::variant) {
        None => 4_000_000,
        Some(Variant::Plain) => 300_000,
        Some(Variant::Checked) => 20_000,
    }
}

fn matrix_on_cuda<T: Real>(layer: Layer) {
    let device = device::cuda();
    for (rows, length) in row_matrix(most_elements(&device)) {
        let call = Call::new(layer, &[rows, length]);
        verify_cuda(&device, &call, &Inputs::<T>::normal(&call, 7));
    }
}

fn matrix_on_cpu<T: Real>(layer: Layer) {
    for (rows, length) in row_matrix(2_000_000) {
        let call = Call::new(layer, &[rows, length]);
        verify_cpu(&call, &Inputs::<T>::normal(&call, 7));
    }
}

macro_rules! matrix {
    ($($name:ident: $on:ident::<$type:ty>($layer:expr);)*) => {
        $(#[test]
        fn $name() {
            $on::<$type>($layer);
        })*
    };
}

matrix! {
    layer_norm_f32_on_cuda: matrix_on_cuda::<f32>(Layer::LayerNorm);
    layer_norm_f16_on_cuda: matrix_on_cuda::<f16>(Layer::LayerNorm);
    layer_norm_bf16_on_cuda: matrix_on_cuda::<bf16>(Layer::LayerNorm);
    rms_norm_f32_on_cuda: matrix_on_cuda::<f32>(RMS);
    rms_norm_f16_on_cuda: matrix_on_cuda::<f16>(RMS);
    rms_norm_bf16_on_cuda: matrix_on_cuda::<bf16>(RMS);
    layer_norm_f32_on_cpu: matrix_on_cpu::<f32>(Layer::LayerNorm);
    layer_norm_f16_on_cpu: matrix_on_cpu::<f16>(Layer::LayerNorm);
    layer_norm_bf16_on_cpu: matrix_on_cpu::<bf16>(Layer::LayerNorm);
    rms_norm_f32_on_cpu: matrix_on_cpu::<f32>(RMS);
    rms_norm_f16_on_cpu: matrix_on_cpu::<f16>(RMS);
    rms_norm_bf16_on_cpu: matrix_on_cpu::<bf16>(RMS);
}

/// Shapes of 0 to 3 spatial axes with every relation between a 16-byte vector and the channels, and group counts.
pub const IMAGES: [(&[usize], &[usize]); 19] = [
    (&[3, 6], &[1, 2, 3, 6]),
    (&[2, 4, 1], &[2]),
    (&[2, 10, 5], &[1, 2, 10]),
    (&[2, 8, 3], &[4]),
    (&[3, 20, 7, 7], &[1, 2, 4, 20]),
    (&[1, 32, 8, 8], &[8, 32]),
    (&[2, 3, 17, 19], &[1, 3]),
    (&[2, 64, 14, 14], &[32]),
    (&[1, 320, 8, 8], &[32]),
    (&[2, 8, 16, 16], &[1, 2, 4, 8]),
    (&[1, 1280, 8, 8], &[32]),
    (&[1, 10, 64, 64], &[1]),
    (&[2, 4, 3, 5, 7], &[2]),
    (&[2, 1, 65, 65], &[1]),
    (&[1, 2, 257, 255], &[1, 2]),
    (&[1, 6, 180, 181], &[2, 3]),
    (&[0, 4, 5, 5], &[2]),
    (&[2, 4, 0, 5], &[2]),
    (&[2, 0, 4, 4], &[1]),
];

fn images<T: Real>(verify: &dyn Fn(&Call, &Inputs<T>)) {
    for (shape, group_counts) in IMAGES {
        let layers = group_counts.iter().map(|&groups| Layer::group_norm(groups));
        for layer in layers.chain([Layer::INSTANCE_NORM]) {
            let call = Call::new(layer, shape);
            verify(&call, &Inputs::normal(&call, 11));
        }
    }
}

fn images_on_cuda<T: Real>(device: &Device) {
    images::<T>(&|call, inputs| drop(verify_cuda(device, call, inputs)));
}

#[test]
fn group_and_instance_norm_on_cuda() {
    let device = device::cuda();
    images_on_cuda::<f32>(&device);
    images_on_cuda::<f16>(&device);
    images_on_cuda::<bf16>(&device);
}

#[test]
fn group_and_instance_norm_on_cpu() {
    images::<f32>(&|call, inputs| drop(verify_cpu(call, inputs)));
    images::<f16>(&|call, inputs| drop(verify_cpu(call, inputs)));
    images::<bf16>(&|call, inputs| drop(verify_cpu(call, inputs)));
}
