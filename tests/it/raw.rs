//! The raw layer: what the typed one computes, bit for bit, and what it refuses.

use warpnorm::cudarc::driver::sys;
use warpnorm::half::{bf16, f16};
use warpnorm::raw::{Addresses, DEFAULT_STREAM, Device};
use warpnorm::{Activation, BatchNorm, Cpu, DType, Error, LayerNorm, Layout, Result, RmsNorm, Signature};

use crate::call::{BATCHES_BEFORE, Call, Coefficient, Inputs, Layer, Modulation, Outputs, Residual, prepare_raw, run};
use crate::data::{bits, stored};
use crate::device;
use crate::place::{Place, Real};

/// Every layer, with everything that it can take.
fn calls() -> Vec<Call> {
    let modulation = Modulation {
        scale: Coefficient::F32,
        shift: Coefficient::Own,
        channel_bias: Coefficient::F32,
        gate: Coefficient::Absent,
        scale_plus_one: true,
    };
    let gated = Modulation { channel_bias: Coefficient::Absent, gate: Coefficient::F32, ..modulation };
    let (nchw, nhwc) = (Layout::Nchw, Layout::Nhwc);
    let surrounded = |layer, shape: &[usize]| Call {
        residual: Residual::SumWritten,
        activation: Activation::Silu,
        weight: Coefficient::F32,
        ..Call::new(layer, shape)
    };
    let mut calls = vec![
        Call::new(Layer::LayerNorm, &[3, 70]),
        surrounded(Layer::LayerNorm, &[3, 1030]),
        Call { residual: Residual::SumInPlace, ..Call::new(Layer::LayerNorm, &[5, 64]) },
        Call {
            in_place: true,
            weight: Coefficient::Absent,
            ..Call::new(Layer::RmsNorm { weight_plus_one: false }, &[4, 90])
        },
        surrounded(Layer::RmsNorm { weight_plus_one: true }, &[2, 300]),
        Call {
            modulation: gated,
            second_residual: true,
            input_bias: Coefficient::Own,
            ..surrounded(Layer::LayerNorm, &[2, 3, 130])
        },
        Call { modulation: gated, ..surrounded(Layer::RmsNorm { weight_plus_one: true }, &[3, 1030]) },
        Call { modulation, ..surrounded(Layer::group_norm(2), &[2, 6, 5, 5]) },
        Call { modulation, ..surrounded(Layer::GroupNorm { groups: 2, layout: nhwc }, &[2, 5, 5, 6]) },
        Call { in_place: true, ..Call::new(Layer::InstanceNorm { layout: nhwc }, &[2, 7, 7, 3]) },
        Call { residual: Residual::Added, ..Call::new(Layer::INSTANCE_NORM, &[2, 3, 9, 9]) },
        Call::new(Layer::InstanceNormTracked, &[2, 3, 7, 7]),
    ];
    for (layout, shape) in [(nchw, [2, 5, 6, 7]), (nhwc, [2, 6, 7, 5])] {
        calls.extend([
            Call::new(Layer::BatchNorm { layout, table: true }, &shape),
            surrounded(Layer::BatchNorm { layout, table: false }, &shape),
            surrounded(Layer::BatchStatistics { layout, momentum: Some(0.1) }, &shape),
            Call { bias: Coefficient::Absent, ..Call::new(Layer::BatchStatistics { layout, momentum: None }, &shape) },
        ]);
    }
    calls
}

/// The call by addresses.
fn run_raw<P: Place, T: Real>(place: &P, call: &Call, inputs: &Inputs<T>) -> Result<Outputs<T>> {
    let (device, stream) = place.raw();
    let prepared = prepare_raw(call, &device, T::DTYPE)?;
    let nothing = vec![T::from_f64(f64::NAN); call.elements()];
    let (mut x, mut y) = (place.put(&inputs.x), place.put(if call.in_place { &inputs.x } else { &nothing }));
    let (mut residual, mut sum) = (place.put(&inputs.residual), place.put(&nothing));
    let mut second_residual = place.put(&inputs.second_residual);
    let mut keep = Vec::new();
    let mut coefficient = |which: Coefficient, values: &[f64]| match which {
        Coefficient::Absent => 0,
        Coefficient::Own => {
            let mut buffer = place.put(&stored::<T>(values.iter().copied()));
            let address = place.address(&mut buffer);
            keep.push((Some(buffer), None));
            address
        }
        Coefficient::F32 => {
            let mut buffer = place.put(&stored::<f32>(values.iter().copied()));
            let address = place.address(&mut buffer);
            keep.push((None, Some(buffer)));
            address
        }
    };
    let (weight, bias) = (coefficient(call.weight, &inputs.weight), coefficient(call.bias, &inputs.bias));
    let (mut mean, mut var) = (place.put(&inputs.running_mean), place.put(&inputs.running_var));
    let mut batches = place.put_counter(BATCHES_BEFORE);
    let mut table = place.put(&vec![f32::NAN; 3 * call.channels()]);
    let bytes = prepared.workspace_bytes();
    let mut workspace = place.put(&vec![f32::NAN; bytes.div_ceil(4)]);
    let workspace_address = if bytes == 0 { 0 } else { place.address(&mut workspace) };
    // SAFETY: the buffer has so many bytes, or there are none.
    unsafe { device.init_workspace(workspace_address, bytes, stream)? };

    let statistics = [place.address(&mut mean), place.address(&mut var)];
    let is_table = matches!(call.layer, Layer::BatchNorm { table: true, .. });
    let is_moved = matches!(call.layer, Layer::BatchStatistics { .. });
    let takes_them =
        is_moved || matches!(call.layer, Layer::BatchNorm { table: false, .. } | Layer::InstanceNormTracked);
    if is_table {
        let dtype = |coefficient| if coefficient == Coefficient::Own { T::DTYPE } else { DType::F32 };
        let signature = Signature::new([call.channels()], DType::F32).weight(dtype(call.weight)).bias(dtype(call.bias));
        let layer = BatchNorm::new(call.channels())?.eps(call.eps)?;
        let [running_mean, running_var] = statistics;
        let output = place.address(&mut table);
        let addresses = Addresses { running_mean, running_var, weight, bias, output, ..Addresses::default() };
        // SAFETY: buffers of this place, as long as the signature says.
        unsafe { layer.prepare_channel_table_raw(&device, &signature)?.launch(&addresses, stream)? };
    }
    let addresses = Addresses {
        input: if call.in_place { 0 } else { place.address(&mut x) },
        output: place.address(&mut y),
        residual: if call.residual == Residual::Absent { 0 } else { place.address(&mut residual) },
        second_residual: if call.second_residual { place.address(&mut second_residual) } else { 0 },
        sum: if call.residual == Residual::SumWritten { place.address(&mut sum) } else { 0 },
        weight: if is_table { 0 } else { weight },
        bias: if is_table { 0 } else { bias },
        scale: coefficient(call.modulation.scale, &inputs.scale),
        shift: coefficient(call.modulation.shift, &inputs.shift),
        channel_bias: coefficient(call.modulation.channel_bias, &inputs.of_input),
        gate: coefficient(call.modulation.gate, &inputs.of_input),
        input_bias: coefficient(call.input_bias, &inputs.input_bias),
        running_mean: if takes_them { statistics[0] } else { 0 },
        running_var: if takes_them { statistics[1] } else { 0 },
        num_batches_tracked: if is_moved { place.address_of_counter(&mut batches) } else { 0 },
        channel_table: if is_table { place.address(&mut table) } else { 0 },
        workspace: workspace_address,
        workspace_bytes: bytes,
        ..Addresses::default()
    };
    // SAFETY: buffers of this place, as long as the signature says.
    unsafe { prepared.launch(&addresses, stream)? };
    let sum = match call.residual {
        Residual::SumWritten => Some(place.get(&sum)),
        Residual::SumInPlace => Some(place.get(&residual)),
        _ => None,
    };
    let running = (place.get(&mean), place.get(&var), place.get_counter(&batches));
    Ok(Outputs { y: place.get(&y), sum, running })
}

fn agrees<P: Place, T: Real>(place: &P) {
    for call in calls() {
        let inputs = Inputs::<T>::normal(&call, 11);
        let typed = run(place, &call, &inputs).unwrap_or_else(|error| panic!("{call:?}: {error}"));
        let raw = run_raw(place, &call, &inputs).unwrap_or_else(|error| panic!("raw {call:?}: {error}"));
        assert_eq!(bits(&typed.y), bits(&raw.y), "{} {call:?}", P::NAME);
        assert_eq!(typed.sum.as_deref().map(bits), raw.sum.as_deref().map(bits), "{} {call:?}", P::NAME);
        assert_eq!(typed.running, raw.running, "{} {call:?}", P::NAME);
        assert!(typed.y.iter().any(|y| y.to_f64() != 0.0), "{call:?}");
    }
}

#[test]
fn as_the_typed_layer_on_cpu() {
    agrees::<Cpu, f32>(&Cpu);
    agrees::<Cpu, f16>(&Cpu);
    agrees::<Cpu, bf16>(&Cpu);
}

#[test]
fn as_the_typed_layer_on_cuda() {
    let device = device::cuda();
    device.under_schedules(|cuda| {
        agrees::<_, f32>(cuda);
        agrees::<_, f16>(cuda);
        agrees::<_, bf16>(cuda);
    });
}

/// What can be seen of addresses is seen before anything is launched.
fn refusals<P: Place>(place: &P) {
    let (device, stream) = place.raw();
    let signature = Signature::new([2, 8], DType::F32).weight(DType::F32).residual();
    let call = RmsNorm::new([8], 1e-6).unwrap().prepare_raw(&device, &signature).unwrap();
    let mut memory = place.put(&[1.0_f32; 64]);
    let at = |element: u64, memory: &mut _| place.address(memory) + 4 * element;
    let good = Addresses {
        input: at(0, &mut memory),
        output: at(16, &mut memory),
        residual: at(32, &mut memory),
        weight: at(48, &mut memory),
        ..Addresses::default()
    };
    // SAFETY: memory of this place, as far as it is touched.
    let launch = |addresses: Addresses| unsafe { call.launch(&addresses, stream) };
    let missing = |argument| Err(Error::Missing { layer: "RMSNorm", argument });
    assert_eq!(launch(Addresses { output: 0, ..good }), missing("output"));
    assert_eq!(launch(Addresses { weight: 0, ..good }), missing("weight"));
    assert_eq!(launch(Addresses { residual: 0, ..good }), missing("residual"));
    let unexpected = |addresses| match launch(addresses) {
        Err(Error::Unexpected { argument, .. }) => argument,
        other => panic!("{other:?}"),
    };
    let spare = at(56, &mut memory);
    assert_eq!(unexpected(Addresses { bias: spare, ..good }), "bias");
    assert_eq!(unexpected(Addresses { sum: spare, ..good }), "sum");
    assert_eq!(unexpected(Addresses { scale: spare, ..good }), "scale");
    assert_eq!(unexpected(Addresses { running_var: spare, ..good }), "running_var");
    assert_eq!(unexpected(Addresses { num_batches_tracked: spare, ..good }), "num_batches_tracked");
    assert_eq!(unexpected(Addresses { channel_table: spare, ..good }), "channel_table");

    let odd = good.input + 2;
    let misaligned = Err(Error::Misaligned { argument: "input", address: odd, size: 4 });
    assert_eq!(launch(Addresses { input: odd, ..good }), misaligned);
    let overlap = |other| Err(Error::Overlap { written: "output", other });
    assert_eq!(launch(Addresses { input: good.output + 4, ..good }), overlap("input"));
    assert_eq!(launch(Addresses { output: good.weight, ..good }), overlap("weight"));
    let workspace = Addresses { workspace: good.output, workspace_bytes: 32, ..good };
    assert_eq!(launch(workspace), Err(Error::Overlap { written: "output", other: "workspace" }));
    let crooked = Addresses { workspace: good.output + 4, ..workspace };
    let misaligned = Error::Misaligned { argument: "workspace", address: crooked.workspace, size: 16 };
    assert_eq!(launch(crooked), Err(misaligned.clone()));
    // SAFETY: refused, or nothing to do.
    unsafe {
        assert_eq!(device.init_workspace(crooked.workspace, 16, stream), Err(misaligned));
        assert_eq!(device.init_workspace(0, 16, stream), Err(Error::Workspace { found: 0, needed: 16 }));
        assert_eq!(device.init_workspace(0, 0, stream), Ok(()));
    }
    assert_eq!(place.get(&memory), [1.0; 64], "a refused call has written");

    // In place, said by the address, or by leaving it out.
    launch(Addresses { input: good.output, ..good }).expect("in place");
    let once = place.get(&memory);
    assert!(once[16..32].iter().all(|y| (y - 1.0).abs() < 1e-5), "{once:?}");
    launch(Addresses { input: 0, ..good }).expect("in place");
}

#[test]
fn refusals_on_cpu() {
    refusals(&Cpu);
}

#[test]
fn refusals_on_cuda() {
    refusals(&device::cuda().cuda);
}

/// Where the rows of input and output lie apart by other strides, in place must be said by the signature.
#[test]
fn in_place_with_strides() {
    let mut memory: Vec<f32> = (0..64).map(|i| (i % 7) as f32).collect();
    let output = memory.as_mut_ptr().expose_provenance() as u64;
    let addresses = Addresses { output, ..Addresses::default() };
    let layer = LayerNorm::new([8]).unwrap();
    let signature = Signature::new([2, 8], DType::F32).output_row_stride(16);
    let call = |signature| layer.prepare_raw(&Device::cpu(), &signature).unwrap();
    // SAFETY: two rows, 16 elements apart, of 64.
    unsafe {
        let refused = call(signature).launch(&addresses, DEFAULT_STREAM);
        assert_eq!(refused, Err(Error::Overlap { written: "output", other: "input" }));
        call(signature.in_place()).launch(&addresses, DEFAULT_STREAM).expect("in place");
    }
    assert!(memory[..8].iter().sum::<f32>().abs() < 1e-5 && memory[16..24].iter().sum::<f32>().abs() < 1e-5);
    assert_eq!(memory[8..16], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 1.0]);
}

#[test]
fn empty_tensors_need_no_addresses() {
    let signature = Signature::new([0, 8], DType::F16).weight(DType::F16);
    let call = LayerNorm::new([8]).unwrap().prepare_raw(&Device::cpu(), &signature).unwrap();
    // SAFETY: there is nothing to read or write.
    unsafe { call.launch(&Addresses::default(), DEFAULT_STREAM).expect("nothing to do") };
}

/// One launch, and the question which context is current; whatever cudarc tracks elsewhere.
#[test]
fn a_raw_call_is_one_launch() {
    let device = device::cuda();
    let Some(emulator) = device.emulator else { return println!("a GPU's driver does not count its calls") };
    // A second stream, which makes cudarc track its slices.
    let _other = device.cuda.stream().context().new_stream().expect("a stream");
    let (raw, stream) = device.cuda.raw();
    let mut y = device.cuda.put(&[0.5_f32; 512]);
    let call = LayerNorm::new([64]).unwrap().prepare_raw(&raw, &Signature::new([8, 64], DType::F32)).unwrap();
    let addresses = Addresses { output: device.cuda.address(&mut y), ..Addresses::default() };
    let before = emulator.calls();
    for _ in 0..10 {
        // SAFETY: 8 rows of 64 elements.
        unsafe { call.launch(&addresses, stream).expect("a launch") };
    }
    let count = |calls: &[(String, u64)], name: &str| calls.iter().find(|(found, _)| found == name).map_or(0, |c| c.1);
    for (name, total) in emulator.calls() {
        let made = total - count(&before, &name);
        let expected = if matches!(name.as_str(), "cuLaunchKernelEx" | "cuCtxGetCurrent") { 10 } else { 0 };
        assert_eq!(made, expected, "{name} in ten raw calls");
    }
}

fn current() -> sys::CUcontext {
    let mut context = std::ptr::null_mut();
    // SAFETY: a pointer to write to.
    unsafe { sys::cuCtxGetCurrent(&raw mut context).result().expect("cuCtxGetCurrent") };
    context
}

fn set_current(context: sys::CUcontext) {
    // SAFETY: a context of this process, or none.
    unsafe { sys::cuCtxSetCurrent(context).result().expect("cuCtxSetCurrent") };
}

/// A thread of a service's may have any context, or none: it has the same one afterwards.
#[test]
fn the_current_context_stays() {
    let device = device::cuda();
    let primary = current();
    assert!(!primary.is_null());
    set_current(std::ptr::null_mut());
    let refused = Device::current().map(|_| ());
    assert_eq!(refused, Err(Error::NoContext));
    let opened = Device::cuda(0).expect("a device");
    assert!(current().is_null(), "opening a device has left its context behind");

    let mut y = device.cuda.put(&[3.0_f32; 16]);
    let address = device.cuda.address(&mut y);
    set_current(std::ptr::null_mut());
    let call = LayerNorm::new([8]).unwrap().prepare_raw(&opened, &Signature::new([2, 8], DType::F32)).unwrap();
    let addresses = Addresses { output: address, ..Addresses::default() };
    // SAFETY: two rows of 8; the default stream of the primary context, which is that of `device.cuda` too.
    unsafe { call.launch(&addresses, device.cuda.raw().1).expect("a launch") };
    assert!(current().is_null(), "a launch has left its context behind");
    assert!(opened.name().unwrap().contains("sm_") && opened.is_cuda());
    assert!(current().is_null(), "a question has left its context behind");
    drop((call, opened));
    assert!(current().is_null(), "letting go has left its context behind");
    set_current(primary);
    assert_eq!(device.cuda.get(&y), [0.0; 16]);

    let found = Device::current().expect("the primary context");
    assert_eq!(found.name(), Device::from(&device.cuda).name());
    assert_eq!(current(), primary);
}

/// A service that made its own context, and not the primary one.
#[test]
fn a_context_of_the_callers_own() {
    let device = device::cuda();
    let primary = current();
    let (mut own, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
    let (mut address, mut found) = (0, [7.0_f32; 16]);
    let rows: Vec<f32> = (0..16).map(|i| (i * i) as f32).collect();
    // SAFETY: handles are written to, and live until the end; 64 bytes at each address.
    unsafe {
        sys::cuCtxCreate_v4(&raw mut own, std::ptr::null_mut(), 0, 0).result().expect("a context");
        sys::cuStreamCreate(&raw mut stream, 1).result().expect("a stream");
        sys::cuMemAlloc_v2(&raw mut address, 64).result().expect("memory");
        sys::cuMemcpyHtoD_v2(address, rows.as_ptr().cast(), 64).result().expect("upload");
    }
    let place = Device::current().expect("the context");
    set_current(primary);

    let call = LayerNorm::new([8]).unwrap().prepare_raw(&place, &Signature::new([2, 8], DType::F32)).unwrap();
    let addresses = Addresses { output: address, ..Addresses::default() };
    // SAFETY: two rows of 8, on streams of either context; what is on the wrong one is refused.
    unsafe {
        let of_primary = device.cuda.stream().context().new_stream().expect("a stream");
        let refused = call.launch(&addresses, of_primary.cu_stream().cast());
        assert_eq!(refused, Err(Error::Context));
        call.launch(&addresses, stream.cast()).expect("a launch");
    }
    assert_eq!(current(), primary, "a launch has left its context behind");
    if let Some(emulator) = device.emulator {
        let report = emulator.take_report();
        assert!(report.contains("context"), "{report}");
    }
    // SAFETY: all launches are over when it is destroyed, after the kernels are out of it.
    unsafe {
        set_current(own);
        sys::cuStreamSynchronize(stream).result().expect("the launch");
        sys::cuMemcpyDtoH_v2(found.as_mut_ptr().cast(), address, 64).result().expect("download");
        drop((call, place));
        sys::cuMemFree_v2(address).result().expect("memory");
        sys::cuStreamDestroy_v2(stream).result().expect("the stream");
        sys::cuCtxDestroy_v2(own).result().expect("the context");
    }
    set_current(primary);
    let mut expected = rows;
    LayerNorm::new([8]).unwrap().forward(warpnorm::Args::new(&Cpu, [2, 8]).output(&mut expected)).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-6);
    }
}
