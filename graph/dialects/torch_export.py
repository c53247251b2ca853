"""torch.onnx.export(dynamo=True), plain or through transformers.exporters (5.23): scopes of modules in node metadata.

`pkg.torch.onnx.name_scopes` lists the modules a node was traced in, `namespace` the same in another spelling. What
blocks share carries the scope of the block that was traced first.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from foldrank.graph.dialects import Dialect
from foldrank.graph.dialects.modules import ATTENTION_AND_UP, LINEAR_OPERATORS, SCOPES
from foldrank.graph.linear.beside import result_of
from foldrank.graph.linear.linears import bias_of
from foldrank.model.modules import is_attention, is_interleaved, roles_of_module

_WORD = re.compile(r"[\w.]+")
_BLOCK = re.compile(r"(?:\w+\.)*(?:layers|h|blocks|block)\.(\d{1,5})(?:\.([\w.]+))?")


def _scope(node: ir.Node) -> tuple[int, str] | None:
    """(block, path of the innermost module inside it)."""
    text = next((node.metadata_props[key] for key in SCOPES if key in node.metadata_props), "")
    found = [match for word in _WORD.findall(text) if (match := _BLOCK.fullmatch(word))]
    return (int(found[-1].group(1)), found[-1].group(2) or "") if found else None


def _recognizes(model: ir.Model) -> bool:
    return any(_scope(node) is not None for node in model.graph)


def _block_of(node: ir.Node) -> int | None:
    scope = _scope(node) or next(filter(None, _scopes_of_parts(node)), None)
    return scope[0] if scope is not None else None


def _roles_of(node: ir.Node) -> tuple[str, ...] | None:
    if node.op_type not in LINEAR_OPERATORS:
        return None
    scope = _scope(node)
    return roles_of_module(scope[1]) if scope is not None else _packed(node)


def _interleaves(node: ir.Node) -> bool:
    scope = _scope(node)
    return is_interleaved(scope[1]) if scope is not None else _packed(node) == ATTENTION_AND_UP


def _packed(node: ir.Node) -> tuple[str, ...] | None:
    """Three are q, k, v; two are gate and up, but for a packed attention beside an MLP that reads the same norm."""
    match _scopes_of_parts(node):
        case [_, _, _]:
            return ("q", "k", "v")
        case [(_, first), (_, second)] if is_attention(first) and not is_attention(second):
            return ATTENTION_AND_UP
        case [_, _]:
            return ("gate", "up")
    return None


def _scopes_of_parts(node: ir.Node) -> list[tuple[int, str] | None]:
    """ort_fusions pack linears that read one input, without a scope: where each part of the result, which a bias of all
    of it may stand before, is read."""
    bias = bias_of(node) if node.op_type in LINEAR_OPERATORS else None
    result = bias[0].outputs[0] if bias is not None and bias[0] is not node else result_of(node)
    users = result.consumers() if node.op_type in LINEAR_OPERATORS else ()
    if len(users) != 1 or users[0].op_type != "Split":
        return []
    return [next((scope for reader in part.consumers() if (scope := _scope(reader))), None)
            for part in users[0].outputs]


def _is_buffer(name: str) -> bool:
    return "rotary_emb" in name or "inv_freq" in name


DIALECT = Dialect("torch", _recognizes, _block_of, _roles_of, _is_buffer, _interleaves)
