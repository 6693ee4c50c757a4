//! What logits say, and how far two sets of them are apart.

use super::checkpoint::Image;

/// The class of each image: the first of the largest logits.
pub fn predictions(logits: &[f32], classes: usize) -> Vec<usize> {
    logits.chunks_exact(classes).map(largest).collect()
}

/// How many predictions are right.
pub fn right(predictions: &[usize], images: &[Image]) -> usize {
    predictions.iter().zip(images).filter(|(prediction, image)| **prediction == usize::from(image.label)).count()
}

/// How many predictions differ.
pub fn changed(some: &[usize], others: &[usize]) -> usize {
    some.iter().zip(others).filter(|(one, other)| one != other).count()
}

/// A NaN counts as larger than every number, and does not hide as it would behind `f32::max`.
pub fn largest_difference(some: &[f32], others: &[f32]) -> f32 {
    let differences = some.iter().zip(others).map(|(one, other)| (one - other).abs());
    differences.max_by(f32::total_cmp).unwrap_or(0.0)
}

/// Where the largest value is, the first of them if there are several.
fn largest(values: &[f32]) -> usize {
    let larger = |best: usize, index: usize| if values[index] > values[best] { index } else { best };
    (0..values.len()).reduce(larger).unwrap_or(0)
}
