"""Lines of rivals.csv: the columns of bench.csv (benches/harness/record.rs), `impl` the engine; how many times as long as
warpnorm it took, and the reason where there are no figures."""

import csv

COLUMNS = """
    op case variant dtype weight_dtype layout n_bytes n_read_bytes impl version kernel mode samples
    median_us p5_us p95_us copy_us copy_fraction read_us read_fraction max_err status threads
    commit device driver toolkit date times_ours reason
""".split()
# `unavailable`: the engine cannot be had here, or time did not suffice.
STATUSES = ("ok", "wrong", "failed", "unsupported", "unavailable")


def identity(cell):
    """The columns that say which cell it is."""
    columns = "op case variant dtype weight_dtype layout".split()
    found = {column: getattr(cell, column) for column in columns}
    return found | {"n_bytes": str(cell.bytes), "n_read_bytes": str(cell.read_bytes)}


def all_of(suite):
    """The columns that stand for a whole suite."""
    return {"op": "all", "case": suite}


def reason(error):
    """On one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


class Writer:
    """Writes lines as they come, so that a run that is cut short leaves what it has. ``scene``: where and when."""

    def __init__(self, file, scene):
        self._file, self.scene, self.lines = file, scene, []
        self._csv = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        self._csv.writeheader()

    def write(self, impl, version, status, columns, **more):
        line = {**self.scene, **columns, **more, "impl": impl, "version": version, "status": status}
        self._csv.writerow(line)
        self._file.flush()
        self.lines.append(line)
        print(summary(line), flush=True)


def summary(line):
    """One line for whoever watches."""
    name = "/".join(line[column] for column in ("op", "case", "dtype", "layout", "variant") if line.get(column))
    figures = (
        f"{line.get('median_us', ''):>10} us  copy {line.get('copy_fraction', ''):>6}  err {line.get('max_err', ''):>6}"
    )
    return f"{name:<62} {line['impl']:<14} {figures}  {line['status']}  {line.get('reason', '')}".rstrip()
