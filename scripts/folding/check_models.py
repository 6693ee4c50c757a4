#!/usr/bin/env python3
"""Folds whole networks, and holds what comes out against ONNX Runtime.

    check_models.py WARPNORM EVALUATE MODEL.onnx...

For each model: `warpnorm fold --verify` passes; ONNX Runtime loads and runs the folded model, unchanged and unoptimized,
and is no further from the f64 result than twice what it is with the unfolded one; no more BatchNorms are left than by ONNX
Runtime's own optimizer, and at least as many nodes are gone as by its folding. Needs onnx and onnxruntime, and the two programs: `cargo build --release --package
warpnorm-cli --examples --bins`.
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


# What ONNX Runtime calls its own folding.
FOLDING = ["ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "MatMul_BatchNormalization_Fusion", "MatMulAddFusion"]


def session(path, level, optimized=None, disabled=None):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    if optimized:
        options.optimized_model_filepath = optimized
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)


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


def check(warpnorm, evaluator, path, scratch):
    folded, report = scratch / "folded.onnx", scratch / "report.json"
    command = [warpnorm, "fold", path, "-o", folded, "--verify", "--report", report, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{path}: exit code {done.returncode}: {done.stderr}"
    report = json.loads(report.read_text())
    onnx.checker.check_model(str(folded))

    # What it does beyond this level is for its own operators. The rest of what it does at it is not folding.
    basic = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session(path, basic, str(scratch / "optimized.onnx"))
    session(path, basic, str(scratch / "others.onnx"), FOLDING)
    names = [path, folded, scratch / "optimized.onnx", scratch / "others.onnx"]
    before, ours, theirs, others = map(operators, names)
    norm = "BatchNormalization"
    assert others[norm] == before[norm], f"{path}: ONNX Runtime folds by other names than it did"
    assert ours[norm] <= theirs[norm], f"{path}: {ours[norm]} BatchNorms, and {theirs[norm]} with ONNX Runtime"
    saved, saved_by_them = before.total() - ours.total(), others.total() - theirs.total()
    assert saved >= saved_by_them, f"{path}: {saved} nodes less, and {saved_by_them} with ONNX Runtime"

    given = session(path, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL).get_inputs()[0]
    image = np.random.default_rng(2).normal(0, 1, given.shape).astype(np.float32)
    unfolded = run(path, image)
    reference = exact(evaluator, path, image, unfolded.shape, scratch)
    error = lambda found: float(np.abs(found - reference).max() / np.abs(reference).max())
    unfolded_error, folded_error = error(unfolded), error(run(str(folded), image))
    assert folded_error <= 2 * unfolded_error + 1e-7, f"{path}: {folded_error} off, unfolded {unfolded_error}"
    whole = report["verification"]["whole"]
    print(
        f"{pathlib.Path(path).stem:20} BatchNorms {before[norm]:3} -> {ours[norm]:3} (ONNX Runtime {theirs[norm]:3}), "
        f"nodes {before.total():4} -> {ours.total():4} ({-saved_by_them:+}), f32 error {unfolded_error:.1e} -> "
        f"{folded_error:.1e}, f64 {whole['max_error']:.1e}"
    )


def main():
    warpnorm, evaluator, *paths = sys.argv[1:]
    for path in paths:
        with tempfile.TemporaryDirectory() as scratch:
            check(warpnorm, evaluator, path, pathlib.Path(scratch))
    print(f"{len(paths)} passed, 0 failed")


if __name__ == "__main__":
    main()
