"""Tests of scripts/render-performance on small made-up records.

usage: python3 -m unittest discover --start-directory scripts/tests
"""

import csv
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import xml.dom.minidom

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "render-performance"

COLUMNS = (
    "op,case,variant,dtype,weight_dtype,layout,n_bytes,n_read_bytes,impl,version,kernel,mode,samples,median_us,p5_us,"
    "p95_us,copy_us,copy_fraction,read_us,read_fraction,max_err,status,threads,commit,device,driver,toolkit,date"
).split(",")
NOTHING_ON_A_GPU = "Nothing here has been measured on a GPU yet"


def cell(**changes):
    """10 MB in 5 us, that is 2,000 GB/s, at 0.9 of a copy."""
    row = dict.fromkeys(COLUMNS, "")
    row.update(
        op="rms_norm", case="1024x2441", dtype="bf16", weight_dtype="f32", layout="rows", n_bytes="10000000",
        n_read_bytes="5000000", impl="warpnorm", version="0.1.0", kernel="rows_block", mode="graph", samples="30",
        median_us="5", p5_us="4.9", p95_us="5.2", copy_us="4.5", copy_fraction="0.9", read_us="2.4",
        read_fraction="0.48", max_err="0.25", status="ok", commit="abcdef0", device="A Chip", driver="580.1",
        toolkit="13.0", date="2025-12-01",
    )  # fmt: skip
    row.update(changes)
    return row


def unmeasured(**changes):
    figures = "samples median_us p5_us p95_us copy_us copy_fraction read_us read_fraction max_err".split()
    return cell(**dict.fromkeys(figures, ""), **changes)


class RenderPerformance(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.records = pathlib.Path(scratch.name) / "benches/record"
        self.out = pathlib.Path(scratch.name) / "docs"

    def record(self, device, name, rows, columns=COLUMNS):
        folder = self.records / device / name
        folder.mkdir(parents=True)
        with (folder / "bench.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)
        return folder

    def run_script(self, *arguments):
        command = [sys.executable, SCRIPT, "--records", self.records, "--out", self.out, *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def page(self):
        run = self.run_script()
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        return (self.out / "performance.md").read_text(encoding="utf-8")

    def plots(self):
        return sorted(path.name for path in (self.out / "performance").glob("*"))

    def assert_refused(self, *parts):
        self.assert_fails(*parts)
        self.assertFalse(self.out.exists())

    def assert_fails(self, *parts):
        run = self.run_script()
        self.assertEqual(run.returncode, 1)
        for part in parts:
            self.assertIn(part, run.stderr)
        self.assertNotIn("Traceback", run.stderr)

    def assert_stale(self, *names):
        run = self.run_script("--check")
        self.assertEqual(run.returncode, 1)
        for name in names:
            self.assertIn(name, run.stderr)

    def test_no_records(self):
        page = self.page()
        self.assertIn(NOTHING_ON_A_GPU, page)
        self.assertIn("nor of a CPU", page)
        self.assertNotIn("##", page)
        self.assertEqual(self.plots(), [])
        self.assertEqual(self.run_script("--check").returncode, 0)

    def test_files_that_are_no_records(self):
        self.records.mkdir(parents=True)
        (self.records / "machine-code.csv").write_text("kernel\n")
        (self.records / "cpu-empty").mkdir()
        self.assertIn(NOTHING_ON_A_GPU, self.page())

    def test_a_cpu_is_no_gpu(self):
        rows = [cell(mode="cpu", threads=threads, device="A Processor") for threads in ("1", "16", "8")]
        self.record("cpu-x", "2025-12-01T10-00-abcdef0", rows)
        page = self.page()
        self.assertIn(NOTHING_ON_A_GPU, page)
        self.assertNotIn("nor of a CPU", page)
        self.assertIn("## A Processor", page)
        self.assertIn("threads 1, 16, 8", page)
        self.assertRegex(page, r"Only cells of 16\sthreads\.")
        self.assertEqual(self.plots(), ["cpu-x-rows.svg"])

    def test_the_figures_of_a_cell(self):
        self.record("chip", "2025-12-01T10-00-abcdef0", [cell()])
        page = self.page()
        self.assertNotIn(NOTHING_ON_A_GPU, page)
        self.assertIn("No cell of warpnorm is wrong, none failed.", page)
        self.assertIn(
            "| 1024x2441 | bf16, f32 | 10.0 | 5.00 (4.90–5.20) | 2,000 | 90.0 % | 0.250 | rows_block |",
            page,
        )

    def test_the_method_in_words(self):
        self.record("chip", "2025-12-01T10-00-abcdef0", [cell(samples="15"), cell(samples="15", variant="warm")])
        self.record("cpu-x", "2025-12-01T10-00-abcdef0", [cell(samples="15", mode="cpu", threads="8")])
        gpu, cpu = self.page().replace("\n", " ").split("## A Chip")[1:]
        self.assertIn("Mode `graph` is CUDA graphs of 20 launches", gpu)
        self.assertIn("whose number divides 20", gpu)
        self.assertIn("Variant `warm`", gpu)
        self.assertNotIn("Mode `cpu`", gpu)
        self.assertIn("Mode `cpu` is calls one after another", cpu)
        self.assertNotIn("Variant `warm`", cpu)
        for text in (gpu, cpu):
            self.assertIn("Each of the 15 rounds of a cell", text)

    def test_the_legend_says_how_much_of_a_cell_is_compared(self):
        self.record("chip", "2025-12-01T10-00-abcdef0", [cell()])
        self.assertRegex(self.page(), r"\| error / bound \| .* At most 4 Mi elements of a cell are compared, .* \|\n")

    def test_statistics_stand_beside_a_read(self):
        self.record("chip", "2025-12-01T10-00-abcdef0", [cell(op="batch_norm_statistics", layout="nchw")])
        page = self.page()
        self.assertIn("| of read |", page)
        self.assertIn("| 48.0 % |", page)
        self.assertIn("of read", (self.out / "performance/chip-images.svg").read_text())

    def test_wrong_and_failed_cells_come_first(self):
        rows = [
            cell(),
            cell(op="group_norm", case="8x64x7x7", layout="nchw", status="wrong", max_err="3.2"),
            unmeasured(op="layer_norm", case="7x7", status="failed"),
            unmeasured(impl="pytorch", status="failed"),
            unmeasured(op="instance_norm", case="2x2x9x9", layout="nhwc", status="unsupported"),
        ]
        self.record("chip", "2025-12-01T10-00-abcdef0", rows)
        page = self.page()
        self.assertIn("**2 cells of warpnorm wrong or failed:**", page)
        self.assertIn("**wrong**: warpnorm group_norm 8x64x7x7 bf16/f32 nchw graph, error 3.20 of the bound", page)
        self.assertIn("**failed**: warpnorm layer_norm 7x7", page)
        self.assertIn("1 cell of others wrong or failed", page)
        self.assertLess(page.index("**wrong**"), page.index("| warpnorm | 0.1.0 | 1 | 1 | 1 | 1 |"))
        self.assertLess(page.index("**wrong**"), page.index("### "))
        # Speed of what is wrong is no speed.
        self.assertEqual(self.plots(), ["chip-rows.svg"])

    def test_compares_with_the_fastest_that_is_right_in_the_same_mode(self):
        rows = [
            cell(),
            cell(impl="pytorch", median_us="10"),
            cell(impl="triton", median_us="6"),
            cell(impl="cudnn", median_us="1", status="wrong", max_err="9"),
            cell(impl="jax", median_us="1", mode="eager"),
            cell(impl="copy", op="copy", median_us="1"),
        ]
        self.record("chip", "2025-12-01T10-00-abcdef0", rows)
        page = self.page()
        self.assertIn("| 6.00 triton | 1.20 |", page)
        self.assertIn("| 1 | 2.00 |", page)

    def test_the_newer_record_of_a_device_wins_and_gpus_come_first(self):
        self.record("chip", "2025-12-02T10-00-aaaaaaa", [cell(device="New Chip")])
        self.record("chip", "2025-12-01T10-00-fffffff", [cell(device="Old Chip")])
        self.record("cpu-x", "2025-12-03T10-00-fffffff", [cell(device="A Processor", mode="cpu", threads="8")])
        page = self.page()
        self.assertNotIn("Old Chip", page)
        self.assertIn("(../benches/record/chip/2025-12-02T10-00-aaaaaaa)", page)
        self.assertLess(page.index("## New Chip"), page.index("## A Processor"))

    def write_rivals(self, folder, rows):
        with (folder / "rivals.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, "times_ours", "reason"], restval="")
            writer.writeheader()
            writer.writerows(rows)

    def test_without_rivals_there_is_no_word_of_them(self):
        folder = self.record("chip", "2025-12-01T10-00-abcdef0", [cell()])
        self.assertNotIn("Beside others", self.page())
        self.write_rivals(folder, [])
        self.assertNotIn("Beside others", self.page())

    def test_rivals_stand_side_by_side(self):
        folder = self.record("chip", "2025-12-01T10-00-abcdef0", [cell()])
        self.write_rivals(folder, [
            cell(),
            cell(impl="pytorch", version="2.11.0", median_us="10"),
            cell(impl="triton", median_us="4"),
            cell(impl="jax", mode="jit", median_us="7.5"),
            unmeasured(impl="liger", status="wrong") | {"max_err": "7"},
            unmeasured(impl="pytorch", version="2.11.0", case="9x9", status="failed", reason="no | memory"),
            unmeasured(op="all", case="norms", impl="torch.compile", status="unavailable", reason="no compiler"),
        ])  # fmt: skip
        page = self.page()
        self.assertIn("### Beside others", page)
        self.assertNotIn("### What folding is worth", page)
        self.assertIn("| pytorch | 2.11.0 | 1 | 2.00 | 1 of 1 |", page)
        self.assertIn("| triton | 0.1.0 | 1 | 0.800 | 0 of 1 |", page)
        self.assertIn("| rms_norm | 1024x2441 | bf16, f32 | rows | 10.0 | 4.50 | 5.00 | 10.0 | **4.00** | 7.50 |", page)
        self.assertIn("- wrong: liger rms_norm 1024x2441 bf16/f32 rows graph, error 7.00 of the bound", page)
        self.assertIn("- failed: pytorch rms_norm 9x9 bf16/f32 rows graph: no \\| memory", page)
        self.assertIn("- unavailable: torch.compile: no compiler", page)
        self.assertIn("3 without a time", page)

    def test_folding_is_told_by_the_convolution_alone(self):
        folder = self.record("chip", "2025-12-01T10-00-abcdef0", [cell()])
        layer = dict(op="conv_batch_norm", dtype="f16", weight_dtype="f16", layout="nhwc")
        times = {"convolution alone": (10, 20), "pytorch": (15, 40), "folded": (11, 20)}
        rows = [
            cell(**layer, case=f"8x64x{size}x{size}", variant="resnet50+c64+k1+s1", impl=impl, median_us=str(of_size[i]))
            for i, size in enumerate((7, 56)) for impl, of_size in times.items()
        ]  # fmt: skip
        absent = unmeasured(op="all", case="folding", impl="folded, fused", status="unavailable", reason="no GPU")
        self.write_rivals(folder, [*rows, absent])
        page = self.page()
        self.assertIn("| resnet50 | f16 | nhwc | 8 | 1.75 (1.50–2.00) | 1.05 (1.00–1.10) |", page)
        self.assertIn("- unavailable: folded, fused: no GPU", page)
        self.assertNotIn("### Beside others", page)

    def on_a_cpu(self, **changes):
        return cell(mode="cpu", threads="2", device="A Processor", **changes)

    def test_on_a_cpu_it_is_said_what_is_reached(self):
        folder = self.record("cpu-x", "2025-12-01T10-00-abcdef0", [self.on_a_cpu()])
        others = dict(
            pytorch=[("1x1", "2"), ("2x2", "8"), ("3x3", "4")], candle=[("1x1", "0.92"), ("2x2", "0.9"), ("3x3", "1.5")]
        )
        rows = [self.on_a_cpu(case=case) for case in ("1x1", "2x2", "3x3")]
        rows += [
            self.on_a_cpu(case=case, impl=impl, times_ours=ratio) for impl, found in others.items() for case, ratio in found
        ]
        self.write_rivals(folder, rows)
        page = self.page()
        self.assertIn("missed in 1 of 3 cells; fastest other / ours is at least 0.900 | **no** |", page)
        self.assertIn("at least 3 times as fast as pytorch, by geometric mean | 4.00 over 3 cells | yes |", page)
        # 0.92 is 8.7 % slower.
        self.assertIn("| rms_norm | 2x2 | bf16, f32 | rows | candle | 0.900 |", page)
        self.assertNotIn("| rms_norm | 1x1 | bf16, f32 | rows | candle |", page)
        self.assertIn("| pytorch | 4.00 |", page)
        self.assertRegex(page, r"once the threads of whoever ran before\shave\sgone to sleep")
        self.assertIn("(performance/cpu-x-rivals.svg)", page)
        self.assertEqual(self.plots(), ["cpu-x-rivals.svg", "cpu-x-rows.svg"])
        document = xml.dom.minidom.parse(str(self.out / "performance/cpu-x-rivals.svg"))
        # One of the legend's.
        self.assertEqual(len(document.getElementsByTagName("use")), 3 + 1)

    def test_on_a_cpu_all_is_reached_where_nothing_misses_and_ours_is_there(self):
        folder = self.record("cpu-x", "2025-12-01T10-00-abcdef0", [self.on_a_cpu()])
        other = self.on_a_cpu(impl="pytorch, warm", times_ours="2.9")
        self.write_rivals(folder, [self.on_a_cpu(), other])
        page = self.page()
        self.assertIn("missed in 0 of 1 cell; fastest other / ours is at least 2.90 | yes |", page)
        self.assertIn("as fast as pytorch, warm, by geometric mean | 2.90 over 1 cell | **no** |", page)
        self.assertIn("| **5.00** | **5.00** | 2.90 |", page)
        self.write_rivals(folder, [self.on_a_cpu(), other, self.on_a_cpu(impl="candle", case="9x9")])
        self.assertIn("at least 2.90; 1 without a time of ours | **no** |", self.page())

    def test_folding_by_products_stands_beside_onnx_runtime(self):
        folder = self.record("cpu-x", "2025-12-01T10-00-abcdef0", [self.on_a_cpu()])
        header = "op case variant dtype layout impl version threads samples median_us p5_us p95_us times_alone max_err status commit device toolkit date".split()
        usual = dict.fromkeys(header, "") | dict(op="conv_batch_norm", samples="15", p5_us="1", p95_us="1", status="ok")
        usual |= dict(case="1x64x7x7", max_err="0.1")

        def write(*lines):
            with (folder / "folding.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, header)
                writer.writeheader()
                writer.writerows(usual | line for line in lines)

        ways = {"convolution alone": ("1000", "1"), "apart": ("1500", "1.4"), "folded": ("1100", "1.05")}
        lines = [
            dict(variant=variant, impl=impl, threads="2", median_us=time, times_alone=ratio)
            for variant in ("resnet50+c64+k1+s1", "resnet50+c8+k1+s1") for impl, (time, ratio) in ways.items()
        ]  # fmt: skip
        write(*lines)
        onnx = dict(op="conv_batch_norm", case="1x64x7x7", impl="onnxruntime, folded", median_us="400", layout="nchw")
        self.write_rivals(folder, [self.on_a_cpu(variant=line["variant"], **onnx) for line in lines[::3]])
        self.assertIn("| resnet50 | 2 | 2 | 1.40 (1.40–1.40) | 1.05 (1.05–1.05) | 2.00 | 3.00 | 2.20 | 0.800 |", self.page())
        # Not of all layers: no sum to compare with.
        self.write_rivals(folder, [self.on_a_cpu(variant=lines[0]["variant"], **onnx)])
        self.assertIn("| 2.00 | 3.00 | 2.20 |\n", self.page())
        write(dict(lines[0], status="wrong", max_err="7"))
        self.assertIn("- **wrong**: convolution alone 1x64x7x7 resnet50+c64+k1+s1, error 7.00 of the limit", self.page())
        write(dict(lines[0], times_alone=""))
        self.assert_fails("folding.csv, line 2", "times_alone")

    def test_rivals_that_are_no_record_are_refused(self):
        folder = self.record("chip", "2025-12-01T10-00-abcdef0", [cell()])
        self.write_rivals(folder, [cell(impl="pytorch", median_us="")])
        self.assert_refused("rivals.csv, line 2", "median_us")
        self.write_rivals(folder, [unmeasured(impl="pytorch", status="absent")])
        self.assert_refused("unknown status `absent`")

    def write_predictions(self, *rows, folder=None):
        header = "chip op case variant dtype weight_dtype layout mode kernel predicted_us uncertainty_us predicted_copy_us bound".split()
        usual = cell() | dict(chip="H200", predicted_us="5", uncertainty_us="1", predicted_copy_us="4.5", bound="memory")
        with ((folder or self.records) / "prediction.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, header, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(usual | row for row in rows)

    def test_predicted_stands_beside_measured(self):
        rows = [cell(device="NVIDIA H200"), cell(device="NVIDIA H200", case="9x9", median_us="8", p95_us="9")]
        self.record("h200", "2025-12-01T10-00-abcdef0", rows)
        self.write_predictions({}, {"case": "9x9", "bound": "issue"}, {"case": "9x9", "chip": "H100", "predicted_us": "1"})
        page = self.page()
        self.assertIn("### Against the prediction", page)
        self.assertIn("| rms_norm | issue | 1 | 1.60 | 1 |\n| rms_norm | memory | 1 | 1.00 | 0 |", page)
        self.assertIn("To be explained, 1 of 2 cells:", page)
        self.assertIn("| rms_norm | 9x9 | bf16, f32 | rows | 5.00 | 1.00 | 8.00 | 1.60 | 4.50 | 4.50 | issue | rows_block |", page)
        self.assertIn("| 5.00 (4.90–5.20) | 2,000 | 90.0 % | 5.00 | 1.00 | 0.250 | rows_block |", page)

    def test_a_prediction_is_missed_from_25_percent_on_either_way(self):
        measured = {"1x1": "6.2", "2x2": "6.3", "3x3": "4.1", "4x4": "3.9"}
        rows = [cell(device="NVIDIA H200", case=case, median_us=us, p5_us=us, p95_us=us) for case, us in measured.items()]
        self.record("h200", "2025-12-01T10-00-abcdef0", rows)
        self.write_predictions(*({"case": case} for case in measured))
        page = self.page()
        missed = page.split("To be explained, 2 of 4 cells:")[1].split("### ")[0]
        self.assertEqual(re.findall(r"\d+x\d+", missed), ["4x4", "2x2"])
        self.write_predictions(*({"case": case, "predicted_us": us} for case, us in measured.items()))
        self.assertIn("None of 4 cells is missed.", self.page())

    def test_what_was_predicted_before_the_record_counts(self):
        folder = self.record("h200", "2025-12-01T10-00-abcdef0", [cell(device="NVIDIA H200")])
        self.write_predictions({"predicted_us": "5"})
        self.write_predictions({"predicted_us": "10"}, folder=folder)
        self.assertIn("| rms_norm | memory | 1 | 0.500 | 1 |", self.page())

    def test_what_is_not_predicted(self):
        """Other chips, processors, cells that are wrong, and other modes."""
        self.record("a100", "2025-12-01T10-00-abcdef0", [cell(device="NVIDIA A100-SXM4-80GB")])
        self.record("h100", "2025-12-01T10-00-abcdef0", [cell(device="NVIDIA H100 PCIe")])
        self.record("cpu-x", "2025-12-01T10-00-abcdef0", [cell(device="H200", mode="cpu", threads="8")])
        rows = [cell(device="NVIDIA H200", mode="stream"), cell(device="NVIDIA H200", status="wrong", max_err="2")]
        self.record("h200", "2025-12-01T10-00-abcdef0", rows)
        self.write_predictions({}, {"chip": "H100"}, {"mode": "cpu"})
        page = self.page()
        self.assertNotIn("Against the prediction", page)
        self.assertNotIn("| predicted, µs | measured / predicted |", page)

    def test_a_prediction_that_is_no_number_is_refused(self):
        self.record("h200", "2025-12-01T10-00-abcdef0", [cell(device="NVIDIA H200")])
        self.write_predictions({"predicted_us": "soon"})
        self.assert_refused("prediction.csv, line 2", "soon")

    def test_probe(self):
        folder = self.record("chip", "2025-12-01T10-00-abcdef0", [cell()])
        (folder / "probe.csv").write_text("name,value,unit,detail\nzz,2.12345,us,a | b\naa,1234,blocks,\nbb,yes,,\n")
        page = self.page()
        self.assertIn("| zz | 2.12 | us | a \\| b |\n| aa | 1234 | blocks | |\n| bb | yes | | |", page)

    def test_ceilings_are_the_fastest_of_a_size(self):
        ceiling = dict(n_bytes="1000000", case="1000000", layout="", dtype="", weight_dtype="", max_err="")
        rows = [
            cell(),
            cell(impl="copy", op="copy", kernel="driver", median_us="2", **ceiling),
            cell(impl="copy", op="copy", kernel="probe_copy_4", median_us="1", **ceiling),
            cell(impl="read", op="read", kernel="probe_read_4", median_us="0.5", **ceiling),
        ]
        self.record("chip", "2025-12-01T10-00-abcdef0", rows)
        page = self.page()
        self.assertRegex(
            page, r"\| 1\.00 \| graph \| 1\.00 .* \| 1,000 \| probe_copy_4 \| .* \| 2,000 \| probe_read_4 \|"
        )

    def test_plots(self):
        rows = [
            cell(case=f"{2**n}x4096", n_bytes=str(2**n * 16384), variant=variant, op=op, layout=layout, median_us="50")
            for n in range(1, 15)
            for variant in ("", "silu", "residual+warm")
            for layout in ("rows", "nchw", "nhwc")
            for op in ("rms_norm", "layer_norm", "batch_norm_statistics", "a_later_op")
        ]
        self.record("chip", "2025-12-01T10-00-abcdef0", rows)
        self.page()
        self.assertEqual(self.plots(), ["chip-images.svg", "chip-rows.svg", "chip-warm.svg"])
        for path in (self.out / "performance").iterdir():
            document = xml.dom.minidom.parse(str(path))
            self.assertLess(path.stat().st_size, 100_000)
            defined = {node.getAttribute("id") for node in document.getElementsByTagName("path")}
            used = {node.getAttribute("href")[1:] for node in document.getElementsByTagName("use")}
            self.assertLessEqual(used, defined)

    def test_a_cell_as_fast_as_a_copy_lies_on_the_line(self):
        self.record("chip", "2025-12-01T10-00-abcdef0", [cell(copy_us="5", copy_fraction="1")])
        self.page()
        document = xml.dom.minidom.parse(str(self.out / "performance/chip-rows.svg"))
        points = document.getElementsByTagName("use")[:2]
        lines = [path for path in document.getElementsByTagName("path") if path.getAttribute("class") == "copy"][:2]
        heights = [re.match(r"M[\d.]+ ([\d.]+)", line.getAttribute("d"))[1] for line in lines]
        self.assertEqual([point.getAttribute("y") for point in points], heights)

    def test_a_column_that_is_missing_unknown_or_out_of_place(self):
        name = "2025-12-01T10-00-abcdef0"
        swapped = [*COLUMNS[1::-1], *COLUMNS[2:]]
        for device, columns, complaint in (
            ("a", [column for column in COLUMNS if column != "copy_us"], "lacks the column `copy_us`"),
            ("b", [*COLUMNS, "colour"], "unknown column `colour`"),
            ("c", swapped, "has the column `case` where `op` belongs"),
            ("d", [*COLUMNS, "op"], "has the column `op` twice"),
        ):
            with self.subTest(device):
                folder = self.record(device, name, [cell()], columns)
                self.assert_refused("bench.csv", complaint)
                (folder / "bench.csv").unlink()
                folder.rmdir()

    def test_records_that_contradict_themselves(self):
        for number, (changes, complaint) in enumerate(
            [
                (dict(median_us="fast"), "line 2: median_us is `fast`, not a number"),
                (dict(median_us=""), "line 2: status ok, but median_us is not a positive number"),
                (dict(max_err="1.5"), "line 2: status ok, but max_err is not within 0 and 1"),
                (dict(max_err="nan"), "line 2: status ok, but max_err is not within 0 and 1"),
                (dict(status="fine"), "unknown status `fine`"),
                (dict(threads="all"), "threads is `all`"),
            ]
        ):
            with self.subTest(complaint):
                folder = self.record(f"chip-{number}", "2025-12-01T10-00-abcdef0", [cell(**changes)])
                self.assert_refused(complaint)
                (folder / "bench.csv").unlink()
                folder.rmdir()

    def test_a_folder_that_is_no_record(self):
        folder = self.record("chip", "old", [cell()])
        self.assert_refused(str(folder), "is not named")

    def test_a_record_without_bench_csv(self):
        (self.records / "chip/2025-12-01T10-00-abcdef0").mkdir(parents=True)
        self.assert_refused("holds no bench.csv")

    def test_check(self):
        folder = self.record("chip", "2025-12-01T10-00-abcdef0", [cell()])
        self.assert_stale("performance.md is missing", "chip-rows.svg is missing")
        self.assertFalse(self.out.exists())
        self.page()
        self.assertEqual(self.run_script("--check").returncode, 0)

        page, stray = self.out / "performance.md", self.out / "performance/gone-rows.svg"
        page.write_text(page.read_text(encoding="utf-8") + "By hand.\n", encoding="utf-8")
        stray.write_text("<svg/>")
        self.assert_stale("performance.md is not what", "gone-rows.svg lies there")
        self.page()
        self.assertFalse(stray.exists())
        self.assertEqual(self.run_script("--check").returncode, 0)

        # A file more in the record is a link more on the page.
        (folder / "machine.txt").write_text("a machine\n")
        self.assert_stale("performance.md")


if __name__ == "__main__":
    unittest.main()
