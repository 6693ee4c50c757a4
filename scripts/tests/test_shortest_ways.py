"""Tests of scripts/shortest-ways on a few made-up instructions; they need no CUDA."""

import importlib.machinery
import importlib.util
import pathlib
import sys
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SCRIPTS))
import machine_code  # noqa: E402


def load_script(name):
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(SCRIPTS / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.dont_write_bytecode = True  # beside a script without an ending it would be litter
    loader.exec_module(module)
    return module


script = load_script("shortest-ways")

# Two ways to load a vector, one with a call that is slow; a loop over it within another loop; a residual that may be absent.
CODE = """\
0x00 MOV R1, R2
0x10 @P0 BRA 0x40
0x20 CALL.REL.NOINC 0xd0
0x30 BRA 0x50
0x40 LDG.E.128 R8, desc[UR4][R4.64]
0x50 @P1 BRA 0x80
0x60 LDG.E.128 R12, desc[UR4][R4.64]
0x70 FADD R8, R8, R12
0x80 SHFL.BFLY PT, R3, R2, 0x1, 0x1f
0x90 @P2 BRA 0x50
0xa0 STG.E.128 desc[UR4][R4.64], R8
0xb0 @P3 BRA 0x0
0xc0 EXIT
0xd0 RET.REL.NODEC R6 0x0
"""


def kernel():
    made = machine_code.Kernel("walk", "sm_90")
    made.functions = {0: "walk", 0xD0: "$walk$_ZN2wn14load_irregularEPKf"}
    for line in CODE.splitlines():
        address, *words = line.split(maxsplit=1)
        condition, _, rest = words[0].partition(" ") if words[0].startswith("@") else ("", "", words[0])
        opcode, _, operands = rest.partition(" ")
        made.code[int(address, 16)] = machine_code.Instruction(condition.lstrip("@") or None, opcode, operands)
    return made


class ShortestWays(unittest.TestCase):
    def test_ways_through_the_whole_are_told_apart_by_what_they_move(self):
        found = script.ways(kernel(), 0, script.exits(kernel()))
        self.assertEqual(found, {(1, 1, 1, 0, 0): 9, (2, 1, 1, 0, 0): 11})

    def test_loops_are_counted_each_for_itself(self):
        self.assertEqual(script.loops(kernel()), [(0x0, 0xB0), (0x50, 0x90)])
        self.assertEqual(script.ways(kernel(), 0x50, {0x90}), {(0, 0, 1, 0, 0): 3, (1, 0, 1, 0, 0): 5})

    def test_a_call_that_is_no_slow_path_is_a_way(self):
        made = kernel()
        made.functions[0xD0] = "$walk$_ZN2wn9merge_fewEPKf"
        self.assertIn((0, 1, 1, 0, 0), script.ways(made, 0, script.exits(made)))

    def test_the_report(self):
        report = list(script.report(kernel()))
        self.assertEqual(report[0], "walk on sm_90, 14 instructions")
        self.assertIn("  whole: 1 loads, 1 stores, 1 shuffles, 0 shared, 0 divisions: 9", report)
        self.assertIn("  loop 0x50 to 0x90: 1 loads, 0 stores, 1 shuffles, 0 shared, 0 divisions: 5", report)


if __name__ == "__main__":
    unittest.main()
