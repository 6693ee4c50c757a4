//! What no careful program does: every pointer null, every number absurd. Each has a status, and nothing happens.

use std::ffi::c_void;
use std::mem::zeroed;
use std::process::Command;
use std::ptr::{null, null_mut};

use crate::folding::{NOTHING, array, fold, linear};
use crate::load::{Call, Device, Place, last_error, library, name, ok, preload, refused};
use crate::reference::noise;
use crate::types::*;

fn layer_norm(length: i64) -> wn_layer {
    // SAFETY: plain numbers, and a layer to write to.
    unsafe {
        let mut layer = zeroed();
        ok((library().wn_layer_norm)(&raw mut layer, 1, &raw const length));
        layer
    }
}

fn signature(shape: &[i64]) -> wn_signature {
    // SAFETY: plain numbers, and a signature to write to.
    unsafe {
        let mut signature = zeroed();
        let dtype = wn_dtype::F32 as i32;
        ok((library().wn_signature_init)(&raw mut signature, shape.len() as i64, shape.as_ptr(), dtype));
        signature
    }
}

fn prepare(place: &Place, layer: &wn_layer, signature: &wn_signature) -> (i32, *mut Call) {
    let mut call = std::ptr::without_provenance_mut(1);
    // SAFETY: structures of numbers, whatever they are.
    let status = unsafe { (library().wn_prepare)(place.device, layer, signature, &raw mut call) };
    (status, call)
}

#[track_caller]
fn unfit(place: &Place, layer: &wn_layer, signature: &wn_signature, status: wn_status, words: &str) {
    let (found, call) = prepare(place, layer, signature);
    refused(found, status, words);
    assert!(call.is_null(), "a refusal has left a handle");
}

#[test]
fn null_pointers() {
    let place = Place::cpu();
    let c = library();
    let (layer, signed) = (layer_norm(4), signature(&[2, 4]));
    let (status, call) = prepare(&place, &layer, &signed);
    ok(status);
    let number = 1_i64;
    // SAFETY: plain numbers.
    let (mut spare_layer, mut spare_signature): (wn_layer, wn_signature) = unsafe { (zeroed(), zeroed()) };
    // SAFETY: null pointers are what is tried; all others are good.
    unsafe {
        let tensors: wn_tensors = zeroed();
        let (mut bytes, mut is_cuda, mut letter) = (0_u64, 0, 0);
        let (l, s, t) = (&raw const layer, &raw const signed, &raw const tensors);
        let d = place.device.cast_const();
        let mut handle: *mut Call = null_mut();
        let refuses = |status, argument: &str| refused(status, wn_status::Null, &format!("`{argument}`"));
        refuses((c.wn_device_cpu)(null_mut()), "device");
        refuses((c.wn_device_cuda)(0, null_mut()), "device");
        refuses((c.wn_device_current)(null_mut()), "device");
        let mut other: *mut Device = null_mut();
        refuses((c.wn_device_programmatic_launch)(null(), 1, &raw mut other), "device");
        refuses((c.wn_device_programmatic_launch)(d, 1, null_mut()), "other");
        refuses((c.wn_device_is_cuda)(null(), &raw mut is_cuda), "device");
        refuses((c.wn_device_is_cuda)(d, null_mut()), "is_cuda");
        refuses((c.wn_device_name)(null(), &raw mut letter, 1), "device");
        refuses((c.wn_device_name)(d, null_mut(), 1), "name");
        refuses((c.wn_workspace_init)(null(), null_mut(), 0, null_mut()), "device");
        refuses((c.wn_layer_norm)(null_mut(), 1, &raw const number), "layer");
        refuses((c.wn_layer_norm)(&raw mut spare_layer, 1, null()), "normalized_shape");
        refuses((c.wn_rms_norm)(null_mut(), 1, &raw const number, 1e-5), "layer");
        refuses((c.wn_rms_norm)(&raw mut spare_layer, 1, null(), 1e-5), "normalized_shape");
        refuses((c.wn_group_norm)(null_mut(), 1, 1), "layer");
        refuses((c.wn_instance_norm)(null_mut(), 1), "layer");
        refuses((c.wn_batch_norm)(null_mut(), 1), "layer");
        refuses((c.wn_signature_init)(null_mut(), 1, &raw const number, 1), "signature");
        refuses((c.wn_signature_init)(&raw mut spare_signature, 1, null(), 1), "shape");
        refuses((c.wn_prepare)(null(), l, s, &raw mut handle), "device");
        refuses((c.wn_prepare)(d, null(), s, &raw mut handle), "layer");
        refuses((c.wn_prepare)(d, l, null(), &raw mut handle), "signature");
        refuses((c.wn_prepare)(d, l, s, null_mut()), "call");
        refuses((c.wn_prepare_channel_table)(null(), l, 0, 0, &raw mut handle), "device");
        refuses((c.wn_prepare_channel_table)(d, null(), 0, 0, &raw mut handle), "layer");
        refuses((c.wn_prepare_channel_table)(d, l, 0, 0, null_mut()), "call");
        refuses((c.wn_call_workspace_bytes)(null(), &raw mut bytes), "call");
        refuses((c.wn_call_workspace_bytes)(call, null_mut()), "bytes");
        refuses((c.wn_launch)(null(), t, null_mut()), "call");
        refuses((c.wn_launch)(call, null(), null_mut()), "tensors");
        refuses((c.wn_forward)(null(), l, s, t, null_mut()), "device");
        refuses((c.wn_forward)(d, null(), s, t, null_mut()), "layer");
        refuses((c.wn_forward)(d, l, null(), t, null_mut()), "signature");
        refuses((c.wn_forward)(d, l, s, null(), null_mut()), "tensors");
        refused((c.wn_launch)(call, t, null_mut()), wn_status::Missing, "`output`");
        // Nothing is there to be let go.
        ok((c.wn_device_destroy)(null_mut()));
        ok((c.wn_call_destroy)(null_mut()));
        ok((c.wn_call_destroy)(call));
    }
}

#[test]
fn absurd_numbers_of_layers() {
    let c = library();
    // SAFETY: plain numbers.
    let mut layer: wn_layer = unsafe { zeroed() };
    let l = &raw mut layer;
    let shape = [4_i64, -1, i64::MIN, i64::MAX, 0, 1, 1, 1, 1];
    let at = |index: usize| shape[index..].as_ptr();
    // SAFETY: lists as long as said, but where the length itself is refused.
    unsafe {
        refused((c.wn_layer_norm)(l, 9, at(0)), wn_status::Rank, "9 axes");
        refused((c.wn_layer_norm)(l, i64::MAX, at(0)), wn_status::Rank, "axes");
        refused((c.wn_layer_norm)(l, -1, at(0)), wn_status::InvalidValue, "rank of -1");
        refused((c.wn_layer_norm)(l, i64::MIN, at(0)), wn_status::InvalidValue, "rank");
        refused((c.wn_layer_norm)(l, 0, null()), wn_status::Empty, "normalized_shape");
        refused((c.wn_layer_norm)(l, 1, at(1)), wn_status::InvalidValue, "-1");
        refused((c.wn_layer_norm)(l, 1, at(2)), wn_status::InvalidValue, "extent");
        refused((c.wn_layer_norm)(l, 1, at(3)), wn_status::ShapeOverflow, "address");
        refused((c.wn_rms_norm)(l, 1, at(0), -1.0), wn_status::Eps, "-1");
        refused((c.wn_rms_norm)(l, 1, at(0), f64::NAN), wn_status::Eps, "NaN");
        refused((c.wn_group_norm)(l, 0, 4), wn_status::Empty, "num_groups");
        refused((c.wn_group_norm)(l, 3, 4), wn_status::Groups, "3 groups");
        refused((c.wn_group_norm)(l, -3, 4), wn_status::InvalidValue, "num_groups");
        refused((c.wn_group_norm)(l, 1, i64::MIN), wn_status::InvalidValue, "num_channels");
        refused((c.wn_instance_norm)(l, -1), wn_status::InvalidValue, "num_channels");
        refused((c.wn_batch_norm)(l, -1), wn_status::InvalidValue, "num_channels");
        assert_eq!(layer.kind, 0, "a refusal has written");
    }
    let place = Place::cpu();
    let signed = signature(&[2, 4]);
    let spoiled = |spoil: &dyn Fn(&mut wn_layer), status, words: &str| {
        let mut layer = layer_norm(4);
        spoil(&mut layer);
        unfit(&place, &layer, &signed, status, words);
    };
    let invalid = || wn_status::InvalidValue;
    for code in [0, 7, -1, i32::MIN, i32::MAX] {
        spoiled(&|layer| layer.kind = code, invalid(), "kind");
    }
    for code in [5, -1, i32::MIN, i32::MAX] {
        spoiled(&|layer| layer.layout = code, invalid(), "layout");
        spoiled(&|layer| layer.activation = code, invalid(), "activation");
    }
    for flags in [1, 4, 8, 16, 32, 512, u32::MAX] {
        spoiled(&|layer| layer.flags = flags, invalid(), "flags");
    }
    spoiled(&|layer| layer.layout = wn_layout::Nhwc as i32, invalid(), "no layout");
    spoiled(&|layer| layer.normalized_rank = 9, wn_status::Rank, "9 axes");
    spoiled(&|layer| layer.normalized_rank = -9, invalid(), "-9");
    spoiled(&|layer| layer.normalized_shape[0] = -4, invalid(), "-4");
    spoiled(&|layer| layer.normalized_shape[0] = 5, wn_status::Shape, "[5]");
    spoiled(&|layer| layer.eps = f64::INFINITY, wn_status::Eps, "inf");
    spoiled(&|layer| layer.reserved[3] = 1, invalid(), "reserved");
    // SAFETY: a layer to write to.
    ok(unsafe { (c.wn_batch_norm)(l, 4) });
    for flag in [wn_layer_flag::PostNorm, wn_layer_flag::RoundSteps, wn_layer_flag::RoundNormalized] {
        layer.flags = flag as u32;
        unfit(&place, &layer, &signed, invalid(), "flags");
    }
    layer.flags = wn_layer_flag::BatchStatistics as u32;
    for momentum in [-0.1, 1.5, f64::NAN] {
        layer.momentum = momentum;
        unfit(&place, &layer, &signed, wn_status::Momentum, "momentum");
    }
    layer.momentum = 0.5;
    unfit(&place, &layer, &signature(&[1, 4]), wn_status::OneValue, "one value");
}

#[test]
fn absurd_numbers_of_signatures() {
    let c = library();
    // SAFETY: plain numbers, and lists as long as said.
    unsafe {
        let mut made: wn_signature = zeroed();
        let shape = [4_i64; 9];
        for dtype in [0, 4, 5, 6, 7, -1, i32::MAX] {
            let status = (c.wn_signature_init)(&raw mut made, 1, shape.as_ptr(), dtype);
            refused(status, wn_status::InvalidValue, "dtype");
        }
        refused((c.wn_signature_init)(&raw mut made, 9, shape.as_ptr(), 1), wn_status::Rank, "9 axes");
    }
    let place = Place::cpu();
    let layer = layer_norm(4);
    let spoiled = |spoil: &dyn Fn(&mut wn_signature), status, words: &str| {
        let mut signed = signature(&[2, 4]);
        spoil(&mut signed);
        unfit(&place, &layer, &signed, status, words);
    };
    let invalid = || wn_status::InvalidValue;
    for code in [-1, 4, 5, 6, 7, i32::MIN, i32::MAX] {
        spoiled(&|signed| signed.dtype = code, invalid(), "dtype");
        spoiled(&|signed| signed.weight = code, invalid(), "weight");
        spoiled(&|signed| signed.bias = code, invalid(), "bias");
        spoiled(&|signed| signed.scale = code, invalid(), "scale");
        spoiled(&|signed| signed.shift = code, invalid(), "shift");
        spoiled(&|signed| signed.channel_bias = code, invalid(), "channel_bias");
        spoiled(&|signed| signed.gate = code, invalid(), "gate");
        spoiled(&|signed| signed.input_bias = code, invalid(), "input_bias");
        spoiled(&|signed| signed.output = code, invalid(), "output");
        spoiled(&|signed| signed.post_norm_weight = code, invalid(), "post_norm_weight");
        spoiled(&|signed| signed.post_norm_bias = code, invalid(), "post_norm_bias");
        spoiled(&|signed| signed.key_weight = code, invalid(), "key_weight");
        spoiled(&|signed| signed.key_bias = code, invalid(), "key_bias");
    }
    spoiled(&|signed| signed.weight = wn_dtype::F16 as i32, wn_status::ElementType, "weight");
    spoiled(&|signed| signed.reserved = 1, invalid(), "reserved");
    for scaling in [1, 2, 3, 4, 5, -1, i32::MIN, i32::MAX] {
        spoiled(&|signed| signed.scaling = scaling, invalid(), "not quantized");
    }
    for output in [wn_dtype::I8 as i32, wn_dtype::F8E4M3 as i32] {
        for scaling in [0, 5, -1, i32::MIN, i32::MAX] {
            let quantized = |signed: &mut wn_signature| (signed.output, signed.scaling) = (output, scaling);
            spoiled(&quantized, invalid(), &format!("`scaling` is {scaling}"));
        }
    }
    for flags in [1024, 1 << 31, u32::MAX] {
        spoiled(&|signed| signed.flags = flags, invalid(), "flags");
    }
    let (sum, in_residual) = (wn_signature_flag::Sum as u32, wn_signature_flag::SumInResidual as u32);
    let residual = wn_signature_flag::Residual as u32;
    spoiled(&|signed| signed.flags = sum, invalid(), "without a residual");
    spoiled(&|signed| signed.flags = in_residual, invalid(), "without a residual");
    spoiled(&|signed| signed.flags = residual | sum | in_residual, invalid(), "one place");
    spoiled(&|signed| signed.rank = 9, wn_status::Rank, "9 axes");
    spoiled(&|signed| signed.rank = -2, invalid(), "-2");
    spoiled(&|signed| signed.rank = 0, wn_status::Shape, "[]");
    spoiled(&|signed| signed.shape[0] = -2, invalid(), "-2");
    spoiled(&|signed| signed.shape[0] = i64::MAX, wn_status::ShapeOverflow, "address");
    spoiled(&|signed| signed.input_row_stride = -1, invalid(), "input_row_stride");
    spoiled(&|signed| signed.residual_row_stride = -1, invalid(), "residual_row_stride");
    spoiled(&|signed| signed.second_residual_row_stride = -1, invalid(), "second_residual_row_stride");
    spoiled(&|signed| signed.sum_row_stride = i64::MIN, invalid(), "sum_row_stride");
    spoiled(&|signed| signed.output_row_stride = -1, invalid(), "output_row_stride");
    spoiled(&|signed| signed.key_input_row_stride = -1, invalid(), "key_input_row_stride");
    spoiled(&|signed| signed.key_output_row_stride = -1, invalid(), "key_output_row_stride");
}

#[test]
fn buffers() {
    for place in [Place::cpu(), Place::cuda()] {
        let c = library();
        let mut memory = place.put(&[1.0_f32; 64]);
        let at = |memory: &mut crate::load::Buffer<f32>, bytes: usize| memory.pointer().wrapping_byte_add(bytes);
        let (layer, mut signed) = (layer_norm(8), signature(&[2, 8]));
        signed.weight = wn_dtype::F32 as i32;
        let (status, call) = prepare(&place, &layer, &signed);
        ok(status);
        // SAFETY: null pointers are nothing.
        let mut good: wn_tensors = unsafe { zeroed() };
        good.input = at(&mut memory, 0);
        good.output = at(&mut memory, 64);
        good.weight = at(&mut memory, 192);
        // SAFETY: memory of this device, as far as it is touched.
        let launch = |tensors: &wn_tensors| unsafe { (c.wn_launch)(call, tensors, null_mut()) };
        let spare = at(&mut memory, 224);
        let spoiled = |spoil: &dyn Fn(&mut wn_tensors), status, words: &str| {
            let mut tensors = good;
            spoil(&mut tensors);
            refused(launch(&tensors), status, words);
        };
        let unexpected = || wn_status::Unexpected;
        spoiled(&|tensors| tensors.output = null_mut(), wn_status::Missing, "output");
        spoiled(&|tensors| tensors.weight = null(), wn_status::Missing, "weight");
        spoiled(&|tensors| tensors.bias = spare, unexpected(), "bias");
        spoiled(&|tensors| tensors.residual = spare, unexpected(), "residual");
        spoiled(&|tensors| tensors.sum = spare, unexpected(), "sum");
        spoiled(&|tensors| tensors.scale = spare, unexpected(), "scale");
        spoiled(&|tensors| tensors.shift = spare, unexpected(), "shift");
        spoiled(&|tensors| tensors.channel_bias = spare, unexpected(), "channel_bias");
        spoiled(&|tensors| tensors.gate = spare, unexpected(), "gate");
        spoiled(&|tensors| tensors.input_bias = spare, unexpected(), "input_bias");
        spoiled(&|tensors| tensors.post_norm_weight = spare, unexpected(), "post_norm_weight");
        spoiled(&|tensors| tensors.post_norm_bias = spare, unexpected(), "post_norm_bias");
        spoiled(&|tensors| tensors.scales = spare.cast(), unexpected(), "scales");
        spoiled(&|tensors| tensors.second_residual = spare, unexpected(), "second_residual");
        spoiled(&|tensors| tensors.running_mean = spare.cast(), unexpected(), "running_mean");
        spoiled(&|tensors| tensors.running_var = spare.cast(), unexpected(), "running_var");
        spoiled(&|tensors| tensors.num_batches_tracked = spare.cast(), unexpected(), "num_batches_tracked");
        spoiled(&|tensors| tensors.channel_table = spare.cast(), unexpected(), "channel_table");
        spoiled(&|tensors| tensors.key_input = spare, unexpected(), "key_input");
        spoiled(&|tensors| tensors.key_output = spare, unexpected(), "key_output");
        spoiled(&|tensors| tensors.key_weight = spare, unexpected(), "key_weight");
        spoiled(&|tensors| tensors.key_bias = spare, unexpected(), "key_bias");
        spoiled(&|tensors| tensors.reserved[0] = spare, wn_status::InvalidValue, "reserved");
        spoiled(&|tensors| tensors.input = tensors.input.wrapping_byte_add(1), wn_status::Misaligned, "input");
        spoiled(&|tensors| tensors.output = tensors.output.wrapping_byte_sub(4), wn_status::Overlap, "input");
        spoiled(
            &|tensors| (tensors.workspace, tensors.workspace_bytes) = (spare.wrapping_byte_add(4), 8),
            wn_status::Misaligned,
            "workspace",
        );
        spoiled(
            &|tensors| (tensors.workspace, tensors.workspace_bytes) = (tensors.output, u64::MAX),
            wn_status::Overlap,
            "workspace",
        );
        // SAFETY: refused.
        unsafe {
            let crooked = spare.wrapping_byte_add(4);
            refused((c.wn_workspace_init)(place.device, crooked, 4, null_mut()), wn_status::Misaligned, "workspace");
            refused((c.wn_workspace_init)(place.device, null_mut(), 4, null_mut()), wn_status::Workspace, "4 bytes");
        }
        assert!(place.get(&memory) == [1.0; 64], "a refused call has written");
        ok(launch(&good));
        // SAFETY: used no more.
        ok(unsafe { (c.wn_call_destroy)(call) });
        assert!(place.get(&memory)[16..32] == [0.0; 16]);
    }
}

#[test]
fn workspaces_on_cuda() {
    let place = Place::cuda();
    let c = library();
    // SAFETY: plain numbers, and null pointers.
    let (mut layer, mut tensors): (wn_layer, wn_tensors) = unsafe { (zeroed(), zeroed()) };
    // SAFETY: a layer to write to.
    ok(unsafe { (c.wn_group_norm)(&raw mut layer, 2, 4) });
    layer.layout = wn_layout::Nhwc as i32;
    let (status, call) = prepare(&place, &layer, &signature(&[1, 512, 512, 4]));
    ok(status);
    let mut bytes = 0;
    // SAFETY: a call, and a number to write to.
    ok(unsafe { (c.wn_call_workspace_bytes)(call, &raw mut bytes) });
    assert!(bytes > 0);
    let (mut image, mut memory) =
        (place.put(&vec![1.0_f32; 512 * 512 * 4]), place.put(&vec![0_u32; bytes as usize / 4 + 1]));
    tensors.output = image.pointer();
    // SAFETY: buffers of this device.
    let launch = |tensors: &wn_tensors| unsafe { (c.wn_launch)(call, tensors, null_mut()) };
    refused(launch(&tensors), wn_status::Workspace, "has 0");
    (tensors.workspace, tensors.workspace_bytes) = (memory.pointer(), bytes - 1);
    refused(launch(&tensors), wn_status::Workspace, &format!("{bytes} bytes"));
    tensors.workspace_bytes = bytes;
    ok(launch(&tensors));
    assert!(place.get(&image).iter().all(|&y| y == 0.0));
    // SAFETY: used no more.
    ok(unsafe { (c.wn_call_destroy)(call) });
}

#[test]
fn folding() {
    let weight = [1.0_f32; 4];
    let (mut folded, mut bias) = ([0.0_f32; 4], [0.0_f32; 2]);
    let good = linear(wn_linear_kind::Linear, 1, array(&weight), &[2, 2], NOTHING);
    let mut map = wn_affine {
        kind: wn_affine_kind::ScaleShift as i32,
        reserved: 0,
        running_mean: NOTHING,
        running_var: NOTHING,
        weight: array(&weight[..2]),
        bias: NOTHING,
        eps: 0.0,
    };
    ok(fold(&good, &[], &[map], &mut folded, &mut bias, None));
    let mut spoiled = |spoil: &dyn Fn(&mut wn_linear), status, words: &str| {
        let mut linear = good;
        spoil(&mut linear);
        refused(fold(&linear, &[], &[map], &mut folded, &mut bias, None), status, words);
    };
    let invalid = || wn_status::InvalidValue;
    for code in [0, 5, -1, i32::MAX] {
        spoiled(&|linear| linear.kind = code, invalid(), "kind");
    }
    for code in [5, -1, i32::MIN] {
        spoiled(&|linear| linear.padding = code, invalid(), "padding");
        spoiled(&|linear| linear.weight.dtype = code, invalid(), "dtype");
    }
    spoiled(&|linear| linear.groups = -1, invalid(), "groups");
    spoiled(&|linear| linear.groups = 2, invalid(), "2 groups");
    spoiled(&|linear| linear.weight_rank = -1, invalid(), "weight_rank");
    spoiled(&|linear| linear.weight_rank = 9, wn_status::Rank, "9 axes");
    spoiled(&|linear| linear.weight_shape[0] = i64::MIN, invalid(), "weight_shape");
    spoiled(&|linear| linear.weight.len = -1, invalid(), "linear.weight");
    spoiled(&|linear| linear.weight.len = i64::MAX, invalid(), "length");
    spoiled(&|linear| linear.weight.reserved = 1, invalid(), "reserved");
    spoiled(&|linear| linear.weight.data = null(), wn_status::Null, "linear.weight");
    spoiled(&|linear| linear.weight = NOTHING, wn_status::Null, "linear.weight");
    spoiled(&|linear| linear.bias.len = 2, wn_status::Null, "linear.bias");
    let odd = weight.as_ptr().wrapping_byte_add(1).cast::<c_void>();
    spoiled(&|linear| linear.weight.data = odd, wn_status::Misaligned, "linear.weight");

    let mut with_map = |map: wn_affine, status, words: &str| {
        refused(fold(&good, &[], &[map], &mut folded, &mut bias, None), status, words);
    };
    map.kind = 2;
    with_map(map, invalid(), "kind");
    map.kind = wn_affine_kind::BatchNorm as i32;
    with_map(map, wn_status::Null, "running_mean");
    map.kind = wn_affine_kind::ScaleShift as i32;
    map.running_mean = map.weight;
    with_map(map, invalid(), "no running statistics");
    (map.running_mean, map.weight) = (NOTHING, NOTHING);
    with_map(map, wn_status::Null, "weight");
    map.reserved = 1;
    with_map(map, invalid(), "reserved");
    let (w, b) = (folded.as_mut_ptr().cast::<c_void>(), bias.as_mut_ptr().cast::<c_void>());
    let (c, none, report) = (library(), null::<wn_affine>(), null_mut());
    // SAFETY: what is not null is as long as said, or refused.
    unsafe {
        refused((c.wn_fold)(null(), none, 0, none, 0, 1, w, 4, b, 2, report), wn_status::Null, "linear");
        refused((c.wn_fold)(&raw const good, none, 1, none, 0, 1, w, 4, b, 2, report), wn_status::Null, "before");
        refused((c.wn_fold)(&raw const good, none, 0, none, u64::MAX, 1, w, 4, b, 2, report), wn_status::Null, "after");
        refused(
            (c.wn_fold)(&raw const good, none, 0, none, 0, 1, null_mut(), 4, b, 2, report),
            wn_status::Null,
            "weight",
        );
        refused(
            (c.wn_fold)(&raw const good, none, 0, none, 0, 1, w, 4, null_mut(), 2, report),
            wn_status::Null,
            "bias",
        );
        refused((c.wn_fold)(&raw const good, none, 0, none, 0, 1, w, -4, b, 2, report), invalid(), "weight_len");
        let status = (c.wn_fold)(&raw const good, none, 0, none, 0, 1, w, 3, b, 2, report);
        refused(status, wn_status::FoldLengthMismatch, "3 elements");
        for dtype in [0, 4, -1] {
            refused((c.wn_fold)(&raw const good, none, 0, none, 0, dtype, w, 4, b, 2, report), invalid(), "dtype");
        }
        ok((c.wn_fold)(&raw const good, none, 0, none, 0, 1, w, 4, b, 2, report));
    }
}

/// Whatever numbers a program passes: a status, and never anything else. What comes through is launched if memory is large
/// enough for it.
#[test]
fn random_numbers() {
    let place = Place::cpu();
    let mut memory = vec![0.5_f32; 1 << 16];
    let mut numbers = noise(1 << 20, 77).into_iter().map(|value| (value * 1e6) as i64).cycle();
    let mut pick = |choices: &[i64]| choices[numbers.next().expect("a cycle").unsigned_abs() as usize % choices.len()];
    let (mut prepared, mut launched) = (0, 0);
    for _ in 0..200_000 {
        let extents = &[0, 1, 2, 3, 4, 4, 4, 6, 8, 16, -1, i64::MAX, i64::MIN, 1 << 31, 1 << 62];
        // SAFETY: plain numbers.
        let (mut layer, mut signed): (wn_layer, wn_signature) = unsafe { (zeroed(), zeroed()) };
        layer.kind = pick(&[1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 0, 9]) as i32;
        layer.layout = pick(&[0, 0, 1, 1, 2]) as i32;
        layer.activation = pick(&[0, 1, 2, 3, 4, 5]) as i32;
        layer.flags = pick(&[0, 0, 0, 1, 2, 4, 8, 24, 32]) as u32;
        layer.normalized_rank = pick(&[1, 1, 1, 2, 0, 8, 9, -1]);
        layer.normalized_shape = std::array::from_fn(|_| pick(extents));
        (layer.num_channels, layer.num_groups) = (pick(extents), pick(&[1, 1, 2, 4, 0, -1, i64::MAX]));
        layer.eps = pick(&[0, 1]) as f64;
        signed.dtype = pick(&[1, 1, 1, 2, 3, 0, 4]) as i32;
        signed.flags = pick(&[0, 0, 0, 1, 3, 5, 8, 16, 32, 96, 255]) as u32;
        signed.rank = pick(&[1, 2, 2, 3, 4, 8, 9, -1]);
        signed.shape = std::array::from_fn(|_| pick(extents));
        let end = (signed.rank - 1).clamp(0, 7) as usize;
        signed.shape[end] = pick(&[signed.shape[end], layer.normalized_shape[0], layer.num_channels]);
        signed.weight = pick(&[0, 0, 1, 2, 9]) as i32;
        signed.scale = pick(&[0, 0, 0, 1]) as i32;
        signed.input_row_stride = pick(&[0, 0, 0, 0, 17, -1, i64::MAX]);
        let (status, call) = prepare(&place, &layer, &signed);
        if status != 0 {
            assert!(
                call.is_null() && !last_error().is_empty() && name(status) != "WN_STATUS_INTERNAL",
                "{layer:?} {signed:?}"
            );
            continue;
        }
        prepared += 1;
        let product =
            signed.shape[..signed.rank as usize].iter().try_fold(1_i64, |all, &extent| all.checked_mul(extent));
        if product.is_some_and(|elements| elements <= 2048) && signed.input_row_stride <= 17 {
            let at = |piece: usize| memory.as_ptr().wrapping_add(4096 * piece).cast::<c_void>().cast_mut();
            let has = |flag: u32| signed.flags & flag != 0;
            // SAFETY: null pointers are nothing.
            let mut tensors: wn_tensors = unsafe { zeroed() };
            (tensors.input, tensors.output) = (if has(8) { null() } else { at(0) }, at(4));
            tensors.residual = if has(1) { at(8) } else { null_mut() };
            tensors.sum = if has(2) { at(9) } else { null_mut() };
            tensors.weight = if signed.weight == 0 { null() } else { at(10) };
            tensors.scale = if signed.scale == 0 { null() } else { at(11) };
            if has(32) || layer.flags == 4 || (layer.kind == 5 && layer.flags == 0 && !has(16)) {
                (tensors.running_mean, tensors.running_var) = (at(12).cast(), at(13).cast());
            }
            tensors.num_batches_tracked = if has(64) { at(14).cast() } else { null_mut() };
            tensors.channel_table = if has(16) { at(15).cast() } else { null() };
            // SAFETY: 4096 elements for each tensor, of 2048 at most; rows 17 apart begin before 4096 * 4.
            let status = unsafe { (library().wn_launch)(call, &raw const tensors, null_mut()) };
            assert_ne!(name(status), "WN_STATUS_INTERNAL", "{}: {layer:?} {signed:?}", last_error());
            launched += i32::from(status == 0);
        }
        // SAFETY: used no more.
        ok(unsafe { (library().wn_call_destroy)(call) });
    }
    memory.fill(0.0);
    assert!(prepared > 300 && launched > 200, "only {prepared} were prepared, and {launched} launched");
}

#[test]
fn last_error_belongs_to_the_thread() {
    let mut layer = layer_norm(4);
    // SAFETY: a layer to write to.
    let status = unsafe { (library().wn_group_norm)(&raw mut layer, 3, 4) };
    refused(status, wn_status::Groups, "3 groups");
    std::thread::spawn(|| assert_eq!(last_error(), "")).join().expect("the other thread");
    assert!(last_error().contains("3 groups"));
}

#[test]
fn devices() {
    let c = library();
    let text = |place: &Place, size: u64| {
        let mut name = [1_i8; 64];
        // SAFETY: so many characters.
        ok(unsafe { (c.wn_device_name)(place.device, name.as_mut_ptr(), size) });
        let end = name.iter().position(|&letter| letter == 0).expect("an end");
        assert!(name[size as usize..].iter().all(|&letter| letter == 1), "written beyond the room");
        String::from_utf8(name[..end].iter().map(|&letter| letter as u8).collect()).expect("text")
    };
    let is_cuda = |place: &Place| {
        let mut answer = 7;
        // SAFETY: a number to write to.
        ok(unsafe { (c.wn_device_is_cuda)(place.device, &raw mut answer) });
        answer
    };
    let (cpu, cuda) = (Place::cpu(), Place::cuda());
    assert_eq!((is_cuda(&cpu), is_cuda(&cuda)), (0, 1));
    assert_eq!((text(&cpu, 64), text(&cpu, 3), text(&cpu, 1)), ("CPU".into(), "CP".into(), String::new()));
    assert!(text(&cuda, 64).contains("(sm_"));
    let mut letter = 0;
    // SAFETY: no room, and none is written.
    refused(unsafe { (c.wn_device_name)(cpu.device, &raw mut letter, 0) }, wn_status::InvalidValue, "size");

    let mut device: *mut Device = null_mut();
    for ordinal in [-1, 99, i32::MIN, i32::MAX] {
        // SAFETY: a pointer to write to.
        refused(unsafe { (c.wn_device_cuda)(ordinal, &raw mut device) }, wn_status::NoDevice, &ordinal.to_string());
        assert!(device.is_null());
    }
    // A thread has a context, or has none.
    std::thread::spawn(move || {
        let mut device: *mut Device = null_mut();
        // SAFETY: a pointer to write to.
        refused(unsafe { (library().wn_device_current)(&raw mut device) }, wn_status::NoContext, "current");
        assert!(device.is_null());
        let _context = warpnorm_rs::Cuda::open(0).expect("a device");
        // SAFETY: a pointer to write to, and a device that is used no more.
        unsafe {
            ok((library().wn_device_current)(&raw mut device));
            ok((library().wn_device_destroy)(device));
        }
    })
    .join()
    .expect("the other thread");
}

/// Alone in its process, since the emulator, once loaded, stays.
#[test]
fn without_a_driver() {
    if std::env::var_os("WARPNORM_TEST_CHILD").is_none() {
        let own = std::env::current_exe().expect("own path");
        let mut child = Command::new(own);
        child.args(["--exact", "hostile::without_a_driver"]).env("WARPNORM_TEST_CHILD", "1");
        return assert!(child.status().expect("a child").success());
    }
    if emulator::real_gpu() {
        return println!("this machine has a driver");
    }
    let mut device: *mut Device = null_mut();
    // SAFETY: a pointer to write to.
    unsafe {
        refused((library().wn_device_cuda)(0, &raw mut device), wn_status::NoDriver, "NVIDIA driver");
        refused((library().wn_device_current)(&raw mut device), wn_status::NoDriver, "NVIDIA driver");
    }
    assert!(device.is_null());
    ok(Place::cpu().device.is_null().into());
    assert!(std::env::var_os("WARPNORM_LIBRARY").is_some() || preload().is_some());
}
