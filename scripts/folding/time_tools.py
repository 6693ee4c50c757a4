#!/usr/bin/env python3
"""How long folding a model's file takes, beside a plain copy of it and what other tools take, in turns.

    time_tools.py WARPNORM MODEL.onnx

The least of several runs of each, as its own process, the file in the system's cache. Needs onnx, onnxruntime, onnxsim and
onnxslim; of those that are not there nothing is said.
"""

import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import time

ROUNDS = 7
ORT = """
import onnxruntime as ort, sys
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
options.optimized_model_filepath = sys.argv[2]
ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""


def commands(warpnorm, model, out):
    yield "copy", ["cp", model, out]
    yield "warpnorm", [warpnorm, "fold", model, "-o", out, "--quiet"]
    python = {"onnxruntime": ["-c", ORT, model, out], "onnxsim": ["-m", "onnxsim", model, out], "onnxslim": ["-m", "onnxslim", model, out]}
    for module, arguments in python.items():
        if importlib.util.find_spec(module):
            yield module, [sys.executable, *arguments]


def main():
    warpnorm, model = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch) / "out.onnx"
        tools = list(commands(warpnorm, model, str(out)))
        least = {}
        for _ in range(ROUNDS):
            for name, command in tools:
                out.unlink(missing_ok=True)
                start = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                took = time.perf_counter() - start
                least[name] = min(least.get(name, took), took)
    for name, took in least.items():
        print(f"{name:12} {took:6.3f} s, {took / least['copy']:5.1f} copies")


if __name__ == "__main__":
    main()
