//! State dicts: which names make a pair, and what is refused.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use warpnorm::{
    DType,
    fold::{
        Padding, Side,
        checkpoint::{Checkpoint, Kind, Options, Pair, Plan, preset},
    },
};

/// A state dict in the making.
#[derive(Default)]
struct Dict {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    seed: u32,
}

impl Dict {
    fn tensor(mut self, name: &str, shape: &[usize], offset: f32) -> Self {
        let mut next = || {
            self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            offset + (self.seed >> 8) as f32 / (1 << 24) as f32
        };
        let data = (0..shape.iter().product()).flat_map(|_| next().to_le_bytes()).collect();
        self.tensors.insert(name.to_owned(), (Dtype::F32, shape.to_vec(), data));
        self
    }

    fn layer(self, name: &str, shape: &[usize]) -> Self {
        self.tensor(&format!("{name}.weight"), shape, -0.5)
    }

    fn norm(self, name: &str, channels: usize) -> Self {
        let mut dict = self;
        for (part, offset) in [("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.1)] {
            dict = dict.tensor(&format!("{name}.{part}"), &[channels], offset);
        }
        let count = (Dtype::I64, Vec::new(), 7_i64.to_le_bytes().to_vec());
        dict.tensors.insert(format!("{name}.num_batches_tracked"), count);
        dict
    }

    fn bytes(&self) -> Vec<u8> {
        let views = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, data))| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
        let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
        safetensors::serialize(views, metadata).unwrap()
    }
}

fn eps() -> Options {
    Options { eps: vec![("*".to_owned(), 1e-3)], ..Options::default() }
}

/// Folds, and checks what must always hold. The verdicts' codes, by `BatchNorm`.
fn fold(dict: &Dict, options: &Options) -> (Vec<u8>, Vec<(String, &'static str)>) {
    let checkpoint = Checkpoint::from_bytes(dict.bytes()).unwrap();
    let plan = Plan::new(&checkpoint, options);
    let bytes = plan.to_bytes().unwrap();
    assert_eq!(bytes.len() as u64, plan.report().summary.file_after);
    let folded = Checkpoint::from_bytes(bytes.clone()).unwrap();
    let verification = plan.verify(&folded);
    assert!(verification.passed(), "{verification:#?}");
    if plan.report().summary.folded == 0 && options.dtype.is_none() {
        assert_eq!(bytes, checkpoint.bytes());
    }
    let codes = plan.report().rows.iter().map(|row| (row.node.clone(), row.verdict.code()));
    (bytes, codes.collect())
}

fn codes(dict: &Dict) -> Vec<&'static str> {
    fold(dict, &eps()).1.into_iter().map(|(_, code)| code).collect()
}

#[test]
fn names_that_make_a_pair() {
    for (layer, norm) in [
        ("conv1", "bn1"),
        ("layer1.0.conv2", "layer1.0.bn2"),
        ("model.0.conv", "model.0.bn"),
        ("rbr_dense.conv", "rbr_dense.bn"),
        ("layer1.0.downsample.0", "layer1.0.downsample.1"),
        ("downsample.1", "downsample.2"),
        ("features.0.0", "features.0.1"),
        ("features.1.conv.1", "features.1.conv.2"),
        ("branch2.3", "branch2.4"),
        ("stem.linear", "stem.bn"),
    ] {
        let dict = Dict::default().layer(layer, &[6, 4, 3, 3]).norm(norm, 6);
        assert_eq!(codes(&dict), ["folded"], "{layer} {norm}");
    }
    let linear = Dict::default().layer("head.0", &[6, 4]).norm("head.1", 6).tensor("head.0.bias", &[6], 0.0);
    assert_eq!(codes(&linear), ["folded"]);
}

#[test]
fn blocks_whose_numbers_go_by_order() {
    let block = |layers: &[(&str, usize)]| {
        layers.iter().enumerate().fold(Dict::default(), |dict, (index, &(layer, outputs))| {
            dict.layer(&format!("b.{layer}"), &[outputs, 2, 1, 1]).norm(&format!("b.bn{}", index + 1), outputs)
        })
    };
    assert_eq!(codes(&block(&[("conv_pw", 8), ("conv_dw", 8), ("conv_pwl", 4)])), ["folded"; 3]);
    assert_eq!(codes(&block(&[("conv_dw", 8), ("conv_pw", 4)])), ["folded"; 2]);
    assert_eq!(codes(&block(&[("conv_exp", 8), ("conv_pwl", 4)])), ["folded"; 2]);
}

#[test]
fn names_that_make_none() {
    // DenseNet: by its number norm1 would belong to conv1, and even has as many channels.
    let dense = Dict::default()
        .layer("l.conv1", &[8, 8, 1, 1])
        .norm("l.norm1", 8)
        .norm("l.norm2", 8)
        .layer("l.conv2", &[4, 8, 3, 3]);
    assert_eq!(codes(&dense), ["ambiguous"; 2]);
    // A network that normalizes first: one block's channels say so, and the other's are square.
    let first = Dict::default()
        .layer("a.conv1", &[8, 8, 3, 3])
        .norm("a.bn1", 8)
        .layer("b.conv1", &[16, 8, 3, 3])
        .norm("b.bn1", 8);
    assert_eq!(codes(&first), ["ambiguous"; 2]);
    let two = Dict::default().layer("x.conv", &[8, 4, 1, 1]).norm("x.bn", 8).norm("x.1", 8);
    assert_eq!(codes(&two), ["no-layer", "folded"]);
    let transposed = Dict::default().layer("up.conv_transpose", &[8, 8, 2, 2]).norm("up.bn", 8);
    assert_eq!(codes(&transposed), ["ambiguous"]);
    assert_eq!(codes(&Dict::default().norm("rbr_identity", 8)), ["no-layer"]);
    let other = Dict::default().layer("x.conv", &[8, 4, 1, 1]).norm("x.bn", 6);
    assert_eq!(codes(&other), ["channel-mismatch"]);
}

#[test]
fn eps_is_never_guessed() {
    let dict =
        Dict::default().layer("a.conv", &[6, 4, 3, 3]).norm("a.bn", 6).layer("b.conv", &[6, 4, 3, 3]).norm("b.bn", 6);
    let of = |options: &Options| fold(&dict, options).1.into_iter().map(|(_, code)| code).collect::<Vec<_>>();
    assert_eq!(of(&Options::default()), ["unknown-eps"; 2]);
    let some = Options { eps: vec![("a.*".to_owned(), 1e-5)], ..Options::default() };
    assert_eq!(of(&some), ["folded", "unknown-eps"]);
    assert_eq!(preset("torchvision:mobilenet_v3"), Some(1e-3));
    assert_eq!(preset("mine"), None);
}

#[test]
fn pairs_that_are_given() {
    let dict =
        Dict::default().layer("up", &[4, 4, 2, 2]).norm("n", 8).layer("c", &[6, 8, 1, 1]).norm("m", 6).norm("rest", 3);
    let pair = |layer: &str, norm: &str, eps| Pair { eps: Some(eps), ..Pair::new(layer, norm) };
    let transposed = Pair { kind: Some(Kind::ConvTranspose), ..pair("up", "n", 1e-5) };
    let options = Options { pairs: Some(vec![transposed.clone(), pair("c", "m", 1e-3)]), ..Options::default() };
    let verdicts = fold(&dict, &options).1;
    let expected = [("n", "folded"), ("m", "folded"), ("rest", "not-listed")];
    assert_eq!(verdicts, expected.map(|(norm, code)| (norm.to_owned(), code)));
    let before = Pair { side: Side::Before, padding: Padding::None, groups: Some(1), ..pair("c", "n", 1e-5) };
    let padded = Pair { padding: Padding::Zeros, ..before.clone() };
    for (pair, code) in [(before, "folded"), (padded, "padded-shift"), (pair("c", "gone", 1e-5), "unreadable")] {
        let options = Options { pairs: Some(vec![pair]), only: vec!["n".into(), "gone".into()], ..Options::default() };
        assert_eq!(fold(&dict, &options).1[0].1, code);
    }
    let twice = Options { pairs: Some(vec![transposed.clone(), transposed]), ..Options::default() };
    assert_eq!(fold(&dict, &twice).1[0].1, "ambiguous");
}

#[test]
fn what_is_written() {
    let dict = Dict::default().layer("a.conv", &[6, 4, 3, 3]).norm("a.bn", 6).layer("head", &[5, 6]);
    let (bytes, _) = fold(&dict, &eps());
    let folded = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = folded.names();
    names.sort_unstable();
    assert_eq!(names, ["a.conv.bias", "a.conv.weight", "head.weight"]);
    let head = &dict.tensors["head.weight"].2;
    assert_eq!(folded.tensor("head.weight").unwrap().data(), head);
    // All of it in another type, after the fold.
    let half = Options { dtype: Some(DType::F16), ..eps() };
    let (bytes, _) = fold(&dict, &half);
    let folded = SafeTensors::deserialize(&bytes).unwrap();
    assert!(folded.tensors().iter().all(|(_, tensor)| tensor.dtype() == Dtype::F16));
    let first = f32::from_le_bytes(head[..4].try_into().unwrap());
    let found = half::f16::from_le_bytes(folded.tensor("head.weight").unwrap().data()[..2].try_into().unwrap());
    assert_eq!(found, half::f16::from_f32(first));
}

#[test]
fn a_wrong_weight_is_caught() {
    let dict = Dict::default().layer("a.conv", &[6, 4, 3, 3]).norm("a.bn", 6);
    let checkpoint = Checkpoint::from_bytes(dict.bytes()).unwrap();
    let plan = Plan::new(&checkpoint, &eps());
    let right = plan.to_bytes().unwrap();
    assert!(plan.verify(&Checkpoint::from_bytes(right.clone()).unwrap()).passed());
    let mut wrong = right.clone();
    let last = wrong.len() - 1;
    wrong[last] ^= 0x40;
    assert!(!plan.verify(&Checkpoint::from_bytes(wrong).unwrap()).passed());
    let other = Plan::new(&checkpoint, &Options { eps: vec![("*".to_owned(), 1e-2)], ..Options::default() });
    assert!(!plan.verify(&Checkpoint::from_bytes(other.to_bytes().unwrap()).unwrap()).passed());
}

#[test]
fn files_that_are_none() {
    for bytes in [&b""[..], b"1234567", &[0xff; 64], b"\x02\0\0\0\0\0\0\0{}garbage"] {
        assert!(Checkpoint::from_bytes(bytes).is_err());
    }
    let empty = Checkpoint::from_bytes(b"\x02\0\0\0\0\0\0\0{}".to_vec()).unwrap();
    assert!(Plan::new(&empty, &eps()).report().rows.is_empty());
}

/// Each is rounded to its own type, and may be off by what that explains.
#[test]
fn a_bias_of_another_type_than_the_weight() {
    let mut dict = Dict::default().layer("a.conv", &[4, 3, 3, 3]).norm("a.bn", 4);
    let data = [0.3, -0.7, 1.1, 0.9].into_iter().flat_map(|value| half::f16::from_f64(value).to_le_bytes()).collect();
    dict.tensors.insert("a.conv.bias".to_owned(), (Dtype::F16, vec![4], data));
    let (bytes, codes) = fold(&dict, &eps());
    assert_eq!(codes, [("a.bn".to_owned(), "folded")]);
    let folded = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(folded.tensor("a.conv.bias").unwrap().dtype(), Dtype::F16);
    assert_eq!(folded.tensor("a.conv.weight").unwrap().dtype(), Dtype::F32);
}
