//! Storage types to f32 and back, for a block at a time.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::element::{DType, Element};

/// Conversion of slices, in which vector instructions are used.
pub(super) trait Convert: Element {
    /// Exact. The slices are equally long.
    fn widen(from: &[Self], into: &mut [f32]);
    /// Rounds to nearest, ties to even. The slices are equally long.
    fn narrow(from: &[f32], into: &mut [Self]);
}

/// To the type and back.
#[inline(always)]
pub(super) fn round<T: Convert>(values: &mut [f32]) {
    const CHUNK: usize = 128;
    if T::DTYPE == DType::F32 {
        return;
    }
    let mut narrow = [T::default(); CHUNK];
    for values in values.chunks_mut(CHUNK) {
        let (narrow, _) = narrow.split_at_mut(values.len());
        T::narrow(values, narrow);
        T::widen(narrow, values);
    }
}

impl Convert for f32 {
    #[inline(always)]
    fn widen(from: &[Self], into: &mut [f32]) {
        into.copy_from_slice(from);
    }
    #[inline(always)]
    fn narrow(from: &[f32], into: &mut [Self]) {
        into.copy_from_slice(from);
    }
}

impl Convert for f16 {
    #[inline(always)]
    fn widen(from: &[Self], into: &mut [f32]) {
        from.convert_to_f32_slice(into);
    }
    #[inline(always)]
    fn narrow(from: &[f32], into: &mut [Self]) {
        into.convert_from_f32_slice(from);
    }
}

// `half` converts bf16 one by one, with a branch for NaN.
impl Convert for bf16 {
    #[inline(always)]
    fn widen(from: &[Self], into: &mut [f32]) {
        for (wide, narrow) in into.iter_mut().zip(from) {
            *wide = f32::from_bits(u32::from(narrow.to_bits()) << 16);
        }
    }
    #[inline(always)]
    fn narrow(from: &[f32], into: &mut [Self]) {
        for (narrow, wide) in into.iter_mut().zip(from) {
            let bits = wide.to_bits();
            let even = (bits >> 16) & 1;
            let rounded = bits.wrapping_add(0x7fff + even);
            // A NaN could be rounded to infinity, or lose all of the payload that makes it one.
            let bits = if wide.is_nan() { bits | 0x0040_0000 } else { rounded };
            *narrow = bf16::from_bits((bits >> 16) as u16);
        }
    }
}
