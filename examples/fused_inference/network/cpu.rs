//! The CPU: a convolution is a matrix product for each image, on as many threads as there are.

use rayon::prelude::*;
use warpnorm::Cpu;

use super::convolution::{columns_len, multiply};
use super::runner::{Convolve, Device};
use super::{Network, Result};

/// Elements of a pass without arithmetic to speak of that are worth another thread.
const PIECE: usize = 1 << 14;

impl Device for Cpu {
    type Buffer = Vec<f32>;
    type Counter = [i64; 1];
    /// For each share of the batch that a thread works on, one image as the matrix that a kernel multiplies.
    type Workspace = Vec<Vec<f32>>;

    fn upload(&self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn overwrite(&self, buffer: &mut Vec<f32>, values: &[f32]) -> Result<()> {
        if buffer.len() != values.len() {
            return Err(format!("{} values for a buffer of {}", values.len(), buffer.len()).into());
        }
        buffer.copy_from_slice(values);
        Ok(())
    }

    fn download(&self, buffer: &Vec<f32>) -> Result<Vec<f32>> {
        Ok(buffer.clone())
    }

    fn upload_counter(&self, count: i64) -> Result<[i64; 1]> {
        Ok([count])
    }

    fn download_counter(&self, &[count]: &[i64; 1]) -> Result<i64> {
        Ok(count)
    }

    fn workspace(&self, network: &Network, batch: usize) -> Result<Vec<Vec<f32>>> {
        let columns = network.blocks.iter().map(|block| columns_len(&block.convolution, block.input));
        let columns = vec![0.0; columns.max().unwrap_or(0)];
        Ok(vec![columns; rayon::current_num_threads().min(batch)])
    }

    fn convolve(
        &self,
        workspace: &mut Vec<Vec<f32>>,
        call: &Convolve<'_, Vec<f32>>,
        x: &Vec<f32>,
        y: &mut Vec<f32>,
    ) -> Result<()> {
        let Convolve { geometry, batch, size: [height, width], .. } = *call;
        let [out_height, out_width] = geometry.output_size(call.size);
        let input = geometry.in_channels * height * width;
        let output = geometry.out_channels * out_height * out_width;
        let taps = geometry.in_channels / geometry.groups * geometry.kernel[0] * geometry.kernel[1];
        let fits = x.len() == batch * input
            && y.len() == batch * output
            && call.weight.len() == geometry.out_channels * taps
            && call.bias.is_none_or(|bias| bias.len() == geometry.out_channels)
            && call.residual.is_none_or(|residual| residual.len() == y.len())
            && workspace.iter().all(|columns| columns.len() >= columns_len(&geometry, call.size));
        if !fits || workspace.is_empty() || input == 0 || output == 0 {
            return Err(format!("buffers that do not fit a batch of {batch} for {geometry:?}").into());
        }

        let images = batch.div_ceil(workspace.len());
        let share = |first: usize, columns: &mut [f32], x: &[f32], y: &mut [f32]| {
            for (image, (x, y)) in x.chunks_exact(input).zip(y.chunks_exact_mut(output)).enumerate() {
                let residual = call.residual.map(|residual| &residual[(first + image) * output..][..output]);
                multiply(&geometry, call.size, x, call.weight, None, columns, y, 1);
                finish(y, call.bias.map(Vec::as_slice), residual, call.relu);
            }
        };
        match workspace.as_mut_slice() {
            // Not even the way to a thread of the pool and back.
            [columns] => share(0, columns, x, y),
            all => all
                .par_iter_mut()
                .zip(x.par_chunks(images * input))
                .zip(y.par_chunks_mut(images * output))
                .enumerate()
                .for_each(|(index, ((columns, x), y))| share(index * images, columns, x, y)),
        }
        Ok(())
    }

    fn add_relu(
        &self,
        _: &mut Vec<Vec<f32>>,
        x: &Vec<f32>,
        residual: Option<&Vec<f32>>,
        relu: bool,
        y: &mut Vec<f32>,
    ) -> Result<()> {
        if y.len() != x.len() || residual.is_some_and(|residual| residual.len() != x.len()) {
            return Err("tensors of different lengths cannot be added".into());
        }
        let piece = |index: usize, y: &mut [f32]| {
            let range = index * PIECE..index * PIECE + y.len();
            y.copy_from_slice(&x[range.clone()]);
            finish(y, None, residual.map(|residual| &residual[range]), relu);
        };
        if y.len() <= PIECE {
            piece(0, y);
        } else {
            y.par_chunks_mut(PIECE).enumerate().for_each(|(index, y)| piece(index, y));
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

/// Adds bias and residual to an image, and takes its `ReLU`. NaN stays NaN, which `f32::max` would not do.
fn finish(y: &mut [f32], bias: Option<&[f32]>, residual: Option<&[f32]>, relu: bool) {
    if let Some(bias) = bias {
        let pixels = y.len() / bias.len();
        for (plane, bias) in y.chunks_exact_mut(pixels).zip(bias) {
            plane.iter_mut().for_each(|y| *y += bias);
        }
    }
    let rectified = |y: f32| if relu && y < 0.0 { 0.0 } else { y };
    match residual {
        Some(residual) => y.iter_mut().zip(residual).for_each(|(y, residual)| *y = rectified(*y + residual)),
        None => y.iter_mut().for_each(|y| *y = rectified(*y)),
    }
}
