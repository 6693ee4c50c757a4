"""A convolution and its BatchNorm: apart, folded into one, and compiled. PyTorch's convolutions are cuDNN's, by the
algorithm that it finds to be the fastest."""

import torch
import warpnorm
from torch.nn import functional

from ..cells import EPS
from ..convolution_data import ACTIVATIONS
from ..layers import COMPILED
from . import Engine
from .library import name_of, stream_of


class _Way(Engine):
    def __init__(self, device):
        torch.backends.cudnn.benchmark = True
        self.version, self._device = torch.__version__, device

    def takes(self, cell):
        return True


class Alone(_Way):
    """No BatchNorm and no activation: what the others are measured against."""

    name = "convolution alone"

    def call(self, data):
        return lambda set_: (data.convolve(data.x[set_], data.kernel),)

    def errors(self, data, outputs):
        return data.errors(outputs, is_normalized=False)


class Apart(_Way):
    """As a model calls them, one after another."""

    name = "pytorch"

    def call(self, data):
        function = _apart(data)
        return lambda set_: (function(data.x[set_], data.kernel, *data.statistics),)


class ApartCompiled(_Way):
    name = "torch.compile"

    def takes(self, cell):
        return cell.name in COMPILED

    def call(self, data):
        torch._dynamo.reset()
        function = torch.compile(_apart(data), dynamic=False)
        return lambda set_: (function(data.x[set_], data.kernel, *data.statistics),)


def _apart(data):
    activation = ACTIVATIONS[data.cell.activation]
    return lambda x, kernel, *statistics: activation(
        functional.batch_norm(data.convolve(x, kernel), *statistics, eps=EPS)
    )


class ApartByLibrary(_Way):
    """warpnorm's BatchNorm in the convolution's output, with the activation where it has it."""

    name = "warpnorm"

    def __init__(self, device):
        super().__init__(device)
        self.version = warpnorm.version()
        self._on = warpnorm.Device.cuda(0) if device.mode == "graph" else warpnorm.Device.cpu()

    def call(self, data):
        cell = data.cell
        is_fused = cell.activation == "relu"
        layer = warpnorm.layer(
            "batch_norm",
            num_channels=cell.channels,
            layout=cell.layout.upper(),
            eps=EPS,
            activation="relu" if is_fused else None,
        )
        spatial = cell.output_size, cell.output_size
        shape = (
            (cell.batch, *spatial, cell.channels) if cell.layout == "nhwc" else (cell.batch, cell.channels, *spatial)
        )
        signature = warpnorm.signature(shape, name_of(cell.dtype), weight="float32", bias="float32", in_place=True)
        prepared = warpnorm.prepare(self._on, layer, signature)
        names = "running_mean", "running_var", "weight", "bias"
        addresses = {name: tensor.data_ptr() for name, tensor in zip(names, data.statistics)}
        activation = ACTIVATIONS["" if is_fused else cell.activation]

        def run(set_):
            y = data.convolve(data.x[set_], data.kernel)
            prepared.launch(stream_of(y), output=y.data_ptr(), **addresses)
            return (activation(y),)

        return run


class Folded(_Way):
    """By warpnorm's folding; PyTorch adds the bias by a launch of its own."""

    name = "folded"

    def __init__(self, device):
        super().__init__(device)
        self.version = f"{warpnorm.version()}, {torch.__version__}"

    def call(self, data):
        kernel, bias = folded(data)
        activation = ACTIVATIONS[data.cell.activation]
        return lambda set_: (activation(data.convolve(data.x[set_], kernel, bias)),)


class FoldedFused(Folded):
    """Bias and ReLU in cuDNN's convolution."""

    name = "folded, fused"

    def __init__(self, device):
        if device.mode != "graph":
            raise RuntimeError("cuDNN needs a GPU")
        super().__init__(device)

    def takes(self, cell):
        return cell.activation == "relu"

    def call(self, data):
        kernel, bias = folded(data)
        cell = data.cell
        options = [cell.stride] * 2, [cell.kernel // 2] * 2, [1, 1], cell.groups
        return lambda set_: (torch.cudnn_convolution_relu(data.x[set_], kernel, bias, *options),)


def folded(data):
    statistics = [each.cpu().numpy() for each in data.statistics]
    kernel, bias = warpnorm.fold_conv_bn(data.kernel.cpu().numpy(), None, *statistics, EPS, groups=data.cell.groups)
    on_device = [torch.from_numpy(each).to(data.device) for each in (kernel, bias)]
    return on_device[0].to(memory_format=data.format), on_device[1]
