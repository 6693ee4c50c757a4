//! Files to begin with where files are damaged, and what is done with each. The fuzz targets do the same.

use warpnorm::{
    DType,
    fold::{
        checkpoint::{self, Checkpoint},
        onnx::{Forward, Model, Options, Plan},
    },
};

use crate::writer::{Builder, FLOAT, INT64, Value, conv, tensor};

/// Does with a model all that may be done with one.
pub fn exercise(bytes: Vec<u8>) {
    let Ok(model) = Model::from_bytes(bytes) else { return };
    let options = Options {
        forward: Forward::Scale,
        merge_branches: true,
        duplicate_shared: true,
        freeze_inputs: true,
        ..Options::default()
    };
    let half = Options { tidy: true, dtype: Some(DType::F16), ..Options::default() };
    let brain = Options { dtype: Some(DType::Bf16), ..options.clone() };
    for options in [&Options::default(), &options, &half, &brain] {
        let Ok(plan) = Plan::new(&model, options) else { continue };
        for row in &plan.report().rows {
            assert!(!row.verdict.to_string().is_empty());
        }
        let folded = Model::from_bytes(plan.to_bytes().unwrap()).expect("what is written can be read");
        plan.verify(&folded, 1, None).expect("what is written can be read");
    }
}

/// Models that between them have all that is looked at.
pub fn seeds() -> Vec<Vec<u8>> {
    let shape = |values: &[f64]| tensor("s", INT64, &[values.len()], values);
    let chain =
        conv(&[3, 3], 4, 6, 2, true).batch_norm("c", "n", 6).random("k", &[6, 1, 1]).node("Mul", &["n", "k"], "y", &[]);
    let forward =
        Builder::default().input("x", &[2, 4, 6, 6]).output("y").batch_norm("x", "n", 4).random("w", &[6, 4, 3, 3]);
    let forward = forward.node("Conv", &["n", "w"], "y", &[("pads", Value::Ints(&[1, 1, 1, 1]))]);
    let flat = Builder::default().input("x", &[0, 4, 3, 2]).output("y").batch_norm("x", "n", 4).random("w", &[24, 5]);
    let flat = flat.initializer(shape(&[0.0, -1.0])).node("Reshape", &["n", "s"], "f", &[]).node(
        "MatMul",
        &["f", "w"],
        "y",
        &[],
    );
    let constant = Builder::default().input("x", &[2, 4, 6, 6]).output("y").initializer(shape(&[6.0, 4.0, 1.0, 1.0]));
    let fill = tensor("", FLOAT, &[1], &[0.5]);
    let constant = constant.node("ConstantOfShape", &["s"], "w", &[("value", Value::Tensor(fill))]);
    let constant = constant.node("Conv", &["x", "w"], "c", &[]).batch_norm("c", "y", 6);
    let sum =
        conv(&[1, 1], 4, 4, 1, true).batch_norm("c", "n", 4).batch_norm("x", "m", 4).node("Add", &["n", "m"], "y", &[]);
    let concat = conv(&[3, 3], 4, 6, 1, true)
        .node("Concat", &["c", "c"], "d", &[("axis", Value::Int(1))])
        .batch_norm("d", "y", 12);
    [chain, forward, flat, constant, sum, concat].iter().map(Builder::build).collect()
}

/// A state dict of one pair, in two tensors.
pub fn dict() -> Vec<u8> {
    let header = concat!(
        r#"{"a.conv.weight":{"dtype":"F32","shape":[2,1,1,1],"data_offsets":[0,8]},"#,
        r#""a.bn.running_mean":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"#,
        r#""a.bn.running_var":{"dtype":"F16","shape":[2],"data_offsets":[16,20]}}"#,
    );
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0x3f; 20]].concat()
}

pub fn exercise_dict(bytes: Vec<u8>) {
    let Ok(checkpoint) = Checkpoint::from_bytes(bytes) else { return };
    let options = checkpoint::Options { eps: vec![("*".to_owned(), 1e-5)], ..checkpoint::Options::default() };
    let plan = checkpoint::Plan::new(&checkpoint, &options);
    let folded = Checkpoint::from_bytes(plan.to_bytes().unwrap()).expect("what is written can be read");
    assert!(plan.verify(&folded).pairs.iter().all(|pair| pair.error.is_ok()));
}
