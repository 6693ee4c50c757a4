#!/usr/bin/env python3
"""Folds a model of more than 2 GiB, whose weights are in a file of their own, in less than 200 MB of memory.

    check_large.py WARPNORM

It takes 5 GB of disk in the temporary folder for a while. Needs onnx and numpy.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, CHANNELS = 36, 1344
LIMIT_KB = 200 * 1000
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def make(folder):
    nodes, tensors, value = [], [], "x"
    rng = np.random.default_rng(1)
    kernel = rng.normal(0, 0.01, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    with open(folder / "weights.bin", "wb") as data:
        for index in range(LAYERS):
            weight = TensorProto(name=f"w{index}", dims=kernel.shape, data_type=TensorProto.FLOAT)
            weight.data_location = TensorProto.EXTERNAL
            for key, text in (("location", "weights.bin"), ("offset", data.tell()), ("length", kernel.nbytes)):
                weight.external_data.add(key=key, value=str(text))
            data.write((kernel + index).tobytes())
            tensors.append(weight)
            nodes.append(helper.make_node("Conv", [value, weight.name], [f"c{index}"], pads=[1] * 4))
            names = [f"{part}{index}" for part in ("g", "b", "m", "v")]
            for name in names:
                tensors.append(numpy_helper.from_array(rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32), name))
            value = f"y{index}"
            nodes.append(helper.make_node("BatchNormalization", [f"c{index}", *names], [value]))
        size = data.tell()
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, CHANNELS, 8, 8]) for n in ("x", value)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "large.onnx")
    return size


def main():
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        size = make(folder)
        assert size > 2**31
        for options, part in ([], 1), (["--dtype", "f16"], 2):
            command = [sys.argv[1], "fold", folder / "large.onnx", "-o", folder / "folded.onnx", "--quiet", *options]
            # A process counts what its parent had when it was made, so its parent is a small one.
            measure = [sys.executable, "-c", MEASURE, *command]
            used = int(subprocess.run(measure, check=True, capture_output=True, text=True).stdout)
            folded = folder / "folded.onnx.data"
            assert folded.stat().st_size >= size // part - 2**20, "the weights were not written"
            onnx.checker.check_model(str(folder / "folded.onnx"))
            assert used < LIMIT_KB, f"{used} kB of memory"
            print(f"{size} bytes of weights folded in {used} kB of memory {' '.join(options)}")


if __name__ == "__main__":
    main()
