//! Prepared calls, streams of the caller's, and how many driver calls a launch takes.

use warpnorm::half::bf16;
use warpnorm::{Args, BatchNorm, Cpu, DType, Error, LayerNorm, RmsNorm, Signature};

use crate::data::{bits, normal, stored};
use crate::device;
use crate::place::Place;

fn prepared_like_forward<P: Place>(place: &P) {
    let layer = RmsNorm::new([300], 1e-6).unwrap();
    let prepared = layer.prepare(place, &Signature::new([4, 300], DType::Bf16).weight(DType::F32).residual().sum());
    let prepared = prepared.expect("a good signature");
    let weight = place.put(&stored::<f32>(normal(300, 3)));
    for seed in 0..3 {
        let x = place.put(&stored::<bf16>(normal(1200, seed)));
        let residual = place.put(&stored::<bf16>(normal(1200, seed + 9)));
        let [mut y, mut sum, mut y2, mut sum2] = [(); 4].map(|()| place.put(&[bf16::ZERO; 1200]));
        {
            let (x, residual, weight) =
                (place.view(&x, 0..1200), place.view(&residual, 0..1200), place.view(&weight, 0..300));
            let mut y = place.view_mut(&mut y, 0..1200);
            let mut sum = place.view_mut(&mut sum, 0..1200);
            let args = Args::new(place, [4, 300]).input(&x).residual(&residual).weight(&weight).sum(&mut sum);
            prepared.forward(args.output(&mut y)).expect("as prepared");
            let mut y = place.view_mut(&mut y2, 0..1200);
            let mut sum = place.view_mut(&mut sum2, 0..1200);
            let args = Args::new(place, [4, 300]).input(&x).residual(&residual).weight(&weight).sum(&mut sum);
            layer.forward(args.output(&mut y)).expect("a good call");
        }
        assert_eq!(bits(&place.get(&y)), bits(&place.get(&y2)));
        assert_eq!(bits(&place.get(&sum)), bits(&place.get(&sum2)));
        assert!(place.get(&y).iter().any(|y| *y != bf16::ZERO));
    }
    let mut other = place.put(&[bf16::ZERO; 600]);
    let mut other = place.view_mut(&mut other, 0..600);
    let refused = prepared.forward(Args::new(place, [2, 300]).output(&mut other));
    assert!(matches!(refused, Err(Error::NotAsPrepared { argument: "shape", .. })), "{refused:?}");
}

/// In place, output and input have one stride; and a stride that differs is named.
fn prepared_with_strides<P: Place>(place: &P) {
    let layer = LayerNorm::new([64]).unwrap();
    let signature = Signature::new([4, 64], DType::F32).in_place().output_row_stride(80);
    let prepared = layer.prepare(place, &signature).unwrap();
    let mut y = place.put(&stored::<f32>(normal(3 * 80 + 64, 1)));
    {
        let mut y = place.view_mut(&mut y, 0..3 * 80 + 64);
        prepared.forward(Args::new(place, [4, 64]).output(&mut y).output_row_stride(80)).expect("as prepared");
        let refused = prepared.forward(Args::new(place, [4, 64]).output(&mut y).output_row_stride(72));
        assert!(matches!(refused, Err(Error::NotAsPrepared { argument: "input_row_stride", .. })), "{refused:?}");
    }
    let mean: f32 = place.get(&y)[80..144].iter().sum::<f32>() / 64.0;
    approx::assert_abs_diff_eq!(mean, 0.0, epsilon = 1e-6);
}

#[test]
fn prepared_with_strides_on_cpu() {
    prepared_with_strides(&Cpu);
}

#[test]
fn prepared_with_strides_on_cuda() {
    prepared_with_strides(&device::cuda().cuda);
}

#[test]
fn prepared_like_forward_on_cpu() {
    prepared_like_forward(&Cpu);
}

#[test]
fn prepared_like_forward_on_cuda() {
    prepared_like_forward(&device::cuda().cuda);
}

/// Work on two streams, ordered by cudarc's events, whatever order the driver runs them in.
#[test]
fn streams_of_the_caller_on_cuda() {
    let device = device::cuda();
    let layer = LayerNorm::new([64]).unwrap();
    let x = stored::<f32>(normal(64 * 64, 5));
    let mut expected = vec![0.0_f32; x.len()];
    layer.forward(Args::new(&Cpu, [64, 64]).input(&x).output(&mut expected)).unwrap();
    layer.forward(Args::new(&Cpu, [64, 64]).output(&mut expected)).unwrap();
    device.under_schedules(|cuda| {
        let context = cuda.stream().context();
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let (first, second) = (cuda.with_stream(&first).unwrap(), cuda.with_stream(&second).unwrap());
        let x = first.put(&x);
        let mut y = first.put(&vec![0.0_f32; expected.len()]);
        layer.forward(Args::new(&first, [64, 64]).input(&x).output(&mut y)).unwrap();
        layer.forward(Args::new(&second, [64, 64]).output(&mut y)).unwrap();
        let found = first.get(&y);
        for (found, expected) in found.iter().zip(&expected) {
            approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-5);
        }
    });
}

/// A prepared call is one launch and no other work of the driver: no allocation, no synchronization, no lookup. (With
/// cudarc's event tracking on, and a second stream in its context, cudarc adds its own waits and records.)
#[test]
fn a_prepared_call_is_one_launch() {
    let device = device::cuda();
    let Some(emulator) = device.emulator else { return println!("a GPU's driver does not count its calls") };
    let cuda = &device.cuda;
    // SAFETY: one stream, so nothing needs cudarc's events.
    unsafe { cuda.stream().context().disable_event_tracking() };
    let mut x = cuda.stream().alloc_zeros::<f32>(6 * 49).unwrap();
    let table = cuda.stream().alloc_zeros::<f32>(9).unwrap();
    let signature = Signature::new([2, 3, 7, 7], DType::F32).channel_table();
    let prepared = BatchNorm::new(3).unwrap().prepare(cuda, &signature).unwrap();
    let before = emulator.calls();
    for _ in 0..10 {
        prepared.forward(Args::new(cuda, [2, 3, 7, 7]).channel_table(&table).output(&mut x)).unwrap();
    }
    let after = emulator.calls();
    let count = |calls: &[(String, u64)], name: &str| calls.iter().find(|(found, _)| found == name).map_or(0, |c| c.1);
    for (name, total) in &after {
        let made = total - count(&before, name);
        let allowed = match name.as_str() {
            "cuLaunchKernelEx" => 10,
            // cudarc asks which context is current, for each launch and for each operand.
            "cuCtxGetCurrent" => made,
            _ => 0,
        };
        assert_eq!(made, allowed, "{name} in ten prepared calls");
    }
    // SAFETY: as above.
    unsafe { cuda.stream().context().enable_event_tracking() };
}
