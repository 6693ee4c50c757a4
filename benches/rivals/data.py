"""The tensors of a cell, in torch, and the look at what an engine made of them."""

import torch

from . import check, units
from .cells import EPS

# What a CPU's copy moves at a time.
WORD = 16
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Data:
    """Inputs in ``sets`` copies; weight, bias and running statistics in one. Logical shapes are ``(rows, columns)`` and
    ``(N, C, spatial…)``; where the layout is NHWC, memory is."""

    def __init__(self, cell, sets, device):
        self.cell, self.sets, self.device = cell, sets, device
        self._generator = torch.Generator(device=device).manual_seed(1)
        self.x = self._input()
        self.residual = self._input() if cell.has_residual else None
        self.weight = self._eighths(1)
        self.bias = self._eighths(0) if cell.has_bias else None
        self.running_mean = self.running_var = None
        if cell.has_running_statistics:
            self.running_mean, self.running_var = self._normal(cell.channels), self._normal(cell.channels) ** 2 + 0.01

    @property
    def coefficients(self):
        """What is one for all sets."""
        return self.weight, self.bias, self.running_mean, self.running_var

    def _normal(self, *shape, dtype=torch.float32):
        return torch.randn(*shape, generator=self._generator, device=self.device, dtype=dtype)

    def _input(self):
        n, c, *spatial = self.cell.extents
        dtype = DTYPES[self.cell.dtype]
        if self.cell.layout == "nhwc":
            first = self._normal(n, *spatial, c, dtype=dtype).movedim(-1, 1)
        else:
            first = self._normal(*self.cell.extents, dtype=dtype)
        return [first] + [first.clone() for _ in range(1, self.sets)]

    def _eighths(self, middle):
        """Of few bits, so that every type stores them exactly."""
        values = (self._normal(self.cell.channels).clamp(-3, 3) * 8).round() / 8 + middle
        return values.to(DTYPES[self.cell.weight_dtype])

    def errors(self, outputs):
        """Of ``(y,)`` or ``(y, sum)``, as check.errors has it; infinite where anything is NaN, as what was not written
        is."""
        if any(bool(torch.isnan(output).any()) for output in outputs):
            return float("inf"), float("inf")
        cell, chosen = self.cell, units.chosen(self.cell)
        s = self._sums(chosen)
        weight = self._coefficients(self.weight, chosen)
        bias = self._coefficients(self.bias, chosen) if cell.has_bias else torch.zeros_like(weight)
        values, scale = check.expected(self._normalized(s, chosen), weight, bias, cell.activation, torch)
        found = [self._compared(outputs[0], chosen, values, scale)]
        if cell.has_residual:
            # Of the sum warpnorm promises the nearest number of the type.
            found.append(self._compared(outputs[1], chosen, s, torch.zeros_like(s), abs(s)))
        return tuple(max(each) for each in zip(*found))

    def _sums(self, chosen):
        x = units.taken(self.cell, self.x[0], chosen).double()
        if self.residual is None:
            return x
        # Input and residual are added in f32: part of what warpnorm promises.
        return (x + units.taken(self.cell, self.residual[0], chosen).double()).float().double()

    def _normalized(self, s, chosen):
        if self.cell.op == "batch_norm_inference":
            mean = self._coefficients(self.running_mean, chosen)
            return (s - mean) / (self._coefficients(self.running_var, chosen) + EPS) ** 0.5
        return check.normalized(s, tuple(range(1, s.ndim)), EPS, not self.cell.op.endswith("rms_norm"))

    def _coefficients(self, vector, chosen):
        return units.coefficients(self.cell, vector, chosen).double()

    def _compared(self, output, chosen, values, scale, others_scale=None):
        found = units.taken(self.cell, output, chosen).double()
        return check.errors(found, values, scale, self.cell.dtype, torch, others_scale)


def bytes_to_copy(moved, sets, device):
    """Sources and targets of a copy that moves so many bytes, half of them in and half out. Whole words of 16 bytes."""
    length = -(-(moved // 2) // WORD) * WORD
    sources, targets = (
        [torch.empty(length, dtype=torch.uint8, device=device) for _ in range(sets)] for _ in range(2)
    )
    for source in sources:
        source.random_()
    return sources, targets
