//! The driver's refusals, its bookkeeping, and the devices that it can be.

mod harness;

use cudarc::driver::{CudaContext, result, sys};
use emulator::{Profile, Settings, Variant};
use harness::{Device, Launch, Params, address, code, data};

fn load(device: &Device, image: &str) -> Result<(), u32> {
    device.context.load_module(cudarc::nvrtc::Ptx::from_binary(image.into())).map(|_| ()).map_err(code)
}

#[test]
fn launches_that_are_refused() {
    let device = Device::open(Variant::Plain);
    let y = device.stream.alloc_zeros::<f32>(256).unwrap();
    let params = Params { input: address(&y), output: address(&y), count: 256, eps: 0.0 };
    let try_launch = |launch| device.launch("smoke_layer_norm", launch, params).err();
    let base = Launch::default();
    assert_eq!(try_launch(Launch { threads: 2048, ..base }), Some(1));
    assert_eq!(try_launch(Launch { threads: 512, ..base }), Some(701));
    assert_eq!(try_launch(Launch { blocks: 0, ..base }), Some(1));
    assert_eq!(try_launch(Launch { shared: 48 * 1024 + 1, ..base }), Some(1));
    assert_eq!(try_launch(Launch { cluster: 2, blocks: 3, ..base }), Some(912));
    assert_eq!(try_launch(Launch { cluster: 16, blocks: 16, ..base }), Some(912));
    assert_eq!(try_launch(Launch { cooperative: true, blocks: 132 * 8 + 1, ..base }), Some(720));
    let report = device.emulator.take_report();
    for words in ["exceeds the kernel's launch bounds", "more dynamic shared memory", "not a multiple of the cluster"] {
        assert!(report.contains(words), "{words:?} is not in: {report}");
    }
    // A refusal is not a fault: the stream goes on.
    device.stream.synchronize().unwrap();
}

#[test]
fn dynamic_shared_memory_beyond_48_kib_must_be_asked_for() {
    let device = Device::open(Variant::Plain);
    let kernel = device.kernel("smoke_layer_norm");
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(kernel.set_attribute(attribute, 228 * 1024).map_err(code), Err(1));
    kernel.set_attribute(attribute, 200 * 1024).unwrap();
    let x = device.stream.clone_htod(&data(256)).unwrap();
    let y = device.stream.alloc_zeros::<f32>(256).unwrap();
    let params = Params { input: address(&x), output: address(&y), count: 256, eps: 1e-5 };
    let launch = Launch { shared: 200 * 1024, ..Default::default() };
    harness::launch_on(&device.stream, &kernel, launch, params).unwrap();
    device.stream.synchronize().unwrap();
    assert_eq!(device.emulator.take_report().lines().count(), 1);
}

#[test]
fn memory_mistakes() {
    let device = Device::open(Variant::Plain);
    let before = device.emulator.live_allocations();
    // SAFETY: mistakes on purpose, which the emulator survives.
    unsafe {
        let address = result::malloc_sync(1000).unwrap();
        assert_eq!(device.emulator.live_allocations(), before + 1);
        assert!(result::free_sync(address + 256).is_err());
        result::free_sync(address).unwrap();
        assert!(result::free_sync(address).is_err());
    }
    let report = device.emulator.take_report();
    assert!(report.contains("not the start of an allocation") && report.contains("freed before"), "{report}");
    assert_eq!(device.emulator.live_allocations(), before);
}

/// A context of its own, since the report comes when the last user lets go of it.
#[test]
fn a_leak_is_reported_when_the_context_goes() {
    let device = Device::open(Variant::Plain);
    let emulator = device.emulator;
    // SAFETY: leaked on purpose.
    unsafe { result::malloc_sync(1000) }.unwrap();
    let Device { context, module, stream, turn, .. } = device;
    drop((module, stream, context));
    let report = emulator.take_report();
    assert!(report.contains("leak: 1 device allocations of 1000 bytes"), "{report}");
    assert_eq!(emulator.live_allocations(), 0);
    drop(turn);
}

#[test]
fn images() {
    let device = Device::open(Variant::Plain);
    load(&device, harness::IMAGE).unwrap();
    assert_eq!(load(&device, "WARPNORM-NO-KERNELS 0123456789abcdef\0"), Err(200));
    let report = device.emulator.take_report();
    let own = &harness::IMAGE[20..36];
    assert!(report.contains("0123456789abcdef") && report.contains(own), "{report}");
    assert_eq!(load(&device, "// some PTX\0"), Err(200));
    assert!(device.emulator.take_report().contains("neither a fatbin nor the marker"));
}

#[test]
fn a_fatbin_is_accepted_if_aligned() {
    let device = Device::open(Variant::Plain);
    let _ = device.context.bind_to_thread();
    let words = [0xBA55_ED50_u64, 0xBA55_ED50 << 32];
    let image = words.as_ptr();
    // SAFETY: the emulator reads the first four bytes alone.
    unsafe {
        result::module::load_data(image.cast()).unwrap();
        assert!(result::module::load_data(image.cast::<u8>().add(12).cast()).is_err());
    }
    assert!(device.emulator.take_report().contains("not aligned"));
}

#[test]
fn parameter_sizes() {
    let device = Device::open(Variant::Plain);
    let sizes = |name: &str| {
        let kernel = device.kernel(name);
        let mut found = Vec::new();
        let (mut offset, mut size) = (0, 0);
        // SAFETY: both places are ours; an index beyond the last is answered with an error.
        while unsafe { sys::cuFuncGetParamInfo(kernel.cu_function(), found.len(), &mut offset, &mut size) }
            == sys::CUresult::CUDA_SUCCESS
        {
            found.push((offset, size));
        }
        found
    };
    assert_eq!(sizes("smoke_layer_norm"), [(0, size_of::<Params>())]);
    assert_eq!(sizes("smoke_atomics"), [(0, 8), (8, 4), (16, 8)]);
    let kernels = device.emulator.kernels();
    let known = kernels.iter().find(|kernel| kernel.name == "smoke_atomics").unwrap();
    assert_eq!((known.max_threads, known.parameter_sizes.as_slice()), (256, [8, 4, 8].as_slice()));
}

#[test]
fn a_thread_without_a_context_is_told_so() {
    let device = Device::open(Variant::Plain);
    std::thread::spawn(|| {
        // SAFETY: refused before anything is touched.
        let answer = unsafe { sys::cuMemFree_v2(0) };
        assert_eq!(answer, sys::CUresult::CUDA_ERROR_INVALID_CONTEXT);
    })
    .join()
    .unwrap();
    device.stream.synchronize().unwrap();
}

#[test]
fn calls_are_counted() {
    let device = Device::open(Variant::Plain);
    let count = || {
        let calls = device.emulator.calls();
        calls.iter().find(|(name, _)| name == "cuLaunchKernelEx").map_or(0, |(_, count)| *count)
    };
    let before = count();
    device.layer_norm(&data(256), 256);
    assert_eq!(count(), before + 1);
}

#[test]
fn programmatic_launches_are_counted() {
    let device = Device::open(Variant::Plain);
    let counts = || {
        let kernels = device.emulator.kernels();
        let kernel = kernels.iter().find(|kernel| kernel.name == "fault_early_read").expect("a kernel of that name");
        [kernel.launches, kernel.programmatic_launches]
    };
    let [all, programmatic] = counts();
    for is_programmatic in [true, false] {
        let launch = Launch { programmatic: is_programmatic, ..Default::default() };
        device.run("fault_early_read", launch, &data(256), 256).unwrap();
    }
    assert_eq!(counts(), [all + 2, programmatic + 1]);
}

#[test]
fn profiles() {
    let device = Device::open(Variant::Plain);
    let become_a = |profile| device.emulator.configure(&Settings { profile, ..Default::default() });
    let attribute = |which| device.context.attribute(which).unwrap();
    use sys::CUdevice_attribute as A;
    for (profile, capability, code, multiprocessors, shared, clusters) in [
        (Profile::Sm75, (7, 5), 75, 40, 64 * 1024, 0),
        (Profile::Sm80, (8, 0), 80, 108, 163 * 1024, 0),
        (Profile::Sm86, (8, 6), 86, 72, 99 * 1024, 0),
        (Profile::Sm90, (9, 0), 90, 132, 227 * 1024, 1),
        (Profile::Sm110ByOldPtx, (11, 0), 75, 20, 227 * 1024, 1),
    ] {
        become_a(profile);
        assert_eq!(device.context.compute_capability().unwrap(), capability);
        assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), multiprocessors);
        assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), shared);
        assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH), clusters);
        let y = device.stream.alloc_zeros::<f32>(512).unwrap();
        let params = Params { input: address(&y), output: address(&y), count: 256, eps: 1.0 };
        let launch = Launch { blocks: 2, cluster: 2, shared: 33 * 4, ..Default::default() };
        let answer = device.launch("smoke_cluster_layer_norm", launch, params).err();
        assert_eq!(answer, if code >= 90 { None } else { Some(912) });
        let launch = Launch { programmatic: true, ..Default::default() };
        let answer = device.launch("fault_early_read", launch, params).err();
        assert_eq!(answer, if code >= 90 { None } else { Some(801) });
        let kernel = device.kernel("fault_early_read");
        let version = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION;
        assert_eq!(kernel.get_attribute(version).unwrap(), code);
    }
    become_a(Profile::Sm61);
    assert_eq!(load(&device, harness::IMAGE), Err(209));
    become_a(Profile::OldDriver);
    assert_eq!(load(&device, harness::IMAGE), Err(222));
    become_a(Profile::NoDevice);
    assert_eq!(CudaContext::new(0).map_err(code).err(), Some(100));
    become_a(Profile::Sm86WithoutPools);
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let ones = stream.clone_htod(&[1.0f32; 10]).unwrap();
    assert_eq!(stream.clone_dtoh(&ones).unwrap(), [1.0; 10]);
}
