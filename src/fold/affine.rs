//! Per-channel affine maps: what a `BatchNorm` is in inference.

use super::{
    error::FoldError,
    report::{AffineReport, Warning},
    values::Values,
};

/// The arrays of a `BatchNorm` in inference, of one element for each channel.
///
/// `weight` is 1 and `bias` is 0 where they are not given (PyTorch's `affine=False`).
///
/// ```
/// use warpnorm::fold::BatchNormParams;
///
/// let (mean, var) = ([0.5_f32, -1.0], [0.75_f32, 0.0]);
/// let weight = [half::f16::from_f32(3.0), half::f16::from_f32(-0.5)];
/// let affine = BatchNormParams::new(&mean, &var, 0.25).weight(&weight).affine()?;
/// assert_eq!(affine.scale(), [3.0, -1.0]);
/// assert_eq!(affine.center(), [0.5, -1.0]);
/// assert_eq!(affine.shift(), [0.0, 0.0]);
///
/// let refusal = BatchNormParams::new(&mean, &[1.0_f32, -0.1], 1e-5).affine().unwrap_err();
/// assert_eq!(refusal.code(), "invalid-variance");
/// assert!(refusal.to_string().starts_with("running_var of channel 1 is -0.1"));
/// # Ok::<(), warpnorm::fold::FoldError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct BatchNormParams<'a> {
    running_mean: Values<'a>,
    running_var: Values<'a>,
    weight: Option<Values<'a>>,
    bias: Option<Values<'a>>,
    eps: f64,
}

impl<'a> BatchNormParams<'a> {
    /// A `BatchNorm` without weight and bias.
    ///
    /// `eps` is added to the variance under the root. It is not a tensor and no checkpoint of tensors holds it: PyTorch's
    /// default is 1e-5, but 1e-3 is as common in trained networks, and a wrong one is a silent error.
    #[must_use]
    pub fn new(running_mean: impl Into<Values<'a>>, running_var: impl Into<Values<'a>>, eps: f64) -> Self {
        Self { running_mean: running_mean.into(), running_var: running_var.into(), weight: None, bias: None, eps }
    }

    /// Sets the factor of each channel.
    #[must_use]
    pub fn weight(mut self, weight: impl Into<Values<'a>>) -> Self {
        self.weight = Some(weight.into());
        self
    }

    /// Sets the term added to each channel.
    #[must_use]
    pub fn bias(mut self, bias: impl Into<Values<'a>>) -> Self {
        self.bias = Some(bias.into());
        self
    }

    /// Checks the parameters and computes the map, in f64:
    /// scale = `weight / sqrt(running_var + eps)`, center = `running_mean`, shift = `bias`.
    ///
    /// # Errors
    ///
    /// [`FoldError::InvalidEps`], [`FoldError::LengthMismatch`] (the reference is `running_mean`),
    /// [`FoldError::InvalidVariance`], [`FoldError::ZeroVariance`], [`FoldError::NonFinite`], and
    /// [`FoldError::Overflow`] where the scale exceeds f64.
    pub fn affine(&self) -> Result<Affine, FoldError> {
        let mut affine = Affine::with_capacity(self.running_mean.len());
        self.affine_into(&mut affine)?;
        Ok(affine)
    }

    /// [`BatchNormParams::affine`] into a map that is there, without an allocation if that was once of as many channels and
    /// there is nothing to warn of. The map stays as it is where the parameters are refused.
    ///
    /// # Errors
    ///
    /// As [`BatchNormParams::affine`].
    pub fn affine_into(&self, affine: &mut Affine) -> Result<(), FoldError> {
        let Self { running_mean, running_var, weight, bias, eps } = self;
        if !eps.is_finite() || *eps < 0.0 {
            return Err(FoldError::InvalidEps { eps: *eps });
        }
        let channels = running_mean.len();
        check_length("running_var", running_var, channels)?;
        if let Some(weight) = weight {
            check_length("bn.weight", weight, channels)?;
        }
        if let Some(bias) = bias {
            check_length("bn.bias", bias, channels)?;
        }
        for channel in 0..channels {
            self.channel(channel)?;
        }
        affine.clear();
        for channel in 0..channels {
            let Channel { scale, center, shift, var_plus_eps } = self.channel(channel)?;
            affine.push(scale, center, shift);
            affine.min_var_plus_eps =
                Some(affine.min_var_plus_eps.map_or(var_plus_eps, |least| least.min(var_plus_eps)));
            affine.variance_warnings.extend(Warning::of_variance(channel, var_plus_eps));
        }
        Ok(())
    }

    /// The numbers of a channel, of which all arrays have one.
    fn channel(&self, channel: usize) -> Result<Channel, FoldError> {
        let Self { running_mean, running_var, weight, bias, eps } = self;
        let variance = running_var.at(channel);
        if !variance.is_finite() || variance < 0.0 {
            return Err(FoldError::InvalidVariance { channel, value: variance });
        }
        let var_plus_eps = variance + eps;
        if var_plus_eps == 0.0 {
            return Err(FoldError::ZeroVariance { channel });
        }
        let center = finite("running_mean", running_mean, channel)?;
        let weight = weight.as_ref().map_or(Ok(1.0), |weight| finite("bn.weight", weight, channel))?;
        let shift = bias.as_ref().map_or(Ok(0.0), |bias| finite("bn.bias", bias, channel))?;
        let scale = FoldError::finite_f64("the scale", channel, weight / var_plus_eps.sqrt())?;
        Ok(Channel { scale, center, shift, var_plus_eps })
    }
}

/// A channel of a `BatchNorm`.
struct Channel {
    scale: f64,
    center: f64,
    shift: f64,
    var_plus_eps: f64,
}

/// A map of each channel on its own, y = scale·(x − center) + shift, in f64; all its numbers are finite.
///
/// The center stays apart from the shift because x, a layer's bias when the map is folded, is often close to it:
/// `scale·x + (shift − scale·center)` would cancel.
///
/// ```
/// use warpnorm::fold::{Affine, BatchNormParams};
///
/// // A BatchNorm, a second one behind it, and a constant that is added at the end: one map.
/// let first = BatchNormParams::new(&[1.0], &[0.25], 0.0).affine()?;
/// let second = BatchNormParams::new(&[4.0], &[4.0], 0.0).bias(&[3.0]).affine()?;
/// let map = first.then(&second)?.then(&Affine::from_shift(&[0.5])?)?;
/// assert_eq!((map.scale(), map.center(), map.shift()), (&[1.0][..], &[1.0][..], &[1.5][..]));
/// assert_eq!(map.intercepts().collect::<Vec<_>>(), [0.5]);
/// # Ok::<(), warpnorm::fold::FoldError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    scale: Vec<f64>,
    center: Vec<f64>,
    shift: Vec<f64>,
    min_var_plus_eps: Option<f64>,
    variance_warnings: Vec<Warning>,
}

impl Affine {
    /// The map that changes nothing. It allocates for `channels`, as a `Vec` does.
    #[must_use]
    pub fn identity(channels: usize) -> Self {
        Self {
            scale: vec![1.0; channels],
            shift: vec![0.0; channels],
            center: vec![0.0; channels],
            ..Self::with_capacity(0)
        }
    }

    /// The map y = scale·x.
    ///
    /// # Errors
    ///
    /// [`FoldError::NonFinite`].
    pub fn from_scale<'a>(scale: impl Into<Values<'a>>) -> Result<Self, FoldError> {
        let scale = scale.into();
        let mut affine = Self::with_capacity(scale.len());
        affine.set_to_scale(scale)?;
        Ok(affine)
    }

    /// The map y = x + shift.
    ///
    /// # Errors
    ///
    /// [`FoldError::NonFinite`].
    pub fn from_shift<'a>(shift: impl Into<Values<'a>>) -> Result<Self, FoldError> {
        let shift = shift.into();
        let mut affine = Self::with_capacity(shift.len());
        affine.set_to_shift(shift)?;
        Ok(affine)
    }

    /// Makes this the map y = scale·x, without an allocation if it was once of as many channels. It stays as it is where
    /// the numbers are refused.
    ///
    /// # Errors
    ///
    /// [`FoldError::NonFinite`].
    pub fn set_to_scale<'a>(&mut self, scale: impl Into<Values<'a>>) -> Result<(), FoldError> {
        let scale = scale.into();
        check_finite("scale", &scale)?;
        self.clear();
        for channel in 0..scale.len() {
            self.push(scale.at(channel), 0.0, 0.0);
        }
        Ok(())
    }

    /// Makes this the map y = x + shift, without an allocation if it was once of as many channels. It stays as it is where
    /// the numbers are refused.
    ///
    /// # Errors
    ///
    /// [`FoldError::NonFinite`].
    pub fn set_to_shift<'a>(&mut self, shift: impl Into<Values<'a>>) -> Result<(), FoldError> {
        let shift = shift.into();
        check_finite("shift", &shift)?;
        self.clear();
        for channel in 0..shift.len() {
            self.push(1.0, 0.0, shift.at(channel));
        }
        Ok(())
    }

    /// This map and then `next`, as one: the center is this map's, the scale the product, and
    /// shift = `next.scale`·(shift − `next.center`) + `next.shift`.
    ///
    /// Each composition adds at most three roundings in f64, relative to the terms of that sum.
    ///
    /// # Errors
    ///
    /// [`FoldError::CompositionMismatch`], and [`FoldError::Overflow`] where the scale or the shift exceeds f64.
    pub fn then(&self, next: &Self) -> Result<Self, FoldError> {
        let mut composed = self.clone();
        composed.then_in_place(next)?;
        Ok(composed)
    }

    /// [`Affine::then`] in place: this map becomes both, without an allocation unless `next` has something to warn of. It
    /// stays as it is where the composition is refused.
    ///
    /// # Errors
    ///
    /// As [`Affine::then`].
    pub fn then_in_place(&mut self, next: &Self) -> Result<(), FoldError> {
        if self.channels() != next.channels() {
            return Err(FoldError::CompositionMismatch { first: self.channels(), second: next.channels() });
        }
        let composed =
            |scale: f64, shift: f64, channel: usize| (scale * next.scale[channel], next.apply(channel, shift));
        for (channel, (&scale, &shift)) in self.scale.iter().zip(&self.shift).enumerate() {
            let (scale, shift) = composed(scale, shift, channel);
            FoldError::finite_f64("the scale", channel, scale)?;
            FoldError::finite_f64("the shift", channel, shift)?;
        }
        for (channel, (scale, shift)) in self.scale.iter_mut().zip(&mut self.shift).enumerate() {
            (*scale, *shift) = composed(*scale, *shift, channel);
        }
        self.min_var_plus_eps = [self.min_var_plus_eps, next.min_var_plus_eps].into_iter().flatten().reduce(f64::min);
        self.variance_warnings.extend_from_slice(&next.variance_warnings);
        Ok(())
    }

    /// The map whose channels are those of this one, as listed; each must be less than [`Affine::channels`].
    #[cfg(feature = "models")]
    pub(super) fn gather(&self, channels: impl Iterator<Item = usize>) -> Self {
        let mut gathered = Self { min_var_plus_eps: self.min_var_plus_eps, ..Self::with_capacity(0) };
        for (channel, from) in channels.enumerate() {
            gathered.push(self.scale[from], self.center[from], self.shift[from]);
            let warnings = self.variance_warnings.iter().filter_map(|warning| warning.moved(from, channel));
            gathered.variance_warnings.extend(warnings);
        }
        gathered
    }

    /// The map without what it adds: of a sum, one term takes the whole map and the others this.
    #[cfg(feature = "models")]
    pub(super) fn without_shift(&self) -> Self {
        let zeros = vec![0.0; self.channels()];
        Self { center: zeros.clone(), shift: zeros, ..self.clone() }
    }

    /// The number of channels.
    #[must_use]
    pub const fn channels(&self) -> usize {
        self.scale.len()
    }

    /// What each channel is multiplied by, after its center is subtracted.
    #[must_use]
    pub fn scale(&self) -> &[f64] {
        &self.scale
    }

    /// What is subtracted from each channel.
    #[must_use]
    pub fn center(&self) -> &[f64] {
        &self.center
    }

    /// What is added to each channel at the end.
    #[must_use]
    pub fn shift(&self) -> &[f64] {
        &self.shift
    }

    /// What the map makes of 0 in each channel: the d of y = a·x + d, rounded once.
    pub fn intercepts(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.channels()).map(|channel| self.intercept(channel))
    }

    /// A fused multiply-add, so that it is 0 only where the map is free of a shift.
    pub(super) fn intercept(&self, channel: usize) -> f64 {
        (-self.scale[channel]).mul_add(self.center[channel], self.shift[channel])
    }

    pub(super) fn apply(&self, channel: usize, x: f64) -> f64 {
        (x - self.center[channel]) * self.scale[channel] + self.shift[channel]
    }

    /// What is notable about the map.
    #[must_use]
    pub fn report(&self) -> AffineReport {
        Self::report_of(std::iter::once(Some(self))).unwrap_or_default()
    }

    /// What is notable about maps whose outputs are added, some of which may change nothing; `None` of those alone.
    pub(super) fn report_of<'m>(maps: impl Iterator<Item = Option<&'m Self>> + Clone) -> Option<AffineReport> {
        let channels = maps.clone().flatten().next()?.channels();
        let mut report = AffineReport::default();
        for map in maps.clone().flatten() {
            report.max_abs_scale = map.scale.iter().fold(report.max_abs_scale, |most, scale| scale.abs().max(most));
            report.min_var_plus_eps =
                [report.min_var_plus_eps, map.min_var_plus_eps].into_iter().flatten().reduce(f64::min);
            report.warnings.extend_from_slice(&map.variance_warnings);
            let scales = map.scale.iter().enumerate();
            report.warnings.extend(scales.filter_map(|(channel, &scale)| Warning::of_scale(channel, scale)));
        }
        let is_dead = |channel: &usize| maps.clone().all(|map| map.is_some_and(|map| map.scale[*channel] == 0.0));
        report.dead_channels = (0..channels).filter(is_dead).collect();
        Some(report)
    }

    fn with_capacity(channels: usize) -> Self {
        Self {
            scale: Vec::with_capacity(channels),
            center: Vec::with_capacity(channels),
            shift: Vec::with_capacity(channels),
            min_var_plus_eps: None,
            variance_warnings: Vec::new(),
        }
    }

    /// Leaves no channel, and the memory.
    fn clear(&mut self) {
        let Self { scale, center, shift, min_var_plus_eps, variance_warnings } = self;
        scale.clear();
        center.clear();
        shift.clear();
        *min_var_plus_eps = None;
        variance_warnings.clear();
    }

    fn push(&mut self, scale: f64, center: f64, shift: f64) {
        self.scale.push(scale);
        self.center.push(center);
        self.shift.push(shift);
    }
}

pub(super) fn check_length(argument: &'static str, values: &Values<'_>, expected: usize) -> Result<(), FoldError> {
    if values.len() == expected {
        Ok(())
    } else {
        Err(FoldError::LengthMismatch { argument, found: values.len(), expected })
    }
}

/// The element of a per-channel array, refused unless it is finite.
fn finite(argument: &'static str, values: &Values<'_>, channel: usize) -> Result<f64, FoldError> {
    let value = values.at(channel);
    if value.is_finite() { Ok(value) } else { Err(FoldError::NonFinite { argument, channel, index: channel, value }) }
}

fn check_finite(argument: &'static str, values: &Values<'_>) -> Result<(), FoldError> {
    match values.first_non_finite() {
        None => Ok(()),
        Some((channel, value)) => Err(FoldError::NonFinite { argument, channel, index: channel, value }),
    }
}
