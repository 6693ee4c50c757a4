//! How a problem runs on a GPU: a pure function to launches, which knows no driver.
//!
//! [`plan`] chooses kernel, grid and block from the problem and the device's limits. Which arithmetic a row meets depends
//! on its length alone, so that a row's bits depend neither on the other rows nor on the device.

mod divisor;
mod kernels;
// Made by bindgen from kernels/params.h: the structures that kernels take by value, and the list of kernels.
pub(crate) mod params;
mod pointwise;
mod rows;

pub(crate) use divisor::divisor;

use crate::element::DType;
use crate::norm::Activation;
use crate::problem::{Buffers, Problem};
use params::{ChannelTableParams, ConvolutionParams, Kernel, PointwiseParams, RowsParams};

/// The largest grid in its first dimension, on every chip.
pub(crate) const MAX_GRID: u32 = i32::MAX as u32;

/// What a plan may depend on of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub multiprocessors: u32,
    /// Blocks of a launch. Kernels walk on where there is more work than blocks.
    pub max_grid: u32,
}

/// One kernel launch, all but its addresses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Launch {
    pub kernel: Kernel,
    /// Blocks.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    pub params: Params,
}

/// A kernel's parameter, passed by value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Params {
    Rows(RowsParams),
    Pointwise(PointwiseParams),
    ChannelTable(ChannelTableParams),
    Convolution(ConvolutionParams),
}

impl Params {
    /// The same parameters with a call's addresses.
    pub(crate) fn with(mut self, buffers: &Buffers) -> Self {
        match &mut self {
            Self::Rows(p) => {
                (p.x, p.residual, p.sum, p.y) = (buffers.x, buffers.residual, buffers.sum, buffers.y);
                (p.weight, p.bias) = (buffers.weight, buffers.bias);
            }
            Self::Pointwise(p) => {
                (p.x, p.residual, p.sum, p.y) = (buffers.x, buffers.residual, buffers.sum, buffers.y);
                (p.running_mean, p.running_var) = (buffers.running_mean, buffers.running_var);
                (p.weight, p.bias, p.table) = (buffers.weight, buffers.bias, buffers.table);
            }
            Self::ChannelTable(p) => {
                (p.running_mean, p.running_var) = (buffers.running_mean, buffers.running_var);
                (p.weight, p.bias, p.table) = (buffers.weight, buffers.bias, buffers.y);
            }
            Self::Convolution(p) => {
                (p.x, p.residual, p.y) = (buffers.x, buffers.residual, buffers.y);
                (p.weight, p.bias) = (buffers.weight, buffers.bias);
            }
        }
        self
    }

    /// Where the driver finds the parameter, which it copies at the launch.
    pub(crate) fn pointer(&mut self) -> *mut std::ffi::c_void {
        match self {
            Self::Rows(p) => std::ptr::from_mut(p).cast(),
            Self::Pointwise(p) => std::ptr::from_mut(p).cast(),
            Self::ChannelTable(p) => std::ptr::from_mut(p).cast(),
            Self::Convolution(p) => std::ptr::from_mut(p).cast(),
        }
    }
}

/// The launch that computes a problem; `None` where there is nothing to compute.
pub(crate) fn plan(problem: &Problem, limits: &Limits) -> Option<Launch> {
    match problem {
        Problem::Rows(rows) => rows::plan(rows, limits),
        Problem::Pointwise(map) => pointwise::plan(map, limits),
        Problem::ChannelTable(table) => pointwise::plan_table(table, limits),
    }
}

impl Limits {
    /// As many blocks as there are pieces of work, up to the largest grid.
    pub(crate) fn grid(&self, work: u64, per_block: u64) -> u32 {
        u32::try_from(work.div_ceil(per_block)).map_or(self.max_grid, |blocks| blocks.min(self.max_grid))
    }
}

pub(crate) const fn activation_code(activation: Activation) -> u32 {
    match activation {
        Activation::None => params::WN_ACTIVATION_NONE,
        Activation::Relu => params::WN_ACTIVATION_RELU,
        Activation::Silu => params::WN_ACTIVATION_SILU,
        Activation::Gelu => params::WN_ACTIVATION_GELU,
        Activation::GeluTanh => params::WN_ACTIVATION_GELU_TANH,
    }
}

/// The flags that say which coefficients are f32 whatever the tensors' type.
fn coefficient_flags(weight: Option<DType>, bias: Option<DType>) -> u32 {
    let flag = |coefficient, flag| if coefficient == Some(DType::F32) { flag } else { 0 };
    flag(weight, params::WN_FLAG_WEIGHT_F32) | flag(bias, params::WN_FLAG_BIAS_F32)
}
