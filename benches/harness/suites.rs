//! The lists of cells. Where a list follows somebody's published figures, they are in the comment.

use warpnorm::{Activation, DType, Layout, Scaling};

use super::case::{Around, Case, Op};

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

const LN: Op = Op::LayerNorm;
const RMS: Op = Op::RmsNorm;

/// The heads of so many tokens: 32 of queries and 8 of keys, of 128 elements.
fn heads(tokens: usize) -> Case {
    rows(Op::QkRmsNorm { heads: [32, 8] }, tokens * 40, 128)
}

fn rows(op: Op, rows: usize, columns: usize) -> Case {
    Case::new(op, &[rows, columns], DType::Bf16)
}

/// Rows on a GPU: what transformers run, and every row length from 64 to a million.
pub fn rows_on_gpu() -> Vec<Case> {
    // The shapes of cudnn-frontend's benchmark of norms, and of quack's for 128 columns.
    let published = [
        (8192, 8192),
        (16_384, 4096),
        (4096, 16_384),
        (8192, 4096),
        (8192, 5120),
        (4096, 6144),
        (4096, 8192),
        (2048, 4096),
        (4096, 2048),
        (131_072, 128),
        (16_384, 128),
        (8192, 128),
        (648_720, 128),
    ];
    let mut cases: Vec<Case> = published.into_iter().map(|(m, n)| rows(RMS, m, n)).collect();
    cases.extend([(1024, 12_288), (4096, 6144), (8192, 8192), (131_072, 128)].map(|(m, n)| rows(LN, m, n)));

    // 2^27 elements, or 2^30 where the rows are the longest, in every length.
    let lengths = [64, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144, 1 << 20];
    for length in lengths {
        let elements: usize = if length >= 32_768 { 1 << 30 } else { 1 << 27 };
        cases.extend([LN, RMS].map(|op| rows(op, elements / length, length)));
    }
    for dtype in [DType::F32, DType::F16] {
        let long =
            [512, 4096, 16_384, 65_536, 262_144].map(|length| Case { dtype, weight: dtype, ..rows(LN, 0, length) });
        cases.extend(long.map(|case| Case { extents: vec![(1 << 27) / case.extents[1], case.extents[1]], ..case }));
    }
    cases.push(heads(8192));
    // Few waves: the fixed cost shows.
    cases.extend([256, 512, 1024].map(|length| rows(RMS, 32_768, length)));
    // Rows of which only every other one, or every eighth, begins on a 16-byte word.
    cases.extend([4095, 4100].map(|length| rows(LN, 8192, length)));

    cases.extend([LN, RMS].map(|op| Case { residual: true, ..rows(op, 8192, 4096) }));
    cases.push(Case { weight: DType::F32, ..rows(RMS, 8192, 4096) });
    cases.push(Case { activation: Activation::Silu, ..rows(LN, 8192, 4096) });
    for (m, n) in [(8192, 4096), (8192, 8192)] {
        cases.extend(fused(m, n));
    }
    with_warm_twins(cases)
}

/// Norms with more around them than a residual: what Gemma, diffusion transformers and quantized networks run.
fn fused(m: usize, n: usize) -> [Case; 4] {
    let quantized = |scaling| Case { around: Around::Quantized(scaling), ..rows(RMS, m, n) };
    [
        Case { residual: true, around: Around::PostNorm, ..rows(RMS, m, n) },
        Case { residual: true, around: Around::Modulated { samples: 8 }, ..rows(LN, m, n) },
        quantized(Scaling::Rows),
        quantized(Scaling::Groups),
    ]
}

/// What fits the L2 of a large chip, once more with buffers that stay there.
fn with_warm_twins(mut cases: Vec<Case>) -> Vec<Case> {
    const MOST_BYTES: usize = 40_000_000;
    let small: Vec<Case> = cases.iter().filter(|case| case.bytes() <= MOST_BYTES).cloned().collect();
    cases.extend(small.into_iter().map(|case| Case { warm: true, ..case }));
    cases
}

/// One to 64 rows, as while tokens are generated: the latency of a launch more than bytes. Warm, as they are in a network,
/// and cold.
pub fn decode() -> Vec<Case> {
    let mut cases = Vec::new();
    for warm in [true, false] {
        let plain = [(16, 512), (16, 2048), (1, 4096), (1, 7168), (16, 16_384), (64, 8192)];
        cases.extend(plain.map(|(m, n)| Case { warm, ..rows(RMS, m, n) }));
        cases.push(Case { warm, ..rows(LN, 1, 4096) });
        cases.push(Case { warm, ..heads(16) });
        cases.push(Case { warm, around: Around::Quantized(Scaling::Rows), ..rows(RMS, 64, 7168) });
        cases.extend([(1, 7168), (64, 7168)].map(|(m, n)| Case { warm, residual: true, ..rows(RMS, m, n) }));
    }
    cases
}

/// Images on a GPU: maps of diffusion UNets and VAEs, and of ResNets.
pub fn images_on_gpu() -> Vec<Case> {
    let group_norm = |extents: &[usize], dtype| Case {
        activation: Activation::Silu,
        ..Case::new(Op::GroupNorm { groups: 32 }, extents, dtype)
    };
    let mut cases = vec![
        group_norm(&[2, 320, 64, 64], DType::F16),
        group_norm(&[8, 640, 64, 64], DType::F16),
        group_norm(&[1, 512, 8, 45, 80], DType::Bf16),
        group_norm(&[1, 128, 20, 256, 256], DType::Bf16),
        group_norm(&[1, 128, 1024, 1024], DType::F16),
        Case::new(Op::InstanceNorm, &[8, 64, 512, 512], DType::F32),
        Case::new(Op::InstanceNorm, &[8, 64, 128, 128], DType::F16),
    ];
    let last: Vec<Case> = cases.iter().map(|case| Case { layout: Layout::Nhwc, ..case.clone() }).collect();
    cases.extend(last);
    for layout in [Layout::Nchw, Layout::Nhwc] {
        for extents in [[256, 64, 112, 112], [32, 256, 14, 14], [32, 3, 224, 224]] {
            let case = Case::new(Op::BatchNormTraining, &extents, DType::F16);
            cases.push(Case { layout, weight: DType::F32, ..case });
        }
    }
    // ResNet-50's first map at batch 256, and small ones: 7x7 is odd, so no plane but the first is aligned.
    for extents in [[256, 64, 112, 112], [32, 256, 7, 7], [32, 64, 56, 56]] {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            for activation in [Activation::None, Activation::Relu] {
                let case = Case::new(Op::BatchNormInference, &extents, DType::F16);
                cases.push(Case { layout, activation, weight: DType::F32, ..case });
            }
        }
    }
    cases.push(Case {
        residual: true,
        activation: Activation::Relu,
        weight: DType::F32,
        ..Case::new(Op::BatchNormInference, &[32, 256, 56, 56], DType::F16)
    });
    with_warm_twins(cases)
}

/// On a CPU: every layer and type, on a tensor that fits the nearest cache, one that fits the last, and one that fits none,
/// of some 260 MB.
pub fn cpu() -> Vec<Case> {
    let batch_norm =
        |layout| move |extents: &[usize], dtype| Case { layout, ..Case::new(Op::BatchNormInference, extents, dtype) };
    let mut cases = Vec::new();
    for dtype in TYPES {
        let times = DType::F32.size() / dtype.size();
        let sizes_of_rows = [[1, 768], [4096, 1024], [16_384 * times, 4096]];
        let largest_image = [80 * times, 64, 112, 112];
        let sizes_of_images = [[1, 64, 7, 7], [32, 64, 56, 56], largest_image];
        for extents in sizes_of_rows {
            cases.extend([LN, RMS].map(|op| Case::new(op, &extents, dtype)));
            cases.push(Case { residual: true, ..Case::new(RMS, &extents, dtype) });
        }
        cases.extend([16, 8192].map(|tokens| Case { dtype, weight: dtype, ..heads(tokens) }));
        for extents in sizes_of_images {
            let group_norm = Case::new(Op::GroupNorm { groups: 32 }, &extents, dtype);
            cases.push(group_norm.clone());
            cases.push(Case { activation: Activation::Silu, ..group_norm });
            cases.push(Case::new(Op::InstanceNorm, &extents, dtype));
            for op in [Op::GroupNorm { groups: 32 }, Op::InstanceNorm, Op::BatchNormTraining] {
                cases.push(Case { layout: Layout::Nhwc, ..Case::new(op, &extents, dtype) });
            }
            cases.push(Case::new(Op::BatchNormTraining, &extents, dtype));
            cases.push(batch_norm(Layout::Nchw)(&extents, dtype));
            cases.push(Case { activation: Activation::Relu, ..batch_norm(Layout::Nhwc)(&extents, dtype) });
        }
        // Where the difference is large, and caches hold next to nothing of what is read twice.
        for layout in [Layout::Nchw, Layout::Nhwc] {
            cases.push(Case { layout, ..Case::new(Op::BatchNormStatistics, &largest_image, dtype) });
        }
    }
    cases
}

/// The same cells with few elements, each once.
pub fn shrunk(cases: Vec<Case>) -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    for case in cases.into_iter().map(Case::shrunk) {
        if !all.contains(&case) {
            all.push(case);
        }
    }
    all
}
