//! What files of models have in common: the report, the errors, and how a file is written.

mod error;
mod report;
mod unfinished;

pub use error::ModelError;
pub use report::{Report, Row, Summary, Verdict};
pub(super) use unfinished::Unfinished;
