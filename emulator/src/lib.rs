//! Development only: a `libcuda.so` that runs the crate's kernels on the CPU.
//!
//! [`preload`] loads it into the test process before the first CUDA call. cudarc, unmodified, then finds it under the
//! driver's name, and everything from `CudaContext::new` to graph launches runs on machines without a GPU.
//!
//! ```
//! let emulator = emulator::preload(emulator::Variant::Plain);
//! emulator.configure(&emulator::Settings { seed: 7, schedule: emulator::Schedule::RunAhead, ..Default::default() });
//! assert_eq!(emulator.report(), "");
//! ```
#![warn(missing_docs)]

use std::{
    ffi::{CStr, c_char, c_int, c_uint},
    fs::File,
    io::Write as _,
    os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _},
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
};

/// Which of the two builds of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Quick, for whole test suites. Finds what crashes, what leaves guard bytes damaged, and wrong results.
    Plain,
    /// Several times slower: every load and store of a kernel is checked for bounds, races and alignment.
    Checked,
}

/// In which order the threads of a block run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// Warps and lanes in turn. Reproducible, but hides most missing barriers.
    #[default]
    LockStep,
    /// Random priorities of warps, drawn from the seed: one may run far ahead of the others.
    RunAhead,
}

/// The device that the emulator pretends to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Profile {
    /// 40 multiprocessors, 64 KiB of shared memory a block, no clusters.
    Sm75,
    /// 108 multiprocessors, 163 KiB.
    Sm80,
    /// 72 multiprocessors, 99 KiB.
    Sm86,
    /// 132 multiprocessors, 227 KiB, clusters, programmatic dependent launch.
    #[default]
    Sm90,
    /// As `Sm86`, without memory pools: cudarc allocates synchronously there.
    Sm86WithoutPools,
    /// Older than any architecture in the image: modules are refused with `CUDA_ERROR_NO_BINARY_FOR_GPU`.
    Sm61,
    /// A driver without a device: `cuInit` answers `CUDA_ERROR_NO_DEVICE`.
    NoDevice,
    /// A driver of CUDA 11.4: modules are refused with `CUDA_ERROR_UNSUPPORTED_PTX_VERSION`.
    OldDriver,
    /// A later chip than `Sm90`, for which the image has nothing but PTX of compute_75: the device has clusters and
    /// programmatic dependent launch, and the kernels that were compiled for it know neither.
    Sm110ByOldPtx,
}

/// How the emulator runs what it is given. Takes effect for all that follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Decides every random choice: of the schedule, and of the order among streams.
    pub seed: u64,
    /// The order of threads.
    pub schedule: Schedule,
    /// Whether work waits in its stream until something must see its result. Otherwise it runs when it is enqueued.
    pub lazy_streams: bool,
    /// How many OS threads share the blocks of a launch; 0 is one for each core.
    pub threads: usize,
    /// The device.
    pub profile: Profile,
    /// Processor time after which a block (or cluster, or cooperative grid) is taken for an endless loop.
    pub watchdog_seconds: f64,
    /// Whether kernels run. Otherwise a launch is checked and accepted, and nothing follows: it stands for the driver's
    /// call, so that what a program adds to it can be measured. A launch that follows a launch then takes no lock,
    /// allocates nothing, and is not counted, nor is `cuCtxGetCurrent`. Copies, fills and events happen at once.
    pub execute: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            schedule: Schedule::LockStep,
            lazy_streams: true,
            threads: 0,
            profile: Profile::Sm90,
            watchdog_seconds: 10.0,
            execute: true,
        }
    }
}

/// A kernel in the emulator's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// The name by which `cuModuleGetFunction` finds it.
    pub name: String,
    /// The source file that defines it, without its folder. Those of `faults.cu` and `smoke.cu` are the emulator's own,
    /// for its tests.
    pub file: String,
    /// The most threads of a block, from its launch bounds.
    pub max_threads: u32,
    /// How often it was launched or captured in this process.
    pub launches: u64,
    /// Among those, how often by programmatic dependent launch.
    pub programmatic_launches: u64,
    /// The size of every parameter, in bytes.
    pub parameter_sizes: Vec<usize>,
}

/// The loaded library.
pub struct Emulator {
    variant: Variant,
    control: Control,
}

impl std::fmt::Debug for Emulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emulator").field("variant", &self.variant).finish_non_exhaustive()
    }
}

type Text = unsafe extern "C" fn(*mut c_char, usize) -> usize;

/// The library's own entry points, as declared in `cpp/control.cpp`.
struct Control {
    configure: unsafe extern "C" fn(u64, c_int, c_int, c_uint, c_int, f64, c_int) -> c_int,
    report: Text,
    take_report: Text,
    calls: Text,
    kernels: Text,
    reset: unsafe extern "C" fn(),
    live_allocations: unsafe extern "C" fn() -> usize,
}

/// Names a folder with other builds of the two libraries, `plain/libcuda.so` and `checked/libcuda.so`: what a changed
/// kernel would do to a test, without building the test anew.
const OTHER_BUILD: &str = "WARPNORM_EMULATOR_OUT";

static PLAIN: &[u8] = include_bytes!(concat!(env!("EMULATOR_OUT"), "/plain/libcuda.so"));
static CHECKED: &[u8] = include_bytes!(concat!(env!("EMULATOR_OUT"), "/checked/libcuda.so"));
static LOADED: OnceLock<Emulator> = OnceLock::new();

/// Loads the library, once a process; later calls return the same. Must come before the first call into CUDA.
///
/// The library travels inside the test's binary, so that this also works where the build folder is absent.
///
/// # Panics
///
/// If the other variant is loaded already: a process has one driver. Put such tests into a test file of their own.
pub fn preload(variant: Variant) -> &'static Emulator {
    // Two threads must not load at once: get_or_init runs one of the closures and lets the other wait.
    let emulator = LOADED.get_or_init(|| Emulator::load(variant));
    assert_eq!(
        emulator.variant, variant,
        "this process has loaded the other variant of the emulated driver, and can have only one"
    );
    emulator
}

/// Writes the library into a folder, for programs in other languages: with that folder in `LD_LIBRARY_PATH`, the dynamic
/// linker takes it for the driver. As `libcuda.so`, and `libcuda.so.1` as a link to it: whoever asks by both names must
/// get one library, with one state.
///
/// A folder that has one already gets the new one; programs that run on the old one keep it.
///
/// # Errors
///
/// If the folder cannot be made or written to.
pub fn install(variant: Variant, folder: &Path) -> std::io::Result<()> {
    let (bytes, _) = library(variant);
    std::fs::create_dir_all(folder)?;
    let (file, link) = (folder.join("libcuda.so"), folder.join("libcuda.so.1"));
    let unfinished = folder.join(format!("libcuda.so.{}.unfinished", std::process::id()));
    std::fs::write(&unfinished, bytes)?;
    std::fs::rename(&unfinished, &file)?;
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::os::unix::fs::symlink("libcuda.so", link),
    }
}

/// The library, and the name of its build.
fn library(variant: Variant) -> (&'static [u8], &'static str) {
    match variant {
        Variant::Plain => (PLAIN, "plain"),
        Variant::Checked => (CHECKED, "checked"),
    }
}

/// The emulator, if [`preload`] was called in this process.
pub fn loaded() -> Option<&'static Emulator> {
    LOADED.get()
}

/// Asks for the emulator where there is a GPU too, if it is set.
const WANTED: &str = "WARPNORM_EMULATOR";

/// Whether there is a real driver with a device, and nobody asks for the emulator by setting `WARPNORM_EMULATOR`.
///
/// Opens `libcuda.so.1`, never `libcuda.so`: that name must stay free for the emulator.
pub fn real_gpu() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        if std::env::var_os(WANTED).is_some() {
            return false;
        }
        // SAFETY: loading NVIDIA's driver runs its initialisers, which are made for that.
        let Ok(library) = (unsafe { libloading::Library::new("libcuda.so.1") }) else {
            return false;
        };
        // A driver that has been initialised cannot be unloaded.
        let library = Box::leak(Box::new(library));
        // SAFETY: the signatures are those of the CUDA driver API.
        unsafe {
            let Ok(init) = library.get::<unsafe extern "C" fn(c_uint) -> c_int>(b"cuInit") else {
                return false;
            };
            let Ok(count) = library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"cuDeviceGetCount") else {
                return false;
            };
            let mut devices = 0;
            init(0) == 0 && count(&mut devices) == 0 && devices > 0
        }
    })
}

impl Emulator {
    fn load(variant: Variant) -> Self {
        let (bytes, name) = library(variant);
        let path = match std::env::var_os(OTHER_BUILD) {
            Some(folder) => Path::new(&folder).join(name).join("libcuda.so"),
            None => memory_file(bytes),
        };
        // SAFETY: our own library, whose initialisers only fill its table of kernels.
        let library = unsafe { libloading::Library::new(path) }.expect("the emulated driver loads");
        // Never unloaded: CUDA's users keep pointers into it.
        let library = Box::leak(Box::new(library));
        // SAFETY: the signatures are those of cpp/control.cpp.
        let control = unsafe {
            Control {
                configure: *library.get(b"emu_configure").expect("emu_configure"),
                report: *library.get(b"emu_report").expect("emu_report"),
                take_report: *library.get(b"emu_take_report").expect("emu_take_report"),
                calls: *library.get(b"emu_calls").expect("emu_calls"),
                kernels: *library.get(b"emu_kernels").expect("emu_kernels"),
                reset: *library.get(b"emu_reset").expect("emu_reset"),
                live_allocations: *library.get(b"emu_live_allocations").expect("emu_live_allocations"),
            }
        };
        Self { variant, control }
    }

    /// Which build is loaded.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Runs what is queued, then takes over the settings and starts all random choices anew.
    pub fn configure(&self, settings: &Settings) {
        let threads = c_uint::try_from(settings.threads).unwrap_or(c_uint::MAX);
        // SAFETY: plain values, signature as in cpp/control.cpp.
        let accepted = unsafe {
            (self.control.configure)(
                settings.seed,
                settings.schedule as c_int,
                c_int::from(settings.lazy_streams),
                threads,
                settings.profile as c_int,
                settings.watchdog_seconds,
                c_int::from(settings.execute),
            )
        };
        assert_eq!(accepted, 1, "the library knows no profile {:?}", settings.profile);
    }

    /// Everything found wrong since the last [`take_report`](Self::take_report) or [`reset`](Self::reset), a line each.
    /// Empty if nothing was.
    pub fn report(&self) -> String {
        text(self.control.report)
    }

    /// As [`report`](Self::report), and forgets it. The error that CUDA calls return stays.
    pub fn take_report(&self) -> String {
        text(self.control.take_report)
    }

    /// Forgets errors and reports, and drops what is queued: a GPU would need a new process for that.
    pub fn reset(&self) {
        // SAFETY: takes the driver's lock; no argument.
        unsafe { (self.control.reset)() }
    }

    /// The driver functions that were called, and how often.
    pub fn calls(&self) -> Vec<(String, u64)> {
        text(self.control.calls)
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, count)| (name.to_owned(), count.parse().expect("a count")))
            .collect()
    }

    /// How many device allocations nobody has freed.
    pub fn live_allocations(&self) -> usize {
        // SAFETY: takes the driver's lock; no argument.
        unsafe { (self.control.live_allocations)() }
    }

    /// The kernels that every loaded module offers.
    pub fn kernels(&self) -> Vec<KernelInfo> {
        text(self.control.kernels)
            .lines()
            .map(|line| {
                let mut words = line.split(' ');
                let name = words.next().expect("a name").to_owned();
                let file = words.next().expect("a file").to_owned();
                let mut numbers = words.map(|word| word.parse::<usize>().expect("a number"));
                let max_threads = u32::try_from(numbers.next().expect("launch bounds")).expect("a small number");
                let launches = numbers.next().expect("launches") as u64;
                let programmatic_launches = numbers.next().expect("launches") as u64;
                let parameter_sizes = numbers.collect();
                KernelInfo { name, file, max_threads, launches, programmatic_launches, parameter_sizes }
            })
            .collect()
    }
}

/// Asks one of the library's functions for its text, which may have grown since it said how long it is.
fn text(function: Text) -> String {
    static BUFFER: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let mut buffer = BUFFER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if buffer.is_empty() {
        buffer.resize(1 << 16, 0);
    }
    loop {
        // SAFETY: the function writes at most as many bytes as it is told, the last one NUL.
        let length = unsafe { function(buffer.as_mut_ptr().cast(), buffer.len()) };
        if length < buffer.len() {
            return CStr::from_bytes_until_nul(&buffer).expect("a NUL").to_string_lossy().into_owned();
        }
        buffer.resize(length + 1024, 0);
    }
}

/// Writes the bytes into a file that exists in memory alone, and returns its path. It stays open as long as the process
/// lives: reports read it to name source lines.
fn memory_file(bytes: &[u8]) -> PathBuf {
    unsafe extern "C" {
        fn memfd_create(name: *const c_char, flags: c_uint) -> c_int;
    }
    const CLOSE_ON_EXEC: c_uint = 1;
    // SAFETY: a system call with a NUL-terminated name.
    let descriptor = unsafe { memfd_create(c"libcuda.so".as_ptr(), CLOSE_ON_EXEC) };
    assert!(descriptor >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    let mut file = unsafe { File::from_raw_fd(descriptor) };
    file.write_all(bytes).expect("memory for the emulated driver");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let _stays_open = file.into_raw_fd();
    path
}
