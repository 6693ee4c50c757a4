//! What can be timed of a cell.

use super::Result;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// The call itself.
    Call,
    /// A copy that moves as many bytes in all as the call: the fastest that the machine has.
    Copy,
    /// A read of as many bytes as the call reads.
    Read,
}

pub const ALL_WORK: [Work; 3] = [Work::Call, Work::Copy, Work::Read];

/// A cell on a device, with everything made that is not to be timed.
pub trait Cell {
    /// The kernel that runs, or nothing to tell.
    fn kernel(&self) -> String;
    /// Who copies, and who reads.
    fn movers(&self) -> [String; 2];
    /// Runs the call on poisoned outputs and compares: see `check::max_err`.
    fn max_err(&mut self) -> Result<f64>;
    /// Runs the work some times over, and returns how many seconds one took.
    fn window(&mut self, work: Work) -> Result<f64>;
}
