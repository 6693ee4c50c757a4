//! What the example prints: 80 columns for people, one object for programs.

use std::io::Write;

use serde::Serialize;
use warpnorm::fold::FoldReport;

use crate::measure::{Latency, Outcome};
use crate::network::checkpoint::{Checkpoint, Image, SIDE, WHITE};
use crate::network::logits::right;
use crate::network::{Block, Network, Result};

/// What fits side by side: a pixel is two characters wide, which makes it nearly square.
const DIGITS_PER_LINE: usize = 4;
const SHADES: [&str; 5] = ["  ", "░░", "▒▒", "▓▓", "██"];

#[derive(Serialize)]
struct Json<'a> {
    device: &'a str,
    images: usize,
    accuracy_unfused: f64,
    accuracy_fused: f64,
    predictions_changed: usize,
    max_logit_diff: f32,
    latency_unfused_ms: f64,
    latency_fused_ms: f64,
    batch: usize,
}

pub fn json(
    out: &mut impl Write,
    device: &str,
    checkpoint: &Checkpoint,
    outcome: &Outcome,
    latency: &Latency,
) -> Result<()> {
    let images = &checkpoint.images;
    let accuracy = |predictions: &[usize]| right(predictions, images) as f64 / images.len() as f64;
    let object = Json {
        device,
        images: images.len(),
        accuracy_unfused: accuracy(&outcome.unfused),
        accuracy_fused: accuracy(&outcome.fused),
        predictions_changed: outcome.changed(),
        max_logit_diff: outcome.max_logit_diff,
        latency_unfused_ms: latency.unfused,
        latency_fused_ms: latency.fused,
        batch: latency.batch,
    };
    Ok(writeln!(out, "{}", serde_json::to_string(&object)?)?)
}

/// Every layer, and what its convolution has taken in.
pub fn layers(out: &mut impl Write, network: &Network, folded: &Network, reports: &[Option<FoldReport>]) -> Result<()> {
    writeln!(out, "{}", row(["convolution", "channels", "kernel", "output", "absorbs", "epilogue"]))?;
    for block in &network.blocks {
        let geometry = &block.convolution;
        let [height, width] = block.output();
        let channels = format!("{:>2} → {}", geometry.in_channels, geometry.out_channels);
        let output = format!("{height}×{width}");
        let absorbed = block.batch_norm.as_ref().map_or("–", |norm| norm.name.as_str());
        writeln!(
            out,
            "{}",
            row([&block.name, &channels, &kernel(block), &output, absorbed, &epilogue(block, network)])
        )?;
    }
    let count = |network: &Network, of: fn(&Block) -> usize| network.blocks.iter().map(of).sum::<usize>();
    let norms = count(network, |block| usize::from(block.batch_norm.is_some()));
    let (before, after) = (count(network, Block::passes), count(folded, Block::passes));
    writeln!(out, "\n{norms} BatchNorms became weights and biases; {before} passes over memory became {after}.")?;
    for (block, report) in network.blocks.iter().zip(reports) {
        for warning in report.iter().filter_map(|report| report.after.as_ref()).flat_map(|map| &map.warnings) {
            writeln!(out, "{}: {warning}", block.name)?;
        }
    }
    Ok(())
}

fn row(cells: [&str; 6]) -> String {
    let [name, channels, kernel, output, absorbed, epilogue] = cells;
    let row = format!("{name:<17} {channels:<8} {kernel:<13} {output:<7} {absorbed:<11} {epilogue}");
    row.trim_end().to_owned()
}

fn kernel(block: &Block) -> String {
    let geometry = &block.convolution;
    let [height, width] = geometry.kernel;
    let kind = match geometry.groups {
        1 if geometry.stride > 1 => format!(" stride {}", geometry.stride),
        1 => String::new(),
        groups if groups == geometry.in_channels => " depthwise".to_owned(),
        groups => format!(" {groups} groups"),
    };
    format!("{height}×{width}{kind}")
}

/// What the folded convolution does to its results before they go to memory.
fn epilogue(block: &Block, network: &Network) -> String {
    let bias = (block.bias.is_some() || block.batch_norm.is_some()).then(|| "bias".to_owned());
    let residual = block.residual.and_then(|index| network.blocks.get(index)).map(|block| format!("+ {}", block.name));
    let relu = block.relu.then(|| "ReLU".to_owned());
    [bias, residual, relu].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

pub fn outcome(out: &mut impl Write, checkpoint: &Checkpoint, outcome: &Outcome) -> Result<()> {
    let images = &checkpoint.images;
    let share = |predictions: &[usize]| {
        let right = right(predictions, images);
        format!("{right} ({:.2} %)", 100.0 * right as f64 / images.len() as f64)
    };
    writeln!(out, "\n{:<34}{:>16}{:>16}", "", "as trained", "folded")?;
    let heading = format!("right of {} (PyTorch: {})", images.len(), checkpoint.correct);
    let (unfused, fused) = (share(&outcome.unfused), share(&outcome.fused));
    writeln!(out, "{heading:<34}{unfused:>16}{fused:>16}")?;
    let (unfused, fused) = (outcome.unfused_from_pytorch, outcome.fused_from_pytorch);
    let heading = "largest logit error, by PyTorch";
    writeln!(out, "{heading:<34}{unfused:>16.1e}{fused:>16.1e}")?;
    let heading = "largest logit difference by folding";
    writeln!(out, "{heading:<50}{:>16.1e}", outcome.max_logit_diff)?;
    writeln!(out, "{:<50}{:>16}", "predictions changed by folding", outcome.changed())?;
    Ok(())
}

/// A line as soon as it has been measured.
pub fn latencies(out: &mut impl Write, latencies: impl Iterator<Item = Result<Latency>>) -> Result<()> {
    writeln!(out, "\n{:<34}{:>16}{:>16}{:>12}", "median latency in ms", "as trained", "folded", "ratio")?;
    for latency in latencies {
        let Latency { batch, unfused, fused } = latency?;
        let heading = format!("batch of {batch}");
        writeln!(out, "{heading:<34}{unfused:>16.3}{fused:>16.3}{:>12.2}", unfused / fused)?;
    }
    Ok(())
}

/// A line of images that were read rightly, of different digits, and one of others.
pub fn digits(out: &mut impl Write, images: &[Image], outcome: &Outcome) -> Result<()> {
    let is_right = |index: &usize| {
        let label = usize::from(images[*index].label);
        outcome.unfused[*index] == label && outcome.fused[*index] == label
    };
    let mut seen = [false; 256];
    let mut first_of_label = |index: &usize| !std::mem::replace(&mut seen[usize::from(images[*index].label)], true);
    let right: Vec<_> = (0..images.len()).filter(is_right).filter(&mut first_of_label).take(DIGITS_PER_LINE).collect();
    let wrong: Vec<_> = (0..images.len()).filter(|index| !is_right(index)).collect();

    writeln!(out, "\nRead rightly (label: prediction as trained → folded):\n")?;
    draw(out, images, outcome, &right)?;
    let shown = &wrong[..wrong.len().min(DIGITS_PER_LINE)];
    if !shown.is_empty() {
        writeln!(out, "\nRead wrongly, {} of {}:\n", shown.len(), wrong.len())?;
        draw(out, images, outcome, shown)?;
    }
    Ok(())
}

/// Images side by side, their predictions below.
fn draw(out: &mut impl Write, images: &[Image], outcome: &Outcome, indices: &[usize]) -> Result<()> {
    let line = |cells: Vec<String>| cells.join("    ").trim_end().to_owned();
    for y in 0..SIDE {
        let row = |index: &usize| images[*index].pixels[y * SIDE..][..SIDE].iter().map(|&pixel| shade(pixel)).collect();
        writeln!(out, "{}", line(indices.iter().map(row).collect()))?;
    }
    let caption = |index: &usize| {
        let caption = format!("{}: {} → {}", images[*index].label, outcome.unfused[*index], outcome.fused[*index]);
        format!("{caption:^width$}", width = 2 * SIDE)
    };
    Ok(writeln!(out, "{}", line(indices.iter().map(caption).collect()))?)
}

fn shade(pixel: u8) -> &'static str {
    let steps = SHADES.len() - 1;
    let shade = (usize::from(pixel.min(WHITE)) * steps + usize::from(WHITE) / 2) / usize::from(WHITE);
    SHADES[shade.min(steps)]
}
