//! Outputs of eight bits, and their scales.

use crate::element::{Kind, Stored, sealed};

/// The type of a quantized output's elements, as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QuantizedType {
    /// `i8`.
    I8,
    /// [`F8E4M3`].
    F8E4M3,
}

impl QuantizedType {
    /// The name used in messages: `i8` or `f8e4m3`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::I8 => "i8",
            Self::F8E4M3 => "f8e4m3",
        }
    }

    /// The largest magnitude, to which a scale that is made of the values maps the largest of them: 127 or 448.
    #[must_use]
    pub const fn max(self) -> f32 {
        match self {
            Self::I8 => 127.0,
            Self::F8E4M3 => 448.0,
        }
    }
}

impl std::fmt::Display for QuantizedType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What belongs to one scale of a quantized output, `q = round(y / scale)`, and who makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scaling {
    /// The whole tensor: one number, given by the caller.
    Static,
    /// A row: `[rows]`, written.
    Rows,
    /// 128 consecutive elements of a row, its last ones perhaps fewer: `[rows, ceil(length / 128)]`, written.
    Groups,
    /// The same, `[ceil(length / 128), rows]`: as the matrix units of some GPUs want them.
    GroupsByColumn,
}

/// Elements of a row that have a scale of their own, by [`Scaling::Groups`].
pub(crate) const GROUP: usize = crate::plan::params::WN_SCALE_GROUP as usize;

impl Scaling {
    /// How many scales rows of this length have.
    #[must_use]
    pub const fn scales(self, rows: usize, length: usize) -> usize {
        match self {
            Self::Static => 1,
            Self::Rows => rows,
            Self::Groups | Self::GroupsByColumn => rows.saturating_mul(length.div_ceil(GROUP)),
        }
    }
}

/// Four bits of exponent and three of fraction, without infinities: the e4m3 of "FP8 Formats for Deep Learning"
/// (Micikevicius and others, 2022), `float8_e4m3fn` of PyTorch. The largest value is 448; NaN is 0x7f or 0xff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct F8E4M3(u8);

impl F8E4M3 {
    /// By its bits.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Its bits.
    #[must_use]
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// To nearest, ties to even; what is beyond 448 becomes 448, and NaN 0x7f.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::inline_always, reason = "called for every element of a loop that is to become vectors")]
    pub fn from_f32(value: f32) -> Self {
        let magnitude = value.to_bits() & 0x7fff_ffff;
        // Below 2⁻⁶ neighbours are 2⁻⁹ apart, as they are from 2¹⁴ on in f32: the adder rounds.
        let subnormal = (f32::from_bits(magnitude) + 16384.0).to_bits().wrapping_sub(0x4680_0000);
        // Exponents count from 7 in place of 127.
        let normal = ((magnitude + 0x7_ffff + (magnitude >> 20 & 1)) >> 20).wrapping_sub(120 << 3);
        let within = if magnitude < 0x3c80_0000 { subnormal } else { normal };
        let saturated = if magnitude > 0x43e0_0000 { 0x7e } else { within };
        let sign = value.to_bits() >> 24 & 0x80;
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        Self(if magnitude > 0x7f80_0000 { 0x7f } else { (sign | saturated) as u8 })
    }

    /// Exact.
    #[must_use]
    pub fn to_f32(self) -> f32 {
        let (exponent, fraction) = (i32::from(self.0 >> 3 & 15), f32::from(self.0 & 7));
        let magnitude = match (exponent, self.0 & 7) {
            (15, 7) => f32::NAN,
            (0, _) => fraction / 512.0,
            _ => (1.0 + fraction / 8.0) * 2.0_f32.powi(exponent - 7),
        };
        if self.0 & 0x80 == 0 { magnitude } else { -magnitude }
    }
}

/// A type that outputs are quantized to: `i8` or [`F8E4M3`].
pub trait Quantized: Stored + Default {
    /// The type as a value.
    const TYPE: QuantizedType;
    /// To nearest, ties to even, held to the type's range. NaN stays where the type has one, and is 0 in `i8`.
    #[must_use]
    fn quantize(scaled: f32) -> Self;
    /// Exact: what the element stands for, before the scale.
    #[must_use]
    fn dequantize(self) -> f32;
}

impl sealed::Sealed for i8 {}
impl Stored for i8 {
    const STORED: Kind = Kind::Quantized(QuantizedType::I8);
}

impl Quantized for i8 {
    const TYPE: QuantizedType = QuantizedType::I8;

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a conversion that saturates, and makes NaN 0")]
    fn quantize(scaled: f32) -> Self {
        scaled.round_ties_even() as Self
    }

    fn dequantize(self) -> f32 {
        f32::from(self)
    }
}

impl sealed::Sealed for F8E4M3 {}
impl Stored for F8E4M3 {
    const STORED: Kind = Kind::Quantized(QuantizedType::F8E4M3);
}

impl Quantized for F8E4M3 {
    const TYPE: QuantizedType = QuantizedType::F8E4M3;

    #[inline(always)]
    fn quantize(scaled: f32) -> Self {
        Self::from_f32(scaled)
    }

    fn dequantize(self) -> f32 {
        self.to_f32()
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact values are the point")]
mod tests {
    use super::*;

    /// Every finite value, and every midpoint of two neighbours from both sides.
    #[test]
    fn f8_rounds_to_nearest_even() {
        assert_eq!(F8E4M3(0x7e).to_f32(), 448.0);
        for low in 0..0x7e_u8 {
            let (below, above) = (F8E4M3(low).to_f32(), F8E4M3(low + 1).to_f32());
            let midpoint = (below + above) / 2.0;
            let even = low + low % 2;
            for (value, bits) in [
                (below, low),
                (above, low + 1),
                (midpoint, even),
                (midpoint.next_down(), low),
                (midpoint.next_up(), low + 1),
            ] {
                assert_eq!(F8E4M3::from_f32(value).to_bits(), bits, "{value:e}");
                assert_eq!(F8E4M3::from_f32(-value).to_bits(), bits | 0x80, "-{value:e}");
            }
        }
    }

    #[test]
    fn what_is_beyond_is_held_to_the_range() {
        for (value, f8, i8) in [
            (448.0, 448.0, 127),
            (464.0, 448.0, 127),
            (1e30, 448.0, 127),
            (f32::INFINITY, 448.0, 127),
            (f32::NEG_INFINITY, -448.0, -128),
            (-127.5, -128.0, -128),
            (0.5, 0.5, 0),
            (1.5, 1.5, 2),
            (-2.5, -2.5, -2),
        ] {
            assert_eq!(F8E4M3::from_f32(value).to_f32(), f8, "{value}");
            assert_eq!(i8::quantize(value), i8, "{value}");
        }
        assert_eq!(F8E4M3::from_f32(f32::NAN).to_bits(), 0x7f);
        assert_eq!(F8E4M3::from_f32(-f32::NAN).to_bits(), 0x7f);
        assert!(F8E4M3(0x7f).to_f32().is_nan() && F8E4M3(0xff).to_f32().is_nan());
        assert_eq!(i8::quantize(f32::NAN), 0);
    }

    #[test]
    fn as_many_scales_as_there_are_stretches() {
        assert_eq!(Scaling::Static.scales(7, 1000), 1);
        assert_eq!(Scaling::Rows.scales(7, 1000), 7);
        for (length, groups) in [(0, 0), (1, 1), (128, 1), (129, 2), (1000, 8)] {
            assert_eq!(Scaling::Groups.scales(7, length), 7 * groups);
            assert_eq!(Scaling::GroupsByColumn.scales(7, length), 7 * groups);
        }
    }
}
