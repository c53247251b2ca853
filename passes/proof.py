"""Names never decide alone: a weight is the plan's weight when its content has the plan's digest.

The digest is taken here, or is known: a bundle's manifest holds those of its weights, bound to the digests of the files
they lie in, which were proved when the bundle was opened.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial

import onnx_ir as ir

from foldrank.digests import DTYPES, WeightDigest
from foldrank.edits.base import Edit, Part
from foldrank.errors import PlanMismatch
from foldrank.graph.view.decoder import Decoder, Linear
from foldrank.graph.view.stored import role_digests
from foldrank.sites import Site

Known = Mapping[int, Mapping[str, str]]
"""id of a tensor that lies in a file -> role -> digest of that role's columns."""


def known_weights(decoder: Decoder, by_site: Mapping[str, str]) -> Known:
    """What is known of the tensors of a graph as it was read: they are shared, not copied, by what edits it."""
    return {
        id(linear.tensor): {site.role: by_site[str(site)] for site in linear.sites if str(site) in by_site}
        for block in decoder.blocks for linear in block.linears if isinstance(linear.tensor, ir.ExternalTensor)
    }


class Proofs:
    """Proofs under way in threads of their own. Nothing may be published before `settle` has returned."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self._pool = ThreadPoolExecutor(2, "proof")
        self._running: deque[tuple[Future[list[str]], str]] = deque()

    def add(self, linear: Linear, digests: Mapping[Site, WeightDigest], plan_source: str) -> None:
        """Begin to compare one linear's roles, as its weight is now: the graph may change meanwhile."""
        self._running.append((self._pool.submit(_mismatches, digests, {}, linear, linear.tensor), plan_source))

    def settle(self, *, wait: bool = True) -> None:
        """Raise PlanMismatch if a proof has failed; without `wait`, judge only those that are done."""
        if not wait and not (self._running and self._running[0][0].done()):
            return
        wrong: list[str] = []
        plan_source = ""
        while self._running and (wait or wrong or self._running[0][0].done()):
            future, plan_source = self._running.popleft()
            wrong += future.result()
        if wrong:
            raise _mismatch(wrong, plan_source)

    def close(self) -> None:
        """End the threads; proofs that have not begun are dropped."""
        self._pool.shutdown(cancel_futures=True)


_LATER: ContextVar[Proofs | None] = ContextVar("proofs", default=None)


@contextlib.contextmanager
def proofs_beside(known: Known) -> Iterator[Proofs]:
    """Within it, `prove` may return while it still compares, and uses the digests that are known of tensors that the
    caller keeps alive. The caller settles before anything comes of it."""
    proofs = Proofs(known)
    token = _LATER.set(proofs)
    try:
        yield proofs
    finally:
        _LATER.reset(token)
        proofs.close()


def replaced_digests(edits: Iterable[Edit], written: frozenset[Part]) -> dict[Site, WeightDigest]:
    """The digest that edits give of each site, but for sites that the plan wrote before."""
    return {part: digest for edit in edits for part, digest in edit.replaced.items()
            if part not in written and isinstance(part, Site)}


def source_digests(
    sites: Iterable[Site], weights: Mapping[str, WeightDigest], edited: Collection[Part], lacking: str
) -> dict[Site, WeightDigest]:
    """Digests that the plan's source has of these sites, by which `prove` compares; of those that earlier edits wrote
    (`edited`), who wrote them has proved. Raises PlanMismatch, which says `lacking`, where one is missing."""
    asked = [site for site in sites if site not in edited]
    if missing := [str(site) for site in asked if str(site) not in weights]:
        raise PlanMismatch(missing[0], lacking, "plan again")
    return {site: weights[str(site)] for site in asked}


def prove(linears: Iterable[Linear], digests: Mapping[Site, WeightDigest], plan_source: str) -> None:
    """Compare every role of the linears that has a digest. Reads each weight once, in pieces, two weights at a time.

    Raises PlanMismatch naming sites: now, or, within `proofs_beside`, when those are settled. A transposed weight is
    read whole, so it is proved now: nothing else needs memory yet.
    """
    later = _LATER.get()
    known = later.known if later is not None else {}
    at_once = [linear for linear in linears if later is None or not _later(later, linear, digests, plan_source)]
    compare, tensors = partial(_mismatches, digests, known), [linear.tensor for linear in at_once]
    with ThreadPoolExecutor(2) as pool:
        wrong = [site for sites in pool.map(compare, at_once, tensors) for site in sites]
    if wrong:
        raise _mismatch(wrong, plan_source)


def _later(proofs: Proofs, linear: Linear, digests: Mapping[Site, WeightDigest], plan_source: str) -> bool:
    """Whether the linear is proved beside; only one that lies in a file is, in pieces, unless its digest is known."""
    if linear.transposed or not isinstance(linear.tensor, ir.ExternalTensor) or id(linear.tensor) in proofs.known:
        return False
    proofs.add(linear, digests, plan_source)
    return True


def _mismatch(sites: list[str], plan_source: str) -> PlanMismatch:
    shown = ", ".join(sites[:5]) + (f" and {len(sites) - 5} more" if len(sites) > 5 else "")
    return PlanMismatch(
        shown, f"the graph holds other weights than the plan was made for ({plan_source})",
        "apply the plan to a dense export of that checkpoint, or plan again",
    )


def _mismatches(
    digests: Mapping[Site, WeightDigest], known: Known, linear: Linear, tensor: ir.TensorProtocol
) -> list[str]:
    """Sites of the linear, stored as `tensor`, whose weight has another digest."""
    asked = [site for site in linear.sites if site in digests]
    found = dict(known.get(id(tensor), {}))
    if missing := [site.role for site in asked if site.role not in found]:
        found |= role_digests(linear, tensor, missing)
    dtype = next(name for name, stored in DTYPES.items() if stored == tensor.dtype.numpy())
    return [str(site) for site in asked if getattr(digests[site], dtype) != found[site.role]]
