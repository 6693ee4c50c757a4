//! Makes `OUT_DIR/kernels.image`, which the crate embeds: the kernels compiled for every architecture where nvcc is
//! found, and otherwise a marker that stands for them. The building machine's GPU is never asked.
//!
//! `WARPNORM_CUDA` states the wish (`off`, `auto`, `required`), `WARPNORM_CUDA_ARCHS` the architectures (`80;90+PTX`),
//! `WARPNORM_FATBIN` a ready image, `WARPNORM_NVCC_WRAPPER` a compiler cache. `NVCC`, `CUDA_HOME`, `CUDA_PATH`,
//! `NVCC_CCBIN`, `CUDAARCHS` and `CUDA_COMPUTE_CAP` mean what they mean elsewhere.

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

use std::{
    fs,
    path::{Path, PathBuf},
};

use environment::{fail, out_dir, read, variable};
use toolkit::Toolkit;

include!("build/kernel_hash.rs");

fn main() {
    println!("cargo:rerun-if-changed=kernels");
    #[cfg(feature = "generate-bindings")]
    bindings::generate(&out_dir().join("params.rs"));

    match kernels() {
        Ok(image) => embed(&image, &architectures_in(&image), ""),
        Err(reason) => embed(&marker(), "", &reason),
    }
}

/// The image, or one clause that says why there is none.
fn kernels() -> Result<Vec<u8>, String> {
    if let Some(file) = ready_image() {
        return Ok(read(&file));
    }
    let wish = wish();
    if wish == Wish::Off {
        return Err("WARPNORM_CUDA=off".to_owned());
    }
    match Toolkit::find() {
        Ok(toolkit) => Ok(compile::image(&toolkit, &toolkit.architectures())),
        Err(reason) if wish == Wish::Required => fail(&format!("WARPNORM_CUDA=required, but {reason}")),
        Err(reason) => Err(reason),
    }
}

#[derive(PartialEq, Eq)]
enum Wish {
    /// No kernels, even with nvcc.
    Off,
    /// Kernels where nvcc is found.
    Auto,
    /// Kernels, or the build fails.
    Required,
}

fn wish() -> Wish {
    match variable("WARPNORM_CUDA").as_deref() {
        Some("off") => Wish::Off,
        None | Some("auto") => Wish::Auto,
        Some("required") => Wish::Required,
        Some(other) => fail(&format!("WARPNORM_CUDA={other:?}: it may be off, auto or required")),
    }
}

fn ready_image() -> Option<PathBuf> {
    let file = PathBuf::from(variable("WARPNORM_FATBIN")?);
    println!("cargo:rerun-if-changed={}", file.display());
    Some(file)
}

fn architectures_in(image: &[u8]) -> String {
    match image::architectures(image) {
        Some(architectures) => architectures.join(" "),
        None => fail("the image of kernels is not a sequence of fatbins"),
    }
}

/// What a driver refuses and the emulator, if it was made of the same kernels, accepts.
fn marker() -> Vec<u8> {
    format!("WARPNORM-NO-KERNELS {}\0", kernel_hash(Path::new("kernels"))).into_bytes()
}

fn embed(image: &[u8], architectures: &str, note: &str) {
    let file = out_dir().join("kernels.image");
    fs::write(&file, image).unwrap_or_else(|error| fail(&format!("{}: {error}", file.display())));
    println!("cargo:rustc-env=WARPNORM_IMAGE_ARCHS={architectures}");
    println!("cargo:rustc-env=WARPNORM_BUILD_NOTE={note}");
}
