//! Every layer into another type than its input's.

use warpnorm::half::{bf16, f16};
use warpnorm::{
    Args, BatchNorm, Cpu, DType, Error, GroupNorm, InstanceNorm, LayerNorm, Layout, Result, Shape, Signature,
    Workspace, raw,
};

use crate::call::{Call, Inputs, Layer, expected, forward, workspace_bytes};
use crate::data::{bits, stored};
use crate::device;
use crate::oracle::assert_within;
use crate::place::{Place, Real};

/// One or more for each regime of the plan.
const LENGTHS: [usize; 9] = [3, 100, 255, 300, 700, 1027, 5000, 20_000, 40_001];

const ROWS: usize = 3;

/// Every layer and layout; in each of the rows' regimes, and in slabs of one strip and of several.
fn calls() -> Vec<Call> {
    let mut calls = Vec::new();
    for layer in [Layer::LayerNorm, Layer::RmsNorm { weight_plus_one: true }] {
        calls.extend(LENGTHS.map(|length| Call::new(layer, &[ROWS, length])));
    }
    let planes = [[2, 6, 5, 5], [2, 4, 40, 41], [1, 2, 150, 151]];
    let pixels = [[2, 5, 5, 6], [2, 40, 41, 4], [2, 3, 1, 2052]];
    for (layout, shapes) in [(Layout::Nchw, planes), (Layout::Nhwc, pixels)] {
        for layer in [
            Layer::GroupNorm { groups: 2, layout },
            Layer::InstanceNorm { layout },
            Layer::BatchNorm { layout, table: false },
            Layer::BatchStatistics { layout, momentum: Some(0.1) },
        ] {
            calls.extend(shapes.map(|shape| Call::new(layer, &shape)));
        }
    }
    calls.extend(planes.map(|shape| Call::new(Layer::InstanceNormTracked, &shape)));
    calls
}

/// What no call may change.
const GUARD: f64 = 0.4375;

/// The call into a tensor of another type, `offset` elements behind an aligned address.
fn output_as<P: Place, T: Real, Y: Real>(place: &P, call: &Call, inputs: &Inputs<T>, offset: usize) -> Vec<Y> {
    let elements = call.elements();
    let guard = Y::from_f64(GUARD);
    let x = place.put(&inputs.x);
    let weight = place.put(&stored::<f32>(inputs.weight.iter().copied()));
    let bias = place.put(&stored::<f32>(inputs.bias.iter().copied()));
    let (mean, var) = (place.put(&inputs.running_mean), place.put(&inputs.running_var));
    let bytes = workspace_bytes(place, call, T::DTYPE).expect("a valid call");
    let mut workspace = Workspace::init(place, bytes).expect("memory");
    let mut y = place.put(&vec![guard; offset + elements + 9]);
    {
        let x = place.view(&x, 0..elements);
        let weight = place.view(&weight, 0..call.channels());
        let bias = place.view(&bias, 0..call.channels());
        let mut y = place.view_mut(&mut y, offset..offset + elements);
        let (mean, var) = (place.view(&mean, 0..call.channels()), place.view(&var, 0..call.channels()));
        let mut args =
            Args::new(place, Shape::new(&call.shape).expect("a shape")).input(&x).weight(&weight).bias(&bias);
        if matches!(call.layer, Layer::BatchNorm { .. } | Layer::InstanceNormTracked) {
            args = args.running_mean(&mean).running_var(&var);
        }
        forward(call, args.output(&mut y).workspace(&mut workspace))
            .unwrap_or_else(|error| panic!("{call:?}: {error}"));
    }
    let y = place.get(&y);
    let (before, rest) = y.split_at(offset);
    let (written, behind) = rest.split_at(elements);
    let untouched = before.iter().chain(behind).all(|value| value.to_f64() == GUARD);
    assert!(untouched, "{call:?} into {}: memory around the output was changed", Y::DTYPE);
    written.to_vec()
}

/// Within the bound of the output's type; and of one result, rounded to that type.
fn converts<P: Place, T: Real>(place: &P) {
    for call in calls() {
        let inputs = Inputs::<T>::normal(&call, call.elements() as u64);
        let expected = expected(&call, &inputs);
        for offset in [0, 1, 4] {
            let about = format!("{} {} {call:?}, offset {offset}", P::NAME, T::DTYPE);
            let wide = output_as::<P, T, f32>(place, &call, &inputs, offset);
            let half = output_as::<P, T, f16>(place, &call, &inputs, offset);
            let brain = output_as::<P, T, bf16>(place, &call, &inputs, offset);
            assert_within(&wide, &expected, &format!("{about} into f32"));
            let rounded = |round: &dyn Fn(f32) -> f64| wide.iter().map(|&y| round(y).to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&half), rounded(&|y| f16::from_f32(y).to_f64()), "{about} into f16");
            assert_eq!(bits(&brain), rounded(&|y| bf16::from_f32(y).to_f64()), "{about} into bf16");
        }
    }
}

#[test]
fn outputs_of_another_type_on_cpu() {
    converts::<_, f32>(&Cpu);
    converts::<_, f16>(&Cpu);
    converts::<_, bf16>(&Cpu);
}

#[test]
fn outputs_of_another_type_on_cuda() {
    let device = device::cuda();
    converts::<_, f32>(&device.cuda);
    converts::<_, f16>(&device.cuda);
    converts::<_, bf16>(&device.cuda);
}

/// A layer that is prepared for addresses.
type Prepare<'a> = &'a dyn Fn(&raw::Device, &Signature) -> Result<raw::Call>;

/// Four samples of 64 elements, of four channels where there are any.
fn layers() -> [(Shape, Prepare<'static>); 6] {
    let image = Shape::from([4, 4, 4, 4]);
    [
        (Shape::from([4, 64]), &|on, signature| LayerNorm::new([64])?.prepare_raw(on, signature)),
        (image, &|on, signature| GroupNorm::new(2, 4)?.prepare_raw(on, signature)),
        (image, &|on, signature| GroupNorm::new(2, 4)?.layout(Layout::Nhwc).prepare_raw(on, signature)),
        (image, &|on, signature| InstanceNorm::new(4)?.prepare_raw(on, signature)),
        (image, &|on, signature| BatchNorm::new(4)?.batch_statistics(true).prepare_raw(on, signature)),
        (image, &|on, signature| {
            BatchNorm::new(4)?.layout(Layout::Nhwc).batch_statistics(true).prepare_raw(on, signature)
        }),
    ]
}

/// In place the types must be of one size; a second name for the memory is found by its address.
fn in_place<P: Place>(place: &P) {
    for (shape, prepare) in layers() {
        in_place_of(place, &Signature::new(shape, DType::F16), prepare);
    }
}

fn in_place_of<P: Place>(place: &P, signature: &Signature, prepare: Prepare<'_>) {
    let (device, stream) = place.raw();
    let refused = prepare(&device, &signature.output(DType::F32).in_place()).map(drop);
    let expected = "one of the input's size, in place";
    assert_eq!(refused, Err(Error::ElementType { argument: "output", found: DType::F32, expected }));

    let values = stored::<f16>((0..256).map(|i| f64::from(i % 37) * 0.25));
    let (mut memory, mut apart) = (place.put(&values), place.put(&[bf16::ZERO; 256]));
    let mut workspace = place.put(&vec![0.0_f32; 1 << 14]);
    let input = place.address(&mut memory);
    let (workspace, workspace_bytes) = (place.address(&mut workspace), 4 << 14);
    let addresses = raw::Addresses { input, output: input, workspace, workspace_bytes, ..raw::Addresses::default() };
    let wider = prepare(&device, &signature.output(DType::F32)).unwrap();
    // SAFETY: refused.
    let refused = unsafe { wider.launch(&addresses, stream) };
    assert_eq!(refused, Err(Error::Overlap { written: "output", other: "input" }));

    let same_size = prepare(&device, &signature.output(DType::Bf16)).unwrap();
    let into = raw::Addresses { output: place.address(&mut apart), ..addresses };
    // SAFETY: 256 elements of either type, and a workspace of zeros.
    unsafe { same_size.launch(&into, stream) }.unwrap();
    let same_size = prepare(&device, &signature.output(DType::Bf16).in_place()).unwrap();
    // SAFETY: the same.
    unsafe { same_size.launch(&addresses, stream) }.unwrap();
    let found: Vec<u16> = place.get(&memory).iter().map(|value| value.to_bits()).collect();
    let apart: Vec<u16> = place.get(&apart).iter().map(|value| value.to_bits()).collect();
    assert!(found == apart && found.iter().any(|&bits| bits != 0), "{signature:?}");
}

#[test]
fn in_place_on_cpu() {
    in_place(&Cpu);
}

#[test]
fn in_place_on_cuda() {
    in_place(&device::cuda().cuda);
}
