//! `warpnorm fold`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use warpnorm::fold::onnx::{Model, ModelError, Plan, Verification};

use crate::{arguments::Fold, json, progress::Progress, table};

/// How it ended; the numbers are the exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done = 0,
    NotVerified = 1,
    Unreadable = 2,
    Refused = 3,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome as u8)
    }
}

pub fn run(arguments: &Fold) -> Result<Outcome, String> {
    let input = &arguments.input;
    let text = |error: ModelError| format!("{}: {error}", input.display());
    let output = arguments.output.as_ref();
    if output.is_some_and(|output| !arguments.in_place && is_same_file(input, output)) {
        return Err(format!("{} is the input itself; say --in-place if it is to be replaced", input.display()));
    }
    let model = Model::open(input).map_err(text)?;
    let plan = Plan::new(&model, &arguments.options()).map_err(text)?;
    let report = plan.report();
    if !arguments.quiet {
        print!("{}", table::text(report));
    }
    let is_refused = arguments.strict && report.summary.refused > 0;
    let verification = if is_refused { None } else { finish(arguments, &plan).map_err(text)? };
    if let Some(path) = &arguments.report {
        write(path, &json::text(report, verification.as_ref()))?;
    }
    if let Some(verification) = &verification
        && !arguments.quiet
    {
        print!("{}", table::verification(verification));
    }
    Ok(match verification {
        _ if is_refused => Outcome::Refused,
        Some(verification) if !verification.passed() => Outcome::NotVerified,
        _ => Outcome::Done,
    })
}

/// Writes and verifies, as far as either is wanted.
fn finish(arguments: &Fold, plan: &Plan<'_>) -> Result<Option<Verification>, ModelError> {
    let mut verification = None;
    let mut check = |folded: &Model| {
        let Some(samples) = arguments.verify else { return Ok(true) };
        let result = plan.verify(folded, samples, arguments.tol)?;
        // A model that could not be evaluated as a whole may be right; one that was and differs is not.
        let keeps = !result.failed();
        verification = Some(result);
        Ok(keeps)
    };
    match &arguments.output {
        Some(output) => {
            let progress = Progress::new(plan.report().summary.file_after, arguments.quiet);
            plan.save_if(output, &|bytes| progress.wrote(bytes), &mut check)?;
        }
        None if arguments.verify.is_some() => {
            check(&Model::from_bytes(plan.to_bytes()?)?)?;
        }
        None => {}
    }
    Ok(verification)
}

fn write(path: &PathBuf, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn is_same_file(left: &Path, right: &Path) -> bool {
    let resolved = |path: &Path| path.canonicalize().ok();
    resolved(left).zip(resolved(right)).is_some_and(|(left, right)| left == right)
}
