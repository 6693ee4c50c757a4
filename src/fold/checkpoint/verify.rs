//! The proof that a folded layer computes what the layer and its `BatchNorm` did.

use super::{
    file::{Checkpoint, Entry},
    plan::{Folded, Plan},
};
use crate::{
    element::DType,
    fold::{
        Layer, Side,
        models::{PairCheck, Random, Verification, Whole},
    },
};

impl Plan<'_> {
    /// Evaluates each layer that was folded, in f64, with its `BatchNorm` before and alone after, on the same random inputs.
    ///
    /// At which places of an image a layer meets its inputs is not in the file, nor does it matter to a fold: each output is
    /// one sum over a patch of inputs. The whole cannot be evaluated.
    #[must_use]
    pub fn verify(&self, folded: &Checkpoint) -> Verification {
        let pairs = self.folded.iter().map(|pair| PairCheck {
            nodes: vec![pair.pair.layer.clone(), pair.pair.batch_norm.clone()],
            error: compare(self.checkpoint(), folded, pair),
        });
        Verification { pairs: pairs.collect(), whole: Whole::NoGraph }
    }
}

/// Numbers by name, or what is not there.
fn numbers(of: &Checkpoint, name: &str) -> Result<Vec<f64>, String> {
    let entry = of.entry(name).ok_or_else(|| format!("{name} is not there"))?;
    of.values(entry).map(|values| values.to_vec()).ok_or_else(|| format!("{name} is not floating-point"))
}

/// The largest error, as a part of the bound.
fn compare(before: &Checkpoint, after: &Checkpoint, folded: &Folded<'_>) -> Result<f64, String> {
    let (layer, norm) = (&folded.pair.layer, &folded.pair.batch_norm);
    let named = |module: &str, part: &str| format!("{module}.{part}");
    let (old, new) = (numbers(before, &named(layer, "weight"))?, numbers(after, &named(layer, "weight"))?);
    let outputs = folded.channels();
    let or = |part: &str, module: &str, fill: f64, len: usize| match before.entry(&named(module, part)) {
        Some(_) => numbers(before, &named(module, part)),
        None => Ok(vec![fill; len]),
    };
    let channels = folded.map.channels();
    let (old_bias, new_bias) = (or("bias", layer, 0.0, outputs)?, numbers(after, &named(layer, "bias"))?);
    let (mean, var) = (numbers(before, &named(norm, "running_mean"))?, numbers(before, &named(norm, "running_var"))?);
    let (weight, bias) = (or("weight", norm, 1.0, channels)?, or("bias", norm, 0.0, channels)?);
    let eps = folded.eps;
    let map =
        |channel: usize, x: f64| (x - mean[channel]) / (var[channel] + eps).sqrt() * weight[channel] + bias[channel];
    let entry = |part: &str| after.entry(&named(layer, part)).ok_or_else(|| format!("the {part} is not there"));
    if new.len() != old.len() || new_bias.len() != outputs || old_bias.len() != outputs {
        return Err("its tensors have other lengths".to_owned());
    }
    // The two may be of different types.
    let ((u, least), (bias_u, bias_least)) = (roundoff(entry("weight")?), roundoff(entry("bias")?));
    let mut random = Random::new(7);
    let inputs: Vec<f64> = old.iter().map(|_| 2.0 * random.next() - 1.0).collect();
    let mut sums = vec![[0.0_f64; 4]; outputs];
    for (index, &x) in inputs.iter().enumerate() {
        let (input, output) = ends(folded.layer, &folded.weight.shape, index);
        let mapped = if folded.pair.side == Side::Before { map(input, x) } else { x };
        let [old_sum, new_sum, terms, old_terms] = &mut sums[output];
        *old_sum += old[index] * mapped;
        *new_sum += new[index] * x;
        *terms += (new[index] * x).abs() + least;
        *old_terms += (old[index] * mapped).abs();
    }
    let mut worst = 0.0_f64;
    for (output, [old_sum, new_sum, terms, old_terms]) in sums.into_iter().enumerate() {
        let unmapped = old_sum + old_bias[output];
        let old_y = if folded.pair.side == Side::After { map(output, unmapped) } else { unmapped };
        let new_y = new_sum + new_bias[output];
        let scale = if folded.pair.side == Side::After { folded.map.scale()[output].abs() } else { 1.0 };
        let center = if folded.pair.side == Side::After { mean[output].abs() } else { 0.0 };
        let slack = 1e-13 * (scale * (old_terms + old_bias[output].abs() + center) + old_y.abs());
        let bound = 2.0 * (u * terms + bias_u * new_bias[output].abs()) + bias_least + slack;
        let error = (old_y - new_y).abs();
        let part = if error == 0.0 { 0.0 } else { error / bound };
        worst = if part.is_nan() { f64::INFINITY } else { worst.max(part) };
    }
    Ok(worst)
}

/// Half the spacing of a tensor's type, and half its smallest number.
fn roundoff(entry: &Entry) -> (f64, f64) {
    match entry.element() {
        Some(DType::F16) => (2.0_f64.powi(-11), 2.0_f64.powi(-25)),
        Some(DType::Bf16) => (2.0_f64.powi(-8), 2.0_f64.powi(-134)),
        _ => (2.0_f64.powi(-24), 2.0_f64.powi(-150)),
    }
}

/// The channels that a weight connects, by the definition of the layer.
fn ends(layer: Layer, shape: &[usize], index: usize) -> (usize, usize) {
    let kernel: usize = shape[2..].iter().product();
    let (row, column) = (index / kernel / shape[1], index / kernel % shape[1]);
    match layer {
        Layer::Linear => (column, row),
        Layer::MatMul => (row, column),
        Layer::Conv { groups } => (row / (shape[0] / groups) * shape[1] + column, row),
        Layer::ConvTranspose { groups } => (row, row / (shape[0] / groups) * shape[1] + column),
    }
}
