#!/usr/bin/env python3
"""How long folding a model's file takes, beside a plain copy of it and what other tools take, in turns.

    time_tools.py WARPNORM MODEL.onnx [RECORD.csv]

The least of several runs of each, as its own process, the file in the system's cache. With RECORD.csv a line for each is
added to that. Needs onnx, onnxruntime, onnxsim and onnxslim; of those that are not there nothing is said.
"""

import csv
import datetime
import importlib.metadata
import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROUNDS = 7
COLUMNS = "date,commit,device,model,bytes,tool,version,rounds,seconds,copies".split(",")
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


def version(tool, warpnorm):
    if tool == "copy":
        return ""
    if tool == "warpnorm":
        return subprocess.run([warpnorm, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    return importlib.metadata.version(tool)


def device():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", text).group(1)
    return f"{name}, {len(re.findall('^processor', text, re.M))} cores"


def commit():
    root = pathlib.Path(__file__).parent
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def main():
    warpnorm, model, *record = sys.argv[1:]
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
    if record:
        path = pathlib.Path(record[0])
        is_new = not path.exists()
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        model = pathlib.Path(model)
        scene = [now, commit(), device(), model.name, model.stat().st_size]
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(COLUMNS)
            for name, took in least.items():
                copies = f"{took / least['copy']:.2f}"
                writer.writerow([*scene, name, version(name, warpnorm), ROUNDS, f"{took:.4f}", copies])


if __name__ == "__main__":
    main()
