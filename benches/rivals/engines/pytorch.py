"""PyTorch's own functions, as a model calls them; and its BatchNorm by cuDNN, apart from its own kernels."""

import torch
from torch.nn import functional

from ..cells import EPS, GROUPS
from . import Engine

_ACTIVATIONS = {"": lambda y: y, "relu": functional.relu, "silu": functional.silu}
# torch.nn's default.
MOMENTUM = 0.1


def formula(cell, batch_norm=functional.batch_norm):
    """A function of ``(x, residual, weight, bias, running_mean, running_var)``."""
    activation = _ACTIVATIONS[cell.activation]

    def norm(x, weight, bias, running_mean, running_var):
        if cell.op.endswith("layer_norm"):
            return functional.layer_norm(x, x.shape[1:], weight, bias, EPS)
        if cell.op.endswith("rms_norm"):
            return functional.rms_norm(x, x.shape[1:], weight, EPS)
        if cell.op == "group_norm":
            return functional.group_norm(x, GROUPS, weight, bias, EPS)
        if cell.op == "instance_norm":
            return functional.instance_norm(x, weight=weight, bias=bias, eps=EPS)
        training = cell.op == "batch_norm_training"
        return batch_norm(x, running_mean, running_var, weight, bias, training, MOMENTUM, EPS)

    def run(x, residual, *rest):
        if residual is None:
            return (activation(norm(x, *rest)),)
        total = x + residual
        return activation(norm(total, *rest)), total

    return run


def over_sets(function, data):
    """A call of a formula."""
    residual = data.residual or [None] * data.sets
    weight, bias, *statistics = data.coefficients
    if data.cell.has_running_statistics:
        # It takes them in the type of the statistics alone.
        weight, bias = weight.float(), bias.float()
    return lambda set_: function(data.x[set_], residual[set_], weight, bias, *statistics)


class Eager(Engine):
    name = "pytorch"

    def __init__(self, device):
        self.version = torch.__version__

    def takes(self, cell):
        # Its layers over rows would convert the tensors to the weight's type.
        return cell.weight_dtype == cell.dtype or not cell.has_rows

    def call(self, data):
        return over_sets(formula(data.cell, _batch_norm(allow_cudnn=False)), data)


class EagerWarm(Eager):
    """On a CPU, by an allocator that keeps its memory."""

    name = "pytorch, warm"

    def work(self, data, device, flush):
        return device.allocator.warm(super().work, data, device, flush)


class Cudnn(Engine):
    name = "cudnn"

    def __init__(self, device):
        if device.mode != "graph":
            raise RuntimeError("cuDNN needs a GPU")
        self.version = str(torch.backends.cudnn.version())

    def takes(self, cell):
        return cell.has_running_statistics

    def call(self, data):
        return over_sets(formula(data.cell, _batch_norm(allow_cudnn=True)), data)


# What PyTorch answers as the last of its outputs.
_BY_CUDNN = 1


def _batch_norm(allow_cudnn):
    """functional.batch_norm with the choice made here, and looked at."""

    def run(x, running_mean, running_var, weight, bias, training, momentum, eps):
        y, *_, by = torch.ops.aten._batch_norm_impl_index(
            x, weight, bias, running_mean, running_var, training, momentum, eps, allow_cudnn
        )
        if allow_cudnn and by != _BY_CUDNN:
            raise RuntimeError("PyTorch does not take cuDNN for this tensor")
        return y

    return run
