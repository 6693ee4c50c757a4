//! `kernels/params.h` as Rust, for `src/plan/params.rs`.

use std::{
    cell::RefCell,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    rc::Rc,
};

use bindgen::callbacks::{EnumVariantValue, ItemInfo, ParseCallbacks};

const PREAMBLE: &str = "\
// Made from kernels/params.h by scripts/refresh-bindings; do not edit.
#![allow(clippy::all, clippy::pedantic, dead_code, missing_docs, non_camel_case_types, unreachable_pub)]
";

/// Writes what `src/plan/params.rs` ought to be to `to`.
pub fn generate(to: &Path) {
    let names = KernelNames::default();
    let bindings = bindgen::builder()
        .header("kernels/params.h")
        .allowlist_file(r".*params\.h")
        .parse_callbacks(Box::new(Renaming(names.clone())))
        .rustified_enum("WnKernel")
        .prepend_enum_name(false)
        .translate_enum_integer_types(true)
        .derive_default(true)
        .derive_partialeq(true)
        .generate_comments(false)
        .disable_header_comment()
        .formatter(bindgen::Formatter::None)
        .rust_target(bindgen::RustTarget::stable(89, 0).expect("a release that bindgen knows"))
        .generate()
        .expect("kernels/params.h is plain C");
    let source = format!("{PREAMBLE}{bindings}{}", names.tables());
    fs::write(to, formatted(&source)).expect("a file in OUT_DIR");
}

/// The kernels of the enumeration, in its order.
#[derive(Clone, Debug, Default)]
struct KernelNames(Rc<RefCell<Vec<String>>>);

impl KernelNames {
    fn add(&self, name: &str) {
        self.0.borrow_mut().push(name.to_owned());
    }

    fn tables(&self) -> String {
        let names = self.0.borrow();
        let (count, each) = (names.len(), |show: fn(&String) -> String| names.iter().map(show).collect::<String>());
        format!(
            "pub const KERNELS: [Kernel; {count}] = [{}];\npub const KERNEL_NAMES: [&::std::ffi::CStr; {count}] = [{}];\n",
            each(|name| format!("Kernel::{name},")),
            each(|name| format!("c\"{name}\",")),
        )
    }
}

/// `WnRowsParams` becomes `RowsParams` and `WN_KERNEL_rows_stream_f32` a variant `rows_stream_f32`; constants keep the
/// names that the kernels know.
#[derive(Debug)]
struct Renaming(KernelNames);

impl ParseCallbacks for Renaming {
    fn item_name(&self, item: ItemInfo<'_>) -> Option<String> {
        item.name.strip_prefix("Wn").map(str::to_owned)
    }

    fn enum_variant_name(&self, _: Option<&str>, name: &str, _: EnumVariantValue) -> Option<String> {
        let kernel = name.strip_prefix("WN_KERNEL_")?;
        self.0.add(kernel);
        Some(kernel.to_owned())
    }
}

/// As `cargo fmt` would leave it.
fn formatted(source: &str) -> String {
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path", "rustfmt.toml"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("rustfmt: rustup component add rustfmt");
    rustfmt.stdin.take().expect("piped").write_all(source.as_bytes()).expect("rustfmt reads");
    let output = rustfmt.wait_with_output().expect("rustfmt ends");
    assert!(output.status.success(), "rustfmt refused the bindings");
    String::from_utf8(output.stdout).expect("Rust is UTF-8")
}
