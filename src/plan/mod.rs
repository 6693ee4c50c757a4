//! How a problem runs on a GPU: a pure function to launches, which knows no driver.
//!
//! [`plan`] chooses kernel, grid and block from the problem and the device's limits. Which arithmetic a row meets depends
//! on its length alone, so that a row's bits depend neither on the other rows nor on the device.

mod divisor;
mod head_rows;
mod kernels;
// Made by bindgen from kernels/params.h: the structures that kernels take by value, and the list of kernels.
pub(crate) mod params;
mod pointwise;
#[cfg(test)]
mod prediction;
mod rows;
mod slabs;

pub(crate) use divisor::{divisor, short_divisor};

use crate::element::DType;
use crate::norm::Activation;
use crate::problem::{Buffers, Problem};
use crate::quantization::QuantizedType;
use params::{
    BatchStatisticsParams, ChannelTableParams, ChannelsLastParams, ConvolutionParams, HeadRowsParams, Kernel,
    Modulation, PointwiseParams, RowsParams, Running,
};

/// The largest grid in its first dimension, on every chip.
pub(crate) const MAX_GRID: u32 = i32::MAX as u32;

/// The blocks of a cluster that every chip with clusters has. Larger ones exist where a kernel allows them, but a chip holds
/// fewer of them at once.
pub(crate) const PORTABLE_CLUSTER: u32 = 8;

/// What a plan may depend on of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub multiprocessors: u32,
    /// Blocks of a launch. Kernels walk on where there is more work than blocks.
    pub max_grid: u32,
    /// Bytes of shared memory that a block can have.
    pub shared: u32,
    /// The most blocks of a cluster; 1 where there are none.
    pub cluster: u32,
}

/// One kernel launch, all but its addresses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Launch {
    pub kernel: Kernel,
    /// Blocks.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    /// Blocks of a cluster, which divide the grid; 1 is no cluster.
    pub cluster: u32,
    /// Bytes of shared memory that a block gets beside the kernel's own.
    pub shared: u32,
    pub params: Params,
}

impl Launch {
    /// Without a cluster, and without shared memory beside the kernel's own.
    pub(crate) const fn plain(kernel: Kernel, grid: u32, block: u32, params: Params) -> Self {
        Self { kernel, grid, block, cluster: 1, shared: 0, params }
    }
}

/// A kernel's parameter, passed by value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Params {
    Rows(RowsParams),
    HeadRows(HeadRowsParams),
    ChannelsLast(ChannelsLastParams),
    BatchStatistics(BatchStatisticsParams),
    Pointwise(PointwiseParams),
    ChannelTable(ChannelTableParams),
    Convolution(ConvolutionParams),
}

impl Params {
    /// The same parameters with a call's addresses. What is in the workspace was planned as an offset.
    pub(crate) fn with(mut self, buffers: &Buffers) -> Self {
        match &mut self {
            Self::Rows(p) => {
                p.modulation = modulation(buffers);
                (p.x, p.residual, p.sum, p.y) = (buffers.x, buffers.residual, buffers.sum, buffers.y);
                (p.weight, p.bias) = (buffers.weight, buffers.bias);
                p.parts += buffers.workspace;
                (p.input_bias, p.gate, p.second_residual) = (buffers.input_bias, buffers.gate, buffers.second_residual);
                (p.post_weight, p.post_bias) = (buffers.post_norm_weight, buffers.post_norm_bias);
                p.scales = buffers.scales;
            }
            Self::HeadRows(p) => {
                (p.query.x, p.query.y) = (buffers.x, buffers.y);
                (p.query.weight, p.query.bias) = (buffers.weight, buffers.bias);
                (p.key.x, p.key.y) = (buffers.key_x, buffers.key_y);
                (p.key.weight, p.key.bias) = (buffers.key_weight, buffers.key_bias);
            }
            Self::ChannelsLast(p) => {
                p.modulation = modulation(buffers);
                (p.x, p.residual, p.sum, p.y) = (buffers.x, buffers.residual, buffers.sum, buffers.y);
                (p.weight, p.bias) = (buffers.weight, buffers.bias);
                track(&mut p.running, buffers);
                p.results += buffers.workspace;
                p.slab.counters += buffers.workspace;
                p.slab.partials += buffers.workspace;
            }
            Self::BatchStatistics(p) => {
                (p.x, p.residual, p.sum, p.y) = (buffers.x, buffers.residual, buffers.sum, buffers.y);
                (p.weight, p.bias) = (buffers.weight, buffers.bias);
                track(&mut p.running, buffers);
                p.table += buffers.workspace;
                p.counters += buffers.workspace;
                p.partials += buffers.workspace;
            }
            Self::Pointwise(p) if p.table != 0 => {
                (p.x, p.residual, p.sum, p.y) = (buffers.x, buffers.residual, buffers.sum, buffers.y);
                p.table += buffers.workspace;
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
            Self::HeadRows(p) => std::ptr::from_mut(p).cast(),
            Self::Rows(p) => std::ptr::from_mut(p).cast(),
            Self::ChannelsLast(p) => std::ptr::from_mut(p).cast(),
            Self::BatchStatistics(p) => std::ptr::from_mut(p).cast(),
            Self::Pointwise(p) => std::ptr::from_mut(p).cast(),
            Self::ChannelTable(p) => std::ptr::from_mut(p).cast(),
            Self::Convolution(p) => std::ptr::from_mut(p).cast(),
        }
    }
}

const fn modulation(buffers: &Buffers) -> Modulation {
    Modulation { scale: buffers.scale, shift: buffers.shift, channel_bias: buffers.channel_bias }
}

const fn track(running: &mut Running, buffers: &Buffers) {
    (running.mean, running.var) = (buffers.running_mean, buffers.running_var);
    running.num_batches_tracked = buffers.num_batches_tracked;
}

/// The launches that compute a problem, one after another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    launches: [Option<Launch>; 2],
    /// Of the workspace that they need.
    pub workspace_bytes: usize,
    /// In their place where there is no workspace, if that can be done without: the same bits, more slowly.
    pub(crate) otherwise: Option<Launch>,
    /// In their place where a tensor begins off a 16-byte boundary, if they do not go there: the same bits, more slowly.
    pub(crate) unaligned: [Option<Launch>; 2],
}

impl Plan {
    /// Where there is nothing to compute.
    pub(crate) const NONE: Self =
        Self { launches: [None; 2], workspace_bytes: 0, otherwise: None, unaligned: [None; 2] };

    pub(crate) fn single(launch: Option<Launch>) -> Self {
        Self { launches: [launch, None], ..Self::NONE }
    }

    /// The launches to make of these buffers.
    pub(crate) fn launches_of(&self, buffers: &Buffers) -> impl Iterator<Item = &Launch> {
        let is_aligned = |launch: &Launch| match launch.params {
            // Those of a channel are read one by one.
            Params::Rows(p) if p.affine == params::WN_AFFINE_PER_CHANNEL => buffers.begin_on_words(),
            Params::ChannelsLast(_) => buffers.begin_on_words(),
            _ => buffers.begin_on_words() && buffers.coefficients_begin_on_words(),
        };
        let has_all = buffers.workspace != 0 || self.workspace_bytes == 0;
        let launches = match &self.unaligned {
            _ if !has_all && self.otherwise.is_some() => std::slice::from_ref(&self.otherwise),
            [Some(first), _] if !is_aligned(first) => &self.unaligned,
            _ => &self.launches,
        };
        launches.iter().flatten()
    }

    pub(crate) fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.launches.iter().flatten()
    }
}

pub(crate) fn plan(problem: &Problem, limits: &Limits) -> Plan {
    match problem {
        Problem::Rows(rows) => rows::plan(rows, limits),
        Problem::HeadRows(heads) => head_rows::plan(heads, limits),
        Problem::ChannelsLast(tensor) => slabs::plan(tensor, limits),
        Problem::BatchStatistics(batch) => slabs::plan_batch(batch, limits),
        Problem::Pointwise(map) => Plan::single(pointwise::plan(map, limits)),
        Problem::ChannelTable(table) => Plan::single(pointwise::plan_table(table, limits)),
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

const fn element_code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => params::WN_ELEMENT_F32,
        DType::F16 => params::WN_ELEMENT_F16,
        DType::Bf16 => params::WN_ELEMENT_BF16,
    }
}

pub(crate) const fn quantized_code(quantized: QuantizedType) -> u32 {
    match quantized {
        QuantizedType::I8 => params::WN_ELEMENT_I8,
        QuantizedType::F8E4M3 => params::WN_ELEMENT_F8_E4M3,
    }
}

/// An output's type, which is mostly the input's.
pub(crate) fn output_code(output: DType, input: DType) -> u32 {
    if output == input { params::WN_ELEMENT_AS_INPUT } else { element_code(output) }
}

/// How the tensors that differ from sample to sample are stored.
fn modulation_flags(modulation: &crate::problem::Modulation) -> u32 {
    let flag = |coefficient, flag| if coefficient == Some(DType::F32) { flag } else { 0 };
    flag(modulation.scale, params::WN_FLAG_SCALE_F32)
        | flag(modulation.shift, params::WN_FLAG_SHIFT_F32)
        | flag(modulation.channel_bias, params::WN_FLAG_CHANNEL_BIAS_F32)
        | flag(modulation.gate, params::WN_FLAG_GATE_F32)
        | if modulation.scale_plus_one { params::WN_FLAG_SCALE_PLUS_ONE } else { 0 }
}

/// The flags that say which coefficients are f32 whatever the tensors' type.
fn coefficient_flags(weight: Option<DType>, bias: Option<DType>) -> u32 {
    let flag = |coefficient, flag| if coefficient == Some(DType::F32) { flag } else { 0 };
    flag(weight, params::WN_FLAG_WEIGHT_F32) | flag(bias, params::WN_FLAG_BIAS_F32)
}

#[cfg(test)]
mod tests {
    use super::{Limits, MAX_GRID};

    pub(super) const H200: Limits =
        Limits { multiprocessors: 132, max_grid: MAX_GRID, shared: 227 * 1024, cluster: 16 };
}
