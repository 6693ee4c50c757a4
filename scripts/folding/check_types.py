#!/usr/bin/env python3
"""Holds the operators that `--dtype` converts against the schemas of the `onnx` package.

    check_types.py

For every operator in the table of `src/fold/onnx/pass/convert.rs`: the inputs that the table has as floating-point are
those of the type that the operator computes in, in every version from opset 6 on; that type may be f16; and it may be bf16
from the opset on that the table says, and not before. Needs onnx.
"""

import pathlib
import re
import sys

import onnx

TABLE = pathlib.Path(__file__).parents[2] / "src" / "fold" / "onnx" / "pass" / "convert.rs"
FIRST, NEVER = 6, 10**9


def table():
    text = TABLE.read_text()
    body = re.search(r"const OPERATORS: .*? = \[\n(.*?)\n\];", text, re.S).group(1)
    for op, slots, bf16 in re.findall(r'\("(\w+)", (\w+), (\w+)\)', body):
        mask = {"ALL": -1, "DATA": 1}.get(slots)
        yield op, int(slots, 0) if mask is None else mask, NEVER if bf16 == "NEVER" else int(bf16)


def types(schema, type_str):
    found = [constraint.allowed_type_strs for constraint in schema.type_constraints if constraint.type_param_str == type_str]
    return set(found[0]) if found else {type_str}


def versions(op):
    """The schema of each opset from the first on."""
    newest = onnx.defs.onnx_opset_version()
    for opset in range(FIRST, newest + 1):
        try:
            schema = onnx.defs.get_schema(op, opset, "")
        except onnx.defs.SchemaError:
            continue
        if not schema.deprecated:
            yield opset, schema


def check(op, mask, bf16):
    faults = []
    first_bf16 = NEVER
    for opset, schema in versions(op):
        slots = -1 if op == "BatchNormalization" and opset < 14 else mask
        of_data = [slot for slot in range(len(schema.inputs)) if slots >> slot & 1]
        is_bf16 = True
        for slot in of_data:
            allowed = types(schema, schema.inputs[slot].type_str)
            if "tensor(int64)" in allowed and "tensor(float)" not in allowed:
                faults.append(f"{op} {opset}: input {slot} holds integers")
            elif "tensor(float16)" not in allowed:
                faults.append(f"{op} {opset}: input {slot} is never f16")
            is_bf16 &= "tensor(bfloat16)" in allowed
        is_bf16 &= "tensor(bfloat16)" in types(schema, schema.outputs[0].type_str)
        if schema.outputs[0].type_str not in [schema.inputs[slot].type_str for slot in of_data]:
            faults.append(f"{op} {opset}: its output is not of its data's type")
        for slot, given in enumerate(schema.inputs):
            if not slots >> slot & 1 and given.type_str == schema.inputs[of_data[0]].type_str:
                faults.append(f"{op} {opset}: input {slot} is of the type, and not in the table")
        if is_bf16:
            first_bf16 = min(first_bf16, opset)
        elif first_bf16 < NEVER:
            faults.append(f"{op} {opset}: bf16 again not")
    introduced = min(opset for opset, _ in versions(op))
    if max(first_bf16, introduced) != max(bf16, introduced):
        faults.append(f"{op}: bf16 from {first_bf16} on, and from {bf16} in the table")
    return faults


def main():
    operators = list(table())
    faults = [fault for operator in operators for fault in check(*operator)]
    print("\n".join(faults))
    if faults or len(operators) < 50:
        sys.exit(f"{len(operators)} operators, {len(faults)} faults")
    print(f"{len(operators)} operators are as the standard has them")


if __name__ == "__main__":
    main()
