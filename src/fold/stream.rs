//! A fold whose result goes to a file: bytes of a type that is known at run time, row by row.

use std::ops::Range;

use half::{bf16, f16};

use super::{
    absorb::{Absorption, LinearOp},
    affine::Affine,
    error::FoldError,
    report::FoldReport,
    values::{Widen, with_slice},
};
use crate::element::{DType, Element};

/// Evaluates an expression for the element type that a [`DType`] names.
macro_rules! with_type {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $type = f32;
                $body
            }
            DType::F16 => {
                type $type = f16;
                $body
            }
            DType::Bf16 => {
                type $type = bf16;
                $body
            }
        }
    };
}

impl LinearOp<'_> {
    /// Weight and bias in f64, for sums that are rounded later.
    pub(super) fn fold_exactly(&self, after: Option<&Affine>) -> Result<(Vec<f64>, Vec<f64>), FoldError> {
        let absorption = Absorption::new(self, None, after)?;
        let mut weight = Vec::new();
        absorption.each_weight(0..absorption.rows(), |value| weight.push(value));
        Ok((weight, absorption.biases().collect()))
    }
}

impl Absorption<'_> {
    /// As [`Absorption::survey`], of these types of weight and bias.
    pub(super) fn survey_as(&self, weight: DType, bias: DType) -> Result<FoldReport, FoldError> {
        with_type!(weight, W => with_type!(bias, B => self.survey::<W, B>()))
    }

    pub(super) fn output_channels(&self) -> usize {
        self.geometry.output_channels()
    }

    pub(super) fn biases(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.output_channels()).map(|channel| self.bias_of(channel))
    }

    /// Steps of axis 0 of the weight.
    pub(super) fn rows(&self) -> usize {
        self.weight.len() / self.geometry.row_len
    }

    /// Elements of one step of axis 0.
    pub(super) fn row_len(&self) -> usize {
        self.geometry.row_len
    }

    /// Adds the bytes of some rows of the folded weight, which must have passed [`Absorption::survey_as`].
    pub(super) fn put_rows(&self, rows: Range<usize>, dtype: DType, to: &mut Vec<u8>) {
        to.reserve(rows.len() * self.row_len() * dtype.size());
        with_type!(dtype, T => self.each_weight(rows, |value| {
            to.extend_from_slice(&<T as Element>::from_f64(value).to_le_bytes());
        }));
    }

    /// The exact weights of some rows, in the order of memory.
    fn each_weight(&self, rows: Range<usize>, take: impl FnMut(f64)) {
        with_slice!(self.weight, weight => self.each_weight_of(weight, rows, take));
    }

    fn each_weight_of<I: Widen>(&self, weight: &[I], rows: Range<usize>, mut take: impl FnMut(f64)) {
        let (row_len, kernel_len) = (self.geometry.row_len, self.geometry.kernel_len);
        for row in rows {
            let stretches = weight[row * row_len..][..row_len].chunks_exact(kernel_len);
            for (taps, stretch) in self.geometry.taps_of_row(row).zip(stretches) {
                let (before, after) = self.factors(taps);
                stretch.iter().for_each(|weight| take(weight.widen() * before * after));
            }
        }
    }
}
