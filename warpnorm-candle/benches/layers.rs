//! Each module beside candle's, on the CPU, at sizes of real models.
//!
//! `cargo bench -- group_norm` measures one of them.

use std::hint::black_box;
use std::time::Duration;

use candle_core::{DType, Device, Result, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[derive(Debug, Clone, Copy)]
#[expect(clippy::enum_variant_names, reason = "they are called so")]
enum Layer {
    LayerNorm,
    RmsNorm,
    GroupNorm,
    BatchNorm,
}

/// Activations of a language model (512 tokens, and one), of a diffusion model and of a convolutional network.
const CASES: [(Layer, &[usize]); 5] = [
    (Layer::LayerNorm, &[512, 4096]),
    (Layer::RmsNorm, &[512, 4096]),
    (Layer::RmsNorm, &[1, 4096]),
    (Layer::GroupNorm, &[2, 320, 64, 64]),
    (Layer::BatchNorm, &[16, 64, 56, 56]),
];

type Forward = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// The same source with the modules of one library or the other.
macro_rules! library {
    ($name:ident, $library:ident) => {
        fn $name(layer: Layer, channels: usize, dtype: DType) -> Result<Forward> {
            use $library::{BatchNorm, GroupNorm, LayerNorm, Module as _, ModuleT as _, RmsNorm};

            let tensor = |value: f32| Tensor::full(value, channels, &Device::Cpu)?.to_dtype(dtype);
            let (weight, bias) = (tensor(0.5)?, tensor(0.25)?);
            Ok(match layer {
                Layer::LayerNorm => {
                    let norm = LayerNorm::new(weight, bias, 1e-5);
                    Box::new(move |x| norm.forward(x))
                }
                Layer::RmsNorm => {
                    let norm = RmsNorm::new(weight, 1e-5);
                    Box::new(move |x| norm.forward(x))
                }
                Layer::GroupNorm => {
                    let norm = GroupNorm::new(weight, bias, channels, 32, 1e-5)?;
                    Box::new(move |x| norm.forward(x))
                }
                Layer::BatchNorm => {
                    let norm = BatchNorm::new(channels, tensor(0.0)?, tensor(1.0)?, weight, bias, 1e-5)?;
                    Box::new(move |x| norm.forward_t(x, false))
                }
            })
        }
    };
}

library!(ours, warpnorm_candle);
library!(candles, candle_nn);

fn measure(criterion: &mut Criterion) -> Result<()> {
    for (layer, dims) in CASES {
        for dtype in [DType::F32, DType::BF16] {
            let x = Tensor::randn(0.0_f32, 1.0, dims, &Device::Cpu)?.to_dtype(dtype)?;
            let channels =
                if matches!(layer, Layer::LayerNorm | Layer::RmsNorm) { dims[dims.len() - 1] } else { dims[1] };
            let mut group = criterion.benchmark_group(format!("{layer:?}/{}/{dims:?}", dtype.as_str()));
            group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2)).sample_size(20);
            group.throughput(Throughput::Bytes((2 * x.elem_count() * dtype.size_in_bytes()) as u64));
            for (library, forward) in
                [("warpnorm", ours(layer, channels, dtype)?), ("candle", candles(layer, channels, dtype)?)]
            {
                group.bench_function(BenchmarkId::from_parameter(library), |bencher| {
                    bencher.iter(|| forward(black_box(&x)).expect("a result"));
                });
            }
            group.finish();
        }
    }
    Ok(())
}

fn layers(criterion: &mut Criterion) {
    measure(criterion).expect("layers of these sizes");
}

criterion_group!(benches, layers);
criterion_main!(benches);
