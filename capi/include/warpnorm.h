// warpnorm: normalization layers for inference, on the CPU and on CUDA, and the folding of BatchNorm into convolutions.
//
//     wn_device *device;                            // where: once a process
//     wn_device_cuda(0, &device);                   // or wn_device_cpu, wn_device_current
//
//     wn_layer layer;                               // what
//     int64_t normalized_shape[] = {4096};
//     wn_layer_norm(&layer, 1, normalized_shape);
//     layer.activation = WN_ACTIVATION_SILU;
//
//     wn_signature signature;                       // on what: shape, types, options
//     int64_t shape[] = {128, 4096};
//     wn_signature_init(&signature, 2, shape, WN_DTYPE_F16);
//     signature.weight = WN_DTYPE_F32;
//
//     wn_call *call;                                // decided once, launched often
//     wn_prepare(device, &layer, &signature, &call);
//     wn_tensors tensors = {0};
//     tensors.input = x;
//     tensors.weight = weight;
//     tensors.output = y;
//     wn_launch(call, &tensors, stream);
//
// Every function returns a status; if it is not WN_STATUS_OK, nothing was launched or written, wn_status_name has its name,
// and wn_last_error a sentence that names the argument. Null pointers, unknown codes and absurd extents are refused so. Any
// thread may call anything; a handle may be used by several at once, and is destroyed by its own function, once. A launch
// goes onto the caller's stream and allocates nothing, waits for nothing. Buffers belong to the device, must be as large as
// the signature says, and are the caller's; with wn_device_cpu they are plain memory. Extents and strides are in elements.
// What is called reserved is zero, and may get a meaning in a later version.


#ifndef WARPNORM_H
#define WARPNORM_H

// Made from capi/src by `cargo test -p warpnorm-capi --test header`; do not edit.

#include <stddef.h>
#include <stdint.h>

// What a function found. 0 is success; names never change their number.
typedef enum wn_status {
    // All is well.
    WN_STATUS_OK = 0,
    // A null pointer where something is needed.
    WN_STATUS_NULL = 1,
    // A code that is none of its list, a negative extent, a reserved field that is not zero.
    WN_STATUS_INVALID_VALUE = 2,
    // A tensor of more than 8 axes.
    WN_STATUS_RANK = 3,
    // More elements than this machine can address.
    WN_STATUS_SHAPE_OVERFLOW = 4,
    // A shape that the layer cannot take.
    WN_STATUS_SHAPE = 5,
    // A parameter that must not be zero or empty.
    WN_STATUS_EMPTY = 6,
    // Groups that do not divide the channels.
    WN_STATUS_GROUPS = 7,
    // An `eps` that is negative or not finite.
    WN_STATUS_EPS = 8,
    // A momentum that is not between 0 and 1.
    WN_STATUS_MOMENTUM = 9,
    // A tensor that the call needs is missing.
    WN_STATUS_MISSING = 10,
    // A tensor that the call has no use for.
    WN_STATUS_UNEXPECTED = 11,
    // A type that does not go with the others.
    WN_STATUS_ELEMENT_TYPE = 12,
    // A row stride shorter than the row.
    WN_STATUS_ROW_STRIDE = 13,
    // An address that is no multiple of what its elements need.
    WN_STATUS_MISALIGNED = 14,
    // Two buffers that share memory and must not.
    WN_STATUS_OVERLAP = 15,
    // A workspace that is missing or too small.
    WN_STATUS_WORKSPACE = 16,
    // Batch statistics of one value a channel.
    WN_STATUS_ONE_VALUE = 17,
    // A size beyond what a launch can express.
    WN_STATUS_TOO_LARGE = 18,
    // A buffer of the wrong length.
    WN_STATUS_LENGTH = 19,
    // There is no NVIDIA driver.
    WN_STATUS_NO_DRIVER = 30,
    // There is no such CUDA device.
    WN_STATUS_NO_DEVICE = 31,
    // The NVIDIA driver is too old.
    WN_STATUS_OLD_DRIVER = 32,
    // The library was built without CUDA kernels.
    WN_STATUS_NO_KERNELS = 33,
    // The library was built for other chips.
    WN_STATUS_ARCHITECTURE = 34,
    // The thread has no current CUDA context.
    WN_STATUS_NO_CONTEXT = 35,
    // The stream belongs to another CUDA context.
    WN_STATUS_CONTEXT = 36,
    // A call of the CUDA driver failed.
    WN_STATUS_DRIVER = 37,
    // Folding: an array of the wrong length.
    WN_STATUS_FOLD_LENGTH_MISMATCH = 60,
    // Folding: a map of another number of channels than the layer's.
    WN_STATUS_FOLD_CHANNEL_MISMATCH = 61,
    // Folding: maps of different numbers of channels behind each other.
    WN_STATUS_FOLD_COMPOSITION_MISMATCH = 62,
    // Folding: a weight of too few or too many axes.
    WN_STATUS_FOLD_WEIGHT_RANK = 63,
    // Folding: a weight's length is not its shape's.
    WN_STATUS_FOLD_WEIGHT_LENGTH = 64,
    // Folding: a weight's shape cannot be counted.
    WN_STATUS_FOLD_SHAPE_OVERFLOW = 65,
    // Folding: output channels without a weight.
    WN_STATUS_FOLD_EMPTY_WEIGHT = 66,
    // Folding: no groups.
    WN_STATUS_FOLD_ZERO_GROUPS = 67,
    // Folding: groups that do not divide the channels.
    WN_STATUS_FOLD_INDIVISIBLE_GROUPS = 68,
    // Folding: an `eps` that is negative or not finite.
    WN_STATUS_FOLD_INVALID_EPS = 69,
    // Folding: a variance that is negative or not finite.
    WN_STATUS_FOLD_INVALID_VARIANCE = 70,
    // Folding: variance and `eps` are both 0.
    WN_STATUS_FOLD_ZERO_VARIANCE = 71,
    // Folding: a parameter that is not finite.
    WN_STATUS_FOLD_NON_FINITE = 72,
    // Folding: a result too large for its type.
    WN_STATUS_FOLD_OVERFLOW = 73,
    // Folding: a shift before a zero-padded convolution.
    WN_STATUS_FOLD_PADDED_SHIFT = 74,
    // Folding: a shift before a transposed convolution.
    WN_STATUS_FOLD_TRANSPOSED_SHIFT = 75,
    // Folding a model: the system refused to read or write a file.
    WN_STATUS_MODEL_IO = 80,
    // Folding a model: a file that is no valid model.
    WN_STATUS_MODEL_MALFORMED = 81,
    // Folding a model: a file that cannot be read.
    WN_STATUS_MODEL_UNSUPPORTED = 82,
    // Folding a model: a tensor whose data lies outside the model's folder.
    WN_STATUS_MODEL_OUTSIDE = 83,
    // Folding a model: a tensor whose data is not as long as its shape.
    WN_STATUS_MODEL_TENSOR_LENGTH = 84,
    // Folding a model: the folded one differs, or could not be evaluated as a whole.
    WN_STATUS_NOT_VERIFIED = 85,
    // Folding a state dict: its pairs were found by names, and nobody has accepted them.
    WN_STATUS_NOT_ACCEPTED = 86,
    // Folding a model: it cannot be brought into the type that was wished.
    WN_STATUS_MODEL_UNCONVERTIBLE = 87,
    // Merging branches: none of them is a convolution.
    WN_STATUS_FOLD_NOTHING_TO_MERGE = 90,
    // Merging branches: one is another layer than a convolution.
    WN_STATUS_FOLD_NOT_A_CONVOLUTION = 91,
    // Merging branches: channels, groups or axes differ.
    WN_STATUS_FOLD_UNEQUAL_BRANCHES = 92,
    // Merging branches: an identity beside convolutions to another number of channels.
    WN_STATUS_FOLD_IDENTITY_CHANNELS = 93,
    // Merging branches: a stride or a dilation of 0.
    WN_STATUS_FOLD_ZERO_STEP = 94,
    // Merging branches: strides differ.
    WN_STATUS_FOLD_UNEQUAL_STRIDES = 95,
    // Merging branches: a kernel whose taps do not lie on those of the largest, or that has other outputs.
    WN_STATUS_FOLD_KERNEL_OUTSIDE = 96,
    // Something that should not happen; a fault of the library. Please report it.
    WN_STATUS_INTERNAL = 99,
} wn_status;

// Types of elements.
typedef enum wn_dtype {
    // There is no such tensor.
    WN_DTYPE_NONE = 0,
    WN_DTYPE_F32 = 1,
    WN_DTYPE_F16 = 2,
    WN_DTYPE_BF16 = 3,
    // Only for what is folded.
    WN_DTYPE_F64 = 4,
    // Only for a quantized output.
    WN_DTYPE_I8 = 5,
    // Likewise: four bits of exponent, three of fraction, no infinities.
    WN_DTYPE_F8E4M3 = 6,
} wn_dtype;

// Where the channels lie in memory.
typedef enum wn_layout {
    // `[N, C, spatial…]`
    WN_LAYOUT_NCHW = 0,
    // `[N, spatial…, C]`
    WN_LAYOUT_NHWC = 1,
} wn_layout;

// Applied to the result, in the same pass over memory.
typedef enum wn_activation {
    WN_ACTIVATION_NONE = 0,
    WN_ACTIVATION_RELU = 1,
    WN_ACTIVATION_SILU = 2,
    // By the error function.
    WN_ACTIVATION_GELU = 3,
    // By the hyperbolic tangent.
    WN_ACTIVATION_GELU_TANH = 4,
} wn_activation;

// What belongs to one scale of a quantized output, `q = round(y / scale)`, and who makes it.
typedef enum wn_scaling {
    // The output is not quantized.
    WN_SCALING_NONE = 0,
    // The whole tensor: one number, given by the caller.
    WN_SCALING_STATIC = 1,
    // A row: `[rows]`, written.
    WN_SCALING_ROWS = 2,
    // 128 consecutive elements of a row: `[rows, ceil(length / 128)]`, written.
    WN_SCALING_GROUPS = 3,
    // The same: `[ceil(length / 128), rows]`.
    WN_SCALING_GROUPS_BY_COLUMN = 4,
} wn_scaling;

// The layers.
typedef enum wn_kind {
    WN_KIND_LAYER_NORM = 1,
    WN_KIND_RMS_NORM = 2,
    WN_KIND_GROUP_NORM = 3,
    WN_KIND_INSTANCE_NORM = 4,
    WN_KIND_BATCH_NORM = 5,
    WN_KIND_QK_NORM = 6,
} wn_kind;

// Options of a layer, to be combined by `|`.
typedef enum wn_layer_flag {
    // RMSNorm, QkNorm: the stored weight is an offset from 1.
    WN_LAYER_FLAG_WEIGHT_PLUS_ONE = 1,
    // All but BatchNorm and QkNorm: the stored scale of a sample is an offset from 1.
    WN_LAYER_FLAG_SCALE_PLUS_ONE = 2,
    // InstanceNorm: mean and variance are running statistics, given with each call.
    WN_LAYER_FLAG_TRACK_RUNNING_STATS = 4,
    // BatchNorm: mean and variance are those of the batch, and running statistics are moved, if they are given.
    WN_LAYER_FLAG_BATCH_STATISTICS = 8,
    // BatchNorm: running statistics are the average of all batches; `momentum` is not looked at.
    WN_LAYER_FLAG_CUMULATIVE_AVERAGE = 16,
    // QkNorm: the mean is not subtracted, as in RMSNorm.
    WN_LAYER_FLAG_MEAN_SQUARE = 32,
    // LayerNorm, RMSNorm: the input has a norm of its own before the residual is added.
    WN_LAYER_FLAG_POST_NORM = 64,
    // LayerNorm, RMSNorm: each step before the norm is rounded to the input's type.
    WN_LAYER_FLAG_ROUND_STEPS = 128,
    // LayerNorm, RMSNorm: that, and the normalized value before the weight multiplies it.
    WN_LAYER_FLAG_ROUND_NORMALIZED = 256,
} wn_layer_flag;

// What a call has beside its input and output, to be combined by `|`.
typedef enum wn_signature_flag {
    // A residual is added to the input.
    WN_SIGNATURE_FLAG_RESIDUAL = 1,
    // The sum of input and residual is written out.
    WN_SIGNATURE_FLAG_SUM = 2,
    // The sum overwrites the residual. Together with `WN_SIGNATURE_FLAG_RESIDUAL`, without `WN_SIGNATURE_FLAG_SUM`.
    WN_SIGNATURE_FLAG_SUM_IN_RESIDUAL = 4,
    // There is no input of its own: the layer works on the output. (A call whose input is null, or the output, does so too.)
    WN_SIGNATURE_FLAG_IN_PLACE = 8,
    // Constants come from a table that a call of `wn_prepare_channel_table` has made.
    WN_SIGNATURE_FLAG_CHANNEL_TABLE = 16,
    // Running statistics are moved by those of the batch.
    WN_SIGNATURE_FLAG_UPDATE_RUNNING_STATISTICS = 32,
    // Batches are counted.
    WN_SIGNATURE_FLAG_NUM_BATCHES_TRACKED = 64,
    // LayerNorm, RMSNorm: another residual is added behind the first.
    WN_SIGNATURE_FLAG_SECOND_RESIDUAL = 128,
    // QkNorm: queries and keys are tensors of their own, `key_output` being that of the keys. Without it they are in one,
    // `[tokens, q_heads + k_heads and more, head_dim]`, of which the rest is not touched.
    WN_SIGNATURE_FLAG_KEY_OUTPUT = 256,
    // QkNorm: the same, and there is no input of the keys' own.
    WN_SIGNATURE_FLAG_KEY_IN_PLACE = 512,
} wn_signature_flag;

// Layers that absorb maps.
typedef enum wn_linear_kind {
    // Weight `[O, I/groups, k…]`, of 1 to 3 dimensions.
    WN_LINEAR_KIND_CONV = 1,
    // Weight `[I, O/groups, k…]`.
    WN_LINEAR_KIND_CONV_TRANSPOSE = 2,
    // Weight `[O, I]`.
    WN_LINEAR_KIND_LINEAR = 3,
    // Weight `[I, O]`.
    WN_LINEAR_KIND_MAT_MUL = 4,
} wn_linear_kind;

// How a convolution fills the border of its input; it matters only to maps before it.
typedef enum wn_padding {
    WN_PADDING_NONE = 0,
    WN_PADDING_ZEROS = 1,
    WN_PADDING_REFLECT = 2,
    WN_PADDING_REPLICATE = 3,
    WN_PADDING_CIRCULAR = 4,
} wn_padding;

// What a map of channels is made of.
typedef enum wn_affine_kind {
    // weight · (x − running_mean) / sqrt(running_var + eps) + bias; weight and bias may be absent.
    WN_AFFINE_KIND_BATCH_NORM = 0,
    // weight · x + bias, of which one may be absent.
    WN_AFFINE_KIND_SCALE_SHIFT = 1,
} wn_affine_kind;

// What a branch computes before its maps.
typedef enum wn_branch_kind {
    // A convolution.
    WN_BRANCH_KIND_CONV = 1,
    // The input itself; `linear` has no arrays, and the lists count for nothing.
    WN_BRANCH_KIND_IDENTITY = 2,
} wn_branch_kind;

// What to do with a BatchNorm that only the layers behind it could absorb.
typedef enum wn_fold_forward {
    // Fold it where that is exact.
    WN_FOLD_FORWARD_EXACT = 0,
    // Also fold its scale before convolutions padded with zeros, and leave its shift as an addition.
    WN_FOLD_FORWARD_SCALE = 1,
    // Leave it.
    WN_FOLD_FORWARD_OFF = 2,
} wn_fold_forward;

// A call of which everything but the buffers is decided. Any thread may launch it, and several at once.
typedef struct wn_call wn_call;

// Where calls run: the CPU, or a CUDA context with the kernels in it. Any thread may use it, and several at once.
typedef struct wn_device wn_device;

// A layer. Filled by `wn_layer_norm`, `wn_rms_norm`, `wn_group_norm`, `wn_instance_norm`, `wn_batch_norm`,
// `wn_qk_rms_norm` or `wn_qk_layer_norm`, after which layout, activation, flags, eps and momentum may be changed.
typedef struct wn_layer {
    // One of `wn_kind`.
    int32_t kind;
    // One of `wn_layout`.
    int32_t layout;
    // One of `wn_activation`.
    int32_t activation;
    // Of `wn_layer_flag`.
    uint32_t flags;
    // LayerNorm, RMSNorm: axes of `normalized_shape`.
    int64_t normalized_rank;
    // LayerNorm, RMSNorm: the trailing extents over which the moments run; the shape of weight and bias.
    int64_t normalized_shape[8];
    // GroupNorm, InstanceNorm, BatchNorm: C, the length of weight and bias.
    int64_t num_channels;
    // GroupNorm.
    int64_t num_groups;
    // QkNorm: heads of queries and of keys that a token has, and the elements of one, at most 1,024.
    int64_t q_heads;
    int64_t k_heads;
    int64_t head_dim;
    // Added to the variance, inside the root.
    double eps;
    // BatchNorm by batch statistics: the share of a batch in the new running statistics.
    double momentum;
    // Zero.
    int64_t reserved[4];
} wn_layer;

// What a call looks like before there are buffers. Filled by `wn_signature_init`, after which everything may be changed.
typedef struct wn_signature {
    // Type of input, residuals and sum, and mostly of the output: one of `wn_dtype`.
    int32_t dtype;
    // Of `wn_signature_flag`.
    uint32_t flags;
    // Axes of the tensors.
    int64_t rank;
    // Extents, in the order in which they lie in memory.
    int64_t shape[8];
    // Type of the weight: the tensors' or f32; 0 if there is none. So with those that follow.
    int32_t weight;
    int32_t bias;
    // Multiplies the result of weight and bias: `[N, C]`, and of LayerNorm and RMSNorm `[shape[0], normalized_shape…]`.
    int32_t scale;
    // Shaped as the scale: added behind it.
    int32_t shift;
    // GroupNorm, InstanceNorm, `[N, C]`: added to the input.
    int32_t channel_bias;
    // LayerNorm, RMSNorm, `[shape[0], normalized_shape…]`: multiplies the input, before the residual is added.
    int32_t gate;
    // LayerNorm, RMSNorm, `normalized_shape`: added to the input, before the gate.
    int32_t input_bias;
    // Type of the output; 0 for that of the others.
    int32_t output;
    // LayerNorm, RMSNorm with `WN_LAYER_FLAG_POST_NORM`, `normalized_shape`: weight and bias of the input's own norm.
    int32_t post_norm_weight;
    int32_t post_norm_bias;
    // Of an output that is quantized: one of `wn_scaling`.
    int32_t scaling;
    // Zero.
    int32_t reserved;
    // LayerNorm, RMSNorm: elements between the starts of rows, QkNorm of tokens; 0 where they follow each other.
    int64_t input_row_stride;
    int64_t residual_row_stride;
    int64_t second_residual_row_stride;
    int64_t sum_row_stride;
    int64_t output_row_stride;
    // QkNorm: types of the keys' weight and bias; `weight` and `bias` are then the queries'.
    int32_t key_weight;
    int32_t key_bias;
    // QkNorm: elements between tokens, as the strides above are those of queries, or of queries and keys in one tensor.
    int64_t key_input_row_stride;
    int64_t key_output_row_stride;
} wn_signature;

// The buffers of a call, in the device's memory. Null for what the signature has not: `wn_tensors tensors = {0};` is a
// good beginning.
typedef struct wn_tensors {
    // Null, or the output: in place.
    const void *input;
    void *output;
    // Overwritten where the sum goes into it.
    void *residual;
    const void *second_residual;
    void *sum;
    const void *weight;
    const void *bias;
    const void *scale;
    const void *shift;
    const void *channel_bias;
    const void *gate;
    const void *input_bias;
    const void *post_norm_weight;
    const void *post_norm_bias;
    // Of a quantized output; written, unless the scaling is the static one.
    float *scales;
    // f32 `[C]`; written only where the signature says that they are moved.
    float *running_mean;
    // f32 `[C]`; written only where the signature says that they are moved.
    float *running_var;
    // One number.
    int64_t *num_batches_tracked;
    // f32 `[3, C]`.
    const float *channel_table;
    // QkNorm: null, or the keys' output: in place.
    const void *key_input;
    void *key_output;
    const void *key_weight;
    const void *key_bias;
    // Memory that `wn_workspace_init` has prepared. Calls that may run at the same time need one each.
    void *workspace;
    // At least what `wn_call_workspace_bytes` says.
    uint64_t workspace_bytes;
    // Null.
    void *reserved[4];
} wn_tensors;

// An array in the memory of the process, for folding.
typedef struct wn_array {
    // Null for none.
    const void *data;
    // In elements.
    int64_t len;
    // One of `wn_dtype`.
    int32_t dtype;
    // Zero.
    int32_t reserved;
} wn_array;

// A layer that absorbs maps, as PyTorch and ONNX store it.
typedef struct wn_linear {
    // One of `wn_linear_kind`.
    int32_t kind;
    // One of `wn_padding`.
    int32_t padding;
    // 1 for `WN_LINEAR_KIND_LINEAR` and `WN_LINEAR_KIND_MAT_MUL`.
    int64_t groups;
    struct wn_array weight;
    // Axes of the weight.
    int64_t weight_rank;
    int64_t weight_shape[8];
    // Null data for none.
    struct wn_array bias;
} wn_linear;

// A map of channels that a layer can absorb.
typedef struct wn_affine {
    // One of `wn_affine_kind`.
    int32_t kind;
    // Zero.
    int32_t reserved;
    struct wn_array running_mean;
    struct wn_array running_var;
    struct wn_array weight;
    struct wn_array bias;
    double eps;
} wn_affine;

// What rounding has done to an array of the result.
typedef struct wn_rounding {
    // The largest magnitude, as stored.
    double max_abs;
    // Elements that are stored as subnormals, and so with fewer bits.
    uint64_t subnormal;
    // Elements that are stored as 0 and were not 0.
    uint64_t underflowed;
} wn_rounding;

// What a fold has done to the numbers.
typedef struct wn_fold_report {
    // The largest magnitude of a channel's factor, in the maps before and behind.
    double max_abs_scale;
    // The smallest running_var + eps; infinity without a BatchNorm.
    double min_var_plus_eps;
    // Channels whose factor is 0.
    uint64_t dead_channels;
    // How many things deserve a look: variances below 1e-8, factors above 1e4.
    uint64_t warnings;
    struct wn_rounding weight;
    struct wn_rounding bias;
} wn_fold_report;

// One of the terms of a sum that becomes one convolution.
typedef struct wn_branch {
    // One of `wn_branch_kind`.
    int32_t kind;
    // Zero.
    int32_t reserved;
    // Of `WN_LINEAR_KIND_CONV`. How it pads must be the same in all branches.
    struct wn_linear linear;
    // Of each list as many numbers count as the kernel has axes. From one position of the kernel to the next.
    int64_t strides[3];
    // From one tap to the next.
    int64_t dilations[3];
    // Inputs that are added before the first one.
    int64_t pads_begin[3];
    // Inputs that are added behind the last one.
    int64_t pads_end[3];
    // The maps behind it, in the order in which they apply.
    const struct wn_affine *after;
    uint64_t after_count;
} wn_branch;

// What to fold of a model.
typedef struct wn_fold_options {
    // One of `wn_fold_forward`.
    int32_t forward;
    // Not 0: parallel convolutions whose outputs are added become one.
    int32_t merge_branches;
    // Not 0: a layer whose output others read too is copied.
    int32_t duplicate_shared;
    // Not 0: initializers that are also inputs of the model are constants.
    int32_t freeze_inputs;
    // Not 0: what computes nothing is also taken out: `Identity`, `Dropout` at inference, arithmetic on known shapes.
    int32_t tidy;
    // The type, of `wn_dtype` but f64, that the model is brought into after the fold; `WN_DTYPE_NONE`: it keeps its own.
    int32_t dtype;
    // Patterns of the nodes to fold, with `*` for any text and `?` for any character; none: all.
    const char *const *only;
    uint64_t only_count;
    // Patterns of the nodes not to fold.
    const char *const *skip;
    uint64_t skip_count;
    // On how many random inputs to verify the folded model; 0 for none.
    uint64_t verify;
    // How far the whole may be off when it is verified, as a part of the largest output; 0: by the types of the weights.
    double tolerance;
    uint64_t reserved[4];
} wn_fold_options;

// What became of a map of channels. The strings last as long as the call they are given to.
typedef struct wn_fold_row {
    // The node's name.
    const char *node;
    // Its operator.
    const char *op;
    // `folded`, `scale-folded`, `merged`, or the code of a refusal.
    const char *code;
    // The same in a sentence.
    const char *sentence;
    // The number of channels; -1 of a map that is the same for all, or not known.
    int64_t channels;
    // The channel that stands in the way; -1 for none.
    int64_t channel;
    // The largest magnitude of its scales; NaN where it is not known.
    double max_abs_scale;
    // The smallest variance with `eps` added; NaN where it is not known.
    double min_var_plus_eps;
    // 1 if it stays where it was, else 0.
    int32_t is_refused;
    // How many things about it deserve a look.
    int32_t warnings;
} wn_fold_row;

// Is told of a map of channels.
typedef void (*wn_fold_row_function)(void*, const struct wn_fold_row*);

// The sums.
typedef struct wn_fold_summary {
    // BatchNormalization nodes.
    uint64_t batch_norms;
    // How many of them are gone.
    uint64_t folded;
    // How many are part of another one.
    uint64_t merged;
    // How many stay.
    uint64_t refused;
    // Maps of other operators that are gone.
    uint64_t other_maps;
    uint64_t nodes_before;
    uint64_t nodes_after;
    // Bytes of activations that are saved for each image.
    uint64_t bytes_saved_per_image;
    // Bytes of the file.
    uint64_t file_before;
    uint64_t file_after;
} wn_fold_summary;

// The `eps` of some BatchNorms.
typedef struct wn_fold_eps {
    // A pattern of their names, with `*` for any text and `?` for any character.
    const char *pattern;
    double eps;
} wn_fold_eps;

// What to fold of a state dict. Strings are UTF-8.
typedef struct wn_fold_safetensors_options {
    // The pairs of layers and BatchNorms as JSON, as `scripts/export_pairs.py` writes them; null: found by names.
    const char *pairs;
    // Where a pair does not say `eps`, the first pattern that fits does; it is never guessed.
    const struct wn_fold_eps *eps;
    uint64_t eps_count;
    // Patterns of the BatchNorms to fold; none: all.
    const char *const *only;
    uint64_t only_count;
    // Patterns of the BatchNorms not to fold.
    const char *const *skip;
    uint64_t skip_count;
    // The type, of `wn_dtype` but f64, that all floating-point tensors are rounded to; `WN_DTYPE_NONE`: their own.
    int32_t dtype;
    // Not 0: pairs that were found by names are good enough to be written.
    int32_t accept_names;
    // Not 0: each folded layer is verified.
    int32_t verify;
    int32_t reserved[5];
} wn_fold_safetensors_options;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Makes all decisions of a call once. Allocates; a launch does not.
enum wn_status wn_prepare(const struct wn_device *device,
                          const struct wn_layer *layer,
                          const struct wn_signature *signature,
                          struct wn_call **call);

// Prepares the making of a BatchNorm's channel table `[3, C]` in f32, the call's output, from running_mean, running_var,
// and weight and bias of these types, of `wn_dtype`.
enum wn_status wn_prepare_channel_table(const struct wn_device *device,
                                        const struct wn_layer *layer,
                                        int32_t weight,
                                        int32_t bias,
                                        struct wn_call **call);

// Lets a call go; null is nothing to do. What it has launched runs on.
enum wn_status wn_call_destroy(struct wn_call *call);

// Bytes of the workspace that a launch needs; 0 if it needs none, as on the CPU.
enum wn_status wn_call_workspace_bytes(const struct wn_call *call, uint64_t *bytes);

// Launches a prepared call on a stream (a `CUstream` or `cudaStream_t`; null is the default stream), without waiting for
// it. Allocates nothing and synchronizes nothing, so it can be captured into a CUDA graph. On the CPU it has finished on
// return. Until the launch has finished, nobody else writes what it reads, or touches what it writes.
enum wn_status wn_launch(const struct wn_call *call,
                         const struct wn_tensors *tensors,
                         void *stream);

// Prepares and launches at once, where a call is made once. A call that needs a workspace is better prepared.
enum wn_status wn_forward(const struct wn_device *device,
                          const struct wn_layer *layer,
                          const struct wn_signature *signature,
                          const struct wn_tensors *tensors,
                          void *stream);

// The CPU. Calls have finished when they return, and streams are not looked at.
enum wn_status wn_device_cpu(struct wn_device **device);

// The primary context of a CUDA device, which the CUDA runtime, PyTorch and JAX use; it is retained. Takes milliseconds,
// as the kernels are loaded.
enum wn_status wn_device_cuda(int32_t ordinal,
                              struct wn_device **device);

// The CUDA context that is current to the calling thread. One that is not a primary context must live longer than the
// device and its calls.
enum wn_status wn_device_current(struct wn_device **device);

// The same device once more, with the same kernels; but calls that are prepared on `other` may be launched before what is before
// them on the stream has finished, if `wanted` is not 0: CUDA's programmatic dependent launch. The results are the same, and
// what a launch costs the GPU is hidden, which matters where calls are short. A kernel of this library waits for the one
// before it to finish before it reads or writes anything, weights included. Without effect on the CPU, and on chips before
// compute capability 9.0; in a CUDA graph it needs a driver of CUDA 12.3 or newer.
enum wn_status wn_device_programmatic_launch(const struct wn_device *device,
                                             int32_t wanted,
                                             struct wn_device **other);

// Lets a device go; null is nothing to do. Calls that were prepared on it stay valid.
enum wn_status wn_device_destroy(struct wn_device *device);

// Whether it is a GPU: 1 or 0.
enum wn_status wn_device_is_cuda(const struct wn_device *device, int32_t *is_cuda);

// `CPU`, or a GPU's name and compute capability, as in `NVIDIA H200 (sm_90)`, cut to `size` bytes with its final zero.
enum wn_status wn_device_name(const struct wn_device *device, char *name, uint64_t size);

// Makes a workspace of memory of the caller's, at a multiple of 16: fills it with zeros, on the stream. Once; calls leave it
// as the next one needs it. Calls that follow each other on one stream may share it, calls that may run at the same time may
// not. On the CPU no call needs any.
enum wn_status wn_workspace_init(const struct wn_device *device,
                                 void *memory,
                                 uint64_t bytes,
                                 void *stream);

// Folds maps of channels into a layer: `before` feed it and `after` follow it, each in the order in which they apply. All
// arithmetic is in f64, and every result is rounded to its type, of `wn_dtype` but f64, once. Arrays lie in the memory of
// the process. The folded weight is as long as the layer's, the bias has one element for each output channel. `report`
// may be null. Nothing is written where the fold is refused.
enum wn_status wn_fold(const struct wn_linear *linear,
                       const struct wn_affine *before,
                       uint64_t before_count,
                       const struct wn_affine *after,
                       uint64_t after_count,
                       int32_t dtype,
                       void *weight,
                       int64_t weight_len,
                       void *bias,
                       int64_t bias_len,
                       struct wn_fold_report *report);

// Merges parallel branches, whose outputs are added, into one convolution: a block of RepVGG or MobileOne, say. Its weight
// has the shape, and it computes by the strides, dilations and pads, of the branch with the most taps, whose place among
// the branches `largest` is told, unless that is null. Types, arrays and `report` are as with `wn_fold`. Nothing is written
// where the merge is refused.
enum wn_status wn_fold_branches(const struct wn_branch *branches,
                                uint64_t branch_count,
                                int32_t dtype,
                                void *weight,
                                int64_t weight_len,
                                void *bias,
                                int64_t bias_len,
                                uint64_t *largest,
                                struct wn_fold_report *report);

// Decides what can be folded of the ONNX model in the file `input`, and writes the folded one to `output` unless that is
// null; paths are UTF-8. `options` may be null, which is all zeros. `row`, if it is not null, is called with `context` for
// each per-channel map that was found, before anything is written. `summary` may be null. If the folded model is verified
// and found to differ, the status is `WN_STATUS_NOT_VERIFIED` and nothing is left of it.
enum wn_status wn_fold_onnx(const char *input,
                            const char *output,
                            const struct wn_fold_options *options,
                            wn_fold_row_function row,
                            void *context,
                            struct wn_fold_summary *summary);

// Decides what can be folded of the state dict in the safetensors file `input`, and writes the folded one to `output` unless
// that is null; paths are UTF-8. `options` may be null, which is all zeros. `row`, if it is not null, is called with
// `context` for each BatchNorm that was found, before anything is written. `summary` may be null. A pair that was found by
// names may be a wrong one: unless `options` has the pairs, or accepts those, `output` is not written and the status is
// `WN_STATUS_NOT_ACCEPTED`, after the rows were told. If the folded layers are verified and one is found to differ, the
// status is `WN_STATUS_NOT_VERIFIED` and nothing is left of the output.
enum wn_status wn_fold_safetensors(const char *input,
                                   const char *output,
                                   const struct wn_fold_safetensors_options *options,
                                   wn_fold_row_function row,
                                   void *context,
                                   struct wn_fold_summary *summary);

// LayerNorm over the trailing extents `normalized_shape`, with an eps of 1e-5.
enum wn_status wn_layer_norm(struct wn_layer *layer, int64_t rank, const int64_t *normalized_shape);

// RMSNorm over the trailing extents `normalized_shape`. Its eps has no default: models differ.
enum wn_status wn_rms_norm(struct wn_layer *layer, int64_t rank, const int64_t *normalized_shape, double eps);

// GroupNorm of `num_groups` groups, which divide `num_channels`, with an eps of 1e-5, in NCHW.
enum wn_status wn_group_norm(struct wn_layer *layer, int64_t num_groups, int64_t num_channels);

// InstanceNorm of `num_channels` channels, with an eps of 1e-5, in NCHW.
enum wn_status wn_instance_norm(struct wn_layer *layer, int64_t num_channels);

// BatchNorm of `num_channels` channels by running statistics, with an eps of 1e-5, in NCHW.
enum wn_status wn_batch_norm(struct wn_layer *layer, int64_t num_channels);

// RMSNorm of the heads of attention, queries and keys in one launch; each head has at most 1,024 elements. Its eps has no
// default: models differ.
enum wn_status wn_qk_rms_norm(struct wn_layer *layer,
                              int64_t q_heads,
                              int64_t k_heads,
                              int64_t head_dim,
                              double eps);

// LayerNorm of the heads of attention, queries and keys in one launch; each head has at most 1,024 elements. With an eps of
// 1e-5.
enum wn_status wn_qk_layer_norm(struct wn_layer *layer,
                                int64_t q_heads,
                                int64_t k_heads,
                                int64_t head_dim);

// A call on tensors of this shape and type, without anything beside input and output.
enum wn_status wn_signature_init(struct wn_signature *signature, int64_t rank, const int64_t *shape, int32_t dtype);

// The sentence that belongs to the last status other than `WN_STATUS_OK` that a function returned to this thread. Valid
// until the thread's next call into this library; empty if there was none.
const char *wn_last_error(void);

// A status as its name, `WN_STATUS_OK` and so on; for a number that is none, `WN_STATUS_UNKNOWN`.
const char *wn_status_name(int32_t status);

// The library's version, as `0.1.0`.
const char *wn_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* WARPNORM_H */
