//! The raw layer: addresses and streams as integers and handles, for those whose buffers have no type that this crate
//! knows. The C library stands on it, and whatever calls from another framework.
//!
//! A [`Device`] is the CPU, or a CUDA context with the kernels in it. A layer is prepared on it for a
//! [`Signature`], once, and the [`Call`] launched with [`Addresses`], often. Per launch there is no
//! allocation, no synchronization, no event, and no call of the driver but the launch itself and the question which context
//! is current. So it can be captured into a CUDA graph.
//!
//! What can be checked without knowing the buffers is checked: missing and superfluous addresses, alignment, overlap, the
//! workspace. That they are valid, and for how many elements, is the caller's word; hence `unsafe`.
//!
//! ```
//! use warpnorm::{DType, RmsNorm, Signature, raw};
//!
//! let device = raw::Device::cpu(); // or raw::Device::cuda(0)?
//! let signature = Signature::new([2, 4], DType::F32).weight(DType::F32);
//! let call = RmsNorm::new([4], 1e-6)?.prepare_raw(&device, &signature)?;
//!
//! let (x, weight, mut y) = ([3.0_f32; 8], [2.0_f32; 4], [0.0_f32; 8]);
//! let addresses = raw::Addresses {
//!     input: x.as_ptr().expose_provenance() as u64,
//!     weight: weight.as_ptr().expose_provenance() as u64,
//!     output: y.as_mut_ptr().expose_provenance() as u64,
//!     ..Default::default()
//! };
//! // SAFETY: the arrays are as long as the signature says, and nobody else uses them.
//! unsafe { call.launch(&addresses, raw::DEFAULT_STREAM)? };
//! assert!(y.iter().all(|y| (y - 2.0).abs() < 1e-6));
//! # Ok::<(), warpnorm::Error>(())
//! ```
//!
//! On CUDA the address is a device pointer (`CUdeviceptr`, PyTorch's `data_ptr()`, what `DevicePtr::device_ptr` gives), and
//! the stream a `CUstream` (`cudaStream_t`, PyTorch's `current_stream().cuda_stream`). cudarc's slices that are given so are
//! not ordered between streams: that is then the caller's part, as with every other library.

use std::ffi::c_void;
use std::sync::Arc;

use crate::check::check;
use crate::cpu;
use crate::cuda::{Context, Cuda};
use crate::element::{DType, Kind};
use crate::error::{Error, Result};
use crate::plan::{Plan, plan};
use crate::problem::Problem;
use crate::signature::Signature;
use crate::tensors::{Tensor, Tensors};

/// A stream's handle: a `CUstream` or `cudaStream_t`. The CPU has none, and does not look at it.
pub type Stream = *mut c_void;

/// The default stream of the device's context: CUDA's legacy one.
pub const DEFAULT_STREAM: Stream = std::ptr::null_mut();

/// Where calls run. Clones share the kernels.
#[derive(Debug, Clone)]
pub struct Device(Place);

#[derive(Debug, Clone)]
enum Place {
    Cpu,
    Cuda { context: Arc<Context>, programmatic: bool },
}

impl Place {
    fn cuda(context: Context) -> Self {
        Self::Cuda { context: Arc::new(context), programmatic: false }
    }
}

impl Device {
    /// The CPU: addresses are those of the process, and a call has finished when it returns.
    #[must_use]
    pub const fn cpu() -> Self {
        Self(Place::Cpu)
    }

    /// The primary context of a CUDA device, which PyTorch, JAX, candle and the CUDA runtime use. It is retained until the
    /// last clone and call of it is gone. Loads the kernels, which takes milliseconds.
    ///
    /// # Errors
    /// As of [`Cuda::open`].
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Self(Place::cuda(Context::primary(ordinal)?)))
    }

    /// The CUDA context that is current to the calling thread, whoever made it. One that is not the primary one of its device
    /// must live longer than this, and than every call that is prepared on it.
    ///
    /// # Errors
    /// [`Error::NoContext`] if there is none; else as of [`Cuda::on`].
    pub fn current() -> Result<Self> {
        Ok(Self(Place::cuda(Context::current()?)))
    }

    /// Whether calls that are prepared on it from now on may be launched before what is before them on the stream has
    /// finished: see [`Cuda::programmatic_launch`]. The CPU does nothing of the kind.
    #[must_use]
    pub fn programmatic_launch(self, wanted: bool) -> Self {
        match self.0 {
            Place::Cpu => self,
            Place::Cuda { context, .. } => Self(Place::Cuda { context, programmatic: wanted }),
        }
    }

    /// Whether it is a GPU.
    #[must_use]
    pub const fn is_cuda(&self) -> bool {
        matches!(self.0, Place::Cuda { .. })
    }

    /// `CPU`, or a GPU's name and compute capability, as in `NVIDIA H200 (sm_90)`.
    ///
    /// # Errors
    /// [`Error::Driver`] if the driver does not say.
    pub fn name(&self) -> Result<String> {
        match &self.0 {
            Place::Cpu => Ok("CPU".to_owned()),
            Place::Cuda { context, .. } => context.device_name(),
        }
    }

    /// Makes a workspace of memory of the caller's: fills it with zeros, on the stream. Once; calls leave it as the next one
    /// needs it. See [`Workspace`](crate::Workspace) for what may share one.
    ///
    /// # Errors
    /// [`Error::Misaligned`] if the address is no multiple of 16; a failure of the driver.
    ///
    /// # Safety
    /// The memory is this device's, for so many bytes, and nobody else uses it until the stream has come by.
    pub unsafe fn init_workspace(&self, address: u64, bytes: usize, stream: Stream) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        if address == 0 {
            return Err(Error::Workspace { found: 0, needed: bytes });
        }
        if !address.is_multiple_of(16) {
            return Err(Error::Misaligned { argument: "workspace", address, size: 16 });
        }
        match &self.0 {
            Place::Cpu => {
                let memory = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
                // SAFETY: as the caller promised.
                unsafe { memory.write_bytes(0, bytes) };
                Ok(())
            }
            // SAFETY: as the caller promised.
            Place::Cuda { context, .. } => unsafe { context.clear(address, bytes, stream.cast()) },
        }
    }

    pub(crate) fn prepare(&self, layer: &'static str, signature: &Signature, problem: Problem) -> Call {
        let plan = match &self.0 {
            Place::Cpu => Plan::NONE,
            Place::Cuda { context, .. } => plan(&problem, &context.limits()),
        };
        Call { layer, signature: *signature, problem, plan, place: self.0.clone() }
    }
}

/// The context of a typed backend, with its kernels, and launching as it does.
impl From<&Cuda> for Device {
    fn from(cuda: &Cuda) -> Self {
        Self(Place::Cuda { context: cuda.context().clone(), programmatic: cuda.is_programmatic() })
    }
}

/// The addresses of a call's buffers; 0 for what there is not. Named as the methods of [`Args`](crate::Args), and of the
/// lengths and types that the [`Signature`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "they are those of `Args`")]
pub struct Addresses {
    /// 0, or the output's address: in place.
    pub input: u64,
    pub output: u64,
    pub residual: u64,
    pub second_residual: u64,
    /// 0, or the residual's address, where the sum goes into the residual.
    pub sum: u64,
    pub weight: u64,
    pub bias: u64,
    pub scale: u64,
    pub shift: u64,
    pub channel_bias: u64,
    pub gate: u64,
    pub input_bias: u64,
    pub post_norm_weight: u64,
    pub post_norm_bias: u64,
    /// f32: of a quantized output; written, unless its scaling is the static one.
    pub scales: u64,
    /// f32; written by batch statistics.
    pub running_mean: u64,
    /// f32; written by batch statistics.
    pub running_var: u64,
    /// One i64.
    pub num_batches_tracked: u64,
    pub channel_table: u64,
    /// 0, or the address of `key_output`: in place.
    pub key_input: u64,
    pub key_output: u64,
    pub key_weight: u64,
    pub key_bias: u64,
    /// Memory that [`Device::init_workspace`] has prepared, for one call at a time.
    pub workspace: u64,
    /// Its size: at least [`Call::workspace_bytes`].
    pub workspace_bytes: usize,
}

/// A call of which everything but the addresses is decided. Any thread may launch it, and several at once.
#[derive(Debug, Clone)]
pub struct Call {
    layer: &'static str,
    signature: Signature,
    problem: Problem,
    /// Of a device whose calls have one.
    plan: Plan,
    place: Place,
}

impl Call {
    /// Bytes of the workspace that a launch needs; 0 if it needs none, as on the CPU. (Rows that are too long for the chip do
    /// without one too, if more slowly: see [`Workspace`](crate::Workspace).)
    #[must_use]
    pub const fn workspace_bytes(&self) -> usize {
        self.plan.workspace_bytes
    }

    /// Launches it on a stream of the device's context, without waiting for it. On the CPU it has finished on return.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Unexpected`] for an address that the signature has and the call has not, or the other
    /// way round; [`Error::Misaligned`], [`Error::Overlap`], [`Error::Workspace`]; [`Error::Context`] for a stream of
    /// another context; a failure of the driver. Nothing was launched then.
    ///
    /// # Safety
    /// Every address is one of this device's memory, valid for as many elements as the signature and its strides say,
    /// inputs for reads and outputs for writes, from now until the launch has finished on the stream. Nothing else on
    /// another stream or thread writes the inputs or touches the outputs meanwhile. On the CPU the inputs are initialized,
    /// and the provenance of every pointer was exposed. The stream is a live one, or a default one.
    pub unsafe fn launch(&self, addresses: &Addresses, stream: Stream) -> Result<()> {
        if self.signature.shape.elements() == Ok(0) {
            return Ok(());
        }
        let tensors = self.tensors(addresses)?;
        let buffers = check(self.layer, &self.problem, &tensors)?;
        match &self.place {
            Place::Cpu => {
                // SAFETY: as the caller promised, and the check has found them apart.
                unsafe { cpu::run(&self.problem, &buffers) };
                Ok(())
            }
            Place::Cuda { context, programmatic } => {
                // SAFETY: as the caller promised, and the check has found them apart.
                unsafe { context.submit(&self.plan, &buffers, stream.cast(), *programmatic) }
            }
        }
    }

    /// The buffers as the signature has them.
    fn tensors(&self, addresses: &Addresses) -> Result<Tensors> {
        let signature = &self.signature;
        let given = Given { layer: self.layer };
        let data = Some(signature.dtype);
        let f32 = |wanted: bool| wanted.then_some(DType::F32);
        let statistics = self.problem.takes_statistics(signature.updates);
        // In place may be said by the signature, which sees to the strides, or by an address, where they are equal.
        let (input, in_place) = match addresses.input {
            0 => (addresses.output, signature.is_in_place()),
            input => (input, signature.is_in_place() && input == addresses.output),
        };
        let key_input = if addresses.key_input == 0 { addresses.key_output } else { addresses.key_input };
        let is_table = matches!(self.problem, Problem::ChannelTable(_));
        let sum = match addresses.sum {
            sum if signature.is_sum_in_residual() && sum == addresses.residual => 0,
            sum => sum,
        };
        let workspace = Tensor {
            address: addresses.workspace,
            len: Some(addresses.workspace_bytes),
            kind: Kind::Bytes,
            elsewhere: false,
        };
        Ok(Tensors {
            output: given.stored(
                "output",
                addresses.output,
                Some(if is_table { Kind::Element(DType::F32) } else { signature.output.kind() }),
            )?,
            input: match () {
                () if is_table => given.absent("input", addresses.input)?,
                () if in_place => None,
                () => given.tensor("input", input, data)?,
            },
            residual: given.tensor("residual", addresses.residual, data.filter(|_| signature.residual))?,
            second_residual: given.tensor(
                "second_residual",
                addresses.second_residual,
                data.filter(|_| signature.second_residual),
            )?,
            sum: given.tensor("sum", sum, data.filter(|_| signature.sum && !signature.is_sum_in_residual()))?,
            sum_in_residual: signature.is_sum_in_residual(),
            weight: given.tensor("weight", addresses.weight, signature.weight)?,
            bias: given.tensor("bias", addresses.bias, signature.bias)?,
            scale: given.tensor("scale", addresses.scale, signature.scale)?,
            shift: given.tensor("shift", addresses.shift, signature.shift)?,
            channel_bias: given.tensor("channel_bias", addresses.channel_bias, signature.channel_bias)?,
            gate: given.tensor("gate", addresses.gate, signature.gate)?,
            input_bias: given.tensor("input_bias", addresses.input_bias, signature.input_bias)?,
            post_norm_weight: given.tensor(
                "post_norm_weight",
                addresses.post_norm_weight,
                signature.post_norm_weight,
            )?,
            post_norm_bias: given.tensor("post_norm_bias", addresses.post_norm_bias, signature.post_norm_bias)?,
            scaling: signature.output.scaling(),
            scales: given.tensor("scales", addresses.scales, f32(signature.output.scaling().is_some()))?,
            running_mean: given.tensor("running_mean", addresses.running_mean, f32(statistics))?,
            running_var: given.tensor("running_var", addresses.running_var, f32(statistics))?,
            num_batches_tracked: given.stored(
                "num_batches_tracked",
                addresses.num_batches_tracked,
                signature.counts.then_some(Kind::Count),
            )?,
            channel_table: given.tensor("channel_table", addresses.channel_table, f32(signature.channel_table))?,
            key_output: given.tensor("key_output", addresses.key_output, data.filter(|_| signature.key_output))?,
            key_input: if signature.key_output {
                given.tensor("key_input", key_input, data)?
            } else {
                given.absent("key_input", addresses.key_input)?
            },
            key_weight: given.tensor("key_weight", addresses.key_weight, signature.key_weight)?,
            key_bias: given.tensor("key_bias", addresses.key_bias, signature.key_bias)?,
            workspace: (addresses.workspace != 0).then_some(workspace),
            updates: signature.updates,
            ..Tensors::new(signature.shape)
        })
    }
}

/// Addresses against what a signature has.
struct Given {
    layer: &'static str,
}

impl Given {
    /// `None` for what the signature has not.
    fn tensor(&self, argument: &'static str, address: u64, dtype: Option<DType>) -> Result<Option<Tensor>> {
        self.stored(argument, address, dtype.map(Kind::Element))
    }

    fn stored(&self, argument: &'static str, address: u64, kind: Option<Kind>) -> Result<Option<Tensor>> {
        match (address, kind) {
            (0, None) => Ok(None),
            (_, None) => self.absent(argument, address),
            (0, Some(_)) => Err(Error::Missing { layer: self.layer, argument }),
            (_, Some(kind)) => Ok(Some(Tensor { address, len: None, kind, elsewhere: false })),
        }
    }

    fn absent(&self, argument: &'static str, address: u64) -> Result<Option<Tensor>> {
        const HINT: &str = ": the signature that it was prepared for has none";
        match address {
            0 => Ok(None),
            _ => Err(Error::Unexpected { layer: self.layer, argument, hint: HINT }),
        }
    }
}
