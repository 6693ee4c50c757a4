"""Writes the ONNX standard's own node tests of its normalization operators.

    pip install onnx==1.23.2 numpy==2.4.6 safetensors==0.8.0
    python onnx_nodes.py --out onnx_nodes.safetensors

The package `onnx` (Apache-2.0) has them as code, in `onnx.backend.test.case.node`: each
a model of one node with inputs, and outputs that NumPy computed of those in float32.

They are counted by model. One whose only node is the operator is a case here: there
are 4 of BatchNormalization, 2 of GroupNormalization, 2 of InstanceNormalization, 19 of
LayerNormalization and 19 of RMSNormalization. The package has some of them once more
under a name with `_expanded`: the operator written out in others, 2, 38 (two opsets)
and 19 of the last three that have a definition as a function. These have, bit for bit,
the inputs and outputs of the case whose name they extend, which is checked here, and
they are left out: to run them would be to run that case again.

GroupNormalization is that of opset 21, with scale and bias of each channel. Before, in
opset 18, they belonged to groups; no case is left of it.

A case has its tensors under `<name>.<input or output>`, in float32, by the standard's
names: `X`, `scale`, `B`, `input_mean`, `input_var`; `Y`, `Mean`, `InvStdDev`,
`running_mean`, `running_var`. The metadata has a JSON object for each case, under its
name: `op`, the `opset` of the model, `attributes` that the node states, `defaults` of
those that it leaves to the standard, the names of its `inputs` and `outputs`, and by
how much, relatively and absolutely, the standard lets an output differ (`rtol` and
`atol`).
"""

import argparse
import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from group_norm_notes import write
from onnx.backend.test.case.node import collect_testcases

VERSION = "1.23.2"

CASES = {
    "BatchNormalization": 4,
    "GroupNormalization": 2,
    "InstanceNormalization": 2,
    "LayerNormalization": 19,
    "RMSNormalization": 19,
}
EXPANDED = {"GroupNormalization": 2, "LayerNormalization": 38, "RMSNormalization": 19}

# One name for one thing, whatever the operator calls it.
NAMES = {
    "input": "X",
    "Scale": "scale",
    "Bias": "B",
    "bias": "B",
    "output": "Y",
}


def attributes(node, schema):
    """What the node states, and what the standard says where it states nothing."""
    stated = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    defaults = {
        name: onnx.helper.get_attribute_value(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if name not in stated and attribute.default_value.name
    }
    return stated, defaults


def named(formal, arrays):
    """Arrays by the names of the schema's inputs or outputs, all of them given."""
    return {NAMES.get(f.name, f.name): a for f, a in zip(formal, arrays)}


def convert(case):
    [node] = case.model.graph.node
    [opset] = [o.version for o in case.model.opset_import if not o.domain]
    [(inputs, outputs)] = case.data_sets
    schema = onnx.defs.get_schema(node.op_type, opset)
    assert "" not in [*node.input, *node.output], f"{case.name} leaves an input out"
    inputs, outputs = named(schema.inputs, inputs), named(schema.outputs, outputs)
    stated, defaults = attributes(node, schema)
    description = {
        "op": node.op_type,
        "opset": opset,
        "attributes": stated,
        "defaults": defaults,
        "inputs": list(inputs),
        "outputs": list(outputs),
        "rtol": case.rtol,
        "atol": case.atol,
    }
    return description, inputs | outputs


def same_data(case, other):
    arrays = [[*ins, *outs] for c in (case, other) for ins, outs in c.data_sets]
    return all(a.tobytes() == b.tobytes() for a, b in zip(*arrays, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    out = parser.parse_args().out
    assert onnx.__version__ == VERSION, f"onnx is {onnx.__version__}, not {VERSION}"

    # Once for all operators: a second call returns the first one's list.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of tests of infinities
        every = {case.name: case for case in collect_testcases(None)}

    tensors, metadata = {}, {}
    counts, expanded = Counter(), Counter()
    for name, case in every.items():
        nodes = case.model.graph.node
        original = every.get(name.partition("_expanded")[0])
        if len(nodes) == 1 and nodes[0].op_type in CASES:
            counts[nodes[0].op_type] += 1
            description, arrays = convert(case)
            metadata[name] = json.dumps(description, sort_keys=True)
            for part, array in arrays.items():
                assert array.dtype == np.float32, f"{name}.{part} is {array.dtype}"
                tensors[f"{name}.{part}"] = np.ascontiguousarray(array)
        elif original is not None and original.model.graph.node[0].op_type in CASES:
            expanded[original.model.graph.node[0].op_type] += 1
            assert same_data(original, case), f"{name} has data of its own"
    assert counts == CASES, f"{counts}"
    assert expanded == EXPANDED, f"{expanded}"

    write(out, tensors, metadata)
    print(f"{out}: {len(metadata)} cases, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
