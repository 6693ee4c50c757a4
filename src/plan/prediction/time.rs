//! How long a launch takes, from what it asks of the chip. docs/prediction.md has the formula in words.

use super::chip::Chip;

/// What a launch asks. Bytes, blocks, instructions of warps, microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Job {
    pub blocks: f64,
    /// On the chip at a time.
    pub resident: f64,
    /// Of the tensors.
    pub read: f64,
    /// Of that, what lies in the L2.
    pub read_in_l2: f64,
    pub written: f64,
    /// Whether what is written stays in the L2.
    pub is_warm: bool,
    /// Weight and bias that come from the L2.
    pub coefficients: f64,
    /// Stores of a part of a 32-byte sector.
    pub partial_sectors: f64,
    pub instructions: f64,
    /// From a block's start until it has done its first step: in kernels without a loop, all of it.
    pub first: f64,
    /// Of that, what is instructions and not waiting.
    pub executed: f64,
    /// From a block's start to its end, were it alone.
    pub block: f64,
    /// Of the block that merges, after all others.
    pub last: f64,
}

/// What decides a launch's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Memory,
    L2,
    Issue,
    Latency,
    Stores,
    /// What no byte changes: the gap between launches, one block's way from its first load to its last store, a merge by
    /// the last block.
    Fixed,
}

impl Bound {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::L2 => "L2",
            Self::Issue => "issue",
            Self::Latency => "latency",
            Self::Stores => "narrow stores",
            Self::Fixed => "fixed",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Time {
    pub us: f64,
    pub bound: Bound,
}

/// Bytes in a microsecond at so many TB/s.
const TERA: f64 = 1e6;
const SCHEDULERS: f64 = 4.0;
const SECTOR: f64 = 32.0;

pub fn time(job: &Job, chip: &Chip) -> Time {
    let waves = (job.blocks / job.resident).ceil();
    let from_l2 = job.read + job.coefficients;
    let to_l2 = if job.is_warm { job.written } else { 0.0 };
    let issued = 1e3 * chip.clock * chip.multiprocessors * SCHEDULERS * chip.issue;
    let terms = [
        (Bound::Memory, memory(job, chip)),
        (Bound::L2, from_l2 / (TERA * chip.l2_read_bandwidth)),
        (Bound::L2, to_l2 / (TERA * chip.l2_write_bandwidth)),
        (Bound::Issue, (job.instructions / issued - job.executed).max(0.0)),
        (Bound::Latency, waves * job.block - job.first),
        (Bound::Stores, job.partial_sectors * SECTOR / (TERA * chip.l2_write_bandwidth)),
    ];
    let streaming = terms.iter().map(|(_, us)| us.powf(chip.knee)).sum::<f64>().powf(1.0 / chip.knee);
    let fixed = chip.gap + job.first + job.last;
    let longest = terms.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    Time { us: fixed + streaming, bound: if fixed > streaming { Bound::Fixed } else { longest.0 } }
}

/// Between a read's time and a copy's, by how much of it is written.
fn memory(job: &Job, chip: &Chip) -> f64 {
    let read = job.read - job.read_in_l2;
    let written = if job.is_warm { 0.0 } else { job.written };
    let bytes = read + written;
    if bytes == 0.0 {
        return 0.0;
    }
    let copied = 2.0 * read.min(written) / bytes;
    bytes / TERA * (copied / chip.copy_bandwidth + (1.0 - copied) / chip.read_bandwidth)
}

#[cfg(test)]
mod tests {
    use super::super::chip::CHIPS;
    use super::*;

    /// One wave that reads a megabyte and writes as much.
    fn job() -> Job {
        Job { blocks: 1.0, resident: 1.0, read: 1e6, written: 1e6, ..Job::default() }
    }

    /// A chip where nothing takes time but what a test is about.
    fn chip() -> Chip {
        Chip {
            gap: 0.0,
            copy_bandwidth: 1.0,
            read_bandwidth: 2.0,
            l2_read_bandwidth: f64::INFINITY,
            l2_write_bandwidth: f64::INFINITY,
            ..CHIPS[0]
        }
    }

    fn us(job: &Job, chip: &Chip) -> f64 {
        (1e6 * time(job, chip).us).round() / 1e6
    }

    #[test]
    fn bytes_take_as_long_as_a_copy_or_a_read_of_them() {
        assert_eq!(us(&job(), &chip()), 2.0);
        assert_eq!(us(&Job { written: 0.0, ..job() }, &chip()), 0.5);
        // What the L2 has is not read again, and two thirds of the rest are a copy.
        assert_eq!(us(&Job { read_in_l2: 0.5e6, ..job() }, &chip()), 1.25);
        let fixed = Job { first: 1.0, block: 1.0, last: 2.0, ..job() };
        assert_eq!(us(&fixed, &Chip { gap: 3.0, ..chip() }), 2.0 + 6.0);
    }

    #[test]
    fn warm_buffers_move_through_the_l2() {
        let warm = Job { read_in_l2: 1e6, is_warm: true, ..job() };
        assert_eq!(us(&warm, &Chip { l2_write_bandwidth: 0.5, ..chip() }), 2.0);
        let cold = us(&job(), &Chip { l2_write_bandwidth: 0.5, ..chip() });
        assert_eq!(cold, 2.0, "what goes to memory is written to the L2 meanwhile");
    }

    #[test]
    fn two_equal_bounds_hinder_each_other() {
        let late = Job { first: 1.0, block: 3.0, ..job() };
        let both = time(&late, &chip());
        assert!((both.us - 1.0 - 2.0 * 2_f64.powf(0.25)).abs() < 1e-9, "{}", both.us);
        assert_eq!(time(&Job { block: 4.0, ..late }, &chip()).bound, Bound::Latency);
        assert_eq!(time(&Job { block: 2.0, ..late }, &chip()).bound, Bound::Memory);
        assert_eq!(time(&Job { first: 9.0, block: 9.0, ..job() }, &chip()).bound, Bound::Fixed);
    }

    /// Each begun wave is a whole one.
    #[test]
    fn waves() {
        let waves =
            |blocks: f64| us(&Job { blocks, resident: 10.0, first: 1.0, block: 1.0, ..Job::default() }, &chip());
        assert_eq!([1.0, 10.0, 11.0, 20.0].map(waves), [1.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn what_a_block_alone_executes_is_not_counted_twice() {
        let chip = Chip { clock: 1e-3, multiprocessors: 1.0, issue: 0.5, ..chip() };
        let busy = Job {
            instructions: 20.0,
            first: 4.0,
            executed: 4.0,
            block: 4.0,
            ..Job { blocks: 1.0, resident: 1.0, ..Job::default() }
        };
        assert_eq!(us(&busy, &chip), 4.0 + (20.0 / 2.0 - 4.0));
        assert_eq!(us(&Job { instructions: 6.0, ..busy }, &chip), 4.0);
    }
}
