//! The direct convolution on which the example's network runs.

use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};

use super::Cuda;
use crate::error::{Error, Result};
use crate::norm::Activation;
use crate::plan::params::{ConvolutionParams, Kernel, WN_CONVOLUTION_THREADS};
use crate::plan::{Launch, Params, Plan, activation_code};
use crate::problem::Buffers;
use crate::shape::product;

/// A plain 2-D convolution in f32, NCHW, on the GPU, with bias, residual and activation in its epilogue.
///
/// It makes a folded network run with this crate alone: for examples and tests, where correctness matters and not the
/// speed of the convolution. A service has cuDNN or its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectConvolution {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Steps of the kernel, in both directions.
    pub stride: usize,
    /// Zeros around the input, on all sides.
    pub padding: usize,
    /// Groups of channels; they divide both channel counts.
    pub groups: usize,
    /// Applied last.
    pub activation: Activation,
}

impl DirectConvolution {
    /// Rows and columns of the output for an input of these.
    #[must_use]
    pub fn output_size(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let size = |input: usize, kernel: usize| match input
            .saturating_add(self.padding.saturating_mul(2))
            .checked_sub(kernel)
        {
            Some(room) if self.stride > 0 => room / self.stride + 1,
            _ => 0,
        };
        [size(height, self.kernel[0]), size(width, self.kernel[1])]
    }

    /// `y = activation(convolution(x, weight) + bias + residual)` on the stream of `cuda`.
    ///
    /// `x` is `[batch, in_channels, height, width]`, `weight` `[out_channels, in_channels / groups, kernel…]`, `bias`
    /// `[out_channels]`, `residual` and `y` `[batch, out_channels, output_size…]`.
    ///
    /// # Errors
    /// [`Error::Groups`], [`Error::Length`] or [`Error::TooLarge`] if the sizes do not fit together;
    /// [`Error::Driver`] if the launch fails.
    #[allow(clippy::too_many_arguments)]
    pub fn forward(
        &self,
        cuda: &Cuda,
        batch: usize,
        size: [usize; 2],
        x: &CudaSlice<f32>,
        weight: &CudaSlice<f32>,
        bias: Option<&CudaSlice<f32>>,
        residual: Option<&CudaSlice<f32>>,
        y: &mut CudaSlice<f32>,
    ) -> Result<()> {
        let [height, width] = size;
        let [out_height, out_width] = self.output_size(size);
        for (parameter, value) in [("stride", self.stride), ("kernel", self.kernel[0].min(self.kernel[1]))] {
            if value == 0 {
                return Err(Error::Empty { layer: "DirectConvolution", parameter });
            }
        }
        for num_channels in [self.in_channels, self.out_channels] {
            if self.groups == 0 || !num_channels.is_multiple_of(self.groups) {
                return Err(Error::Groups { num_channels, num_groups: self.groups });
            }
        }
        let [rows, columns] = self.kernel;
        let outputs = [batch, self.out_channels, out_height, out_width];
        let length = expect("y", y.len(), &outputs)?;
        expect("x", x.len(), &[batch, self.in_channels, height, width])?;
        expect("weight", weight.len(), &[self.out_channels, self.in_channels / self.groups, rows, columns])?;
        bias.map_or(Ok(0), |bias| expect("bias", bias.len(), &[self.out_channels]))?;
        residual.map_or(Ok(0), |residual| expect("residual", residual.len(), &outputs))?;
        if length == 0 {
            return Ok(());
        }
        let params = ConvolutionParams {
            length: length as u64,
            in_channels: small("in_channels", self.in_channels)?,
            out_channels: small("out_channels", self.out_channels)?,
            groups: small("groups", self.groups)?,
            in_height: small("height", height)?,
            in_width: small("width", width)?,
            out_height: small("output height", out_height)?,
            out_width: small("output width", out_width)?,
            kernel_height: small("kernel height", rows)?,
            kernel_width: small("kernel width", columns)?,
            stride: small("stride", self.stride)?,
            padding: small("padding", self.padding)?,
            activation: activation_code(self.activation),
            ..ConvolutionParams::default()
        };
        let grid = cuda.limits.grid(length as u64, u64::from(WN_CONVOLUTION_THREADS));
        let launch =
            Launch::plain(Kernel::convolution_direct_f32, grid, WN_CONVOLUTION_THREADS, Params::Convolution(params));
        let stream = cuda.stream();
        let given =
            [("x", Some(x)), ("weight", Some(weight)), ("bias", bias), ("residual", residual), ("y", Some(&*y))];
        for (argument, slice) in given {
            if slice.is_some_and(|slice| cuda.is_elsewhere(slice.stream())) {
                return Err(Error::Device { argument });
            }
        }
        let (x, _x) = x.device_ptr(stream);
        let (weight, _weight) = weight.device_ptr(stream);
        let bias = bias.map(|bias| bias.device_ptr(stream));
        let residual = residual.map(|residual| residual.device_ptr(stream));
        let (y, _y) = y.device_ptr_mut(stream);
        let address = |operand: &Option<(u64, _)>| operand.as_ref().map_or(0, |(address, _)| *address);
        let buffers =
            Buffers { x, weight, y, bias: address(&bias), residual: address(&residual), ..Buffers::default() };
        cuda.check_earlier()?;
        // SAFETY: the slices are borrowed until the launch is on its stream, and as long as the convolution says.
        unsafe { cuda.context().submit(&Plan::single(Some(launch)), &buffers, stream.cu_stream(), cuda.programmatic) }
    }
}

fn expect(argument: &'static str, found: usize, extents: &[usize]) -> Result<usize> {
    let expected = product(extents).unwrap_or(usize::MAX);
    if found == expected { Ok(expected) } else { Err(Error::Length { argument, found, expected }) }
}

/// The kernel's indices are 32 bits wide, with room for a padded coordinate.
fn small(what: &'static str, value: usize) -> Result<u32> {
    let limit = u64::from(u32::MAX / 4);
    match u32::try_from(value) {
        Ok(small) if u64::from(small) <= limit => Ok(small),
        _ => Err(Error::TooLarge { what, found: value as u64, limit }),
    }
}
