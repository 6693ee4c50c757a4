//! Contexts beside the primary one: the stack of a thread, what belongs to a context, and what its end does to that.

mod harness;

use std::{ffi::c_void, ptr::null_mut, sync::mpsc};

use cudarc::driver::{CudaContext, sys};
use emulator::{Settings, Variant};
use harness::{Device, Params, assert_close, data, launch_layer_norm, layer_norm};

const COLUMNS: usize = 512;
const BYTES: usize = COLUMNS * size_of::<f32>();
const INVALID_CONTEXT: u32 = 201;
const INVALID_HANDLE: u32 = 400;
const CONTEXT_IS_DESTROYED: u32 = 709;
const NULL_STREAM: sys::CUstream = null_mut();

/// A call of the driver, and its answer. All are safe for one reason: the emulator looks at a handle before it follows
/// it, and every place to write to is the test's own.
macro_rules! call {
    ($function:ident($($argument:expr),*)) => {{
        // SAFETY: as above.
        unsafe { sys::$function($($argument),*) as u32 }
    }};
}

/// The same, where anything but success is a failure of the test.
macro_rules! succeed {
    ($function:ident($($argument:expr),*)) => {
        assert_eq!(call!($function($($argument),*)), 0, stringify!($function))
    };
}

fn create() -> sys::CUcontext {
    let mut context = null_mut();
    succeed!(cuCtxCreate_v4(&mut context, null_mut(), 0, 0));
    context
}

fn current() -> sys::CUcontext {
    let mut context = null_mut();
    succeed!(cuCtxGetCurrent(&mut context));
    context
}

fn pop() -> Result<sys::CUcontext, u32> {
    let mut context = null_mut();
    match call!(cuCtxPopCurrent_v2(&mut context)) {
        0 => Ok(context),
        error => Err(error),
    }
}

/// Runs with another context on top of the stack.
fn within<T>(context: sys::CUcontext, run: impl FnOnce() -> T) -> T {
    succeed!(cuCtxPushCurrent_v2(context));
    let answer = run();
    assert_eq!(pop(), Ok(context));
    answer
}

fn stream_of_kind(flags: u32) -> sys::CUstream {
    let mut stream = null_mut();
    succeed!(cuStreamCreate(&mut stream, flags));
    stream
}

fn event() -> sys::CUevent {
    let mut event = null_mut();
    succeed!(cuEventCreate(&mut event, 0));
    event
}

fn module() -> sys::CUmodule {
    let mut module = null_mut();
    succeed!(cuModuleLoadData(&mut module, harness::IMAGE.as_ptr().cast()));
    module
}

fn kernel(module: sys::CUmodule) -> sys::CUfunction {
    let mut function = null_mut();
    succeed!(cuModuleGetFunction(&mut function, module, c"smoke_layer_norm".as_ptr()));
    function
}

fn owner(stream: sys::CUstream) -> sys::CUcontext {
    let mut context = null_mut();
    succeed!(cuStreamGetCtx(stream, &mut context));
    context
}

fn owner_of_memory(address: u64) -> sys::CUcontext {
    let mut context: sys::CUcontext = null_mut();
    let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_CONTEXT;
    succeed!(cuPointerGetAttribute((&raw mut context).cast(), attribute, address));
    context
}

/// Memory of the current context.
fn allocate() -> u64 {
    let mut address = 0;
    succeed!(cuMemAlloc_v2(&mut address, BYTES));
    address
}

/// Memory of the device's pool, which belongs to no context.
fn allocate_from_pool() -> u64 {
    let mut address = 0;
    succeed!(cuMemAllocAsync(&mut address, BYTES, NULL_STREAM));
    address
}

fn free<const N: usize>(addresses: [u64; N]) {
    for address in addresses {
        succeed!(cuMemFree_v2(address));
    }
}

fn write(address: u64, values: &[f32]) {
    succeed!(cuMemcpyHtoD_v2(address, values.as_ptr().cast(), size_of_val(values)));
}

fn read(address: u64) -> Vec<f32> {
    let mut values = vec![0.0_f32; COLUMNS];
    succeed!(cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), address, BYTES));
    values
}

/// One row of LayerNorm.
fn launch(function: sys::CUfunction, stream: sys::CUstream, input: u64, output: u64) -> u32 {
    let mut params = Params { input, output, count: COLUMNS as u32, eps: 1e-5 };
    let mut parameters: [*mut c_void; 1] = [(&raw mut params).cast()];
    call!(cuLaunchKernel(function, 1, 1, 1, 256, 1, 1, 33 * 4, stream, parameters.as_mut_ptr(), null_mut()))
}

#[test]
fn a_thread_has_a_stack_of_them() {
    let device = Device::open(Variant::Plain);
    let primary = device.context.cu_ctx();
    assert_eq!(current(), primary);
    let first = create();
    assert_eq!(current(), first);
    let second = create();
    assert_eq!(current(), second);
    assert!(first != second && first != primary && second != primary);

    assert_eq!(pop(), Ok(second));
    assert_eq!(current(), first);
    // Setting replaces the top alone.
    succeed!(cuCtxSetCurrent(second));
    assert_eq!(current(), second);
    succeed!(cuCtxPushCurrent_v2(first));
    succeed!(cuCtxPushCurrent_v2(first));
    assert_eq!([pop(), pop(), pop(), pop()], [Ok(first), Ok(first), Ok(second), Ok(primary)]);
    assert!(current().is_null());
    assert_eq!(pop(), Err(INVALID_CONTEXT));

    // Onto an empty stack a context is pushed; no context takes the top off, and nothing where there is nothing.
    succeed!(cuCtxSetCurrent(first));
    succeed!(cuCtxPushCurrent_v2(second));
    succeed!(cuCtxSetCurrent(null_mut()));
    assert_eq!(current(), first);
    succeed!(cuCtxSetCurrent(null_mut()));
    succeed!(cuCtxSetCurrent(null_mut()));
    assert!(current().is_null());
    assert_eq!(call!(cuCtxPushCurrent_v2(null_mut())), INVALID_CONTEXT);

    std::thread::spawn(|| assert!(current().is_null())).join().unwrap();
    for context in [first, second] {
        succeed!(cuCtxDestroy_v2(context));
    }
    assert!(current().is_null());
}

/// The call has grown from version to version; cudarc has the one of the toolkit at hand.
#[test]
fn every_version_of_the_call_creates_one() {
    let device = Device::open(Variant::Plain);
    // SAFETY: the emulator is loaded, and answers to this name.
    let library = unsafe { libloading::Library::new("libcuda.so") }.unwrap();
    type V2 = unsafe extern "C" fn(*mut sys::CUcontext, u32, i32) -> u32;
    type V3 = unsafe extern "C" fn(*mut sys::CUcontext, *const c_void, i32, u32, i32) -> u32;
    type V4 = unsafe extern "C" fn(*mut sys::CUcontext, *const Parameters, u32, i32) -> u32;
    #[repr(C)]
    struct Parameters(*const c_void, i32, *const c_void);
    // SAFETY: the signatures are those of cuda.h.
    let (v2, v3, v4) = unsafe {
        (
            *library.get::<V2>(b"cuCtxCreate_v2").unwrap(),
            *library.get::<V3>(b"cuCtxCreate_v3").unwrap(),
            *library.get::<V4>(b"cuCtxCreate_v4").unwrap(),
        )
    };
    let nothing = std::ptr::null();
    let (none, shared) = (Parameters(nothing, 0, nothing), Parameters(nothing, 1, nothing));
    let mut made = [null_mut(); 4];
    let [a, b, c, d] = &mut made;
    // SAFETY: places of this test's; what is refused is not read.
    unsafe {
        assert_eq!([v2(a, 0, 0), v3(b, nothing, 0, 4, 0), v4(c, &none, 8, 0), v4(d, std::ptr::null(), 0, 0)], [0; 4]);
        let mut refused = null_mut();
        assert_eq!([v2(&mut refused, 3, 0), v2(&mut refused, 0x100, 0)], [1, 1]);
        assert_eq!(v2(&mut refused, 0, 1), 101);
        assert_eq!([v3(&mut refused, nothing, 1, 0, 0), v4(&mut refused, &shared, 0, 0)], [801, 801]);
        assert!(refused.is_null());
    }
    let id_of = |context| {
        let mut id = 0;
        succeed!(cuCtxGetId(context, &mut id));
        id
    };
    assert_eq!(id_of(null_mut()), id_of(made[3]));
    let mut ids = made.map(id_of).to_vec();
    ids.push(id_of(device.context.cu_ctx()));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
    let mut found = -1;
    succeed!(cuCtxGetDevice(&mut found));
    assert_eq!(found, 0);
    // The last first: each is on top when its turn comes, and so taken off.
    made.iter().rev().for_each(|&context| succeed!(cuCtxDestroy_v2(context)));
    assert_eq!(current(), device.context.cu_ctx());
}

#[test]
fn kernels_run_in_a_second_context() {
    let device = Device::open(Variant::Plain);
    let before = device.emulator.live_allocations();
    // SAFETY: the new context is nobody else's.
    let second = unsafe { CudaContext::from_raw_context(0, 0, create()) }.unwrap();
    let module = second.load_module(cudarc::nvrtc::Ptx::from_binary(harness::IMAGE.into())).unwrap();
    let function = module.load_function("smoke_layer_norm").unwrap();
    let x = data(4 * COLUMNS);
    let want = layer_norm(&x, COLUMNS, 1e-5);
    for stream in [second.default_stream(), second.new_stream().unwrap()] {
        let input = stream.clone_htod(&x).unwrap();
        let output = stream.alloc_zeros::<f32>(x.len()).unwrap();
        launch_layer_norm(&stream, &function, &input, &output, COLUMNS);
        assert_close(&stream.clone_dtoh(&output).unwrap(), &want, 1e-5);
    }
    assert_close(&device.layer_norm(&x, COLUMNS), &want, 1e-5);
    drop((function, module, second));
    assert_eq!(device.emulator.report(), "");
    assert_eq!(device.emulator.live_allocations(), before);
}

#[test]
fn functions_streams_and_events_keep_to_their_context() {
    let device = Device::open(Variant::Plain);
    let primary = device.context.cu_ctx();
    let [x, y, its_y] = std::array::from_fn(|_| allocate_from_pool());
    write(x, &data(COLUMNS));
    let (function, stream, recorded) = (kernel(module()), stream_of_kind(1), event());
    let second = create();
    let (its_function, its_stream, its_event) = (kernel(module()), stream_of_kind(1), event());

    assert_eq!([owner(stream), owner(its_stream), owner(NULL_STREAM)], [primary, second, second]);
    assert_eq!(within(primary, || owner(NULL_STREAM)), primary);
    for context in [primary, second] {
        // Either may be current where function and stream are of one context.
        within(context, || {
            assert_eq!(launch(function, stream, x, y), 0);
            assert_eq!(launch(its_function, its_stream, x, its_y), 0);
            assert_eq!(launch(function, its_stream, x, y), INVALID_HANDLE);
            assert_eq!(launch(its_function, stream, x, y), INVALID_HANDLE);
            succeed!(cuEventRecord(recorded, stream));
            succeed!(cuEventRecord(its_event, its_stream));
            assert_eq!(call!(cuEventRecord(recorded, its_stream)), INVALID_HANDLE);
            // What a wait is for: contexts may follow each other.
            succeed!(cuStreamWaitEvent(its_stream, recorded, 0));
            succeed!(cuStreamSynchronize(stream));
            succeed!(cuStreamSynchronize(its_stream));
            let mut elapsed = 0.0;
            assert_eq!(call!(cuEventElapsedTime_v2(&mut elapsed, recorded, its_event)), INVALID_HANDLE);
        });
    }
    let report = device.emulator.take_report();
    for words in ["of another context", "belongs to another context than the function", "events of two contexts"] {
        assert!(report.contains(words), "{words:?} is not in: {report}");
    }
    assert_eq!([launch(function, NULL_STREAM, x, y), launch(its_function, NULL_STREAM, x, its_y)], [INVALID_HANDLE, 0]);
    within(primary, || {
        assert_eq!(
            [launch(function, NULL_STREAM, x, y), launch(its_function, NULL_STREAM, x, its_y)],
            [0, INVALID_HANDLE]
        );
    });
    succeed!(cuCtxDestroy_v2(second));
    free([x, y, its_y]);
}

/// With execution off a thread remembers what it could launch where.
#[test]
fn a_remembered_launch_is_forgotten_when_the_context_changes() {
    let device = Device::open(Variant::Plain);
    device.emulator.configure(&Settings { execute: false, ..Default::default() });
    let function = kernel(module());
    assert_eq!([launch(function, NULL_STREAM, 0, 0), launch(function, NULL_STREAM, 0, 0)], [0, 0]);
    let second = create();
    assert_eq!(launch(function, NULL_STREAM, 0, 0), INVALID_HANDLE);
    let its_function = kernel(module());
    assert_eq!([launch(its_function, NULL_STREAM, 0, 0), launch(its_function, NULL_STREAM, 0, 0)], [0, 0]);
    assert_eq!([current(), current()], [second; 2]);
    assert_eq!(pop(), Ok(second));
    assert_eq!(current(), device.context.cu_ctx());
    assert_eq!([launch(its_function, NULL_STREAM, 0, 0), launch(function, NULL_STREAM, 0, 0)], [INVALID_HANDLE, 0]);
    succeed!(cuCtxDestroy_v2(second));
    assert_eq!([launch(its_function, NULL_STREAM, 0, 0), launch(function, NULL_STREAM, 0, 0)], [INVALID_HANDLE, 0]);
}

#[test]
fn handles_end_with_their_context() {
    let device = Device::open(Variant::Plain);
    let primary = device.context.cu_ctx();
    let own = kernel(module());
    let second = create();
    let (image, stream, recorded, memory) = (module(), stream_of_kind(0), event(), allocate());
    let function = kernel(image);
    succeed!(cuEventRecord(recorded, stream));
    free([memory]);
    succeed!(cuCtxDestroy_v2(second));
    assert_eq!(current(), primary, "it was on top, and is taken off");

    assert_eq!([launch(function, NULL_STREAM, 0, 0), launch(own, stream, 0, 0)], [INVALID_HANDLE; 2]);
    let report = device.emulator.take_report();
    assert!(
        report.contains("a function that does not exist") && report.contains("the stream does not exist"),
        "{report}"
    );
    let mut found = null_mut();
    let mut place = null_mut();
    let answers = [
        call!(cuStreamSynchronize(stream)),
        call!(cuStreamDestroy_v2(stream)),
        call!(cuStreamGetCtx(stream, &mut found)),
        call!(cuEventSynchronize(recorded)),
        call!(cuEventDestroy_v2(recorded)),
        call!(cuModuleGetFunction(&mut place, image, c"smoke_layer_norm".as_ptr())),
        call!(cuModuleUnload(image)),
    ];
    assert_eq!(answers, [INVALID_HANDLE; 7]);

    let mut id = 0;
    let answers = [
        call!(cuCtxSetCurrent(second)),
        call!(cuCtxPushCurrent_v2(second)),
        call!(cuCtxGetId(second, &mut id)),
        call!(cuCtxDestroy_v2(second)),
    ];
    assert_eq!(answers, [CONTEXT_IS_DESTROYED; 4]);
    let error = cudarc::driver::DriverError(sys::CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
    assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_CONTEXT_IS_DESTROYED");
    // Neither is a context to destroy.
    let answers = [primary, null_mut(), stream.cast()].map(|handle| call!(cuCtxDestroy_v2(handle)));
    assert_eq!(answers, [INVALID_CONTEXT; 3]);
    assert_eq!(current(), primary);
    device.stream.synchronize().unwrap();
}

/// It stays current where the destroying call cannot take it off: to other threads, and deeper in the stack.
#[test]
fn a_destroyed_context_may_be_current_still() {
    let device = Device::open(Variant::Plain);
    let second = create();
    let answers = || {
        let (mut address, mut stream, mut image) = (0, null_mut(), null_mut());
        [
            call!(cuCtxSynchronize()),
            call!(cuMemAlloc_v2(&mut address, 8)),
            call!(cuMemFree_v2(0)),
            call!(cuStreamCreate(&mut stream, 0)),
            call!(cuStreamSynchronize(NULL_STREAM)),
            call!(cuModuleLoadData(&mut image, harness::IMAGE.as_ptr().cast())),
            launch(null_mut(), NULL_STREAM, 0, 0),
        ]
    };
    let (tell, told) = mpsc::channel();
    let (say, said) = mpsc::channel();
    let second_handle = second as usize;
    let other = std::thread::spawn(move || {
        let second = second_handle as sys::CUcontext;
        succeed!(cuCtxSetCurrent(second));
        succeed!(cuCtxSynchronize());
        say.send(()).unwrap();
        told.recv().unwrap();
        (current() == second, answers())
    });
    said.recv().unwrap();
    within(device.context.cu_ctx(), || succeed!(cuCtxDestroy_v2(second)));
    tell.send(()).unwrap();
    assert_eq!(other.join().unwrap(), (true, [CONTEXT_IS_DESTROYED; 7]));
    assert_eq!(current(), second);
    assert_eq!(answers(), [CONTEXT_IS_DESTROYED; 7]);
    assert!(device.emulator.take_report().contains("current context was destroyed"));
    assert_eq!(pop(), Ok(second));
    device.stream.synchronize().unwrap();
}

#[test]
fn what_is_live_in_a_context_is_reported_when_it_goes() {
    let device = Device::open(Variant::Plain);
    let kept = allocate();
    let before = device.emulator.live_allocations();
    let second = create();
    let [leaked, freed, freed_in_order, freed_elsewhere] = std::array::from_fn(|_| allocate());
    let pooled = allocate_from_pool();
    write(pooled, &data(COLUMNS));
    assert_eq!([kept, leaked, pooled].map(owner_of_memory), [device.context.cu_ctx(), second, null_mut()]);
    succeed!(cuMemFree_v2(freed));
    succeed!(cuMemFreeAsync(freed_in_order, NULL_STREAM));
    within(device.context.cu_ctx(), || succeed!(cuMemFree_v2(freed_elsewhere)));
    succeed!(cuCtxSynchronize());
    assert_eq!(device.emulator.report(), "");
    succeed!(cuCtxDestroy_v2(second));
    let report = device.emulator.take_report();
    assert_eq!(report, format!("leak: 1 device allocations of {BYTES} bytes were live when the context was destroyed"));
    assert_eq!(device.emulator.live_allocations(), before + 1);
    let mut value = 0.0_f32;
    assert_eq!(call!(cuMemcpyDtoH_v2((&raw mut value).cast(), leaked, 4)), 1);
    assert_eq!(call!(cuMemFree_v2(leaked)), 1);
    // The pool is the device's: its memory outlives the context in which somebody asked for it.
    assert_eq!(read(pooled), data(COLUMNS));
    free([pooled, kept]);
}

/// Until the last context goes: nobody is left to free it.
#[test]
fn memory_of_the_pool_is_reported_with_the_last_context() {
    let device = Device::open(Variant::Plain);
    let emulator = device.emulator;
    let second = create();
    allocate();
    allocate_from_pool();
    let Device { context, module, stream, turn, .. } = device;
    drop((module, stream, context));
    assert_eq!(emulator.report(), "", "the primary context has no memory of its own");
    assert_eq!(emulator.live_allocations(), 2);
    assert_eq!(call!(cuCtxSynchronize()), CONTEXT_IS_DESTROYED, "the primary context is on top, and nobody retains it");
    succeed!(cuCtxSetCurrent(second));
    succeed!(cuCtxDestroy_v2(second));
    let words = format!("leak: 2 device allocations of {} bytes", 2 * BYTES);
    assert!(emulator.report().contains(&words), "{}", emulator.take_report());
    assert_eq!(emulator.live_allocations(), 0);
    drop(turn);
}

#[test]
fn the_primary_context_can_come_again() {
    let Device { emulator, context, module: kept, stream, turn } = Device::open(Variant::Plain);
    let primary = context.cu_ctx();
    let (its_function, its_stream) = (kernel(module()), stream_of_kind(1));
    drop((kept, stream, context));
    assert_eq!(current(), primary);
    assert_eq!(call!(cuCtxSynchronize()), CONTEXT_IS_DESTROYED);
    let mut again = null_mut();
    succeed!(cuDevicePrimaryCtxRetain(&mut again, 0));
    assert_eq!(again, primary);
    succeed!(cuCtxSynchronize());
    // What belonged to it the first time is gone.
    assert_eq!(launch(its_function, NULL_STREAM, 0, 0), INVALID_HANDLE);
    assert_eq!(launch(kernel(module()), its_stream, 0, 0), INVALID_HANDLE);
    let (x, y) = (allocate(), allocate());
    write(x, &data(COLUMNS));
    assert_eq!(launch(kernel(module()), NULL_STREAM, x, y), 0);
    assert_close(&read(y), &layer_norm(&data(COLUMNS), COLUMNS, 1e-5), 1e-5);
    free([x, y]);
    emulator.take_report();
    succeed!(cuDevicePrimaryCtxRelease_v2(0));
    assert_eq!(emulator.report(), "");
    drop(turn);
}

/// NVIDIA does not say that the call waits for it.
#[test]
fn queued_work_runs_before_its_context_goes() {
    let device = Device::open(Variant::Plain);
    let (x, y) = (allocate_from_pool(), allocate_from_pool());
    write(x, &data(COLUMNS));
    for flags in [0, 1] {
        succeed!(cuMemsetD8_v2(y, 0xFF, BYTES));
        let second = create();
        assert_eq!(launch(kernel(module()), stream_of_kind(flags), x, y), 0);
        succeed!(cuCtxDestroy_v2(second));
        assert_close(&read(y), &layer_norm(&data(COLUMNS), COLUMNS, 1e-5), 1e-5);
    }
    free([x, y]);
    assert_eq!(device.emulator.report(), "");
}

/// A stream, and the context that is current while it is used.
type Place = (sys::CUcontext, sys::CUstream);

/// In how many of 50 seeds one stream reads what another has not written yet.
fn too_early(device: &Device, writer: Place, reader: Place) -> usize {
    let (x, y) = (allocate_from_pool(), allocate_from_pool());
    write(x, &data(COLUMNS));
    let function = within(writer.0, || kernel(module()));
    let is_early = |seed: &u64| {
        device.emulator.configure(&Settings { seed: *seed, ..Default::default() });
        succeed!(cuMemsetD8_v2(y, 0xFF, BYTES));
        within(writer.0, || assert_eq!(launch(function, writer.1, x, y), 0));
        let mut values = vec![0.0_f32; COLUMNS];
        within(reader.0, || succeed!(cuMemcpyDtoHAsync_v2(values.as_mut_ptr().cast(), y, BYTES, reader.1)));
        within(writer.0, || succeed!(cuCtxSynchronize()));
        values.iter().any(|value| value.is_nan())
    };
    let count = (0..50).filter(is_early).count();
    free([x, y]);
    count
}

#[test]
fn a_null_stream_joins_the_blocking_streams_of_its_own_context() {
    let device = Device::open(Variant::Plain);
    let primary = device.context.cu_ctx();
    let blocking = stream_of_kind(0);
    let second = create();
    let (its_blocking, its_own) = (stream_of_kind(0), stream_of_kind(1));
    for (context, blocking) in [(primary, blocking), (second, its_blocking)] {
        assert_eq!(too_early(&device, (context, blocking), (context, NULL_STREAM)), 0);
        assert_eq!(too_early(&device, (context, NULL_STREAM), (context, blocking)), 0);
    }
    for (writer, reader) in [
        ((second, its_own), (second, NULL_STREAM)),
        ((second, NULL_STREAM), (second, its_own)),
        ((second, its_blocking), (primary, NULL_STREAM)),
        ((primary, NULL_STREAM), (second, its_blocking)),
        ((primary, blocking), (second, NULL_STREAM)),
        ((second, NULL_STREAM), (primary, blocking)),
        ((second, NULL_STREAM), (primary, NULL_STREAM)),
    ] {
        let count = too_early(&device, writer, reader);
        assert!(count >= 10, "{count} of 50: {writer:?} {reader:?}");
    }
    succeed!(cuCtxDestroy_v2(second));
    succeed!(cuStreamDestroy_v2(blocking));
}

/// A launch of a graph is work as any other: null names the current context's stream, and the order is that context's.
#[test]
fn graphs_are_launched_in_the_order_of_their_context() {
    let device = Device::open(Variant::Plain);
    let second = create();
    let (blocking, captured) = (stream_of_kind(0), stream_of_kind(1));
    let (x, y) = (allocate(), allocate());
    write(x, &data(COLUMNS));
    let (mut graph, mut executable) = (null_mut(), null_mut());
    succeed!(cuStreamBeginCapture_v2(captured, MODE));
    assert_eq!(launch(kernel(module()), captured, x, y), 0);
    succeed!(cuStreamEndCapture(captured, &mut graph));
    succeed!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
    let want = layer_norm(&data(COLUMNS), COLUMNS, 1e-5);
    for seed in 0..20 {
        device.emulator.configure(&Settings { seed, ..Default::default() });
        for (stream, reader) in [(NULL_STREAM, NULL_STREAM), (NULL_STREAM, blocking), (blocking, NULL_STREAM)] {
            succeed!(cuMemsetD8_v2(y, 0xFF, BYTES));
            succeed!(cuGraphLaunch(executable, stream));
            let mut found = vec![0.0_f32; COLUMNS];
            succeed!(cuMemcpyDtoHAsync_v2(found.as_mut_ptr().cast(), y, BYTES, reader));
            assert_close(&found, &want, 1e-5);
            succeed!(cuCtxSynchronize());
        }
    }
    assert_eq!(call!(cuStreamBeginCapture_v2(NULL_STREAM, MODE)), 900);
    device.emulator.take_report();
    succeed!(cuGraphExecDestroy(executable));
    succeed!(cuGraphDestroy(graph));
    free([x, y]);
    succeed!(cuCtxDestroy_v2(second));
    assert_eq!(device.emulator.report(), "");
}

/// In how many of 50 seeds a launch in one context is done when another was synchronized.
#[test]
fn a_context_is_synchronized_alone() {
    let device = Device::open(Variant::Plain);
    let primary = device.context.cu_ctx();
    let second = create();
    let its_stream = stream_of_kind(1);
    let mut host = null_mut();
    succeed!(cuMemAllocHost_v2(&mut host, BYTES));
    let memory = allocate();
    write(memory, &data(COLUMNS));
    let is_done = |context, seed| {
        device.emulator.configure(&Settings { seed, ..Default::default() });
        succeed!(cuMemcpyDtoHAsync_v2(host, memory, BYTES, its_stream));
        within(context, || succeed!(cuCtxSynchronize()));
        // SAFETY: pinned memory of that size, which the emulator has filled.
        let done = !unsafe { host.cast::<f32>().read() }.is_nan();
        succeed!(cuStreamSynchronize(its_stream));
        done
    };
    assert_eq!((0..50).filter(|&seed| is_done(second, seed)).count(), 50);
    assert_eq!((0..50).filter(|&seed| is_done(primary, seed)).count(), 0);
    free([memory]);
    succeed!(cuMemFreeHost(host));
    succeed!(cuCtxDestroy_v2(second));
    assert_eq!(device.emulator.report(), "");
}

const MODE: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

#[test]
fn a_capture_ends_with_the_context_where_it_began() {
    let device = Device::open(Variant::Plain);
    let stream = stream_of_kind(1);
    let second = create();
    let (its_stream, forked) = (stream_of_kind(1), event());
    succeed!(cuStreamBeginCapture_v2(its_stream, MODE));
    succeed!(cuEventRecord(forked, its_stream));
    succeed!(cuStreamWaitEvent(stream, forked, 0));
    let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    succeed!(cuStreamIsCapturing(stream, &mut status));
    assert_eq!(status, sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    succeed!(cuCtxDestroy_v2(second));
    succeed!(cuStreamIsCapturing(stream, &mut status));
    assert_eq!(status, sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE);
    succeed!(cuStreamSynchronize(stream));
    succeed!(cuStreamDestroy_v2(stream));
    device.stream.synchronize().unwrap();
}

#[test]
fn a_capture_loses_a_stream_with_its_context() {
    let device = Device::open(Variant::Plain);
    let (stream, forked) = (stream_of_kind(1), event());
    let second = create();
    let its_stream = stream_of_kind(1);
    succeed!(cuStreamBeginCapture_v2(stream, MODE));
    succeed!(cuEventRecord(forked, stream));
    succeed!(cuStreamWaitEvent(its_stream, forked, 0));
    succeed!(cuCtxDestroy_v2(second));
    let mut graph = null_mut();
    assert_eq!(call!(cuStreamEndCapture(stream, &mut graph)), 901);
    succeed!(cuStreamSynchronize(stream));
    succeed!(cuStreamDestroy_v2(stream));
    device.stream.synchronize().unwrap();
}

/// A graph belongs to no context, its kernels do.
#[test]
fn a_graph_outlives_the_context_of_its_kernels_in_vain() {
    let device = Device::open(Variant::Plain);
    let stream = stream_of_kind(1);
    let (x, y) = (allocate_from_pool(), allocate_from_pool());
    write(x, &data(COLUMNS));
    let second = create();
    let its_stream = stream_of_kind(1);
    let (mut graph, mut executable) = (null_mut(), null_mut());
    succeed!(cuStreamBeginCapture_v2(its_stream, MODE));
    assert_eq!(launch(kernel(module()), its_stream, x, y), 0);
    succeed!(cuStreamEndCapture(its_stream, &mut graph));
    succeed!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
    // Another context's stream may order it.
    succeed!(cuGraphLaunch(executable, stream));
    succeed!(cuStreamSynchronize(stream));
    assert_close(&read(y), &layer_norm(&data(COLUMNS), COLUMNS, 1e-5), 1e-5);
    succeed!(cuCtxDestroy_v2(second));
    succeed!(cuGraphLaunch(executable, stream));
    assert_eq!(call!(cuStreamSynchronize(stream)), CONTEXT_IS_DESTROYED);
    assert!(device.emulator.report().contains("of a context that was destroyed"));
    device.emulator.reset();
    succeed!(cuGraphExecDestroy(executable));
    succeed!(cuGraphDestroy(graph));
    succeed!(cuStreamDestroy_v2(stream));
    free([x, y]);
}

/// The process would have to end, on a GPU too.
#[test]
fn a_fault_shows_in_every_context() {
    let device = Device::open(Variant::Plain);
    let second = create();
    let its_function = kernel(module());
    // Null is nobody's memory.
    assert_eq!(launch(its_function, NULL_STREAM, 0, 0), 0);
    assert_eq!(call!(cuCtxSynchronize()), 700);
    assert_eq!(within(device.context.cu_ctx(), || call!(cuCtxSynchronize())), 700);
    succeed!(cuCtxDestroy_v2(second));
    assert_eq!(call!(cuCtxSynchronize()), 700, "the primary context goes on, and the fault with it");
    device.emulator.reset();
    device.context.synchronize().unwrap();
}
