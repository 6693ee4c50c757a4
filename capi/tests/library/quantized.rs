//! Outputs of eight bits by every scaling, on both devices, against f64.

use std::mem::zeroed;
use std::ptr::null_mut;

use half::bf16;

use crate::load::{Place, library, ok, refused};
use crate::reference::{Norm, Number, noise, norm};
use crate::types::{wn_activation, wn_dtype, wn_layer, wn_scaling, wn_signature, wn_status, wn_tensors};

const ROWS: usize = 3;
/// Two groups, and one of 44.
const LENGTH: usize = 300;
const GROUPS: usize = LENGTH.div_ceil(128);
const STATIC_SCALE: f32 = 0.03;
/// Of a scale, and of a scaled value: a division, a reciprocal and a product, each rounded to f32.
const ROUNDINGS: f64 = 3.0 / (1 << 24) as f64;

#[derive(Clone, Copy, PartialEq)]
enum Quantized {
    I8,
    F8E4M3,
}

impl Quantized {
    fn code(self) -> i32 {
        match self {
            Self::I8 => wn_dtype::I8 as i32,
            Self::F8E4M3 => wn_dtype::F8E4M3 as i32,
        }
    }

    fn max(self) -> f64 {
        if self == Self::I8 { 127.0 } else { 448.0 }
    }

    /// What a byte stands for.
    fn value(self, bits: u8) -> f64 {
        if self == Self::I8 {
            return f64::from(bits as i8);
        }
        assert_ne!(bits & 0x7f, 0x7f, "a NaN");
        let (exponent, fraction) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
        let magnitude =
            if exponent == 0 { fraction / 512.0 } else { (1.0 + fraction / 8.0) * 2.0_f64.powi(exponent - 7) };
        if bits & 0x80 == 0 { magnitude } else { -magnitude }
    }

    /// The nearest to a number; of two, the one whose last bit is 0.
    fn nearest(self, scaled: f64) -> f64 {
        let all = (0..=255_u8).filter(|bits| self == Self::I8 || bits & 0x7f != 0x7f);
        let key = |bits: &u8| ((self.value(*bits) - scaled).abs(), bits & 1);
        let by_key = |a: &u8, b: &u8| key(a).partial_cmp(&key(b)).expect("numbers");
        self.value(all.min_by(by_key).expect("256 of them"))
    }
}

#[derive(Clone, Copy)]
struct Case {
    quantized: Quantized,
    scaling: i32,
    is_rms: bool,
}

impl Case {
    /// Where the scale of an element is.
    fn scale_of(&self, at: usize) -> usize {
        const OF_ROWS: i32 = wn_scaling::Rows as i32;
        const OF_GROUPS: i32 = wn_scaling::Groups as i32;
        const BY_COLUMN: i32 = wn_scaling::GroupsByColumn as i32;
        let (row, group) = (at / LENGTH, at % LENGTH / 128);
        match self.scaling {
            OF_ROWS => row,
            OF_GROUPS => row * GROUPS + group,
            BY_COLUMN => group * ROWS + row,
            _ => 0,
        }
    }

    fn is_static(&self) -> bool {
        self.scaling == wn_scaling::Static as i32
    }

    fn layer(&self) -> wn_layer {
        let normalized = [LENGTH as i64];
        // SAFETY: plain numbers, and a layer to write to.
        unsafe {
            let mut layer: wn_layer = zeroed();
            ok(if self.is_rms {
                (library().wn_rms_norm)(&raw mut layer, 1, normalized.as_ptr(), 1e-5)
            } else {
                (library().wn_layer_norm)(&raw mut layer, 1, normalized.as_ptr())
            });
            layer
        }
    }

    fn signature<T: Number>(&self) -> wn_signature {
        let shape = [ROWS, LENGTH].map(|extent| extent as i64);
        // SAFETY: plain numbers, and a signature to write to.
        unsafe {
            let mut signature: wn_signature = zeroed();
            ok((library().wn_signature_init)(&raw mut signature, 2, shape.as_ptr(), T::DTYPE as i32));
            (signature.output, signature.scaling) = (self.quantized.code(), self.scaling);
            signature.weight = wn_dtype::F32 as i32;
            signature
        }
    }

    fn expected(&self, x: &[f64], weight: &[f32]) -> Vec<(f64, f64)> {
        norm(
            x,
            &Norm {
                set: &|at| at / LENGTH,
                given: None,
                subtract_mean: !self.is_rms,
                eps: f64::from(1e-5_f32),
                affine: &|at| (f64::from(weight[at % LENGTH]), 0.0),
                activation: wn_activation::None as i32,
            },
        )
    }

    fn check(&self, q: &[u8], scales: &[f32], expected: &[(f64, f64)]) {
        let mut largest = vec![(0.0_f64, 0.0_f64); scales.len()];
        for (at, (value, slack)) in expected.iter().enumerate() {
            let (of_value, of_slack) = &mut largest[self.scale_of(at)];
            (*of_value, *of_slack) = (of_value.max(value.abs()), of_slack.max(*slack));
        }
        for (&scale, (value, slack)) in scales.iter().zip(largest) {
            let made = value / self.quantized.max();
            let (right, slack) = if self.is_static() {
                (f64::from(STATIC_SCALE), 0.0)
            } else {
                (made, slack / self.quantized.max() + made * ROUNDINGS)
            };
            assert!((f64::from(scale) - right).abs() <= slack, "a scale is {scale:e}, not {right:e}");
        }
        for (at, (&q, &(value, slack))) in q.iter().zip(expected).enumerate() {
            let scale = f64::from(scales[self.scale_of(at)]);
            let (scaled, slack) = (value / scale, slack / scale + (value / scale).abs() * ROUNDINGS);
            let [low, high] = [scaled - slack, scaled + slack].map(|end| self.quantized.nearest(end));
            let found = self.quantized.value(q);
            assert!(low <= found && found <= high, "element {at} is {found}, not {low} to {high}");
        }
    }

    fn run<T: Number>(&self, place: &Place) {
        let x: Vec<T> = noise(ROWS * LENGTH, 1).into_iter().map(T::of).collect();
        let weight: Vec<f32> = noise(LENGTH, 2).iter().map(|value| 1.0 + 0.2 * *value as f32).collect();
        let count = 1 + (0..ROWS * LENGTH).map(|at| self.scale_of(at)).max().unwrap_or(0);
        let (mut input, mut weight_buffer) = (place.put(&x), place.put(&weight));
        let mut scales = place.put(&vec![if self.is_static() { STATIC_SCALE } else { f32::NAN }; count]);
        let mut q = place.put(&vec![0x55_u8; ROWS * LENGTH + 1]);
        // SAFETY: null pointers are nothing.
        let mut tensors: wn_tensors = unsafe { zeroed() };
        (tensors.input, tensors.output, tensors.weight) = (input.pointer(), q.pointer(), weight_buffer.pointer());
        tensors.scales = scales.pointer().cast();
        let (layer, signature) = (self.layer(), self.signature::<T>());
        let forward = |tensors: &wn_tensors| {
            // SAFETY: buffers of this device, as large as the signature says; the default stream.
            unsafe { (library().wn_forward)(place.device, &layer, &signature, tensors, null_mut()) }
        };
        ok(forward(&tensors));
        let found = place.get(&q);
        assert_eq!(found[ROWS * LENGTH], 0x55, "behind the output");
        let exact: Vec<f64> = x.iter().map(|x| x.value()).collect();
        self.check(&found[..ROWS * LENGTH], &place.get(&scales), &self.expected(&exact, &weight));

        refused(forward(&wn_tensors { scales: null_mut(), ..tensors }), wn_status::Missing, "`scales`");
        // In place, where elements are of another size.
        refused(forward(&wn_tensors { input: std::ptr::null(), ..tensors }), wn_status::Overlap, "`input`");
        let overlapping = wn_tensors { scales: input.pointer().cast(), ..tensors };
        if !self.is_static() {
            refused(forward(&overlapping), wn_status::Overlap, "`scales`");
        }
    }
}

fn run_all(place: &Place) {
    let scalings = [wn_scaling::Static, wn_scaling::Rows, wn_scaling::Groups, wn_scaling::GroupsByColumn];
    for scaling in scalings.map(|scaling| scaling as i32) {
        for quantized in [Quantized::I8, Quantized::F8E4M3] {
            Case { quantized, scaling, is_rms: true }.run::<bf16>(place);
            Case { quantized, scaling, is_rms: false }.run::<f32>(place);
        }
    }
}

#[test]
fn quantizes_on_cpu() {
    run_all(&Place::cpu());
}

#[test]
fn quantizes_on_cuda() {
    run_all(&Place::cuda());
    if let Some(emulator) = crate::load::preload() {
        assert_eq!(emulator.take_report(), "");
    }
}
