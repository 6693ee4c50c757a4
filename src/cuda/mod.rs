//! The CUDA backend. All of cudarc is called from here.

mod context;
mod convolution;
mod driver;
mod image;

pub use convolution::DirectConvolution;

pub(crate) use context::Context;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};
use std::sync::Arc;

use crate::args::Operand;
use crate::backend::{Prepared, Sink, Source, sealed};
use crate::element::Stored;
use crate::error::Result;
use crate::plan::{Launch, Limits, Plan, params, plan};
use crate::problem::{Buffers, Problem};
use crate::tensors::Tensor;
use driver::failure;

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
    context: Arc<Context>,
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
        let context = Arc::new(Context::of(stream.context())?);
        let limits = context.limits();
        Ok(Self { stream: stream.clone(), context, limits })
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
        self.context.device_name()
    }

    /// Whether memory that was allocated on `stream` belongs to another context, and so to another device.
    fn is_elsewhere(&self, stream: &CudaStream) -> bool {
        stream.context() != self.stream.context()
    }

    /// The kernels, in the stream's context.
    pub(crate) const fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// cudarc keeps what failed where it could not be returned (a destructor, an event), and returns it here.
    fn check_earlier(&self) -> Result<()> {
        self.stream.context().check_err().map_err(|error| failure("an earlier call on this context", error))
    }
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cuda").field("device", &self.stream.context().ordinal()).finish_non_exhaustive()
    }
}

impl sealed::Execute for Cuda {
    /// cudarc orders streams by events that its slices record when this is dropped.
    type Guard<'a> = SyncOnDrop<'a>;
    type Resolved = Plan;
    type Memory = CudaSlice<u8>;

    fn resolve(&self, problem: &Problem) -> Result<Self::Resolved> {
        Ok(plan(problem, &self.limits))
    }

    fn workspace_bytes(plan: &Plan) -> usize {
        plan.workspace_bytes
    }

    fn allocate(&self, bytes: usize) -> Result<CudaSlice<u8>> {
        // CUDA has no allocation of nothing.
        self.stream.alloc_zeros(bytes.max(1)).map_err(|error| failure("cuMemAlloc", error))
    }

    fn memory<'a>(&'a self, memory: &'a mut CudaSlice<u8>) -> Operand<'a, Self> {
        let (len, elsewhere) = (memory.len(), self.is_elsewhere(memory.stream()));
        let (address, guard) = memory.device_ptr_mut(&self.stream);
        Operand { tensor: Tensor { address, len: Some(len), dtype: None, elsewhere }, guard }
    }

    fn submit(&self, plan: &Plan, buffers: &Buffers) -> Result<()> {
        self.check_earlier()?;
        // SAFETY: the addresses are those of slices that the arguments borrow, shared for what is read and exclusively for
        // what is written, and were checked against the problem; their owners free them in the order of streams.
        unsafe { self.context.submit(plan, buffers, self.stream.cu_stream()) }
    }
}

impl Prepared<Cuda> {
    /// The kernels that the call launches one after another, by the names that a profiler shows; none for an empty tensor.
    ///
    /// ```no_run
    /// use warpnorm::{Cuda, DType, LayerNorm, Signature};
    ///
    /// let prepared = LayerNorm::new([12_288])?.prepare(&Cuda::open(0)?, &Signature::new([1024, 12_288], DType::Bf16))?;
    /// assert!(prepared.kernels().eq(["rows_shared_bf16"]));
    /// # Ok::<(), warpnorm::Error>(())
    /// ```
    pub fn kernels(&self) -> impl Iterator<Item = &'static str> + '_ {
        // All of them are listed, and ASCII.
        let name = |launch: &Launch| params::KERNEL_NAMES.get(launch.kernel as usize)?.to_str().ok();
        self.resolved().launches().filter_map(name)
    }
}

impl<T: Stored, S: DevicePtr<T> + ?Sized> Source<Cuda, T> for S {
    fn read<'a>(&'a self, on: &'a Cuda, _: sealed::Token) -> Operand<'a, Cuda> {
        let elsewhere = on.is_elsewhere(self.stream());
        let (address, guard) = self.device_ptr(&on.stream);
        Operand { tensor: Tensor { address, len: Some(self.len()), dtype: T::STORED, elsewhere }, guard }
    }
}

impl<T: Stored, S: DevicePtrMut<T> + ?Sized> Sink<Cuda, T> for S {
    fn write<'a>(&'a mut self, on: &'a Cuda, _: sealed::Token) -> Operand<'a, Cuda> {
        let (len, elsewhere) = (self.len(), on.is_elsewhere(self.stream()));
        let (address, guard) = self.device_ptr_mut(&on.stream);
        Operand { tensor: Tensor { address, len: Some(len), dtype: T::STORED, elsewhere }, guard }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use cudarc::driver::CudaSlice;
    use emulator::{Schedule, Settings, Variant};

    use super::Cuda;
    use crate::{Args, BatchNorm, DType, GroupNorm, LayerNorm, Layout, QkNorm, RmsNorm, Signature, Workspace};

    /// Where there are more rows or tiles than blocks, blocks walk on, reusing their shared memory. Grids that large need
    /// more memory than machines have, so here the largest grid is made small.
    #[test]
    fn blocks_walk_on() {
        let emulator = (!emulator::real_gpu()).then(|| emulator::preload(Variant::Checked));
        for (seed, schedule) in [(0, Schedule::LockStep), (1, Schedule::RunAhead), (2, Schedule::RunAhead)] {
            if let Some(emulator) = emulator {
                emulator.configure(&Settings { seed, schedule, ..Settings::default() });
            }
            let full = Cuda::open(0).unwrap();
            for max_grid in [1, 2] {
                let mut short = full.clone();
                short.limits.max_grid = max_grid;
                for length in [3, 100, 300, 1000, 1500, 17_000, 50_001] {
                    let rows = if length < 200 { 600 } else { 7 };
                    let layer = LayerNorm::new([length]).unwrap();
                    agree(&full, &short, rows * length, |cuda, x, y| {
                        layer.forward(Args::new(cuda, [rows, length]).input(x).output(y)).unwrap();
                    });
                    let layer = RmsNorm::new([length], 1e-6).unwrap();
                    agree(&full, &short, rows * length, |cuda, x, y| {
                        layer.forward(Args::new(cuda, [rows, length]).input(x).output(y)).unwrap();
                    });
                }
                let layer = QkNorm::layer([3, 2], 80).unwrap();
                agree(&full, &short, 70 * 5 * 80, |cuda, x, y| {
                    layer.forward(Args::new(cuda, [70, 5, 80]).input(x).output(y)).unwrap();
                });
                let layer = GroupNorm::new(2, 6).unwrap();
                agree(&full, &short, 3 * 6 * 400, |cuda, x, y| {
                    layer.forward(Args::new(cuda, [3, 6, 20, 20]).input(x).output(y)).unwrap();
                });
                agree(&full, &short, 3 * 6 * 2500, |cuda, x, y| {
                    let statistics = cuda.stream().clone_htod(&[0.5_f32; 6]).unwrap();
                    let args = Args::new(cuda, [3, 6, 50, 50]).running_mean(&statistics).running_var(&statistics);
                    BatchNorm::new(6).unwrap().layout(Layout::Nchw).forward(args.input(x).output(y)).unwrap();
                });
            }
        }
        assert_eq!(emulator.map(|emulator| emulator.take_report()).unwrap_or_default(), "");
    }

    /// A row has the same bits whoever holds it: a block, a cluster of any size, or nobody, with a workspace and without.
    #[test]
    fn regimes_agree() {
        let emulator = (!emulator::real_gpu()).then(|| emulator::preload(Variant::Checked));
        if let Some(emulator) = emulator {
            emulator.configure(&Settings::default());
        }
        let full = Cuda::open(0).unwrap();
        let others = [(227, 1), (72, 2), (72, 4), (72, 8), (40, 16), (1, 1)].map(|(kibibytes, cluster)| {
            let mut other = full.clone();
            other.limits.shared = full.limits.shared.min(kibibytes << 10);
            other.limits.cluster = full.limits.cluster.min(cluster);
            other
        });
        let mut met = std::collections::BTreeSet::new();
        for length in [4097, 9 * 1024, 37 * 1024 + 3, 130 * 1024 - 1] {
            let layer = LayerNorm::new([length]).unwrap();
            let plain = Signature::new([2, length], DType::F32);
            for other in &others {
                agree(&full, other, 2 * length, |cuda, x, y| {
                    let prepared = layer.prepare(cuda, &plain).unwrap();
                    prepared.forward(Args::new(cuda, [2, length]).input(x).output(y)).unwrap();
                });
                // With a residual it is held otherwise.
                let prepared = layer.prepare(other, &plain.residual()).unwrap();
                met.extend(prepared.kernels());
                let workspace = RefCell::new(Workspace::init(other, prepared.workspace_bytes()).unwrap());
                agree(&full, other, 2 * length, |cuda, x, y| {
                    let mut workspace = workspace.borrow_mut();
                    let args = Args::new(cuda, [2, length]).input(x).residual(x).output(y);
                    layer.forward(args.workspace(&mut workspace)).unwrap();
                });
            }
        }
        let all =
            ["fused_rows_split_apply_f32", "fused_rows_split_moments_f32", "fused_rows_stream_f32", "rows_shared_f32"];
        assert!(met.into_iter().eq(all));
        assert_eq!(emulator.map(|emulator| emulator.take_report()).unwrap_or_default(), "");
    }

    fn agree(full: &Cuda, short: &Cuda, length: usize, call: impl Fn(&Cuda, &CudaSlice<f32>, &mut CudaSlice<f32>)) {
        let x: Vec<f32> = (0..length).map(|i| (i as f32 * 0.7).sin() + 0.3).collect();
        let run = |cuda: &Cuda| {
            let x = cuda.stream().clone_htod(&x).unwrap();
            let mut y = cuda.stream().clone_htod(&vec![f32::NAN; length]).unwrap();
            call(cuda, &x, &mut y);
            cuda.stream().clone_dtoh(&y).unwrap()
        };
        assert!(run(full) == run(short), "{length} elements differ with {:?}", short.limits);
    }
}
