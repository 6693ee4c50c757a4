//! LayerNorm and RMSNorm into another type than their input's.

use warpnorm::half::{bf16, f16};
use warpnorm::{Args, Cpu, DType, Error, LayerNorm, Shape, Signature, raw};

use crate::call::{Call, Inputs, Layer, expected, forward};
use crate::data::{bits, stored};
use crate::device;
use crate::oracle::assert_within;
use crate::place::{Place, Real};

/// One or more for each regime of the plan.
const LENGTHS: [usize; 9] = [3, 100, 255, 300, 700, 1027, 5000, 20_000, 40_001];

const ROWS: usize = 3;

/// What no call may change.
const GUARD: f64 = 0.4375;

/// The call into a tensor of another type, `offset` elements behind an aligned address.
fn output_as<P: Place, T: Real, Y: Real>(place: &P, call: &Call, inputs: &Inputs<T>, offset: usize) -> Vec<Y> {
    let elements = call.elements();
    let guard = Y::from_f64(GUARD);
    let x = place.put(&inputs.x);
    let weight = place.put(&stored::<f32>(inputs.weight.iter().copied()));
    let bias = place.put(&stored::<f32>(inputs.bias.iter().copied()));
    let mut y = place.put(&vec![guard; offset + elements + 9]);
    {
        let x = place.view(&x, 0..elements);
        let weight = place.view(&weight, 0..call.channels());
        let bias = place.view(&bias, 0..call.channels());
        let mut y = place.view_mut(&mut y, offset..offset + elements);
        let args = Args::new(place, Shape::new(&call.shape).expect("a shape")).input(&x).weight(&weight).bias(&bias);
        forward(call, args.output(&mut y)).unwrap_or_else(|error| panic!("{call:?}: {error}"));
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
    for layer in [Layer::LayerNorm, Layer::RmsNorm { weight_plus_one: true }] {
        for length in LENGTHS {
            let call = Call::new(layer, &[ROWS, length]);
            let inputs = Inputs::<T>::normal(&call, length as u64);
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

/// In place the types must be of one size; a second name for the memory is found by its address.
fn in_place<P: Place>(place: &P) {
    let (device, stream) = place.raw();
    let layer = LayerNorm::new([64]).unwrap();
    let signature = Signature::new([4, 64], DType::F16);

    let refused = layer.prepare_raw(&device, &signature.output(DType::F32).in_place()).map(drop);
    let expected = "one of the input's size, in place";
    assert_eq!(refused, Err(Error::ElementType { argument: "output", found: DType::F32, expected }));

    let values = stored::<f16>((0..256).map(|i| f64::from(i % 37) * 0.25));
    let mut memory = place.put(&values);
    let address = place.address(&mut memory);
    let addresses = raw::Addresses { input: address, output: address, ..raw::Addresses::default() };
    let wider = layer.prepare_raw(&device, &signature.output(DType::F32)).unwrap();
    // SAFETY: refused.
    let refused = unsafe { wider.launch(&addresses, stream) };
    assert_eq!(refused, Err(Error::Overlap { written: "output", other: "input" }));

    let apart = {
        let x = place.put(&values);
        let mut y = place.put(&[bf16::ZERO; 256]);
        layer
            .forward(
                Args::new(place, [4, 64]).input(&place.view(&x, 0..256)).output(&mut place.view_mut(&mut y, 0..256)),
            )
            .unwrap();
        place.get(&y)
    };
    let same_size = layer.prepare_raw(&device, &signature.output(DType::Bf16).in_place()).unwrap();
    // SAFETY: 256 elements of either type.
    unsafe { same_size.launch(&addresses, stream) }.unwrap();
    let found: Vec<u16> = place.get(&memory).iter().map(|value| value.to_bits()).collect();
    assert_eq!(found, apart.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
}

#[test]
fn in_place_on_cpu() {
    in_place(&Cpu);
}

#[test]
fn in_place_on_cuda() {
    in_place(&device::cuda().cuda);
}
