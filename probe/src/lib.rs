//! Development only: kernels that show what a chip itself can do, so that a norm can be measured against it.
//!
//! A norm moves bytes; a copy of as many bytes is its floor. Which copy is the fastest differs from chip to chip and from
//! size to size, hence several of them.
#![warn(missing_docs)]

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, sys};
use cudarc::nvrtc::Ptx;

static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/probe.image"));

/// Threads of a block of the moving kernels.
const THREADS: u32 = 256;

/// Bytes of a word that they move.
const WORD: u64 = 16;

/// Blocks beyond which they walk on.
const LARGEST_GRID: u64 = i32::MAX as u64;

type Result<T> = std::result::Result<T, DriverError>;

/// The parameters of every kernel, as in `kernels/probe.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Params {
    source: u64,
    target: u64,
    words: u64,
}

/// How a launch stands to what is around it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Blocks of a cluster; 0 and 1 are no cluster.
    pub cluster: u32,
    /// Whether it may begin before the kernel in front of it has ended.
    pub programmatic: bool,
}

/// A kernel that copies or reads, and how many blocks it is launched with.
#[derive(Debug, Clone)]
pub struct Mover {
    name: &'static str,
    function: CudaFunction,
    in_flight: u64,
    /// At most so many blocks; `None`: one for each tile.
    blocks: Option<u64>,
}

/// All kernels, in one context.
#[derive(Debug)]
pub struct Probe {
    context: Arc<CudaContext>,
    copiers: Vec<Mover>,
    readers: Vec<Mover>,
    nothing: CudaFunction,
    place: CudaFunction,
}

/// Kernel, name in records, words in flight, whether with as many blocks as the chip holds.
type Listed = (&'static str, &'static str, u64, bool);

const COPIERS: [Listed; 6] = [
    ("probe_copy_1", "probe_copy_1", 1, false),
    ("probe_copy_2", "probe_copy_2", 2, false),
    ("probe_copy_4", "probe_copy_4", 4, false),
    ("probe_copy_8", "probe_copy_8", 8, false),
    ("probe_copy_4_streaming", "probe_copy_4_streaming", 4, false),
    ("probe_copy_8", "probe_copy_8_persistent", 8, true),
];

const READERS: [Listed; 3] = [
    ("probe_read_4", "probe_read_4", 4, false),
    ("probe_read_8", "probe_read_8", 8, false),
    ("probe_read_8", "probe_read_8_persistent", 8, true),
];

impl Probe {
    /// Loads the kernels. Fails as the driver does where this crate was built without nvcc.
    pub fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = context.load_module(Ptx::from_binary(IMAGE.to_vec()))?;
        let mover = |(kernel, name, in_flight, is_persistent): Listed| -> Result<Mover> {
            let function = module.load_function(kernel)?;
            let blocks = is_persistent.then(|| resident_blocks(context, &function)).transpose()?;
            Ok(Mover { name, function, in_flight, blocks })
        };
        Ok(Self {
            context: context.clone(),
            copiers: COPIERS.into_iter().map(mover).collect::<Result<_>>()?,
            readers: READERS.into_iter().map(mover).collect::<Result<_>>()?,
            nothing: module.load_function("probe_nothing")?,
            place: module.load_function("probe_place")?,
        })
    }

    /// Kernels that copy `bytes` from `source` to `target`.
    #[must_use]
    pub fn copiers(&self) -> &[Mover] {
        &self.copiers
    }

    /// Kernels that read `bytes` from `source`. To `target` next to nothing is written: 4 bytes for each 2 KiB of source,
    /// and that almost never.
    #[must_use]
    pub fn readers(&self) -> &[Mover] {
        &self.readers
    }

    /// Launches a kernel that does nothing: one block of 32 threads.
    pub fn launch_nothing(&self, stream: &CudaStream, attributes: Attributes) -> Result<()> {
        launch(stream, &self.nothing, (1, 32), 0, attributes, Params { source: 0, target: 0, words: 0 })
    }

    /// The bare driver call of [`launch_nothing`](Self::launch_nothing): everything is made before, so that a loop around
    /// the closure measures the driver alone. It panics if the driver refuses.
    pub fn bare_launch<'a>(&'a self, stream: &'a CudaStream) -> impl FnMut() + 'a {
        let mut params = Params { source: 0, target: 0, words: 0 };
        let function = self.nothing.cu_function();
        move || {
            let mut arguments = [(&raw mut params).cast::<c_void>()];
            let config = config(stream, (1, 32), &mut []);
            // SAFETY: the kernel takes one `Params`, and touches no memory.
            unsafe { sys::cuLaunchKernelEx(&raw const config, function, arguments.as_mut_ptr(), std::ptr::null_mut()) }
                .result()
                .expect("a launch of nothing");
        }
    }

    /// How many clusters of this many blocks of `threads` threads and `shared` bytes the chip holds at once; 0 if such a
    /// cluster is not to be had.
    pub fn resident_clusters(&self, blocks: u32, threads: u32, shared: u32) -> Result<u32> {
        use sys::CUfunction_attribute as Attribute;
        self.context.bind_to_thread()?;
        let limit = i32::try_from(shared).unwrap_or(i32::MAX);
        self.place.set_attribute(Attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)?;
        self.place.set_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, limit)?;
        let stream = self.context.default_stream();
        // The size must be said, even if it is one.
        let mut attributes = [cluster_of(blocks)];
        let mut config = config(&stream, (blocks, threads), &mut attributes);
        config.sharedMemBytes = shared;
        let mut clusters = 0;
        // SAFETY: a loaded function, a configuration that outlives the call, and an integer to write to.
        let answer = unsafe {
            sys::cuOccupancyMaxActiveClusters(&raw mut clusters, self.place.cu_function(), &raw const config)
        };
        match answer {
            sys::CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE => Ok(0),
            answer => answer.result().map(|()| clusters.unsigned_abs()),
        }
    }

    /// Launches `clusters` clusters of blocks of `threads` threads and `shared` bytes, and returns each block's (cluster size,
    /// rank), in the order of blocks.
    pub fn places(
        &self,
        stream: &Arc<CudaStream>,
        cluster: u32,
        clusters: u32,
        (threads, shared): (u32, u32),
    ) -> Result<Vec<(u32, u32)>> {
        use sys::CUfunction_attribute as Attribute;
        self.context.bind_to_thread()?;
        if cluster > 8 {
            self.place.set_attribute(Attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)?;
        }
        let limit = i32::try_from(shared).unwrap_or(i32::MAX);
        self.place.set_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, limit)?;
        let grid = cluster.max(1) * clusters;
        let target = stream.alloc_zeros::<u32>(grid as usize)?;
        let params = Params { source: 0, target: address_of(stream, &target), words: 0 };
        launch(stream, &self.place, (grid, threads), shared, Attributes { cluster, programmatic: false }, params)?;
        let found = stream.clone_dtoh(&target)?;
        Ok(found.into_iter().map(|place| (place >> 16, place & 0xFFFF)).collect())
    }
}

impl Mover {
    /// The name under which it is recorded.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Moves `bytes`, rounded up to whole words of 16, of two addresses that are multiples of 16.
    ///
    /// # Safety
    /// `source` must be device memory of so many bytes, as must `target`, or for readers 4 bytes for each 2 KiB of it;
    /// they may not overlap.
    pub unsafe fn launch(&self, stream: &CudaStream, source: u64, target: u64, bytes: u64) -> Result<()> {
        let words = bytes.div_ceil(WORD);
        if words == 0 {
            return Ok(());
        }
        let tiles = words.div_ceil(u64::from(THREADS) * self.in_flight);
        let blocks = tiles.min(self.blocks.unwrap_or(LARGEST_GRID)).min(LARGEST_GRID) as u32;
        launch(stream, &self.function, (blocks, THREADS), 0, Attributes::default(), Params { source, target, words })
    }
}

/// Where a slice lies. Its memory is used after this only on `stream`, while the caller still holds the slice.
fn address_of(stream: &CudaStream, slice: &cudarc::driver::CudaSlice<u32>) -> u64 {
    use cudarc::driver::DevicePtr;
    slice.device_ptr(stream).0
}

/// As many blocks as the chip holds at once.
fn resident_blocks(context: &CudaContext, function: &CudaFunction) -> Result<u64> {
    let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let multiprocessors = context.attribute(attribute)?.unsigned_abs();
    let blocks = function.occupancy_max_active_blocks_per_multiprocessor(THREADS, 0, None)?;
    Ok(u64::from((multiprocessors * blocks).max(1)))
}

fn blank() -> sys::CUlaunchAttribute {
    // SAFETY: plain C data, for which all zeros is a value.
    unsafe { std::mem::zeroed() }
}

fn cluster_of(blocks: u32) -> sys::CUlaunchAttribute {
    let mut cluster = blank();
    cluster.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    cluster.value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: blocks, y: 1, z: 1 };
    cluster
}

fn listed(attributes: Attributes) -> Vec<sys::CUlaunchAttribute> {
    let mut list = Vec::new();
    if attributes.cluster > 1 {
        list.push(cluster_of(attributes.cluster));
    }
    if attributes.programmatic {
        let mut programmatic = blank();
        programmatic.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        programmatic.value.programmaticStreamSerializationAllowed = 1;
        list.push(programmatic);
    }
    list
}

/// A launch of (blocks, threads). The attributes must outlive its use.
fn config(
    stream: &CudaStream,
    (blocks, threads): (u32, u32),
    attributes: &mut [sys::CUlaunchAttribute],
) -> sys::CUlaunchConfig {
    sys::CUlaunchConfig {
        gridDimX: blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: stream.cu_stream(),
        attrs: attributes.as_mut_ptr(),
        numAttrs: attributes.len() as u32,
    }
}

fn launch(
    stream: &CudaStream,
    function: &CudaFunction,
    shape: (u32, u32),
    shared: u32,
    attributes: Attributes,
    mut params: Params,
) -> Result<()> {
    stream.context().bind_to_thread()?;
    let mut attributes = listed(attributes);
    let mut config = config(stream, shape, &mut attributes);
    config.sharedMemBytes = shared;
    let mut arguments = [(&raw mut params).cast::<c_void>()];
    // SAFETY: every kernel here takes one `Params`, which the driver copies before it returns; the callers answer for the
    // addresses in it.
    unsafe {
        sys::cuLaunchKernelEx(&raw const config, function.cu_function(), arguments.as_mut_ptr(), std::ptr::null_mut())
    }
    .result()
}
