"""Numbers that a plan holds: whether the graph has every one of them, bit for bit.

Written apart from the passes that put them there: a proof by logits would miss a number that weighs little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.edits.base import HEAD
from foldrank.edits.storage import Numbers, StorageEdit
from foldrank.graph.linear.head import head_of
from foldrank.graph.linear.marks import PART, sites_of
from foldrank.graph.linear.weights import read
from foldrank.graph.view.skip_norms import read_apart
from foldrank.planfile.plan import Plan
from foldrank.reports.validate import FewBitsKept
from foldrank.sites import Site

_SHOWN = 5

Key = tuple[str, str]
"""A single-role site, or `head`, and which matrix of it: "A" or "B" of a pair, "" a weight."""


def planned_numbers(model: ir.Model, plan: Plan) -> FewBitsKept | None:
    """Whether the graph has the plan's numbers, scales and zero points; None where it holds none."""
    wanted = {key: numbers for edit in plan.edits if isinstance(edit, StorageEdit) for key, numbers in _of(edit)}
    if not wanted:
        return None
    met: set[Key] = set()
    differ: list[str] = []
    for keys, node in _nodes(model):
        met.update(keys)
        planned = [wanted[key] for key in keys if key in wanted]
        if planned and not _same(node, planned[:1] if keys[0][1] == "A" else planned, plan.arrays):
            differ.append(" ".join((",".join(site for site, _ in keys), keys[0][1])).strip())
    differ += [" ".join(key).strip() for key in wanted if key not in met]
    return FewBitsKept(compared=len(wanted), differ=differ[:_SHOWN], passed=not differ)


def _of(edit: StorageEdit) -> Iterator[tuple[Key, Numbers]]:
    names = ("A", "B") if len(edit.held) == 2 else ("",)
    for part in edit.touch.writes:
        yield from (((str(part), name), numbers) for name, numbers in zip(names, edit.held, strict=False))


def _nodes(model: ir.Model) -> Iterator[tuple[tuple[Key, ...], ir.Node]]:
    """Every MatMulNBits with what it computes, in storage order."""
    for block in read_apart(model).blocks:
        single = {few.node: tuple((str(Site(block.number, (role,))), "") for role in few.roles)
                  for few in block.few_bits}
        for node in block.nodes:
            if node.op_type != "MatMulNBits":
                continue
            if (part := node.metadata_props.get(PART)) in ("A", "B"):
                yield tuple((str(site), str(part)) for site in sites_of(node)), node
            elif node in single:
                yield single[node], node
    head = head_of(model.graph)
    if head is not None and head.op_type == "MatMulNBits":
        yield ((HEAD, ""),), head


def _same(node: ir.Node, planned: list[Numbers], arrays: Mapping[str, np.ndarray[Any, Any]]) -> bool:
    held = [value.const_value for value in node.inputs[1:4] if value is not None]
    names = [[numbers.numbers, numbers.scales, numbers.zeros] for numbers in planned]
    columns = [[name for name in parts if name is not None] for parts in zip(*names, strict=True)]
    wanted = [np.concatenate([arrays[name] for name in parts]) for parts in columns if parts]
    if len(held) != len(wanted):
        return False
    return all(tensor is not None and np.array_equal(read(tensor), cast(array, tensor.dtype.numpy()))
               for tensor, array in zip(held, wanted, strict=True))
