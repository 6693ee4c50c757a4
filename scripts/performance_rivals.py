"""What others reach beside warpnorm, and what folding is worth: the tables of a record's rivals.csv (benches/rivals/)."""

import statistics
import urllib.parse

from performance_plots import plot_name
from performance_records import DTYPES, OPS, OURS, by, counted, describe, escaped, order_in_table, rank, types
from performance_tables import figure, paragraph, spread, table

FOLDING = "conv_batch_norm"
# What warpnorm shall reach on a CPU: in each cell at most so many times what the fastest other takes, and so many times as
# fast as PyTorch by geometric mean.
MOST_OF_FASTEST, OVER_PYTORCH = 1.1, 3
PYTORCH = ("pytorch", "pytorch, warm")
# What stands for a suite of which an engine is not there.
ALL = "all"
ALONE = "convolution alone"

METHOD = """
    Measured in one process, warpnorm through its C library: CUDA graphs of 20 launches on rotating buffers beside the
    driver's copy, as above, every output judged first, engines in turns. What is in bold is the fastest. jax's calls cannot
    be captured: a program of 20 of them is timed by the clock. A time is missing where an engine has no such layer, is
    wrong, failed, or was not compared."""

METHOD_ON_A_CPU = """
    Measured in one process of Python, warpnorm through its C library: mode `cpu` as above, but each window begins behind 30 ms
    of calls that are not timed, once the threads of whoever ran before have gone to sleep; every output is judged first, and
    engines take turns. What Python needs to call a library is in all times, and shows in the smallest cells. pytorch and candle
    allocate what they return: as they are used, and `warm` by an allocator that gives nothing back to the system. onnxruntime
    writes into memory that it was given before. What is in bold is the fastest; fastest other / ours is the median of the ratios
    within a round: above 1, ours takes less time. A time is missing where an engine has no such layer, is wrong, failed, or
    was not compared."""

FOLDING_METHOD = """
    A convolution and its BatchNorm (with the network's activation, where one follows), as a part of the time of the
    convolution alone: median over the layers (least–most). pytorch and warpnorm apply the BatchNorm to the convolution's
    output, torch.compile compiles both; folded is one convolution with a bias, which PyTorch adds by a launch of its own, and
    fused one in which cuDNN adds it. Convolutions of f32 are TF32, PyTorch's default."""


FOLDING_METHOD_ON_A_CPU = """
    By the convolutions of others, for scale: a convolution and its BatchNorm (with the network's activation, where one follows),
    as a part of the time of PyTorch's convolution alone, as above. pytorch and warpnorm apply the BatchNorm to the output of
    PyTorch's convolution; folded is PyTorch's with the folded bias. onnxruntime is alone, apart with its optimizations off,
    since it would fold by itself, and folded by warpnorm, with the activation fused."""


def rivals(record):
    """Blocks: versions, how each does, a table for each op, and what is not in them."""
    cells = [cell for cell in record.rivals if cell.op != FOLDING and cell.case != "folding"]
    if not cells:
        return []
    measured = [cell for cell in cells if cell.op != ALL]
    ours = {key: here[OURS] for key, here in times(measured).items() if OURS in here}
    ratios = ratios_to_fastest(record)
    header = ["engine", "version", "cells ok:", "its time / ours: median (least–most):", "ours takes less time in:"]
    ops = sorted(by(lambda cell: cell.op, measured).items(), key=lambda group: rank(OPS, group[0]))
    return [
        paragraph(METHOD if record.is_gpu else METHOD_ON_A_CPU),
        *([] if record.is_gpu else goals(measured, ratios)),
        image(record, ratios),
        table(header, [engine_row(engine, found, ours) for engine, found in by_engine(measured).items()]),
        *(table(*op_table(found, ratios)) for _, found in ops),
        *absences(cells),
    ]


def folding(record):
    """Blocks: a summary by network, types and batch, the layers, and what is not in them."""
    cells = [cell for cell in record.rivals if cell.op == FOLDING or (cell.op, cell.case) == (ALL, "folding")]
    layers = [cell for cell in cells if cell.op == FOLDING]
    if not cells:
        return []
    blocks = [paragraph(FOLDING_METHOD if record.is_gpu else FOLDING_METHOD_ON_A_CPU)]
    if layers:
        ways = [way for way in by_engine(layers) if way != ALONE]
        groups = by(lambda cell: (network(cell), types(cell), cell.layout, batch(cell)), layers)
        rows = [[*key[:3], str(key[3]), *(worth(found, way) for way in ways)] for key, found in groups.items()]
        blocks.append(table(["network", "types", "layout", "batch:", *(f"{way}:" for way in ways)], rows))
        blocks += ["<details><summary>Layer by layer</summary>", table(*op_table(layers, {})), "</details>"]
    return blocks + absences(cells)


def by_engine(cells):
    """In the order of the record, which is that of the engines."""
    return by(lambda cell: cell.impl, cells)


def place(cell):
    """Of the mode it knows nothing: an engine has but one."""
    return cell.op, cell.case, cell.variant, cell.dtype, cell.weight_dtype, cell.layout


def times(cells):
    """{place: {engine: µs}} of what is right."""
    right = [cell for cell in cells if cell.status == "ok"]
    return {key: {cell.impl: cell.median_us for cell in found} for key, found in by(place, right).items()}


def engine_row(engine, cells, ours):
    versions = ", ".join(dict.fromkeys(cell.version for cell in cells if cell.version))
    right = [cell for cell in cells if cell.status == "ok"]
    ratios = [cell.median_us / ours[place(cell)] for cell in right if place(cell) in ours and engine != OURS]
    faster = f"{sum(ratio > 1 for ratio in ratios)} of {len(ratios)}" if ratios else ""
    return [engine, versions, str(len(right)), spread(ratios), faster]


def op_table(cells, ratios):
    """Header and rows: a cell of the record each, engines side by side."""
    engines = list(by_engine(cells))
    found_times, copies = times(cells), {place(cell): cell.copy_us for cell in cells if cell.copy_us}
    header = ["op", "case", "variant", "types", "layout", "MB:", "copy, µs:", *(f"{engine}, µs:" for engine in engines)]
    header.append("fastest other / ours:")
    one_of_each = {place(cell): cell for cell in sorted(cells, key=order_in_table)}
    rows = []
    for key, cell in one_of_each.items():
        here = found_times.get(key, {})
        fastest = min(here.values(), default=None)
        figures = [in_bold(here.get(engine), fastest) for engine in engines]
        identity = [cell.op, cell.case, cell.variant, types(cell), cell.layout, figure(cell.n_bytes / 1e6)]
        ratio = ratios[key].times_ours if key in ratios else None
        rows.append([*identity, figure(copies.get(key)), *figures, figure(ratio)])
    return header, rows


def ratios_to_fastest(record):
    """{place: the line of the other that took the least time beside ours}, as ratios within a round say."""
    others = [cell for cell in record.rivals if cell.op != FOLDING and cell.status == "ok" and cell.times_ours]
    return {key: min(found, key=lambda cell: cell.times_ours) for key, found in by(place, others).items()}


def goals(cells, ratios):
    """What shall be reached, and what was; the cells that miss it."""
    slow = sorted((cell for cell in ratios.values() if is_missed(cell)), key=lambda cell: cell.times_ours)
    # One without a time of ours reaches nothing.
    alone = {place(cell) for cell in cells if cell.status == "ok"} - {
        place(cell) for cell in cells if cell.status == "ok" and cell.impl == OURS
    }
    least = min((cell.times_ours for cell in ratios.values()), default=None)
    lacking = f"; {len(alone)} without a time of ours" if alone else ""
    rows = [
        [
            f"in no cell more than {figure(100 * MOST_OF_FASTEST - 100)} % slower than the fastest other",
            f"missed in {len(slow)} of {counted(ratios)}; fastest other / ours is at least {figure(least)}{lacking}",
            reached(ratios and not slow and not alone),
        ]
    ]
    for engine in PYTORCH:
        found = [cell.times_ours for cell in cells if cell.impl == engine and cell.status == "ok" and cell.times_ours]
        if found:
            mean = statistics.geometric_mean(found)
            goal = f"at least {OVER_PYTORCH} times as fast as {engine}, by geometric mean"
            rows.append([goal, f"{figure(mean)} over {counted(found)}", reached(mean >= OVER_PYTORCH)])
    header = ["op", "case", "variant", "types", "layout", "fastest other", "its time / ours:"]
    missed = [
        [cell.op, cell.case, cell.variant, types(cell), cell.layout, cell.impl, figure(cell.times_ours)] for cell in slow
    ]
    return [table(["goal", "measured", "reached"], rows), means_over_pytorch(cells), table(header, missed)]


def is_missed(cell):
    return cell.times_ours < 1 / MOST_OF_FASTEST


def reached(is_reached):
    return "yes" if is_reached else "**no**"


def means_over_pytorch(cells):
    """By type."""
    rows = []
    for engine, found in by_engine([cell for cell in cells if cell.impl in PYTORCH and cell.times_ours]).items():
        ratios = by(lambda cell: cell.dtype, found)
        means = [figure(statistics.geometric_mean([cell.times_ours for cell in ratios[name]])) for name in ratios]
        rows.append((engine, dict(zip(ratios, means))))
    names = sorted({name for _, means in rows for name in means}, key=lambda name: rank(DTYPES, name))
    header = ["its time / ours, by geometric mean", *(f"{name}:" for name in names)]
    return table(header, [[engine, *(means.get(name, "") for name in names)] for engine, means in rows])


def image(record, ratios):
    if not ratios:
        return ""
    path = urllib.parse.quote(plot_name(record, "rivals"))
    return f"![Time of the fastest other by ours, of {counted(ratios)} by bytes moved]({path})"


def in_bold(time, fastest):
    return f"**{figure(time)}**" if time is not None and time == fastest else figure(time)


def worth(cells, way):
    """Its times as a part of the convolution's alone."""
    pairs = [here for here in times(cells).values() if ALONE in here and way in here]
    return spread([here[way] / here[ALONE] for here in pairs])


def network(cell):
    return cell.variant.split("+")[0]


def batch(cell):
    return int(cell.case.split("x")[0])


def absences(cells):
    """What was asked for and has no time: engines that are not here, and by reason the cells of the others."""
    missing = [cell for cell in cells if cell.status != "ok"]
    if not missing:
        return []
    alike = by(lambda cell: (cell.impl, cell.status, cell.reason), missing)
    lines = [absence(found[0], len(found) - 1) for found in alike.values()]
    return [f"<details><summary>{len(missing)} without a time</summary>", "\n".join(lines), "</details>"]


def absence(cell, others):
    words = f"- {cell.status}: {escaped(cell.impl)}"
    if cell.op != ALL:
        words += f" {describe(cell)}"
    if others:
        words += f" and {others} more"
    if cell.max_err is not None:
        words += f", error {figure(cell.max_err)} of the bound"
    return f"{words}: {escaped(cell.reason)}" if cell.reason else words
