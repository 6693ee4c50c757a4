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

    def out(self, name, *cells):
        out = self.folder / name
        out.mkdir()
        with (out / "bench.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows({**CELL, **cell} for cell in cells)
        (out / "summary.txt").write_text(f"green {name}\n")
        return out

    def run_script(self, *outs):
        command = [sys.executable, SCRIPT, "--records", self.folder / "records", *outs]
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
        self.assertIn("green first", (record / "summary.txt").read_text())
        self.assertIn("green second", (record / "summary.txt").read_text())
        self.assertTrue((record / "probe.csv").is_file())

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
