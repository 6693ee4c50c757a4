//! Where a problem is computed.

use crate::args::{Args, Operand};
use crate::check::check;
use crate::element::Stored;
use crate::error::{Error, Result};
use crate::problem::{Buffers, Problem};
use crate::signature::Signature;

pub(crate) mod sealed {
    use crate::args::Operand;
    use crate::error::Result;
    use crate::problem::{Buffers, Problem};

    /// Only this crate can name it, so only this crate implements `Source` and `Sink`: their word is trusted.
    #[derive(Debug, Clone, Copy)]
    pub struct Token;

    /// What a backend does. Out of reach of other crates: addresses are trusted here.
    pub trait Execute: Sized {
        /// Kept by an operand until its call is on the way.
        type Guard<'a>;
        /// All decisions about a problem.
        type Resolved;
        /// Of a workspace.
        type Memory;
        fn resolve(&self, problem: &Problem) -> Result<Self::Resolved>;
        /// Of the workspace that a call needs; 0 if none.
        fn workspace_bytes(resolved: &Self::Resolved) -> usize;
        /// At least so many bytes, all zero.
        fn allocate(&self, bytes: usize) -> Result<Self::Memory>;
        /// The whole of a workspace, its length in bytes.
        fn memory<'a>(&'a self, memory: &'a mut Self::Memory) -> Operand<'a, Self>
        where
            Self: super::Backend;
        fn submit(&self, resolved: &Self::Resolved, buffers: &Buffers) -> Result<()>;
    }
}

/// A place to compute: [`Cuda`](crate::Cuda) or [`Cpu`](crate::Cpu).
pub trait Backend: sealed::Execute {}
impl<B: sealed::Execute> Backend for B {}

/// Something a backend can read elements from: slices on the CPU, cudarc's slices and views on a GPU. Sealed.
pub trait Source<B: Backend, T: Stored> {
    /// The elements as an operand.
    #[doc(hidden)]
    fn read<'a>(&'a self, on: &'a B, _: sealed::Token) -> Operand<'a, B>;
}

/// Something a backend can write elements to. Sealed.
pub trait Sink<B: Backend, T: Stored> {
    /// The elements as an operand.
    #[doc(hidden)]
    fn write<'a>(&'a mut self, on: &'a B, _: sealed::Token) -> Operand<'a, B>;
}

/// A call of which everything but the buffers is decided.
pub struct Prepared<B: Backend> {
    layer: &'static str,
    signature: Signature,
    problem: Problem,
    resolved: B::Resolved,
}

impl<B: Backend> std::fmt::Debug for Prepared<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("layer", &self.layer)
            .field("signature", &self.signature)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Prepared<B> {
    pub(crate) fn new(layer: &'static str, on: &B, signature: Signature, problem: Problem) -> Result<Self> {
        Ok(Self { layer, signature, problem, resolved: on.resolve(&problem)? })
    }

    /// What was decided.
    pub(crate) const fn resolved(&self) -> &B::Resolved {
        &self.resolved
    }

    /// Bytes of the [`Workspace`](crate::Workspace) that the call needs; 0 if it needs none.
    #[must_use]
    pub fn workspace_bytes(&self) -> usize {
        B::workspace_bytes(&self.resolved)
    }

    /// Runs the call on these buffers.
    ///
    /// # Errors
    /// [`Error::NotAsPrepared`] if shape, types, strides or optional tensors differ from the signature; else as of the
    /// layer's `forward`.
    pub fn forward(&self, args: Args<'_, B>) -> Result<()> {
        let found = args.tensors.signature(self.layer)?;
        if let Some(difference) = difference(&found, &self.signature) {
            return Err(difference);
        }
        let buffers: Buffers = check(self.layer, &self.problem, &args.tensors)?;
        args.on.submit(&self.resolved, &buffers)
    }
}

/// The first difference between what was given and what was prepared, if there is one.
fn difference(found: &Signature, prepared: &Signature) -> Option<Error> {
    let (found_strides, prepared_strides) = (found.strides(), prepared.strides());
    macro_rules! first_difference {
        ($($found:expr, $prepared:expr => $argument:literal;)*) => {
            $(if $found != $prepared {
                let (found, expected) = (format!("{:?}", $found), format!("{:?}", $prepared));
                return Some(Error::NotAsPrepared { argument: $argument, found, expected });
            })*
        };
    }
    first_difference! {
        found.shape, prepared.shape => "shape";
        found.output, prepared.output => "output";
        found.dtype, prepared.dtype => "input";
        found.weight, prepared.weight => "weight";
        found.bias, prepared.bias => "bias";
        found.scale, prepared.scale => "scale";
        found.shift, prepared.shift => "shift";
        found.channel_bias, prepared.channel_bias => "channel_bias";
        found.gate, prepared.gate => "gate";
        found.input_bias, prepared.input_bias => "input_bias";
        found.post_norm_weight, prepared.post_norm_weight => "post_norm_weight";
        found.post_norm_bias, prepared.post_norm_bias => "post_norm_bias";
        found.residual, prepared.residual => "residual";
        found.second_residual, prepared.second_residual => "second_residual";
        found.sum, prepared.sum => "sum";
        found.channel_table, prepared.channel_table => "channel_table";
        found.updates, prepared.updates => "update_running_statistics";
        found.counts, prepared.counts => "num_batches_tracked";
        found.key_weight, prepared.key_weight => "key_weight";
        found.key_bias, prepared.key_bias => "key_bias";
        found.key_output, prepared.key_output => "key_output";
        found_strides.input, prepared_strides.input => "input_row_stride";
        found_strides.residual, prepared_strides.residual => "residual_row_stride";
        found_strides.second_residual, prepared_strides.second_residual => "second_residual_row_stride";
        found_strides.sum, prepared_strides.sum => "sum_row_stride";
        found_strides.output, prepared_strides.output => "output_row_stride";
        found_strides.key_input, prepared_strides.key_input => "key_input_row_stride";
        found_strides.key_output, prepared_strides.key_output => "key_output_row_stride";
    }
    None
}
