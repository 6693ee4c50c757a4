//! Bad input: each kind has its own error, which names the argument, and leaves buffers and stream as they were.

use std::process::Command;

use emulator::{Profile, Settings, Variant};
use warpnorm::half::f16;
use warpnorm::{
    Args, BatchNorm, Cpu, Cuda, DType, Error, GroupNorm, InstanceNorm, LayerNorm, Layout, Result, RmsNorm, Shape,
};

use crate::device;
use crate::place::Place;

fn message(result: Result<()>) -> String {
    result.expect_err("a refusal").to_string()
}

#[test]
fn descriptors() {
    assert_eq!(GroupNorm::new(0, 4), Err(Error::Empty { layer: "GroupNorm", parameter: "num_groups" }));
    assert_eq!(GroupNorm::new(3, 4), Err(Error::Groups { num_channels: 4, num_groups: 3 }));
    assert_eq!(LayerNorm::new([]), Err(Error::Empty { layer: "LayerNorm", parameter: "normalized_shape" }));
    assert!(matches!(LayerNorm::new([usize::MAX, 2]), Err(Error::ShapeOverflow { .. })));
    for eps in [-1e-5, f64::NAN, f64::INFINITY] {
        assert!(matches!(RmsNorm::new([4], eps), Err(Error::Eps { .. })), "{eps}");
        assert!(matches!(BatchNorm::new(4).and_then(|layer| layer.eps(eps)), Err(Error::Eps { .. })), "{eps}");
    }
    assert_eq!(Shape::new(&[1; 9]), Err(Error::Rank { found: 9, limit: 8 }));
}

/// The refusals that do not depend on the backend.
fn refusals<P: Place>(place: &P) {
    let layer = LayerNorm::new([4]).unwrap();
    let x = place.put(&[1.0_f32; 12]);
    let halves = place.put(&[f16::ONE; 12]);
    let mut y = place.put(&[7.0_f32; 12]);
    {
        let x = |range| place.view(&x, range);
        let halves = place.view(&halves, 0..12);
        let (three_rows, short, twelve) = (x(0..12), x(0..11), Shape::from([3, 4]));

        let missing = layer.forward(Args::new(place, twelve).input(&three_rows));
        assert_eq!(missing, Err(Error::Missing { layer: "LayerNorm", argument: "output" }));

        let mut out = place.view_mut(&mut y, 0..12);
        let shape = layer.forward(Args::new(place, [4, 3]).input(&three_rows).output(&mut out));
        assert_eq!(message(shape), "LayerNorm: the shape [4, 3] does not fit, expected one that ends in [4]");

        let length = layer.forward(Args::new(place, twelve).input(&short).output(&mut out));
        assert_eq!(length, Err(Error::Length { argument: "input", found: 11, expected: 12 }));

        let dtype = layer.forward(Args::new(place, twelve).input(&three_rows).residual(&halves).output(&mut out));
        assert_eq!(dtype, Err(Error::ElementType { argument: "residual", found: DType::F16, expected: "f32" }));

        let weight = layer.forward(Args::new(place, twelve).input(&three_rows).weight(&halves).output(&mut out));
        assert!(matches!(weight, Err(Error::ElementType { argument: "weight", .. })), "{weight:?}");

        let weight = layer.forward(Args::new(place, twelve).weight(&three_rows).output(&mut out));
        assert_eq!(weight, Err(Error::Length { argument: "weight", found: 12, expected: 4 }));

        let stride = layer.forward(Args::new(place, twelve).input(&three_rows).input_row_stride(3).output(&mut out));
        assert_eq!(stride, Err(Error::RowStride { argument: "input", found: 3, length: 4 }));

        let stride = layer.forward(Args::new(place, twelve).input(&three_rows).input_row_stride(5).output(&mut out));
        assert_eq!(stride, Err(Error::Length { argument: "input", found: 12, expected: 14 }));

        let running = layer.forward(Args::new(place, twelve).running_mean(&x(0..4)).output(&mut out));
        assert!(matches!(running, Err(Error::Unexpected { argument: "running_mean", .. })), "{running:?}");

        let rms = RmsNorm::new([4], 1e-6).unwrap().weight_plus_one(true);
        let offset = rms.forward(Args::new(place, twelve).output(&mut out));
        assert_eq!(offset, Err(Error::Missing { layer: "RMSNorm", argument: "weight" }));

        let gated = layer.forward(Args::new(place, [3, 1, 4]).gate(&x(0..4)).output(&mut out));
        assert_eq!(gated, Err(Error::Length { argument: "gate", found: 4, expected: 12 }));

        let second = layer.forward(Args::new(place, twelve).second_residual(&three_rows).output(&mut out));
        assert!(matches!(second, Err(Error::Unexpected { argument: "second_residual", .. })), "{second:?}");

        let biased = layer.forward(Args::new(place, twelve).input_bias(&three_rows).output(&mut out));
        assert_eq!(biased, Err(Error::Length { argument: "input_bias", found: 12, expected: 4 }));

        let biased = InstanceNorm::new(4).unwrap();
        let biased = biased.forward(Args::new(place, twelve).input_bias(&x(0..4)).output(&mut out));
        assert!(matches!(biased, Err(Error::Unexpected { argument: "input_bias", .. })), "{biased:?}");

        let scaled = layer.scale_plus_one(true).forward(Args::new(place, twelve).output(&mut out));
        assert_eq!(scaled, Err(Error::Missing { layer: "LayerNorm", argument: "scale" }));

        let by_channels = layer.forward(Args::new(place, twelve).channel_bias(&three_rows).output(&mut out));
        assert!(matches!(by_channels, Err(Error::Unexpected { argument: "channel_bias", .. })), "{by_channels:?}");

        let by_elements = GroupNorm::new(1, 4).unwrap();
        let by_elements = by_elements.forward(Args::new(place, twelve).gate(&three_rows).output(&mut out));
        assert!(matches!(by_elements, Err(Error::Unexpected { argument: "gate", .. })), "{by_elements:?}");

        let images = BatchNorm::new(4).unwrap();
        let statistics = images.forward(Args::new(place, twelve).running_mean(&x(0..4)).output(&mut out));
        assert_eq!(statistics, Err(Error::Missing { layer: "BatchNorm", argument: "running_var" }));

        let nhwc = images.layout(Layout::Nhwc).forward(Args::new(place, [2, 2, 3]).output(&mut out));
        assert_eq!(
            message(nhwc),
            "BatchNorm: the shape [2, 2, 3] does not fit, expected [N, 4] with up to 3 spatial axes between"
        );

        let vast = BatchNorm::new(usize::MAX).unwrap();
        let vast = vast.forward(Args::new(place, [0, usize::MAX]).channel_table(&x(0..0)).output(&mut out));
        assert!(matches!(vast, Err(Error::ShapeOverflow { .. })), "{vast:?}");

        let rank = InstanceNorm::new(1).unwrap().forward(Args::new(place, [1, 1, 1, 1, 3, 4]).output(&mut out));
        assert!(matches!(rank, Err(Error::Shape { .. })), "{rank:?}");

        let strided = InstanceNorm::new(3)
            .unwrap()
            .forward(Args::new(place, [1, 3, 4]).input(&three_rows).input_row_stride(8).output(&mut out));
        assert!(matches!(strided, Err(Error::Unexpected { argument: "input_row_stride", .. })), "{strided:?}");
    }
    // Nothing was written, and the next good call is served.
    assert_eq!(place.get(&y), [7.0; 12]);
    let mut out = place.view_mut(&mut y, 0..12);
    layer.forward(Args::new(place, [3, 4]).input(&place.view(&x, 0..12)).output(&mut out)).expect("a good call");
    drop(out);
    assert_eq!(place.get(&y), [0.0; 12]);
}

#[test]
fn refusals_on_cpu() {
    refusals(&Cpu);
}

#[test]
fn refusals_on_cuda() {
    refusals(&device::cuda().cuda);
}

/// Safe slices cannot overlap; device memory named twice can.
#[test]
fn overlaps_on_cuda() {
    let device = device::cuda();
    let stream = device.cuda.stream();
    let memory = stream.clone_htod(&[1.0_f32; 64]).unwrap();
    // SAFETY: both names of the memory are given back to cudarc's care below, once.
    let mut again = {
        use warpnorm::cudarc::driver::DevicePtr;
        let (address, _guard) = memory.device_ptr(stream);
        std::mem::ManuallyDrop::new(unsafe { stream.upgrade_device_ptr::<f32>(address, 64) })
    };
    let layer = LayerNorm::new([8]).unwrap();
    let call = |input: std::ops::Range<usize>, output: std::ops::Range<usize>, stride: usize, again: &mut _| {
        let again: &mut warpnorm::cudarc::driver::CudaSlice<f32> = again;
        let (input, mut output) = (memory.slice(input), again.slice_mut(output));
        let args = Args::new(&device.cuda, [2, 8]).input(&input).output(&mut output);
        layer.forward(if stride == 8 { args } else { args.input_row_stride(stride).output_row_stride(stride) })
    };
    let overlap = Err(Error::Overlap { written: "output", other: "input" });
    assert_eq!(call(0..16, 4..20, 8, &mut again), overlap, "shifted by half a row");
    assert_eq!(call(0..24, 4..28, 16, &mut again), overlap, "columns that reach into each other");
    assert_eq!(call(0..16, 0..16, 8, &mut again), Ok(()), "exactly the same");
    assert_eq!(call(0..16, 16..32, 8, &mut again), Ok(()), "side by side");
    assert_eq!(call(0..24, 8..32, 16, &mut again), Ok(()), "columns side by side");
    stream.synchronize().unwrap();
}

/// Runs this binary once more for one test, alone in a process with the given task.
fn child(task: &str) -> String {
    let output = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "errors::task_of_a_child", "--nocapture"])
        .env("WARPNORM_TEST_TASK", task)
        .output()
        .expect("a child process");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{task}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Does nothing but in a child.
#[test]
fn task_of_a_child() {
    let Ok(task) = std::env::var("WARPNORM_TEST_TASK") else { return };
    let profile = match task.as_str() {
        "no driver" => None,
        "no device" => Some(Profile::NoDevice),
        "old driver" => Some(Profile::OldDriver),
        "old chip" => Some(Profile::Sm61),
        "fault" => Some(Profile::Sm90),
        other => panic!("unknown task {other}"),
    };
    if let Some(profile) = profile {
        emulator::preload(Variant::Plain).configure(&Settings { profile, ..Settings::default() });
    }
    if task == "fault" {
        return fault();
    }
    match Cuda::open(0) {
        Ok(_) => println!("opened"),
        // Printing was what panicked in other crates.
        Err(error) => println!("{error}\n{error:?}"),
    }
}

/// A fault inside a kernel: CUDA's sticky error, reported as such by every later call.
fn fault() {
    use warpnorm::cudarc::driver::DevicePtr;
    let cuda = Cuda::open(0).expect("an emulated device");
    let stream = cuda.stream().clone();
    let freed = {
        let memory = stream.clone_htod(&[1.0_f32; 4096]).expect("memory");
        memory.device_ptr(&stream).0
    };
    stream.synchronize().expect("no fault yet");
    // SAFETY: none: the memory is freed, which is the point.
    let stale = std::mem::ManuallyDrop::new(unsafe { stream.upgrade_device_ptr::<f32>(freed, 4096) });
    let mut y = stream.alloc_zeros::<f32>(4096).expect("memory");
    let layer = LayerNorm::new([4096]).expect("a layer");
    layer.forward(Args::new(&cuda, [1, 4096]).input(&*stale).output(&mut y)).expect("the launch itself");
    println!("synchronized: {:?}", stream.synchronize().map_err(|error| error.0 as u32));
    println!(
        "next call: {:?}",
        layer.forward(Args::new(&cuda, [1, 4096]).output(&mut y)).expect_err("sticky").to_string()
    );
    std::mem::forget(y);
}

#[test]
fn a_machine_without_driver() {
    let opened = child("no driver");
    if emulator::real_gpu() {
        println!("there is a driver here: not shown");
    } else {
        assert!(opened.contains("no NVIDIA driver was found"), "{opened}");
    }
}

#[test]
fn a_driver_without_device() {
    let opened = child("no device");
    assert!(opened.contains("there is no CUDA device 0: the driver reports 0"), "{opened}");
}

#[test]
fn a_driver_too_old() {
    let opened = child("old driver");
    assert!(opened.contains("the NVIDIA driver supports CUDA 11.4, and this build needs"), "{opened}");
}

#[test]
fn a_chip_too_old() {
    let opened = child("old chip");
    // Without kernels in the image there is nothing for any chip.
    let says_why =
        opened.contains("not for a device of compute capability 6.1") || opened.contains("holds no CUDA kernels");
    assert!(says_why, "{opened}");
}

#[test]
fn a_fault_in_a_kernel() {
    let told = child("fault");
    assert!(told.contains("synchronized: Err(700)"), "{told}");
    assert!(told.contains("next call:") && told.contains("CUDA error 700"), "{told}");
}

#[test]
fn an_ordinal_beyond_the_last() {
    let _device = device::cuda();
    assert!(matches!(Cuda::open(1000), Err(Error::NoDevice { ordinal: 1000, .. })));
}
