//! Where a row goes: elements, or a quantized output and its scales. See `src/quantization.rs` for what they are.

use super::input::{Output, Tensor};
use crate::element::DType;
use crate::problem;
use crate::quantization::{F8E4M3, GROUP, Quantized, QuantizedType, Scaling};

/// A row's output.
#[derive(Clone, Copy)]
pub(super) enum Destination {
    Element(Output),
    Quantized(QuantizedRow),
}

/// The addresses of a row's bytes and scales.
#[derive(Clone, Copy)]
pub(super) struct QuantizedRow {
    quantized: QuantizedType,
    scaling: Scaling,
    y: u64,
    scales: u64,
    /// Scales between those of two groups.
    step: usize,
}

/// The largest magnitude of some values, ordered as magnitudes are, that of NaN above all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Amplitude(u32);

impl Amplitude {
    pub(super) const NONE: Self = Self(0);

    #[inline(always)]
    pub(super) fn of(values: &[f32]) -> Self {
        Self(values.iter().fold(0, |largest, value| largest.max(value.to_bits() & 0x7fff_ffff)))
    }

    #[inline(always)]
    fn scale(self, quantized: QuantizedType) -> f32 {
        #[expect(clippy::cast_possible_truncation, reason = "a constant of f32")]
        let least = crate::plan::params::WN_LEAST_AMPLITUDE as f32;
        f32::from_bits(self.0.max(least.to_bits())) / quantized.max()
    }
}

impl Destination {
    /// Of a row of the problem.
    #[inline(always)]
    pub(super) fn of_row(problem: &problem::Rows, y: u64, scales: u64, row: usize) -> Self {
        let first = row * problem.y_stride;
        match problem.output {
            problem::Output::Element(dtype) => Self::Element(Output { dtype, address: y }.offset(first)),
            problem::Output::Quantized(quantized, scaling) => {
                let groups = problem.length.div_ceil(GROUP);
                let (before, step) = match scaling {
                    Scaling::Static => (0, 0),
                    Scaling::Rows => (row, 0),
                    Scaling::Groups => (row * groups, 1),
                    Scaling::GroupsByColumn => (row, problem.rows),
                };
                let scales = scales + (before * DType::F32.size()) as u64;
                Self::Quantized(QuantizedRow { quantized, scaling, y: y + first as u64, scales, step })
            }
        }
    }

    /// Writes the scale of a row whose amplitude is this one, if it has one of its own.
    ///
    /// # Safety
    /// No other thread has this row's scale.
    #[inline(always)]
    pub(super) unsafe fn scale_row(self, amplitude: Amplitude) {
        if let Self::Quantized(row) = self {
            // SAFETY: by the caller.
            unsafe { row.write_scale(0, amplitude.scale(row.quantized)) };
        }
    }

    /// # Safety
    /// As [`Tensor::store`], for the elements and the scales that belong to them alone; a row's own scale is there.
    #[inline(always)]
    pub(super) unsafe fn store(self, first: usize, values: &mut [f32]) {
        // SAFETY: by the caller.
        unsafe {
            match self {
                Self::Element(output) => output.store(first, values),
                Self::Quantized(row) => row.store(first, values),
            }
        }
    }
}

impl QuantizedRow {
    /// # Safety
    /// As of [`Destination::store`].
    #[inline(always)]
    unsafe fn store(self, first: usize, values: &mut [f32]) {
        if matches!(self.scaling, Scaling::Static | Scaling::Rows) {
            let mut scale = [0.0];
            // SAFETY: by the caller.
            unsafe { Tensor::<f32>::new(self.scales).load(0, &mut scale) };
            multiply(values, 1.0 / scale[0]);
        } else {
            // Blocks begin with a group.
            for (index, group) in values.chunks_mut(GROUP).enumerate() {
                let scale = Amplitude::of(group).scale(self.quantized);
                // SAFETY: by the caller.
                unsafe { self.write_scale(first / GROUP + index, scale) };
                multiply(group, 1.0 / scale);
            }
        }
        // SAFETY: by the caller.
        unsafe {
            match self.quantized {
                QuantizedType::I8 => store_as::<i8>(self.y, first, values),
                QuantizedType::F8E4M3 => store_as::<F8E4M3>(self.y, first, values),
            }
        }
    }

    /// # Safety
    /// No other thread has this scale.
    #[inline(always)]
    unsafe fn write_scale(self, group: usize, scale: f32) {
        // SAFETY: by the caller.
        unsafe { Tensor::<f32>::new(self.scales).store(group * self.step, &[scale]) };
    }
}

#[inline(always)]
fn multiply(values: &mut [f32], factor: f32) {
    for value in values {
        *value *= factor;
    }
}

/// # Safety
/// As of [`Destination::store`].
#[inline(always)]
unsafe fn store_as<Q: Quantized>(address: u64, first: usize, values: &[f32]) {
    #[expect(clippy::cast_possible_truncation, reason = "an address of this machine")]
    let start = std::ptr::with_exposed_provenance_mut::<Q>(address as usize);
    // SAFETY: by the caller.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.add(first), values.len()) };
    for (byte, value) in bytes.iter_mut().zip(values) {
        *byte = Q::quantize(*value);
    }
}
