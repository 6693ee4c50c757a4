//! Why a model's file cannot be read, or the folded one not be written.

use std::{io, path::PathBuf};

use crate::element::DType;

/// Why a model's file cannot be read, or the folded one not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no model of its format, or a damaged one.
    #[error("this is not a valid model: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// The file is one that this crate cannot read.
    #[error("this model cannot be read: {what}")]
    Unsupported {
        /// What is not supported.
        what: String,
    },
    /// The model cannot be brought into the type of elements that was wished.
    #[error(
        "this model cannot be brought into {dtype}: it uses opset {opset}, and casts to it are known from {known} on"
    )]
    Unconvertible {
        /// The type.
        dtype: DType,
        /// The version of the standard's operators that the model uses.
        opset: i64,
        /// The first version that would do.
        known: i64,
    },
    /// A tensor's data lies in another file, outside the folder of the model.
    #[error("the tensor {tensor} has its data in {location:?}, which is not inside the model's folder; it is not read")]
    Outside {
        /// The tensor.
        tensor: String,
        /// What the model says of the place.
        location: String,
    },
    /// A tensor's data does not have the length that its shape says, or lies beyond its file's end.
    #[error("the tensor {tensor} has {found} bytes of data, but its shape needs {expected}")]
    TensorLength {
        /// The tensor.
        tensor: String,
        /// The bytes that are there.
        found: usize,
        /// The bytes that should be.
        expected: usize,
    },
}

impl ModelError {
    /// A name for the kind of error, for logs and tools; it never changes.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Malformed { .. } => "malformed",
            Self::Unsupported { .. } => "unsupported",
            Self::Unconvertible { .. } => "unconvertible",
            Self::Outside { .. } => "outside",
            Self::TensorLength { .. } => "tensor-length",
        }
    }

    pub(in crate::fold) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed { what: what.into() }
    }

    pub(in crate::fold) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }

    /// For `map_err`: the file that the system's refusal was about.
    pub(in crate::fold) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.into(), source }
    }
}
