//! A fold whose result goes to a file: bytes of a type that is known at run time, row by row.

use std::ops::Range;

use half::{bf16, f16};

use super::{
    absorb::Absorption,
    error::FoldError,
    report::FoldReport,
    values::{Values, Widen, with_slice},
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

impl Values<'_> {
    /// Puts the bytes of some of the elements, rounded to a type, in place of what `to` holds.
    pub(super) fn put_as(&self, range: Range<usize>, dtype: DType, to: &mut Vec<u8>) {
        with_type!(dtype, T => {
            to.resize(range.len() * size_of::<T>(), 0);
            let (elements, _) = to.as_chunks_mut::<{ size_of::<T>() }>();
            with_slice!(self, values => {
                for (value, to) in values[range].iter().zip(elements) {
                    *to = <T as Element>::from_f64(value.widen()).to_le_bytes();
                }
            });
        });
    }
}

impl Absorption<'_> {
    /// As [`Absorption::survey_and`], of these types of weight and bias.
    pub(super) fn survey_as(
        &self,
        weight: DType,
        bias: DType,
        seen: &dyn Fn(Range<usize>),
    ) -> Result<FoldReport, FoldError> {
        with_type!(weight, W => with_type!(bias, B => self.survey_and::<W, B>(seen)))
    }

    pub(super) fn output_channels(&self) -> usize {
        self.maps.geometry.output_channels()
    }

    pub(super) fn biases(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.output_channels()).map(|channel| self.bias_of(channel))
    }

    /// Steps of axis 0 of the weight.
    pub(super) fn rows(&self) -> usize {
        self.weight.len() / self.maps.geometry.row_len
    }

    /// Elements of one step of axis 0.
    pub(super) fn row_len(&self) -> usize {
        self.maps.geometry.row_len
    }

    /// Puts the bytes of some rows of the folded weight in place of what `to` holds. The weight must have passed
    /// [`Absorption::survey_as`].
    pub(super) fn put_rows(&self, rows: Range<usize>, dtype: DType, to: &mut Vec<u8>) {
        with_type!(dtype, T => {
            to.resize(rows.len() * self.row_len() * size_of::<T>(), 0);
            let (mut elements, _) = to.as_chunks_mut::<{ size_of::<T>() }>();
            with_slice!(self.weight, weight => {
                for row in rows {
                    for (taps, run) in self.runs(row, &weight[row * self.row_len()..][..self.row_len()]) {
                        let (before, after) = self.maps.factors(taps);
                        let (of_run, rest) = elements.split_at_mut(run.len());
                        for (weight, to) in run.iter().zip(of_run) {
                            *to = <T as Element>::from_f64(weight.widen() * before * after).to_le_bytes();
                        }
                        elements = rest;
                    }
                }
            });
        });
    }
}
