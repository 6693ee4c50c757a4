//! Whether kernels are to be compiled, by `WARPNORM_CUDA`, and doing so.

use std::path::Path;

use crate::{
    compile,
    environment::{fail, variable},
    toolkit::Toolkit,
};

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

/// The image of the `.cu` files in `kernels`, or one clause that says why there is none.
pub fn compile_if_wished(kernels: &Path, includes: &[&Path]) -> Result<Vec<u8>, String> {
    let wish = wish();
    if wish == Wish::Off {
        return Err("WARPNORM_CUDA=off".to_owned());
    }
    match Toolkit::find() {
        Ok(toolkit) => Ok(compile::image(&toolkit, &toolkit.architectures(), kernels, includes)),
        Err(reason) if wish == Wish::Required => fail(&format!("WARPNORM_CUDA=required, but {reason}")),
        Err(reason) => Err(reason),
    }
}
