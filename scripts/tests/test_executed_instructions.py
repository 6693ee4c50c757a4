"""Tests of scripts/executed-instructions on made-up instructions; they need no CUDA."""

import math
import unittest

import test_shortest_ways
from test_shortest_ways import machine_code

script = test_shortest_ways.load_script("executed-instructions")


def kernel(code):
    made = machine_code.Kernel("walk", "sm_90")
    for number, line in enumerate(code.strip().splitlines()):
        line = line.strip()
        condition, _, line = line.partition(" ") if line.startswith("@") else ("", "", line)
        opcode, _, operands = line.strip().partition(" ")
        made.code[number * 16] = machine_code.Instruction(condition.lstrip("@") or None, opcode, operands.strip())
    return made


def run(code, thread=0, constants=()):
    lane = script.Lane(kernel(code), thread)
    for offset, value in constants:
        lane.put_constant(offset, value, 8)
    lane.run()
    return lane


def number(lane, register):
    return script.number_of(lane.registers[register])


class ExecutedInstructions(unittest.TestCase):
    def test_a_loop_is_counted_as_often_as_it_runs(self):
        lane = run(
            """
            MOV R0, RZ
            IADD3 R0, R0, 0x1, RZ
            ISETP.GE.U32.AND P0, PT, R0, c[0x0][0x210], PT
            @!P0 BRA 0x10
            @P0 EXIT
            MOV R1, 0x1
            EXIT
            """,
            constants=[(0x210, 5)],
        )
        self.assertEqual((lane.executed, lane.times[0x10], lane.times[0x50]), (1 + 3 * 5 + 1, 5, 0))

    def test_a_call_returns(self):
        lane = run(
            """
            MOV R20, 0x20
            CALL.REL.NOINC 0x30
            EXIT
            RET.REL.NODEC R20 0x0
            """
        )
        self.assertEqual(lane.executed, 4)

    def test_what_is_skipped_by_its_condition_is_executed_all_the_same(self):
        lane = run(
            """
            @P0 MOV R1, 0x7
            @!P0 MOV R2, 0x7
            EXIT
            """
        )
        self.assertEqual((lane.executed, lane.registers["R1"], lane.registers["R2"]), (3, 0, 7))

    def test_64_bits_in_two_halves(self):
        lane = run(
            """
            MOV R2, 0xffffffff
            MOV R3, 0x1
            IADD3 R4, P0, R2, 0x2, RZ
            IADD3.X R5, R3, RZ, RZ, P0, !PT
            IADD3 R6, P1, R2, -R4, RZ
            IADD3.X R7, R3, ~R5, RZ, P1, !PT
            ISETP.GE.U32.AND P2, PT, R2, R4, PT
            ISETP.GE.U32.AND.EX P2, PT, R3, R5, PT, P2
            IMAD.WIDE.U32 R8, R2, 0x10, R4
            LEA R10, P3, R2, R4, 0x1
            LEA.HI.X R11, R2, R5, R3, 0x1, P3
            EXIT
            """
        )
        both = 0x1FFFFFFFF
        self.assertEqual(lane.wide("R4"), both + 2)
        self.assertEqual(lane.wide("R6"), -2 & (1 << 64) - 1)
        self.assertFalse(lane.predicates["P2"])
        self.assertEqual(lane.wide("R8"), 0xFFFFFFFF * 16 + both + 2)
        self.assertEqual(lane.wide("R10"), 2 * both + both + 2)

    def test_bits(self):
        lane = run(
            """
            MOV R2, 0x12345678
            LOP3.LUT R3, R2, 0xff00, RZ, 0xc0, !PT
            LOP3.LUT P0, RZ, R2, 0x80, RZ, 0xc0, !PT
            SHF.R.U32.HI R4, RZ, 0x8, R2
            SHF.L.U32 R5, R2, 0x10, RZ
            PRMT R6, R2, 0x7610, RZ
            POPC R7, R2
            P2R R8, PR, RZ, 0x7f
            PLOP3.LUT P1, PT, PT, PT, PT, 0x80, 0x0
            EXIT
            """
        )
        registers = [lane.registers[f"R{number}"] for number in range(3, 9)]
        self.assertEqual(registers, [0x5600, 0x123456, 0x56780000, 0x5678, 13, 0])
        self.assertEqual((lane.predicates["P0"], lane.predicates["P1"]), (False, True))

    def test_numbers(self):
        lane = run(
            """
            FADD R2, RZ, 3
            FFMA R3, R2, 2, -R2
            MUFU.RCP R4, R2
            FMUL R5, |R3|, -0.5
            FSETP.GTU.AND P0, PT, R3, +INF, PT
            FSEL R6, R2, R5, P0
            FSETP.NAN.AND P1, PT, R2, R2, PT
            HFMA2.MMA R7, -RZ, RZ, 1.875, 0
            F2FP.BF16.F32.PACK_AB R8, R2, R3
            FMNMX R9, R2, R5, PT
            EXIT
            """
        )
        found = [number(lane, f"R{register}") for register in (2, 3, 5, 6, 9)]
        self.assertEqual(found, [3, 3, -1.5, -1.5, -1.5])
        self.assertTrue(math.isclose(number(lane, "R4"), 1 / 3, rel_tol=1e-6))
        self.assertEqual(lane.predicates["P1"], False)
        self.assertEqual(number(lane, "R7"), 1.0)
        self.assertEqual(lane.registers["R8"], 0x40404040)

    def test_what_was_stored_is_loaded_and_what_others_would_have_left_is_a_count(self):
        lane = run(
            """
            S2R R0, SR_TID.X
            IMAD R1, R0, 0x10, RZ
            MOV R4, 0x5
            STS [R1+0x4], R4
            LDS.64 R6, [R1+0x4]
            STL [R1], R4
            LDL R8, [R1]
            EXIT
            """,
            thread=32,
        )
        self.assertEqual([lane.registers["R6"], number(lane, "R7"), lane.registers["R8"]], [5, 1024, 5])

    def test_a_vectors_first_element_is_its_mean(self):
        words = [script.in_memory(1 << 32 | 4 * word) for word in range(4)]
        elements = [script.number_of((word >> half & 0xFFFF) << 16) for word in words for half in (0, 16)]
        self.assertEqual(elements[0], sum(elements) / 8)

    def test_an_unknown_instruction_is_said(self):
        with self.assertRaisesRegex(SystemExit, "TANH3 is not known"):
            run("TANH3 R0, R1\nEXIT")

    def test_every_case_has_parameters_that_there_are(self):
        for name, case in script.cases().items():
            for field in case.fields():
                self.assertGreaterEqual(script.place_of("Rows", field)[0], 0, name)


if __name__ == "__main__":
    unittest.main()
