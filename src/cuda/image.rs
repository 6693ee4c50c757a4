//! The kernels' machine code, embedded by build.rs, and its way into a context.

use cudarc::driver::{DriverError, sys};
use std::ffi::CStr;

use super::driver::{compute_capability, failure, old_driver};
use crate::error::{Error, Result};
use crate::plan::params::{KERNEL_NAMES, Kernel};

/// Fatbins one after another, one for each .cu file, or a marker where the crate was built without nvcc.
static IMAGE: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kernels.image")));

/// The driver reads 8-byte numbers in a fatbin's header.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

/// What the image holds code for, as in `sm_80 sm_90 compute_120`; empty if nothing.
const ARCHITECTURES: &str = env!("WARPNORM_IMAGE_ARCHS");

/// Why there is nothing, if so.
const BUILD_NOTE: &str = env!("WARPNORM_BUILD_NOTE");

/// The architectures that there is code for.
pub(super) fn architectures() -> Result<&'static str> {
    if ARCHITECTURES.is_empty() { Err(Error::NoKernels { note: BUILD_NOTE }) } else { Ok(ARCHITECTURES) }
}

/// The oldest chip that nvcc 13 compiles for.
const LEAST_CAPABILITY: (i32, i32) = (7, 5);

/// A fatbin begins with these four bytes, then u16 version, u16 length of the header, u64 length of what follows.
const FATBIN_MAGIC: [u8; 4] = 0xBA55_ED50_u32.to_le_bytes();

/// Between fatbins the image is padded to this many bytes.
const FATBIN_ALIGNMENT: usize = 16;

/// The files of kernels, in the order of their fatbins, which is that of their names. A kernel's name begins with its file's.
const FILES: [&str; 7] =
    ["batch_statistics", "channels_last", "convolution", "fused_rows", "head_rows", "pointwise", "rows"];

/// The fatbins of an image; the whole of it, where it is none.
fn fatbins(mut image: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some(length) = fatbin_length(image) {
        let (part, rest) = image.split_at(length);
        parts.push(part);
        image = rest.get(length.next_multiple_of(FATBIN_ALIGNMENT) - length..).unwrap_or_default();
    }
    if parts.is_empty() {
        parts.push(image);
    }
    parts
}

fn fatbin_length(image: &[u8]) -> Option<usize> {
    let header = image.strip_prefix(&FATBIN_MAGIC)?;
    let header_length = u16::from_le_bytes(*header.get(2..)?.first_chunk()?);
    let payload = u64::from_le_bytes(*header.get(4..)?.first_chunk()?);
    let length = usize::try_from(payload).ok()?.checked_add(usize::from(header_length))?;
    (length <= image.len()).then_some(length)
}

/// Every kernel of the crate, loaded into one context.
pub(super) struct Kernels {
    modules: Vec<sys::CUmodule>,
    /// In the order of [`Kernel`].
    functions: Vec<sys::CUfunction>,
}

impl Kernels {
    /// Into the current context, which is one of this device.
    pub(super) fn load(device: sys::CUdevice) -> Result<Self> {
        let mut kernels = Self { modules: Vec::new(), functions: Vec::new() };
        match kernels.fill(device) {
            Ok(()) => Ok(kernels),
            Err(error) => {
                kernels.unload();
                Err(error)
            }
        }
    }

    fn fill(&mut self, device: sys::CUdevice) -> Result<()> {
        for part in fatbins(&IMAGE.0) {
            let mut module = std::ptr::null_mut();
            // SAFETY: a fatbin says itself how long it is, and the marker, which is none, ends in a zero.
            match unsafe { sys::cuModuleLoadData(&raw mut module, part.as_ptr().cast()) } {
                sys::CUresult::CUDA_SUCCESS => self.modules.push(module),
                status => return Err(explain(device, status)),
            }
        }
        for name in KERNEL_NAMES {
            self.functions.push(find(&self.modules, name)?);
        }
        Ok(())
    }

    /// Out of the context, which must be current. No kernel can be launched after it.
    pub(super) fn unload(&mut self) {
        self.functions.clear();
        for module in self.modules.drain(..) {
            // SAFETY: a module of the current context, of which no function is known any more. If it fails, the context is
            // gone or poisoned, and the module with it.
            let _ = unsafe { sys::cuModuleUnload(module) };
        }
    }

    pub(super) fn function(&self, kernel: Kernel) -> Result<sys::CUfunction> {
        let index = kernel as usize;
        self.functions.get(index).copied().ok_or_else(|| Error::NoKernel { name: format!("{kernel:?}") })
    }
}

/// Not by trying one module after another: tools that watch the driver's calls take each refusal for an error.
fn find(modules: &[sys::CUmodule], name: &CStr) -> Result<sys::CUfunction> {
    let text = name.to_string_lossy();
    let module = match modules {
        // The marker, or all files in one.
        [only] => Some(only),
        _ => FILES.iter().position(|file| text.starts_with(file)).and_then(|file| modules.get(file)),
    };
    let missing = || Error::NoKernel { name: text.clone().into_owned() };
    let mut function = std::ptr::null_mut();
    // SAFETY: a loaded module, and a name that ends in a zero.
    match unsafe { sys::cuModuleGetFunction(&raw mut function, *module.ok_or_else(missing)?, name.as_ptr()) } {
        sys::CUresult::CUDA_SUCCESS => Ok(function),
        sys::CUresult::CUDA_ERROR_NOT_FOUND => Err(missing()),
        status => Err(failure("cuModuleGetFunction", DriverError(status))),
    }
}

/// Why the driver refused the image.
fn explain(device: sys::CUdevice, status: sys::CUresult) -> Error {
    if ARCHITECTURES.is_empty() {
        return Error::NoKernels { note: BUILD_NOTE };
    }
    match status {
        sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => {
            let (major, minor) = compute_capability(device).unwrap_or((0, 0));
            let advice = if (major, minor) < LEAST_CAPABILITY {
                "CUDA's compiler knows it no longer; use the CPU backend".to_owned()
            } else {
                format!("build it with WARPNORM_CUDA_ARCHS={major}{minor}")
            };
            Error::Architecture { found: format!("{major}.{minor}"), built: ARCHITECTURES, advice }
        }
        sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            old_driver("that of the toolkit which compiled its kernels".to_owned())
        }
        _ => failure("cuModuleLoadData", DriverError(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::{FATBIN_ALIGNMENT, FATBIN_MAGIC, FILES, Kernels, fatbins};
    use crate::cuda::driver;
    use crate::plan::params::{
        BatchStatisticsParams, ChannelTableParams, ChannelsLastParams, ConvolutionParams, HeadRowsParams, KERNEL_NAMES,
        KERNELS, PointwiseParams, RowsParams,
    };
    use cudarc::driver::sys;

    /// What the driver says of a kernel's parameters, against the structures that are passed.
    #[test]
    fn kernels_and_rust_agree_on_parameter_sizes() {
        if !emulator::real_gpu() {
            emulator::preload(emulator::Variant::Checked);
        }
        let _context = driver::open(0).unwrap(); // current to this thread
        let mut kernels = Kernels::load(0).unwrap();
        for (kernel, name) in KERNELS.into_iter().zip(KERNEL_NAMES) {
            let name = name.to_str().unwrap();
            let expected = match name.split('_').next().unwrap() {
                "rows" | "fused" => size_of::<RowsParams>(),
                "head" => size_of::<HeadRowsParams>(),
                "pointwise" if name.starts_with("pointwise_table") => size_of::<ChannelTableParams>(),
                "pointwise" => size_of::<PointwiseParams>(),
                "channels" => size_of::<ChannelsLastParams>(),
                "batch" => size_of::<BatchStatisticsParams>(),
                "convolution" => size_of::<ConvolutionParams>(),
                _ => panic!("{name} has parameters that this test does not know"),
            };
            let function = kernels.function(kernel).unwrap();
            let (mut offset, mut size) = (usize::MAX, 0);
            let mut ask = |index| {
                // SAFETY: a loaded function, and two integers to write to.
                unsafe { sys::cuFuncGetParamInfo(function, index, &raw mut offset, &raw mut size) }
            };
            assert_eq!(ask(0), sys::CUresult::CUDA_SUCCESS, "{name}");
            assert_ne!(ask(1), sys::CUresult::CUDA_SUCCESS, "{name} takes more than one parameter");
            assert_eq!((offset, size), (0, expected), "{name}");
        }
        kernels.unload();
    }

    /// By which kernels are found in an image. The emulator knows which file each comes from.
    #[test]
    fn names_of_kernels_begin_with_those_of_their_files() {
        if emulator::real_gpu() {
            return println!("a GPU does not say which file a kernel comes from");
        }
        let kernels = emulator::preload(emulator::Variant::Checked).kernels();
        let mut files = std::collections::BTreeSet::new();
        for name in KERNEL_NAMES.map(|name| name.to_str().unwrap()) {
            let kernel = kernels.iter().find(|kernel| kernel.name == name).unwrap();
            let of: Vec<_> = FILES.into_iter().filter(|file| name.starts_with(file)).collect();
            assert!(of.len() == 1 && kernel.file == format!("{}.cu", of[0]), "{name} of {}: {of:?}", kernel.file);
            files.extend(of);
        }
        assert!(files.into_iter().eq(FILES), "every file, in the order of their names");
    }

    fn fatbin(payload: usize) -> Vec<u8> {
        let mut bytes = FATBIN_MAGIC.to_vec();
        bytes.extend(1_u16.to_le_bytes());
        bytes.extend(16_u16.to_le_bytes());
        bytes.extend((payload as u64).to_le_bytes());
        bytes.resize(16 + payload, 7);
        bytes
    }

    #[test]
    fn an_image_falls_apart_into_its_fatbins() {
        let (first, second) = (fatbin(21), fatbin(16));
        let mut image = first.clone();
        image.resize(image.len().next_multiple_of(FATBIN_ALIGNMENT), 0);
        image.extend(&second);
        assert_eq!(fatbins(&image), [first.as_slice(), second.as_slice()]);
    }

    #[test]
    fn what_is_no_fatbin_stays_whole() {
        assert_eq!(fatbins(b"WARPNORM-NO-KERNELS\0"), [b"WARPNORM-NO-KERNELS\0".as_slice()]);
        let cut_off = &fatbin(100)[..50];
        assert_eq!(fatbins(cut_off), [cut_off]);
    }
}
