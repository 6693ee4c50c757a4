//! What PyTorch computes, in f64, for every layer and option (`tests/vectors/pytorch.py`): all within the bound.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use warpnorm::half::{bf16, f16};
use warpnorm::{
    Activation, Args, BatchNorm, Cpu, DType, InstanceNorm, LayerNorm, Layout, Result, RmsNorm, Shape, Workspace,
};

use crate::call::{BATCHES_BEFORE, Call, Coefficient, Inputs, Layer, Residual, expected, run, workspace_bytes};
use crate::data::{bits, stored};
use crate::device;
use crate::oracle::{Expected, assert_within};
use crate::place::{Place, Real};

/// How many cases there are of each layer.
const CASES: [(&str, usize); 7] = [
    ("BatchNorm", 0),
    ("BatchNorm batch", 0),
    ("GroupNorm", 0),
    ("InstanceNorm", 0),
    ("InstanceNorm tracked", 0),
    ("LayerNorm", 0),
    ("RMSNorm", 0),
];

/// A file of tensors with a JSON object for each case.
pub struct File {
    tensors: SafeTensors<'static>,
    metadata: HashMap<String, String>,
}

impl File {
    pub fn new(bytes: &'static [u8]) -> Self {
        let (_, header) = SafeTensors::read_metadata(bytes).expect("a header");
        let tensors = SafeTensors::deserialize(bytes).expect("a safetensors file");
        Self { tensors, metadata: header.metadata().clone().expect("metadata") }
    }

    /// The descriptions, in the order of their names.
    pub fn cases(&self) -> BTreeMap<&str, Value> {
        let parse = |text: &String| serde_json::from_str(text).expect("JSON");
        self.metadata.iter().map(|(name, text)| (name.as_str(), parse(text))).collect()
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
    about: Value,
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

    fn batches(&self) -> Vec<&str> {
        let name = |x: &'_ Value| -> *const str { x.as_str().expect("the name of an input") };
        let _ = name;
        match &self.about["x"] {
            Value::Array(batches) => batches.iter().map(|x| x.as_str().expect("a name")).collect(),
            x => vec![x.as_str().expect("a name")],
        }
    }
}
