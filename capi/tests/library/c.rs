//! What a C compiler makes of the header, and what the library shows to a linker.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, mem};

use crate::load::{self, Library, file, name, version};
use crate::types::*;

fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

fn scratch(name: &str) -> PathBuf {
    let folder = env::temp_dir().join(format!("warpnorm-capi-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).expect("a scratch folder");
    folder
}

/// Compiles a source, strictly; the program, or what the compiler said.
fn compile(compiler: &str, standard: &str, source: &Path, link: bool) -> Result<PathBuf, String> {
    let program = source.with_extension("program");
    let mut command = Command::new(compiler);
    command.args([standard, "-Wall", "-Wextra", "-pedantic", "-Werror", "-I"]).arg(include()).arg(source);
    if link {
        // By the name that it has for programs, which it gets when it is installed.
        let folder = source.parent().expect("a folder");
        let mut name = String::from("libwarpnorm.so.0");
        if let Some((minor, _)) = version().strip_prefix("0.").and_then(|rest| rest.split_once('.')) {
            name = format!("{name}.{minor}");
        }
        fs::copy(file(), folder.join(&name)).expect("a copy");
        command.arg(folder.join(&name)).arg(format!("-Wl,-rpath,{}", folder.display())).arg("-o").arg(&program);
    } else {
        command.arg("-fsyntax-only");
    }
    let output = command.output().expect("a compiler");
    if output.status.success() { Ok(program) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn headers_stand_alone() {
    let folder = scratch("header");
    for (compiler, extension, header, standards) in [
        ("cc", "c", "warpnorm.h", &["-std=c99", "-std=c11"][..]),
        ("c++", "cpp", "warpnorm.h", &["-std=c++17", "-std=c++20"][..]),
        ("c++", "cpp", "warpnorm.hpp", &["-std=c++17", "-std=c++20"][..]),
    ] {
        let source = folder.join("alone").with_extension(extension);
        let program = format!("#include <{header}>\nint main(void) {{ return WN_STATUS_OK; }}\n");
        fs::write(&source, program).expect("a source");
        for standard in standards {
            compile(compiler, standard, &source, false)
                .unwrap_or_else(|words| panic!("{compiler} {standard}: {words}"));
        }
    }
}

/// Sizes and places of all fields, as the C compiler sees them.
#[test]
fn structures_are_laid_out_alike() {
    let mut expected = Vec::new();
    let mut lines = String::new();
    macro_rules! structure {
        ($type:ident: $($field:ident)*) => {
            expected.push(mem::size_of::<$type>());
            lines += concat!("    printf(\"%zu\\n\", sizeof(", stringify!($type), "));\n");
            $(
                expected.push(mem::offset_of!($type, $field));
                lines += concat!(
                    "    printf(\"%zu\\n\", offsetof(", stringify!($type), ", ", stringify!($field), "));\n"
                );
            )*
        };
    }
    structure!(wn_layer: kind layout activation flags normalized_rank normalized_shape num_channels num_groups q_heads
        k_heads head_dim eps momentum reserved);
    structure!(wn_signature: dtype flags rank shape weight bias scale shift channel_bias gate input_bias output
        post_norm_weight post_norm_bias scaling reserved
        input_row_stride residual_row_stride second_residual_row_stride sum_row_stride output_row_stride
        key_weight key_bias key_input_row_stride key_output_row_stride);
    structure!(wn_tensors: input output residual second_residual sum weight bias scale shift channel_bias gate
        input_bias post_norm_weight post_norm_bias scales running_mean running_var num_batches_tracked channel_table key_input key_output key_weight
        key_bias workspace workspace_bytes reserved);
    structure!(wn_array: data len dtype reserved);
    structure!(wn_affine: kind reserved running_mean running_var weight bias eps);
    structure!(wn_linear: kind padding groups weight weight_rank weight_shape bias);
    structure!(wn_branch: kind reserved linear strides dilations pads_begin pads_end after after_count);
    structure!(wn_fold_eps: pattern eps);
    structure!(wn_fold_safetensors_options: pairs eps eps_count only only_count skip skip_count dtype accept_names
        verify reserved);
    structure!(wn_rounding: max_abs subnormal underflowed);
    structure!(wn_fold_report: max_abs_scale min_var_plus_eps dead_channels warnings weight bias);
    // What a status is to C: an integer of 32 bits.
    expected.push(4);
    lines += "    printf(\"%zu\\n\", sizeof(wn_status));\n";

    let source = scratch("layout").join("layout.c");
    let program = format!("#include <warpnorm.h>\n#include <stdio.h>\nint main(void) {{\n{lines}    return 0;\n}}\n");
    fs::write(&source, program).expect("a source");
    let program = compile("cc", "-std=c99", &source, true).expect("a program");
    let found = run(&program);
    let found: Vec<usize> = found.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(found, expected);
}

fn run(program: &Path) -> String {
    let output = Command::new(program).output().expect("the program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The example of the page about the C library does what it says.
#[test]
fn example_of_the_page() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("the page");
    let example = page.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let source = scratch("example").join("example.c");
    fs::write(&source, example).expect("a source");
    let program = compile("cc", "-std=c99", &source, true).unwrap_or_else(|words| panic!("{words}"));
    let text = run(&program);
    let printed = page.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("its output");
    assert_eq!(text, printed);
}

/// Nothing is exported but the functions of the header, and all of those.
#[test]
fn only_own_symbols_are_exported() {
    let output = Command::new("nm").args(["--dynamic", "--defined-only", "--format=posix"]).arg(file()).output();
    let text = String::from_utf8(output.expect("nm").stdout).expect("text");
    let exported: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    let header = fs::read_to_string(include().join("warpnorm.h")).expect("the header");
    let declared: BTreeSet<&str> = header
        .lines()
        .filter(|line| !line.starts_with(' ') && !line.starts_with("//"))
        .filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("wn_"))
        .collect();
    assert_eq!(exported, declared);
    assert_eq!(declared, Library::NAMES.iter().copied().collect(), "a function that the tests do not know");
}

#[test]
fn names_and_version() {
    assert_eq!(version(), env!("CARGO_PKG_VERSION"));
    let header = fs::read_to_string(include().join("warpnorm.h")).expect("the header");
    let statuses =
        header.split("typedef enum wn_status {").nth(1).and_then(|rest| rest.split('}').next()).expect("a list");
    let mut count = 0;
    for line in statuses.lines().filter_map(|line| line.trim().strip_suffix(',')).filter(|line| line.contains(" = ")) {
        let (expected, number) = line.split_once(" = ").expect("a pair");
        assert_eq!(name(number.parse().expect("a number")), expected);
        count += 1;
    }
    assert!(count > 40, "{count} statuses in the header");
    assert_eq!((name(-1), name(i32::MAX)), ("WN_STATUS_UNKNOWN".into(), "WN_STATUS_UNKNOWN".into()));
    load::library();
}
