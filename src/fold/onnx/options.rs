//! What a person may wish of a fold.

use crate::{element::DType, fold::models::selects};

/// What to do with a `BatchNorm` that only the layers behind it could absorb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Forward {
    /// Leave it.
    Off,
    /// Fold it where that is exact: into a `Gemm`, a `MatMul`, a convolution without padding, or without a shift.
    #[default]
    Exact,
    /// Also fold its scale into convolutions padded with zeros, and leave its shift before them as an addition, which is
    /// exact too.
    Scale,
}

/// What to fold, and how far to go.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Patterns of the nodes to fold, with `*` for any text and `?` for any character; all, where there are none.
    pub only: Vec<String>,
    /// Patterns of the nodes not to fold.
    pub skip: Vec<String>,
    /// What to do with a `BatchNorm` before a layer.
    pub forward: Forward,
    /// Whether to merge parallel convolutions and `BatchNorm`s whose outputs are added, as in RepVGG and MobileOne.
    pub merge_branches: bool,
    /// Whether to give a `BatchNorm` a copy of a layer whose output others read too; it costs that layer's work again.
    pub duplicate_shared: bool,
    /// Whether to take initializers that are also inputs of the model for constants.
    pub freeze_inputs: bool,
    /// Whether to also take out what computes nothing: `Identity`, `Dropout` at inference, and arithmetic on shapes that are
    /// known.
    pub tidy: bool,
    /// The type that the model is to compute in after the fold, or at least to store its weights in: see
    /// [`Conversion`](super::Conversion).
    /// `None` keeps each tensor's own.
    pub dtype: Option<DType>,
}

impl Options {
    pub(super) fn selects(&self, name: &str) -> bool {
        selects(&self.only, &self.skip, name)
    }
}
