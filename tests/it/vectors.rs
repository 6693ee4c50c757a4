//! A second oracle: the GroupNorm of the notes that this project started from, and BatchNorm, in NumPy
//! (`tests/vectors/group_norm_notes.py`).

use safetensors::{Dtype, SafeTensors};
use warpnorm::{Cpu, Layout};

use crate::call::{Call, Coefficient, Inputs, Layer, run};
use crate::device;
use crate::oracle::{Expected, assert_within};
use crate::place::Place;

const FILE: &[u8] = include_bytes!("../vectors/group_norm_notes.safetensors");

fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).expect("a tensor of the file");
    assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
    tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes"))).collect()
}

fn f64s(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let tensor = file.tensor(name).expect("a tensor of the file");
    assert_eq!(tensor.dtype(), Dtype::F64, "{name}");
    tensor.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().expect("8 bytes"))).collect()
}

/// Every case of the file, with what NumPy computed.
fn cases() -> Vec<(String, Call, Inputs<f32>, Vec<f64>)> {
    let (_, header) = SafeTensors::read_metadata(FILE).expect("a header");
    let file = SafeTensors::deserialize(FILE).expect("a safetensors file");
    let metadata = header.metadata().as_ref().expect("metadata");
    let names = metadata.keys().filter(|name| name.starts_with("case") || name.starts_with("batch_norm"));
    names
        .map(|name| {
            let about: serde_json::Value = serde_json::from_str(&metadata[name]).expect("JSON");
            let shape: Vec<usize> = about["shape"]
                .as_array()
                .expect("a shape")
                .iter()
                .map(|n| n.as_u64().expect("extent") as usize)
                .collect();
            let layer = match about.get("groups").and_then(serde_json::Value::as_u64) {
                Some(groups) => Layer::group_norm(groups as usize),
                None => Layer::BatchNorm { layout: Layout::Nchw, table: false },
            };
            let mut call = Call::new(layer, &shape);
            call.eps = about["eps"].as_f64().expect("eps");
            (call.weight, call.bias) = (Coefficient::F32, Coefficient::Own);
            let tensor = |part: &str| f32s(&file, &format!("{name}.{part}"));
            let statistics = |part: &str| match layer {
                Layer::BatchNorm { .. } => tensor(part),
                _ => vec![0.0; shape[1]],
            };
            let inputs = Inputs {
                x: tensor("x"),
                residual: tensor("x"),
                weight: tensor("gamma").into_iter().map(f64::from).collect(),
                bias: tensor("beta").into_iter().map(f64::from).collect(),
                running_mean: statistics("running_mean"),
                running_var: statistics("running_var"),
                ..Inputs::default()
            };
            (name.clone(), call, inputs, f64s(&file, &format!("{name}.y")))
        })
        .collect()
}

fn numpy_agrees<P: Place>(place: &P) {
    let cases = cases();
    assert!(cases.len() >= 15, "{} cases", cases.len());
    for (name, call, inputs, numpy) in cases {
        // The slack is of our own oracle, the value NumPy's.
        let slack = crate::call::expected(&call, &inputs).into_iter().map(|expected| expected.slack);
        let expected: Vec<_> = numpy.into_iter().zip(slack).map(|(value, slack)| Expected { value, slack }).collect();
        let outputs = run(place, &call, &inputs).expect("a valid call");
        assert_within(&outputs.y, &expected, &format!("{} {name}", P::NAME));
    }
}

#[test]
fn numpy_agrees_on_cpu() {
    numpy_agrees(&Cpu);
}

#[test]
fn numpy_agrees_on_cuda() {
    numpy_agrees(&device::cuda().cuda);
}
