// What the host and the kernels agree on: the structures passed by value, the constants of the regimes, and the list of
// kernels. nvcc, the emulator's C++ compiler and bindgen read this one file, so the three cannot drift apart.
//
// Conventions: every field named after a tensor is its device address, 0 where the tensor is absent; lengths and
// strides count elements, and are 64 bits wide because tensors beyond 2^31 elements are ordinary.
#pragma once

#include <stdint.h>

// The activation that the epilogue applies after weight and bias.
enum WnActivation {
    WN_ACTIVATION_NONE = 0,
    WN_ACTIVATION_RELU = 1,
    WN_ACTIVATION_SILU = 2,
    WN_ACTIVATION_GELU = 3,       // x * Phi(x), by erf
    WN_ACTIVATION_GELU_TANH = 4,  // the tanh approximation
};

// The type of an output.
enum WnElement {
    WN_ELEMENT_AS_INPUT = 0,
    WN_ELEMENT_F32 = 1,
    WN_ELEMENT_F16 = 2,
    WN_ELEMENT_BF16 = 3,
    WN_ELEMENT_I8 = 4,
    WN_ELEMENT_F8_E4M3 = 5,
};

// Whose the scale of a quantized output is.
enum WnScaling {
    WN_SCALING_NONE = 0,
    WN_SCALING_STATIC = 1,  // the caller's, one for the tensor
    WN_SCALING_ROWS = 2,    // made of the row
    WN_SCALING_GROUPS = 3,  // made of WN_SCALE_GROUP consecutive elements of it; only of rows that are longer than that
};

// Of rows that nobody holds.
enum WnStep {
    WN_STEP_ALL = 0,      // the only launch
    WN_STEP_MOMENTS = 1,  // the first of two
    WN_STEP_APPLY = 2,
};

// What rows.cu asks of every vector if it is not asked of the row: the usual norms have code of their own.
enum WnForm {
    WN_FORM_LAYER_NORM,   // weight and bias of the tensor's type, by the position; nothing behind them
    WN_FORM_RMS_NORM,     // the same without a bias
    WN_FORM_BY_CHANNEL,   // a vector has one channel
    WN_FORM_BY_POSITION,  // whatever else goes by the position
};

#define WN_I8_MAX 127.0f
#define WN_F8_E4M3_MAX 448.0f
// Scales are made as if the largest magnitude were at least this, so that none is zero.
#define WN_LEAST_AMPLITUDE 1e-10f

// How weight and bias are indexed.
enum WnAffine {
    WN_AFFINE_PER_ELEMENT = 0,  // by the position in the row: LayerNorm, RMSNorm
    WN_AFFINE_PER_CHANNEL = 1,  // by the channel of the position: GroupNorm, InstanceNorm in NCHW
};

enum WnFlags {
    WN_FLAG_WEIGHT_F32 = 1,       // weight is f32 whatever the input's type
    WN_FLAG_BIAS_F32 = 2,         // bias is f32 whatever the input's type
    WN_FLAG_WEIGHT_PLUS_ONE = 4,  // the stored weight is an offset from 1
    WN_FLAG_MEAN_SQUARE = 8,      // RMSNorm: the mean is not subtracted
    WN_FLAG_CUMULATIVE = 16,      // batch statistics: running ones are averages over all batches
    WN_FLAG_SCALE_F32 = 32,       // scale is f32 whatever the input's type; the others likewise
    WN_FLAG_SHIFT_F32 = 64,
    WN_FLAG_CHANNEL_BIAS_F32 = 128,
    WN_FLAG_SCALE_PLUS_ONE = 256,  // the stored scale is an offset from 1
    WN_FLAG_GATE_F32 = 512,
    WN_FLAG_INPUT_BIAS_F32 = 1024,
    WN_FLAG_HELD_AS_STORED = 2048,  // slabs: x is held in its own type, for nothing is added to it
    WN_FLAG_POST_NORM = 4096,       // rows: the input has a norm of its own
    WN_FLAG_POST_WEIGHT_F32 = 8192,
    WN_FLAG_POST_BIAS_F32 = 16384,
    WN_FLAG_ROUND_STEPS = 32768,       // rows: each step before the norm is rounded to the input's type
    WN_FLAG_ROUND_NORMALIZED = 65536,  // rows: so is what a norm multiplies by its weight
    WN_FLAG_AFFINE_BY_GROUP = 131072,  // channels last: weight and bias are a group's
};

enum WnRegimes {
    WN_WARP = 32,
    WN_ROWS_GROUP_THREADS = 256,   // a block of the regimes that give a row to 1..32 lanes of a warp
    WN_SCALE_GROUP = 128,          // elements of a row that have a scale of their own
    WN_CHUNK = 1024,               // elements of a row that a warp takes at a time
    WN_ROWS_SHARED_THREADS = 1536,      // no block is as large: so many are on a multiprocessor, with 40 registers
    WN_ROWS_ANY_SHARED_THREADS = 1024,  // likewise, with 64
    WN_FUSED_ROWS_SHARED_THREADS = 1024,  // likewise
    WN_FUSED_ROWS_THREADS = 768,        // likewise, with 80
    WN_ROWS_LONG_THREADS = 256,    // rows that nobody holds: a chunk for each warp is 32 KiB
    WN_ROWS_LEAVES = 256,          // that a warp merges: a row's where it is held, 16 warps' in each of 16 blocks
    WN_ROWS_SUBTREES = 16,         // of so many leaves, that the warps of a block merge where rows are split
    WN_POINTWISE_THREADS = 256,    // at most
    WN_POINTWISE_VECTORS = 4,      // in flight per thread
    WN_POINTWISE_PLANE = 32,       // elements of a channel from which on a block looks its channels up, tile by tile
    WN_SLAB_THREADS = 256,
    WN_STRIP_SHIFT = 20,
    WN_STRIP_ONE = 1048576,  // 2^WN_STRIP_SHIFT
    WN_CLUSTER = 16,               // the most blocks of a cluster
    WN_PLANES_WORDS = 10,          // of 16 bytes: the part of shared memory that is before held planes
    WN_COUNTERS = 4096,            // of a workspace, u32 each, at its start; the last one is the columns' own
    WN_CONVOLUTION_THREADS = 128,
};

// Division of numbers below 2^63 by a number known on the host: n / d == high64(n * magic) >> shift, except that
// magic == 0 stands for d == 1. (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994.)
typedef struct WnDivisor {
    uint64_t divisor;
    uint64_t magic;
    uint32_t shift;
    uint32_t reserved;
} WnDivisor;

// The same of numbers below 2^31, by one of 2 to 2^31: n / d == high32(n * magic) >> shift.
typedef struct WnShortDivisor {
    uint32_t divisor;
    uint32_t magic;
    uint32_t shift;
    uint32_t reserved;
} WnShortDivisor;

// What differs from sample to sample: [samples, channels] each, or [samples, length] where weight and bias go by the
// position in the row.
typedef struct WnModulation {
    uint64_t scale;         // multiplies what weight and bias have made
    uint64_t shift;         // is added to that
    uint64_t channel_bias;  // per channel alone: is added to the input, before the moments
} WnModulation;

// kernels/rows.cu and fused_rows.cu: moments over one contiguous stretch, a row.
typedef struct WnRowsParams {
    uint64_t x;
    uint64_t residual;  // added to x before the moments
    uint64_t sum;       // receives x + residual
    uint64_t y;
    uint64_t weight;
    uint64_t bias;
    uint64_t rows;
    uint64_t length;  // of a row
    uint64_t x_stride;
    uint64_t residual_stride;
    uint64_t sum_stride;
    uint64_t y_stride;
    WnDivisor spatial;             // per channel: elements of one channel in a row
    WnShortDivisor short_spatial;  // the same, of rows that are held
    WnDivisor groups;              // rows of one sample
    uint64_t channels_per_group;
    WnModulation modulation;
    // Per element alone.
    uint64_t input_bias;       // [length]: is added to x
    uint64_t gate;             // [samples, length]: multiplies that
    uint64_t second_residual;  // is added behind the residual
    uint64_t second_residual_stride;
    uint64_t post_weight;  // [length]: of the input's own norm
    uint64_t post_bias;
    uint64_t scales;  // f32: read, or written
    uint64_t scales_row_stride;
    uint64_t scales_group_stride;
    uint32_t lanes;  // threads that share a row in the group regimes: a power of two up to 32
    uint32_t affine;
    uint32_t activation;
    uint32_t flags;
    float eps;
    uint32_t y_type;       // one of WnElement
    uint32_t leaf_shift;   // a warp's leaf of a row is 2^leaf_shift chunks
    uint32_t parts_words;  // of 16 bytes: the part of shared memory that is before the chunks
    uint32_t splits;       // blocks that share a row that nobody holds
    uint32_t scaling;      // one of WnScaling
    uint32_t step;         // one of WnStep
    float inverse_length;  // 1 / length, in f32
    float inverse_rest;    // 1 / elements of the row's last chunk, in f32
    uint32_t form;         // one of WnForm
    uint64_t parts;        // of the workspace, where there are two launches
} WnRowsParams;

// The heads of one kind, queries or keys: `count` rows of every token, one behind the other.
typedef struct WnHeads {
    uint64_t x;
    uint64_t y;
    uint64_t weight;
    uint64_t bias;
    uint64_t x_stride;  // between tokens
    uint64_t y_stride;
    uint64_t count;
    uint32_t flags;  // whether weight and bias are f32
    uint32_t reserved;
} WnHeads;

// kernels/head_rows.cu: both kinds of heads as rows of one launch.
typedef struct WnHeadRowsParams {
    WnHeads query;
    WnHeads key;
    uint64_t rows;    // heads of all tokens
    WnDivisor heads;  // of a token: its queries, then its keys
    uint32_t length;  // of a head
    uint32_t lanes;   // as in WnRowsParams
    uint32_t flags;
    float eps;
    float inverse_length;  // 1 / length, in f32
    uint32_t reserved;
} WnHeadRowsParams;

// How slabs are shared by blocks: see kernels/slabs.cuh.
typedef struct WnSlabGeometry {
    uint64_t counters;  // of the workspace, zero between launches
    uint64_t partials;  // of the workspace
    uint64_t samples;
    uint64_t length;        // of a sample
    uint64_t round;         // elements of a round, of all sections
    uint64_t rounds;        // of a sample; the last may be cut
    uint64_t whole_rounds;  // those that are not
    uint64_t columns;       // slabs that have blocks of their own; each does every `columns`-th
    uint64_t groups;        // of a section
    uint64_t tiles;         // of a slab
    uint64_t tile_rounds;   // of a tile
    uint64_t piece_rounds;  // of those, as many as are brought together at a time
    WnDivisor sections;     // of a sample
    WnDivisor channels;     // of a section
    WnDivisor group;        // channels of a group
    uint32_t period;        // vectors of a section's round
    uint32_t strip;         // of those, a block's at a time
    uint32_t strips;
    uint32_t rows;          // of threads, in all strips alike: so a thread has the same rounds, however those are cut
    uint32_t pixels;        // of a round
    uint32_t strip_magic;   // WN_STRIP_ONE / strip + 1: up to 1,024 threads are divided by the strip's positions with it
} WnSlabGeometry;

// What a batch leaves behind of its moments.
typedef struct WnRunning {
    uint64_t mean;                 // f32; absent: none are moved
    uint64_t var;                  // f32
    uint64_t num_batches_tracked;  // i64 [1]
    uint64_t values;               // of a channel
    float momentum;
    uint32_t reserved;
} WnRunning;

// kernels/channels_last.cu: GroupNorm and InstanceNorm in NHWC, and batch statistics as one sample of them.
typedef struct WnChannelsLastParams {
    uint64_t x;
    uint64_t residual;
    uint64_t sum;
    uint64_t y;
    uint64_t weight;
    uint64_t bias;
    uint64_t results;  // [slabs, groups] of the workspace, 16 bytes each: what a group is normalized by
    WnSlabGeometry slab;
    WnModulation modulation;
    WnRunning running;  // a group's, where all samples are one
    uint32_t activation;
    uint32_t flags;
    float eps;
    uint32_t y_type;  // one of WnElement
} WnChannelsLastParams;

// kernels/batch_statistics.cu: a channel is a plane of each sample.
typedef struct WnBatchStatisticsParams {
    uint64_t x;
    uint64_t residual;
    uint64_t sum;
    uint64_t y;
    uint64_t weight;
    uint64_t bias;
    uint64_t counters;  // of the workspace, zero between launches
    uint64_t partials;  // of the workspace
    uint64_t table;     // f32 [3, channels] of the workspace, as WnPointwiseParams has it
    uint64_t channels;
    uint64_t columns;       // channels that have blocks of their own; each does every `columns`-th
    uint64_t tiles;         // of a channel
    uint64_t tile_vectors;  // of a tile
    uint64_t vectors;       // of a channel: whole ones of each plane, the last perhaps cut
    WnDivisor plane_vectors;
    uint64_t spatial;  // elements of a plane
    WnRunning running;
    uint32_t activation;
    uint32_t flags;
    float eps;
    uint32_t y_type;  // one of WnElement
} WnBatchStatisticsParams;

// kernels/pointwise.cu: y = (x - mean[c]) * scale[c] + bias[c], the constants given or made from running statistics.
typedef struct WnPointwiseParams {
    uint64_t x;
    uint64_t residual;
    uint64_t sum;
    uint64_t y;
    uint64_t running_mean;  // f32
    uint64_t running_var;   // f32
    uint64_t weight;
    uint64_t bias;
    uint64_t table;   // f32 [3, channels]: mean, scale, bias; where present, the four above are not read
    uint64_t length;  // of the tensor
    WnDivisor spatial;   // consecutive elements of one channel; 1 in NHWC
    WnDivisor channels;
    WnShortDivisor plane;  // planes: the same as `spatial`, or 2^30 if that is more
    WnDivisor parts;       // channels last: of a round, each a tile's
    uint64_t tiles;        // of a block's threads, with `vectors` each
    uint64_t stride;       // channels last: vectors of a round, a whole number of periods; a thread's lie so far apart
    uint64_t rounds;       // channels last: of the tensor; the last may be cut
    uint32_t vectors;      // of a thread, at most; of planes up to WN_POINTWISE_VECTORS
    uint32_t activation;
    uint32_t flags;
    float eps;
    uint32_t y_type;  // one of WnElement
    uint32_t reserved;
} WnPointwiseParams;

// kernels/pointwise.cu: makes the table of WnPointwiseParams.
typedef struct WnChannelTableParams {
    uint64_t running_mean;  // f32
    uint64_t running_var;   // f32
    uint64_t weight;
    uint64_t bias;
    uint64_t table;
    uint64_t channels;
    uint32_t flags;
    float eps;
} WnChannelTableParams;

// kernels/convolution.cu: the direct convolution on which the example's network runs.
typedef struct WnConvolutionParams {
    uint64_t x;         // f32 [batch, in_channels, in_height, in_width]
    uint64_t weight;    // f32 [out_channels, in_channels / groups, kernel_height, kernel_width]
    uint64_t bias;      // f32 [out_channels]
    uint64_t residual;  // f32, as y: added before the activation
    uint64_t y;         // f32 [batch, out_channels, out_height, out_width]
    uint64_t length;    // elements of y
    uint32_t in_channels;
    uint32_t out_channels;
    uint32_t groups;
    uint32_t in_height;
    uint32_t in_width;
    uint32_t out_height;
    uint32_t out_width;
    uint32_t kernel_height;
    uint32_t kernel_width;
    uint32_t stride;
    uint32_t padding;
    uint32_t activation;
} WnConvolutionParams;

// Every kernel, once, its name beginning with its file's. A column is ENTRY(name, parameter struct, body, largest block): the .cu files expand it to define
// and register the kernels, the enumeration below numbers them for the host, where bindgen also takes their names.
#define WN_ROWS_KERNELS_OF(ENTRY, SUFFIX, T)                                                                           \
    ENTRY(rows_group_16_##SUFFIX, WnRowsParams, (rows_group<T, 16>), 4 * WN_ROWS_GROUP_THREADS)                        \
    ENTRY(rows_group_32_##SUFFIX, WnRowsParams, (rows_group<T, 32>), 3 * WN_ROWS_GROUP_THREADS)                        \
    ENTRY(rows_shared_##SUFFIX, WnRowsParams, (rows_shared<T>), WN_ROWS_SHARED_THREADS)                                \
    ENTRY(rows_any_shared_##SUFFIX, WnRowsParams, (rows_any_shared<T>), WN_ROWS_ANY_SHARED_THREADS)                    \
    ENTRY(rows_long_##SUFFIX, WnRowsParams, (rows_long<T>), 2 * WN_ROWS_GROUP_THREADS)

#define WN_FUSED_ROWS_KERNELS_OF(ENTRY, SUFFIX, T)                                                                     \
    ENTRY(fused_rows_group_16_##SUFFIX, WnRowsParams, (fused_rows_group_16<T>), 2 * WN_ROWS_GROUP_THREADS)             \
    ENTRY(fused_rows_shared_##SUFFIX, WnRowsParams, (fused_rows_shared<T>), WN_FUSED_ROWS_SHARED_THREADS)              \
    ENTRY(fused_rows_any_shared_##SUFFIX, WnRowsParams, (fused_rows_any_shared<T>), WN_FUSED_ROWS_THREADS)             \
    ENTRY(fused_rows_long_##SUFFIX, WnRowsParams, (fused_rows_long<T>), WN_FUSED_ROWS_THREADS) 

#define WN_HEAD_ROWS_KERNELS_OF(ENTRY, SUFFIX, T)                                                                      \
    ENTRY(head_rows_group_16_##SUFFIX, WnHeadRowsParams, (head_rows_group_16<T>), 4 * WN_ROWS_GROUP_THREADS)           \
    ENTRY(head_rows_any_##SUFFIX, WnHeadRowsParams, (head_rows_any<T>), 2 * WN_ROWS_GROUP_THREADS)

#define WN_POINTWISE_KERNELS_OF(ENTRY, SUFFIX, T)                                                                      \
    ENTRY(pointwise_planes_##SUFFIX, WnPointwiseParams, (pointwise_planes<T>), 4 * WN_POINTWISE_THREADS)                   \
    ENTRY(pointwise_channels_last_##SUFFIX, WnPointwiseParams, (pointwise_channels_last<T>), 3 * WN_POINTWISE_THREADS)     \
    ENTRY(pointwise_table_##SUFFIX, WnChannelTableParams, (pointwise_table<T>), WN_POINTWISE_THREADS)

#define WN_ROWS_KERNELS(ENTRY)                                                                                         \
    WN_ROWS_KERNELS_OF(ENTRY, f32, float)                                                                              \
    WN_ROWS_KERNELS_OF(ENTRY, f16, f16)                                                                                \
    WN_ROWS_KERNELS_OF(ENTRY, bf16, bf16)

#define WN_FUSED_ROWS_KERNELS(ENTRY)                                                                                   \
    WN_FUSED_ROWS_KERNELS_OF(ENTRY, f32, float)                                                                        \
    WN_FUSED_ROWS_KERNELS_OF(ENTRY, f16, f16)                                                                          \
    WN_FUSED_ROWS_KERNELS_OF(ENTRY, bf16, bf16)

#define WN_HEAD_ROWS_KERNELS(ENTRY)                                                                                    \
    WN_HEAD_ROWS_KERNELS_OF(ENTRY, f32, float)                                                                         \
    WN_HEAD_ROWS_KERNELS_OF(ENTRY, f16, f16)                                                                           \
    WN_HEAD_ROWS_KERNELS_OF(ENTRY, bf16, bf16)

#define WN_POINTWISE_KERNELS(ENTRY)                                                                                    \
    WN_POINTWISE_KERNELS_OF(ENTRY, f32, float)                                                                         \
    WN_POINTWISE_KERNELS_OF(ENTRY, f16, f16)                                                                           \
    WN_POINTWISE_KERNELS_OF(ENTRY, bf16, bf16)

#define WN_CHANNELS_LAST_KERNELS_OF(ENTRY, SUFFIX, T)                                                                  \
    ENTRY(channels_last_moments_##SUFFIX, WnChannelsLastParams, (channels_last_moments<T, true>), 4 * WN_SLAB_THREADS)     \
    ENTRY(channels_last_apply_##SUFFIX, WnChannelsLastParams, (channels_last_apply<T, true>), 4 * WN_SLAB_THREADS)         \
    ENTRY(channels_last_any_moments_##SUFFIX, WnChannelsLastParams, (channels_last_moments<T, false>), 2 * WN_SLAB_THREADS) \
    ENTRY(channels_last_any_apply_##SUFFIX, WnChannelsLastParams, (channels_last_apply<T, false>), 2 * WN_SLAB_THREADS)    \
    ENTRY(channels_last_resident_##SUFFIX, WnChannelsLastParams, (channels_last_resident<T>), 3 * WN_SLAB_THREADS)         \
    ENTRY(channels_last_any_resident_##SUFFIX, WnChannelsLastParams, (channels_last_any_resident<T>), 2 * WN_SLAB_THREADS)

#define WN_BATCH_STATISTICS_KERNELS_OF(ENTRY, SUFFIX, T)                                                               \
    ENTRY(batch_statistics_planes_##SUFFIX, WnBatchStatisticsParams, (batch_statistics_planes<T>), WN_SLAB_THREADS)    \
    ENTRY(batch_statistics_planes_resident_##SUFFIX, WnBatchStatisticsParams, (batch_statistics_planes_resident<T>),   \
          WN_SLAB_THREADS)

#define WN_CHANNELS_LAST_KERNELS(ENTRY)                                                                                \
    WN_CHANNELS_LAST_KERNELS_OF(ENTRY, f32, float)                                                                     \
    WN_CHANNELS_LAST_KERNELS_OF(ENTRY, f16, f16)                                                                       \
    WN_CHANNELS_LAST_KERNELS_OF(ENTRY, bf16, bf16)

#define WN_BATCH_STATISTICS_KERNELS(ENTRY)                                                                             \
    WN_BATCH_STATISTICS_KERNELS_OF(ENTRY, f32, float)                                                                  \
    WN_BATCH_STATISTICS_KERNELS_OF(ENTRY, f16, f16)                                                                    \
    WN_BATCH_STATISTICS_KERNELS_OF(ENTRY, bf16, bf16)

#define WN_CONVOLUTION_KERNELS(ENTRY)                                                                                  \
    ENTRY(convolution_direct_f32, WnConvolutionParams, (convolution_direct), WN_CONVOLUTION_THREADS)

#define WN_NUMBER_KERNEL(NAME, PARAMS, BODY, MAX_THREADS) WN_KERNEL_##NAME,
enum WnKernel {
    WN_ROWS_KERNELS(WN_NUMBER_KERNEL) WN_FUSED_ROWS_KERNELS(WN_NUMBER_KERNEL) WN_HEAD_ROWS_KERNELS(WN_NUMBER_KERNEL) WN_POINTWISE_KERNELS(WN_NUMBER_KERNEL) WN_CHANNELS_LAST_KERNELS(WN_NUMBER_KERNEL)
        WN_BATCH_STATISTICS_KERNELS(WN_NUMBER_KERNEL) WN_CONVOLUTION_KERNELS(WN_NUMBER_KERNEL)
};
#undef WN_NUMBER_KERNEL
