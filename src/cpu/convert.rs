//! Storage types to f32 and back, for a block at a time.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::seam::Lines;
use super::simd::{LANES, LINE, Vector};
use super::vectors::Level;
use crate::element::{DType, Element};

/// Conversion of slices, in which vector instructions are used.
pub(super) trait Convert: Element {
    /// Exact. The slices are equally long.
    fn widen(from: &[Self], into: &mut [f32]);
    /// Rounds to nearest, ties to even. The slices are equally long.
    fn narrow(from: &[f32], into: &mut [Self]);

    /// A vector of [`LANES`](super::simd::LANES) elements.
    ///
    /// # Safety
    /// They may be read; and `V` is of the level that this is compiled for, as with all that follows.
    unsafe fn load<V: Vector>(from: *const Self) -> V;
    /// The first `count` lanes of a vector, zero in the others.
    ///
    /// # Safety
    /// They may be read; there are at most [`LANES`](super::simd::LANES).
    unsafe fn load_some<V: Vector>(from: *const Self, count: usize) -> V;
    /// # Safety
    /// [`LANES`](super::simd::LANES) elements may be written.
    unsafe fn store<V: Vector>(vector: V, into: *mut Self);
    /// # Safety
    /// So many elements may be written, at most [`LANES`](super::simd::LANES).
    unsafe fn store_some<V: Vector>(vector: V, into: *mut Self, count: usize);
    /// Past the caches.
    ///
    /// # Safety
    /// As [`store`](Self::store), and `into` is aligned to that many elements.
    unsafe fn stream<V: Vector>(vector: V, into: *mut Self);
    /// Stores vectors behind each other, or streams them.
    ///
    /// # Safety
    /// As above; if they are streamed, a line begins.
    #[inline(always)]
    unsafe fn store_each<V: Vector, const COUNT: usize>(vectors: [V; COUNT], into: *mut Self, streams: bool) {
        for (index, &vector) in vectors.iter().enumerate() {
            // SAFETY: by the caller.
            unsafe {
                let into = into.add(index * LANES);
                if streams {
                    Self::stream(vector, into);
                } else {
                    Self::store(vector, into);
                }
            }
        }
    }

    /// Streams vectors as whole lines, wherever they begin.
    ///
    /// # Safety
    /// As above.
    unsafe fn stream_lines<V: Vector, const COUNT: usize>(vectors: [V; COUNT], lines: &mut Lines<V>);

    /// Whether storing rounds to bf16.
    const ROUNDS_TO_BF16: bool = matches!(Self::DTYPE, DType::Bf16);

    /// Whether elements are of fewer bits than what is computed with.
    const IS_NARROW: bool = size_of::<Self>() < size_of::<f32>();

    /// Elements of a line of the caches.
    const OF_LINE: usize = LINE / size_of::<Self>();

    /// Elements from `address` to where a line begins.
    #[inline(always)]
    fn to_line(address: *const Self) -> usize {
        (address.addr().wrapping_neg() / size_of::<Self>()) % Self::OF_LINE
    }
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
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: by the caller.
        unsafe { V::load(from) }
    }
    #[inline(always)]
    unsafe fn load_some<V: Vector>(from: *const Self, count: usize) -> V {
        // SAFETY: by the caller.
        unsafe { V::load_some(from, count) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(vector: V, into: *mut Self) {
        // SAFETY: by the caller.
        unsafe { vector.store(into) };
    }
    #[inline(always)]
    unsafe fn store_some<V: Vector>(vector: V, into: *mut Self, count: usize) {
        // SAFETY: by the caller.
        unsafe { vector.store_some(into, count) };
    }
    #[inline(always)]
    unsafe fn stream<V: Vector>(vector: V, into: *mut Self) {
        // SAFETY: by the caller.
        unsafe { vector.stream(into) };
    }
    #[inline(always)]
    unsafe fn stream_lines<V: Vector, const COUNT: usize>(vectors: [V; COUNT], lines: &mut Lines<V>) {
        for &vector in &vectors {
            // SAFETY: by the caller.
            unsafe { lines.push(vector) };
        }
    }
}

// `half` has conversions of eight at a time, and looks for them at each call.
impl Convert for f16 {
    #[inline(always)]
    fn widen(from: &[Self], into: &mut [f32]) {
        match Level::chosen() {
            Level::Any => from.convert_to_f32_slice(into),
            // SAFETY: the machine has what the functions were compiled for.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { x86::widen_by_avx2(from, into) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 => unsafe { x86::widen_by_avx512(from, into) },
        }
    }
    #[inline(always)]
    fn narrow(from: &[f32], into: &mut [Self]) {
        match Level::chosen() {
            Level::Any => into.convert_from_f32_slice(from),
            // SAFETY: the machine has what the functions were compiled for.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { x86::narrow_by_avx2(from, into) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 => unsafe { x86::narrow_by_avx512(from, into) },
        }
    }
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: by the caller.
        V::from_f16(unsafe { V::load_halves(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_some<V: Vector>(from: *const Self, count: usize) -> V {
        // SAFETY: by the caller.
        V::from_f16(unsafe { V::load_some_halves(from.cast(), count) })
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(vector: V, into: *mut Self) {
        // SAFETY: by the caller.
        unsafe { V::store_halves(vector.to_f16(), into.cast()) };
    }
    #[inline(always)]
    unsafe fn stream_lines<V: Vector, const COUNT: usize>(vectors: [V; COUNT], lines: &mut Lines<V>) {
        for pair in vectors.as_chunks::<2>().0 {
            // SAFETY: by the caller.
            unsafe { lines.push(V::of_halves(pair[0].to_f16(), pair[1].to_f16())) };
        }
    }
    #[inline(always)]
    unsafe fn store_some<V: Vector>(vector: V, into: *mut Self, count: usize) {
        // SAFETY: by the caller.
        unsafe { V::store_some_halves(vector.to_f16(), into.cast(), count) };
    }
    #[inline(always)]
    unsafe fn stream<V: Vector>(vector: V, into: *mut Self) {
        // SAFETY: by the caller.
        unsafe { V::stream_halves(vector.to_f16(), into.cast()) };
    }
}

/// Slices by the vectors of a level, compiled for it.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use half::f16;

    use super::Convert;
    use crate::cpu::simd::{Avx2, Avx512, LANES, Vector};

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn widen_by_avx2(from: &[f16], into: &mut [f32]) {
        widen::<Avx2>(from, into);
    }
    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn narrow_by_avx2(from: &[f32], into: &mut [f16]) {
        narrow::<Avx2>(from, into);
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
    pub(super) fn widen_by_avx512(from: &[f16], into: &mut [f32]) {
        widen::<Avx512<false>>(from, into);
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
    pub(super) fn narrow_by_avx512(from: &[f32], into: &mut [f16]) {
        narrow::<Avx512<false>>(from, into);
    }

    #[inline(always)]
    fn widen<V: Vector>(from: &[f16], into: &mut [f32]) {
        assert_eq!(from.len(), into.len());
        for (from, into) in from.chunks(LANES).zip(into.chunks_mut(LANES)) {
            // SAFETY: the chunks' own, and `V` is of the level that the callers are compiled for.
            unsafe {
                if from.len() == LANES {
                    f16::load::<V>(from.as_ptr()).store(into.as_mut_ptr());
                } else {
                    f16::load_some::<V>(from.as_ptr(), from.len()).store_some(into.as_mut_ptr(), into.len());
                }
            }
        }
    }

    #[inline(always)]
    fn narrow<V: Vector>(from: &[f32], into: &mut [f16]) {
        assert_eq!(from.len(), into.len());
        for (from, into) in from.chunks(LANES).zip(into.chunks_mut(LANES)) {
            // SAFETY: as above.
            unsafe {
                if from.len() == LANES {
                    f16::store(V::load(from.as_ptr()), into.as_mut_ptr());
                } else {
                    f16::store_some(V::load_some(from.as_ptr(), from.len()), into.as_mut_ptr(), into.len());
                }
            }
        }
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
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: by the caller.
        V::from_bf16(unsafe { V::load_halves(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_some<V: Vector>(from: *const Self, count: usize) -> V {
        // SAFETY: by the caller.
        V::from_bf16(unsafe { V::load_some_halves(from.cast(), count) })
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(vector: V, into: *mut Self) {
        // SAFETY: by the caller.
        unsafe { V::store_halves(vector.to_bf16(), into.cast()) };
    }
    #[inline(always)]
    unsafe fn stream_lines<V: Vector, const COUNT: usize>(vectors: [V; COUNT], lines: &mut Lines<V>) {
        for pair in vectors.as_chunks::<2>().0 {
            // SAFETY: by the caller.
            unsafe { lines.push(V::of_two_as_bf16([pair[0], pair[1]])) };
        }
    }
    #[inline(always)]
    unsafe fn store_some<V: Vector>(vector: V, into: *mut Self, count: usize) {
        // SAFETY: by the caller.
        unsafe { V::store_some_halves(vector.to_bf16(), into.cast(), count) };
    }
    #[inline(always)]
    unsafe fn stream<V: Vector>(vector: V, into: *mut Self) {
        // SAFETY: by the caller.
        unsafe { V::stream_halves(vector.to_bf16(), into.cast()) };
    }
    #[inline(always)]
    unsafe fn store_each<V: Vector, const COUNT: usize>(vectors: [V; COUNT], into: *mut Self, streams: bool) {
        // SAFETY: by the caller.
        unsafe { V::store_as_bf16(vectors, into.cast(), streams) };
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::Convert;
    use crate::cpu::moments::Values;
    use crate::cpu::simd::{LANES, Vector, finish_streaming};
    use crate::cpu::stretch::TURN_LANES;
    use crate::cpu::vectors::tests::on_every_level;
    use crate::cpu::vectors::{self, Task};

    #[test]
    fn f16_is_converted_as_by_half_on_every_level() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        // Between two of them, and at the ends of what rounds to each.
        let halfway = |value: &f16| f32::from_bits(value.to_f32().to_bits().wrapping_add(1 << 12));
        let near = |value: f32| [value.next_down(), value, value.next_up()];
        let wide: Vec<f32> = all.iter().flat_map(|value| near(halfway(value))).collect();
        on_every_level(|level| {
            for len in [1, 7, 8, 17, 1000, all.len()] {
                let mut widened = vec![0.0; len];
                f16::widen(&all[..len], &mut widened);
                for (value, widened) in all.iter().zip(widened) {
                    let same = value.to_f32().to_bits() == widened.to_bits();
                    assert!(same || value.is_nan() && widened.is_nan(), "{level:?}: {value:?} is {widened:?}");
                }
            }
            let mut narrowed = vec![f16::ZERO; wide.len()];
            f16::narrow(&wide, &mut narrowed);
            for (value, narrowed) in wide.iter().zip(narrowed) {
                let same = f16::from_f32(*value).to_bits() == narrowed.to_bits();
                assert!(same || value.is_nan() && narrowed.is_nan(), "{level:?}: {value:?} becomes {narrowed:?}");
            }
        });
    }

    /// In registers, as the layers do it. Whole vectors.
    struct ByVectors<'a, T> {
        narrow: &'a [T],
        widened: &'a mut [f32],
        wide: &'a [f32],
        narrowed: &'a mut [T],
        way: Way,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Way {
        OneByOne,
        ByTurns,
        /// Where a line begins.
        Streamed,
    }

    impl<T: Convert> Task for ByVectors<'_, T> {
        type Output = ();
        const ROUNDS_TO_BF16: bool = T::ROUNDS_TO_BF16;

        #[inline(always)]
        fn run<V: Vector>(self) {
            for (from, into) in self.narrow.chunks_exact(LANES).zip(self.widened.chunks_exact_mut(LANES)) {
                // SAFETY: a vector each.
                unsafe { T::load::<V>(from.as_ptr()).store(into.as_mut_ptr()) };
            }
            if self.way == Way::OneByOne {
                for (from, into) in self.wide.chunks_exact(LANES).zip(self.narrowed.chunks_exact_mut(LANES)) {
                    // SAFETY: a vector each.
                    unsafe { T::store(V::load(from.as_ptr()), into.as_mut_ptr()) };
                }
                return;
            }
            let turns = self.wide.chunks_exact(TURN_LANES).zip(self.narrowed.chunks_exact_mut(TURN_LANES));
            for (from, into) in turns {
                // SAFETY: as many vectors each.
                unsafe {
                    let vectors: [V; TURN_LANES / LANES] = Values::load(from.as_ptr(), 0);
                    T::store_each(vectors, into.as_mut_ptr(), self.way == Way::Streamed);
                }
            }
            finish_streaming();
        }
    }

    #[test]
    fn bf16_is_converted_as_by_half_in_registers_on_every_level() {
        let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        // Itself, halfway to the next, and at the ends: with NaNs of every kind.
        let wide: Vec<f32> = (0..=u16::MAX)
            .flat_map(|upper| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|lower| u32::from(upper) << 16 | lower))
            .map(f32::from_bits)
            .collect();
        // In neighbouring lanes what is alike, and what is not.
        let far_apart = (0..wide.len()).map(|i| wide[i % LANES * (wide.len() / LANES) + i / LANES]);
        let wide: Vec<f32> = wide.iter().copied().chain(far_apart).collect();
        on_every_level(|level| {
            for way in [Way::OneByOne, Way::ByTurns, Way::Streamed] {
                let mut widened = vec![0.0; all.len()];
                let mut narrowed = vec![bf16::ZERO; bf16::OF_LINE + wide.len()];
                // A turn begins with a line, or lies across one.
                let first = bf16::to_line(narrowed.as_ptr()) + usize::from(way == Way::ByTurns);
                let narrowed = &mut narrowed[first..first + wide.len()];
                vectors::run(ByVectors { narrow: &all, widened: &mut widened, wide: &wide, narrowed, way });
                for (value, widened) in all.iter().zip(widened) {
                    assert_eq!(widened.to_bits(), u32::from(value.to_bits()) << 16, "{level:?}");
                }
                for (value, narrowed) in wide.iter().zip(narrowed) {
                    let bits = value.to_bits();
                    let expected = bf16::from_f32(*value).to_bits();
                    assert_eq!(narrowed.to_bits(), expected, "{level:?}, {way:?}: {bits:#x}");
                }
            }
        });
    }
}
