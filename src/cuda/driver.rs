//! Whether there is a driver, asked so that the answer is never a panic.

use cudarc::driver::{CudaContext, DriverError, sys};
use std::ffi::c_int;
use std::sync::Arc;

use crate::error::{Error, Result};

/// The least CUDA version whose driver has every call that this crate makes (`cuLaunchKernelEx` is of 11.8).
const LEAST_VERSION: (i32, i32) = (11, 8);

/// cudarc panics on its first call where there is no driver, and its own probe disappears as soon as any crate of the
/// program turns on its dynamic linking. Hence this one, by the names that cudarc will try, before that call.
fn probe() -> Result<()> {
    let names: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
    // SAFETY: loading the driver runs NVIDIA's initializers and nothing else.
    let found = names.iter().any(|&name| unsafe { libloading::Library::new(name) }.is_ok());
    if found { Ok(()) } else { Err(Error::NoDriver) }
}

/// Makes sure of a driver that serves, before anything else is asked of it. How many devices there are.
pub(super) fn init() -> Result<usize> {
    probe()?;
    let count = match CudaContext::device_count() {
        Ok(count) => usize::try_from(count).unwrap_or(0),
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
        Err(error) => return Err(failure("cuInit", error)),
    };
    check_version()?;
    Ok(count)
}

/// The primary context of a device, which every library of the process shares.
pub(super) fn open(ordinal: usize) -> Result<Arc<CudaContext>> {
    let count = init()?;
    if ordinal >= count {
        return Err(Error::NoDevice { ordinal, count });
    }
    CudaContext::new(ordinal).map_err(|error| failure("cuDevicePrimaryCtxRetain", error))
}

fn check_version() -> Result<()> {
    let mut version = 0;
    // SAFETY: the driver is loaded, and writes one integer.
    call("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
    let found = (version / 1000, version % 1000 / 10);
    if found >= LEAST_VERSION { Ok(()) } else { Err(old_driver(version_name(LEAST_VERSION))) }
}

fn version_name((major, minor): (i32, i32)) -> String {
    format!("{major}.{minor}")
}

pub(super) fn old_driver(needed: String) -> Error {
    Error::OldDriver { found: version(), needed }
}

/// The newest version of CUDA that the driver knows. It must have been loaded.
pub(super) fn version() -> String {
    let mut version = 0;
    // SAFETY: as above; left at 0 if the call fails.
    let _ = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    version_name((version / 1000, version % 1000 / 10))
}

/// A driver's error as ours. The text is fetched now, while the driver is known to be there: cudarc's own error panics
/// when it is printed without one.
pub(super) fn failure(call: &'static str, error: DriverError) -> Error {
    let message = error
        .error_string()
        .map_or_else(|_| "the driver has no description".to_owned(), |text| text.to_string_lossy().into_owned());
    Error::Driver { call, code: error.0 as u32, message }
}

/// The outcome of a call of the driver as ours.
pub(super) fn call(name: &'static str, status: sys::CUresult) -> Result<()> {
    match status {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        error => Err(failure(name, DriverError(error))),
    }
}

pub(super) fn attribute(device: sys::CUdevice, attribute: sys::CUdevice_attribute) -> Result<c_int> {
    let mut value = 0;
    // SAFETY: an integer to write to.
    call("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) })?;
    Ok(value)
}

pub(super) fn compute_capability(device: sys::CUdevice) -> Result<(c_int, c_int)> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    Ok((attribute(device, MAJOR)?, attribute(device, MINOR)?))
}

pub(super) fn device_name(device: sys::CUdevice) -> Result<String> {
    let mut name = [0; 256];
    // SAFETY: as many characters as are said.
    call("cuDeviceGetName", unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device) })?;
    let characters: Vec<u8> = name.iter().take_while(|&&at| at != 0).map(|&at| at as u8).collect();
    Ok(String::from_utf8_lossy(&characters).into_owned())
}
