//! `include/warpnorm.h` is what cbindgen makes of the sources. `WARPNORM_UPDATE_HEADER=1` writes it anew.

use std::{env, fs, path::Path};

#[test]
fn header_is_fresh() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(crate_dir.join("cbindgen.toml")).expect("cbindgen.toml");
    let bindings = cbindgen::Builder::new().with_crate(crate_dir).with_config(config).generate().expect("bindings");
    let mut made = Vec::new();
    bindings.write(&mut made);
    let made = String::from_utf8(made).expect("text");
    let file = crate_dir.join("include/warpnorm.h");
    if env::var_os("WARPNORM_UPDATE_HEADER").is_some() {
        fs::write(&file, &made).expect("the header");
    }
    let committed = fs::read_to_string(&file).expect("include/warpnorm.h");
    assert!(
        committed == made,
        "include/warpnorm.h is stale: WARPNORM_UPDATE_HEADER=1 cargo test -p warpnorm-capi --test header"
    );
}
