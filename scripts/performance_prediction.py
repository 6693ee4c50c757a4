"""What was expected of a GPU's cells, beside what was measured: prediction.csv, which docs/prediction.md explains."""

import pathlib
import re
from types import SimpleNamespace

from performance_records import OPS, by, fail, named, order_in_table, rank, read_table, types
from performance_tables import figure, paragraph, spread, table

COLUMNS = """
    chip op case variant dtype weight_dtype layout mode kernel predicted_us uncertainty_us predicted_copy_us bound
""".split()
FIGURES = {"predicted_us": "us", "uncertainty_us": "uncertainty", "predicted_copy_us": "copy_us"}
CELL = "op case variant dtype weight_dtype layout mode".split()

# A cell that is farther from its prediction than this, either way, is to be explained.
MISS = 1.25

METHOD = f"""
    Predicted before anything was measured, by the model of [prediction.md](prediction.md). Bound by: what the model takes for
    the reason. ±: what it comes to if every guess in it is off by a quarter. A cell that took {MISS} times as long as predicted, or as much less, is a miss: the model is wrong there, or
    the kernel does not do what it was taken to do. Which of the two belongs in that page."""


def read_predictions(folder):
    """{(chip, *cell): prediction}; none, if there is no such file."""
    predictions = {}
    for place, row in read_table(folder / "prediction.csv", COLUMNS):
        try:
            figures = {name: float(row[column]) for column, name in FIGURES.items()}
        except ValueError as error:
            fail(f"{place}: {error}")
        predictions[row["chip"], *(row[column] for column in CELL)] = SimpleNamespace(**figures, bound=row["bound"])
    return predictions


def predicted(record, predictions):
    """{key of a cell: its prediction}, of a GPU's cells that are right."""
    chip = chip_of(named(record, "device"))
    found = {}
    for cell in record.ours if record.is_gpu else []:
        prediction = predictions.get((chip, *(getattr(cell, column) for column in CELL)))
        if prediction and cell.status == "ok":
            found[cell.key] = prediction
    return found


def chip_of(device):
    """As the predictions name it: they are of the chips that stand on a board of their own kind (SXM)."""
    match = re.search(r"\bH\d00\b", device)
    return match[0] if match and "PCIe" not in device else ""


def ratio(cell, prediction):
    """Above 1, it took longer than predicted."""
    return cell.median_us / prediction.us


def is_missed(cell, prediction):
    return not 1 / MISS <= ratio(cell, prediction) <= MISS


def against_prediction(record, found):
    """Blocks: how well each op was predicted, and the cells that were not."""
    pairs = [(cell, found[cell.key]) for cell in record.ours if cell.key in found]
    if not pairs:
        return []
    header = ["op", "bound by", "cells:", "measured / predicted: median (least–most):", "missed:"]
    groups = by(lambda pair: (pair[0].op, pair[1].bound), pairs)
    rows = [summary_row(*key, groups[key]) for key in sorted(groups, key=lambda key: (rank(OPS, key[0]), key[1]))]
    missed = sorted((pair for pair in pairs if is_missed(*pair)), key=farthest_first)
    return [paragraph(METHOD), table(header, rows), *misses(missed, len(pairs))]


def summary_row(op, bound, pairs):
    ratios = [ratio(*pair) for pair in pairs]
    return [op, bound, str(len(pairs)), spread(ratios), str(sum(is_missed(*pair) for pair in pairs))]


def farthest_first(pair):
    measured = ratio(*pair)
    return (-max(measured, 1 / measured), rank(OPS, pair[0].op), order_in_table(pair[0]))


def misses(missed, of):
    if not missed:
        return [f"None of {of} cells is missed."]
    header = ["op", "case", "variant", "types", "layout", "predicted, µs:", "±:", "measured, µs:"]
    header += ["measured / predicted:", "copy, predicted, µs:", "copy, measured, µs:", "bound by", "kernel"]
    return [f"To be explained, {len(missed)} of {of} cells:", table(header, [miss_row(*pair) for pair in missed])]


def miss_row(cell, prediction):
    figures = [prediction.us, prediction.uncertainty, cell.median_us, ratio(cell, prediction), prediction.copy_us, cell.copy_us]
    identity = [cell.op, cell.case, cell.variant, types(cell), cell.layout]
    return [*identity, *map(figure, figures), prediction.bound, cell.kernel]
