//! The library's functions.

use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::types::{
    wn_affine, wn_branch, wn_fold_options, wn_fold_report, wn_fold_row_function, wn_fold_safetensors_options,
    wn_fold_summary, wn_layer, wn_linear, wn_signature, wn_status, wn_tensors,
};

/// Opaque here too.
pub enum Device {}
pub enum Call {}

macro_rules! library {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        #[allow(non_camel_case_types)]
        pub struct Library {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Library {
            /// Every function of the header.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            fn load(file: &Path) -> Self {
                // SAFETY: our own library, which runs nothing when it is loaded; it stays loaded.
                let library = Box::leak(Box::new(unsafe { libloading::Library::new(file) }.expect("the library")));
                // SAFETY: the types are those of its sources.
                unsafe { Self { $($name: *library.get(stringify!($name).as_bytes()).expect(stringify!($name)),)* } }
            }
        }
    };
}

library! {
    wn_version() -> *const c_char;
    wn_status_name(i32) -> *const c_char;
    wn_last_error() -> *const c_char;
    wn_device_cpu(*mut *mut Device) -> i32;
    wn_device_cuda(i32, *mut *mut Device) -> i32;
    wn_device_current(*mut *mut Device) -> i32;
    wn_device_programmatic_launch(*const Device, i32, *mut *mut Device) -> i32;
    wn_device_destroy(*mut Device) -> i32;
    wn_device_is_cuda(*const Device, *mut i32) -> i32;
    wn_device_name(*const Device, *mut c_char, u64) -> i32;
    wn_workspace_init(*const Device, *mut c_void, u64, *mut c_void) -> i32;
    wn_layer_norm(*mut wn_layer, i64, *const i64) -> i32;
    wn_rms_norm(*mut wn_layer, i64, *const i64, f64) -> i32;
    wn_group_norm(*mut wn_layer, i64, i64) -> i32;
    wn_instance_norm(*mut wn_layer, i64) -> i32;
    wn_batch_norm(*mut wn_layer, i64) -> i32;
    wn_qk_rms_norm(*mut wn_layer, i64, i64, i64, f64) -> i32;
    wn_qk_layer_norm(*mut wn_layer, i64, i64, i64) -> i32;
    wn_signature_init(*mut wn_signature, i64, *const i64, i32) -> i32;
    wn_prepare(*const Device, *const wn_layer, *const wn_signature, *mut *mut Call) -> i32;
    wn_prepare_channel_table(*const Device, *const wn_layer, i32, i32, *mut *mut Call) -> i32;
    wn_call_destroy(*mut Call) -> i32;
    wn_call_workspace_bytes(*const Call, *mut u64) -> i32;
    wn_launch(*const Call, *const wn_tensors, *mut c_void) -> i32;
    wn_forward(*const Device, *const wn_layer, *const wn_signature, *const wn_tensors, *mut c_void) -> i32;
    wn_fold(
        *const wn_linear, *const wn_affine, u64, *const wn_affine, u64, i32,
        *mut c_void, i64, *mut c_void, i64, *mut wn_fold_report
    ) -> i32;
    wn_fold_onnx(
        *const c_char, *const c_char, *const wn_fold_options, wn_fold_row_function, *mut c_void, *mut wn_fold_summary
    ) -> i32;
    wn_fold_safetensors(
        *const c_char, *const c_char, *const wn_fold_safetensors_options, wn_fold_row_function, *mut c_void,
        *mut wn_fold_summary
    ) -> i32;
    wn_fold_branches(
        *const wn_branch, u64, i32, *mut c_void, i64, *mut c_void, i64, *mut u64, *mut wn_fold_report
    ) -> i32;
}

/// Cargo builds no library for the tests of a package that nothing can link as Rust, so the test asks for it.
pub fn file() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        if let Some(file) = std::env::var_os("WARPNORM_LIBRARY") {
            return file.into();
        }
        let own = std::env::current_exe().expect("own path");
        let profile = own.ancestors().nth(2).expect("deps/ in the profile's folder");
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--quiet", "--package", "warpnorm-capi", "--target-dir"]);
        command.arg(profile.parent().expect("the target folder")).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            command.arg("--release");
        }
        assert!(command.status().expect("cargo").success(), "the library cannot be built");
        profile.join("libwarpnorm.so")
    })
}

pub fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| Library::load(file()))
}

fn text(pointer: *const c_char) -> String {
    assert!(!pointer.is_null());
    // SAFETY: texts of the library end in a zero.
    unsafe { CStr::from_ptr(pointer) }.to_str().expect("UTF-8").to_owned()
}

pub fn name(status: i32) -> String {
    // SAFETY: any number will do.
    text(unsafe { (library().wn_status_name)(status) })
}

pub fn last_error() -> String {
    // SAFETY: no arguments.
    text(unsafe { (library().wn_last_error)() })
}

pub fn version() -> String {
    // SAFETY: no arguments.
    text(unsafe { (library().wn_version)() })
}

#[track_caller]
pub fn ok(status: i32) {
    assert_eq!(status, wn_status::Ok as i32, "{}: {}", name(status), last_error());
}

#[track_caller]
pub fn refused(status: i32, expected: wn_status, words: &str) {
    let message = last_error();
    assert_eq!(name(status), name(expected as i32), "{message}");
    assert!(message.contains(words), "{message:?} does not say {words:?}");
}

/// A device and its memory.
pub struct Place {
    pub device: *mut Device,
    /// `None` on the CPU.
    cuda: Option<warpnorm_rs::Cuda>,
}

impl Place {
    pub fn cpu() -> Self {
        let mut device = std::ptr::null_mut();
        // SAFETY: a pointer to write to.
        ok(unsafe { (library().wn_device_cpu)(&raw mut device) });
        Self { device, cuda: None }
    }

    pub fn cuda() -> Self {
        preload();
        let mut device = std::ptr::null_mut();
        // SAFETY: a pointer to write to.
        ok(unsafe { (library().wn_device_cuda)(0, &raw mut device) });
        Self { device, cuda: Some(warpnorm_rs::Cuda::open(0).expect("a device")) }
    }

    /// The same, with programmatic dependent launch.
    pub fn programmatic(mut self) -> Self {
        let mut other = std::ptr::null_mut();
        // SAFETY: a device, and a pointer to write to; the one is used no more when the other is there.
        unsafe {
            ok((library().wn_device_programmatic_launch)(self.device, 1, &raw mut other));
            ok((library().wn_device_destroy)(self.device));
        }
        self.device = other;
        self
    }

    /// Its memory with these bytes in it, at an address that the library can use.
    pub fn put<T: Copy + Default + warpnorm_rs::cudarc::driver::DeviceRepr>(&self, values: &[T]) -> Buffer<T> {
        let padded = if values.is_empty() { &[T::default()] } else { values };
        match &self.cuda {
            None => Buffer::Host(padded.to_vec()),
            Some(cuda) => {
                let slice = cuda.stream().clone_htod(padded).expect("upload");
                // The library's calls go to the default stream, as this one's do; but cudarc does not know of them.
                cuda.stream().synchronize().expect("synchronize");
                Buffer::Cuda(slice)
            }
        }
    }

    pub fn get<T: Copy + Default + warpnorm_rs::cudarc::driver::DeviceRepr>(&self, buffer: &Buffer<T>) -> Vec<T> {
        match (buffer, &self.cuda) {
            (Buffer::Host(values), _) => values.clone(),
            (Buffer::Cuda(slice), Some(cuda)) => cuda.stream().clone_dtoh(slice).expect("download"),
            _ => unreachable!("memory of a GPU without one"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: made by the library, and used no more.
        ok(unsafe { (library().wn_device_destroy)(self.device) });
    }
}

pub enum Buffer<T> {
    Host(Vec<T>),
    Cuda(warpnorm_rs::cudarc::driver::CudaSlice<T>),
}

impl<T> Buffer<T> {
    pub fn pointer(&mut self) -> *mut c_void {
        use warpnorm_rs::cudarc::driver::DevicePtr as _;
        match self {
            Self::Host(values) => values.as_mut_ptr().cast(),
            Self::Cuda(slice) => {
                let (address, _guard) = slice.device_ptr(slice.stream());
                std::ptr::with_exposed_provenance_mut(address as usize)
            }
        }
    }
}

/// The emulator, where there is no GPU.
pub fn preload() -> Option<&'static emulator::Emulator> {
    (!emulator::real_gpu()).then(|| emulator::preload(emulator::Variant::Plain))
}
