#!/usr/bin/env python3
"""Which BatchNorm of a PyTorch model follows or feeds which layer, with its eps: what a state dict does not say.

    python export_pairs.py torchvision.models:resnet50 >pairs.json
    warpnorm fold resnet50.safetensors --pairs pairs.json -o folded.safetensors

The argument is a module and a function in it that makes the model; from other code, call `pairs(model)`. The model is traced
by torch.fx, and only what is certain becomes a pair: a layer whose output the BatchNorm alone reads, or a BatchNorm whose
output one layer alone reads; both called once, and with running statistics. Needs torch.
"""

import importlib
import json
import sys

from torch import fx, nn


def kind_of(module):
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "deconv"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "conv"
    return "linear" if isinstance(module, nn.Linear) else None


def pads(module):
    """Whether zeros are put around the input."""
    padding = getattr(module, "padding", 0)
    is_zero = padding == "valid" or not isinstance(padding, str) and not any([padding] if padding == 0 else padding)
    return not is_zero and getattr(module, "padding_mode", "zeros") == "zeros"


def pairs(model):
    model.eval()
    graph = fx.symbolic_trace(model).graph
    modules = dict(model.named_modules())
    called = [node for node in graph.nodes if node.op == "call_module"]
    calls = [node.target for node in called]

    def once(node):
        return node.op == "call_module" and calls.count(node.target) == 1

    found, taken = [], set()

    def add(layer, norm, direction):
        module, bn = modules[layer.target], modules[norm.target]
        taken.update([layer.target, norm.target])
        pair = {"conv": layer.target, "bn": norm.target, "eps": bn.eps, "kind": kind_of(module), "dir": direction}
        pair["groups"] = getattr(module, "groups", 1)
        if direction == "pre":
            pair["padding"] = "zeros" if pads(module) else "none"
        found.append(pair)

    norms = [
        node
        for node in called
        if isinstance(modules[node.target], nn.modules.batchnorm._BatchNorm)
        and modules[node.target].track_running_stats
        and once(node)
    ]
    for norm in norms:
        layer = norm.args[0]
        if once(layer) and kind_of(modules[layer.target]) and len(layer.users) == 1 and layer.target not in taken:
            # A linear layer of three axes has its channels last, where those of a BatchNorm are not.
            if kind_of(modules[layer.target]) != "linear" or isinstance(modules[norm.target], nn.BatchNorm1d):
                add(layer, norm, "post")
    for norm in norms:
        users = list(norm.users)
        if norm.target not in taken and len(users) == 1 and once(users[0]) and kind_of(modules[users[0].target]):
            if users[0].target not in taken:
                add(users[0], norm, "pre")
    return {"version": 1, "pairs": found}


def main():
    module, _, function = sys.argv[1].partition(":")
    model = getattr(importlib.import_module(module), function)()
    print(json.dumps(pairs(model), indent=1))


if __name__ == "__main__":
    main()
