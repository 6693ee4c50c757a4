//! Tensors of more than 2³¹ elements: where an index of 32 bits comes to an end. On the emulator the same with few
//! elements, which shows that the test is right, and nothing of indices.

use warpnorm::cudarc::driver::CudaSlice;
use warpnorm::half::bf16;
use warpnorm::{Args, DType, Layout, Shape, Workspace};

use crate::call::{Call, Inputs, Layer, expected, forward, workspace_bytes};
use crate::data::{normal, stored};
use crate::device::{self, Device};
use crate::oracle::assert_within;
use crate::place::Place as _;

/// Distinct numbers, again and again: a prime number of them, so that no sample is like another.
const DISTINCT: usize = 1_000_003;

fn beyond_32_bits(layer: Layer, sample_shape: &[usize]) {
    let device = device::cuda();
    let sample: usize = sample_shape.iter().product();
    let limit = if device.emulator.is_some() { 1 << 16 } else { 1_usize << 31 };
    let batch = limit / sample + 3;
    let call = |batch: usize| Call::new(layer, &[&[batch], sample_shape].concat());
    let bytes = 2 * batch * sample * size_of::<bf16>();
    let (free, _) = device.cuda.stream().context().mem_get_info().expect("memory");
    if device.emulator.is_none() && bytes + (1 << 30) > free {
        return println!("{layer:?} not tried: needs {} MiB, {} are free", bytes >> 20, free >> 20);
    }
    let inputs = Inputs::<bf16>::normal(&call(1), 5);
    let distinct = stored::<bf16>(normal(DISTINCT, 9));
    let y = run(&device, &call(batch), &inputs, &distinct);

    // The first sample, those around the limit, and the last.
    for sample_index in [0, limit / sample - 1, limit / sample, limit / sample + 1, batch - 1] {
        let start = sample_index * sample;
        let x = (start..start + sample).map(|i| distinct[i % DISTINCT]).collect();
        let inputs = Inputs { x, ..inputs.clone() };
        let found = device.cuda.stream().clone_dtoh(&y.slice(start..start + sample)).expect("download");
        assert_within(&found, &expected(&call(1), &inputs), &format!("{layer:?}, sample {sample_index} of {batch}"));
    }
}

/// The whole batch: numbers on the device alone, which has room for them.
fn run(device: &Device, call: &Call, inputs: &Inputs<bf16>, distinct: &[bf16]) -> CudaSlice<bf16> {
    let (cuda, stream) = (&device.cuda, device.cuda.stream());
    let elements = call.elements();
    let filled = |block: &CudaSlice<bf16>| {
        // SAFETY: all of it is written below, before anything is read.
        let mut tensor = unsafe { stream.alloc::<bf16>(elements) }.expect("memory for more than 2^31 elements");
        for start in (0..elements).step_by(DISTINCT) {
            let count = DISTINCT.min(elements - start);
            stream.memcpy_dtod(&block.slice(..count), &mut tensor.slice_mut(start..start + count)).expect("a copy");
        }
        tensor
    };
    let x = filled(&cuda.put(distinct));
    // What is not written stays NaN.
    let mut y = filled(&cuda.put(&vec![bf16::NAN; DISTINCT]));
    let own = |values: &[f64]| cuda.put(&stored::<bf16>(values.iter().copied()));
    let (weight, bias) = (own(&inputs.weight), own(&inputs.bias));
    let (mean, var) = (cuda.put(&inputs.running_mean), cuda.put(&inputs.running_var));
    let shape = Shape::new(&call.shape).expect("a shape");
    let bytes = workspace_bytes(cuda, call, DType::Bf16).expect("a plan");
    let mut workspace = Workspace::init(cuda, bytes).expect("a workspace");
    let mut args = Args::new(cuda, shape).input(&x).weight(&weight).bias(&bias).output(&mut y);
    args = args.workspace(&mut workspace);
    if matches!(call.layer, Layer::BatchNorm { .. }) {
        args = args.running_mean(&mean).running_var(&var);
    }
    forward(call, args).expect("a call");
    y
}

#[test]
fn short_rows_beyond_32_bits_on_cuda() {
    beyond_32_bits(Layer::RmsNorm { weight_plus_one: false }, &[200]);
}

#[test]
fn held_rows_beyond_32_bits_on_cuda() {
    beyond_32_bits(Layer::LayerNorm, &[4096]);
}

#[test]
fn streamed_rows_beyond_32_bits_on_cuda() {
    beyond_32_bits(Layer::LayerNorm, &[40_000]);
}

#[test]
fn groups_beyond_32_bits_on_cuda() {
    beyond_32_bits(Layer::group_norm(2), &[8, 15, 15]);
}

#[test]
fn groups_with_channels_last_beyond_32_bits_on_cuda() {
    beyond_32_bits(Layer::GroupNorm { groups: 2, layout: Layout::Nhwc }, &[15, 15, 10]);
}

#[test]
fn planes_beyond_32_bits_on_cuda() {
    beyond_32_bits(Layer::BatchNorm { layout: Layout::Nchw, table: false }, &[8, 31, 33]);
}

#[test]
fn pixels_beyond_32_bits_on_cuda() {
    beyond_32_bits(Layer::BatchNorm { layout: Layout::Nhwc, table: false }, &[31, 33, 8]);
}
