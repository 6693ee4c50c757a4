"""Liger-Kernel's kernels in Triton, without what its modules add for training but the statistics that they always write."""

import pathlib
import sys
import tempfile
import zipfile
from importlib import metadata

from torch.nn import functional

from ..cells import EPS, GROUPS
from . import Engine

# Where nobody has installed it: the wheel beside this package, which is pure Python. It has folders that Python does not
# import from within an archive.
_unpacked = tempfile.TemporaryDirectory(prefix="liger")
for wheel in pathlib.Path(__file__).resolve().parents[2].glob("liger_kernel-*.whl"):
    zipfile.ZipFile(wheel).extractall(_unpacked.name)
sys.path.append(_unpacked.name)

from liger_kernel.ops.fused_add_rms_norm import fused_add_rms_norm_forward  # noqa: E402
from liger_kernel.ops.group_norm import group_norm_forward  # noqa: E402
from liger_kernel.ops.layer_norm import layer_norm_forward  # noqa: E402
from liger_kernel.ops.rms_norm import rms_norm_forward  # noqa: E402

# It refuses longer rows.
MOST_COLUMNS = 65_536
# The default of its modules: the norm is rounded to the type before the weight.
CASTING = "llama"


class Liger(Engine):
    name = "liger"

    def __init__(self, device):
        if device.mode != "graph":
            raise RuntimeError("Triton's interpreter does not run these kernels")
        self.version = metadata.version("liger-kernel")

    def takes(self, cell):
        if cell.op == "group_norm":
            return cell.layout == "nchw"
        has_it = cell.op in ("layer_norm", "rms_norm", "add_rms_norm") and not cell.activation
        return has_it and cell.channels <= MOST_COLUMNS and cell.weight_dtype == cell.dtype

    def call(self, data):
        x, residual, weight, bias, channels = data.x, data.residual, data.weight, data.bias, data.cell.channels
        return {
            "layer_norm": lambda i: layer_norm_forward(x[i], weight, bias, EPS)[:1],
            "rms_norm": lambda i: rms_norm_forward(x[i], weight, EPS, 0.0, CASTING, None)[:1],
            "add_rms_norm": lambda i: fused_add_rms_norm_forward(x[i], residual[i], weight, EPS, 0.0, CASTING)[:2],
            "group_norm": lambda i: (
                functional.silu(group_norm_forward(x[i], channels, GROUPS, weight, bias, EPS)[0], inplace=True),
            ),
        }[data.cell.op]
