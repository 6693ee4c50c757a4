//! Tests of every refusal: its code, and the sentence that a user reads.

use std::fmt::Debug;

use half::{bf16, f16};

use super::{
    Affine, BatchNormParams, Branch, FoldError, Folded, Layer, LinearOp, Padding, Placement, Side, Values,
    merge_branches, merge_branches_into,
};

/// `sentence` is the refusal's code, a colon and its text.
fn refused<T: Debug>(found: Result<T, FoldError>, sentence: &str) {
    let refusal = found.unwrap_err();
    assert_eq!(format!("{}: {refusal}", refusal.code()), sentence);
}

#[test]
fn refusals_of_batch_norms() {
    let ok = [1.0_f32, 2.0, 3.0];
    let short = [1.0_f32, 2.0];
    let with = |channel: usize, value: f32| {
        let mut values = ok;
        values[channel] = value;
        values
    };
    let (nan, negative, infinite, zero) = (with(2, f32::NAN), with(1, -0.5), with(0, f32::INFINITY), with(1, 0.0));
    let of = |mean, var, eps| BatchNormParams::new(mean, var, eps);

    let eps = "but it must be a finite number that is not negative";
    refused(of(&ok, &ok, -1e-5).affine(), &format!("invalid-eps: eps is -1e-5, {eps}"));
    refused(of(&ok, &ok, f64::NAN).affine(), &format!("invalid-eps: eps is NaN, {eps}"));
    refused(of(&ok, &ok, f64::INFINITY).affine(), &format!("invalid-eps: eps is inf, {eps}"));

    let mismatch = |argument| format!("length-mismatch: {argument} has 2 elements, but 3 are needed");
    refused(BatchNormParams::new(&ok, &short, 1e-5).affine(), &mismatch("running_var"));
    refused(of(&ok, &ok, 1e-5).weight(&short).affine(), &mismatch("bn.weight"));
    refused(of(&ok, &ok, 1e-5).bias(&short).affine(), &mismatch("bn.bias"));

    let variance = |channel_is| {
        format!(
            "invalid-variance: running_var of channel {channel_is}, but a variance is a finite number that is not negative"
        )
    };
    refused(of(&ok, &nan, 1e-5).affine(), &variance("2 is NaN"));
    refused(of(&ok, &negative, 1.0).affine(), &variance("1 is -0.5"));
    refused(of(&ok, &infinite, 1e-5).affine(), &variance("0 is inf"));
    let division = "zero-variance: running_var of channel 1 and eps are both 0, so this BatchNorm divides by 0";
    refused(of(&ok, &zero, 0.0).affine(), division);

    let finite = |element| format!("non-finite: {element}, but every parameter must be finite");
    refused(of(&nan, &ok, 0.0).affine(), &finite("running_mean of channel 2 is NaN (element 2)"));
    refused(of(&ok, &ok, 0.0).weight(&infinite).affine(), &finite("bn.weight of channel 0 is inf (element 0)"));
    refused(of(&ok, &ok, 0.0).bias(&nan).affine(), &finite("bn.bias of channel 2 is NaN (element 2)"));
    refused(
        BatchNormParams::new(&[0.0], &[5e-324], 0.0).weight(&[1e308]).affine(),
        "overflow: the scale of channel 0 would be inf, but the largest f64 is 1.7976931348623157e308",
    );
}

#[test]
fn refusals_of_compositions() {
    refused(
        Affine::identity(3).then(&Affine::identity(4)),
        "composition-mismatch: a BatchNorm of 3 channels cannot be followed by one of 4 channels",
    );
    refused(
        Affine::from_scale(&[1.0, 1e200]).and_then(|map| map.then(&map)),
        "overflow: the scale of channel 1 would be inf, but the largest f64 is 1.7976931348623157e308",
    );
    refused(
        Affine::from_scale(&[f32::NAN]),
        "non-finite: scale of channel 0 is NaN (element 0), but every parameter must be finite",
    );
    refused(
        Affine::from_shift(&[0.0_f32, f32::NEG_INFINITY]),
        "non-finite: shift of channel 1 is -inf (element 1), but every parameter must be finite",
    );
}

#[test]
fn refusals_of_weights() {
    let weight = [1.0_f32; 24];
    let none: [f32; 0] = [];
    let (conv, transposed) = (Layer::Conv { groups: 2 }, Layer::ConvTranspose { groups: 2 });
    let check = |weight: Values, layer, shape: &[usize], sentence: &str| {
        refused(LinearOp::new(layer, weight, shape).fold::<f32, f32>(None, None), sentence);
    };

    let rank = |text| format!("weight-rank: the shape {text}");
    check(
        (&weight).into(),
        Layer::Linear,
        &[2, 3, 4],
        &rank("[2, 3, 4] of layer.weight has 3 axes, but a Linear weight has 2"),
    );
    check((&weight).into(), conv, &[], &rank("[] of layer.weight has 0 axes, but a Conv weight has 3, 4 or 5"));
    check(
        (&weight).into(),
        transposed,
        &[4, 6],
        &rank("[4, 6] of layer.weight has 2 axes, but a ConvTranspose weight has 3, 4 or 5"),
    );

    let length = "weight-length: layer.weight has 24 elements, but its shape [4, 3, 3] holds 36";
    check((&weight).into(), conv, &[4, 3, 3], length);
    let groups = "zero-groups: groups is 0, but a convolution has at least 1 group";
    check((&weight).into(), Layer::Conv { groups: 0 }, &[4, 3, 2], groups);
    let groups = "indivisible-groups: the 4 channels on axis 0 of layer.weight cannot be split into 3 equal groups";
    check((&weight).into(), Layer::ConvTranspose { groups: 3 }, &[4, 3, 2], groups);

    let empty = |shape| {
        format!(
            "empty-weight: the shape {shape} of layer.weight has an axis of length 0, so no output channel has a weight"
        )
    };
    check((&none).into(), conv, &[4, 2, 0], &empty("[4, 2, 0]"));
    check((&none).into(), transposed, &[0, 2, 3], &empty("[0, 2, 3]"));
    check((&none).into(), Layer::Linear, &[7, 0], &empty("[7, 0]"));
    let shape = [2, usize::MAX, 2];
    let overflow = format!(
        "shape-overflow: the shape {shape:?} of layer.weight, in 2 groups, describes more elements than can be counted"
    );
    check((&weight).into(), conv, &shape, &overflow);
    let groups = LinearOp::new(Layer::Conv { groups: usize::MAX }, &none, &[0, 3, 1]).fold::<f32, f32>(None, None);
    assert_eq!(groups.unwrap_err().code(), "shape-overflow");
}

fn conv<'a>(weight: impl Into<Values<'a>>, groups: usize) -> LinearOp<'a> {
    LinearOp::new(Layer::Conv { groups }, weight, &[4, 3, 2])
}

fn transposed<'a>(weight: impl Into<Values<'a>>) -> LinearOp<'a> {
    LinearOp::new(Layer::ConvTranspose { groups: 2 }, weight, &[4, 3, 2])
}

/// What `fold` gives or refuses, in f16.
type InF16 = Result<Folded<f16>, FoldError>;

#[test]
fn refusals_of_channels() {
    let weight = [1.0_f32; 24];
    let (four, six) = (Affine::identity(4), Affine::identity(6));
    let bias = |found: InF16, text| refused(found, &format!("length-mismatch: layer.bias has {text} are needed"));
    bias(conv(&weight, 1).bias(&[0.0_f32; 3]).fold(None, None), "3 elements, but 4");
    // The output channels of a transposed convolution are axis 1 times the groups.
    bias(transposed(&weight).bias(&[0.0_f32; 4]).fold(None, None), "4 elements, but 6");

    let map = |found: InF16, text| refused(found, &format!("channel-mismatch: the BatchNorm {text} channels"));
    map(conv(&weight, 1).fold_after(&six), "after the layer has 6 channels, but the layer has 4 output");
    map(transposed(&weight).fold_after(&four), "after the layer has 4 channels, but the layer has 6 output");
    map(
        conv(&weight, 2).fold_before(&four, Padding::None),
        "before the layer has 4 channels, but the layer has 6 input",
    );
    map(
        transposed(&weight).fold_before(&six, Padding::None),
        "before the layer has 6 channels, but the layer has 4 input",
    );
    let named = FoldError::ChannelMismatch { side: Side::After, found: 6, expected: 4 };
    assert_eq!(conv(&weight, 1).fold_after::<f16, f32>(&six), Err(named));

    let (mut short, mut long) = ([0.0_f32; 3], [0.0_f32; 24]);
    refused(
        conv(&weight, 1).fold_into(None, None, &mut long, &mut short),
        "length-mismatch: folded.bias has 3 elements, but 4 are needed",
    );
    refused(
        conv(&weight, 1).fold_into(None, None, &mut short, &mut [0.0_f32; 4]),
        "length-mismatch: folded.weight has 3 elements, but 24 are needed",
    );
}

#[test]
fn refusals_of_shifts() {
    let weight = [1.0_f32; 24];
    let shift = Affine::from_shift(&[0.0, 0.0, 0.25, 1.0, 0.0, 0.0]).unwrap();
    let padded: InF16 = conv(&weight, 2).fold_before(&shift, Padding::Zeros);
    refused(
        padded,
        "padded-shift: the BatchNorm before a zero-padded convolution cannot be folded exactly, because channel 2 is \
         shifted by 0.25 and the padding is not; fold it into the layer before it, or leave it in place",
    );
    let shift = Affine::from_shift(&[0.0, -0.5, 0.0, 0.0]).unwrap();
    let transposed: InF16 = transposed(&weight).fold_before(&shift, Padding::None);
    refused(
        transposed,
        "transposed-shift: the BatchNorm before a transposed convolution cannot be folded exactly, because channel 1 is \
         shifted by -0.5 and outputs differ in how many taps they sum; fold it into the layer before it, or leave it in \
         place",
    );
}

#[test]
fn refusals_of_numbers() {
    let mut weight = [1.0_f32; 24];
    let in_f16 = |found: InF16, text| {
        refused(found, &format!("overflow: folded.{text}, but the largest f16 is 65504.0"));
    };
    let scale = |third| Affine::from_scale(&[1.0, 1.0, third, 7e4]).unwrap();
    in_f16(conv(&weight, 1).fold_after(&scale(65520.0)), "weight of channel 2 would be 65520.0");
    in_f16(conv(&weight, 1).fold_after(&scale(65520.0_f64.next_down())), "weight of channel 3 would be 70000.0");
    assert!(conv(&weight, 1).fold_after::<bf16, f16>(&scale(1.0)).is_ok());

    let op = conv(&weight, 1).bias(&[0.0_f32, -1e5, 0.0, 0.0]);
    in_f16(op.fold(None, None), "bias of channel 1 would be -100000.0");
    assert_eq!(op.fold::<f16, f32>(None, None).unwrap().bias, [0.0, -1e5, 0.0, 0.0]);

    let finite = |found: InF16, text| {
        refused(found, &format!("non-finite: layer.{text}, but every parameter must be finite"));
    };
    let op = conv(&weight, 1).bias(&[0.0_f32, 0.0, 0.0, f32::NAN]);
    finite(op.fold(None, None), "bias of channel 3 is NaN (element 3)");
    weight[21] = f32::INFINITY;
    finite(conv(&weight, 1).fold(None, None), "weight of channel 3 is inf (element 21)");
    // Element 21 is [3, 1, 1]: input channel 3 is in group 1, whose outputs are 3, 4 and 5.
    finite(transposed(&weight).fold(None, None), "weight of channel 4 is inf (element 21)");
}

#[test]
fn refusals_of_branches() {
    let weight = [1.0_f32; 36];
    let merge = |branches: &[Branch<'_>], sentence: &str| refused(merge_branches::<f16, f16>(branches), sentence);
    let second = |branch: Branch<'_>, placement: Placement<'_>, sentence: &str| {
        // Four channels to four, of three taps.
        let first = Branch::conv(LinearOp::new(Layer::Conv { groups: 2 }, &weight[..24], &[4, 2, 3]), placement);
        merge(&[first, branch], &sentence.replacen(": ", ": of branch 1: ", 1));
    };
    let op = |groups, shape| {
        let len = <[usize]>::iter(shape).product();
        LinearOp::new(Layer::Conv { groups }, &weight[..len], shape)
    };
    let plain = Placement::default();
    let padded = Placement { pads_begin: &[1], pads_end: &[1], ..plain };
    let identity = Branch::identity();

    let nothing = |branches| {
        format!(
            "nothing-to-merge: none of the {branches} branches is a convolution, so there is no kernel that the others can \
             be set into"
        )
    };
    merge(&[], &nothing(0));
    merge(&[identity, identity], &nothing(2));
    let linear = Branch::conv(LinearOp::new(Layer::Linear, &weight, &[6, 6]), plain);
    second(linear, padded, "not-a-convolution: it is a Linear, but branches are convolutions and identities");

    let pointwise = |placement| Branch::conv(op(2, &[4, 2, 1]), placement);
    let unequal = |branch, text: &str| second(branch, padded, &format!("unequal-branches: it has {text}"));
    unequal(Branch::conv(op(2, &[4, 2, 1, 1]), plain), "2 spatial axes, but the branch with the largest kernel has 1");
    unequal(Branch::conv(op(4, &[4, 2, 1]), plain), "4 groups, but the branch with the largest kernel has 2");
    unequal(Branch::conv(op(2, &[6, 2, 1]), plain), "6 output channels, but the branch with the largest kernel has 4");
    unequal(
        Branch::conv(op(2, &[4, 3, 1]), plain),
        "3 input channels in a group, but the branch with the largest kernel has 2",
    );
    merge(
        &[identity, Branch::conv(op(2, &[6, 2, 3]), padded)],
        "identity-channels: of branch 0: it is an identity, but the convolutions have 4 input channels and 6 output \
         channels",
    );
    let three = Affine::identity(3);
    let channels =
        "channel-mismatch: the BatchNorm after the layer has 3 channels, but the layer has 4 output channels";
    second(identity.after(&three), padded, channels);
    second(pointwise(plain).after(&three), padded, channels);

    let list = |placement, text: &str| second(pointwise(placement), padded, text);
    list(Placement { strides: &[1, 1], ..plain }, "length-mismatch: strides has 2 elements, but 1 are needed");
    list(Placement { pads_end: &[0, 0], ..plain }, "length-mismatch: pads_end has 2 elements, but 1 are needed");
    list(Placement { strides: &[0], ..plain }, "zero-step: strides of axis 0 is 0, but it must be at least 1");
    list(Placement { dilations: &[0], ..plain }, "zero-step: dilations of axis 0 is 0, but it must be at least 1");
    let strides = "unequal-strides: its stride on axis 0 is 2, but that of the largest kernel is 1";
    list(Placement { strides: &[2], ..plain }, strides);
    let strided = Placement { strides: &[2], ..padded };
    second(identity, strided, "unequal-strides: its stride on axis 0 is 1, but that of the largest kernel is 2");

    let outside = "kernel-outside: its kernel does not lie in the largest one: on axis 0 its taps meet other inputs, or it \
                   has another number of outputs";
    // Other outputs; taps between those of the larger kernel, or before it; another dilation.
    second(identity, plain, outside);
    list(Placement { pads_end: &[1], ..plain }, outside);
    list(Placement { pads_begin: &[2], ..plain }, outside);
    second(identity, Placement { dilations: &[2], pads_begin: &[1], pads_end: &[3], ..plain }, outside);
    let pair = |placement| Branch::conv(op(2, &[4, 2, 2]), placement);
    second(pair(Placement { dilations: &[2], pads_begin: &[1], pads_end: &[1], ..plain }), padded, outside);
    second(pair(Placement { pads_begin: &[usize::MAX], ..plain }), padded, outside);
    let sides = [&[1, 1, 1, 3][..], &[1, 1, 3, 1]];
    let crossed = sides.map(|shape| Branch::conv(op(1, shape), plain));
    merge(&crossed, &outside.replacen(": ", ": of branch 1: ", 1));

    let mut damaged = weight;
    damaged[5] = f32::NAN;
    let damaged = LinearOp::new(Layer::Conv { groups: 2 }, &damaged[..8], &[4, 2, 1]);
    let finite = "non-finite: layer.weight of channel 2 is NaN (element 5), but every parameter must be finite";
    second(Branch::conv(damaged, plain), padded, finite);
    let infinite = op(2, &[4, 2, 1]).bias(&[0.0_f32, f32::INFINITY, 0.0, 0.0]);
    second(
        Branch::conv(infinite, plain),
        padded,
        "non-finite: layer.bias of channel 1 is inf (element 1), but every parameter must be finite",
    );
    // Each fits, and only their sum does not.
    let large = Affine::from_scale(&[1.0, 1.0, 4e4, 1.0]).unwrap();
    let sum = [pointwise(plain).after(&large), pointwise(plain).after(&large)];
    merge(&sum, "overflow: folded.weight of channel 2 would be 80000.0, but the largest f16 is 65504.0");
    let shift = Affine::from_shift(&[0.0, 0.0, 0.0, -4e4]).unwrap();
    let sum = [pointwise(plain).after(&shift), identity.after(&shift)];
    merge(&sum, "overflow: folded.bias of channel 3 would be -80000.0, but the largest f16 is 65504.0");

    let sum = [pointwise(plain), identity];
    let (mut folded, mut bias) = ([7.0_f32; 8], [7.0_f32; 3]);
    let short = merge_branches_into(&sum, &mut folded, &mut bias);
    refused(short, "length-mismatch: folded.bias has 3 elements, but 4 are needed");
    let short = merge_branches_into(&sum, &mut folded[..7], &mut [0.0_f32; 4]);
    refused(short, "length-mismatch: folded.weight has 7 elements, but 8 are needed");
    assert_eq!((folded, bias), ([7.0; 8], [7.0; 3]));
    let named = merge_branches::<f32, f32>(&[pointwise(plain), Branch::conv(damaged, plain)]).unwrap_err();
    assert_eq!(named.channel(), Some(2));
}
