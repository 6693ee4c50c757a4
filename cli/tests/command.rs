//! The command as a person runs it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

#[allow(dead_code, reason = "the library's tests use the rest of it")]
#[path = "../../tests/models/writer.rs"]
mod writer;

use writer::{Builder, Value};

/// A folder with a model in it, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, model: &Builder) -> Self {
        let folder = std::env::temp_dir().join(format!("warpnorm-cli-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("model.onnx"), model.build()).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn fold(&self, arguments: &[&str]) -> Output {
        warpnorm().arg("fold").args(arguments).current_dir(&self.0).output().unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn warpnorm() -> Command {
    Command::new(env!("CARGO_BIN_EXE_warpnorm"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A BatchNorm that is folded, and one that is not.
fn model() -> Builder {
    let builder = Builder::default().input("x", &[1, 4, 6, 6]).output("y").random("conv.weight", &[6, 4, 3, 3]);
    let builder = builder.node("Conv", &["x", "conv.weight"], "c", &[]).batch_norm("c", "n", 6);
    builder.node("Relu", &["n"], "r", &[]).batch_norm("r", "y", 6)
}

#[test]
fn without_an_output_nothing_is_written() {
    let folder = Folder::new("table", &model());
    let output = folder.fold(&["model.onnx"]);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    assert!(text.contains("folded into n_c") && text.contains("refused (behind): it follows n_r, a Relu"), "{text}");
    assert!(text.contains("2 BatchNorms: 1 folded, 0 merged into others, 1 left as they are"), "{text}");
    assert_eq!(folder.names(), ["model.onnx"]);
}

#[test]
fn a_folded_model_is_written_and_verified() {
    let folder = Folder::new("written", &model());
    let output = folder.fold(&["model.onnx", "-o", "folded.onnx", "--verify=3", "--report", "report.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("verified 1 of 1 folds alone") && text(&output).contains("verified end to end"));
    assert_eq!(folder.names(), ["folded.onnx", "model.onnx", "report.json"]);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path("report.json")).unwrap()).unwrap();
    assert_eq!(report["summary"]["folded"], 1);
    assert_eq!(report["rows"][1]["verdict"], "behind");
    assert_eq!(report["verification"]["passed"], true);
    // Nothing is left to fold.
    let before = fs::read(folder.path("folded.onnx")).unwrap();
    folder.fold(&["folded.onnx", "-o", "again.onnx", "-q"]);
    assert!(fs::read(folder.path("again.onnx")).unwrap() == before);
}

#[test]
fn in_another_type_and_without_what_computes_nothing() {
    let builder = model().node("Identity", &["y"], "i", &[]).node("Relu", &["i"], "z", &[]).output("z");
    let folder = Folder::new("typed", &builder);
    let output = folder.fold(&[
        "model.onnx",
        "-o",
        "half.onnx",
        "--dtype",
        "f16",
        "--tidy",
        "--verify",
        "--report",
        "report.json",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let summary = "constants are stored as f16, 4 nodes compute in it; 3 casts";
    assert!(text(&output).contains(summary) && text(&output).contains("6 nodes before, 7 after"), "{}", text(&output));
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path("report.json")).unwrap()).unwrap();
    assert_eq!(report["conversion"]["dtype"], "f16");
    assert_eq!(report["conversion"]["stored_only"], serde_json::Value::Null);
    fs::write(folder.path("old.onnx"), builder.opset(12).build()).unwrap();
    let refused = folder.fold(&["old.onnx", "-o", "brain.onnx", "--dtype", "bf16"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot be brought into bf16: it uses opset 12"));
    assert!(!folder.path("brain.onnx").exists());
}

#[test]
fn exit_codes() {
    let folder = Folder::new("codes", &model());
    let code = |arguments: &[&str]| folder.fold(arguments).status.code();
    assert_eq!(code(&["model.onnx", "-o", "out.onnx", "--strict"]), Some(3));
    assert_eq!(code(&["model.onnx", "-o", "model.onnx"]), Some(2));
    assert_eq!(code(&["none.onnx"]), Some(2));
    fs::write(folder.path("bad.onnx"), b"\x3a\xff").unwrap();
    assert_eq!(code(&["bad.onnx"]), Some(2));
    // What rounding does is more than this.
    assert_eq!(code(&["model.onnx", "-o", "out.onnx", "--verify", "--tol", "0"]), Some(1));
    assert_eq!(folder.names(), ["bad.onnx", "model.onnx"], "none of these writes");
    assert_eq!(code(&["model.onnx", "--skip", "n_y", "--strict"]), Some(3));
    assert_eq!(code(&["model.onnx", "-o", "model.onnx", "--in-place", "-q"]), Some(0));
}

#[test]
fn what_is_there_is_not_lost() {
    let folder = Folder::new("there", &model());
    let refused = |arguments: &[&str]| {
        let output = folder.fold(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // The report would be in the place of a model.
    for arguments in [&["--report", "model.onnx"][..], &["-o", "out.onnx", "--report", "out.onnx"]] {
        assert!(refused(&[&["model.onnx"], arguments].concat()).contains("the report would replace it"));
    }
    // Without an output nothing would be replaced.
    assert!(refused(&["model.onnx", "--in-place"]).contains("--output"));
    // A system's refusal names its file once.
    assert_eq!(refused(&["none.onnx"]).matches("none.onnx").count(), 1);
    assert!(fs::read(folder.path("model.onnx")).unwrap() == model().build());
    // What is no model is said to be so, and an option that would do nothing.
    fs::write(folder.path("model.onnx.gz"), [0x1f, 0x8b, 8, 0]).unwrap();
    assert!(refused(&["model.onnx.gz"]).contains("compressed by gzip"));
    assert!(refused(&["."]).contains("is a directory"));
    assert!(refused(&["model.onnx", "--eps", "1e-3"]).contains("--eps is for state dicts"));
    state_dict(&folder.path("model.safetensors"));
    assert!(refused(&["model.safetensors", "--eps", "1e-3", "--tidy"]).contains("--tidy is for ONNX models"));
    // What is no file is no place for one, as /dev/null.
    #[cfg(unix)]
    {
        let _socket = std::os::unix::net::UnixListener::bind(folder.path("socket")).unwrap();
        assert!(refused(&["model.onnx", "-o", "socket"]).contains("not replaced"));
        assert!(!fs::metadata(folder.path("socket")).unwrap().is_file());
    }
}

#[test]
fn what_cannot_be_evaluated_has_not_passed() {
    let builder = model().node("Celu", &["y"], "z", &[("alpha", Value::Float(2.0))]).output("z");
    let folder = Folder::new("unknown", &builder);
    let output = folder.fold(&["model.onnx", "-o", "folded.onnx", "--verify"]);
    assert_eq!(output.status.code(), Some(1));
    let text = text(&output);
    assert!(text.contains("verified 1 of 1 folds alone") && text.contains("not verified end to end"), "{text}");
    assert!(folder.path("folded.onnx").exists(), "it is not known to be wrong");
}

fn state_dict(path: &Path) {
    let header = concat!(
        r#"{"a.conv.weight":{"dtype":"F32","shape":[2,1,1,1],"data_offsets":[0,8]},"#,
        r#""a.bn.running_mean":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"#,
        r#""a.bn.running_var":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}}"#,
    );
    let data: Vec<u8> = [1.0_f32, 2.0, 0.5, -0.5, 1.0, 4.0].into_iter().flat_map(f32::to_le_bytes).collect();
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
}

#[test]
fn state_dicts_are_written_when_the_pairs_are_sure() {
    let folder = Folder::new("dict", &model());
    state_dict(&folder.path("model.safetensors"));
    let fold = |arguments: &[&str]| folder.fold(&[&["model.safetensors"], arguments].concat());
    let unknown = fold(&[]);
    assert!(text(&unknown).contains("refused (unknown-eps)"), "{}", text(&unknown));
    assert_eq!(fold(&["--eps", "0", "-o", "out.safetensors"]).status.code(), Some(2));
    assert!(!folder.path("out.safetensors").exists());
    assert_eq!(fold(&["--eps", "a.*=0", "-o", "out.safetensors", "--yes", "--verify"]).status.code(), Some(0));
    let folded = fs::read(folder.path("out.safetensors")).unwrap();
    let tail: Vec<u8> = [1.0_f32, 1.0, -0.5, 0.25].into_iter().flat_map(f32::to_le_bytes).collect();
    assert!(folded.ends_with(&tail));
    let pairs = r#"{"version": 1, "pairs": [{"conv": "a.conv", "bn": "a.bn", "eps": 0}]}"#;
    fs::write(folder.path("pairs.json"), pairs).unwrap();
    assert_eq!(fold(&["--pairs", "pairs.json", "-o", "pairs.safetensors"]).status.code(), Some(0));
    assert!(fs::read(folder.path("pairs.safetensors")).unwrap() == folded);
    assert_eq!(fold(&["--preset", "nobody:knows"]).status.code(), Some(2));
}

#[test]
fn info_says_why_there_is_no_gpu() {
    let output = warpnorm().arg("info").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    for part in ["kernels", "driver", "CPU"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn help_names_every_exit_code() {
    let output = warpnorm().args(["fold", "--help"]).output().unwrap();
    let text = text(&output);
    for part in ["Exit codes:", "--freeze-inputs", "--pairs", "byte for byte"] {
        assert!(text.contains(part), "{text}");
    }
}
