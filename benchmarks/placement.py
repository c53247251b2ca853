"""Placement of two bundles side by side: nodes and time per provider, copies, casts, operators before and after.

Before: as the graph has them. After: as ONNX Runtime fused and assigned them. Each is profiled in a process of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from foldrank.benchmarks.child import Child
from foldrank.bundle.bundle import Bundle
from foldrank.graph.safe.load import load_model
from foldrank.reports.bench import Operators, Placement
from foldrank.runtime.providers.provider import Provider


def placements(bundles: Mapping[str, Bundle], provider: Provider, threads: int) -> list[Placement]:
    """One entry a bundle. Raises ProviderUnavailable, SourceError (the process died)."""
    return [_placement(name, bundle, provider, threads) for name, bundle in bundles.items()]


def _placement(name: str, bundle: Bundle, provider: Provider, threads: int) -> Placement:
    with Child(f"profile of {name}") as child:
        found = child.ask("profile", folder=str(bundle.path), provider=provider.short, options=dict(provider.options),
                          threads=threads)
    before = Counter(node.op_type for node in load_model(bundle.model).graph)
    after = found.pop("operators")
    operators = Operators(before=dict(sorted(before.items())), after=after)
    return Placement(bundle=name, provider=provider.short, operators=operators, **found)
