#!/usr/bin/env python3
"""Folds whole networks, and holds what comes out against ONNX Runtime.

    check_models.py WARPNORM EVALUATE MODEL.onnx...

For each model: `warpnorm fold --verify` passes; ONNX Runtime loads and runs the folded model, unchanged and unoptimized,
and is no further from the f64 result than twice what it is with the unfolded one, or with what its own optimizer folds, by
whichever it is further: of one image either is luck, and which kernels it runs is the processor's; no more BatchNorms are
left than by that optimizer, and with `--tidy`, as that does more than fold, no more nodes. With `--dtype` the model is valid
to the letter, ONNX Runtime runs it, and the error is what the type explains. Needs onnx and onnxruntime, and the two
programs: `cargo build --release --package warpnorm-cli --examples --bins`.
"""

import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime


# How far the outputs may be off by type, as a part of the largest.
TYPES = {"f16": 0.05, "bf16": 0.2}


def session(path, level, optimized=None):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    if optimized:
        options.optimized_model_filepath = optimized
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def operators(path):
    model = onnx.load(path, load_external_data=False)
    return collections.Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")


def run(path, image):
    found = session(path, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    return found.run(None, {found.get_inputs()[0].name: image})[0]


def exact(evaluator, path, image, shape, scratch):
    """In f64, by the evaluator of `--verify`, which this holds against ONNX Runtime."""
    image.astype(np.float64).tofile(scratch / "image")
    subprocess.run([evaluator, path, scratch / "image", scratch / "exact"], check=True)
    return np.fromfile(scratch / "exact").reshape(shape)


def fold(warpnorm, path, folded, *options):
    """Folds and verifies; returns the report."""
    report = folded.with_suffix(".json")
    command = [warpnorm, "fold", path, "-o", folded, "--verify", "--report", report, "--quiet", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{path} {options}: exit code {done.returncode}: {done.stderr}"
    onnx.checker.check_model(str(folded), full_check=True)
    return json.loads(report.read_text())


def check(warpnorm, evaluator, path, scratch):
    folded, tidied = scratch / "folded.onnx", scratch / "tidied.onnx"
    report = fold(warpnorm, path, folded)
    fold(warpnorm, path, tidied, "--tidy")

    # What it does beyond this level is for its own operators.
    session(path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC, str(scratch / "optimized.onnx"))
    before, ours, tidy, theirs = map(operators, [path, folded, tidied, scratch / "optimized.onnx"])
    norm = "BatchNormalization"
    assert ours[norm] <= theirs[norm], f"{path}: {ours[norm]} BatchNorms, and {theirs[norm]} with ONNX Runtime"
    assert tidy.total() <= theirs.total(), f"{path}: {tidy.total()} nodes, and {theirs.total()} with ONNX Runtime"

    given = session(path, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL).get_inputs()[0]
    image = np.random.default_rng(2).normal(0, 1, given.shape).astype(np.float32)
    unfolded = run(path, image)
    reference = exact(evaluator, path, image, unfolded.shape, scratch)
    error = lambda found: float(np.abs(found - reference).max() / np.abs(reference).max())
    unfolded_error, folded_error, tidied_error = error(unfolded), error(run(str(folded), image)), error(run(str(tidied), image))
    optimized_error = error(run(str(scratch / "optimized.onnx"), image))
    most = 2 * max(unfolded_error, optimized_error) + 1e-7
    theirs_off = f"unfolded {unfolded_error}, folded by ONNX Runtime {optimized_error}"
    assert folded_error <= most, f"{path}: {folded_error} off, {theirs_off}"
    assert tidied_error <= most, f"{path}: {tidied_error} off with --tidy, {theirs_off}"

    opset = max(entry.version for entry in onnx.load(path).opset_import if entry.domain in ("", "ai.onnx"))
    typed_errors = []
    for dtype, allowed in TYPES.items():
        # Casts to bf16 are as new as that.
        if dtype == "bf16" and opset < 13:
            continue
        typed = scratch / f"{dtype}.onnx"
        fold(warpnorm, path, typed, "--dtype", dtype)
        typed_error = error(run(str(typed), image))
        assert typed_error <= allowed, f"{path}: {typed_error} off in {dtype}"
        typed_errors.append(f"{dtype} {typed_error:.1e}")
    whole = report["verification"]["whole"]
    print(
        f"{pathlib.Path(path).stem:20} BatchNorms {before[norm]:3} -> {ours[norm]:3} (ONNX Runtime {theirs[norm]:3}), "
        f"nodes {before.total():4} -> {ours.total():4}, tidied {tidy.total():4} ({theirs.total()}), f32 error "
        f"{unfolded_error:.1e} -> {folded_error:.1e} ({optimized_error:.1e}), f64 {whole['max_error']:.1e}, {', '.join(typed_errors)}"
    )


def main():
    warpnorm, evaluator, *paths = sys.argv[1:]
    for path in paths:
        with tempfile.TemporaryDirectory() as scratch:
            check(warpnorm, evaluator, path, pathlib.Path(scratch))
    print(f"{len(paths)} passed, 0 failed")


if __name__ == "__main__":
    main()
