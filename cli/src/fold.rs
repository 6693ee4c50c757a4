//! `warpnorm fold`.

use std::{fs, path::Path, process::ExitCode};

use warpnorm::fold::{
    checkpoint::{self, Checkpoint, Pair, pairs_from_json},
    onnx::{self, Model, ModelError, Report, Verification},
};

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

/// A model's file, and what is decided of it.
enum Plan<'m> {
    Onnx(Box<onnx::Plan<'m>>),
    Checkpoint(checkpoint::Plan<'m>),
}

impl Plan<'_> {
    const fn report(&self) -> &Report {
        match self {
            Self::Onnx(plan) => plan.report(),
            Self::Checkpoint(plan) => plan.report(),
        }
    }
}

pub fn run(arguments: &Fold) -> Result<Outcome, String> {
    let (input, output) = (&arguments.input, arguments.output.as_ref());
    if output.is_some_and(|output| !arguments.in_place && is_same_file(input, output)) {
        return Err(format!("{} is the input itself; say --in-place if it is to be replaced", input.display()));
    }
    if let Some(report) = &arguments.report {
        let is_model = |path: &Path| path == report || is_same_file(path, report);
        if is_model(input) || output.is_some_and(|output| is_model(output)) {
            return Err(format!("{} is a model, and the report would replace it", report.display()));
        }
    }
    let text = |error: ModelError| match error {
        // The system's refusals say which file they are about.
        ModelError::Io { .. } => error.to_string(),
        _ => format!("{}: {error}", input.display()),
    };
    if input.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors")) {
        if let Some(option) = arguments.only_for_onnx() {
            return Err(format!("{option} is for ONNX models, and {} is a state dict", input.display()));
        }
        let pairs = arguments.pairs.as_ref().map(|path| pairs(path)).transpose()?;
        let is_sure = arguments.yes || pairs.is_some();
        let checkpoint = Checkpoint::open(input).map_err(text)?;
        let plan = checkpoint::Plan::new(&checkpoint, &arguments.checkpoint_options(pairs));
        let outcome = decide(arguments, &Plan::Checkpoint(plan), is_sure).map_err(text)?;
        if output.is_some() && !is_sure {
            return Err("nothing was written: look at the pairs and say --yes, or give them by --pairs".to_owned());
        }
        return Ok(outcome);
    }
    if let Some(option) = arguments.only_for_state_dicts() {
        return Err(format!(
            "{option} is for state dicts in files named *.safetensors, and {} is none",
            input.display()
        ));
    }
    let model = Model::open(input).map_err(text)?;
    let plan = onnx::Plan::new(&model, &arguments.options()).map_err(text)?;
    decide(arguments, &Plan::Onnx(Box::new(plan)), true).map_err(text)
}

fn pairs(path: &Path) -> Result<Vec<Pair>, String> {
    let text = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let json = fs::read_to_string(path).map_err(|error| text(&error))?;
    pairs_from_json(&json).map_err(|error| text(&error))
}

/// Shows the table, writes and verifies, as far as that is wanted.
fn decide(arguments: &Fold, plan: &Plan<'_>, may_write: bool) -> Result<Outcome, ModelError> {
    let report = plan.report();
    if !arguments.quiet {
        print!("{}", table::text(report));
    }
    let is_refused = arguments.strict && report.summary.refused > 0;
    let verification = if is_refused { None } else { finish(arguments, plan, may_write)? };
    if let Some(path) = &arguments.report {
        let text = json::text(report, verification.as_ref());
        fs::write(path, text).map_err(|source| ModelError::Io { path: path.clone(), source })?;
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
fn finish(arguments: &Fold, plan: &Plan<'_>, may_write: bool) -> Result<Option<Verification>, ModelError> {
    let output = arguments.output.as_ref().filter(|_| may_write);
    let progress = Progress::new(plan.report().summary.file_after, arguments.quiet || output.is_none());
    let wrote = |bytes| progress.wrote(bytes);
    let mut verification = None;
    // A model that could not be evaluated as a whole may be right; one that was and differs is not.
    let mut keeps = |result: Verification| !verification.insert(result).failed();
    match (plan, arguments.verify) {
        (Plan::Onnx(plan), Some(samples)) => {
            let mut check = |folded: &Model| Ok(keeps(plan.verify(folded, samples, arguments.tol)?));
            match output {
                Some(output) => _ = plan.save_if(output, &wrote, check)?,
                None => _ = check(&Model::from_bytes(plan.to_bytes()?)?)?,
            }
        }
        (Plan::Checkpoint(plan), Some(_)) => {
            let mut check = |folded: &Checkpoint| Ok(keeps(plan.verify(folded)));
            match output {
                Some(output) => _ = plan.save_if(output, &wrote, check)?,
                None => _ = check(&Checkpoint::from_bytes(plan.to_bytes()?)?)?,
            }
        }
        (Plan::Onnx(plan), None) => {
            output.map(|output| plan.save_if(output, &wrote, |_| Ok(true))).transpose()?;
        }
        (Plan::Checkpoint(plan), None) => {
            output.map(|output| plan.save_if(output, &wrote, |_| Ok(true))).transpose()?;
        }
    }
    Ok(verification)
}

fn is_same_file(left: &Path, right: &Path) -> bool {
    let resolved = |path: &Path| path.canonicalize().ok();
    resolved(left).zip(resolved(right)).is_some_and(|(left, right)| left == right)
}
