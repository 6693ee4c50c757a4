//! Folding whole models.

use std::ffi::{CStr, CString, c_char, c_void};

use warpnorm_rs::fold::checkpoint::{self, Checkpoint, pairs_from_json};
use warpnorm_rs::fold::onnx::{Forward, Model, ModelError, Options, Plan, Report};

use crate::device::{given, put};
use crate::fold::read;
use crate::layer::optional_type;
use crate::status::{Refusal, Result, guarded, wn_status};
use crate::types::{
    wn_fold_forward, wn_fold_options, wn_fold_row, wn_fold_row_function, wn_fold_safetensors_options, wn_fold_summary,
};

/// Decides what can be folded of the ONNX model in the file `input`, and writes the folded one to `output` unless that is
/// null; paths are UTF-8. `options` may be null, which is all zeros. `row`, if it is not null, is called with `context` for
/// each per-channel map that was found, before anything is written. `summary` may be null. If the folded model is verified
/// and found to differ, the status is `WN_STATUS_NOT_VERIFIED` and nothing is left of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_fold_onnx(
    input: *const c_char,
    output: *const c_char,
    options: *const wn_fold_options,
    row: wn_fold_row_function,
    context: *mut c_void,
    summary: *mut wn_fold_summary,
) -> wn_status {
    let body = || {
        // SAFETY: as the caller promised.
        let (input, output, options) = unsafe {
            let input = text(input, "input")?.ok_or_else(|| Refusal::null("input"))?;
            (input, text(output, "output")?, options.as_ref().copied().unwrap_or_default())
        };
        let model = Model::open(input)?;
        // SAFETY: as the caller promised.
        let wishes = unsafe { wishes(&options)? };
        let plan = Plan::new(&model, &wishes)?;
        if let Some(row) = row {
            tell(plan.report(), row, context);
        }
        let mut verified = true;
        let mut check = |folded: &Model| {
            if options.verify > 0 {
                let samples = usize::try_from(options.verify).unwrap_or(usize::MAX);
                let tolerance = (options.tolerance > 0.0).then_some(options.tolerance);
                verified = plan.verify(folded, samples, tolerance)?.passed();
            }
            Ok(verified)
        };
        match output {
            Some(output) => _ = plan.save_if(output, &|_| (), check)?,
            None if options.verify > 0 => _ = check(&Model::from_bytes(plan.to_bytes()?)?)?,
            None => {}
        }
        if !summary.is_null() {
            // SAFETY: as the caller promised.
            unsafe { put(summary, sums(plan.report()), "summary")? };
        }
        if verified { Ok(()) } else { Err(not_verified("it differs, or could not be evaluated as a whole")) }
    };
    guarded(body)
}

/// Decides what can be folded of the state dict in the safetensors file `input`, and writes the folded one to `output` unless
/// that is null; paths are UTF-8. `options` may be null, which is all zeros. `row`, if it is not null, is called with
/// `context` for each BatchNorm that was found, before anything is written. `summary` may be null. A pair that was found by
/// names may be a wrong one: unless `options` has the pairs, or accepts those, `output` is not written and the status is
/// `WN_STATUS_NOT_ACCEPTED`, after the rows were told. If the folded layers are verified and one is found to differ, the
/// status is `WN_STATUS_NOT_VERIFIED` and nothing is left of the output.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_fold_safetensors(
    input: *const c_char,
    output: *const c_char,
    options: *const wn_fold_safetensors_options,
    row: wn_fold_row_function,
    context: *mut c_void,
    summary: *mut wn_fold_summary,
) -> wn_status {
    let body = || {
        // SAFETY: as the caller promised.
        let (input, output, options) = unsafe {
            let input = text(input, "input")?.ok_or_else(|| Refusal::null("input"))?;
            (input, text(output, "output")?, options.as_ref().copied().unwrap_or_default())
        };
        // SAFETY: as the caller promised.
        let wishes = unsafe { wishes_of_a_state_dict(&options)? };
        let checkpoint = Checkpoint::open(input)?;
        let plan = checkpoint::Plan::new(&checkpoint, &wishes);
        if let Some(row) = row {
            tell(plan.report(), row, context);
        }
        if !summary.is_null() {
            // SAFETY: as the caller promised.
            unsafe { put(summary, sums(plan.report()), "summary")? };
        }
        if output.is_some() && wishes.pairs.is_none() && options.accept_names == 0 {
            let message = "nothing was written: the pairs were found by names; look at them and set `accept_names`, or give \
                           them as `pairs`";
            return Err(Refusal { status: wn_status::NotAccepted, message: message.to_owned() });
        }
        let mut verified = true;
        let mut check = |folded: &Checkpoint| {
            verified = options.verify == 0 || plan.verify(folded).passed();
            Ok(verified)
        };
        match output {
            Some(output) => _ = plan.save_if(output, &|_| (), check)?,
            None if options.verify != 0 => _ = check(&Checkpoint::from_bytes(plan.to_bytes()?)?)?,
            None => {}
        }
        if verified { Ok(()) } else { Err(not_verified("a layer of it differs")) }
    };
    guarded(body)
}

fn not_verified(why: &str) -> Refusal {
    Refusal { status: wn_status::NotVerified, message: format!("the folded model was not verified: {why}") }
}

/// # Safety
/// Its strings are null or end in a zero, and its lists are as long as they say.
unsafe fn wishes_of_a_state_dict(options: &wn_fold_safetensors_options) -> Result<checkpoint::Options> {
    if options.reserved != [0; 5] {
        return Err(Refusal::value("`reserved` of the options is not zero"));
    }
    // SAFETY: as the caller promised.
    unsafe {
        let pairs = text(options.pairs, "pairs")?.map(pairs_from_json).transpose()?;
        let eps = list(options.eps, options.eps_count, "eps")?.iter().map(|eps| {
            let pattern = text(eps.pattern, "eps.pattern")?.ok_or_else(|| Refusal::null("eps.pattern"))?;
            Ok((pattern.to_owned(), eps.eps))
        });
        Ok(checkpoint::Options {
            pairs,
            eps: eps.collect::<Result<_>>()?,
            only: texts(options.only, options.only_count, "only")?,
            skip: texts(options.skip, options.skip_count, "skip")?,
            dtype: optional_type(options.dtype, "dtype")?,
        })
    }
}

/// # Safety
/// Null, or a list of as many elements.
unsafe fn list<'a, T>(pointer: *const T, count: u64, argument: &str) -> Result<&'a [T]> {
    let count = usize::try_from(count).map_err(|_| Refusal::value(format!("`{argument}_count` is {count}")))?;
    // SAFETY: as the caller promised.
    unsafe { read(pointer.cast(), count, argument) }
}

/// # Safety
/// A list of as many strings.
unsafe fn texts(pointer: *const *const c_char, count: u64, argument: &str) -> Result<Vec<String>> {
    // SAFETY: as the caller promised.
    let texts = unsafe { list(pointer, count, argument)? };
    let owned = |&pointer: &*const c_char| {
        // SAFETY: as the caller promised.
        let text = unsafe { text(pointer, argument)? };
        text.map(str::to_owned).ok_or_else(|| Refusal::null(argument))
    };
    texts.iter().map(owned).collect()
}

/// # Safety
/// Null or a string that ends in a zero.
unsafe fn text<'a>(pointer: *const c_char, argument: &str) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promised.
    let text = unsafe { CStr::from_ptr(given(pointer, argument)?) };
    text.to_str().map(Some).map_err(|_| Refusal::value(format!("`{argument}` is not UTF-8")))
}

/// # Safety
/// Its lists of strings are as long as they say.
unsafe fn wishes(options: &wn_fold_options) -> Result<Options> {
    const EXACT: i32 = wn_fold_forward::Exact as i32;
    const SCALE: i32 = wn_fold_forward::Scale as i32;
    const OFF: i32 = wn_fold_forward::Off as i32;
    if options.reserved != [0; 4] {
        return Err(Refusal::value("`reserved` of the options is not zero"));
    }
    if options.tolerance.is_nan() || options.tolerance < 0.0 {
        return Err(Refusal::value(format!("`tolerance` is {:?}", options.tolerance)));
    }
    // SAFETY: as the caller promised.
    let (only, skip) =
        unsafe { (texts(options.only, options.only_count, "only")?, texts(options.skip, options.skip_count, "skip")?) };
    let forward = match options.forward {
        EXACT => Forward::Exact,
        SCALE => Forward::Scale,
        OFF => Forward::Off,
        code => return Err(Refusal::value(format!("`forward` is {code}, which is none"))),
    };
    Ok(Options {
        only,
        skip,
        forward,
        merge_branches: options.merge_branches != 0,
        duplicate_shared: options.duplicate_shared != 0,
        freeze_inputs: options.freeze_inputs != 0,
        tidy: options.tidy != 0,
        dtype: optional_type(options.dtype, "dtype")?,
    })
}

fn tell(report: &Report, function: unsafe extern "C" fn(*mut c_void, *const wn_fold_row), context: *mut c_void) {
    // A name that holds a zero cannot be told.
    let text = |text: &str| CString::new(text).unwrap_or_default();
    for row in &report.rows {
        let (node, op) = (text(&row.node), text(&row.op));
        let (code, sentence) = (text(row.verdict.code()), text(&row.verdict.to_string()));
        let told = wn_fold_row {
            node: node.as_ptr(),
            op: op.as_ptr(),
            code: code.as_ptr(),
            sentence: sentence.as_ptr(),
            channels: row.channels.map_or(-1, |channels| i64::try_from(channels).unwrap_or(i64::MAX)),
            channel: row.verdict.refusal().and_then(|refusal| refusal.channel()).map_or(-1, |channel| channel as i64),
            max_abs_scale: row.max_abs_scale.unwrap_or(f64::NAN),
            min_var_plus_eps: row.min_var_plus_eps.unwrap_or(f64::NAN),
            is_refused: i32::from(row.verdict.refusal().is_some()),
            warnings: i32::try_from(row.warnings.len()).unwrap_or(i32::MAX),
        };
        // SAFETY: the caller's own function, with what it gave us for it.
        unsafe { function(context, &raw const told) };
    }
}

fn sums(report: &Report) -> wn_fold_summary {
    let sums = &report.summary;
    wn_fold_summary {
        batch_norms: sums.batch_norms as u64,
        folded: sums.folded as u64,
        merged: sums.merged as u64,
        refused: sums.refused as u64,
        other_maps: sums.other_maps as u64,
        nodes_before: sums.nodes_before as u64,
        nodes_after: sums.nodes_after as u64,
        bytes_saved_per_image: sums.bytes_saved_per_image,
        file_before: sums.file_before,
        file_after: sums.file_after,
    }
}

impl From<ModelError> for Refusal {
    fn from(error: ModelError) -> Self {
        let status = match &error {
            ModelError::Io { .. } => wn_status::ModelIo,
            ModelError::Malformed { .. } => wn_status::ModelMalformed,
            ModelError::Unsupported { .. } => wn_status::ModelUnsupported,
            ModelError::Outside { .. } => wn_status::ModelOutside,
            ModelError::TensorLength { .. } => wn_status::ModelTensorLength,
            ModelError::Unconvertible { .. } => wn_status::ModelUnconvertible,
            _ => wn_status::Internal,
        };
        Self { status, message: error.to_string() }
    }
}
