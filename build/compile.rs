//! From `.cu` files to the image: one run of nvcc for each file and architecture, one fatbin for each file.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::{
    architectures::Architecture,
    environment::{fail, out_dir, parallel_jobs, read, target_dir, variable},
    image,
    toolkit::Toolkit,
};

/// Compiles what the cache does not hold of the `.cu` files in `kernels`, and joins all of it. Headers are found there
/// and in `includes`.
pub fn image(toolkit: &Toolkit, architectures: &[Architecture], kernels: &Path, includes: &[&Path]) -> Vec<u8> {
    let compiler = Compiler::new(toolkit, &[&[kernels], includes].concat());
    let sources = files(kernels, &["cu"]);
    let jobs: Vec<Vec<Job>> = sources
        .iter()
        .map(|source| architectures.iter().map(|&architecture| compiler.job(source, architecture)).collect())
        .collect();
    compiler.compile_all(jobs.iter().flatten().collect()).unwrap_or_else(|error| fail(&error));
    image::join(jobs.iter().map(|of_one_file| compiler.fatbin(of_one_file)))
}

/// One file for one architecture.
struct Job {
    source: PathBuf,
    architecture: Architecture,
    /// Of the result in the cache, telling everything that the result depends on.
    name: String,
}

struct Compiler<'a> {
    toolkit: &'a Toolkit,
    cache: PathBuf,
    flags: Vec<String>,
    /// What all results depend on: the headers, the flags, the compiler.
    fingerprint: u64,
}

impl<'a> Compiler<'a> {
    fn new(toolkit: &'a Toolkit, includes: &[&Path]) -> Self {
        let cache = target_dir().join("warpnorm-kernels");
        fs::create_dir_all(&cache).unwrap_or_else(|error| fail(&format!("{}: {error}", cache.display())));
        let flags = flags(includes);
        let mut hasher = DefaultHasher::new();
        (&toolkit.banner, &flags).hash(&mut hasher);
        // nvcc reads these by itself.
        ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"].map(variable).hash(&mut hasher);
        for header in includes.iter().flat_map(|folder| files(folder, &["h", "cuh"])) {
            (&header, read(&header)).hash(&mut hasher);
        }
        Self { toolkit, cache, flags, fingerprint: hasher.finish() }
    }

    fn job(&self, source: &Path, architecture: Architecture) -> Job {
        let mut hasher = DefaultHasher::new();
        (self.fingerprint, read(source)).hash(&mut hasher);
        let stem = source.file_stem().expect("a source has a name").to_string_lossy();
        let name = format!("{stem}.{architecture}.{:016x}", hasher.finish());
        Job { source: source.to_path_buf(), architecture, name }
    }

    /// The largest files first, lest one of them be the last to run, alone.
    fn compile_all(&self, mut jobs: Vec<&Job>) -> Result<(), String> {
        jobs.sort_by_key(|job| std::cmp::Reverse(fs::metadata(&job.source).map_or(0, |file| file.len())));
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.compile(job) {
                    next.store(jobs.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..parallel_jobs()).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("a worker returns its errors"))
        })
    }

    fn compile(&self, job: &Job) -> Result<(), String> {
        let result = self.cache.join(&job.name);
        if result.exists() {
            return Ok(());
        }
        // Under a name of its own until it is whole: another build may be filling the same cache.
        let unfinished = self.cache.join(format!("{}.{}", job.name, process::id()));
        let kind = match job.architecture {
            Architecture::Cubin(_) => "-cubin",
            Architecture::Ptx(_) => "-ptx",
        };
        let mut nvcc = self.toolkit.nvcc();
        nvcc.args(&self.flags).arg(kind).arg(format!("-arch={}", job.architecture)).arg(&job.source);
        let warnings = run(nvcc.arg("-o").arg(&unfinished))
            .map_err(|error| format!("{} for {}: {error}", job.source.display(), job.architecture))?;
        for line in warnings.lines().filter(|line| !line.trim().is_empty()) {
            println!("cargo:warning={line}");
        }
        fs::rename(&unfinished, &result).map_err(|error| format!("{}: {error}", result.display()))
    }

    /// One file's code for all architectures.
    fn fatbin(&self, jobs: &[Job]) -> Vec<u8> {
        let fatbin = out_dir().join("kernels.fatbin");
        let mut fatbinary = self.toolkit.fatbinary();
        // Run in the cache, because a comma in a path would end the name.
        fatbinary.current_dir(&self.cache);
        fatbinary.arg(format!("--create={}", fatbin.display()));
        for Job { architecture, name, .. } in jobs {
            let kind = match architecture {
                Architecture::Cubin(_) => "elf",
                Architecture::Ptx(_) => "ptx",
            };
            fatbinary.arg(format!("--image3=kind={kind},sm={},file={name}", architecture.capability()));
        }
        run(&mut fatbinary).unwrap_or_else(|error| fail(&error));
        read(&fatbin)
    }
}

fn flags(includes: &[&Path]) -> Vec<String> {
    let mut flags = ["-std=c++17", "-Wno-deprecated-gpu-targets"].map(str::to_owned).to_vec();
    flags.extend(includes.iter().flat_map(|folder| ["-I".to_owned(), folder.display().to_string()]));
    if let Some(host_compiler) = variable("NVCC_CCBIN") {
        flags.extend(["-ccbin".to_owned(), host_compiler]);
    }
    flags
}

/// The files of a folder with one of these extensions, in the order of their names.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut files: Vec<PathBuf> = entries
        .unwrap_or_else(|error| fail(&format!("{}: {error}", folder.display())))
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| extensions.iter().any(|&wanted| found == wanted)))
        .collect();
    files.sort();
    files
}

/// Runs a program that ought to be silent; returns what it said all the same.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if output.status.success() { Ok(said) } else { Err(format!("{command:?} failed:\n{said}")) }
}
