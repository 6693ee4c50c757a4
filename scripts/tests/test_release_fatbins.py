"""The script that makes a release's image, beside a cargo that is made up here: no test compiles anything.

usage: python3 -m unittest discover --start-directory scripts/tests
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "scripts/release-fatbins"

HASH = "0123456789abcdef"
ARCHITECTURES = "sm_75 sm_90 compute_75"
IMAGE = b"fatbins"
TRAILER = f"WARPNORM-KERNELS {HASH}\0".encode()

# As the crate's build script behaves; FAULT names what is wrong with it.
CARGO = f"""\
#!{sys.executable}
import json, os, pathlib, sys

fault, log = os.environ["FAULT"], pathlib.Path(os.environ["LOG"])
names = ["WARPNORM_CUDA", "WARPNORM_CUDA_ARCHS", "WARPNORM_FATBIN", "CUDAARCHS", "CUDA_COMPUTE_CAP"]
with log.open("a") as file:
    file.write(json.dumps({{name: os.environ[name] for name in names if name in os.environ}}) + "\\n")
image, architectures = {IMAGE!r}, {ARCHITECTURES!r}
if "WARPNORM_FATBIN" in os.environ:
    ready = pathlib.Path(os.environ["WARPNORM_FATBIN"]).read_bytes()
    if not ready.endswith({TRAILER!r}) and fault != "takes any":
        sys.exit("no disk" if fault == "full" else f"warpnorm: made of {{ready[-17:-1].decode()}}")
    image = ready if fault == "keeps the fingerprint" else ready[: -len({TRAILER!r})]
    architectures = "sm_90" if fault == "loses one" else architectures
elif fault == "no nvcc":
    sys.exit("warpnorm: WARPNORM_CUDA=required, but nvcc was not found")
out = log.with_name("out")
out.mkdir(exist_ok=True)
(out / "kernels.image").write_bytes(image)
print(json.dumps({{"reason": "build-script-executed", "package_id": "path+file:///a#cudarc@0.19.10", "env": []}}))
print(json.dumps({{
    "reason": "build-script-executed",
    "package_id": "path+file:///a/warpnorm#1.2.3",
    "out_dir": str(out),
    "env": [["WARPNORM_IMAGE_ARCHS", architectures], ["WARPNORM_KERNEL_HASH", {HASH!r}]],
}}))
"""


class ReleaseFatbins(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        cargo = self.folder / "bin/cargo"
        cargo.parent.mkdir()
        cargo.write_text(CARGO)
        cargo.chmod(0o755)
        self.out = self.folder / "release/new"

    def run_script(self, *arguments, fault="", **variables):
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "LOG": str(self.folder / "log"), "FAULT": fault, **variables}
        command = [sys.executable, SCRIPT, *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def refusal(self, fault):
        done = self.run_script(self.out, fault=fault)
        self.assertNotEqual(done.returncode, 0, fault)
        self.assertEqual(list(self.out.glob("*")), [], "what is unfit is left in the folder")
        return done.stderr

    def test_the_image_bears_its_kernels_hash_in_name_and_content(self):
        done = self.run_script(self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        name = f"warpnorm-1.2.3-{HASH}.fatbin"
        self.assertEqual({file.name for file in self.out.iterdir()}, {name, f"{name}.sha256"})
        self.assertEqual((self.out / name).read_bytes(), IMAGE + TRAILER)
        digest = hashlib.sha256(IMAGE + TRAILER).hexdigest()
        self.assertEqual((self.out / f"{name}.sha256").read_text(), f"{digest}  {name}\n")
        self.assertIn(ARCHITECTURES, done.stdout)
        self.assertIn(f"WARPNORM_FATBIN=$PWD/{name} cargo build", done.stdout)

    def test_the_caller_s_wishes_are_not_those_of_a_release(self):
        wishes = {"WARPNORM_FATBIN": "/nowhere", "CUDAARCHS": "90", "WARPNORM_CUDA_ARCHS": "80", "CUDA_COMPUTE_CAP": "75"}
        self.assertEqual(self.run_script(self.out, **wishes).returncode, 0)
        first, *others = (self.folder / "log").read_text().splitlines()
        self.assertEqual(first, '{"WARPNORM_CUDA": "required", "WARPNORM_CUDA_ARCHS": "all"}')
        self.assertEqual(len(others), 2)
        for line in others:
            self.assertRegex(line, r'^\{"WARPNORM_CUDA": "off", "WARPNORM_FATBIN": "[^"]*\.fatbin"\}$')

    def test_an_image_that_the_crate_does_not_take_as_it_is_is_no_release(self):
        self.assertIn("is for 'sm_90'", self.refusal("loses one"))
        self.assertIn("embeds something else", self.refusal("keeps the fingerprint"))

    def test_a_crate_that_takes_any_image_is_no_release(self):
        self.assertIn("takes an image of other kernels", self.refusal("takes any"))
        self.assertIn("for another reason:\nno disk", self.refusal("full"))

    def test_without_nvcc_there_is_none(self):
        self.assertEqual(
            self.refusal("no nvcc"), "release-fatbins: warpnorm: WARPNORM_CUDA=required, but nvcc was not found\n"
        )

    def test_it_wants_one_folder(self):
        for arguments in ([], ["--all"], ["one", "two"]):
            done = self.run_script(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertIn("usage: release-fatbins OUT", done.stderr)
        self.assertIn("usage: release-fatbins OUT", self.run_script("--help").stdout)


if __name__ == "__main__":
    unittest.main()
