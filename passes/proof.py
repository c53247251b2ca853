"""Names never decide alone: a weight is the plan's weight when its content has the plan's digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from foldrank.digests import DTYPES, WeightDigest
from foldrank.errors import PlanMismatch
from foldrank.graph.decoder import Linear
from foldrank.graph.weights import CHUNK_BYTES, Array, read_rows, row_chunks
from foldrank.sites import Site


def prove(linears: Iterable[Linear], digests: Mapping[Site, WeightDigest], plan_source: str) -> None:
    """Compare every role of the linears that has a digest. Reads each weight once, in pieces, two weights at a time.

    Raises PlanMismatch naming sites.
    """
    with ThreadPoolExecutor(2) as pool:
        wrong = [site for sites in pool.map(partial(_mismatches, digests), linears) for site in sites]
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise PlanMismatch(
            shown, f"the graph holds other weights than the plan was made for ({plan_source})",
            "apply the plan to a dense export of that checkpoint, or plan again",
        )


def _mismatches(digests: Mapping[Site, WeightDigest], linear: Linear) -> list[str]:
    asked = [site for site in linear.sites if site in digests]
    if not asked:
        return []
    hashes = {site: hashlib.sha256() for site in asked}
    if linear.transposed:
        for site, found in hashes.items():
            for rows in _turned_chunks(linear, linear.columns(site.role)):
                found.update(rows.view(np.uint8).data)
    else:
        for rows in row_chunks(linear.tensor):
            for site, found in hashes.items():
                found.update(np.ascontiguousarray(rows[:, linear.columns(site.role)]).view(np.uint8).data)
    dtype = next(name for name, stored in DTYPES.items() if stored == linear.tensor.dtype.numpy())
    return [str(site) for site, found in hashes.items() if getattr(digests[site], dtype) != found.hexdigest()]


def _turned_chunks(linear: Linear, columns: slice) -> Iterator[Array]:
    """Rows of W [in, these columns] in pieces, of a weight that is stored [out, in]: read whole, turned in pieces."""
    stored = read_rows(linear.tensor, columns.start, columns.stop)
    step = max(1, CHUNK_BYTES // max(1, stored[:, :1].nbytes))
    for start in range(0, stored.shape[1], step):
        yield np.ascontiguousarray(stored[:, start : start + step].T)
