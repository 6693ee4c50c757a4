//! Models that are folded and then brought into another type of elements.

use std::collections::BTreeMap;

use half::{bf16, f16};
use warpnorm::{
    DType, Element,
    fold::onnx::{Array, Model, Options, Plan},
};

use crate::{
    hostile::Folder,
    onnx::{Folded, fold_with},
    writer::{BFLOAT16, Builder, FLOAT, FLOAT16, INT64, Message, Value, conv, node, tensor, value_info},
};

fn options(dtype: DType) -> Options {
    Options { dtype: Some(dtype), ..Options::default() }
}

/// Converts, and checks what must always hold, and that so many nodes of these operators are there afterwards.
fn converts(builder: &Builder, dtype: DType, operators: &[(&str, usize)]) -> Folded {
    let converted = fold_with(builder, &options(dtype));
    let found = operators_of(&converted.bytes);
    let expected: BTreeMap<String, usize> = operators.iter().map(|&(op, count)| (op.to_owned(), count)).collect();
    assert_eq!(found, expected, "{:?}", converted.report.conversion);
    assert_eq!(found.values().sum::<usize>(), converted.nodes());
    converted
}

/// The fields of a message that are bytes.
fn fields(message: &[u8]) -> Vec<(u64, &[u8])> {
    let mut fields = Vec::new();
    let mut at = 0;
    let varint = |at: &mut usize| {
        let mut value = 0_u64;
        for shift in (0..).step_by(7) {
            let byte = message[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    };
    while at < message.len() {
        let key = varint(&mut at);
        match key & 7 {
            0 => _ = varint(&mut at),
            2 => {
                let len = varint(&mut at) as usize;
                fields.push((key >> 3, &message[at..at + len]));
                at += len;
            }
            wire => at += if wire == 5 { 4 } else { 8 },
        }
    }
    fields
}

fn field(message: &[u8], number: u64) -> Vec<&[u8]> {
    fields(message).into_iter().filter(|&(found, _)| found == number).map(|(_, bytes)| bytes).collect()
}

fn graph_of(model: &[u8]) -> &[u8] {
    field(model, 7)[0]
}

fn operators_of(model: &[u8]) -> BTreeMap<String, usize> {
    let mut operators = BTreeMap::new();
    for node in field(graph_of(model), 1) {
        *operators.entry(String::from_utf8(field(node, 4)[0].to_vec()).unwrap()).or_default() += 1;
    }
    operators
}

/// The data of an initializer.
fn data_of<'m>(model: &'m [u8], name: &str) -> &'m [u8] {
    let found = field(graph_of(model), 5).into_iter().find(|tensor| field(tensor, 8)[0] == name.as_bytes());
    field(found.unwrap_or_else(|| panic!("there is no {name}")), 9)[0]
}

fn relu_network() -> Builder {
    conv(&[3, 3], 4, 6, 1, true).batch_norm("c", "n", 6).node("Relu", &["n"], "y", &[])
}

#[test]
fn inputs_and_outputs_keep_their_types() {
    let converted = converts(&relu_network(), DType::F16, &[("Cast", 2), ("Conv", 1), ("Relu", 1)]);
    let conversion = converted.report.conversion.unwrap();
    assert_eq!((conversion.tensors, conversion.nodes, conversion.casts), (2, 2, 2));
    assert_eq!(conversion.stored_only, None);
}

/// Factors whose product is so near to the middle between two numbers of a type that it would become the wrong one if it
/// were rounded to f32 before.
fn products_that_round_twice<T: Element>(count: usize) -> (Vec<f64>, Vec<f64>) {
    let mut state = 1_u64;
    let mut factor = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(1.0 + (state >> 41) as f32 / (1 << 23) as f32)
    };
    let pairs = std::iter::repeat_with(|| (factor(), factor()));
    let differs = |&(left, right): &(f64, f64)| {
        let product = left * right;
        T::from_f64(product).to_f32() != T::from_f64(f64::from(product as f32)).to_f32()
    };
    pairs.filter(differs).take(count).unzip()
}

#[test]
fn folded_weights_are_rounded_once() {
    fn check<T: Element>(dtype: DType) {
        let (weights, factors) = products_that_round_twice::<T>(8);
        let builder = Builder::default().input("x", &[2, 1, 3, 3]).output("y").constant("w", &[8, 1, 1, 1], &weights);
        let builder = builder.node("Conv", &["x", "w"], "c", &[]).constant("k", &[8, 1, 1], &factors);
        let folded = fold_with(&builder.node("Mul", &["c", "k"], "y", &[]), &options(dtype));
        let stored = data_of(&folded.bytes, "w").chunks_exact(2);
        assert_eq!(stored.len(), 8);
        for ((stored, weight), factor) in stored.zip(weights).zip(factors) {
            // No conversion is asked: the numbers beside it are further away.
            let bits = u16::from_le_bytes([stored[0], stored[1]]);
            let distance = |bits: u16| {
                let value =
                    if dtype == DType::F16 { f16::from_bits(bits).to_f64() } else { bf16::from_bits(bits).to_f64() };
                (value - weight * factor).abs()
            };
            let others = [bits - 1, bits + 1].map(distance);
            assert!(others.into_iter().all(|other| distance(bits) < other), "{dtype}: {weight} by {factor}");
        }
    }
    check::<f16>(DType::F16);
    check::<bf16>(DType::Bf16);
}

#[test]
fn bf16_by_version() {
    let old = converts(&relu_network(), DType::Bf16, &[("Cast", 2), ("Conv", 1), ("Relu", 1)]);
    let conversion = old.report.conversion.unwrap();
    assert_eq!((conversion.tensors, conversion.nodes), (2, 0));
    assert!(conversion.stored_only.unwrap().starts_with("Conv is known in bf16 from opset 22 on"));
    let new = converts(&relu_network().opset(22), DType::Bf16, &[("Cast", 2), ("Conv", 1), ("Relu", 1)]);
    assert_eq!(new.report.conversion.unwrap().nodes, 2);
    let oldest = Model::from_bytes(relu_network().opset(12).build()).unwrap();
    let refused = Plan::new(&oldest, &options(DType::Bf16)).unwrap_err();
    assert_eq!(refused.code(), "unconvertible");
    assert!(refused.to_string().contains("it uses opset 12, and casts to it are known from 13 on"), "{refused}");
}

#[test]
fn from_half_to_single() {
    let half = Builder::default().element(FLOAT16).input("x", &[2, 4, 6, 6]).output("y").random("w", &[6, 4, 3, 3]);
    let half = half.node("Conv", &["x", "w"], "c", &[]).batch_norm("c", "y", 6);
    let converted = converts(&half, DType::F32, &[("Cast", 2), ("Conv", 1)]);
    assert_eq!(data_of(&converted.bytes, "w").len(), 4 * 6 * 4 * 9);
    // A model that is of the type already stays as it is.
    let single = conv(&[3, 3], 4, 6, 1, true).node("Relu", &["c"], "y", &[]);
    assert_eq!(fold_with(&single, &options(DType::F32)).bytes, single.build());
}

#[test]
fn what_does_not_know_the_type_keeps_its_own() {
    // Of another domain; the evaluator lacks it, so it is compared as far as it goes.
    let custom = Message(node("Relu", &["n"], &["r"], &[]).bytes(7, "my.domain").0);
    let builder = conv(&[3, 3], 4, 6, 1, true).batch_norm("c", "n", 6).raw_node(custom);
    let builder = builder.random("v", &[6, 6, 1, 1]).node("Conv", &["r", "v"], "y", &[]);
    let mut builder = builder;
    builder.graph_extra = Message::default().message(13, &value_info("r", FLOAT, &[2, 6, 6, 6]));
    let model = Model::from_bytes(builder.build()).unwrap();
    let plan = Plan::new(&model, &options(DType::F16)).unwrap();
    let bytes = plan.to_bytes().unwrap();
    let operators = operators_of(&bytes);
    assert_eq!((operators["Cast"], operators["Conv"], operators["Relu"]), (4, 2, 1));
    let verification = plan.verify(&Model::from_bytes(bytes).unwrap(), 1, None).unwrap();
    assert!(verification.pairs.iter().all(|pair| pair.passed()), "{verification:#?}");
}

#[test]
fn what_others_read_is_there_as_it_was() {
    // An output in the middle, which a layer reads too.
    let builder = relu_network().output("z").random("v", &[5, 6, 1, 1]).node("Conv", &["y", "v"], "z", &[]);
    converts(&builder, DType::F16, &[("Cast", 3), ("Conv", 2), ("Relu", 1)]);
    // One that a graph inside a node reads; nothing evaluates that.
    let branch = |name: &str| {
        let inner = Message::default().message(1, &node("Identity", &["n"], &[name], &[])).bytes(2, name);
        inner.message(12, &value_info(name, FLOAT, &[2, 6, 6, 6]))
    };
    let branches = [("then_branch", Value::Graph(branch("t"))), ("else_branch", Value::Graph(branch("e")))];
    let builder = conv(&[3, 3], 4, 6, 1, true).batch_norm("c", "n", 6).node("Relu", &["n"], "y", &[]);
    let builder = builder.initializer(tensor("cond", 9, &[], &[]).bytes(9, [1]));
    let builder = builder.raw_node(node("If", &["cond"], &["z"], &branches)).output("z");
    let model = Model::from_bytes(builder.build()).unwrap();
    let plan = Plan::new(&model, &options(DType::F16)).unwrap();
    assert_eq!(operators_of(&plan.to_bytes().unwrap())["Cast"], 3);
}

#[test]
fn constants_that_do_not_fit_stay() {
    let builder = relu_network().output("z").constant("k", &[], &[1e6]).node("Mul", &["y", "k"], "z", &[]);
    let converted = converts(&builder, DType::F16, &[("Cast", 2), ("Conv", 1), ("Relu", 1), ("Mul", 1)]);
    assert_eq!(data_of(&converted.bytes, "k"), 1e6_f32.to_le_bytes());
    // In bf16 it fits.
    converts(&builder.opset(22), DType::Bf16, &[("Cast", 3), ("Conv", 1), ("Relu", 1), ("Mul", 1)]);
    // A folded weight that does not fit is a refusal, and the layer stays with it.
    let large = Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("w", &[6, 4, 3, 3]);
    let large = large.node("Conv", &["x", "w"], "c", &[]).constant("k", &[6, 1, 1], &[1e6; 6]);
    let refused = fold_with(&large.node("Mul", &["c", "k"], "y", &[]), &options(DType::F16));
    assert_eq!(
        operators_of(&refused.bytes),
        [("Cast".to_owned(), 2), ("Conv".to_owned(), 1), ("Mul".to_owned(), 1)].into()
    );
}

#[test]
fn sizes_are_not_rounded() {
    // A resize whose scales are computed: 2049 is no f16.
    let builder = relu_network().output("z").constant("s", &[4], &[1.0, 1.0, 2.5, 2049.0 / 683.0]);
    let builder = builder.constant("one", &[4], &[1.0; 4]).node("Mul", &["s", "one"], "t", &[]);
    let builder = builder.node("Resize", &["y", "", "t"], "z", &[("mode", Value::Text("nearest"))]);
    let converted = converts(&builder, DType::F16, &[("Cast", 3), ("Conv", 1), ("Relu", 1), ("Mul", 1), ("Resize", 1)]);
    assert_eq!(data_of(&converted.bytes, "s").len(), 16);
}

#[test]
fn constants_that_several_read() {
    // One reader computes in the type, the other does not.
    let builder = relu_network().output("z").output("q").constant("k", &[1], &[0.1]);
    let builder = builder.node("Mul", &["y", "k"], "z", &[]);
    let builder = builder.raw_node(Message(node("Relu", &["k"], &["q"], &[]).bytes(7, "my.domain").0));
    let model = Model::from_bytes(builder.build()).unwrap();
    let bytes = Plan::new(&model, &options(DType::F16)).unwrap().to_bytes().unwrap();
    assert_eq!(data_of(&bytes, "k"), 0.1_f32.to_le_bytes());
    assert_eq!(data_of(&bytes, "k_f16"), f16::from_f64(f64::from(0.1_f32)).to_le_bytes());
    // A constant that a node makes, and one behind an Identity.
    let constant = tensor("", FLOAT, &[6, 1, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let builder = relu_network().output("z").node("Constant", &[], "k", &[("value", Value::Tensor(constant))]);
    let builder = builder.node("Identity", &["k"], "i", &[]).node("Pow", &["y", "i"], "z", &[]);
    converts(&builder, DType::F16, &[("Cast", 3), ("Conv", 1), ("Relu", 1), ("Identity", 1), ("Pow", 1)]);
}

#[test]
fn casts_that_were_there() {
    // A softmax in f32 in a model of f16: the type of the model reaches it.
    let half = Builder::default().element(FLOAT16).input("x", &[2, 4, 6, 6]).output("y").random("w", &[6, 4, 3, 3]);
    let half = half.node("Conv", &["x", "w"], "c", &[]).batch_norm("c", "n", 6);
    let half = half.node("Cast", &["n"], "f", &[("to", Value::Int(FLOAT))]);
    let half = half.node("Softmax", &["f"], "s", &[("axis", Value::Int(1))]);
    let half = half.node("Cast", &["s"], "y", &[("to", Value::Int(FLOAT16))]);
    converts(&half, DType::F16, &[("Cast", 1), ("Conv", 1), ("Softmax", 1)]);
    converts(&half, DType::F32, &[("Cast", 2), ("Conv", 1), ("Softmax", 1)]);
}

#[test]
fn statistics_of_what_is_not_folded() {
    // Statistics have a type of their own since opset 14.
    let builder = conv(&[3, 3], 4, 6, 1, true).node("Relu", &["c"], "r", &[]).batch_norm("r", "y", 6);
    let converted = converts(&builder, DType::F16, &[("Cast", 2), ("Conv", 1), ("Relu", 1), ("BatchNormalization", 1)]);
    assert_eq!((data_of(&converted.bytes, "y.weight").len(), data_of(&converted.bytes, "y.var").len()), (12, 24));
    let converted =
        converts(&builder.opset(13), DType::F16, &[("Cast", 2), ("Conv", 1), ("Relu", 1), ("BatchNormalization", 1)]);
    assert_eq!((data_of(&converted.bytes, "y.weight").len(), data_of(&converted.bytes, "y.var").len()), (12, 12));
}

#[test]
fn values_whose_types_the_file_states() {
    let mut builder = relu_network();
    builder.graph_extra = Message::default().message(13, &value_info("n", FLOAT, &[2, 6, 6, 6]));
    let converted = fold_with(&builder, &options(DType::F16));
    let stated = field(graph_of(&converted.bytes), 13);
    assert_eq!(stated, [value_info("n", FLOAT16, &[2, 6, 6, 6]).0]);
    // Before IR version 4 every initializer is an input too.
    let mut old = conv(&[3, 3], 4, 6, 1, true).raw_input(value_info("w", FLOAT, &[6, 4, 3, 3]));
    old = old.raw_input(value_info("b", FLOAT, &[6])).node("Relu", &["c"], "y", &[]);
    old.ir_version = 3;
    let converted = fold_with(&old, &options(DType::F16));
    let inputs = field(graph_of(&converted.bytes), 11);
    assert_eq!(inputs[1], value_info("w", FLOAT16, &[6, 4, 3, 3]).0);
    assert_eq!(inputs[0], value_info("x", FLOAT, &[2, 4, 6, 6]).0);
}

#[test]
fn shapes_of_integers_stay() {
    let shape = tensor("s", INT64, &[2], &[0.0, -1.0]);
    let builder = relu_network().output("z").initializer(shape).node("Reshape", &["y", "s"], "f", &[]);
    let builder = builder.random("v", &[216, 5]).random("u", &[5]).node("Gemm", &["f", "v", "u"], "z", &[]);
    let converted =
        converts(&builder, DType::F16, &[("Cast", 3), ("Conv", 1), ("Relu", 1), ("Reshape", 1), ("Gemm", 1)]);
    assert_eq!(data_of(&converted.bytes, "s").len(), 16);
}

#[test]
fn every_layer_in_every_type() {
    for dtype in [DType::F16, DType::Bf16] {
        for opset in [13, 17, 22] {
            for (groups, outputs) in [(1, 6), (2, 6), (4, 4)] {
                let builder = conv(&[3, 2], 4, outputs, groups, true).batch_norm("c", "y", outputs);
                fold_with(&builder.opset(opset), &options(dtype));
            }
            let transposed = Builder::default().input("x", &[2, 4, 3, 3]).random("w", &[4, 3, 2, 2]).output("y");
            let transposed = transposed.node("ConvTranspose", &["x", "w"], "c", &[]).batch_norm("c", "y", 3);
            fold_with(&transposed.opset(opset), &options(dtype));
            let product =
                Builder::default().input("x", &[5, 4]).random("w", &[4, 6]).output("y").batch_norm("x", "n", 4);
            let product = product.node("MatMul", &["n", "w"], "m", &[]).batch_norm("m", "y", 6);
            fold_with(&product.opset(opset), &options(dtype));
        }
    }
}

/// In f16 the folded network is as near as one rounding of its weights is.
#[test]
fn results_are_those_of_the_model() {
    let builder = relu_network();
    let converted = fold_with(&builder, &options(DType::F16));
    let x = Array { dims: vec![2, 4, 6, 6], data: (0..288).map(|index| f64::from(index % 17) / 8.0 - 1.0).collect() };
    let run =
        |bytes: Vec<u8>| Model::from_bytes(bytes).unwrap().evaluate(&[("x".to_owned(), x.clone())].into()).unwrap();
    let (before, after) = (run(builder.build()), run(converted.bytes));
    let largest = before[0].1.data.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    for (before, after) in before[0].1.data.iter().zip(&after[0].1.data) {
        assert!((before - after).abs() <= 2e-3 * largest, "{before} {after}");
    }
}

#[test]
fn tensors_in_files_of_their_own() {
    let folder = Folder::new("converted");
    let path = folder.path("model.onnx");
    let weight: Vec<u8> = (0..24).flat_map(|index| (index as f32 / 8.0 - 1.0).to_le_bytes()).collect();
    std::fs::write(folder.path("weights.bin"), weight).unwrap();
    std::fs::write(&path, crate::hostile::external("weights.bin", "0")).unwrap();
    let model = Model::open(&path).unwrap();
    let plan = Plan::new(&model, &options(DType::F16)).unwrap();
    let out = folder.path("half.onnx");
    plan.save(&out).unwrap();
    assert_eq!(std::fs::metadata(folder.path("half.onnx.data")).unwrap().len(), 48);
    let verification = plan.verify(&Model::open(&out).unwrap(), 1, None).unwrap();
    assert!(verification.passed(), "{verification:#?}");
}

#[test]
fn a_wrong_number_is_caught() {
    for (name, dtype) in [("w", DType::F16), ("v", DType::F16)] {
        let builder = relu_network().output("z").random("v", &[5, 6, 1, 1]).node("Conv", &["y", "v"], "z", &[]);
        let model = Model::from_bytes(builder.build()).unwrap();
        let plan = Plan::new(&model, &options(dtype)).unwrap();
        let mut bytes = plan.to_bytes().unwrap();
        let data = data_of(&bytes, name);
        let at = data.as_ptr().addr() - bytes.as_ptr().addr();
        // Its sign.
        bytes[at + 1] ^= 0x80;
        let verification = plan.verify(&Model::from_bytes(bytes).unwrap(), 1, None).unwrap();
        assert!(verification.failed(), "{name}: {verification:#?}");
    }
}

#[test]
fn bf16_tensors_of_a_model() {
    let brain = Builder::default().opset(22).element(BFLOAT16).input("x", &[2, 4, 6, 6]).output("y");
    let brain = brain.random("w", &[6, 4, 3, 3]).node("Conv", &["x", "w"], "c", &[]).batch_norm("c", "y", 6);
    converts(&brain, DType::F16, &[("Cast", 2), ("Conv", 1)]);
}

/// Of what an operator makes of which nothing is known, the type is not known either.
#[test]
fn layers_behind_unknown_operators() {
    let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("w", &[6, 4, 1, 1]);
    let builder = builder.node("ThresholdedRelu", &["x"], "t", &[]).node("Conv", &["t", "w"], "c", &[]);
    let model = Model::from_bytes(builder.batch_norm("c", "y", 6).build()).unwrap();
    let converted = Plan::new(&model, &options(DType::F16)).unwrap().to_bytes().unwrap();
    // The layer computes as it did, so its weight and bias are cast.
    let expected = [("Cast", 2), ("Conv", 1), ("ThresholdedRelu", 1)].map(|(op, count)| (op.to_owned(), count));
    assert_eq!(operators_of(&converted), BTreeMap::from(expected));
    // Of this one it is known.
    let scales = tensor("s", FLOAT, &[4], &[1.0, 1.0, 2.0, 2.0]);
    let builder = Builder::default().opset(9).input("x", &[2, 4, 6, 6]).output("y").random("w", &[6, 4, 1, 1]);
    let builder = builder.initializer(scales).node("Upsample", &["x", "s"], "u", &[]);
    let builder = builder.node("Conv", &["u", "w"], "c", &[]).batch_norm("c", "y", 6);
    converts(&builder, DType::F16, &[("Cast", 2), ("Conv", 1), ("Upsample", 1)]);
}
