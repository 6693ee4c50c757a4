//! The CPU: a convolution is a matrix product for each image, on as many threads as there are.

use std::ops::Range;

use rayon::prelude::*;
use warpnorm::{Cpu, DirectConvolution};

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
                multiply(&geometry, call.size, x, call.weight, columns, y);
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

/// `y = convolution(x)` for one image.
fn multiply(
    geometry: &DirectConvolution,
    size: [usize; 2],
    x: &[f32],
    weight: &[f32],
    columns: &mut [f32],
    y: &mut [f32],
) {
    let [out_height, out_width] = geometry.output_size(size);
    let pixels = out_height * out_width;
    let (inputs, outputs) = (geometry.in_channels / geometry.groups, geometry.out_channels / geometry.groups);
    let area = geometry.kernel[0] * geometry.kernel[1];
    let groups = x
        .chunks_exact(inputs * size[0] * size[1])
        .zip(weight.chunks_exact(outputs * inputs * area))
        .zip(y.chunks_exact_mut(outputs * pixels));
    for ((x, weight), y) in groups {
        if inputs == 1 && outputs == 1 {
            // A product of a vector and a matrix, which costs more to set up than to compute here.
            y.fill(0.0);
            for (tap, weight) in taps(geometry, size).zip(weight) {
                tap.each_row(geometry.stride, |row, from| {
                    let x = x[from..].iter().step_by(geometry.stride);
                    y[row].iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
                });
            }
            continue;
        }
        let x = if is_matrix(geometry) { x } else { gather(geometry, size, x, columns) };
        matrix_product(weight, x, y, [outputs, pixels, inputs * area]);
    }
}

/// `c = a·b`, all row-major: `a` is `[m, k]`, `b` `[k, n]`, `c` `[m, n]`.
fn matrix_product(a: &[f32], b: &[f32], c: &mut [f32], [m, n, k]: [usize; 3]) {
    let (a, b, c) = (&a[..m * k], &b[..k * n], &mut c[..m * n]);
    let (row_of_a, row_of_b) = (k as isize, n as isize);
    let parallelism = gemm::Parallelism::None;
    // SAFETY: the slices hold the elements that extents and strides reach; `c` is borrowed exclusively, and not read.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            row_of_b,
            false,
            a.as_ptr(),
            1,
            row_of_a,
            b.as_ptr(),
            1,
            row_of_b,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Whether a group of the input's channels is the matrix that the kernel multiplies, as it lies in memory.
fn is_matrix(geometry: &DirectConvolution) -> bool {
    geometry.kernel == [1, 1] && geometry.stride == 1 && geometry.padding == 0
}

/// Elements of the matrix that [`gather`] makes.
fn columns_len(geometry: &DirectConvolution, size: [usize; 2]) -> usize {
    let [out_height, out_width] = geometry.output_size(size);
    let channels = geometry.in_channels / geometry.groups;
    channels * geometry.kernel[0] * geometry.kernel[1] * out_height * out_width
}

/// The matrix that a group's kernels multiply, known as im2col: a row for each channel and tap, a column for each pixel
/// of the output.
fn gather<'a>(geometry: &DirectConvolution, size: [usize; 2], x: &[f32], columns: &'a mut [f32]) -> &'a [f32] {
    let columns = &mut columns[..columns_len(geometry, size)];
    let [out_height, out_width] = geometry.output_size(size);
    // Where a tap reaches beyond the image.
    columns.fill(0.0);
    let area = geometry.kernel[0] * geometry.kernel[1];
    let channels = x.chunks_exact(size[0] * size[1]).zip(columns.chunks_exact_mut(area * out_height * out_width));
    for (x, columns) in channels {
        for (tap, columns) in taps(geometry, size).zip(columns.chunks_exact_mut(out_height * out_width)) {
            tap.each_row(geometry.stride, |row, from| {
                let x = x[from..].iter().step_by(geometry.stride);
                columns[row].iter_mut().zip(x).for_each(|(column, x)| *column = *x);
            });
        }
    }
    columns
}

/// An element of the kernel: which pixels of the output it serves, and where it finds the first pixel of the input.
struct Tap {
    rows: Range<usize>,
    columns: Range<usize>,
    out_width: usize,
    width: usize,
    /// The input's pixel for the first of `rows` and `columns`.
    first: usize,
}

impl Tap {
    /// Calls `row` with each stretch of the output, and the input's pixel for the first of the stretch.
    fn each_row(&self, stride: usize, mut row: impl FnMut(Range<usize>, usize)) {
        if self.columns.is_empty() {
            return;
        }
        for (index, y) in self.rows.clone().enumerate() {
            let start = y * self.out_width;
            row(start + self.columns.start..start + self.columns.end, self.first + index * stride * self.width);
        }
    }
}

/// The kernel's elements, in the order of the weight.
fn taps(geometry: &DirectConvolution, size: [usize; 2]) -> impl Iterator<Item = Tap> {
    let &DirectConvolution { kernel: [kernel_rows, kernel_columns], stride, padding, .. } = geometry;
    let [out_height, out_width] = geometry.output_size(size);
    let [height, width] = size;
    // The outputs `o` for which `o * stride + tap - padding` lies within the input.
    let served = move |tap: usize, input: usize, outputs: usize| {
        let first = padding.saturating_sub(tap).div_ceil(stride);
        let end = (input + padding).saturating_sub(tap).div_ceil(stride).min(outputs);
        first..end.max(first)
    };
    (0..kernel_rows * kernel_columns).map(move |tap| {
        let (r, s) = (tap / kernel_columns, tap % kernel_columns);
        let (rows, columns) = (served(r, height, out_height), served(s, width, out_width));
        let row = (rows.start * stride + r).saturating_sub(padding);
        let column = (columns.start * stride + s).saturating_sub(padding);
        Tap { rows, columns, out_width, width, first: row * width + column }
    })
}
