//! A cell's numbers, its buffers on a backend, and the call.

use warpnorm::{Args, Cpu, F8E4M3, Prepared, Scaling, Shape, Workspace};

use super::Result;
use super::case::{Around, Case, Op};
use crate::data::{normal, stored};
use crate::place::{Held, Place, Real};

/// The numbers of a cell, on the host.
pub struct Numbers<T> {
    pub x: Vec<T>,
    /// Empty without one.
    pub residual: Vec<T>,
    /// As [`Case::coefficients`] has them; of few bits, so that every type stores them exactly.
    pub coefficients: [Vec<f64>; 6],
    pub running_mean: Vec<f32>,
    pub running_var: Vec<f32>,
}

impl<T: Real> Numbers<T> {
    pub fn new(case: &Case) -> Self {
        let channels = case.channels();
        let eighths = |(count, (seed, middle)): (usize, (u64, f64))| {
            normal(count, seed).map(|v| middle + (v.clamp(-3.0, 3.0) * 8.0).round() / 8.0).collect()
        };
        let around = [(3, 1.0), (4, 0.0), (7, 1.0), (8, 1.0), (9, 0.0), (10, 0.0)];
        let counts = case.coefficients();
        Self {
            x: random(case.elements(), 1),
            residual: if case.residual { random(case.elements(), 2) } else { Vec::new() },
            coefficients: std::array::from_fn(|which| eighths((counts[which], around[which]))),
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

/// Coefficients, of the tensors' type or of f32, and running statistics, of which all sets of tensors share one.
pub struct Constants<P: Place, T: Real> {
    own: Option<[P::Buffer<T>; 6]>,
    f32: Option<[P::Buffer<f32>; 6]>,
    statistics: [P::Buffer<f32>; 2],
    workspace: Workspace<P>,
}

impl<P: Place, T: Real> Constants<P, T> {
    pub fn new(place: &P, case: &Case, prepared: &Prepared<P>, numbers: &Numbers<T>) -> Result<Self> {
        let is_own = case.weight == T::DTYPE;
        let all = numbers.coefficients.each_ref();
        Ok(Self {
            own: is_own.then(|| all.map(|values| place.put(&stored::<T>(values.iter().copied())))),
            f32: (!is_own).then(|| all.map(|values| place.put(&stored::<f32>(values.iter().copied())))),
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
    pub y: Output<P, T>,
}

/// What a call computes.
pub enum Output<P: Place, T: Real> {
    Elements(P::Buffer<T>),
    Quantized { scaling: Scaling, q: P::Buffer<F8E4M3>, scales: P::Buffer<f32> },
}

impl<T: Real> Output<Cpu, T> {
    pub fn zeros(case: &Case) -> Self {
        match case.around {
            Around::Quantized(scaling) => Self::Quantized {
                scaling,
                q: vec![F8E4M3::default(); case.elements()],
                scales: vec![0.0; case.scales(scaling)],
            },
            _ => Self::Elements(vec![T::default(); case.elements()]),
        }
    }
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
    let (mut y, mut quantized) = match &mut tensors.y {
        Output::Elements(y) => (Some(place.view_mut(y, 0..elements)), None),
        Output::Quantized { scaling, q, scales } => {
            let scales = place.view_mut(scales, 0..case.scales(*scaling));
            (None, Some((*scaling, place.view_mut(q, 0..elements), scales)))
        }
    };
    let residual = tensors.residual.as_ref().map(|residual| place.view(residual, 0..elements));
    let mut sum = tensors.sum.as_mut().map(|sum| place.view_mut(sum, 0..elements));
    let Constants { own, f32, statistics, workspace } = constants;
    let own = own.as_ref().map(|buffers| views(place, case, buffers));
    let f32 = f32.as_ref().map(|buffers| views(place, case, buffers));
    // Either read or moved.
    let (mut moved, read) = if case.has_batch_statistics() {
        (Some(statistics.each_mut().map(|buffer| place.view_mut(buffer, 0..channels))), None)
    } else {
        (None, Some(statistics.each_ref().map(|buffer| place.view(buffer, 0..channels))))
    };

    let mut args = Args::new(place, Shape::new(&case.shape())?).input(&x);
    if let Some(y) = &mut y {
        args = args.output(y);
    }
    if let Some((scaling, q, scales)) = &mut quantized {
        args = args.quantized_output(q).scales(*scaling, scales);
    }
    if let (Some(residual), Some(sum)) = (&residual, &mut sum) {
        args = args.residual(residual).sum(sum);
    }
    if let Some(coefficients) = &own {
        args = with_coefficients(args, case, coefficients);
    }
    if let Some(coefficients) = &f32 {
        args = with_coefficients(args, case, coefficients);
    }
    if let (Op::BatchNormInference, Some([mean, var])) = (case.op, &read) {
        args = args.running_mean(mean).running_var(var);
    }
    if let Some([mean, var]) = &mut moved {
        args = args.update_running_statistics(mean, var);
    }
    Ok(prepared.forward(args.workspace(workspace))?)
}

fn views<'a, P: Place, C: Held>(place: &P, case: &Case, buffers: &'a [P::Buffer<C>; 6]) -> [P::View<'a, C>; 6] {
    let counts = case.coefficients();
    std::array::from_fn(|which| place.view(&buffers[which], 0..counts[which]))
}

fn with_coefficients<'a, P: Place, C: Real>(
    mut args: Args<'a, P>,
    case: &Case,
    coefficients: &'a [P::View<'_, C>; 6],
) -> Args<'a, P> {
    let [weight, bias, post_norm_weight, gate, scale, shift] = coefficients;
    let has = case.coefficients().map(|elements| elements > 0);
    args = if has[0] { args.weight(weight) } else { args };
    args = if has[1] { args.bias(bias) } else { args };
    args = if has[2] { args.post_norm_weight(post_norm_weight) } else { args };
    args = if has[3] { args.gate(gate) } else { args };
    args = if has[4] { args.scale(scale) } else { args };
    args = if has[5] { args.shift(shift) } else { args };
    // The keys' weight has the numbers of the queries', so that a row's answer does not depend on its kind.
    if matches!(case.op, Op::QkRmsNorm { .. }) { args.key_weight(weight) } else { args }
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
