//! What files of models have in common: the report, the errors, and how a file is written.

mod bytes;
mod error;
mod patterns;
mod report;
mod unfinished;
mod verification;

pub use error::ModelError;
pub use report::{Conversion, Report, Row, Summary, Verdict};
pub use verification::{PairCheck, Verification, Whole};

pub(super) use bytes::{Bytes, are_same, map};
pub(super) use patterns::selects;
pub(super) use unfinished::{SetAside, Unfinished};
pub(super) use verification::Random;
