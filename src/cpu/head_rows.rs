//! The query and key heads of attention: of each token, or of all where nothing lies between them, rows.

use super::convert::Convert;
use super::rows;
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
    // SAFETY: the caller's promise is handed on, and neither writes what the other reads.
    unsafe {
        run_heads::<T>(problem, &problem.query, buffers);
        run_heads::<T>(problem, &problem.key, &keys);
    }
}

/// # Safety
/// As [`run`], with the addresses of these heads.
unsafe fn run_heads<T: Convert>(problem: &HeadRows, heads: &Heads, buffers: &Buffers) {
    let of_token = heads.count * problem.length;
    if heads.x_stride == of_token && heads.y_stride == of_token {
        // SAFETY: by the caller.
        return unsafe { rows::run::<T>(&rows_of(problem, heads, problem.tokens * heads.count), buffers) };
    }
    let rows = rows_of(problem, heads, heads.count);
    for_each_piece(0..problem.tokens, of_token, &|tokens| {
        for token in tokens {
            let at = |address: u64, stride: usize| address + (token * stride * size_of::<T>()) as u64;
            let (x, y) = (at(buffers.x, heads.x_stride), at(buffers.y, heads.y_stride));
            // SAFETY: the token is one of the tensors', and this thread alone has it.
            unsafe { rows::run::<T>(&rows, &Buffers { x, y, ..*buffers }) };
        }
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
