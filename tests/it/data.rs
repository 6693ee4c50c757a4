//! Inputs: reproducible, and as bad as they come.

use std::sync::OnceLock;

use warpnorm::Element;

/// Numbers of a standard normal distribution; the same in every run.
pub fn normal(count: usize, seed: u64) -> impl Iterator<Item = f64> {
    let pool = pool();
    let start = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) as usize % pool.len();
    pool.iter().cycle().skip(start).take(count).map(|&v| f64::from(v))
}

fn pool() -> &'static [f32] {
    static POOL: OnceLock<Vec<f32>> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut state = 0x1234_5678_9ABC_DEF0_u64;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        // A prime number of them, so that no row length repeats.
        (0..1_000_003)
            .map(|_| {
                let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
                (radius * (std::f64::consts::TAU * uniform()).cos()) as f32
            })
            .collect()
    })
}

/// Rounded to the type they are stored in.
pub fn stored<T: Element>(values: impl Iterator<Item = f64>) -> Vec<T> {
    values.map(T::from_f64).collect()
}

pub fn exact<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64()).collect()
}

pub fn bits<T: Element>(values: &[T]) -> Vec<u64> {
    // All NaNs are one: which one a machine makes is not part of the promise.
    values.iter().map(|v| if v.to_f64().is_nan() { u64::MAX } else { v.to_f64().to_bits() }).collect()
}

/// Row counts and row lengths that have broken other libraries (the comments of their issues are in the project's notes).
pub const ROWS: [usize; 13] = [0, 1, 2, 3, 131, 132, 133, 255, 256, 257, 65_535, 65_536, 70_000];
pub const LENGTHS: [usize; 27] = [
    1, 2, 3, 7, 31, 32, 33, 127, 128, 255, 1000, 1023, 1024, 1025, 3584, 4095, 4096, 4097, 8191, 16_384, 16_385,
    32_768, 65_536, 65_537, 131_072, 262_144, 1_000_003,
];

/// Every pair of at most `limit` elements, and long rows in ones and twos.
pub fn row_matrix(limit: usize) -> impl Iterator<Item = (usize, usize)> {
    ROWS.into_iter()
        .flat_map(|rows| LENGTHS.into_iter().map(move |length| (rows, length)))
        .filter(move |&(rows, length)| rows * length <= limit || (rows <= 2 && length > 16_384))
}
