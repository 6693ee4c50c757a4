//! Rounds of windows, and what is said of them.

use super::Result;
use super::cell::{ALL_WORK, Cell, Work};

/// Of one cell. Times are of one call, in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    pub samples: usize,
    pub median_us: f64,
    pub p5_us: f64,
    pub p95_us: f64,
    pub copy_us: f64,
    /// Median over rounds of copy / call: 1 is as fast as a copy.
    pub copy_fraction: f64,
    pub read_us: f64,
    pub read_fraction: f64,
}

/// In every round one window of each, in an order that turns: whatever else the machine is at falls on all alike, and
/// ratios are taken within a round.
pub fn measure(cell: &mut dyn Cell, rounds: usize) -> Result<Figures> {
    let mut seconds: [Vec<f64>; 3] = Default::default();
    for round in 0..=rounds {
        for turn in 0..ALL_WORK.len() {
            let which = (round + turn) % ALL_WORK.len();
            let window = cell.window(ALL_WORK[which])?;
            // The first round warms up.
            if round > 0 {
                seconds[which].push(window);
            }
        }
    }
    Ok(summarize(&seconds))
}

fn summarize(seconds: &[Vec<f64>; 3]) -> Figures {
    let of = |work: Work| &seconds[ALL_WORK.iter().position(|&listed| listed == work).expect("listed")];
    let micro = |work: Work, share: f64| 1e6 * quantile(of(work), share);
    let fraction = |of_what: Work| {
        let ratios: Vec<f64> = of(of_what).iter().zip(of(Work::Call)).map(|(other, call)| other / call).collect();
        quantile(&ratios, 0.5)
    };
    Figures {
        samples: of(Work::Call).len(),
        median_us: micro(Work::Call, 0.5),
        p5_us: micro(Work::Call, 0.05),
        p95_us: micro(Work::Call, 0.95),
        copy_us: micro(Work::Copy, 0.5),
        copy_fraction: fraction(Work::Copy),
        read_us: micro(Work::Read, 0.5),
        read_fraction: fraction(Work::Read),
    }
}

/// Linear between the two nearest samples, as NumPy's default. NaN of nothing.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = share * last as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    below + (above - below) * position.fract()
}

pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}
