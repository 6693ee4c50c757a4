//! nvcc, and `fatbinary` beside it.

use std::{
    env::consts::EXE_SUFFIX,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    architectures::{self, Architecture},
    environment::{fail, search_path, variable},
};

/// The first toolkit with C++17, `__grid_constant__` and `sm_90`.
const OLDEST: Version = (12, 0);

type Version = (u32, u32);

/// From this toolkit on, whose drivers are 580 and later, Zstandard is read by all of them.
const SMALLEST_IS_READ_BY_ALL: Version = (13, 0);

pub struct Toolkit {
    nvcc: PathBuf,
    /// A compiler cache that nvcc is to be an argument of.
    wrapper: Option<String>,
    fatbinary: PathBuf,
    /// The whole of what `nvcc --version` says: it tells builds of one version apart.
    pub banner: String,
    version: Version,
}

impl Toolkit {
    /// The toolkit to use, or why there is none.
    pub fn find() -> Result<Self, String> {
        let nvcc = nvcc()?;
        println!("cargo:rerun-if-changed={}", nvcc.display());
        let banner = output_of(Command::new(&nvcc).arg("--version"))?;
        let version = release(&banner).ok_or_else(|| format!("{} --version says no release", nvcc.display()))?;
        if version < OLDEST {
            let ((major, minor), (least_major, least_minor)) = (version, OLDEST);
            return Err(format!("nvcc {major}.{minor} is older than {least_major}.{least_minor}"));
        }
        Ok(Self { fatbinary: fatbinary(&nvcc)?, wrapper: variable("WARPNORM_NVCC_WRAPPER"), nvcc, banner, version })
    }

    pub fn nvcc(&self) -> Command {
        let Some(wrapper) = &self.wrapper else {
            return Command::new(&self.nvcc);
        };
        let mut command = Command::new(wrapper);
        command.arg(&self.nvcc);
        command
    }

    /// The program that puts code for several architectures into one file, as small as every driver of this toolkit can read.
    pub fn fatbinary(&self) -> Command {
        let mut fatbinary = Command::new(&self.fatbinary);
        fatbinary.args(["-64", "--compress-all"]);
        if self.version >= SMALLEST_IS_READ_BY_ALL {
            fatbinary.arg("--compress-mode=size");
        }
        fatbinary
    }

    /// The architectures wished for or, without a wish, those of the default list that this nvcc knows.
    pub fn architectures(&self) -> Vec<Architecture> {
        let known = self.known_architectures();
        let has = |architecture: &Architecture| known.contains(&architecture.to_string());
        let Some((variable, wished)) = wished_architectures() else {
            return architectures::DEFAULT.into_iter().filter(has).collect();
        };
        if let Some(unknown) = wished.iter().find(|architecture| !has(architecture)) {
            let known = known.join(" ");
            fail(&format!("{variable} asks for {unknown}, but this nvcc knows only {known}"));
        }
        wished
    }

    fn known_architectures(&self) -> Vec<String> {
        ["--list-gpu-code", "--list-gpu-arch"]
            .map(|question| output_of(Command::new(&self.nvcc).arg(question)).unwrap_or_else(|error| fail(&error)))
            .concat()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    }
}

/// The list that a variable asks for, with the variable's name.
fn wished_architectures() -> Option<(&'static str, Vec<Architecture>)> {
    use architectures::Bare;
    [("WARPNORM_CUDA_ARCHS", Bare::Cubin), ("CUDAARCHS", Bare::CubinAndPtx), ("CUDA_COMPUTE_CAP", Bare::CubinAndPtx)]
        .into_iter()
        .find_map(|(name, bare)| {
            let list = variable(name)?;
            let parsed = architectures::parse(&list, bare);
            Some((name, parsed.unwrap_or_else(|error| fail(&format!("{name}={list:?}: {error}")))))
        })
}

fn nvcc() -> Result<PathBuf, String> {
    let named = variable("NVCC");
    let homes = ["CUDA_HOME", "CUDA_PATH"].map(variable);
    let path = search_path();
    if let Some(named) = named {
        let is_bare = Path::new(&named).components().count() == 1;
        let found = if is_bare { first_in(&path, &named) } else { Some(PathBuf::from(&named)) };
        return found.ok_or_else(|| format!("NVCC names {named}, which is not on PATH"));
    }
    let usual = ["/usr/local/cuda", "/opt/cuda"].map(str::to_owned);
    let bin = |home: String| Path::new(&home).join("bin");
    let mut folders: Vec<PathBuf> = homes.into_iter().flatten().map(bin).collect();
    folders.extend(path);
    folders.extend(usual.map(bin));
    first_in(&folders, "nvcc").ok_or_else(|| "nvcc was not found".to_owned())
}

/// `fatbinary` stands beside nvcc, or beside what a link named nvcc points to.
fn fatbinary(nvcc: &Path) -> Result<PathBuf, String> {
    let target = fs::canonicalize(nvcc).unwrap_or_else(|_| nvcc.to_path_buf());
    let mut folders: Vec<PathBuf> = [nvcc, &target].map(|file| file.with_file_name("")).to_vec();
    folders.extend(search_path());
    first_in(&folders, "fatbinary").ok_or_else(|| format!("no fatbinary stands beside {}", nvcc.display()))
}

fn first_in(folders: &[PathBuf], program: &str) -> Option<PathBuf> {
    let file = format!("{}{EXE_SUFFIX}", program.trim_end_matches(EXE_SUFFIX));
    folders.iter().map(|folder| folder.join(&file)).find(|path| path.is_file())
}

/// The release in the words of `nvcc --version`: "… release 13.0, V13.0.88".
fn release(banner: &str) -> Option<Version> {
    let (_, rest) = banner.split_once("release ")?;
    let (major, minor) = rest.split(',').next()?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn output_of(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} ended with {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
