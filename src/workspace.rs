//! Memory in which the blocks of a launch meet.

use crate::backend::{Backend, sealed};
use crate::error::Result;

/// Memory that some calls need beside their tensors: partial moments of the parts of a tensor, and the counters by which
/// the last part to finish knows that it is the last. On the CPU no call needs any. Where rows are so long that no chip holds
/// them a call may also do without: a block then reads each row by itself, to the same bits but slower, if rows are few.
///
/// It is made once, by [`init`](Self::init), and left by every call as the next one needs it: a call neither allocates nor
/// clears anything, and can be captured into a CUDA graph and replayed. One workspace serves calls of any kind and size that
/// follow upon each other on one stream; calls that may run at the same time need one each.
///
/// ```
/// use warpnorm::{Args, Cpu, DType, GroupNorm, Layout, Signature, Workspace};
///
/// let layer = GroupNorm::new(4, 8)?.layout(Layout::Nhwc);
/// let prepared = layer.prepare(&Cpu, &Signature::new([1, 5, 5, 8], DType::F32))?;
/// let mut workspace = Workspace::init(&Cpu, prepared.workspace_bytes())?;
/// let mut image = vec![0.5_f32; 5 * 5 * 8];
/// prepared.forward(Args::new(&Cpu, [1, 5, 5, 8]).output(&mut image).workspace(&mut workspace))?;
/// # Ok::<(), warpnorm::Error>(())
/// ```
pub struct Workspace<B: Backend> {
    pub(crate) memory: <B as sealed::Execute>::Memory,
    bytes: usize,
}

impl<B: Backend> Workspace<B> {
    /// At least so many bytes: the largest [`workspace_bytes`](crate::Prepared::workspace_bytes) of the calls that it is for.
    /// On a GPU it is allocated and cleared on the stream of `on`.
    ///
    /// # Errors
    /// [`Driver`](crate::Error::Driver) if there is not so much memory.
    pub fn init(on: &B, bytes: usize) -> Result<Self> {
        Ok(Self { memory: on.allocate(bytes)?, bytes })
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<B: Backend> std::fmt::Debug for Workspace<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workspace").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
