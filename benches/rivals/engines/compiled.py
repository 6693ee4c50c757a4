"""PyTorch's functions through torch.compile, which needs a C++ compiler or, on a GPU, one of C for Triton's launcher."""

import torch

from ..cells import COMPILED
from . import Engine
from .pytorch import formula, over_sets


class Compiled(Engine):
    name = "torch.compile"

    def __init__(self, device):
        self.version = torch.__version__

    def takes(self, cell):
        return cell.name in COMPILED

    def call(self, data):
        # What earlier cells have left counts towards a limit on recompilations.
        torch._dynamo.reset()
        return over_sets(torch.compile(formula(data.cell), dynamic=False), data)
