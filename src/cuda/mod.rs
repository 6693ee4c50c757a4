//! The CUDA backend. All of cudarc is called from here.

mod context;
mod convolution;
mod driver;
mod image;

pub use convolution::DirectConvolution;

pub(crate) use context::Context;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, SyncOnDrop, ValidAsZeroBits};
use std::sync::Arc;

use crate::args::Operand;
use crate::backend::{Prepared, Sink, Source, sealed};
use crate::element::{Kind, Stored};
use crate::error::Result;
use crate::plan::{Launch, Limits, Plan, params, plan};
use crate::problem::{Buffers, Problem};
use crate::quantization::F8E4M3;
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
    programmatic: bool,
}

impl Cuda {
    /// The architectures that this build has kernels for, as in `sm_80 sm_90 compute_120`.
    ///
    /// # Errors
    /// [`NoKernels`](crate::Error::NoKernels), which says why, where there are none.
    pub fn architectures() -> Result<&'static str> {
        image::architectures()
    }

    /// How many devices the driver has, and the newest CUDA version that it knows.
    ///
    /// # Errors
    /// [`NoDriver`](crate::Error::NoDriver), [`OldDriver`](crate::Error::OldDriver), and
    /// [`Driver`](crate::Error::Driver) if it fails.
    pub fn driver() -> Result<(usize, String)> {
        let devices = driver::init()?;
        Ok((devices, driver::version()))
    }

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
        Ok(Self { stream: stream.clone(), context, limits, programmatic: false })
    }

    /// Another stream, with the same kernels if it belongs to the same context.
    ///
    /// # Errors
    /// Those of [`Cuda::on`] if it belongs to another one.
    pub fn with_stream(&self, stream: &Arc<CudaStream>) -> Result<Self> {
        if stream.context() == self.stream.context() {
            return Ok(Self { stream: stream.clone(), ..self.clone() });
        }
        Ok(Self::on(stream)?.programmatic_launch(self.programmatic))
    }

    /// Whether kernels may be launched before the ones before them on the stream have finished: CUDA's programmatic dependent
    /// launch. Off unless it is asked for. The results are the same.
    ///
    /// It hides what a launch costs the GPU, which matters where calls are short, as in decoding. A kernel of this crate waits
    /// for the one before it to finish before it reads or writes anything, weights included; so nothing need be known of
    /// that one. What comes after may begin early in its turn, if it was launched so, and must then wait likewise. (Whether
    /// ours were launched so makes no difference to that.) In a CUDA graph it needs a driver of CUDA 12.3 or newer.
    ///
    /// Without effect on chips before compute capability 9.0, and where the driver had to make the kernels from PTX older
    /// than that.
    ///
    /// ```no_run
    /// # fn main() -> warpnorm::Result<()> {
    /// let cuda = warpnorm::Cuda::open(0)?.programmatic_launch(true);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn programmatic_launch(self, wanted: bool) -> Self {
        Self { programmatic: wanted, ..self }
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

    pub(crate) const fn is_programmatic(&self) -> bool {
        self.programmatic
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
        Operand { tensor: Tensor { address, len: Some(len), kind: Kind::Bytes, elsewhere }, guard }
    }

    fn submit(&self, plan: &Plan, buffers: &Buffers) -> Result<()> {
        self.check_earlier()?;
        // SAFETY: the addresses are those of slices that the arguments borrow, shared for what is read and exclusively for
        // what is written, and were checked against the problem; their owners free them in the order of streams.
        unsafe { self.context.submit(plan, buffers, self.stream.cu_stream(), self.programmatic) }
    }
}

impl Prepared<Cuda> {
    /// The kernels that the call launches one after another, by the names that a profiler shows; none for an empty tensor. Where
    /// a tensor begins off a 16-byte boundary it may be another one.
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

// SAFETY: a byte, of which every value is one of the type.
unsafe impl DeviceRepr for F8E4M3 {}
// SAFETY: as above.
unsafe impl ValidAsZeroBits for F8E4M3 {}

impl<T: Stored, S: DevicePtr<T> + ?Sized> Source<Cuda, T> for S {
    fn read<'a>(&'a self, on: &'a Cuda, _: sealed::Token) -> Operand<'a, Cuda> {
        let elsewhere = on.is_elsewhere(self.stream());
        let (address, guard) = self.device_ptr(&on.stream);
        Operand { tensor: Tensor { address, len: Some(self.len()), kind: T::STORED, elsewhere }, guard }
    }
}

impl<T: Stored, S: DevicePtrMut<T> + ?Sized> Sink<Cuda, T> for S {
    fn write<'a>(&'a mut self, on: &'a Cuda, _: sealed::Token) -> Operand<'a, Cuda> {
        let (len, elsewhere) = (self.len(), on.is_elsewhere(self.stream()));
        let (address, guard) = self.device_ptr_mut(&on.stream);
        Operand { tensor: Tensor { address, len: Some(len), kind: T::STORED, elsewhere }, guard }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use cudarc::driver::CudaSlice;
    use emulator::{Schedule, Settings, Variant};

    use super::Cuda;
    use crate::{
        Args, BatchNorm, DType, F8E4M3, GroupNorm, LayerNorm, Layout, QkNorm, RmsNorm, Scaling, Signature, Workspace,
    };

    impl Cuda {
        /// The same as if the device had no more shared memory for a block, and no larger clusters; and with kernels that
        /// overlap, which makes no difference either.
        fn with_limits(&self, kibibytes: u32, cluster: u32) -> Self {
            let mut other = self.clone().programmatic_launch(true);
            other.limits.shared = self.limits.shared.min(kibibytes << 10);
            other.limits.cluster = self.limits.cluster.min(cluster);
            other
        }
    }

    /// On a GPU, or on the emulator that reports what a kernel should not do: nothing.
    fn on_checked(settings: &Settings, test: impl FnOnce(&Cuda)) {
        let emulator = (!emulator::real_gpu()).then(|| emulator::preload(Variant::Checked));
        if let Some(emulator) = emulator {
            emulator.configure(settings);
        }
        test(&Cuda::open(0).unwrap());
        assert_eq!(emulator.map(|emulator| emulator.take_report()).unwrap_or_default(), "");
    }

    /// Where there are more rows or tiles than blocks, blocks walk on, reusing their shared memory. Grids that large need
    /// more memory than machines have, so here the largest grid is made small.
    #[test]
    fn blocks_walk_on() {
        for (seed, schedule) in [(0, Schedule::LockStep), (1, Schedule::RunAhead), (2, Schedule::RunAhead)] {
            on_checked(&Settings { seed, schedule, ..Settings::default() }, |full| {
                for max_grid in [1, 2] {
                    let mut short = full.clone();
                    short.limits.max_grid = max_grid;
                    for length in [3, 100, 300, 1000, 1500, 17_000, 50_000, 50_001] {
                        let rows = if length < 200 { 600 } else { 7 };
                        let layer = LayerNorm::new([length]).unwrap();
                        agree(full, &short, rows * length, |cuda, x, y| {
                            layer.forward(Args::new(cuda, [rows, length]).input(x).output(y)).unwrap();
                        });
                        let layer = RmsNorm::new([length], 1e-6).unwrap();
                        agree(full, &short, rows * length, |cuda, x, y| {
                            layer.forward(Args::new(cuda, [rows, length]).input(x).output(y)).unwrap();
                        });
                    }
                    let layer = QkNorm::layer([3, 2], 80).unwrap();
                    agree(full, &short, 70 * 5 * 80, |cuda, x, y| {
                        layer.forward(Args::new(cuda, [70, 5, 80]).input(x).output(y)).unwrap();
                    });
                    for (rows, length) in [(600, 100), (70, 1000), (7, 1500), (7, 50_001)] {
                        let layer = RmsNorm::new([length], 1e-6).unwrap().post_norm(true);
                        agree(full, &short, rows * length, |cuda, x, y| {
                            layer.forward(Args::new(cuda, [rows, length]).input(x).residual(x).output(y)).unwrap();
                        });
                    }
                    let layer = GroupNorm::new(2, 6).unwrap();
                    agree(full, &short, 3 * 6 * 400, |cuda, x, y| {
                        layer.forward(Args::new(cuda, [3, 6, 20, 20]).input(x).output(y)).unwrap();
                    });
                    agree(full, &short, 3 * 6 * 2500, |cuda, x, y| {
                        let statistics = cuda.stream().clone_htod(&[0.5_f32; 6]).unwrap();
                        let args = Args::new(cuda, [3, 6, 50, 50]).running_mean(&statistics).running_var(&statistics);
                        BatchNorm::new(6).unwrap().layout(Layout::Nchw).forward(args.input(x).output(y)).unwrap();
                    });
                    images_agree(full, &short);
                    short.limits.cluster = 1;
                    images_agree(full, &short);
                }
            });
        }
    }

    /// An element of a pointwise map has the same bits however many vectors a thread has, and whoever else is in its block.
    #[test]
    fn chips_agree_on_pointwise_maps() {
        on_checked(&Settings::default(), |full| {
            let mut small = full.clone();
            small.limits.multiprocessors = 1;
            for (layout, shape) in [
                (Layout::Nchw, [3, 6, 50, 50]),
                (Layout::Nchw, [40, 21, 7, 7]),
                (Layout::Nchw, [40, 100, 2, 3]),
                (Layout::Nhwc, [3, 50, 50, 6]),
                (Layout::Nhwc, [1, 5, 5, 2000]),
            ] {
                let channels = if layout == Layout::Nchw { shape[1] } else { shape[3] };
                let statistics: Vec<f32> = (0..channels).map(|channel| 0.5 + (channel as f32).cos().abs()).collect();
                agree(full, &small, shape.iter().product(), |cuda, x, y| {
                    let statistics = cuda.stream().clone_htod(&statistics).unwrap();
                    let args = Args::new(cuda, shape).running_mean(&statistics).running_var(&statistics);
                    BatchNorm::new(channels).unwrap().layout(layout).forward(args.input(x).output(y)).unwrap();
                });
            }
        });
    }

    /// A row has the same bits whoever holds it: a block, a cluster of any size, or nobody, with a workspace and without; and
    /// whether or not the kernels may begin early.
    #[test]
    fn regimes_agree() {
        on_checked(&Settings::default(), |full| {
            let others = [(227, 1), (72, 2), (72, 4), (72, 8), (40, 16), (1, 1)]
                .map(|(kibibytes, cluster)| full.with_limits(kibibytes, cluster));
            let mut met = std::collections::BTreeSet::new();
            for length in [4097, 9 * 1024, 37 * 1024 + 3, 130 * 1024 - 1, 130 * 1024] {
                let layer = LayerNorm::new([length]).unwrap();
                let plain = Signature::new([2, length], DType::F32);
                for other in &others {
                    agree(full, other, 2 * length, |cuda, x, y| {
                        let prepared = layer.prepare(cuda, &plain).unwrap();
                        prepared.forward(Args::new(cuda, [2, length]).input(x).output(y)).unwrap();
                    });
                    // With a residual it is held otherwise.
                    let prepared = layer.prepare(other, &plain.residual()).unwrap();
                    met.extend(prepared.kernels().map(|kernel| (kernel, prepared.kernels().count())));
                    let workspace = RefCell::new(Workspace::init(other, prepared.workspace_bytes()).unwrap());
                    agree(full, other, 2 * length, |cuda, x, y| {
                        let mut workspace = workspace.borrow_mut();
                        let args = Args::new(cuda, [2, length]).input(x).residual(x).output(y);
                        layer.forward(args.workspace(&mut workspace)).unwrap();
                    });
                }
            }
            // Of the long rows those that a block has for itself, and those that several share.
            let long = [("fused_rows_long_f32", 1), ("fused_rows_long_f32", 2)];
            let whole = [("rows_any_shared_f32", 1), ("rows_long_f32", 2)];
            let all = [&[("fused_rows_any_shared_f32", 1)], &long[..], &whole].concat();
            assert_eq!(met.into_iter().collect::<Vec<_>>(), all);
        });
    }

    /// Images of which each sample, or channel, is held by a block or by several where there are clusters.
    fn images_agree(full: &Cuda, other: &Cuda) {
        for (shape, groups) in [([3, 9, 9, 40], 4), ([2, 20, 25, 128], 8)] {
            let layer = GroupNorm::new(groups, shape[3]).unwrap().layout(Layout::Nhwc);
            image_agrees(full, other, shape, |args| layer.forward(args));
        }
        for (shape, layout) in [
            ([3, 9, 9, 40], Layout::Nhwc),
            ([2, 20, 25, 128], Layout::Nhwc),
            ([8, 30, 7, 7], Layout::Nchw),
            ([2, 3, 100, 108], Layout::Nchw),
        ] {
            let channels = if layout == Layout::Nhwc { shape[3] } else { shape[1] };
            let layer = BatchNorm::new(channels).unwrap().layout(layout).batch_statistics(true);
            image_agrees(full, other, shape, |args| layer.forward(args));
        }
    }

    fn image_agrees(full: &Cuda, other: &Cuda, shape: [usize; 4], call: impl Fn(Args<'_, Cuda>) -> crate::Result<()>) {
        agree(full, other, shape.iter().product(), |cuda, x, y| {
            let mut workspace = Workspace::init(cuda, 1 << 20).unwrap();
            let args = Args::new(cuda, shape).input(x).output(y);
            call(args.workspace(&mut workspace)).unwrap();
        });
        // With a residual it is held otherwise.
        agree(full, other, shape.iter().product(), |cuda, x, y| {
            let mut workspace = Workspace::init(cuda, 1 << 20).unwrap();
            let args = Args::new(cuda, shape).input(x).residual(x).output(y);
            call(args.workspace(&mut workspace)).unwrap();
        });
    }

    #[test]
    fn regimes_of_images_agree() {
        on_checked(&Settings::default(), |full| {
            for (kibibytes, cluster) in [(227, 1), (99, 8), (64, 1)] {
                images_agree(full, &full.with_limits(kibibytes, cluster));
            }
        });
    }

    /// Slabs that are read twice for the sake of the last turn have the bits that they have where they are held: on a chip with
    /// place for all of them, and without a workspace.
    #[test]
    fn slabs_of_a_poor_last_turn_agree() {
        on_checked(&Settings::default(), |full| {
            let mut small = full.clone();
            small.limits.multiprocessors = 1;
            let shape = [7, 9, 9, 40];
            let layer = GroupNorm::new(4, 40).unwrap().layout(Layout::Nhwc);
            let signature = Signature::new(shape, DType::F32);
            let launches = |cuda: &Cuda| layer.prepare(cuda, &signature).unwrap().kernels().count();
            assert_eq!((launches(full), launches(&small)), (1, 2));
            for has_workspace in [true, false] {
                agree(full, &small, shape.iter().product(), |cuda, x, y| {
                    let mut workspace = Workspace::init(cuda, 1 << 20).unwrap();
                    let args = Args::new(cuda, shape).input(x).output(y);
                    layer.forward(if has_workspace { args.workspace(&mut workspace) } else { args }).unwrap();
                });
            }
        });
    }

    /// The same of what needs a row's moments, or its largest element, before the last step.
    #[test]
    fn regimes_agree_in_steps() {
        on_checked(&Settings::default(), |full| {
            let others = [(227, 1), (40, 4), (1, 1)].map(|(kibibytes, cluster)| full.with_limits(kibibytes, cluster));
            for length in [1500, 9 * 1024, 37 * 1024 + 3] {
                let weight = full.stream().clone_htod(&vec![1.25_f32; length]).unwrap();
                for other in &others {
                    agree(full, other, 2 * length, |cuda, x, y| {
                        let layer = LayerNorm::new([length]).unwrap().post_norm(true);
                        let args = Args::new(cuda, [2, length]).input(x).post_norm_weight(&weight).residual(x);
                        layer.forward(args.output(y)).unwrap();
                    });
                    for scaling in [Scaling::Rows, Scaling::Groups] {
                        agree(full, other, 2 * length, |cuda, x, y| {
                            let mut q = cuda.stream().alloc_zeros::<F8E4M3>(2 * length).unwrap();
                            let count = scaling.scales(2, length);
                            let args = Args::new(cuda, [2, length]).input(x).residual(x).quantized_output(&mut q);
                            let layer = RmsNorm::new([length], 1e-6).unwrap();
                            layer.forward(args.scales(scaling, &mut y.slice_mut(..count))).unwrap();
                            let q = cuda.stream().clone_dtoh(&q).unwrap();
                            let values: Vec<f32> = q.iter().map(|q| q.to_f32()).skip(count).collect();
                            cuda.stream().memcpy_htod(&values, &mut y.slice_mut(count..)).unwrap();
                        });
                    }
                }
            }
        });
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
