//! A cell's numbers, its buffers on a backend, and the call.

use warpnorm::{Args, Prepared, Shape, Workspace};

use super::Result;
use super::case::{Case, Op};
use crate::data::{normal, stored};
use crate::place::{Place, Real};

/// The numbers of a cell, on the host.
pub struct Numbers<T> {
    pub x: Vec<T>,
    /// Empty without one.
    pub residual: Vec<T>,
    /// Of few bits, so that every type stores them exactly.
    pub weight: Vec<f64>,
    pub bias: Vec<f64>,
    pub running_mean: Vec<f32>,
    pub running_var: Vec<f32>,
}

impl<T: Real> Numbers<T> {
    pub fn new(case: &Case) -> Self {
        let channels = case.channels();
        let eighths = |seed, middle: f64| {
            normal(channels, seed).map(|v| middle + (v.clamp(-3.0, 3.0) * 8.0).round() / 8.0).collect()
        };
        Self {
            x: random(case.elements(), 1),
            residual: if case.residual { random(case.elements(), 2) } else { Vec::new() },
            weight: eighths(3, 1.0),
            bias: eighths(4, 0.0),
            running_mean: normal(channels, 5).map(|v| v as f32).collect(),
            running_var: normal(channels, 6).map(|v| (v * v + 0.01) as f32).collect(),
        }
    }
}

/// Normal numbers. A prime number of them repeats itself, so that gigabytes take no longer than memory does.
fn random<T: Real>(count: usize, seed: u64) -> Vec<T> {
    const DISTINCT: usize = 1_000_003;
    let block: Vec<T> = stored(normal(count.min(DISTINCT), seed));
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        all.extend_from_slice(&block[..block.len().min(count - all.len())]);
    }
    all
}

/// Weight, bias and running statistics, of which all sets of tensors share one.
pub struct Constants<P: Place, T: Real> {
    own: Option<[P::Buffer<T>; 2]>,
    f32: Option<[P::Buffer<f32>; 2]>,
    statistics: [P::Buffer<f32>; 2],
    workspace: Workspace<P>,
}

impl<P: Place, T: Real> Constants<P, T> {
    pub fn new(place: &P, case: &Case, prepared: &Prepared<P>, numbers: &Numbers<T>) -> Result<Self> {
        let is_own = case.weight == T::DTYPE;
        let both = [&numbers.weight, &numbers.bias];
        Ok(Self {
            own: is_own.then(|| both.map(|values| place.put(&stored::<T>(values.iter().copied())))),
            f32: (!is_own).then(|| both.map(|values| place.put(&stored::<f32>(values.iter().copied())))),
            statistics: [&numbers.running_mean, &numbers.running_var].map(|values| place.put(values)),
            workspace: Workspace::init(place, prepared.workspace_bytes())?,
        })
    }
}

/// The tensors that a call moves.
pub struct Tensors<P: Place, T: Real> {
    pub x: P::Buffer<T>,
    pub residual: Option<P::Buffer<T>>,
    pub sum: Option<P::Buffer<T>>,
    pub y: P::Buffer<T>,
}

/// Runs the call.
pub fn call<P: Place, T: Real>(
    place: &P,
    case: &Case,
    prepared: &Prepared<P>,
    constants: &mut Constants<P, T>,
    tensors: &mut Tensors<P, T>,
) -> Result<()> {
    let (elements, channels) = (case.elements(), case.channels());
    let x = place.view(&tensors.x, 0..elements);
    let mut y = place.view_mut(&mut tensors.y, 0..elements);
    let residual = tensors.residual.as_ref().map(|residual| place.view(residual, 0..elements));
    let mut sum = tensors.sum.as_mut().map(|sum| place.view_mut(sum, 0..elements));
    let Constants { own, f32, statistics, workspace } = constants;
    let own = own.as_ref().map(|both| both.each_ref().map(|buffer| place.view(buffer, 0..channels)));
    let f32 = f32.as_ref().map(|both| both.each_ref().map(|buffer| place.view(buffer, 0..channels)));
    // Either read or moved.
    let (mut moved, read) = if case.op == Op::BatchNormTraining {
        (Some(statistics.each_mut().map(|buffer| place.view_mut(buffer, 0..channels))), None)
    } else {
        (None, Some(statistics.each_ref().map(|buffer| place.view(buffer, 0..channels))))
    };

    let mut args = Args::new(place, Shape::new(&case.shape())?).input(&x).output(&mut y);
    if let (Some(residual), Some(sum)) = (&residual, &mut sum) {
        args = args.residual(residual).sum(sum);
    }
    // The keys' weight has the numbers of the queries', so that a row's answer does not depend on its kind.
    let has_keys = matches!(case.op, Op::QkRmsNorm { .. });
    if let Some([weight, bias]) = &own {
        args = args.weight(weight);
        args = if case.has_bias() { args.bias(bias) } else { args };
        args = if has_keys { args.key_weight(weight) } else { args };
    }
    if let Some([weight, bias]) = &f32 {
        args = args.weight(weight);
        args = if case.has_bias() { args.bias(bias) } else { args };
        args = if has_keys { args.key_weight(weight) } else { args };
    }
    if let (Op::BatchNormInference, Some([mean, var])) = (case.op, &read) {
        args = args.running_mean(mean).running_var(var);
    }
    if let Some([mean, var]) = &mut moved {
        args = args.update_running_statistics(mean, var);
    }
    Ok(prepared.forward(args.workspace(workspace))?)
}

/// Calls a generic function with the type that a value names.
#[macro_export]
macro_rules! with_type {
    ($dtype:expr, $function:ident($($argument:expr),*)) => {
        match $dtype {
            warpnorm::DType::F32 => $function::<f32>($($argument),*),
            warpnorm::DType::F16 => $function::<warpnorm::half::f16>($($argument),*),
            warpnorm::DType::Bf16 => $function::<warpnorm::half::bf16>($($argument),*),
            other => Err(format!("{other} is not benchmarked").into()),
        }
    };
}
