"""How the comparison with others judges outputs, where NumPy is there: by formulas written out once more, element by
element, and by outputs that are wrong."""

import math
import unittest

import rivals_path  # noqa: F401
from rivals import check, units
from rivals.cells import EPS, GROUPS, Cell

try:
    import numpy
except ImportError:
    numpy = None


@unittest.skipUnless(numpy, "needs NumPy")
class Bounds(unittest.TestCase):
    def test_half_an_ulp(self):
        values = numpy.array([1.0, 1.999, 2.0, -3.5, 0.0, 2.0**-20])
        found = check.half_ulp(values, "f16", numpy)
        expected = [2.0**-11, 2.0**-11, 2.0**-10, 2.0**-10, 2.0**-25, 2.0**-25]
        self.assertEqual(list(found), expected)
        self.assertEqual(check.half_ulp(values, "bf16", numpy)[0], 2.0**-8)

    def test_an_error_is_a_fraction_of_the_bound(self):
        values, scale = numpy.array([1.0, 4.0]), numpy.array([2.0, 3.0])
        bound = 2.0**-24 + check.BOUND * 2.0
        ours, others = check.errors(values + numpy.array([0.5 * bound, 0.0]), values, scale, "f32", numpy)
        self.assertAlmostEqual(ours, 0.5)
        self.assertLess(others, 0.5 * ours)

    def test_what_is_not_a_number_is_never_right(self):
        values = numpy.ones(3)
        found = check.errors(numpy.array([1.0, math.nan, 1.0]), values, values, "f16", numpy)
        self.assertEqual(found, (math.inf, math.inf))

    def test_a_sum_that_others_round_otherwise_is_no_sum_of_warpnorms(self):
        values = numpy.ones(1)
        ours, others = check.errors(values + 2.0**-10, values, 0 * values, "f16", numpy, values)
        self.assertEqual((ours, others < 1), (2.0, True))


@unittest.skipUnless(numpy, "needs NumPy")
class Formulas(unittest.TestCase):
    def setUp(self):
        self.generator = numpy.random.default_rng(7)

    def judged(self, s, weight, bias, y, activation="", subtract_mean=True):
        x_hat = check.normalized(s, (1,), EPS, subtract_mean)
        values, scale = check.expected(x_hat, weight[None], bias[None], activation, numpy)
        return check.errors(y, values, scale, "f32", numpy)

    def by_hand(self, row, weight, bias, activation="", subtract_mean=True, eps=EPS):
        mean = math.fsum(row) / len(row) if subtract_mean else 0.0
        rstd = 1 / math.sqrt(math.fsum((v - mean) ** 2 for v in row) / len(row) + eps)
        linear = [(v - mean) * rstd * w + b for v, w, b in zip(row, weight, bias)]
        return [{"": v, "relu": max(v, 0.0), "silu": v / (1 + math.exp(-v))}[activation] for v in linear]

    def test_what_is_right_is_right_and_what_is_wrong_wrong(self):
        s, weight, bias = self.generator.normal(size=(3, 50)), *self.generator.normal(size=(2, 50))
        for options in ({}, {"activation": "relu"}, {"activation": "silu"}, {"subtract_mean": False}):
            right = numpy.array([self.by_hand(row, weight, bias, **options) for row in s])
            ours, others = self.judged(s, weight, bias, right, **options)
            self.assertLess(max(ours, others), 1e-6, options)
            # Another eps, the commonest of mistakes; another formula; one element off.
            off = right.copy()
            off[2, 49] += 1e-4
            eps = numpy.array([self.by_hand(row, weight, bias, eps=2 * EPS, **options) for row in s])
            for wrong in (eps, 0 * right, off):
                self.assertGreater(min(self.judged(s, weight, bias, wrong, **options)), 1, options)


@unittest.skipUnless(numpy, "needs NumPy")
class Units(unittest.TestCase):
    def elements_by_hand(self, cell, array, unit):
        n, c, *_ = cell.extents
        if cell.has_rows:
            return array[unit]
        if cell.has_running_statistics:
            return numpy.concatenate([array[sample, unit].ravel() for sample in range(n)])
        groups = GROUPS if cell.op == "group_norm" else c
        sample, group, size = unit // groups, unit % groups, c // groups
        return numpy.concatenate([array[sample, group * size + i].ravel() for i in range(size)])

    def test_a_unit_is_what_is_normalized_together(self):
        for op, extents in (
            ("rms_norm", (5, 7)), ("group_norm", (2, 64, 3, 2)), ("instance_norm", (2, 3, 4, 5)),
            ("batch_norm_training", (2, 3, 4, 5)), ("batch_norm_inference", (2, 3, 4, 5)),
            ("group_norm", (2, 32, 2, 3, 2)),
        ):  # fmt: skip
            for layout in ("nchw", "nhwc"):
                cell = Cell(op, extents, layout=layout)
                array = numpy.arange(cell.elements).reshape(extents)
                if layout == "nhwc" and not cell.has_rows:
                    array = numpy.moveaxis(numpy.ascontiguousarray(numpy.moveaxis(array, 1, -1)), -1, 1)
                chosen = units.chosen(cell)
                found = units.taken(cell, array, chosen)
                self.assertEqual(len(found), len(chosen))
                for unit, elements in zip(chosen, found):
                    self.assertEqual(list(elements.ravel()), list(self.elements_by_hand(cell, array, unit)), cell.name)

    def test_coefficients_go_with_their_elements(self):
        for op, extents in (("layer_norm", (5, 6)), ("group_norm", (2, 64, 3)), ("batch_norm_training", (2, 6, 3))):
            cell = Cell(op, extents, layout="nchw")
            # Every element says which channel it is of.
            array = numpy.broadcast_to(numpy.arange(cell.channels).reshape(1, -1, *[1] * (len(extents) - 2)), extents)
            chosen = units.chosen(cell)
            found = units.coefficients(cell, numpy.arange(cell.channels), chosen) + 0 * units.taken(cell, array, chosen)
            self.assertTrue((found == units.taken(cell, array, chosen)).all(), op)

    def test_large_cells_are_compared_in_part_from_the_first_to_the_last(self):
        cell = Cell("layer_norm", (131_072, 128))
        chosen = units.chosen(cell)
        self.assertEqual((chosen[0], chosen[-1], len(chosen)), (0, 131_071, units.MOST_COMPARED // 128))
        self.assertEqual(len(set(chosen)), len(chosen))
        self.assertEqual(units.chosen(Cell("rms_norm", (2, 1 << 23))), [0, 1])


if __name__ == "__main__":
    unittest.main()
