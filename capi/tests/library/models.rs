//! Folding whole models through the library.

use std::ffi::{CStr, CString, c_void};
use std::fs;
use std::mem::zeroed;
use std::ptr::null;

use crate::load::{library, ok, refused};
use crate::types::{wn_fold_options, wn_fold_row, wn_fold_summary, wn_status};

#[allow(dead_code, reason = "the library's tests use the rest of it")]
#[path = "../../../tests/models/writer.rs"]
mod writer;

unsafe extern "C" fn collect(context: *mut c_void, row: *const wn_fold_row) {
    // SAFETY: what the test below gives, and what the library says of its rows.
    let (codes, row) = unsafe { (&mut *context.cast::<Vec<String>>(), &*row) };
    // SAFETY: as above.
    let (code, sentence) = unsafe { (CStr::from_ptr(row.code), CStr::from_ptr(row.sentence)) };
    assert!(!sentence.is_empty() && row.channels == 6);
    codes.push(code.to_str().unwrap().to_owned());
}

#[test]
fn a_model_is_folded() {
    let folder = std::env::temp_dir().join(format!("warpnorm-capi-{}-models", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| CString::new(folder.join(name).to_str().unwrap()).unwrap();
    let builder = writer::Builder::default().input("x", &[1, 4, 6, 6]).output("y").random("w", &[6, 4, 3, 3]);
    let builder = builder.node("Conv", &["x", "w"], "c", &[]).batch_norm("c", "n", 6).node("Relu", &["n"], "r", &[]);
    fs::write(folder.join("model.onnx"), builder.batch_norm("r", "y", 6).build()).unwrap();
    let (input, output) = (path("model.onnx"), path("folded.onnx"));
    let options = wn_fold_options { verify: 1, ..wn_fold_options::default() };
    let mut codes: Vec<String> = Vec::new();
    let context = (&raw mut codes).cast::<c_void>();
    // SAFETY: all zeros are counts.
    let mut summary: wn_fold_summary = unsafe { zeroed() };
    let fold = |options: *const wn_fold_options, summary: *mut wn_fold_summary| {
        // SAFETY: the pointers are to what the arguments say.
        unsafe { (library().wn_fold_onnx)(input.as_ptr(), output.as_ptr(), options, Some(collect), context, summary) }
    };
    ok(fold(&raw const options, &raw mut summary));
    assert_eq!(codes, ["folded", "behind"]);
    assert_eq!((summary.batch_norms, summary.folded, summary.refused), (2, 1, 1));
    assert_eq!(fs::metadata(folder.join("folded.onnx")).unwrap().len(), summary.file_after);

    let wrong = wn_fold_options { forward: 9, ..wn_fold_options::default() };
    refused(fold(&raw const wrong, std::ptr::null_mut()), wn_status::InvalidValue, "`forward` is 9, which is none");
    // SAFETY: null is for nothing; the path is a string.
    let without = |input: *const _| unsafe {
        (library().wn_fold_onnx)(input, null(), null(), None, std::ptr::null_mut(), std::ptr::null_mut())
    };
    refused(without(null()), wn_status::Null, "`input` is a null pointer");
    fs::write(folder.join("bad.onnx"), [0x3a, 0xff]).unwrap();
    let message = "this is not a valid model: a number does not end";
    refused(without(path("bad.onnx").as_ptr()), wn_status::ModelMalformed, message);
    assert_eq!(without(path("none.onnx").as_ptr()), wn_status::ModelIo as i32);
    ok(without(input.as_ptr()));
    fs::remove_dir_all(&folder).unwrap();
}
