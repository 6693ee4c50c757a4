"""What a comparison with others writes down, with engines and a device made up here."""

import csv
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
from contextlib import redirect_stdout
from types import SimpleNamespace

from rivals_path import ROOT
from rivals import records, timing
from rivals.__main__ import faults_of_ours
from rivals.cells import Cell
from rivals.engines import Unsupported
from rivals.session import Session, opened

CELL = Cell("rms_norm", (8, 16))


class Work:
    """Takes so many seconds; its outputs are the errors that they shall be judged to have."""

    def __init__(self, seconds=1e-6, errors=(0.5, 0.1)):
        self.seconds, self.errors, self.windows = seconds, errors, 0

    def window(self):
        self.windows += 1
        return self.seconds

    def outputs(self):
        return [(0.0, 0.0), self.errors]


class Engine:
    version, mode = "1", None

    def __init__(self, name, work=None):
        self.name, self._work = name, work or Work()

    def work(self, data, device, flush):
        if isinstance(self._work, Exception):
            raise self._work
        return self._work

    def errors(self, data, outputs):
        return outputs


class Device:
    mode, rounds, device = "graph", 3, "a device"

    def __init__(self, free_bytes=1 << 30):
        self.free, self.released = free_bytes, 0

    def sets(self, read_bytes, is_warm):
        return 2, False

    def free_bytes(self):
        return self.free

    def copy(self, data, sets, flush):
        return Work(seconds=0.5e-6)

    def release(self):
        self.released += 1


class Comparison(unittest.TestCase):
    def lines(self, engines, device=None, seconds=100.0, cells=(CELL,), clock=lambda: 0.0):
        file = io.StringIO()
        with redirect_stdout(io.StringIO()):
            writer = records.Writer(file, {"commit": "abc"})
            budget = timing.Budget(seconds, clock)
            prepare = lambda cell, sets, device: SimpleNamespace()
            session = Session(device or Device(), writer, budget, prepare, clock)
            session.compare_all([(cell, engines) for cell in cells])
        self.writer = writer
        return list(csv.DictReader(io.StringIO(file.getvalue())))

    def test_a_right_engine_has_its_times_beside_a_copy(self):
        [line] = self.lines([Engine("warpnorm")])
        self.assertEqual(list(line), records.COLUMNS)
        self.assertEqual(
            (line["impl"], line["status"], line["mode"], line["commit"]), ("warpnorm", "ok", "graph", "abc")
        )
        self.assertEqual((line["median_us"], line["copy_us"], line["copy_fraction"]), ("1.000", "0.500", "0.5000"))
        self.assertEqual((line["samples"], line["max_err"], line["n_bytes"]), ("3", "0.5000", str(CELL.bytes)))

    def test_a_wrong_engine_is_not_timed(self):
        wrong = Work(errors=(9.0, 1.5))
        lines = {line["impl"]: line for line in self.lines([Engine("warpnorm"), Engine("other", wrong)])}
        self.assertEqual((lines["other"]["status"], lines["other"]["max_err"]), ("wrong", "9.0000"))
        self.assertEqual((lines["other"]["median_us"], wrong.windows), ("", 0))
        self.assertEqual(lines["warpnorm"]["status"], "ok")

    def test_others_may_miss_more_than_warpnorm_promises_and_warpnorm_not(self):
        lines = self.lines([Engine(name, Work(errors=(2.0, 0.4))) for name in ("warpnorm", "other")])
        self.assertEqual({line["impl"]: line["status"] for line in lines}, {"warpnorm": "wrong", "other": "ok"})
        self.assertEqual(len(faults_of_ours(self.writer.lines)), 1)

    def test_a_failure_is_named_and_leaves_the_others(self):
        lines = self.lines([Engine("other", RuntimeError("no\n compiler")), Engine("warpnorm")])
        found = {line["impl"]: (line["status"], line["reason"]) for line in lines}
        self.assertEqual(found, {"other": ("failed", "RuntimeError: no compiler"), "warpnorm": ("ok", "")})

    def test_what_an_engine_has_not_is_unsupported(self):
        lines = self.lines([Engine("other", Unsupported("no such layer")), Engine("warpnorm")])
        found = {line["impl"]: (line["status"], line["reason"]) for line in lines}
        self.assertEqual(found, {"other": ("unsupported", "no such layer"), "warpnorm": ("ok", "")})

    def test_others_are_told_by_warpnorm_within_a_round(self):
        windows = {"other": iter([9.0, 6.0, 3.0, 8.0]), "warpnorm": iter([9.0, 1.0, 3.0, 4.0])}
        engines = [Engine(name) for name in windows]
        for engine in engines:
            engine._work.window = lambda name=engine.name: next(windows[name])
        lines = {line["impl"]: line for line in self.lines(engines)}
        # Of 6, 1 and 2: not the ratio of the medians.
        self.assertEqual((lines["other"]["times_ours"], lines["warpnorm"]["times_ours"]), ("2.0000", ""))

    def test_one_that_fails_while_it_is_timed_has_no_time(self):
        broken = Work()
        broken.window = lambda: 1 / 0
        lines = {line["impl"]: line for line in self.lines([Engine("other", broken), Engine("warpnorm")])}
        self.assertEqual((lines["other"]["status"], lines["other"]["median_us"]), ("failed", ""))
        self.assertIn("division", lines["other"]["reason"])
        self.assertEqual(lines["warpnorm"]["status"], "ok")

    def test_what_has_no_room_is_unsupported(self):
        [line] = self.lines([Engine("warpnorm")], Device(free_bytes=1000))
        self.assertEqual(line["status"], "unsupported")
        self.assertRegex(line["reason"], "needs .* are free")
        self.assertEqual(faults_of_ours(self.writer.lines), [])

    def test_what_time_does_not_suffice_for_is_named(self):
        times = iter(range(0, 1000, 10))
        lines = self.lines([Engine("warpnorm")], seconds=45, cells=[CELL] * 3, clock=lambda: next(times))
        self.assertEqual([line["status"] for line in lines], ["ok", "unavailable", "unavailable"])
        self.assertEqual(lines[-1]["reason"], "time did not suffice")

    def test_memory_of_a_cell_is_given_back(self):
        device = Device()
        self.lines([Engine("warpnorm")], device, cells=[CELL] * 2)
        self.assertEqual(device.released, 2)

    def test_an_engine_that_is_not_there_has_a_line(self):
        file = io.StringIO()
        with redirect_stdout(io.StringIO()):
            found = opened("norms", {"no engine": ("no_such_module", "Engine")}, Device(), records.Writer(file, {}))
        [line] = csv.DictReader(io.StringIO(file.getvalue()))
        self.assertEqual((found, faults_of_ours([line])), ([], []))
        self.assertEqual(faults_of_ours([{**line, "impl": "warpnorm"}]), [{**line, "impl": "warpnorm"}])
        self.assertEqual(
            (line["op"], line["case"], line["impl"], line["status"]), ("all", "norms", "no engine", "unavailable")
        )
        self.assertIn("no_such_module", line["reason"])


class WithoutTorch(unittest.TestCase):
    """The program where torch cannot be imported, with a stand-in for the library."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "torch.py").write_text("raise ImportError('not on this machine')\n")
        (self.folder / "warpnorm.py").write_text("def version():\n    return '9.8.7'\n")

    def run_program(self, *arguments):
        paths = os.pathsep.join([str(self.folder), str(ROOT / "benches")])
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "rivals", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def test_every_engine_is_named_with_the_reason(self):
        for suite in ("norms", "folding", "norms-cpu", "folding-cpu"):
            out = self.folder / f"{suite}.csv"
            done = self.run_program(suite, "--dry-run", "--out", str(out), "--commit", "abc1234")
            self.assertEqual(done.returncode, 3, done.stderr)
            with out.open(newline="") as file:
                lines = list(csv.DictReader(file))
            self.assertGreaterEqual({line["impl"] for line in lines}, {"warpnorm", "pytorch"})
            for line in lines:
                self.assertEqual((line["op"], line["case"], line["status"]), ("all", suite, "unavailable"))
                self.assertEqual((line["reason"], line["commit"]), ("no torch: not on this machine", "abc1234"))
            [ours] = [line["version"] for line in lines if line["impl"] == "warpnorm"]
            self.assertEqual(ours, "9.8.7", "the library was not loaded")

    def test_cells_can_be_listed(self):
        done = self.run_program("norms", "--list", "--filter", "layer_norm/4096x6144")
        [line] = csv.DictReader(io.StringIO(done.stdout))
        self.assertEqual((done.returncode, line["case"], line["dtype"]), (0, "4096x6144", "bf16"))


if __name__ == "__main__":
    unittest.main()
