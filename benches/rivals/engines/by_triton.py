"""The kernels of triton_kernels.py: which, in what grid, and by how many warps."""

import torch
import triton

from .. import triton_kernels as kernels
from ..cells import EPS, GROUPS
from . import Engine
from .pytorch import MOMENTUM

# Elements of a row that a program holds; what is longer is read twice, or in pieces.
MOST_HELD = 65_536
MOST_HELD_OF_GROUP = 16_384
# Elements of a program where rows are short, of a step through long ones, and of an apply.
TILE = 4096
LONG_TILE = 8192
# Channels of a program in NHWC: 256 bytes of a 16-bit type.
MOST_ACROSS = 128
# Programs to cut moments into, where there is enough to do.
PROGRAMS = 2048
WARPS = (4, 8, 16, 32)
THREADS_OF_WARP, MOST_OF_THREAD, LEAST_OF_THREAD = 32, 64, 8


class Kernels(Engine):
    name = "triton"

    def __init__(self, device):
        self.version = triton.__version__
        # On the CPU kernels are interpreted, as __main__.py has it.
        self._is_gpu = device.mode == "graph"

    def takes(self, cell):
        return True

    def call(self, data):
        cell = data.cell
        launch, tile = _rows(data) if cell.has_rows or _is_held(cell) else (_image(data), TILE)

        def run(set_, warps):
            outputs = tuple(torch.empty_like(data.x[0]) for _ in range(2 if cell.has_residual else 1))
            launch(set_, outputs, warps)
            return outputs

        warps = self._fastest(run, tile)
        return lambda set_: run(set_, warps)

    def _fastest(self, run, tile):
        """Of the numbers of warps that suit a program of so many elements, by the time of some calls."""
        if not self._is_gpu:
            return WARPS[0]
        suited = [w for w in WARPS if LEAST_OF_THREAD <= tile // (w * THREADS_OF_WARP) <= MOST_OF_THREAD]
        return min(suited, key=lambda warps: triton.testing.do_bench(lambda: run(0, warps), warmup=1, rep=5))


def _group_length(cell):
    groups = GROUPS if cell.op == "group_norm" else cell.channels
    return cell.elements // (cell.extents[0] * groups)


def _is_held(cell):
    """A group of an NCHW sample that is a row like others."""
    return (
        cell.op in ("group_norm", "instance_norm")
        and cell.layout == "nchw"
        and _group_length(cell) <= MOST_HELD_OF_GROUP
    )


def _rows(data):
    cell = data.cell
    columns = cell.channels if cell.has_rows else _group_length(cell)
    rows = cell.elements // columns
    groups = GROUPS if cell.op == "group_norm" else cell.channels
    flags = {
        "RESIDUAL": cell.has_residual, "SUBTRACT_MEAN": not cell.op.endswith("rms_norm"), "BIAS": cell.has_bias,
        "ACTIVATION": cell.activation,
    }  # fmt: skip

    block = LONG_TILE if columns > MOST_HELD else triton.next_power_of_2(columns)
    per_program = max(TILE // block, 1)

    def launch(set_, outputs, warps):
        y, *total = outputs
        residual = data.residual[set_] if cell.has_residual else None
        tensors = data.x[set_], residual, data.weight, data.bias, y, total[0] if total else None
        if columns > MOST_HELD:
            kernels.rows_read_twice[(rows,)](*tensors, columns, EPS, **flags, BLOCK=block, num_warps=warps)
            return
        spatial = cell.elements // (cell.extents[0] * cell.channels)
        kernels.rows_held[(triton.cdiv(rows, per_program),)](
            *tensors, rows, columns, EPS, groups, spatial, **flags, BY_CHANNEL=not cell.has_rows, ROWS=per_program,
            BLOCK=block, num_warps=warps,
        )  # fmt: skip

    return launch, max(block, TILE)


def _image(data):
    cell = data.cell
    if cell.op == "batch_norm_inference":
        return lambda set_, outputs, warps: _apply(
            data, set_, outputs[0], data.running_mean, data.running_var, True, warps
        )
    moments = _Moments(data)

    def launch(set_, outputs, warps):
        moments.launch(set_, warps)
        _apply(data, set_, outputs[0], moments.mean, moments.rstd, False, warps)

    return launch


def _apply(data, set_, y, mean, spread, is_variance, warps):
    cell = data.cell
    spatial = cell.elements // (cell.extents[0] * cell.channels)
    if cell.has_running_statistics:
        sets_of_sample, channels_of_set = 0, 1
    else:
        sets_of_sample = GROUPS if cell.op == "group_norm" else cell.channels
        channels_of_set = cell.channels // sets_of_sample
    inner = spatial if cell.layout == "nchw" else 1
    kernels.apply[(triton.cdiv(cell.elements, TILE),)](
        data.x[set_], mean, spread, data.weight, data.bias, y, cell.elements, cell.channels, spatial, EPS, inner,
        sets_of_sample, channels_of_set, IS_VARIANCE=is_variance, ACTIVATION=cell.activation, BLOCK=TILE, num_warps=warps,
    )  # fmt: skip


class _Moments:
    """Of sets, which are groups of a sample, or for BatchNorm channels: those of pieces, and their merge."""

    def __init__(self, data):
        self._data, cell = data, data.cell
        self._is_batch = cell.has_running_statistics
        samples, channels = cell.extents[:2]
        spatial = cell.elements // (samples * channels)
        groups = GROUPS if cell.op == "group_norm" else channels
        sets = channels if self._is_batch else samples * groups
        if cell.layout == "nhwc":
            stretches, stretches_of_set = self._cut_last(samples, channels, spatial), channels // groups
        else:
            stretches, stretches_of_set = self._cut_first(samples * groups, spatial * channels // groups), 1
        # Partials of a set: `inner` behind each other, `outer` times.
        self._inner = stretches_of_set * self._pieces
        self._outer = stretches // (stretches_of_set * sets)
        self._outer_stride = channels * self._pieces
        self._partials = [_floats(data, stretches * self._pieces) for _ in range(2)]
        self.mean, self.rstd = _floats(data, sets), _floats(data, sets)

    def _cut_first(self, stretches, length):
        """NCHW: groups, or for BatchNorm planes, lie in one stretch each."""
        block = min(triton.next_power_of_2(length), TILE)
        self._cut(length, block, stretches)
        grid, blocks = (stretches, self._pieces), {"STEPS": self._steps, "BLOCK": block}
        self._moments = lambda x, warps: kernels.moments_first[grid](
            x, *self._partials, length, **blocks, num_warps=warps
        )
        return stretches

    def _cut_last(self, samples, channels, spatial):
        """NHWC: a stretch is a channel of a sample; all samples of a batch are one."""
        samples, pixels = (1, samples * spatial) if self._is_batch else (samples, spatial)
        across = min(triton.next_power_of_2(channels), MOST_ACROSS)
        tiles, block = triton.cdiv(channels, across), TILE // across
        self._cut(pixels, block, samples * tiles)
        grid = samples, self._pieces, tiles
        blocks = {"STEPS": self._steps, "PIXELS": block, "CHANNELS": across}
        self._moments = lambda x, warps: kernels.moments_last[grid](
            x, *self._partials, pixels, channels, **blocks, num_warps=warps
        )
        return samples * channels

    def _cut(self, length, block, around):
        """Into pieces of whole steps, so that there are programs enough; `around`: stretches that are cut alike."""
        blocks = triton.cdiv(length, block)
        self._steps = min(max(blocks * around // PROGRAMS, 1), blocks)
        self._pieces, self._length, self._piece_size = triton.cdiv(blocks, self._steps), length, self._steps * block

    def launch(self, set_, warps):
        data = self._data
        self._moments(data.x[set_], warps)
        kernels.merge[(self.mean.numel(),)](
            *self._partials, self.mean, self.rstd, data.running_mean, data.running_var, MOMENTUM, EPS, self._outer,
            self._outer_stride, self._inner, self._pieces, self._piece_size, self._length, RUNNING=self._is_batch,
            BLOCK=1024,
        )  # fmt: skip


def _floats(data, count):
    return torch.empty(count, dtype=torch.float32, device=data.device)
