//! What is special about a graph and not about a layer: who reads what, what is constant, versions of the standard.

use warpnorm::fold::onnx::{Array, Forward, Model, Options, Plan, Verdict, Whole};

use crate::{
    onnx::{fold, fold_with, folds, refuses},
    writer::{BFLOAT16, Builder, FLOAT, FLOAT16, INT64, Message, Value, conv, node, tensor, value_info},
};

#[test]
fn who_else_reads() {
    let two = conv(&[3, 3], 4, 6, 1, true).node("Relu", &["c"], "r", &[]).output("r").batch_norm("c", "y", 6);
    refuses(&two, &["read-elsewhere"]);
    let output = conv(&[3, 3], 4, 6, 1, true).output("c").batch_norm("c", "y", 6);
    refuses(&output, &["is-output"]);
    let duplicate = Options { duplicate_shared: true, ..Options::default() };
    for builder in [&two, &output] {
        let folded = fold_with(builder, &duplicate);
        assert_eq!(folded.codes(), ["folded"]);
        assert_eq!(folded.nodes(), folded.report.summary.nodes_before);
    }
    // A copy of a product of three axes has its bias added behind it.
    let of_three = Builder::default().input("x", &[2, 6, 4]).random("w", &[4, 6]).output("y").output("m");
    let of_three = of_three.node("MatMul", &["x", "w"], "m", &[]).node("Transpose", &["m"], "t", &[]);
    let of_three = of_three.output("t").random("k", &[6]).node("Mul", &["m", "k"], "n", &[]).random("s", &[6]);
    let folded = fold_with(&of_three.node("Add", &["n", "s"], "y", &[]), &duplicate);
    assert_eq!((folded.codes(), folded.nodes()), (vec!["folded"; 2], 4));
    let branch = |name: &str, input: &str| {
        let inner = Message::default().message(1, &node("Identity", &[input], &[name], &[])).bytes(2, name);
        inner.message(12, &value_info(name, FLOAT, &[2, 6, 6, 6]))
    };
    let captured =
        conv(&[3, 3], 4, 6, 1, true).batch_norm("c", "y", 6).initializer(tensor("cond", 9, &[], &[]).bytes(9, [1]));
    let branches = [("then_branch", Value::Graph(branch("t", "c"))), ("else_branch", Value::Graph(branch("e", "c")))];
    let captured = captured.raw_node(node("If", &["cond"], &["z"], &branches)).output("z");
    // The evaluator has no If.
    let model = Model::from_bytes(captured.build()).unwrap();
    let plan = Plan::new(&model, &Options::default()).unwrap();
    assert_eq!(plan.report().rows[0].verdict.code(), "is-captured");
    assert_eq!(plan.to_bytes().unwrap(), model.bytes());
    assert!(!plan.verify(&model, 1, None).unwrap().passed(), "what cannot be evaluated has not passed");
}

#[test]
fn inside_graphs_and_functions() {
    let parameters = ["k", "t", "m", "v"];
    let inner_norm = node("BatchNormalization", &[&["c"][..], &parameters].concat(), &["i"], &[]);
    let inner = Message::default().message(1, &inner_norm).bytes(2, "inner");
    let mut builder = conv(&[3, 3], 4, 6, 1, true).batch_norm("c", "y", 6);
    builder = builder.raw_node(node("Loop", &[""], &["z"], &[("body", Value::Graph(inner))]));
    let function = Message::default().bytes(1, "F").bytes(4, "c").bytes(5, "i").message(7, &inner_norm);
    builder.model_extra = Message::default().message(25, &function);
    let model = Model::from_bytes(builder.build()).unwrap();
    let plan = Plan::new(&model, &Options::default()).unwrap();
    let codes: Vec<_> = plan.report().rows.iter().map(|row| row.verdict.code()).collect();
    assert_eq!(codes, ["is-captured", "inside", "inside"]);
    // An operator of another domain is nobody's to fold.
    let other = conv(&[3, 3], 4, 6, 1, true);
    let custom = Message(node("BatchNormalization", &["c"], &["y"], &[]).bytes(7, "my.domain").0);
    let plan = Model::from_bytes(other.raw_node(custom).build()).unwrap();
    assert!(Plan::new(&plan, &Options::default()).unwrap().report().rows.is_empty());
}

#[test]
fn shared_weights_are_copied() {
    let builder = conv(&[3, 3], 4, 6, 1, true).batch_norm("c", "n", 6);
    let pads = [("pads", Value::Ints(&[1; 4]))];
    let shared = builder.node("Conv", &["x", "w", "b"], "d", &pads).node("Add", &["n", "d"], "y", &[]);
    folds(&shared, 3);
    let both = shared.batch_norm("d", "z", 6).output("z");
    let codes: Vec<_> = fold(&both).codes();
    assert_eq!(codes, ["folded", "read-elsewhere"]);
}

#[test]
fn what_may_be_replaced() {
    for (name, dims) in [("w", &[6, 4, 3, 3][..]), ("b", &[6]), ("y.var", &[6])] {
        let builder = conv(&[3, 3], 4, 6, 1, true).batch_norm("c", "y", 6).input(name, dims);
        refuses(&builder, &["overridable"]);
        let freeze = Options { freeze_inputs: true, ..Options::default() };
        let folded = fold_with(&builder, &freeze);
        assert_eq!(folded.codes(), ["folded"]);
        // Before version 4 every initializer had to be an input.
        let mut old = conv(&[3, 3], 4, 6, 1, false).opset(8).batch_norm("c", "y", 6);
        old.ir_version = 3;
        for (name, dims) in [("w", &[6, 4, 3, 3][..]), ("b", &[6])] {
            old = old.input(name, dims);
        }
        for part in ["weight", "bias", "mean", "var"] {
            old = old.input(&format!("y.{part}"), &[6]);
        }
        folds(&old, 1);
    }
}

#[test]
fn training_mode() {
    let with = |opset: i64, outputs: &[&str], attributes: &[(&str, Value<'_>)]| {
        let builder = conv(&[3, 3], 4, 6, 1, true).opset(opset).random("k", &[6]).random("m", &[6]);
        let builder = builder.constant("v", &[6], &[1.0; 6]);
        builder.raw_node(node("BatchNormalization", &["c", "k", "k", "m", "v"], outputs, attributes))
    };
    let code = |builder: Builder| {
        let model = Model::from_bytes(builder.build()).unwrap();
        let plan = Plan::new(&model, &Options::default()).unwrap();
        assert_eq!(plan.report().rows.len(), 1);
        plan.report().rows[0].verdict.code()
    };
    assert_eq!(code(with(15, &["y"], &[("training_mode", Value::Int(1))])), "training-mode");
    assert_eq!(code(with(15, &["y", "rm", "rv"], &[("training_mode", Value::Int(1))])), "training-mode");
    assert_eq!(code(with(9, &["y", "rm", "rv", "sm", "sv"], &[])), "training-mode");
    assert_eq!(code(with(6, &["y"], &[])), "training-mode");
    assert_eq!(code(with(6, &["y"], &[("is_test", Value::Int(1))])), "folded");
    assert_eq!(code(with(8, &["y"], &[("spatial", Value::Int(0))])), "per-element");
    assert_eq!(code(with(5, &["y"], &[("is_test", Value::Int(1))])), "version");
    assert_eq!(code(with(15, &["y", "", ""], &[])), "folded");
}

#[test]
fn versions_of_the_standard() {
    for opset in [6, 7, 8, 9, 11, 13, 14, 15, 17, 21, 24] {
        let builder = conv(&[3, 3], 4, 6, 1, false).opset(opset).random("k", &[6]).random("m", &[6]).constant(
            "v",
            &[6],
            &[1.0; 6],
        );
        let is_test = [("is_test", Value::Int(1))];
        let attributes = if opset == 6 { &is_test[..] } else { &[] };
        let builder = builder.node("BatchNormalization", &["c", "k", "k", "m", "v"], "n", attributes);
        let along = [("broadcast", Value::Int(1)), ("axis", Value::Int(1))];
        let (dims, attributes) = if opset == 6 { (&[6][..], &along[..]) } else { (&[6, 1, 1][..], &[][..]) };
        folds(&builder.random("s", dims).node("Mul", &["n", "s"], "y", attributes), 1);
    }
    // Without broadcasting, or along another axis, it is not a map of the channels.
    let builder = conv(&[3, 3], 4, 6, 1, false).opset(6).random("s", &[6]);
    for attributes in
        [&[][..], &[("broadcast", Value::Int(1))], &[("broadcast", Value::Int(1)), ("axis", Value::Int(2))]]
    {
        let builder = builder.clone().node("Mul", &["c", "s"], "y", attributes);
        let model = Model::from_bytes(builder.build()).unwrap();
        assert_eq!(Plan::new(&model, &Options::default()).unwrap().to_bytes().unwrap(), model.bytes());
    }
    let gemm = Builder::default().opset(6).input("x", &[5, 4]).output("y").random("w", &[4, 6]).random("b", &[6]);
    let gemm = gemm.node("Gemm", &["x", "w", "b"], "g", &[("broadcast", Value::Int(1))]).random("s", &[6]);
    folds(&gemm.node("Mul", &["g", "s"], "y", &[("broadcast", Value::Int(1))]), 1);
}

#[test]
fn constants_behind_nodes() {
    let x = Builder::default().input("x", &[2, 4, 6, 6]).output("y");
    let weight: Vec<f64> = (0..6 * 4).map(|index| f64::from(index) / 8.0 - 1.0).collect();
    let constant = tensor("", FLOAT, &[6, 4, 1, 1], &weight);
    let shape = |builder: Builder, values: &[f64]| builder.initializer(tensor("s", INT64, &[values.len()], values));
    let cast = Value::Int(FLOAT);
    let cases = [
        x.clone().node("Constant", &[], "w", &[("value", Value::Tensor(constant))]),
        x.clone().random("o", &[6, 4, 1, 1]).node("Identity", &["o"], "i", &[]).node("Identity", &["i"], "w", &[]),
        x.clone().initializer(tensor("o", FLOAT16, &[6, 4, 1, 1], &weight)).node("Cast", &["o"], "w", &[("to", cast)]),
        shape(x.clone(), &[6.0, 4.0, 1.0, 1.0]).constant("o", &[24], &weight).node("Reshape", &["o", "s"], "w", &[]),
        shape(x.clone(), &[-1.0, -2.0]).constant("o", &[6, 4], &weight).node("Unsqueeze", &["o", "s"], "w", &[]),
        x.clone().constant("o", &[4, 6, 1, 1], &weight).node(
            "Transpose",
            &["o"],
            "w",
            &[("perm", Value::Ints(&[1, 0, 2, 3]))],
        ),
        shape(x.clone(), &[6.0, 4.0, 1.0, 1.0]).node(
            "ConstantOfShape",
            &["s"],
            "w",
            &[("value", Value::Tensor(tensor("", FLOAT, &[1], &[0.5])))],
        ),
    ];
    for builder in cases {
        folds(&builder.node("Conv", &["x", "w"], "c", &[]).batch_norm("c", "y", 6), 1);
    }
    let computed = x.input("w", &[6, 4, 1, 1]).node("Conv", &["x", "w"], "c", &[]);
    refuses(&computed.batch_norm("c", "y", 6), &["not-constant"]);
    let quantized = Builder::default()
        .input("x", &[2, 4, 6, 6])
        .output("y")
        .initializer(tensor("q", 3, &[6, 4, 1, 1], &[]).bytes(9, [1; 24]));
    let quantized = quantized.constant("s", &[], &[0.5]).node("DequantizeLinear", &["q", "s"], "w", &[]);
    let model =
        Model::from_bytes(quantized.node("Conv", &["x", "w"], "c", &[]).batch_norm("c", "y", 6).build()).unwrap();
    assert_eq!(Plan::new(&model, &Options::default()).unwrap().report().rows[0].verdict.code(), "quantized");
}

#[test]
fn a_bias_of_no_name_is_none() {
    let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("conv.weight", &[6, 4, 3, 3]);
    let folded = fold(&builder.node("Conv", &["x", "conv.weight", ""], "c", &[]).batch_norm("c", "y", 6));
    assert_eq!((folded.codes(), folded.nodes()), (vec!["folded"], 1));
    assert!(folded.bytes.windows(9).any(|bytes| bytes == b"conv.bias"));
}

#[test]
fn narrow_types() {
    for element in [FLOAT16, BFLOAT16] {
        let builder =
            Builder::default().element(element).input("x", &[2, 4, 6, 6]).output("y").random("w", &[6, 4, 3, 3]);
        folds(&builder.node("Conv", &["x", "w"], "c", &[]).batch_norm("c", "y", 6), 1);
        // Statistics may be of another type.
        let builder =
            Builder::default().element(element).input("x", &[2, 4, 6, 6]).output("y").random("w", &[6, 4, 3, 3]);
        let builder = builder.node("Conv", &["x", "w"], "c", &[]).random("k", &[6]).random("t", &[6]);
        let builder = builder.element(FLOAT).random("m", &[6]).constant("v", &[6], &[0.5; 6]);
        folds(&builder.node("BatchNormalization", &["c", "k", "t", "m", "v"], "y", &[]), 1);
    }
    let double = Builder::default().element(11).input("x", &[2, 4, 6, 6]).output("y").random("w", &[6, 4, 3, 3]);
    refuses(&double.node("Conv", &["x", "w"], "c", &[]).batch_norm("c", "y", 6), &["element-type"]);
}

#[test]
fn numbers_that_forbid_a_fold() {
    let with = |var: f64, mean: f64, eps: f32| {
        let builder = conv(&[3, 3], 4, 2, 1, true).random("k", &[2]).constant("m", &[2], &[0.0, mean]);
        let builder = builder.constant("v", &[2], &[1.0, var]);
        builder.node("BatchNormalization", &["c", "k", "k", "m", "v"], "y", &[("epsilon", Value::Float(eps))])
    };
    let row = |builder: &Builder| {
        let model = Model::from_bytes(builder.build()).unwrap();
        Plan::new(&model, &Options::default()).unwrap().report().rows[0].clone()
    };
    for (var, mean, eps, code) in [
        (f64::NAN, 0.0, 1e-5, "invalid-variance"),
        (-1.0, 0.0, 1e-5, "invalid-variance"),
        (-9.9998997e-6, 0.0, 1e-5, "invalid-variance"),
        (f64::INFINITY, 0.0, 1e-5, "invalid-variance"),
        (0.0, 0.0, 0.0, "zero-variance"),
        (1.0, f64::NAN, 1e-5, "non-finite"),
        (1.0, 0.0, -1.0, "invalid-eps"),
    ] {
        let row = row(&with(var, mean, eps));
        assert_eq!(row.verdict.code(), code, "{var} {mean} {eps}");
        if code != "invalid-eps" {
            assert_eq!(row.verdict.refusal().and_then(|refusal| refusal.channel()), Some(1));
        }
    }
    let tiny = row(&with(1e-12, 0.0, 1e-10));
    assert_eq!((tiny.verdict.code(), tiny.warnings.len()), ("folded", 2), "{tiny:?}");
    // In f16 the scale is too much; a multiplication behind it is left out, too.
    let builder = Builder::default().element(FLOAT16).input("x", &[2, 4, 6, 6]).output("y").random("w", &[6, 4, 3, 3]);
    let builder =
        builder.node("Conv", &["x", "w"], "c", &[]).constant("k", &[], &[3.0]).node("Mul", &["c", "k"], "d", &[]);
    let overflow = builder.constant("l", &[6, 1, 1], &[6e4; 6]).node("Mul", &["d", "l"], "y", &[]);
    let folded = fold(&overflow);
    assert_eq!((folded.codes(), folded.nodes()), (vec!["folded"], 2));
}

#[test]
fn what_is_not_folded_is_the_same_bytes() {
    let mut builder = conv(&[3, 3], 4, 6, 1, true).batch_norm("c", "n", 6).node("Relu", &["n"], "y", &[]);
    let metadata = Message::default().bytes(1, "key").bytes(2, "value");
    let info = |name: &str| value_info(name, FLOAT, &[2, 6, 6, 6]);
    builder.graph_extra = Message::default().message(13, &info("c")).message(13, &info("n")).message(16, &metadata);
    builder.graph_extra = builder.graph_extra.bytes(1999, "a field of the future");
    builder.model_extra = Message::default().message(14, &metadata).bytes(2000, "and another").int(2001, 7);
    let folded = fold(&builder);
    let has = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    for kept in [&builder.model_extra.0[..], b"a field of the future", &info("n").0, b"n_y"] {
        assert!(has(&folded.bytes, kept));
    }
    // The convolution's own output is gone, and so is what was said of it.
    assert!(!has(&folded.bytes, &info("c").0) && !has(&folded.bytes, b"n.var"));
    let nothing = Options { skip: vec!["*".into()], ..Options::default() };
    let kept = fold_with(&builder, &nothing);
    assert_eq!((kept.codes(), kept.bytes == builder.build()), (vec!["left-out"], true));
}

#[test]
fn planted_mistakes_are_caught() {
    let builder = conv(&[3, 3], 4, 4, 1, true).batch_norm("c", "y", 4);
    let model = Model::from_bytes(builder.build()).unwrap();
    let plan = Plan::new(&model, &Options::default()).unwrap();
    let right = plan.to_bytes().unwrap();
    let verify = |bytes: Vec<u8>| plan.verify(&Model::from_bytes(bytes).unwrap(), 1, None).unwrap();
    assert!(verify(right.clone()).passed());

    // One weight, by a hundredth.
    let weight = f32_at(&right, 4 * 4 * 9);
    let mut one = right.clone();
    let value = f32::from_le_bytes(one[weight + 40..weight + 44].try_into().unwrap()) * 1.01;
    one[weight + 40..weight + 44].copy_from_slice(&value.to_le_bytes());
    // The bias of another channel.
    let mut swapped = right.clone();
    let bias = f32_at(&right, 4);
    swapped[bias..bias + 4].copy_from_slice(&right[bias + 4..bias + 8]);
    for wrong in [one, swapped] {
        let verification = verify(wrong);
        assert!(!verification.passed() && !verification.pairs[0].passed(), "{verification:#?}");
    }
    // Another eps, and statistics on the wrong axis: what the folded model would be.
    let other = |builder: Builder| {
        let model = Model::from_bytes(builder.build()).unwrap();
        Plan::new(&model, &Options::default()).unwrap().to_bytes().unwrap()
    };
    let eps = conv(&[3, 3], 4, 4, 1, true).random("y.weight", &[4]).random("y.bias", &[4]).random("y.mean", &[4]);
    assert!(
        !verify(other(eps.constant("y.var", &[4], &[1.0; 4]).node(
            "BatchNormalization",
            &["c", "y.weight", "y.bias", "y.mean", "y.var"],
            "y",
            &[],
        )))
        .passed()
    );
    let mut transposed = right.clone();
    for o in 0..4 {
        for i in 0..4 {
            let (to, from) = (weight + (o * 4 + i) * 36, weight + (i * 4 + o) * 36);
            transposed[to..to + 36].copy_from_slice(&right[from..from + 36]);
        }
    }
    assert!(!verify(transposed).passed());
    let without_bias = conv(&[3, 3], 4, 4, 1, false).batch_norm("c", "y", 4);
    assert!(!verify(other(without_bias)).passed());
}

/// What a tool does that folds a `BatchNorm` forward and does not see that zeros pad the convolution behind it.
#[test]
fn a_fold_across_padding_is_caught() {
    let noise = |len: usize, seed: usize| -> Vec<f64> {
        (0..len).map(|index| ((index * 37 + seed * 11) % 64) as f64 / 32.0 - 1.0).collect()
    };
    let (weight, bias) = (noise(6 * 4 * 9, 1), noise(6, 2));
    let (scale, shift, mean) = (noise(4, 3), noise(4, 4), noise(4, 5));
    let pads = [("pads", Value::Ints(&[1; 4]))];
    let start = || Builder::default().input("x", &[2, 4, 6, 6]).output("y");
    let builder = start().constant("k", &[4], &scale).constant("t", &[4], &shift).constant("m", &[4], &mean);
    let builder =
        builder.constant("v", &[4], &[0.75; 4]).constant("w", &[6, 4, 3, 3], &weight).constant("b", &[6], &bias);
    let epsilon = [("epsilon", Value::Float(0.25))];
    let builder = builder.node("BatchNormalization", &["x", "k", "t", "m", "v"], "n", &epsilon);
    let model = Model::from_bytes(builder.clone().node("Conv", &["n", "w", "b"], "y", &pads).build()).unwrap();
    let plan = Plan::new(&model, &Options { forward: Forward::Scale, ..Options::default() }).unwrap();
    assert_eq!(plan.report().rows[0].verdict.code(), "scale-folded");
    let verify = |bytes: Vec<u8>| plan.verify(&Model::from_bytes(bytes).unwrap(), 1, None).unwrap();
    assert!(verify(plan.to_bytes().unwrap()).passed());

    // The variance and epsilon are 1 together.
    let folded: Vec<_> = weight.iter().enumerate().map(|(index, weight)| weight * scale[index / 9 % 4]).collect();
    let shifted = |output: usize| {
        let taps = |input: usize| weight[(output * 4 + input) * 9..][..9].iter().sum::<f64>();
        bias[output] + (0..4).map(|input| taps(input) * (shift[input] - mean[input] * scale[input])).sum::<f64>()
    };
    let shifted: Vec<_> = (0..6).map(shifted).collect();
    let naive = |pads: &[(&str, Value<'_>)]| {
        let naive = start().constant("w", &[6, 4, 3, 3], &folded).constant("b", &[6], &shifted);
        naive.node("Conv", &["x", "w", "b"], "y", pads).build()
    };
    let verification = verify(naive(&pads));
    assert!(!verification.pairs[0].passed(), "{verification:#?}");
    assert!(matches!(verification.whole, Whole::Compared { max_error, .. } if max_error > 0.01), "{verification:#?}");
    assert!(verification.failed() && !verification.whole.passed());

    // But for the padding it is the fold.
    let bare = Model::from_bytes(builder.node("Conv", &["n", "w", "b"], "y", &[]).build()).unwrap();
    let plan = Plan::new(&bare, &Options::default()).unwrap();
    assert!(plan.verify(&Model::from_bytes(naive(&[])).unwrap(), 1, None).unwrap().passed());
}

/// Where the raw data of so many f32 lies.
fn f32_at(model: &[u8], len: usize) -> usize {
    let bytes = len * 4;
    let header = if bytes < 128 { vec![0x4a, bytes as u8] } else { vec![0x4a, bytes as u8 | 0x80, (bytes >> 7) as u8] };
    model.windows(header.len()).position(|window| window == header).unwrap() + header.len()
}

/// An axis of length 1 that a constant repeats is no axis of channels: whoever comes next needs the longer one.
#[test]
fn maps_that_widen() {
    let wide = Builder::default().input("x", &[2, 1, 4, 4]).output("y").random("k", &[1, 3, 1, 1]);
    let wide = wide.random("w", &[2, 3, 1, 1]).node("Mul", &["x", "k"], "m", &[]);
    refuses(&wide.clone().node("Conv", &["m", "w"], "y", &[]), &[]);
    refuses(&wide.batch_norm("m", "y", 3), &["behind"]);
    // Where the length is open it may be 1.
    let open = Builder::default().input("x", &[2, 0, 4, 4]).output("y").random("k", &[1, 3, 1, 1]);
    let open = open.random("w", &[2, 3, 1, 1]).node("Mul", &["x", "k"], "m", &[]);
    let model = Model::from_bytes(open.node("Conv", &["m", "w"], "y", &[]).build()).unwrap();
    assert_eq!(Plan::new(&model, &Options::default()).unwrap().to_bytes().unwrap(), model.bytes());
}

#[test]
fn a_scale_before_padding_behind_a_constant() {
    let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("k", &[4, 1, 1]);
    let builder = builder.random("w", &[3, 4, 3, 3]).node("Sub", &["k", "x"], "s", &[]);
    let builder = builder.node("Conv", &["s", "w"], "y", &[("pads", Value::Ints(&[1; 4]))]);
    let scale = Options { forward: Forward::Scale, ..Options::default() };
    assert_eq!(fold_with(&builder, &scale).codes(), ["scale-folded"]);
}

/// An input that is listed with its shape keeps it.
#[test]
fn biases_that_get_another_shape() {
    let mut builder = Builder::default().opset(7).input("x", &[5, 4]).input("w", &[4, 6]).input("b", &[1, 6]);
    builder.ir_version = 3;
    for part in ["weight", "bias", "mean", "var"] {
        builder = builder.input(&format!("y.{part}"), &[6]);
    }
    builder = builder.output("y").random("w", &[4, 6]).random("b", &[1, 6]).node("Gemm", &["x", "w", "b"], "g", &[]);
    let folded = fold_with(&builder.batch_norm("g", "y", 6), &Options::default());
    assert_eq!(folded.codes(), ["folded"]);
    let model = Model::from_bytes(folded.bytes).unwrap();
    assert_eq!(model.inputs().unwrap().len(), 1, "the others are initializers");
    let text = String::from_utf8_lossy(model.bytes()).into_owned();
    assert!(text.contains("b_folded"), "the bias has a shape of its own, and so a name");
}

#[test]
fn copies_that_are_merged_again() {
    let builder = conv(&[3, 3], 4, 6, 1, true).batch_norm("c", "n", 6).node("Sum", &["c", "n"], "y", &[]);
    let options = Options { duplicate_shared: true, merge_branches: true, ..Options::default() };
    let folded = Model::from_bytes(fold_with(&builder, &options).bytes).unwrap();
    assert_eq!(Plan::new(&folded, &options).unwrap().report().summary.nodes_before, 1);
}

/// ONNX Runtime refuses a model otherwise.
#[test]
fn new_nodes_have_names_of_their_own() {
    let builder = Builder::default().input("x", &[2, 5, 4]).output("y").random("w", &[4, 3]).random("k", &[3]);
    let builder = builder.node("MatMul", &["x", "w"], "m", &[]).node("Relu", &["m"], "r", &[]).output("r");
    let folded = fold_with(
        &builder.node("Sub", &["k", "m"], "y", &[]),
        &Options { duplicate_shared: true, ..Options::default() },
    );
    assert_eq!(folded.codes(), ["folded"]);
    let named = |name: &str| {
        let field = Message::default().bytes(3, name).0;
        folded.bytes.windows(field.len()).filter(|window| **window == field).count()
    };
    assert_eq!((named("y"), named("y_1")), (1, 1));
}

#[test]
fn nodes_without_names_are_called_as_in_the_file() {
    let unnamed = Message::default().bytes(1, "x").bytes(1, "w").bytes(2, "c").bytes(4, "Conv");
    let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("w", &[6, 4, 1, 1]);
    let folded = fold(&builder.raw_node(unnamed).batch_norm("c", "y", 6));
    let Verdict::Folded { layers, .. } = &folded.report.rows[0].verdict else { panic!("{:#?}", folded.report.rows) };
    assert_eq!(layers, &["c"]);
}

#[test]
fn an_addition_before_a_matmul_of_more_axes() {
    let builder = Builder::default().input("x", &[2, 5, 4]).output("y").random("w", &[4, 3]).random("k", &[1]);
    refuses(&builder.node("Add", &["x", "k"], "a", &[]).node("MatMul", &["a", "w"], "y", &[]), &[]);
}

/// What is compared alone is given what the model could give it.
#[test]
fn a_layer_and_its_copy_in_one_sum() {
    let pads = [("pads", Value::Ints(&[1; 4]))];
    let builder = conv(&[3, 3], 4, 6, 1, true).random("k", &[6, 1, 1]).random("v", &[6, 6, 3, 3]);
    let builder = builder.node("Conv", &["c", "v"], "d", &pads).node("Sub", &["k", "c"], "s", &[]);
    let builder = builder.node("Add", &["d", "s"], "a", &[]).batch_norm("a", "y", 6);
    let folded = fold_with(&builder, &Options { duplicate_shared: true, ..Options::default() });
    assert_eq!(folded.codes(), ["folded", "folded"]);
}

#[test]
fn shapes_that_frozen_inputs_tell() {
    let axes = tensor("axes", INT64, &[1], &[1.0]);
    let builder =
        Builder::default().input("x", &[2, 4, 5, 6]).output("y").initializer(axes).random("k", &[1, 4, 1, 1, 1]);
    let builder = builder.raw_input(value_info("axes", INT64, &[1])).node("Unsqueeze", &["x", "axes"], "u", &[]);
    let builder = builder.node("Transpose", &["u"], "t", &[("perm", Value::Ints(&[0, 2, 1, 3, 4]))]);
    let builder = builder.node("Add", &["t", "k"], "a", &[]).batch_norm("a", "y", 4);
    let folded = fold_with(&builder, &Options { freeze_inputs: true, ..Options::default() });
    assert_eq!(folded.codes(), ["merged", "behind-input"]);
}

/// With one sample an open axis is squeezed too.
#[test]
fn squeezing_whatever_is_of_length_1() {
    let builder = |batch: usize| {
        let builder = Builder::default().input("x", &[batch, 4, 3, 3]).output("y").random("w", &[6, 4, 3, 3]);
        builder.node("Conv", &["x", "w"], "c", &[]).node("Squeeze", &["c"], "s", &[]).batch_norm("s", "y", 6)
    };
    folds(&builder(2), 2);
    let open = Model::from_bytes(builder(0).build()).unwrap();
    assert_eq!(Plan::new(&open, &Options::default()).unwrap().report().rows[0].verdict.code(), "behind");
}

#[test]
fn means_over_axes_that_are_not_named() {
    let mean = |attributes: &[(&str, Value<'_>)]| {
        let axes = tensor("axes", INT64, &[0], &[]).bytes(9, []);
        let builder = Builder::default().opset(18).input("x", &[1, 2]).output("y").initializer(axes);
        let model = Model::from_bytes(builder.node("ReduceMean", &["x", "axes"], "y", attributes).build()).unwrap();
        let given = Array { dims: vec![1, 2], data: vec![1.0, 3.0] };
        model.evaluate(&[("x".to_owned(), given)].into()).unwrap().remove(0).1.data
    };
    assert_eq!(mean(&[]), [2.0]);
    assert_eq!(mean(&[("noop_with_empty_axes", Value::Int(1))]), [1.0, 3.0]);
}

/// A batch of more than one stays one in what is compared alone.
#[test]
fn squeezing_what_was_unsqueezed() {
    let axes = tensor("axes", INT64, &[1], &[2.0]);
    let builder = conv(&[3], 4, 6, 1, true).initializer(axes).node("Unsqueeze", &["c", "axes"], "u", &[]);
    folds(&builder.node("Squeeze", &["u"], "s", &[]).batch_norm("s", "y", 6), 3);
}

/// What is compared alone is first tried in a small size, in which these channels would not stay together.
#[test]
fn a_change_of_shape_that_depends_on_the_size() {
    let shape = tensor("shape", INT64, &[2], &[-1.0, 8.0]);
    let builder = Builder::default().input("x", &[2, 4, 2]).output("y").random("w", &[8, 3]).initializer(shape);
    let builder = builder.batch_norm("x", "n", 4).node("Reshape", &["n", "shape"], "r", &[]);
    folds(&builder.node("MatMul", &["r", "w"], "y", &[]), 2);
}
