//! What a call does on the device: its launches, on candle's stream, and nothing else.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Error, Result, Tensor};
use emulator::{Schedule, Settings};
use warpnorm_candle::{BatchNorm, GroupNorm, LayerNorm, Module as _, ModuleT as _, RmsNorm};

use super::{Gpu, gpu};
use crate::case::{EPS, Kind, Tensors, expected, ours};
use crate::place::Place as _;
use crate::tensors::{assert_is, assert_near, assert_same, normal, positive, values};

const CHANNELS: usize = 4;

type Call = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// Layers over `[N, 4, 4]`, of which every axis may be taken for channels.
fn layers(device: &Device) -> Result<Vec<(&'static str, Call)>> {
    let tensor = |seed| normal(&[CHANNELS], DType::F32, seed)?.to_device(device);
    let (weight, bias, mean) = (tensor(1)?, tensor(2)?, tensor(3)?);
    let var = positive(&[CHANNELS], DType::F32, 4)?.to_device(device)?;
    let layer_norm = LayerNorm::new(weight.clone(), bias.clone(), EPS);
    let rms_norm = RmsNorm::new(weight.clone(), EPS);
    let of_sum = rms_norm.clone();
    let group_norm = GroupNorm::new(weight.clone(), bias.clone(), CHANNELS, 2, EPS)?;
    let batch_norm = BatchNorm::new(CHANNELS, mean, var, weight, bias, EPS)?;
    Ok(vec![
        ("LayerNorm", Box::new(move |x| layer_norm.forward(x))),
        ("RmsNorm", Box::new(move |x| rms_norm.forward(x))),
        ("RmsNorm of a sum", Box::new(move |x| Ok(of_sum.forward_residual(x, x)?.0))),
        ("GroupNorm", Box::new(move |x| group_norm.forward(x))),
        ("BatchNorm", Box::new(move |x| batch_norm.forward_t(x, false))),
    ])
}

/// The calls of the emulated driver that `work` makes, but for questions and for memory. `None` on a GPU.
fn calls_of(gpu: &Gpu, work: impl FnOnce() -> Result<()>) -> Result<Option<BTreeMap<String, u64>>> {
    const WITHOUT_EFFECT: [&str; 6] =
        ["cuCtxGet", "cuCtxSet", "cuMemAlloc", "cuMemFree", "cuEventCreate", "cuEventDestroy"];
    let Some(emulator) = gpu.emulator else {
        work()?;
        return Ok(None);
    };
    let before: BTreeMap<_, _> = emulator.calls().into_iter().collect();
    work()?;
    let mut made: BTreeMap<_, _> = emulator.calls().into_iter().collect();
    for (name, count) in &mut made {
        *count -= before.get(name).copied().unwrap_or_default();
    }
    made.retain(|name, count| *count > 0 && !WITHOUT_EFFECT.iter().any(|prefix| name.starts_with(prefix)));
    Ok(Some(made))
}

/// Whether they are one launch, and nothing else.
fn is_one_launch(made: Option<&BTreeMap<String, u64>>) -> bool {
    made.is_none_or(|made| made.iter().eq([(&"cuLaunchKernelEx".to_owned(), &1)]))
}

#[test]
fn one_launch() -> Result<()> {
    let gpu = gpu();
    let x = normal(&[3, CHANNELS, CHANNELS], DType::F32, 8)?.to_device(gpu.device())?;
    for (name, layer) in layers(gpu.device())? {
        // The first call loads the kernels.
        layer(&x)?;
        for x in [&x, &x.narrow(0, 1, 2)?] {
            let made = calls_of(&gpu, || layer(x).map(drop))?;
            assert!(is_one_launch(made.as_ref()), "{name}: {made:?}");
        }
    }
    Ok(())
}

#[test]
fn rows_a_stride_apart_are_not_copied() -> Result<()> {
    let gpu = gpu();
    let wide = normal(&[3, 2, 9], DType::F32, 8)?.to_device(gpu.device())?;
    let x = wide.narrow(2, 3, CHANNELS)?;
    for (name, layer) in layers(gpu.device())?.into_iter().take(3) {
        layer(&x)?;
        let made = calls_of(&gpu, || layer(&x).map(drop))?;
        assert!(is_one_launch(made.as_ref()), "{name}: {made:?}");
    }
    Ok(())
}

/// One launch, as blocks hold so small a batch, and the running statistics copied: before, and back.
#[test]
fn training() -> Result<()> {
    let gpu = gpu();
    let running = |value: f32| Tensor::new(&[value; CHANNELS], gpu.device());
    let layer = BatchNorm::new_no_bias(CHANNELS, running(0.0)?, running(1.0)?, EPS)?;
    let x = normal(&[3, CHANNELS, 5], DType::F32, 8)?.to_device(gpu.device())?;
    layer.forward_train(&x)?;
    let made = calls_of(&gpu, || layer.forward_train(&x).map(drop))?;
    let expected = [("cuLaunchKernelEx", 1), ("cuMemcpyDtoDAsync_v2", 4)];
    assert!(
        made.as_ref().is_none_or(|made| made.iter().map(|(name, count)| (name.as_str(), *count)).eq(expected)),
        "{made:?}"
    );
    Ok(())
}

/// The emulated driver lets streams run as late as it can, in a random order: on another stream than candle's, a call would
/// come too early or too late for its neighbours.
#[test]
fn on_the_stream_of_candle() -> Result<()> {
    // A chain: the second call reads what the first one writes.
    let twice = |layer: &Call, x: &Tensor| layer(x).and_then(|y| Ok([layer(&y)?, y]));
    let gpu = gpu();
    let x = normal(&[3, CHANNELS, CHANNELS], DType::F32, 8)?;
    let on_cpu: Vec<_> = layers(&Device::Cpu)?.iter().map(|(_, layer)| twice(layer, &x)).collect::<Result<_>>()?;
    for seed in 0..20 {
        if let Some(emulator) = gpu.emulator {
            emulator.configure(&Settings { seed, schedule: Schedule::LockStep, ..Settings::default() });
        }
        let device = Device::new_cuda_with_stream(0)?;
        for ((name, layer), on_cpu) in layers(&device)?.iter().zip(&on_cpu) {
            for (found, expected) in twice(layer, &x.to_device(&device)?)?.iter().zip(on_cpu) {
                assert_near(&found.to_device(&Device::Cpu)?, expected, &format!("{name}, seed {seed}"))?;
            }
        }
    }
    Ok(())
}

/// A tensor of one stream in a call on another: cudarc's events order them.
#[test]
fn tensors_of_two_streams() -> Result<()> {
    let gpu = gpu();
    let (kind, dims) = (Kind::LayerNorm, [3, 300]);
    let tensors = Tensors::new(kind, &dims, DType::F32, DType::F32)?;
    let expected = expected(kind, &values(&tensors.x)?, &dims, &tensors)?;
    for seed in 0..20 {
        if let Some(emulator) = gpu.emulator {
            emulator.configure(&Settings { seed, schedule: Schedule::LockStep, ..Settings::default() });
        }
        let [one, other] = [Device::new_cuda_with_stream(0)?, Device::new_cuda_with_stream(0)?];
        let x = tensors.x.to_device(&one)?;
        let y = ours::forward(kind, &Tensors { x, ..tensors.to_device(&other)? })?;
        assert_is(&y, &expected, &format!("seed {seed}"))?;
    }
    Ok(())
}

/// The bits are warpnorm's own, and what was read is what it was.
#[test]
fn the_bits_of_warpnorm() -> Result<()> {
    use warpnorm::{Args, Cuda};

    let gpu = gpu();
    let (rows, length) = (3, 700);
    let tensors = Tensors::new(Kind::LayerNorm, &[rows, length], DType::F32, DType::F32)?;
    let cuda = Cuda::on(&gpu.device().as_cuda_device()?.cuda_stream()).map_err(Error::wrap)?;
    let upload = |tensor: &Tensor| -> Result<_> {
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        cuda.stream().clone_htod(&values).map_err(Error::wrap)
    };
    let (x, weight, bias) = (upload(&tensors.x)?, upload(&tensors.weight)?, upload(&tensors.bias)?);
    let mut y = cuda.stream().alloc_zeros::<f32>(rows * length).map_err(Error::wrap)?;
    let args = Args::new(&cuda, [rows, length]).input(&x).weight(&weight).bias(&bias).output(&mut y);
    let layer = warpnorm::LayerNorm::new([length]).and_then(|layer| layer.eps(EPS)?.forward(args));
    layer.map_err(Error::wrap)?;
    let own = Tensor::new(cuda.stream().clone_dtoh(&y).map_err(Error::wrap)?, &Device::Cpu)?.reshape((rows, length))?;

    // Amid other rows, which stay.
    let whole =
        Tensor::cat(&[&normal(&[2, length], DType::F32, 5)?, &tensors.x, &normal(&[1, length], DType::F32, 6)?], 0)?;
    let (there, on) = (whole.to_device(gpu.device())?, tensors.to_device(gpu.device())?);
    let found = ours::forward(Kind::LayerNorm, &Tensors { x: there.narrow(0, 2, rows)?, ..on.clone() })?;
    assert_same(&found.to_device(&Device::Cpu)?, &own, "warpnorm's own call")?;
    assert_same(&there.to_device(&Device::Cpu)?, &whole, "the storage of the input")?;
    assert_same(&on.weight.to_device(&Device::Cpu)?, &tensors.weight, "the weight")
}

#[test]
fn tensors_of_two_devices() -> Result<()> {
    let gpu = gpu();
    let mismatch = |result: Result<Tensor>, what: &str| match result {
        Err(Error::WithBacktrace { inner, .. }) => {
            assert!(matches!(*inner, Error::DeviceMismatchBinaryOp { .. }), "{what}")
        }
        other => assert!(matches!(other, Err(Error::DeviceMismatchBinaryOp { .. })), "{what}: {other:?}"),
    };
    for kind in [Kind::LayerNorm, Kind::GroupNorm { groups: 2 }, Kind::BatchNormNoBias] {
        let here = Tensors::new(kind, &[2, 4, 3], DType::F32, DType::F32)?;
        let there = here.to_device(gpu.device())?;
        mismatch(ours::forward(kind, &Tensors { x: here.x.clone(), ..there.clone() }), "the input is here");
        mismatch(ours::forward(kind, &Tensors { x: there.x, ..here }), "the input is there");
    }
    let x = normal(&[2, 4], DType::F32, 1)?;
    let norm = RmsNorm::new(normal(&[4], DType::F32, 1)?.to_device(gpu.device())?, EPS);
    let of_sum = norm.forward_residual(&x.to_device(gpu.device())?, &x).map(|(y, _)| y);
    mismatch(of_sum, "the residual is here");
    Ok(())
}
