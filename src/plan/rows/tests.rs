use super::*;
use crate::norm::Activation;
use crate::plan::MAX_GRID;
use crate::plan::params::Kernel;
use crate::problem::{Buffers, Modulation, PostNorm};
use crate::quantization::QuantizedType;

use crate::plan::tests::H200;

fn rows(rows: usize, length: usize) -> Rows {
    Rows {
        dtype: DType::Bf16,
        output: Output::Element(DType::Bf16),
        rows,
        length,
        moments: Moments::MeanAndVariance,
        is_plain: true,
        residual: false,
        second_residual: false,
        affine: Affine::PerElement { rows_of_sample: 1 },
        weight: Some(DType::Bf16),
        bias: Some(DType::Bf16),
        weight_plus_one: false,
        post_norm: None,
        rounding: Rounding::Once,
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

/// The launch that needs no workspace.
fn planned(problem: &Rows) -> (Launch, RowsParams) {
    planned_on(&H200, problem)
}

fn planned_on(limits: &Limits, problem: &Rows) -> (Launch, RowsParams) {
    let plan = plan(problem, limits);
    let launch = plan.otherwise.or_else(|| plan.launches().next().copied()).unwrap();
    let Params::Rows(params) = launch.params else { panic!("rows plan rows") };
    (launch, params)
}

/// (rows, chunks of a row, blocks of a row, chunks of a warp) of rows that nothing holds, on an H200; one block where a
/// workspace would be of no use.
#[test]
fn long_rows_are_split() {
    for (count, chunks, splits, leaf) in [
        (1, 2000, 250, 1),
        (1, 9000, 282, 4),
        (1, 1 << 20, 512, 256),
        (32, 2000, 32, 8),
        (132, 2000, 8, 32),
        (300, 2000, 4, 64),
        (528, 2000, 2, 128),
        (1056, 2000, 1, 0),
        (5000, 2000, 1, 0),
    ] {
        let plan = plan(&rows(count, chunks * 1024), &H200);
        let launches: Vec<_> = plan.launches().collect();
        if splits == 1 {
            assert_eq!((launches.len(), plan.workspace_bytes, plan.otherwise), (1, 0, None), "{count} x {chunks}");
            continue;
        }
        assert_eq!(launches.len(), 2);
        for (launch, step) in launches.into_iter().zip([params::WN_STEP_MOMENTS, params::WN_STEP_APPLY]) {
            let Params::Rows(params) = launch.params else { panic!("rows plan rows") };
            assert_eq!((launch.kernel, params.step), (Kernel::rows_long_bf16, step));
            assert_eq!((params.splits, 1 << params.leaf_shift), (splits, leaf), "{count} x {chunks}");
            assert_eq!(u64::from(launch.grid), count as u64 * u64::from(splits));
            // A warp for each leaf, a place for each part.
            let leaves = (chunks as u64).div_ceil(leaf);
            assert!(leaves <= u64::from(splits * launch.block / WARP));
            let parts = count as u64 * leaves * BYTES_OF_MOMENTS;
            assert_eq!(plan.workspace_bytes as u64, params.parts + parts);
        }
        let Params::Rows(alone) = plan.otherwise.unwrap().params else { panic!("rows plan rows") };
        assert_eq!((alone.splits, alone.step), (1, params::WN_STEP_ALL));
    }
}

/// (length, kernel, threads of a block, lanes of a row) on both sides of every boundary, in whole vectors.
#[test]
fn regimes() {
    let group = 256;
    for (length, kernel, block, lanes) in [
        (8, Kernel::rows_group_16_bf16, group, 1),
        (16, Kernel::rows_group_16_bf16, group, 1),
        (24, Kernel::rows_group_16_bf16, group, 2),
        (128, Kernel::rows_group_16_bf16, group, 8),
        (136, Kernel::rows_group_16_bf16, group, 16),
        (256, Kernel::rows_group_16_bf16, group, 16),
        (264, Kernel::rows_group_16_bf16, group, 32),
        (512, Kernel::rows_group_16_bf16, group, 32),
        (520, Kernel::rows_group_32_bf16, group, 32),
        (1024, Kernel::rows_group_32_bf16, group, 32),
        (1032, Kernel::rows_shared_bf16, 64, 64),
        (4096, Kernel::rows_shared_bf16, 128, 128),
        (4104, Kernel::rows_shared_bf16, 160, 160),
        (16_384, Kernel::rows_shared_bf16, 512, 512),
        (16_392, Kernel::rows_shared_bf16, 288, 288),
        (1 << 40, Kernel::fused_rows_long_bf16, 256, 256),
    ] {
        let (launch, params) = planned(&rows(3, length));
        assert_eq!((launch.kernel, launch.block, params.lanes), (kernel, block, lanes), "{length}");
        assert_eq!(launch.cluster, 1, "{length}");
    }
}

/// (length, whether there is a residual, blocks of a cluster, warps of a block, chunks of a warp) of a bf16 row on an H200,
/// on both sides of some boundaries; 0 blocks where it is not held.
#[test]
fn clusters() {
    for (chunks, has_residual, cluster, warps, leaf) in [
        (13, false, 1, 13, 1),
        (32, false, 1, 16, 2),
        (33, false, 2, 9, 2),
        (64, false, 2, 16, 2),
        (65, false, 4, 9, 2),
        (128, false, 4, 16, 2),
        (256, false, 8, 16, 2),
        (512, false, 16, 16, 2),
        (586, false, 16, 10, 4),
        (1024, false, 16, 16, 4),
        (1600, false, 16, 13, 8),
        (1800, false, 0, 0, 0),
        (18, true, 1, 9, 2),
        (128, true, 8, 8, 2),
        (129, true, 8, 9, 2),
        (832, true, 16, 13, 4),
        (900, true, 0, 0, 0),
    ] {
        let (launch, params) =
            planned(&Rows { residual: has_residual, is_plain: !has_residual, ..rows(3, chunks * 1024) });
        let kernel = if has_residual { Kernel::rows_any_shared_bf16 } else { Kernel::rows_shared_bf16 };
        let is_held = launch.kernel == kernel;
        let found = (launch.cluster, launch.block / WARP, 1 << params.leaf_shift);
        assert_eq!(if is_held { found } else { (0, 0, 0) }, (cluster, warps, leaf), "{chunks} chunks");
    }
}

/// Whatever the device has: the shared memory and the cluster are to be had, there is a warp for each leaf, the kernel has
/// room for all parts, and its chunks follow them.
#[test]
fn what_is_held_fits() {
    for (shared, cluster) in [(64, 1), (99, 1), (163, 1), (227, 8), (227, 16), (227, 2)] {
        let limits = Limits { shared: shared * 1024, cluster, ..H200 };
        for (chunks, dtype, cut) in (5..2000)
            .step_by(7)
            .flat_map(|chunks| [DType::F32, DType::F16, DType::Bf16].map(|dtype| (chunks, dtype)))
            .flat_map(|(chunks, dtype)| [5, 0].map(|cut| (chunks, dtype, cut)))
        {
            // In f32, what is cut or has an output of another type; in bf16 else, with a residual.
            let residual = cut == 0 && dtype == DType::Bf16;
            let problem = Rows { dtype, residual, is_plain: !residual, ..rows(7, chunks * 1024 - cut) };
            let (launch, params) = planned_on(&limits, &problem);
            assert!(launch.shared <= limits.shared && launch.cluster <= cluster && launch.grid % launch.cluster == 0);
            let warps = u64::from(launch.block / WARP);
            let leaves = (chunks as u64).div_ceil(1 << params.leaf_shift);
            assert!(leaves <= u64::from(params::WN_ROWS_LEAVES));
            if launch.kernel == kernels::FUSED_ROWS_LONG.of(dtype) {
                continue;
            }
            assert!(leaves <= warps * u64::from(launch.cluster));
            assert!(launch.block <= params::WN_ROWS_SHARED_THREADS);
            let words = u64::from(params.parts_words);
            assert!(words * 16 >= 2 * u64::from(launch.cluster) * warps * BYTES_OF_MOMENTS);
            assert_eq!(u64::from(launch.shared), words * 16 + (warps << params.leaf_shift) * CHUNK * 4);
        }
    }
}

#[test]
fn the_regime_does_not_depend_on_the_rows() {
    for length in [7, 300, 1000, 3000, 5000, 20_000, 100_000, 3_000_000] {
        let (one, _) = planned(&rows(1, length));
        for count in [2, 131, 132, 133, 1 << 20] {
            let (many, _) = planned(&rows(count, length));
            assert_eq!((one.kernel, one.block, one.cluster), (many.kernel, many.block, many.cluster));
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
        let per_round = u64::from(launch.grid / launch.cluster) * u64::from(launch.block / params.lanes);
        // The kernels walk on by whole grids; only the largest grid may leave rows for another round.
        let is_largest = launch.grid > MAX_GRID - launch.cluster;
        assert!(per_round >= count as u64 || is_largest, "{count} x {length}");
    }
}

#[test]
fn nothing_to_do() {
    assert_eq!(plan(&rows(0, 5), &H200), Plan::NONE);
    assert_eq!(plan(&rows(5, 0), &H200), Plan::NONE);
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
fn usual_norms_have_a_kernel_of_their_own() {
    let layer_norm = rows(3, 4096);
    let rms_norm = Rows { moments: Moments::MeanSquare, bias: None, ..layer_norm };
    for usual in [layer_norm, rms_norm] {
        assert_eq!(planned(&usual).0.kernel, Kernel::rows_shared_bf16, "{usual:?}");
    }
    for other in [
        Rows { bias: None, ..layer_norm },
        Rows { weight: None, bias: None, ..layer_norm },
        Rows { weight: Some(DType::F32), ..layer_norm },
        Rows { bias: Some(DType::F32), ..layer_norm },
        Rows { residual: true, is_plain: false, ..layer_norm },
        Rows { activation: Activation::Relu, ..layer_norm },
        Rows { weight_plus_one: true, ..rms_norm },
        Rows { bias: Some(DType::Bf16), ..rms_norm },
    ] {
        assert_eq!(planned(&other).0.kernel, Kernel::rows_any_shared_bf16, "{other:?}");
    }
}

/// A residual makes no other norm of it; nor does the row's length.
#[test]
fn how_rows_are_written() {
    let (layer_norm, f32) = (rows(3, 4096), Some(DType::F32));
    let rms_norm = Rows { moments: Moments::MeanSquare, bias: None, ..layer_norm };
    let channels = Affine::PerChannel { groups: 2, channels_per_group: 4, spatial: 1024 };
    for (problem, form) in [
        (layer_norm, params::WN_FORM_LAYER_NORM),
        (Rows { residual: true, is_plain: false, ..rows(3, 64) }, params::WN_FORM_LAYER_NORM),
        (Rows { dtype: DType::F32, weight: f32, bias: f32, ..layer_norm }, params::WN_FORM_LAYER_NORM),
        (rms_norm, params::WN_FORM_RMS_NORM),
        (Rows { bias: None, ..layer_norm }, params::WN_FORM_BY_POSITION),
        (Rows { weight: f32, ..rms_norm }, params::WN_FORM_BY_POSITION),
        (Rows { activation: Activation::Silu, ..layer_norm }, params::WN_FORM_BY_POSITION),
        (Rows { weight_plus_one: true, ..rms_norm }, params::WN_FORM_BY_POSITION),
        (Rows { affine: channels, ..layer_norm }, params::WN_FORM_BY_CHANNEL),
    ] {
        assert_eq!(planned(&problem).1.form, form, "{problem:?}");
    }
}

#[test]
fn the_rest_of_a_row() {
    let of = |length| planned(&rows(3, length)).1.inverse_rest;
    assert_eq!([1, 1023, 1024, 1025, 4095, 4096].map(of), [1, 1023, 1024, 1, 1023, 1024].map(|n| 1.0 / n as f32));
}

#[test]
fn what_surrounds_a_norm_has_kernels_of_its_own() {
    let plain = Rows { weight: Some(DType::F32), residual: true, is_plain: false, ..rows(3, 16_384) };
    assert_eq!(planned(&plain).0.kernel, Kernel::rows_any_shared_bf16);
    let scale = Modulation { scale: Some(DType::F32), ..Modulation::default() };
    assert_eq!(planned(&Rows { activation: Activation::Silu, ..plain }).0.kernel, Kernel::rows_any_shared_bf16);
    for fused in [
        Rows { output: Output::Element(DType::F32), ..plain },
        Rows { output: Output::Quantized(QuantizedType::I8, Scaling::Static), ..plain },
        Rows { post_norm: Some(PostNorm { weight: None, bias: None }), ..plain },
        Rows { rounding: Rounding::Steps, ..plain },
        Rows { input_bias: Some(DType::F32), ..plain },
        Rows { second_residual: true, ..plain },
        Rows { modulation: scale, ..plain },
    ] {
        assert_eq!(planned(&fused).0.kernel, Kernel::fused_rows_shared_bf16, "{fused:?}");
    }
}

#[test]
fn an_output_of_another_type() {
    let type_of = |dtype| planned(&Rows { output: Output::Element(dtype), ..rows(8, 245) }).1.y_type;
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

/// (length, kernel, threads of a block, those of a row, bytes of shared memory) of rows with more around them, on both sides of
/// every boundary: in f32, and of whole vectors the residual as stored.
#[test]
fn fused_regimes() {
    let surrounded = |length| Rows { rounding: Rounding::Steps, ..rows(3, length) };
    for (length, kernel, block, lanes, shared, of_residual) in [
        (1, Kernel::fused_rows_group_16_bf16, 256, 1, 0, 0),
        (256, Kernel::fused_rows_group_16_bf16, 256, 16, 0, 0),
        (257, Kernel::fused_rows_any_shared_bf16, 32, 32, 4096 + 4 * 16, 0),
        (264, Kernel::fused_rows_shared_bf16, 128, 32, 4 * 4096, 4 * 2048),
        (1024, Kernel::fused_rows_shared_bf16, 128, 32, 4 * 4096, 4 * 2048),
        (1025, Kernel::fused_rows_any_shared_bf16, 64, 64, 2 * 4096 + 6 * 16, 0),
        (1032, Kernel::fused_rows_shared_bf16, 64, 64, 2 * 4096 + 6 * 16, 2 * 2048),
        (1 << 40, Kernel::fused_rows_long_bf16, 256, 256, 8 * 4096, 0),
    ] {
        let (launch, params) = planned(&surrounded(length));
        let found = (launch.kernel, launch.block, params.lanes, launch.shared);
        assert_eq!(found, (kernel, block, lanes, shared), "{length}");
        let with_residual = Rows { residual: true, is_plain: false, ..surrounded(length) };
        assert_eq!(planned(&with_residual).0.shared, shared + of_residual, "{length}");
    }
    let scaled = |length, scaling| Rows { output: Output::Quantized(QuantizedType::I8, scaling), ..surrounded(length) };
    // All lanes of a scale's group have the same row.
    for (dtype, scaling, length, lanes) in [
        (DType::F32, Scaling::Groups, 129, 32),
        (DType::F32, Scaling::GroupsByColumn, 256, 32),
        (DType::F32, Scaling::Groups, 128, 8),
        (DType::F32, Scaling::Rows, 256, 16),
        (DType::Bf16, Scaling::Groups, 129, 16),
    ] {
        let problem = Rows { dtype, ..scaled(length, scaling) };
        assert_eq!(planned(&problem).1.lanes, lanes, "{dtype:?} {scaling:?} {length}");
    }
}

/// What takes too much room with its residual as stored is held by the other kernel, and not by nobody.
#[test]
fn too_long_with_a_residual() {
    let small = Limits { shared: 99 * 1024, cluster: 1, ..H200 };
    let kernel = |chunks: usize| {
        let output = Output::Quantized(QuantizedType::I8, Scaling::Rows);
        let problem = Rows { dtype: DType::F32, output, residual: true, is_plain: false, ..rows(3, chunks * 1024) };
        planned_on(&small, &problem).0.kernel
    };
    let kernels = [12, 13, 24, 25].map(kernel);
    let any = Kernel::fused_rows_any_shared_f32;
    assert_eq!(kernels, [Kernel::fused_rows_shared_f32, any, any, Kernel::fused_rows_long_f32]);
}

/// Rows that do not begin on a 16-byte boundary have the other kernels: where lengths or strides say so, from the beginning.
#[test]
fn rows_off_a_boundary_have_the_other_kernels() {
    for (length, kernel, other) in [
        (8, Kernel::rows_group_16_bf16, Kernel::fused_rows_group_16_bf16),
        (512, Kernel::rows_group_16_bf16, Kernel::fused_rows_any_shared_bf16),
        (4096, Kernel::rows_shared_bf16, Kernel::fused_rows_any_shared_bf16),
        (8192, Kernel::rows_shared_bf16, Kernel::fused_rows_any_shared_bf16),
        (16_384, Kernel::rows_shared_bf16, Kernel::fused_rows_any_shared_bf16),
    ] {
        let Plan { launches: [Some(aligned), None], unaligned: [Some(unaligned), None], .. } =
            plan(&rows(3, length), &H200)
        else {
            panic!("one launch, or another")
        };
        assert_eq!((aligned.kernel, unaligned.kernel), (kernel, other), "{length}");
        for problem in [
            rows(3, length + 1),
            Rows { x_stride: length + 4, ..rows(3, length) },
            Rows { y_stride: length + 1, ..rows(3, length) },
        ] {
            let plan = plan(&problem, &H200);
            let launches: Vec<_> = plan.launches().map(|launch| launch.kernel).collect();
            assert_eq!((launches, plan.unaligned), (vec![other], [None; 2]), "{problem:?}");
        }
    }
    // Four elements of f32 are a vector.
    let (launch, _) = planned(&Rows { dtype: DType::F32, output: Output::Element(DType::F32), ..rows(3, 12) });
    assert_eq!(launch.kernel, Kernel::rows_group_16_f32);
    // Whatever surrounds a norm has its own for whole vectors, by the addresses of all of it.
    let fused = |length| plan(&Rows { rounding: Rounding::Steps, ..rows(3, length) }, &H200);
    assert_eq!(fused(256).unaligned, [None; 2]);
    let buffers = Buffers { x: 1 << 20, y: 1 << 21, weight: 1 << 22, ..Buffers::default() };
    let kernel_of =
        |buffers: &Buffers| fused(4096).launches_of(buffers).map(|launch| launch.kernel).collect::<Vec<_>>();
    assert_eq!(kernel_of(&buffers), [Kernel::fused_rows_shared_bf16]);
    for off in [
        Buffers { y: buffers.y + 2, ..buffers },
        Buffers { second_residual: 8, ..buffers },
        Buffers { input_bias: 4, ..buffers },
        Buffers { post_norm_weight: 4, ..buffers },
        Buffers { post_norm_bias: 4, ..buffers },
        Buffers { scale: 4, ..buffers },
        Buffers { shift: 4, ..buffers },
        Buffers { gate: 4, ..buffers },
    ] {
        assert_eq!(kernel_of(&off), [Kernel::fused_rows_any_shared_bf16], "{off:?}");
    }
    let second = Rows { second_residual: true, second_residual_stride: 4100, ..rows(3, 4096) };
    assert_eq!(planned(&second).0.kernel, Kernel::fused_rows_any_shared_bf16);
}

/// (channels of a group, pixels, kernel) of GroupNorm with SiLU in bf16: maps of UNets and VAEs, every regime, and maps of
/// which a vector has two channels.
#[test]
fn vectors_of_one_channel() {
    for (channels_per_group, spatial, kernel) in [
        (1, 8, Kernel::rows_group_16_bf16),
        (4, 64, Kernel::rows_group_16_bf16),
        (8, 64, Kernel::rows_group_16_bf16),
        (1, 32 * 32, Kernel::rows_group_32_bf16),
        (40, 8 * 8, Kernel::rows_any_shared_bf16),
        (10, 64 * 64, Kernel::rows_any_shared_bf16),
        (16, 64 * 64, Kernel::rows_any_shared_bf16),
        (1, 512 * 512, Kernel::rows_any_shared_bf16),
        (4, 1024 * 1024, Kernel::rows_long_bf16),
        (4, 7 * 7, Kernel::fused_rows_group_16_bf16),
        (8, 7 * 7, Kernel::fused_rows_any_shared_bf16),
        (64, 7 * 7, Kernel::fused_rows_any_shared_bf16),
        (1 << 30, 8, Kernel::fused_rows_long_bf16),
    ] {
        let affine = Affine::PerChannel { groups: 32, channels_per_group, spatial };
        let problem = Rows { affine, activation: Activation::Silu, ..rows(64, channels_per_group * spatial) };
        let plan = plan(&problem, &H200);
        let launch = plan.launches().next().expect("a launch");
        let Params::Rows(params) = launch.params else { panic!("rows plan rows") };
        assert_eq!(launch.kernel, kernel, "{channels_per_group} x {spatial}");
        assert_eq!((params.spatial.divisor, params.short_spatial.divisor), (spatial as u64, spatial as u32));
        let is_fused = kernels::FUSED_ROWS_LONG.of(problem.dtype) == kernel || !spatial.is_multiple_of(8);
        assert_eq!(plan.unaligned == [None; 2], is_fused, "{channels_per_group} x {spatial}");
    }
    // More channels than 32 bits can number.
    let affine = Affine::PerChannel { groups: 1 << 30, channels_per_group: 4, spatial: 8 };
    assert_eq!(planned(&Rows { affine, ..rows(1 << 30, 32) }).0.kernel, Kernel::fused_rows_group_16_bf16);
}

/// Which tensors must begin on a 16-byte word: all, but not the numbers of channels, which are read one by one.
#[test]
fn what_begins_off_a_boundary() {
    let affine = Affine::PerChannel { groups: 1, channels_per_group: 4, spatial: 64 };
    let by_channel = plan(&Rows { affine, ..rows(3, 256) }, &H200);
    let by_position = plan(&rows(3, 256), &H200);
    let aligned = Buffers { x: 1 << 20, residual: 0, y: 1 << 21, weight: 1 << 22, bias: 16, ..Buffers::default() };
    for (buffers, by_position_is, by_channel_is) in [
        (aligned, false, false),
        (Buffers { x: aligned.x + 2, ..aligned }, true, true),
        (Buffers { sum: 8, ..aligned }, true, true),
        (Buffers { weight: aligned.weight + 4, ..aligned }, true, false),
        (Buffers { bias: 2, ..aligned }, true, false),
    ] {
        let is_other = |plan: &Plan| !plan.launches_of(&buffers).eq(plan.launches());
        assert_eq!((is_other(&by_position), is_other(&by_channel)), (by_position_is, by_channel_is), "{buffers:?}");
    }
}

/// What needs something of the whole row twice is not split.
#[test]
fn two_steps_are_left_to_a_block() {
    let long = rows(3, 3_000_000);
    let post_norm = Some(PostNorm { weight: None, bias: None });
    let scaled = |scaling| Rows { output: Output::Quantized(QuantizedType::F8E4M3, scaling), ..long };
    for (problem, launches) in [
        (scaled(Scaling::Static), 2),
        (scaled(Scaling::Groups), 2),
        (scaled(Scaling::Rows), 1),
        (Rows { post_norm, ..long }, 1),
    ] {
        assert_eq!(plan(&problem, &H200).launches().count(), launches, "{problem:?}");
    }
}

/// (scaling, length) to (whose scale it is, elements between those of rows, and of groups).
#[test]
fn scales() {
    for (scaling, length, expected) in [
        (Scaling::Static, 1000, (params::WN_SCALING_STATIC, 0, 0)),
        (Scaling::Rows, 1000, (params::WN_SCALING_ROWS, 1, 0)),
        (Scaling::Groups, 1000, (params::WN_SCALING_GROUPS, 8, 1)),
        (Scaling::GroupsByColumn, 1000, (params::WN_SCALING_GROUPS, 1, 7)),
        (Scaling::Groups, 129, (params::WN_SCALING_GROUPS, 2, 1)),
        (Scaling::Groups, 128, (params::WN_SCALING_ROWS, 1, 1)),
        (Scaling::GroupsByColumn, 128, (params::WN_SCALING_ROWS, 1, 7)),
    ] {
        let output = Output::Quantized(QuantizedType::F8E4M3, scaling);
        let (_, params) = planned(&Rows { output, ..rows(7, length) });
        assert_eq!(params.y_type, params::WN_ELEMENT_F8_E4M3);
        let found = (params.scaling, params.scales_row_stride, params.scales_group_stride);
        assert_eq!(found, expected, "{scaling:?} {length}");
    }
}
