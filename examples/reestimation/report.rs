//! What the example prints: 80 columns for people, one object for programs.

use std::io::Write;

use serde::Serialize;

use super::adaptation::{BATCH, Outcome, STREAM};
use super::network::Result;
use super::network::checkpoint::{Image, SIDE};
use super::network::logits::{changed, right};
use super::shift::{SHIFTS, Shift};

const SHADES: [&str; 5] = ["  ", "░░", "▒▒", "▓▓", "██"];

#[derive(Serialize)]
struct Json<'a> {
    device: &'a str,
    stream_images: usize,
    batch: usize,
    judged_images: usize,
    shifts: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    contrast: f32,
    brightness: f32,
    noise: f32,
    accuracy_before: f64,
    accuracy_after: f64,
    accuracy_folded: f64,
    predictions_changed: usize,
    max_logit_diff: f32,
}

impl<'a> Row<'a> {
    fn new(shift: &'a Shift, judged: &[Image], outcome: &Outcome) -> Self {
        let Shift { name, contrast, brightness, noise } = *shift;
        let accuracy = |predictions: &[usize]| right(predictions, judged) as f64 / judged.len() as f64;
        Self {
            name,
            contrast,
            brightness,
            noise,
            accuracy_before: accuracy(&outcome.before),
            accuracy_after: accuracy(&outcome.after),
            accuracy_folded: accuracy(&outcome.folded),
            predictions_changed: changed(&outcome.after, &outcome.folded),
            max_logit_diff: outcome.max_logit_diff,
        }
    }
}

fn rows<'a>(judged: &[Image], outcomes: &[Outcome]) -> impl Iterator<Item = Row<'a>> {
    SHIFTS.iter().zip(outcomes).map(|(shift, outcome)| Row::new(shift, judged, outcome))
}

pub fn json(out: &mut impl Write, device: &str, judged: &[Image], outcomes: &[Outcome]) -> Result<()> {
    let object = Json {
        device,
        stream_images: STREAM,
        batch: BATCH,
        judged_images: judged.len(),
        shifts: rows(judged, outcomes).collect(),
    };
    Ok(writeln!(out, "{}", serde_json::to_string(&object)?)?)
}

pub fn table(out: &mut impl Write, device: &str, judged: &[Image], outcomes: &[Outcome]) -> Result<()> {
    writeln!(out, "A network for handwritten digits whose images have shifted since its training")?;
    writeln!(out, "\ndevice   {device}")?;
    writeln!(
        out,
        "stream   {STREAM} images without labels, in batches of {BATCH}, of which the last has what is left"
    )?;
    writeln!(out, "judged   {} other images\n", judged.len())?;
    writeln!(
        out,
        "{:<9}{:<23}{:>9}{:>9}{:>9}{:>9}{:>11}",
        "shift", "pixels x become", "before", "after", "folded", "changed", "difference"
    )?;
    for row in rows(judged, outcomes) {
        let percent = |accuracy: f64| format!("{:.2} %", 100.0 * accuracy);
        writeln!(
            out,
            "{:<9}{:<23}{:>9}{:>9}{:>9}{:>9}{:>11.1e}",
            row.name,
            formula(&row),
            percent(row.accuracy_before),
            percent(row.accuracy_after),
            percent(row.accuracy_folded),
            row.predictions_changed,
            row.max_logit_diff,
        )?;
    }
    writeln!(out, "\nn        noise of deviation 1")?;
    writeln!(out, "before   accuracy by the running statistics of the training")?;
    writeln!(out, "after    accuracy by those of the stream")?;
    writeln!(out, "folded   accuracy without BatchNorms: predictions changed, largest logit difference")?;
    Ok(())
}

fn formula(row: &Row<'_>) -> String {
    let mut formula = if row.contrast == 1.0 { "x".to_owned() } else { format!("{:.2}·x", row.contrast) };
    if row.brightness != 0.0 {
        formula += &format!(" + {:.2}", row.brightness);
    }
    if row.noise != 0.0 {
        formula += &format!(" + {:.2}·n", row.noise);
    }
    formula
}

/// A judged image as every shift shows it: of those that were read rightly after all shifts, the first that was read
/// wrongly before most of them.
pub fn digit(out: &mut impl Write, images: &[Image], outcomes: &[Outcome]) -> Result<()> {
    let judged = &images[STREAM..];
    let label = |index: usize| usize::from(judged[index].label);
    let read = (0..judged.len()).filter(|&index| outcomes.iter().all(|outcome| outcome.after[index] == label(index)));
    let misread = |&index: &usize| outcomes.iter().filter(|outcome| outcome.before[index] != label(index)).count();
    // The last of the largest is what `max_by_key` takes.
    let Some(index) = read.rev().max_by_key(misread) else {
        return Ok(());
    };
    let shifted: Vec<_> = SHIFTS.iter().map(|shift| shift.of(images)).collect();
    writeln!(out, "\nOne of them, a {} (prediction before → after):\n", label(index))?;
    let line = |cells: Vec<String>| cells.join("    ").trim_end().to_owned();
    for y in 0..SIDE {
        let row = |images: &Vec<f32>| {
            let pixels = &images[((STREAM + index) * SIDE + y) * SIDE..][..SIDE];
            pixels.iter().map(|&pixel| shade(pixel)).collect()
        };
        writeln!(out, "{}", line(shifted.iter().map(row).collect()))?;
    }
    let caption = |(shift, outcome): (&Shift, &Outcome)| {
        let caption = format!("{}: {} → {}", shift.name, outcome.before[index], outcome.after[index]);
        format!("{caption:^width$}", width = 2 * SIDE)
    };
    Ok(writeln!(out, "{}", line(SHIFTS.iter().zip(outcomes).map(caption).collect()))?)
}

fn shade(pixel: f32) -> &'static str {
    let steps = SHADES.len() - 1;
    SHADES[(pixel.clamp(0.0, 1.0) * steps as f32).round() as usize]
}
