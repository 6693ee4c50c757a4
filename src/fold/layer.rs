//! The layers that absorb a map, and where their weights keep the channels.

use super::error::FoldError;

/// A layer that is linear in its input, as PyTorch and ONNX store it.
///
/// Stride, dilation and output padding play no part in a fold and are not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layer {
    /// `Conv1d`, `Conv2d`, `Conv3d`, depthwise ones included: weight `[O, I/groups, k…]`.
    Conv {
        /// Into how many groups the channels are split.
        groups: usize,
    },
    /// `ConvTranspose1d`, `ConvTranspose2d`, `ConvTranspose3d`: weight `[I, O/groups, k…]`.
    ///
    /// The output channels lie on axis 1 and repeat for each group; axis 0 is the input even where both have the same
    /// length.
    ConvTranspose {
        /// Into how many groups the channels are split.
        groups: usize,
    },
    /// `Linear`, and ONNX's `Gemm` with `transB`: weight `[O, I]`.
    Linear,
    /// ONNX's `MatMul` and `Gemm`: weight `[I, O]`.
    MatMul,
}

impl Layer {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Conv { .. } => "Conv",
            Self::ConvTranspose { .. } => "ConvTranspose",
            Self::Linear => "Linear",
            Self::MatMul => "MatMul",
        }
    }

    /// What it is, with the axes of its weight and its groups, as in `Conv2d g4`.
    #[cfg(feature = "models")]
    pub(super) fn kind(self, weight_rank: usize) -> String {
        let spatial = weight_rank.saturating_sub(2);
        let grouped = |groups: usize| if groups == 1 { String::new() } else { format!(" g{groups}") };
        match self {
            Self::Conv { groups } => format!("Conv{spatial}d{}", grouped(groups)),
            Self::ConvTranspose { groups } => format!("ConvT{spatial}d{}", grouped(groups)),
            Self::Linear | Self::MatMul => self.name().to_owned(),
        }
    }

    pub(super) const fn is_transposed_convolution(self) -> bool {
        matches!(self, Self::ConvTranspose { .. })
    }
}

/// How a convolution fills the border of its input: PyTorch's `padding_mode`, or `None` where `padding` is 0.
///
/// It matters only to a map before the layer, which the input has gone through and zeros have not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Padding {
    /// No padding; also for [`Layer::Linear`].
    None,
    /// Zeros on any side.
    Zeros,
    /// Values of the input, mirrored.
    Reflect,
    /// The input's outermost values, repeated.
    Replicate,
    /// Values from the opposite side of the input.
    Circular,
}

/// A weight's shape, checked, with the kernel's axes merged: `[rows, columns, kernel_len]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    rows: usize,
    columns: usize,
    /// Elements of one step of axis 0, but at least 1, so that a weight without elements can be cut into chunks too.
    pub(super) row_len: usize,
    /// Elements of one step of axis 1, but at least 1.
    pub(super) kernel_len: usize,
    rows_per_group: usize,
    /// The channels that axis 1 stands for: `columns` times the groups.
    across: usize,
    /// Whether axis 0 is the input.
    pub(super) input_first: bool,
}

/// The channels that a stretch of `kernel_len` elements connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taps {
    pub(super) input: usize,
    pub(super) output: usize,
}

impl Geometry {
    pub(super) fn new(layer: Layer, shape: &[usize], weight_len: usize) -> Result<Self, FoldError> {
        let (groups, ranks, expected) = match layer {
            Layer::Conv { groups } | Layer::ConvTranspose { groups } => (groups, 3..=5, "3, 4 or 5"),
            Layer::Linear | Layer::MatMul => (1, 2..=2, "2"),
        };
        let &[rows, columns, ..] = shape else {
            return Err(FoldError::WeightRank { layer: layer.name(), shape: shape.to_vec(), expected });
        };
        if !ranks.contains(&shape.len()) {
            return Err(FoldError::WeightRank { layer: layer.name(), shape: shape.to_vec(), expected });
        }
        if groups == 0 {
            return Err(FoldError::ZeroGroups);
        }
        if rows % groups != 0 {
            return Err(FoldError::IndivisibleGroups { groups, channels: rows });
        }
        let product = |axes: &[usize]| axes.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis));
        let counts = (product(shape), product(&shape[1..]), columns.checked_mul(groups));
        let (Some(len), Some(row_len), Some(across)) = counts else {
            return Err(FoldError::ShapeOverflow { shape: shape.to_vec(), groups });
        };
        if len != weight_len {
            return Err(FoldError::WeightLength { shape: shape.to_vec(), found: weight_len, expected: len });
        }
        let input_first = matches!(layer, Layer::ConvTranspose { .. } | Layer::MatMul);
        let geometry = Self {
            rows,
            columns,
            row_len: row_len.max(1),
            kernel_len: row_len.checked_div(columns).unwrap_or(0).max(1),
            rows_per_group: rows / groups,
            across,
            input_first,
        };
        // Also keeps every loop over channels no longer than the arrays that the caller holds.
        if len == 0 && geometry.output_channels() != 0 {
            return Err(FoldError::EmptyWeight { shape: shape.to_vec() });
        }
        Ok(geometry)
    }

    pub(super) const fn input_channels(&self) -> usize {
        if self.input_first { self.rows } else { self.across }
    }

    pub(super) const fn output_channels(&self) -> usize {
        if self.input_first { self.across } else { self.rows }
    }

    /// The channels of each stretch of one row of axis 0, in the order of memory.
    pub(super) fn taps_of_row(&self, row: usize) -> impl Iterator<Item = Taps> + use<> {
        let Self { columns, input_first, .. } = *self;
        let first_across = row / self.rows_per_group * columns;
        (first_across..first_across + columns).map(move |across| {
            if input_first { Taps { input: row, output: across } } else { Taps { input: across, output: row } }
        })
    }

    /// The stretches that end in an output channel, each with where it starts.
    pub(super) fn stretches_to(&self, channel: usize) -> impl Iterator<Item = (usize, Taps)> + use<> {
        let Self { rows, rows_per_group, columns, row_len, kernel_len, input_first, .. } = *self;
        let (group, of_rows) = if input_first {
            (channel / columns, channel / columns * rows_per_group..(channel / columns + 1) * rows_per_group)
        } else {
            (channel / rows_per_group, channel..channel + 1)
        };
        debug_assert!(of_rows.end <= rows, "a channel of the layer");
        of_rows.flat_map(move |row| {
            let of_columns = if input_first { channel % columns..channel % columns + 1 } else { 0..columns };
            of_columns.map(move |column| {
                let across = group * columns + column;
                let taps =
                    if input_first { Taps { input: row, output: across } } else { Taps { input: across, output: row } };
                (row * row_len + column * kernel_len, taps)
            })
        })
    }

    /// The output channel of an element.
    pub(super) fn output_of(&self, index: usize) -> usize {
        let row = index / self.row_len;
        let column = index % self.row_len / self.kernel_len;
        if self.input_first { row / self.rows_per_group * self.columns + column } else { row }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(layer: Layer, shape: &[usize]) -> Geometry {
        Geometry::new(layer, shape, shape.iter().product()).unwrap()
    }

    fn channels(geometry: &Geometry, rows: usize) -> Vec<(usize, usize)> {
        (0..rows).flat_map(|row| geometry.taps_of_row(row)).map(|taps| (taps.input, taps.output)).collect()
    }

    #[test]
    fn a_grouped_convolution_has_its_outputs_on_axis_0() {
        let geometry = geometry(Layer::Conv { groups: 2 }, &[4, 2, 5]);
        let expected = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 2), (3, 2), (2, 3), (3, 3)];
        assert_eq!(channels(&geometry, 4), expected);
        assert_eq!((geometry.output_of(9), geometry.output_of(10), geometry.output_of(39)), (0, 1, 3));
    }

    #[test]
    fn a_grouped_transposed_convolution_has_its_outputs_on_axis_1_of_their_group() {
        let geometry = geometry(Layer::ConvTranspose { groups: 2 }, &[4, 2, 3]);
        let expected = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3), (3, 2), (3, 3)];
        assert_eq!(channels(&geometry, 4), expected);
        assert_eq!((geometry.output_of(2), geometry.output_of(3), geometry.output_of(12)), (0, 1, 2));
    }

    #[test]
    fn stretches_to_an_output_are_those_that_end_in_it() {
        for (layer, shape) in [
            (Layer::Conv { groups: 2 }, &[4, 2, 3][..]),
            (Layer::ConvTranspose { groups: 2 }, &[4, 2, 3]),
            (Layer::Linear, &[3, 4]),
            (Layer::MatMul, &[3, 4]),
        ] {
            let geometry = geometry(layer, shape);
            let starts = (0..shape[0]).flat_map(|row| {
                let Geometry { row_len, kernel_len, .. } = geometry;
                geometry.taps_of_row(row).enumerate().map(move |(at, taps)| (row * row_len + at * kernel_len, taps))
            });
            let all: Vec<_> = starts.collect();
            for channel in 0..geometry.output_channels() {
                let found: Vec<_> = geometry.stretches_to(channel).collect();
                let expected: Vec<_> = all.iter().filter(|(_, taps)| taps.output == channel).copied().collect();
                assert_eq!(found, expected, "{layer:?} {channel}");
            }
        }
    }

    #[test]
    fn a_weight_without_elements_is_cut_into_no_chunks() {
        for (layer, shape) in [
            (Layer::Linear, &[0, usize::MAX][..]),
            (Layer::ConvTranspose { groups: 1 }, &[usize::MAX, 0, 1]),
            (Layer::Conv { groups: 7 }, &[0, 0, 0]),
        ] {
            let geometry = geometry(layer, shape);
            assert_eq!(geometry.output_channels(), 0);
            assert_eq!([0.0_f32; 0].chunks_exact(geometry.row_len).count(), 0);
            assert!(geometry.kernel_len > 0);
        }
    }
}
