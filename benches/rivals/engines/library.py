"""warpnorm, by its C library."""

import torch
import warpnorm

from ..cells import EPS, GROUPS
from ..data import DTYPES
from . import Engine

_KINDS = {
    "layer_norm": "layer_norm", "add_layer_norm": "layer_norm", "rms_norm": "rms_norm", "add_rms_norm": "rms_norm",
    "group_norm": "group_norm", "instance_norm": "instance_norm", "batch_norm_inference": "batch_norm",
    "batch_norm_training": "batch_norm",
}  # fmt: skip


class Library(Engine):
    name = "warpnorm"

    def __init__(self, device):
        self.version = warpnorm.version()
        self._device = warpnorm.Device.cuda(0) if device.mode == "graph" else warpnorm.Device.cpu()

    def takes(self, cell):
        return True

    def call(self, data):
        call = warpnorm.prepare(self._device, layer_of(data.cell), _signature(data.cell))
        workspace = self._workspace(call, data)
        outputs = [self._outputs(data) for _ in range(data.sets)]
        tensors = [_tensors(data, set_, outputs[set_], workspace) for set_ in range(data.sets)]

        def run(set_):
            call.launch_tensors(tensors[set_], stream_of(data.x[set_]))
            return outputs[set_]

        # Its memory must live as long as the addresses.
        run.workspace = workspace
        return run

    def _workspace(self, call, data):
        if not call.workspace_bytes:
            return None
        workspace = torch.empty(call.workspace_bytes, dtype=torch.uint8, device=data.device)
        self._device.init_workspace(workspace.data_ptr(), workspace.numel(), stream_of(workspace))
        return workspace

    def _outputs(self, data):
        y = torch.empty_like(data.x[0])
        return (y, torch.empty_like(y)) if data.cell.has_residual else (y,)


def stream_of(tensor):
    return torch.cuda.current_stream().cuda_stream if tensor.is_cuda else 0


def layer_of(cell):
    kind = _KINDS[cell.op]
    options = {"activation": cell.activation or None, "eps": EPS}
    if cell.has_rows:
        return warpnorm.layer(kind, normalized_shape=cell.channels, **options)
    groups = {"num_groups": GROUPS} if kind == "group_norm" else {}
    return warpnorm.layer(
        kind,
        num_channels=cell.channels,
        layout=cell.layout.upper(),
        **groups,
        **options,
        batch_statistics=cell.op == "batch_norm_training"
    )


def _signature(cell):
    n, c, *spatial = cell.extents
    shape = (n, *spatial, c) if cell.layout == "nhwc" else cell.extents
    weight = name_of(cell.weight_dtype)
    return warpnorm.signature(
        shape,
        name_of(cell.dtype),
        weight=weight,
        bias=weight if cell.has_bias else None,
        sum=cell.has_residual,
        update_running_statistics=cell.op == "batch_norm_training",
    )


def name_of(dtype):
    return str(DTYPES[dtype]).removeprefix("torch.")


def _tensors(data, set_, outputs, workspace):
    given = {
        "input": data.x[set_], "weight": data.weight, "bias": data.bias, "running_mean": data.running_mean,
        "running_var": data.running_var, "output": outputs[0], "workspace": workspace,
    }  # fmt: skip
    if data.residual is not None:
        given |= {"residual": data.residual[set_], "sum": outputs[1]}
    addresses = {name: tensor.data_ptr() for name, tensor in given.items() if tensor is not None}
    return warpnorm.tensors(**addresses, workspace_bytes=0 if workspace is None else workspace.numel())
