"""The script that makes a record of a GPU run, on runs made up here."""

import csv
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "scripts/gpu-record"

COLUMNS = (
    "op,case,variant,dtype,weight_dtype,layout,n_bytes,n_read_bytes,impl,version,kernel,mode,samples,median_us,p5_us,"
    "p95_us,copy_us,copy_fraction,read_us,read_fraction,max_err,status,threads,commit,device,driver,toolkit,date"
).split(",")

RIVALS_COLUMNS = [*COLUMNS, "reason"]

CELL = {
    "op": "rms_norm",
    "case": "8x4096",
    "impl": "warpnorm",
    "median_us": "2.0",
    "status": "ok",
    "commit": "abc1234",
    "device": "NVIDIA H200 (sm_90)",
    "date": "2026-11-25T12:34:56Z",
}


class GpuRecord(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def out(self, name, *cells, summary="", tests="", rivals=()):
        out = self.folder / name
        out.mkdir()
        self.write(out / "bench.csv", COLUMNS, cells)
        if rivals:
            self.write(out / "rivals.csv", RIVALS_COLUMNS, rivals)
        (out / "summary.txt").write_text(f"commit abc1234, run of {name}\n{summary}in all: what {name} counts\n")
        (out / "tests.txt").write_text(tests)
        return out

    def write(self, path, columns, cells):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows({**CELL, **cell} for cell in cells)

    def run_script(self, *arguments):
        command = [sys.executable, SCRIPT, "--records", self.folder / "records", *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def refusal(self, *outs):
        done = self.run_script(*outs)
        self.assertNotEqual(done.returncode, 0)
        self.assertFalse((self.folder / "records").exists(), "a refused run leaves a record")
        return done.stderr

    def test_parts_that_were_run_apart_become_one_record(self):
        first = self.out("first", {}, {"case": "1x4096", "median_us": "9.0", "date": "2026-11-25T12:30:00Z"})
        second = self.out("second", {"case": "1x4096"})
        (second / "probe.csv").write_text("name,value,unit,detail\n")
        done = self.run_script(first, second)
        self.assertEqual(done.returncode, 0, done.stderr)
        record = self.folder / "records/nvidia-h200-sm-90/2026-11-25T123456-abc1234"
        with (record / "bench.csv").open(newline="") as file:
            cells = {cell["case"]: cell["median_us"] for cell in csv.DictReader(file)}
        self.assertEqual(cells, {"8x4096": "2.0", "1x4096": "2.0"}, "the later one counts")
        self.assertTrue((record / "probe.csv").is_file())

    def test_a_record_keeps_what_was_predicted(self):
        (self.folder / "records").mkdir()
        (self.folder / "records/prediction.csv").write_text("as on that day\n")
        done = self.run_script(self.out("first", {}))
        self.assertEqual(done.returncode, 0, done.stderr)
        [kept] = (self.folder / "records").glob("*/*/prediction.csv")
        self.assertEqual(kept.read_text(), "as on that day\n")

    def test_of_a_part_that_was_run_again_the_last_verdicts_stand(self):
        first = self.out(
            "first",
            {},
            summary="green        tests     unit tests  1 s\nred          decode    decode  9 s\n      3 cells ok\n",
            tests="==== tests: unit-tests\nok\n==== sanitize: memcheck\n========= ERROR SUMMARY: 1 error\n",
        )
        second = self.out(
            "second",
            {},
            summary="green        decode    decode      5 s\n      4 cells ok\nunavailable  sanitize  memcheck    no\n",
            tests="==== sanitize: memcheck\n========= COMPUTE-SANITIZER\n",
        )
        self.assertEqual(self.run_script(first, second).returncode, 0)
        [record] = (self.folder / "records/nvidia-h200-sm-90").iterdir()
        summary = (record / "summary.txt").read_text().splitlines()
        self.assertEqual(
            [" ".join(line.split()) for line in summary],
            [
                "commit abc1234, run of first",
                "commit abc1234, run of second",
                "green tests unit tests 1 s",
                "green decode decode 5 s",
                "4 cells ok",
                "unavailable sanitize memcheck no",
                "in all: 2 green, 0 red, 1 unavailable",
            ],
        )
        self.assertEqual(
            (record / "tests.txt").read_text(),
            "==== tests: unit-tests\nok\n==== sanitize: memcheck\n========= COMPUTE-SANITIZER\n",
        )

    def test_a_cell_that_failed_gives_way_to_the_same_that_did_not(self):
        mover = {"op": "copy", "case": "4096", "impl": "copy"}
        first = self.out("first", {"kernel": "", "status": "failed", "median_us": ""}, {**mover, "kernel": "driver"})
        second = self.out("second", {"kernel": "rows_warp"}, {**mover, "kernel": "probe_copy_4"})
        self.assertEqual(self.run_script(first, second).returncode, 0)
        [record] = (self.folder / "records/nvidia-h200-sm-90").iterdir()
        with (record / "bench.csv").open(newline="") as file:
            cells = [(cell["op"], cell["kernel"], cell["status"]) for cell in csv.DictReader(file)]
        ways = [("copy", "driver", "ok"), ("copy", "probe_copy_4", "ok")]
        self.assertEqual(sorted(cells), [*ways, ("rms_norm", "rows_warp", "ok")])

    def test_of_what_others_reached_the_later_line_counts(self):
        absent = {"op": "all", "case": "norms", "impl": "jax", "device": "", "reason": "no jax", "status": "unavailable"}
        first = self.out("first", {}, rivals=[{"impl": "pytorch"}, absent])
        second = self.out("second", {}, rivals=[{"impl": "pytorch", "median_us": "3.0"}])
        done = self.run_script(first, self.out("none", {}), second)
        self.assertEqual(done.returncode, 0, done.stderr)
        [record] = (self.folder / "records/nvidia-h200-sm-90").iterdir()
        with (record / "rivals.csv").open(newline="") as file:
            lines = {line["impl"]: (line["median_us"], line["reason"]) for line in csv.DictReader(file)}
        self.assertEqual(lines, {"pytorch": ("3.0", ""), "jax": ("2.0", "no jax")})

    def test_what_others_reached_is_of_the_same_run(self):
        self.assertIn("commit", self.refusal(self.out("a", {}, rivals=[{"impl": "pytorch", "commit": "def"}])))
        self.assertIn("device", self.refusal(self.out("b", {}, rivals=[{"impl": "pytorch", "device": "NVIDIA T4"}])))
        self.assertIn("CPU", self.refusal(self.out("c", {}, rivals=[{"impl": "pytorch", "mode": "cpu"}])))

    def test_what_nobody_can_check_out_is_no_record(self):
        dirty = self.out("dirty", {"commit": "abc1234-dirty"})
        self.assertIn("--allow-dirty", self.refusal(dirty))
        self.assertEqual(self.run_script("--allow-dirty", dirty).returncode, 0)

    def test_the_emulator_is_no_device(self):
        self.assertIn("emulator", self.refusal(self.out("dry", {"device": "Emulated GPU sm_90 (as H100) (sm_90)"})))

    def test_a_record_is_of_one_commit_and_one_device(self):
        self.assertIn("commit", self.refusal(self.out("a", {}), self.out("b", {"case": "1", "commit": "def"})))
        self.assertIn("device", self.refusal(self.out("c", {}), self.out("d", {"case": "1", "device": "NVIDIA T4"})))

    def test_nothing_is_no_record(self):
        self.assertIn("nothing was measured", self.refusal(self.out("empty")))
        self.assertIn("is not there", self.refusal(self.folder / "absent"))


if __name__ == "__main__":
    unittest.main()
