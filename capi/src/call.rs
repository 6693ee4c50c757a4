//! Prepared calls, and calls at once.

use std::ffi::c_void;
use warpnorm_rs::raw::{Addresses, Call};

use crate::device::{given, hand_out, put, wn_device};
use crate::layer::{Layer, optional_type, signature};
use crate::status::{Refusal, Result, guarded, wn_status};
use crate::types::{wn_layer, wn_signature, wn_tensors};

/// A call of which everything but the buffers is decided. Any thread may launch it, and several at once.
pub struct wn_call(Call);

/// # Safety
/// The pointers are null or point to what they say.
unsafe fn prepared(device: *const wn_device, layer: *const wn_layer, signed: *const wn_signature) -> Result<Call> {
    // SAFETY: as the caller promised.
    let (device, layer, signed) =
        unsafe { (given(device, "device")?, given(layer, "layer")?, given(signed, "signature")?) };
    Layer::of(layer)?.prepare(device.raw(), &signature(signed)?)
}

/// Makes all decisions of a call once. Allocates; a launch does not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_prepare(
    device: *const wn_device,
    layer: *const wn_layer,
    signature: *const wn_signature,
    call: *mut *mut wn_call,
) -> wn_status {
    // SAFETY: as the caller promised.
    guarded(|| unsafe { hand_out(call, || Ok(wn_call(prepared(device, layer, signature)?)), "call") })
}

/// Prepares the making of a BatchNorm's channel table `[3, C]` in f32, the call's output, from running_mean, running_var,
/// and weight and bias of these types, of `wn_dtype`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_prepare_channel_table(
    device: *const wn_device,
    layer: *const wn_layer,
    weight: i32,
    bias: i32,
    call: *mut *mut wn_call,
) -> wn_status {
    let make = || {
        // SAFETY: as the caller promised.
        let (device, layer) = unsafe { (given(device, "device")?, given(layer, "layer")?) };
        let (weight, bias) = (optional_type(weight, "weight")?, optional_type(bias, "bias")?);
        Ok(wn_call(Layer::of(layer)?.prepare_table(device.raw(), weight, bias)?))
    };
    // SAFETY: as the caller promised.
    guarded(|| unsafe { hand_out(call, make, "call") })
}

/// Lets a call go; null is nothing to do. What it has launched runs on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_call_destroy(call: *mut wn_call) -> wn_status {
    guarded(|| {
        if !call.is_null() {
            // SAFETY: as the caller promised.
            drop(unsafe { Box::from_raw(call) });
        }
        Ok(())
    })
}

/// Bytes of the workspace that a launch needs; 0 if it needs none, as on the CPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_call_workspace_bytes(call: *const wn_call, bytes: *mut u64) -> wn_status {
    // SAFETY: as the caller promised.
    guarded(|| unsafe { put(bytes, given(call, "call")?.0.workspace_bytes() as u64, "bytes") })
}

/// Launches a prepared call on a stream (a `CUstream` or `cudaStream_t`; null is the default stream), without waiting for
/// it. Allocates nothing and synchronizes nothing, so it can be captured into a CUDA graph. On the CPU it has finished on
/// return. Until the launch has finished, nobody else writes what it reads, or touches what it writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_launch(call: *const wn_call, tensors: *const wn_tensors, stream: *mut c_void) -> wn_status {
    guarded(|| {
        // SAFETY: as the caller promised.
        unsafe {
            let (call, tensors) = (given(call, "call")?, given(tensors, "tensors")?);
            call.0.launch(&addresses(tensors)?, stream)?;
        }
        Ok(())
    })
}

/// Prepares and launches at once, where a call is made once. A call that needs a workspace is better prepared.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_forward(
    device: *const wn_device,
    layer: *const wn_layer,
    signature: *const wn_signature,
    tensors: *const wn_tensors,
    stream: *mut c_void,
) -> wn_status {
    guarded(|| {
        // SAFETY: as the caller promised.
        unsafe {
            let tensors = addresses(given(tensors, "tensors")?)?;
            prepared(device, layer, signature)?.launch(&tensors, stream)?;
        }
        Ok(())
    })
}

fn addresses(tensors: &wn_tensors) -> Result<Addresses> {
    if tensors.reserved.iter().any(|pointer| !pointer.is_null()) {
        return Err(Refusal::value("`reserved` of the tensors is not null"));
    }
    let read = |pointer: *const c_void| pointer.expose_provenance() as u64;
    let written = |pointer: *mut c_void| pointer.expose_provenance() as u64;
    Ok(Addresses {
        input: read(tensors.input),
        output: written(tensors.output),
        residual: written(tensors.residual),
        second_residual: read(tensors.second_residual),
        sum: written(tensors.sum),
        weight: read(tensors.weight),
        bias: read(tensors.bias),
        scale: read(tensors.scale),
        shift: read(tensors.shift),
        channel_bias: read(tensors.channel_bias),
        gate: read(tensors.gate),
        input_bias: read(tensors.input_bias),
        post_norm_weight: read(tensors.post_norm_weight),
        post_norm_bias: read(tensors.post_norm_bias),
        scales: written(tensors.scales.cast()),
        running_mean: written(tensors.running_mean.cast()),
        running_var: written(tensors.running_var.cast()),
        num_batches_tracked: written(tensors.num_batches_tracked.cast()),
        channel_table: read(tensors.channel_table.cast()),
        workspace: written(tensors.workspace),
        workspace_bytes: usize::try_from(tensors.workspace_bytes)
            .map_err(|_| Refusal::value(format!("`workspace_bytes` is {}", tensors.workspace_bytes)))?,
        ..Addresses::default()
    })
}
