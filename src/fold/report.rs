//! What a fold did to the numbers.

use std::fmt;

/// Below this, `running_var + eps` deserves a look.
const SMALL_VARIANCE: f64 = 1e-8;
/// Above this, a channel's scale deserves a look.
const LARGE_SCALE: f64 = 1e4;

/// Something that folds exactly but hints at a broken checkpoint or costs accuracy in a narrow type.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// `running_var + eps` is below 1e-8, where the scale depends on the last bits of the variance.
    SmallVariance {
        /// The channel of the `BatchNorm`.
        channel: usize,
        /// The sum.
        var_plus_eps: f64,
    },
    /// The scale's magnitude is above 1e4.
    LargeScale {
        /// The channel of the map.
        channel: usize,
        /// The scale.
        scale: f64,
    },
}

impl Warning {
    /// A name for the kind of warning, for logs and tools; it never changes.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::SmallVariance { .. } => "small-variance",
            Self::LargeScale { .. } => "large-scale",
        }
    }

    /// The warning, if it is about channel `from`, about channel `to`.
    #[cfg(feature = "models")]
    pub(super) fn moved(&self, from: usize, to: usize) -> Option<Self> {
        match *self {
            Self::SmallVariance { channel, var_plus_eps } if channel == from => {
                Some(Self::SmallVariance { channel: to, var_plus_eps })
            }
            Self::LargeScale { channel, scale } if channel == from => Some(Self::LargeScale { channel: to, scale }),
            _ => None,
        }
    }

    pub(super) fn of_variance(channel: usize, var_plus_eps: f64) -> Option<Self> {
        (var_plus_eps < SMALL_VARIANCE).then_some(Self::SmallVariance { channel, var_plus_eps })
    }

    pub(super) fn of_scale(channel: usize, scale: f64) -> Option<Self> {
        (scale.abs() > LARGE_SCALE).then_some(Self::LargeScale { channel, scale })
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SmallVariance { channel, var_plus_eps } => {
                write!(f, "running_var + eps of channel {channel} is only {var_plus_eps:?}")
            }
            Self::LargeScale { channel, scale } => write!(f, "channel {channel} is scaled by {scale:?}"),
        }
    }
}

/// What is notable about a per-channel map.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct AffineReport {
    /// The largest magnitude of a scale, 0 where there are no channels.
    pub max_abs_scale: f64,
    /// The smallest `running_var + eps` of the `BatchNorm`s in the map, where there are any.
    pub min_var_plus_eps: Option<f64>,
    /// The channels whose scale is 0, so that the output is the same for every input.
    pub dead_channels: Vec<usize>,
    /// What deserves a look.
    pub warnings: Vec<Warning>,
}

/// What rounding did to one array of the result.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct RoundingReport {
    /// The largest magnitude, as stored.
    pub max_abs: f64,
    /// How many elements are stored as subnormals, and so with fewer bits.
    pub subnormal: usize,
    /// How many elements are stored as 0 although they were not 0 before the rounding.
    pub underflowed: usize,
}

impl RoundingReport {
    /// That of both arrays.
    #[cfg(feature = "models")]
    pub(super) fn with(self, other: Self) -> Self {
        Self {
            max_abs: self.max_abs.max(other.max_abs),
            subnormal: self.subnormal + other.subnormal,
            underflowed: self.underflowed + other.underflowed,
        }
    }
}

/// What a fold did to the numbers.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct FoldReport {
    /// The map before the layer; its channels are input channels.
    pub before: Option<AffineReport>,
    /// The map after the layer; its channels are output channels.
    pub after: Option<AffineReport>,
    /// The folded weight.
    pub weight: RoundingReport,
    /// The folded bias.
    pub bias: RoundingReport,
}
