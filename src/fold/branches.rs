//! Parallel branches whose outputs are added become one convolution.

use super::{
    absorb::{Absorption, Folded, LinearOp, check_channels, check_folded},
    affine::Affine,
    error::{FoldError, Side},
    layer::Layer,
    report::FoldReport,
    rounding::RoundingSurvey,
    values::{Widen, with_slice},
};
use crate::element::Element;

/// How a convolution's kernel moves over its input: numbers for each spatial axis, in the order of the weight's axes.
///
/// An empty list is one of ones for strides and dilations, and one of zeros for pads, which [`Placement::default`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Placement<'a> {
    /// From one position of the kernel to the next, in inputs.
    pub strides: &'a [usize],
    /// From one tap of the kernel to the next, in inputs.
    pub dilations: &'a [usize],
    /// Inputs that are added before the first one.
    pub pads_begin: &'a [usize],
    /// Inputs that are added behind the last one.
    pub pads_end: &'a [usize],
}

/// One of the terms of a sum: a convolution or the input itself, and the map behind it.
#[derive(Debug, Clone, Copy)]
pub struct Branch<'a> {
    conv: Option<(LinearOp<'a>, Placement<'a>)>,
    after: Option<&'a Affine>,
}

impl<'a> Branch<'a> {
    /// A convolution, of [`Layer::Conv`].
    #[must_use]
    pub const fn conv(op: LinearOp<'a>, placement: Placement<'a>) -> Self {
        Self { conv: Some((op, placement)), after: None }
    }

    /// The input itself, as in a residual connection.
    #[must_use]
    pub const fn identity() -> Self {
        Self { conv: None, after: None }
    }

    /// Sets the map behind it, of one channel for each output channel.
    #[must_use]
    pub const fn after(mut self, after: &'a Affine) -> Self {
        self.after = Some(after);
        self
    }
}

/// Merges parallel branches into one convolution: the blocks of `RepVGG` and `MobileOne` as they are in inference (Ding et
/// al., "RepVGG: Making VGG-style ConvNets Great Again", 2021, section 3.3). `W` and `B` are the result's element types.
///
/// ```text
/// y = Σ aⱼ·(Wⱼ ∗ x + biasⱼ − centerⱼ) + shiftⱼ        j: the branches, a: the scales of the maps behind them
///
/// W'[o, c, k] = Σ aⱼ[o]·Wⱼ[o, c, k − offsetⱼ]          bias'[o] = Σ aⱼ[o]·(biasⱼ[o] − centerⱼ[o]) + shiftⱼ[o]
/// ```
///
/// A convolution is linear in its kernel, so kernels whose taps meet the same inputs may be added. On each axis a smaller
/// kernel lies in the largest one `offset = (pads_begin of the largest − its own) / dilation` taps behind its beginning; the
/// input itself is a kernel of one tap which is 1 from a channel to itself and else 0. The result is the weight and bias of
/// a convolution with the weight's shape and the [`Placement`] of the branch of the [`largest_kernel`]. All branches read
/// the same input, and where they pad, they pad alike.
///
/// Sums are in f64, in the order of the branches, and rounded to their type once. As each of n terms is off by what
/// [the module](super) says, their sum is off by at most `(n + 3)·u·Σ|aⱼ·Wⱼ|` or
/// `(n + 5)·u·Σ(|aⱼ·(biasⱼ − centerⱼ)| + |shiftⱼ|)` before that.
///
/// The report's `after` is of all maps: the largest scale, the smallest variance, all warnings, and the channels whose scale
/// is 0 in every branch.
///
/// ```
/// use warpnorm::fold::{BatchNormParams, Branch, Folded, Layer, LinearOp, Placement, merge_branches};
///
/// // Conv1d(1, 1, kernel_size=3, padding=1), Conv1d(1, 1, kernel_size=1), and the input with a BatchNorm behind it.
/// let conv = |weight, shape| LinearOp::new(Layer::Conv { groups: 1 }, weight, shape);
/// let batch_norm = BatchNormParams::new(&[1.0_f32], &[4.0_f32], 0.0).affine()?;
/// let branches = [
///     Branch::conv(conv(&[1.0_f32, 2.0, 3.0][..], &[1, 1, 3]), Placement { pads_begin: &[1], pads_end: &[1], ..Placement::default() }),
///     Branch::conv(conv(&[10.0_f32][..], &[1, 1, 1]).bias(&[0.25_f32]), Placement::default()),
///     Branch::identity().after(&batch_norm),
/// ];
/// let merged: Folded<f32> = merge_branches(&branches)?;
/// assert_eq!(merged.weight, [1.0, 2.0 + 10.0 + 0.5, 3.0]);
/// assert_eq!(merged.bias, [0.25 - 0.5]);
///
/// // Without padding, the kernel of 3 taps has two outputs less than the others.
/// let narrow = Branch::conv(conv(&[1.0_f32, 2.0, 3.0][..], &[1, 1, 3]), Placement::default());
/// let refusal = merge_branches::<f32, f32>(&[narrow, Branch::identity()]).unwrap_err();
/// assert_eq!(refusal.code(), "kernel-outside");
/// # Ok::<(), warpnorm::fold::FoldError>(())
/// ```
///
/// # Errors
///
/// - [`FoldError::NothingToMerge`] without a convolution;
/// - [`FoldError::Branch`] around what concerns one of them:
///   - what [`LinearOp::fold`] refuses of a layer and the map behind it, and [`FoldError::NotAConvolution`];
///   - [`FoldError::LengthMismatch`] for a list of the placement, [`FoldError::ZeroStep`];
///   - [`FoldError::UnequalBranches`], [`FoldError::IdentityChannels`] where channels, groups or axes differ,
///     [`FoldError::UnequalStrides`], [`FoldError::KernelOutside`];
/// - [`FoldError::Overflow`] for a weight or bias of the result.
pub fn merge_branches<W: Element, B: Element>(branches: &[Branch<'_>]) -> Result<Folded<W, B>, FoldError> {
    let merge = Merge::new(branches)?;
    let report = merge.survey::<W, B>()?;
    let mut weight = vec![W::default(); merge.weight_len()];
    let mut bias = vec![B::default(); merge.outputs];
    merge.write(&mut weight, &mut bias)?;
    Ok(Folded { weight, bias, report })
}

/// [`merge_branches`] into the caller's slices, without an allocation unless the report has something to list.
///
/// `weight` holds as many elements as that of the branch of the [`largest_kernel`], `bias` one for each output channel. They
/// are written only where the merge succeeds.
///
/// # Errors
///
/// As [`merge_branches`], and [`FoldError::LengthMismatch`] for `folded.weight` or `folded.bias`.
pub fn merge_branches_into<W: Element, B: Element>(
    branches: &[Branch<'_>],
    weight: &mut [W],
    bias: &mut [B],
) -> Result<FoldReport, FoldError> {
    let merge = Merge::new(branches)?;
    check_folded(weight, merge.weight_len(), bias, merge.outputs)?;
    let report = merge.survey::<W, B>()?;
    merge.write(weight, bias)?;
    Ok(report)
}

/// The place among the branches of the convolution whose kernel has the most taps, the first such: [`merge_branches`] gives
/// a weight of its shape, and what that is computes by its [`Placement`].
///
/// # Errors
///
/// As [`merge_branches`], but for numbers that are not finite and for results.
pub fn largest_kernel(branches: &[Branch<'_>]) -> Result<usize, FoldError> {
    Ok(Merge::new(branches)?.largest)
}

/// Taps that are computed at a time.
const TAPS: usize = 64;

/// Depth, height and width; kernels of fewer axes have 1 in front, and their offsets 0.
type Axes = [usize; 3];

/// A sum of branches that fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Merge<'a> {
    branches: &'a [Branch<'a>],
    /// Which of them has the largest kernel.
    pub(super) largest: usize,
    placement: Placement<'a>,
    /// Spatial axes.
    rank: usize,
    groups: usize,
    outputs: usize,
    /// Input channels of a group.
    columns: usize,
    kernel: Axes,
}

impl<'a> Merge<'a> {
    pub(super) fn new(branches: &'a [Branch<'a>]) -> Result<Self, FoldError> {
        let mut most: Option<(usize, Self)> = None;
        for (index, branch) in branches.iter().enumerate() {
            let Some((op, placement)) = &branch.conv else { continue };
            let groups = check_conv(op, placement, branch.after).map_err(FoldError::of_branch(index))?;
            let &[outputs, columns, ref kernel @ ..] = op.weight_shape else { continue };
            let taps = kernel.iter().fold(1, |taps: usize, &axis| taps.saturating_mul(axis));
            if most.is_none_or(|(most, _)| taps > most) {
                let (rank, placement) = (kernel.len(), *placement);
                let kernel = branch.kernel();
                most =
                    Some((taps, Self { branches, largest: index, placement, rank, groups, outputs, columns, kernel }));
            }
        }
        let (_, merge) = most.ok_or(FoldError::NothingToMerge { branches: branches.len() })?;
        for (index, branch) in branches.iter().enumerate() {
            merge.check_fit(branch).map_err(FoldError::of_branch(index))?;
        }
        Ok(merge)
    }

    /// Refuses a branch that cannot be set into the largest kernel.
    fn check_fit(&self, branch: &Branch<'_>) -> Result<(), FoldError> {
        let inputs = self.columns * self.groups;
        let placement = match &branch.conv {
            None if inputs != self.outputs => {
                return Err(FoldError::IdentityChannels { inputs, outputs: self.outputs });
            }
            None => {
                branch.after.map_or(Ok(()), |after| check_channels(Side::After, after, self.outputs))?;
                Placement::default()
            }
            Some((op, placement)) => {
                for (what, found, expected) in [
                    ("spatial axes", op.weight_shape.len() - 2, self.rank),
                    ("groups", groups_of(op)?, self.groups),
                    ("output channels", op.weight_shape[0], self.outputs),
                    ("input channels in a group", op.weight_shape[1], self.columns),
                ] {
                    if found != expected {
                        return Err(FoldError::UnequalBranches { what, found, expected });
                    }
                }
                *placement
            }
        };
        let (kernel, lead) = (branch.kernel(), 3 - self.rank);
        for axis in 0..self.rank {
            let (found, expected) = (at(placement.strides, axis, 1), at(self.placement.strides, axis, 1));
            if found != expected {
                return Err(FoldError::UnequalStrides { axis, found, expected });
            }
            self.offset(&placement, kernel[lead + axis], self.kernel[lead + axis], axis)
                .ok_or(FoldError::KernelOutside { axis })?;
        }
        Ok(())
    }

    /// Where the first tap of a kernel lies in the largest one on an axis, if all taps lie on taps of that and give as many
    /// outputs.
    fn offset(&self, placement: &Placement<'_>, taps: usize, of_largest: usize, axis: usize) -> Option<usize> {
        let dilation = at(self.placement.dilations, axis, 1);
        if taps > 1 && at(placement.dilations, axis, 1) != dilation {
            return None;
        }
        let before = at(self.placement.pads_begin, axis, 0).checked_sub(at(placement.pads_begin, axis, 0))?;
        let behind = at(self.placement.pads_end, axis, 0).checked_sub(at(placement.pads_end, axis, 0))?;
        // What the largest kernel spans beyond this one is padded for it on either side.
        let beyond = of_largest.checked_sub(taps)?.checked_mul(dilation)?;
        (before % dilation == 0 && before.checked_add(behind) == Some(beyond)).then_some(before / dilation)
    }

    /// Where the first tap of a branch lies in the largest kernel.
    fn offset_of(&self, branch: &Branch<'_>) -> Axes {
        let placement = branch.conv.map_or_else(Placement::default, |(_, placement)| placement);
        let (kernel, lead) = (branch.kernel(), 3 - self.rank);
        // `check_fit` has seen that there is one on each axis.
        let offset = |axis: usize| self.offset(&placement, kernel[axis], self.kernel[axis], axis.checked_sub(lead)?);
        std::array::from_fn(|axis| offset(axis).unwrap_or(0))
    }

    fn weight_len(&self) -> usize {
        self.branches[self.largest].conv.map_or(0, |(op, _)| op.weight.len())
    }

    /// Calls `f` with the exact weights in the order of memory, some of one output channel at a time.
    fn each_weight(&self, mut f: impl FnMut(usize, &[f64]) -> Result<(), FoldError>) -> Result<(), FoldError> {
        let mut sums = [0.0; TAPS];
        for output in 0..self.outputs {
            for column in 0..self.columns {
                let taps = self.kernel.iter().product::<usize>();
                for start in (0..taps).step_by(TAPS) {
                    let sums = &mut sums[..TAPS.min(taps - start)];
                    // The sum of nothing, to which a zero may be added without the loss of its sign.
                    sums.fill(-0.0);
                    for branch in self.branches {
                        self.add(branch, [output, column], start, sums);
                    }
                    f(output, sums)?;
                }
            }
        }
        Ok(())
    }

    /// Adds what a branch has between an output channel and an input channel of its group, for the taps from `start` on.
    fn add(&self, branch: &Branch<'_>, [output, column]: [usize; 2], start: usize, sums: &mut [f64]) {
        let scale = branch.after.map_or(1.0, |after| after.scale()[output]);
        let offset = self.offset_of(branch);
        let place =
            |z: usize, y: usize| ((offset[0] + z) * self.kernel[1] + offset[1] + y) * self.kernel[2] + offset[2];
        let mut add = |place: usize, value: f64| {
            if let Some(sum) = place.checked_sub(start).and_then(|index| sums.get_mut(index)) {
                *sum += value;
            }
        };
        let Some((op, _)) = &branch.conv else {
            // There are as many outputs as inputs, and so in each group.
            if output % self.columns == column {
                add(place(0, 0), scale);
            }
            return;
        };
        let kernel = branch.kernel();
        let taps = kernel.iter().product::<usize>();
        with_slice!(op.weight, weight => {
            let weight = &weight[(output * self.columns + column) * taps..][..taps];
            for (line, weight) in weight.chunks_exact(kernel[2]).enumerate() {
                let first = place(line / kernel[1], line % kernel[1]);
                for (tap, weight) in weight.iter().enumerate() {
                    add(first + tap, weight.widen() * scale);
                }
            }
        });
    }

    /// The exact bias of an output channel.
    fn bias_of(&self, output: usize) -> f64 {
        let of_branch = |branch: &Branch<'_>| match &branch.conv {
            None => branch.after.map_or(0.0, |after| after.intercept(output)),
            Some((op, _)) => {
                let bias = op.bias.map_or(0.0, |bias| bias.at(output));
                branch.after.map_or(bias, |after| after.apply(output, bias))
            }
        };
        self.branches.iter().map(of_branch).sum()
    }

    /// Checks every number that goes in and comes out, and counts what the rounding does.
    fn survey<W: Element, B: Element>(&self) -> Result<FoldReport, FoldError> {
        for (index, branch) in self.branches.iter().enumerate() {
            branch.check_finite().map_err(FoldError::of_branch(index))?;
        }
        let mut weight = RoundingSurvey::<W>::new("folded.weight");
        self.each_weight(|output, sums| weight.add_all(output, sums.iter().copied()))?;
        let mut bias = RoundingSurvey::<B>::new("folded.bias");
        for output in 0..self.outputs {
            bias.add(output, self.bias_of(output))?;
        }
        let after = Affine::report_of(self.branches.iter().map(|branch| branch.after));
        Ok(FoldReport { before: None, after, weight: weight.report(), bias: bias.report() })
    }

    /// The slices must have the lengths of the result, and [`Self::survey`] must have passed.
    fn write<W: Element, B: Element>(&self, weight: &mut [W], bias: &mut [B]) -> Result<(), FoldError> {
        let mut weight = weight.iter_mut();
        self.each_weight(|_, sums| {
            for (&sum, to) in sums.iter().zip(weight.by_ref()) {
                *to = W::from_f64(sum);
            }
            Ok(())
        })?;
        for (output, to) in bias.iter_mut().enumerate() {
            *to = B::from_f64(self.bias_of(output));
        }
        Ok(())
    }

    /// Weight and bias in f64, for maps that follow and are not known yet; none of their numbers is checked.
    #[cfg(feature = "models")]
    pub(super) fn exact(&self) -> Result<(Vec<f64>, Vec<f64>), FoldError> {
        let mut weight = Vec::with_capacity(self.weight_len());
        self.each_weight(|_, sums| {
            weight.extend_from_slice(sums);
            Ok(())
        })?;
        Ok((weight, (0..self.outputs).map(|output| self.bias_of(output)).collect()))
    }
}

impl Branch<'_> {
    fn kernel(&self) -> Axes {
        let mut axes = [1; 3];
        if let Some((op, _)) = &self.conv {
            let kernel = &op.weight_shape[2..];
            axes[3 - kernel.len()..].copy_from_slice(kernel);
        }
        axes
    }

    fn check_finite(&self) -> Result<(), FoldError> {
        let Some((op, _)) = &self.conv else { return Ok(()) };
        if let Some((channel, value)) = op.bias.and_then(|bias| bias.first_non_finite()) {
            return Err(FoldError::NonFinite { argument: "layer.bias", channel, index: channel, value });
        }
        match op.weight.first_non_finite() {
            None => Ok(()),
            Some((index, value)) => {
                let channel = index / (op.weight.len() / op.weight_shape[0]);
                Err(FoldError::NonFinite { argument: "layer.weight", channel, index, value })
            }
        }
    }
}

/// Refuses a branch that is no convolution, or whose placement is none of that. Returns its groups.
fn check_conv(op: &LinearOp<'_>, placement: &Placement<'_>, after: Option<&Affine>) -> Result<usize, FoldError> {
    let groups = groups_of(op)?;
    Absorption::new(op, None, after)?;
    let rank = op.weight_shape.len() - 2;
    let &Placement { strides, dilations, pads_begin, pads_end } = placement;
    for (argument, list) in
        [("strides", strides), ("dilations", dilations), ("pads_begin", pads_begin), ("pads_end", pads_end)]
    {
        if !list.is_empty() && list.len() != rank {
            return Err(FoldError::LengthMismatch { argument, found: list.len(), expected: rank });
        }
    }
    for (argument, list) in [("strides", strides), ("dilations", dilations)] {
        if let Some(axis) = list.iter().position(|&step| step == 0) {
            return Err(FoldError::ZeroStep { argument, axis });
        }
    }
    Ok(groups)
}

fn groups_of(op: &LinearOp<'_>) -> Result<usize, FoldError> {
    match op.layer {
        Layer::Conv { groups } => Ok(groups),
        layer => Err(FoldError::NotAConvolution { layer: layer.name() }),
    }
}

/// The number of an axis, or what an empty list stands for.
fn at(list: &[usize], axis: usize, default: usize) -> usize {
    list.get(axis).copied().unwrap_or(default)
}
