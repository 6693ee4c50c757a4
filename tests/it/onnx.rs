//! The ONNX standard's own node tests (`tests/vectors/onnx_nodes.py`): all pass, by the standard's measure, and by ours.

use std::collections::BTreeMap;

use serde_json::Value;
use warpnorm::{Args, BatchNorm, Cpu, GroupNorm, InstanceNorm, LayerNorm, Layout, Result, RmsNorm, Shape};

use crate::call::{Call, Coefficient, Inputs, Layer, expected};
use crate::data::stored;
use crate::device;
use crate::oracle::assert_within;
use crate::place::Place;
use crate::pytorch::{File, Statistics, direct};

/// How many cases the standard has of each operator.
const CASES: [(&str, usize); 5] = [
    ("BatchNormalization", 4),
    ("GroupNormalization", 2),
    ("InstanceNormalization", 2),
    ("LayerNormalization", 19),
    ("RMSNormalization", 19),
];

/// Outputs that this crate does not offer, and of how many cases: the moments that a backward pass would need. At
/// inference nobody reads them.
const NOT_OFFERED: [(&str, usize); 2] = [("InvStdDev", 19), ("Mean", 19)];

/// How far a value may be from the stored one, as a part of the largest. The stored ones were computed in f32, each step
/// rounded to 2⁻²⁴, in some ten steps a value and sums of up to 120; what is seen is 1.7e-7. The standard itself lets a
/// value miss a thousandth of it.
const TOLERANCE: f64 = 1e-6;

struct Case<'f> {
    file: &'f File,
    name: &'f str,
    about: &'f Value,
}

impl Case<'_> {
    fn op(&self) -> &str {
        self.about["op"].as_str().expect("an operator")
    }

    /// What the node states.
    fn stated(&self, attribute: &str) -> Option<f64> {
        self.about["attributes"][attribute].as_f64()
    }

    /// What the node states, or the standard in its place.
    fn attribute(&self, attribute: &str) -> f64 {
        let default = || self.about["defaults"][attribute].as_f64();
        self.stated(attribute).or_else(default).unwrap_or_else(|| panic!("{} without {attribute}", self.name))
    }

    fn values(&self, part: &str) -> Vec<f64> {
        self.file.values(&format!("{}.{part}", self.name))
    }

    fn has_input(&self, part: &str) -> bool {
        self.about["inputs"].as_array().expect("inputs").iter().any(|input| input == part)
    }

    fn shape(&self) -> Vec<usize> {
        self.file.tensor(&format!("{}.X", self.name)).shape().to_vec()
    }

    fn is_training(&self) -> bool {
        self.op() == "BatchNormalization" && self.attribute("training_mode") != 0.0
    }

    /// ONNX's momentum is the share of the past, ours and PyTorch's that of the batch.
    fn momentum(&self) -> f64 {
        1.0 - self.attribute("momentum")
    }

    /// The axes from `axis` on, which may count from the end.
    fn normalized_shape(&self) -> Vec<usize> {
        let shape = self.shape();
        let axis = self.attribute("axis") as isize;
        shape[axis.rem_euclid(shape.len() as isize) as usize..].to_vec()
    }

    fn call(&self) -> Call {
        let layout = Layout::Nchw;
        let rows = || {
            let length: usize = self.normalized_shape().iter().product();
            vec![self.shape().iter().product::<usize>() / length, length]
        };
        let (layer, shape) = match self.op() {
            "LayerNormalization" => (Layer::LayerNorm, rows()),
            "RMSNormalization" => (Layer::RmsNorm { weight_plus_one: false }, rows()),
            "GroupNormalization" => (Layer::group_norm(self.attribute("num_groups") as usize), self.shape()),
            "InstanceNormalization" => (Layer::INSTANCE_NORM, self.shape()),
            "BatchNormalization" if self.is_training() => {
                (Layer::BatchStatistics { layout, momentum: Some(self.momentum()) }, self.shape())
            }
            "BatchNormalization" => (Layer::BatchNorm { layout, table: false }, self.shape()),
            other => panic!("{}: no layer is {other}", self.name),
        };
        let bias = if self.has_input("B") { Coefficient::Own } else { Coefficient::Absent };
        Call { eps: self.attribute("epsilon"), bias, ..Call::new(layer, &shape) }
    }

    fn inputs(&self, call: &Call) -> Inputs<f32> {
        let or = |part: &str, value: f64| {
            if self.has_input(part) { self.values(part) } else { vec![value; call.channels()] }
        };
        Inputs {
            x: stored(self.values("X").into_iter()),
            residual: Vec::new(),
            weight: self.values("scale"),
            bias: or("B", 0.0),
            running_mean: stored(or("input_mean", 0.0).into_iter()),
            running_var: stored(or("input_var", 1.0).into_iter()),
            ..Inputs::default()
        }
    }

    /// Runs the layer that the node is. An `epsilon` that the standard has a default for is left to the layer's own.
    fn forward<P: Place>(&self, channels: usize, args: Args<'_, P>) -> Result<()> {
        macro_rules! forward {
            ($layer:expr) => {{
                let layer = $layer;
                self.stated("epsilon").map_or(Ok(layer), |eps| layer.eps(eps))?.forward(args)
            }};
        }
        match self.op() {
            "LayerNormalization" => forward!(LayerNorm::new(Shape::new(&self.normalized_shape())?)?),
            // RmsNorm has no default.
            "RMSNormalization" => {
                RmsNorm::new(Shape::new(&self.normalized_shape())?, self.attribute("epsilon"))?.forward(args)
            }
            "GroupNormalization" => forward!(GroupNorm::new(self.attribute("num_groups") as usize, channels)?),
            "InstanceNormalization" => forward!(InstanceNorm::new(channels)?),
            _ if self.is_training() => {
                // So that our default is the standard's, too.
                let layer = BatchNorm::new(channels)?.batch_statistics(true);
                let momentum = self.stated("momentum").map(|past| 1.0 - past);
                forward!(momentum.map_or(Ok(layer), |momentum| layer.momentum(Some(momentum)))?)
            }
            _ => forward!(BatchNorm::new(channels)?),
        }
    }

    /// Near to what the standard's implementation computed: by its own measure, and by ours.
    fn assert_near(&self, place: &str, part: &str, found: &[f32], stored: &[f64]) {
        let (rtol, atol) = (self.about["rtol"].as_f64().expect("rtol"), self.about["atol"].as_f64().expect("atol"));
        let largest = stored.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        assert_eq!(found.len(), stored.len(), "{place} {}: {part}", self.name);
        for (i, (&found, stored)) in found.iter().zip(stored).enumerate() {
            let missed = (f64::from(found) - stored).abs();
            let about = || format!("{place} {}: {part} {i} is {found}, {stored} by the standard", self.name);
            assert!(missed <= atol + rtol * stored.abs(), "{}", about());
            assert!(missed <= TOLERANCE * largest, "{}: {:e} of {largest}", about(), missed / largest);
        }
    }

    /// The running variance as ours moves, and PyTorch's: towards the unbiased variance of the batch. The standard's
    /// `running_var` moves towards that of the population (BatchNormalization, opset 15).
    fn unbiased(&self, running_var: Vec<f64>, call: &Call) -> Vec<f64> {
        let n = (call.elements() / call.channels()) as f64;
        let before = self.values("input_var");
        let past = |before: f64| (1.0 - self.momentum()) * before;
        running_var
            .iter()
            .zip(before)
            .map(|(after, before)| past(before) + (after - past(before)) * n / (n - 1.0))
            .collect()
    }
}

/// What became of the outputs.
#[derive(Default)]
struct Counts {
    cases: BTreeMap<String, usize>,
    not_offered: BTreeMap<String, usize>,
    by_another_variance: usize,
}

fn check<P: Place>(place: &P, case: &Case<'_>, counts: &mut Counts) {
    let (call, stash_type) = (case.call(), &case.about["defaults"]["stash_type"]);
    assert!(stash_type.is_null() || stash_type == 1, "{}: moments in another type than f32", case.name);
    let inputs = case.inputs(&call);
    let channels = call.channels();
    let (mut mean, mut var) = (place.put(&inputs.running_mean), place.put(&inputs.running_var));
    let mut batches = place.put_counter(0);
    let statistics = match call.layer {
        Layer::BatchStatistics { .. } => Statistics::Moved { mean: &mut mean, var: &mut var, batches: &mut batches },
        Layer::BatchNorm { .. } => Statistics::Read,
        _ => Statistics::None,
    };
    let forward = |args: Args<'_, P>| case.forward(channels, args);
    let y = direct(place, (&call, &case.shape()), &inputs, statistics, &forward);
    let y = y.unwrap_or_else(|error| panic!("{} {}: {error}", P::NAME, case.name));
    assert_within(&y, &expected(&call, &inputs), &format!("{} {}", P::NAME, case.name));
    for output in case.about["outputs"].as_array().expect("outputs") {
        let output = output.as_str().expect("a name");
        let stored = case.values(output);
        match output {
            "Y" => case.assert_near(P::NAME, output, &y, &stored),
            "running_mean" => case.assert_near(P::NAME, output, &place.get(&mean), &stored),
            "running_var" => {
                case.assert_near(P::NAME, output, &place.get(&var), &case.unbiased(stored, &call));
                counts.by_another_variance += 1;
            }
            _ => *counts.not_offered.entry(output.to_owned()).or_default() += 1,
        }
    }
    *counts.cases.entry(case.op().to_owned()).or_default() += 1;
}

fn node_tests_pass<P: Place>(place: &P) {
    let file = File::new(include_bytes!("../vectors/onnx_nodes.safetensors"));
    let mut counts = Counts::default();
    for (name, about) in &file.cases {
        check(place, &Case { file: &file, name, about }, &mut counts);
    }
    let table = |table: &[(&str, usize)]| table.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
    assert_eq!(counts.cases, table(&CASES));
    assert_eq!(counts.not_offered, table(&NOT_OFFERED));
    assert_eq!(counts.by_another_variance, 2, "cases in training mode");
}

#[test]
fn onnx_node_tests_pass_on_cpu() {
    node_tests_pass(&Cpu);
}

#[test]
fn onnx_node_tests_pass_on_cuda() {
    device::cuda().under_schedules(node_tests_pass);
}
