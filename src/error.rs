//! What can be refused, and how it is said.

use crate::element::DType;
use crate::shape::Shape;

/// The result of every fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call was refused. Nothing was launched, and the caller's buffers and stream stay usable, except after
/// [`Error::Driver`] with one of CUDA's sticky codes (a fault inside a kernel).
///
/// Arguments are named as the methods of [`Args`](crate::Args) that set them.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor of more axes than the crate handles.
    #[error("a shape of {found} axes: at most {limit} are supported")]
    Rank {
        /// Axes given.
        found: usize,
        /// The most there can be.
        limit: usize,
    },
    /// The product of a shape's extents does not fit the machine's address space.
    #[error("the shape {shape} has more elements than this machine can address")]
    ShapeOverflow {
        /// The shape.
        shape: Shape,
    },
    /// A shape that the layer cannot take.
    #[error("{layer}: the shape {found} does not fit, expected {expected}")]
    Shape {
        /// The layer.
        layer: &'static str,
        /// The shape given.
        found: Shape,
        /// What the layer takes, in words.
        expected: String,
    },
    /// A parameter that must not be zero or empty, such as the number of groups.
    #[error("{layer}: {parameter} must not be zero or empty")]
    Empty {
        /// The layer.
        layer: &'static str,
        /// The parameter.
        parameter: &'static str,
    },
    /// Groups that do not divide the channels.
    #[error("{num_groups} groups do not divide {num_channels} channels")]
    Groups {
        /// Channels of the layer.
        num_channels: usize,
        /// Groups asked for.
        num_groups: usize,
    },
    /// An `eps` that is negative, NaN or infinite.
    #[error("eps must be finite and not negative, found {found}")]
    Eps {
        /// The value given.
        found: f64,
    },
    /// An argument that the call needs and did not get.
    #[error("{layer}: the argument `{argument}` is missing")]
    Missing {
        /// The layer.
        layer: &'static str,
        /// The argument.
        argument: &'static str,
    },
    /// An argument that the layer has no use for; it would be ignored in silence otherwise.
    #[error("{layer}: the argument `{argument}` does not belong to this layer{hint}")]
    Unexpected {
        /// The layer.
        layer: &'static str,
        /// The argument.
        argument: &'static str,
        /// What to do instead; may be empty.
        hint: &'static str,
    },
    /// A buffer of the wrong length.
    #[error("`{argument}` has {found} elements, expected {expected}")]
    Length {
        /// The argument.
        argument: &'static str,
        /// Its length in elements.
        found: usize,
        /// The length that the shape asks for; with a row stride, the least length.
        expected: usize,
    },
    /// A buffer of the wrong element type.
    #[error("`{argument}` is {found}, expected {expected}")]
    ElementType {
        /// The argument.
        argument: &'static str,
        /// Its element type.
        found: DType,
        /// The types that are accepted, in words.
        expected: &'static str,
    },
    /// A row stride shorter than the row.
    #[error("`{argument}` has a row stride of {found} elements, expected at least the row's length, {length}")]
    RowStride {
        /// The argument.
        argument: &'static str,
        /// The stride given, in elements.
        found: usize,
        /// The row's length, in elements.
        length: usize,
    },
    /// An address that is no multiple of its element's size, or a workspace's of 16 bytes.
    #[error("`{argument}` lies at {address:#x}, which is not a multiple of {size} bytes")]
    Misaligned {
        /// The argument.
        argument: &'static str,
        /// Its address.
        address: u64,
        /// Bytes of an element; of a workspace, what its parts need.
        size: usize,
    },
    /// Two buffers, at least one of them written, that share memory without being the same.
    #[error(
        "`{written}` overlaps `{other}`: only `output` and `sum` may share memory with another argument, with `input` or \
         a residual, and `key_output` with `key_input`, and then exactly"
    )]
    Overlap {
        /// The argument that is written.
        written: &'static str,
        /// The other one.
        other: &'static str,
    },
    /// A workspace that is missing or too small. Nothing of it was touched.
    #[error("the call needs a `workspace` of {needed} bytes, and has {found}: make it by Workspace::init")]
    Workspace {
        /// Its bytes; 0 if there is none.
        found: usize,
        /// The bytes that the call needs, as `workspace_bytes` says.
        needed: usize,
    },
    /// Batch statistics of a single value a channel: their variance would be 0, and its unbiased estimate nothing.
    #[error("{layer}: the shape {found} has one value a channel, of which there is no variance")]
    OneValue {
        /// The layer.
        layer: &'static str,
        /// The shape given.
        found: Shape,
    },
    /// A momentum that is no share.
    #[error("momentum must lie between 0 and 1, found {found}")]
    Momentum {
        /// The value given.
        found: f64,
    },
    /// A buffer in the memory of another device than the call's.
    #[error("`{argument}` lies on another device than the one that this call is for")]
    Device {
        /// The argument.
        argument: &'static str,
    },
    /// A prepared call was given other arguments than it was prepared for.
    #[error("`{argument}` differs from what the call was prepared for: found {found}, expected {expected}")]
    NotAsPrepared {
        /// The argument.
        argument: &'static str,
        /// What was given.
        found: String,
        /// What the call was prepared for.
        expected: String,
    },
    /// A size beyond what a launch can express.
    #[error("{what} is {found}, beyond the limit of {limit}")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// How large it was.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// There is no NVIDIA driver on this machine.
    #[error("no NVIDIA driver was found (libcuda.so.1): install one, or use the CPU backend")]
    NoDriver,
    /// There is a driver, but not the device that was asked for.
    #[error("there is no CUDA device {ordinal}: the driver reports {count}")]
    NoDevice {
        /// The device asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The calling thread has no current CUDA context.
    #[error("the calling thread has no current CUDA context: make one current, or name a device by its ordinal")]
    NoContext,
    /// A stream of another context than the one that the call was prepared for.
    #[error("the stream belongs to another CUDA context than the one that this call was prepared for")]
    Context,
    /// The driver is older than the kernels' format or the crate's calls need.
    #[error("the NVIDIA driver supports CUDA {found}, and this build needs {needed}: update the driver")]
    OldDriver {
        /// The CUDA version of the driver, as `major.minor`.
        found: String,
        /// The least version that serves, in words where it is not known.
        needed: String,
    },
    /// The crate was built without CUDA kernels.
    #[error(
        "this build of warpnorm holds no CUDA kernels ({note}): build it again where nvcc can be found, or name a ready \
         image by WARPNORM_FATBIN"
    )]
    NoKernels {
        /// Why there are none.
        note: &'static str,
    },
    /// The kernels were built for other chips.
    #[error(
        "this build of warpnorm holds kernels for {built}, not for a device of compute capability {found}: {advice}"
    )]
    Architecture {
        /// The device's compute capability, as `major.minor`.
        found: String,
        /// The architectures of the image.
        built: &'static str,
        /// What to do about it.
        advice: String,
    },
    /// The image lacks a kernel that the crate knows: image and crate are of different versions.
    #[error("the CUDA image lacks the kernel {name}: it was made from other sources than this crate")]
    NoKernel {
        /// The kernel.
        name: String,
    },
    /// A call of the CUDA driver failed.
    #[error("{call} failed with CUDA error {code}: {message}")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// The driver's error code.
        code: u32,
        /// The driver's description of it.
        message: String,
    },
}
