"""Writes what PyTorch computes for every layer and option of this crate.

    pip install torch==2.11.0 numpy==2.4.6 safetensors==0.8.0
    python pytorch.py --out pytorch.safetensors

PyTorch runs on the CPU, in float64, on inputs that were rounded to the type they are
stored in. What it has no layer or argument for is done by hand around its own: the
offset of RMSNorm's weight, RMSNorm's bias, a sample's scale and shift, and the residual
and a sample's bias, which are added in float32.
`eps` is rounded to float32 first, as the crate takes it.

Inputs are named after what they are, `x.<shape>.<type>`, `weight.<shape>.<type>` and so
on; they depend on nothing but the name, and cases share them. The metadata has a JSON
object for each case, under its name, with its options and the names of its inputs:

    layer           LayerNorm, RMSNorm, GroupNorm, InstanceNorm, BatchNorm, or one that
                    ends in `tracked` (InstanceNorm by running statistics) or `batch`
                    (BatchNorm by those of the batch)
    shape           as the tensors lie in memory: in the order of `layout`
    axes            how many trailing axes LayerNorm and RMSNorm normalize
    layout          nchw or nhwc, of the others
    groups, eps, momentum, num_batches_tracked (before the first batch)
    activation, weight_plus_one, scale_plus_one
                    where there is such
    x, residual, weight, bias, running_mean, running_var, scale, shift, channel_bias
                    names of inputs, where there are such. If x is longer than `shape`,
                    it is the first elements. A list of x is a sequence of batches, each
                    of which finds the running statistics as the one before left them.
    step            where the outputs have every `step`-th element only

Outputs are `<case>.y`, in float64; with a residual also `<case>.sum`, in x's type; and
`<case>.running_mean` and `.running_var`, in float64, after the batch. A sequence has
`<case>.y0` and so on.
"""

import argparse
import json
import zlib
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch
from group_norm_notes import write
from safetensors.torch import save
from torch import nn
from torch.nn import functional

VERSION = "2.11.0"

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

ACTIVATIONS = {
    "none": lambda y: y,
    "relu": functional.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
}

# Mean and deviation of each kind of input. `far` is an x where E[x^2] - E[x]^2 in f32
# has no correct digit; `shift` another batch, of other statistics.
INPUTS = {
    "x": (0.3, 1.5),
    "far": (1e4, 1.0),
    "shift": (-2.0, 0.5),
    "residual": (0.0, 1.0),
    "weight": (1.0, 0.5),
    "bias": (0.0, 0.5),
    "scale": (0.5, 0.5),
    "offset": (0.0, 0.5),
    "channel_bias": (0.0, 1.0),
    "running_mean": (0.3, 0.5),
    "running_var": (0.0, 0.5),  # of its logarithm
}

ROWS = ("LayerNorm", "RMSNorm")
IMAGES = (
    "GroupNorm",
    "InstanceNorm",
    "InstanceNorm tracked",
    "BatchNorm",
    "BatchNorm batch",
)

# Long rows are the beginnings of one.
LONG = (1, 32_770)

# As many as the running statistics have seen when a batch comes.
BATCHES_BEFORE = 4


class Vectors:
    """The inputs, outputs and descriptions so far."""

    def __init__(self):
        self.tensors, self.metadata = {}, {}

    def input(self, kind, shape, dtype):
        """The name of an input, which exists from then on."""
        name = f"{kind}.{'x'.join(map(str, shape))}.{dtype}"
        if name not in self.tensors:
            rng = np.random.default_rng([1803, zlib.crc32(name.encode())])
            values = rng.normal(*INPUTS[kind], shape)
            values = np.exp(values) if kind == "running_var" else values
            self.tensors[name] = torch.from_numpy(values).to(DTYPES[dtype])
        return name

    def exact(self, name):
        return None if name is None else self.tensors[name].double()

    def output(self, name, tensor, step=1):
        assert name not in self.tensors
        if tensor.is_floating_point():
            assert tensor.isfinite().all(), f"{name} is no number"
        self.tensors[name] = tensor.flatten()[::step].contiguous()


def channels_first(x, layout):
    """What PyTorch calls channels last is a view of such memory."""
    return x.movedim(-1, 1) if layout == "nhwc" else x


def as_stored(y, layout):
    return y.movedim(1, -1).contiguous() if layout == "nhwc" else y


def group_norm(s, *parameters):
    """Of a copy with the channels first.

    For memory with the channels last PyTorch has a kernel that takes E[x^2] - E[x]^2:
    in float64, too, half of the digits of `far` are lost.
    """
    y = functional.group_norm(s.contiguous(), *parameters)
    as_it_is = functional.group_norm(s, *parameters)
    torch.testing.assert_close(as_it_is, y, rtol=1e-7, atol=1e-7)
    return y


def normalized(case, vectors, s):
    """The layer without its activation, on axes in the order that PyTorch knows."""
    layer, eps = case["layer"], float(np.float32(case["eps"]))
    weight, bias = vectors.exact(case.get("weight")), vectors.exact(case.get("bias"))
    mean, var = (vectors.exact(case.get(f"running_{m}")) for m in ("mean", "var"))
    if layer == "LayerNorm":
        shape = s.shape[-case["axes"] :]
        weight, bias = (None if p is None else p.view(shape) for p in (weight, bias))
        return functional.layer_norm(s, shape, weight, bias, eps)
    if layer == "RMSNorm":
        shape = s.shape[-case["axes"] :]
        weight = None if weight is None else weight.view(shape)
        weight = 1 + weight if case.get("weight_plus_one") else weight
        y = functional.rms_norm(s, shape, weight, eps)
        return y if bias is None else y + bias.view(shape)
    if layer == "GroupNorm":
        return group_norm(s, case["groups"], weight, bias, eps)
    if layer == "InstanceNorm":
        return functional.instance_norm(s, weight=weight, bias=bias, eps=eps)
    apply = {
        "InstanceNorm tracked": functional.instance_norm,
        "BatchNorm": functional.batch_norm,
    }
    return apply[layer](s, mean, var, weight, bias, False, 0.1, eps)


def batch_norm_module(case, vectors, channels, rank):
    """PyTorch's module in training, as it is when the first batch comes."""
    classes = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]
    tracked = "running_mean" in case
    eps, momentum = float(np.float32(case["eps"])), case["momentum"]
    module = classes[rank - 2](channels, eps, momentum, track_running_stats=tracked)
    module = module.double().train().requires_grad_(False)
    names = ("weight", "bias", "running_mean", "running_var")
    state = {name: vectors.exact(case[name]) for name in names if name in case}
    if tracked:
        state["num_batches_tracked"] = torch.tensor(case["num_batches_tracked"])
    module.load_state_dict(state, strict=False)
    return module


def add(vectors, case):
    """Computes a case, and keeps its description."""
    name = f"case{len(vectors.metadata):03}"
    layer, layout, step = case["layer"], case.get("layout"), case.get("step", 1)
    act = ACTIVATIONS[case.get("activation", "none")]
    is_sequence = isinstance(case["x"], list)
    module = None
    for k, x in enumerate(case["x"] if is_sequence else [case["x"]]):
        x = vectors.tensors[x].flatten()[: prod(case["shape"])].view(case["shape"])
        s, suffix = x.double(), k if is_sequence else ""
        if "residual" in case:
            s = x.float() + vectors.tensors[case["residual"]].float()
            s = s.double()
        s = channels_first(s, layout)
        of_sample = {
            kind: vectors.exact(case[kind]).view(*s.shape[:2], *[1] * (s.dim() - 2))
            for kind in ("scale", "shift", "channel_bias")
            if kind in case
        }
        if "channel_bias" in of_sample:
            s = (s.float() + of_sample["channel_bias"].float()).double()
        if "residual" in case:
            vectors.output(f"{name}.sum", as_stored(s, layout).to(x.dtype), step)
        if layer == "BatchNorm batch":
            module = module or batch_norm_module(case, vectors, s.shape[1], s.dim())
            y = module(s)
        else:
            y = normalized(case, vectors, s)
        if "scale" in of_sample:
            plus = 1 if case.get("scale_plus_one") else 0
            y = y * (plus + of_sample["scale"])
        y = y + of_sample.get("shift", 0)
        vectors.output(f"{name}.y{suffix}", as_stored(act(y), layout), step)
        if module is not None and module.track_running_stats:
            for kind in ("running_mean", "running_var"):
                vectors.output(f"{name}.{kind}{suffix}", getattr(module, kind).clone())
            seen = case["num_batches_tracked"] + k + 1
            assert module.num_batches_tracked == seen, f"{name}: {case}"
    vectors.metadata[name] = json.dumps(case, sort_keys=True, separators=(",", ":"))


def coefficients(vectors, shape, dtype, weight, bias):
    """Weight and bias by name: none, of their own type, or f32."""
    given = {"weight": weight, "bias": bias}
    types = {kind: dtype if of == "own" else of for kind, of in given.items() if of}
    return {kind: vectors.input(kind, shape, of) for kind, of in types.items()}


def call(
    vectors,
    layer,
    shape,
    dtype="f32",
    x="x",
    axes=1,
    layout="nchw",
    weight="own",
    bias="own",
    residual=False,
    activation="none",
    eps=1e-5,
    tracked=True,
    of_sample=None,
    **options,
):
    """A case on tensors of this shape, which is `layout`'s."""
    case = {"layer": layer, "shape": shape, "eps": eps, **options}
    if layer in ROWS:
        case["axes"], affine = axes, shape[-axes:]
    else:
        case["layout"] = layout
        affine = shape[-1:] if layout == "nhwc" else shape[1:2]
    if prod(shape) > 256:
        # Prime to every number of channels, and to what a thread reads at once.
        case["step"] = 7 if prod(shape) < 10_000 else 61
    stored = LONG if shape[-1] > 10_000 else shape
    names = [vectors.input(kind, stored, dtype) for kind in x.split()]
    case["x"] = names if len(names) > 1 else names[0]
    case |= coefficients(vectors, affine, dtype, weight, bias)
    for kind, of in (of_sample or {}).items():
        # The shift has its name from another batch's x already.
        known = "offset" if kind == "shift" else kind
        case[kind] = vectors.input(known, (shape[0], *affine), of)
    if residual:
        case["residual"] = vectors.input("residual", shape, dtype)
    if activation != "none":
        case["activation"] = activation
    if layer in ("InstanceNorm tracked", "BatchNorm", "BatchNorm batch") and tracked:
        for kind in ("running_mean", "running_var"):
            case[kind] = vectors.input(kind, affine, "f32")
    if layer == "BatchNorm batch":
        case.setdefault("momentum", 0.1)
        if tracked:
            case.setdefault("num_batches_tracked", BATCHES_BEFORE)
    add(vectors, case)


def image(layer, shape, layout, groups=2):
    """A shape given in NCHW as it lies in memory, and what else the layer needs."""
    shape = (shape[0], *shape[2:], shape[1]) if layout == "nhwc" else shape
    options = {"groups": groups} if layer == "GroupNorm" else {}
    return {"layer": layer, "shape": shape, "layout": layout, **options}


def lengths_of_rows(add):
    """Every regime of the kernels."""
    for layer in ROWS:
        for shape in [(3, 5), (2, 300), (1, 700), (1, 1030)]:
            for dtype in DTYPES:
                add(layer, shape, dtype)
        for length in (17_001, LONG[-1]):
            add(layer, (1, length), "bf16", weight=None, bias=None)


def normalized_shapes(add):
    for layer in ROWS:
        for axes in (1, 2, 3, 4):
            add(layer, (2, 3, 4, 5), axes=axes)


def presence_of_coefficients(add):
    for layer in ROWS:
        for dtype, kinds in [("f32", (None, "own")), ("bf16", (None, "own", "f32"))]:
            for weight in kinds:
                for bias in kinds:
                    add(layer, (3, 5), dtype, weight=weight, bias=bias)
    for layer in IMAGES:
        for weight, bias in [(None, None), ("own", None), (None, "own")]:
            given = image(layer, (2, 4, 3, 2), "nchw")
            add(**given, weight=weight, bias=bias)


def axes_and_layouts(add):
    """From 0 to 3 spatial axes, where PyTorch takes them."""
    shapes = [(4, 6), (2, 6, 5), (2, 6, 3, 3), (1, 6, 2, 3, 2)]
    for layer in IMAGES:
        for layout in ("nchw", "nhwc"):
            for shape in shapes:
                if len(shape) == 2 and layer == "InstanceNorm":
                    continue  # refused there; here it is the bias
                for groups in (1, 3, 6) if layer == "GroupNorm" else (1,):
                    add(**image(layer, shape, layout, groups))
            for dtype in ("f16", "bf16"):
                add(**image(layer, (2, 6, 3, 3), layout), dtype=dtype, weight="f32")


def sizes_of_images(add):
    for layer, shape, dtype in [
        ("GroupNorm", (1, 4, 17, 16), "f16"),
        ("InstanceNorm", (1, 2, 17, 16), "bf16"),
        ("BatchNorm", (2, 3, 9, 8), "bf16"),
        ("BatchNorm batch", (3, 3, 9, 8), "f16"),
    ]:
        for layout in ("nchw", "nhwc"):
            add(**image(layer, shape, layout), dtype=dtype)


def eps_and_far_means(add):
    layers = [{"layer": layer, "shape": (3, 5)} for layer in ROWS]
    for layer in IMAGES:
        layers += [image(layer, (2, 4, 3, 2), layout) for layout in ("nchw", "nhwc")]
    for layer in layers:
        # PyTorch's BatchNorm refuses an eps of 0.
        least = 1e-12 if "BatchNorm" in layer["layer"] else 0
        for eps in (least, 0.1):
            add(**layer, eps=eps)
        if layer["layer"] not in ("InstanceNorm tracked", "BatchNorm"):
            add(**layer, x="far")


def activations_and_residuals(add):
    """Each activation with each layer, with and without a residual, in both layouts."""
    layers = [[{"layer": layer, "shape": (3, 5)}] for layer in ROWS]
    layers += [[{"layer": "RMSNorm", "shape": (3, 5), "weight_plus_one": True}]]
    for layer in IMAGES:
        layers.append([image(layer, (2, 4, 3, 2), of) for of in ("nchw", "nhwc")])
    choices = [("f32", activation) for activation in ACTIVATIONS]
    choices += [("f16", "silu"), ("f16", "gelu")]
    choices += [("bf16", "relu"), ("bf16", "gelu_tanh")]
    # Their number is odd, so that no two layers pair them with the same residuals.
    turn = 0
    for layouts in layers:
        for dtype, activation in choices:
            layer, residual = layouts[turn // 2 % len(layouts)], turn % 2 == 0
            add(**layer, dtype=dtype, activation=activation, residual=residual)
            turn += 1


def batches(add):
    """Sequences of which nothing was counted before, with every kind of momentum."""
    for layout in ("nchw", "nhwc"):
        layer = image("BatchNorm batch", (2, 3, 2, 3), layout)
        for momentum in (0.1, None, 1.0):
            for dtype in ("f32", "bf16"):
                options = {"momentum": momentum, "num_batches_tracked": 0}
                add(**layer, dtype=dtype, x="x shift residual", **options)
        add(**layer, momentum=None)
        add(**layer, tracked=False)


def scales_and_shifts(add):
    """What a sample has of its own, in each type that it may have."""
    given = [
        ("f32", False, {"scale": "f32", "shift": "f32"}),
        ("bf16", True, {"scale": "bf16", "shift": "f32", "channel_bias": "bf16"}),
        ("f16", True, {"scale": "f32"}),
        ("f32", False, {"channel_bias": "f32", "shift": "f32"}),
    ]
    for layer in ("GroupNorm", "InstanceNorm"):
        for layout in ("nchw", "nhwc"):
            for shape in [(2, 6, 5), (2, 6, 3, 3)]:
                for number, (dtype, plus, kinds) in enumerate(given):
                    options = {"scale_plus_one": True} if plus else {}
                    options["residual"] = number % 2 == 1
                    options["activation"] = "silu" if number == 0 else "none"
                    options["of_sample"] = kinds
                    add(**image(layer, shape, layout), dtype=dtype, **options)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    out = parser.parse_args().out
    assert torch.__version__.split("+")[0] == VERSION, torch.__version__

    vectors = Vectors()
    for part in (
        lengths_of_rows,
        normalized_shapes,
        presence_of_coefficients,
        axes_and_layouts,
        sizes_of_images,
        eps_and_far_means,
        activations_and_residuals,
        batches,
        scales_and_shifts,
    ):
        part(partial(call, vectors))
    write(out, vectors.tensors, vectors.metadata, save)
    print(f"{out}: {len(vectors.metadata)} cases, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
