"""candle's modules on the CPU. It allocates every output anew, from the same allocator as PyTorch."""

import torch

from ..cells import EPS, GROUPS
from ..native import candle_version
from ..processor import Windows
from . import Engine, Unsupported


class Candle(Engine):
    name = "candle"

    def __init__(self, device):
        self._device, self.version = device, candle_version()

    def takes(self, cell):
        return True

    def work(self, data, device, flush):
        cell = data.cell
        if cell.layout == "nhwc":
            raise Unsupported("its layers take NCHW alone")
        if cell.op == "instance_norm":
            raise Unsupported("it has no InstanceNorm")
        return _Work(device, device.native, data)


class CandleWarm(Candle):
    name = "candle, warm"

    def work(self, data, device, flush):
        return device.allocator.warm(super().work, data, device, flush)


class _Work(Windows):
    def __init__(self, device, native, data):
        vectors = [None if vector is None else vector.float() for vector in data.coefficients]
        addresses = [None if vector is None else vector.data_ptr() for vector in vectors]
        self._layer, self._data = native.candle(data.cell, addresses, GROUPS, EPS), data
        for set_ in range(data.sets):
            residual = None if data.residual is None else data.residual[set_].data_ptr()
            self._layer.add_set(data.x[set_].data_ptr(), residual)
        super().__init__(device, self._layer.call, data.sets)

    def outputs(self):
        return [self._output(set_) for set_ in (0, self._data.sets - 1)]

    def _output(self, set_):
        """Copies of what a call has left."""
        outputs = [torch.empty_like(self._data.x[set_]) for _ in range(2 if self._data.cell.has_residual else 1)]
        self._layer.call(set_)
        for which, output in enumerate(outputs):
            self._layer.output(set_, which, output.data_ptr())
        return outputs
