//! Operators that go over their input with a window: convolutions and pools.

use rayon::prelude::*;

use super::{
    super::{
        node::Node,
        shapes::{Window, transposed_size},
    },
    array::{Array, room},
};

/// Depth, height and width; where there are fewer axes, those in front are of length 1.
type Axes = [usize; 3];

/// A window over up to three axes.
struct Windows {
    axes: [Window; 3],
    input: Axes,
    output: Axes,
}

fn in_front<T: Copy>(values: &[T], fill: T) -> Option<[T; 3]> {
    let mut axes = [fill; 3];
    axes[3_usize.checked_sub(values.len())?..].copy_from_slice(values);
    Some(axes)
}

const WHOLE: Window = Window { kernel: 1, stride: 1, dilation: 1, pad_begin: 0, pad_end: 0 };

impl Windows {
    /// `size` says how many outputs an axis has, from its number, its window and its length.
    fn of(
        node: &Node<'_>,
        spatial: &[usize],
        kernel: &[usize],
        size: impl Fn(usize, &Window, usize) -> Option<usize>,
    ) -> Option<Self> {
        if spatial.len() != kernel.len() {
            return None;
        }
        room(kernel)?;
        let rank = spatial.len();
        let windows = (0..rank).map(|axis| Window::of(node, axis, rank, kernel[axis], spatial[axis]));
        let windows = windows.collect::<Option<Vec<_>>>()?;
        let output = windows.iter().enumerate().map(|(axis, window)| size(axis, window, spatial[axis]));
        let output = output.collect::<Option<Vec<_>>>()?;
        // Also where there are no samples.
        room(&output)?;
        Some(Self { axes: in_front(&windows, WHOLE)?, input: in_front(spatial, 1)?, output: in_front(&output, 1)? })
    }

    fn taps(&self) -> usize {
        self.axes.iter().map(|window| window.kernel).product()
    }

    /// A kernel of one tap meets every element in order.
    fn is_pointwise(&self) -> bool {
        let is_one = |window: &Window| (window.kernel, window.stride, window.pad_begin, window.pad_end) == (1, 1, 0, 0);
        self.axes.iter().all(is_one) && self.input == self.output
    }

    /// The outputs of an axis, of those in `0..len`, at which a tap meets an input: `output · stride + offset`.
    fn reached(window: &Window, tap: usize, input: usize, output: usize) -> (usize, usize, isize) {
        let offset = (tap * window.dilation).cast_signed() - window.pad_begin.cast_signed();
        let first = usize::try_from(-offset).map_or(0, |missing| missing.div_ceil(window.stride));
        let room = input.cast_signed() - offset;
        let last = usize::try_from(room).map_or(0, |room| room.div_ceil(window.stride)).min(output);
        (first.min(last), last, offset)
    }

    /// Calls `each` with an output row, an input row, how many pairs there are, for a tap. The pairs of a row are
    /// `stride` inputs apart.
    fn rows_of_tap(&self, tap: usize, mut each: impl FnMut(usize, usize, usize)) {
        let [_, ky, kx] = self.axes.map(|window| window.kernel);
        let taps = [tap / (ky * kx), tap / kx % ky, tap % kx];
        let reach = |axis: usize| Self::reached(&self.axes[axis], taps[axis], self.input[axis], self.output[axis]);
        let (x_first, x_last, x_offset) = reach(2);
        if x_first == x_last {
            return;
        }
        let at = |axis: usize, output: usize, offset: isize| {
            ((output * self.axes[axis].stride).cast_signed() + offset).cast_unsigned()
        };
        let (z_first, z_last, z_offset) = reach(0);
        let (y_first, y_last, y_offset) = reach(1);
        for z in z_first..z_last {
            for y in y_first..y_last {
                let output = (z * self.output[1] + y) * self.output[2] + x_first;
                let input = (at(0, z, z_offset) * self.input[1] + at(1, y, y_offset)) * self.input[2]
                    + at(2, x_first, x_offset);
                each(output, input, x_last - x_first);
            }
        }
    }
}

/// What a convolution's weight says of it.
struct Kernel<'a> {
    groups: usize,
    inputs: usize,
    outputs: usize,
    columns: usize,
    spatial: &'a [usize],
}

impl<'a> Kernel<'a> {
    fn of(node: &Node<'_>, x: &Array, weight: &'a Array, is_transposed: bool) -> Option<Self> {
        let groups = usize::try_from(node.int("group", 1)).ok().filter(|&groups| groups > 0)?;
        let [rows, columns, ref spatial @ ..] = weight.dims[..] else { return None };
        let across = columns.checked_mul(groups)?;
        let (inputs, outputs) = if is_transposed { (rows, across) } else { (across, rows) };
        let fits = x.dims.get(1) == Some(&inputs) && rows.is_multiple_of(groups) && x.dims.len() == weight.dims.len();
        fits.then_some(Self { groups, inputs, outputs, columns, spatial })
    }
}

pub(super) fn conv(node: &Node<'_>, x: &Array, weight: &Array, bias: Option<&Array>) -> Option<Array> {
    let kernel = Kernel::of(node, x, weight, false)?;
    let windows = Windows::of(node, &x.dims[2..], kernel.spatial, |_, window, len| window.positions(len, false))?;
    convolve(
        &kernel,
        &windows,
        x,
        bias,
        |plane, input, output| {
            let taps = windows.taps();
            let column = input % kernel.columns;
            let weights = &weight.data[(output * kernel.columns + column) * taps..][..taps];
            let from = &x.data[plane..];
            Some((weights, from))
        },
        false,
    )
}

pub(super) fn conv_transpose(node: &Node<'_>, x: &Array, weight: &Array, bias: Option<&Array>) -> Option<Array> {
    let kernel = Kernel::of(node, x, weight, true)?;
    let mut node_windows =
        Windows::of(node, &x.dims[2..], kernel.spatial, |axis, window, len| transposed_size(node, axis, window, len))?;
    // Pads follow from the output's size where that is given.
    if node.ints("output_shape").is_some() || matches!(node.text("auto_pad"), Some("SAME_UPPER" | "SAME_LOWER")) {
        let upper = node.text("auto_pad") != Some("SAME_LOWER");
        for axis in 0..3 {
            let (window, input, output) =
                (&mut node_windows.axes[axis], node_windows.input[axis], node_windows.output[axis]);
            let whole = input.checked_sub(1)?.checked_mul(window.stride)?.checked_add(window.extent()?)?;
            let pads = whole.saturating_sub(output);
            window.pad_begin = if upper { pads / 2 } else { pads.div_ceil(2) };
        }
    }
    // Inputs are to outputs what in a convolution outputs are to inputs.
    let windows = Windows { axes: node_windows.axes, input: node_windows.output, output: node_windows.input };
    convolve(
        &kernel,
        &windows,
        x,
        bias,
        |plane, input, output| {
            let taps = windows.taps();
            let weights = &weight.data[(input * kernel.columns + output % kernel.columns) * taps..][..taps];
            Some((weights, &x.data[plane..]))
        },
        true,
    )
}

/// Sums, for each output channel, what each input channel of its group gives it.
fn convolve<'a>(
    kernel: &Kernel<'_>,
    windows: &Windows,
    x: &'a Array,
    bias: Option<&Array>,
    part: impl Fn(usize, usize, usize) -> Option<(&'a [f64], &'a [f64])> + Sync,
    scatters: bool,
) -> Option<Array> {
    let samples = *x.dims.first()?;
    let (in_len, out_len) = if scatters { (windows.output, windows.input) } else { (windows.input, windows.output) };
    let (in_plane, out_plane) = (in_len.iter().product::<usize>(), out_len.iter().product::<usize>());
    let spatial = &out_len[3 - (x.dims.len() - 2)..];
    let mut y = Array::zeros([&[samples, kernel.outputs], spatial].concat())?;
    if bias.is_some_and(|bias| bias.data.len() != kernel.outputs) {
        return None;
    }
    let per_group = kernel.outputs / kernel.groups;
    let inputs_per_group = kernel.inputs / kernel.groups;
    let stride = windows.axes[2].stride;
    y.data.par_chunks_mut(out_plane.max(1)).enumerate().for_each(|(index, sums)| {
        let (sample, output) = (index / kernel.outputs, index % kernel.outputs);
        sums.fill(bias.map_or(0.0, |bias| bias.data[output]));
        let first = output / per_group.max(1) * inputs_per_group;
        for input in first..first + inputs_per_group {
            let Some((weights, from)) = part((sample * kernel.inputs + input) * in_plane, input, output) else {
                continue;
            };
            if windows.is_pointwise() {
                sums.iter_mut().zip(from).for_each(|(sum, value)| *sum += weights[0] * value);
                continue;
            }
            for (tap, &weight) in weights.iter().enumerate() {
                windows.rows_of_tap(tap, |output, input, len| {
                    let pairs = 0..len;
                    if scatters {
                        pairs.for_each(|i| sums[input + i * stride] += weight * from[output + i]);
                    } else if stride == 1 {
                        let values = &from[input..input + len];
                        sums[output..output + len]
                            .iter_mut()
                            .zip(values)
                            .for_each(|(sum, value)| *sum += weight * value);
                    } else {
                        pairs.for_each(|i| sums[output + i] += weight * from[input + i * stride]);
                    }
                });
            }
        }
    });
    Some(y)
}

/// What a pool makes of the values in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    Max,
    Average,
}

pub(super) fn pool(node: &Node<'_>, x: &Array, pool: Pool) -> Option<Array> {
    let kernel = node.ints("kernel_shape")?.iter().map(|&len| usize::try_from(len).ok()).collect::<Option<Vec<_>>>()?;
    let ceil = node.int("ceil_mode", 0) != 0;
    let spatial = x.dims.get(2..)?;
    let windows = Windows::of(node, spatial, &kernel, |_, window, len| window.positions(len, ceil))?;
    let (in_plane, out_plane) = (windows.input.iter().product::<usize>(), windows.output.iter().product::<usize>());
    let mut y = Array::zeros([&x.dims[..2], &windows.output[3 - spatial.len()..]].concat())?;
    let counts = (pool == Pool::Average).then(|| counts(&windows, out_plane, node.int("count_include_pad", 0) != 0));
    let stride = windows.axes[2].stride;
    let planes = y.data.par_chunks_mut(out_plane.max(1)).zip(x.data.par_chunks(in_plane.max(1)));
    planes.for_each(|(results, from)| {
        if pool == Pool::Max {
            results.fill(f64::NEG_INFINITY);
        }
        for tap in 0..windows.taps() {
            windows.rows_of_tap(tap, |output, input, len| {
                for i in 0..len {
                    let value = from[input + i * stride];
                    let result = &mut results[output + i];
                    *result = if pool == Pool::Max { result.max(value) } else { *result + value };
                }
            });
        }
        if let Some(counts) = &counts {
            results.iter_mut().zip(counts).for_each(|(sum, count)| *sum /= count);
        }
    });
    Some(y)
}

/// By how many an average is divided: by the values in the window, or those and the padding.
fn counts(windows: &Windows, out_plane: usize, with_padding: bool) -> Vec<f64> {
    let mut counts = vec![0.0; out_plane];
    if !with_padding {
        for tap in 0..windows.taps() {
            windows.rows_of_tap(tap, |output, _, len| {
                counts[output..output + len].iter_mut().for_each(|count| *count += 1.0)
            });
        }
        return counts;
    }
    // Beyond the padding, where a window may end with `ceil_mode`, there is nothing to count.
    let [_, height, width] = windows.output;
    for (index, count) in counts.iter_mut().enumerate() {
        let at = [index / (height * width), index / width % height, index % width];
        let inside = |axis: usize| {
            let window = &windows.axes[axis];
            let padded = windows.input[axis] + window.pad_begin + window.pad_end;
            padded.saturating_sub(at[axis] * window.stride).div_ceil(window.dilation).min(window.kernel)
        };
        *count = (inside(0) * inside(1) * inside(2)) as f64;
    }
    counts
}
