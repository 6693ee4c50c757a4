//! Sixteen numbers at once, on every machine: what is added to what depends on that, and so do bits.
//!
//! One [`Vector`] for each of the levels of `vectors.rs`. Its functions are inlined into code that was compiled for the
//! instructions that they use; elsewhere they must not be called. Whatever calls them is `#[inline(always)]` for that, also
//! closures.

/// Elements of a vector.
pub(super) const LANES: usize = 16;

/// Bytes of a line of the caches.
pub(super) const LINE: usize = 64;

/// The vectors of a level.
///
/// A function that takes a pointer accesses [`LANES`] elements from there, or as many as it is told, at most that many.
pub(super) trait Vector: Copy {
    /// Whether [`mul_add`](Self::mul_add) rounds once. It does on all machines that can; else bits would depend on the level.
    const FUSES: bool;
    /// Whether there are registers for two loops in one, of which one rounds to bf16 by integers.
    const HAS_MANY_REGISTERS: bool = false;

    /// Whether what is streamed goes past the caches.
    const STREAMS: bool = true;

    /// Sixteen numbers of f64.
    type Sums: Copy;
    /// Sixteen numbers of sixteen bits.
    type Halves: Copy;

    fn splat(value: f32) -> Self;
    /// The first of them.
    fn lowest(self) -> f32;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self * factor + addend`.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// The larger of each, or that of `self` where it is NaN.
    fn at_least(self, least: Self) -> Self;
    /// The smaller of each, or that of `self` where it is NaN.
    fn at_most(self, most: Self) -> Self;
    /// Twice 2ⁿᐟ¹⁶ of the integers n in the lowest bits of `self`, from -16·127 to 16·127, and by what part of itself each is
    /// rounded up. That of the last is infinity.
    fn twice_the_root(self) -> [Self; 2];
    /// The nearest of each to itself from `-most` to `most`. Of NaN, any of those or NaN.
    #[inline(always)]
    fn within(self, most: f32) -> Self {
        self.at_least(Self::splat(-most)).at_most(Self::splat(most))
    }
    /// The first `count`, and what `others` has in the other places.
    fn first(self, count: usize, others: Self) -> Self;

    unsafe fn load(from: *const f32) -> Self;
    /// Zero beyond `count`.
    unsafe fn load_some(from: *const f32, count: usize) -> Self;
    unsafe fn store(self, into: *mut f32);
    unsafe fn store_some(self, into: *mut f32, count: usize);
    /// Past the caches. `into` is aligned to the vector.
    unsafe fn stream(self, into: *mut f32);

    unsafe fn load_halves(from: *const u16) -> Self::Halves;
    /// Zero beyond `count`.
    unsafe fn load_some_halves(from: *const u16, count: usize) -> Self::Halves;
    unsafe fn store_halves(halves: Self::Halves, into: *mut u16);
    unsafe fn store_some_halves(halves: Self::Halves, into: *mut u16, count: usize);
    /// Past the caches. `into` is aligned to the halves.
    unsafe fn stream_halves(halves: Self::Halves, into: *mut u16);

    fn from_f16(halves: Self::Halves) -> Self;
    /// To nearest, ties to even.
    fn to_f16(self) -> Self::Halves;
    fn from_bf16(halves: Self::Halves) -> Self;
    /// To nearest, ties to even; a quiet NaN of a NaN.
    fn to_bf16(self) -> Self::Halves;
    /// Stores vectors as bf16 behind each other, or streams them to where a line begins.
    #[inline(always)]
    unsafe fn store_as_bf16<const COUNT: usize>(vectors: [Self; COUNT], into: *mut u16, streams: bool) {
        // SAFETY: by the caller.
        unsafe { store_each_as_bf16(vectors, into, streams) };
    }

    /// Two vectors' halves, in the bits of one.
    #[inline(always)]
    fn of_halves(first: Self::Halves, second: Self::Halves) -> Self {
        let mut halves = [0_u16; 2 * LANES];
        // SAFETY: as many as that, and any bits are numbers.
        unsafe {
            Self::store_halves(first, halves.as_mut_ptr());
            Self::store_halves(second, halves.as_mut_ptr().add(LANES));
            Self::load(halves.as_ptr().cast())
        }
    }
    /// Two vectors, as [`of_halves`](Self::of_halves), rounded to bf16.
    #[inline(always)]
    fn of_two_as_bf16([first, second]: [Self; 2]) -> Self {
        Self::of_halves(first.to_bf16(), second.to_bf16())
    }
    /// The last so many halves of the one, and the first ones of the other. There are fewer of the former than it has.
    #[inline(always)]
    unsafe fn joined(before: Self, behind: Self, halves: usize) -> Self {
        // SAFETY: by the caller.
        unsafe { joined_in_memory([before, behind], halves) }
    }

    fn no_sums() -> Self::Sums;
    unsafe fn load_sums(from: *const f64) -> Self::Sums;
    unsafe fn store_sums(sums: Self::Sums, into: *mut f64);
    fn add_to(self, sums: &mut Self::Sums);
    /// The upper half onto the lower, and so on.
    fn total(sums: Self::Sums) -> f64;
}

/// [`Vector::joined`].
#[inline(always)]
unsafe fn joined_in_memory<V: Vector>(both: [V; 2], halves: usize) -> V {
    // SAFETY: by the caller, within both.
    unsafe { both.as_ptr().byte_add(LINE - 2 * halves).read_unaligned() }
}

/// [`Vector::store_as_bf16`], one by one.
#[inline(always)]
unsafe fn store_each_as_bf16<V: Vector, const COUNT: usize>(vectors: [V; COUNT], into: *mut u16, streams: bool) {
    for (index, &vector) in vectors.iter().enumerate() {
        // SAFETY: by the caller.
        unsafe {
            let into = into.add(index * LANES);
            if streams {
                V::stream_halves(vector.to_bf16(), into);
            } else {
                V::store_halves(vector.to_bf16(), into);
            }
        }
    }
}

/// The same as [`Vector::mul_add`] of one number.
#[inline(always)]
pub(super) fn mul_add<V: Vector>(number: f32, factor: f32, addend: f32) -> f32 {
    if V::FUSES { number.mul_add(factor, addend) } else { number * factor + addend }
}

/// The same in f64.
#[inline(always)]
pub(super) fn mul_add_in_f64<V: Vector>(number: f64, factor: f64, addend: f64) -> f64 {
    if V::FUSES { number.mul_add(factor, addend) } else { number * factor + addend }
}

/// A function of each of some vectors. (The array's own `map` is not inlined early enough to know the instructions.)
#[inline(always)]
pub(super) fn each<V: Vector, const COUNT: usize>(mut vectors: [V; COUNT], function: impl Fn(V) -> V) -> [V; COUNT] {
    for vector in &mut vectors {
        *vector = function(*vector);
    }
    vectors
}

/// Loads the line at `address` into the caches in good time. Any address is right.
#[inline(always)]
pub(super) fn prefetch<E>(address: *const E) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which faults nowhere; SSE is part of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The same, but not into the nearest cache, which has what is worked at.
#[inline(always)]
pub(super) fn prefetch_far<E>(address: *const E) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The same into the nearest cache, for what is used there once: it need not be kept in those behind, into which lines would
/// be written as they leave.
#[inline(always)]
pub(super) fn prefetch_once<E>(address: *const E) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_NTA, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_NTA>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Makes what was streamed visible before whatever follows.
#[inline(always)]
pub(super) fn finish_streaming() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Where the lowest bit of an integer of sixteenths is to be, to be added to a number's exponent.
const BELOW_EXPONENT: u32 = 23 - 4;

/// The bits of twice 2ⁿᐟ¹⁶, less what n itself adds to them.
const ROOTS: [u32; LANES] = [
    0x4000_0000,
    0x3ffd_aac3,
    0x3ffb_95c2,
    0x3ff9_c3d3,
    0x3ff8_37f0,
    0x3ff6_f532,
    0x3ff5_fed7,
    0x3ff5_583f,
    0x3ff5_04f3,
    0x3ff5_08a4,
    0x3ff5_672a,
    0x3ff6_248c,
    0x3ff7_44fd,
    0x3ff8_ccdf,
    0x3ffa_c0c7,
    0x3ffd_257d,
];

/// By what part of itself each of those is larger than the true one.
const ROUNDED_UP_BY: [f32; LANES] = [
    0.0, -4.629e-8, 1.199e-8, -4.730e-8, -3.193e-8, -3.621e-8, 3.099e-8, 7.475e-9, -1.711e-8, 3.048e-8, -5.233e-9,
    -6.108e-9, 1.472e-8, 5.259e-9, 6.128e-9, -5.141e-9,
];

/// Four numbers, and two of f64: what the compiler may assume of every machine.
#[cfg(target_arch = "x86_64")]
mod quad {
    use std::arch::x86_64::*;

    /// Where the machine can, wider vectors are chosen. In tests it is done one by one, so that all levels can be compared.
    pub(super) const FUSES: bool = cfg!(test);

    pub(super) type Quad = __m128;
    pub(super) type Pair = __m128d;

    macro_rules! functions {
        ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty { $body:expr })*) => {
            $(
                #[inline(always)]
                pub(super) fn $name($($argument: $type),*) -> $result {
                    // SAFETY: SSE2 is part of x86-64.
                    unsafe { $body }
                }
            )*
        };
    }

    functions! {
        splat(value: f32) -> Quad { _mm_set1_ps(value) }
        add(a: Quad, b: Quad) -> Quad { _mm_add_ps(a, b) }
        sub(a: Quad, b: Quad) -> Quad { _mm_sub_ps(a, b) }
        mul(a: Quad, b: Quad) -> Quad { _mm_mul_ps(a, b) }
        div(a: Quad, b: Quad) -> Quad { _mm_div_ps(a, b) }
        // The second operand is the result where one is NaN.
        at_least(a: Quad, least: Quad) -> Quad { _mm_max_ps(least, a) }
        at_most(a: Quad, most: Quad) -> Quad { _mm_min_ps(most, a) }
        zero() -> Pair { _mm_setzero_pd() }
        add_pairs(a: Pair, b: Pair) -> Pair { _mm_add_pd(a, b) }
        low(a: Quad) -> Pair { _mm_cvtps_pd(a) }
        high(a: Quad) -> Pair { _mm_cvtps_pd(_mm_movehl_ps(a, a)) }
    }

    #[cfg(not(test))]
    #[inline(always)]
    pub(super) fn mul_add(a: Quad, b: Quad, c: Quad) -> Quad {
        add(mul(a, b), c)
    }

    #[cfg(test)]
    pub(super) fn mul_add(a: Quad, b: Quad, c: Quad) -> Quad {
        // SAFETY: four numbers either way.
        let [mut numbers, factors, addends]: [[f32; 4]; 3] = unsafe { std::mem::transmute([a, b, c]) };
        for (number, (factor, addend)) in numbers.iter_mut().zip(factors.into_iter().zip(addends)) {
            *number = number.mul_add(factor, addend);
        }
        // SAFETY: as above.
        unsafe { std::mem::transmute(numbers) }
    }
}

#[cfg(target_arch = "aarch64")]
mod quad {
    use std::arch::aarch64::*;

    pub(super) const FUSES: bool = true;

    pub(super) type Quad = float32x4_t;
    pub(super) type Pair = float64x2_t;

    macro_rules! functions {
        ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty { $body:expr })*) => {
            $(
                #[inline(always)]
                pub(super) fn $name($($argument: $type),*) -> $result {
                    // SAFETY: NEON is part of these targets.
                    #[allow(unused_unsafe, reason = "some compilers know that")]
                    unsafe { $body }
                }
            )*
        };
    }

    functions! {
        splat(value: f32) -> Quad { vdupq_n_f32(value) }
        add(a: Quad, b: Quad) -> Quad { vaddq_f32(a, b) }
        sub(a: Quad, b: Quad) -> Quad { vsubq_f32(a, b) }
        mul(a: Quad, b: Quad) -> Quad { vmulq_f32(a, b) }
        mul_add(a: Quad, b: Quad, c: Quad) -> Quad { vfmaq_f32(c, a, b) }
        div(a: Quad, b: Quad) -> Quad { vdivq_f32(a, b) }
        // The machine's own would prefer 0 to -0.
        at_least(a: Quad, least: Quad) -> Quad { vbslq_f32(vcgtq_f32(least, a), least, a) }
        at_most(a: Quad, most: Quad) -> Quad { vbslq_f32(vcgtq_f32(a, most), most, a) }
        zero() -> Pair { vdupq_n_f64(0.0) }
        add_pairs(a: Pair, b: Pair) -> Pair { vaddq_f64(a, b) }
        low(a: Quad) -> Pair { vcvt_f64_f32(vget_low_f32(a)) }
        high(a: Quad) -> Pair { vcvt_high_f64_f32(a) }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod quad {
    pub(super) const FUSES: bool = false;

    pub(super) type Quad = [f32; 4];
    pub(super) type Pair = [f64; 2];

    macro_rules! of_each {
        ($($name:ident($a:ident, $b:ident) { $body:expr })*) => {
            $(
                #[inline(always)]
                pub(super) fn $name(first: Quad, second: Quad) -> Quad {
                    let mut result = first;
                    for (result, $b) in result.iter_mut().zip(second) {
                        let $a = *result;
                        *result = $body;
                    }
                    result
                }
            )*
        };
    }

    of_each! {
        add(a, b) { a + b }
        sub(a, b) { a - b }
        mul(a, b) { a * b }
        div(a, b) { a / b }
        at_least(a, b) { if a < b { b } else { a } }
        at_most(a, b) { if a > b { b } else { a } }
    }

    #[inline(always)]
    pub(super) fn mul_add(a: Quad, b: Quad, c: Quad) -> Quad {
        add(mul(a, b), c)
    }
    #[inline(always)]
    pub(super) fn splat(value: f32) -> Quad {
        [value; 4]
    }
    #[inline(always)]
    pub(super) fn zero() -> Pair {
        [0.0; 2]
    }
    #[inline(always)]
    pub(super) fn add_pairs([a, b]: Pair, [c, d]: Pair) -> Pair {
        [a + c, b + d]
    }
    #[inline(always)]
    pub(super) fn low([a, b, _, _]: Quad) -> Pair {
        [f64::from(a), f64::from(b)]
    }
    #[inline(always)]
    pub(super) fn high([_, _, a, b]: Quad) -> Pair {
        [f64::from(a), f64::from(b)]
    }
}

/// Whatever machine: four times four numbers.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Portable([quad::Quad; 4]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, function: impl Fn(quad::Quad, quad::Quad) -> quad::Quad) -> Self {
        let (Self([a, b, c, d]), Self([e, f, g, h])) = (self, other);
        Self([function(a, e), function(b, f), function(c, g), function(d, h)])
    }

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        // SAFETY: both are sixteen numbers of f32.
        unsafe { std::mem::transmute(self) }
    }

    #[inline(always)]
    fn from_array(array: [f32; LANES]) -> Self {
        // SAFETY: as above.
        unsafe { std::mem::transmute(array) }
    }
}

/// Not inlined, for they are long.
mod out_of_line {
    use super::{BELOW_EXPONENT, LANES, ROOTS, ROUNDED_UP_BY};

    pub(super) fn roots(numbers: [f32; LANES]) -> [[f32; LANES]; 2] {
        let mut found = [numbers; 2];
        let [roots, rounded] = &mut found;
        for (root, rounded) in roots.iter_mut().zip(rounded) {
            let n = root.to_bits();
            let place = n as usize % LANES;
            *root = f32::from_bits(ROOTS[place].wrapping_add(n << BELOW_EXPONENT));
            *rounded = ROUNDED_UP_BY[place];
        }
        found
    }

    pub(super) fn first(numbers: [f32; LANES], count: usize, others: [f32; LANES]) -> [f32; LANES] {
        let mut result = others;
        let (taken, _) = result.split_at_mut(count);
        for (place, number) in taken.iter_mut().zip(numbers) {
            *place = number;
        }
        result
    }

    pub(super) fn from_f16(halves: [u16; LANES]) -> [f32; LANES] {
        halves.map(|bits| half::f16::from_bits(bits).to_f32_const())
    }

    pub(super) fn to_f16(numbers: [f32; LANES]) -> [u16; LANES] {
        numbers.map(|number| half::f16::from_f32_const(number).to_bits())
    }

    pub(super) fn from_bf16(halves: [u16; LANES]) -> [f32; LANES] {
        halves.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }

    pub(super) fn to_bf16(numbers: [f32; LANES]) -> [u16; LANES] {
        numbers.map(|number| {
            let bits = number.to_bits();
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
            // A NaN could be rounded to infinity, or lose all of the payload that makes it one.
            ((if number.is_nan() { bits | 0x0040_0000 } else { rounded }) >> 16) as u16
        })
    }
}

impl Vector for Portable {
    const FUSES: bool = quad::FUSES;

    const STREAMS: bool = false;

    type Sums = [quad::Pair; 8];
    type Halves = [u16; LANES];

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([quad::splat(value); 4])
    }
    #[inline(always)]
    fn lowest(self) -> f32 {
        self.to_array()[0]
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, quad::add)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, quad::sub)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, quad::mul)
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        let (Self([a, b, c, d]), Self([e, f, g, h]), Self([i, j, k, l])) = (self, factor, addend);
        Self([quad::mul_add(a, e, i), quad::mul_add(b, f, j), quad::mul_add(c, g, k), quad::mul_add(d, h, l)])
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, quad::div)
    }
    #[inline(always)]
    fn at_least(self, least: Self) -> Self {
        self.zip(least, quad::at_least)
    }
    #[inline(always)]
    fn at_most(self, most: Self) -> Self {
        self.zip(most, quad::at_most)
    }
    #[inline(always)]
    fn twice_the_root(self) -> [Self; 2] {
        out_of_line::roots(self.to_array()).map(Self::from_array)
    }
    #[inline(always)]
    fn first(self, count: usize, others: Self) -> Self {
        Self::from_array(out_of_line::first(self.to_array(), count, others.to_array()))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: by the caller; sixteen numbers either way.
        unsafe { from.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, count: usize) -> Self {
        let mut result = [0.0; LANES];
        // SAFETY: by the caller.
        unsafe { from.copy_to_nonoverlapping(result.as_mut_ptr(), count) };
        Self::from_array(result)
    }
    #[inline(always)]
    unsafe fn store(self, into: *mut f32) {
        // SAFETY: by the caller; sixteen numbers either way.
        unsafe { into.cast::<Self>().write_unaligned(self) };
    }
    #[inline(always)]
    unsafe fn store_some(self, into: *mut f32, count: usize) {
        // SAFETY: by the caller.
        unsafe { into.copy_from_nonoverlapping(self.to_array().as_ptr(), count) };
    }
    #[inline(always)]
    unsafe fn stream(self, into: *mut f32) {
        // SAFETY: by the caller.
        unsafe { self.store(into) };
    }

    #[inline(always)]
    unsafe fn load_halves(from: *const u16) -> [u16; LANES] {
        // SAFETY: by the caller.
        unsafe { from.cast::<[u16; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_some_halves(from: *const u16, count: usize) -> [u16; LANES] {
        let mut result = [0; LANES];
        // SAFETY: by the caller.
        unsafe { from.copy_to_nonoverlapping(result.as_mut_ptr(), count) };
        result
    }
    #[inline(always)]
    unsafe fn store_halves(halves: [u16; LANES], into: *mut u16) {
        // SAFETY: by the caller.
        unsafe { into.cast::<[u16; LANES]>().write_unaligned(halves) };
    }
    #[inline(always)]
    unsafe fn store_some_halves(halves: [u16; LANES], into: *mut u16, count: usize) {
        // SAFETY: by the caller.
        unsafe { into.copy_from_nonoverlapping(halves.as_ptr(), count) };
    }
    #[inline(always)]
    unsafe fn stream_halves(halves: [u16; LANES], into: *mut u16) {
        // SAFETY: by the caller.
        unsafe { Self::store_halves(halves, into) };
    }

    #[inline(always)]
    fn from_f16(halves: [u16; LANES]) -> Self {
        Self::from_array(out_of_line::from_f16(halves))
    }
    #[inline(always)]
    fn to_f16(self) -> [u16; LANES] {
        out_of_line::to_f16(self.to_array())
    }
    #[inline(always)]
    fn from_bf16(halves: [u16; LANES]) -> Self {
        Self::from_array(out_of_line::from_bf16(halves))
    }
    #[inline(always)]
    fn to_bf16(self) -> [u16; LANES] {
        out_of_line::to_bf16(self.to_array())
    }

    #[inline(always)]
    fn no_sums() -> Self::Sums {
        [quad::zero(); 8]
    }
    #[inline(always)]
    unsafe fn load_sums(from: *const f64) -> Self::Sums {
        // SAFETY: by the caller; sixteen numbers either way.
        unsafe { from.cast::<Self::Sums>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_sums(sums: Self::Sums, into: *mut f64) {
        // SAFETY: by the caller; sixteen numbers either way.
        unsafe { into.cast::<Self::Sums>().write_unaligned(sums) };
    }
    #[inline(always)]
    fn add_to(self, sums: &mut Self::Sums) {
        let Self(quads) = self;
        for (sums, quad) in sums.as_chunks_mut::<2>().0.iter_mut().zip(quads) {
            sums[0] = quad::add_pairs(sums[0], quad::low(quad));
            sums[1] = quad::add_pairs(sums[1], quad::high(quad));
        }
    }
    #[inline(always)]
    fn total([a, b, c, d, e, f, g, h]: Self::Sums) -> f64 {
        let [a, b, c, d] = [quad::add_pairs(a, e), quad::add_pairs(b, f), quad::add_pairs(c, g), quad::add_pairs(d, h)];
        let pair = quad::add_pairs(quad::add_pairs(a, c), quad::add_pairs(b, d));
        // SAFETY: two numbers either way.
        let [low, high]: [f64; 2] = unsafe { std::mem::transmute(pair) };
        low + high
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BELOW_EXPONENT, LANES, ROOTS, ROUNDED_UP_BY, Vector};

    /// Two registers.
    #[derive(Clone, Copy)]
    pub(in crate::cpu) struct Avx2(__m256, __m256);

    /// All ones in the lanes below `count`, of eight.
    #[inline(always)]
    unsafe fn mask_of_8(count: usize) -> __m256i {
        const ONES_AND_ZEROS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: eight from one of the first nine on; the caller has AVX2.
        unsafe { _mm256_loadu_si256(ONES_AND_ZEROS.as_ptr().add(8 - count.min(8)).cast()) }
    }

    #[inline(always)]
    unsafe fn sum_of_4(lanes: __m256d) -> f64 {
        // SAFETY: the caller has AVX.
        unsafe {
            let two = _mm_add_pd(_mm256_castpd256_pd128(lanes), _mm256_extractf128_pd::<1>(lanes));
            _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)))
        }
    }

    /// Numbers of a table, by the lowest four bits of each.
    #[inline(always)]
    unsafe fn from_16(table: *const f32, index: __m256) -> __m256 {
        // SAFETY: the caller has AVX2, and so large a table.
        unsafe {
            let (index, is_upper) = (_mm256_castps_si256(index), _mm256_slli_epi32::<28>(_mm256_castps_si256(index)));
            let lower = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index);
            let upper = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.add(8)), index);
            _mm256_blendv_ps(lower, upper, _mm256_castsi256_ps(is_upper))
        }
    }

    #[inline(always)]
    unsafe fn twice_the_root_of_8(n: __m256) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe {
            let root = _mm256_castps_si256(from_16(ROOTS.as_ptr().cast(), n));
            _mm256_castsi256_ps(_mm256_add_epi32(
                root,
                _mm256_slli_epi32::<{ BELOW_EXPONENT.cast_signed() }>(_mm256_castps_si256(n)),
            ))
        }
    }

    #[inline(always)]
    unsafe fn to_bf16_of_8(values: __m256) -> __m128i {
        // SAFETY: the caller has AVX2.
        unsafe {
            let bits = _mm256_castps_si256(values);
            // All ones, so minus one, where it is. Shifts have but one port on some processors.
            let last = _mm256_set1_epi32(0x1_0000);
            let is_odd = _mm256_cmpeq_epi32(_mm256_and_si256(bits, last), last);
            let rounded = _mm256_sub_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), is_odd);
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
            let wide = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan));
            _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide))
        }
    }

    /// At most sixteen, by instructions of their own: a call of `memcpy` takes longer, and leaves no registers.
    ///
    /// # Safety
    /// As [`ptr::copy_nonoverlapping`](std::ptr::copy_nonoverlapping).
    #[inline(always)]
    unsafe fn copy_some(from: *const u16, into: *mut u16, count: usize) {
        let mut at = 0;
        // SAFETY: by the caller; each takes as many as its bit of the count says.
        unsafe {
            if count & 16 != 0 {
                into.cast::<[u16; 16]>().write_unaligned(from.cast::<[u16; 16]>().read_unaligned());
            }
            if count & 8 != 0 {
                into.cast::<[u16; 8]>().write_unaligned(from.cast::<[u16; 8]>().read_unaligned());
                at = 8;
            }
            if count & 4 != 0 {
                into.add(at).cast::<u64>().write_unaligned(from.add(at).cast::<u64>().read_unaligned());
                at += 4;
            }
            if count & 2 != 0 {
                into.add(at).cast::<u32>().write_unaligned(from.add(at).cast::<u32>().read_unaligned());
                at += 2;
            }
            if count & 1 != 0 {
                into.add(at).write(from.add(at).read());
            }
        }
    }

    /// A function of whole registers.
    macro_rules! of_both {
        ($name:ident, $intrinsic:ident) => {
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                // SAFETY: called where there is AVX2.
                unsafe { Self($intrinsic(self.0, other.0), $intrinsic(self.1, other.1)) }
            }
        };
    }

    impl Vector for Avx2 {
        const FUSES: bool = true;

        type Sums = [__m256d; 4];
        type Halves = (__m128i, __m128i);

        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: called where there is AVX2, as all of these functions.
            unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
        }
        #[inline(always)]
        fn lowest(self) -> f32 {
            // SAFETY: as above.
            unsafe { _mm256_cvtss_f32(self.0) }
        }
        of_both!(add, _mm256_add_ps);
        of_both!(sub, _mm256_sub_ps);
        of_both!(mul, _mm256_mul_ps);
        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: called where there is FMA too.
            unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, addend.0), _mm256_fmadd_ps(self.1, factor.1, addend.1)) }
        }
        of_both!(div, _mm256_div_ps);
        // The second operand is the result where one is NaN.
        #[inline(always)]
        fn at_least(self, least: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_max_ps(least.0, self.0), _mm256_max_ps(least.1, self.1)) }
        }
        #[inline(always)]
        fn at_most(self, most: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_min_ps(most.0, self.0), _mm256_min_ps(most.1, self.1)) }
        }
        #[inline(always)]
        fn twice_the_root(self) -> [Self; 2] {
            let Self(a, b) = self;
            // SAFETY: as above; the table has sixteen numbers.
            unsafe {
                let rounded = ROUNDED_UP_BY.as_ptr();
                let rounded = Self(from_16(rounded, a), from_16(rounded, b));
                [Self(twice_the_root_of_8(a), twice_the_root_of_8(b)), rounded]
            }
        }
        #[inline(always)]
        fn first(self, count: usize, others: Self) -> Self {
            // SAFETY: as above.
            unsafe {
                let (low, high) = (mask_of_8(count), mask_of_8(count.saturating_sub(8)));
                Self(
                    _mm256_blendv_ps(others.0, self.0, _mm256_castsi256_ps(low)),
                    _mm256_blendv_ps(others.1, self.1, _mm256_castsi256_ps(high)),
                )
            }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: by the caller.
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        unsafe fn load_some(from: *const f32, count: usize) -> Self {
            // SAFETY: by the caller; what is masked is not accessed.
            unsafe {
                let (low, high) = (mask_of_8(count), mask_of_8(count.saturating_sub(8)));
                Self(_mm256_maskload_ps(from, low), _mm256_maskload_ps(from.wrapping_add(8), high))
            }
        }
        #[inline(always)]
        unsafe fn store(self, into: *mut f32) {
            // SAFETY: by the caller.
            unsafe {
                _mm256_storeu_ps(into, self.0);
                _mm256_storeu_ps(into.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn store_some(self, into: *mut f32, count: usize) {
            // SAFETY: by the caller; what is masked is not accessed.
            unsafe {
                _mm256_maskstore_ps(into, mask_of_8(count), self.0);
                _mm256_maskstore_ps(into.wrapping_add(8), mask_of_8(count.saturating_sub(8)), self.1);
            }
        }
        #[inline(always)]
        unsafe fn stream(self, into: *mut f32) {
            // SAFETY: by the caller.
            unsafe {
                _mm256_stream_ps(into, self.0);
                _mm256_stream_ps(into.add(8), self.1);
            }
        }

        #[inline(always)]
        unsafe fn load_halves(from: *const u16) -> Self::Halves {
            // SAFETY: by the caller.
            unsafe { (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(8).cast())) }
        }
        #[inline(always)]
        unsafe fn load_some_halves(from: *const u16, count: usize) -> Self::Halves {
            let mut all = [0_u16; LANES];
            // SAFETY: by the caller.
            unsafe {
                copy_some(from, all.as_mut_ptr(), count);
                Self::load_halves(all.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn store_halves((low, high): Self::Halves, into: *mut u16) {
            // SAFETY: by the caller.
            unsafe {
                _mm_storeu_si128(into.cast(), low);
                _mm_storeu_si128(into.add(8).cast(), high);
            }
        }
        #[inline(always)]
        unsafe fn store_some_halves(halves: Self::Halves, into: *mut u16, count: usize) {
            let mut all = [0_u16; LANES];
            // SAFETY: by the caller.
            unsafe {
                Self::store_halves(halves, all.as_mut_ptr());
                copy_some(all.as_ptr(), into, count);
            }
        }
        #[inline(always)]
        unsafe fn stream_halves((low, high): Self::Halves, into: *mut u16) {
            // SAFETY: by the caller.
            unsafe {
                _mm_stream_si128(into.cast(), low);
                _mm_stream_si128(into.add(8).cast(), high);
            }
        }

        #[inline(always)]
        fn from_f16((low, high): Self::Halves) -> Self {
            // SAFETY: called where there is F16C too.
            unsafe { Self(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)) }
        }
        #[inline(always)]
        fn to_f16(self) -> Self::Halves {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
            // SAFETY: as above.
            unsafe { (_mm256_cvtps_ph::<NEAREST>(self.0), _mm256_cvtps_ph::<NEAREST>(self.1)) }
        }
        #[inline(always)]
        fn from_bf16((low, high): Self::Halves) -> Self {
            // SAFETY: as above.
            unsafe {
                // Into the upper halves; of each half register, four of its eight.
                let into_upper = _mm256_setr_epi8(
                    -1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7, //
                    -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15,
                );
                let (low, high) = (_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high));
                Self(
                    _mm256_castsi256_ps(_mm256_shuffle_epi8(low, into_upper)),
                    _mm256_castsi256_ps(_mm256_shuffle_epi8(high, into_upper)),
                )
            }
        }
        #[inline(always)]
        fn to_bf16(self) -> Self::Halves {
            // SAFETY: as above.
            unsafe { (to_bf16_of_8(self.0), to_bf16_of_8(self.1)) }
        }

        #[inline(always)]
        unsafe fn joined(before: Self, behind: Self, halves: usize) -> Self {
            let numbers = halves / 2;
            if !halves.is_multiple_of(2) {
                // SAFETY: by the caller.
                return unsafe { super::joined_in_memory([before, behind], halves) };
            }
            if numbers == 0 {
                return behind;
            }
            let [first, second, third] =
                if numbers >= 8 { [before.0, before.1, behind.0] } else { [before.1, behind.0, behind.1] };
            // SAFETY: as above.
            unsafe {
                let counted = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let from = _mm256_add_epi32(counted, _mm256_set1_epi32(8 - (numbers % 8) as i32));
                let is_next = _mm256_castsi256_ps(_mm256_cmpgt_epi32(from, _mm256_set1_epi32(7)));
                let part = |low, high| {
                    let (low, high) = (_mm256_permutevar8x32_ps(low, from), _mm256_permutevar8x32_ps(high, from));
                    _mm256_blendv_ps(low, high, is_next)
                };
                Self(part(first, second), part(second, third))
            }
        }

        #[inline(always)]
        fn no_sums() -> Self::Sums {
            // SAFETY: as above.
            unsafe { [_mm256_setzero_pd(); 4] }
        }
        #[inline(always)]
        unsafe fn load_sums(from: *const f64) -> Self::Sums {
            // SAFETY: by the caller.
            unsafe {
                [
                    _mm256_loadu_pd(from),
                    _mm256_loadu_pd(from.add(4)),
                    _mm256_loadu_pd(from.add(8)),
                    _mm256_loadu_pd(from.add(12)),
                ]
            }
        }
        #[inline(always)]
        unsafe fn store_sums([a, b, c, d]: Self::Sums, into: *mut f64) {
            // SAFETY: by the caller.
            unsafe {
                _mm256_storeu_pd(into, a);
                _mm256_storeu_pd(into.add(4), b);
                _mm256_storeu_pd(into.add(8), c);
                _mm256_storeu_pd(into.add(12), d);
            }
        }
        #[inline(always)]
        fn add_to(self, sums: &mut Self::Sums) {
            // SAFETY: as above.
            unsafe {
                let Self(low, high) = self;
                sums[0] = _mm256_add_pd(sums[0], _mm256_cvtps_pd(_mm256_castps256_ps128(low)));
                sums[1] = _mm256_add_pd(sums[1], _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(low)));
                sums[2] = _mm256_add_pd(sums[2], _mm256_cvtps_pd(_mm256_castps256_ps128(high)));
                sums[3] = _mm256_add_pd(sums[3], _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(high)));
            }
        }
        #[inline(always)]
        fn total([a, b, c, d]: Self::Sums) -> f64 {
            // SAFETY: as above.
            unsafe { sum_of_4(_mm256_add_pd(_mm256_add_pd(a, c), _mm256_add_pd(b, d))) }
        }
    }

    /// One register. `ROUNDS_TO_BF16` where the machine has an instruction for that.
    #[derive(Clone, Copy)]
    pub(in crate::cpu) struct Avx512<const ROUNDS_TO_BF16: bool>(__m512);

    /// For each sixteen bits, which ones they are to be: of the upper halves of numbers, the lowest sixteen; and the other way.
    const INTO_UPPER: [u16; 2 * LANES] = {
        let mut from = [0; 2 * LANES];
        let mut number = 0;
        while number < LANES {
            from[2 * number + 1] = number as u16;
            number += 1;
        }
        from
    };
    const COUNTED: [u16; 2 * LANES] = {
        let mut counted = [0; 2 * LANES];
        let mut number = 0;
        while number < 2 * LANES {
            counted[number] = number as u16;
            number += 1;
        }
        counted
    };
    const FROM_UPPER: [u16; 2 * LANES] = {
        let mut from = [0; 2 * LANES];
        let mut number = 0;
        while number < LANES {
            from[number] = 2 * number as u16 + 1;
            number += 1;
        }
        from
    };

    /// The upper halves of numbers. Of a mask that the compiler knows it makes an instruction of its own behind each that is masked.
    #[inline(always)]
    fn upper_halves() -> __mmask32 {
        let mut mask = 0xAAAA_AAAA;
        // SAFETY: no instruction.
        unsafe { std::arch::asm!("/* {0:e} */", inout(reg) mask, options(pure, nomem, nostack, preserves_flags)) };
        mask
    }

    /// The class of what is subnormal.
    const SUBNORMAL: i32 = 0x20;

    /// # Safety
    /// There is AVX-512.
    #[inline(always)]
    unsafe fn words(words: &[u16; 2 * LANES]) -> __m512i {
        // SAFETY: by the caller; as many words as that.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[inline(always)]
    fn mask(count: usize) -> __mmask16 {
        // At most sixteen.
        ((1_u32 << count) - 1) as __mmask16
    }

    macro_rules! of_one {
        ($name:ident, $intrinsic:ident) => {
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                // SAFETY: called where there is AVX-512.
                Self(unsafe { $intrinsic(self.0, other.0) })
            }
        };
    }

    impl<const ROUNDS_TO_BF16: bool> Vector for Avx512<ROUNDS_TO_BF16> {
        const FUSES: bool = true;
        const HAS_MANY_REGISTERS: bool = true;

        type Sums = [__m512d; 2];
        type Halves = __m256i;

        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: called where there is AVX-512, as all of these functions.
            Self(unsafe { _mm512_set1_ps(value) })
        }
        #[inline(always)]
        fn lowest(self) -> f32 {
            // SAFETY: as above.
            unsafe { _mm512_cvtss_f32(self.0) }
        }
        of_one!(add, _mm512_add_ps);
        of_one!(sub, _mm512_sub_ps);
        of_one!(mul, _mm512_mul_ps);
        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
        }
        of_one!(div, _mm512_div_ps);
        // The second operand is the result where one is NaN.
        #[inline(always)]
        fn at_least(self, least: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_max_ps(least.0, self.0) })
        }
        #[inline(always)]
        fn at_most(self, most: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_min_ps(most.0, self.0) })
        }
        #[inline(always)]
        fn twice_the_root(self) -> [Self; 2] {
            // SAFETY: as above; each table has as many numbers as that.
            unsafe {
                let n = _mm512_castps_si512(self.0);
                let roots = _mm512_permutexvar_epi32(n, _mm512_loadu_si512(ROOTS.as_ptr().cast()));
                let roots = _mm512_add_epi32(roots, _mm512_slli_epi32::<BELOW_EXPONENT>(n));
                let rounded = _mm512_permutexvar_ps(n, _mm512_loadu_ps(ROUNDED_UP_BY.as_ptr()));
                [Self(_mm512_castsi512_ps(roots)), Self(rounded)]
            }
        }
        #[inline(always)]
        fn within(self, most: f32) -> Self {
            // SAFETY: as above. By magnitude the smaller one, with the sign of the first.
            Self(unsafe { _mm512_range_ps::<0b0010>(self.0, _mm512_set1_ps(most)) })
        }
        #[inline(always)]
        fn first(self, count: usize, others: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_mask_mov_ps(others.0, mask(count), self.0) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: by the caller.
            Self(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn load_some(from: *const f32, count: usize) -> Self {
            // SAFETY: by the caller; what is masked is not accessed.
            Self(unsafe { _mm512_maskz_loadu_ps(mask(count), from) })
        }
        #[inline(always)]
        unsafe fn store(self, into: *mut f32) {
            // SAFETY: by the caller.
            unsafe { _mm512_storeu_ps(into, self.0) };
        }
        #[inline(always)]
        unsafe fn store_some(self, into: *mut f32, count: usize) {
            // SAFETY: by the caller; what is masked is not accessed.
            unsafe { _mm512_mask_storeu_ps(into, mask(count), self.0) };
        }
        #[inline(always)]
        unsafe fn stream(self, into: *mut f32) {
            // SAFETY: by the caller.
            unsafe { _mm512_stream_ps(into, self.0) };
        }

        #[inline(always)]
        unsafe fn load_halves(from: *const u16) -> __m256i {
            // SAFETY: by the caller.
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn load_some_halves(from: *const u16, count: usize) -> __m256i {
            // SAFETY: by the caller; what is masked is not accessed.
            unsafe { _mm256_maskz_loadu_epi16(mask(count), from.cast()) }
        }
        #[inline(always)]
        unsafe fn store_halves(halves: __m256i, into: *mut u16) {
            // SAFETY: by the caller.
            unsafe { _mm256_storeu_si256(into.cast(), halves) };
        }
        #[inline(always)]
        unsafe fn store_some_halves(halves: __m256i, into: *mut u16, count: usize) {
            // SAFETY: by the caller; what is masked is not accessed.
            unsafe { _mm256_mask_storeu_epi16(into.cast(), mask(count), halves) };
        }
        #[inline(always)]
        unsafe fn stream_halves(halves: __m256i, into: *mut u16) {
            // SAFETY: by the caller.
            unsafe { _mm256_stream_si256(into.cast(), halves) };
        }

        #[inline(always)]
        fn from_f16(halves: __m256i) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_cvtph_ps(halves) })
        }
        #[inline(always)]
        fn to_f16(self) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0) }
        }
        #[inline(always)]
        fn from_bf16(halves: __m256i) -> Self {
            // SAFETY: as above.
            unsafe {
                let halves = _mm512_castsi256_si512(halves);
                Self(_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(upper_halves(), words(&INTO_UPPER), halves)))
            }
        }
        #[inline(always)]
        fn to_bf16(self) -> __m256i {
            // SAFETY: as above, and where it is said to be, there is the instruction, whose result is halves.
            unsafe {
                // It takes what is subnormal for zero.
                if ROUNDS_TO_BF16 && _mm512_fpclass_ps_mask::<SUBNORMAL>(self.0) == 0 {
                    return std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0));
                }
                let bits = _mm512_castps_si512(self.0);
                let is_odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x1_0000));
                let half = _mm512_mask_mov_epi32(_mm512_set1_epi32(0x7fff), is_odd, _mm512_set1_epi32(0x8000));
                let is_number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(self.0, self.0);
                let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
                let rounded = _mm512_mask_add_epi32(quiet, is_number, bits, half);
                _mm512_castsi512_si256(_mm512_permutexvar_epi16(words(&FROM_UPPER), rounded))
            }
        }
        #[inline(always)]
        unsafe fn store_as_bf16<const COUNT: usize>(vectors: [Self; COUNT], into: *mut u16, streams: bool) {
            // SAFETY: by the caller, and where it is said to be, there is the instruction, whose result is halves.
            unsafe {
                let (pairs, []) = vectors.as_chunks::<2>() else {
                    return super::store_each_as_bf16(vectors, into, streams);
                };
                // As a number each mask costs half of what a test of it does.
                let mut subnormals = 0;
                for vector in &vectors {
                    subnormals += u32::from(_mm512_fpclass_ps_mask::<SUBNORMAL>(vector.0));
                }
                if !ROUNDS_TO_BF16 || subnormals > 0 {
                    return super::store_each_as_bf16(vectors, into, streams);
                }
                for (index, [first, second]) in pairs.iter().enumerate() {
                    let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second.0, first.0));
                    let into = into.add(index * 2 * LANES).cast();
                    if streams {
                        _mm512_stream_si512(into, halves);
                    } else {
                        _mm512_storeu_si512(into, halves);
                    }
                }
            }
        }

        #[inline(always)]
        fn of_halves(first: __m256i, second: __m256i) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_castsi512_ps(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)) })
        }
        #[inline(always)]
        fn of_two_as_bf16([first, second]: [Self; 2]) -> Self {
            // SAFETY: as above.
            unsafe {
                let subnormals = u32::from(_mm512_fpclass_ps_mask::<SUBNORMAL>(first.0))
                    + u32::from(_mm512_fpclass_ps_mask::<SUBNORMAL>(second.0));
                if !ROUNDS_TO_BF16 || subnormals > 0 {
                    return Self::of_halves(first.to_bf16(), second.to_bf16());
                }
                Self(std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(second.0, first.0)))
            }
        }
        #[inline(always)]
        unsafe fn joined(before: Self, behind: Self, halves: usize) -> Self {
            // SAFETY: as above.
            unsafe {
                let first = _mm512_set1_epi16((2 * LANES - halves) as i16);
                let from = _mm512_add_epi16(first, words(&COUNTED));
                let (before, behind) = (_mm512_castps_si512(before.0), _mm512_castps_si512(behind.0));
                Self(_mm512_castsi512_ps(_mm512_permutex2var_epi16(before, from, behind)))
            }
        }

        #[inline(always)]
        fn no_sums() -> Self::Sums {
            // SAFETY: as above.
            unsafe { [_mm512_setzero_pd(); 2] }
        }
        #[inline(always)]
        unsafe fn load_sums(from: *const f64) -> Self::Sums {
            // SAFETY: by the caller.
            unsafe { [_mm512_loadu_pd(from), _mm512_loadu_pd(from.add(8))] }
        }
        #[inline(always)]
        unsafe fn store_sums([low, high]: Self::Sums, into: *mut f64) {
            // SAFETY: by the caller.
            unsafe {
                _mm512_storeu_pd(into, low);
                _mm512_storeu_pd(into.add(8), high);
            }
        }
        #[inline(always)]
        fn add_to(self, sums: &mut Self::Sums) {
            // SAFETY: as above.
            unsafe {
                sums[0] = _mm512_add_pd(sums[0], _mm512_cvtps_pd(_mm512_castps512_ps256(self.0)));
                sums[1] = _mm512_add_pd(sums[1], _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(self.0)));
            }
        }
        #[inline(always)]
        fn total([low, high]: Self::Sums) -> f64 {
            // SAFETY: as above.
            unsafe {
                let eight = _mm512_add_pd(low, high);
                sum_of_4(_mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd::<1>(eight)))
            }
        }
    }
}
