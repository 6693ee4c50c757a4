"""A convolution and its BatchNorm by ONNX Runtime's CPU provider, for scale. Of a graph with both it would fold the BatchNorm
by itself; apart they are where its optimizations are off."""

import torch
from onnx import helper

from ..cells import EPS
from .by_onnxruntime import OnnxRuntime, bound
from .convolutions import folded


class _Way(OnnxRuntime):
    def call(self, data):
        cell = data.cell
        outputs = [
            torch.empty(cell.batch, cell.channels, cell.output_size, cell.output_size) for _ in range(data.sets)
        ]
        inputs, results = {"x": data.x}, {"y": outputs}
        nodes, constants = self._graph(data)
        session = self.session(nodes, inputs, results, constants)
        run, bindings = session.run_with_iobinding, bound(session, inputs, results, data.sets)

        def call(set_):
            run(bindings[set_])
            return (outputs[set_],)

        return call

    def _graph(self, data):
        """Nodes from ``x`` to ``y``, and their constants."""
        raise NotImplementedError


class Alone(_Way):
    name = "onnxruntime, alone"

    def _graph(self, data):
        return [_convolution(data.cell, ["x", "kernel"], "y")], {"kernel": data.kernel}

    def errors(self, data, outputs):
        return data.errors(outputs, is_normalized=False)


class Apart(_Way):
    name = "onnxruntime, apart"
    optimized = False

    def _graph(self, data):
        mean, var, weight, bias = data.statistics
        norm = ["convolved", "weight", "bias", "mean", "var"]
        nodes = [
            _convolution(data.cell, ["x", "kernel"], "convolved"),
            helper.make_node("BatchNormalization", norm, [_before_activation(data.cell)], epsilon=EPS),
            *_activation(data.cell),
        ]
        constants = {"kernel": data.kernel, "weight": weight, "bias": bias, "mean": mean, "var": var}
        return nodes, constants | _limits(data.cell)


class Folded(_Way):
    """By warpnorm's folding."""

    name = "onnxruntime, folded"

    def _graph(self, data):
        kernel, bias = folded(data)
        cell = data.cell
        nodes = [_convolution(cell, ["x", "kernel", "bias"], _before_activation(cell)), *_activation(cell)]
        return nodes, {"kernel": kernel, "bias": bias} | _limits(cell)


def _convolution(cell, given, made):
    return helper.make_node(
        "Conv",
        given,
        [made],
        kernel_shape=[cell.kernel] * 2,
        strides=[cell.stride] * 2,
        pads=[cell.kernel // 2] * 4,
        group=cell.groups,
    )


def _before_activation(cell):
    return "linear" if cell.activation else "y"


def _activation(cell):
    if not cell.activation:
        return []
    if cell.activation == "relu":
        return [helper.make_node("Relu", ["linear"], ["y"])]
    return [helper.make_node("Clip", ["linear", "least", "most"], ["y"])]


def _limits(cell):
    """What Clip takes as inputs."""
    return {"least": torch.tensor(0.0), "most": torch.tensor(6.0)} if cell.activation == "relu6" else {}
