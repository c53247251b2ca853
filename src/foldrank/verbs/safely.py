"""No runtime opens a graph that the safe loader has not passed: bundles come from strangers."""

from __future__ import annotations

from foldrank.bundle.bundle import Bundle
from foldrank.graph.safe.load import load_model


def refuse_unsafe(*bundles: Bundle) -> None:
    """Raise UnsafeModel where a bundle's graph breaks a rule of safe loading: functions of its own, operators of other
    domains, weights from elsewhere, links. Its weights are not read."""
    for bundle in bundles:
        load_model(bundle.model)
