//! Makes `OUT_DIR/kernels.image`, which the crate embeds: the kernels compiled for every architecture where nvcc is
//! found, and otherwise a marker that stands for them. The building machine's GPU is never asked.
//!
//! `WARPNORM_CUDA` states the wish (`off`, `auto`, `required`), `WARPNORM_CUDA_ARCHS` the architectures (`80;90+PTX`),
//! `WARPNORM_FATBIN` a ready image (`scripts/release-fatbins` makes one), `WARPNORM_NVCC_WRAPPER` a compiler cache. `NVCC`,
//! `CUDA_HOME`, `CUDA_PATH`, `NVCC_CCBIN`, `CUDAARCHS` and `CUDA_COMPUTE_CAP` mean what they mean elsewhere.

#[path = "build/architectures.rs"]
mod architectures;
#[cfg(feature = "generate-bindings")]
#[path = "build/bindings.rs"]
mod bindings;
#[path = "build/compile.rs"]
mod compile;
#[path = "build/environment.rs"]
mod environment;
#[path = "build/image.rs"]
mod image;
#[path = "build/toolkit.rs"]
mod toolkit;
#[path = "build/wish.rs"]
mod wish;

use std::{
    fs,
    path::{Path, PathBuf},
};

use environment::{fail, out_dir, read, variable};

include!("build/kernel_hash.rs");

fn main() {
    println!("cargo:rerun-if-changed=kernels");
    #[cfg(feature = "generate-bindings")]
    bindings::generate(&out_dir().join("params.rs"));

    // For scripts that read what this one said.
    println!("cargo:rustc-env=WARPNORM_KERNEL_HASH={}", kernel_hash(Path::new("kernels")));
    match kernels() {
        Ok(image) => embed(&image, &architectures_in(&image), ""),
        Err(reason) => embed(&marker(Path::new("kernels")), "", &reason),
    }
}

/// The image, or one clause that says why there is none.
fn kernels() -> Result<Vec<u8>, String> {
    match ready_image() {
        Some(file) => Ok(of_these_kernels(&file)),
        None => wish::compile_if_wished(Path::new("kernels"), &[]),
    }
}

fn ready_image() -> Option<PathBuf> {
    let file = PathBuf::from(variable("WARPNORM_FATBIN")?);
    println!("cargo:rerun-if-changed={}", file.display());
    Some(file)
}

/// The fatbins of a ready image. Those of other kernels would take other parameters, and write anywhere.
fn of_these_kernels(file: &Path) -> Vec<u8> {
    let image = read(file);
    let (fatbins, made_of) = image::split_fingerprint(&image);
    let own = kernel_hash(Path::new("kernels"));
    match made_of {
        Some(found) if found == own => {}
        Some(found) => fail(&format!(
            "WARPNORM_FATBIN={}: it was made of the kernels {found}, and this version has {own}: take the image of this \
             version, or let nvcc make one",
            file.display()
        )),
        None => println!(
            "cargo:warning=WARPNORM_FATBIN={}: it does not say of which kernels it was made; they must be {own}",
            file.display()
        ),
    }
    fatbins.to_vec()
}

fn architectures_in(image: &[u8]) -> String {
    match image::architectures(image) {
        Some(architectures) => architectures.join(" "),
        None => fail("the image of kernels is not a sequence of fatbins"),
    }
}

fn embed(image: &[u8], architectures: &str, note: &str) {
    let file = out_dir().join("kernels.image");
    fs::write(&file, image).unwrap_or_else(|error| fail(&format!("{}: {error}", file.display())));
    println!("cargo:rustc-env=WARPNORM_IMAGE_ARCHS={architectures}");
    println!("cargo:rustc-env=WARPNORM_BUILD_NOTE={note}");
}
