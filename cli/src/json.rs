//! The report as JSON.

use serde_json::{Value, json};
use warpnorm::fold::onnx::{Report, Row, Verdict, Verification, Whole};

pub fn text(report: &Report, verification: Option<&Verification>) -> String {
    let sums = &report.summary;
    let value = json!({
        "version": 1,
        "rows": report.rows.iter().map(row).collect::<Vec<_>>(),
        "summary": {
            "batch_norms": sums.batch_norms,
            "folded": sums.folded,
            "merged": sums.merged,
            "refused": sums.refused,
            "other_maps": sums.other_maps,
            "nodes_before": sums.nodes_before,
            "nodes_after": sums.nodes_after,
            "bytes_saved_per_image": sums.bytes_saved_per_image,
            "file_before": sums.file_before,
            "file_after": sums.file_after,
        },
        "conversion": report.conversion.as_ref().map(|conversion| json!({
            "dtype": conversion.dtype.name(),
            "tensors": conversion.tensors,
            "nodes": conversion.nodes,
            "casts": conversion.casts,
            "stored_only": conversion.stored_only,
        })),
        "verification": verification.map(verified),
    });
    format!("{value:#}\n")
}

fn row(row: &Row) -> Value {
    let warnings = row.warnings.iter().map(|warning| json!({ "code": warning.code(), "text": warning.to_string() }));
    let layers = match &row.verdict {
        Verdict::Folded { layers, .. } | Verdict::ScaleFolded { layers, .. } => layers.clone(),
        Verdict::Merged { into, .. } => vec![into.clone()],
        _ => Vec::new(),
    };
    json!({
        "node": row.node,
        "op": row.op,
        "kind": row.kind,
        "channels": row.channels,
        "max_abs_scale": row.max_abs_scale,
        "min_var_plus_eps": row.min_var_plus_eps,
        "max_abs_weight": row.weight.map(|weight| weight.max_abs),
        "subnormal": row.weight.map(|weight| weight.subnormal),
        "underflowed": row.weight.map(|weight| weight.underflowed),
        "bytes_per_image": row.bytes_per_image,
        "verdict": row.verdict.code(),
        "text": row.verdict.to_string(),
        "into": layers,
        "refused": row.verdict.refusal().is_some(),
        "channel": row.verdict.refusal().and_then(|refusal| refusal.channel()),
        "warnings": warnings.collect::<Vec<_>>(),
    })
}

fn verified(verification: &Verification) -> Value {
    let pairs = verification.pairs.iter().map(|pair| {
        json!({
            "nodes": pair.nodes,
            "passed": pair.passed(),
            "error_of_bound": pair.error.as_ref().ok(),
            "reason": pair.error.as_ref().err(),
        })
    });
    let whole = match &verification.whole {
        Whole::Compared { max_error, relative_l2, same_largest, tolerance, first_different, .. } => json!({
            "compared": true,
            "max_error": max_error,
            "relative_l2": relative_l2,
            "same_largest": [same_largest.0, same_largest.1],
            "tolerance": tolerance,
            "first_different": first_different,
        }),
        Whole::NotVerified { reason, .. } => json!({ "compared": false, "reason": reason }),
        _ => Value::Null,
    };
    json!({ "passed": verification.passed(), "pairs": pairs.collect::<Vec<_>>(), "whole": whole })
}
