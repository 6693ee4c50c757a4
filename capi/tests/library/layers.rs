//! Every layer with everything that it takes, on both devices and in three types, against f64.

use std::ffi::c_void;
use std::mem::zeroed;

use half::{bf16, f16};

use crate::load::{Buffer, Call, Place, library, ok};
use crate::reference::{Norm, Number, assert_within, noise, norm};
use crate::types::{
    wn_activation, wn_dtype, wn_kind, wn_layer, wn_layer_flag, wn_layout, wn_signature, wn_signature_flag, wn_tensors,
};

/// A layer, a shape, and what surrounds it.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: wn_kind_name,
    shape: &'static [i64],
    nhwc: bool,
    activation: i32,
    residual: Residual,
    in_place: bool,
    /// Elements between rows' ends and the next rows' starts.
    gap: usize,
    modulated: bool,
    table: bool,
    f32_weight: bool,
    bias: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Residual {
    Absent,
    Added,
    Sum,
    InPlace,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(non_camel_case_types)]
enum wn_kind_name {
    LayerNorm,
    RmsNorm,
    RmsNormPlusOne,
    GroupNorm,
    InstanceNorm,
    InstanceNormTracked,
    BatchNorm,
    BatchStatistics,
    BatchStatisticsCumulative,
}
use wn_kind_name as Kind;

const PLAIN: Case = Case {
    kind: Kind::LayerNorm,
    shape: &[3, 40],
    nhwc: false,
    activation: wn_activation::None as i32,
    residual: Residual::Absent,
    in_place: false,
    gap: 0,
    modulated: false,
    table: false,
    f32_weight: false,
    bias: true,
};
const GROUPS: usize = 2;
const MOMENTUM: f64 = 0.25;
const BATCHES_BEFORE: i64 = 3;

fn cases() -> Vec<Case> {
    let silu = wn_activation::Silu as i32;
    let relu = wn_activation::Relu as i32;
    let mut cases = vec![
        PLAIN,
        Case { shape: &[2, 3, 700], residual: Residual::Sum, activation: silu, f32_weight: true, ..PLAIN },
        Case { in_place: true, gap: 9, ..PLAIN },
        Case { residual: Residual::InPlace, gap: 3, bias: false, ..PLAIN },
        Case { kind: Kind::RmsNorm, shape: &[4, 130], residual: Residual::Added, ..PLAIN },
        Case { kind: Kind::RmsNormPlusOne, shape: &[2, 64], f32_weight: true, bias: false, activation: relu, ..PLAIN },
        Case { shape: &[2, 3, 130], modulated: true, residual: Residual::InPlace, ..PLAIN },
        Case { kind: Kind::RmsNorm, shape: &[3, 90], modulated: true, residual: Residual::Sum, ..PLAIN },
    ];
    for (nhwc, shape, flat) in [(false, &[2, 6, 5, 7][..], &[3, 4][..]), (true, &[2, 5, 7, 6][..], &[3, 4][..])] {
        let image = Case { shape, nhwc, ..PLAIN };
        let full = Case { activation: silu, residual: Residual::Sum, f32_weight: true, ..image };
        cases.extend([
            Case { kind: Kind::GroupNorm, modulated: true, ..full },
            Case { kind: Kind::GroupNorm, shape: flat, ..image },
            Case { kind: Kind::InstanceNorm, modulated: true, in_place: true, ..image },
            Case { kind: Kind::InstanceNormTracked, activation: relu, ..image },
            Case { kind: Kind::BatchNorm, ..full },
            Case { kind: Kind::BatchNorm, table: true, ..image },
            Case { kind: Kind::BatchStatistics, ..full },
            Case { kind: Kind::BatchStatisticsCumulative, bias: false, ..image },
        ]);
    }
    cases
}

impl Case {
    fn channels(&self) -> usize {
        let last = self.shape[self.shape.len() - 1];
        (if self.is_rows() || self.nhwc { last } else { self.shape[1] }) as usize
    }

    fn is_rows(&self) -> bool {
        matches!(self.kind, Kind::LayerNorm | Kind::RmsNorm | Kind::RmsNormPlusOne)
    }

    fn elements(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    fn samples(&self) -> usize {
        self.shape[0] as usize
    }

    fn channel_of(&self, index: usize) -> usize {
        let channels = self.channels();
        if self.is_rows() || self.nhwc { index % channels } else { index / self.spatial() % channels }
    }

    fn sample_of(&self, index: usize) -> usize {
        index / (self.elements() / self.samples())
    }

    fn spatial(&self) -> usize {
        self.elements() / self.samples() / self.channels()
    }

    fn layer(&self) -> wn_layer {
        // SAFETY: plain numbers.
        let mut layer: wn_layer = unsafe { zeroed() };
        let (channels, c) = (self.channels() as i64, library());
        let normalized = [channels];
        // SAFETY: a layer to write to, and as many extents as said.
        ok(unsafe {
            match self.kind {
                Kind::LayerNorm => (c.wn_layer_norm)(&raw mut layer, 1, normalized.as_ptr()),
                Kind::RmsNorm | Kind::RmsNormPlusOne => (c.wn_rms_norm)(&raw mut layer, 1, normalized.as_ptr(), 1e-5),
                Kind::GroupNorm => (c.wn_group_norm)(&raw mut layer, GROUPS as i64, channels),
                Kind::InstanceNorm | Kind::InstanceNormTracked => (c.wn_instance_norm)(&raw mut layer, channels),
                _ => (c.wn_batch_norm)(&raw mut layer, channels),
            }
        });
        assert_eq!((layer.eps, layer.momentum, layer.flags), (1e-5, 0.1, 0));
        let expected = match self.kind {
            Kind::LayerNorm => wn_kind::LayerNorm,
            Kind::RmsNorm | Kind::RmsNormPlusOne => wn_kind::RmsNorm,
            Kind::GroupNorm => wn_kind::GroupNorm,
            Kind::InstanceNorm | Kind::InstanceNormTracked => wn_kind::InstanceNorm,
            _ => wn_kind::BatchNorm,
        };
        assert_eq!(layer.kind, expected as i32);
        layer.layout = if self.nhwc { wn_layout::Nhwc } else { wn_layout::Nchw } as i32;
        layer.activation = self.activation;
        layer.momentum = MOMENTUM;
        layer.flags = match self.kind {
            Kind::RmsNormPlusOne => wn_layer_flag::WeightPlusOne as u32,
            Kind::InstanceNormTracked => wn_layer_flag::TrackRunningStats as u32,
            Kind::BatchStatistics => wn_layer_flag::BatchStatistics as u32,
            Kind::BatchStatisticsCumulative => {
                wn_layer_flag::BatchStatistics as u32 | wn_layer_flag::CumulativeAverage as u32
            }
            _ if self.modulated => wn_layer_flag::ScalePlusOne as u32,
            _ => 0,
        };
        layer
    }

    fn has_second_residual(&self) -> bool {
        self.is_rows() && self.residual == Residual::Sum
    }

    fn moves(&self) -> bool {
        matches!(self.kind, Kind::BatchStatistics | Kind::BatchStatisticsCumulative)
    }

    fn signature<T: Number>(&self) -> wn_signature {
        use wn_signature_flag as Flag;
        // SAFETY: plain numbers.
        let mut signature: wn_signature = unsafe { zeroed() };
        let (rank, dtype) = (self.shape.len() as i64, T::DTYPE as i32);
        // SAFETY: a signature to write to, and as many extents as said.
        ok(unsafe { (library().wn_signature_init)(&raw mut signature, rank, self.shape.as_ptr(), dtype) });
        if !self.table {
            signature.weight = if self.f32_weight { wn_dtype::F32 as i32 } else { dtype };
            signature.bias = if self.bias { dtype } else { wn_dtype::None as i32 };
        }
        if self.modulated {
            (signature.scale, signature.shift) = (wn_dtype::F32 as i32, dtype);
            *(if self.is_rows() { &mut signature.gate } else { &mut signature.channel_bias }) = dtype;
            signature.input_bias = if self.is_rows() { wn_dtype::F32 as i32 } else { 0 };
        }
        let flags = [
            (self.residual != Residual::Absent, Flag::Residual),
            (self.has_second_residual(), Flag::SecondResidual),
            (self.residual == Residual::Sum, Flag::Sum),
            (self.residual == Residual::InPlace, Flag::SumInResidual),
            (self.in_place, Flag::InPlace),
            (self.table, Flag::ChannelTable),
            (self.moves(), Flag::UpdateRunningStatistics),
            (self.moves(), Flag::NumBatchesTracked),
        ];
        signature.flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag as u32).sum();
        if self.gap > 0 {
            let stride = (self.channels() + self.gap) as i64;
            signature.output_row_stride = stride;
            signature.residual_row_stride = if self.residual == Residual::Absent { 0 } else { stride };
            signature.input_row_stride = if self.in_place { 0 } else { stride };
        }
        signature
    }
}

/// Rows with gaps between them, which hold what must not change.
fn spread<T: Number>(values: &[f64], length: usize, gap: usize) -> Vec<T> {
    let rows = values.chunks(length).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(7.0, gap)));
    rows.map(T::of).collect()
}

fn gather<T: Number>(memory: &[T], length: usize, gap: usize) -> Vec<T> {
    let mut rows = Vec::new();
    for row in memory.chunks(length + gap) {
        rows.extend(&row[..length]);
        assert!(row[length..].iter().all(|rest| rest.value() == 7.0), "memory between rows was changed");
    }
    rows
}

/// A tensor in memory: its numbers as they are stored, and where.
struct Tensor<T> {
    exact: Vec<f64>,
    buffer: Buffer<T>,
}

impl<T: Number> Tensor<T> {
    fn new(place: &Place, values: &[f64]) -> Self {
        let stored: Vec<T> = values.iter().map(|&value| T::of(value)).collect();
        Self { exact: stored.iter().map(|value| value.value()).collect(), buffer: place.put(&stored) }
    }
}

/// Of the tensors' type or of f32.
enum Coefficient<T> {
    Own(Tensor<T>),
    F32(Tensor<f32>),
}

impl<T: Number> Coefficient<T> {
    fn new(place: &Place, values: &[f64], is_f32: bool) -> Self {
        if is_f32 { Self::F32(Tensor::new(place, values)) } else { Self::Own(Tensor::new(place, values)) }
    }

    fn exact(&self) -> &[f64] {
        match self {
            Self::Own(tensor) => &tensor.exact,
            Self::F32(tensor) => &tensor.exact,
        }
    }

    fn pointer(&mut self) -> *mut c_void {
        match self {
            Self::Own(tensor) => tensor.buffer.pointer(),
            Self::F32(tensor) => tensor.buffer.pointer(),
        }
    }
}

fn run<T: Number>(place: &Place, case: &Case, at_once: bool) {
    let about = format!("{case:?}");
    let c = library();
    let (elements, channels, length) = (case.elements(), case.channels(), case.channels());
    let of_samples = case.samples() * channels;
    let exact = |values: Vec<f64>| -> Vec<f64> { values.into_iter().map(|value| T::of(value).value()).collect() };
    let (x, residual) = (exact(noise(elements, 1)), exact(noise(elements, 2)));
    let gap = case.gap;
    let mut input = place.put(&spread::<T>(&x, length, gap));
    let mut residual_buffer = place.put(&spread::<T>(&residual, length, gap));
    let mut sum = place.put(&vec![T::of(9.0); elements]);
    let mut output = place.put(&spread::<T>(&if case.in_place { x.clone() } else { vec![9.0; elements] }, length, gap));
    let shifted = |seed, middle: f64| noise(channels, seed).into_iter().map(|value| value + middle).collect::<Vec<_>>();
    let mut weight = Coefficient::<T>::new(place, &shifted(3, 1.0), case.f32_weight);
    let mut bias = Tensor::<T>::new(place, &shifted(4, 0.0));
    let mut scale = Tensor::<f32>::new(place, &noise(of_samples, 5));
    let mut shift = Tensor::<T>::new(place, &noise(of_samples, 6));
    let mut input_bias = Tensor::<f32>::new(place, &noise(channels, 10));
    let mut second_residual = Tensor::<T>::new(place, &noise(elements, 11));
    // Of rows the gate, of images the channel bias.
    let mut of_input = Tensor::<T>::new(place, &noise(of_samples, 7));
    let mut mean = Tensor::<f32>::new(place, &noise(channels, 8));
    let mut var = Tensor::<f32>::new(place, &noise(channels, 9).iter().map(|v| v * v + 0.1).collect::<Vec<_>>());
    let mut batches = place.put(&[BATCHES_BEFORE]);
    let mut table = place.put(&vec![0.0_f32; 3 * channels]);

    let (layer, signature) = (case.layer(), case.signature::<T>());
    let mut call: *mut Call = std::ptr::null_mut();
    let mut bytes = 0;
    // SAFETY: all of it was filled above.
    unsafe {
        ok((c.wn_prepare)(place.device, &raw const layer, &raw const signature, &raw mut call));
        ok((c.wn_call_workspace_bytes)(call, &raw mut bytes));
    }
    let mut workspace = place.put(&vec![u32::MAX; (bytes as usize).div_ceil(4)]);
    // SAFETY: so many bytes; the default stream.
    ok(unsafe { (c.wn_workspace_init)(place.device, workspace.pointer(), bytes, std::ptr::null_mut()) });
    // SAFETY: null pointers are nothing.
    let mut tensors: wn_tensors = unsafe { zeroed() };
    if case.table {
        let mut made: *mut Call = std::ptr::null_mut();
        let weight_type = if case.f32_weight { wn_dtype::F32 as i32 } else { T::DTYPE as i32 };
        tensors.running_mean = mean.buffer.pointer().cast();
        tensors.running_var = var.buffer.pointer().cast();
        tensors.weight = weight.pointer();
        tensors.bias = bias.buffer.pointer();
        tensors.output = table.pointer();
        // SAFETY: buffers of this device, of these types and C elements.
        unsafe {
            let bias_type = T::DTYPE as i32;
            ok((c.wn_prepare_channel_table)(place.device, &raw const layer, weight_type, bias_type, &raw mut made));
            ok((c.wn_launch)(made, &raw const tensors, std::ptr::null_mut()));
            ok((c.wn_call_destroy)(made));
            tensors = zeroed();
        }
        tensors.channel_table = table.pointer().cast();
    } else {
        tensors.weight = weight.pointer();
        tensors.bias = if case.bias { bias.buffer.pointer() } else { std::ptr::null_mut() };
    }
    let takes_statistics =
        case.moves() || (case.kind == Kind::BatchNorm && !case.table) || case.kind == Kind::InstanceNormTracked;
    if takes_statistics {
        tensors.running_mean = mean.buffer.pointer().cast();
        tensors.running_var = var.buffer.pointer().cast();
    }
    if case.moves() {
        tensors.num_batches_tracked = batches.pointer().cast();
    }
    if case.modulated {
        tensors.scale = scale.buffer.pointer();
        tensors.shift = shift.buffer.pointer();
        *(if case.is_rows() { &mut tensors.gate } else { &mut tensors.channel_bias }) = of_input.buffer.pointer();
        tensors.input_bias = if case.is_rows() { input_bias.buffer.pointer() } else { std::ptr::null_mut() };
    }
    tensors.input = if case.in_place { std::ptr::null() } else { input.pointer() };
    tensors.output = output.pointer();
    if case.residual != Residual::Absent {
        tensors.residual = residual_buffer.pointer();
    }
    if case.residual == Residual::Sum {
        tensors.sum = sum.pointer();
    }
    if case.has_second_residual() {
        tensors.second_residual = second_residual.buffer.pointer();
    }
    if bytes > 0 {
        (tensors.workspace, tensors.workspace_bytes) = (workspace.pointer(), bytes);
    }
    // SAFETY: buffers of this device, as large as the signature says; the default stream.
    unsafe {
        if at_once {
            let (device, layer, signature) = (place.device, &raw const layer, &raw const signature);
            ok((c.wn_forward)(device, layer, signature, &raw const tensors, std::ptr::null_mut()));
        } else {
            ok((c.wn_launch)(call, &raw const tensors, std::ptr::null_mut()));
        }
        ok((c.wn_call_destroy)(call));
    }

    let mut summed = x;
    let of_input = |at| of_input.exact[case.sample_of(at) * channels + case.channel_of(at)];
    if case.modulated && case.is_rows() {
        let biased = |(at, x): (usize, &mut f64)| {
            *x = f64::from((*x + input_bias.exact[at % channels]) as f32);
            *x = f64::from((*x * of_input(at)) as f32);
        };
        summed.iter_mut().enumerate().for_each(biased);
    }
    if case.residual != Residual::Absent {
        summed.iter_mut().zip(&residual).for_each(|(x, residual)| *x = f64::from((*x + residual) as f32));
    }
    if case.has_second_residual() {
        summed.iter_mut().zip(&second_residual.exact).for_each(|(x, second)| *x = f64::from((*x + second) as f32));
    }
    if case.modulated && !case.is_rows() {
        summed.iter_mut().enumerate().for_each(|(at, x)| *x = f64::from((*x + of_input(at)) as f32));
    }
    if case.residual == Residual::Sum || case.residual == Residual::InPlace {
        let in_place = case.residual == Residual::InPlace;
        let found = if in_place { gather(&place.get(&residual_buffer), length, gap) } else { place.get(&sum) };
        let expected: Vec<_> = summed.iter().map(|&sum| (sum, 0.0)).collect();
        assert_within::<T>(&found, &expected, &format!("sum of {about}"));
    }
    let affine = |at: usize| {
        let channel = case.channel_of(at);
        let of_sample = case.sample_of(at) * channels + channel;
        let plus = if case.kind == Kind::RmsNormPlusOne { 1.0 } else { 0.0 };
        let weight = weight.exact()[channel] + plus;
        let bias = if case.bias { bias.exact[channel] } else { 0.0 };
        if case.modulated {
            let scale = scale.exact[of_sample] + 1.0;
            (weight * scale, bias * scale + shift.exact[of_sample])
        } else {
            (weight, bias)
        }
    };
    let given = |channel: usize| (mean.exact[channel], var.exact[channel]);
    let by_statistics = matches!(case.kind, Kind::BatchNorm | Kind::InstanceNormTracked);
    let set = |at: usize| match case.kind {
        Kind::LayerNorm | Kind::RmsNorm | Kind::RmsNormPlusOne => at / length,
        Kind::GroupNorm => case.sample_of(at) * GROUPS + case.channel_of(at) / (channels / GROUPS),
        Kind::InstanceNorm => case.sample_of(at) * channels + case.channel_of(at),
        _ => case.channel_of(at),
    };
    let expected = norm(
        &summed,
        &Norm {
            set: &set,
            given: by_statistics.then_some(&given),
            subtract_mean: !matches!(case.kind, Kind::RmsNorm | Kind::RmsNormPlusOne),
            eps: f64::from(1e-5_f32),
            affine: &affine,
            activation: case.activation,
        },
    );
    assert_within::<T>(&gather(&place.get(&output), length, gap), &expected, &about);
    if case.moves() {
        check_moved(place, case, &summed, (&mean, &var, &batches));
    }
}

/// The running statistics behind a call.
fn check_moved(
    place: &Place,
    case: &Case,
    x: &[f64],
    (mean, var, batches): (&Tensor<f32>, &Tensor<f32>, &Buffer<i64>),
) {
    let share = if case.kind == Kind::BatchStatistics { MOMENTUM } else { 1.0 / (BATCHES_BEFORE + 1) as f64 };
    let (found_mean, found_var) = (place.get(&mean.buffer), place.get(&var.buffer));
    assert_eq!(place.get(batches), [BATCHES_BEFORE + 1]);
    for channel in 0..case.channels() {
        let values: Vec<f64> =
            x.iter().enumerate().filter(|&(at, _)| case.channel_of(at) == channel).map(|(_, &x)| x).collect();
        let count = values.len() as f64;
        let batch_mean = values.iter().sum::<f64>() / count;
        let batch_var = values.iter().map(|x| (x - batch_mean).powi(2)).sum::<f64>() / (count - 1.0);
        for (found, before, batch) in [
            (found_mean[channel], mean.exact[channel], batch_mean),
            (found_var[channel], var.exact[channel], batch_var),
        ] {
            let expected = before + share * (batch - before);
            let error = (f64::from(found) - expected).abs();
            assert!(
                error <= 4e-7 * (before.abs() + batch.abs() + 1.0),
                "{case:?}: channel {channel} is off by {error:e}"
            );
        }
    }
}

#[test]
fn layers_on_cpu() {
    let place = Place::cpu();
    for (index, case) in cases().iter().enumerate() {
        run::<f32>(&place, case, index % 2 == 0);
        run::<f16>(&place, case, index % 2 == 1);
        run::<bf16>(&place, case, false);
    }
}

#[test]
fn layers_on_cuda() {
    let place = Place::cuda();
    for (index, case) in cases().iter().enumerate() {
        run::<f32>(&place, case, index % 2 == 0);
        run::<f16>(&place, case, index % 2 == 1);
        run::<bf16>(&place, case, false);
    }
    drop(place);
    if let Some(emulator) = crate::load::preload() {
        assert_eq!(emulator.take_report(), "");
    }
}

/// Nobody else launches so in this process.
#[test]
fn layers_on_cuda_by_programmatic_launch() {
    let launches = || {
        let kernels = crate::load::preload().map(emulator::Emulator::kernels);
        kernels.map(|kernels| kernels.iter().map(|kernel| kernel.programmatic_launches).sum::<u64>())
    };
    let before = launches();
    for place in [Place::cuda().programmatic(), Place::cpu().programmatic()] {
        cases().iter().for_each(|case| run::<f16>(&place, case, false));
    }
    if let Some(before) = before {
        assert!(launches() >= Some(before + cases().len() as u64), "{before} before, {:?} after", launches());
    }
}
