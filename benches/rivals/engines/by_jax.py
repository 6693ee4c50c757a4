"""JAX. Its launches cannot be captured by others, so a window's calls are one program of XLA's, timed by the clock: what it
costs to start that program is in the times."""

import os
import time

# Else it takes most of the device's memory.
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import torch  # noqa: E402

from .. import timing  # noqa: E402
from ..cells import BY_JAX, EPS, GROUPS  # noqa: E402
from . import Engine  # noqa: E402


class Xla(Engine):
    name = "jax"
    mode = "jit"

    def __init__(self, device):
        if device.mode == "cpu":
            jax.config.update("jax_platforms", "cpu")
        platform = jax.devices()[0].platform
        if device.mode == "graph" and platform != "gpu":
            raise RuntimeError(f"JAX sees no GPU but a {platform}")
        self.version = jax.__version__

    def takes(self, cell):
        return cell.name in BY_JAX

    def work(self, data, device, flush):
        return Programs(data, device, flush)


class Programs:
    """Calls over all sets in one program."""

    def __init__(self, data, device, flush):
        self._data, self._device, self._flush = data, device, flush
        sets = [launch % data.sets for launch in range(timing.LAUNCHES)]
        device.synchronize()
        x, residual = ([_array(data.cell, tensor) for tensor in tensors or []] for tensors in (data.x, data.residual))
        coefficients = [None if vector is None else jax.dlpack.from_dlpack(vector) for vector in data.coefficients]
        self._arguments = (
            [x[i] for i in sets],
            [residual[i] for i in sets] if residual else [None] * len(sets),
            coefficients,
        )
        self._program = jax.jit(
            lambda x, residual, coefficients: [_norm(data.cell, *each, *coefficients) for each in zip(x, residual)]
        )
        self._repeats = 1
        self.window()
        if not flush:
            self._repeats = timing.repeats_for(self.window() * timing.LAUNCHES)

    def window(self):
        if self._flush:
            self._device.flush()
            self._device.synchronize()
        start = time.perf_counter()
        for _ in range(self._repeats):
            outputs = self._program(*self._arguments)
        jax.block_until_ready(outputs)
        return (time.perf_counter() - start) / (self._repeats * timing.LAUNCHES)

    def outputs(self):
        outputs = jax.block_until_ready(self._program(*self._arguments))
        return [[self._tensor(array) for array in outputs[i]] for i in (0, -1)]

    def _tensor(self, array):
        tensor = torch.from_dlpack(array)
        return tensor.movedim(-1, 1) if self._data.cell.layout == "nhwc" else tensor


def _array(cell, tensor):
    """The same memory."""
    return jax.dlpack.from_dlpack(tensor.movedim(1, -1) if cell.layout == "nhwc" else tensor)


def _norm(cell, x, residual, weight, bias, running_mean, running_var):
    is_last, dtype = cell.layout != "nchw", x.dtype
    s = x.astype(jnp.float32) + (0 if residual is None else residual.astype(jnp.float32))
    # Rows and NHWC end in the weight's axis.
    of_channels = lambda vector: vector if is_last else vector.reshape(-1, *[1] * (x.ndim - 2))
    if cell.op == "batch_norm_inference":
        v = (s - of_channels(running_mean)) * jax.lax.rsqrt(of_channels(running_var) + EPS)
    else:
        grouped, axes = _grouped(cell, s)
        centred = grouped - (0 if cell.op.endswith("rms_norm") else grouped.mean(axes, keepdims=True))
        v = (centred * jax.lax.rsqrt((centred * centred).mean(axes, keepdims=True) + EPS)).reshape(x.shape)
    v = v * of_channels(weight).astype(jnp.float32)
    if bias is not None:
        v = v + of_channels(bias).astype(jnp.float32)
    y = {"": lambda v: v, "relu": jax.nn.relu, "silu": jax.nn.silu}[cell.activation](v).astype(dtype)
    return (y,) if residual is None else (y, s.astype(dtype))


def _grouped(cell, s):
    """With an axis for groups, and the axes of moments."""
    if cell.has_rows:
        return s, (-1,)
    groups = GROUPS if cell.op == "group_norm" else cell.channels
    n, spatial = cell.extents[0], cell.elements // (cell.extents[0] * cell.channels)
    if cell.layout == "nchw":
        return s.reshape(n, groups, -1), (2,)
    return s.reshape(n, spatial, groups, -1), (1, 3)
