"""What folding is worth on a CPU where convolutions are matrix products: the tables of a record's folding.csv
(benches/folding.rs)."""

from performance_records import by
from performance_rivals import ALONE, network
from performance_tables import figure, paragraph, spread, table

WAYS = ["apart", "folded"]
# By whom the same layer is convolved in rivals.csv.
FOR_SCALE = "onnxruntime, folded"

METHOD = """
    By the GEMM crate, an image at a time in f32, and depthwise convolutions by plain loops: a convolution and its BatchNorm
    (with the network's activation, where one follows), as a part of the time of the convolution alone: median over the layers
    (least–most) of the medians of the ratios within a round. Apart, warpnorm's BatchNorm works in the convolution's output, with
    a ReLU in it; folded, a bias is what the product begins with, or is added where the activation passes over the output
    anyhow. The times are of all layers together, each once; beside them what ONNX Runtime takes for the same, folded by
    warpnorm, with as many threads."""


def folding_by_products(record):
    """Blocks: a summary by network and threads, and the layers."""
    if not record.folding:
        return []
    lines = [line for line in record.folding if line.status == "ok"]
    layers = by(lambda line: (network(line), line.threads), lines)
    scale = {(cell.case, cell.variant, cell.threads): cell.median_us for cell in record.rivals if is_for_scale(cell)}
    header = ["network", "threads:", "layers:", *(f"{way}:" for way in WAYS)]
    header += [f"{way}, ms:" for way in (ALONE, *WAYS, FOR_SCALE)]
    rows = [summary(key, found, scale) for key, found in layers.items()]
    wrong = [line for line in record.folding if line.status != "ok"]
    details = ["<details><summary>Product by product</summary>", table(*layer_table(lines, scale)), "</details>"]
    return [paragraph(METHOD), table(header, rows), faults(wrong), *details]


def is_for_scale(cell):
    return cell.impl == FOR_SCALE and cell.status == "ok"


def summary(key, lines, scale):
    ways = by(lambda line: line.impl, lines)
    ratios = [spread([line.times_alone for line in ways.get(way, [])]) for way in WAYS]
    sums = [sum(line.median_us for line in ways.get(way, [])) / 1e3 for way in (ALONE, *WAYS)]
    places = [place(line) for line in ways.get(ALONE, [])]
    # Of all of them, or it is no scale.
    known = places and all(found in scale for found in places)
    other = figure(sum(scale[found] for found in places) / 1e3) if known else ""
    return [key[0], key[1], str(len(places)), *ratios, *map(figure, sums), other]


def place(line):
    return line.case, line.variant, line.threads


def layer_table(lines, scale):
    header = ["case", "variant", "threads:", *(f"{way}, µs:" for way in (ALONE, *WAYS)), *(f"{way}:" for way in WAYS)]
    rows = []
    for key, found in by(place, lines).items():
        ways = {line.impl: line for line in found}
        times = [figure(ways[way].median_us) if way in ways else "" for way in (ALONE, *WAYS)]
        ratios = [figure(ways[way].times_alone) if way in ways else "" for way in WAYS]
        rows.append([*key, *times, *ratios, figure(scale.get(key))])
    return [*header, f"{FOR_SCALE}, µs:"], rows


def faults(lines):
    return "\n".join(
        f"- **{line.status}**: {line.impl} {line.case} {line.variant}, error {figure(line.max_err)} of the limit"
        for line in lines
    )
