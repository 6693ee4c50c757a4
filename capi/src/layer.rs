//! Descriptors of layers, and signatures: from integers to the crate's types.

use warpnorm_rs::raw::{Call, Device};
use warpnorm_rs::{
    Activation, BatchNorm, DType, GroupNorm, InstanceNorm, LayerNorm, Layout, QuantizedType, RmsNorm, Rounding,
    Scaling, Shape, Signature,
};

use crate::device::put;
use crate::status::{Refusal, Result, guarded, wn_status};
use crate::types::{
    wn_activation, wn_dtype, wn_kind, wn_layer, wn_layer_flag, wn_layout, wn_scaling, wn_signature, wn_signature_flag,
};

const BLANK: wn_layer = wn_layer {
    kind: 0,
    layout: wn_layout::Nchw as i32,
    activation: wn_activation::None as i32,
    flags: 0,
    normalized_rank: 0,
    normalized_shape: [0; 8],
    num_channels: 0,
    num_groups: 0,
    eps: 1e-5,
    momentum: 0.1,
    reserved: [0; 4],
};

/// LayerNorm over the trailing extents `normalized_shape`, with an eps of 1e-5.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_layer_norm(layer: *mut wn_layer, rank: i64, normalized_shape: *const i64) -> wn_status {
    guarded(|| {
        // SAFETY: as the caller promised.
        let (normalized_rank, normalized_shape) = unsafe { extents(rank, normalized_shape, "normalized_shape")? };
        let filled = wn_layer { kind: wn_kind::LayerNorm as i32, normalized_rank, normalized_shape, ..BLANK };
        // SAFETY: as the caller promised.
        unsafe { put_checked(layer, filled) }
    })
}

/// RMSNorm over the trailing extents `normalized_shape`. Its eps has no default: models differ.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_rms_norm(
    layer: *mut wn_layer,
    rank: i64,
    normalized_shape: *const i64,
    eps: f64,
) -> wn_status {
    guarded(|| {
        // SAFETY: as the caller promised.
        let (normalized_rank, normalized_shape) = unsafe { extents(rank, normalized_shape, "normalized_shape")? };
        let filled = wn_layer { kind: wn_kind::RmsNorm as i32, normalized_rank, normalized_shape, eps, ..BLANK };
        // SAFETY: as the caller promised.
        unsafe { put_checked(layer, filled) }
    })
}

/// GroupNorm of `num_groups` groups, which divide `num_channels`, with an eps of 1e-5, in NCHW.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_group_norm(layer: *mut wn_layer, num_groups: i64, num_channels: i64) -> wn_status {
    let filled = wn_layer { kind: wn_kind::GroupNorm as i32, num_groups, num_channels, ..BLANK };
    // SAFETY: as the caller promised.
    guarded(|| unsafe { put_checked(layer, filled) })
}

/// InstanceNorm of `num_channels` channels, with an eps of 1e-5, in NCHW.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_instance_norm(layer: *mut wn_layer, num_channels: i64) -> wn_status {
    let filled = wn_layer { kind: wn_kind::InstanceNorm as i32, num_channels, ..BLANK };
    // SAFETY: as the caller promised.
    guarded(|| unsafe { put_checked(layer, filled) })
}

/// BatchNorm of `num_channels` channels by running statistics, with an eps of 1e-5, in NCHW.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_batch_norm(layer: *mut wn_layer, num_channels: i64) -> wn_status {
    let filled = wn_layer { kind: wn_kind::BatchNorm as i32, num_channels, ..BLANK };
    // SAFETY: as the caller promised.
    guarded(|| unsafe { put_checked(layer, filled) })
}

/// A call on tensors of this shape and type, without anything beside input and output.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_signature_init(
    signature: *mut wn_signature,
    rank: i64,
    shape: *const i64,
    dtype: i32,
) -> wn_status {
    guarded(|| {
        // SAFETY: as the caller promised.
        let (rank, shape) = unsafe { extents(rank, shape, "shape")? };
        tensor_type(dtype)?;
        let filled = wn_signature {
            dtype,
            flags: 0,
            rank,
            shape,
            weight: 0,
            bias: 0,
            scale: 0,
            shift: 0,
            channel_bias: 0,
            gate: 0,
            input_bias: 0,
            output: 0,
            post_norm_weight: 0,
            post_norm_bias: 0,
            scaling: 0,
            reserved: 0,
            input_row_stride: 0,
            residual_row_stride: 0,
            second_residual_row_stride: 0,
            sum_row_stride: 0,
            output_row_stride: 0,
        };
        // SAFETY: as the caller promised.
        unsafe { put(signature, filled, "signature") }
    })
}

/// # Safety
/// As of [`put`].
unsafe fn put_checked(place: *mut wn_layer, filled: wn_layer) -> Result<()> {
    Layer::of(&filled)?;
    // SAFETY: as the caller promised.
    unsafe { put(place, filled, "layer") }
}

/// # Safety
/// `list` is null or holds `rank` extents.
unsafe fn extents(rank: i64, list: *const i64, argument: &str) -> Result<(i64, [i64; 8])> {
    let mut extents = [0; 8];
    let count = rank_of(rank)?;
    if count > 0 && list.is_null() {
        return Err(Refusal::null(argument));
    }
    for (index, extent) in extents.iter_mut().enumerate().take(count) {
        // SAFETY: as the caller promised; fewer than `rank`.
        *extent = unsafe { list.add(index).read_unaligned() };
    }
    Ok((rank, extents))
}

fn rank_of(rank: i64) -> Result<usize> {
    match usize::try_from(rank) {
        Ok(count) if count <= Shape::MAX_RANK => Ok(count),
        Ok(found) => Err(warpnorm_rs::Error::Rank { found, limit: Shape::MAX_RANK }.into()),
        Err(_) => Err(Refusal::value(format!("a rank of {rank}"))),
    }
}

fn shape(rank: i64, extents: &[i64; 8], argument: &str) -> Result<Shape> {
    let mut converted = [0; 8];
    let count = rank_of(rank)?;
    for (to, &from) in converted.iter_mut().zip(extents).take(count) {
        *to = extent(from, argument)?;
    }
    Ok(Shape::new(&converted[..count])?)
}

pub(crate) fn extent(value: i64, argument: &str) -> Result<usize> {
    usize::try_from(value).map_err(|_| Refusal::value(format!("an extent of {value} in `{argument}`")))
}

fn tensor_type(code: i32) -> Result<DType> {
    optional_type(code, "dtype")?.ok_or_else(|| Refusal::value("`dtype` is WN_DTYPE_NONE"))
}

pub(crate) fn optional_type(code: i32, argument: &str) -> Result<Option<DType>> {
    const NONE: i32 = wn_dtype::None as i32;
    const F32: i32 = wn_dtype::F32 as i32;
    const F16: i32 = wn_dtype::F16 as i32;
    const BF16: i32 = wn_dtype::Bf16 as i32;
    match code {
        NONE => Ok(None),
        F32 => Ok(Some(DType::F32)),
        F16 => Ok(Some(DType::F16)),
        BF16 => Ok(Some(DType::Bf16)),
        _ => Err(Refusal::value(format!("`{argument}` is {code}, which is no type of a tensor"))),
    }
}

/// Of an output: `None` if that is quantized.
fn output(code: i32, scaling: i32) -> Result<Option<(QuantizedType, Scaling)>> {
    const I8: i32 = wn_dtype::I8 as i32;
    const F8E4M3: i32 = wn_dtype::F8E4M3 as i32;
    const NONE: i32 = wn_scaling::None as i32;
    const STATIC: i32 = wn_scaling::Static as i32;
    const ROWS: i32 = wn_scaling::Rows as i32;
    const GROUPS: i32 = wn_scaling::Groups as i32;
    const GROUPS_BY_COLUMN: i32 = wn_scaling::GroupsByColumn as i32;
    let quantized = match code {
        I8 => QuantizedType::I8,
        F8E4M3 => QuantizedType::F8E4M3,
        _ if scaling == NONE => return Ok(None),
        _ => return Err(Refusal::value(format!("`scaling` is {scaling}, for an output that is not quantized"))),
    };
    match scaling {
        STATIC => Ok(Some((quantized, Scaling::Static))),
        ROWS => Ok(Some((quantized, Scaling::Rows))),
        GROUPS => Ok(Some((quantized, Scaling::Groups))),
        GROUPS_BY_COLUMN => Ok(Some((quantized, Scaling::GroupsByColumn))),
        _ => Err(Refusal::value(format!("`scaling` is {scaling}, which is none for a quantized output"))),
    }
}

fn layout(code: i32) -> Result<Layout> {
    const NCHW: i32 = wn_layout::Nchw as i32;
    const NHWC: i32 = wn_layout::Nhwc as i32;
    match code {
        NCHW => Ok(Layout::Nchw),
        NHWC => Ok(Layout::Nhwc),
        _ => Err(Refusal::value(format!("`layout` is {code}, which is no layout"))),
    }
}

fn activation(code: i32) -> Result<Activation> {
    const NONE: i32 = wn_activation::None as i32;
    const RELU: i32 = wn_activation::Relu as i32;
    const SILU: i32 = wn_activation::Silu as i32;
    const GELU: i32 = wn_activation::Gelu as i32;
    const GELU_TANH: i32 = wn_activation::GeluTanh as i32;
    match code {
        NONE => Ok(Activation::None),
        RELU => Ok(Activation::Relu),
        SILU => Ok(Activation::Silu),
        GELU => Ok(Activation::Gelu),
        GELU_TANH => Ok(Activation::GeluTanh),
        _ => Err(Refusal::value(format!("`activation` is {code}, which is no activation"))),
    }
}

/// What LayerNorm and RMSNorm may have.
const OF_ROWS: [wn_layer_flag; 4] =
    [wn_layer_flag::ScalePlusOne, wn_layer_flag::PostNorm, wn_layer_flag::RoundSteps, wn_layer_flag::RoundNormalized];

/// A descriptor that was checked.
#[allow(clippy::enum_variant_names, reason = "these are the layers' names")]
pub(crate) enum Layer {
    LayerNorm(LayerNorm),
    RmsNorm(RmsNorm),
    GroupNorm(GroupNorm),
    InstanceNorm(InstanceNorm),
    BatchNorm(BatchNorm),
}

impl Layer {
    pub(crate) fn of(layer: &wn_layer) -> Result<Self> {
        const LAYER_NORM: i32 = wn_kind::LayerNorm as i32;
        const RMS_NORM: i32 = wn_kind::RmsNorm as i32;
        const GROUP_NORM: i32 = wn_kind::GroupNorm as i32;
        const INSTANCE_NORM: i32 = wn_kind::InstanceNorm as i32;
        const BATCH_NORM: i32 = wn_kind::BatchNorm as i32;

        if layer.reserved != [0; 4] {
            return Err(Refusal::value("`reserved` of the layer is not zero"));
        }
        let (layout, activation, eps) = (layout(layer.layout)?, activation(layer.activation)?, layer.eps);
        let normalized = || shape(layer.normalized_rank, &layer.normalized_shape, "normalized_shape");
        let channels = || extent(layer.num_channels, "num_channels");
        let allow = |flags: &[wn_layer_flag]| known(layer.flags, flags.iter().map(|&flag| flag as u32), "the layer");
        let has = |flag: wn_layer_flag| layer.flags & flag as u32 != 0;
        let rounding = match () {
            () if has(wn_layer_flag::RoundNormalized) => Rounding::Normalized,
            () if has(wn_layer_flag::RoundSteps) => Rounding::Steps,
            () => Rounding::Once,
        };
        let no_layout = |name| match layout {
            Layout::Nchw => Ok(()),
            Layout::Nhwc => Err(Refusal::value(format!("{name} has no layout: its moments run over trailing axes"))),
        };
        match layer.kind {
            LAYER_NORM => {
                allow(&OF_ROWS)?;
                no_layout("LayerNorm")?;
                let norm = LayerNorm::new(normalized()?)?.eps(eps)?.activation(activation);
                let norm = norm.post_norm(has(wn_layer_flag::PostNorm)).rounding(rounding);
                Ok(Self::LayerNorm(norm.scale_plus_one(has(wn_layer_flag::ScalePlusOne))))
            }
            RMS_NORM => {
                allow(&[&OF_ROWS[..], &[wn_layer_flag::WeightPlusOne]].concat())?;
                no_layout("RMSNorm")?;
                let norm = RmsNorm::new(normalized()?, eps)?.activation(activation);
                let norm = norm.post_norm(has(wn_layer_flag::PostNorm)).rounding(rounding);
                let norm = norm.scale_plus_one(has(wn_layer_flag::ScalePlusOne));
                Ok(Self::RmsNorm(norm.weight_plus_one(has(wn_layer_flag::WeightPlusOne))))
            }
            GROUP_NORM => {
                allow(&[wn_layer_flag::ScalePlusOne])?;
                let norm = GroupNorm::new(extent(layer.num_groups, "num_groups")?, channels()?)?;
                let norm = norm.layout(layout).eps(eps)?.activation(activation);
                Ok(Self::GroupNorm(norm.scale_plus_one(has(wn_layer_flag::ScalePlusOne))))
            }
            INSTANCE_NORM => {
                allow(&[wn_layer_flag::ScalePlusOne, wn_layer_flag::TrackRunningStats])?;
                let norm = InstanceNorm::new(channels()?)?.layout(layout).eps(eps)?.activation(activation);
                let norm = norm.scale_plus_one(has(wn_layer_flag::ScalePlusOne));
                Ok(Self::InstanceNorm(norm.track_running_stats(has(wn_layer_flag::TrackRunningStats))))
            }
            BATCH_NORM => {
                allow(&[wn_layer_flag::BatchStatistics, wn_layer_flag::CumulativeAverage])?;
                let norm = BatchNorm::new(channels()?)?.layout(layout).eps(eps)?.activation(activation);
                let momentum = (!has(wn_layer_flag::CumulativeAverage)).then_some(layer.momentum);
                Ok(Self::BatchNorm(norm.batch_statistics(has(wn_layer_flag::BatchStatistics)).momentum(momentum)?))
            }
            kind => Err(Refusal::value(format!("`kind` is {kind}, which is no layer: fill it by wn_layer_norm, say"))),
        }
    }

    pub(crate) fn prepare(&self, on: &Device, signature: &Signature) -> Result<Call> {
        Ok(match self {
            Self::LayerNorm(layer) => layer.prepare_raw(on, signature)?,
            Self::RmsNorm(layer) => layer.prepare_raw(on, signature)?,
            Self::GroupNorm(layer) => layer.prepare_raw(on, signature)?,
            Self::InstanceNorm(layer) => layer.prepare_raw(on, signature)?,
            Self::BatchNorm(layer) => layer.prepare_raw(on, signature)?,
        })
    }

    pub(crate) fn prepare_table(&self, on: &Device, weight: Option<DType>, bias: Option<DType>) -> Result<Call> {
        let Self::BatchNorm(layer) = self else {
            return Err(Refusal::value("only a BatchNorm has a channel table"));
        };
        let mut signature = Signature::new(layer.weight_shape(), DType::F32);
        if let Some(weight) = weight {
            signature = signature.weight(weight);
        }
        if let Some(bias) = bias {
            signature = signature.bias(bias);
        }
        Ok(layer.prepare_channel_table_raw(on, &signature)?)
    }
}

fn known(flags: u32, allowed: impl Iterator<Item = u32>, of: &str) -> Result<()> {
    match flags & !allowed.fold(0, |all, flag| all | flag) {
        0 => Ok(()),
        unknown => Err(Refusal::value(format!("`flags` of {of} has {unknown:#x}, which does not belong there"))),
    }
}

/// Setters of a signature.
type WithType = fn(Signature, DType) -> Signature;
type WithOption = fn(Signature) -> Signature;
type WithStride = fn(Signature, usize) -> Signature;

pub(crate) fn signature(given: &wn_signature) -> Result<Signature> {
    use wn_signature_flag as Flag;
    let all = [
        Flag::Residual as u32,
        Flag::Sum as u32,
        Flag::SumInResidual as u32,
        Flag::InPlace as u32,
        Flag::ChannelTable as u32,
        Flag::UpdateRunningStatistics as u32,
        Flag::NumBatchesTracked as u32,
        Flag::SecondResidual as u32,
    ];
    known(given.flags, all.into_iter(), "the signature")?;
    let has = |flag: Flag| given.flags & flag as u32 != 0;
    let (sum, sum_in_residual) = (has(Flag::Sum), has(Flag::SumInResidual));
    if sum && sum_in_residual {
        return Err(Refusal::value("a sum of its own and a sum in the residual: it goes to one place"));
    }
    if (sum || sum_in_residual) && !has(Flag::Residual) {
        return Err(Refusal::value("a sum without a residual would be a copy of the input"));
    }
    let mut signature = Signature::new(shape(given.rank, &given.shape, "shape")?, tensor_type(given.dtype)?);
    if given.reserved != 0 {
        return Err(Refusal::value("`reserved` of the signature is not zero"));
    }
    let quantized = output(given.output, given.scaling)?;
    if let Some((quantized, scaling)) = quantized {
        signature = signature.quantized_output(quantized, scaling);
    }
    let types: [(_, _, WithType); 10] = [
        ("weight", given.weight, Signature::weight),
        ("bias", given.bias, Signature::bias),
        ("scale", given.scale, Signature::scale),
        ("shift", given.shift, Signature::shift),
        ("channel_bias", given.channel_bias, Signature::channel_bias),
        ("gate", given.gate, Signature::gate),
        ("input_bias", given.input_bias, Signature::input_bias),
        ("post_norm_weight", given.post_norm_weight, Signature::post_norm_weight),
        ("post_norm_bias", given.post_norm_bias, Signature::post_norm_bias),
        ("output", if quantized.is_some() { 0 } else { given.output }, Signature::output),
    ];
    for (argument, code, set) in types {
        if let Some(dtype) = optional_type(code, argument)? {
            signature = set(signature, dtype);
        }
    }
    let options: [(_, WithOption); 8] = [
        (has(Flag::Residual), Signature::residual),
        (has(Flag::SecondResidual), Signature::second_residual),
        (sum, Signature::sum),
        (sum_in_residual, Signature::sum_in_residual),
        (has(Flag::InPlace), Signature::in_place),
        (has(Flag::ChannelTable), Signature::channel_table),
        (has(Flag::UpdateRunningStatistics), Signature::update_running_statistics),
        (has(Flag::NumBatchesTracked), Signature::num_batches_tracked),
    ];
    for (_, set) in options.into_iter().filter(|(is_set, _)| *is_set) {
        signature = set(signature);
    }
    let strides: [(_, _, WithStride); 5] = [
        ("input_row_stride", given.input_row_stride, Signature::input_row_stride),
        ("residual_row_stride", given.residual_row_stride, Signature::residual_row_stride),
        ("second_residual_row_stride", given.second_residual_row_stride, Signature::second_residual_row_stride),
        ("sum_row_stride", given.sum_row_stride, Signature::sum_row_stride),
        ("output_row_stride", given.output_row_stride, Signature::output_row_stride),
    ];
    for (argument, stride, set) in strides {
        match extent(stride, argument)? {
            0 => {}
            stride => signature = set(signature, stride),
        }
    }
    Ok(signature)
}
