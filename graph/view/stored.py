"""Digests of weights as a graph stores them: of W [in, out] in its stored dtype, one for each single role.

`foldrank.digests` has the other side, what a plan expects in each dtype.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir

from foldrank.errors import GraphNotRecognized
from foldrank.graph.linear.linears import Linear
from foldrank.graph.linear.weights import CHUNK_BYTES, Array, read_rows, row_chunks
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import Decoder
from foldrank.graph.view.skip_norms import read_apart


def stored_weights(path: Path) -> tuple[list[str], dict[str, str]] | None:
    """The graph's file and the data files beside it, and the digests of the weights in them, by site.

    None for a graph that is no decoder whose blocks can be told: it may be a bundle's all the same. Raises UnsafeModel.
    """
    model = load_model(path)
    try:
        digests = stored_digests(read_apart(model))
    except GraphNotRecognized:
        return None
    tensors = (value.const_value for value in model.graph.initializers.values())
    files = {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    return [path.name, *sorted(files)], digests


def stored_digests(decoder: Decoder, threads: int = 2) -> dict[str, str]:
    """Hex sha256 of every dense weight, by site (`block.07.q`). Reads each weight once, in pieces."""
    linears = [linear for block in decoder.blocks for linear in block.linears]
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda linear: role_digests(linear, linear.tensor, linear.roles), linears)
        return {
            str(site): digests[site.role]
            for linear, digests in zip(linears, found, strict=True) for site in linear.sites
        }


def role_digests(linear: Linear, tensor: ir.TensorProtocol, roles: Sequence[str]) -> dict[str, str]:
    """Hex sha256 of the columns of some roles of a linear that is stored as `tensor`."""
    hashes = {role: hashlib.sha256() for role in roles}
    if linear.transposed:
        for role, found in hashes.items():
            for rows in _turned_chunks(tensor, linear.columns(role)):
                found.update(rows.view(np.uint8).data)
    else:
        for rows in row_chunks(tensor):
            for role, found in hashes.items():
                found.update(np.ascontiguousarray(rows[:, linear.columns(role)]).view(np.uint8).data)
    return {role: found.hexdigest() for role, found in hashes.items()}


def _turned_chunks(tensor: ir.TensorProtocol, columns: slice) -> Iterator[Array]:
    """Rows of W [in, these columns] in pieces, of a weight that is stored [out, in]: read whole, turned in pieces."""
    stored = read_rows(tensor, columns.start, columns.stop)
    step = max(1, CHUNK_BYTES // max(1, stored[:, :1].nbytes))
    for start in range(0, stored.shape[1], step):
        yield np.ascontiguousarray(stored[:, start : start + step].T)
