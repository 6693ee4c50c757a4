use super::*;
use crate::norm::Activation;
use crate::plan::params::Kernel;
use crate::plan::tests::H200;
use crate::problem::Buffers;

/// A chip without clusters, which holds 99 KiB of a block.
const SM_86: Limits = Limits { shared: 99 << 10, cluster: 1, ..H200 };

fn tensor(samples: usize, spatial: usize, channels: usize, groups: usize) -> ChannelsLast {
    let (dtype, activation) = (DType::F16, Activation::None);
    let (weight, bias, modulation) = (None, None, Default::default());
    ChannelsLast {
        dtype,
        output: dtype,
        samples,
        spatial,
        channels,
        groups,
        is_plain: true,
        weight,
        bias,
        modulation,
        eps: 0.0,
        activation,
    }
}

fn slab_of(launch: &Launch) -> SlabGeometry {
    let Params::ChannelsLast(params) = launch.params else { panic!("of slabs") };
    params.slab
}

fn first(plan: &Plan) -> Launch {
    *plan.launches().next().expect("a launch")
}

/// Real maps and odd ones: every relation between a vector, a group and a pixel.
const TENSORS: [[usize; 3]; 14] = [
    [64 * 64, 320, 32],
    [8 * 8, 1280, 32],
    [7 * 7, 512, 32],
    [2, 8, 8],
    [49, 5, 1],
    [49, 10, 2],
    [3, 2048, 2048],
    [1000, 257, 257],
    [7, 5000, 50],
    [9, 4096, 1],
    [17, 6144, 1],
    [1024 * 1024, 128, 32],
    [4096, 40_960, 1],
    [1 << 30, 3, 3],
];

/// Every vector of every slab has a thread, every part its place, and nothing is left empty that a cluster waits for.
#[test]
fn slabs_are_covered() {
    for [spatial, channels, groups] in TENSORS {
        for limits in [H200, SM_86] {
            let plan = plan(&tensor(3, spatial, channels, groups), &limits);
            let (launch, case) = (first(&plan), format!("{spatial} {channels} {groups}"));
            let slab = slab_of(&launch);
            let sections = slab.sections.divisor;
            assert_eq!(slab.groups * sections, groups as u64, "{case}");
            assert_eq!(slab.channels.divisor * sections, channels as u64, "{case}");
            let of_section = u64::from(slab.period) * 8;
            assert_eq!(of_section % slab.channels.divisor, 0, "{case}");
            assert_eq!(slab.round, of_section * sections, "{case}");
            assert_eq!(slab.rounds, (spatial as u64 * channels as u64).div_ceil(slab.round), "{case}");
            assert!(slab.strip * slab.strips >= slab.period && slab.strip <= launch.block, "{case}");
            assert!(slab.strip * (slab.strips - 1) < slab.period, "{case}");
            assert!(slab.tiles * slab.tile_rounds >= slab.rounds, "{case}");
            assert!((slab.tiles - 1) * slab.tile_rounds < slab.rounds, "{case}");
            assert!(slab.tiles <= MOST_TILES_OF_SAMPLE, "{case}");
            assert!(slab.piece_rounds > 0, "{case}");
            assert_eq!(u64::from(launch.grid), 3 * sections * slab.tiles, "{case}");
            assert!(launch.block.is_multiple_of(32) && launch.block <= 256, "{case}");
            if plan.launches().count() == 1 {
                assert_eq!((u64::from(launch.cluster), slab.tiles.is_power_of_two()), (slab.tiles, true), "{case}");
                assert!(launch.cluster <= limits.cluster && launch.shared <= limits.shared, "{case}");
            } else {
                let parts = 3 * sections * slab.tiles * slab.groups * BYTES_OF_PART;
                assert!(plan.workspace_bytes as u64 >= slab.partials + parts, "{case}");
                assert!(launch.shared <= 48 << 10, "{case}");
            }
        }
    }
}

/// What a sample's moments are made of depends on neither the other samples nor the device.
#[test]
fn a_slab_is_cut_by_its_size_alone() {
    for [spatial, channels, groups] in TENSORS {
        let cut = |samples, limits| {
            let launch = first(&plan(&tensor(samples, spatial, channels, groups), limits));
            let slab = slab_of(&launch);
            (launch.block, slab.sections, slab.tiles, slab.tile_rounds, slab.piece_rounds, slab.strip)
        };
        assert_eq!(cut(1, &H200), cut(1000, &H200));
        assert_eq!(cut(1, &H200), cut(1, &SM_86));
    }
}

/// One launch and one read for all maps of a diffusion network; two launches for those of its decoder.
#[test]
fn maps_that_fit_the_chip_are_held() {
    let regime = |samples, spatial, channels| {
        let plan = plan(&tensor(samples, spatial, channels, 32), &H200);
        let (launch, slab) = (first(&plan), slab_of(&first(&plan)));
        (plan.launches().count(), slab.sections.divisor, launch.cluster, launch.block, plan.workspace_bytes > 0)
    };
    assert_eq!(regime(2, 64 * 64, 320), (1, 4, 16, 256, false));
    assert_eq!(regime(2, 32 * 32, 640), (1, 8, 4, 256, false));
    assert_eq!(regime(2, 16 * 16, 1280), (1, 16, 1, 256, false));
    assert_eq!(regime(2, 8 * 8, 1280), (1, 16, 1, 128, false));
    // Almost all of the last turn would be idle.
    assert_eq!(regime(3, 64 * 64, 640), (2, 8, 1, 256, true));
    assert_eq!(regime(8, 64 * 64, 640), (1, 8, 16, 256, false));
    assert_eq!(regime(1, 1024 * 1024, 128), (2, 1, 1, 256, true));
    assert_eq!(regime(1, 512 * 512, 256), (2, 1, 1, 256, true));
}

/// Sections are whole sectors, also where the narrowest that would do are not; and narrower where a tile, or how few there are of
/// them in a batch, asks for it.
#[test]
fn sections_that_are_held() {
    let bytes = |slab: SlabGeometry, size: u64| slab.channels.divisor * size;
    let of_sample =
        |spatial, channels, groups| bytes(slab_of(&first(&plan(&tensor(1, spatial, channels, groups), &H200))), 2);
    assert_eq!(of_sample(64 * 64, 320, 32), 160);
    // Four groups of 30 channels are 240 bytes.
    assert_eq!(of_sample(32 * 32, 960, 32), 480);
    assert_eq!([of_sample(64 * 64, 64, 64), of_sample(128 * 128, 64, 64)], [128, 64]);
    // Whole pixels where nothing else can be.
    assert_eq!(of_sample(49, 5, 1), 10);
    let of_batch = |samples| bytes(slab_of(&first(&plan_batch(&batch(samples, 14 * 14, 256, Layout::Nhwc), &H200))), 4);
    assert_eq!([of_batch(32), of_batch(8)], [128, 64]);
}

/// What is off a 16-byte boundary, or is not to be written as it was read, or does not end with a vector, is held by another
/// kernel, in as much room.
#[test]
fn who_holds_what_is_not_whole() {
    let whole = plan(&tensor(2, 64 * 64, 320, 32), &H200);
    let [Some(other), None] = whole.unaligned else { panic!("one other") };
    let launch = first(&whole);
    assert_eq!(
        (launch.kernel, other.kernel),
        (Kernel::channels_last_resident_f16, Kernel::channels_last_any_resident_f16)
    );
    assert_eq!(Launch { kernel: launch.kernel, ..other }, launch);
    let odd = [ChannelsLast { output: DType::F32, ..tensor(2, 64 * 64, 320, 32) }, tensor(2, 49, 5, 1)];
    for plan in odd.map(|tensor| plan(&tensor, &H200)) {
        assert_eq!((first(&plan).kernel, plan.unaligned), (other.kernel, [None; 2]));
    }
}

/// What clusters could hold, and is read twice for the sake of a last turn, is held where there is no workspace.
#[test]
fn what_could_be_held_needs_no_workspace() {
    let otherwise = |spatial, limits| plan(&tensor(3, spatial, 640, 32), limits).otherwise;
    let held = otherwise(64 * 64, &H200).expect("a launch");
    assert_eq!((held.kernel, held.cluster), (Kernel::channels_last_any_resident_f16, 16));
    assert_eq!((otherwise(512 * 512, &H200), otherwise(64 * 64, &SM_86)), (None, None));
}

/// But not where the number of batches is read, and counted up by the last block.
#[test]
fn a_cumulative_average_needs_a_workspace() {
    let plan = |momentum| plan_batch(&BatchStatistics { momentum, ..batch(32, 14 * 14, 768, Layout::Nhwc) }, &H200);
    let launches_and_otherwise = |plan: Plan| (plan.launches().count(), plan.otherwise.is_some());
    assert_eq!([Some(0.1), None].map(plan).map(launches_and_otherwise), [(2, true), (2, false)]);
}

#[test]
fn more_slabs_than_counters_share_columns() {
    let plan = plan(&tensor(10_000, 300_000, 8, 2), &H200);
    assert_eq!((slab_of(&first(&plan)).columns, plan.launches().count()), (MOST_COLUMNS, 2));
}

fn batch(samples: usize, spatial: usize, channels: usize, layout: Layout) -> BatchStatistics {
    let (dtype, activation) = (DType::F32, Activation::None);
    let momentum = Some(0.1);
    BatchStatistics {
        dtype,
        output: dtype,
        samples,
        spatial,
        channels,
        layout,
        is_plain: true,
        weight: None,
        bias: None,
        eps: 0.0,
        activation,
        momentum,
    }
}

#[test]
fn batches_are_held_where_they_fit() {
    let kernels = |batch: &BatchStatistics, limits| -> Vec<Kernel> {
        plan_batch(batch, limits).launches().map(|launch| launch.kernel).collect()
    };
    let planes = [Kernel::batch_statistics_planes_f32, Kernel::pointwise_planes_f32];
    let slabs = [Kernel::channels_last_moments_f32, Kernel::channels_last_apply_f32];
    let (nchw, nhwc) = (Layout::Nchw, Layout::Nhwc);
    let held = [Kernel::batch_statistics_planes_resident_f32];
    assert_eq!(kernels(&batch(32, 56 * 56, 64, nchw), &H200), held);
    assert_eq!(kernels(&batch(32, 56 * 56, 64, nchw), &SM_86), planes);
    assert_eq!(kernels(&batch(256, 112 * 112, 64, nchw), &H200), planes);
    // By too few blocks, each with as much as it can hold.
    assert_eq!(kernels(&batch(14, 224 * 224, 3, nchw), &H200), planes);
    assert_eq!(kernels(&batch(14, 224 * 224, 8, nchw), &H200), held);
    assert_eq!(kernels(&batch(32, 14 * 14, 256, nhwc), &H200), [Kernel::channels_last_resident_f32]);
    assert_eq!(kernels(&batch(256, 112 * 112, 64, nhwc), &H200), slabs);
    // Samples that do not end with a vector, and sums, have kernels of their own.
    let any = [Kernel::channels_last_any_moments_f32, Kernel::channels_last_any_apply_f32];
    assert_eq!(kernels(&batch(255, 111 * 111, 63, nhwc), &H200), any);
    assert_eq!(kernels(&BatchStatistics { is_plain: false, ..batch(256, 112 * 112, 64, nhwc) }, &H200), any);
    let wide = BatchStatistics { output: DType::F16, ..batch(256, 112 * 112, 64, nhwc) };
    assert_eq!(kernels(&wide, &H200), any);
    // Planes that do not end with a vector, and no planes at all.
    assert_eq!(kernels(&batch(32, 7 * 7, 512, nchw), &H200), [Kernel::channels_last_resident_f32]);
    assert_eq!(kernels(&batch(4, 7 * 7, 512, nchw), &H200), held);
    assert_eq!(kernels(&batch(32, 1, 512, nchw), &H200), [Kernel::channels_last_resident_f32]);
    assert_eq!(plan_batch(&batch(0, 49, 6, nchw), &H200), Plan::NONE);
}

/// What is not held is written by smaller tiles than it is read by, eight vectors of each thread; by other kernels, and the same
/// tiles, where a tensor begins off a 16-byte boundary, whatever its coefficients do.
#[test]
fn who_writes_what_is_not_held() {
    let plan = plan_batch(&batch(256, 112 * 112, 64, Layout::Nhwc), &H200);
    let [Some(moments), Some(apply)] = plan.launches else { panic!("two launches") };
    let [Some(any_moments), Some(any_apply)] = plan.unaligned else { panic!("two others") };
    let slab = |launch: &Launch| match launch.params {
        Params::ChannelsLast(params) => params.slab,
        _ => panic!("slabs plan slabs"),
    };
    assert_eq!(slab(&apply).tile_rounds, 8 * u64::from(apply.block / slab(&apply).strip));
    assert_eq!(u64::from(apply.grid), slab(&apply).tiles);
    assert_eq!(slab(&apply).tiles, slab(&apply).rounds.div_ceil(slab(&apply).tile_rounds));
    assert_eq!((slab(&moments), slab(&moments)), (slab(&any_moments), slab(&any_apply)));
    let kernels = |buffers: &Buffers| plan.launches_of(buffers).map(|launch| launch.kernel).collect::<Vec<_>>();
    let buffers = Buffers { x: 1 << 20, y: 1 << 21, weight: 1 << 22, workspace: 1 << 23, ..Buffers::default() };
    assert_eq!(kernels(&Buffers { weight: buffers.weight + 2, ..buffers }), [moments.kernel, apply.kernel]);
    for off in [Buffers { x: buffers.x + 4, ..buffers }, Buffers { y: buffers.y + 8, ..buffers }] {
        assert_eq!(kernels(&off), [any_moments.kernel, any_apply.kernel]);
    }
}

/// A workspace is for what several blocks leave, and for the number of batches where it is read.
#[test]
fn what_is_held_needs_counters_alone() {
    let bytes =
        |momentum| plan_batch(&BatchStatistics { momentum, ..batch(32, 49, 64, Layout::Nchw) }, &H200).workspace_bytes;
    assert_eq!((bytes(Some(0.1)), bytes(None)), (0, params::WN_COUNTERS as usize * 4));
}

#[test]
fn outputs_of_another_type() {
    let types = |plan: Plan| -> Vec<u32> {
        plan.launches()
            .map(|launch| match launch.params {
                Params::ChannelsLast(params) => params.y_type,
                Params::BatchStatistics(params) => params.y_type,
                Params::Pointwise(params) => params.y_type,
                _ => panic!("neither slabs nor planes"),
            })
            .collect()
    };
    let bf16 = params::WN_ELEMENT_BF16;
    assert_eq!(types(plan(&ChannelsLast { output: DType::Bf16, ..tensor(2, 9, 8, 2) }, &H200)), [bf16]);
    for layout in [Layout::Nchw, Layout::Nhwc] {
        let batch = BatchStatistics { output: DType::Bf16, ..batch(256, 112 * 112, 64, layout) };
        assert_eq!(types(plan_batch(&batch, &H200)), [bf16; 2]);
    }
}

/// Three channels of a large batch still fill the chip.
#[test]
fn few_channels_are_split() {
    for layout in [Layout::Nchw, Layout::Nhwc] {
        let plan = plan_batch(&batch(256, 224 * 224, 3, layout), &H200);
        assert!(first(&plan).grid > 3 * 132, "{layout:?}: {}", first(&plan).grid);
    }
}
