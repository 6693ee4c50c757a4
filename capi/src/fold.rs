//! Folding.

use half::{bf16, f16};
use std::ffi::c_void;
use warpnorm_rs::fold::{
    Affine, BatchNormParams, Branch, FoldReport, Layer, LinearOp, Padding, Placement, RoundingReport, Values,
    largest_kernel, merge_branches_into,
};
use warpnorm_rs::{Element, Shape};

use crate::device::{given, put};
use crate::layer::extent;
use crate::status::{Refusal, Result, guarded, wn_status};
use crate::types::{
    wn_affine, wn_affine_kind, wn_array, wn_branch, wn_branch_kind, wn_dtype, wn_fold_report, wn_linear,
    wn_linear_kind, wn_padding, wn_rounding,
};

const F32: i32 = wn_dtype::F32 as i32;
const F16: i32 = wn_dtype::F16 as i32;
const BF16: i32 = wn_dtype::Bf16 as i32;
const F64: i32 = wn_dtype::F64 as i32;

/// Folds maps of channels into a layer: `before` feed it and `after` follow it, each in the order in which they apply. All
/// arithmetic is in f64, and every result is rounded to its type, of `wn_dtype` but f64, once. Arrays lie in the memory of
/// the process. The folded weight is as long as the layer's, the bias has one element for each output channel. `report`
/// may be null. Nothing is written where the fold is refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_fold(
    linear: *const wn_linear,
    before: *const wn_affine,
    before_count: u64,
    after: *const wn_affine,
    after_count: u64,
    dtype: i32,
    weight: *mut c_void,
    weight_len: i64,
    bias: *mut c_void,
    bias_len: i64,
    report: *mut wn_fold_report,
) -> wn_status {
    let body = || {
        // SAFETY: as the caller promised.
        let (linear, before, after) = unsafe {
            let linear = given(linear, "linear")?;
            (linear, chain(before, before_count, "before")?, chain(after, after_count, "after")?)
        };
        let padding = padding(linear.padding)?;
        // SAFETY: as the caller promised.
        let parts = unsafe { Parts::of(linear)? };
        let op = parts.op();
        let (weight_len, bias_len) = (extent(weight_len, "weight_len")?, extent(bias_len, "bias_len")?);
        let before = before.as_ref().map(|before| (before, padding));
        // SAFETY: as the caller promised.
        let done = unsafe {
            match dtype {
                F32 => fold::<f32>(&op, before, after.as_ref(), weight, weight_len, bias, bias_len),
                F16 => fold::<f16>(&op, before, after.as_ref(), weight, weight_len, bias, bias_len),
                BF16 => fold::<bf16>(&op, before, after.as_ref(), weight, weight_len, bias, bias_len),
                _ => Err(no_type(dtype)),
            }
        }?;
        if !report.is_null() {
            // SAFETY: as the caller promised.
            unsafe { put(report, summary(&done), "report")? };
        }
        Ok(())
    };
    guarded(body)
}

/// Merges parallel branches, whose outputs are added, into one convolution: a block of RepVGG or MobileOne, say. Its weight
/// has the shape, and it computes by the strides, dilations and pads, of the branch with the most taps, whose place among
/// the branches `largest` is told, unless that is null. Types, arrays and `report` are as with `wn_fold`. Nothing is written
/// where the merge is refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wn_fold_branches(
    branches: *const wn_branch,
    branch_count: u64,
    dtype: i32,
    weight: *mut c_void,
    weight_len: i64,
    bias: *mut c_void,
    bias_len: i64,
    largest: *mut u64,
    report: *mut wn_fold_report,
) -> wn_status {
    let body = || {
        let count =
            usize::try_from(branch_count).map_err(|_| Refusal::value(format!("`branch_count` is {branch_count}")))?;
        // SAFETY: as the caller promised.
        let given = unsafe { read::<wn_branch>(branches.cast(), count, "branches")? };
        // SAFETY: as the caller promised.
        let terms = given.iter().map(|branch| unsafe { Term::of(branch) }).collect::<Result<Vec<_>>>()?;
        let terms = terms.iter().map(Term::branch).collect::<Vec<_>>();
        let (weight_len, bias_len) = (extent(weight_len, "weight_len")?, extent(bias_len, "bias_len")?);
        // SAFETY: as the caller promised.
        let done = unsafe {
            match dtype {
                F32 => merge::<f32>(&terms, weight, weight_len, bias, bias_len),
                F16 => merge::<f16>(&terms, weight, weight_len, bias, bias_len),
                BF16 => merge::<bf16>(&terms, weight, weight_len, bias, bias_len),
                _ => Err(no_type(dtype)),
            }
        }?;
        // SAFETY: as the caller promised.
        unsafe {
            if !largest.is_null() {
                put(largest, largest_kernel(&terms)? as u64, "largest")?;
            }
            if !report.is_null() {
                put(report, summary(&done), "report")?;
            }
        }
        Ok(())
    };
    guarded(body)
}

/// A layer with its arrays.
struct Parts<'a> {
    layer: Layer,
    weight: Values<'a>,
    shape: [usize; Shape::MAX_RANK],
    rank: usize,
    bias: Option<Values<'a>>,
}

impl<'a> Parts<'a> {
    /// # Safety
    /// Its arrays are as long as they say.
    unsafe fn of(linear: &wn_linear) -> Result<Self> {
        let layer = layer(linear)?;
        let rank = extent(linear.weight_rank, "weight_rank")?;
        if rank > Shape::MAX_RANK {
            return Err(warpnorm_rs::Error::Rank { found: rank, limit: Shape::MAX_RANK }.into());
        }
        let mut shape = [0; Shape::MAX_RANK];
        for (to, &from) in shape.iter_mut().zip(&linear.weight_shape).take(rank) {
            *to = extent(from, "weight_shape")?;
        }
        // SAFETY: as the caller promised.
        let (weight, bias) =
            unsafe { (values(&linear.weight, "linear.weight")?, values(&linear.bias, "linear.bias")?) };
        let weight = weight.ok_or_else(|| Refusal::null("linear.weight.data"))?;
        Ok(Self { layer, weight, shape, rank, bias })
    }

    /// Axes of a convolution's kernel; a weight that has too few or too many is refused by others.
    fn axes(&self) -> usize {
        self.rank.saturating_sub(2).min(3)
    }

    fn op(&self) -> LinearOp<'_> {
        let op = LinearOp::new(self.layer, self.weight, &self.shape[..self.rank]);
        self.bias.map_or(op, |bias| op.bias(bias))
    }
}

/// A branch.
struct Term<'a> {
    /// `None` of an identity.
    conv: Option<Parts<'a>>,
    strides: [usize; 3],
    dilations: [usize; 3],
    pads_begin: [usize; 3],
    pads_end: [usize; 3],
    after: Option<Affine>,
}

impl<'a> Term<'a> {
    /// # Safety
    /// Its arrays and its list of maps are as long as they say.
    unsafe fn of(branch: &'a wn_branch) -> Result<Self> {
        const CONV: i32 = wn_branch_kind::Conv as i32;
        const IDENTITY: i32 = wn_branch_kind::Identity as i32;
        if branch.reserved != 0 {
            return Err(Refusal::value("`reserved` of a branch is not zero"));
        }
        let linear = &branch.linear;
        let conv = match branch.kind {
            CONV => {
                padding(linear.padding)?;
                // SAFETY: as the caller promised.
                Some(unsafe { Parts::of(linear)? })
            }
            IDENTITY if !linear.weight.data.is_null() || !linear.bias.data.is_null() => {
                return Err(Refusal::value("a branch of WN_BRANCH_KIND_IDENTITY has no weight and no bias"));
            }
            IDENTITY => None,
            kind => return Err(Refusal::value(format!("`kind` of a branch is {kind}, which is none"))),
        };
        let axes = conv.as_ref().map_or(0, Parts::axes);
        let list = |from: &[i64; 3], argument: &str| -> Result<[usize; 3]> {
            let mut list = [0; 3];
            for (to, &from) in list.iter_mut().zip(from).take(axes) {
                *to = extent(from, argument)?;
            }
            Ok(list)
        };
        Ok(Self {
            strides: list(&branch.strides, "strides")?,
            dilations: list(&branch.dilations, "dilations")?,
            pads_begin: list(&branch.pads_begin, "pads_begin")?,
            pads_end: list(&branch.pads_end, "pads_end")?,
            // SAFETY: as the caller promised.
            after: unsafe { chain(branch.after, branch.after_count, "after")? },
            conv,
        })
    }

    fn branch(&self) -> Branch<'_> {
        let branch = self.conv.as_ref().map_or_else(Branch::identity, |parts| {
            let axes = parts.axes();
            let placement = Placement {
                strides: &self.strides[..axes],
                dilations: &self.dilations[..axes],
                pads_begin: &self.pads_begin[..axes],
                pads_end: &self.pads_end[..axes],
            };
            Branch::conv(parts.op(), placement)
        });
        self.after.as_ref().map_or(branch, |after| branch.after(after))
    }
}

/// # Safety
/// As of [`fold`].
unsafe fn merge<T: Element>(
    branches: &[Branch<'_>],
    weight: *mut c_void,
    weight_len: usize,
    bias: *mut c_void,
    bias_len: usize,
) -> Result<FoldReport> {
    // SAFETY: as the caller promised.
    let (weight, bias) =
        unsafe { (written::<T>(weight, weight_len, "weight")?, written::<T>(bias, bias_len, "bias")?) };
    Ok(merge_branches_into(branches, weight, bias)?)
}

fn no_type(dtype: i32) -> Refusal {
    Refusal::value(format!("`dtype` is {dtype}, which is no type of a folded layer"))
}

/// # Safety
/// The pointers are null or point to as many elements, which are initialized or of any bits, and nobody else uses.
unsafe fn fold<T: Element>(
    op: &LinearOp<'_>,
    before: Option<(&Affine, Padding)>,
    after: Option<&Affine>,
    weight: *mut c_void,
    weight_len: usize,
    bias: *mut c_void,
    bias_len: usize,
) -> Result<FoldReport> {
    // SAFETY: as the caller promised.
    let (weight, bias) =
        unsafe { (written::<T>(weight, weight_len, "weight")?, written::<T>(bias, bias_len, "bias")?) };
    Ok(op.fold_into(before, after, weight, bias)?)
}

/// # Safety
/// As of [`fold`].
unsafe fn written<'a, T>(pointer: *mut c_void, len: usize, argument: &str) -> Result<&'a mut [T]> {
    check::<T>(pointer, len, argument)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as the caller promised; not null, aligned, and no longer than memory.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer.cast(), len) })
}

fn check<T>(pointer: *const c_void, len: usize, argument: &str) -> Result<()> {
    if len > 0 && pointer.is_null() {
        return Err(Refusal::null(argument));
    }
    if len > isize::MAX as usize / size_of::<T>() {
        return Err(Refusal::value(format!("`{argument}` has a length of {len}")));
    }
    if len > 0 && !pointer.addr().is_multiple_of(align_of::<T>()) {
        let message = format!("`{argument}` lies at {pointer:p}, which is not a multiple of {} bytes", align_of::<T>());
        return Err(Refusal { status: wn_status::Misaligned, message });
    }
    Ok(())
}

/// `None` for an array without data.
///
/// # Safety
/// Its data is null or as many elements of its type.
unsafe fn values<'a>(array: &wn_array, argument: &str) -> Result<Option<Values<'a>>> {
    if array.reserved != 0 {
        return Err(Refusal::value(format!("`reserved` of `{argument}` is not zero")));
    }
    if array.data.is_null() {
        return match array.len {
            0 => Ok(None),
            _ => Err(Refusal::null(argument)),
        };
    }
    let len = extent(array.len, argument)?;
    // SAFETY: as the caller promised.
    let values = unsafe {
        match array.dtype {
            F32 => Values::F32(read(array.data, len, argument)?),
            F16 => Values::F16(read(array.data, len, argument)?),
            BF16 => Values::Bf16(read(array.data, len, argument)?),
            F64 => Values::F64(read(array.data, len, argument)?),
            code => return Err(Refusal::value(format!("`dtype` of `{argument}` is {code}, which is no type"))),
        }
    };
    Ok(Some(values))
}

/// # Safety
/// The pointer is null or points to as many elements.
pub(crate) unsafe fn read<'a, T>(pointer: *const c_void, len: usize, argument: &str) -> Result<&'a [T]> {
    check::<T>(pointer, len, argument)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: as the caller promised; not null, aligned, and no longer than memory.
    Ok(unsafe { std::slice::from_raw_parts(pointer.cast(), len) })
}

/// The composition of maps; `None` of none.
///
/// # Safety
/// The list is null or holds as many maps, whose arrays are as long as they say.
unsafe fn chain(list: *const wn_affine, count: u64, argument: &str) -> Result<Option<Affine>> {
    let mut composed: Option<Affine> = None;
    let count = usize::try_from(count).map_err(|_| Refusal::value(format!("`{argument}_count` is {count}")))?;
    for index in 0..count {
        // SAFETY: as the caller promised.
        let next = unsafe { affine(given(list, argument).and_then(|_| given(list.wrapping_add(index), argument))?)? };
        composed = Some(match composed {
            Some(first) => first.then(&next)?,
            None => next,
        });
    }
    Ok(composed)
}

/// # Safety
/// Its arrays are as long as they say.
unsafe fn affine(map: &wn_affine) -> Result<Affine> {
    const BATCH_NORM: i32 = wn_affine_kind::BatchNorm as i32;
    const SCALE_SHIFT: i32 = wn_affine_kind::ScaleShift as i32;
    if map.reserved != 0 {
        return Err(Refusal::value("`reserved` of a map is not zero"));
    }
    // SAFETY: as the caller promised.
    let (mean, var, weight, bias) = unsafe {
        (
            values(&map.running_mean, "running_mean")?,
            values(&map.running_var, "running_var")?,
            values(&map.weight, "weight")?,
            values(&map.bias, "bias")?,
        )
    };
    match map.kind {
        BATCH_NORM => {
            let mean = mean.ok_or_else(|| Refusal::null("running_mean"))?;
            let var = var.ok_or_else(|| Refusal::null("running_var"))?;
            let mut params = BatchNormParams::new(mean, var, map.eps);
            if let Some(weight) = weight {
                params = params.weight(weight);
            }
            if let Some(bias) = bias {
                params = params.bias(bias);
            }
            Ok(params.affine()?)
        }
        SCALE_SHIFT if mean.is_some() || var.is_some() => {
            Err(Refusal::value("a map of WN_AFFINE_KIND_SCALE_SHIFT has no running statistics"))
        }
        SCALE_SHIFT => match (weight, bias) {
            (Some(weight), Some(bias)) => Ok(Affine::from_scale(weight)?.then(&Affine::from_shift(bias)?)?),
            (Some(weight), None) => Ok(Affine::from_scale(weight)?),
            (None, Some(bias)) => Ok(Affine::from_shift(bias)?),
            (None, None) => Err(Refusal::null("weight")),
        },
        kind => Err(Refusal::value(format!("`kind` of a map is {kind}, which is none"))),
    }
}

fn layer(linear: &wn_linear) -> Result<Layer> {
    const CONV: i32 = wn_linear_kind::Conv as i32;
    const CONV_TRANSPOSE: i32 = wn_linear_kind::ConvTranspose as i32;
    const LINEAR: i32 = wn_linear_kind::Linear as i32;
    const MAT_MUL: i32 = wn_linear_kind::MatMul as i32;
    let groups = extent(linear.groups, "groups")?;
    match linear.kind {
        CONV => Ok(Layer::Conv { groups }),
        CONV_TRANSPOSE => Ok(Layer::ConvTranspose { groups }),
        LINEAR if groups == 1 => Ok(Layer::Linear),
        MAT_MUL if groups == 1 => Ok(Layer::MatMul),
        LINEAR | MAT_MUL => Err(Refusal::value(format!("a linear layer of {groups} groups: it has 1"))),
        kind => Err(Refusal::value(format!("`kind` of a layer is {kind}, which is none"))),
    }
}

fn padding(code: i32) -> Result<Padding> {
    const NONE: i32 = wn_padding::None as i32;
    const ZEROS: i32 = wn_padding::Zeros as i32;
    const REFLECT: i32 = wn_padding::Reflect as i32;
    const REPLICATE: i32 = wn_padding::Replicate as i32;
    const CIRCULAR: i32 = wn_padding::Circular as i32;
    match code {
        NONE => Ok(Padding::None),
        ZEROS => Ok(Padding::Zeros),
        REFLECT => Ok(Padding::Reflect),
        REPLICATE => Ok(Padding::Replicate),
        CIRCULAR => Ok(Padding::Circular),
        _ => Err(Refusal::value(format!("`padding` is {code}, which is none"))),
    }
}

fn summary(report: &FoldReport) -> wn_fold_report {
    let maps = || [&report.before, &report.after].into_iter().flatten();
    wn_fold_report {
        max_abs_scale: maps().fold(0.0, |most, map| map.max_abs_scale.max(most)),
        min_var_plus_eps: maps().filter_map(|map| map.min_var_plus_eps).fold(f64::INFINITY, f64::min),
        dead_channels: maps().map(|map| map.dead_channels.len() as u64).sum(),
        warnings: maps().map(|map| map.warnings.len() as u64).sum(),
        weight: rounding(&report.weight),
        bias: rounding(&report.bias),
    }
}

fn rounding(report: &RoundingReport) -> wn_rounding {
    wn_rounding { max_abs: report.max_abs, subnormal: report.subnormal as u64, underflowed: report.underflowed as u64 }
}
