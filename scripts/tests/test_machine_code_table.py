"""Tests of scripts/machine-code-table on a small listing in cuobjdump's form; they need no CUDA.

usage: python3 -m unittest discover --start-directory scripts/tests
"""

import contextlib
import importlib.machinery
import importlib.util
import io
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SCRIPTS))
import machine_code  # noqa: E402


def load_script(name):
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(SCRIPTS / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.dont_write_bytecode = True  # beside a script without an ending it would be litter
    loader.exec_module(module)
    return module


table = load_script("machine-code-table")

ELF = """\
arch = sm_90
  Num  Value  Size  Type  Bind  Vis  Other  Ndx  Name
  0x6  0xb0  0x20  FUNC  LOCAL  DEFAULT  -  0xd  $walk$_ZN2wn14load_irregularEPKf
  0x7  0xd0  0x20  FUNC  LOCAL  DEFAULT  -  0xd  $walk$_ZN2wn8constantEPKfi
  0xa  0  0xf0  FUNC  GLOBAL  DEFAULT  ENTRY  0xd  walk
.nv.info.walk
	Attribute:	EIATTR_ANNOTATIONS
	Format:	EIFMT_SVAL
	Value:	SpillRefill : 	Offset : 0x20
		SpillRefill : 	Offset : 0xb0
	Attribute:	EIATTR_MAX_THREADS
	Format:	EIFMT_SVAL
	Value:	0x200 0x1 0x1
"""

RESOURCES = """\
arch = sm_90
 Function walk:
  REG:62 STACK:8 SHARED:2304 LOCAL:0 CONSTANT[0]:556 TEXTURE:0 SURFACE:0 SAMPLER:0
"""

# What is behind a loop in the listing may be in it all the same (0090).
CODE = """\
arch = sm_90
		Function : walk
        /*0000*/                   ACQBULK ;                                 /* 0x000000000000782e */
        /*0010*/                   LDG.E.64 R2, desc[UR4][R2.64] ;           /* 0x00000a00ff017b82 */
        /*0020*/                   STL.64 [R1], R2 ;
        /*0030*/                   LDG.E.128 R8, desc[UR4][R4.64] ;
        /*0040*/              @!P0 BRA 0x90 ;
        /*0050*/                   CALL.REL.NOINC 0xd0 ;
        /*0060*/                   STG.E.128 desc[UR4][R4.64], R8 ;
        /*0070*/                   BRA.U !UP0, 0x30 ;
        /*0080*/                   EXIT ;
        /*0090*/                   CALL.REL.NOINC 0xb0 ;
        /*00a0*/                   BRA 0x60;
        /*00b0*/                   LDL.LU R2, [R1] ;
        /*00c0*/                   RET.REL.NODEC R6 0x0 ;
        /*00d0*/               @P1 LD.E.U16 R5, desc[UR6][R4.64] ;
        /*00e0*/                   RET.REL.NODEC R6 0x0 ;
"""


def kernel(code=CODE, elf=ELF):
    kernels = machine_code.KernelsByName()
    machine_code.read_elf(elf.splitlines(), kernels)
    machine_code.read_resources(RESOURCES.splitlines(), kernels)
    machine_code.read_code(code.splitlines(), kernels)
    [(key, found)] = kernels.items()
    assert key == ("walk", "sm_90")
    return found


def row(**changes):
    return machine_code.row_of(kernel(**changes))


class Counting(unittest.TestCase):
    def test_resources_and_occupancy(self):
        found = row()
        self.assertEqual((found["threads"], found["registers"], found["shared"]), (512, 62, 1280))
        self.assertEqual((found["blocks"], found["warps"], found["occupancy"]), (2, 32, 50.0))

    def test_main_loop_is_what_is_come_to_again_with_what_it_calls(self):
        loop = machine_code.main_loop(kernel())
        self.assertEqual(sorted(loop), [0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xA0, 0xD0, 0xE0])
        found = row()
        self.assertEqual((found["load128"], found["store128"], found["load64"]), (1, 1, 0))
        self.assertEqual((found["load16"], found["generic"], found["generic_elsewhere"]), (1, 1, 0))

    def test_a_kernel_without_a_loop_is_its_main_loop(self):
        found = row(code=CODE.replace("BRA.U !UP0, 0x30", "NOP"))
        self.assertEqual((found["load64"], found["load16"]), (1, 1))

    def test_a_function_called_before_the_loop_is_no_part_of_it(self):
        found = row(code=CODE.replace("STL.64 [R1], R2", "CALL.REL.NOINC 0xd0").replace("@!P0 BRA 0x90", "NOP").replace(
            "/*0050*/                   CALL.REL.NOINC 0xd0", "/*0050*/                   NOP"
        ))  # fmt: skip
        self.assertEqual((found["load16"], found["generic"], found["generic_elsewhere"]), (0, 0, 1))

    def test_what_a_called_function_calls_belongs_to_the_loop_too(self):
        code = CODE.replace("CALL.REL.NOINC 0xb0", "NOP").replace("LDL.LU R2, [R1]", "LDG.E.U8 R2, desc[UR6][R4.64]")
        code = code.replace("@P1 LD.E.U16 R5, desc[UR6][R4.64]", "CALL.REL.NOINC 0xb0")
        self.assertEqual(row(code=code)["load8"], 0)
        self.assertEqual(row(code=code, elf=ELF.replace("14load_irregular", "12load_another"))["load8"], 1)

    def test_where_the_flow_goes(self):
        found = kernel()
        for address, targets in {0x40: {0x90, 0x50}, 0x70: {0x30, 0x80}, 0x80: set(), 0xA0: {0x60}}.items():
            self.assertEqual(set(machine_code.successors(found, address)), targets)

    def test_a_kernel_waits_before_all_else(self):
        self.assertEqual(machine_code.before_wait(kernel()), [])
        late = CODE.replace("ACQBULK", "@P0 BRA 0x80").replace("STL.64 [R1], R2", "ACQBULK")
        self.assertEqual(sorted(machine_code.before_wait(kernel(late))), ["EXIT at 0x80", "LDG at 0x10"])
        late = late.replace("@P0 BRA 0x80", "PREEXIT").replace("LDG.E.64 R2, desc[UR4][R2.64]", "CALL.REL.NOINC 0xd0")
        self.assertEqual(machine_code.before_wait(kernel(late)), ["PREEXIT at 0x0", "CALL at 0x10", "LD at 0xd0"])

    def test_spills_are_those_that_are_marked(self):
        found = row()
        self.assertEqual((found["spill_stores"], found["spill_loads"], found["local"], found["stack"]), (8, 4, 0, 8))
        found = row(elf=ELF.replace("0xb0\n\tAttr", "0xc0\n\tAttr"))
        self.assertEqual((found["spill_stores"], found["spill_loads"], found["local"]), (8, 0, 1))

    def test_no_guess_where_the_code_cannot_be_followed(self):
        for wrong in (CODE.replace("BRA 0x60;", "BRX R2 -0x60;"), CODE.replace("BRA 0x60;", "BRA 0xc0;")):
            with self.assertRaises(SystemExit):
                row(code=wrong)
        with self.assertRaises(SystemExit):
            row(elf=ELF.replace("MAX_THREADS", "OTHER"))

    def test_widths(self):
        for opcode, bits in {"LDG.E": 32, "LDG.E.LTC128B.128": 128, "STG.E.U8": 8, "LDG.E.ENL2.256": 256}.items():
            self.assertEqual(machine_code.width(opcode), bits)

    def test_occupancy_by_each_limit(self):
        def blocks(*of):
            return machine_code.occupancy(*of)["blocks"]

        self.assertEqual(blocks("sm_90", 32, 8, 0), 32)  # blocks
        self.assertEqual(blocks("sm_86", 1024, 32, 0), 1)  # warps: 48
        self.assertEqual(blocks("sm_80", 256, 72, 0), 3)  # registers: 28 warps
        self.assertEqual(blocks("sm_80", 32, 8, 15 << 10), 10)  # shared memory, with the reserve
        self.assertEqual(blocks("sm_75", 32, 8, 15 << 10), 4)  # without


class Checking(unittest.TestCase):
    EXCEPTIONS = [
        "what,kernel,architecture,most,reason",
        "spill,walk,*,12,Few registers.",
        "narrow-load,wa*,sm_90,1,A constant.",
        "generic,walk,*,1,A constant.",
    ]

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.code = CODE
        self.record, self.page, self.list = (pathlib.Path(scratch.name) / name for name in ("r.csv", "p.md", "e.csv"))
        for target, attributes in (
            (table, {"RECORD": self.record, "PAGE": self.page, "EXCEPTIONS": self.list}),
            (table, {"nvcc_version": lambda: "13.0.88", "kernels_of": self.kernels}),
            (table, {"SLOW_PATHS": {"load_irregular": "what is not aligned"}}),
            (machine_code, {"SLOW_PATHS": {"load_irregular": "what is not aligned"}}),
        ):
            patch = mock.patch.multiple(target, **attributes)
            patch.start()
            self.addCleanup(patch.stop)
        self.exceptions(*self.EXCEPTIONS)
        self.assertEqual(self.run_script(), [])

    def kernels(self, _):
        return {("walk", "sm_90"): kernel(self.code)}

    def exceptions(self, *lines):
        self.list.write_text("\n".join(lines) + "\n")

    def run_script(self, *arguments):
        """What it complains about."""
        complaints = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(complaints):
            status = table.main([*arguments, "image"])
        self.assertEqual(status, 1 if complaints.getvalue() else 0)
        return complaints.getvalue().splitlines()

    def assert_complains(self, *parts):
        complaints = self.run_script("--check")
        for part in parts:
            self.assertTrue(any(part in complaint for complaint in complaints), f"{part!r} not in {complaints}")

    def test_nothing_to_complain_about(self):
        self.assertEqual(self.run_script("--check"), [])

    def test_worse_than_recorded(self):
        self.record.write_text(self.record.read_text().replace(",512,62,", ",512,61,"))
        self.assert_complains("walk on sm_90: registers 61 -> 62", "commit what it writes")

    def test_fewer_resident_warps(self):
        self.record.write_text(self.record.read_text().replace(",2,32,50.0,", ",3,48,75.0,"))
        self.assert_complains("walk on sm_90: resident warps 48 -> 32")

    def test_lost_wide_accesses(self):
        self.code = CODE.replace("STG.E.128", "STG.E.64")
        self.assert_complains("store128 1 -> 0", "narrow-store 0 -> 1", "narrow-store: 1 instructions, not listed")

    def test_other_kernels_than_recorded(self):
        self.record.write_text(self.record.read_text().replace("walk,", "run,"))
        self.assert_complains("run on sm_90 is recorded, but not compiled", "walk on sm_90 is not recorded")

    def test_another_compiler(self):
        self.record.write_text(self.record.read_text().replace("13.0.88", "12.9.1"))
        self.assert_complains("the record was made by another compiler")

    def test_page_that_is_not_the_records(self):
        self.page.write_text(self.page.read_text().replace("1×128", "2×128"))
        self.assert_complains("p.md is not what the record renders to")

    def test_unlisted(self):
        self.exceptions(self.EXCEPTIONS[0])
        self.assert_complains(
            "spill: 12 bytes stored and loaded, not listed", "narrow-load: 1 instructions", "generic: 1 instructions"
        )

    def test_local_memory(self):
        self.code = CODE.replace("EXIT", "LDL R3, [R1]").replace("RET.REL.NODEC", "EXIT", 1)
        self.assert_complains("walk on sm_90: local: 8 bytes a thread, not listed")

    def test_more_than_listed(self):
        self.code = CODE.replace("LDG.E.128", "LDG.E.32")
        self.assert_complains("walk on sm_90: narrow-load: 2 instructions, 1 are allowed")

    def test_exceptions_that_nothing_needs(self):
        self.exceptions(*self.EXCEPTIONS, "local,walk,*,8,An array.", "spill,*,sm_80,8,Few registers.")
        self.assert_complains("local of walk on *: nothing needs it", "spill of * on sm_80: nothing needs it")

    def test_exception_that_allows_too_much(self):
        self.exceptions(*(line.replace(",12,", ",16,") for line in self.EXCEPTIONS))
        self.assert_complains("spill of walk on *: 16 are allowed, but no more than 12 are found")

    def test_exception_without_a_reason(self):
        self.exceptions(*(line.replace("Few registers.", "") for line in self.EXCEPTIONS))
        with self.assertRaises(SystemExit):
            table.main(["--check", "image"])

    def test_what_comes_before_the_wait(self):
        self.code = CODE.replace("ACQBULK", "NOP")
        self.assert_complains("walk on sm_90: LDG at 0x10, before its wait", "EXIT at 0x80, before its wait")

    def test_slow_path_that_nothing_calls(self):
        with mock.patch.dict(table.SLOW_PATHS, {"store_irregular": "the same, stored"}):
            self.assert_complains("no kernel calls the slow path store_irregular any more")


if __name__ == "__main__":
    unittest.main()
