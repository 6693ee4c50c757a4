//! Where a problem is computed.

use crate::args::{Args, Operand};
use crate::check::check;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::problem::{Buffers, Problem};
use crate::signature::Signature;

pub(crate) mod sealed {
    use crate::error::Result;
    use crate::problem::{Buffers, Problem};

    /// What a backend does. Out of reach of other crates: addresses are trusted here.
    pub trait Execute: Sized {
        /// Kept by an operand until its call is on the way.
        type Guard<'a>;
        /// All decisions about a problem.
        type Resolved;
        fn resolve(&self, problem: &Problem) -> Result<Self::Resolved>;
        fn submit(&self, resolved: &Self::Resolved, buffers: &Buffers) -> Result<()>;
    }
}

/// A place to compute: [`Cuda`](crate::Cuda) or [`Cpu`](crate::Cpu).
pub trait Backend: sealed::Execute {}
impl<B: sealed::Execute> Backend for B {}

/// Something a backend can read elements from: slices on the CPU, cudarc's slices and views on a GPU.
pub trait Source<B: Backend, T: Element> {
    /// The elements as an operand.
    fn read<'a>(&'a self, on: &'a B) -> Operand<'a, B>;
}

/// Something a backend can write elements to.
pub trait Sink<B: Backend, T: Element> {
    /// The elements as an operand.
    fn write<'a>(&'a mut self, on: &'a B) -> Operand<'a, B>;
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

    /// Runs the call on these buffers.
    ///
    /// # Errors
    /// [`Error::NotAsPrepared`] if shape, types, strides or optional tensors differ from the signature; else as of the
    /// layer's `forward`.
    pub fn forward(&self, args: Args<'_, B>) -> Result<()> {
        let found = args.signature(self.layer)?;
        if found != self.signature {
            return Err(not_as_prepared(&found, &self.signature));
        }
        let buffers: Buffers = check(self.layer, &self.problem, &args)?;
        args.on.submit(&self.resolved, &buffers)
    }
}

/// The first difference between what was given and what was prepared.
#[cold]
fn not_as_prepared(found: &Signature, expected: &Signature) -> Error {
    macro_rules! first_difference {
        ($($field:ident as $argument:literal),*) => {
            $(if found.$field != expected.$field {
                return Error::NotAsPrepared {
                    argument: $argument,
                    found: format!("{:?}", found.$field),
                    expected: format!("{:?}", expected.$field),
                };
            })*
        };
    }
    first_difference!(
        shape as "shape", dtype as "output", weight as "weight", bias as "bias", residual as "residual", sum as "sum",
        channel_table as "channel_table"
    );
    Error::NotAsPrepared {
        argument: "row strides",
        found: format!("{:?}", found.strides),
        expected: format!("{:?}", expected.strides),
    }
}
