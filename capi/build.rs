//! The name by which programs find the library at run time: another one with each version that they cannot be moved to.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let version = |part: &str| std::env::var(format!("CARGO_PKG_VERSION_{part}")).unwrap_or_default();
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // Before 1.0 every minor version may change the interface.
        let abi = if version("MAJOR") == "0" { format!("0.{}", version("MINOR")) } else { version("MAJOR") };
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libwarpnorm.so.{abi}");
    }
}
