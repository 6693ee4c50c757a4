"""What scripts/cpu-record and benches/rivals/install refuse, before they build or measure anything."""

import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class CpuRecord(unittest.TestCase):
    def refused(self, script, *arguments):
        run = subprocess.run([ROOT / script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertEqual((run.returncode, run.stdout), (1, ""))
        return run.stderr

    def test_a_part_of_the_cells_is_no_record(self):
        self.assertIn("a part of the cells is no record", self.refused("scripts/cpu-record", "--filter", "layer_norm"))

    def test_a_record_has_as_many_rounds_as_it_takes(self):
        self.assertIn("15 rounds or more", self.refused("scripts/cpu-record", "--rounds", "14"))

    def test_what_is_not_an_option(self):
        self.assertIn("what is --quick?", self.refused("scripts/cpu-record", "--quick"))

    def test_a_python_that_lacks_what_is_compared(self):
        with tempfile.TemporaryDirectory() as folder:
            python = pathlib.Path(folder) / "python"
            python.write_text("#!/bin/sh\nexit 1\n")
            python.chmod(0o755)
            self.assertIn("lacks some of torch onnxruntime", self.refused("benches/rivals/install", "--python", str(python)))


if __name__ == "__main__":
    unittest.main()
