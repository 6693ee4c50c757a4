"""The tensors of a convolution and its BatchNorm, apart and folded, and the look at what came out."""

from functools import cached_property

import torch
from torch.nn import functional

from .cells import EPS
from .data import DTYPES

# Of ‖y − reference‖ / ‖reference‖: products of f16, or of TF32, which PyTorch takes for convolutions of f32, have 11 digits.
LIMIT = 2.0**-9
# That are compared: the first and the last.
SAMPLES = [0, -1]
ACTIVATIONS = {"": lambda y: y, "relu": torch.relu_, "relu6": functional.relu6}


class ConvolutionData:
    """Inputs in ``sets`` copies. The running statistics are about those of the convolution's output, as in a trained
    network."""

    def __init__(self, cell, sets, device):
        self.cell, self.sets, self.device = cell, sets, device
        self._generator = torch.Generator(device=device).manual_seed(1)
        self.format = torch.channels_last if cell.layout == "nhwc" else torch.contiguous_format
        dtype, fan_in = DTYPES[cell.dtype], cell.weight_shape[1] * cell.kernel**2
        first = self._normal(cell.batch, cell.channels_in, cell.size, cell.size).to(dtype).to(memory_format=self.format)
        self.x = [first] + [first.clone() for _ in range(1, sets)]
        self.kernel = (self._normal(*cell.weight_shape) / fan_in**0.5).to(dtype).to(memory_format=self.format)
        self.running_mean, self.running_var = 0.1 * self._normal(cell.channels), 0.5 + self._uniform()
        self.weight, self.bias = 0.5 + self._uniform(), 0.1 * self._normal(cell.channels)

    def _normal(self, *shape):
        return torch.randn(*shape, generator=self._generator, device=self.device)

    def _uniform(self):
        return torch.rand(self.cell.channels, generator=self._generator, device=self.device)

    @property
    def statistics(self):
        """As functional.batch_norm takes them."""
        return self.running_mean, self.running_var, self.weight, self.bias

    def convolve(self, x, kernel, bias=None):
        cell = self.cell
        return functional.conv2d(x, kernel, bias, cell.stride, cell.kernel // 2, 1, cell.groups)

    def errors(self, outputs, is_normalized=True):
        """Of the first sample and the last, as a fraction of the limit; the same for all."""
        [y] = outputs
        if bool(torch.isnan(y).any()):
            return float("inf"), float("inf")
        reference = self._normalized if is_normalized else self._convolved
        missed = float((y[SAMPLES].double() - reference).norm() / reference.norm()) / LIMIT
        return missed, missed

    @cached_property
    def _convolved(self):
        # By PyTorch's own kernels: cuDNN is what is judged.
        with torch.backends.cudnn.flags(enabled=False):
            return self.convolve(self.x[0][SAMPLES].double(), self.kernel.double())

    @cached_property
    def _normalized(self):
        mean, var, weight, bias = (each.double().reshape(1, -1, 1, 1) for each in self.statistics)
        y = (self._convolved - mean) / (var + EPS) ** 0.5 * weight + bias
        return ACTIVATIONS[self.cell.activation](y)
