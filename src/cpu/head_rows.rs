//! The query and key heads of attention: of each token, or of all where nothing lies between them, rows.

use super::convert::Convert;
use super::plain_rows::{self, Constant};
use super::rows;
use super::threads::for_each_piece;
use crate::element::DType;
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
    let [query, key] = kinds.map(|(heads, buffers)| (heads, rows_of(problem, heads, heads.count), *buffers));
    with_ready::<T>(query, |query| {
        with_ready::<T>(key, |key| {
            // Both kinds of a token, for they may lie side by side.
            for_each_piece(0..problem.tokens, elements, &|tokens| {
                for token in tokens {
                    for (heads, rows, buffers) in [&query, &key] {
                        let at = |address: u64, stride: usize| address + (token * stride * size_of::<T>()) as u64;
                        let (x, y) = (at(buffers.x, heads.x_stride), at(buffers.y, heads.y_stride));
                        // SAFETY: the token is one of the tensors', and this thread alone has it.
                        unsafe { rows::run::<T>(rows, &Buffers { x, y, ..*buffers }) };
                    }
                }
            });
        });
    });
}

/// The rows of a token, and where they are.
type Token<'a> = (&'a Heads, Rows, Buffers);

/// Calls `work` on the same with coefficients that are ready for all tokens.
fn with_ready<T: Convert>((heads, rows, buffers): Token, work: impl FnOnce(Token)) {
    plain_rows::with_ready_coefficients::<T>(&rows, &buffers, |[weight, bias]| {
        let is_there = |constant: Constant| (!constant.is_absent()).then_some(DType::F32);
        let rows = Rows { weight: is_there(weight), bias: is_there(bias), weight_plus_one: false, ..rows };
        work((heads, rows, Buffers { weight: weight.address(), bias: bias.address(), ..buffers }));
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
