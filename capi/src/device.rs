//! Devices and workspaces.

use std::ffi::{c_char, c_void};
use warpnorm_rs::raw;

use crate::status::{Refusal, Result, guarded, wn_status};

/// Where calls run: the CPU, or a CUDA context with the kernels in it. Any thread may use it, and several at once.
pub struct wn_device(raw::Device);

impl wn_device {
    pub(crate) const fn raw(&self) -> &raw::Device {
        &self.0
    }
}

/// What a pointer of the caller's points to.
///
/// # Safety
/// It is null, or points to a value that lives as long as the answer is used.
pub(crate) unsafe fn given<'a, T>(pointer: *const T, argument: &str) -> Result<&'a T> {
    // SAFETY: as the caller promised.
    unsafe { pointer.as_ref() }.ok_or_else(|| Refusal::null(argument))
}

/// Where a result goes.
///
/// # Safety
/// It is null, or points to memory for a value that nobody else uses; not necessarily an initialized one.
pub(crate) unsafe fn put<T>(place: *mut T, value: T, argument: &str) -> Result<()> {
    if place.is_null() {
        return Err(Refusal::null(argument));
    }
    // SAFETY: as the caller promised.
    unsafe { place.write(value) };
    Ok(())
}

/// A handle of its own for the caller.
///
/// # Safety
/// As of [`put`].
pub(crate) unsafe fn hand_out<T>(place: *mut *mut T, make: impl FnOnce() -> Result<T>, argument: &str) -> Result<()> {
    // Before anything costly, and so that a failure leaves no stray pointer.
    // SAFETY: as the caller promised.
    unsafe { put(place, std::ptr::null_mut(), argument)? };
    let handle = Box::into_raw(Box::new(make()?));
    // SAFETY: as the caller promised.
    unsafe { put(place, handle, argument) }
}

/// The CPU. Calls have finished when they return, and streams are not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_device_cpu(device: *mut *mut wn_device) -> wn_status {
    // SAFETY: as the caller promised.
    guarded(|| unsafe { hand_out(device, || Ok(wn_device(raw::Device::cpu())), "device") })
}

/// The primary context of a CUDA device, which the CUDA runtime, PyTorch and JAX use; it is retained. Takes milliseconds,
/// as the kernels are loaded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_device_cuda(ordinal: i32, device: *mut *mut wn_device) -> wn_status {
    let make = || {
        let ordinal = usize::try_from(ordinal).map_err(|_| Refusal {
            status: wn_status::NoDevice,
            message: format!("there is no CUDA device {ordinal}"),
        })?;
        Ok(wn_device(raw::Device::cuda(ordinal)?))
    };
    // SAFETY: as the caller promised.
    guarded(|| unsafe { hand_out(device, make, "device") })
}

/// The CUDA context that is current to the calling thread. One that is not a primary context must live longer than the
/// device and its calls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_device_current(device: *mut *mut wn_device) -> wn_status {
    // SAFETY: as the caller promised.
    guarded(|| unsafe { hand_out(device, || Ok(wn_device(raw::Device::current()?)), "device") })
}

/// The same device once more, with the same kernels; but calls that are prepared on `other` may be launched before what is before
/// them on the stream has finished, if `wanted` is not 0: CUDA's programmatic dependent launch. The results are the same, and
/// what a launch costs the GPU is hidden, which matters where calls are short. A kernel of this library waits for the one
/// before it to finish before it reads or writes anything, weights included. Without effect on the CPU, and on chips before
/// compute capability 9.0; in a CUDA graph it needs a driver of CUDA 12.3 or newer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_device_programmatic_launch(
    device: *const wn_device,
    wanted: i32,
    other: *mut *mut wn_device,
) -> wn_status {
    // SAFETY: as the caller promised.
    let make = || Ok(wn_device(unsafe { given(device, "device")? }.0.clone().programmatic_launch(wanted != 0)));
    // SAFETY: as the caller promised.
    guarded(|| unsafe { hand_out(other, make, "other") })
}

/// Lets a device go; null is nothing to do. Calls that were prepared on it stay valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_device_destroy(device: *mut wn_device) -> wn_status {
    guarded(|| {
        if !device.is_null() {
            // SAFETY: as the caller promised.
            drop(unsafe { Box::from_raw(device) });
        }
        Ok(())
    })
}

/// Whether it is a GPU: 1 or 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_device_is_cuda(device: *const wn_device, is_cuda: *mut i32) -> wn_status {
    // SAFETY: as the caller promised.
    guarded(|| unsafe { put(is_cuda, i32::from(given(device, "device")?.0.is_cuda()), "is_cuda") })
}

/// `CPU`, or a GPU's name and compute capability, as in `NVIDIA H200 (sm_90)`, cut to `size` bytes with its final zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_device_name(device: *const wn_device, name: *mut c_char, size: u64) -> wn_status {
    guarded(|| {
        // SAFETY: as the caller promised.
        let text = unsafe { given(device, "device")? }.0.name()?;
        if name.is_null() {
            return Err(Refusal::null("name"));
        }
        let Some(room) = usize::try_from(size).ok().and_then(|size| size.checked_sub(1)) else {
            return Err(Refusal::value("`size` is 0: there is no room for the final zero"));
        };
        let end = (0..=text.len().min(room)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        // SAFETY: as the caller promised, and no more than the room.
        unsafe {
            name.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), end);
            name.add(end).write(0);
        }
        Ok(())
    })
}

/// Makes a workspace of memory of the caller's, at a multiple of 16: fills it with zeros, on the stream. Once; calls leave it
/// as the next one needs it. Calls that follow each other on one stream may share it, calls that may run at the same time may
/// not. On the CPU no call needs any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_workspace_init(
    device: *const wn_device,
    memory: *mut c_void,
    bytes: u64,
    stream: *mut c_void,
) -> wn_status {
    guarded(|| {
        let address = memory.expose_provenance() as u64;
        let bytes = usize::try_from(bytes).map_err(|_| Refusal::value(format!("`bytes` is {bytes}")))?;
        // SAFETY: as the caller promised.
        unsafe { given(device, "device")?.0.init_workspace(address, bytes, stream)? };
        Ok(())
    })
}
