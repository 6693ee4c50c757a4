//! Pairs as they are given, and what is known of `eps` by a model's name.

use serde_json::Value;

use crate::fold::{Padding, Side, models::ModelError};

/// What a layer is, which its weight alone does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A convolution of 1 to 3 axes.
    Conv,
    /// A transposed convolution.
    ConvTranspose,
    /// A linear layer.
    Linear,
}

/// A `BatchNorm` and the layer that is to absorb it, by the names of their modules.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The layer, as in `layer1.0.conv1`.
    pub layer: String,
    /// The `BatchNorm`, as in `layer1.0.bn1`.
    pub batch_norm: String,
    /// Its `eps`, if it is known.
    pub eps: Option<f64>,
    /// What the layer is; by its weight's shape a `Conv` or a `Linear`, if it is not said.
    pub kind: Option<Kind>,
    /// The groups of a convolution.
    pub groups: Option<usize>,
    /// On which side of the layer the `BatchNorm` is.
    pub side: Side,
    /// How the layer pads, if the `BatchNorm` is before it.
    pub padding: Padding,
}

impl Pair {
    /// A `BatchNorm` behind a layer, of which no more is known.
    #[must_use]
    pub fn new(layer: impl Into<String>, batch_norm: impl Into<String>) -> Self {
        Self {
            layer: layer.into(),
            batch_norm: batch_norm.into(),
            eps: None,
            kind: None,
            groups: None,
            side: Side::After,
            padding: Padding::Zeros,
        }
    }
}

/// Reads a file of pairs, as `scripts/export_pairs.py` writes it:
///
/// ```json
/// {"version": 1, "pairs": [{"conv": "conv1", "bn": "bn1", "eps": 1e-5, "kind": "conv", "groups": 1, "dir": "post"}]}
/// ```
///
/// `kind` is `conv`, `deconv` or `linear`; `dir` is `post` where the `BatchNorm` is behind the layer and `pre` where it is
/// before it, and then `padding` is `none` or `zeros`. All but `conv` and `bn` may be left out.
///
/// # Errors
///
/// [`ModelError::Malformed`].
pub fn pairs_from_json(text: &str) -> Result<Vec<Pair>, ModelError> {
    let file: Value =
        serde_json::from_str(text).map_err(|error| ModelError::malformed(format!("the pairs: {error}")))?;
    if file["version"].as_u64() != Some(1) {
        return Err(ModelError::unsupported("the pairs are not of version 1"));
    }
    let pairs = file["pairs"].as_array().ok_or_else(|| ModelError::malformed("there is no list of pairs"))?;
    pairs.iter().map(pair).collect()
}

fn pair(value: &Value) -> Result<Pair, ModelError> {
    let wrong = |field: &str| ModelError::malformed(format!("{field:?} of the pair {value}"));
    let name = |field: &str| value[field].as_str().ok_or_else(|| wrong(field));
    let mut pair = Pair::new(name("conv")?, name("bn")?);
    let is_given = |field: &str| !value[field].is_null();
    if is_given("eps") {
        pair.eps = Some(value["eps"].as_f64().ok_or_else(|| wrong("eps"))?);
    }
    if is_given("groups") {
        let groups = value["groups"].as_u64().and_then(|groups| usize::try_from(groups).ok());
        pair.groups = Some(groups.ok_or_else(|| wrong("groups"))?);
    }
    if is_given("kind") {
        pair.kind = Some(match name("kind")? {
            "conv" => Kind::Conv,
            "deconv" => Kind::ConvTranspose,
            "linear" => Kind::Linear,
            _ => return Err(wrong("kind")),
        });
    }
    if is_given("dir") {
        pair.side = match name("dir")? {
            "post" => Side::After,
            "pre" => Side::Before,
            _ => return Err(wrong("dir")),
        };
    }
    if is_given("padding") {
        pair.padding = match name("padding")? {
            "none" => Padding::None,
            "zeros" => Padding::Zeros,
            _ => return Err(wrong("padding")),
        };
    }
    Ok(pair)
}

/// `eps` by family of models, as their own code sets it.
const PRESETS: [(&str, f64); 21] = [
    ("torchvision:resnet", 1e-5),
    ("torchvision:resnext", 1e-5),
    ("torchvision:wide_resnet", 1e-5),
    ("torchvision:vgg_bn", 1e-5),
    ("torchvision:mobilenet_v2", 1e-5),
    ("torchvision:mobilenet_v3", 1e-3),
    ("torchvision:efficientnet_b0", 1e-5),
    ("torchvision:efficientnet_b1", 1e-5),
    ("torchvision:efficientnet_b2", 1e-5),
    ("torchvision:efficientnet_b3", 1e-5),
    ("torchvision:efficientnet_b4", 1e-5),
    ("torchvision:efficientnet_b5", 1e-3),
    ("torchvision:efficientnet_b6", 1e-3),
    ("torchvision:efficientnet_b7", 1e-3),
    ("torchvision:efficientnet_v2", 1e-3),
    ("torchvision:googlenet", 1e-3),
    ("torchvision:inception_v3", 1e-3),
    ("torchvision:shufflenet_v2", 1e-5),
    ("torchvision:regnet", 1e-5),
    ("ultralytics", 1e-3),
    ("yolox", 1e-3),
];

/// The families of models whose `eps` is known, with it.
#[must_use]
pub const fn presets() -> &'static [(&'static str, f64)] {
    &PRESETS
}

/// The `eps` of a family of models.
#[must_use]
pub fn preset(family: &str) -> Option<f64> {
    PRESETS.iter().find(|(name, _)| *name == family).map(|&(_, eps)| eps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read() {
        let text = r#"{"version": 1, "pairs": [{"conv": "a", "bn": "b"},
            {"conv": "c", "bn": "d", "eps": 0.001, "kind": "deconv", "groups": 4, "dir": "pre", "padding": "none"}]}"#;
        let second = Pair {
            eps: Some(1e-3),
            kind: Some(Kind::ConvTranspose),
            groups: Some(4),
            side: Side::Before,
            padding: Padding::None,
            ..Pair::new("c", "d")
        };
        assert_eq!(pairs_from_json(text).unwrap(), [Pair::new("a", "b"), second]);
    }

    #[test]
    fn wrong_pairs_are_refused() {
        for text in [
            "",
            "[]",
            r#"{"version": 2, "pairs": []}"#,
            r#"{"version": 1}"#,
            r#"{"version": 1, "pairs": [{"conv": "a"}]}"#,
            r#"{"version": 1, "pairs": [{"conv": "a", "bn": "b", "kind": "pool"}]}"#,
            r#"{"version": 1, "pairs": [{"conv": "a", "bn": "b", "eps": "small"}]}"#,
            r#"{"version": 1, "pairs": [{"conv": "a", "bn": "b", "groups": -1}]}"#,
        ] {
            assert!(pairs_from_json(text).is_err(), "{text}");
        }
    }
}
