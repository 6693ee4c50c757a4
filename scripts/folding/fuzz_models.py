#!/usr/bin/env python3
"""Folds small random graphs, and holds what comes out against ONNX Runtime.

    fuzz_models.py WARPNORM [SEED] [COUNT]

Each graph has layers, per-channel maps and what maps may or may not commute with, in random order, with random attributes,
in a random opset, and is folded with random options. The folded model must be valid to the letter, compute what the
unfolded one does, and pass `--verify`. Opset 6, which ONNX Runtime does not know, is run
by the reference evaluator of `onnx`. A graph that is not run is skipped and counted. A failed one is kept, and named by its
seed. Needs onnx and onnxruntime.
"""

import collections
import pathlib
import random
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

OPSETS = [6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23]
# How far an output may be off, as a part of its largest magnitude.
TOLERANCE = {None: 1e-3, "f16": 0.1}


class Graph:
    """A random graph in the making: its values by name, with their shapes."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.opset = self.random.choice(OPSETS)
        # Before version 4 every initializer is an input.
        self.ir = 3 if self.opset <= 8 and self.chance(0.5) else 8
        self.nodes, self.initializers, self.shapes, self.names = [], [], {}, 0

    def chance(self, share):
        return self.random.random() < share

    def pick(self, *choices):
        return self.random.choice(choices)

    def name(self, stem):
        self.names += 1
        return f"{stem}{self.names}"

    def constant(self, array, stem="k"):
        """A value that is constant, in one of the ways in which exporters write it."""
        array = np.asarray(array)
        for tensor in self.initializers:
            if tensor.name.startswith(stem) and tuple(tensor.dims) == array.shape and self.chance(0.1):
                return tensor.name
        name = self.name(stem)
        way = self.random.random()
        if way < 0.8:
            self.initializers.append(numpy_helper.from_array(array, name))
        elif way < 0.9:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name)))
        else:
            self.initializers.append(numpy_helper.from_array(array, name))
            self.nodes.append(helper.make_node("Identity", [name], [f"{name}_same"]))
            name = f"{name}_same"
        return name

    def normal(self, *shape):
        return self.numbers.normal(0, 1, shape).astype(np.float32)

    def positive(self, *shape):
        return self.numbers.uniform(0.5, 1.5, shape).astype(np.float32)

    def integers(self, values):
        return self.constant(np.array(values, np.int64), self.name("i"))

    def add(self, op, inputs, shape, **attributes):
        """Adds a node, and returns the value that it makes, of that shape."""
        output = self.name(op.lower())
        self.nodes.append(helper.make_node(op, inputs, [output], name=self.pick("", f"n_{output}"), **attributes))
        self.shapes[output] = tuple(shape)
        return output

    def axes(self, op, x, axes, shape, since, **attributes):
        """Adds a node whose axes are an attribute, or from some opset on an input."""
        if self.opset < since:
            return self.add(op, [x], shape, axes=axes, **attributes)
        return self.add(op, [x, self.integers(axes)], shape, **attributes)


def batch_norm(g, x):
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    channels = shape[1]
    params = [g.normal(channels), g.normal(channels), g.normal(channels), g.positive(channels)]
    if g.chance(0.5):
        params[0] = np.abs(params[0])
    attributes = {"epsilon": 1e-3} if g.chance(0.5) else {}
    if g.opset < 7:
        attributes["is_test"] = 1
    elif g.opset < 9 and g.chance(0.3):
        attributes["spatial"] = 1
    elif g.opset >= 14 and g.chance(0.3):
        attributes["training_mode"] = 0
    stems = ["scale", "bias", "mean", "var"]
    return g.add("BatchNormalization", [x, *map(g.constant, params, stems)], shape, **attributes)


def arithmetic(g, x):
    shape = g.shapes[x]
    rank = len(shape)
    op = g.pick("Mul", "Add", "Sub", "Div")
    attributes = {}
    kind = g.pick("channel", "channel", "channel", "one", "other", "wide", "whole")
    if kind == "one":
        dims = g.pick((), (1,), (1,) * rank)
    elif kind == "whole":
        dims = shape
    elif kind == "wide" and g.opset >= 7:
        # An axis of length 1 is widened by the constant.
        dims = tuple(3 if n == 1 and g.chance(0.7) else 1 for n in shape)
    else:
        axis = g.random.randrange(rank) if kind == "other" else min(1, rank - 1)
        dims = (shape[axis],) + (1,) * (rank - axis - 1)
        if g.chance(0.5):
            dims = (1,) * axis + dims
    if g.opset < 7 and dims != shape:
        # The reference evaluator takes no notice of `axis`.
        attributes["broadcast"] = 1
    value = g.constant(g.positive(*dims) * g.pick(1, -1), "d") if op == "Div" else g.constant(g.normal(*dims))
    first = op != "Div" and g.opset >= 7 and g.chance(0.3)
    return g.add(op, [value, x] if first else [x, value], np.broadcast_shapes(shape, dims), **attributes)


def window(g, spatial, kernel, op):
    """Attributes of a window, and the sizes that it gives."""
    rank = len(spatial)
    attributes, strides, dilations, pads = {}, [1] * rank, [1] * rank, [0] * (2 * rank)
    if g.chance(0.4):
        strides = attributes["strides"] = [g.pick(1, 2) for _ in spatial]
    if op == "Conv" and g.chance(0.3):
        dilations = attributes["dilations"] = [g.pick(1, 2) for _ in spatial]
    auto = g.random.random()
    if auto < 0.15 and max(dilations) == 1:
        attributes["auto_pad"] = g.pick("SAME_UPPER", "SAME_LOWER")
        return attributes, [-(-n // s) for n, s in zip(spatial, strides)]
    if auto < 0.25:
        attributes["auto_pad"] = "VALID"
    elif auto < 0.6:
        pads = attributes["pads"] = [g.random.randrange(0, k) for k in kernel] * 2
    ceil = op != "Conv" and g.opset >= 10 and g.chance(0.3)
    if ceil:
        attributes["ceil_mode"] = 1
    sizes = []
    for axis, (n, k) in enumerate(zip(spatial, kernel)):
        room = n + pads[axis] + pads[axis + rank] - (k - 1) * dilations[axis] - 1
        if room < 0:
            return None, None
        size = (-(-room // strides[axis]) if ceil else room // strides[axis]) + 1
        if ceil and (size - 1) * strides[axis] >= n + pads[axis]:
            size -= 1
        sizes.append(size)
    return attributes, sizes


def conv(g, x):
    batch, channels, *spatial = g.shapes[x] if len(g.shapes[x]) > 2 else (0, 0)
    if not spatial:
        return None
    kernel = [g.pick(1, 1, 2, 3) for _ in spatial]
    groups = g.random.choice([n for n in (1, 1, 2, 3, channels) if channels % n == 0])
    outputs = groups * g.pick(1, 2)
    attributes, sizes = window(g, spatial, kernel, "Conv")
    if sizes is None:
        return None
    inputs = [x, g.constant(g.normal(outputs, channels // groups, *kernel), "w")]
    if g.chance(0.5):
        inputs.append(g.constant(g.normal(outputs), "b"))
    if groups > 1 or g.chance(0.2):
        attributes["group"] = groups
    return g.add("Conv", inputs, [batch, outputs, *sizes], **attributes)


def conv_transpose(g, x):
    batch, channels, *spatial = g.shapes[x] if len(g.shapes[x]) > 2 else (0, 0)
    if not spatial:
        return None
    kernel = [g.pick(1, 2, 3) for _ in spatial]
    # The reference evaluator of opset 6 gives each group the bias of all.
    groups = g.random.choice([n for n in (1, 1, 2, channels) if channels % n == 0 and (n == 1 or g.opset >= 7)])
    columns = g.pick(1, 2, 3)
    strides = [g.pick(1, 2) for _ in spatial]
    attributes = {"group": groups, "strides": strides}
    sizes = [(n - 1) * s + k for n, s, k in zip(spatial, strides, kernel)]
    way = g.random.random()
    if way < 0.3:
        attributes["pads"] = [min(1, k - 1) for k in kernel] * 2
        sizes = [n - 2 * min(1, k - 1) for n, k in zip(sizes, kernel)]
    elif way < 0.5 and min(strides) > 1:
        attributes["output_padding"] = [1] * len(spatial)
        sizes = [n + 1 for n in sizes]
    if min(sizes) < 1:
        return None
    inputs = [x, g.constant(g.normal(channels, columns, *kernel), "w")]
    if g.chance(0.5):
        inputs.append(g.constant(g.normal(columns * groups), "b"))
    return g.add("ConvTranspose", inputs, [batch, columns * groups, *sizes], **attributes)


def gemm(g, x):
    shape = g.shapes[x]
    if len(shape) != 2:
        return None
    attributes = {name: g.pick(0.5, -2.0) for name in ("alpha", "beta") if g.chance(0.3)}
    turned = g.chance(0.2)
    rows, depth = shape[::-1] if turned else shape
    if turned:
        attributes["transA"] = 1
    columns = g.pick(2, 3, 4)
    across = g.chance(0.5)
    if across:
        attributes["transB"] = 1
    inputs = [x, g.constant(g.normal(*((columns, depth) if across else (depth, columns))), "w")]
    if g.opset < 11 or g.chance(0.7):
        dims = g.pick((columns,), (1, columns), (rows, columns), (1,), ())
        inputs.append(g.constant(g.normal(*dims), "c"))
        if g.opset < 7:
            attributes["broadcast"] = 1
    return g.add("Gemm", inputs, [rows, columns], **attributes)


def matmul(g, x):
    shape = g.shapes[x]
    if len(shape) < 2:
        return None
    columns = g.pick(2, 3, 4)
    return g.add("MatMul", [x, g.constant(g.normal(shape[-1], columns), "w")], [*shape[:-1], columns])


def pool(g, x):
    batch, channels, *spatial = g.shapes[x] if len(g.shapes[x]) > 2 else (0, 0)
    if not spatial:
        return None
    op = g.pick("AveragePool", "MaxPool")
    kernel = [g.pick(1, 2, 3) for _ in spatial]
    attributes, sizes = window(g, spatial, kernel, op)
    if sizes is None or "ceil_mode" in attributes and op == "AveragePool" and g.opset < 19:
        return None
    if op == "AveragePool" and g.opset >= 7 and g.chance(0.5):
        attributes["count_include_pad"] = 1
    return g.add(op, [x], [batch, channels, *sizes], kernel_shape=kernel, **attributes)


def whole_pool(g, x):
    shape = g.shapes[x]
    if len(shape) < 3:
        return None
    # The reference evaluator of opset 6 drops axes of the latter.
    op = g.pick("GlobalAveragePool", "GlobalMaxPool") if g.opset >= 7 else "GlobalAveragePool"
    return g.add(op, [x], [*shape[:2], *[1] * (len(shape) - 2)])


def mean(g, x):
    shape = g.shapes[x]
    rank = len(shape)
    axes = sorted(g.random.sample(range(rank), g.random.randrange(0, rank)))
    keeps = g.pick(0, 1)
    attributes = {"keepdims": keeps}
    reduced = axes or list(range(rank))
    if not axes and g.opset >= 18 and g.chance(0.5):
        attributes["noop_with_empty_axes"] = 1
        reduced = []
    sizes = [1 if axis in reduced else n for axis, n in enumerate(shape) if keeps or axis not in reduced]
    if not sizes:
        return None
    if not axes and g.chance(0.7):
        return g.add("ReduceMean", [x], sizes, **attributes)
    signed = [axis - rank if g.opset >= 11 and g.chance(0.3) else axis for axis in axes]
    return g.axes("ReduceMean", x, signed, sizes, 18, **attributes)


def reshape(g, x):
    shape = g.shapes[x]
    if g.chance(0.3):
        axis = g.random.randrange(0, len(shape) + 1)
        sizes = [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))]
        return g.add("Flatten", [x], sizes, axis=axis)
    sizes = list(shape)
    if g.chance(0.5) and len(sizes) > 2:
        axis = g.random.randrange(0, len(sizes) - 1)
        sizes[axis : axis + 2] = [sizes[axis] * sizes[axis + 1]]
    elif len(sizes) < 5:
        axis = g.random.randrange(0, len(sizes))
        part = g.random.choice([n for n in (1, 2, 3) if sizes[axis] % n == 0])
        sizes[axis : axis + 1] = g.pick([part, sizes[axis] // part], [sizes[axis] // part, part])
    wanted = [0 if axis < len(shape) and n == shape[axis] and g.chance(0.3) else n for axis, n in enumerate(sizes)]
    if g.chance(0.3):
        wanted[g.random.randrange(len(wanted))] = -1
    return g.add("Reshape", [x, g.integers(wanted)], sizes)


def shape_arithmetic(g, x):
    """A shape that is computed, as exporters do."""
    shape = g.shapes[x]
    if len(shape) < 2 or g.opset < 7:
        return None
    dims = g.add("Shape", [x], [len(shape)])
    batch = g.add("Gather", [dims, g.constant(np.array(g.pick(0, [0]), np.int64), g.name("i"))], [1], axis=0)
    factor = g.add("Mul", [batch, g.constant(np.array(g.pick(1, [1]), np.int64), g.name("i"))], [1])
    whole = g.add("Reshape", [factor, g.integers([1])], [1]) if g.chance(0.8) else factor
    wanted = g.add("Concat", [whole, g.integers([-1])], [2], axis=0)
    for value in (dims, batch, factor, whole, wanted):
        g.shapes.pop(value, None)
    return g.add("Reshape", [x, wanted], [shape[0], int(np.prod(shape[1:]))])


def squeeze(g, x):
    shape = g.shapes[x]
    ones = [axis for axis, n in enumerate(shape) if n == 1]
    if ones and len(shape) > 2 and g.chance(0.6):
        if g.chance(0.3) and len(ones) < len(shape) - 1:
            return g.add("Squeeze", [x], [n for n in shape if n != 1])
        axis = g.random.choice(ones)
        return g.axes("Squeeze", x, [axis], shape[:axis] + shape[axis + 1 :], 13)
    if len(shape) > 4:
        return None
    axis = g.random.randrange(len(shape) + 1)
    return g.axes("Unsqueeze", x, [axis], shape[:axis] + (1,) + shape[axis:], 13)


def transpose(g, x):
    shape = g.shapes[x]
    perm = list(range(len(shape)))
    g.random.shuffle(perm)
    if g.chance(0.2):
        return g.add("Transpose", [x], shape[::-1])
    return g.add("Transpose", [x], [shape[axis] for axis in perm], perm=perm)


def resize(g, x):
    shape = g.shapes[x]
    if len(shape) != 4 or g.opset < 7 or max(shape) > 16:
        return None
    scales = g.pick([1, 1, 2, 2], [1, 1, 1, 2], [1, 1, 1.5, 1.25], [1, 2, 1, 1], [1, 1.25, 1, 1])
    sizes = [int(np.floor(n * scale)) for n, scale in zip(shape, scales)]
    mode = g.pick("nearest", "linear") if scales[1] == 1 else "nearest"
    if g.opset < 9:
        return g.add("Upsample", [x], sizes, mode=mode, scales=[float(scale) for scale in scales])
    constant = g.constant(np.array(scales, np.float32), g.name("s"))
    if g.opset < 11:
        return g.add("Upsample" if g.opset < 10 else "Resize", [x, constant], sizes, mode=mode)
    attributes = {"mode": mode}
    if g.chance(0.6):
        attributes["coordinate_transformation_mode"] = g.pick("asymmetric", "half_pixel", "align_corners")
    if mode == "nearest" and g.chance(0.6):
        attributes["nearest_mode"] = g.pick("floor", "ceil", "round_prefer_ceil")
    roi = "" if g.opset >= 13 else g.constant(np.zeros(0, np.float32), "empty")
    if g.chance(0.3):
        empty = "" if g.opset >= 13 else g.constant(np.zeros(0, np.float32), "empty")
        return g.add("Resize", [x, roi, empty, g.integers(sizes)], sizes, **attributes)
    if g.opset >= 18 and g.chance(0.4):
        axes = [axis for axis, scale in enumerate(scales) if scale != 1]
        g.random.shuffle(axes)
        constant = g.constant(np.array([scales[axis] for axis in axes], np.float32), g.name("s"))
        attributes["axes"] = axes
    return g.add("Resize", [x, roi, constant], sizes, **attributes)


def depth_to_space(g, x):
    shape = g.shapes[x]
    if len(shape) != 4:
        return None
    batch, channels, height, width = shape
    if channels % 4 == 0:
        attributes = {"mode": g.pick("DCR", "CRD")} if g.opset >= 11 and g.chance(0.7) else {}
        return g.add("DepthToSpace", [x], [batch, channels // 4, height * 2, width * 2], blocksize=2, **attributes)
    if height % 2 == 0 and width % 2 == 0:
        return g.add("SpaceToDepth", [x], [batch, channels * 4, height // 2, width // 2], blocksize=2)
    return None


def pad(g, x):
    shape = g.shapes[x]
    if len(shape) < 3:
        return None
    rank = len(shape)
    pads = [0, 0, *[g.pick(0, 1, -1) if n > 2 else 0 for n in shape[2:]]] * 2
    sizes = [n + 2 * pads[axis] for axis, n in enumerate(shape)]
    mode = g.pick("constant", "constant", "edge")
    if g.opset < 11:
        return g.add("Pad", [x], sizes, pads=pads, mode=mode)
    if g.opset >= 18 and g.chance(0.4):
        axes = list(range(rank))
        g.random.shuffle(axes)
        pads = [pads[axis] for axis in axes] * 2
        return g.add("Pad", [x, g.integers(pads), "", g.integers(axes)], sizes, mode=mode)
    return g.add("Pad", [x, g.integers(pads)], sizes, mode=mode)


def same(g, x):
    """What gives what it is given, or might."""
    shape = g.shapes[x]
    if g.chance(0.5):
        return g.add("Identity", [x], shape)
    if g.opset < 7:
        return g.add("Dropout", [x], shape, is_test=1)
    if g.opset >= 12 and g.chance(0.3):
        ratio = g.constant(np.array(0.5, np.float32), "ratio")
        return g.add("Dropout", [x, ratio, g.constant(np.array(False), "training")], shape)
    return g.add("Dropout", [x], shape)


def activation(g, x):
    shape = g.shapes[x]
    op = g.pick("Relu", "Clip", "LeakyRelu", "Sigmoid", "Neg", "Softmax", "Abs")
    if op == "Clip" and g.opset < 11:
        return g.add("Clip", [x], shape, min=-1.0, max=1.0)
    if op == "Clip":
        bounds = [g.constant(np.array(bound, np.float32), g.name("e")) for bound in (-1, 1)]
        return g.add("Clip", [x, *bounds], shape)
    return g.add(op, [x], shape)


def join(g, x):
    """With another value of the graph, or with what a second layer makes."""
    shape = g.shapes[x]
    others = [name for name, other in g.shapes.items() if other == shape and (name != x or g.chance(0.2))]
    if not others:
        return None
    other = g.random.choice(others)
    if g.chance(0.5):
        return g.add(g.pick("Add", "Sum", "Mul", "Sub"), g.random.sample([x, other], 2), shape)
    axis = g.random.randrange(len(shape))
    sizes = list(shape)
    sizes[axis] *= 2
    return g.add("Concat", [x, other], sizes, axis=axis)


def branches(g, x):
    """Parallel layers and maps of one value, whose outputs are added."""
    batch, channels, *spatial = g.shapes[x] if len(g.shapes[x]) > 2 else (0, 0)
    if not spatial:
        return None
    terms = []
    strides = [g.pick(1, 1, 2)] * len(spatial)
    outputs = channels
    for _ in range(g.pick(2, 3)):
        size = g.pick(1, 3, 3)
        inputs = [x, g.constant(g.normal(outputs, channels, *[size] * len(spatial)), "w")]
        if g.chance(0.5):
            inputs.append(g.constant(g.normal(outputs), "b"))
        sizes = [(n - 1) // strides[0] + 1 for n in spatial]
        pads = [size // 2] * (2 * len(spatial))
        term = g.add("Conv", inputs, [batch, outputs, *sizes], pads=pads, strides=strides)
        terms.append(batch_norm(g, term) if g.chance(0.7) else term)
    if max(strides) == 1 and g.chance(0.6):
        terms.append(g.pick(x, batch_norm(g, x), arithmetic(g, x)))
    terms = [term for term in terms if g.shapes[term] == g.shapes[terms[0]]]
    total = terms[0]
    for term in terms[1:]:
        total = g.add("Add", [total, term], g.shapes[total])
    return total


STEPS = [
    (batch_norm, 8), (arithmetic, 6), (conv, 8), (conv_transpose, 3), (gemm, 6), (matmul, 4), (pool, 3), (whole_pool, 1),
    (mean, 2), (reshape, 3), (squeeze, 2), (transpose, 2), (resize, 2), (depth_to_space, 1), (pad, 1), (same, 2),
    (activation, 2), (join, 4), (branches, 2), (shape_arithmetic, 1),
]  # fmt: skip


def model(seed):
    g = Graph(seed)
    shape = g.pick((1, 4, 6, 6), (2, 3, 5, 5), (1, 1, 4, 4), (2, 4, 7), (2, 4), (3, 6), (1, 4, 3, 4, 4), (2, 4, 4))
    g.shapes["x"] = shape
    steps, weights = zip(*STEPS)
    last = "x"
    for _ in range(g.random.randrange(2, 9)):
        start = last if g.chance(0.85) else g.random.choice(list(g.shapes))
        made = g.random.choices(steps, weights)[0](g, start)
        if made is not None and np.prod(g.shapes[made]) < 5000:
            last = made
    read = {name for node in g.nodes for name in node.input}
    outputs = [name for name in g.shapes if name != "x" and (name not in read or name == last or g.chance(0.1))]
    if not outputs:
        return None
    info = helper.make_tensor_value_info
    is_open = g.chance(0.5)
    inputs = [info("x", TensorProto.FLOAT, ["N" if is_open else shape[0], *shape[1:]])]
    listed = [tensor for tensor in g.initializers if g.ir < 4 or g.chance(0.03)]
    inputs += [info(tensor.name, tensor.data_type, tensor.dims) for tensor in listed]
    stated = [info(name, TensorProto.FLOAT, [None if is_open else n for n in g.shapes[name]]) for name in outputs]
    graph = helper.make_graph(g.nodes, "fuzz", inputs, stated, g.initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", g.opset)], ir_version=g.ir)
    return (onnx.shape_inference.infer_shapes(made) if g.chance(0.3) else made), shape


def run(path, feed, opset):
    if opset < 7:
        return ReferenceEvaluator(path).run(None, feed)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, feed)


def options_of(seed, opset):
    chosen = random.Random(f"options {seed}")
    switches = ["--merge-branches", "--duplicate-shared", "--freeze-inputs", "--tidy"]
    options = [switch for switch in switches if chosen.random() < 0.4]
    # The reference evaluator of opset 6 takes no notice of the axis of an addition, and computes in f32 alone.
    options += ["--forward", chosen.choice(["exact", "exact", "scale" if opset >= 7 else "exact", "off"])]
    dtype = chosen.choice([None, None, None, "f16"]) if opset >= 7 else None
    return (options + ["--dtype", dtype] if dtype else options), dtype


def check(warpnorm, seed, folder):
    """What came of a seed: a word if all is well, else a sentence."""
    try:
        made = model(seed)
        if made is None:
            return "empty"
        made, shape = made
        onnx.checker.check_model(made, full_check=True)
    except Exception:
        return "invalid"
    given, folded = str(folder / "given.onnx"), str(folder / "folded.onnx")
    onnx.save(made, given)
    opset = made.opset_import[0].version
    feed = {"x": np.random.default_rng(seed + 1).normal(0, 1, shape).astype(np.float32)}
    try:
        before = run(given, feed, opset)
    except Exception:
        return "not run"
    options, dtype = options_of(seed, opset)
    command = [warpnorm, "fold", given, "-o", folded, *options, "--verify"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode not in (0, 1):
        return f"{options}: exit code {done.returncode}: {done.stderr.strip()}"
    if not pathlib.Path(folded).exists():
        return f"{options}: the verification failed: {done.stdout[-300:]}"
    try:
        onnx.checker.check_model(folded, full_check=True)
        after = run(folded, feed, opset)
    except Exception as error:
        return f"{options}: the folded model is not valid: {error}"
    for one, other in zip(before, after, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"{options}: an output of shape {one.shape} has become one of {other.shape}"
        finite = np.isfinite(one)
        error = np.abs(one - other)[finite].max(initial=0)
        largest = max(np.abs(array[finite]).max(initial=0) for array in before for finite in [np.isfinite(array)])
        # What cancels in f32 need not in f16.
        if not error <= TOLERANCE[dtype] * (largest + (dtype is not None)):
            return f"{options}: off by {error} of {largest}"
    is_same = pathlib.Path(given).read_bytes() == pathlib.Path(folded).read_bytes()
    return ("unchanged" if is_same else "folded") + (" unverified" if done.returncode else "")


def main():
    warnings.simplefilter("ignore")
    warpnorm = sys.argv[1]
    first, count = int(sys.argv[2]) if len(sys.argv) > 2 else 1, int(sys.argv[3]) if len(sys.argv) > 3 else 1000
    found, failed = collections.Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + count):
            case = pathlib.Path(folder, str(seed))
            case.mkdir()
            outcome = check(warpnorm, seed, case)
            if "--" in outcome:
                failed += 1
                kept = pathlib.Path(f"fuzz_{seed}.onnx")
                kept.write_bytes((case / "given.onnx").read_bytes())
                print(f"seed {seed}, {kept} {outcome}", flush=True)
            else:
                found[outcome] += 1
            for file in case.iterdir():
                file.unlink()
    print(", ".join(f"{number} {outcome}" for outcome, number in found.most_common()) + f", {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
