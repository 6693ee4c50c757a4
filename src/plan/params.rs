// Made from kernels/params.h by scripts/refresh-bindings; do not edit.
#![allow(clippy::all, clippy::pedantic, dead_code, missing_docs, non_camel_case_types, unreachable_pub)]
pub const WN_I8_MAX: f64 = 127.0;
pub const WN_F8_E4M3_MAX: f64 = 448.0;
pub const WN_LEAST_AMPLITUDE: f64 = 0.0000000001;
pub const WN_ACTIVATION_NONE: Activation = 0;
pub const WN_ACTIVATION_RELU: Activation = 1;
pub const WN_ACTIVATION_SILU: Activation = 2;
pub const WN_ACTIVATION_GELU: Activation = 3;
pub const WN_ACTIVATION_GELU_TANH: Activation = 4;
pub type Activation = u32;
pub const WN_ELEMENT_AS_INPUT: Element = 0;
pub const WN_ELEMENT_F32: Element = 1;
pub const WN_ELEMENT_F16: Element = 2;
pub const WN_ELEMENT_BF16: Element = 3;
pub const WN_ELEMENT_I8: Element = 4;
pub const WN_ELEMENT_F8_E4M3: Element = 5;
pub type Element = u32;
pub const WN_SCALING_NONE: Scaling = 0;
pub const WN_SCALING_STATIC: Scaling = 1;
pub const WN_SCALING_ROWS: Scaling = 2;
pub const WN_SCALING_GROUPS: Scaling = 3;
pub type Scaling = u32;
pub const WN_STEP_ALL: Step = 0;
pub const WN_STEP_MOMENTS: Step = 1;
pub const WN_STEP_APPLY: Step = 2;
pub type Step = u32;
pub const WN_FORM_LAYER_NORM: Form = 0;
pub const WN_FORM_RMS_NORM: Form = 1;
pub const WN_FORM_BY_CHANNEL: Form = 2;
pub const WN_FORM_BY_POSITION: Form = 3;
pub type Form = u32;
pub const WN_AFFINE_PER_ELEMENT: Affine = 0;
pub const WN_AFFINE_PER_CHANNEL: Affine = 1;
pub type Affine = u32;
pub const WN_FLAG_WEIGHT_F32: Flags = 1;
pub const WN_FLAG_BIAS_F32: Flags = 2;
pub const WN_FLAG_WEIGHT_PLUS_ONE: Flags = 4;
pub const WN_FLAG_MEAN_SQUARE: Flags = 8;
pub const WN_FLAG_CUMULATIVE: Flags = 16;
pub const WN_FLAG_SCALE_F32: Flags = 32;
pub const WN_FLAG_SHIFT_F32: Flags = 64;
pub const WN_FLAG_CHANNEL_BIAS_F32: Flags = 128;
pub const WN_FLAG_SCALE_PLUS_ONE: Flags = 256;
pub const WN_FLAG_GATE_F32: Flags = 512;
pub const WN_FLAG_INPUT_BIAS_F32: Flags = 1024;
pub const WN_FLAG_HELD_AS_STORED: Flags = 2048;
pub const WN_FLAG_POST_NORM: Flags = 4096;
pub const WN_FLAG_POST_WEIGHT_F32: Flags = 8192;
pub const WN_FLAG_POST_BIAS_F32: Flags = 16384;
pub const WN_FLAG_ROUND_STEPS: Flags = 32768;
pub const WN_FLAG_ROUND_NORMALIZED: Flags = 65536;
pub const WN_FLAG_AFFINE_BY_GROUP: Flags = 131072;
pub type Flags = u32;
pub const WN_WARP: Regimes = 32;
pub const WN_ROWS_GROUP_THREADS: Regimes = 256;
pub const WN_SCALE_GROUP: Regimes = 128;
pub const WN_CHUNK: Regimes = 1024;
pub const WN_ROWS_SHARED_THREADS: Regimes = 1536;
pub const WN_ROWS_ANY_SHARED_THREADS: Regimes = 1024;
pub const WN_FUSED_ROWS_SHARED_THREADS: Regimes = 1024;
pub const WN_FUSED_ROWS_THREADS: Regimes = 768;
pub const WN_ROWS_LONG_THREADS: Regimes = 256;
pub const WN_ROWS_LEAVES: Regimes = 256;
pub const WN_ROWS_SUBTREES: Regimes = 16;
pub const WN_POINTWISE_THREADS: Regimes = 256;
pub const WN_POINTWISE_VECTORS: Regimes = 4;
pub const WN_POINTWISE_PLANE: Regimes = 32;
pub const WN_SLAB_THREADS: Regimes = 256;
pub const WN_STRIP_SHIFT: Regimes = 20;
pub const WN_STRIP_ONE: Regimes = 1048576;
pub const WN_CLUSTER: Regimes = 16;
pub const WN_PLANES_WORDS: Regimes = 10;
pub const WN_COUNTERS: Regimes = 4096;
pub const WN_CONVOLUTION_THREADS: Regimes = 128;
pub type Regimes = u32;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct Divisor {
    pub divisor: u64,
    pub magic: u64,
    pub shift: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Divisor"][::std::mem::size_of::<Divisor>() - 24usize];
    ["Alignment of Divisor"][::std::mem::align_of::<Divisor>() - 8usize];
    ["Offset of field: Divisor::divisor"][::std::mem::offset_of!(Divisor, divisor) - 0usize];
    ["Offset of field: Divisor::magic"][::std::mem::offset_of!(Divisor, magic) - 8usize];
    ["Offset of field: Divisor::shift"][::std::mem::offset_of!(Divisor, shift) - 16usize];
    ["Offset of field: Divisor::reserved"][::std::mem::offset_of!(Divisor, reserved) - 20usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct ShortDivisor {
    pub divisor: u32,
    pub magic: u32,
    pub shift: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ShortDivisor"][::std::mem::size_of::<ShortDivisor>() - 16usize];
    ["Alignment of ShortDivisor"][::std::mem::align_of::<ShortDivisor>() - 4usize];
    ["Offset of field: ShortDivisor::divisor"][::std::mem::offset_of!(ShortDivisor, divisor) - 0usize];
    ["Offset of field: ShortDivisor::magic"][::std::mem::offset_of!(ShortDivisor, magic) - 4usize];
    ["Offset of field: ShortDivisor::shift"][::std::mem::offset_of!(ShortDivisor, shift) - 8usize];
    ["Offset of field: ShortDivisor::reserved"][::std::mem::offset_of!(ShortDivisor, reserved) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct Modulation {
    pub scale: u64,
    pub shift: u64,
    pub channel_bias: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Modulation"][::std::mem::size_of::<Modulation>() - 24usize];
    ["Alignment of Modulation"][::std::mem::align_of::<Modulation>() - 8usize];
    ["Offset of field: Modulation::scale"][::std::mem::offset_of!(Modulation, scale) - 0usize];
    ["Offset of field: Modulation::shift"][::std::mem::offset_of!(Modulation, shift) - 8usize];
    ["Offset of field: Modulation::channel_bias"][::std::mem::offset_of!(Modulation, channel_bias) - 16usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct RowsParams {
    pub x: u64,
    pub residual: u64,
    pub sum: u64,
    pub y: u64,
    pub weight: u64,
    pub bias: u64,
    pub rows: u64,
    pub length: u64,
    pub x_stride: u64,
    pub residual_stride: u64,
    pub sum_stride: u64,
    pub y_stride: u64,
    pub spatial: Divisor,
    pub short_spatial: ShortDivisor,
    pub groups: Divisor,
    pub channels_per_group: u64,
    pub modulation: Modulation,
    pub input_bias: u64,
    pub gate: u64,
    pub second_residual: u64,
    pub second_residual_stride: u64,
    pub post_weight: u64,
    pub post_bias: u64,
    pub scales: u64,
    pub scales_row_stride: u64,
    pub scales_group_stride: u64,
    pub lanes: u32,
    pub affine: u32,
    pub activation: u32,
    pub flags: u32,
    pub eps: f32,
    pub y_type: u32,
    pub leaf_shift: u32,
    pub parts_words: u32,
    pub splits: u32,
    pub scaling: u32,
    pub step: u32,
    pub inverse_length: f32,
    pub inverse_rest: f32,
    pub form: u32,
    pub parts: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowsParams"][::std::mem::size_of::<RowsParams>() - 328usize];
    ["Alignment of RowsParams"][::std::mem::align_of::<RowsParams>() - 8usize];
    ["Offset of field: RowsParams::x"][::std::mem::offset_of!(RowsParams, x) - 0usize];
    ["Offset of field: RowsParams::residual"][::std::mem::offset_of!(RowsParams, residual) - 8usize];
    ["Offset of field: RowsParams::sum"][::std::mem::offset_of!(RowsParams, sum) - 16usize];
    ["Offset of field: RowsParams::y"][::std::mem::offset_of!(RowsParams, y) - 24usize];
    ["Offset of field: RowsParams::weight"][::std::mem::offset_of!(RowsParams, weight) - 32usize];
    ["Offset of field: RowsParams::bias"][::std::mem::offset_of!(RowsParams, bias) - 40usize];
    ["Offset of field: RowsParams::rows"][::std::mem::offset_of!(RowsParams, rows) - 48usize];
    ["Offset of field: RowsParams::length"][::std::mem::offset_of!(RowsParams, length) - 56usize];
    ["Offset of field: RowsParams::x_stride"][::std::mem::offset_of!(RowsParams, x_stride) - 64usize];
    ["Offset of field: RowsParams::residual_stride"][::std::mem::offset_of!(RowsParams, residual_stride) - 72usize];
    ["Offset of field: RowsParams::sum_stride"][::std::mem::offset_of!(RowsParams, sum_stride) - 80usize];
    ["Offset of field: RowsParams::y_stride"][::std::mem::offset_of!(RowsParams, y_stride) - 88usize];
    ["Offset of field: RowsParams::spatial"][::std::mem::offset_of!(RowsParams, spatial) - 96usize];
    ["Offset of field: RowsParams::short_spatial"][::std::mem::offset_of!(RowsParams, short_spatial) - 120usize];
    ["Offset of field: RowsParams::groups"][::std::mem::offset_of!(RowsParams, groups) - 136usize];
    ["Offset of field: RowsParams::channels_per_group"]
        [::std::mem::offset_of!(RowsParams, channels_per_group) - 160usize];
    ["Offset of field: RowsParams::modulation"][::std::mem::offset_of!(RowsParams, modulation) - 168usize];
    ["Offset of field: RowsParams::input_bias"][::std::mem::offset_of!(RowsParams, input_bias) - 192usize];
    ["Offset of field: RowsParams::gate"][::std::mem::offset_of!(RowsParams, gate) - 200usize];
    ["Offset of field: RowsParams::second_residual"][::std::mem::offset_of!(RowsParams, second_residual) - 208usize];
    ["Offset of field: RowsParams::second_residual_stride"]
        [::std::mem::offset_of!(RowsParams, second_residual_stride) - 216usize];
    ["Offset of field: RowsParams::post_weight"][::std::mem::offset_of!(RowsParams, post_weight) - 224usize];
    ["Offset of field: RowsParams::post_bias"][::std::mem::offset_of!(RowsParams, post_bias) - 232usize];
    ["Offset of field: RowsParams::scales"][::std::mem::offset_of!(RowsParams, scales) - 240usize];
    ["Offset of field: RowsParams::scales_row_stride"]
        [::std::mem::offset_of!(RowsParams, scales_row_stride) - 248usize];
    ["Offset of field: RowsParams::scales_group_stride"]
        [::std::mem::offset_of!(RowsParams, scales_group_stride) - 256usize];
    ["Offset of field: RowsParams::lanes"][::std::mem::offset_of!(RowsParams, lanes) - 264usize];
    ["Offset of field: RowsParams::affine"][::std::mem::offset_of!(RowsParams, affine) - 268usize];
    ["Offset of field: RowsParams::activation"][::std::mem::offset_of!(RowsParams, activation) - 272usize];
    ["Offset of field: RowsParams::flags"][::std::mem::offset_of!(RowsParams, flags) - 276usize];
    ["Offset of field: RowsParams::eps"][::std::mem::offset_of!(RowsParams, eps) - 280usize];
    ["Offset of field: RowsParams::y_type"][::std::mem::offset_of!(RowsParams, y_type) - 284usize];
    ["Offset of field: RowsParams::leaf_shift"][::std::mem::offset_of!(RowsParams, leaf_shift) - 288usize];
    ["Offset of field: RowsParams::parts_words"][::std::mem::offset_of!(RowsParams, parts_words) - 292usize];
    ["Offset of field: RowsParams::splits"][::std::mem::offset_of!(RowsParams, splits) - 296usize];
    ["Offset of field: RowsParams::scaling"][::std::mem::offset_of!(RowsParams, scaling) - 300usize];
    ["Offset of field: RowsParams::step"][::std::mem::offset_of!(RowsParams, step) - 304usize];
    ["Offset of field: RowsParams::inverse_length"][::std::mem::offset_of!(RowsParams, inverse_length) - 308usize];
    ["Offset of field: RowsParams::inverse_rest"][::std::mem::offset_of!(RowsParams, inverse_rest) - 312usize];
    ["Offset of field: RowsParams::form"][::std::mem::offset_of!(RowsParams, form) - 316usize];
    ["Offset of field: RowsParams::parts"][::std::mem::offset_of!(RowsParams, parts) - 320usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct Heads {
    pub x: u64,
    pub y: u64,
    pub weight: u64,
    pub bias: u64,
    pub x_stride: u64,
    pub y_stride: u64,
    pub count: u64,
    pub flags: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Heads"][::std::mem::size_of::<Heads>() - 64usize];
    ["Alignment of Heads"][::std::mem::align_of::<Heads>() - 8usize];
    ["Offset of field: Heads::x"][::std::mem::offset_of!(Heads, x) - 0usize];
    ["Offset of field: Heads::y"][::std::mem::offset_of!(Heads, y) - 8usize];
    ["Offset of field: Heads::weight"][::std::mem::offset_of!(Heads, weight) - 16usize];
    ["Offset of field: Heads::bias"][::std::mem::offset_of!(Heads, bias) - 24usize];
    ["Offset of field: Heads::x_stride"][::std::mem::offset_of!(Heads, x_stride) - 32usize];
    ["Offset of field: Heads::y_stride"][::std::mem::offset_of!(Heads, y_stride) - 40usize];
    ["Offset of field: Heads::count"][::std::mem::offset_of!(Heads, count) - 48usize];
    ["Offset of field: Heads::flags"][::std::mem::offset_of!(Heads, flags) - 56usize];
    ["Offset of field: Heads::reserved"][::std::mem::offset_of!(Heads, reserved) - 60usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct HeadRowsParams {
    pub query: Heads,
    pub key: Heads,
    pub rows: u64,
    pub heads: Divisor,
    pub length: u32,
    pub lanes: u32,
    pub flags: u32,
    pub eps: f32,
    pub inverse_length: f32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HeadRowsParams"][::std::mem::size_of::<HeadRowsParams>() - 184usize];
    ["Alignment of HeadRowsParams"][::std::mem::align_of::<HeadRowsParams>() - 8usize];
    ["Offset of field: HeadRowsParams::query"][::std::mem::offset_of!(HeadRowsParams, query) - 0usize];
    ["Offset of field: HeadRowsParams::key"][::std::mem::offset_of!(HeadRowsParams, key) - 64usize];
    ["Offset of field: HeadRowsParams::rows"][::std::mem::offset_of!(HeadRowsParams, rows) - 128usize];
    ["Offset of field: HeadRowsParams::heads"][::std::mem::offset_of!(HeadRowsParams, heads) - 136usize];
    ["Offset of field: HeadRowsParams::length"][::std::mem::offset_of!(HeadRowsParams, length) - 160usize];
    ["Offset of field: HeadRowsParams::lanes"][::std::mem::offset_of!(HeadRowsParams, lanes) - 164usize];
    ["Offset of field: HeadRowsParams::flags"][::std::mem::offset_of!(HeadRowsParams, flags) - 168usize];
    ["Offset of field: HeadRowsParams::eps"][::std::mem::offset_of!(HeadRowsParams, eps) - 172usize];
    ["Offset of field: HeadRowsParams::inverse_length"]
        [::std::mem::offset_of!(HeadRowsParams, inverse_length) - 176usize];
    ["Offset of field: HeadRowsParams::reserved"][::std::mem::offset_of!(HeadRowsParams, reserved) - 180usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct SlabGeometry {
    pub counters: u64,
    pub partials: u64,
    pub samples: u64,
    pub length: u64,
    pub round: u64,
    pub rounds: u64,
    pub whole_rounds: u64,
    pub columns: u64,
    pub groups: u64,
    pub tiles: u64,
    pub tile_rounds: u64,
    pub piece_rounds: u64,
    pub sections: Divisor,
    pub channels: Divisor,
    pub group: Divisor,
    pub period: u32,
    pub strip: u32,
    pub strips: u32,
    pub rows: u32,
    pub pixels: u32,
    pub strip_magic: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SlabGeometry"][::std::mem::size_of::<SlabGeometry>() - 192usize];
    ["Alignment of SlabGeometry"][::std::mem::align_of::<SlabGeometry>() - 8usize];
    ["Offset of field: SlabGeometry::counters"][::std::mem::offset_of!(SlabGeometry, counters) - 0usize];
    ["Offset of field: SlabGeometry::partials"][::std::mem::offset_of!(SlabGeometry, partials) - 8usize];
    ["Offset of field: SlabGeometry::samples"][::std::mem::offset_of!(SlabGeometry, samples) - 16usize];
    ["Offset of field: SlabGeometry::length"][::std::mem::offset_of!(SlabGeometry, length) - 24usize];
    ["Offset of field: SlabGeometry::round"][::std::mem::offset_of!(SlabGeometry, round) - 32usize];
    ["Offset of field: SlabGeometry::rounds"][::std::mem::offset_of!(SlabGeometry, rounds) - 40usize];
    ["Offset of field: SlabGeometry::whole_rounds"][::std::mem::offset_of!(SlabGeometry, whole_rounds) - 48usize];
    ["Offset of field: SlabGeometry::columns"][::std::mem::offset_of!(SlabGeometry, columns) - 56usize];
    ["Offset of field: SlabGeometry::groups"][::std::mem::offset_of!(SlabGeometry, groups) - 64usize];
    ["Offset of field: SlabGeometry::tiles"][::std::mem::offset_of!(SlabGeometry, tiles) - 72usize];
    ["Offset of field: SlabGeometry::tile_rounds"][::std::mem::offset_of!(SlabGeometry, tile_rounds) - 80usize];
    ["Offset of field: SlabGeometry::piece_rounds"][::std::mem::offset_of!(SlabGeometry, piece_rounds) - 88usize];
    ["Offset of field: SlabGeometry::sections"][::std::mem::offset_of!(SlabGeometry, sections) - 96usize];
    ["Offset of field: SlabGeometry::channels"][::std::mem::offset_of!(SlabGeometry, channels) - 120usize];
    ["Offset of field: SlabGeometry::group"][::std::mem::offset_of!(SlabGeometry, group) - 144usize];
    ["Offset of field: SlabGeometry::period"][::std::mem::offset_of!(SlabGeometry, period) - 168usize];
    ["Offset of field: SlabGeometry::strip"][::std::mem::offset_of!(SlabGeometry, strip) - 172usize];
    ["Offset of field: SlabGeometry::strips"][::std::mem::offset_of!(SlabGeometry, strips) - 176usize];
    ["Offset of field: SlabGeometry::rows"][::std::mem::offset_of!(SlabGeometry, rows) - 180usize];
    ["Offset of field: SlabGeometry::pixels"][::std::mem::offset_of!(SlabGeometry, pixels) - 184usize];
    ["Offset of field: SlabGeometry::strip_magic"][::std::mem::offset_of!(SlabGeometry, strip_magic) - 188usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct Running {
    pub mean: u64,
    pub var: u64,
    pub num_batches_tracked: u64,
    pub values: u64,
    pub momentum: f32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Running"][::std::mem::size_of::<Running>() - 40usize];
    ["Alignment of Running"][::std::mem::align_of::<Running>() - 8usize];
    ["Offset of field: Running::mean"][::std::mem::offset_of!(Running, mean) - 0usize];
    ["Offset of field: Running::var"][::std::mem::offset_of!(Running, var) - 8usize];
    ["Offset of field: Running::num_batches_tracked"][::std::mem::offset_of!(Running, num_batches_tracked) - 16usize];
    ["Offset of field: Running::values"][::std::mem::offset_of!(Running, values) - 24usize];
    ["Offset of field: Running::momentum"][::std::mem::offset_of!(Running, momentum) - 32usize];
    ["Offset of field: Running::reserved"][::std::mem::offset_of!(Running, reserved) - 36usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct ChannelsLastParams {
    pub x: u64,
    pub residual: u64,
    pub sum: u64,
    pub y: u64,
    pub weight: u64,
    pub bias: u64,
    pub results: u64,
    pub slab: SlabGeometry,
    pub modulation: Modulation,
    pub running: Running,
    pub activation: u32,
    pub flags: u32,
    pub eps: f32,
    pub y_type: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ChannelsLastParams"][::std::mem::size_of::<ChannelsLastParams>() - 328usize];
    ["Alignment of ChannelsLastParams"][::std::mem::align_of::<ChannelsLastParams>() - 8usize];
    ["Offset of field: ChannelsLastParams::x"][::std::mem::offset_of!(ChannelsLastParams, x) - 0usize];
    ["Offset of field: ChannelsLastParams::residual"][::std::mem::offset_of!(ChannelsLastParams, residual) - 8usize];
    ["Offset of field: ChannelsLastParams::sum"][::std::mem::offset_of!(ChannelsLastParams, sum) - 16usize];
    ["Offset of field: ChannelsLastParams::y"][::std::mem::offset_of!(ChannelsLastParams, y) - 24usize];
    ["Offset of field: ChannelsLastParams::weight"][::std::mem::offset_of!(ChannelsLastParams, weight) - 32usize];
    ["Offset of field: ChannelsLastParams::bias"][::std::mem::offset_of!(ChannelsLastParams, bias) - 40usize];
    ["Offset of field: ChannelsLastParams::results"][::std::mem::offset_of!(ChannelsLastParams, results) - 48usize];
    ["Offset of field: ChannelsLastParams::slab"][::std::mem::offset_of!(ChannelsLastParams, slab) - 56usize];
    ["Offset of field: ChannelsLastParams::modulation"]
        [::std::mem::offset_of!(ChannelsLastParams, modulation) - 248usize];
    ["Offset of field: ChannelsLastParams::running"][::std::mem::offset_of!(ChannelsLastParams, running) - 272usize];
    ["Offset of field: ChannelsLastParams::activation"]
        [::std::mem::offset_of!(ChannelsLastParams, activation) - 312usize];
    ["Offset of field: ChannelsLastParams::flags"][::std::mem::offset_of!(ChannelsLastParams, flags) - 316usize];
    ["Offset of field: ChannelsLastParams::eps"][::std::mem::offset_of!(ChannelsLastParams, eps) - 320usize];
    ["Offset of field: ChannelsLastParams::y_type"][::std::mem::offset_of!(ChannelsLastParams, y_type) - 324usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct BatchStatisticsParams {
    pub x: u64,
    pub residual: u64,
    pub sum: u64,
    pub y: u64,
    pub weight: u64,
    pub bias: u64,
    pub counters: u64,
    pub partials: u64,
    pub table: u64,
    pub channels: u64,
    pub columns: u64,
    pub tiles: u64,
    pub tile_vectors: u64,
    pub vectors: u64,
    pub plane_vectors: Divisor,
    pub spatial: u64,
    pub running: Running,
    pub activation: u32,
    pub flags: u32,
    pub eps: f32,
    pub y_type: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BatchStatisticsParams"][::std::mem::size_of::<BatchStatisticsParams>() - 200usize];
    ["Alignment of BatchStatisticsParams"][::std::mem::align_of::<BatchStatisticsParams>() - 8usize];
    ["Offset of field: BatchStatisticsParams::x"][::std::mem::offset_of!(BatchStatisticsParams, x) - 0usize];
    ["Offset of field: BatchStatisticsParams::residual"]
        [::std::mem::offset_of!(BatchStatisticsParams, residual) - 8usize];
    ["Offset of field: BatchStatisticsParams::sum"][::std::mem::offset_of!(BatchStatisticsParams, sum) - 16usize];
    ["Offset of field: BatchStatisticsParams::y"][::std::mem::offset_of!(BatchStatisticsParams, y) - 24usize];
    ["Offset of field: BatchStatisticsParams::weight"][::std::mem::offset_of!(BatchStatisticsParams, weight) - 32usize];
    ["Offset of field: BatchStatisticsParams::bias"][::std::mem::offset_of!(BatchStatisticsParams, bias) - 40usize];
    ["Offset of field: BatchStatisticsParams::counters"]
        [::std::mem::offset_of!(BatchStatisticsParams, counters) - 48usize];
    ["Offset of field: BatchStatisticsParams::partials"]
        [::std::mem::offset_of!(BatchStatisticsParams, partials) - 56usize];
    ["Offset of field: BatchStatisticsParams::table"][::std::mem::offset_of!(BatchStatisticsParams, table) - 64usize];
    ["Offset of field: BatchStatisticsParams::channels"]
        [::std::mem::offset_of!(BatchStatisticsParams, channels) - 72usize];
    ["Offset of field: BatchStatisticsParams::columns"]
        [::std::mem::offset_of!(BatchStatisticsParams, columns) - 80usize];
    ["Offset of field: BatchStatisticsParams::tiles"][::std::mem::offset_of!(BatchStatisticsParams, tiles) - 88usize];
    ["Offset of field: BatchStatisticsParams::tile_vectors"]
        [::std::mem::offset_of!(BatchStatisticsParams, tile_vectors) - 96usize];
    ["Offset of field: BatchStatisticsParams::vectors"]
        [::std::mem::offset_of!(BatchStatisticsParams, vectors) - 104usize];
    ["Offset of field: BatchStatisticsParams::plane_vectors"]
        [::std::mem::offset_of!(BatchStatisticsParams, plane_vectors) - 112usize];
    ["Offset of field: BatchStatisticsParams::spatial"]
        [::std::mem::offset_of!(BatchStatisticsParams, spatial) - 136usize];
    ["Offset of field: BatchStatisticsParams::running"]
        [::std::mem::offset_of!(BatchStatisticsParams, running) - 144usize];
    ["Offset of field: BatchStatisticsParams::activation"]
        [::std::mem::offset_of!(BatchStatisticsParams, activation) - 184usize];
    ["Offset of field: BatchStatisticsParams::flags"][::std::mem::offset_of!(BatchStatisticsParams, flags) - 188usize];
    ["Offset of field: BatchStatisticsParams::eps"][::std::mem::offset_of!(BatchStatisticsParams, eps) - 192usize];
    ["Offset of field: BatchStatisticsParams::y_type"]
        [::std::mem::offset_of!(BatchStatisticsParams, y_type) - 196usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct PointwiseParams {
    pub x: u64,
    pub residual: u64,
    pub sum: u64,
    pub y: u64,
    pub running_mean: u64,
    pub running_var: u64,
    pub weight: u64,
    pub bias: u64,
    pub table: u64,
    pub length: u64,
    pub spatial: Divisor,
    pub channels: Divisor,
    pub plane: ShortDivisor,
    pub parts: Divisor,
    pub tiles: u64,
    pub stride: u64,
    pub rounds: u64,
    pub vectors: u32,
    pub activation: u32,
    pub flags: u32,
    pub eps: f32,
    pub y_type: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PointwiseParams"][::std::mem::size_of::<PointwiseParams>() - 216usize];
    ["Alignment of PointwiseParams"][::std::mem::align_of::<PointwiseParams>() - 8usize];
    ["Offset of field: PointwiseParams::x"][::std::mem::offset_of!(PointwiseParams, x) - 0usize];
    ["Offset of field: PointwiseParams::residual"][::std::mem::offset_of!(PointwiseParams, residual) - 8usize];
    ["Offset of field: PointwiseParams::sum"][::std::mem::offset_of!(PointwiseParams, sum) - 16usize];
    ["Offset of field: PointwiseParams::y"][::std::mem::offset_of!(PointwiseParams, y) - 24usize];
    ["Offset of field: PointwiseParams::running_mean"][::std::mem::offset_of!(PointwiseParams, running_mean) - 32usize];
    ["Offset of field: PointwiseParams::running_var"][::std::mem::offset_of!(PointwiseParams, running_var) - 40usize];
    ["Offset of field: PointwiseParams::weight"][::std::mem::offset_of!(PointwiseParams, weight) - 48usize];
    ["Offset of field: PointwiseParams::bias"][::std::mem::offset_of!(PointwiseParams, bias) - 56usize];
    ["Offset of field: PointwiseParams::table"][::std::mem::offset_of!(PointwiseParams, table) - 64usize];
    ["Offset of field: PointwiseParams::length"][::std::mem::offset_of!(PointwiseParams, length) - 72usize];
    ["Offset of field: PointwiseParams::spatial"][::std::mem::offset_of!(PointwiseParams, spatial) - 80usize];
    ["Offset of field: PointwiseParams::channels"][::std::mem::offset_of!(PointwiseParams, channels) - 104usize];
    ["Offset of field: PointwiseParams::plane"][::std::mem::offset_of!(PointwiseParams, plane) - 128usize];
    ["Offset of field: PointwiseParams::parts"][::std::mem::offset_of!(PointwiseParams, parts) - 144usize];
    ["Offset of field: PointwiseParams::tiles"][::std::mem::offset_of!(PointwiseParams, tiles) - 168usize];
    ["Offset of field: PointwiseParams::stride"][::std::mem::offset_of!(PointwiseParams, stride) - 176usize];
    ["Offset of field: PointwiseParams::rounds"][::std::mem::offset_of!(PointwiseParams, rounds) - 184usize];
    ["Offset of field: PointwiseParams::vectors"][::std::mem::offset_of!(PointwiseParams, vectors) - 192usize];
    ["Offset of field: PointwiseParams::activation"][::std::mem::offset_of!(PointwiseParams, activation) - 196usize];
    ["Offset of field: PointwiseParams::flags"][::std::mem::offset_of!(PointwiseParams, flags) - 200usize];
    ["Offset of field: PointwiseParams::eps"][::std::mem::offset_of!(PointwiseParams, eps) - 204usize];
    ["Offset of field: PointwiseParams::y_type"][::std::mem::offset_of!(PointwiseParams, y_type) - 208usize];
    ["Offset of field: PointwiseParams::reserved"][::std::mem::offset_of!(PointwiseParams, reserved) - 212usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct ChannelTableParams {
    pub running_mean: u64,
    pub running_var: u64,
    pub weight: u64,
    pub bias: u64,
    pub table: u64,
    pub channels: u64,
    pub flags: u32,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ChannelTableParams"][::std::mem::size_of::<ChannelTableParams>() - 56usize];
    ["Alignment of ChannelTableParams"][::std::mem::align_of::<ChannelTableParams>() - 8usize];
    ["Offset of field: ChannelTableParams::running_mean"]
        [::std::mem::offset_of!(ChannelTableParams, running_mean) - 0usize];
    ["Offset of field: ChannelTableParams::running_var"]
        [::std::mem::offset_of!(ChannelTableParams, running_var) - 8usize];
    ["Offset of field: ChannelTableParams::weight"][::std::mem::offset_of!(ChannelTableParams, weight) - 16usize];
    ["Offset of field: ChannelTableParams::bias"][::std::mem::offset_of!(ChannelTableParams, bias) - 24usize];
    ["Offset of field: ChannelTableParams::table"][::std::mem::offset_of!(ChannelTableParams, table) - 32usize];
    ["Offset of field: ChannelTableParams::channels"][::std::mem::offset_of!(ChannelTableParams, channels) - 40usize];
    ["Offset of field: ChannelTableParams::flags"][::std::mem::offset_of!(ChannelTableParams, flags) - 48usize];
    ["Offset of field: ChannelTableParams::eps"][::std::mem::offset_of!(ChannelTableParams, eps) - 52usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct ConvolutionParams {
    pub x: u64,
    pub weight: u64,
    pub bias: u64,
    pub residual: u64,
    pub y: u64,
    pub length: u64,
    pub in_channels: u32,
    pub out_channels: u32,
    pub groups: u32,
    pub in_height: u32,
    pub in_width: u32,
    pub out_height: u32,
    pub out_width: u32,
    pub kernel_height: u32,
    pub kernel_width: u32,
    pub stride: u32,
    pub padding: u32,
    pub activation: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvolutionParams"][::std::mem::size_of::<ConvolutionParams>() - 96usize];
    ["Alignment of ConvolutionParams"][::std::mem::align_of::<ConvolutionParams>() - 8usize];
    ["Offset of field: ConvolutionParams::x"][::std::mem::offset_of!(ConvolutionParams, x) - 0usize];
    ["Offset of field: ConvolutionParams::weight"][::std::mem::offset_of!(ConvolutionParams, weight) - 8usize];
    ["Offset of field: ConvolutionParams::bias"][::std::mem::offset_of!(ConvolutionParams, bias) - 16usize];
    ["Offset of field: ConvolutionParams::residual"][::std::mem::offset_of!(ConvolutionParams, residual) - 24usize];
    ["Offset of field: ConvolutionParams::y"][::std::mem::offset_of!(ConvolutionParams, y) - 32usize];
    ["Offset of field: ConvolutionParams::length"][::std::mem::offset_of!(ConvolutionParams, length) - 40usize];
    ["Offset of field: ConvolutionParams::in_channels"]
        [::std::mem::offset_of!(ConvolutionParams, in_channels) - 48usize];
    ["Offset of field: ConvolutionParams::out_channels"]
        [::std::mem::offset_of!(ConvolutionParams, out_channels) - 52usize];
    ["Offset of field: ConvolutionParams::groups"][::std::mem::offset_of!(ConvolutionParams, groups) - 56usize];
    ["Offset of field: ConvolutionParams::in_height"][::std::mem::offset_of!(ConvolutionParams, in_height) - 60usize];
    ["Offset of field: ConvolutionParams::in_width"][::std::mem::offset_of!(ConvolutionParams, in_width) - 64usize];
    ["Offset of field: ConvolutionParams::out_height"][::std::mem::offset_of!(ConvolutionParams, out_height) - 68usize];
    ["Offset of field: ConvolutionParams::out_width"][::std::mem::offset_of!(ConvolutionParams, out_width) - 72usize];
    ["Offset of field: ConvolutionParams::kernel_height"]
        [::std::mem::offset_of!(ConvolutionParams, kernel_height) - 76usize];
    ["Offset of field: ConvolutionParams::kernel_width"]
        [::std::mem::offset_of!(ConvolutionParams, kernel_width) - 80usize];
    ["Offset of field: ConvolutionParams::stride"][::std::mem::offset_of!(ConvolutionParams, stride) - 84usize];
    ["Offset of field: ConvolutionParams::padding"][::std::mem::offset_of!(ConvolutionParams, padding) - 88usize];
    ["Offset of field: ConvolutionParams::activation"][::std::mem::offset_of!(ConvolutionParams, activation) - 92usize];
};
#[repr(u32)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum Kernel {
    rows_group_16_f32 = 0,
    rows_group_32_f32 = 1,
    rows_shared_f32 = 2,
    rows_any_shared_f32 = 3,
    rows_long_f32 = 4,
    rows_group_16_f16 = 5,
    rows_group_32_f16 = 6,
    rows_shared_f16 = 7,
    rows_any_shared_f16 = 8,
    rows_long_f16 = 9,
    rows_group_16_bf16 = 10,
    rows_group_32_bf16 = 11,
    rows_shared_bf16 = 12,
    rows_any_shared_bf16 = 13,
    rows_long_bf16 = 14,
    fused_rows_group_16_f32 = 15,
    fused_rows_shared_f32 = 16,
    fused_rows_any_shared_f32 = 17,
    fused_rows_long_f32 = 18,
    fused_rows_group_16_f16 = 19,
    fused_rows_shared_f16 = 20,
    fused_rows_any_shared_f16 = 21,
    fused_rows_long_f16 = 22,
    fused_rows_group_16_bf16 = 23,
    fused_rows_shared_bf16 = 24,
    fused_rows_any_shared_bf16 = 25,
    fused_rows_long_bf16 = 26,
    head_rows_group_16_f32 = 27,
    head_rows_any_f32 = 28,
    head_rows_group_16_f16 = 29,
    head_rows_any_f16 = 30,
    head_rows_group_16_bf16 = 31,
    head_rows_any_bf16 = 32,
    pointwise_planes_f32 = 33,
    pointwise_channels_last_f32 = 34,
    pointwise_table_f32 = 35,
    pointwise_planes_f16 = 36,
    pointwise_channels_last_f16 = 37,
    pointwise_table_f16 = 38,
    pointwise_planes_bf16 = 39,
    pointwise_channels_last_bf16 = 40,
    pointwise_table_bf16 = 41,
    channels_last_moments_f32 = 42,
    channels_last_apply_f32 = 43,
    channels_last_any_moments_f32 = 44,
    channels_last_any_apply_f32 = 45,
    channels_last_resident_f32 = 46,
    channels_last_any_resident_f32 = 47,
    channels_last_moments_f16 = 48,
    channels_last_apply_f16 = 49,
    channels_last_any_moments_f16 = 50,
    channels_last_any_apply_f16 = 51,
    channels_last_resident_f16 = 52,
    channels_last_any_resident_f16 = 53,
    channels_last_moments_bf16 = 54,
    channels_last_apply_bf16 = 55,
    channels_last_any_moments_bf16 = 56,
    channels_last_any_apply_bf16 = 57,
    channels_last_resident_bf16 = 58,
    channels_last_any_resident_bf16 = 59,
    batch_statistics_planes_f32 = 60,
    batch_statistics_planes_resident_f32 = 61,
    batch_statistics_planes_f16 = 62,
    batch_statistics_planes_resident_f16 = 63,
    batch_statistics_planes_bf16 = 64,
    batch_statistics_planes_resident_bf16 = 65,
    convolution_direct_f32 = 66,
}
pub const KERNELS: [Kernel; 67] = [
    Kernel::rows_group_16_f32,
    Kernel::rows_group_32_f32,
    Kernel::rows_shared_f32,
    Kernel::rows_any_shared_f32,
    Kernel::rows_long_f32,
    Kernel::rows_group_16_f16,
    Kernel::rows_group_32_f16,
    Kernel::rows_shared_f16,
    Kernel::rows_any_shared_f16,
    Kernel::rows_long_f16,
    Kernel::rows_group_16_bf16,
    Kernel::rows_group_32_bf16,
    Kernel::rows_shared_bf16,
    Kernel::rows_any_shared_bf16,
    Kernel::rows_long_bf16,
    Kernel::fused_rows_group_16_f32,
    Kernel::fused_rows_shared_f32,
    Kernel::fused_rows_any_shared_f32,
    Kernel::fused_rows_long_f32,
    Kernel::fused_rows_group_16_f16,
    Kernel::fused_rows_shared_f16,
    Kernel::fused_rows_any_shared_f16,
    Kernel::fused_rows_long_f16,
    Kernel::fused_rows_group_16_bf16,
    Kernel::fused_rows_shared_bf16,
    Kernel::fused_rows_any_shared_bf16,
    Kernel::fused_rows_long_bf16,
    Kernel::head_rows_group_16_f32,
    Kernel::head_rows_any_f32,
    Kernel::head_rows_group_16_f16,
    Kernel::head_rows_any_f16,
    Kernel::head_rows_group_16_bf16,
    Kernel::head_rows_any_bf16,
    Kernel::pointwise_planes_f32,
    Kernel::pointwise_channels_last_f32,
    Kernel::pointwise_table_f32,
    Kernel::pointwise_planes_f16,
    Kernel::pointwise_channels_last_f16,
    Kernel::pointwise_table_f16,
    Kernel::pointwise_planes_bf16,
    Kernel::pointwise_channels_last_bf16,
    Kernel::pointwise_table_bf16,
    Kernel::channels_last_moments_f32,
    Kernel::channels_last_apply_f32,
    Kernel::channels_last_any_moments_f32,
    Kernel::channels_last_any_apply_f32,
    Kernel::channels_last_resident_f32,
    Kernel::channels_last_any_resident_f32,
    Kernel::channels_last_moments_f16,
    Kernel::channels_last_apply_f16,
    Kernel::channels_last_any_moments_f16,
    Kernel::channels_last_any_apply_f16,
    Kernel::channels_last_resident_f16,
    Kernel::channels_last_any_resident_f16,
    Kernel::channels_last_moments_bf16,
    Kernel::channels_last_apply_bf16,
    Kernel::channels_last_any_moments_bf16,
    Kernel::channels_last_any_apply_bf16,
    Kernel::channels_last_resident_bf16,
    Kernel::channels_last_any_resident_bf16,
    Kernel::batch_statistics_planes_f32,
    Kernel::batch_statistics_planes_resident_f32,
    Kernel::batch_statistics_planes_f16,
    Kernel::batch_statistics_planes_resident_f16,
    Kernel::batch_statistics_planes_bf16,
    Kernel::batch_statistics_planes_resident_bf16,
    Kernel::convolution_direct_f32,
];
pub const KERNEL_NAMES: [&::std::ffi::CStr; 67] = [
    c"rows_group_16_f32",
    c"rows_group_32_f32",
    c"rows_shared_f32",
    c"rows_any_shared_f32",
    c"rows_long_f32",
    c"rows_group_16_f16",
    c"rows_group_32_f16",
    c"rows_shared_f16",
    c"rows_any_shared_f16",
    c"rows_long_f16",
    c"rows_group_16_bf16",
    c"rows_group_32_bf16",
    c"rows_shared_bf16",
    c"rows_any_shared_bf16",
    c"rows_long_bf16",
    c"fused_rows_group_16_f32",
    c"fused_rows_shared_f32",
    c"fused_rows_any_shared_f32",
    c"fused_rows_long_f32",
    c"fused_rows_group_16_f16",
    c"fused_rows_shared_f16",
    c"fused_rows_any_shared_f16",
    c"fused_rows_long_f16",
    c"fused_rows_group_16_bf16",
    c"fused_rows_shared_bf16",
    c"fused_rows_any_shared_bf16",
    c"fused_rows_long_bf16",
    c"head_rows_group_16_f32",
    c"head_rows_any_f32",
    c"head_rows_group_16_f16",
    c"head_rows_any_f16",
    c"head_rows_group_16_bf16",
    c"head_rows_any_bf16",
    c"pointwise_planes_f32",
    c"pointwise_channels_last_f32",
    c"pointwise_table_f32",
    c"pointwise_planes_f16",
    c"pointwise_channels_last_f16",
    c"pointwise_table_f16",
    c"pointwise_planes_bf16",
    c"pointwise_channels_last_bf16",
    c"pointwise_table_bf16",
    c"channels_last_moments_f32",
    c"channels_last_apply_f32",
    c"channels_last_any_moments_f32",
    c"channels_last_any_apply_f32",
    c"channels_last_resident_f32",
    c"channels_last_any_resident_f32",
    c"channels_last_moments_f16",
    c"channels_last_apply_f16",
    c"channels_last_any_moments_f16",
    c"channels_last_any_apply_f16",
    c"channels_last_resident_f16",
    c"channels_last_any_resident_f16",
    c"channels_last_moments_bf16",
    c"channels_last_apply_bf16",
    c"channels_last_any_moments_bf16",
    c"channels_last_any_apply_bf16",
    c"channels_last_resident_bf16",
    c"channels_last_any_resident_bf16",
    c"batch_statistics_planes_f32",
    c"batch_statistics_planes_resident_f32",
    c"batch_statistics_planes_f16",
    c"batch_statistics_planes_resident_f16",
    c"batch_statistics_planes_bf16",
    c"batch_statistics_planes_resident_bf16",
    c"convolution_direct_f32",
];
