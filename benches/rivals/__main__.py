"""usage: see `python3 -m rivals --help`, with the folder of this package and warpnorm.py on PYTHONPATH"""

import argparse
import csv
import datetime
import os
import sys
import time

from . import cells, layers, records
from .processor import threads_here
from .session import OURS, Session, opened
from .timing import ROUNDS, Budget

# Of each suite: its cells, and module and class of its engines, in the order of the record.
SUITES = {
    "norms": (
        cells.norms,
        {
            "warpnorm": ("library", "Library"),
            "pytorch": ("pytorch", "Eager"),
            "cudnn": ("pytorch", "Cudnn"),
            "triton": ("by_triton", "Kernels"),
            "liger": ("liger", "Liger"),
            "torch.compile": ("compiled", "Compiled"),
            "jax": ("by_jax", "Xla"),
        },
    ),
    "folding": (
        layers.convolutions,
        {
            "convolution alone": ("convolutions", "Alone"),
            "pytorch": ("convolutions", "Apart"),
            "warpnorm": ("convolutions", "ApartByLibrary"),
            "folded": ("convolutions", "Folded"),
            "folded, fused": ("convolutions", "FoldedFused"),
            "torch.compile": ("convolutions", "ApartCompiled"),
        },
    ),
    "norms-cpu": (
        cells.norms_on_cpu,
        {
            "warpnorm": ("library", "Library"),
            "pytorch": ("pytorch", "Eager"),
            "pytorch, warm": ("pytorch", "EagerWarm"),
            "torch.compile": ("compiled", "Compiled"),
            "onnxruntime": ("by_onnxruntime", "OnnxRuntime"),
            "candle": ("by_candle", "Candle"),
            "candle, warm": ("by_candle", "CandleWarm"),
        },
    ),
    "folding-cpu": (
        layers.convolutions_on_cpu,
        {
            "convolution alone": ("convolutions", "Alone"),
            "pytorch": ("convolutions", "Apart"),
            "warpnorm": ("convolutions", "ApartByLibrary"),
            "folded": ("convolutions", "Folded"),
            "onnxruntime, alone": ("convolutions_by_onnxruntime", "Alone"),
            "onnxruntime, apart": ("convolutions_by_onnxruntime", "Apart"),
            "onnxruntime, folded": ("convolutions_by_onnxruntime", "Folded"),
        },
    ),
}
# Those of a CPU.
ON_CPU = ("norms-cpu", "folding-cpu")
# What no cell begins after.
SECONDS, CPU_SECONDS = 440, 3600
# Neither green nor red: there is nothing here to compare with.
NOTHING_HERE = 3


def main():
    options = arguments()
    if options.list:
        return list_cells(options)
    # Processes to compile in would outlive a run that is cut off.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    if options.dry_run:
        # Read when kernels are defined.
        os.environ["TRITON_INTERPRET"] = "1"
    if options.suite in ON_CPU:
        # Read when libraries make their threads.
        os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with open(options.out, "w", newline="") as file:
        writer = records.Writer(file, scene(options))
        try:
            import torch
        except Exception as error:
            return nothing_here(options, writer, f"no torch: {error}")
        if options.suite not in ON_CPU and not options.dry_run and not torch.cuda.is_available():
            return nothing_here(options, writer, "torch sees no CUDA device")
        run(options, writer, torch)
    faults = faults_of_ours(writer.lines)
    print(f"{len(faults)} of {OURS}'s cells are wrong or failed, or it is not here")
    return 1 if faults else 0


def faults_of_ours(lines):
    """That time or memory did not suffice is none; that there is no library is one."""
    ours = [line for line in lines if line["impl"] == OURS]
    return [line for line in ours if line["status"] in ("wrong", "failed") or line["op"] == "all"]


def arguments():
    parser = argparse.ArgumentParser(prog="rivals", description="Compares warpnorm with others on this machine")
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--out", default="rivals.csv", help="file for the lines (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, help=f"what no cell begins after (default: {SECONDS}, on a CPU {CPU_SECONDS})"
    )
    parser.add_argument("--filter", default="", help="only cells whose name contains this")
    parser.add_argument("--dry-run", action="store_true", help="small cells on the CPU: everything but speed")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="windows of each on a CPU (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=threads_here(), help="of each on a CPU (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the cells as CSV and do nothing")
    for word in ("commit", "driver", "toolkit"):
        parser.add_argument(f"--{word}", default="", help="for the record")
    return parser.parse_args()


def scene(options):
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"commit": options.commit, "driver": options.driver, "toolkit": options.toolkit, "date": now}


def nothing_here(options, writer, reason):
    """Even so it is seen whether the library loads."""
    _, engines = SUITES[options.suite]
    for name in engines:
        writer.write(
            name, library_version() if name == OURS else "", "unavailable", records.all_of(options.suite), reason=reason
        )
    return NOTHING_HERE


def library_version():
    import warpnorm

    return warpnorm.version()


def chosen(options, engines=()):
    """``{cell: engines}``. What an engine takes is said of whole cells; several may be the same when they are shrunk."""
    found, (all_cells, _) = {}, SUITES[options.suite]
    for cell in all_cells():
        if options.filter in cell.name:
            taken = found.setdefault(cell.shrunk() if options.dry_run else cell, {})
            taken.update((engine.name, engine) for engine in engines if engine.takes(cell))
    return {cell: list(taken.values()) for cell, taken in found.items()}


def list_cells(options):
    lines = [records.identity(cell) for cell in chosen(options)]
    writer = csv.DictWriter(sys.stdout, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return 0


def run(options, writer, torch):
    from .convolution_data import ConvolutionData
    from .data import Data

    device = device_for(options, torch)
    budget = Budget(options.seconds or (CPU_SECONDS if options.suite in ON_CPU else SECONDS), time.monotonic)
    writer.scene |= {"device": device.name, "mode": device.mode}
    if options.suite in ON_CPU:
        writer.scene["threads"] = str(options.threads)
    with torch.no_grad():
        engines = opened(options.suite, SUITES[options.suite][1], device, writer)
        session = Session(device, writer, budget, ConvolutionData if "folding" in options.suite else Data)
        session.compare_all(chosen(options, engines).items())


def device_for(options, torch):
    from .devices import Gpu, Host
    from .processor import Processor

    if options.suite in ON_CPU:
        return Processor(torch, options.threads, 2 if options.dry_run else options.rounds)
    return Host() if options.dry_run else Gpu(torch)


if __name__ == "__main__":
    sys.exit(main())
