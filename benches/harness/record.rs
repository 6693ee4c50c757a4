//! A line of the record: what was measured, of what, where and when.

use std::io::Write;
use std::process::Command;

use serde::Serialize;

use super::Result;
use super::case::Case;
use super::measure::Figures;

/// The columns of `bench.csv`, in their order. Texts, so that every number is written as precisely as it is known.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Line {
    pub op: String,
    pub case: String,
    pub variant: String,
    pub dtype: String,
    pub weight_dtype: String,
    pub layout: String,
    pub n_bytes: String,
    pub n_read_bytes: String,
    #[serde(rename = "impl")]
    pub implementation: String,
    pub version: String,
    pub kernel: String,
    pub mode: String,
    pub samples: String,
    pub median_us: String,
    pub p5_us: String,
    pub p95_us: String,
    pub copy_us: String,
    pub copy_fraction: String,
    pub read_us: String,
    pub read_fraction: String,
    pub max_err: String,
    pub status: String,
    pub threads: String,
    pub commit: String,
    pub device: String,
    pub driver: String,
    pub toolkit: String,
    pub date: String,
}

/// What a cell came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// An output beyond the bound.
    Wrong,
    /// No figures, because the device has no room for the cell.
    Unsupported,
    /// No figures, because something went wrong on the way.
    Failed,
}

impl Status {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Wrong => "wrong",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
        }
    }
}

/// Where and when lines are measured.
#[derive(Debug, Clone, Default)]
pub struct Scene {
    pub mode: &'static str,
    pub threads: String,
    pub commit: String,
    pub device: String,
    pub driver: String,
    pub toolkit: String,
    pub date: String,
}

impl Scene {
    /// A line without figures.
    pub fn line(&self, case: &Case) -> Line {
        Line {
            op: case.op_name().to_owned(),
            case: case.extents_name(),
            variant: case.variant(),
            dtype: case.dtype.to_string(),
            weight_dtype: case.weight.to_string(),
            layout: case.layout_name().to_owned(),
            n_bytes: case.bytes().to_string(),
            n_read_bytes: case.read_bytes().to_string(),
            implementation: "warpnorm".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..self.blank()
        }
    }

    /// A line of a copy or a read, which is its own ceiling.
    pub fn line_of_mover(&self, op: &str, mover: &str, bytes: usize) -> Line {
        Line {
            op: op.to_owned(),
            case: bytes.to_string(),
            n_bytes: bytes.to_string(),
            n_read_bytes: if op == "read" { bytes } else { bytes / 2 }.to_string(),
            implementation: op.to_owned(),
            kernel: mover.to_owned(),
            ..self.blank()
        }
    }

    fn blank(&self) -> Line {
        let Self { mode, threads, commit, device, driver, toolkit, date } = self.clone();
        Line { mode: mode.to_owned(), threads, commit, device, driver, toolkit, date, ..Line::default() }
    }
}

impl Line {
    pub fn with_figures(mut self, figures: &Figures) -> Self {
        self.samples = figures.samples.to_string();
        self.median_us = microseconds(figures.median_us);
        self.p5_us = microseconds(figures.p5_us);
        self.p95_us = microseconds(figures.p95_us);
        self.copy_us = microseconds(figures.copy_us);
        self.copy_fraction = fraction(figures.copy_fraction);
        self.read_us = microseconds(figures.read_us);
        self.read_fraction = fraction(figures.read_fraction);
        self
    }

    pub fn with_status(mut self, status: Status) -> Self {
        self.status = status.name().to_owned();
        self
    }

    /// One line for whoever watches.
    pub fn summary(&self) -> String {
        let gigabytes = match (self.n_bytes.parse::<f64>(), self.median_us.parse::<f64>()) {
            (Ok(bytes), Ok(us)) if us > 0.0 => format!("{:.0}", 1e-3 * bytes / us),
            _ => "-".to_owned(),
        };
        let name = [&self.op, &self.case, &self.dtype, &self.layout, &self.variant];
        let name: Vec<&str> = name.into_iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
        format!(
            "{:<58} {:>10} us {:>6} GB/s  copy {:>5}  read {:>5}  err {:>6}  {} {}",
            name.join("/"),
            self.median_us,
            gigabytes,
            self.copy_fraction,
            self.read_fraction,
            self.max_err,
            self.status,
            self.kernel
        )
    }
}

pub fn microseconds(value: f64) -> String {
    format!("{value:.3}")
}

pub fn fraction(value: f64) -> String {
    format!("{value:.4}")
}

/// The name of a folder: letters, digits and dashes.
pub fn slug(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("-")
}

/// The commit that this is, with `-dirty` where files differ from it; `unknown` outside of a checkout.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let Some(commit) = git(&["rev-parse", "--short=7", "HEAD"]) else { return "unknown".to_owned() };
    let is_clean = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| changes.is_empty());
    format!("{}{}", commit.trim(), if is_clean { "" } else { "-dirty" })
}

/// As in `nvcc 13.0.88`: what follows the words before the version, up to the next blank; nothing if it is not to be had.
pub fn version(compiler: &str, before: &str) -> String {
    let output = Command::new(compiler).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version = text.rsplit_once(before).and_then(|(_, rest)| rest.split_whitespace().next());
    version.map(|version| format!("{compiler} {version}")).unwrap_or_default()
}

/// Writes lines as they come, so that a run that is cut short leaves what it has.
pub struct Writer<W: Write> {
    csv: csv::Writer<W>,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        Self { csv: csv::Writer::from_writer(out) }
    }

    pub fn write(&mut self, line: &Line) -> Result<()> {
        self.csv.serialize(line)?;
        Ok(self.csv.flush()?)
    }
}
