use super::params::{Divisor, ShortDivisor};

/// A divisor as the kernels take it: `n / d == high64(n * magic) >> shift` for every `n` below 2⁶³.
///
/// With `s = ceil(log2 d)` and `magic = floor(2^(63+s) / d) + 1`, the product overestimates `n / d` by less than `1 / d`
/// (Granlund and Montgomery, 1994), so the floor is right. Division by one has no such magic and is marked by 0.
pub(crate) fn divisor(divisor: u64) -> Divisor {
    let divisor = divisor.max(1); // of an empty tensor, which is not launched
    if divisor == 1 {
        return Divisor { divisor, ..Divisor::default() };
    }
    let shift = 64 - (divisor - 1).leading_zeros();
    // Below 2^64, because 2^s < 2 d.
    let magic = ((1_u128 << (63 + shift)) / u128::from(divisor) + 1) as u64;
    Divisor { divisor, magic, shift: shift - 1, reserved: 0 }
}

/// The same with half of the bits: `n / d == high32(n * magic) >> shift` for every `n` below 2³¹. Of a divisor that is not
/// within 2 and 2³¹ there is none, and nobody asks.
pub(crate) fn short_divisor(divisor: u64) -> ShortDivisor {
    if !(2..=1 << 31).contains(&divisor) {
        return ShortDivisor::default();
    }
    let shift = 64 - (divisor - 1).leading_zeros();
    // Below 2^32, because 2^s < 2 d.
    let magic = ((1_u64 << (31 + shift)) / divisor + 1) as u32;
    ShortDivisor { divisor: divisor as u32, magic, shift: shift - 1, reserved: 0 }
}

#[cfg(test)]
mod tests {
    use super::{divisor, short_divisor};

    #[test]
    fn divides_like_the_machine() {
        let interesting = |base: u64| [base.saturating_sub(1), base, base.saturating_add(1)];
        let divisors: Vec<u64> = (1..=70)
            .chain([255, 256, 257, 1000, 3 * 7 * 49, 65537, 1_000_003])
            .chain((20..63).flat_map(|bit| interesting(1 << bit)))
            .filter(|&d| d < 1 << 63)
            .collect();
        for &d in &divisors {
            let by = divisor(d);
            let numbers = (0..63)
                .flat_map(|bit| interesting(1 << bit))
                .chain((1..100).flat_map(|k| interesting(d.saturating_mul(k))))
                .chain([(1 << 63) - 1]);
            for n in numbers.filter(|&n| n < 1 << 63) {
                let quotient = match by.magic {
                    0 => n,
                    magic => ((u128::from(n) * u128::from(magic)) >> 64) as u64 >> by.shift,
                };
                assert_eq!(quotient, n / d, "{n} / {d}");
            }
        }
    }

    #[test]
    fn divides_short_numbers_like_the_machine() {
        let interesting = |base: u64| [base.saturating_sub(1), base, base + 1];
        let divisors: Vec<u64> = (2..=70)
            .chain([255, 256, 257, 3136, 4096, 65537, 1_000_003])
            .chain((8..31).flat_map(|bit| interesting(1 << bit)))
            .chain([(1 << 31) - 1, 1 << 31])
            .collect();
        for &d in &divisors {
            let by = short_divisor(d);
            assert_eq!(u64::from(by.divisor), d);
            let numbers =
                (0..31).flat_map(|bit| interesting(1 << bit)).chain((1..100).flat_map(|k| interesting(d * k)));
            for n in numbers.chain([(1 << 31) - 1]).filter(|&n| n < 1 << 31) {
                assert_eq!((n * u64::from(by.magic)) >> 32 >> by.shift, n / d, "{n} / {d}");
            }
        }
        assert_eq!([0, 1, (1 << 31) + 1].map(|none| short_divisor(none).magic), [0; 3]);
    }
}
