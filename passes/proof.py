"""Names never decide alone: a weight is the plan's weight when its content has the plan's digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from foldrank.digests import WeightDigest
from foldrank.errors import PlanMismatch
from foldrank.graph.decoder import Linear
from foldrank.graph.weights import read
from foldrank.sites import Site


def prove(linears: Iterable[Linear], digests: Mapping[Site, WeightDigest], plan_source: str) -> None:
    """Compare every role of the linears that has a digest. Reads each weight once. Raises PlanMismatch naming sites."""
    wrong: list[str] = []
    for linear in linears:
        asked = [site for site in linear.sites if site in digests]
        if not asked:
            continue
        weight = read(linear.tensor)
        wrong += [
            str(site) for site in asked
            if not digests[site].matches(np.ascontiguousarray(weight[:, linear.columns(site.role)]))
        ]
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise PlanMismatch(
            shown, f"the graph holds other weights than the plan was made for ({plan_source})",
            "apply the plan to a dense export of that checkpoint, or plan again",
        )
