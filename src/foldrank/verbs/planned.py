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
from foldrank.graph.linear.matrices import Dequantized, dequantized_weight, few_bits, stored_as
from foldrank.graph.linear.weights import read
from foldrank.graph.view.skip_norms import read_apart
from foldrank.planfile.plan import Plan
from foldrank.reports.validate import WeightsKept
from foldrank.sites import Site

_SHOWN = 5

Key = tuple[str, str]
"""A single-role site, or `head`, and which matrix of it: "A" or "B" of a pair, "" a weight."""


def planned_numbers(model: ir.Model, plan: Plan) -> WeightsKept | None:
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
    return WeightsKept(compared=len(wanted), differ=differ[:_SHOWN], passed=not differ)


def _of(edit: StorageEdit) -> Iterator[tuple[Key, Numbers]]:
    names = ("A", "B") if len(edit.held) == 2 else ("",)
    for part in edit.touch.writes:
        yield from (((str(part), name), numbers) for name, numbers in zip(names, edit.held, strict=False))


def _nodes(model: ir.Model) -> Iterator[tuple[tuple[Key, ...], ir.Node]]:
    """Every product by few bits with what it computes, in storage order."""
    for block in read_apart(model).blocks:
        single = {few.node: tuple((str(Site(block.number, (role,))), "") for role in few.roles)
                  for few in block.few_bits}
        for node in block.nodes:
            if few_bits(node) is None:
                continue
            if (part := node.metadata_props.get(PART)) in ("A", "B"):
                yield tuple((str(site), str(part)) for site in sites_of(node)), node
            elif node in single:
                yield single[node], node
    head = head_of(model.graph)
    if head is not None and few_bits(head) is not None:
        yield ((HEAD, ""),), head


def _same(node: ir.Node, planned: list[Numbers], arrays: Mapping[str, np.ndarray[Any, Any]]) -> bool:
    stored = stored_as(node)
    held = [value.const_value for value in (stored[0], *stored[1])] if stored is not None else []
    names = [[numbers.numbers, numbers.scales, numbers.zeros] for numbers in planned]
    columns = [[name for name in parts if name is not None] for parts in zip(*names, strict=True)]
    wanted = [np.concatenate([arrays[name] for name in parts]) for parts in columns if parts]
    if len(held) != len(wanted):
        return False
    if (behind := dequantized_weight(node)) is not None:
        return _same_behind(behind, wanted)
    return all(tensor is not None and np.array_equal(read(tensor), cast(array, tensor.dtype.numpy()))
               for tensor, array in zip(held, wanted, strict=True))


def _same_behind(found: Dequantized, wanted: list[np.ndarray[Any, Any]]) -> bool:
    """Whether a DequantizeLinear reads [in, out] what the plan has [out, blocks, bytes], and scales and zero points
    likewise. Bits of a byte stand lowest first; without zero points numbers are signed, half of the range less."""
    numbers, scale = found.numbers.const_value, found.scale.const_value
    if numbers is None or scale is None or found.axis != 0 or found.transposed:
        return False
    (n_in, n_out), bits = numbers.shape.numpy(), numbers.dtype.bitwidth

    def each(packed: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
        loose = np.unpackbits(packed.reshape(n_out, -1), axis=1, bitorder="little").reshape(n_out, -1, bits)
        return (loose @ (1 << np.arange(bits)))[:, :count].T

    half = 2 ** (bits - 1) if found.zero is None else 0
    pairs = [(read(numbers).astype(np.int64) + half, each(wanted[0], n_in)),
             (read(scale), cast(wanted[1], scale.dtype.numpy()).T)]
    if found.zero is not None and found.zero.const_value is not None:
        pairs.append((read(found.zero.const_value).astype(np.int64), each(wanted[2], len(wanted[1].T))))
    return wanted[0].shape[0] == n_out and wanted[0].shape[1] == len(wanted[1].T) \
        and wanted[0].shape[2] * 8 == found.block_size * bits and all(np.array_equal(*pair) for pair in pairs)
