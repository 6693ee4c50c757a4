//! ONNX graphs: one for each case, folded, and compared in f64 before and after.

use warpnorm::fold::onnx::{Forward, Model, Options, Plan, Report};

use crate::writer::{Builder, INT64, Message, Value, conv, tensor};

/// What came of folding a model.
pub struct Folded {
    pub report: Report,
    pub bytes: Vec<u8>,
}

impl Folded {
    pub fn codes(&self) -> Vec<&'static str> {
        self.report.rows.iter().map(|row| row.verdict.code()).collect()
    }

    pub fn nodes(&self) -> usize {
        self.report.summary.nodes_after
    }
}

/// Folds, and checks what must always hold: the same results, the same bytes where nothing was folded, and nothing left to
/// fold the second time.
pub fn fold_with(builder: &Builder, options: &Options) -> Folded {
    let model = Model::from_bytes(builder.build()).unwrap();
    let plan = Plan::new(&model, options).unwrap();
    let bytes = plan.to_bytes().unwrap();
    assert_eq!(bytes.len() as u64, plan.report().summary.file_after);
    let folded = Model::from_bytes(bytes.clone()).unwrap();
    let verification = plan.verify(&folded, 2, None).unwrap();
    assert!(verification.passed(), "{verification:#?}");
    let again = Plan::new(&folded, options).unwrap();
    assert!(again.to_bytes().unwrap() == bytes, "a second fold changes the model: {:#?}", again.report().rows);
    let report = plan.report().clone();
    if report.summary.nodes_after == report.summary.nodes_before {
        assert!(bytes == model.bytes() || report.rows.iter().any(|row| row.verdict.refusal().is_none()));
    }
    Folded { report, bytes }
}

pub fn fold(builder: &Builder) -> Folded {
    fold_with(builder, &Options::default())
}

/// Checks that all maps are folded, and that so many nodes are left.
pub fn folds(builder: &Builder, nodes: usize) {
    let folded = fold(builder);
    assert!(folded.codes().iter().all(|&code| code == "folded"), "{:#?}", folded.report.rows);
    assert_eq!(folded.nodes(), nodes, "{:#?}", folded.report);
}

/// Checks that the model stays as it is, for these reasons.
pub fn refuses(builder: &Builder, codes: &[&str]) {
    let folded = fold(builder);
    assert_eq!(folded.codes(), codes, "{:#?}", folded.report.rows);
    assert_eq!(folded.bytes, builder.build());
}

#[test]
fn convolutions() {
    for kernel in [&[3][..], &[3, 2], &[2, 1, 3]] {
        for (inputs, outputs, groups) in [(4, 6, 1), (4, 6, 2), (4, 4, 4), (4, 8, 4)] {
            for bias in [false, true] {
                folds(&conv(kernel, inputs, outputs, groups, bias).batch_norm("c", "y", outputs), 1);
            }
        }
    }
}

#[test]
fn transposed_convolutions() {
    for kernel in [&[3][..], &[3, 2], &[2, 1, 3]] {
        for (inputs, per_group, groups) in [(4, 6, 1), (4, 4, 1), (4, 3, 2), (4, 1, 4), (4, 2, 4)] {
            for bias in [false, true] {
                let rank = kernel.len();
                let dims = [&[inputs, per_group], kernel].concat();
                let x = [&[2, inputs], &vec![3; rank][..]].concat();
                let outputs = per_group * groups;
                let builder = Builder::default().input("x", &x).random("w", &dims).random("b", &[outputs]).output("y");
                let given = if bias { &["x", "w", "b"][..] } else { &["x", "w"] };
                let (strides, added) = (vec![2; rank], vec![1; rank]);
                let attributes = [
                    ("group", Value::Int(groups as i64)),
                    ("strides", Value::Ints(&strides)),
                    ("output_padding", Value::Ints(&added)),
                ];
                folds(&builder.node("ConvTranspose", given, "c", &attributes).batch_norm("c", "y", outputs), 1);
            }
        }
    }
}

/// A `Gemm` of 4 channels to 6 on a batch of 5.
fn gemm(c: &[usize], attributes: &[(&str, Value<'_>)]) -> Builder {
    let is = |wanted: &str| attributes.iter().any(|(name, value)| *name == wanted && matches!(value, Value::Int(1)));
    let x = if is("transA") { [4, 5] } else { [5, 4] };
    let w = if is("transB") { [6, 4] } else { [4, 6] };
    let builder = Builder::default().input("x", &x).random("w", &w).random("b", c).output("y");
    builder.node("Gemm", &["x", "w", "b"], "g", attributes)
}

#[test]
fn gemms() {
    let (alpha, beta) = (("alpha", Value::Float(0.5)), ("beta", Value::Float(-2.0)));
    for c in [&[6][..], &[1, 6], &[1], &[], &[1, 1]] {
        for transposed in [0, 1] {
            let attributes = [("transB", Value::Int(transposed)), alpha.clone(), beta.clone()];
            folds(&gemm(c, &attributes).batch_norm("g", "y", 6), 1);
            folds(&gemm(c, &attributes[..1]).batch_norm("g", "y", 6), 1);
        }
    }
    folds(&gemm(&[6], &[("transA", Value::Int(1))]).batch_norm("g", "y", 6), 1);
    // Without C, and with one that counts for nothing.
    folds(&gemm(&[5, 6], &[("beta", Value::Float(0.0))]).batch_norm("g", "y", 6), 1);
    let bare =
        Builder::default().input("x", &[5, 4]).random("w", &[4, 6]).output("y").node("Gemm", &["x", "w"], "g", &[]);
    folds(&bare.batch_norm("g", "y", 6), 1);
    // A C of each sample cannot be a bias.
    refuses(&gemm(&[5, 6], &[]).batch_norm("g", "y", 6), &["invalid"]);
    refuses(&gemm(&[5, 1], &[]).batch_norm("g", "y", 6), &["invalid"]);
}

#[test]
fn matrix_products() {
    let of = |x: &[usize]| {
        Builder::default().input("x", x).random("w", &[4, 6]).output("y").node("MatMul", &["x", "w"], "m", &[])
    };
    // With two axes it becomes a Gemm.
    folds(&of(&[5, 4]).batch_norm("m", "y", 6), 1);
    // With three, its channels are on the last axis, where those of a BatchNorm are not, also if there are as many.
    refuses(&of(&[2, 6, 4]).batch_norm("m", "y", 6), &["axis"]);
    let turned = [("perm", Value::Ints(&[0, 2, 1]))];
    let turned = of(&[2, 5, 4]).node("Transpose", &["m"], "t", &turned).batch_norm("t", "y", 6);
    folds(&turned, 3);
    let arithmetic = of(&[2, 5, 4]).random("b", &[6]).node("Add", &["m", "b"], "a", &[]);
    folds(&arithmetic.clone().random("s", &[6]).node("Mul", &["a", "s"], "y", &[]), 2);
    folds(&of(&[2, 5, 4]).random("s", &[6]).node("Mul", &["m", "s"], "y", &[]), 1);
    // A bias alone is what such a layer has.
    let bias = fold(&of(&[2, 5, 4]).random("b", &[6]).node("Add", &["m", "b"], "y", &[]));
    assert_eq!((bias.nodes(), bias.codes().len()), (2, 0));
    let unknown = Builder::default().raw_input(Message::default().bytes(1, "x")).random("w", &[4, 6]).output("y");
    let unknown =
        Model::from_bytes(unknown.node("MatMul", &["x", "w"], "m", &[]).batch_norm("m", "y", 6).build()).unwrap();
    let plan = Plan::new(&unknown, &Options::default()).unwrap();
    assert_eq!(plan.report().rows[0].verdict.code(), "unknown-shape");
}

#[test]
fn arithmetic() {
    for op in ["Mul", "Add", "Sub", "Div"] {
        for dims in [&[1, 6, 1, 1][..], &[6, 1, 1], &[], &[1], &[1, 1, 1]] {
            folds(&conv(&[3, 3], 4, 6, 1, true).random("k", dims).node(op, &["c", "k"], "y", &[]), 1);
            let reversed = conv(&[3, 3], 4, 6, 1, false).random("k", dims).node(op, &["k", "c"], "y", &[]);
            if op == "Div" {
                let left = fold(&reversed);
                assert_eq!((left.codes().len(), left.nodes()), (0, 2), "a constant divided by a layer");
            } else {
                folds(&reversed, 1);
            }
        }
        // By width, by height, by sample, of more axes, or of several.
        for dims in [&[6][..], &[6, 1], &[2, 1, 1, 1], &[1, 1, 1, 1, 1], &[1, 6, 6, 1]] {
            let other = conv(&[3, 3], 4, 6, 1, true).random("k", dims).node(op, &["c", "k"], "y", &[]);
            assert_eq!(fold(&other).bytes, other.build(), "{op} of {dims:?}");
        }
    }
}

#[test]
fn chains() {
    let chain = |builder: Builder| {
        let builder = builder.batch_norm("c", "n1", 6).random("k", &[6, 1, 1]).node("Mul", &["n1", "k"], "m", &[]);
        let builder = builder.random("t", &[1, 6, 1, 1]).node("Add", &["m", "t"], "a", &[]);
        builder.batch_norm("a", "n2", 6).constant("h", &[], &[0.5]).node("Sub", &["h", "n2"], "y", &[])
    };
    folds(&chain(conv(&[3, 3], 4, 6, 2, true)), 1);
    folds(&chain(conv(&[3, 3], 4, 6, 1, false)), 1);
    // A bias that is added behind a convolution, as Paddle writes it.
    let biased = conv(&[3, 3], 4, 6, 1, false).random("t", &[1, 6, 1, 1]).node("Add", &["c", "t"], "a", &[]);
    folds(&biased.batch_norm("a", "y", 6), 1);
}

/// A BatchNorm of 4 channels before a convolution to 6.
fn before_conv(groups: usize, pads: &[i64]) -> Builder {
    let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").batch_norm("x", "n", 4);
    let builder = builder.random("w", &[6, 4 / groups, 3, 3]).random("b", &[6]);
    builder.node("Conv", &["n", "w", "b"], "y", &[("group", Value::Int(groups as i64)), ("pads", Value::Ints(pads))])
}

#[test]
fn before_a_layer() {
    folds(&before_conv(1, &[0; 4]), 1);
    folds(&before_conv(2, &[0; 4]), 1);
    let builder = Builder::default().input("x", &[5, 4]).output("y").batch_norm("x", "n", 4).random("w", &[4, 6]);
    folds(&builder.clone().node("MatMul", &["n", "w"], "y", &[]), 1);
    let attributes = [("alpha", Value::Float(0.5)), ("beta", Value::Float(3.0))];
    folds(&builder.clone().random("b", &[6]).node("Gemm", &["n", "w", "b"], "y", &attributes), 1);
    // On both sides, into several readers, and through a change of shape.
    let behind =
        Builder::default().input("x", &[2, 4, 6, 6]).output("y").batch_norm("x", "n", 4).random("w", &[6, 4, 3, 3]);
    let behind = behind.node("Conv", &["n", "w"], "c", &[]).node("Identity", &["c"], "z", &[]);
    folds(&behind.batch_norm("z", "y", 6), 2);
    let both = builder.clone().random("v", &[4, 3]).node("MatMul", &["n", "w"], "y", &[]);
    folds(&both.node("MatMul", &["n", "v"], "y2", &[]).output("y2"), 2);
    let flat = Builder::default().input("x", &[0, 4, 3, 2]).output("y").batch_norm("x", "n", 4).random("w", &[24, 5]);
    folds(&flat.clone().node("Flatten", &["n"], "f", &[]).node("Gemm", &["f", "w"], "y", &[]), 2);
    let shape = crate::writer::tensor("shape", crate::writer::INT64, &[2], &[0.0, -1.0]);
    let reshaped = flat.clone().initializer(shape).node("Reshape", &["n", "shape"], "f", &[]);
    folds(&reshaped.node("MatMul", &["f", "w"], "y", &[]), 2);
    let pooled = flat.random("v", &[4, 5]).node("GlobalAveragePool", &["n"], "p", &[]);
    folds(&pooled.node("Flatten", &["p"], "f", &[]).node("Gemm", &["f", "v"], "y", &[]), 3);
}

#[test]
fn before_a_padded_layer() {
    let padded = before_conv(2, &[1, 0, 0, 1]);
    refuses(&padded, &["padded-shift"]);
    let same =
        Builder::default().input("x", &[2, 4, 6, 6]).output("y").batch_norm("x", "n", 4).random("w", &[6, 4, 3, 3]);
    let same = same.node("Conv", &["n", "w"], "y", &[("auto_pad", Value::Text("SAME_UPPER"))]);
    refuses(&same, &["padded-shift"]);
    let scale = Options { forward: Forward::Scale, ..Options::default() };
    for builder in [&padded, &same] {
        let folded = fold_with(builder, &scale);
        assert_eq!((folded.codes(), folded.nodes()), (vec!["scale-folded"], 2));
    }
    // Also where the constant is what is written first.
    for op in ["Mul", "Sub"] {
        let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("k", &[4, 1, 1]);
        let builder = builder.node(op, &["k", "x"], "m", &[]).batch_norm("m", "n", 4).random("w", &[6, 4, 3, 3]);
        let first = builder.node("Conv", &["n", "w"], "y", &[("pads", Value::Ints(&[1, 1, 1, 1]))]);
        assert_eq!(fold_with(&first, &scale).nodes(), 2);
        let only = Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("k", &[4, 1, 1]);
        let only = only.node("Sub", &["k", "x"], "n", &[]).random("w", &[6, 4, 3, 3]);
        let only = only.node("Conv", &["n", "w"], "y", &[("pads", Value::Ints(&[1, 1, 1, 1]))]);
        assert_eq!(fold_with(&only, &scale).codes(), ["scale-folded"]);
    }
    // A scale alone takes 0 to 0.
    let scaled =
        Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("k", &[4, 1, 1]).random("w", &[6, 4, 3, 3]);
    let pads = [("pads", Value::Ints(&[1, 1, 1, 1]))];
    folds(&scaled.node("Mul", &["x", "k"], "n", &[]).node("Conv", &["n", "w"], "y", &pads), 1);
    let transposed = Builder::default().input("x", &[2, 4, 6, 6]).output("y").batch_norm("x", "n", 4);
    refuses(&transposed.random("w", &[4, 6, 3, 3]).node("ConvTranspose", &["n", "w"], "y", &[]), &["transposed-shift"]);
    let off = Options { forward: Forward::Off, ..Options::default() };
    assert_eq!(fold_with(&before_conv(1, &[0; 4]), &off).codes(), ["behind-input"]);
}

#[test]
fn through_operators() {
    let conv = |pads: &[i64]| {
        let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("w", &[6, 4, 3, 3]);
        builder.node("Conv", &["x", "w"], "c", &[("pads", Value::Ints(pads))])
    };
    let through = |op: &str, attributes: &[(&str, Value<'_>)]| {
        conv(&[1; 4]).node(op, &["c"], "p", attributes).batch_norm("p", "y", 6)
    };
    let kernel = ("kernel_shape", Value::Ints(&[2, 2]));
    folds(&through("AveragePool", std::slice::from_ref(&kernel)), 2);
    folds(&through("GlobalAveragePool", &[]), 2);
    folds(&through("Identity", &[]), 2);
    folds(&through("Dropout", &[]), 2);
    let padded = [kernel.clone(), ("pads", Value::Ints(&[1, 1, 0, 0]))];
    folds(&through("AveragePool", &padded), 2);
    let counted = [padded[0].clone(), padded[1].clone(), ("count_include_pad", Value::Int(1))];
    refuses(&through("AveragePool", &counted), &["behind"]);
    // Some scales are negative.
    refuses(&through("MaxPool", std::slice::from_ref(&kernel)), &["behind"]);
    let positive = conv(&[1; 4]).node("MaxPool", &["c"], "p", &[kernel]).constant(
        "k",
        &[6, 1, 1],
        &[1.0, 2.0, 3.0, 0.0, 5.0, 6.0],
    );
    folds(&positive.node("Mul", &["p", "k"], "y", &[]), 2);
    let nearest = conv(&[1; 4]).constant("scales", &[4], &[1.0, 1.0, 2.0, 2.0]);
    folds(&nearest.node("Resize", &["c", "", "scales"], "p", &[]).batch_norm("p", "y", 6), 2);
    for op in ["Relu", "Sigmoid", "Softmax"] {
        refuses(&through(op, &[]), &["behind"]);
    }
    // One pixel: the channels stay where they are.
    let one = conv(&[0; 4]).node("GlobalAveragePool", &["c"], "p", &[]).node("Flatten", &["p"], "f", &[]);
    folds(&one.batch_norm("f", "y", 6), 3);
    refuses(&conv(&[1; 4]).node("Flatten", &["c"], "f", &[]).batch_norm("f", "y", 216), &["behind"]);
    for mode in ["DCR", "CRD"] {
        let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("w", &[8, 4, 1, 1]);
        let builder = builder.node("Conv", &["x", "w"], "c", &[]);
        let attributes = [("blocksize", Value::Int(2)), ("mode", Value::Text(mode))];
        folds(&builder.node("DepthToSpace", &["c"], "p", &attributes).batch_norm("p", "y", 2), 2);
    }
}

/// Two convolutions of one input, to 4 and to 3 channels or both to 4.
fn two_convs(second: usize) -> Builder {
    let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("w1", &[4, 4, 3, 3]);
    let builder = builder.random("w2", &[second, 4, 1, 1]).random("b2", &[second]);
    let builder = builder.node("Conv", &["x", "w1"], "c1", &[("pads", Value::Ints(&[1; 4]))]);
    builder.node("Conv", &["x", "w2", "b2"], "c2", &[])
}

#[test]
fn concatenations_and_sums() {
    let concat = two_convs(3).node("Concat", &["c1", "c2"], "p", &[("axis", Value::Int(1))]);
    folds(&concat.clone().batch_norm("p", "y", 7), 3);
    folds(&two_convs(4).node("Concat", &["c1", "c2"], "p", &[("axis", Value::Int(-1))]).batch_norm("p", "y", 4), 3);
    folds(&two_convs(4).node("Add", &["c1", "c2"], "p", &[]).batch_norm("p", "y", 4), 3);
    // One part is no layer's; or somebody else reads it.
    let input = two_convs(3).node("Concat", &["c1", "x"], "p", &[("axis", Value::Int(1))]);
    refuses(&input.output("c2").batch_norm("p", "y", 8), &["behind-input"]);
    refuses(&concat.output("c2").batch_norm("p", "y", 7), &["is-output"]);
    refuses(
        &two_convs(3).node("Add", &["c1", "c1"], "p", &[]).output("c2").batch_norm("p", "y", 4),
        &["read-elsewhere"],
    );
}

#[test]
fn branches() {
    let merge = Options { merge_branches: true, ..Options::default() };
    let block = |builder: Builder| {
        let builder = builder.batch_norm("c1", "n1", 4).batch_norm("c2", "n2", 4).batch_norm("x", "n3", 4);
        builder.node("Add", &["n1", "n2"], "s", &[]).node("Add", &["s", "n3"], "y", &[])
    };
    let folded = fold_with(&block(two_convs(4)), &merge);
    assert_eq!((folded.codes(), folded.nodes()), (vec!["folded"; 3], 1), "{:#?}", folded.report);
    // Not unless asked to.
    assert_eq!(fold(&block(two_convs(4))).nodes(), 5);
    for groups in [1, 2, 4] {
        let builder = Builder::default().input("x", &[2, 4, 7, 7]).output("y").random("w1", &[4, 4 / groups, 5, 3]);
        let group = ("group", Value::Int(groups as i64));
        let attributes = [group.clone(), ("pads", Value::Ints(&[2, 2, 2, 2])), ("dilations", Value::Ints(&[1, 2]))];
        let builder = builder.node("Conv", &["x", "w1"], "c1", &attributes).random("w2", &[4, 4 / groups, 3, 1]);
        let builder = builder.node("Conv", &["x", "w2"], "c2", &[group, ("pads", Value::Ints(&[1, 0, 1, 0]))]);
        let folded = fold_with(&block(builder), &merge);
        assert_eq!((folded.codes(), folded.nodes()), (vec!["folded"; 3], 1), "{:#?}", folded.report);
    }
    // Other strides, or a shift of the taps: the sum stays.
    let strided = |pads: &[i64], strides: &[i64]| {
        let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("w1", &[4, 4, 3, 3]);
        let builder =
            builder.node("Conv", &["x", "w1"], "c1", &[("pads", Value::Ints(pads)), ("strides", Value::Ints(strides))]);
        builder.random("w2", &[4, 4, 1, 1]).node("Conv", &["x", "w2"], "c2", &[("strides", Value::Ints(strides))])
    };
    let sum = |builder: Builder| builder.node("Add", &["c1", "c2"], "y", &[]);
    assert_eq!(fold_with(&sum(strided(&[1; 4], &[2, 2])), &merge).nodes(), 1);
    assert_eq!(fold_with(&sum(strided(&[2, 2, 0, 0], &[1, 1])), &merge).nodes(), 1);
    // Behind the block there may be another BatchNorm.
    let builder = two_convs(4).batch_norm("c1", "n1", 4).node("Add", &["n1", "c2"], "s", &[]).batch_norm("s", "y", 4);
    assert_eq!(fold_with(&builder, &merge).nodes(), 1);
}

#[test]
fn leftovers_become_one() {
    // DenseNet, as Caffe2 writes it: nothing before or behind it is linear.
    let builder = Builder::default().input("x", &[2, 6, 4, 4]).output("y").node("Relu", &["x"], "r", &[]);
    let builder = builder.batch_norm("r", "n", 6).random("k", &[6, 1, 1]).node("Mul", &["n", "k"], "m", &[]);
    let builder = builder.random("t", &[6, 1, 1]).node("Add", &["m", "t"], "a", &[]).node("Relu", &["a"], "y", &[]);
    let folded = fold(&builder);
    assert_eq!((folded.codes(), folded.nodes()), (vec!["behind", "merged", "merged"], 3));
    let builder = Builder::default().input("x", &[2, 6, 4, 4]).output("y").random("k", &[6, 1, 1]);
    let builder = builder.node("Mul", &["x", "k"], "m", &[]).batch_norm("m", "n", 6).node("Relu", &["n"], "y", &[]);
    let folded = fold(&builder);
    assert_eq!((folded.codes(), folded.nodes()), (vec!["merged", "behind-input"], 2));
    let builder =
        Builder::default().input("x", &[2, 6, 4, 4]).output("y").constant("k", &[], &[0.5]).random("l", &[6, 1, 1]);
    let builder =
        builder.node("Mul", &["x", "k"], "m", &[]).node("Mul", &["l", "m"], "n", &[]).node("Relu", &["n"], "y", &[]);
    assert_eq!(fold(&builder).nodes(), 2);
    // What the first two cannot be together, the first and all behind it are.
    let builder =
        Builder::default().input("x", &[2, 6, 4, 4]).output("y").random("k", &[6, 1, 1]).random("s", &[6, 1, 1]);
    let builder = builder.node("Sub", &["x", "s"], "d", &[]).node("Mul", &["d", "k"], "m", &[]);
    assert_eq!(fold(&builder.batch_norm("m", "n", 6).node("Relu", &["n"], "y", &[])).nodes(), 2);
    // The last goes forward first, and lets the one before it see the layer.
    let builder = Builder::default().input("x", &[2, 4]).output("y").random("k", &[4]).random("s", &[4]);
    let builder = builder.node("Add", &["x", "s"], "a", &[]).node("Div", &["a", "k"], "d", &[]).random("w", &[4, 3]);
    folds(&builder.random("b", &[3]).node("Gemm", &["d", "w", "b"], "y", &[]), 1);
}

#[test]
fn stretches_of_any_axis_are_compared() {
    // Another map of the same input, maps of the last axis, and one of none before one of the channels.
    let other = Builder::default().input("x", &[2, 4, 6, 6]).output("y").output("z").random("k", &[6, 1]);
    let other = other.node("Sub", &["k", "x"], "z", &[]).batch_norm("x", "n", 4).batch_norm("n", "y", 4);
    assert_eq!(fold(&other).codes(), ["behind-input", "merged"]);
    let last = Builder::default().input("x", &[2, 1, 3, 2]).output("y").random("k", &[2]).random("l", &[2]);
    let last = last.node("Relu", &["x"], "r", &[]).node("Mul", &["r", "k"], "m", &[]);
    assert_eq!(fold(&last.node("Mul", &["m", "l"], "y", &[])).nodes(), 2);
    let uniform = Builder::default().input("x", &[2, 6, 4, 4]).output("y").constant("k", &[], &[0.5]);
    let uniform = uniform.node("Relu", &["x"], "r", &[]).node("Div", &["r", "k"], "d", &[]);
    assert_eq!(fold(&uniform.batch_norm("d", "y", 6)).nodes(), 2);
    // What the shape is behind a mean that drops axes, and behind a resize.
    let mean = Builder::default().input("x", &[2, 6, 4, 4]).output("y");
    let axes = [("axes", Value::Ints(&[2, 3])), ("keepdims", Value::Int(0))];
    let mean = mean.node("ReduceMean", &["x"], "m", &axes).random("w", &[6, 3]).node("MatMul", &["m", "w"], "p", &[]);
    folds(&mean.batch_norm("p", "y", 3), 2);
    let wider = Builder::default().input("x", &[1, 4, 4, 2]).output("y").constant("s", &[4], &[1.0, 1.0, 1.0, 2.0]);
    let wider = wider.node("Resize", &["x", "", "s"], "r", &[]).constant("k", &[], &[0.5]).random("w", &[4, 3]);
    folds(&wider.node("Mul", &["r", "k"], "m", &[]).node("MatMul", &["m", "w"], "y", &[]), 2);
    // A small input has as many numbers as the reshape asks for, but not in these places.
    let reshaped = Builder::default().input("x", &[2, 2, 2, 4]).output("y").random("w", &[2, 2, 1, 1]);
    let reshaped = reshaped.node("Conv", &["x", "w"], "c", &[]).initializer(tensor("s", INT64, &[3], &[2.0, 2.0, 8.0]));
    folds(&reshaped.node("Reshape", &["c", "s"], "r", &[]).batch_norm("r", "y", 2), 2);
    // Axes that are listed are not those of the input, in their order.
    let listed = conv(&[1, 1], 4, 6, 1, true).constant("s", &[2], &[2.0, 1.0]);
    let listed =
        listed.node("Resize", &["c", "", "s"], "r", &[("axes", Value::Ints(&[1, 2]))]).batch_norm("r", "y", 12);
    let model = Model::from_bytes(listed.opset(18).build()).unwrap();
    assert_eq!(Plan::new(&model, &Options::default()).unwrap().report().rows[0].verdict.code(), "behind");
}

/// Additions that no `MatMul` takes alone, and which opset 6 does not make one, go with what follows them.
#[test]
fn several_additions_before_a_scale() {
    let builder = Builder::default().opset(6).input("x", &[2, 3, 4]).random("w", &[4, 1]).output("y");
    let broadcasts = [("broadcast", Value::Int(1))];
    let builder = builder.constant("k", &[1], &[0.5]).constant("l", &[1], &[-2.0]).constant("m", &[1], &[3.0]);
    let builder = builder.node("MatMul", &["x", "w"], "p", &[]).node("Sub", &["p", "k"], "q", &broadcasts);
    let builder = builder.node("Add", &["q", "l"], "r", &broadcasts).node("Mul", &["r", "m"], "y", &broadcasts);
    let folded = fold(&builder);
    assert_eq!((folded.codes(), folded.nodes()), (vec!["folded"; 3], 2), "{:#?}", folded.report.rows);
}
