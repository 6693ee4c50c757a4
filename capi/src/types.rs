//! What the header declares. Integers that stand for a choice are `int32_t` there, and checked here: a C program may put
//! anything into them.

use std::ffi::{c_char, c_void};

/// What a function found. 0 is success; names never change their number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum wn_status {
    /// All is well.
    Ok = 0,
    /// A null pointer where something is needed.
    Null = 1,
    /// A code that is none of its list, a negative extent, a reserved field that is not zero.
    InvalidValue = 2,
    /// A tensor of more than 8 axes.
    Rank = 3,
    /// More elements than this machine can address.
    ShapeOverflow = 4,
    /// A shape that the layer cannot take.
    Shape = 5,
    /// A parameter that must not be zero or empty.
    Empty = 6,
    /// Groups that do not divide the channels.
    Groups = 7,
    /// An `eps` that is negative or not finite.
    Eps = 8,
    /// A momentum that is not between 0 and 1.
    Momentum = 9,
    /// A tensor that the call needs is missing.
    Missing = 10,
    /// A tensor that the call has no use for.
    Unexpected = 11,
    /// A type that does not go with the others.
    ElementType = 12,
    /// A row stride shorter than the row.
    RowStride = 13,
    /// An address that is no multiple of what its elements need.
    Misaligned = 14,
    /// Two buffers that share memory and must not.
    Overlap = 15,
    /// A workspace that is missing or too small.
    Workspace = 16,
    /// Batch statistics of one value a channel.
    OneValue = 17,
    /// A size beyond what a launch can express.
    TooLarge = 18,
    /// A buffer of the wrong length.
    Length = 19,
    /// There is no NVIDIA driver.
    NoDriver = 30,
    /// There is no such CUDA device.
    NoDevice = 31,
    /// The NVIDIA driver is too old.
    OldDriver = 32,
    /// The library was built without CUDA kernels.
    NoKernels = 33,
    /// The library was built for other chips.
    Architecture = 34,
    /// The thread has no current CUDA context.
    NoContext = 35,
    /// The stream belongs to another CUDA context.
    Context = 36,
    /// A call of the CUDA driver failed.
    Driver = 37,
    /// Folding: an array of the wrong length.
    FoldLengthMismatch = 60,
    /// Folding: a map of another number of channels than the layer's.
    FoldChannelMismatch = 61,
    /// Folding: maps of different numbers of channels behind each other.
    FoldCompositionMismatch = 62,
    /// Folding: a weight of too few or too many axes.
    FoldWeightRank = 63,
    /// Folding: a weight's length is not its shape's.
    FoldWeightLength = 64,
    /// Folding: a weight's shape cannot be counted.
    FoldShapeOverflow = 65,
    /// Folding: output channels without a weight.
    FoldEmptyWeight = 66,
    /// Folding: no groups.
    FoldZeroGroups = 67,
    /// Folding: groups that do not divide the channels.
    FoldIndivisibleGroups = 68,
    /// Folding: an `eps` that is negative or not finite.
    FoldInvalidEps = 69,
    /// Folding: a variance that is negative or not finite.
    FoldInvalidVariance = 70,
    /// Folding: variance and `eps` are both 0.
    FoldZeroVariance = 71,
    /// Folding: a parameter that is not finite.
    FoldNonFinite = 72,
    /// Folding: a result too large for its type.
    FoldOverflow = 73,
    /// Folding: a shift before a zero-padded convolution.
    FoldPaddedShift = 74,
    /// Folding: a shift before a transposed convolution.
    FoldTransposedShift = 75,
    /// Folding a model: the system refused to read or write a file.
    ModelIo = 80,
    /// Folding a model: a file that is no valid model.
    ModelMalformed = 81,
    /// Folding a model: a file that cannot be read.
    ModelUnsupported = 82,
    /// Folding a model: a tensor whose data lies outside the model's folder.
    ModelOutside = 83,
    /// Folding a model: a tensor whose data is not as long as its shape.
    ModelTensorLength = 84,
    /// Folding a model: the folded one differs, or could not be evaluated as a whole.
    NotVerified = 85,
    /// Folding a state dict: its pairs were found by names, and nobody has accepted them.
    NotAccepted = 86,
    /// Folding a model: it cannot be brought into the type that was wished.
    ModelUnconvertible = 87,
    /// Merging branches: none of them is a convolution.
    FoldNothingToMerge = 90,
    /// Merging branches: one is another layer than a convolution.
    FoldNotAConvolution = 91,
    /// Merging branches: channels, groups or axes differ.
    FoldUnequalBranches = 92,
    /// Merging branches: an identity beside convolutions to another number of channels.
    FoldIdentityChannels = 93,
    /// Merging branches: a stride or a dilation of 0.
    FoldZeroStep = 94,
    /// Merging branches: strides differ.
    FoldUnequalStrides = 95,
    /// Merging branches: a kernel whose taps do not lie on those of the largest, or that has other outputs.
    FoldKernelOutside = 96,
    /// Something that should not happen; a fault of the library. Please report it.
    Internal = 99,
}

/// Types of elements.
#[repr(C)]
pub enum wn_dtype {
    /// There is no such tensor.
    None = 0,
    F32 = 1,
    F16 = 2,
    Bf16 = 3,
    /// Only for what is folded.
    F64 = 4,
    /// Only for a quantized output.
    I8 = 5,
    /// Likewise: four bits of exponent, three of fraction, no infinities.
    F8E4M3 = 6,
}

/// What belongs to one scale of a quantized output, `q = round(y / scale)`, and who makes it.
#[repr(C)]
pub enum wn_scaling {
    /// The output is not quantized.
    None = 0,
    /// The whole tensor: one number, given by the caller.
    Static = 1,
    /// A row: `[rows]`, written.
    Rows = 2,
    /// 128 consecutive elements of a row: `[rows, ceil(length / 128)]`, written.
    Groups = 3,
    /// The same: `[ceil(length / 128), rows]`.
    GroupsByColumn = 4,
}

/// Where the channels lie in memory.
#[repr(C)]
pub enum wn_layout {
    /// `[N, C, spatial…]`
    Nchw = 0,
    /// `[N, spatial…, C]`
    Nhwc = 1,
}

/// Applied to the result, in the same pass over memory.
#[repr(C)]
pub enum wn_activation {
    None = 0,
    Relu = 1,
    Silu = 2,
    /// By the error function.
    Gelu = 3,
    /// By the hyperbolic tangent.
    GeluTanh = 4,
}

/// The layers.
#[repr(C)]
#[allow(clippy::enum_variant_names, reason = "these are the layers' names")]
pub enum wn_kind {
    LayerNorm = 1,
    RmsNorm = 2,
    GroupNorm = 3,
    InstanceNorm = 4,
    BatchNorm = 5,
    QkNorm = 6,
}

/// Options of a layer, to be combined by `|`.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum wn_layer_flag {
    /// RMSNorm, QkNorm: the stored weight is an offset from 1.
    WeightPlusOne = 1,
    /// All but BatchNorm and QkNorm: the stored scale of a sample is an offset from 1.
    ScalePlusOne = 2,
    /// InstanceNorm: mean and variance are running statistics, given with each call.
    TrackRunningStats = 4,
    /// BatchNorm: mean and variance are those of the batch, and running statistics are moved, if they are given.
    BatchStatistics = 8,
    /// BatchNorm: running statistics are the average of all batches; `momentum` is not looked at.
    CumulativeAverage = 16,
    /// QkNorm: the mean is not subtracted, as in RMSNorm.
    MeanSquare = 32,
    /// LayerNorm, RMSNorm: the input has a norm of its own before the residual is added.
    PostNorm = 64,
    /// LayerNorm, RMSNorm: each step before the norm is rounded to the input's type.
    RoundSteps = 128,
    /// LayerNorm, RMSNorm: that, and the normalized value before the weight multiplies it.
    RoundNormalized = 256,
}

/// A layer. Filled by `wn_layer_norm`, `wn_rms_norm`, `wn_group_norm`, `wn_instance_norm`, `wn_batch_norm`,
/// `wn_qk_rms_norm` or `wn_qk_layer_norm`, after which layout, activation, flags, eps and momentum may be changed.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct wn_layer {
    /// One of `wn_kind`.
    pub kind: i32,
    /// One of `wn_layout`.
    pub layout: i32,
    /// One of `wn_activation`.
    pub activation: i32,
    /// Of `wn_layer_flag`.
    pub flags: u32,
    /// LayerNorm, RMSNorm: axes of `normalized_shape`.
    pub normalized_rank: i64,
    /// LayerNorm, RMSNorm: the trailing extents over which the moments run; the shape of weight and bias.
    pub normalized_shape: [i64; 8],
    /// GroupNorm, InstanceNorm, BatchNorm: C, the length of weight and bias.
    pub num_channels: i64,
    /// GroupNorm.
    pub num_groups: i64,
    /// QkNorm: heads of queries and of keys that a token has, and the elements of one, at most 1,024.
    pub q_heads: i64,
    pub k_heads: i64,
    pub head_dim: i64,
    /// Added to the variance, inside the root.
    pub eps: f64,
    /// BatchNorm by batch statistics: the share of a batch in the new running statistics.
    pub momentum: f64,
    /// Zero.
    pub reserved: [i64; 4],
}

/// What a call has beside its input and output, to be combined by `|`.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum wn_signature_flag {
    /// A residual is added to the input.
    Residual = 1,
    /// The sum of input and residual is written out.
    Sum = 2,
    /// The sum overwrites the residual. Together with `WN_SIGNATURE_FLAG_RESIDUAL`, without `WN_SIGNATURE_FLAG_SUM`.
    SumInResidual = 4,
    /// There is no input of its own: the layer works on the output. (A call whose input is null, or the output, does so too.)
    InPlace = 8,
    /// Constants come from a table that a call of `wn_prepare_channel_table` has made.
    ChannelTable = 16,
    /// Running statistics are moved by those of the batch.
    UpdateRunningStatistics = 32,
    /// Batches are counted.
    NumBatchesTracked = 64,
    /// LayerNorm, RMSNorm: another residual is added behind the first.
    SecondResidual = 128,
    /// QkNorm: queries and keys are tensors of their own, `key_output` being that of the keys. Without it they are in one,
    /// `[tokens, q_heads + k_heads and more, head_dim]`, of which the rest is not touched.
    KeyOutput = 256,
    /// QkNorm: the same, and there is no input of the keys' own.
    KeyInPlace = 512,
}

/// What a call looks like before there are buffers. Filled by `wn_signature_init`, after which everything may be changed.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct wn_signature {
    /// Type of input, residuals and sum, and mostly of the output: one of `wn_dtype`.
    pub dtype: i32,
    /// Of `wn_signature_flag`.
    pub flags: u32,
    /// Axes of the tensors.
    pub rank: i64,
    /// Extents, in the order in which they lie in memory.
    pub shape: [i64; 8],
    /// Type of the weight: the tensors' or f32; 0 if there is none. So with those that follow.
    pub weight: i32,
    pub bias: i32,
    /// Multiplies the result of weight and bias: `[N, C]`, and of LayerNorm and RMSNorm `[shape[0], normalized_shape…]`.
    pub scale: i32,
    /// Shaped as the scale: added behind it.
    pub shift: i32,
    /// GroupNorm, InstanceNorm, `[N, C]`: added to the input.
    pub channel_bias: i32,
    /// LayerNorm, RMSNorm, `[shape[0], normalized_shape…]`: multiplies the input, before the residual is added.
    pub gate: i32,
    /// LayerNorm, RMSNorm, `normalized_shape`: added to the input, before the gate.
    pub input_bias: i32,
    /// Type of the output; 0 for that of the others.
    pub output: i32,
    /// LayerNorm, RMSNorm with `WN_LAYER_FLAG_POST_NORM`, `normalized_shape`: weight and bias of the input's own norm.
    pub post_norm_weight: i32,
    pub post_norm_bias: i32,
    /// Of an output that is quantized: one of `wn_scaling`.
    pub scaling: i32,
    /// Zero.
    pub reserved: i32,
    /// LayerNorm, RMSNorm: elements between the starts of rows, QkNorm of tokens; 0 where they follow each other.
    pub input_row_stride: i64,
    pub residual_row_stride: i64,
    pub second_residual_row_stride: i64,
    pub sum_row_stride: i64,
    pub output_row_stride: i64,
    /// QkNorm: types of the keys' weight and bias; `weight` and `bias` are then the queries'.
    pub key_weight: i32,
    pub key_bias: i32,
    /// QkNorm: elements between tokens, as the strides above are those of queries, or of queries and keys in one tensor.
    pub key_input_row_stride: i64,
    pub key_output_row_stride: i64,
}

/// The buffers of a call, in the device's memory. Null for what the signature has not: `wn_tensors tensors = {0};` is a
/// good beginning.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct wn_tensors {
    /// Null, or the output: in place.
    pub input: *const c_void,
    pub output: *mut c_void,
    /// Overwritten where the sum goes into it.
    pub residual: *mut c_void,
    pub second_residual: *const c_void,
    pub sum: *mut c_void,
    pub weight: *const c_void,
    pub bias: *const c_void,
    pub scale: *const c_void,
    pub shift: *const c_void,
    pub channel_bias: *const c_void,
    pub gate: *const c_void,
    pub input_bias: *const c_void,
    pub post_norm_weight: *const c_void,
    pub post_norm_bias: *const c_void,
    /// Of a quantized output; written, unless the scaling is the static one.
    pub scales: *mut f32,
    /// f32 `[C]`; written only where the signature says that they are moved.
    pub running_mean: *mut f32,
    /// f32 `[C]`; written only where the signature says that they are moved.
    pub running_var: *mut f32,
    /// One number.
    pub num_batches_tracked: *mut i64,
    /// f32 `[3, C]`.
    pub channel_table: *const f32,
    /// QkNorm: null, or the keys' output: in place.
    pub key_input: *const c_void,
    pub key_output: *mut c_void,
    pub key_weight: *const c_void,
    pub key_bias: *const c_void,
    /// Memory that `wn_workspace_init` has prepared. Calls that may run at the same time need one each.
    pub workspace: *mut c_void,
    /// At least what `wn_call_workspace_bytes` says.
    pub workspace_bytes: u64,
    /// Null.
    pub reserved: [*mut c_void; 4],
}

/// An array in the memory of the process, for folding.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct wn_array {
    /// Null for none.
    pub data: *const c_void,
    /// In elements.
    pub len: i64,
    /// One of `wn_dtype`.
    pub dtype: i32,
    /// Zero.
    pub reserved: i32,
}

/// What a map of channels is made of.
#[repr(C)]
pub enum wn_affine_kind {
    /// weight · (x − running_mean) / sqrt(running_var + eps) + bias; weight and bias may be absent.
    BatchNorm = 0,
    /// weight · x + bias, of which one may be absent.
    ScaleShift = 1,
}

/// A map of channels that a layer can absorb.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct wn_affine {
    /// One of `wn_affine_kind`.
    pub kind: i32,
    /// Zero.
    pub reserved: i32,
    pub running_mean: wn_array,
    pub running_var: wn_array,
    pub weight: wn_array,
    pub bias: wn_array,
    pub eps: f64,
}

/// Layers that absorb maps.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum wn_linear_kind {
    /// Weight `[O, I/groups, k…]`, of 1 to 3 dimensions.
    Conv = 1,
    /// Weight `[I, O/groups, k…]`.
    ConvTranspose = 2,
    /// Weight `[O, I]`.
    Linear = 3,
    /// Weight `[I, O]`.
    MatMul = 4,
}

/// How a convolution fills the border of its input; it matters only to maps before it.
#[repr(C)]
pub enum wn_padding {
    None = 0,
    Zeros = 1,
    Reflect = 2,
    Replicate = 3,
    Circular = 4,
}

/// A layer that absorbs maps, as PyTorch and ONNX store it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct wn_linear {
    /// One of `wn_linear_kind`.
    pub kind: i32,
    /// One of `wn_padding`.
    pub padding: i32,
    /// 1 for `WN_LINEAR_KIND_LINEAR` and `WN_LINEAR_KIND_MAT_MUL`.
    pub groups: i64,
    pub weight: wn_array,
    /// Axes of the weight.
    pub weight_rank: i64,
    pub weight_shape: [i64; 8],
    /// Null data for none.
    pub bias: wn_array,
}

/// What a branch computes before its maps.
#[repr(C)]
pub enum wn_branch_kind {
    /// A convolution.
    Conv = 1,
    /// The input itself; `linear` has no arrays, and the lists count for nothing.
    Identity = 2,
}

/// One of the terms of a sum that becomes one convolution.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct wn_branch {
    /// One of `wn_branch_kind`.
    pub kind: i32,
    /// Zero.
    pub reserved: i32,
    /// Of `WN_LINEAR_KIND_CONV`. How it pads must be the same in all branches.
    pub linear: wn_linear,
    /// Of each list as many numbers count as the kernel has axes. From one position of the kernel to the next.
    pub strides: [i64; 3],
    /// From one tap to the next.
    pub dilations: [i64; 3],
    /// Inputs that are added before the first one.
    pub pads_begin: [i64; 3],
    /// Inputs that are added behind the last one.
    pub pads_end: [i64; 3],
    /// The maps behind it, in the order in which they apply.
    pub after: *const wn_affine,
    pub after_count: u64,
}

/// What rounding has done to an array of the result.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct wn_rounding {
    /// The largest magnitude, as stored.
    pub max_abs: f64,
    /// Elements that are stored as subnormals, and so with fewer bits.
    pub subnormal: u64,
    /// Elements that are stored as 0 and were not 0.
    pub underflowed: u64,
}

/// What a fold has done to the numbers.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct wn_fold_report {
    /// The largest magnitude of a channel's factor, in the maps before and behind.
    pub max_abs_scale: f64,
    /// The smallest running_var + eps; infinity without a BatchNorm.
    pub min_var_plus_eps: f64,
    /// Channels whose factor is 0.
    pub dead_channels: u64,
    /// How many things deserve a look: variances below 1e-8, factors above 1e4.
    pub warnings: u64,
    pub weight: wn_rounding,
    pub bias: wn_rounding,
}

/// What to do with a BatchNorm that only the layers behind it could absorb.
#[repr(C)]
pub enum wn_fold_forward {
    /// Fold it where that is exact.
    Exact = 0,
    /// Also fold its scale before convolutions padded with zeros, and leave its shift as an addition.
    Scale = 1,
    /// Leave it.
    Off = 2,
}

/// What to fold of a model.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct wn_fold_options {
    /// One of `wn_fold_forward`.
    pub forward: i32,
    /// Not 0: parallel convolutions whose outputs are added become one.
    pub merge_branches: i32,
    /// Not 0: a layer whose output others read too is copied.
    pub duplicate_shared: i32,
    /// Not 0: initializers that are also inputs of the model are constants.
    pub freeze_inputs: i32,
    /// Not 0: what computes nothing is also taken out: `Identity`, `Dropout` at inference, arithmetic on known shapes.
    pub tidy: i32,
    /// The type, of `wn_dtype` but f64, that the model is brought into after the fold; `WN_DTYPE_NONE`: it keeps its own.
    pub dtype: i32,
    /// Patterns of the nodes to fold, with `*` for any text and `?` for any character; none: all.
    pub only: *const *const c_char,
    pub only_count: u64,
    /// Patterns of the nodes not to fold.
    pub skip: *const *const c_char,
    pub skip_count: u64,
    /// On how many random inputs to verify the folded model; 0 for none.
    pub verify: u64,
    /// How far the whole may be off when it is verified, as a part of the largest output; 0: by the types of the weights.
    pub tolerance: f64,
    pub reserved: [u64; 4],
}

impl Default for wn_fold_options {
    fn default() -> Self {
        // SAFETY: all of it is numbers and pointers, of which zeros are none.
        unsafe { std::mem::zeroed() }
    }
}

/// The `eps` of some BatchNorms.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct wn_fold_eps {
    /// A pattern of their names, with `*` for any text and `?` for any character.
    pub pattern: *const c_char,
    pub eps: f64,
}

/// What to fold of a state dict. Strings are UTF-8.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct wn_fold_safetensors_options {
    /// The pairs of layers and BatchNorms as JSON, as `scripts/export_pairs.py` writes them; null: found by names.
    pub pairs: *const c_char,
    /// Where a pair does not say `eps`, the first pattern that fits does; it is never guessed.
    pub eps: *const wn_fold_eps,
    pub eps_count: u64,
    /// Patterns of the BatchNorms to fold; none: all.
    pub only: *const *const c_char,
    pub only_count: u64,
    /// Patterns of the BatchNorms not to fold.
    pub skip: *const *const c_char,
    pub skip_count: u64,
    /// The type, of `wn_dtype` but f64, that all floating-point tensors are rounded to; `WN_DTYPE_NONE`: their own.
    pub dtype: i32,
    /// Not 0: pairs that were found by names are good enough to be written.
    pub accept_names: i32,
    /// Not 0: each folded layer is verified.
    pub verify: i32,
    pub reserved: [i32; 5],
}

/// What became of a map of channels. The strings last as long as the call they are given to.
#[repr(C)]
pub struct wn_fold_row {
    /// The node's name.
    pub node: *const c_char,
    /// Its operator.
    pub op: *const c_char,
    /// `folded`, `scale-folded`, `merged`, or the code of a refusal.
    pub code: *const c_char,
    /// The same in a sentence.
    pub sentence: *const c_char,
    /// The number of channels; -1 of a map that is the same for all, or not known.
    pub channels: i64,
    /// The channel that stands in the way; -1 for none.
    pub channel: i64,
    /// The largest magnitude of its scales; NaN where it is not known.
    pub max_abs_scale: f64,
    /// The smallest variance with `eps` added; NaN where it is not known.
    pub min_var_plus_eps: f64,
    /// 1 if it stays where it was, else 0.
    pub is_refused: i32,
    /// How many things about it deserve a look.
    pub warnings: i32,
}

/// Is told of a map of channels.
pub type wn_fold_row_function = Option<unsafe extern "C" fn(*mut c_void, *const wn_fold_row)>;

/// The sums.
#[repr(C)]
pub struct wn_fold_summary {
    /// BatchNormalization nodes.
    pub batch_norms: u64,
    /// How many of them are gone.
    pub folded: u64,
    /// How many are part of another one.
    pub merged: u64,
    /// How many stay.
    pub refused: u64,
    /// Maps of other operators that are gone.
    pub other_maps: u64,
    pub nodes_before: u64,
    pub nodes_after: u64,
    /// Bytes of activations that are saved for each image.
    pub bytes_saved_per_image: u64,
    /// Bytes of the file.
    pub file_before: u64,
    pub file_after: u64,
}
