"""Plots of a record as SVG: bandwidth by bytes moved, and below it as a part of a copy's; and how others do beside it."""

import math
from types import SimpleNamespace

from performance_records import (
    CEILINGS, OPS, by, ceiling_of, count, counted, describe, escaped, fraction, gigabytes_per_second, is_warm, named,
    order_in_table, rank, speed,
)  # fmt: skip

# Plots of a record in their order, and what their cells are.
GROUPS = {
    "rows": "rows",
    "images": "images (NCHW and NHWC)",
    "warm": "buffers that stay in cache",
}


def plotted(record):
    """{group: cells}. A group shares one ceiling: buffers in cache have another, and so have fewer threads of a CPU."""
    most = most_threads(record)
    cells = [cell for cell in record.ours if cell.status == "ok" and cell.threads == most]
    groups = by(group_of, fastest_of_modes(cells))
    return {group: groups[group] for group in GROUPS if group in groups}


def most_threads(record):
    return max((cell.threads for cell in record.ours if cell.status == "ok"), key=count, default="")


def fastest_of_modes(cells):
    modes = by(lambda cell: (cell.op, cell.case, cell.variant, cell.dtype, cell.weight_dtype, cell.layout), cells)
    return [min(same, key=lambda cell: cell.median_us) for same in modes.values()]


def group_of(cell):
    if is_warm(cell):
        return "warm"
    return "images" if cell.layout in ("nchw", "nhwc") else "rows"


def plot_name(record, group):
    return f"performance/{record.name}-{group}.svg"


# The page in pixels: two panels, one above the other, share the axis of bytes, and the legend is beside them.
WIDTH, HEIGHT = 960, 540
LEFT, RIGHT = 88, 720
UPPER, LOWER = (66, 326), (352, 480)
LEGEND_LEFT = 742

# As in axes.py: text and lines of middle brightness, and points that stand out from white and from near-black.
STYLE = """
text{font:14px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#737b86}
.m{text-anchor:middle}
.e{text-anchor:end}
.name{font-size:17px;font-weight:600}
.grid{fill:none;stroke:#8b95a3;stroke-opacity:.28;stroke-width:1}
.frame{fill:none;stroke:#8b95a3;stroke-opacity:.7;stroke-width:1}
.copy,.read{fill:none;stroke:#737b86;stroke-width:1.6;stroke-linejoin:round}
.read{stroke-dasharray:5 4}
"""
COLOURS = ["#e08732", "#3f83d6", "#c9559b", "#2f9d8f", "#d9534f", "#7d9a2c", "#8b6fd8", "#b5892a", "#3a9fc0"]
# Unlike in number to the colours, so that few ops share both; and who cannot tell two colours apart can tell shapes.
MARKERS = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-5L4.6 3.4H-4.6z",
    "M0-5.2L5.2 0L0 5.2L-5.2 0z",
    "M0 5L4.6-3.4H-4.6z",
]


def plot(record, group, cells):
    cells = sorted(cells, key=lambda cell: (rank(OPS, cell.op), order_in_table(cell)))
    x_scale = logarithmic([cell.n_bytes for cell in cells], LEFT, RIGHT)
    lines = {kind: line for kind in CEILINGS if (line := ceiling_line(record, group, cells, kind))}
    speeds = [speed(cell) for cell in cells] + [y for line in lines.values() for _, y in line]
    y_scale = logarithmic(speeds, UPPER[1], UPPER[0])
    part_scale = linear([fraction(cell) for cell in cells if fraction(cell) is not None], LOWER[1], LOWER[0])
    title = f"{named(record, 'device') or record.name}: {GROUPS[group]}"
    body = [
        text(LEFT, 26, title, "name"),
        text(LEFT, 48, f"record {record.folder.name}"),
        axes(x_scale, y_scale, part_scale, "of " + (" or ".join(lines) or "copy")),
        *(ceiling_path(kind, line, x_scale, y_scale) for kind, line in lines.items()),
        # A copy's own part of a copy.
        f'<path class="copy" d="M{LEFT} {number(part_scale.at(1))}H{RIGHT}"/>',
        *(point(cell, x_scale.at(cell.n_bytes), y_scale.at(speed(cell)), describe(cell)) for cell in cells),
        *(
            point(cell, x_scale.at(cell.n_bytes), part_scale.at(fraction(cell)))
            for cell in cells
            if fraction(cell) is not None
        ),
        legend(sorted({cell.op for cell in cells}, key=lambda op: rank(OPS, op)), lines),
    ]
    return document(title, f"Bandwidth of {counted(cells)} by bytes moved.", cells, body)


def plot_of_ratios(record, ratios):
    """How long the fastest other takes by ours. ``ratios``: of each cell the other's line."""
    cells = sorted(ratios.values(), key=lambda cell: (rank(OPS, cell.op), order_in_table(cell)))
    x_scale = logarithmic([cell.n_bytes for cell in cells], LEFT, RIGHT)
    y_scale = logarithmic([cell.times_ours for cell in cells] + [1], LOWER[1], UPPER[0])
    title = f"{named(record, 'device') or record.name}: beside others"
    even = number(y_scale.at(1))
    body = [
        text(LEFT, 26, title, "name"),
        text(LEFT, 48, f"record {record.folder.name}"),
        axes_of_one_panel(x_scale, y_scale, "fastest other / ours"),
        f'<path class="copy" d="M{LEFT} {even}H{RIGHT}"/>',
        *(
            point(cell, x_scale.at(cell.n_bytes), y_scale.at(cell.times_ours), f"{describe(cell)}: {escaped(cell.impl)}")
            for cell in cells
        ),
        legend(sorted({cell.op for cell in cells}, key=lambda op: rank(OPS, op)), []),
    ]
    return document(title, f"Time of the fastest other by ours, of {counted(cells)} by bytes moved.", cells, body)


def ceiling_line(record, group, cells, kind):
    """[(bytes, GB/s)] of the copies beside the cells and of those measured alone, the fastest for each size."""
    if not any(ceiling_of(cell.op) == kind for cell in cells):
        return []
    fastest = {}
    for n_bytes, bandwidth in ceilings_beside(cells, kind) + ceilings_alone(record, group, cells, kind):
        fastest[n_bytes] = max(fastest.get(n_bytes, 0), bandwidth)
    return sorted(fastest.items())


def ceilings_beside(cells, kind):
    if kind == "copy":
        moved = [(cell.n_bytes, cell.n_bytes, cell.copy_us) for cell in cells]
    else:
        moved = [(cell.n_bytes, cell.n_read_bytes, cell.read_us) for cell in cells if ceiling_of(cell.op) == kind]
    return [(place, gigabytes_per_second(size, time)) for place, size, time in moved if size and time]


def ceilings_alone(record, group, cells, kind):
    """Within the range of the cells, at as many threads, and in cache where they are."""
    low, high = min(cell.n_bytes for cell in cells), max(cell.n_bytes for cell in cells)
    return [
        (cell.n_bytes, speed(cell))
        for cell in record.cells
        if (cell.impl, cell.status, cell.threads) == (kind, "ok", cells[0].threads)
        and is_warm(cell) == (group == "warm")
        and low <= cell.n_bytes <= high
    ]


def logarithmic(values, start, end):
    """An axis from pixel to pixel, widened to the next 1, 2 or 5 times a power of ten."""
    marks = [digit * 10**power for power in range(-9, 19) for digit in (1, 2, 5)]
    low = max(mark for mark in marks if mark < min(values) * 0.95)
    high = min(mark for mark in marks if mark > max(values) * 1.05)
    shown = [mark for mark in marks if low <= mark <= high]
    is_wide = high / low > 1001
    return SimpleNamespace(
        at=lambda value: start + (end - start) * math.log(value / low) / math.log(high / low),
        ticks=shown,
        labelled=[mark for mark in shown if not is_wide or is_power_of_ten(mark)],
    )


def is_power_of_ten(mark):
    return f"{mark:e}".startswith("1.000000e")


def linear(values, start, end):
    """An axis from 0 to at least 1."""
    most = max([1, *values]) * 1.05
    step = next(step for step in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, most) if most / step <= 6)
    high = step * math.ceil(most / step)
    ticks = [step * i for i in range(round(high / step) + 1)]
    return SimpleNamespace(at=lambda value: start + (end - start) * value / high, ticks=ticks, labelled=ticks)


def axes(x_scale, y_scale, part_scale, part):
    grid = "".join(
        f"M{number(x_scale.at(tick))} {top}V{bottom}" for tick in x_scale.ticks for top, bottom in (UPPER, LOWER)
    )
    grid += "".join(
        f"M{LEFT} {number(scale.at(tick))}H{RIGHT}" for scale in (y_scale, part_scale) for tick in scale.ticks
    )
    frame = "".join(f"M{LEFT} {top}V{bottom}H{RIGHT}" for top, bottom in (UPPER, LOWER))
    middle = (LEFT + RIGHT) / 2
    return "\n".join(
        [
            f'<path class="grid" d="{grid}"/><path class="frame" d="{frame}"/>',
            *(text(x_scale.at(tick), LOWER[1] + 22, engineering(tick), "m") for tick in x_scale.labelled),
            text(middle, LOWER[1] + 46, "bytes moved", "m"),
            *(text(LEFT - 8, y_scale.at(tick) + 5, f"{tick:,g}", "e") for tick in y_scale.labelled),
            upright(18, sum(UPPER) / 2, "GB/s"),
            *(text(LEFT - 8, part_scale.at(tick) + 5, f"{100 * tick:g} %", "e") for tick in part_scale.labelled),
            upright(18, sum(LOWER) / 2, part),
        ]
    )


def axes_of_one_panel(x_scale, y_scale, words):
    top, bottom = UPPER[0], LOWER[1]
    grid = "".join(f"M{number(x_scale.at(tick))} {top}V{bottom}" for tick in x_scale.ticks)
    grid += "".join(f"M{LEFT} {number(y_scale.at(tick))}H{RIGHT}" for tick in y_scale.ticks)
    return "\n".join(
        [
            f'<path class="grid" d="{grid}"/><path class="frame" d="M{LEFT} {top}V{bottom}H{RIGHT}"/>',
            *(text(x_scale.at(tick), bottom + 22, engineering(tick), "m") for tick in x_scale.labelled),
            text((LEFT + RIGHT) / 2, bottom + 46, "bytes moved", "m"),
            *(text(LEFT - 8, y_scale.at(tick) + 5, f"{tick:,g}", "e") for tick in y_scale.labelled),
            upright(18, (top + bottom) / 2, words),
        ]
    )


def engineering(n_bytes):
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= size:
            return f"{n_bytes / size:g} {unit}"
    return f"{n_bytes:g} B"


def ceiling_path(kind, line, x_scale, y_scale):
    points = "L".join(f"{number(x_scale.at(x))} {number(y_scale.at(y))}" for x, y in line)
    return f'<path class="{kind}" d="M{points}"/>'


def point(cell, x, y, words=""):
    place = f'<use href="#{cell.op}" x="{number(x)}" y="{number(y)}"'
    return f"{place}><title>{words}</title></use>" if words else f"{place}/>"


def legend(ops, lines):
    rows = []
    for i, name in enumerate([*ops, *lines]):
        middle = UPPER[0] + 10 + 22 * i
        if i < len(ops):
            sign, words = f'<use href="#{name}" x="{LEGEND_LEFT + 8}" y="{middle}"/>', name
        else:
            sign, words = f'<path class="{name}" d="M{LEGEND_LEFT} {middle}h16"/>', f"{name} of as many bytes"
        rows.append(sign + text(LEGEND_LEFT + 24, middle + 5, words))
    return "\n".join(rows)


def text(x, y, words, style=""):
    kind = f' class="{style}"' if style else ""
    return f'<text x="{number(x)}" y="{number(y)}"{kind}>{words}</text>'


def upright(x, y, words):
    return f'<g transform="translate({x} {number(y)}) rotate(-90)">{text(0, 0, words, "m")}</g>'


def number(pixels):
    return f"{pixels:.1f}".removesuffix(".0")


def document(title, description, cells, body):
    markers = "".join(marker(op) for op in dict.fromkeys(cell.op for cell in cells))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" role="img" aria-labelledby="t d"><title id="t">{title}</title>'
            f'<desc id="d">{description}</desc><style>{STYLE}</style>',
            f"<defs>{markers}</defs>",
            *body,
            "</svg>\n",
        ]
    )


def marker(op):
    index = rank(OPS, op)[0]
    if index == len(OPS):
        # An op without a place of its own: by its name, so that others do not change how it looks.
        index += sum(op.encode())
    colour, shape = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    return f'<path id="{op}" d="{shape}" fill="{colour}" fill-opacity=".8"/>'
