"""The table of ONNX Runtime's own operators, from the one that is installed:

    PYTHONPATH=tests/support python -m operator_table > graph/safe/contrib.json
"""

from __future__ import annotations

import json
from typing import Any

import onnx
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from foldrank.graph.safe.schemas import Schema


def table() -> str:
    """Those of com.microsoft, and those of the standard domain that are older than the standard's, or not in it."""
    first: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            first[schema.name] = min(schema.since_version, first.get(schema.name, schema.since_version))
    found: dict[str, dict[str, Any]] = {"": {}, "com.microsoft": {}}
    for schema in sorted(runtime.get_all_operator_schema(), key=lambda one: (one.domain, one.name, one.since_version)):
        if schema.domain in found and (schema.domain or schema.since_version < first.get(schema.name, 1 << 30)):
            told = Schema.of(schema)
            found[schema.domain][schema.name] = {
                "inputs": told.inputs, "outputs": told.outputs, "attributes": dict(sorted(told.attributes.items())),
                "required": sorted(told.required)}
    lines = (f" {json.dumps(domain)}: {{\n" + ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in operators.items()) + "\n }"
        for domain, operators in found.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    print(table(), end="")
