//! What a plan says of a model.

use std::fmt;

use crate::element::DType;
use crate::fold::{Refusal, RoundingReport, Side, Warning};

/// What became of a per-channel map.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is part of these layers now.
    Folded {
        /// The layers.
        layers: Vec<String>,
        /// On which side of them it was.
        side: Side,
    },
    /// Its scale is part of these layers now, and its shift an addition in its place.
    ScaleFolded {
        /// The layers.
        layers: Vec<String>,
    },
    /// It is part of another map now.
    Merged {
        /// The node of that map.
        into: String,
    },
    /// It is where it was.
    Refused(Refusal),
}

impl Verdict {
    /// A name for the verdict: `folded`, `scale-folded`, `merged`, or the refusal's code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Folded { .. } => "folded",
            Self::ScaleFolded { .. } => "scale-folded",
            Self::Merged { .. } => "merged",
            Self::Refused(refusal) => refusal.code(),
        }
    }

    /// Why it is where it was, if it is.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folded { layers, side: Side::After } => write!(f, "folded into {}", layers.join(", ")),
            Self::Folded { layers, side: Side::Before } => write!(f, "folded into {} behind it", layers.join(", ")),
            Self::ScaleFolded { layers } => write!(f, "its scale folded into {} behind it", layers.join(", ")),
            Self::Merged { into } => write!(f, "merged into {into}"),
            Self::Refused(refusal) => write!(f, "refused ({}): {refusal}", refusal.code()),
        }
    }
}

/// What a plan says of one per-channel map: of every `BatchNormalization`, and of whatever else is folded.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Row {
    /// The node's name, or that of its output where it has none.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// What kind of layer has absorbed it, as in `Conv2d g4`; empty where none has.
    pub kind: String,
    /// The number of channels; `None` of a map that is the same for all.
    pub channels: Option<usize>,
    /// The largest magnitude of its scales.
    pub max_abs_scale: Option<f64>,
    /// The smallest variance with `epsilon` added.
    pub min_var_plus_eps: Option<f64>,
    /// What deserves a look.
    pub warnings: Vec<Warning>,
    /// What rounding did to the weights of the layers that have absorbed it.
    pub weight: Option<RoundingReport>,
    /// What became of it.
    pub verdict: Verdict,
    /// Bytes that a pass over its input and output moves for one image, where the shapes are known.
    pub bytes_per_image: Option<u64>,
}

/// The sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Summary {
    /// `BatchNormalization` nodes.
    pub batch_norms: usize,
    /// How many of these are gone.
    pub folded: usize,
    /// How many are part of another one.
    pub merged: usize,
    /// How many stay.
    pub refused: usize,
    /// Per-channel maps of other operators that are gone.
    pub other_maps: usize,
    /// Nodes of the graph, before.
    pub nodes_before: usize,
    /// Nodes of the graph, afterwards.
    pub nodes_after: usize,
    /// Bytes of activations, read and written, that are saved for each image; of the nodes whose shapes are known.
    pub bytes_saved_per_image: u64,
    /// Bytes of the model's file, before.
    pub file_before: u64,
    /// Bytes of the model's file, afterwards.
    pub file_after: u64,
}

/// How a model came into another type of elements, after it was folded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conversion {
    /// The type.
    pub dtype: DType,
    /// Constants that are stored in it now and were not before, each rounded once.
    pub tensors: usize,
    /// Nodes that compute in it.
    pub nodes: usize,
    /// Nodes that were added where it meets another type: at the model's inputs and outputs, which keep theirs, and at
    /// operators that do not know it.
    pub casts: usize,
    /// Why the model's layers do not compute in it, if they do not. Only their weights are stored in it then.
    pub stored_only: Option<String>,
}

impl fmt::Display for Conversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, tensors, nodes, casts, stored_only } = self;
        match stored_only {
            Some(reason) => write!(
                f,
                "{tensors} constants are stored as {dtype}, and {casts} casts give them back; nothing computes in it: {reason}"
            ),
            None => write!(f, "{tensors} constants are stored as {dtype}, {nodes} nodes compute in it; {casts} casts"),
        }
    }
}

/// What a plan says of a model.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Report {
    /// The per-channel maps, in the order of the graph.
    pub rows: Vec<Row>,
    /// The sums.
    pub summary: Summary,
    /// How an ONNX model came into another type, if that was wanted.
    pub conversion: Option<Conversion>,
}

impl Summary {
    pub(in crate::fold) fn of(rows: &[Row]) -> Self {
        let mut summary = Self::default();
        rows.iter().for_each(|row| summary.count(row));
        summary
    }

    fn count(&mut self, row: &Row) {
        let is_gone = matches!(row.verdict, Verdict::Folded { .. } | Verdict::Merged { .. });
        if matches!(&*row.op, "BatchNormalization" | "BatchNorm") {
            self.batch_norms += 1;
            match row.verdict {
                Verdict::Folded { .. } | Verdict::ScaleFolded { .. } => self.folded += 1,
                Verdict::Merged { .. } => self.merged += 1,
                Verdict::Refused(_) => self.refused += 1,
            }
        } else {
            self.other_maps += usize::from(is_gone);
        }
        if is_gone {
            // Shapes may be said to be anything.
            let saved = self.bytes_saved_per_image.saturating_add(row.bytes_per_image.unwrap_or(0));
            self.bytes_saved_per_image = saved;
        }
    }
}
