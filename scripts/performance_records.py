"""Records of the benchmark: reading and checking them, and the order, the measures and the words of their cells.

A record is a folder <device>/<date>T<time>-<commit>/ with bench.csv, of COLUMNS below, rivals.csv where others were compared,
for a GPU probe.csv and prediction.csv, and for a CPU folding.csv. The newest is the last by name. A device whose name begins with `cpu-` is a CPU, every other one a GPU.
"""

import csv
import html
import re
import sys
from types import SimpleNamespace

COLUMNS = """
    op case variant dtype weight_dtype layout n_bytes n_read_bytes impl version kernel mode samples
    median_us p5_us p95_us copy_us copy_fraction read_us read_fraction max_err status threads
    commit device driver toolkit date
""".split()
RIVALS_COLUMNS = [*COLUMNS, "times_ours", "reason"]
FOLDING_COLUMNS = """
    op case variant dtype layout impl version threads samples median_us p5_us p95_us times_alone max_err status commit device
    toolkit date
""".split()
PROBE_COLUMNS = "name value unit detail".split()
NUMBERS = """
    n_bytes n_read_bytes samples median_us p5_us p95_us copy_us copy_fraction read_us read_fraction times_ours times_alone
    max_err
""".split()
# What a cell that was measured cannot lack, of the columns that its file has.
FIGURES = "n_bytes samples median_us p5_us p95_us times_alone".split()
STATUSES = ["ok", "wrong", "failed", "unsupported"]
# Statuses with figures.
TIMED = ["ok", "wrong"]
# Where others are compared, one may be not here or not reached, and what is wrong is not timed.
RIVALS_STATUSES, RIVALS_TIMED = [*STATUSES, "unavailable"], ["ok"]
# One cell was measured by several implementations; they are compared where all of these agree.
CELL = "op case variant dtype weight_dtype layout mode threads".split()

OURS = "warpnorm"
CEILINGS = ["copy", "read"]

# The order of sections, of colours, and within a table; what is not named here comes behind, by name.
OPS = """
    layer_norm rms_norm add_layer_norm add_rms_norm group_norm instance_norm batch_norm_inference batch_norm_statistics
    batch_norm_training qk_rms_norm post_add_rms_norm ada_layer_norm rms_norm_f8_rows rms_norm_f8_groups
""".split()
LAYOUTS = ["rows", "nchw", "nhwc"]
DTYPES = ["f32", "f16", "bf16"]


# Reading


def newest_records(folder):
    """GPUs first."""
    found = [folders for folders in map(subfolders, subfolders(folder)) if folders]
    records = [read_record(folders[-1]) for folders in found]
    return sorted(records, key=lambda record: (not record.is_gpu, record.name))


def subfolders(folder):
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def read_record(folder):
    # Another name could be the last of them without being the newest.
    if not re.fullmatch(r"\d{4}-?\d\d-?\d\dT\d[\d.:-]*Z?-[\w.+-]+", folder.name):
        fail(f"{folder} is not named <date>T<time>-<commit>")
    if not (folder / "bench.csv").is_file():
        fail(f"{folder} holds no bench.csv")
    name = folder.parent.name
    cells = [cell_of(row, place) for place, row in read_table(folder / "bench.csv", COLUMNS)]
    rivals = read_table(folder / "rivals.csv", RIVALS_COLUMNS)
    probe = [SimpleNamespace(**row) for _, row in read_table(folder / "probe.csv", PROBE_COLUMNS)]
    return SimpleNamespace(
        name=name,
        folder=folder,
        is_gpu=not name.startswith("cpu-"),
        cells=cells,
        ours=[cell for cell in cells if cell.impl == OURS],
        # {key of a cell: the other implementations' that are right}
        others=by(lambda cell: cell.key, [c for c in cells if c.impl not in [OURS, *CEILINGS] and c.status == "ok"]),
        rivals=[cell_of(row, place, RIVALS_STATUSES, RIVALS_TIMED) for place, row in rivals],
        probe=probe,
        folding=[cell_of(row, place, timed=["ok"]) for place, row in read_table(folder / "folding.csv", FOLDING_COLUMNS)],
    )


def read_table(path, columns):
    """(where it stands, {column: text}) of each line; none, if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        check_header(path, next(reader, []), columns)
        rows = []
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if len(row) != len(columns):
                fail(f"{place} has {len(row)} fields, not {len(columns)}")
            rows.append((place, dict(zip(columns, row))))
    return rows


def check_header(path, header, columns):
    for column in columns:
        if column not in header:
            fail(f"{path} lacks the column `{column}`")
    for column in header:
        if column not in columns:
            fail(f"{path} has an unknown column `{column}`")
    for found, expected in zip(header, columns):
        if found != expected:
            fail(f"{path} has the column `{found}` where `{expected}` belongs")
    if len(header) != len(columns):
        fail(f"{path} has the column `{header[len(columns)]}` twice")


def cell_of(row, place, statuses=STATUSES, timed=TIMED):
    for column in filter(row.__contains__, NUMBERS):
        try:
            row[column] = float(row[column]) if row[column] else None
        except ValueError:
            fail(f"{place}: {column} is `{row[column]}`, not a number")
    for column, form in (("op", r"\w+"), ("threads", r"\d*")):
        if not re.fullmatch(form, row[column]):
            fail(f"{place}: {column} is `{row[column]}`")
    cell = SimpleNamespace(**row, key=tuple(row.get(column) for column in CELL))
    if cell.status not in statuses:
        fail(f"{place}: unknown status `{cell.status}`")
    for column in filter(row.__contains__, FIGURES) if cell.status in timed else []:
        if not (row[column] or 0) > 0:
            fail(f"{place}: status {cell.status}, but {column} is not a positive number")
    # The page counts by status, so that one must not hide what the other says.
    if cell.impl == OURS and cell.status == "ok" and not (cell.max_err is not None and 0 <= cell.max_err <= 1):
        fail(f"{place}: status ok, but max_err is not within 0 and 1")
    return cell


# Groups, order and measures of cells


def by(key, cells):
    groups = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return groups


def rank(order, name):
    return (order.index(name) if name in order else len(order), name)


def order_in_table(cell):
    extents = [int(extent) for extent in re.findall(r"\d+", cell.case)]
    place = (rank(LAYOUTS, cell.layout), rank(DTYPES, cell.dtype), cell.n_bytes or 0, extents)
    return (*place, cell.variant, cell.weight_dtype, cell.mode, count(cell.threads))


def count(threads):
    """GPUs have none."""
    return int(threads or 0)


def is_warm(cell):
    return "warm" in cell.variant.split("+")


def ceiling_of(op):
    """What bounds it: a pass that writes next to nothing is bounded by reading."""
    return "read" if op.endswith("_statistics") else "copy"


def fraction(cell):
    return cell.read_fraction if ceiling_of(cell.op) == "read" else cell.copy_fraction


def gigabytes_per_second(n_bytes, microseconds):
    return n_bytes / microseconds / 1e3


def speed(cell):
    return gigabytes_per_second(cell.n_bytes, cell.median_us)


# Words


def named(record, column):
    """The values that a column has in a record; one, as a rule."""
    values = dict.fromkeys(getattr(cell, column) for cell in record.cells)
    return ", ".join(escaped(value) for value in values if value)


def describe(cell):
    words = [cell.op, cell.case, cell.variant, types(cell).replace(", ", "/"), cell.layout, cell.mode]
    threads = [f"{cell.threads} threads"] if cell.threads else []
    return " ".join(escaped(word) for word in words + threads if word)


def types(cell):
    other = cell.weight_dtype not in ("", cell.dtype)
    return f"{cell.dtype}, {cell.weight_dtype}" if other else cell.dtype


def counted(cells):
    return f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'}"


def escaped(text):
    """For Markdown and for SVG."""
    return " ".join(html.escape(text, quote=False).replace("|", "\\|").split())


def fail(complaint):
    sys.exit(f"render-performance: {complaint}")
