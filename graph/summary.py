"""What stands in a model.onnx: ports, operators and data files; no weight is read.

ONNX Runtime's CPU provider, asked instead, would load every weight and has no kernels for bf16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from foldrank.graph.safe.load import load_model
from foldrank.ports import Port


@dataclass(frozen=True)
class Summary:
    """`operators`: nodes by domain (`""` is ONNX's own) and type, those of inner graphs with them. `data_files`: where
    weights lie outside the file, relative to it."""

    inputs: dict[str, Port]
    outputs: dict[str, Port]
    operators: Counter[tuple[str, str]]
    data_files: tuple[str, ...]


def summary_of(path: Path) -> Summary:
    """Raises UnsafeModel where it is no ONNX graph that may be read."""
    model = load_model(path)
    graph = model.graph
    tensors = (value.const_value for value in graph.initializers.values())
    files = {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    nodes = ir.traversal.RecursiveGraphIterator(graph)
    operators = Counter(("" if node.domain == "ai.onnx" else node.domain, node.op_type) for node in nodes)
    return Summary(_ports(graph.inputs), _ports(graph.outputs), operators, tuple(sorted(files)))


def _ports(values: Iterable[ir.Value]) -> dict[str, Port]:
    return {str(value.name): Port(_shape(value), f"tensor({_type(value)})") for value in values}


def _shape(value: ir.Value) -> tuple[int | str | None, ...]:
    dims = () if value.shape is None else value.shape.dims
    return tuple(dim if isinstance(dim, int) else dim.value for dim in dims)


def _type(value: ir.Value) -> str:
    return "" if value.dtype is None else value.dtype.name.lower()
