//! A layer absorbs the maps beside it.

use std::ops::Range;

use super::{
    affine::{Affine, check_length},
    error::{FoldError, Side},
    layer::{Geometry, Layer, Padding, Taps},
    report::{FoldReport, RoundingReport},
    rounding::RoundingSurvey,
    values::{Values, Widen, first_non_finite, with_slice},
};
use crate::element::Element;

/// A linear layer with its arrays, ready to absorb the maps beside it.
///
/// ```
/// use warpnorm::fold::{Affine, BatchNormParams, Folded, Layer, LinearOp, Padding};
///
/// let batch_norm = BatchNormParams::new(&[1.0_f32], &[4.0_f32], 0.0).affine()?;
/// let weight = [6.0_f32, 2.0];
/// let conv = LinearOp::new(Layer::Conv { groups: 1 }, &weight, &[1, 1, 2]).bias(&[3.0_f32]);
///
/// let folded: Folded<f32> = conv.fold_before(&batch_norm, Padding::None)?;
/// assert_eq!((folded.weight, folded.bias), (vec![3.0, 1.0], vec![-1.0]));
///
/// // Zeros that pad the convolution's input have not gone through the BatchNorm.
/// let refusal = conv.fold_before::<f32, f32>(&batch_norm, Padding::Zeros).unwrap_err();
/// assert_eq!(refusal.code(), "padded-shift");
/// // A map without a shift takes 0 to 0, and so may stand before them.
/// let scale = Affine::from_scale(&[0.5_f32])?;
/// let folded: Folded<f32> = conv.fold_before(&scale, Padding::Zeros)?;
/// assert_eq!((folded.weight, folded.bias), (vec![3.0, 1.0], vec![3.0]));
/// # Ok::<(), warpnorm::fold::FoldError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LinearOp<'a> {
    pub(super) layer: Layer,
    pub(super) weight: Values<'a>,
    pub(super) weight_shape: &'a [usize],
    pub(super) bias: Option<Values<'a>>,
}

/// The new parameters of a layer, and what the rounding did to them.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded<W, B = W> {
    /// The weight, in the shape and layout that the layer's weight came in.
    pub weight: Vec<W>,
    /// The bias, one element for each output channel, also where the layer had none.
    pub bias: Vec<B>,
    /// What is notable about the fold.
    pub report: FoldReport,
}

impl<'a> LinearOp<'a> {
    /// A layer without bias. The weight is row-major, its shape in elements: see [`Layer`].
    #[must_use]
    pub fn new(layer: Layer, weight: impl Into<Values<'a>>, weight_shape: &'a [usize]) -> Self {
        Self { layer, weight: weight.into(), weight_shape, bias: None }
    }

    /// Sets the bias, of one element for each output channel.
    #[must_use]
    pub fn bias(mut self, bias: impl Into<Values<'a>>) -> Self {
        self.bias = Some(bias.into());
        self
    }

    /// Absorbs the map that follows the layer, which is always exact. `W` and `B` are the result's element types.
    ///
    /// # Errors
    ///
    /// As [`LinearOp::fold`].
    pub fn fold_after<W: Element, B: Element>(&self, after: &Affine) -> Result<Folded<W, B>, FoldError> {
        self.fold(None, Some(after))
    }

    /// Absorbs the map that feeds the layer, where that is exact. `W` and `B` are the result's element types.
    ///
    /// # Errors
    ///
    /// As [`LinearOp::fold`].
    pub fn fold_before<W: Element, B: Element>(
        &self,
        before: &Affine,
        padding: Padding,
    ) -> Result<Folded<W, B>, FoldError> {
        self.fold(Some((before, padding)), None)
    }

    /// Absorbs the maps on both sides at once, so that the result is rounded once. `W` and `B` are the result's element
    /// types; with no map at all this only converts.
    ///
    /// # Errors
    ///
    /// - [`FoldError::WeightRank`], [`FoldError::ZeroGroups`], [`FoldError::IndivisibleGroups`],
    ///   [`FoldError::ShapeOverflow`], [`FoldError::WeightLength`], [`FoldError::EmptyWeight`] where the weight does not
    ///   fit its shape, or the shape the layer;
    /// - [`FoldError::LengthMismatch`], [`FoldError::ChannelMismatch`] where bias or maps do not fit the layer;
    /// - [`FoldError::PaddedShift`], [`FoldError::TransposedShift`] where a map before the layer shifts a channel and
    ///   the layer is a convolution padded with zeros or a transposed convolution;
    /// - [`FoldError::NonFinite`] for a weight or bias of the layer, [`FoldError::Overflow`] for one of the result.
    pub fn fold<W: Element, B: Element>(
        &self,
        before: Option<(&Affine, Padding)>,
        after: Option<&Affine>,
    ) -> Result<Folded<W, B>, FoldError> {
        let absorption = Absorption::new(self, before, after)?;
        let report = absorption.survey::<W, B>()?;
        let mut weight = vec![W::default(); self.weight.len()];
        let mut bias = vec![B::default(); absorption.maps.geometry.output_channels()];
        absorption.write(&mut weight, &mut bias);
        Ok(Folded { weight, bias, report })
    }

    /// [`LinearOp::fold`] into the caller's slices, without an allocation unless the report has something to list.
    ///
    /// `weight` holds as many elements as the layer's weight, `bias` one for each output channel. They are written only
    /// where the fold succeeds.
    ///
    /// # Errors
    ///
    /// As [`LinearOp::fold`], and [`FoldError::LengthMismatch`] for `folded.weight` or `folded.bias`.
    pub fn fold_into<W: Element, B: Element>(
        &self,
        before: Option<(&Affine, Padding)>,
        after: Option<&Affine>,
        weight: &mut [W],
        bias: &mut [B],
    ) -> Result<FoldReport, FoldError> {
        let absorption = Absorption::new(self, before, after)?;
        check_folded(weight, self.weight.len(), bias, absorption.maps.geometry.output_channels())?;
        let report = absorption.survey::<W, B>()?;
        absorption.write(weight, bias);
        Ok(report)
    }
}

impl Layer {
    /// Folds the layer in its own arrays, with the numbers that [`LinearOp::fold`] gives and without an allocation unless
    /// the report has something to list.
    ///
    /// `weight` is row-major, its shape in elements; `bias` has one element for each output channel, zeros where the layer
    /// had no bias. They are written only where the fold succeeds.
    ///
    /// ```
    /// use warpnorm::fold::{BatchNormParams, Layer};
    ///
    /// let (mut weight, mut bias) = ([6.0_f32, 2.0], [3.0_f32]);
    /// let batch_norm = BatchNormParams::new(&[1.0_f32], &[4.0_f32], 0.0).affine()?;
    /// Layer::Conv { groups: 1 }.fold_in_place(&mut weight, &[1, 1, 2], &mut bias, None, Some(&batch_norm))?;
    /// assert_eq!((weight, bias), ([3.0, 1.0], [1.0]));
    /// # Ok::<(), warpnorm::fold::FoldError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`LinearOp::fold`].
    pub fn fold_in_place<W, B>(
        self,
        weight: &mut [W],
        weight_shape: &[usize],
        bias: &mut [B],
        before: Option<(&Affine, Padding)>,
        after: Option<&Affine>,
    ) -> Result<FoldReport, FoldError>
    where
        W: Element,
        B: Element,
        for<'v> &'v [W]: Into<Values<'v>>,
        for<'v> &'v [B]: Into<Values<'v>>,
    {
        let op = LinearOp::new(self, &*weight, weight_shape).bias(&*bias);
        let maps = Maps::new(&op, before, after)?;
        let report = Absorption { weight: op.weight, bias: op.bias, maps }.survey::<W, B>()?;
        // What a map before the layer adds to the bias is made of the weights as they were.
        for (channel, bias) in bias.iter_mut().enumerate() {
            *bias = B::from_f64(maps.bias_of(channel, bias.to_f64(), (&*weight).into()));
        }
        for (row, weight) in weight.chunks_exact_mut(maps.geometry.row_len).enumerate() {
            for (taps, run) in maps.geometry.taps_of_row(row).zip(weight.chunks_exact_mut(maps.run_len())) {
                let (before, after) = maps.factors(taps);
                for weight in run {
                    *weight = W::from_f64(weight.to_f64() * before * after);
                }
            }
        }
        Ok(report)
    }
}

/// Refuses slices for the result that are not as long as it.
pub(super) fn check_folded<W, B>(
    weight: &[W],
    weight_len: usize,
    bias: &[B],
    output_channels: usize,
) -> Result<(), FoldError> {
    for (argument, found, expected) in
        [("folded.weight", weight.len(), weight_len), ("folded.bias", bias.len(), output_channels)]
    {
        if found != expected {
            return Err(FoldError::LengthMismatch { argument, found, expected });
        }
    }
    Ok(())
}

/// After so many elements a survey says how far it is.
const SEEN_AT_ONCE: usize = 1 << 21;

/// A fold whose shapes fit.
pub(super) struct Absorption<'a> {
    pub(super) weight: Values<'a>,
    bias: Option<Values<'a>>,
    pub(super) maps: Maps<'a>,
}

/// The maps beside a layer, without the layer's arrays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maps<'a> {
    pub(super) geometry: Geometry,
    before: Option<&'a Affine>,
    after: Option<&'a Affine>,
    /// Whether the map before the layer changes its bias.
    shifts: bool,
}

impl<'a> Maps<'a> {
    fn new(
        op: &LinearOp<'_>,
        before: Option<(&'a Affine, Padding)>,
        after: Option<&'a Affine>,
    ) -> Result<Self, FoldError> {
        let geometry = Geometry::new(op.layer, op.weight_shape, op.weight.len())?;
        if let Some(bias) = &op.bias {
            check_length("layer.bias", bias, geometry.output_channels())?;
        }
        let mut shifts = false;
        if let Some((before, padding)) = before {
            check_channels(Side::Before, before, geometry.input_channels())?;
            shifts = check_shift(op.layer, before, padding)?;
        }
        if let Some(after) = after {
            check_channels(Side::After, after, geometry.output_channels())?;
        }
        Ok(Self { geometry, before: before.map(|(before, _)| before), after, shifts })
    }

    /// What the weights between these channels are multiplied by: first by one, then by the other.
    pub(super) fn factors(&self, taps: Taps) -> (f64, f64) {
        let before = self.before.map_or(1.0, |before| before.scale()[taps.input]);
        let after = self.after.map_or(1.0, |after| after.scale()[taps.output]);
        (before, after)
    }

    /// How many elements of a row of axis 0 are multiplied by the same, one after the other.
    fn run_len(&self) -> usize {
        // Where only the output counts, and the row ends in one, the stretches are as one.
        let is_one = self.before.is_none() && !self.geometry.input_first;
        if is_one { self.geometry.row_len } else { self.geometry.kernel_len }
    }

    /// The new value of the bias of an output channel.
    fn bias_of(&self, channel: usize, mut bias: f64, weight: Values<'_>) -> f64 {
        if self.shifts {
            bias += with_slice!(weight, weight => self.shifted_input(weight, channel));
        }
        self.after.map_or(bias, |after| after.apply(channel, bias))
    }

    /// What the layer, which is no transposed convolution, makes of the shift of the map before it.
    fn shifted_input<I: Widen>(&self, weight: &[I], channel: usize) -> f64 {
        let Some(before) = self.before else { return 0.0 };
        let sum =
            |start: usize| weight[start..][..self.geometry.kernel_len].iter().map(|weight| weight.widen()).sum::<f64>();
        self.geometry.stretches_to(channel).map(|(start, taps)| sum(start) * before.intercept(taps.input)).sum()
    }
}

impl<'a> Absorption<'a> {
    pub(super) fn new(
        op: &LinearOp<'a>,
        before: Option<(&'a Affine, Padding)>,
        after: Option<&'a Affine>,
    ) -> Result<Self, FoldError> {
        Ok(Self { weight: op.weight, bias: op.bias, maps: Maps::new(op, before, after)? })
    }

    /// The new value of the bias of an output channel.
    pub(super) fn bias_of(&self, channel: usize) -> f64 {
        self.maps.bias_of(channel, self.bias.map_or(0.0, |bias| bias.at(channel)), self.weight)
    }

    /// Checks every number that goes in and comes out, and counts what the rounding does.
    pub(super) fn survey<W: Element, B: Element>(&self) -> Result<FoldReport, FoldError> {
        self.survey_and::<W, B>(&|_| ())
    }

    /// As [`Self::survey`]; `seen` is told which elements of the weight it is done with.
    pub(super) fn survey_and<W: Element, B: Element>(
        &self,
        seen: &dyn Fn(Range<usize>),
    ) -> Result<FoldReport, FoldError> {
        if let Some((channel, value)) = self.bias.and_then(|bias| bias.first_non_finite()) {
            return Err(FoldError::NonFinite { argument: "layer.bias", channel, index: channel, value });
        }
        let weight = with_slice!(self.weight, weight => self.survey_weight::<_, W>(weight, seen))?;
        let mut bias = RoundingSurvey::<B>::new("folded.bias");
        for channel in 0..self.maps.geometry.output_channels() {
            bias.add(channel, self.bias_of(channel))?;
        }
        Ok(FoldReport {
            before: self.maps.before.map(Affine::report),
            after: self.maps.after.map(Affine::report),
            weight,
            bias: bias.report(),
        })
    }

    fn survey_weight<I: Widen, W: Element>(
        &self,
        weight: &[I],
        seen: &dyn Fn(Range<usize>),
    ) -> Result<RoundingReport, FoldError> {
        let row_len = self.maps.geometry.row_len;
        let mut survey = RoundingSurvey::<W>::new("folded.weight");
        let mut unseen = 0;
        for (row, weight) in weight.chunks_exact(row_len).enumerate() {
            let start = row * row_len;
            if let Some((index, value)) = first_non_finite(weight) {
                let channel = self.maps.geometry.output_of(start + index);
                return Err(FoldError::NonFinite { argument: "layer.weight", channel, index: start + index, value });
            }
            for (taps, weight) in self.runs(row, weight) {
                let (before, after) = self.maps.factors(taps);
                survey.add_all(taps.output, weight.iter().map(|weight| weight.widen() * before * after))?;
            }
            if start + row_len - unseen >= SEEN_AT_ONCE {
                seen(unseen..start + row_len);
                unseen = start + row_len;
            }
        }
        seen(unseen..self.weight.len());
        Ok(survey.report())
    }

    /// The stretches of one row of axis 0 whose elements are multiplied by the same, with channels that say by what.
    pub(super) fn runs<'w, I>(
        &self,
        row: usize,
        weight: &'w [I],
    ) -> impl Iterator<Item = (Taps, &'w [I])> + use<'w, I> {
        self.maps.geometry.taps_of_row(row).zip(weight.chunks_exact(self.maps.run_len()))
    }

    /// The slices must have the lengths of the result, and [`Self::survey`] must have passed.
    fn write<W: Element, B: Element>(&self, weight: &mut [W], bias: &mut [B]) {
        with_slice!(self.weight, given => self.write_weight(given, weight));
        for (channel, bias) in bias.iter_mut().enumerate() {
            *bias = B::from_f64(self.bias_of(channel));
        }
    }

    fn write_weight<I: Widen, W: Element>(&self, weight: &[I], folded: &mut [W]) {
        let row_len = self.maps.geometry.row_len;
        for (row, (weight, folded)) in weight.chunks_exact(row_len).zip(folded.chunks_exact_mut(row_len)).enumerate() {
            let mut folded = folded.iter_mut();
            for (taps, weight) in self.runs(row, weight) {
                let (before, after) = self.maps.factors(taps);
                for (weight, folded) in weight.iter().zip(&mut folded) {
                    *folded = W::from_f64(weight.widen() * before * after);
                }
            }
        }
    }
}

/// Whether the map before a layer shifts any channel, which not every layer allows.
pub(super) fn check_shift(layer: Layer, before: &Affine, padding: Padding) -> Result<bool, FoldError> {
    match before.intercepts().enumerate().find(|&(_, shift)| shift != 0.0) {
        None => Ok(false),
        Some((channel, shift)) if layer.is_transposed_convolution() => {
            Err(FoldError::TransposedShift { channel, shift })
        }
        Some((channel, shift)) if padding == Padding::Zeros => Err(FoldError::PaddedShift { channel, shift }),
        Some(_) => Ok(true),
    }
}

pub(super) fn check_channels(side: Side, affine: &Affine, expected: usize) -> Result<(), FoldError> {
    let found = affine.channels();
    if found == expected { Ok(()) } else { Err(FoldError::ChannelMismatch { side, found, expected }) }
}
