//! What the tests share: the emulated device, launches of the kernels in `faults/`, and reference results.
#![allow(dead_code)] // no test file uses all of it

pub mod correct;

use std::{
    ffi::c_void,
    sync::{Arc, Mutex, MutexGuard},
};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr as _, sys};
use emulator::{Emulator, Variant};

/// What a crate embeds that was built without nvcc. The fingerprint is that of this build's own kernels.
pub const IMAGE: &str = concat!("WARPNORM-NO-KERNELS ", env!("EMULATOR_KERNEL_HASH"), "\0");

/// The emulator's settings and reports belong to the process, so the tests of a file take turns.
static TURN: Mutex<()> = Mutex::new(());

pub struct Device {
    pub emulator: &'static Emulator,
    pub context: Arc<CudaContext>,
    pub module: Arc<CudaModule>,
    pub stream: Arc<CudaStream>,
    pub turn: MutexGuard<'static, ()>,
}

/// As in `faults/*.cu`: addresses in a struct, as the crate's own kernels take them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Params {
    pub input: u64,
    pub output: u64,
    pub count: u32,
    pub eps: f32,
}

/// A launch of a kernel that takes [`Params`]. 256 threads a block.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    pub blocks: u32,
    pub threads: u32,
    pub shared: u32,
    pub cluster: u32,
    pub cooperative: bool,
    pub programmatic: bool,
}

impl Default for Launch {
    fn default() -> Self {
        Self { blocks: 1, threads: 256, shared: 0, cluster: 1, cooperative: false, programmatic: false }
    }
}

impl Device {
    pub fn open(variant: Variant) -> Self {
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let emulator = emulator::preload(variant);
        emulator.reset();
        emulator.configure(&Default::default());
        let context = CudaContext::new(0).expect("a context");
        let module = context.load_module(cudarc::nvrtc::Ptx::from_binary(IMAGE.into())).expect("a module");
        let stream = context.default_stream();
        Self { emulator, context, module, stream, turn }
    }

    pub fn kernel(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).unwrap_or_else(|_| panic!("no kernel {name}"))
    }

    pub fn launch(&self, name: &str, launch: Launch, params: Params) -> Result<(), u32> {
        launch_on(&self.stream, &self.kernel(name), launch, params)
    }

    /// Runs a kernel over buffers of that many floats; its output, or the error that CUDA answered.
    pub fn run(&self, name: &str, launch: Launch, input: &[f32], output: usize) -> Result<Vec<f32>, u32> {
        let x = self.stream.clone_htod(input).map_err(code)?;
        let y = self.stream.alloc_zeros::<f32>(output).map_err(code)?;
        let count = input.len() as u32;
        self.launch(name, launch, Params { input: address(&x), output: address(&y), count, eps: 0.0 })?;
        self.stream.clone_dtoh(&y).map_err(code)
    }

    pub fn layer_norm(&self, x: &[f32], columns: usize) -> Vec<f32> {
        let input = self.stream.clone_htod(x).expect("copy");
        let output = self.stream.alloc_zeros::<f32>(x.len()).expect("memory");
        launch_layer_norm(&self.stream, &self.kernel("smoke_layer_norm"), &input, &output, columns);
        self.stream.clone_dtoh(&output).expect("copy")
    }
}

pub fn code(error: cudarc::driver::DriverError) -> u32 {
    error.0 as u32
}

/// Without events: the tests that need cudarc's tracking say so.
pub fn address<T>(slice: &CudaSlice<T>) -> u64 {
    let (address, guard) = slice.device_ptr(slice.stream());
    std::mem::forget(guard);
    address
}

pub fn launch_on(stream: &CudaStream, kernel: &CudaFunction, launch: Launch, mut params: Params) -> Result<(), u32> {
    stream.context().bind_to_thread().map_err(code)?;
    // SAFETY: plain C data, all zeros allowed.
    let mut attributes: [sys::CUlaunchAttribute; 3] = unsafe { std::mem::zeroed() };
    attributes[0].id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attributes[0].value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: launch.cluster, y: 1, z: 1 };
    attributes[1].id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    attributes[1].value.cooperative = i32::from(launch.cooperative);
    attributes[2].id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attributes[2].value.programmaticStreamSerializationAllowed = i32::from(launch.programmatic);
    let config = sys::CUlaunchConfig {
        gridDimX: launch.blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: launch.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: launch.shared,
        hStream: stream.cu_stream(),
        attrs: attributes.as_mut_ptr(),
        numAttrs: attributes.len() as u32,
    };
    let mut parameters: [*mut c_void; 1] = [(&raw mut params).cast()];
    // SAFETY: the call copies the parameters and attributes; a wrong address in them is what the tests are about.
    let result =
        unsafe { sys::cuLaunchKernelEx(&config, kernel.cu_function(), parameters.as_mut_ptr(), std::ptr::null_mut()) };
    if result == sys::CUresult::CUDA_SUCCESS { Ok(()) } else { Err(result as u32) }
}

pub fn launch_layer_norm(
    stream: &CudaStream,
    kernel: &CudaFunction,
    x: &CudaSlice<f32>,
    y: &CudaSlice<f32>,
    columns: usize,
) {
    let launch = Launch { blocks: (x.len() / columns) as u32, shared: 33 * 4, ..Default::default() };
    let params = Params { input: address(x), output: address(y), count: columns as u32, eps: 1e-5 };
    launch_on(stream, kernel, launch, params).expect("launch");
}

/// `faults.cu:LINE` of the line that carries this tag.
pub fn planted(tag: &str) -> String {
    let source = include_str!("../../faults/faults.cu");
    let wanted = format!("planted: {tag}");
    let line = source.lines().position(|line| line.ends_with(&wanted)).unwrap_or_else(|| panic!("no {wanted}"));
    format!("faults.cu:{}", line + 1)
}

pub fn data(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.37).sin() + 0.25).collect()
}

pub fn layer_norm(x: &[f32], columns: usize, eps: f64) -> Vec<f32> {
    x.chunks(columns)
        .flat_map(|row| {
            let n = columns as f64;
            let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
            let rstd = 1.0 / (variance + eps).sqrt();
            row.iter().map(move |&v| ((f64::from(v) - mean) * rstd) as f32)
        })
        .collect()
}

#[track_caller]
pub fn assert_close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance, "element {i}: {a} and {b}");
    }
}
