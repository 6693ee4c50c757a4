//! A model from an ONNX file, before and after its `BatchNorm`s are folded away.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use warpnorm::fold::onnx::{Array, Model, Options, Plan};

use crate::network::Result;

/// Evaluations of each, in turns; the shortest counts.
const ROUNDS: usize = 3;

pub fn run(path: &Path) -> Result<()> {
    let model = Model::open(path)?;
    let plan = Plan::new(&model, &Options::default())?;
    let folded = Model::from_bytes(plan.to_bytes()?)?;
    let inputs = model.inputs()?.into_iter().map(|input| (input.name, image(&input.dims))).collect();

    let mut times = [Duration::MAX; 2];
    let mut difference = 0.0_f64;
    for _ in 0..ROUNDS {
        let mut outputs = Vec::new();
        for (model, shortest) in [&model, &folded].into_iter().zip(&mut times) {
            let start = Instant::now();
            outputs.push(model.evaluate(&inputs)?);
            *shortest = start.elapsed().min(*shortest);
        }
        let [before, after] = &outputs[..] else { continue };
        difference =
            before.iter().zip(after).fold(0.0, |most, ((_, before), (_, after))| most.max(distance(before, after)));
    }
    let sums = &plan.report().summary;
    let mut out = io::stdout().lock();
    writeln!(out, "{} before and after folding, evaluated in f64 on the CPU\n", path.display())?;
    writeln!(out, "BatchNorms   {} folded, {} left ({} in all)", sums.folded, sums.refused, sums.batch_norms)?;
    writeln!(out, "nodes        {} before, {} after", sums.nodes_before, sums.nodes_after)?;
    writeln!(out, "difference   {difference:.1e} of the largest output")?;
    writeln!(out, "time         {:.1} ms before, {:.1} ms after", milliseconds(times[0]), milliseconds(times[1]))?;
    Ok(())
}

/// Something like an image, of one sample, the same at every run. Where the model leaves a size open it is 224.
fn image(dims: &[Option<usize>]) -> Array {
    let dims: Vec<_> =
        dims.iter().enumerate().map(|(axis, dim)| dim.unwrap_or(if axis == 0 { 1 } else { 224 })).collect();
    let data = (0..dims.iter().product::<usize>()).map(|index| (index as f64 * 0.37).sin()).collect();
    Array { dims, data }
}

/// The largest difference, as a part of the largest magnitude.
fn distance(before: &Array, after: &Array) -> f64 {
    let largest = before.data.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    let difference = before.data.iter().zip(&after.data).fold(0.0_f64, |most, (b, a)| most.max((b - a).abs()));
    if difference == 0.0 { 0.0 } else { difference / largest }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
