//! Compiles `../kernels/*.cu` and `../probe/kernels/*.cu` as C++ together with the emulator into two shared libraries
//! that call themselves `libcuda.so`: `plain`, and `checked`, whose kernels report every memory access.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

include!("../build/kernel_hash.rs");

/// Set to `off`, it makes empty files in place of the libraries: for builds whose tests are of the CPU alone.
const LIBRARIES: &str = "WARPNORM_EMULATOR_LIBRARIES";

/// What distinguishes the two libraries: flags for the kernels, and for the emulator's own `control.cpp`. Reports need
/// the debug information of kernels, to name source lines and the calls that were inlined.
struct Variant {
    name: &'static str,
    kernel_flags: &'static [&'static str],
    control_flags: &'static [&'static str],
}

const VARIANTS: [Variant; 2] = [
    Variant { name: "plain", kernel_flags: &["-O2", "-g"], control_flags: &[] },
    Variant {
        name: "checked",
        // The instrumentation of two sanitizers, linked without either's runtime: hooks.cpp is what it calls.
        kernel_flags: &["-O1", "-g", "-fsanitize=thread,alignment", "-fsanitize-undefined-trap-on-error"],
        control_flags: &["-DEMU_CHECKED"],
    },
];

/// One file to compile.
struct Job {
    source: PathBuf,
    name: String,
    flags: Vec<String>,
}

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    for path in ["../kernels", "../probe/kernels", "../build/kernel_hash.rs", "cpp", "faults", "build.rs"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rerun-if-env-changed={LIBRARIES}");
    println!("cargo:rustc-env=EMULATOR_OUT={}", out.display());
    println!("cargo:rustc-env=EMULATOR_KERNEL_HASH={}", kernel_hash(&root.join("../kernels")));
    if env::var_os(LIBRARIES).is_some_and(|wish| wish == "off") {
        for variant in VARIANTS {
            fs::write(library(&out, variant.name), []).expect("a file in OUT_DIR");
        }
        return;
    }
    let build = Build::new(root, out);
    let emulator = build.emulator_jobs();
    let variants: Vec<Vec<Job>> = VARIANTS.iter().map(|variant| build.variant_jobs(variant)).collect();
    build.compile_all(variants.iter().flatten().chain(&emulator).collect());
    for (variant, jobs) in VARIANTS.iter().zip(&variants) {
        let objects: Vec<PathBuf> = jobs.iter().chain(&emulator).map(|job| build.object(job)).collect();
        build.link(variant.name, &objects);
    }
}

/// Where a variant's library is to be. Makes its folder.
fn library(out: &Path, variant: &str) -> PathBuf {
    let folder = out.join(variant);
    fs::create_dir_all(&folder).expect("a folder in OUT_DIR");
    folder.join("libcuda.so")
}

struct Build {
    tool: cc::Tool,
    root: PathBuf,
    kernels: PathBuf,
    out: PathBuf,
    /// Of objects, for all profiles and packages of a target folder: none of the flags is a profile's.
    cache: PathBuf,
    /// Of `../kernels`.
    hash: String,
}

impl Build {
    fn new(root: PathBuf, out: PathBuf) -> Self {
        let tool =
            cc::Build::new().cpp(true).std("c++17").pic(true).opt_level(0).debug(false).warnings(false).get_compiler();
        let kernels = root.join("../kernels");
        let target = out.ancestors().filter(|folder| folder.join("CACHEDIR.TAG").exists()).last();
        let cache = target.unwrap_or(&out).join("warpnorm-emulator");
        fs::create_dir_all(&cache).expect("a folder in the target folder");
        Self { tool, hash: kernel_hash(&kernels), root, kernels, out, cache }
    }

    /// What both libraries share: everything but `control.cpp`.
    fn emulator_jobs(&self) -> Vec<Job> {
        let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
        let mut sources = sources(&self.root.join("cpp"), &["cpp"]);
        sources.retain(|source| !source.ends_with("control.cpp"));
        let mut common = vec!["-O3".to_owned(), "-g1".to_owned()];
        match architecture.as_str() {
            "x86_64" => common.push("-mno-red-zone".to_owned()), // switch_x86_64.h says why
            "aarch64" => sources.push(self.root.join("cpp/switch_aarch64.S")),
            other => panic!("the emulator has no switch between stacks for {other}"),
        }
        let hash = format!("-DEMU_KERNEL_HASH=\"{}\"", self.hash);
        let job = |source: PathBuf| {
            let mut flags = common.clone();
            if source.ends_with("driver_modules.cpp") {
                flags.push(hash.clone());
            }
            Job { name: stem(&source), source, flags }
        };
        sources.into_iter().map(job).collect()
    }

    fn variant_jobs(&self, variant: &Variant) -> Vec<Job> {
        let own = |flags: &[&str]| flags.iter().map(|&flag| flag.to_owned()).collect::<Vec<_>>();
        let mut jobs = vec![Job {
            source: self.root.join("cpp/control.cpp"),
            name: format!("control.{}", variant.name),
            flags: own(variant.control_flags),
        }];
        let folders = [self.kernels.clone(), self.root.join("../probe/kernels"), self.root.join("faults")];
        let files = folders.iter().flat_map(|folder| sources(folder, &["cu"]));
        jobs.extend(files.map(|source| Job {
            name: format!("{}.{}", stem(&source), variant.name),
            source,
            flags: own(variant.kernel_flags),
        }));
        jobs
    }

    /// In the cache, by a name that tells everything that it depends on.
    fn object(&self, job: &Job) -> PathBuf {
        let command = self.command(job);
        // Not what it has of the environment, which differs with the profile.
        let said = (command.get_program(), command.get_args());
        let inputs = format!("{said:?} {}", self.fingerprint(job));
        self.cache.join(format!("{}.{}.o", job.name, hash(&inputs)))
    }

    /// Compiles what has changed, on as many threads as cargo allows.
    fn compile_all(&self, jobs: Vec<&Job>) {
        let threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.compile(job);
                    }
                });
            }
        });
    }

    fn compile(&self, job: &Job) {
        let object = self.object(job);
        if object.exists() {
            return;
        }
        // Under a name of its own until it is whole: another build may be filling the same cache.
        let unfinished = object.with_extension(process::id().to_string());
        run(self.command(job).arg("-o").arg(&unfinished));
        fs::rename(&unfinished, &object).expect("a file in the cache");
    }

    fn command(&self, job: &Job) -> Command {
        let language = if job.source.extension().is_some_and(|e| e == "S") { "assembler-with-cpp" } else { "c++" };
        let mut command = self.tool.to_command();
        command
            .args(["-Wall", "-Wextra", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-ffunction-sections"])
            // Contraction would differ from processor to processor.
            .arg("-ffp-contract=off")
            .args(&job.flags)
            .arg("-I")
            .arg(self.root.join("cpp"))
            .arg("-I")
            .arg(&self.kernels)
            .args(["-x", language, "-c"])
            .arg(&job.source);
        command
    }

    /// Of the contents that an object depends on: its source, and every header that it might include.
    fn fingerprint(&self, job: &Job) -> String {
        let mut files = vec![job.source.clone()];
        files.extend(sources(&self.root.join("cpp"), &["h"]));
        if job.source.extension().is_some_and(|e| e == "cu") {
            files.extend(sources(&self.kernels, &["h", "cuh"]));
        }
        fingerprint(&files)
    }

    fn link(&self, variant: &str, objects: &[PathBuf]) {
        run(self
            .tool
            .to_command()
            // The dynamic linker answers a later dlopen("libcuda.so") by this name. A missing symbol is an error here.
            .args(["-shared", "-pthread", "-Wl,-soname,libcuda.so", "-Wl,-z,now", "-Wl,-z,defs"])
            // Its threads live as long as the process, whoever closes it.
            .arg("-Wl,-z,nodelete")
            .args(["-static-libstdc++", "-static-libgcc", "-Wl,--gc-sections"])
            // It travels in every test binary, and most of it is what names source lines.
            .arg("-Wl,--compress-debug-sections=zlib")
            // Without it the static libstdc++ would export hundreds of symbols.
            .arg(format!("-Wl,--version-script={}", self.root.join("cpp/exports.map").display()))
            .args(objects)
            .arg("-o")
            .arg(library(&self.out, variant)));
    }
}

/// The files of a folder with one of these extensions, in the order of their names.
fn sources(directory: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("directory entry").path())
        .filter(|path| path.extension().is_some_and(|e| extensions.iter().any(|&wanted| e == wanted)))
        .collect();
    files.sort();
    files
}

fn stem(path: &Path) -> String {
    path.file_stem().expect("a source has a name").to_string_lossy().into_owned()
}

fn fingerprint(files: &[PathBuf]) -> String {
    let contents =
        files.iter().map(|file| fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    hash(&contents.collect::<Vec<_>>())
}

fn hash(inputs: &impl std::hash::Hash) -> String {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Passes the compiler's warnings on: cargo shows nothing else of what a successful build script says.
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{messages}");
    for line in messages.lines() {
        println!("cargo:warning={line}");
    }
}
