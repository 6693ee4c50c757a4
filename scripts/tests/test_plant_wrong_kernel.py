"""The mistake that scripts/plant-wrong-kernel makes unless told otherwise: kernels change, and it must still change them."""

import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class PlantWrongKernel(unittest.TestCase):
    def test_the_mistake_changes_the_kernel(self):
        script = (ROOT / "scripts/plant-wrong-kernel").read_text()
        file = ROOT / re.search(r"^file=\$\{1:-(.+)\}$", script, re.MULTILINE)[1]
        change = re.search(r"^change=\$\{2:-'(.+)'\}$", script, re.MULTILINE)[1]
        changed = subprocess.run(["sed", change, file], check=True, stdout=subprocess.PIPE, text=True).stdout
        lines = zip(file.read_text().splitlines(), changed.splitlines(), strict=True)
        self.assertEqual(sum(before != after for before, after in lines), 1)


if __name__ == "__main__":
    unittest.main()
