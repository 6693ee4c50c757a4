//! What is common to the launches of one call.

use super::cells::case::{Around, Case};
use super::chip::Chip;
use super::instructions::{self, OfWidth};
use super::record::MachineCode;
use super::time::Job;
use crate::element::DType;
use crate::plan::params::{KERNEL_NAMES, RowsParams, WN_STEP_APPLY, WN_STEP_MOMENTS};
use crate::plan::{Launch, Params};
use crate::quantization::Scaling;

/// A cell on a chip.
pub struct Call<'a> {
    pub case: &'a Case,
    pub chip: &'a Chip,
    pub code: &'a MachineCode,
}

pub fn name(launch: &Launch) -> &'static str {
    KERNEL_NAMES[launch.kernel as usize].to_str().unwrap()
}

impl Call<'_> {
    pub fn size(&self) -> f64 {
        self.case.dtype.size() as f64
    }

    /// Elements of a vector.
    pub fn vector(&self) -> f64 {
        16.0 / self.size()
    }

    /// Tensors that are read; of images, as many are written.
    pub fn tensors(&self) -> f64 {
        if self.case.residual { 2.0 } else { 1.0 }
    }

    /// Of all tensors that are read; of images also of all that are written.
    pub fn bytes(&self) -> f64 {
        self.tensors() * self.case.elements() as f64 * self.size()
    }

    /// Weight, bias, and whatever else multiplies or is added by the position.
    pub fn coefficients(&self) -> f64 {
        self.case.coefficients().iter().filter(|&&elements| elements > 0).count() as f64
    }

    /// How often a row's lanes ask each other for moments: once a norm.
    pub fn norms(&self) -> f64 {
        if self.case.around == Around::PostNorm { 2.0 } else { 1.0 }
    }

    /// How often they ask for the largest magnitude of the row; a group's stays within a warp.
    pub fn maxima(&self) -> f64 {
        if self.case.around == Around::Quantized(Scaling::Rows) { 1.0 } else { 0.0 }
    }

    pub fn around(&self) -> f64 {
        self.vector() * instructions::of_around(self.case.around)
    }

    /// The kernel's name without its type.
    pub fn stem(&self, launch: &Launch) -> &'static str {
        let all = [DType::F32, DType::F16, DType::Bf16];
        all.iter().find_map(|dtype| name(launch).strip_suffix(&format!("_{dtype}"))).unwrap()
    }

    pub fn instructions(&self, launch: &Launch) -> OfWidth {
        let stem = self.stem(launch);
        let work = match launch.params {
            Params::Rows(RowsParams { step: WN_STEP_MOMENTS, .. }) => format!("{stem}, moments"),
            Params::Rows(RowsParams { step: WN_STEP_APPLY, .. }) => format!("{stem}, apply"),
            _ => stem.to_owned(),
        };
        instructions::of_kernel(&work, self.case.dtype)
    }

    pub fn activation(&self) -> f64 {
        self.vector() * instructions::of_activation(self.case.activation)
    }

    pub fn residual(&self, of: &OfWidth) -> f64 {
        if self.case.residual { of.residual } else { 0.0 }
    }

    pub fn blocks_of_multiprocessor(&self, launch: &Launch) -> f64 {
        let blocks = self.code.blocks(name(launch), launch.block, launch.shared);
        assert!(blocks > 0.0, "{} has no room on a multiprocessor", name(launch));
        blocks
    }

    /// The part of what a launch reads that lies in the L2.
    pub fn warmth(&self) -> f64 {
        if self.case.warm { 1.0 } else { 0.0 }
    }

    /// The same of a second launch that reads what the first one has read. What the second writes takes the place of what
    /// has lain there the longest. If it begins with the last of it (`backwards`), some is read before that happens.
    pub fn warmth_of_second(&self, backwards: bool) -> f64 {
        let (bytes, kept) = (self.bytes(), 1e6 * self.chip.l2_kept);
        match () {
            () if self.case.warm || 2.0 * bytes <= kept => 1.0,
            () if backwards => (0.5 * kept / bytes).min(1.0),
            () => 0.0,
        }
    }

    /// A job that reads all tensors, of which so large a part is in the L2; its times are left to the caller.
    pub fn reading(&self, launch: &Launch, part_in_l2: f64) -> Job {
        Job {
            blocks: f64::from(launch.grid),
            resident: self.chip.resident(self.blocks_of_multiprocessor(launch), f64::from(launch.cluster)),
            read: self.bytes(),
            read_in_l2: part_in_l2 * self.bytes(),
            is_warm: self.case.warm,
            ..Job::default()
        }
    }

    /// Microseconds of a reduction within a warp.
    pub fn shuffles(&self, lanes: f64) -> f64 {
        self.chip.cycles(lanes.min(32.0).log2().ceil() * self.chip.shuffle)
    }

    /// Microseconds to merge so many moments, one a lane.
    pub fn merges(&self, moments: f64) -> f64 {
        self.chip.cycles(moments.max(1.0).log2().ceil() * self.chip.merge)
    }
}
