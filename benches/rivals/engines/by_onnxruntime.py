"""ONNX Runtime's CPU provider: models of one layer, bound to memory that was allocated before, so that none is allocated by
a call. Where it has no kernels of f16 it casts to f32 and back, by nodes that it adds to the model."""

import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from ..cells import EPS, GROUPS
from . import Engine, Unsupported

_TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16}
_OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
_IR_VERSION = 10


class OnnxRuntime(Engine):
    name = "onnxruntime"
    # Whether it may change the graph.
    optimized = True

    def __init__(self, device):
        self.version, self._threads = onnxruntime.__version__, device.threads

    def takes(self, cell):
        return True

    def call(self, data):
        cell = data.cell
        if cell.layout == "nhwc":
            raise Unsupported("its CPU provider takes NCHW alone")
        inputs = {"x": data.x}
        if cell.has_residual:
            inputs["residual"] = data.residual
        y = [torch.empty_like(x) for x in data.x]
        outputs = {"y": y} | ({"sum": [torch.empty_like(x) for x in data.x]} if cell.has_residual else {})
        constants = {"weight": data.weight, "bias": data.bias}
        if cell.op == "batch_norm_inference":
            constants |= {"mean": data.running_mean, "var": data.running_var}
        if cell.op == "batch_norm_training":
            # Moved statistics are outputs of their own there.
            inputs |= {"mean": [data.running_mean] * data.sets, "var": [data.running_var] * data.sets}
            moved = {name: torch.empty_like(data.running_mean) for name in ("moved_mean", "moved_var")}
            outputs |= {name: [vector] * data.sets for name, vector in moved.items()}
        session = self.session(_nodes(cell), inputs, outputs, constants)
        run, bindings = session.run_with_iobinding, bound(session, inputs, outputs, data.sets)
        judged = [tuple(outputs[name][set_] for name in ("y", "sum") if name in outputs) for set_ in range(data.sets)]

        def call(set_):
            run(bindings[set_])
            return judged[set_]

        # Their memory must live as long as the bindings.
        call.bound = inputs, outputs
        return call

    def session(self, nodes, inputs, outputs, constants):
        """``inputs`` and ``outputs``: ``{name: tensors}``, ``constants``: ``{name: tensor}``."""
        described = [
            [helper.make_tensor_value_info(name, _TYPES[found[0].dtype], found[0].shape) for name, found in tensors.items()]
            for tensors in (inputs, outputs)
        ]
        initializers = [constant(name, tensor) for name, tensor in constants.items() if tensor is not None]
        graph = helper.make_graph(nodes, "layer", *described, initializers)
        model = helper.make_model(graph, opset_imports=_OPSETS, ir_version=_IR_VERSION)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self._threads, 3
        if not self.optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        except (_errors.NotImplemented, _errors.InvalidGraph) as error:
            raise Unsupported(" ".join(str(error).split())[:300]) from error


_errors = onnxruntime.capi.onnxruntime_pybind11_state


def constant(name, tensor):
    tensor = tensor.contiguous()
    raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return helper.make_tensor(name, _TYPES[tensor.dtype], tensor.shape, raw, raw=True)


def bound(session, inputs, outputs, sets):
    """A binding of each set."""
    bindings = []
    for set_ in range(sets):
        binding = session.io_binding()
        for tensors, bind in ((inputs, binding.bind_input), (outputs, binding.bind_output)):
            for name, found in tensors.items():
                tensor = found[set_]
                bind(name, "cpu", 0, _TYPES[tensor.dtype], list(tensor.shape), tensor.data_ptr())
        bindings.append(binding)
    return bindings


def _nodes(cell):
    """Of a cell, from ``x`` to ``y``."""
    norm = {"epsilon": EPS, "name": "norm"}
    y = "linear" if cell.activation else "y"
    if cell.op == "layer_norm":
        node = helper.make_node("LayerNormalization", ["x", "weight", "bias"], [y], axis=-1, **norm)
    elif cell.op == "rms_norm":
        node = helper.make_node("SimplifiedLayerNormalization", ["x", "weight"], [y], axis=-1, **norm)
    elif cell.op == "add_rms_norm":
        given, made = ["x", "residual", "weight"], [y, "", "", "sum"]
        node = helper.make_node("SkipSimplifiedLayerNormalization", given, made, domain="com.microsoft", **norm)
    elif cell.op == "group_norm":
        node = helper.make_node("GroupNormalization", ["x", "weight", "bias"], [y], num_groups=GROUPS, **norm)
    elif cell.op == "instance_norm":
        node = helper.make_node("InstanceNormalization", ["x", "weight", "bias"], [y], **norm)
    else:
        trains = cell.op == "batch_norm_training"
        made = [y, "moved_mean", "moved_var"] if trains else [y]
        # Its momentum is the part of the old statistics.
        options = {"training_mode": 1, "momentum": 0.9} if trains else {}
        node = helper.make_node("BatchNormalization", ["x", "weight", "bias", "mean", "var"], made, **norm, **options)
    if not cell.activation:
        return [node]
    if cell.activation == "relu":
        return [node, helper.make_node("Relu", ["linear"], ["y"])]
    sigmoid = helper.make_node("Sigmoid", ["linear"], ["sigmoid"])
    return [node, sigmoid, helper.make_node("Mul", ["linear", "sigmoid"], ["y"])]
