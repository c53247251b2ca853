"""Operators as their schemas have them: known by name, with as many inputs and outputs, attributes of the right type.

The standard's schemas come with onnx. Those of com.microsoft, and of what ONNX Runtime adds to the standard domain
(LayerNormalization before opset 17, for one), lie in contrib.json, taken from ONNX Runtime by
tests/support/operator_table.py, so that a graph can be judged where no runtime is installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import onnx

FILE = "contrib.json"
_TYPES = onnx.AttributeProto.AttributeType


@dataclass(frozen=True)
class Schema:
    """Least and most inputs and outputs; attributes' types by name, and those that must be there."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: Mapping[str, str]
    required: frozenset[str]

    @classmethod
    def of(cls, schema: Any) -> Schema:
        """Of onnx's own kind, which ONNX Runtime's is like."""
        kinds = {name: str(attribute.type).rpartition(".")[2] for name, attribute in schema.attributes.items()}
        return cls((schema.min_input, schema.max_input), (schema.min_output, schema.max_output), kinds,
                   frozenset(name for name, attribute in schema.attributes.items() if attribute.required))

    def problems(self, node: onnx.NodeProto) -> Iterator[str]:
        """What of a node is not as here."""
        for what, names, (least, most) in (("inputs", node.input, self.inputs), ("outputs", node.output, self.outputs)):
            if not least <= len(names) <= most:
                yield f"has {len(names)} {what}, its operator takes {least} to {most}"
        for attribute in node.attribute:
            kind = self.attributes.get(attribute.name)
            if attribute.ref_attr_name:
                yield f"its attribute {attribute.name!r:.40} stands for one of a function"
            elif kind is None:
                yield f"its operator has no attribute {attribute.name!r:.40}"
            elif kind != _TYPES.Name(attribute.type):
                yield f"its attribute {attribute.name!r:.40} is {_TYPES.Name(attribute.type)}, not {kind}"
        if missing := sorted(self.required - {attribute.name for attribute in node.attribute}):
            yield f"it lacks the attribute {missing[0]!r}"


def schema_of(domain: str, operator: str, opset: int) -> Schema | None:
    """The newest that is not newer than the opset; None where no such operator is known, or it is deprecated."""
    return _standard(operator, opset) if domain == "" else _contrib().get((domain, operator))


@cache
def _standard(operator: str, opset: int) -> Schema | None:
    if not 0 < opset < 1 << 31:  # onnx takes no other number
        return None
    try:
        found = onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return _contrib().get(("", operator))
    return None if found.deprecated else Schema.of(found)


@cache
def _contrib() -> Mapping[tuple[str, str], Schema]:
    held = json.loads((resources.files("foldrank.graph.safe") / FILE).read_text(encoding="utf-8"))
    return {(domain, name): Schema(tuple(one["inputs"]), tuple(one["outputs"]), one["attributes"],
                                   frozenset(one["required"]))
            for domain, operators in held.items() for name, one in operators.items()}
