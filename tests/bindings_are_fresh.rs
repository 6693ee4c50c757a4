//! `src/plan/params.rs` is what bindgen makes of `kernels/params.h`.

#[test]
fn the_committed_bindings_are_those_of_params_h() {
    let fresh = include_str!(concat!(env!("OUT_DIR"), "/params.rs"));
    let committed = include_str!("../src/plan/params.rs");
    assert!(fresh == committed, "kernels/params.h has changed: run scripts/refresh-bindings");
}
