//! The driver in a folder: a C++ program finds it by the names of NVIDIA's, and learns what it did wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

const IMAGE: &str = concat!("WARPNORM-NO-KERNELS ", env!("EMULATOR_KERNEL_HASH"));
const NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("installed-{}", std::process::id())).join(name)
}

fn emulated_driver(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_emulated-driver")).args(arguments).output().unwrap()
}

/// A folder with the driver in it.
fn installed(name: &str, options: &[&str]) -> PathBuf {
    let folder = folder(name);
    let output = emulated_driver(&[&[folder.to_str().unwrap()], options].concat());
    assert!(output.status.success(), "{output:?}");
    let expected = format!("LD_LIBRARY_PATH={}\n", folder.canonicalize().unwrap().display());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    folder
}

/// `tests/program`, compiled once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        fs::create_dir_all(folder("")).unwrap();
        let program = folder("program");
        let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/main.cpp");
        let mut compile = Command::new(compiler);
        compile.args(["-std=c++17", "-Wall", "-Werror", source, "-ldl", "-o"]).arg(&program);
        assert!(compile.status().unwrap().success());
        program
    })
}

fn run(driver: &Path, kernel: &str, names: [&str; 2], report: &str) -> Output {
    Command::new(program())
        .args([IMAGE, kernel])
        .args(names)
        .env("LD_LIBRARY_PATH", driver)
        .env("WARPNORM_EMULATOR_REPORT", report)
        .output()
        .unwrap()
}

fn said(output: &Output) -> [String; 2] {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned())
}

/// (0 − 127.5) / sqrt((256² − 1) / 12)
const FIRST: &str = "-1.7253\n";

#[test]
fn both_names_are_one_library() {
    let driver = installed("names", &[]);
    let [first, second] = NAMES;
    for names in [[first, second], [second, first], [first, first]] {
        let output = run(&driver, "smoke_layer_norm", names, "1");
        assert_eq!(said(&output), [FIRST, ""], "{names:?}");
        assert!(output.status.success());
    }
}

#[test]
fn a_fault_is_printed_where_that_is_wished() {
    let driver = installed("checked", &["--checked"]);
    let output = run(&driver, "fault_missing_barrier", NAMES, "1");
    let [answer, report] = said(&output);
    assert_eq!((answer.as_str(), output.status.code()), ("cuMemcpyDtoH_v2: error 719\n", Some(1)));
    for words in ["emulated driver: shared memory race", "kernel fault_missing_barrier", "faults.cu:"] {
        assert!(report.contains(words), "{words:?} is not in: {report}");
    }
    assert_eq!(said(&run(&driver, "fault_missing_barrier", NAMES, "")), ["cuMemcpyDtoH_v2: error 719\n", ""]);
    // The correct kernel gives nothing to print.
    assert_eq!(said(&run(&driver, "smoke_layer_norm", NAMES, "1")), [FIRST, ""]);
}

#[test]
fn the_plain_build_is_replaced_by_the_checked_one() {
    let folder = installed("replaced", &[]);
    let plain = fs::read(folder.join("libcuda.so")).unwrap();
    installed("replaced", &["--checked"]);
    assert_ne!(fs::read(folder.join("libcuda.so")).unwrap(), plain);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["libcuda.so", "libcuda.so.1"]);
}

#[test]
fn what_it_cannot_do_it_refuses() {
    let usage = |arguments: &[&str]| {
        let output = emulated_driver(arguments);
        assert!(said(&output)[1].starts_with("usage: "), "{output:?}");
        output.status.code()
    };
    assert_eq!(usage(&[]), Some(2));
    assert_eq!(usage(&["--fast", "folder"]), Some(2));
    assert_eq!(usage(&["one", "two"]), Some(2));
    let output = emulated_driver(&["/dev/null/folder"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output)[1].starts_with("emulated-driver: /dev/null/folder: "), "{output:?}");
}
