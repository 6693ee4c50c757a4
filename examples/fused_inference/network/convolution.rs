//! A convolution on the CPU: a matrix product, by the GEMM crate.

use std::ops::Range;

use rayon::prelude::*;
use warpnorm::DirectConvolution;

/// `y = convolution(x) + bias` for one image, by so many threads.
#[allow(clippy::too_many_arguments)]
pub fn multiply(
    geometry: &DirectConvolution,
    size: [usize; 2],
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    columns: &mut [f32],
    y: &mut [f32],
    threads: usize,
) {
    let [out_height, out_width] = geometry.output_size(size);
    let pixels = out_height * out_width;
    let (inputs, outputs) = (geometry.in_channels / geometry.groups, geometry.out_channels / geometry.groups);
    let area = geometry.kernel[0] * geometry.kernel[1];
    if inputs == 1 && outputs == 1 {
        let plane = |(channel, y): (usize, &mut [f32])| {
            let x = &x[channel * size[0] * size[1]..][..size[0] * size[1]];
            y.fill(bias.map_or(0.0, |bias| bias[channel]));
            depthwise(geometry, size, x, &weight[channel * area..][..area], y);
        };
        return if threads == 1 {
            y.chunks_exact_mut(pixels).enumerate().for_each(plane);
        } else {
            y.par_chunks_exact_mut(pixels).enumerate().for_each(plane);
        };
    }
    let groups = x
        .chunks_exact(inputs * size[0] * size[1])
        .zip(weight.chunks_exact(outputs * inputs * area))
        .zip(y.chunks_exact_mut(outputs * pixels));
    for (group, ((x, weight), y)) in groups.enumerate() {
        let x = if is_matrix(geometry) { x } else { gather(geometry, size, x, columns, threads) };
        if let Some(bias) = bias {
            let planes = y.chunks_exact_mut(pixels).zip(&bias[group * outputs..]);
            planes.for_each(|(plane, bias)| plane.fill(*bias));
        }
        matrix_product(weight, x, y, [outputs, pixels, inputs * area], bias.is_some(), threads);
    }
}

/// Adds to a plane what a kernel of its own makes of the channel: a product of a vector and a matrix, which costs more to set
/// up than to compute here.
fn depthwise(geometry: &DirectConvolution, size: [usize; 2], x: &[f32], weight: &[f32], y: &mut [f32]) {
    for (tap, weight) in taps(geometry, size).zip(weight) {
        tap.each_row(geometry.stride, |row, from| {
            along(&mut y[row], &x[from..], geometry.stride, |y, x| *y += weight * x);
        });
    }
}

/// Calls `each` with every element of `y` and, in steps, those of `x`. Of neighbours the compiler makes vectors.
fn along(y: &mut [f32], x: &[f32], step: usize, each: impl Fn(&mut f32, f32)) {
    if step == 1 {
        y.iter_mut().zip(x).for_each(|(y, x)| each(y, *x));
    } else {
        y.iter_mut().zip(x.iter().step_by(step)).for_each(|(y, x)| each(y, *x));
    }
}

/// `c = a·b`, or where it adds `c + a·b`, all row-major: `a` is `[m, k]`, `b` `[k, n]`, `c` `[m, n]`.
fn matrix_product(a: &[f32], b: &[f32], c: &mut [f32], [m, n, k]: [usize; 3], adds: bool, threads: usize) {
    let (a, b, c) = (&a[..m * k], &b[..k * n], &mut c[..m * n]);
    let (row_of_a, row_of_b) = (k as isize, n as isize);
    let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    // SAFETY: the slices hold the elements that extents and strides reach; `c` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            row_of_b,
            adds,
            a.as_ptr(),
            1,
            row_of_a,
            b.as_ptr(),
            1,
            row_of_b,
            1.0,
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
pub fn columns_len(geometry: &DirectConvolution, size: [usize; 2]) -> usize {
    let [out_height, out_width] = geometry.output_size(size);
    let channels = geometry.in_channels / geometry.groups;
    channels * geometry.kernel[0] * geometry.kernel[1] * out_height * out_width
}

/// The matrix that a group's kernels multiply, known as im2col: a row for each channel and tap, a column for each pixel
/// of the output.
fn gather<'a>(
    geometry: &DirectConvolution,
    size: [usize; 2],
    x: &[f32],
    columns: &'a mut [f32],
    threads: usize,
) -> &'a [f32] {
    let columns = &mut columns[..columns_len(geometry, size)];
    let [out_height, out_width] = geometry.output_size(size);
    let pixels = out_height * out_width;
    let of_channel = |(x, columns): (&[f32], &mut [f32])| {
        // Where a tap reaches beyond the image.
        columns.fill(0.0);
        for (tap, columns) in taps(geometry, size).zip(columns.chunks_exact_mut(pixels)) {
            tap.each_row(geometry.stride, |row, from| {
                along(&mut columns[row], &x[from..], geometry.stride, |column, x| *column = x);
            });
        }
    };
    let (plane, matrix) = (size[0] * size[1], geometry.kernel[0] * geometry.kernel[1] * pixels);
    if threads == 1 {
        x.chunks_exact(plane).zip(columns.chunks_exact_mut(matrix)).for_each(of_channel);
    } else {
        x.par_chunks_exact(plane).zip(columns.par_chunks_exact_mut(matrix)).for_each(of_channel);
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
