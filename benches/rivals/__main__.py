"""usage: see `python3 -m rivals --help`, with the folder of this package and warpnorm.py on PYTHONPATH"""

import argparse
import csv
import datetime
import os
import sys
import time

from . import cells, layers, records
from .session import OURS, Session, opened
from .timing import Budget

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
}
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
    with open(options.out, "w", newline="") as file:
        writer = records.Writer(file, scene(options))
        try:
            import torch
        except Exception as error:
            return nothing_here(options, writer, f"no torch: {error}")
        if not options.dry_run and not torch.cuda.is_available():
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
    parser = argparse.ArgumentParser(prog="rivals", description="Compares warpnorm with others on this machine's GPU")
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--out", default="rivals.csv", help="file for the lines (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=440, help="what no cell begins after (default: %(default)s)")
    parser.add_argument("--filter", default="", help="only cells whose name contains this")
    parser.add_argument("--dry-run", action="store_true", help="small cells on the CPU: nothing of speed")
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
    from .devices import Gpu, Host

    device = Host() if options.dry_run else Gpu(torch)
    budget = Budget(options.seconds, time.monotonic)
    writer.scene |= {"device": device.name, "mode": device.mode}
    with torch.no_grad():
        engines = opened(options.suite, SUITES[options.suite][1], device, writer)
        session = Session(device, writer, budget, {"norms": Data, "folding": ConvolutionData}[options.suite])
        session.compare_all(chosen(options, engines).items())


if __name__ == "__main__":
    sys.exit(main())
