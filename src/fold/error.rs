//! Why a fold was refused.

/// Which side of a layer a per-channel map stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The map feeds the layer: one channel of the map for each input channel.
    Before,
    /// The layer feeds the map: one channel of the map for each output channel.
    After,
}

impl Side {
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Before => ("before", "input"),
            Self::After => ("after", "output"),
        }
    }
}

/// Why a fold was refused. Nothing has been written when one is returned.
///
/// Arguments are named as they were given: `running_var`, `bn.weight` and `bn.bias` of a `BatchNorm`; `layer.weight`
/// and `layer.bias` of a layer, also of each branch; `folded.weight` and `folded.bias` of the result. The sentences say `BatchNorm` for any
/// per-channel map, as that is what it nearly always is.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FoldError {
    /// An array does not have one element for each channel, or each weight.
    #[error("{argument} has {found} elements, but {expected} are needed")]
    LengthMismatch {
        /// The array.
        argument: &'static str,
        /// Its length.
        found: usize,
        /// The length that it should have.
        expected: usize,
    },
    /// The map beside the layer has another number of channels than the layer has on that side.
    #[error(
        "the BatchNorm {} the layer has {found} channels, but the layer has {expected} {} channels",
        .side.names().0, .side.names().1
    )]
    ChannelMismatch {
        /// Where the map stands.
        side: Side,
        /// Channels of the map.
        found: usize,
        /// Channels of the layer on that side.
        expected: usize,
    },
    /// Two maps that follow each other have different numbers of channels.
    #[error("a BatchNorm of {first} channels cannot be followed by one of {second} channels")]
    CompositionMismatch {
        /// Channels of the map that is applied first.
        first: usize,
        /// Channels of the map that follows it.
        second: usize,
    },
    /// The weight's shape has too few or too many axes for the layer.
    #[error("the shape {shape:?} of layer.weight has {} axes, but a {layer} weight has {expected}", shape.len())]
    WeightRank {
        /// The layer's name.
        layer: &'static str,
        /// The shape that was given.
        shape: Vec<usize>,
        /// How many axes are allowed, in words.
        expected: &'static str,
    },
    /// The weight's shape does not describe the weight's array.
    #[error("layer.weight has {found} elements, but its shape {shape:?} holds {expected}")]
    WeightLength {
        /// The shape that was given.
        shape: Vec<usize>,
        /// The array's length.
        found: usize,
        /// The shape's product.
        expected: usize,
    },
    /// The product of the weight's shape, or its number of channels, is beyond what this machine can count.
    #[error("the shape {shape:?} of layer.weight, in {groups} groups, describes more elements than can be counted")]
    ShapeOverflow {
        /// The shape that was given.
        shape: Vec<usize>,
        /// The groups that were given.
        groups: usize,
    },
    /// The weight has no elements, yet the layer has output channels.
    #[error("the shape {shape:?} of layer.weight has an axis of length 0, so no output channel has a weight")]
    EmptyWeight {
        /// The shape that was given.
        shape: Vec<usize>,
    },
    /// `groups` is 0.
    #[error("groups is 0, but a convolution has at least 1 group")]
    ZeroGroups,
    /// The channels cannot be split into that many groups.
    #[error("the {channels} channels on axis 0 of layer.weight cannot be split into {groups} equal groups")]
    IndivisibleGroups {
        /// The groups that were given.
        groups: usize,
        /// Length of the weight's axis 0: output channels of a convolution, input channels of a transposed one.
        channels: usize,
    },
    /// `eps` is negative, infinite or NaN.
    #[error("eps is {eps:?}, but it must be a finite number that is not negative")]
    InvalidEps {
        /// The value.
        eps: f64,
    },
    /// A variance is negative, infinite or NaN.
    #[error("running_var of channel {channel} is {value:?}, but a variance is a finite number that is not negative")]
    InvalidVariance {
        /// The first such channel.
        channel: usize,
        /// Its variance.
        value: f64,
    },
    /// A variance and `eps` are both 0, so the `BatchNorm` divides by 0.
    #[error("running_var of channel {channel} and eps are both 0, so this BatchNorm divides by 0")]
    ZeroVariance {
        /// The first such channel.
        channel: usize,
    },
    /// A parameter is infinite or NaN.
    #[error("{argument} of channel {channel} is {value:?} (element {index}), but every parameter must be finite")]
    NonFinite {
        /// The array.
        argument: &'static str,
        /// The channel; for `layer.weight` the output channel.
        channel: usize,
        /// The element's place in the array.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// A result is too large for the type it is to be stored in.
    #[error("{argument} of channel {channel} would be {value:?}, but the largest {target} is {limit:?}")]
    Overflow {
        /// The array.
        argument: &'static str,
        /// The first channel with such a result; for `folded.weight` the output channel.
        channel: usize,
        /// The result before it is rounded; NaN where intermediate results exceeded f64.
        value: f64,
        /// The type's largest finite value.
        limit: f64,
        /// The type's name.
        target: &'static str,
    },
    /// The map before a convolution shifts a channel, and the convolution pads with zeros, which miss that shift.
    #[error(
        "the BatchNorm before a zero-padded convolution cannot be folded exactly, because channel {channel} is shifted \
         by {shift:?} and the padding is not; fold it into the layer before it, or leave it in place"
    )]
    PaddedShift {
        /// The first channel with a shift.
        channel: usize,
        /// What the map makes of 0 in that channel.
        shift: f64,
    },
    /// The map before a transposed convolution shifts a channel, and each output sums another number of its taps.
    #[error(
        "the BatchNorm before a transposed convolution cannot be folded exactly, because channel {channel} is shifted by \
         {shift:?} and outputs differ in how many taps they sum; fold it into the layer before it, or leave it in place"
    )]
    TransposedShift {
        /// The first channel with a shift.
        channel: usize,
        /// What the map makes of 0 in that channel.
        shift: f64,
    },
    /// One of several branches is what the matter is about.
    #[error("of branch {index}: {error}")]
    Branch {
        /// Its place among the branches.
        index: usize,
        /// What is the matter; never a `Branch` itself.
        error: Box<Self>,
    },
    /// No branch has a kernel.
    #[error("none of the {branches} branches is a convolution, so there is no kernel that the others can be set into")]
    NothingToMerge {
        /// How many branches there are.
        branches: usize,
    },
    /// A branch is another layer than a convolution.
    #[error("it is a {layer}, but branches are convolutions and identities")]
    NotAConvolution {
        /// The layer's name.
        layer: &'static str,
    },
    /// A branch differs from that with the largest kernel.
    #[error("it has {found} {what}, but the branch with the largest kernel has {expected}")]
    UnequalBranches {
        /// What is counted.
        what: &'static str,
        /// How many the branch has.
        found: usize,
        /// How many the branch with the largest kernel has.
        expected: usize,
    },
    /// The input itself is added to outputs of another number of channels.
    #[error("it is an identity, but the convolutions have {inputs} input channels and {outputs} output channels")]
    IdentityChannels {
        /// Input channels of the convolutions.
        inputs: usize,
        /// Their output channels.
        outputs: usize,
    },
    /// A stride or a dilation is 0.
    #[error("{argument} of axis {axis} is 0, but it must be at least 1")]
    ZeroStep {
        /// The list.
        argument: &'static str,
        /// The spatial axis.
        axis: usize,
    },
    /// A branch moves over its input by other steps.
    #[error("its stride on axis {axis} is {found}, but that of the largest kernel is {expected}")]
    UnequalStrides {
        /// The spatial axis.
        axis: usize,
        /// The branch's stride.
        found: usize,
        /// That of the branch with the largest kernel.
        expected: usize,
    },
    /// The taps of a branch meet other inputs than those of the largest kernel do, or it has another number of outputs.
    #[error(
        "its kernel does not lie in the largest one: on axis {axis} its taps meet other inputs, or it has another number of \
         outputs"
    )]
    KernelOutside {
        /// The first such spatial axis.
        axis: usize,
    },
}

impl FoldError {
    /// A name for the kind of refusal, for logs and tools; it never changes.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::LengthMismatch { .. } => "length-mismatch",
            Self::ChannelMismatch { .. } => "channel-mismatch",
            Self::CompositionMismatch { .. } => "composition-mismatch",
            Self::WeightRank { .. } => "weight-rank",
            Self::WeightLength { .. } => "weight-length",
            Self::ShapeOverflow { .. } => "shape-overflow",
            Self::EmptyWeight { .. } => "empty-weight",
            Self::ZeroGroups => "zero-groups",
            Self::IndivisibleGroups { .. } => "indivisible-groups",
            Self::InvalidEps { .. } => "invalid-eps",
            Self::InvalidVariance { .. } => "invalid-variance",
            Self::ZeroVariance { .. } => "zero-variance",
            Self::NonFinite { .. } => "non-finite",
            Self::Overflow { .. } => "overflow",
            Self::PaddedShift { .. } => "padded-shift",
            Self::TransposedShift { .. } => "transposed-shift",
            Self::Branch { error, .. } => error.code(),
            Self::NothingToMerge { .. } => "nothing-to-merge",
            Self::NotAConvolution { .. } => "not-a-convolution",
            Self::UnequalBranches { .. } => "unequal-branches",
            Self::IdentityChannels { .. } => "identity-channels",
            Self::ZeroStep { .. } => "zero-step",
            Self::UnequalStrides { .. } => "unequal-strides",
            Self::KernelOutside { .. } => "kernel-outside",
        }
    }

    /// The channel that stands in the way, where it is one.
    #[must_use]
    pub const fn channel(&self) -> Option<usize> {
        match self {
            Self::InvalidVariance { channel, .. }
            | Self::ZeroVariance { channel }
            | Self::NonFinite { channel, .. }
            | Self::Overflow { channel, .. }
            | Self::PaddedShift { channel, .. }
            | Self::TransposedShift { channel, .. } => Some(*channel),
            Self::Branch { error, .. } => error.channel(),
            _ => None,
        }
    }

    /// For `map_err`: of which branch the refusal is.
    pub(super) fn of_branch(index: usize) -> impl Fn(Self) -> Self {
        move |error| Self::Branch { index, error: Box::new(error) }
    }

    /// `value` where it is finite, or else the refusal of a result beyond f64 itself.
    pub(super) fn finite_f64(argument: &'static str, channel: usize, value: f64) -> Result<f64, Self> {
        if value.is_finite() {
            Ok(value)
        } else {
            Err(Self::Overflow { argument, channel, value, limit: f64::MAX, target: "f64" })
        }
    }
}
