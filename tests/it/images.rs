//! GroupNorm and InstanceNorm with the channels last, and BatchNorm by batch statistics in both layouts.

use warpnorm::half::{bf16, f16};
use warpnorm::{Activation, Args, BatchNorm, Cpu, Cuda, Error, GroupNorm, Layout, Workspace};

use crate::call::{
    BATCHES_BEFORE, Call, Coefficient, Inputs, Layer, Modulation, Outputs, Residual, expected, run, spatial_of,
    verify_cpu, verify_cuda,
};
use crate::data::{bits, normal, stored};
use crate::device::{self, Device};
use crate::place::{Place, Real};

const NHWC: Layout = Layout::Nhwc;

/// Shapes `[N, spatial…, C]` of 0 to 3 spatial axes, and group counts: every relation between a 16-byte vector and a group
/// (1, 5, 10, 20 channels of one among them), channels for more than one block, slabs of more than one tile.
const IMAGES: [(&[usize], &[usize]); 18] = [
    (&[3, 6], &[1, 2, 6]),
    (&[2, 1, 4], &[2]),
    (&[2, 5, 10], &[1, 2, 10]),
    (&[2, 3, 8], &[4, 8]),
    (&[3, 7, 7, 20], &[1, 2, 4, 20]),
    (&[1, 8, 8, 32], &[8, 32]),
    (&[2, 17, 19, 3], &[1, 3]),
    (&[2, 9, 9, 40], &[2, 4, 8]),
    (&[2, 5, 5, 1], &[1]),
    (&[1, 8, 8, 320], &[32]),
    (&[2, 3, 5, 7, 4], &[2]),
    (&[2, 3, 3, 257], &[257, 1]),
    (&[1, 2, 2, 2056], &[8, 2056]),
    (&[1, 2, 1, 5000], &[50]),
    (&[1, 90, 91, 24], &[3, 24]),
    (&[0, 5, 5, 4], &[2]),
    (&[2, 0, 5, 4], &[2]),
    (&[2, 4, 4, 0], &[1]),
];

fn layers(groups: &[usize]) -> impl Iterator<Item = Layer> {
    let group_norms = groups.iter().map(|&groups| Layer::GroupNorm { groups, layout: NHWC });
    group_norms.chain([Layer::InstanceNorm { layout: NHWC }])
}

fn channels_last<T: Real>(verify: &dyn Fn(&Call, &Inputs<T>)) {
    for (shape, groups) in IMAGES {
        for layer in layers(groups) {
            let call = Call::new(layer, shape);
            verify(&call, &Inputs::normal(&call, 61));
        }
    }
}

fn batches<T: Real>(verify: &dyn Fn(&Call, &Inputs<T>) -> Outputs<T>) {
    for (shape, _) in IMAGES {
        for (layout, momentum) in [(NHWC, Some(0.1)), (Layout::Nchw, None), (Layout::Nchw, Some(1.0))] {
            let mut shape = shape.to_vec();
            if layout == Layout::Nchw {
                shape[1..].rotate_right(1);
            }
            let call = Call::new(Layer::BatchStatistics { layout, momentum }, &shape);
            let inputs = Inputs::normal(&call, 67);
            if call.shape[0] * spatial_of(&call) != 1 {
                assert_moved(&call, &inputs, &verify(&call, &inputs));
            }
        }
    }
}

/// The running statistics after a call, against f64.
fn assert_moved<T: Real>(call: &Call, inputs: &Inputs<T>, outputs: &Outputs<T>) {
    let Layer::BatchStatistics { layout, momentum } = call.layer else { unreachable!("batch statistics") };
    let (channels, spatial) = (call.channels(), spatial_of(call));
    let (mean, var, batches) = &outputs.running;
    if call.elements() == 0 {
        let before = (inputs.running_mean.as_slice(), inputs.running_var.as_slice(), BATCHES_BEFORE);
        assert_eq!((&mean[..channels], &var[..channels], *batches), before, "{call:?}");
        return;
    }
    assert_eq!(*batches, BATCHES_BEFORE + 1, "{call:?}");
    let share = momentum.unwrap_or(1.0 / (BATCHES_BEFORE + 1) as f64);
    let mut of_channels = vec![Vec::new(); channels];
    for i in 0..call.elements() {
        let residual = if call.residual == Residual::Absent { 0.0 } else { inputs.residual[i].to_f64() };
        let channel = if layout == NHWC { i % channels } else { i / spatial % channels };
        of_channels[channel].push(f64::from((inputs.x[i].to_f64() + residual) as f32));
    }
    for (channel, values) in of_channels.iter().enumerate() {
        let n = values.len() as f64;
        let batch_mean = values.iter().sum::<f64>() / n;
        let unbiased = values.iter().map(|v| (v - batch_mean).powi(2)).sum::<f64>() / (n - 1.0);
        for (found, before, batch, what) in [
            (mean[channel], inputs.running_mean[channel], batch_mean, "mean"),
            (var[channel], inputs.running_var[channel], unbiased, "variance"),
        ] {
            let expected = (1.0 - share) * f64::from(before) + share * batch;
            // Two products and a sum in f32, of moments that were merged in f32: a mean is as exact as the deviation.
            let slack = 4.0 * 2.0_f64.powi(-24) * (f64::from(before).abs() + batch.abs() + share * unbiased.sqrt());
            let missed = (f64::from(found) - expected).abs();
            assert!(missed <= slack, "{call:?}: running {what} of channel {channel} is {found}, expected {expected}");
        }
    }
}

macro_rules! on_both {
    ($($test:ident as $cuda:ident, $cpu:ident;)*) => {
        $(#[test]
        fn $cuda() {
            let device = device::cuda();
            $test::<f32>(&|call, inputs| verify_cuda(&device, call, inputs));
            $test::<f16>(&|call, inputs| verify_cuda(&device, call, inputs));
            $test::<bf16>(&|call, inputs| verify_cuda(&device, call, inputs));
        }

        #[test]
        fn $cpu() {
            $test::<f32>(&verify_cpu);
            $test::<f16>(&verify_cpu);
            $test::<bf16>(&verify_cpu);
        })*
    };
}

fn groups_and_instances<T: Real>(verify: &dyn Fn(&Call, &Inputs<T>) -> Outputs<T>) {
    channels_last::<T>(&|call, inputs| drop(verify(call, inputs)));
}

/// What breaks a careless norm, one after another: far means, unlike means of channels, outliers, constants, periods.
fn traps<T: Real>(verify: &dyn Fn(&Call, &Inputs<T>) -> Outputs<T>) {
    let calls = [
        Call::new(Layer::GroupNorm { groups: 2, layout: NHWC }, &[2, 9, 11, 12]),
        Call::new(Layer::InstanceNorm { layout: NHWC }, &[2, 30, 31, 5]),
        Call::new(Layer::BatchStatistics { layout: NHWC, momentum: Some(0.1) }, &[3, 9, 11, 12]),
        Call::new(Layer::BatchStatistics { layout: Layout::Nchw, momentum: Some(0.1) }, &[3, 4, 25, 27]),
        Call::new(Layer::GroupNorm { groups: 4, layout: NHWC }, &[1, 96, 64, 24]),
        Call::new(Layer::BatchStatistics { layout: Layout::Nchw, momentum: Some(0.1) }, &[2, 2, 192, 160]),
    ];
    for mut call in calls {
        call.weight = Coefficient::F32;
        let (channels, spatial) = (call.channels(), spatial_of(&call));
        let is_last = !matches!(call.layer, Layer::BatchStatistics { layout: Layout::Nchw, .. });
        let channel = |i: usize| if is_last { i % channels } else { i / spatial % channels };
        let normal = Inputs::<T>::normal(&call, 71);
        let with = |change: &dyn Fn(usize, f64) -> f64| {
            let mut inputs = normal.clone();
            inputs.x.iter_mut().enumerate().for_each(|(i, x)| *x = T::from_f64(change(i, x.to_f64())));
            inputs
        };
        verify(&call, &with(&|_, x| 1e4 + x));
        verify(&call, &with(&|i, x| 1000.0 * (channel(i) as f64 - 1.5) + x));
        let last = normal.x.len() - 1;
        for at in [0, last / 2, last] {
            verify(&call, &with(&|i, x| if i == at { 6e4 } else { x }));
        }
        verify(&call, &with(&|i, _| if i % 2 == 0 { 0.7 } else { 0.0 }));
        // What comes first is unlike the rest, as the border of an image is: a pivot taken from it is far from the mean.
        for border in [1, 8, 100] {
            let pixel = |i: usize| if is_last { i / channels } else { i % spatial };
            verify(&call, &with(&|i, x| if pixel(i) < border { 0.0 } else { 10.0 + 0.01 * x }));
            verify(&call, &with(&|i, x| if pixel(i) % 64 < border % 64 { 300.0 } else { x }));
        }
        // A set of equal elements gives the bias to the last bit.
        let constant = with(&|_, _| 1e4);
        let y = verify(&call, &constant).y;
        let bias: Vec<T> = (0..y.len()).map(|i| T::from_f64(constant.bias[channel(i)])).collect();
        assert_eq!(bits(&y), bits(&bias), "{call:?}: constant");
        // What is no number stays with its own.
        let poisoned = with(&|i, x| if i == last { f64::NAN } else { x });
        verify(&call, &poisoned);
    }
}

on_both! {
    groups_and_instances as groups_and_instances_on_cuda, groups_and_instances_on_cpu;
    batches as batches_on_cuda, batches_on_cpu;
    traps as traps_on_cuda, traps_on_cpu;
    modulated as modulated_on_cuda, modulated_on_cpu;
}

/// Scale, shift and bias of each sample, in both layouts and every way to store them.
fn modulated<T: Real>(verify: &dyn Fn(&Call, &Inputs<T>) -> Outputs<T>) {
    use Coefficient::{Absent, F32, Own};
    let nchw = Layout::Nchw;
    let calls = [
        Call::new(Layer::GroupNorm { groups: 2, layout: NHWC }, &[3, 5, 7, 10]),
        Call::new(Layer::InstanceNorm { layout: NHWC }, &[3, 4, 4, 8]),
        Call::new(Layer::GroupNorm { groups: 2, layout: nchw }, &[3, 6, 7, 7]),
        Call::new(Layer::GroupNorm { groups: 3, layout: nchw }, &[3, 6, 40, 41]),
        Call::new(Layer::GroupNorm { groups: 1, layout: nchw }, &[2, 4, 95, 97]),
        Call::new(Layer::InstanceNorm { layout: nchw }, &[3, 5, 3, 3]),
        Call::new(Layer::GroupNorm { groups: 2, layout: nchw }, &[3, 6]),
    ];
    for (number, call) in calls.into_iter().enumerate() {
        for (scale, shift, channel_bias, scale_plus_one) in
            [(Own, Own, Absent, true), (F32, Absent, Own, false), (Absent, F32, F32, false), (Own, F32, Own, true)]
        {
            let modulation = Modulation { scale, shift, channel_bias, scale_plus_one, ..Modulation::NONE };
            let residual = if number % 2 == 0 { Residual::SumWritten } else { Residual::Absent };
            let call = Call { modulation, residual, activation: Activation::Silu, ..call.clone() };
            verify(&call, &Inputs::normal(&call, 97));
        }
    }
}

/// Maps of networks as they are: of diffusion and its decoder, and of classifiers in training. Each once, for they are large.
#[test]
fn maps_of_networks_on_cuda() {
    let device = device::cuda();
    let groups = |shape: [usize; 4], layout| {
        let channels = if layout == NHWC { shape[3] } else { shape[1] };
        let groups = channels.min(32);
        Call { activation: Activation::Silu, ..Call::new(Layer::GroupNorm { groups, layout }, &shape) }
    };
    let batch = |shape: [usize; 4], layout| {
        let layer = Layer::BatchStatistics { layout, momentum: Some(0.1) };
        Call { activation: Activation::Relu, ..Call::new(layer, &shape) }
    };
    let nchw = Layout::Nchw;
    let calls = [
        groups([2, 64, 64, 320], NHWC),
        groups([1, 32, 32, 640], NHWC),
        groups([2, 8, 8, 1280], NHWC),
        groups([1, 16, 16, 1920], NHWC),
        groups([1, 128, 128, 512], NHWC),
        groups([1, 256, 256, 128], NHWC),
        groups([2, 320, 64, 64], nchw),
        groups([1, 1280, 8, 8], nchw),
        groups([1, 512, 128, 128], nchw),
        batch([32, 512, 7, 7], nchw),
        batch([16, 256, 14, 14], nchw),
        batch([8, 64, 56, 56], nchw),
        batch([2, 3, 224, 224], nchw),
        batch([8, 7, 7, 512], NHWC),
        batch([8, 14, 14, 256], NHWC),
        batch([8, 56, 56, 64], NHWC),
        batch([2, 224, 224, 3], NHWC),
    ];
    for (number, call) in calls.into_iter().enumerate() {
        if number % 2 == 0 {
            verify(&device.cuda, &call, &Inputs::<bf16>::normal(&call, 59));
        } else {
            let call = Call { residual: Residual::SumWritten, ..call };
            verify(&device.cuda, &call, &Inputs::<f16>::normal(&call, 59));
        }
    }

    fn verify<T: Real>(cuda: &Cuda, call: &Call, inputs: &Inputs<T>) {
        crate::call::verify(cuda, call, inputs, &expected(call, inputs));
    }
}

#[test]
fn what_samples_have_of_their_own_must_fit() {
    let mut y = [1.0_f32, 2.0, 3.0, 5.0];
    let scale = [1.0_f32; 4];
    let refused = BatchNorm::new(2).unwrap().forward(Args::new(&Cpu, [2, 2]).output(&mut y).scale(&scale));
    assert!(matches!(refused, Err(Error::Unexpected { argument: "scale", .. })), "{refused:?}");
    let layer = GroupNorm::new(1, 2).unwrap();
    let refused = layer.forward(Args::new(&Cpu, [2, 2]).output(&mut y).shift(&scale[..3]));
    assert_eq!(refused, Err(Error::Length { argument: "shift", found: 3, expected: 4 }));
    let refused = layer.scale_plus_one(true).forward(Args::new(&Cpu, [2, 2]).output(&mut y));
    assert_eq!(refused, Err(Error::Missing { layer: "GroupNorm", argument: "scale" }));
}

/// A sample alone, and in a batch; in place, and at other addresses: the same bits.
fn samples_agree<P: Place, T: Real>(place: &P) {
    // Held by a block, by a cluster, and by nobody; channels in one section and in several.
    let shapes = [[4, 5, 5, 6], [3, 16, 16, 8], [3, 30, 31, 10], [2, 2, 2, 2056], [2, 33, 40, 256], [2, 512, 260, 8]];
    for (shape, groups) in std::iter::zip(shapes, [2, 8, 2, 8, 32, 2]) {
        let batch = Call::new(Layer::GroupNorm { groups, layout: NHWC }, &shape);
        let inputs = Inputs::<T>::normal(&batch, 73);
        let y = |call: &Call, inputs: &Inputs<T>| bits(&run(place, call, inputs).expect("a valid call").y);
        let reference = y(&batch, &inputs);
        assert_eq!(y(&Call { in_place: true, ..batch.clone() }, &inputs), reference, "{batch:?}: in place");
        let sample = batch.elements() / shape[0];
        for n in 0..shape[0] {
            let offsets = crate::call::PerTensor::all(n + 1);
            let alone = Call { offsets, shape: vec![1, shape[1], shape[2], shape[3]], ..batch.clone() };
            let part = Inputs { x: inputs.x[n * sample..][..sample].to_vec(), ..inputs.clone() };
            assert_eq!(y(&alone, &part), reference[n * sample..][..sample], "{alone:?}");
        }
    }
}

#[test]
fn samples_with_channels_last_agree_on_cuda() {
    let device = device::cuda();
    samples_agree::<_, f32>(&device.cuda);
    samples_agree::<_, bf16>(&device.cuda);
}

#[test]
fn samples_with_channels_last_agree_on_cpu() {
    samples_agree::<_, f32>(&Cpu);
    samples_agree::<_, bf16>(&Cpu);
}

/// Layers that are the same thing: instances and groups of one channel, both layouts, groups of all channels and rows.
fn equalities<P: Place>(place: &P) {
    let y = |layer, shape: &[usize], inputs: &Inputs<f32>| {
        run(place, &Call::new(layer, shape), inputs).expect("a valid call").y
    };
    let (n, c, h, w) = (2, 6, 5, 7);
    let last = Inputs::<f32>::normal(&Call::new(Layer::InstanceNorm { layout: NHWC }, &[n, h, w, c]), 79);
    let instance = y(Layer::InstanceNorm { layout: NHWC }, &[n, h, w, c], &last);
    let groups = y(Layer::GroupNorm { groups: c, layout: NHWC }, &[n, h, w, c], &last);
    assert_eq!(bits(&instance), bits(&groups), "InstanceNorm is GroupNorm with G = C");

    let first_of = |values: &[f32]| -> Vec<f32> {
        let at = |i: usize| (i / (c * h * w) * h * w + i % (h * w)) * c + i / (h * w) % c;
        (0..values.len()).map(|i| values[at(i)]).collect()
    };
    let first = Inputs { x: first_of(&last.x), ..last.clone() };
    for (of_last, of_first) in [
        (Layer::InstanceNorm { layout: NHWC }, Layer::INSTANCE_NORM),
        (Layer::GroupNorm { groups: 2, layout: NHWC }, Layer::group_norm(2)),
        (
            Layer::BatchStatistics { layout: NHWC, momentum: Some(0.5) },
            Layer::BatchStatistics { layout: Layout::Nchw, momentum: Some(0.5) },
        ),
    ] {
        let (of_last, of_first) = (y(of_last, &[n, h, w, c], &last), y(of_first, &[n, c, h, w], &first));
        approx::assert_abs_diff_eq!(first_of(&of_last).as_slice(), of_first.as_slice(), epsilon = 1e-5);
    }

    // Without spatial axes a group of all channels is a row.
    let row = Inputs::<f32>::normal(&Call::new(Layer::LayerNorm, &[3, 40]), 83);
    let groups = y(Layer::GroupNorm { groups: 1, layout: NHWC }, &[3, 40], &row);
    assert_eq!(bits(&groups), bits(&y(Layer::LayerNorm, &[3, 40], &row)));
}

#[test]
fn layers_that_are_the_same_agree_on_cuda() {
    equalities(&device::cuda().cuda);
}

#[test]
fn layers_that_are_the_same_agree_on_cpu() {
    equalities(&Cpu);
}

/// The statistics of a concatenation are those of its parts, merged: by an average of running means over equal batches.
fn concatenation<P: Place>(place: &P) {
    for layout in [NHWC, Layout::Nchw] {
        let layer = Layer::BatchStatistics { layout, momentum: Some(1.0) };
        let whole = Call::new(layer, &[4, 6, 6, 6]);
        let inputs = Inputs::<f32>::normal(&whole, 89);
        let running = |call: &Call, inputs: &Inputs<f32>| run(place, call, inputs).expect("a valid call").running;
        let (mean, var, _) = running(&whole, &inputs);
        let half = whole.elements() / 2;
        let parts = [0, half].map(|start| {
            let part = Inputs { x: inputs.x[start..start + half].to_vec(), ..inputs.clone() };
            running(&Call::new(layer, &[2, 6, 6, 6]), &part)
        });
        let n = (half / 6) as f64;
        for channel in 0..6 {
            let [(a, va, _), (b, vb, _)] = &parts;
            let (a, b) = (f64::from(a[channel]), f64::from(b[channel]));
            approx::assert_abs_diff_eq!(f64::from(mean[channel]), (a + b) / 2.0, epsilon = 1e-6);
            let squares = (f64::from(va[channel]) + f64::from(vb[channel])) * (n - 1.0) + (a - b).powi(2) * n / 2.0;
            approx::assert_abs_diff_eq!(f64::from(var[channel]), squares / (2.0 * n - 1.0), epsilon = 1e-6);
        }
    }
}

#[test]
fn statistics_of_parts_merge_on_cuda() {
    concatenation(&device::cuda().cuda);
}

#[test]
fn statistics_of_parts_merge_on_cpu() {
    concatenation(&Cpu);
}

/// By whichever kernels: the average of all batches is asked for, and there are no running statistics that it would be of.
#[test]
fn batches_without_running_statistics_on_cuda() {
    let Device { cuda, .. } = &device::cuda();
    for (shape, layout) in [
        ([2, 64, 56, 56], Layout::Nchw),
        ([2, 2, 700, 704], Layout::Nchw),
        ([8, 5, 7, 7], Layout::Nchw),
        ([2, 9, 9, 8], NHWC),
        ([1, 512, 260, 8], NHWC),
    ] {
        let elements: usize = shape.iter().product();
        let x = cuda.put(&stored::<f32>(normal(elements, 5)));
        let run = |momentum| {
            let layer = BatchNorm::new(if layout == NHWC { shape[3] } else { shape[1] }).unwrap();
            let layer = layer.layout(layout).batch_statistics(true).momentum(momentum).unwrap();
            let mut y = cuda.put(&vec![f32::NAN; elements]);
            let mut workspace = Workspace::init(cuda, 1 << 20).unwrap();
            layer.forward(Args::new(cuda, shape).input(&x).output(&mut y).workspace(&mut workspace)).unwrap();
            bits(&cuda.get(&y))
        };
        assert_eq!(run(None), run(Some(0.1)), "{shape:?}");
    }
}

#[test]
fn one_value_a_channel_is_refused() {
    let layer = BatchNorm::new(3).unwrap().batch_statistics(true);
    let mut y = [0.5_f32; 3];
    let refused = layer.forward(Args::new(&Cpu, [1, 3, 1]).output(&mut y));
    assert!(matches!(refused, Err(Error::OneValue { layer: "BatchNorm", .. })), "{refused:?}");
    for momentum in [-0.1, 1.5, f64::NAN] {
        assert!(matches!(layer.momentum(Some(momentum)), Err(Error::Momentum { .. })), "{momentum}");
    }
}

#[test]
fn running_statistics_are_given_to_be_moved_or_read() {
    let layer = BatchNorm::new(2).unwrap();
    let (mut mean, mut var) = ([0.0_f32; 2], [1.0_f32; 2]);
    let mut y = [1.0_f32, 2.0, 3.0, 5.0];
    let by_batch = layer.batch_statistics(true);
    let read = by_batch.forward(Args::new(&Cpu, [2, 2]).output(&mut y).running_mean(&mean).running_var(&var));
    assert!(matches!(read, Err(Error::Unexpected { argument: "running_mean", .. })), "{read:?}");
    let args = Args::new(&Cpu, [2, 2]).output(&mut y).update_running_statistics(&mut mean, &mut var);
    let moved = layer.forward(args);
    assert!(matches!(moved, Err(Error::Unexpected { argument: "update_running_statistics", .. })), "{moved:?}");
    let args = Args::new(&Cpu, [2, 2]).output(&mut y).update_running_statistics(&mut mean, &mut var);
    let uncounted = by_batch.momentum(None).unwrap().forward(args);
    assert_eq!(uncounted, Err(Error::Missing { layer: "BatchNorm", argument: "num_batches_tracked" }));
    assert_eq!((mean, var, y), ([0.0; 2], [1.0; 2], [1.0, 2.0, 3.0, 5.0]), "a refused call has changed something");
}

#[test]
fn a_workspace_is_needed_and_serves_every_call_on_cuda() {
    let Device { cuda, .. } = &device::cuda();
    let stream = cuda.stream();
    let layer = GroupNorm::new(2, 8).unwrap().layout(NHWC);
    let shape = [1, 512, 256, 8]; // too large to be held
    let mut y = stream.clone_htod(&[0.5_f32; 512 * 256 * 8]).unwrap();
    let refused = layer.forward(Args::new(cuda, shape).output(&mut y));
    let Err(Error::Workspace { found: 0, needed }) = refused else { panic!("{refused:?}") };
    let mut small = Workspace::init(cuda, needed - 1).unwrap();
    let refused = layer.forward(Args::new(cuda, shape).output(&mut y).workspace(&mut small));
    assert_eq!(refused, Err(Error::Workspace { found: needed - 1, needed }));

    // One workspace for calls of many sizes, one after another: each leaves it as the next one needs it.
    let mut workspace = Workspace::init(cuda, 1 << 20).unwrap();
    let mut first: Option<Vec<u64>> = None;
    for round in 0..3 {
        for (shape, layout) in [([4, 9, 9, 8], NHWC), ([4, 8, 30, 31], Layout::Nchw), ([1, 512, 256, 8], NHWC)] {
            let elements: usize = shape.iter().product();
            let x: Vec<f32> = (0..elements).map(|i| (i % 23) as f32).collect();
            let x = stream.clone_htod(&x).unwrap();
            let mut y = stream.alloc_zeros::<f32>(elements).unwrap();
            let args = Args::new(cuda, shape).input(&x).output(&mut y).workspace(&mut workspace);
            BatchNorm::new(8).unwrap().batch_statistics(true).layout(layout).forward(args).unwrap();
            if layout == NHWC && shape[0] == 4 {
                let found = bits(&stream.clone_dtoh(&y).unwrap());
                assert_eq!(first.get_or_insert(found.clone()), &found, "round {round}");
            }
        }
    }
}
