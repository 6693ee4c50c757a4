//! What a verification found.

/// One stretch of the graph that was changed, evaluated in f64 before and after on the same random inputs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PairCheck {
    /// The layers and maps whose parameters changed.
    pub nodes: Vec<String>,
    /// The largest error, as a part of the bound: `2u · Σ |W'|·|x|`, with u half the spacing of the type that the folded
    /// weights are stored in. Up to 1 it is what rounding explains. Or why it is not known.
    pub error: Result<f64, String>,
}

/// The whole model, evaluated in f64 before and after on the same random inputs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Whole {
    /// It was compared.
    Compared {
        /// The largest difference of an output, as a part of the largest magnitude in it.
        max_error: f64,
        /// The norm of the differences of an output, as a part of its norm; the largest of them.
        relative_l2: f64,
        /// Of how many rows of two-dimensional outputs the largest element is the same.
        same_largest: (usize, usize),
        /// What `max_error` may be.
        tolerance: f64,
        /// Where `max_error` is more: the first value that differs by more.
        first_different: Option<String>,
    },
    /// There is nothing to evaluate: a state dict holds tensors alone.
    NoGraph,
    /// It was not: the evaluator lacks an operator, say.
    NotVerified {
        /// Why.
        reason: String,
    },
}

/// The result of a verification.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Verification {
    /// The stretches that were changed.
    pub pairs: Vec<PairCheck>,
    /// The whole model.
    pub whole: Whole,
}

impl PairCheck {
    /// Whether the error is within the bound.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.error.as_ref().is_ok_and(|&error| error <= 1.0)
    }
}

impl Whole {
    /// Whether it was compared and found the same, or there is nothing to compare.
    #[must_use]
    pub fn passed(&self) -> bool {
        match self {
            Self::Compared { max_error, tolerance, .. } => max_error <= tolerance,
            Self::NoGraph => true,
            Self::NotVerified { .. } => false,
        }
    }
}

impl Verification {
    /// Whether something was compared and found different.
    #[must_use]
    pub fn failed(&self) -> bool {
        let differs = |pair: &PairCheck| pair.error.is_ok() && !pair.passed();
        self.pairs.iter().any(differs) || matches!(self.whole, Whole::Compared { .. }) && !self.whole.passed()
    }

    /// Whether everything was compared and found the same.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.pairs.iter().all(PairCheck::passed) && self.whole.passed()
    }
}

/// Numbers from a seed, the same on every machine (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// 2014).
pub(in crate::fold) struct Random(u64);

impl Random {
    pub(in crate::fold) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one, from 0 to 1.
    pub(in crate::fold) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
