//! The rows pattern: which regime holds a row. See kernels/rows.cu for what each does.

use super::kernels::{
    Family, ROWS_BLOCK_32X512, ROWS_BLOCK_32X1024, ROWS_GROUP_8, ROWS_GROUP_16, ROWS_GROUP_32, ROWS_STREAM,
};
use super::params::{self, RowsParams};
use super::{Launch, Limits, Params, activation_code, coefficient_flags, divisor, element_code, modulation_flags};
use crate::element::DType;
use crate::problem::{Affine, Moments, Rows};

const WARP: usize = params::WN_WARP as usize;
const BLOCK: usize = params::WN_ROWS_BLOCK_THREADS as usize;
const WIDE_BLOCK: usize = params::WN_ROWS_WIDE_BLOCK_THREADS as usize;
/// Elements that a thread of the block regimes holds.
const HELD: usize = 32;

/// Who holds a row.
struct Regime {
    family: Family,
    /// Threads of a block.
    block: u32,
    /// Threads that share a row.
    lanes: u32,
}

impl Regime {
    /// By the row's length alone.
    fn of(length: usize) -> Self {
        let group = |family, lanes: usize| Self {
            family,
            block: params::WN_ROWS_GROUP_THREADS,
            lanes: lanes as u32, // at most 32
        };
        let block = |family| {
            let threads = length.div_ceil(HELD).next_multiple_of(WARP) as u32; // at most 1024
            Self { family, block: threads, lanes: threads }
        };
        match length {
            0..=256 => group(ROWS_GROUP_8, length.div_ceil(8).next_power_of_two()),
            257..=512 => group(ROWS_GROUP_16, WARP),
            513..=1024 => group(ROWS_GROUP_32, WARP),
            _ if length <= HELD * BLOCK => block(ROWS_BLOCK_32X512),
            _ if length <= HELD * WIDE_BLOCK => block(ROWS_BLOCK_32X1024),
            _ => {
                let threads = params::WN_ROWS_STREAM_THREADS;
                Self { family: ROWS_STREAM, block: threads, lanes: threads }
            }
        }
    }
}

pub(super) fn plan(rows: &Rows, limits: &Limits) -> Option<Launch> {
    if rows.rows == 0 || rows.length == 0 {
        return None;
    }
    let regime = Regime::of(rows.length);
    let mut flags = coefficient_flags(rows.weight, rows.bias) | modulation_flags(&rows.modulation);
    if rows.input_bias == Some(DType::F32) {
        flags |= params::WN_FLAG_INPUT_BIAS_F32;
    }
    if rows.weight_plus_one {
        flags |= params::WN_FLAG_WEIGHT_PLUS_ONE;
    }
    if rows.moments == Moments::MeanSquare {
        flags |= params::WN_FLAG_MEAN_SQUARE;
    }
    let (affine, groups, channels_per_group, spatial) = match rows.affine {
        Affine::PerElement { rows_of_sample } => (params::WN_AFFINE_PER_ELEMENT, rows_of_sample as u64, 0, 1),
        Affine::PerChannel { groups, channels_per_group, spatial } => {
            (params::WN_AFFINE_PER_CHANNEL, groups as u64, channels_per_group as u64, spatial as u64)
        }
    };
    let rows_per_block = u64::from(regime.block / regime.lanes);
    Some(Launch {
        kernel: regime.family.of(rows.dtype),
        grid: limits.grid(rows.rows as u64, rows_per_block),
        block: regime.block,
        params: Params::Rows(RowsParams {
            rows: rows.rows as u64,
            length: rows.length as u64,
            x_stride: rows.x_stride as u64,
            residual_stride: rows.residual_stride as u64,
            second_residual_stride: rows.second_residual_stride as u64,
            sum_stride: rows.sum_stride as u64,
            y_stride: rows.y_stride as u64,
            spatial: divisor(spatial),
            groups: divisor(groups),
            channels_per_group,
            lanes: regime.lanes,
            affine,
            activation: activation_code(rows.activation),
            flags,
            eps: rows.eps,
            y_type: if rows.output == rows.dtype { params::WN_ELEMENT_AS_INPUT } else { element_code(rows.output) },
            ..RowsParams::default()
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::norm::Activation;
    use crate::plan::MAX_GRID;
    use crate::plan::params::Kernel;
    use crate::problem::Modulation;

    const H200: Limits = Limits { multiprocessors: 132, max_grid: MAX_GRID };

    fn rows(rows: usize, length: usize) -> Rows {
        Rows {
            dtype: DType::Bf16,
            output: DType::Bf16,
            rows,
            length,
            moments: Moments::MeanAndVariance,
            affine: Affine::PerElement { rows_of_sample: 1 },
            weight: None,
            bias: None,
            weight_plus_one: false,
            modulation: Default::default(),
            input_bias: None,
            eps: 1e-5,
            activation: Activation::None,
            x_stride: length,
            residual_stride: length,
            second_residual_stride: length,
            sum_stride: length,
            y_stride: length,
        }
    }

    fn planned(problem: &Rows) -> (Launch, RowsParams) {
        let launch = plan(problem, &H200).unwrap();
        let Params::Rows(params) = launch.params else { panic!("rows plan rows") };
        (launch, params)
    }

    /// (length, kernel, threads of a block, lanes of a row) on both sides of every boundary.
    #[test]
    fn regimes() {
        let group = 256;
        for (length, kernel, block, lanes) in [
            (1, Kernel::rows_group_8_bf16, group, 1),
            (8, Kernel::rows_group_8_bf16, group, 1),
            (9, Kernel::rows_group_8_bf16, group, 2),
            (128, Kernel::rows_group_8_bf16, group, 16),
            (129, Kernel::rows_group_8_bf16, group, 32),
            (256, Kernel::rows_group_8_bf16, group, 32),
            (257, Kernel::rows_group_16_bf16, group, 32),
            (512, Kernel::rows_group_16_bf16, group, 32),
            (513, Kernel::rows_group_32_bf16, group, 32),
            (1024, Kernel::rows_group_32_bf16, group, 32),
            (1025, Kernel::rows_block_32x512_bf16, 64, 64),
            (4096, Kernel::rows_block_32x512_bf16, 128, 128),
            (12_288, Kernel::rows_block_32x512_bf16, 384, 384),
            (16_384, Kernel::rows_block_32x512_bf16, 512, 512),
            (16_385, Kernel::rows_block_32x1024_bf16, 544, 544),
            (32_768, Kernel::rows_block_32x1024_bf16, 1024, 1024),
            (32_769, Kernel::rows_stream_bf16, 512, 512),
            (1 << 40, Kernel::rows_stream_bf16, 512, 512),
        ] {
            let (launch, params) = planned(&rows(3, length));
            assert_eq!((launch.kernel, launch.block, params.lanes), (kernel, block, lanes), "{length}");
        }
    }

    #[test]
    fn the_regime_does_not_depend_on_the_rows() {
        for length in [7, 300, 1000, 5000, 20_000, 100_000] {
            let (one, _) = planned(&rows(1, length));
            for count in [2, 131, 132, 133, 1 << 20] {
                let (many, _) = planned(&rows(count, length));
                assert_eq!((one.kernel, one.block), (many.kernel, many.block));
            }
        }
    }

    /// Every row has its team, in grids that a device accepts, also where the tensor exceeds 2³¹ elements or rows.
    #[test]
    fn beyond_32_bits() {
        let big = 1_usize << 33;
        for (count, length) in
            [(big, 1), (big, 8), (big + 1, 256), (1 << 22, 1024), (3 << 20, 4096), (3, big), (1 << 16, 65_537)]
        {
            let problem = Rows { x_stride: length + 8, ..rows(count, length) };
            let (launch, params) = planned(&problem);
            assert_eq!((params.rows, params.length), (count as u64, length as u64));
            assert_eq!(params.x_stride, length as u64 + 8);
            assert!(launch.grid >= 1 && launch.grid <= MAX_GRID);
            let per_round = u64::from(launch.grid) * u64::from(launch.block / params.lanes);
            // The kernels walk on by whole grids; only the largest grid may leave rows for another round.
            assert!(per_round >= count as u64 || launch.grid == MAX_GRID, "{count} x {length}");
        }
    }

    #[test]
    fn nothing_to_do() {
        assert_eq!(plan(&rows(0, 5), &H200), None);
        assert_eq!(plan(&rows(5, 0), &H200), None);
    }

    #[test]
    fn channels_and_flags() {
        let problem = Rows {
            affine: Affine::PerChannel { groups: 4, channels_per_group: 5, spatial: 49 },
            weight: Some(DType::F32),
            bias: Some(DType::Bf16),
            ..rows(8, 245)
        };
        let (_, params) = planned(&problem);
        assert_eq!((params.groups.divisor, params.spatial.divisor, params.channels_per_group), (4, 49, 5));
        assert_eq!(params.affine, params::WN_AFFINE_PER_CHANNEL);
        assert_eq!(params.flags, params::WN_FLAG_WEIGHT_F32);
    }

    #[test]
    fn an_output_of_another_type() {
        let type_of = |output| planned(&Rows { output, ..rows(8, 245) }).1.y_type;
        assert_eq!(type_of(DType::Bf16), params::WN_ELEMENT_AS_INPUT);
        assert_eq!(type_of(DType::F16), params::WN_ELEMENT_F16);
        assert_eq!(type_of(DType::F32), params::WN_ELEMENT_F32);
    }

    #[test]
    fn samples_and_flags() {
        let modulation = Modulation {
            scale: Some(DType::F32),
            shift: Some(DType::Bf16),
            gate: Some(DType::F32),
            scale_plus_one: true,
            ..Modulation::default()
        };
        let (affine, input_bias) = (Affine::PerElement { rows_of_sample: 4 }, Some(DType::F32));
        let problem = Rows { affine, modulation, input_bias, second_residual_stride: 250, ..rows(8, 245) };
        let (_, params) = planned(&problem);
        assert_eq!((params.groups.divisor, params.affine), (4, params::WN_AFFINE_PER_ELEMENT));
        assert_eq!(params.second_residual_stride, 250);
        let scale = params::WN_FLAG_SCALE_F32 | params::WN_FLAG_SCALE_PLUS_ONE;
        assert_eq!(params.flags, scale | params::WN_FLAG_GATE_F32 | params::WN_FLAG_INPUT_BIAS_F32);
    }
}
