//! Bits: those of a row depend neither on the other rows, nor on its address, nor on threads, nor on the run.

use warpnorm::half::{bf16, f16};
use warpnorm::{Activation, Cpu, Layout};

use crate::call::{Call, Coefficient, Inputs, Layer, Modulation, PerTensor, Residual, run};
use crate::data::bits;
use crate::device;
use crate::place::{Place, Real};

/// One or more for each regime of the plan, in whole vectors of every type and not.
const LENGTHS: [usize; 12] = [3, 104, 255, 300, 512, 704, 1027, 2048, 3992, 5000, 20_000, 90_001];

const ROWS: usize = 5;

fn row_of<T: Real>(inputs: &Inputs<T>, row: usize, length: usize) -> Inputs<T> {
    let part = |values: &[T]| values[row * length..][..length].to_vec();
    Inputs {
        x: part(&inputs.x),
        residual: part(&inputs.residual),
        second_residual: part(&inputs.second_residual),
        ..inputs.clone()
    }
}

fn rows_agree<P: Place, T: Real>(place: &P) {
    for layer in [Layer::LayerNorm, Layer::RmsNorm { weight_plus_one: true }] {
        for length in LENGTHS {
            for residual in [Residual::Absent, Residual::SumWritten] {
                let batch = Call { residual, ..Call::new(layer, &[ROWS, length]) };
                let inputs = Inputs::<T>::normal(&batch, 37);
                let y = |call: &Call, inputs: &Inputs<T>| bits(&run(place, call, inputs).expect("a valid call").y);
                let reference = y(&batch, &inputs);
                assert_eq!(y(&batch, &inputs), reference, "{batch:?}: two runs");
                assert_eq!(y(&Call { in_place: true, ..batch.clone() }, &inputs), reference, "{batch:?}: in place");
                for (start, gaps) in [(1, [0, 0]), (3, [1, 8]), (7, [8, 8]), (4, [5, 0])] {
                    let offsets = PerTensor::unlike(start, &[0, 1, 2, 3, 4, 5, 6, 7]);
                    let moved = Call { offsets, gaps: PerTensor::unlike(start, &gaps), ..batch.clone() };
                    assert_eq!(y(&moved, &inputs), reference, "{moved:?}: another address");
                }
                for row in 0..ROWS {
                    let offsets = PerTensor::all(row);
                    let alone = Call { offsets, residual, ..Call::new(layer, &[1, length]) };
                    let found = y(&alone, &row_of(&inputs, row, length));
                    assert_eq!(found, reference[row * length..][..length], "{alone:?}: a row alone");
                }
            }
        }
    }
}

/// Rows with all that may surround them: a row alone, at another address, has the bits that it has in a batch of two samples.
fn surrounded_rows_agree<P: Place, T: Real>(place: &P) {
    let (samples, rows_of_sample) = (2, 3);
    let modulation = Modulation {
        scale: Coefficient::Own,
        shift: Coefficient::F32,
        gate: Coefficient::Own,
        scale_plus_one: true,
        ..Modulation::NONE
    };
    for layer in [Layer::LayerNorm, Layer::RmsNorm { weight_plus_one: true }] {
        for length in LENGTHS {
            let surrounded = Call {
                modulation,
                residual: Residual::SumWritten,
                second_residual: true,
                input_bias: Coefficient::F32,
                ..Call::new(layer, &[0])
            };
            let batch = Call { shape: vec![samples, rows_of_sample, length], ..surrounded.clone() };
            let inputs = Inputs::<T>::normal(&batch, 59);
            let reference = run(place, &batch, &inputs).expect("a valid call");
            for row in 0..samples * rows_of_sample {
                let offsets = PerTensor::unlike(row, &[0, 1, 3, 4, 7, 8]);
                let alone = Call { shape: vec![1, length], offsets, ..surrounded.clone() };
                let of_sample = |values: &[f64]| values[row / rows_of_sample * length..][..length].to_vec();
                let inputs = Inputs {
                    scale: of_sample(&inputs.scale),
                    shift: of_sample(&inputs.shift),
                    of_input: of_sample(&inputs.of_input),
                    ..row_of(&inputs, row, length)
                };
                let found = run(place, &alone, &inputs).expect("a valid call");
                let of_row = |values: &[T]| bits(&values[row * length..][..length]);
                assert_eq!(bits(&found.y), of_row(&reference.y), "{alone:?}: row {row}");
                assert_eq!(
                    found.sum.as_deref().map(bits),
                    reference.sum.as_deref().map(of_row),
                    "{alone:?}: row {row}"
                );
            }
        }
    }
}

#[test]
fn surrounded_rows_agree_on_cuda() {
    let device = device::cuda();
    surrounded_rows_agree::<_, f32>(&device.cuda);
    surrounded_rows_agree::<_, bf16>(&device.cuda);
}

#[test]
fn surrounded_rows_agree_on_cpu() {
    surrounded_rows_agree::<_, f32>(&Cpu);
    surrounded_rows_agree::<_, f16>(&Cpu);
}

/// Where eps is 0 and all squares are zero, the result is infinite wherever the row lies, and NaN where the element is zero too.
fn rows_without_deviation_agree<P: Place>(place: &P) {
    for length in [3, 300, 704, 1027, 5000] {
        let call = Call { eps: 0.0, ..Call::new(Layer::RmsNorm { weight_plus_one: false }, &[2, length]) };
        let mut inputs = Inputs::<f32>::normal(&call, 41);
        let tiny = [1e-30, -1e-30, 0.0];
        inputs.x.iter_mut().zip(tiny.into_iter().cycle()).for_each(|(x, tiny)| *x = tiny);
        for start in [0, 1] {
            let call = Call { offsets: PerTensor::all(start), ..call.clone() };
            let y = run(place, &call, &inputs).expect("a valid call").y;
            for (i, (y, x)) in y.iter().zip(&inputs.x).enumerate() {
                let expected = f64::from(*x) * f64::INFINITY * inputs.weight[i % length];
                let is_right = if expected.is_nan() { y.is_nan() } else { f64::from(*y) == expected };
                assert!(is_right, "{call:?}: element {i} is {y}, expected {expected}");
            }
        }
    }
}

#[test]
fn rows_without_deviation_agree_on_cuda() {
    rows_without_deviation_agree(&device::cuda().cuda);
}

#[test]
fn rows_without_deviation_agree_on_cpu() {
    rows_without_deviation_agree(&Cpu);
}

/// Equal elements of one row become equal: every lane has the same mean and the same deviation, to the last bit.
fn lanes_agree<P: Place>(place: &P) {
    for layer in [Layer::LayerNorm, Layer::RmsNorm { weight_plus_one: false }] {
        for length in LENGTHS {
            let mut call = Call::new(layer, &[1, length]);
            (call.weight, call.bias) = (Coefficient::Absent, Coefficient::Absent);
            let mut inputs = Inputs::<f32>::normal(&call, 53);
            let period = length.div_ceil(7); // no multiple of a vector or of the lanes
            (period..length).for_each(|i| inputs.x[i] = inputs.x[i - period]);
            let y = bits(&run(place, &call, &inputs).expect("a valid call").y);
            assert_eq!(y[period..], y[..length - period], "{call:?}: equal elements differ");
        }
    }
}

#[test]
fn lanes_agree_on_cuda() {
    lanes_agree(&device::cuda().cuda);
}

#[test]
fn lanes_agree_on_cpu() {
    lanes_agree(&Cpu);
}

/// Maps of which a vector is of one channel, by groups: one for each regime, of UNets and VAEs where they are not too large.
const MAPS: [([usize; 4], usize); 7] = [
    ([3, 8, 4, 8], 4),     // rows_group_16
    ([2, 16, 8, 8], 2),    // the same, a warp a row
    ([2, 4, 16, 16], 1),   // rows_group_32
    ([1, 1280, 8, 8], 32), // rows_shared
    ([2, 20, 64, 64], 2),  // rows_shared, as 2x320x64x64 of 32 groups
    ([1, 32, 64, 64], 2),  // as 1x512x64x64 of 32 groups
    ([1, 2, 256, 264], 1), // with larger clusters
];

/// Such a map, with all that its plain kernels do, has the same bits in place, at other addresses, where other kernels have it,
/// and without its neighbours.
fn maps_agree<P: Place, T: Real>(place: &P) {
    for (shape, groups) in MAPS {
        for layer in [Layer::group_norm(groups), Layer::INSTANCE_NORM] {
            let plain = Call { activation: Activation::Silu, ..Call::new(layer, &shape) };
            let summed = Call { residual: Residual::SumWritten, weight: Coefficient::F32, ..plain.clone() };
            let bare = Call { bias: Coefficient::Absent, activation: Activation::None, ..plain.clone() };
            for batch in [plain, summed, bare] {
                let inputs = Inputs::<T>::normal(&batch, 61);
                let y = |call: &Call, inputs: &Inputs<T>| bits(&run(place, call, inputs).expect("a valid call").y);
                let reference = y(&batch, &inputs);
                assert_eq!(y(&Call { in_place: true, ..batch.clone() }, &inputs), reference, "{batch:?}: in place");
                for start in [0, 3] {
                    let offsets = PerTensor::unlike(start, &[1, 3, 2, 8, 5, 7]);
                    let moved = Call { offsets, ..batch.clone() };
                    assert_eq!(y(&moved, &inputs), reference, "{moved:?}: another address");
                }
                let sample = batch.elements() / shape[0];
                for n in 0..shape[0] {
                    let alone = Call { shape: [&[1], &shape[1..]].concat(), ..batch.clone() };
                    let found = y(&alone, &row_of(&inputs, n, sample));
                    assert_eq!(found, reference[n * sample..][..sample], "{alone:?}: sample {n} alone");
                }
            }
        }
    }
}

#[test]
fn maps_agree_on_cuda() {
    let device = device::cuda();
    maps_agree::<_, f32>(&device.cuda);
    maps_agree::<_, f16>(&device.cuda);
    maps_agree::<_, bf16>(&device.cuda);
}

#[test]
fn maps_agree_on_cpu() {
    maps_agree::<_, f32>(&Cpu);
    maps_agree::<_, bf16>(&Cpu);
}

/// A sample alone, and in a batch.
fn samples_agree<P: Place, T: Real>(place: &P) {
    for shape in [[4, 6, 5, 5], [3, 8, 16, 16], [3, 2, 90, 91]] {
        for layer in [Layer::group_norm(2), Layer::INSTANCE_NORM] {
            let batch = Call::new(layer, &shape);
            let inputs = Inputs::<T>::normal(&batch, 41);
            let reference = bits(&run(place, &batch, &inputs).expect("a valid call").y);
            let sample = batch.elements() / shape[0];
            for n in 0..shape[0] {
                let offsets = PerTensor::all(n);
                let alone = Call { offsets, ..Call::new(layer, &[1, shape[1], shape[2], shape[3]]) };
                let found = bits(&run(place, &alone, &row_of(&inputs, n, sample)).expect("a valid call").y);
                assert_eq!(found, reference[n * sample..][..sample], "{alone:?}");
            }
        }
    }
}

#[test]
fn rows_agree_on_cuda() {
    let device = device::cuda();
    rows_agree::<_, f32>(&device.cuda);
    rows_agree::<_, f16>(&device.cuda);
    rows_agree::<_, bf16>(&device.cuda);
}

#[test]
fn rows_agree_on_cpu() {
    rows_agree::<_, f32>(&Cpu);
    rows_agree::<_, f16>(&Cpu);
    rows_agree::<_, bf16>(&Cpu);
}

#[test]
fn samples_agree_on_cuda() {
    let device = device::cuda();
    samples_agree::<_, f32>(&device.cuda);
    samples_agree::<_, f16>(&device.cuda);
}

#[test]
fn samples_agree_on_cpu() {
    samples_agree::<_, f32>(&Cpu);
    samples_agree::<_, f16>(&Cpu);
}

#[test]
fn one_thread_and_many_on_cpu() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    let pools = [pool(1), pool(2), pool(5)];
    for (layer, shape) in [
        (Layer::LayerNorm, vec![1, 1_000_003]),
        (Layer::LayerNorm, vec![300, 1000]),
        (Layer::RmsNorm { weight_plus_one: false }, vec![2, 400_001]),
        (Layer::group_norm(2), vec![2, 4, 300, 301]),
        (Layer::InstanceNormTracked, vec![3, 40, 64, 64]),
        (Layer::GroupNorm { groups: 3, layout: Layout::Nhwc }, vec![2, 150, 151, 6]),
        (Layer::GroupNorm { groups: 4, layout: Layout::Nhwc }, vec![40, 9, 9, 64]),
        (Layer::InstanceNorm { layout: Layout::Nhwc }, vec![1, 5, 7, 3000]),
        (Layer::BatchStatistics { layout: Layout::Nchw, momentum: Some(0.1) }, vec![3, 5, 150, 151]),
        (Layer::BatchStatistics { layout: Layout::Nhwc, momentum: Some(0.1) }, vec![3, 150, 151, 5]),
        (Layer::BatchStatistics { layout: Layout::Nhwc, momentum: None }, vec![9, 7, 7, 1500]),
        (Layer::BatchNorm { layout: Layout::Nchw, table: false }, vec![3, 5, 150, 151]),
        (Layer::BatchNorm { layout: Layout::Nhwc, table: true }, vec![3, 150, 151, 5]),
    ] {
        let plain = Call::new(layer, &shape);
        let fused = Call { residual: Residual::SumWritten, activation: Activation::Gelu, ..plain.clone() };
        for call in [plain, fused] {
            let inputs = Inputs::<f16>::normal(&call, 43);
            let mut found = pools.iter().map(|pool| {
                let outputs = pool.install(|| run(&Cpu, &call, &inputs).expect("valid"));
                let (mean, var, batches) = outputs.running;
                (bits(&outputs.y), outputs.sum.map(|sum| bits(&sum)), bits(&mean), bits(&var), batches)
            });
            let first = found.next().expect("a pool");
            found.for_each(|other| assert!(other == first, "{call:?}: bits depend on the number of threads"));
        }
    }
}
