"""Few bits as ONNX Runtime's own operators read them, numbers laid out as in the plan.

    x ── MatMulNBits <── numbers [out, blocks, bytes], scales, zero points
    tokens ── GatherBlockQuantized <── Reshape [words, bytes] <── the same numbers; scales, zero points

Source: ONNX Runtime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.edits.storage import FewBits
from foldrank.graph.linear.weights import add_initializer, lazily
from foldrank.passes.making import Maker
from foldrank.passes.numbers import Part

DOMAIN = "com.microsoft"
Values = Sequence[ir.Value]


def admit(model: ir.Model) -> None:
    """Import the operators' domain."""
    model.graph.opset_imports.setdefault(DOMAIN, 1)


def tensors(
    part: Part, storage: FewBits, shape: tuple[int, int], dtype: ir.DataType, *, by_rows: bool = False
) -> list[ir.LazyTensor]:
    """Numbers, scales and, where not symmetric, zero points; rows of a table lie as columns of a matrix do."""
    numbers, scales, zeros = storage.layout(shape)
    found = [lazily(partial(part, 0), ir.DataType.UINT8, numbers),
             lazily(lambda: cast(part(1), dtype.numpy()), dtype, scales)]
    return found if storage.symmetric else [*found, lazily(partial(part, 2), ir.DataType.UINT8, zeros)]


def product(
    maker: Maker, old: ir.Node, shape: tuple[int, int], stored: Values, storage: FewBits, marks: Mapping[str, str]
) -> ir.Node:
    """x @ W."""
    numbers = {"K": shape[0], "N": shape[1], "bits": storage.bits, "block_size": storage.block_size}
    if storage.accuracy:  # other providers do not know the attribute
        numbers["accuracy_level"] = storage.accuracy
    return maker.in_place(old, DOMAIN, "MatMulNBits", [old.inputs[0], *stored], f"_Q{storage.bits}", marks, numbers)


def rows(
    maker: Maker, old: ir.Node, shape: tuple[int, int], stored: Values, storage: FewBits, marks: Mapping[str, str],
    *, shared: bool,
) -> ir.Node:
    """Rows of a table [width, words]."""
    width, words = shape
    suffix = f"_Q{storage.bits}"
    flat = [words, width * storage.bits // 8]
    asked = add_initializer(maker.graph, f"{old.name}{suffix}/shape", ir.Tensor(np.array(flat, np.int64)))
    numbers = maker.before(old, "Reshape", [stored[0], asked], f"{suffix}/Reshape", ir.DataType.UINT8, flat)
    numbered = {"bits": storage.bits, "block_size": storage.block_size, "gather_axis": 0, "quantize_axis": 1}
    inputs = [numbers, old.inputs[1], *stored[1:]]
    return maker.in_place(old, DOMAIN, "GatherBlockQuantized", inputs, suffix, marks, numbered)
