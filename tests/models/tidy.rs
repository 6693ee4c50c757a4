//! What computes nothing is taken out, where that is wished.

use warpnorm::fold::onnx::Options;

use crate::{
    onnx::{Folded, fold, fold_with},
    writer::{Builder, INT64, Message, Value, conv, node, tensor, value_info},
};

fn tidied(builder: &Builder) -> Folded {
    fold_with(builder, &Options { tidy: true, ..Options::default() })
}

fn assert_nodes(builder: &Builder, before: usize, after: usize) {
    let folded = tidied(builder);
    let sums = &folded.report.summary;
    assert_eq!((sums.nodes_before, sums.nodes_after), (before, after), "{:#?}", folded.report);
}

fn one_conv() -> Builder {
    conv(&[3, 3], 4, 6, 1, true)
}

#[test]
fn identities() {
    // Between a layer and others; at the output; before the layer.
    let between = one_conv().node("Identity", &["c"], "i", &[]).node("Relu", &["i"], "y", &[]);
    assert_nodes(&between, 3, 2);
    let last = one_conv().node("Relu", &["c"], "r", &[]).node("Identity", &["r"], "y", &[]);
    assert_nodes(&last, 3, 2);
    // The value has the output's name then, also for whoever else reads it.
    let read_twice = last.clone().node("Relu", &["r"], "z", &[]).output("z");
    assert_nodes(&read_twice, 4, 3);
    let chain = one_conv().node("Identity", &["c"], "i", &[]).node("Identity", &["i"], "j", &[]);
    assert_nodes(&chain.node("Identity", &["j"], "y", &[]), 4, 1);
    // Two names of one value are both needed.
    let two = one_conv().node("Identity", &["c"], "y", &[]).node("Identity", &["c"], "z", &[]).output("z");
    assert_nodes(&two, 3, 2);
    let input = one_conv().node("Relu", &["c"], "y", &[]).node("Identity", &["x"], "z", &[]).output("z");
    assert_nodes(&input, 3, 3);
    // Without the wish it stays.
    assert_eq!(fold(&between).bytes, between.build());
}

#[test]
fn a_batch_norm_behind_an_identity() {
    let builder = one_conv().node("Identity", &["c"], "i", &[]).batch_norm("i", "y", 6);
    assert_nodes(&builder, 3, 1);
}

#[test]
fn dropouts() {
    let inference = one_conv().node("Dropout", &["c"], "d", &[]).node("Relu", &["d"], "y", &[]);
    assert_nodes(&inference, 3, 2);
    let training = tensor("t", 9, &[], &[]).bytes(9, [1]);
    let builder = one_conv().initializer(training).constant("ratio", &[], &[0.5]);
    let builder = builder.node("Dropout", &["c", "ratio", "t"], "d", &[]).node("Relu", &["d"], "y", &[]);
    let model = warpnorm::fold::onnx::Model::from_bytes(builder.build()).unwrap();
    let options = Options { tidy: true, ..Options::default() };
    let plan = warpnorm::fold::onnx::Plan::new(&model, &options).unwrap();
    assert_eq!(plan.to_bytes().unwrap(), builder.build(), "it drops something");
    // Whoever reads what was dropped needs the node.
    let masked = one_conv().raw_node(node("Dropout", &["c"], &["y", "m"], &[]));
    assert_eq!(tidied(&masked).report.summary.nodes_after, 2);
}

#[test]
fn what_others_read() {
    let branch = |name: &str| {
        let inner = Message::default().message(1, &node("Relu", &["i"], &[name], &[])).bytes(2, name);
        inner.message(12, &value_info(name, 1, &[2, 6, 6, 6]))
    };
    let branches = [("then_branch", Value::Graph(branch("t"))), ("else_branch", Value::Graph(branch("e")))];
    let builder = one_conv().initializer(tensor("cond", 9, &[], &[]).bytes(9, [1]));
    let builder = builder.node("Relu", &["c"], "y", &[]).node("Identity", &["c"], "i", &[]);
    let builder = builder.raw_node(node("If", &["cond"], &["z"], &branches)).output("z");
    let model = warpnorm::fold::onnx::Model::from_bytes(builder.build()).unwrap();
    let options = Options { tidy: true, ..Options::default() };
    let plan = warpnorm::fold::onnx::Plan::new(&model, &options).unwrap();
    // The name that the inner graph reads is still there: the layer makes it.
    assert_eq!(plan.report().summary.nodes_after, 3);
    let folded = warpnorm::fold::onnx::Model::from_bytes(plan.to_bytes().unwrap()).unwrap();
    assert!(warpnorm::fold::onnx::Plan::new(&folded, &options).is_ok());
}

/// As PyTorch exports a shuffle of channels.
fn shuffle(batch: usize) -> Builder {
    let index = |name: &str, value: f64| tensor(name, INT64, &[], &[value]);
    let axes = tensor("axes", INT64, &[1], &[0.0]);
    let mut builder = Builder::default().input("x", &[batch, 4, 6, 6]).output("y").random("w", &[6, 4, 1, 1]);
    builder = builder.node("Conv", &["x", "w"], "c", &[]).initializer(axes).node("Shape", &["c"], "s", &[]);
    for (at, name) in ["n", "ch", "h", "wd"].into_iter().enumerate() {
        let (slot, scalar, long) = (format!("i{at}"), format!("{name}s"), format!("{name}u"));
        builder = builder.initializer(index(&slot, at as f64)).node("Gather", &["s", &slot], &scalar, &[]);
        if name != "ch" {
            builder = builder.node("Unsqueeze", &[&scalar, "axes"], &long, &[]);
        }
    }
    builder = builder.initializer(index("two", 2.0)).node("Div", &["chs", "two"], "half", &[]);
    builder = builder.node("Unsqueeze", &["half", "axes"], "halfu", &[]);
    builder = builder.initializer(tensor("pair", INT64, &[1], &[2.0]));
    builder = builder.node("Concat", &["nu", "pair", "halfu", "hu", "wdu"], "shape", &[("axis", Value::Int(0))]);
    builder = builder.node("Reshape", &["c", "shape"], "r", &[]);
    builder = builder.node("Transpose", &["r"], "t", &[("perm", Value::Ints(&[0, 2, 1, 3, 4]))]);
    builder.initializer(tensor("flat", INT64, &[4], &[0.0, 6.0, 6.0, 6.0])).node("Reshape", &["t", "flat"], "y", &[])
}

#[test]
fn shapes_that_are_known() {
    assert_nodes(&shuffle(2), 15, 4);
    // The batch is open, and so is the shape.
    assert_nodes(&shuffle(0), 15, 15);
}

#[test]
fn shapes_that_lead_to_shapes() {
    // The second is known once the first is.
    let twice = |from: &str, to: &str, builder: Builder| {
        let (shape, part, whole) = (format!("{to}s"), format!("{to}p"), format!("{to}w"));
        let ends = format!("{to}e");
        let builder = builder.node("Shape", &[from], &shape, &[]);
        let builder = builder.initializer(tensor(&ends, INT64, &[1], &[2.0]));
        let builder = builder.node("Slice", &[&shape, "zero", &ends], &part, &[]);
        let builder = builder.node("Concat", &[&part, "rest"], &whole, &[("axis", Value::Int(-1))]);
        builder.node("Reshape", &[from, &whole], to, &[])
    };
    let builder = one_conv().initializer(tensor("zero", INT64, &[1], &[0.0]));
    let builder = builder.initializer(tensor("rest", INT64, &[1], &[-1.0]));
    let builder = twice("c", "a", builder);
    let builder = builder.node("Relu", &["a"], "q", &[]);
    assert_nodes(&twice("q", "y", builder), 10, 4);
}

/// A number times a list of one is such a list, and only that is a shape.
#[test]
fn a_number_and_a_list_of_one() {
    let index = tensor("i", INT64, &[], &[0.0]);
    for (factor, dims) in [("f", &[1][..]), ("g", &[])] {
        let builder = one_conv().initializer(index.clone()).initializer(tensor(factor, INT64, dims, &[1.0]));
        let builder = builder.node("Shape", &["c"], "s", &[]).node("Gather", &["s", "i"], "n", &[]);
        let builder = builder.node("Mul", &["n", factor], "p", &[]);
        let builder = builder.initializer(tensor("r", INT64, &[1], &[-1.0]));
        if dims.is_empty() {
            let builder = builder.node("Unsqueeze", &["p", "r"], "u", &[]);
            let builder = builder.node("Concat", &["u", "r"], "t", &[("axis", Value::Int(0))]);
            assert_nodes(&builder.node("Reshape", &["c", "t"], "y", &[]), 7, 2);
        } else {
            let builder = builder.node("Concat", &["p", "r"], "t", &[("axis", Value::Int(0))]);
            assert_nodes(&builder.node("Reshape", &["c", "t"], "y", &[]), 6, 2);
        }
    }
}

/// What is compared alone has as many samples as the shape says.
#[test]
fn a_fold_through_a_shape_that_was_computed() {
    let builder =
        one_conv().initializer(tensor("i", INT64, &[1], &[0.0])).initializer(tensor("r", INT64, &[2], &[6.0, -1.0]));
    let builder = builder.node("Shape", &["c"], "s", &[]).node("Gather", &["s", "i"], "n", &[]);
    let builder = builder.node("Concat", &["n", "r"], "t", &[("axis", Value::Int(0))]);
    assert_nodes(&builder.node("Reshape", &["c", "t"], "f", &[]).batch_norm("f", "y", 6), 6, 2);
}
