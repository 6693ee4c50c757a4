//! The query and key heads of attention: of each token, or of all where nothing lies between them, rows.

use super::caches;
use super::convert::Convert;
use super::plain_rows::{self, PlainRows, with_ready_coefficients};
use super::rows;
use super::seam::Seam;
use super::threads::for_each_piece;
use crate::norm::{Activation, Rounding};
use crate::problem::{Affine, Buffers, HeadRows, Heads, Output, Rows};

/// # Safety
/// As [`run`](super::run).
pub(super) unsafe fn run<T: Convert>(problem: &HeadRows, buffers: &Buffers) {
    let keys = Buffers {
        x: buffers.key_x,
        y: buffers.key_y,
        weight: buffers.key_weight,
        bias: buffers.key_bias,
        ..Buffers::default()
    };
    let kinds = [(&problem.query, buffers), (&problem.key, &keys)];
    let is_dense = |heads: &Heads| [heads.x_stride, heads.y_stride] == [heads.count * problem.length; 2];
    if kinds.iter().all(|(heads, _)| is_dense(heads)) {
        for (heads, buffers) in kinds {
            // SAFETY: by the caller, and neither kind writes what the other reads.
            unsafe { rows::run::<T>(&rows_of(problem, heads, problem.tokens * heads.count), buffers) };
        }
        return;
    }
    let elements = (problem.query.count + problem.key.count) * problem.length;
    debug_assert!(plain_rows::takes::<T>(&rows_of(problem, &problem.query, problem.query.count)));
    let streams = caches::are_exceeded_by(problem.tokens * elements * 2 * size_of::<T>());
    // Those of a token.
    let [query, key] = [&problem.query, &problem.key].map(|heads| rows_of(problem, heads, heads.count));
    with_ready_coefficients::<T>(&query, buffers, |query_affine| {
        with_ready_coefficients::<T>(&key, &keys, |key_affine| {
            let queries = (&problem.query, PlainRows::<T, _>::new(&query, buffers, &query_affine, streams));
            let keys = (&problem.key, PlainRows::<T, _>::new(&key, &keys, &key_affine, streams));
            // Both kinds of a token, for they may lie side by side.
            for_each_piece(0..problem.tokens, elements, &|tokens| {
                let mut seam = Seam::of_y();
                for token in tokens {
                    for (heads, rows) in [&queries, &keys] {
                        // SAFETY: the token is one of the tensors', and this thread alone has it.
                        unsafe { rows.normalize_at(token * heads.x_stride, token * heads.y_stride, &mut seam) };
                    }
                }
                // SAFETY: as above.
                unsafe { seam.end() };
                queries.1.finish();
            });
        });
    });
}

/// So many heads that follow each other.
fn rows_of(problem: &HeadRows, heads: &Heads, count: usize) -> Rows {
    let length = problem.length;
    Rows {
        dtype: problem.dtype,
        output: Output::Element(problem.dtype),
        rows: count,
        length,
        moments: problem.moments,
        is_plain: true,
        residual: false,
        second_residual: false,
        affine: Affine::PerElement { rows_of_sample: count },
        weight: heads.weight,
        bias: heads.bias,
        weight_plus_one: problem.weight_plus_one,
        post_norm: None,
        rounding: Rounding::Once,
        modulation: Default::default(),
        input_bias: None,
        eps: problem.eps,
        activation: Activation::None,
        x_stride: length,
        residual_stride: length,
        second_residual_stride: length,
        sum_stride: length,
        y_stride: length,
    }
}
