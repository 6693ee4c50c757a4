//! Evaluates a model of one input in f64, for scripts: `evaluate MODEL INPUT OUTPUT`. The files are little-endian f64, one
//! element after the other; the shape is the model's, with 1 for what it leaves open.

use std::{env, error::Error, fs};

use warpnorm::fold::onnx::{Array, Model};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [model, input, output] = &arguments[..] else { return Err("evaluate MODEL INPUT OUTPUT".into()) };
    let model = Model::open(model)?;
    let [input_of_model] = &model.inputs()?[..] else { return Err("the model has not one input".into()) };
    let dims = input_of_model.dims.iter().map(|dim| dim.unwrap_or(1)).collect();
    let numbers = |bytes: Vec<u8>| bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect();
    let given = Array { dims, data: numbers(fs::read(input)?) };
    let outputs = model.evaluate(&[(input_of_model.name.clone(), given)].into())?;
    let [(_, array)] = &outputs[..] else { return Err("the model has not one output".into()) };
    Ok(fs::write(output, array.data.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())?)
}
