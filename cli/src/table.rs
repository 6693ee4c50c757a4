//! The report as text.

use std::fmt::Write;

use warpnorm::fold::onnx::{Report, Row, Verification, Whole};

const HEADINGS: [&str; 8] = ["node", "op", "kind", "channels", "max|a|", "min(v+e)", "0/subnormal", "verdict"];

pub fn text(report: &Report) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(report.rows.iter().map(cells));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..HEADINGS.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let (verdict, others) = line.split_last().map_or(("", &line[..]), |(last, others)| (last.as_str(), others));
        for (cell, width) in others.iter().zip(&widths) {
            put(&mut text, format_args!("{cell:width$}  "));
        }
        put(&mut text, format_args!("{verdict}\n"));
    }
    for row in &report.rows {
        for warning in &row.warnings {
            put(&mut text, format_args!("warning ({}): {}: {warning}\n", warning.code(), row.node));
        }
    }
    put(&mut text, format_args!("{}", summary(report)));
    text
}

/// Writing to a `String` cannot fail.
fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
}

fn cells(row: &Row) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let op = if row.op == "BatchNormalization" { "BatchNorm" } else { &row.op };
    [
        row.node.clone(),
        op.to_owned(),
        or_dash(Some(row.kind.clone()).filter(|kind| !kind.is_empty())),
        or_dash(row.channels.map(|channels| channels.to_string())),
        or_dash(row.max_abs_scale.map(|scale| format!("{scale:.3e}"))),
        or_dash(row.min_var_plus_eps.map(|least| format!("{least:.3e}"))),
        or_dash(row.weight.map(|weight| format!("{}/{}", weight.underflowed, weight.subnormal))),
        row.verdict.to_string(),
    ]
}

fn summary(report: &Report) -> String {
    let sums = &report.summary;
    let mut text = format!(
        "{} BatchNorms: {} folded, {} merged into others, {} left as they are",
        sums.batch_norms, sums.folded, sums.merged, sums.refused
    );
    if sums.other_maps > 0 {
        put(&mut text, format_args!("; {} other maps of channels folded", sums.other_maps));
    }
    put(&mut text, format_args!("\n{} bytes before, {} after", sums.file_before, sums.file_after));
    // A file of tensors has no nodes.
    if sums.nodes_before > 0 {
        put(&mut text, format_args!("; {} nodes before, {} after", sums.nodes_before, sums.nodes_after));
        put(&mut text, format_args!("; {} bytes of activations an image saved", sums.bytes_saved_per_image));
    }
    text.push('\n');
    if let Some(conversion) = &report.conversion {
        put(&mut text, format_args!("{conversion}\n"));
    }
    text
}

pub fn verification(verification: &Verification) -> String {
    let mut text = String::new();
    let worst = verification
        .pairs
        .iter()
        .filter_map(|pair| pair.error.as_ref().ok())
        .fold(0.0_f64, |most, &error| most.max(error));
    let passed = verification.pairs.iter().filter(|pair| pair.passed()).count();
    let pairs = verification.pairs.len();
    put(
        &mut text,
        format_args!("verified {passed} of {pairs} folds alone; the largest error is {worst:.2} of its bound\n"),
    );
    for pair in verification.pairs.iter().filter(|pair| !pair.passed()) {
        let nodes = pair.nodes.join(", ");
        match &pair.error {
            Ok(error) => put(&mut text, format_args!("FAILED: {nodes}: the error is {error:.2} of its bound\n")),
            Err(reason) => put(&mut text, format_args!("not verified: {nodes}: {reason}\n")),
        }
    }
    match &verification.whole {
        Whole::Compared { max_error, relative_l2, same_largest, tolerance, first_different, .. } => {
            let verdict = if verification.whole.passed() { "verified" } else { "FAILED" };
            put(
                &mut text,
                format_args!(
                    "{verdict} end to end: largest error {max_error:.2e} of the largest output (allowed {tolerance:.2e}), \
                 relative norm {relative_l2:.2e}"
                ),
            );
            if same_largest.1 > 0 {
                put(&mut text, format_args!(", the same largest output in {} of {}", same_largest.0, same_largest.1));
            }
            if let Some(first) = first_different {
                put(&mut text, format_args!("; {first} is the first value to differ"));
            }
            put(&mut text, format_args!("\n"));
        }
        Whole::NoGraph => put(&mut text, format_args!("a file of tensors has no whole to evaluate\n")),
        Whole::NotVerified { reason, .. } => put(&mut text, format_args!("not verified end to end: {reason}\n")),
        _ => {}
    }
    text
}
