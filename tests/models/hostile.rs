//! Files that are damaged or made to do harm: every one is read or refused, and none crashes or takes much memory.

use std::{fs, path::PathBuf};

use warpnorm::fold::{
    checkpoint::{self, Checkpoint},
    onnx::{Model, ModelError, Options, Plan},
};

use crate::{
    seeds::{dict, exercise, exercise_dict, seeds},
    writer::{Builder, FLOAT, INT64, Message, Value, tensor},
};

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below.max(1)
    }

    /// A file with some of its bytes changed, moved, doubled or gone.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.next(4) {
            let at = self.next(bytes.len());
            match self.next(6) {
                _ if bytes.is_empty() => bytes.push(8),
                0 => bytes[at] ^= 1 << self.next(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.next(5)],
                2 => bytes.truncate(at),
                3 => drop(bytes.drain(at..(at + 1 + self.next(8)).min(bytes.len()))),
                4 => bytes.insert(at, self.next(256) as u8),
                _ => {
                    let piece = bytes[at..(at + 1 + self.next(32)).min(bytes.len())].to_vec();
                    let to = self.next(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
        }
    }
}

/// How many files to damage: a few where it is one test of many, and a million once in a while
/// (`WARPNORM_DAMAGED_FILES=1000000 cargo test --release --test models -- damaged`).
fn cases() -> usize {
    std::env::var("WARPNORM_DAMAGED_FILES").map_or(20_000, |cases| cases.parse().expect("a number"))
}

#[test]
fn damaged_models() {
    let seeds = seeds();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for index in 0..cases() {
        let mut bytes = seeds[index % seeds.len()].clone();
        random.mutate(&mut bytes);
        exercise(bytes);
    }
}

#[test]
fn numbers_that_no_bytes_pay_for() {
    let x = Builder::default().input("x", &[1, 4, 2, 2]).output("y").constant("k", &[], &[0.5]);
    let scaled = x.clone().node("Mul", &["x", "k"], "m", &[]);
    // Channels by a group alone, and by the other axis of a weight that is empty.
    let groups = scaled.clone().random("w", &[4, 4, 1, 1]);
    let groups = groups.node("Conv", &["m", "w"], "y", &[("group", Value::Int(1 << 40))]);
    let empty = scaled.constant("w", &[1 << 40, 0], &[]).node("Gemm", &["m", "w"], "y", &[]);
    for builder in [groups, empty] {
        let model = Model::from_bytes(builder.build()).unwrap();
        assert_eq!(Plan::new(&model, &Options::default()).unwrap().to_bytes().unwrap(), model.bytes());
    }
    // More bytes saved than can be counted.
    let vast = Builder::default().input("v0", &[1, 4, 1 << 57]).output("v9");
    let vast = (0..9).fold(vast, |vast, index| vast.batch_norm(&format!("v{index}"), &format!("v{}", index + 1), 4));
    let vast = Model::from_bytes(vast.build()).unwrap();
    assert_eq!(Plan::new(&vast, &Options::default()).unwrap().report().summary.bytes_saved_per_image, u64::MAX);
    // A concatenation that doubles each time, a window of more taps than there are numbers, an axis as long as memory.
    let doubled = |builder: Builder, index: usize| {
        let (from, to) = (format!("v{index}"), format!("v{}", index + 1));
        builder.node("Concat", &[&from, &from], &to, &[("axis", Value::Int(0))])
    };
    let doubled = (0..60).fold(x.clone().node("Identity", &["x"], "v0", &[]), doubled).output("v60");
    let (kernel, pads) = (1 << 31, (1 << 31) - 1);
    let window = [("kernel_shape", Value::Ints(&[kernel, kernel])), ("pads", Value::Ints(&[pads; 4]))];
    let window = x.clone().node("AveragePool", &["x"], "y", &window);
    let resized = x.constant("s", &[4], &[1.0, 1.0, 1.0, 1e8]).node("Resize", &["x", "", "s"], "y", &[]);
    for builder in [doubled, window, resized] {
        let model = Model::from_bytes(builder.build()).unwrap();
        let plan = Plan::new(&model, &Options::default()).unwrap();
        assert!(!plan.verify(&model, 1, None).unwrap().passed());
    }
}

#[test]
fn models_that_end_early() {
    for seed in seeds() {
        for len in 0..seed.len() {
            exercise(seed[..len].to_vec());
        }
    }
}

#[test]
fn damaged_state_dicts() {
    let mut random = Random(99);
    for _ in 0..cases() {
        let mut bytes = dict();
        random.mutate(&mut bytes);
        exercise_dict(bytes);
    }
}

/// Of an axis of no elements and two that no machine can count.
#[test]
fn shapes_of_nothing_that_are_large() {
    let large = 1 << 40;
    let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").constant("k", &[0, large, large], &[]);
    let builder = builder.node("MatMul", &["k", "k"], "m", &[]).node("Relu", &["x"], "y", &[]).output("m");
    exercise(builder.build());
    // What is repeated along an axis of another that holds nothing.
    let builder = Builder::default().input("x", &[4, 5]).output("y").constant("k", &[1 << 31, 5, 0], &[]);
    exercise(builder.node("MatMul", &["x", "k"], "y", &[]).build());
}

#[test]
fn a_bias_of_a_coarser_type_than_its_weight() {
    let header = concat!(
        r#"{"a.conv.weight":{"dtype":"F32","shape":[1,1,1,1],"data_offsets":[0,4]},"#,
        r#""a.conv.bias":{"dtype":"F16","shape":[1],"data_offsets":[4,6]},"#,
        r#""a.bn.running_mean":{"dtype":"F32","shape":[1],"data_offsets":[6,10]},"#,
        r#""a.bn.running_var":{"dtype":"F32","shape":[1],"data_offsets":[10,14]}}"#,
    );
    let bias = half::f16::from_f32(0.7).to_le_bytes();
    let data = [&0.3_f32.to_le_bytes()[..], &bias, &0.1_f32.to_le_bytes(), &0.9_f32.to_le_bytes()].concat();
    let dict = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    let checkpoint = Checkpoint::from_bytes(dict).unwrap();
    let options = checkpoint::Options { eps: vec![("*".to_owned(), 1e-5)], ..checkpoint::Options::default() };
    let plan = checkpoint::Plan::new(&checkpoint, &options);
    let folded = Checkpoint::from_bytes(plan.to_bytes().unwrap()).unwrap();
    let verification = plan.verify(&folded);
    assert_eq!((plan.report().summary.folded, verification.passed()), (1, true), "{verification:?}");
}

/// A folder that is gone with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("warpnorm-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A convolution whose weight lies in another file.
pub fn external(location: &str, offset: &str) -> Vec<u8> {
    let entry = |key: &str, value: &str| Message::default().bytes(1, key).bytes(2, value);
    let dims = [6, 4, 1, 1].iter().fold(Message::default(), |message, &dim| message.int(1, dim));
    let weight = dims.int(2, FLOAT).bytes(8, "w").int(14, 1);
    let weight = weight.message(13, &entry("location", location)).message(13, &entry("offset", offset));
    let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").initializer(weight);
    builder.node("Conv", &["x", "w"], "c", &[]).batch_norm("c", "y", 6).build()
}

#[test]
fn external_data() {
    let (from, to) = (Folder::new("from"), Folder::new("to"));
    let weight: Vec<u8> = (0..24).flat_map(|index| (index as f32 / 8.0 - 1.0).to_le_bytes()).collect();
    fs::write(from.0.join("weights.bin"), [&[0; 16], &weight[..]].concat()).unwrap();
    let path = from.0.join("model.onnx");
    fs::write(&path, external("weights.bin", "16")).unwrap();
    let model = Model::open(&path).unwrap();
    let plan = Plan::new(&model, &Options::default()).unwrap();
    for folder in [&from, &to] {
        let out = folder.0.join("folded.onnx");
        plan.save(&out).unwrap();
        let folded = Model::open(&out).unwrap();
        assert!(plan.verify(&folded, 1, None).unwrap().passed());
        assert_eq!(fs::read(folder.0.join("folded.onnx.data")).unwrap().len(), weight.len());
        let again = Plan::new(&folded, &Options::default()).unwrap();
        assert_eq!(again.to_bytes().unwrap(), folded.bytes());
        assert!(
            fs::read_dir(&folder.0)
                .unwrap()
                .all(|entry| { !entry.unwrap().file_name().to_string_lossy().contains("unfinished") })
        );
    }
    // What an earlier fold has left is whole after one that was not accepted, or that could not be.
    let out = to.0.join("folded.onnx");
    let before = [&out, &to.0.join("folded.onnx.data")].map(|path| fs::read(path).unwrap());
    assert!(!plan.save_if(&out, &|_| (), |_| Ok(false)).unwrap());
    plan.save_if(&out, &|_| (), |_| Model::from_bytes([0x3a, 0xff]).map(|_| true)).unwrap_err();
    assert!([&out, &to.0.join("folded.onnx.data")].map(|path| fs::read(path).unwrap()) == before);
    assert_eq!(fs::read_dir(&to.0).unwrap().count(), 3);
    // Another model's file of the same name is not replaced.
    let other = Folder::new("other");
    fs::write(other.0.join("weights.bin"), [1; 112]).unwrap();
    let refused = plan.save(other.0.join("folded.onnx")).unwrap_err();
    assert!(refused.to_string().contains("weights.bin: it is there already"), "{refused}");
    assert_eq!(fs::read(other.0.join("weights.bin")).unwrap(), [1; 112]);
    // Those of an attribute and of a graph within a node go along.
    let [constant, inner] = ["constant", "inner"].map(|name| {
        fs::write(from.0.join(name), [0; 4]).unwrap();
        let entry = Message::default().bytes(1, "location").bytes(2, name);
        Message::default().int(1, 1).int(2, FLOAT).bytes(8, name).int(14, 1).message(13, &entry)
    });
    let body = Message::default().message(5, &inner).bytes(2, "body");
    let builder = Builder::default().input("x", &[2, 4, 6, 6]).output("y").random("w", &[6, 4, 1, 1]);
    let builder = builder.node("Conv", &["x", "w"], "c", &[]).batch_norm("c", "y", 6).output("k").output("z");
    let builder = builder.node("Constant", &[], "k", &[("value", Value::Tensor(constant))]);
    let builder = builder.node("Loop", &[""], "z", &[("body", Value::Graph(body))]);
    fs::write(from.0.join("within.onnx"), builder.build()).unwrap();
    let within = Model::open(from.0.join("within.onnx")).unwrap();
    Plan::new(&within, &Options::default()).unwrap().save(to.0.join("within.onnx")).unwrap();
    assert!(to.0.join("constant").exists() && to.0.join("inner").exists());
    // Beyond the end of the file, and no number at all.
    fs::write(&path, external("weights.bin", "20")).unwrap();
    let short = Model::open(&path).unwrap();
    let row = Plan::new(&short, &Options::default()).unwrap().report().rows[0].clone();
    assert_eq!(row.verdict.code(), "unreadable");
    fs::write(&path, external("weights.bin", "-4")).unwrap();
    assert!(matches!(Model::open(&path), Err(ModelError::Malformed { .. })));
}

#[test]
fn paths_that_leave_the_folder() {
    let (inside, outside) = (Folder::new("inside"), Folder::new("outside"));
    fs::write(outside.0.join("secret"), [0; 96]).unwrap();
    let path = inside.0.join("model.onnx");
    let outside_name = outside.0.file_name().unwrap().to_string_lossy().into_owned();
    let absolute = outside.0.join("secret").to_string_lossy().into_owned();
    for location in
        [absolute, format!("../{outside_name}/secret"), format!("a/../../{outside_name}/secret"), String::new()]
    {
        fs::write(&path, external(&location, "0")).unwrap();
        assert!(matches!(Model::open(&path), Err(ModelError::Outside { .. })), "{location}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(outside.0.join("secret"), inside.0.join("link")).unwrap();
        fs::write(&path, external("link", "0")).unwrap();
        assert!(matches!(Model::open(&path), Err(ModelError::Outside { .. })));
    }
    assert!(matches!(Model::from_bytes(external("weights.bin", "0")), Err(ModelError::Outside { .. })));
}

/// Small models that could keep a fold busy for ages, or fill all memory.
#[test]
fn models_that_multiply() {
    // Each of these reads the one before it twice.
    let mut doubled = Builder::default().input("x", &[1]).output("y").initializer(tensor("k0", INT64, &[1], &[1.0]));
    for at in 0..64 {
        let (from, to) = (format!("k{at}"), format!("k{}", at + 1));
        doubled = doubled.node("Reshape", &[&from, &from], &to, &[]);
    }
    exercise(doubled.node("Mul", &["x", "k64"], "y", &[]).build());
    // Each of these has all the others for a reason.
    let mut readers = Builder::default().input("x", &[1, 2, 1]).output("y").random("w", &[2, 2, 1]).random("k", &[2]);
    readers = readers.constant("v", &[2], &[1.0, 1.0]).node("Conv", &["x", "w"], "c", &[]);
    for at in 0..2000 {
        readers = readers.node("BatchNormalization", &["c", "k", "k", "k", "v"], &format!("y{at}"), &[]);
    }
    let model = Model::from_bytes(readers.build()).unwrap();
    let report = Plan::new(&model, &Options::default()).unwrap().report().clone();
    assert!(report.rows.iter().all(|row| row.verdict.refusal().unwrap().to_string().len() < 1000));
    // Each of these is one too many for the type.
    let mut large = Builder::default().input("x", &[1, 2, 1]).output("y").random("w", &[2, 2, 1]);
    large = large.constant("k", &[1], &[1e4]).node("Conv", &["x", "w"], "c0", &[]);
    for at in 0..2000 {
        large = large.node("Mul", &[&format!("c{at}"), "k"], &format!("c{}", at + 1), &[]);
    }
    let model = Model::from_bytes(large.output("c2000").build()).unwrap();
    assert!(Plan::new(&model, &Options::default()).unwrap().report().rows.len() < 2000);
}

/// As PyTorch calls the files of a large model, and as its folded tensors would be called.
#[test]
fn folded_tensors_beside_the_others() {
    let (from, to) = (Folder::new("beside"), Folder::new("elsewhere"));
    let weight: Vec<u8> = (0..24).flat_map(|index| (index as f32 / 8.0 - 1.0).to_le_bytes()).collect();
    let path = from.path("model.onnx");
    for location in ["model.onnx.data", "./model.onnx.data"] {
        for folder in [&to, &from] {
            fs::write(from.path("model.onnx.data"), [&weight[..], &weight[..]].concat()).unwrap();
            fs::write(&path, external(location, "96")).unwrap();
            let model = Model::open(&path).unwrap();
            let plan = Plan::new(&model, &Options::default()).unwrap();
            plan.save(folder.path("model.onnx")).unwrap();
            let folded = Model::open(folder.path("model.onnx")).unwrap();
            assert!(plan.verify(&folded, 1, None).unwrap().passed());
            assert_eq!(fs::read(from.path("model.onnx.data")).unwrap().len(), 2 * weight.len());
            assert_eq!(fs::read(folder.path("model.onnx.1.data")).unwrap().len(), weight.len());
            // Nor is the model itself written over them.
            assert!(matches!(plan.save(folder.path("model.onnx.data")), Err(ModelError::Io { .. })));
        }
    }
}
