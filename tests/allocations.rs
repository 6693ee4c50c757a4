//! A service that folds layer after layer allocates nothing once its buffers are as large as the largest layer; nor does one
//! that calls the CPU's layers over and over.

use half::{bf16, f16};
use warpnorm::{
    Args, BatchNorm, Cpu, Element, GroupNorm, InstanceNorm, LayerNorm, Layout, RmsNorm,
    fold::{
        Affine, BatchNormParams, Branch, Folded, Layer, LinearOp, Padding, Placement, Values, merge_branches,
        merge_branches_into,
    },
};

/// Fails where `body` allocates, and returns what it returns.
#[track_caller]
fn without_allocations<T>(body: impl FnOnce() -> T) -> T {
    let mut result = None;
    let counted = allocation_counter::measure(|| result = Some(body()));
    assert_eq!(counted.count_total, 0, "{} bytes", counted.bytes_total);
    result.unwrap()
}

fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|index| ((index * 37 + seed * 101) % 251) as f32 / 128.0 - 0.9).collect()
}

/// A layer and the `BatchNorm` beside it.
struct Given {
    weight: Vec<f32>,
    bias: Vec<f32>,
    mean: Vec<f32>,
    var: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Given {
    fn new(weights: usize, outputs: usize, channels: usize, seed: usize) -> Self {
        Self {
            weight: numbers(weights, seed),
            bias: numbers(outputs, seed + 1),
            mean: numbers(channels, seed + 2),
            var: numbers(channels, seed + 3).into_iter().map(|value| value * value + 0.1).collect(),
            gamma: numbers(channels, seed + 4).into_iter().map(|value| value.abs() + 0.1).collect(),
            beta: numbers(channels, seed + 5),
        }
    }

    fn params(&self) -> BatchNormParams<'_> {
        BatchNormParams::new(&self.mean, &self.var, 1e-3).weight(&self.gamma).bias(&self.beta)
    }
}

fn bits<T: Element>(values: &[T]) -> Vec<u64> {
    values.iter().map(|value| value.to_f64().to_bits()).collect()
}

#[test]
fn allocations_are_counted() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8; 8])));
    assert_eq!(counted.count_total, 1);
}

#[test]
fn maps_in_memory_that_is_there() {
    let (mut map, mut constants) = (Affine::identity(0), Affine::identity(0));
    for (round, channels) in [64, 64, 48].into_iter().enumerate() {
        let (first, second) = (Given::new(0, 0, channels, round), Given::new(0, 0, channels, round + 9));
        let (scale, shift) = (numbers(channels, 20), numbers(channels, 21));
        let mut compose = || {
            first.params().affine_into(&mut map)?;
            second.params().affine_into(&mut constants)?;
            map.then_in_place(&constants)?;
            constants.set_to_scale(&scale)?;
            map.then_in_place(&constants)?;
            constants.set_to_shift(&shift)?;
            map.then_in_place(&constants)
        };
        let composed = if round == 0 { compose() } else { without_allocations(compose) };
        composed.unwrap();
        let norms = first.params().affine().and_then(|map| map.then(&second.params().affine()?)).unwrap();
        let expected = norms.then(&Affine::from_scale(&scale).unwrap()).unwrap();
        let expected = expected.then(&Affine::from_shift(&shift).unwrap()).unwrap();
        assert_eq!(map, expected);
        assert_eq!(without_allocations(|| map.report()), expected.report());
    }
}

#[test]
fn a_refused_map_stays_as_it_was() {
    let given = Given::new(0, 0, 3, 1);
    let before = given.params().affine().unwrap().then(&Affine::from_scale(&[1.0, 1.0, 100.0]).unwrap()).unwrap();
    let mut map = before.clone();
    let bad = [1.0, 2.0, f64::NAN];
    let refusals = [
        BatchNormParams::new(&given.mean, &bad, 1e-3).affine_into(&mut map),
        BatchNormParams::new(&bad, &given.var, 1e-3).affine_into(&mut map),
        BatchNormParams::new(&given.mean, &given.var, -1.0).affine_into(&mut map),
        map.set_to_scale(&bad),
        map.set_to_shift(&bad),
        map.then_in_place(&Affine::identity(4)),
        map.then_in_place(&Affine::from_scale(&[1.0, 1.0, 1.7e308]).unwrap()),
    ];
    let codes = refusals.map(|refusal| refusal.unwrap_err().code());
    let [finite, length] = ["non-finite", "composition-mismatch"];
    assert_eq!(codes, ["invalid-variance", finite, "invalid-eps", finite, finite, length, "overflow"]);
    assert_eq!(map, before);
}

/// The weight's shape, and channels before and behind.
const LAYERS: [(Layer, &[usize], usize, usize); 5] = [
    (Layer::Conv { groups: 1 }, &[8, 6, 3, 3], 6, 8),
    (Layer::Conv { groups: 4 }, &[8, 2, 3, 2], 8, 8),
    (Layer::ConvTranspose { groups: 2 }, &[6, 4, 2, 3], 6, 8),
    (Layer::Linear, &[8, 6], 6, 8),
    (Layer::MatMul, &[6, 8], 6, 8),
];

fn check_folds<W: Element, B: Element>()
where
    for<'v> &'v [W]: Into<Values<'v>>,
    for<'v> &'v [B]: Into<Values<'v>>,
{
    for (layer, shape, inputs, outputs) in LAYERS {
        let len = shape.iter().product();
        let (mut before, mut after) = (Affine::identity(0), Affine::identity(0));
        let (mut weight, mut bias) = (vec![W::default(); len], vec![B::default(); outputs]);
        for round in 0..2 {
            let behind = Given::new(len, outputs, outputs, round);
            let ahead = Given::new(0, 0, inputs, round + 30);
            let stored: Vec<W> = behind.weight.iter().map(|&value| W::from_f32(value)).collect();
            let stored_bias: Vec<B> = behind.bias.iter().map(|&value| B::from_f32(value)).collect();
            let op = LinearOp::new(layer, &stored[..], shape).bias(&stored_bias[..]);
            let is_transposed = matches!(layer, Layer::ConvTranspose { .. });
            let mut fold = || {
                behind.params().affine_into(&mut after)?;
                ahead.params().affine_into(&mut before)?;
                let before = (!is_transposed).then_some((&before, Padding::None));
                op.fold_into(before, Some(&after), &mut weight, &mut bias)
            };
            let report = if round == 0 { fold() } else { without_allocations(fold) }.unwrap();

            let (mut own, mut own_bias) = (stored.clone(), stored_bias.clone());
            let before = (!is_transposed).then_some((&before, Padding::None));
            let in_place =
                without_allocations(|| layer.fold_in_place(&mut own, shape, &mut own_bias, before, Some(&after)));
            let expected: Folded<W, B> = op.fold(before, Some(&after)).unwrap();
            assert_eq!((report, in_place.unwrap()), (expected.report.clone(), expected.report));
            for (weight, bias) in [(&weight, &bias), (&own, &own_bias)] {
                assert_eq!((bits(weight), bits(bias)), (bits(&expected.weight), bits(&expected.bias)), "{layer:?}");
            }
        }
    }
}

#[test]
fn folds_in_memory_that_is_there() {
    check_folds::<f32, f32>();
    check_folds::<f16, f32>();
    check_folds::<bf16, bf16>();
}

#[test]
fn a_refused_fold_leaves_the_layer_as_it_was() {
    let (mut weight, mut bias) = ([f16::from_f32(2.0); 6], [f16::from_f32(1.0), f16::from_f32(-5.0)]);
    let (was, bias_was) = (weight, bias);
    let layer = Layer::Conv { groups: 1 };
    let large = Affine::from_scale(&[1.0, 2e4]).unwrap();
    let shift = Affine::from_shift(&[0.5]).unwrap();
    for (before, after, code) in
        [(None, Some(&large), "overflow"), (Some((&shift, Padding::Zeros)), None, "padded-shift")]
    {
        let refusal = layer.fold_in_place(&mut weight, &[2, 1, 3], &mut bias, before, after).unwrap_err();
        assert_eq!((refusal.code(), weight, bias), (code, was, bias_was));
    }
    let refusal = layer.fold_in_place(&mut weight, &[2, 1, 3], &mut bias[..1], None, None).unwrap_err();
    assert_eq!(refusal.to_string(), "layer.bias has 1 elements, but 2 are needed");
}

#[test]
fn branches_in_memory_that_is_there() {
    let mut maps = [Affine::identity(0), Affine::identity(0), Affine::identity(0)];
    let (mut weight, mut bias) = (vec![0.0_f32; 6 * 6 * 9], vec![0.0_f32; 6]);
    let layer = Layer::Conv { groups: 1 };
    let padded = Placement { pads_begin: &[1, 1], pads_end: &[1, 1], ..Placement::default() };
    for round in 0..2 {
        let given = [9, 1, 0].map(|taps| Given::new(6 * 6 * taps, 6, 6, round * 7 + taps));
        let mut make_maps = || maps.iter_mut().zip(&given).try_for_each(|(map, given)| given.params().affine_into(map));
        if round == 0 { make_maps() } else { without_allocations(make_maps) }.unwrap();
        let branches = [
            Branch::conv(LinearOp::new(layer, &given[0].weight, &[6, 6, 3, 3]), padded).after(&maps[0]),
            Branch::conv(LinearOp::new(layer, &given[1].weight, &[6, 6, 1, 1]), Placement::default()).after(&maps[1]),
            Branch::identity().after(&maps[2]),
        ];
        let report = without_allocations(|| merge_branches_into(&branches, &mut weight, &mut bias)).unwrap();
        let expected: Folded<f32> = merge_branches(&branches).unwrap();
        assert_eq!(report, expected.report);
        assert_eq!((bits(&weight), bits(&bias)), (bits(&expected.weight), bits(&expected.bias)));
    }
}

/// Calls once, and again without an allocation, on a pool of one thread, where all that a call does is counted.
#[track_caller]
fn check_norm(name: &str, mut call: impl FnMut() + Send) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        call();
        let counted = allocation_counter::measure(&mut call);
        assert_eq!(counted.count_total, 0, "{name}: {} bytes", counted.bytes_total);
    });
}

#[test]
fn layers_on_the_cpu_are_called_again_without_an_allocation() {
    for layout in [Layout::Nchw, Layout::Nhwc] {
        // As many elements as are spread over threads, and a slab of many parts.
        let (samples, channels, side) = (2, 64, 60);
        let len = samples * channels * side * side;
        let shape = match layout {
            Layout::Nchw => [samples, channels, side, side],
            Layout::Nhwc => [samples, side, side, channels],
        };
        let x: Vec<f16> = numbers(len, 1).into_iter().map(f16::from_f32).collect();
        let weight: Vec<f16> = numbers(channels, 2).into_iter().map(f16::from_f32).collect();
        let (mut y, bias) = (vec![f16::ZERO; len], weight.clone());
        let (mean, var) = (numbers(channels, 3), vec![1.0_f32; channels]);

        let group_norm = GroupNorm::new(32, channels).unwrap().layout(layout);
        check_norm("GroupNorm", || {
            let args = Args::new(&Cpu, shape).input(&x).weight(&weight).bias(&bias).output(&mut y);
            group_norm.forward(args).unwrap();
        });
        let instance_norm = InstanceNorm::new(channels).unwrap().layout(layout);
        check_norm("InstanceNorm", || instance_norm.forward(Args::new(&Cpu, shape).input(&x).output(&mut y)).unwrap());
        let batch_norm = BatchNorm::new(channels).unwrap().layout(layout);
        check_norm("BatchNorm", || {
            let args = Args::new(&Cpu, shape).input(&x).weight(&weight).bias(&bias);
            batch_norm.forward(args.running_mean(&mean).running_var(&var).output(&mut y)).unwrap();
        });
        let by_batch = batch_norm.batch_statistics(true);
        check_norm("BatchNorm by the batch", || {
            let args = Args::new(&Cpu, shape).input(&x).weight(&weight).bias(&bias);
            by_batch.forward(args.output(&mut y)).unwrap();
        });
    }
}

#[test]
fn rows_on_the_cpu_are_called_again_without_an_allocation() {
    let (rows, columns) = (100, 1500);
    let x: Vec<f16> = numbers(rows * columns, 1).into_iter().map(f16::from_f32).collect();
    let weight: Vec<f16> = numbers(columns, 2).into_iter().map(f16::from_f32).collect();
    let (mut y, mut sum) = (vec![f16::ZERO; x.len()], vec![f16::ZERO; x.len()]);
    let layer_norm = LayerNorm::new([columns]).unwrap();
    check_norm("LayerNorm", || {
        let args = Args::new(&Cpu, [rows, columns]).input(&x).weight(&weight).bias(&weight);
        layer_norm.forward(args.output(&mut y)).unwrap();
    });
    let rms_norm = RmsNorm::new([columns], 1e-6).unwrap();
    check_norm("RMSNorm", || {
        let args = Args::new(&Cpu, [rows, columns]).input(&x).residual(&x).sum(&mut sum).weight(&weight);
        rms_norm.forward(args.output(&mut y)).unwrap();
    });
}
