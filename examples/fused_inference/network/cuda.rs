//! The GPU: everything but the `BatchNorm` is a launch of the library's plain direct convolution.

use warpnorm::cudarc::driver::CudaSlice;
use warpnorm::{Activation, Cuda, DirectConvolution};

use super::runner::{Convolve, Device};
use super::{Network, Result};

/// Addition and `ReLU` alone are the epilogue of a convolution that changes nothing: one channel, one weight, and that
/// is 1. A pass over memory like any other kernel's.
const IDENTITY: DirectConvolution = DirectConvolution {
    in_channels: 1,
    out_channels: 1,
    kernel: [1, 1],
    stride: 1,
    padding: 0,
    groups: 1,
    activation: Activation::None,
};

impl Device for Cuda {
    type Buffer = CudaSlice<f32>;
    type Counter = CudaSlice<i64>;
    /// The weight of [`IDENTITY`].
    type Workspace = CudaSlice<f32>;

    fn upload(&self, values: &[f32]) -> Result<CudaSlice<f32>> {
        Ok(self.stream().clone_htod(values)?)
    }

    fn overwrite(&self, buffer: &mut CudaSlice<f32>, values: &[f32]) -> Result<()> {
        if buffer.len() != values.len() {
            return Err(format!("{} values for a buffer of {}", values.len(), buffer.len()).into());
        }
        Ok(self.stream().memcpy_htod(values, buffer)?)
    }

    fn download(&self, buffer: &CudaSlice<f32>) -> Result<Vec<f32>> {
        let values = self.stream().clone_dtoh(buffer)?;
        self.synchronize()?;
        Ok(values)
    }

    fn upload_counter(&self, count: i64) -> Result<CudaSlice<i64>> {
        Ok(self.stream().clone_htod(&[count])?)
    }

    fn download_counter(&self, counter: &CudaSlice<i64>) -> Result<i64> {
        let mut count = [0];
        self.stream().memcpy_dtoh(counter, &mut count)?;
        self.synchronize()?;
        Ok(count[0])
    }

    fn workspace(&self, _: &Network, _: usize) -> Result<CudaSlice<f32>> {
        self.upload(&[1.0])
    }

    fn convolve(
        &self,
        _: &mut CudaSlice<f32>,
        call: &Convolve<'_, CudaSlice<f32>>,
        x: &CudaSlice<f32>,
        y: &mut CudaSlice<f32>,
    ) -> Result<()> {
        let &Convolve { geometry, batch, size, weight, bias, residual, relu } = call;
        let convolution = DirectConvolution { activation: activation(relu), ..geometry };
        Ok(convolution.forward(self, batch, size, x, weight, bias, residual, y)?)
    }

    fn add_relu(
        &self,
        one: &mut CudaSlice<f32>,
        x: &CudaSlice<f32>,
        residual: Option<&CudaSlice<f32>>,
        relu: bool,
        y: &mut CudaSlice<f32>,
    ) -> Result<()> {
        let identity = DirectConvolution { activation: activation(relu), ..IDENTITY };
        Ok(identity.forward(self, 1, [1, x.len()], x, one, None, residual, y)?)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(self.stream().synchronize()?)
    }
}

const fn activation(relu: bool) -> Activation {
    if relu { Activation::Relu } else { Activation::None }
}
