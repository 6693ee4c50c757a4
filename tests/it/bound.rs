//! Numbers that break a careless norm: all within the one bound, on both backends, in every regime.

use warpnorm::half::{bf16, f16};

use crate::call::{Call, Coefficient, Inputs, Layer, Outputs, Residual, run, verify_cpu, verify_cuda};
use crate::data::bits;
use crate::device::{self, Device};
use crate::place::{Place, Real};

/// One or more for each regime of the plan, in whole vectors of every type and not.
const LENGTHS: [usize; 12] = [1, 5, 104, 255, 300, 512, 704, 1025, 2056, 4097, 20_000, 90_001];

const ROWS: usize = 3;

fn layers() -> [Layer; 2] {
    [Layer::LayerNorm, Layer::RmsNorm { weight_plus_one: false }]
}

type Verify<'a, T> = &'a dyn Fn(&Call, &Inputs<T>) -> Outputs<T>;

type Test<'a, T> = &'a dyn Fn(Call, Inputs<T>, Verify<'_, T>);

/// Calls `test` on every layer and length, on CUDA or the CPU.
fn everywhere<T: Real>(device: Option<&Device>, test: Test<'_, T>) {
    for layer in layers() {
        for length in LENGTHS {
            let call = Call::new(layer, &[ROWS, length]);
            let inputs = Inputs::normal(&call, length as u64);
            match device {
                Some(device) => test(call, inputs, &|call, inputs| verify_cuda(device, call, inputs)),
                None => test(call, inputs, &verify_cpu),
            }
        }
    }
}

/// Means far above the deviation.
fn far_means<T: Real>(device: Option<&Device>) {
    everywhere::<T>(device, &|call, inputs, verify| {
        for (mean, deviation) in [(1e4, 1.0), (2000.0, 0.2), (-1e4, 1.0)] {
            let mut inputs = inputs.clone();
            inputs.x.iter_mut().for_each(|x| *x = T::from_f64(mean + deviation * x.to_f64()));
            verify(&call, &inputs);
            verify(&Call { residual: Residual::SumWritten, ..call.clone() }, &inputs);
        }
    });
}

/// One element far beyond the others, in the places where an implementation might take its pivot.
fn outliers<T: Real>(device: Option<&Device>) {
    let outlier = if T::MAX < 1e5 { 6e4 } else { 1e6 };
    everywhere::<T>(device, &|call, inputs, verify| {
        let length = call.shape[1];
        for position in [0, length / 2, length - 1] {
            let mut inputs = inputs.clone();
            (0..ROWS).for_each(|row| inputs.x[row * length + position] = T::from_f64(outlier));
            verify(&call, &inputs);
        }
    });
}

/// A row of equal elements gives the bias to the last bit if eps > 0, and NaN if eps is 0.
fn constant_rows<T: Real>(device: Option<&Device>) {
    everywhere::<T>(device, &|mut call, mut inputs, verify| {
        if call.layer != Layer::LayerNorm {
            return;
        }
        let length = call.shape[1];
        for (row, value) in [1e4, -0.1, 3.0e-5].into_iter().enumerate() {
            inputs.x[row * length..][..length].fill(T::from_f64(value));
        }
        for eps in [1e-5, 1e-12] {
            call.eps = eps;
            let y = verify(&call, &inputs).y;
            let bias: Vec<T> = inputs.bias.iter().map(|&bias| T::from_f64(bias)).collect();
            y.chunks(length).for_each(|row| assert_eq!(bits(row), bits(&bias), "{call:?}"));
        }
        call.eps = 0.0;
        assert!(verify(&call, &inputs).y.iter().all(|y| y.to_f64().is_nan()), "{call:?}");
    });
}

/// Tiny variances with tiny eps.
fn small_eps<T: Real>(device: Option<&Device>) {
    everywhere::<T>(device, &|mut call, mut inputs, verify| {
        if call.shape[1] < 2 {
            return; // the variance of one element is 0, and 0/0 is tested elsewhere
        }
        inputs.x.iter_mut().for_each(|x| *x = T::from_f64(0.01 * x.to_f64()));
        for eps in [0.0, 1e-12] {
            call.eps = eps;
            verify(&call, &inputs);
        }
    });
}

/// What is not a number stays in its row, and the others do not change by a bit.
fn poisoned_row<P: Place, T: Real>(place: &P, layer: Layer, verify: Verify<'_, T>) {
    for length in LENGTHS {
        let call = Call::new(layer, &[ROWS, length]);
        let clean = Inputs::<T>::normal(&call, 23);
        let before = run(place, &call, &clean).expect("a valid call").y;
        for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for position in [0, length / 2, length - 1] {
                let mut inputs = clean.clone();
                inputs.x[length + position] = T::from_f64(poison);
                let after = verify(&call, &inputs).y;
                assert_eq!(bits(&after[..length]), bits(&before[..length]), "{call:?}: the row before");
                assert_eq!(bits(&after[2 * length..]), bits(&before[2 * length..]), "{call:?}: the row after");
            }
        }
    }
}

macro_rules! traps {
    ($($test:ident as $cuda:ident, $cpu:ident;)*) => {
        $(#[test]
        fn $cuda() {
            let device = device::cuda();
            $test::<f32>(Some(&device));
            $test::<f16>(Some(&device));
            $test::<bf16>(Some(&device));
        }

        #[test]
        fn $cpu() {
            $test::<f32>(None);
            $test::<f16>(None);
            $test::<bf16>(None);
        })*
    };
}

traps! {
    far_means as far_means_on_cuda, far_means_on_cpu;
    outliers as outliers_on_cuda, outliers_on_cpu;
    constant_rows as constant_rows_on_cuda, constant_rows_on_cpu;
    small_eps as small_eps_on_cuda, small_eps_on_cpu;
}

#[test]
fn poisoned_rows_on_cuda() {
    let device = device::cuda();
    for layer in layers() {
        poisoned_row::<_, f32>(&device.cuda, layer, &|call, inputs| verify_cuda(&device, call, inputs));
        poisoned_row::<_, f16>(&device.cuda, layer, &|call, inputs| verify_cuda(&device, call, inputs));
    }
}

#[test]
fn poisoned_rows_on_cpu() {
    for layer in layers() {
        poisoned_row::<_, f32>(&warpnorm::Cpu, layer, &verify_cpu);
        poisoned_row::<_, bf16>(&warpnorm::Cpu, layer, &verify_cpu);
    }
}

/// Channels of one group whose means lie far apart: what a single shift for the group cannot cure.
fn unlike_channels<T: Real>(verify: Verify<'_, T>) {
    // Of some a vector is of one channel, of the others not.
    let shapes =
        [[2, 8, 7, 7], [1, 4, 33, 31], [1, 2, 200, 100], [2, 8, 4, 8], [1, 8, 16, 8], [1, 4, 16, 16], [1, 4, 32, 32]];
    for (groups, shape) in std::iter::zip([2, 1, 1, 2, 2, 1, 1], shapes) {
        let mut call = Call::new(Layer::group_norm(groups), &shape);
        call.weight = Coefficient::F32;
        let mut inputs = Inputs::<T>::normal(&call, 29);
        let spatial = shape[2] * shape[3];
        for (i, x) in inputs.x.iter_mut().enumerate() {
            let channel = i / spatial % shape[1];
            *x = T::from_f64(x.to_f64() + 1000.0 * (channel as f64 - 1.5));
        }
        verify(&call, &inputs);
    }
}

#[test]
fn unlike_channels_on_cuda() {
    let device = device::cuda();
    unlike_channels::<f32>(&|call, inputs| verify_cuda(&device, call, inputs));
    unlike_channels::<bf16>(&|call, inputs| verify_cuda(&device, call, inputs));
}

#[test]
fn unlike_channels_on_cpu() {
    unlike_channels::<f32>(&verify_cpu);
    unlike_channels::<bf16>(&verify_cpu);
}

/// Long rows that repeat themselves: every partial sum rounds the same way, in every lane, and nothing averages out.
fn periodic_rows<T: Real>(verify: Verify<'_, T>) {
    let checked = crate::device::variant() == emulator::Variant::Checked;
    for length in if checked { [1 << 16, 40_000] } else { [1 << 20, 1 << 21] } {
        for (layer, level) in [(layers()[0], 0.7), (layers()[0], 1.3), (layers()[1], 0.7), (layers()[1], 0.123)] {
            let mut call = Call::new(layer, &[1, length]);
            (call.weight, call.bias) = (Coefficient::Absent, Coefficient::Absent);
            let mut inputs = Inputs::<T>::normal(&call, 1);
            let period = if layer == Layer::LayerNorm { 2 } else { 1 };
            inputs.x.iter_mut().enumerate().for_each(|(i, x)| {
                *x = T::from_f64(if i % period == 0 { level } else { 0.0 });
            });
            verify(&call, &inputs);
        }
    }
}

#[test]
fn periodic_rows_on_cuda() {
    let device = device::cuda();
    periodic_rows::<f32>(&|call, inputs| verify_cuda(&device, call, inputs));
}

#[test]
fn periodic_rows_on_cpu() {
    periodic_rows::<f32>(&verify_cpu);
    periodic_rows::<bf16>(&verify_cpu);
}

#[test]
fn the_bound_is_not_idle() {
    // The bound must reject what a careless implementation computes: E[x²] − E[x]² in f32.
    let call = Call::new(Layer::LayerNorm, &[1, 1000]);
    let mut inputs = Inputs::<f32>::normal(&call, 31);
    inputs.x.iter_mut().for_each(|x| *x += 1e4);
    let n = inputs.x.len() as f32;
    let mean = inputs.x.iter().sum::<f32>() / n;
    let variance = inputs.x.iter().map(|x| x * x).sum::<f32>() / n - mean * mean;
    let careless =
        |(i, x): (usize, &f32)| (x - mean) / (variance + 1e-5).sqrt() * inputs.weight[i] as f32 + inputs.bias[i] as f32;
    let y: Vec<f32> = inputs.x.iter().enumerate().map(careless).collect();
    let expected = crate::call::expected(&call, &inputs);
    let verdict = std::panic::catch_unwind(|| crate::oracle::assert_within(&y, &expected, &"careless"));
    assert!(verdict.is_err(), "the bound accepts a cancelled variance");
}
