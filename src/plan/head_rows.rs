//! Query and key heads as rows of one launch. See kernels/head_rows.cu.

use super::kernels::{Family, HEAD_ROWS_ANY, HEAD_ROWS_GROUP_16};
use super::params::{self, HeadRowsParams};
use super::{Launch, Limits, Params, Plan, coefficient_flags, divisor};
use crate::problem::{HeadRows, Heads, Moments};

/// Elements of the longest head that lanes hold in registers.
const MOST_IN_REGISTERS: usize = 512;

/// As many lanes as LayerNorm and RMSNorm give a row of its length, for a head's bits depend on them. How many elements a lane
/// could hold makes no difference.
fn lanes(length: u32) -> u32 {
    length.div_ceil(16).next_power_of_two().min(params::WN_WARP)
}

pub(super) fn plan(problem: &HeadRows, limits: &Limits) -> Plan {
    if problem.tokens == 0 {
        return Plan::NONE;
    }
    let any = launch(problem, HEAD_ROWS_ANY, limits);
    if problem.length > MOST_IN_REGISTERS || !has_whole_vectors(problem) {
        return Plan::single(Some(any));
    }
    let whole = launch(problem, HEAD_ROWS_GROUP_16, limits);
    Plan { unaligned: [Some(any), None], ..Plan::single(Some(whole)) }
}

/// Whether every head of a tensor that begins on a 16-byte boundary does so too, and ends with a vector.
fn has_whole_vectors(problem: &HeadRows) -> bool {
    let strides = [&problem.query, &problem.key].map(|heads| [heads.x_stride, heads.y_stride]);
    let vector = 16 / problem.dtype.size();
    strides.iter().flatten().chain([&problem.length]).all(|elements| elements.is_multiple_of(vector))
}

fn launch(problem: &HeadRows, family: Family, limits: &Limits) -> Launch {
    let length = problem.length as u32; // a chunk at most
    let lanes = lanes(length);
    let block = params::WN_ROWS_GROUP_THREADS;
    let heads_of_token = (problem.query.count + problem.key.count) as u64;
    let rows = problem.tokens as u64 * heads_of_token;
    let mut flags = 0;
    if problem.weight_plus_one {
        flags |= params::WN_FLAG_WEIGHT_PLUS_ONE;
    }
    if problem.moments == Moments::MeanSquare {
        flags |= params::WN_FLAG_MEAN_SQUARE;
    }
    let params = HeadRowsParams {
        query: heads(&problem.query),
        key: heads(&problem.key),
        rows,
        heads: divisor(heads_of_token),
        length,
        lanes,
        flags,
        eps: problem.eps,
        inverse_length: 1.0 / length as f32,
        reserved: 0,
    };
    let grid = limits.grid(rows, u64::from(block / lanes));
    Launch::plain(family.of(problem.dtype), grid, block, Params::HeadRows(params))
}

fn heads(heads: &Heads) -> params::Heads {
    params::Heads {
        x_stride: heads.x_stride as u64,
        y_stride: heads.y_stride as u64,
        count: heads.count as u64,
        flags: coefficient_flags(heads.weight, heads.bias),
        ..params::Heads::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::DType;
    use crate::plan::MAX_GRID;
    use crate::plan::params::Kernel;
    use crate::plan::tests::H200;
    use crate::problem::{Buffers, Problem};
    use crate::{LayerNorm, Signature, norm::Layer as _};

    fn problem(tokens: usize, length: usize) -> HeadRows {
        let heads = |count, weight| Heads { count, weight, bias: None, x_stride: 48 * length, y_stride: 5120 };
        HeadRows {
            dtype: DType::Bf16,
            tokens,
            length,
            moments: Moments::MeanSquare,
            query: heads(32, Some(DType::F32)),
            key: heads(8, Some(DType::Bf16)),
            packed: None,
            weight_plus_one: true,
            eps: 1e-6,
        }
    }

    fn planned(problem: &HeadRows) -> (Launch, HeadRowsParams) {
        let launch = *plan(problem, &H200).launches().next().unwrap();
        let Params::HeadRows(params) = launch.params else { panic!("head rows plan head rows") };
        (launch, params)
    }

    /// (length, kernel, lanes of a head, blocks of 40 heads) on both sides of every boundary.
    #[test]
    fn teams() {
        for (length, kernel, lanes, grid) in [
            (1, Kernel::head_rows_any_bf16, 1, 1),
            (16, Kernel::head_rows_group_16_bf16, 1, 1),
            (17, Kernel::head_rows_any_bf16, 2, 1),
            (24, Kernel::head_rows_group_16_bf16, 2, 1),
            (64, Kernel::head_rows_group_16_bf16, 4, 1),
            (72, Kernel::head_rows_group_16_bf16, 8, 2),
            (128, Kernel::head_rows_group_16_bf16, 8, 2),
            (136, Kernel::head_rows_group_16_bf16, 16, 3),
            (256, Kernel::head_rows_group_16_bf16, 16, 3),
            (257, Kernel::head_rows_any_bf16, 32, 5),
            (264, Kernel::head_rows_group_16_bf16, 32, 5),
            (512, Kernel::head_rows_group_16_bf16, 32, 5),
            (520, Kernel::head_rows_any_bf16, 32, 5),
            (1024, Kernel::head_rows_any_bf16, 32, 5),
        ] {
            let (launch, params) = planned(&problem(1, length));
            let found = (launch.kernel, launch.block, params.lanes, launch.grid);
            assert_eq!(found, (kernel, 256, lanes, grid), "{length}");
        }
    }

    /// Else the same row would have other bits here than there.
    #[test]
    fn a_head_has_the_lanes_of_a_row() {
        for length in 1..=params::WN_CHUNK {
            let row = LayerNorm::new([length as usize]).unwrap();
            let row = row.problem(&Signature::new([3, length as usize], DType::F16)).unwrap();
            let Problem::Rows(row) = row else { panic!("LayerNorm has rows") };
            let launch = *super::super::rows::plan(&row, &H200).launches().next().unwrap();
            let Params::Rows(of_rows) = launch.params else { panic!("rows plan rows") };
            assert_eq!(lanes(length), of_rows.lanes, "{length}");
        }
    }

    /// Heads off a boundary have the other kernel: where lengths or strides say so, or the addresses.
    #[test]
    fn heads_off_a_boundary() {
        let whole = plan(&problem(3, 128), &H200);
        let [Some(any), None] = whole.unaligned else { panic!("another launch") };
        let [Some(launch), None] = whole.launches else { panic!("one launch") };
        assert_eq!((any.kernel, any.grid, any.block), (Kernel::head_rows_any_bf16, launch.grid, launch.block));
        let buffers = Buffers { x: 1 << 20, key_x: 1 << 21, weight: 1 << 22, ..Buffers::default() };
        let kernel_of = |buffers: &Buffers| whole.launches_of(buffers).map(|launch| launch.kernel).collect::<Vec<_>>();
        assert_eq!(kernel_of(&buffers), [Kernel::head_rows_group_16_bf16]);
        for off in [
            Buffers { key_x: buffers.key_x + 2, ..buffers },
            Buffers { key_y: 8, ..buffers },
            Buffers { key_weight: 4, ..buffers },
            Buffers { key_bias: 2, ..buffers },
        ] {
            assert_eq!(kernel_of(&off), [Kernel::head_rows_any_bf16]);
        }
        let mut problem = problem(3, 128);
        problem.key.y_stride += 4;
        let plan = plan(&problem, &H200);
        assert_eq!((plan.launches().next().unwrap().kernel, plan.unaligned), (any.kernel, [None; 2]));
    }

    #[test]
    fn what_the_kernel_is_told() {
        let (_, params) = planned(&problem(7, 128));
        assert_eq!((params.rows, params.heads.divisor, params.length), (7 * 40, 40, 128));
        assert_eq!((params.query.count, params.key.count), (32, 8));
        assert_eq!((params.query.x_stride, params.key.y_stride), (48 * 128, 5120));
        assert_eq!((params.query.flags, params.key.flags), (params::WN_FLAG_WEIGHT_F32, 0));
        assert_eq!(params.flags, params::WN_FLAG_WEIGHT_PLUS_ONE | params::WN_FLAG_MEAN_SQUARE);
        let (_, params) = planned(&HeadRows { moments: Moments::MeanAndVariance, ..problem(7, 128) });
        assert_eq!(params.flags, params::WN_FLAG_WEIGHT_PLUS_ONE);
    }

    #[test]
    fn few_and_many_tokens() {
        assert_eq!(plan(&problem(0, 128), &H200), Plan::NONE);
        let (launch, params) = planned(&problem(1 << 31, 1));
        assert_eq!((params.rows, launch.grid), (40 << 31, 40 << 23));
        let (launch, _) = planned(&problem(1 << 31, 128));
        assert_eq!(launch.grid, MAX_GRID);
    }
}
