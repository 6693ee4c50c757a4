//! Folding whole models through the library.

use std::ffi::{CStr, CString, c_void};
use std::fs;
use std::mem::zeroed;
use std::ptr::{null, null_mut};

use crate::load::{library, ok, refused};
use crate::types::{
    wn_dtype, wn_fold_eps, wn_fold_options, wn_fold_row, wn_fold_safetensors_options, wn_fold_summary, wn_status,
};

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
    let builder = builder.batch_norm("r", "y", 6);
    fs::write(folder.join("model.onnx"), builder.build()).unwrap();
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

    // In f16, with both left out by their names.
    let skipped = [c"n_?".as_ptr()];
    let (skip, skip_count, dtype) = (skipped.as_ptr(), 1, wn_dtype::F16 as i32);
    codes.clear();
    ok(fold(&wn_fold_options { skip, skip_count, dtype, tidy: 1, ..options }, &raw mut summary));
    assert_eq!(codes, ["left-out", "left-out"]);
    assert_eq!((summary.nodes_before, summary.nodes_after), (4, 6));
    let dtype = wn_dtype::Bf16 as i32;
    ok(fold(&wn_fold_options { dtype, ..options }, null_mut()));
    assert_eq!(fold(&wn_fold_options { tolerance: 1e-12, ..options }, null_mut()), wn_status::NotVerified as i32);
    for (wrong, message) in [
        (wn_fold_options { tolerance: f64::NAN, ..options }, "`tolerance` is NaN"),
        (wn_fold_options { dtype: 99, ..options }, "`dtype` is 99, which is no type of a tensor"),
        (wn_fold_options { reserved: [0, 0, 0, 1], ..options }, "`reserved` of the options is not zero"),
    ] {
        refused(fold(&raw const wrong, null_mut()), wn_status::InvalidValue, message);
    }
    let missing = wn_fold_options { skip_count: 2, ..options };
    refused(fold(&raw const missing, null_mut()), wn_status::Null, "`skip` is a null pointer");
    fs::write(folder.join("old.onnx"), builder.clone().opset(12).build()).unwrap();
    let old = path("old.onnx");
    let in_bf16 = wn_fold_options { dtype, ..options };
    // SAFETY: as above.
    let status =
        unsafe { (library().wn_fold_onnx)(old.as_ptr(), null(), &raw const in_bf16, None, null_mut(), null_mut()) };
    assert_eq!(status, wn_status::ModelUnconvertible as i32);

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

/// A safetensors file of f32 tensors: names, shapes, and numbers from 0.1 to 1.
fn state_dict(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        let len: usize = shape.iter().product();
        data.extend((0..len).flat_map(|index| (((index * 37) % 10 + 1) as f32 / 10.0).to_le_bytes()));
        header.push(format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{}]}}"#, data.len()));
    }
    let header = format!("{{{}}}", header.join(","));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

#[test]
fn a_state_dict_is_folded() {
    let folder = std::env::temp_dir().join(format!("warpnorm-capi-{}-dicts", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| CString::new(folder.join(name).to_str().unwrap()).unwrap();
    let parts = ["weight", "bias", "running_mean", "running_var"];
    let names = ["conv1.weight", "conv2.weight"];
    let norms: Vec<_> = ["bn1", "bn2"].iter().flat_map(|norm| parts.map(|part| format!("{norm}.{part}"))).collect();
    let tensors = names.iter().map(|&name| (name, &[6, 4, 3, 3][..]));
    let tensors: Vec<_> = tensors.chain(norms.iter().map(|name| (name.as_str(), &[6][..]))).collect();
    fs::write(folder.join("model.safetensors"), state_dict(&tensors)).unwrap();
    let (input, output) = (path("model.safetensors"), path("folded.safetensors"));
    let exists = || folder.join("folded.safetensors").exists();
    let call = |output: *const _, options: &wn_fold_safetensors_options| {
        let mut codes: Vec<String> = Vec::new();
        let context = (&raw mut codes).cast::<c_void>();
        // SAFETY: all zeros are counts.
        let mut summary: wn_fold_summary = unsafe { zeroed() };
        // SAFETY: the pointers are to what the arguments say.
        let status = unsafe {
            (library().wn_fold_safetensors)(input.as_ptr(), output, options, Some(collect), context, &raw mut summary)
        };
        (status, codes, (summary.batch_norms, summary.folded, summary.refused), summary.file_after)
    };
    // Nothing is said of eps, so nothing is folded.
    let nothing = wn_fold_safetensors_options::default();
    let (status, codes, sums, _) = call(null(), &nothing);
    ok(status);
    assert_eq!((codes, sums), (vec!["unknown-eps".to_owned(); 2], (2, 0, 2)));

    let patterns = [c"*1", c"*"].map(CStr::as_ptr);
    let eps = [(patterns[0], 1e-5), (patterns[1], 1e-3)].map(|(pattern, eps)| wn_fold_eps { pattern, eps });
    let mut named = wn_fold_safetensors_options { eps: eps.as_ptr(), eps_count: 2, verify: 1, ..nothing };
    // The rows are told, but nobody has accepted the pairs.
    let (status, codes, sums, _) = call(output.as_ptr(), &named);
    refused(status, wn_status::NotAccepted, "set `accept_names`");
    assert_eq!((codes, sums, exists()), (vec!["folded".to_owned(); 2], (2, 2, 0), false));
    ok(call(null(), &named).0);
    named.accept_names = 1;
    let (status, codes, _, file_after) = call(output.as_ptr(), &named);
    ok(status);
    assert_eq!(codes, ["folded"; 2]);
    let by_name = fs::read(folder.join("folded.safetensors")).unwrap();
    assert_eq!(by_name.len() as u64, file_after);
    // The same pairs, and what each says of eps, which counts before a pattern.
    let pair = |number: usize, eps: f64| format!(r#"{{"conv":"conv{number}","bn":"bn{number}","eps":{eps:e}}}"#);
    let pairs = CString::new(format!(r#"{{"version":1,"pairs":[{},{}]}}"#, pair(1, 1e-5), pair(2, 1e-3))).unwrap();
    let given = wn_fold_safetensors_options {
        pairs: pairs.as_ptr(),
        verify: 1,
        eps: &raw const eps[1],
        eps_count: 1,
        ..nothing
    };
    ok(call(output.as_ptr(), &given).0);
    assert!(fs::read(folder.join("folded.safetensors")).unwrap() == by_name);
    // Some of them, and all in another type.
    let only = wn_fold_safetensors_options { only: patterns.as_ptr(), only_count: 1, ..named };
    assert_eq!(call(null(), &only).1, ["folded", "left-out"]);
    let skip = wn_fold_safetensors_options { skip: patterns.as_ptr(), skip_count: 1, ..named };
    assert_eq!(call(null(), &skip).1, ["left-out", "folded"]);
    let half = wn_fold_safetensors_options { dtype: wn_dtype::F16 as i32, ..named };
    ok(call(output.as_ptr(), &half).0);
    let halved = fs::read(folder.join("folded.safetensors")).unwrap();
    assert!(halved.windows(5).any(|text| text == b"\"F16\"") && halved.len() < by_name.len());
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_no_state_dict_is_folded_by() {
    let folder = std::env::temp_dir().join(format!("warpnorm-capi-{}-odd-dicts", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| CString::new(folder.join(name).to_str().unwrap()).unwrap();
    fs::write(folder.join("model.safetensors"), state_dict(&[("conv.weight", &[2, 2, 1, 1])])).unwrap();
    fs::write(folder.join("bad.safetensors"), [0xff; 9]).unwrap();
    let input = path("model.safetensors");
    let call = |input: *const _, options: *const wn_fold_safetensors_options| {
        // SAFETY: null is for nothing; the rest is what the arguments say, or refused.
        unsafe { (library().wn_fold_safetensors)(input, null(), options, None, null_mut(), null_mut()) }
    };
    ok(call(input.as_ptr(), null()));
    refused(call(null(), null()), wn_status::Null, "`input` is a null pointer");
    refused(call(path("bad.safetensors").as_ptr(), null()), wn_status::ModelMalformed, "not a valid model");
    refused(call(path("none.safetensors").as_ptr(), null()), wn_status::ModelIo, "none.safetensors");
    refused(call(c"\xff".as_ptr(), null()), wn_status::InvalidValue, "`input` is not UTF-8");
    let spoiled = |spoil: &dyn Fn(&mut wn_fold_safetensors_options), status, words: &str| {
        let mut options = wn_fold_safetensors_options::default();
        spoil(&mut options);
        refused(call(input.as_ptr(), &raw const options), status, words);
    };
    let no_text = [null()];
    let nameless = [wn_fold_eps { pattern: null(), eps: 1e-5 }];
    spoiled(&|options| options.eps_count = 1, wn_status::Null, "`eps`");
    spoiled(&|options| (options.eps, options.eps_count) = (nameless.as_ptr(), 1), wn_status::Null, "`eps.pattern`");
    spoiled(
        &|options| (options.eps, options.eps_count) = (nameless.as_ptr(), u64::MAX),
        wn_status::InvalidValue,
        "eps",
    );
    spoiled(&|options| options.only_count = u64::MAX, wn_status::Null, "`only`");
    spoiled(&|options| (options.only, options.only_count) = (no_text.as_ptr(), 1), wn_status::Null, "`only`");
    spoiled(&|options| options.skip_count = 2, wn_status::Null, "`skip`");
    spoiled(&|options| (options.skip, options.skip_count) = (no_text.as_ptr(), 1), wn_status::Null, "`skip`");
    spoiled(&|options| options.pairs = c"{".as_ptr(), wn_status::ModelMalformed, "the pairs");
    spoiled(&|options| options.pairs = c"{\"version\": 2}".as_ptr(), wn_status::ModelUnsupported, "version 1");
    spoiled(&|options| options.pairs = c"\xff".as_ptr(), wn_status::InvalidValue, "`pairs` is not UTF-8");
    for code in [4, 7, -1] {
        spoiled(&|options| options.dtype = code, wn_status::InvalidValue, "`dtype`");
    }
    for at in 0..5 {
        spoiled(&|options| options.reserved[at] = 1, wn_status::InvalidValue, "`reserved`");
    }
    fs::remove_dir_all(&folder).unwrap();
}
