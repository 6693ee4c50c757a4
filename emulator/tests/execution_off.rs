//! With execution off a launch is what the driver's call is, and nothing follows.

mod harness;

use std::{
    ptr::null_mut,
    sync::atomic::{AtomicBool, Ordering},
};

use cudarc::driver::{CudaContext, result, sys};
use emulator::{Settings, Variant};
use harness::{Device, Launch, Params, address, assert_close, code, data, layer_norm};

fn off() -> Settings {
    Settings { execute: false, ..Default::default() }
}

const ROW: Launch =
    Launch { blocks: 1, threads: 256, shared: 33 * 4, cluster: 1, cooperative: false, programmatic: false };

/// A row of 256, and an output that holds sevens.
struct Row {
    device: Device,
    x: cudarc::driver::CudaSlice<f32>,
    y: cudarc::driver::CudaSlice<f32>,
}

impl Row {
    fn open() -> Self {
        let device = Device::open(Variant::Plain);
        device.emulator.configure(&off());
        let x = device.stream.clone_htod(&data(256)).unwrap();
        let y = device.stream.clone_htod(&[7.0_f32; 256]).unwrap();
        Self { device, x, y }
    }

    fn params(&self) -> Params {
        Params { input: address(&self.x), output: address(&self.y), count: 256, eps: 1e-5 }
    }

    fn launch(&self, launch: Launch) -> Result<(), u32> {
        self.device.launch("smoke_layer_norm", launch, self.params())
    }

    fn output(&self) -> Vec<f32> {
        self.device.stream.clone_dtoh(&self.y).unwrap()
    }

    fn calls(&self, name: &str) -> u64 {
        self.device.emulator.calls().iter().find(|(found, _)| found == name).map_or(0, |(_, count)| *count)
    }
}

#[test]
fn nothing_runs_until_it_is_turned_on() {
    let row = Row::open();
    row.launch(ROW).unwrap();
    row.launch(ROW).unwrap();
    // The copies do run.
    assert_eq!(row.output(), [7.0; 256]);
    row.device.emulator.configure(&Settings::default());
    assert_eq!(row.output(), [7.0; 256]);
    row.launch(ROW).unwrap();
    assert_close(&row.output(), &layer_norm(&data(256), 256, 1e-5), 1e-5);
    assert_eq!(row.device.emulator.report(), "");
}

#[test]
fn what_is_queued_before_it_is_turned_off_still_runs() {
    let row = Row::open();
    row.device.emulator.configure(&Settings::default());
    row.launch(ROW).unwrap();
    row.device.emulator.configure(&off());
    assert_close(&row.output(), &layer_norm(&data(256), 256, 1e-5), 1e-5);
}

#[test]
fn only_the_first_launches_are_counted() {
    let row = Row::open();
    let kernel = row.device.kernel("smoke_layer_norm");
    let launch = || harness::launch_on(&row.device.stream, &kernel, ROW, row.params()).unwrap();
    launch();
    let counts = || ["cuLaunchKernelEx", "cuCtxGetCurrent"].map(|name| row.calls(name));
    let before = counts();
    (0..100).for_each(|_| launch());
    assert_eq!(counts(), before);
    row.device.emulator.configure(&Settings::default());
    (0..100).for_each(|_| launch());
    assert!(counts().into_iter().zip(before).all(|(after, before)| after >= before + 100));
}

/// The mistakes of one launch, and before each a correct launch, which the thread remembers.
#[test]
fn mistakes_are_refused_as_ever() {
    let row = Row::open();
    let kernel = row.device.kernel("smoke_layer_norm");
    let try_launch = |launch| {
        harness::launch_on(&row.device.stream, &kernel, ROW, row.params()).unwrap();
        harness::launch_on(&row.device.stream, &kernel, launch, row.params()).err()
    };
    assert_eq!(try_launch(Launch { threads: 2048, ..ROW }), Some(1));
    assert_eq!(try_launch(Launch { threads: 512, ..ROW }), Some(701));
    assert_eq!(try_launch(Launch { blocks: 0, ..ROW }), Some(1));
    assert_eq!(try_launch(Launch { shared: 48 * 1024 + 1, ..ROW }), Some(1));
    assert_eq!(try_launch(Launch { cluster: 2, blocks: 3, ..ROW }), Some(912));
    assert_eq!(try_launch(Launch { cooperative: true, blocks: 132 * 8 + 1, ..ROW }), Some(720));
    assert_eq!(try_launch(ROW), None);
    let stream = row.device.stream.cu_stream();
    // SAFETY: the driver refuses the missing parameter before it reads any.
    let answer = unsafe {
        sys::cuLaunchKernel(kernel.cu_function(), 1, 1, 1, 256, 1, 1, 0, stream, [null_mut()].as_mut_ptr(), null_mut())
    };
    assert_eq!(answer as u32, 1);
    let report = row.device.emulator.take_report();
    for words in ["exceeds the kernel's launch bounds", "parameter 0 of 1 is null"] {
        assert!(report.contains(words), "{words:?} is not in: {report}");
    }
}

/// What a thread remembers of a function and a stream must not outlive them.
#[test]
fn what_changes_is_noticed() {
    let row = Row::open();
    let context = row.device.context.clone();
    let try_raw = |function, stream| {
        let mut params = row.params();
        let mut parameters = [(&raw mut params).cast()];
        // SAFETY: the driver knows whether the handles live; the parameters are those of the kernel.
        let answer = unsafe {
            let parameters = parameters.as_mut_ptr();
            sys::cuLaunchKernel(function, 1, 1, 1, 256, 1, 1, ROW.shared, stream, parameters, null_mut())
        };
        answer as u32
    };
    let load = || context.load_module(cudarc::nvrtc::Ptx::from_binary(harness::IMAGE.into())).unwrap();
    let default = row.device.stream.cu_stream();

    let module = load();
    let function = module.load_function("smoke_layer_norm").unwrap().cu_function();
    assert_eq!([try_raw(function, default), try_raw(function, default)], [0, 0]);
    drop(module);
    assert_eq!(try_raw(function, default), 400);

    let module = load();
    let function = module.load_function("smoke_layer_norm").unwrap().cu_function();
    // SAFETY: a context is current, and the handle is given up here.
    unsafe {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        assert_eq!([try_raw(function, stream), try_raw(function, stream)], [0, 0]);
        result::stream::destroy(stream).unwrap();
        assert_eq!(try_raw(function, stream), 400);
    }

    let current = result::ctx::get_current().unwrap();
    assert_eq!([try_raw(function, default), try_raw(function, default)], [0, 0]);
    // SAFETY: no context is a context to be current; the old one comes back.
    unsafe {
        result::ctx::set_current(null_mut()).unwrap();
        assert_eq!(result::ctx::get_current().unwrap(), None);
        assert_eq!(try_raw(function, default), 201);
        result::ctx::set_current(current.unwrap()).unwrap();
    }
    assert_eq!(try_raw(function, default), 0);
    assert_eq!(result::ctx::get_current().unwrap(), current);
}

#[test]
fn captures_hold_launches_that_run_later() {
    let row = Row::open();
    let stream = row.device.context.new_stream().unwrap();
    let kernel = row.device.kernel("smoke_layer_norm");
    let launch = || harness::launch_on(&stream, &kernel, ROW, row.params()).map_err(|code| code.to_string());
    launch().unwrap();
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    launch().unwrap();
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    graph.launch().unwrap();
    assert_eq!(row.output(), [7.0; 256]);
    row.device.emulator.configure(&Settings::default());
    graph.launch().unwrap();
    stream.synchronize().unwrap();
    assert_close(&row.output(), &layer_norm(&data(256), 256, 1e-5), 1e-5);
}

#[test]
fn threads_launch_while_streams_come_and_go() {
    let row = Row::open();
    let kernel = row.device.kernel("smoke_layer_norm");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let launchers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    (0..20_000).all(|_| harness::launch_on(&row.device.stream, &kernel, ROW, row.params()).is_ok())
                })
            })
            .collect();
        scope.spawn(|| {
            let context = CudaContext::new(0).map_err(code).unwrap();
            while !stop.load(Ordering::Relaxed) {
                drop(context.new_stream().unwrap());
            }
        });
        let all = launchers.into_iter().map(|launcher| launcher.join().unwrap()).collect::<Vec<_>>();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(all, [true; 3]);
    });
    assert_eq!(row.output(), [7.0; 256]);
}
