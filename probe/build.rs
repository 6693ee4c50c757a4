//! Makes `OUT_DIR/probe.image` as the crate's own build script makes its image: the kernels of `kernels/`, compiled where
//! `nvcc` is found, or else the marker of the crate's kernels, which the emulator knows.

#[path = "../build/architectures.rs"]
mod architectures;
#[path = "../build/compile.rs"]
mod compile;
#[path = "../build/environment.rs"]
mod environment;
#[path = "../build/image.rs"]
#[allow(dead_code, reason = "the architectures are the crate's own, which says them")]
mod image;
#[path = "../build/toolkit.rs"]
mod toolkit;
#[path = "../build/wish.rs"]
mod wish;

use std::{fs, path::Path};

use environment::{fail, out_dir};

include!("../build/kernel_hash.rs");

fn main() {
    for path in ["kernels", "../kernels", "../build"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let headers = Path::new("../kernels");
    let image = wish::compile_if_wished(Path::new("kernels"), &[headers]).unwrap_or_else(|_| marker(headers));
    let file = out_dir().join("probe.image");
    fs::write(&file, image).unwrap_or_else(|error| fail(&format!("{}: {error}", file.display())));
}
