"""What the comparison with others compares."""

import csv
import unittest

import rivals_path
from rivals import cells, layers, records
from rivals.cells import Cell
from rivals.layers import Convolution


class Norms(unittest.TestCase):
    def test_names_and_bytes_are_the_benchmarks(self):
        cell = Cell("add_rms_norm", (8, 16), weight="f32", warm=True)
        self.assertEqual(cell.name, "add_rms_norm/8x16/bf16/weight-f32/warm")
        self.assertEqual((cell.read_bytes, cell.written_bytes), (2 * 8 * 16 * 2 + 16 * 4, 2 * 8 * 16 * 2))
        cell = Cell("group_norm", (2, 64, 3, 3), dtype="f16", layout="nhwc", activation="silu")
        self.assertEqual((cell.name, cell.variant), ("group_norm/2x64x3x3/f16/nhwc/g32+silu", "g32+silu"))
        training = Cell("batch_norm_training", (2, 8, 3, 3), dtype="f16", weight="f32", layout="nchw")
        self.assertEqual(training.bytes, 2 * 144 * 2 + 2 * 8 * 4 + 2 * 2 * 8 * 4)

    def test_every_cell_is_named_once(self):
        names = [cell.name for cell in cells.norms()]
        self.assertEqual(len(names), len(set(names)))

    def test_on_a_cpu_every_type_and_layout_has_three_sizes(self):
        found = cells.norms_on_cpu()
        self.assertEqual(len({cell.name for cell in found}), len(found))
        kinds = {}
        for cell in found:
            kinds.setdefault((cell.op, cell.layout, cell.activation, cell.dtype), []).append(cell.elements)
        self.assertEqual(len(kinds), 12 * 3)
        for kind, elements in kinds.items():
            self.assertEqual((len(elements), elements), (3, sorted(elements)), kind)
        self.assertIn("batch_norm_inference/32x64x56x56/bf16/nhwc/relu", [cell.name for cell in found])

    def test_what_few_engines_are_asked_for_is_among_them(self):
        names = {cell.name for cell in (*cells.norms(), *cells.norms_on_cpu())}
        for chosen in (cells.COMPILED, cells.BY_JAX):
            self.assertLessEqual(set(chosen), names)
        self.assertEqual(len(cells.COMPILED), 24)

    def test_shrunk_cells_are_small_and_keep_what_kernels_are_chosen_by(self):
        self.assertEqual(Cell("rms_norm", (8192, 4096)).shrunk().extents, (3, 4096))
        shrunk = Cell("group_norm", (2, 320, 64, 64), layout="nchw").shrunk()
        self.assertEqual(shrunk.extents, (1, 32, 64, 64))
        for cell in cells.norms():
            self.assertLessEqual(cell.shrunk().elements, 1_300_000, cell.name)


    def test_on_a_cpu_cells_are_those_of_the_record(self):
        """By the newest record of each CPU, which Rust has written: names and bytes."""
        columns = "op case variant dtype weight_dtype layout n_bytes n_read_bytes".split()
        ours = {tuple(records.identity(cell)[column] for column in columns) for cell in cells.norms_on_cpu()}
        for device in (rivals_path.ROOT / "benches/record").glob("cpu-*"):
            with (max(device.iterdir()) / "bench.csv").open(newline="") as file:
                theirs = {tuple(line[column] for column in columns) for line in csv.DictReader(file)}
            self.assertGreaterEqual(len(ours & theirs), 60, device)
            # Nothing that differs in its bytes alone.
            names = {cell[:-2] for cell in ours & theirs}
            self.assertEqual([cell for cell in ours ^ theirs if cell[:-2] in names], [])


class Convolutions(unittest.TestCase):
    def test_resnet50_has_these_shapes(self):
        shapes = {
            (layer.channels_in, layer.channels, layer.kernel, layer.stride, layer.size) for layer in layers.resnet50()
        }
        self.assertEqual(len(shapes), 23)
        for shape in ((3, 64, 7, 2, 224), (64, 64, 3, 1, 56), (256, 512, 1, 2, 56), (512, 2048, 1, 1, 7)):
            self.assertIn(shape, shapes)
        # Sums come before the activation, so the layers into them have none.
        self.assertTrue(all((layer.channels % 256 == 0) or layer.activation for layer in layers.resnet50()))

    def test_mobilenetv2_has_these_shapes(self):
        found = layers.mobilenetv2()
        self.assertIn(Convolution("mobilenetv2", 96, 96, 112, 3, 2, 96, "relu6"), found)
        self.assertIn(Convolution("mobilenetv2", 960, 320, 7), found)
        self.assertEqual(found[-1], Convolution("mobilenetv2", 320, 1280, 7, activation="relu6"))
        self.assertEqual(len(found), 30)

    def test_a_convolution_says_what_it_moves(self):
        layer = Convolution("resnet50", 64, 128, 7, kernel=3, stride=2, batch=2)
        self.assertEqual((layer.output_size, layer.weight_shape), (4, (128, 64, 3, 3)))
        self.assertEqual(layer.bytes, 2 * (2 * 64 * 49 + 128 * 64 * 9 + 2 * 128 * 16))
        self.assertEqual(layer.name, "conv_batch_norm/2x64x7x7/f16/nhwc/resnet50+c128+k3+s2")

    def test_there_are_three_batches_in_two_types_and_a_dozen_is_compiled(self):
        found = layers.convolutions()
        self.assertEqual(
            {(layer.batch, layer.dtype) for layer in found}, {(n, t) for n in (1, 8, 64) for t in ("f16", "f32")}
        )
        self.assertLessEqual(set(layers.COMPILED), {layer.name for layer in found})
        self.assertEqual(len(layers.COMPILED), 12)


    def test_a_cpu_has_each_layer_once(self):
        found = layers.convolutions_on_cpu()
        self.assertEqual({(layer.batch, layer.dtype, layer.layout) for layer in found}, {(1, "f32", "nchw")})
        self.assertEqual(len({layer.name for layer in found}), 23 + 30)


if __name__ == "__main__":
    unittest.main()
