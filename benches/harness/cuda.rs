//! Cells on a GPU: CUDA graphs of many launches over rotating buffers, timed by events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use probe::{Mover, Probe};
use warpnorm::cudarc::driver::{CudaContext, CudaGraph, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, result, sys};
use warpnorm::{Cuda, Prepared};

use super::Result;
use super::case::{Around, Case, Op};
use super::cell::{Cell, Work};
use super::check::{POISON, max_err};
use super::layer::prepare;
use super::measure::median;
use super::tensors::{Constants, Numbers, Output, Tensors, call};
use crate::place::{Held, Place as _, Real};
use crate::with_type;

/// Launches of a graph.
pub const LAUNCHES: usize = 20;

/// Graphs are launched until a window lasts so long, where nothing has to be flushed in between.
const WINDOW_SECONDS: f64 = 5e-4;

/// The part of the device's memory that a cell may take.
const MOST_OF_MEMORY: f64 = 0.85;

/// A device, and what cells share there.
pub struct Gpu {
    pub cuda: Cuda,
    pub probe: Probe,
    /// Bytes of buffers that no cache holds.
    cold_bytes: usize,
    warm_up: Duration,
    flush: CudaSlice<u8>,
}

/// Between a cell's preparation on the host, in which the clocks fall, and its first window.
const WARM_UP: Duration = Duration::from_millis(150);

/// The device has no room for a cell.
#[derive(Debug)]
pub struct NoRoom {
    needed: usize,
    free: usize,
}

impl std::error::Error for NoRoom {}

impl std::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "needs {} MiB, the device has {} free", self.needed >> 20, self.free >> 20)
    }
}

impl Gpu {
    /// The first device. `cold_bytes`: how many bytes its caches shall be taken to hold, where speed means nothing; by default
    /// what it says.
    pub fn open(cold_bytes: Option<usize>) -> Result<Self> {
        let context = Cuda::open(0)?.stream().context().clone();
        // SAFETY: everything here goes to one stream.
        unsafe { context.disable_event_tracking() };
        // The null stream cannot be captured.
        let stream = context.new_stream()?;
        let l2 = context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
        let is_dry = cold_bytes.is_some();
        let cold_bytes = cold_bytes.unwrap_or_else(|| (2 * l2.unsigned_abs() as usize).max(256 << 20));
        Ok(Self {
            probe: Probe::load(&context)?,
            cold_bytes,
            flush: stream.alloc_zeros(2 * cold_bytes)?,
            warm_up: if is_dry { Duration::ZERO } else { WARM_UP },
            cuda: Cuda::on(&stream)?,
        })
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        self.cuda.stream()
    }

    pub fn context(&self) -> &Arc<CudaContext> {
        self.stream().context()
    }

    /// The CUDA version that the driver supports, as in `CUDA 13.0`.
    pub fn cuda_version(&self) -> Result<String> {
        let mut version = 0;
        // SAFETY: writes one integer.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
        Ok(format!("CUDA {}.{}", version / 1000, version % 1000 / 10))
    }

    /// How many sets of buffers, so that a graph meets each of them cold; and whether the caches must be flushed before every
    /// graph, because even a set for each launch would fit them. `bytes`: what the smallest of the works moves in a set.
    pub fn sets(&self, bytes: usize) -> (usize, bool) {
        // A divisor of the launches: else the first set would come again too soon, at the start of the next graph.
        let needed = self.cold_bytes.div_ceil(bytes.max(1));
        let sets = (1..=LAUNCHES).find(|sets| LAUNCHES.is_multiple_of(*sets) && *sets >= needed).unwrap_or(LAUNCHES);
        (sets, sets < needed)
    }

    /// A graph of launches; `one` is told which set of buffers is the next one's.
    pub fn capture(&self, sets: usize, mut one: impl FnMut(usize) -> Result<()>) -> Result<CudaGraph> {
        let stream = self.stream();
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let captured = (0..LAUNCHES).try_for_each(|launch| one(launch % sets));
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        // Its failure is the cause of the other's.
        captured?;
        let graph = graph?.ok_or("nothing was captured")?;
        graph.upload()?;
        Ok(graph)
    }

    /// Seconds of one launch, of a graph that is launched `repeats` times.
    pub fn window(&self, graph: &CudaGraph, repeats: usize, flush: bool) -> Result<f64> {
        let stream = self.stream();
        if flush {
            self.flush()?;
        } else {
            // So that the first of those that count does not wait to begin.
            graph.launch()?;
        }
        let event = || stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let start = event()?;
        for _ in 0..repeats {
            graph.launch()?;
        }
        let milliseconds = start.elapsed_ms(&event()?)?;
        Ok(1e-3 * f64::from(milliseconds) / (repeats * LAUNCHES) as f64)
    }

    /// Graphs for a window.
    pub fn repeats(&self, graph: &CudaGraph, flush: bool) -> Result<usize> {
        if flush {
            return Ok(1);
        }
        self.window(graph, 1, false)?;
        let seconds = self.window(graph, 1, false)? * LAUNCHES as f64;
        Ok((WINDOW_SECONDS / seconds.max(1e-6)).ceil().clamp(1.0, 100.0) as usize)
    }

    /// Overwrites the caches, and reads what they then hold: what is not written back yet would be at the cost of what is
    /// timed next.
    fn flush(&self) -> Result<()> {
        let (address, _) = self.flush.device_ptr(self.stream());
        let (half, stream) = (self.cold_bytes as u64, self.stream());
        // SAFETY: an allocation of twice so many bytes that nothing else uses; of its second half, the readers need a part
        // to write to.
        unsafe {
            result::memset_d8_async(address, 0, self.cold_bytes, stream.cu_stream())?;
            if let Some(reader) = self.probe.readers().last() {
                reader.launch(stream, address, address + half, half)?;
            }
        }
        Ok(())
    }

    /// Launches a graph for a while: clocks rise, and kernels are loaded.
    pub fn warm_up(&self, graph: &CudaGraph) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < self.warm_up {
            graph.launch()?;
            self.stream().synchronize()?;
        }
        Ok(())
    }

    fn poison<T: Held>(&self, buffer: &mut CudaSlice<T>) -> Result<()> {
        let bytes = buffer.num_bytes();
        let (address, _) = buffer.device_ptr_mut(self.stream());
        // SAFETY: the whole of an allocation, and every pattern of bits is a value of its type.
        Ok(unsafe { result::memset_d8_async(address, POISON, bytes, self.stream().cu_stream()) }?)
    }
}

/// Where copies and reads of one size go, as many sets as the call has.
pub struct Arenas {
    source: CudaSlice<u8>,
    target: CudaSlice<u8>,
    /// Bytes that a copy reads, and as many writes.
    half: usize,
    /// Bytes that a read reads.
    read: usize,
    sets: usize,
}

/// Sets begin at multiples of this.
const ALIGNMENT: usize = 256;

impl Arenas {
    /// `sample`: numbers to fill the sources with. What is all zeros may move faster.
    pub fn new(gpu: &Gpu, half: usize, read: usize, sets: usize, sample: &CudaSlice<u8>) -> Result<Self> {
        let stream = gpu.stream();
        let source_bytes = half.max(read).next_multiple_of(ALIGNMENT) * sets;
        let target_bytes = half.next_multiple_of(ALIGNMENT).max(ALIGNMENT) * sets;
        // SAFETY: the source is filled below, and of the target nothing is read.
        let (mut source, target) = unsafe { (stream.alloc::<u8>(source_bytes)?, stream.alloc::<u8>(target_bytes)?) };
        for start in (0..source_bytes).step_by(sample.len()) {
            let bytes = sample.len().min(source_bytes - start);
            stream.memcpy_dtod(&sample.slice(..bytes), &mut source.slice_mut(start..start + bytes))?;
        }
        Ok(Self { source, target, half, read, sets })
    }

    /// Addresses of a set's source and target.
    fn of_set(&self, gpu: &Gpu, set: usize) -> (u64, u64) {
        let at = |arena: &CudaSlice<u8>| {
            let (address, _) = arena.device_ptr(gpu.stream());
            address + (arena.len() / self.sets * set) as u64
        };
        (at(&self.source), at(&self.target))
    }

    /// The driver's copy.
    pub fn driver_copy(&self, gpu: &Gpu) -> Result<CudaGraph> {
        gpu.capture(self.sets, |set| {
            let (source, target) = self.of_set(gpu, set);
            // SAFETY: a set of each arena, which do not overlap.
            Ok(unsafe { result::memcpy_dtod_async(target, source, self.half, gpu.stream().cu_stream()) }?)
        })
    }

    pub fn mover(&self, gpu: &Gpu, mover: &Mover) -> Result<CudaGraph> {
        let is_copier = gpu.probe.copiers().iter().any(|copier| copier.name() == mover.name());
        let bytes = if is_copier { self.half } else { self.read };
        gpu.capture(self.sets, |set| {
            let (source, target) = self.of_set(gpu, set);
            // SAFETY: a set of each arena, which are multiples of 256 bytes and do not overlap. A reader's target is at
            // least half as long as its source.
            Ok(unsafe { mover.launch(gpu.stream(), source, target, bytes as u64) }?)
        })
    }

    /// Every way to copy, by name.
    pub fn copies(&self, gpu: &Gpu) -> Result<Vec<(String, CudaGraph)>> {
        let mut ways = vec![("driver".to_owned(), self.driver_copy(gpu)?)];
        for copier in gpu.probe.copiers() {
            ways.push((copier.name().to_owned(), self.mover(gpu, copier)?));
        }
        Ok(ways)
    }

    /// Every way to read, by name.
    pub fn reads(&self, gpu: &Gpu) -> Result<Vec<(String, CudaGraph)>> {
        let way = |reader: &Mover| Ok((reader.name().to_owned(), self.mover(gpu, reader)?));
        gpu.probe.readers().iter().map(way).collect()
    }
}

/// The fastest of these, by a few windows each, taken in turns.
fn fastest(gpu: &Gpu, ways: Vec<(String, CudaGraph)>, flush: bool) -> Result<Timed> {
    let timed = |(name, graph)| Ok(Timed { repeats: gpu.repeats(&graph, flush)?, name, graph });
    let ways: Vec<Timed> = ways.into_iter().map(timed).collect::<Result<_>>()?;
    let mut windows = vec![Vec::new(); ways.len()];
    for _ in 0..3 {
        for (way, windows) in ways.iter().zip(&mut windows) {
            windows.push(gpu.window(&way.graph, way.repeats, flush)?);
        }
    }
    let by_time = |a: &(Timed, f64), b: &(Timed, f64)| a.1.total_cmp(&b.1);
    let medians = windows.iter().map(|windows| median(windows));
    Ok(ways.into_iter().zip(medians).min_by(by_time).ok_or("nothing to choose from")?.0)
}

struct Timed {
    name: String,
    graph: CudaGraph,
    repeats: usize,
}

pub fn cell<'g>(gpu: &'g Gpu, case: &Case) -> Result<Box<dyn Cell + 'g>> {
    with_type!(case.dtype, typed_cell(gpu, case))
}

fn typed_cell<'g, T: Real>(gpu: &'g Gpu, case: &Case) -> Result<Box<dyn Cell + 'g>> {
    Ok(Box::new(CudaCell::<T>::new(gpu, case)?))
}

struct CudaCell<'g, T: Real> {
    gpu: &'g Gpu,
    case: Case,
    numbers: Numbers<T>,
    constants: Constants<Cuda, T>,
    sets: Vec<Tensors<Cuda, T>>,
    prepared: Prepared<Cuda>,
    /// Held for the graphs, which know their addresses alone.
    _arenas: Arenas,
    call: Timed,
    copy: Timed,
    read: Timed,
    flush: bool,
}

impl<'g, T: Real> CudaCell<'g, T> {
    fn new(gpu: &'g Gpu, case: &Case) -> Result<Self> {
        if case.op == Op::BatchNormStatistics {
            return Err(format!("{case} is measured on a CPU alone").into());
        }
        let (sets, flush) = if case.warm { (1, false) } else { gpu.sets(case.read_bytes()) };
        let needed = sets * (2 * case.bytes() + case.read_bytes());
        let (free, _) = gpu.context().mem_get_info()?;
        if needed as f64 > MOST_OF_MEMORY * free as f64 {
            return Err(NoRoom { needed, free }.into());
        }
        let numbers = Numbers::new(case);
        let prepared = prepare(&gpu.cuda, case)?;
        let mut constants = Constants::new(&gpu.cuda, case, &prepared, &numbers)?;
        let mut tensors = vec![first_set(gpu, case, &numbers)?];
        for _ in 1..sets {
            let another = another_set(gpu, case, &tensors[0])?;
            tensors.push(another);
        }
        // SAFETY: numbers as bytes.
        let sample = unsafe { tensors[0].x.transmute::<u8>(tensors[0].x.num_bytes()) }.ok_or("not bytes")?;
        let mut bytes = gpu.stream().alloc_zeros::<u8>(sample.len())?;
        gpu.stream().memcpy_dtod(&sample, &mut bytes)?;
        let arenas = Arenas::new(gpu, case.bytes() / 2, case.read_bytes(), sets, &bytes)?;

        let graph = gpu.capture(sets, |set| call(&gpu.cuda, case, &prepared, &mut constants, &mut tensors[set]))?;
        gpu.warm_up(&graph)?;
        let repeats = gpu.repeats(&graph, flush)?;
        let name = prepared.kernels().collect::<Vec<_>>().join("+");
        Ok(Self {
            call: Timed { name, graph, repeats },
            copy: fastest(gpu, arenas.copies(gpu)?, flush)?,
            read: fastest(gpu, arenas.reads(gpu)?, flush)?,
            gpu,
            case: case.clone(),
            numbers,
            constants,
            sets: tensors,
            prepared,
            _arenas: arenas,
            flush,
        })
    }
}

fn first_set<T: Real>(gpu: &Gpu, case: &Case, numbers: &Numbers<T>) -> Result<Tensors<Cuda, T>> {
    let stream = gpu.stream();
    Ok(Tensors {
        x: stream.clone_htod(&numbers.x)?,
        residual: case.residual.then(|| stream.clone_htod(&numbers.residual)).transpose()?,
        sum: sum(gpu, case)?,
        y: output(gpu, case)?,
    })
}

fn sum<T: Real>(gpu: &Gpu, case: &Case) -> Result<Option<CudaSlice<T>>> {
    // SAFETY: an output, which nobody reads before it is written.
    Ok(case.residual.then(|| unsafe { gpu.stream().alloc::<T>(case.elements()) }).transpose()?)
}

fn output<T: Real>(gpu: &Gpu, case: &Case) -> Result<Output<Cuda, T>> {
    let (stream, elements) = (gpu.stream(), case.elements());
    // SAFETY: as above.
    Ok(unsafe {
        match case.around {
            Around::Quantized(scaling) => {
                Output::Quantized { scaling, q: stream.alloc(elements)?, scales: stream.alloc(case.scales(scaling))? }
            }
            _ => Output::Elements(stream.alloc(elements)?),
        }
    })
}

/// The same inputs once more, and outputs of its own.
fn another_set<T: Real>(gpu: &Gpu, case: &Case, first: &Tensors<Cuda, T>) -> Result<Tensors<Cuda, T>> {
    let stream = gpu.stream();
    Ok(Tensors {
        x: stream.clone_dtod(&first.x)?,
        residual: first.residual.as_ref().map(|residual| stream.clone_dtod(residual)).transpose()?,
        sum: sum(gpu, case)?,
        y: output(gpu, case)?,
    })
}

impl<T: Real> Cell for CudaCell<'_, T> {
    fn kernel(&self) -> String {
        self.call.name.clone()
    }

    fn movers(&self) -> [String; 2] {
        [self.copy.name.clone(), self.read.name.clone()]
    }

    /// Of the first set and the last, written by the graph that is timed.
    fn max_err(&mut self) -> Result<f64> {
        let last = self.sets.len() - 1;
        for tensors in &mut self.sets {
            match &mut tensors.y {
                Output::Elements(y) => self.gpu.poison(y)?,
                Output::Quantized { q, scales, .. } => {
                    self.gpu.poison(q)?;
                    self.gpu.poison(scales)?;
                }
            }
            tensors.sum.as_mut().map(|sum| self.gpu.poison(sum)).transpose()?;
        }
        self.call.graph.launch()?;
        let mut largest = 0.0_f64;
        for set in if last == 0 { vec![0] } else { vec![0, last] } {
            let y = match &self.sets[set].y {
                Output::Elements(y) => Output::Elements(self.gpu.cuda.get(y)),
                Output::Quantized { scaling, q, scales } => {
                    Output::Quantized { scaling: *scaling, q: self.gpu.cuda.get(q), scales: self.gpu.cuda.get(scales) }
                }
            };
            let sum = self.sets[set].sum.as_ref().map(|sum| self.gpu.cuda.get(sum));
            largest = largest.max(max_err(&self.case, &self.numbers, &y, sum.as_deref()));
        }
        // The host's part has taken long enough for clocks to fall.
        self.gpu.warm_up(&self.call.graph)?;
        Ok(largest)
    }

    fn window(&mut self, work: Work) -> Result<f64> {
        let timed = match work {
            Work::Call => &self.call,
            Work::Copy => &self.copy,
            Work::Read => &self.read,
        };
        self.gpu.window(&timed.graph, timed.repeats, self.flush)
    }
}
