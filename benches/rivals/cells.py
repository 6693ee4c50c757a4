"""The cells of the comparison: a choice of those of benches/harness/suites.rs, by the same names."""

import dataclasses
import math

BYTES = {"f32": 4, "f16": 2, "bf16": 2}
EPS = 1e-5
GROUPS = 32


@dataclasses.dataclass(frozen=True)
class Cell:
    """A layer over a tensor; ``extents`` are ``(rows, columns)``, or ``(N, C, spatial…)`` whatever the layout."""

    op: str
    extents: tuple
    dtype: str = "bf16"
    # Of weight and bias; None: the tensors'.
    weight: str | None = None
    layout: str = "rows"
    activation: str = ""
    # One set of buffers, used again and again: what fits a cache stays there.
    warm: bool = False

    @property
    def weight_dtype(self):
        return self.weight or self.dtype

    @property
    def case(self):
        return "x".join(map(str, self.extents))

    @property
    def variant(self):
        words = [f"g{GROUPS}" if self.op == "group_norm" else "", self.activation, "warm" if self.warm else ""]
        return "+".join(word for word in words if word)

    @property
    def name(self):
        weight = f"weight-{self.weight}" if self.weight_dtype != self.dtype else ""
        layout = "" if self.has_rows else self.layout
        return "/".join(word for word in (self.op, self.case, self.dtype, weight, layout, self.variant) if word)

    @property
    def has_rows(self):
        return self.op.endswith(("layer_norm", "rms_norm"))

    @property
    def has_residual(self):
        return self.op.startswith("add_")

    @property
    def has_bias(self):
        return not self.op.endswith("rms_norm")

    @property
    def has_running_statistics(self):
        return self.op.startswith("batch_norm")

    @property
    def channels(self):
        return self.extents[1]

    @property
    def elements(self):
        return math.prod(self.extents)

    @property
    def read_bytes(self):
        """Of the inputs, each read once."""
        tensors = (2 if self.has_residual else 1) * self.elements * BYTES[self.dtype]
        coefficients = (2 if self.has_bias else 1) * self.channels * BYTES[self.weight_dtype]
        return tensors + coefficients + (8 * self.channels if self.has_running_statistics else 0)

    @property
    def written_bytes(self):
        """Of the outputs, each written once."""
        tensors = (2 if self.has_residual else 1) * self.elements * BYTES[self.dtype]
        return tensors + (8 * self.channels if self.op == "batch_norm_training" else 0)

    @property
    def bytes(self):
        return self.read_bytes + self.written_bytes

    def shrunk(self):
        """The same with few elements, as benches/harness/case.rs has it."""
        extents, left = list(self.extents), 40_000
        for axis in reversed(range(len(extents))):
            extents[axis] = min(extents[axis], left)
            left = max(left // extents[axis], 1)
        if self.has_rows:
            extents[0] = min(extents[0], 3)
        elif self.op == "group_norm":
            extents[1] = -(-extents[1] // GROUPS) * GROUPS
        return dataclasses.replace(self, extents=tuple(extents))


def _rows(op, rows, columns, **options):
    return Cell(op, (rows, columns), **options)


def _group_norm(*extents, dtype="f16", layout="nchw"):
    return Cell("group_norm", extents, dtype=dtype, layout=layout, activation="silu")


def _batch_norm(kind, *extents, layout="nchw", activation=""):
    return Cell(f"batch_norm_{kind}", extents, dtype="f16", weight="f32", layout=layout, activation=activation)


def norms():
    """Those first that say most, since time may not suffice for all."""
    layouts = ("nchw", "nhwc")
    return [
        _rows("layer_norm", 4096, 6144),
        _rows("rms_norm", 8192, 4096),
        _rows("add_rms_norm", 8192, 4096),
        *(_group_norm(2, 320, 64, 64, layout=layout) for layout in layouts),
        *(_batch_norm("inference", 256, 64, 112, 112, layout=layout) for layout in layouts),
        *(_batch_norm("training", 256, 64, 112, 112, layout=layout) for layout in layouts),
        *(Cell("instance_norm", (8, 64, 512, 512), dtype="f32", layout=layout) for layout in layouts),
        _rows("rms_norm", 1, 4096, warm=True),
        _rows("add_rms_norm", 64, 7168, warm=True),
        _rows("layer_norm", 1024, 12_288),
        _rows("rms_norm", 131_072, 128),
        *(_rows("rms_norm", rows, columns) for rows, columns in ((8192, 8192), (16_384, 4096), (4096, 16_384))),
        *(_group_norm(1, 512, 8, 45, 80, dtype="bf16", layout=layout) for layout in layouts),
        *(_group_norm(1, 128, 20, 256, 256, dtype="bf16", layout=layout) for layout in layouts),
        *(_group_norm(8, 640, 64, 64, layout=layout) for layout in layouts),
        *(_rows(op, 16_384, 65_536) for op in ("layer_norm", "rms_norm")),
        *(_rows("layer_norm", 32_768, 4096, dtype=dtype) for dtype in ("f32", "f16")),
        _rows("layer_norm", 8192, 4095),
        *(_batch_norm("inference", 32, 256, 7, 7, layout=layout) for layout in layouts),
        *(_batch_norm("inference", 32, 64, 56, 56, layout=layout, activation="relu") for layout in layouts),
        *(_batch_norm("training", 32, 256, 14, 14, layout=layout) for layout in layouts),
        *(Cell("instance_norm", (8, 64, 128, 128), dtype="f16", layout=layout) for layout in layouts),
        *(_rows("rms_norm", *extents, warm=True) for extents in ((16, 512), (16, 2048), (16, 16_384))),
        _rows("add_rms_norm", 1, 7168, warm=True),
        _rows("layer_norm", 1, 4096, warm=True),
        _rows("add_layer_norm", 8192, 4096),
        _rows("rms_norm", 8192, 4096, weight="f32"),
        _rows("layer_norm", 8192, 4096, activation="silu"),
        _rows("rms_norm", 32_768, 512),
        _rows("rms_norm", 2048, 4096),
        _rows("layer_norm", 131_072, 128),
        *(_group_norm(1, 128, 1024, 1024, layout=layout) for layout in layouts),
        *(_rows(op, 4096, 262_144) for op in ("layer_norm", "rms_norm")),
    ]


_ROWS_ON_CPU = ((1, 768), (4096, 1024), (16_384, 4096))
_IMAGES_ON_CPU = ((1, 64, 7, 7), (32, 64, 56, 56), (80, 64, 112, 112))


def norms_on_cpu():
    """Those of `suites::cpu` that others have, size by size: the largest take most of the time."""
    return [cell for sizes in zip(_ROWS_ON_CPU, _IMAGES_ON_CPU) for dtype in BYTES for cell in _on_cpu(*sizes, dtype)]


def _on_cpu(rows, image, dtype):
    layouts = ("nchw", "nhwc")
    return [
        *(Cell(op, rows, dtype=dtype) for op in ("layer_norm", "rms_norm", "add_rms_norm")),
        Cell("group_norm", image, dtype=dtype, layout="nchw", activation="silu"),
        *(
            Cell(op, image, dtype=dtype, layout=layout)
            for op in ("group_norm", "instance_norm", "batch_norm_training")
            for layout in layouts
        ),
        Cell("batch_norm_inference", image, dtype=dtype, layout="nchw"),
        Cell("batch_norm_inference", image, dtype=dtype, layout="nhwc", activation="relu"),
    ]


# torch.compile takes seconds for each.
COMPILED = """
    layer_norm/4096x6144/bf16 rms_norm/8192x4096/bf16 add_rms_norm/8192x4096/bf16 rms_norm/8192x8192/bf16
    rms_norm/131072x128/bf16 rms_norm/1x4096/bf16/warm add_rms_norm/64x7168/bf16/warm
    group_norm/2x320x64x64/f16/nchw/g32+silu group_norm/2x320x64x64/f16/nhwc/g32+silu
    batch_norm_inference/256x64x112x112/f16/weight-f32/nhwc batch_norm_training/256x64x112x112/f16/weight-f32/nhwc
    instance_norm/8x64x512x512/f32/nchw
    layer_norm/4096x1024/f32 rms_norm/4096x1024/f32 add_rms_norm/4096x1024/f32 layer_norm/4096x1024/bf16
    rms_norm/4096x1024/bf16 add_rms_norm/4096x1024/bf16 group_norm/32x64x56x56/f32/nchw/g32+silu
    group_norm/32x64x56x56/bf16/nchw/g32+silu batch_norm_inference/32x64x56x56/f32/nchw
    batch_norm_inference/32x64x56x56/f32/nhwc/relu batch_norm_training/32x64x56x56/f32/nchw
    instance_norm/32x64x56x56/f32/nchw
""".split()

# XLA compiles a window's calls into one program.
BY_JAX = """
    layer_norm/4096x6144/bf16 rms_norm/8192x4096/bf16 add_rms_norm/8192x4096/bf16
    group_norm/2x320x64x64/f16/nhwc/g32+silu batch_norm_inference/256x64x112x112/f16/weight-f32/nhwc
    instance_norm/8x64x512x512/f32/nchw
""".split()
