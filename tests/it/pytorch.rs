//! What PyTorch computes, in f64, for every layer and option (`tests/vectors/pytorch.py`): all within the bound.

use std::collections::BTreeMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use warpnorm::half::{bf16, f16};
use warpnorm::{Activation, Args, BatchNorm, Cpu, InstanceNorm, LayerNorm, Layout, Result, RmsNorm, Shape, Workspace};

use crate::call::{
    BATCHES_BEFORE, Call, Coefficient, Inputs, Layer, Modulation, Residual, expected, run, workspace_bytes,
};
use crate::data::{bits, stored};
use crate::device;
use crate::oracle::{Expected, assert_within};
use crate::place::{Place, Real};

/// How many cases there are of each layer.
const CASES: [(&str, usize); 7] = [
    ("BatchNorm", 30),
    ("BatchNorm batch", 48),
    ("GroupNorm", 64),
    ("InstanceNorm", 46),
    ("InstanceNorm tracked", 28),
    ("LayerNorm", 43),
    ("RMSNorm", 52),
];

/// Of them, those that run by another name, too (see `by_another_name`).
const BY_ANOTHER_NAME: usize = 14;

/// A file of tensors with a JSON object for each case.
pub struct File {
    tensors: SafeTensors<'static>,
    /// The descriptions, by the cases' names.
    pub cases: BTreeMap<String, Value>,
}

impl File {
    pub fn new(bytes: &'static [u8]) -> Self {
        let (_, header) = SafeTensors::read_metadata(bytes).expect("a header");
        let described = header.metadata().iter().flatten();
        let parse = |text: &str| serde_json::from_str(text).expect("JSON");
        Self {
            tensors: SafeTensors::deserialize(bytes).expect("a safetensors file"),
            cases: described.map(|(name, text)| (name.clone(), parse(text))).collect(),
        }
    }

    pub fn tensor(&self, name: &str) -> TensorView<'static> {
        self.tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Exact, whatever type they are stored in.
    pub fn values(&self, name: &str) -> Vec<f64> {
        fn read<const SIZE: usize>(data: &[u8], value: impl Fn([u8; SIZE]) -> f64) -> Vec<f64> {
            data.chunks_exact(SIZE).map(|bytes| value(bytes.try_into().expect("so many bytes"))).collect()
        }
        let tensor = self.tensor(name);
        match tensor.dtype() {
            Dtype::F64 => read(tensor.data(), f64::from_le_bytes),
            Dtype::F32 => read(tensor.data(), |bytes| f32::from_le_bytes(bytes).into()),
            Dtype::F16 => read(tensor.data(), |bytes| f16::from_le_bytes(bytes).into()),
            Dtype::BF16 => read(tensor.data(), |bytes| bf16::from_le_bytes(bytes).into()),
            other => panic!("{name} is {other:?}"),
        }
    }
}

/// Running statistics of a call: none, those of its inputs, or some that it moves.
pub enum Statistics<'s, P: Place> {
    None,
    Read,
    Moved { mean: &'s mut P::Buffer<f32>, var: &'s mut P::Buffer<f32>, batches: &'s mut P::Counter },
}

/// Runs a layer that `call::run` has no words for, on tensors of this shape. For the rest `call` stands; its weight and
/// bias are of the tensors' type.
pub fn direct<P: Place, T: Real>(
    place: &P,
    (call, shape): (&Call, &[usize]),
    inputs: &Inputs<T>,
    statistics: Statistics<'_, P>,
    forward: &dyn Fn(Args<'_, P>) -> Result<()>,
) -> Result<Vec<T>> {
    let (elements, channels) = (inputs.x.len(), inputs.running_mean.len());
    let coefficient = |kind, values: &[f64]| match kind {
        Coefficient::Absent => None,
        Coefficient::Own => Some(place.put(&stored::<T>(values.iter().copied()))),
        Coefficient::F32 => panic!("{call:?}: a coefficient of another type"),
    };
    let (weight, bias) = (coefficient(call.weight, &inputs.weight), coefficient(call.bias, &inputs.bias));
    let weight = weight.as_ref().map(|weight| place.view(weight, 0..inputs.weight.len()));
    let bias = bias.as_ref().map(|bias| place.view(bias, 0..inputs.bias.len()));
    let (x, mut y) = (place.put(&inputs.x), place.put(&vec![T::default(); elements]));
    let (mean, var) = (place.put(&inputs.running_mean), place.put(&inputs.running_var));
    let (mean, var) = (place.view(&mean, 0..channels), place.view(&var, 0..channels));
    let mut workspace = Workspace::init(place, workspace_bytes(place, call, T::DTYPE)?)?;
    {
        let x = place.view(&x, 0..elements);
        let mut y = place.view_mut(&mut y, 0..elements);
        let mut args = Args::new(place, Shape::new(shape)?).input(&x).output(&mut y).workspace(&mut workspace);
        if let Some(weight) = &weight {
            args = args.weight(weight);
        }
        if let Some(bias) = &bias {
            args = args.bias(bias);
        }
        match statistics {
            Statistics::None => forward(args)?,
            Statistics::Read => forward(args.running_mean(&mean).running_var(&var))?,
            Statistics::Moved { mean, var, batches } => {
                let (mut mean, mut var) = (place.view_mut(mean, 0..channels), place.view_mut(var, 0..channels));
                let mut batches = place.view_counter(batches);
                let args = args.update_running_statistics(&mut mean, &mut var);
                forward(args.num_batches_tracked(&mut batches))?;
            }
        }
    }
    Ok(place.get(&y))
}

/// A case of the file, described as the script says.
struct Case<'f> {
    file: &'f File,
    name: &'f str,
    about: &'f Value,
}

impl std::fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.about)
    }
}

impl Case<'_> {
    fn text(&self, option: &str) -> Option<&str> {
        self.about[option].as_str()
    }

    fn count(&self, option: &str) -> Option<usize> {
        self.about[option].as_u64().map(|count| count as usize)
    }

    fn layer(&self) -> &str {
        self.text("layer").expect("a layer")
    }

    fn shape(&self) -> Vec<usize> {
        let extents = self.about["shape"].as_array().expect("a shape");
        extents.iter().map(|extent| extent.as_u64().expect("an extent") as usize).collect()
    }

    fn layout(&self) -> Layout {
        if self.text("layout") == Some("nhwc") { Layout::Nhwc } else { Layout::Nchw }
    }

    fn momentum(&self) -> Option<f64> {
        self.about["momentum"].as_f64()
    }

    /// Names of the x of each batch: one, unless the case is a sequence.
    fn batches(&self) -> Vec<&str> {
        let x = &self.about["x"];
        let list = x.as_array().map_or(std::slice::from_ref(x), Vec::as_slice);
        list.iter().map(|x| x.as_str().expect("the name of an x")).collect()
    }

    fn dtype(&self) -> Dtype {
        self.file.tensor(self.batches()[0]).dtype()
    }

    fn coefficient(&self, kind: &str) -> Coefficient {
        match self.text(kind).map(|name| self.file.tensor(name).dtype()) {
            None => Coefficient::Absent,
            Some(dtype) if dtype == self.dtype() => Coefficient::Own,
            Some(Dtype::F32) => Coefficient::F32,
            Some(other) => panic!("{self}: {kind} is {other:?}"),
        }
    }

    /// The trailing axes that LayerNorm and RMSNorm normalize.
    fn normalized_shape(&self) -> Result<Shape> {
        let shape = self.shape();
        Shape::new(&shape[shape.len() - self.count("axes").expect("a number of axes")..])
    }

    fn call(&self) -> Call {
        let (layout, mut shape) = (self.layout(), self.shape());
        let layer = match self.layer() {
            "LayerNorm" => Layer::LayerNorm,
            "RMSNorm" => Layer::RmsNorm { weight_plus_one: self.about["weight_plus_one"] == true },
            "GroupNorm" => Layer::GroupNorm { groups: self.count("groups").expect("groups"), layout },
            "InstanceNorm" => Layer::InstanceNorm { layout },
            "InstanceNorm tracked" if layout == Layout::Nchw => Layer::InstanceNormTracked,
            // With the channels last this is the same; `by_another_name` asks InstanceNorm itself.
            "InstanceNorm tracked" | "BatchNorm" => Layer::BatchNorm { layout, table: false },
            "BatchNorm batch" => Layer::BatchStatistics { layout, momentum: self.momentum() },
            other => panic!("{self}: no layer {other}"),
        };
        if let Some(axes) = self.count("axes") {
            let length = shape.split_off(shape.len() - axes).iter().product();
            shape = vec![shape.iter().product(), length];
        }
        let modulation = Modulation {
            scale: self.coefficient("scale"),
            shift: self.coefficient("shift"),
            channel_bias: self.coefficient("channel_bias"),
            scale_plus_one: self.about["scale_plus_one"] == true,
            ..Modulation::NONE
        };
        Call {
            modulation,
            eps: self.about["eps"].as_f64().expect("eps"),
            weight: self.coefficient("weight"),
            bias: self.coefficient("bias"),
            residual: if self.text("residual").is_some() { Residual::SumWritten } else { Residual::Absent },
            activation: match self.text("activation") {
                None => Activation::None,
                Some("relu") => Activation::Relu,
                Some("silu") => Activation::Silu,
                Some("gelu") => Activation::Gelu,
                Some("gelu_tanh") => Activation::GeluTanh,
                Some(other) => panic!("{self}: no activation {other}"),
            },
            ..Call::new(layer, &shape)
        }
    }

    fn inputs<T: Real>(&self, call: &Call, x: &str) -> Inputs<T> {
        let channels = call.channels();
        let given = |kind: &str| self.text(kind).map(|name| self.file.values(name));
        let or = |kind: &str, value: f64| given(kind).unwrap_or_else(|| vec![value; channels]);
        let of_samples = |kind: &str| given(kind).unwrap_or_else(|| vec![0.0; call.shape[0] * channels]);
        let tensor = |values: Vec<f64>| stored::<T>(values.into_iter().take(call.elements()));
        Inputs {
            x: tensor(self.file.values(x)),
            residual: tensor(given("residual").unwrap_or_else(|| vec![0.0; call.elements()])),
            weight: or("weight", 1.0),
            bias: or("bias", 0.0),
            scale: of_samples("scale"),
            shift: of_samples("shift"),
            of_input: of_samples("channel_bias"),
            running_mean: stored(or("running_mean", 0.0).into_iter()),
            running_var: stored(or("running_var", 1.0).into_iter()),
            ..Inputs::default()
        }
    }

    fn output(&self, part: &str) -> Vec<f64> {
        self.file.values(&format!("{}.{part}", self.name))
    }

    /// Those of the elements that the file has of an output.
    fn sampled<V: Copy>(&self, values: &[V]) -> Vec<V> {
        values.iter().copied().step_by(self.count("step").unwrap_or(1)).collect()
    }

    /// `y` against PyTorch's, with the slack of our own oracle, which has to agree with PyTorch far within that.
    fn assert_y<T: Real>(&self, place: &str, part: &str, y: &[T], call: &Call, inputs: &Inputs<T>) {
        let about = format!("{place} {part} of {self}");
        let (oracle, pytorch) = (self.sampled(&expected(call, inputs)), self.output(part));
        assert_eq!(oracle.len(), pytorch.len(), "{about}");
        let expected = oracle.iter().zip(pytorch).map(|(oracle, value)| {
            let missed = (oracle.value - value).abs();
            assert!(missed <= 1e-5 * oracle.slack, "{about}: {} by the oracle, {value} by PyTorch", oracle.value);
            Expected { value, slack: oracle.slack }
        });
        assert_within(&self.sampled(y), &expected.collect::<Vec<_>>(), &about);
    }
}

/// Running statistics as they move, in f64, and by how much the crate's may be off.
struct Running {
    /// Mean and variance.
    values: [Vec<f64>; 2],
    slack: [Vec<f64>; 2],
}

impl Running {
    fn start<T>(inputs: &Inputs<T>) -> Self {
        let values = [&inputs.running_mean, &inputs.running_var].map(|v| v.iter().map(|&v| v.into()).collect());
        Self { slack: [0, 1].map(|_| vec![0.0; inputs.running_mean.len()]), values }
    }

    /// Moves on to what PyTorch has after a batch, which `found` must meet. `share` is the batch's part in it.
    fn assert_moved(&mut self, found: [&[f32]; 2], after: [Vec<f64>; 2], share: f64, about: &str) {
        for channel in 0..after[0].len() {
            let before = [0, 1].map(|of| self.values[of][channel]);
            let batch = [0, 1].map(|of| (after[of][channel] - (1.0 - share) * before[of]) / share);
            for of in 0..2 {
                // Two products and a sum in f32, of moments that were merged in f32: a mean is as exact as the deviation.
                let step = before[of].abs() + batch[of].abs() + share * batch[1].sqrt();
                let slack = (1.0 - share) * self.slack[of][channel] + 4.0 * 2.0_f64.powi(-24) * step;
                let (found, after) = (f64::from(found[of][channel]), after[of][channel]);
                let what = ["mean", "variance"][of];
                assert!((found - after).abs() <= slack, "{about}: {what} of {channel} is {found}, expected {after}");
                self.slack[of][channel] = slack;
            }
        }
        self.values = after;
    }
}

/// The case by its own shape, or by its own layer's name, where `call` has it as another that is the same.
fn by_another_name<P: Place, T: Real>(
    place: &P,
    case: &Case<'_>,
    call: &Call,
    inputs: &Inputs<T>,
) -> Option<Result<Vec<T>>> {
    let shape = case.shape();
    let run = |statistics, forward: &dyn Fn(Args<'_, P>) -> Result<()>| {
        Some(direct(place, (call, &shape), inputs, statistics, forward))
    };
    let (eps, channels) = (call.eps, call.channels());
    let is_plain =
        call.residual == Residual::Absent && call.activation == Activation::None && call.modulation == Modulation::NONE;
    if !is_plain || call.weight == Coefficient::F32 {
        return None; // what `direct` does not pass on
    }
    match (case.layer(), case.layout()) {
        ("LayerNorm", _) if case.count("axes") > Some(1) => {
            run(Statistics::None, &|args| LayerNorm::new(case.normalized_shape()?)?.eps(eps)?.forward(args))
        }
        ("RMSNorm", _) if case.count("axes") > Some(1) => {
            run(Statistics::None, &|args| RmsNorm::new(case.normalized_shape()?, eps)?.forward(args))
        }
        ("InstanceNorm tracked", Layout::Nhwc) => {
            let layer = InstanceNorm::new(channels).ok()?.layout(Layout::Nhwc).track_running_stats(true);
            run(Statistics::Read, &|args| layer.eps(eps)?.forward(args))
        }
        ("BatchNorm batch", layout) if case.text("running_mean").is_none() => {
            let layer = BatchNorm::new(channels).ok()?.layout(layout).batch_statistics(true);
            run(Statistics::None, &|args| layer.eps(eps)?.forward(args))
        }
        _ => None,
    }
}

/// Whether it ran by another name, too.
fn check<P: Place, T: Real>(place: &P, case: &Case<'_>) -> bool {
    let call = case.call();
    if case.batches().len() > 1 {
        sequence::<P, T>(place, case, &call);
        return false;
    }
    let inputs = case.inputs::<T>(&call, case.batches()[0]);
    let about = format!("{} {case}", P::NAME);
    let outputs = run(place, &call, &inputs).unwrap_or_else(|error| panic!("{about}: {error}"));
    case.assert_y(P::NAME, "y", &outputs.y, &call, &inputs);
    if let Some(sum) = &outputs.sum {
        assert_eq!(bits(&case.sampled(sum)), bits(&stored::<T>(case.output("sum").into_iter())), "sum of {about}");
    }
    if case.text("running_mean").is_some() && matches!(call.layer, Layer::BatchStatistics { .. }) {
        let (mean, var, batches) = &outputs.running;
        assert_eq!(case.count("num_batches_tracked"), Some(BATCHES_BEFORE as usize), "{about}");
        assert_eq!(*batches, BATCHES_BEFORE + 1, "{about}");
        let after = [case.output("running_mean"), case.output("running_var")];
        let share = case.momentum().unwrap_or(1.0 / *batches as f64);
        Running::start(&inputs).assert_moved([mean, var], after, share, &about);
    }
    if let Layer::BatchNorm { layout, .. } = call.layer {
        let tabled = Call { layer: Layer::BatchNorm { layout, table: true }, ..call.clone() };
        let y = run(place, &tabled, &inputs).unwrap_or_else(|error| panic!("table of {about}: {error}")).y;
        case.assert_y(P::NAME, "y", &y, &call, &inputs);
    }
    let Some(y) = by_another_name(place, case, &call, &inputs) else { return false };
    let y = y.unwrap_or_else(|error| panic!("{about}, by another name: {error}"));
    assert_eq!(bits(&y), bits(&outputs.y), "{about}, by another name");
    true
}

/// Batches one after another, each from the running statistics that the one before has left.
fn sequence<P: Place, T: Real>(place: &P, case: &Case<'_>, call: &Call) {
    let layer = || BatchNorm::new(call.channels())?.layout(case.layout()).batch_statistics(true).eps(call.eps);
    let layer = layer().and_then(|layer| layer.momentum(case.momentum())).expect("a layer");
    let start = case.inputs::<T>(call, case.batches()[0]);
    let (mut mean, mut var) = (place.put(&start.running_mean), place.put(&start.running_var));
    let before = case.count("num_batches_tracked").expect("a count");
    let mut batches = place.put_counter(before as i64);
    let mut running = Running::start(&start);
    for (k, x) in case.batches().into_iter().enumerate() {
        let about = format!("{} batch {k} of {case}", P::NAME);
        let inputs = case.inputs::<T>(call, x);
        let moved = Statistics::Moved { mean: &mut mean, var: &mut var, batches: &mut batches };
        let y = direct(place, (call, &call.shape), &inputs, moved, &|args| layer.forward(args));
        let y = y.unwrap_or_else(|error| panic!("{about}: {error}"));
        case.assert_y(P::NAME, &format!("y{k}"), &y, call, &inputs);
        assert_eq!(place.get_counter(&batches), (before + k + 1) as i64, "{about}");
        let after = ["mean", "var"].map(|of| case.output(&format!("running_{of}{k}")));
        let share = case.momentum().unwrap_or(1.0 / (before + k + 1) as f64);
        running.assert_moved([&place.get(&mean), &place.get(&var)], after, share, &about);
    }
}

fn pytorch_agrees<P: Place>(place: &P) {
    let file = File::new(include_bytes!("../vectors/pytorch.safetensors"));
    let (mut counts, mut by_another_name) = (BTreeMap::new(), 0);
    for (name, about) in &file.cases {
        let case = Case { file: &file, name, about };
        by_another_name += usize::from(match case.dtype() {
            Dtype::F32 => check::<P, f32>(place, &case),
            Dtype::F16 => check::<P, f16>(place, &case),
            Dtype::BF16 => check::<P, bf16>(place, &case),
            other => panic!("{case}: x is {other:?}"),
        });
        *counts.entry(case.layer().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(counts, CASES.map(|(layer, count)| (layer.to_owned(), count)).into());
    assert_eq!(by_another_name, BY_ANOTHER_NAME);
}

#[test]
fn pytorch_agrees_on_cpu() {
    pytorch_agrees(&Cpu);
}

#[test]
fn pytorch_agrees_on_cuda() {
    device::cuda().under_schedules(pytorch_agrees);
}
