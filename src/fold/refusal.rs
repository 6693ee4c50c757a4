//! Why a `BatchNorm` of a model stays where it is.

use super::error::FoldError;

/// Why a `BatchNorm`, or another per-channel map, of a model was not folded.
///
/// Nodes and values are named as the model names them. [`FoldError`] is the part of it that concerns arrays alone.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The numbers or shapes do not allow it.
    #[error("{error}{}", .layer.as_ref().map(|layer| format!(" (folding into {layer})")).unwrap_or_default())]
    Arrays {
        /// The layer that it would have been folded into, if it came to that.
        layer: Option<String>,
        /// What is the matter.
        error: FoldError,
    },
    /// Others read what the fold would change.
    #[error("{value}, which it takes, is also read by {}: these need it as it is", .readers.join(", "))]
    ReadElsewhere {
        /// The value.
        value: String,
        /// Who else reads it; where that are very many, the first of them, and how many more.
        readers: Vec<String>,
    },
    /// The value that the fold would change is one of the model's results.
    #[error("{value}, which it takes, is an output of the model, which needs it as it is")]
    IsOutput {
        /// The value.
        value: String,
    },
    /// A graph within the model's reads the value that the fold would change.
    #[error(
        "{value}, which it takes, is read by a graph inside a node (an If or a Loop, say), which needs it as it is"
    )]
    IsCaptured {
        /// The value.
        value: String,
    },
    /// What feeds it is not linear, and nothing behind it absorbs it either.
    #[error("it follows {node}, a {op}, through which a per-channel map cannot be moved")]
    Behind {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
    },
    /// Nothing feeds it but the model's input.
    #[error("it follows the model's input {value}, so there is no layer before it")]
    BehindInput {
        /// The input.
        value: String,
    },
    /// Its channels are on another axis than those of the layer.
    #[error("its channels are on axis {axis}, but those of {layer} are on axis {layer_axis}")]
    Axis {
        /// The layer.
        layer: String,
        /// The axis of the map.
        axis: usize,
        /// The axis of the layer.
        layer_axis: usize,
    },
    /// The model does not say of what shape a value is, and it matters.
    #[error("the shape of {value} is not known well enough to tell which axis has the channels")]
    UnknownShape {
        /// The value.
        value: String,
    },
    /// The statistics are those of the batch.
    #[error("it is in training mode, so its statistics come from each batch; export the model in inference mode")]
    TrainingMode,
    /// The statistics are of each element (`spatial=0`).
    #[error("its statistics are of each position (spatial=0) and not of each channel")]
    PerElement,
    /// A parameter depends on the model's input.
    #[error("{value} is computed by the model and is no constant")]
    NotConstant {
        /// The parameter.
        value: String,
    },
    /// A parameter may be replaced by whoever runs the model.
    #[error(
        "{value} is also an input of the model, so whoever runs it may replace it; if nobody does, fold with \
         --freeze-inputs"
    )]
    Overridable {
        /// The parameter.
        value: String,
    },
    /// A weight is stored in integers.
    #[error("{value}, the weight of {layer}, is quantized; fold the model before it is quantized")]
    Quantized {
        /// The layer.
        layer: String,
        /// The weight.
        value: String,
    },
    /// A parameter cannot be read.
    #[error("{value} cannot be read: {reason}")]
    Unreadable {
        /// The parameter.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor is of a type that a fold cannot produce.
    #[error("{value} is stored as {found}, but folded tensors are f32, f16 or bf16")]
    ElementType {
        /// The tensor.
        value: String,
        /// Its type.
        found: String,
    },
    /// A parameter or a layer is not what the standard says it must be.
    #[error("{node} is not valid: {what}")]
    Invalid {
        /// The node.
        node: String,
        /// What is wrong.
        what: String,
    },
    /// Only the scale could be folded, and a channel has none.
    #[error("channel {channel} has the scale 0, so its shift cannot stay before {layer} alone")]
    ZeroScale {
        /// The layer.
        layer: String,
        /// The first such channel.
        channel: usize,
    },
    /// It is in a graph within the model's graph, or in a function.
    #[error("it is inside {inside}, where nothing is changed")]
    Inside {
        /// What it is in.
        inside: String,
    },
    /// The caller did not want it folded.
    #[error("it was left out by --only or --skip")]
    LeftOut,
    /// A file of tensors does not say `eps`, and nobody else has.
    #[error("its eps is not in the file and is never guessed: say it by --eps, --preset or --pairs")]
    UnknownEps,
    /// By the names of modules it belongs to no layer.
    #[error("no layer before {node} is found by the names of modules")]
    NoLayer {
        /// The `BatchNorm`.
        node: String,
    },
    /// The caller gave pairs, and it is in none of them.
    #[error("it is in none of the pairs that were given")]
    NotListed,
    /// By the names of modules it may belong to several layers, or stand on either side of one.
    #[error("which layer it belongs to cannot be told: {why}")]
    Ambiguous {
        /// What is the matter.
        why: String,
    },
    /// The standard's operators are of a version that is not known.
    #[error("the model uses version {version} of the standard's operators, where only 6 and later are known")]
    Version {
        /// The version.
        version: i64,
    },
}

impl Refusal {
    /// A name for the kind of refusal, for logs and tools; it never changes.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Arrays { error, .. } => error.code(),
            Self::ReadElsewhere { .. } => "read-elsewhere",
            Self::IsOutput { .. } => "is-output",
            Self::IsCaptured { .. } => "is-captured",
            Self::Behind { .. } => "behind",
            Self::BehindInput { .. } => "behind-input",
            Self::Axis { .. } => "axis",
            Self::UnknownShape { .. } => "unknown-shape",
            Self::TrainingMode => "training-mode",
            Self::PerElement => "per-element",
            Self::NotConstant { .. } => "not-constant",
            Self::Overridable { .. } => "overridable",
            Self::Quantized { .. } => "quantized",
            Self::Unreadable { .. } => "unreadable",
            Self::ElementType { .. } => "element-type",
            Self::Invalid { .. } => "invalid",
            Self::ZeroScale { .. } => "zero-scale",
            Self::Inside { .. } => "inside",
            Self::LeftOut => "left-out",
            Self::UnknownEps => "unknown-eps",
            Self::NoLayer { .. } => "no-layer",
            Self::NotListed => "not-listed",
            Self::Ambiguous { .. } => "ambiguous",
            Self::Version { .. } => "version",
        }
    }

    /// The channel that stands in the way, where it is one.
    #[must_use]
    pub const fn channel(&self) -> Option<usize> {
        match self {
            Self::Arrays { error, .. } => error.channel(),
            Self::ZeroScale { channel, .. } => Some(*channel),
            _ => None,
        }
    }
}

impl From<FoldError> for Refusal {
    fn from(error: FoldError) -> Self {
        Self::Arrays { layer: None, error }
    }
}
