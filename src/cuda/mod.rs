//! The CUDA backend. All of cudarc is called from here.

mod convolution;
mod driver;
mod image;

pub use convolution::DirectConvolution;

use cudarc::driver::{CudaContext, CudaStream, DevicePtr, DevicePtrMut, DriverError, SyncOnDrop, sys};
use std::sync::Arc;

use crate::args::Operand;
use crate::backend::{Sink, Source, sealed};
use crate::element::Element;
use crate::error::Result;
use crate::plan::{Launch, Limits, plan};
use crate::problem::{Buffers, Problem};
use driver::failure;
use image::Kernels;

/// A CUDA stream, with this crate's kernels loaded into its context.
///
/// Every call goes onto the stream and returns without waiting for it; nothing is allocated and nothing synchronized.
/// Buffers are cudarc's slices and views (anything that implements its `DevicePtr`). Clones share stream and kernels.
///
/// ```no_run
/// use warpnorm::{Args, Cuda, RmsNorm};
///
/// let cuda = Cuda::open(0)?;
/// let stream = cuda.stream();
/// let x = stream.clone_htod(&vec![1.0_f32; 8 * 4096]).unwrap();
/// let mut y = stream.alloc_zeros::<f32>(8 * 4096).unwrap();
/// RmsNorm::new([4096], 1e-6)?.forward(Args::new(&cuda, [8, 4096]).input(&x).output(&mut y))?;
/// # Ok::<(), warpnorm::Error>(())
/// ```
#[derive(Clone)]
pub struct Cuda {
    stream: Arc<CudaStream>,
    kernels: Arc<Kernels>,
    limits: Limits,
}

impl Cuda {
    /// The default stream of a device.
    ///
    /// # Errors
    /// [`NoDriver`](crate::Error::NoDriver), [`OldDriver`](crate::Error::OldDriver),
    /// [`NoDevice`](crate::Error::NoDevice), and those of [`Cuda::on`].
    pub fn open(ordinal: usize) -> Result<Self> {
        Self::on(&driver::open(ordinal)?.default_stream())
    }

    /// A caller's stream. Loads the kernels into its context, which takes milliseconds: do it once, and take
    /// [`with_stream`](Self::with_stream) for other streams of the same context.
    ///
    /// # Errors
    /// [`NoKernels`](crate::Error::NoKernels) or [`Architecture`](crate::Error::Architecture) if this build has no code
    /// for the device, [`OldDriver`](crate::Error::OldDriver) if the driver is too old for the code,
    /// [`Driver`](crate::Error::Driver) if it fails otherwise.
    pub fn on(stream: &Arc<CudaStream>) -> Result<Self> {
        let context = stream.context();
        let kernels = Arc::new(Kernels::load(context)?);
        Ok(Self { stream: stream.clone(), kernels, limits: limits(context)? })
    }

    /// Another stream, with the same kernels if it belongs to the same context.
    ///
    /// # Errors
    /// Those of [`Cuda::on`] if it belongs to another one.
    pub fn with_stream(&self, stream: &Arc<CudaStream>) -> Result<Self> {
        if stream.context() == self.stream.context() {
            return Ok(Self { stream: stream.clone(), ..self.clone() });
        }
        Self::on(stream)
    }

    /// The stream that calls go to.
    #[must_use]
    pub const fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The device's name and compute capability, as in `NVIDIA H200 (sm_90)`.
    ///
    /// # Errors
    /// [`Driver`](crate::Error::Driver) if the driver does not say.
    pub fn device_name(&self) -> Result<String> {
        let context = self.stream.context();
        let name = context.name().map_err(|error| failure("cuDeviceGetName", error))?;
        let (major, minor) = context.compute_capability().map_err(|error| failure("cuDeviceGetAttribute", error))?;
        Ok(format!("{name} (sm_{major}{minor})"))
    }

    /// One driver call: everything was decided before.
    fn launch(&self, launch: &Launch, buffers: &Buffers) -> Result<()> {
        let function = self.kernels.function(launch.kernel)?;
        let bind = |error: DriverError| failure("cuCtxSetCurrent", error);
        self.stream.context().bind_to_thread().map_err(bind)?;
        let mut params = launch.params.with(buffers);
        let mut arguments = [params.pointer()];
        let config = sys::CUlaunchConfig {
            gridDimX: launch.grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: self.stream.cu_stream(),
            attrs: std::ptr::null_mut(),
            numAttrs: 0,
        };
        // SAFETY: every kernel takes one parameter, the structure that its plan made; the driver copies it before it
        // returns. The addresses in it were checked against the problem, and their owners are borrowed until then.
        unsafe { sys::cuLaunchKernelEx(&raw const config, function, arguments.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(|error| failure("cuLaunchKernelEx", error))
    }
}

fn limits(context: &CudaContext) -> Result<Limits> {
    let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let multiprocessors = context.attribute(attribute).map_err(|error| failure("cuDeviceGetAttribute", error))?;
    Ok(Limits { multiprocessors: multiprocessors.unsigned_abs().max(1) })
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cuda").field("device", &self.stream.context().ordinal()).finish_non_exhaustive()
    }
}

impl sealed::Execute for Cuda {
    /// cudarc orders streams by events that its slices record when this is dropped.
    type Guard<'a> = SyncOnDrop<'a>;
    type Resolved = Option<Launch>;

    fn resolve(&self, problem: &Problem) -> Result<Self::Resolved> {
        Ok(plan(problem, &self.limits))
    }

    fn submit(&self, launch: &Self::Resolved, buffers: &Buffers) -> Result<()> {
        launch.as_ref().map_or(Ok(()), |launch| self.launch(launch, buffers))
    }
}

impl<T: Element, S: DevicePtr<T> + ?Sized> Source<Cuda, T> for S {
    fn read<'a>(&'a self, on: &'a Cuda) -> Operand<'a, Cuda> {
        let (address, guard) = self.device_ptr(&on.stream);
        Operand { address, len: self.len(), dtype: T::DTYPE, _guard: guard }
    }
}

impl<T: Element, S: DevicePtrMut<T> + ?Sized> Sink<Cuda, T> for S {
    fn write<'a>(&'a mut self, on: &'a Cuda) -> Operand<'a, Cuda> {
        let len = self.len();
        let (address, guard) = self.device_ptr_mut(&on.stream);
        Operand { address, len, dtype: T::DTYPE, _guard: guard }
    }
}
