//! What the script may ask of its surroundings. Every question is registered: cargo asks again when the answer changes.

use std::{
    env,
    path::{Path, PathBuf},
    process,
};

/// A variable's value, if it is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    println!("cargo:rerun-if-env-changed={name}");
    match env::var(name) {
        Ok(value) => Some(value).filter(|value| !value.trim().is_empty()),
        Err(env::VarError::NotPresent) => None,
        Err(env::VarError::NotUnicode(_)) => fail(&format!("{name} is not valid Unicode")),
    }
}

/// The folders of `PATH`.
pub fn search_path() -> Vec<PathBuf> {
    println!("cargo:rerun-if-env-changed=PATH");
    env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

pub fn out_dir() -> PathBuf {
    PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"))
}

/// Where results may outlive a change of flags: cargo's target directory, known by the tag that cargo puts there.
pub fn target_dir() -> PathBuf {
    let out = out_dir();
    out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()).unwrap_or(&out).to_path_buf()
}

/// How many compilers may run at once.
pub fn parallel_jobs() -> usize {
    env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1)
}

/// Reads a file that the result depends on.
pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| fail(&format!("{}: {error}", path.display())))
}

/// Ends the build with a message, without the noise of a panic.
pub fn fail(message: &str) -> ! {
    eprintln!("warpnorm: {message}");
    process::exit(1)
}
