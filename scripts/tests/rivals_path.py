"""Puts the package benches/rivals where tests import it from."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
if str(ROOT / "benches") not in sys.path:
    sys.path.insert(0, str(ROOT / "benches"))
