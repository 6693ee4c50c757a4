//! A CUDA context with this crate's kernels in it, by the driver's raw handles.

use cudarc::driver::{CudaContext, sys};
use std::ffi::c_int;
use std::sync::Arc;

use super::driver::{self, failure};
use super::image::Kernels;
use crate::error::{Error, Result};
use crate::plan::params::Kernel;
use crate::plan::{Launch, Limits, MAX_GRID, PORTABLE_CLUSTER, Plan};
use crate::problem::Buffers;

/// The kernels that are launched in clusters, and with shared memory beyond their own.
const SHARING: [Kernel; 21] = [
    Kernel::rows_shared_f32,
    Kernel::rows_shared_f16,
    Kernel::rows_shared_bf16,
    Kernel::rows_any_shared_f32,
    Kernel::rows_any_shared_f16,
    Kernel::rows_any_shared_bf16,
    Kernel::fused_rows_shared_f32,
    Kernel::fused_rows_shared_f16,
    Kernel::fused_rows_shared_bf16,
    Kernel::fused_rows_any_shared_f32,
    Kernel::fused_rows_any_shared_f16,
    Kernel::fused_rows_any_shared_bf16,
    Kernel::channels_last_resident_f32,
    Kernel::channels_last_resident_f16,
    Kernel::channels_last_resident_bf16,
    Kernel::channels_last_any_resident_f32,
    Kernel::channels_last_any_resident_f16,
    Kernel::channels_last_any_resident_bf16,
    Kernel::batch_statistics_planes_resident_f32,
    Kernel::batch_statistics_planes_resident_f16,
    Kernel::batch_statistics_planes_resident_bf16,
];

/// Code that was compiled for this capability or a later one knows of its cluster, and waits where a launch may begin early
/// (`kernels/device.cuh`).
const LATE_CODE: c_int = 90;

/// Of a block. Some kernels are compiled for more, so that the compiler leaves a multiprocessor room for several blocks.
const MOST_THREADS: u32 = 1024;

/// Beyond the portable size a kernel must allow it, and the chip have room.
const MOST_OF_CLUSTER: u32 = 16;

/// Whatever keeps a context alive beside its owner's word.
#[allow(dead_code, reason = "held, never read")]
enum Alive {
    /// The primary context of a device, retained.
    Primary(Arc<CudaContext>),
    /// The caller's own: it promised to destroy it later than this.
    Callers,
}

pub(crate) struct Context {
    /// Unloaded before the context is let go.
    kernels: Kernels,
    handle: sys::CUcontext,
    limits: Limits,
    /// Whether the kernels know programmatic dependent launch.
    has_programmatic_launch: bool,
    /// Always there, until it is dropped.
    alive: Option<Alive>,
}

// SAFETY: contexts, modules and functions of the driver are named by handles that any thread may use.
unsafe impl Send for Context {}
// SAFETY: as above, and nothing here changes.
unsafe impl Sync for Context {}

impl Context {
    /// Loads the kernels into a context of cudarc's.
    pub(super) fn of(context: &Arc<CudaContext>) -> Result<Self> {
        Self::load(context.cu_ctx(), Alive::Primary(context.clone()))
    }

    /// The primary context of a device. The calling thread's current context stays what it is.
    pub(crate) fn primary(ordinal: usize) -> Result<Self> {
        if driver::init()? == 0 {
            return Err(Error::NoDevice { ordinal, count: 0 });
        }
        let _current = Current::keep()?;
        Self::of(&driver::open(ordinal)?)
    }

    /// The calling thread's current context, retained where it is a device's primary one.
    pub(crate) fn current() -> Result<Self> {
        if driver::init()? == 0 {
            return Err(Error::NoContext);
        }
        let handle = current()?;
        if handle.is_null() {
            return Err(Error::NoContext);
        }
        let mut device = 0;
        // SAFETY: an integer to write to.
        driver::call("cuCtxGetDevice", unsafe { sys::cuCtxGetDevice(&raw mut device) })?;
        let _current = Current::keep()?;
        let primary =
            CudaContext::new(ordinal_of(device)?).map_err(|error| failure("cuDevicePrimaryCtxRetain", error))?;
        if primary.cu_ctx() == handle { Self::of(&primary) } else { Self::load(handle, Alive::Callers) }
    }

    fn load(handle: sys::CUcontext, alive: Alive) -> Result<Self> {
        let _current = Current::enter(handle)?;
        let mut device = 0;
        // SAFETY: an integer to write to; a context is current.
        driver::call("cuCtxGetDevice", unsafe { sys::cuCtxGetDevice(&raw mut device) })?;
        let kernels = Kernels::load(device)?;
        let is_late = code_capability(&kernels)? >= LATE_CODE;
        let limits = limits(device, &kernels, is_late)?;
        Ok(Self { kernels, handle, limits, has_programmatic_launch: is_late, alive: Some(alive) })
    }

    pub(crate) const fn limits(&self) -> Limits {
        self.limits
    }

    /// The device's name and compute capability, as in `NVIDIA H200 (sm_90)`.
    pub(crate) fn device_name(&self) -> Result<String> {
        let _current = Current::enter(self.handle)?;
        let mut device = 0;
        // SAFETY: an integer to write to; a context is current.
        driver::call("cuCtxGetDevice", unsafe { sys::cuCtxGetDevice(&raw mut device) })?;
        let (major, minor) = driver::compute_capability(device)?;
        Ok(format!("{} (sm_{major}{minor})", driver::device_name(device)?))
    }

    /// Fills memory with zeros, on a stream.
    ///
    /// # Safety
    /// The memory belongs to this context, and nothing else uses it until the stream has come by.
    pub(crate) unsafe fn clear(&self, address: u64, bytes: usize, stream: sys::CUstream) -> Result<()> {
        let _current = Current::enter(self.handle)?;
        // SAFETY: as the caller promised.
        driver::call("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(address, 0, bytes, stream) })
            .map_err(|error| self.explain(error, stream))
    }

    /// The launches of a plan, one driver call each: everything was decided before. By programmatic dependent launch, if that
    /// is wanted and the kernels know it.
    ///
    /// # Safety
    /// The buffers are what the plan's problem says, and stay so until the stream has come by.
    pub(crate) unsafe fn submit(
        &self,
        plan: &Plan,
        buffers: &Buffers,
        stream: sys::CUstream,
        programmatic: bool,
    ) -> Result<()> {
        let does_without = buffers.workspace == 0 && plan.otherwise.is_some();
        if buffers.workspace_bytes < plan.workspace_bytes && !does_without {
            return Err(Error::Workspace { found: buffers.workspace_bytes, needed: plan.workspace_bytes });
        }
        let _current = Current::enter(self.handle)?;
        let programmatic = programmatic && self.has_programmatic_launch;
        // SAFETY: as the caller promised.
        plan.launches_of(buffers).try_for_each(|launch| unsafe { self.launch(launch, buffers, stream, programmatic) })
    }

    /// # Safety
    /// As of [`submit`](Self::submit). The context must be current, and the kernels know programmatic launch if it is wanted.
    unsafe fn launch(
        &self,
        launch: &Launch,
        buffers: &Buffers,
        stream: sys::CUstream,
        programmatic: bool,
    ) -> Result<()> {
        let function = self.kernels.function(launch.kernel)?;
        let mut params = launch.params.with(buffers);
        let mut arguments = [params.pointer()];
        // Those that are wanted lie next to each other.
        let mut attributes = [cluster_of(launch.cluster), programmatic_launch()];
        let (first, end) = (usize::from(launch.cluster == 1), 1 + usize::from(programmatic));
        let wanted = &mut attributes[first..end];
        let config = sys::CUlaunchConfig {
            gridDimX: launch.grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared,
            hStream: stream,
            attrs: wanted.as_mut_ptr(),
            numAttrs: wanted.len() as u32,
        };
        // SAFETY: every kernel takes one parameter, the structure that its plan made; the driver copies it before it
        // returns. The addresses in it are the caller's word.
        let status =
            unsafe { sys::cuLaunchKernelEx(&raw const config, function, arguments.as_mut_ptr(), std::ptr::null_mut()) };
        driver::call("cuLaunchKernelEx", status).map_err(|error| self.explain(error, stream))
    }

    /// A driver's refusal, by its reason where that is a stream of another context.
    #[cold]
    fn explain(&self, error: Error, stream: sys::CUstream) -> Error {
        let suspects = [sys::CUresult::CUDA_ERROR_INVALID_HANDLE, sys::CUresult::CUDA_ERROR_INVALID_CONTEXT];
        let is_suspect = matches!(error, Error::Driver { code, .. } if suspects.iter().any(|&at| at as u32 == code));
        let mut owner = std::ptr::null_mut();
        // SAFETY: the driver checks the handle, as it just did, and writes one pointer.
        if is_suspect
            && unsafe { sys::cuStreamGetCtx(stream, &raw mut owner) } == sys::CUresult::CUDA_SUCCESS
            && owner != self.handle
        {
            return Error::Context;
        }
        error
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // cudarc leaves another context current than it found.
        let _current = Current::keep();
        // What cannot be unloaded goes with its context.
        if set_current(self.handle).is_ok() {
            self.kernels.unload();
        }
        self.alive = None;
    }
}

fn current() -> Result<sys::CUcontext> {
    let mut handle = std::ptr::null_mut();
    // SAFETY: a pointer to write to.
    driver::call("cuCtxGetCurrent", unsafe { sys::cuCtxGetCurrent(&raw mut handle) })?;
    Ok(handle)
}

fn set_current(handle: sys::CUcontext) -> Result<()> {
    // SAFETY: a context's handle, or null for none.
    driver::call("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(handle) })
}

/// The calling thread's current context, which is put back at the end.
struct Current {
    previous: Option<sys::CUcontext>,
}

impl Current {
    /// Makes a context current, if it is not.
    fn enter(handle: sys::CUcontext) -> Result<Self> {
        let previous = current()?;
        if previous == handle {
            return Ok(Self { previous: None });
        }
        set_current(handle)?;
        Ok(Self { previous: Some(previous) })
    }

    /// Whatever is done to it meanwhile.
    fn keep() -> Result<Self> {
        Ok(Self { previous: Some(current()?) })
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        if let Some(previous) = self.previous {
            // Nobody is left to be told, and the caller's next call will say it.
            let _ = set_current(previous);
        }
    }
}

fn ordinal_of(device: sys::CUdevice) -> Result<usize> {
    let mut count = 0;
    // SAFETY: an integer to write to.
    driver::call("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
    for ordinal in 0..count {
        let mut found = 0;
        // SAFETY: an integer to write to.
        driver::call("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut found, ordinal) })?;
        if found == device {
            return Ok(ordinal.unsigned_abs() as usize);
        }
    }
    Err(Error::NoDevice { ordinal: device.unsigned_abs() as usize, count: count.unsigned_abs() as usize })
}

/// The `__CUDA_ARCH__` for which the loaded code was compiled, over 10. Not the device's capability: a chip that the image has
/// no machine code for gets what the driver makes of PTX, which may be older than the chip.
fn code_capability(kernels: &Kernels) -> Result<c_int> {
    // Every fatbin holds the same architectures.
    attribute(kernels.function(SHARING[0])?, sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION)
}

fn attribute(function: sys::CUfunction, attribute: sys::CUfunction_attribute) -> Result<c_int> {
    let mut value = 0;
    // SAFETY: an integer to write to, and a loaded function.
    let status = unsafe { sys::cuFuncGetAttribute(&raw mut value, attribute, function) };
    driver::call("cuFuncGetAttribute", status)?;
    Ok(value)
}

fn limits(device: sys::CUdevice, kernels: &Kernels, is_late: bool) -> Result<Limits> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH as CLUSTERS,
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as SHARED,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as MULTIPROCESSORS,
    };
    let multiprocessors: c_int = driver::attribute(device, MULTIPROCESSORS)?;
    let shared = driver::attribute(device, SHARED)?;
    let has_clusters = is_late && driver::attribute(device, CLUSTERS)? != 0;
    let mut cluster = if has_clusters { MOST_OF_CLUSTER } else { 1 };
    let dynamic = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    for kernel in SHARING {
        let function = kernels.function(kernel)?;
        set_attribute(function, dynamic, shared)?;
        let allowed = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
        if has_clusters && set_attribute(function, allowed, 1).is_err() {
            cluster = cluster.min(PORTABLE_CLUSTER);
        }
        let threads = attribute(function, sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
        while cluster > 1 && !fits(function, cluster, threads.unsigned_abs().min(MOST_THREADS), shared.unsigned_abs()) {
            cluster /= 2;
        }
    }
    let multiprocessors = multiprocessors.unsigned_abs().max(1);
    Ok(Limits { multiprocessors, max_grid: MAX_GRID, shared: shared.unsigned_abs(), cluster })
}

fn set_attribute(function: sys::CUfunction, attribute: sys::CUfunction_attribute, value: c_int) -> Result<()> {
    // SAFETY: a loaded function of the current context.
    driver::call("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(function, attribute, value) })
}

/// Whether the device can hold a cluster of so many blocks, of so many threads and with so much shared memory each.
fn fits(function: sys::CUfunction, blocks: u32, threads: u32, shared: u32) -> bool {
    let mut cluster = cluster_of(blocks);
    let config = sys::CUlaunchConfig {
        gridDimX: blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: shared,
        hStream: std::ptr::null_mut(),
        attrs: &raw mut cluster,
        numAttrs: 1,
    };
    let mut clusters = 0;
    // SAFETY: a loaded function, a configuration that outlives the call, and an integer to write to.
    let status = unsafe { sys::cuOccupancyMaxActiveClusters(&raw mut clusters, function, &raw const config) };
    // What the driver refuses does not fit either.
    status == sys::CUresult::CUDA_SUCCESS && clusters > 0
}

fn cluster_of(blocks: u32) -> sys::CUlaunchAttribute {
    // SAFETY: integers alone, for which zero is a value.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: blocks, y: 1, z: 1 };
    attribute
}

/// Allows a kernel to begin before the one before it has finished. Ours wait for that by themselves.
fn programmatic_launch() -> sys::CUlaunchAttribute {
    // SAFETY: integers alone, for which zero is a value.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
    attribute
}
