"""Picture: decoding speed against the length of the context, one panel an engine, one line a bundle and batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from foldrank.reporting import figures
from foldrank.reporting.parts import Picture
from foldrank.reporting.picture import BUNDLES, picture
from foldrank.reports.bench import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = dict[tuple[str, int], dict[int, float]]
"""(bundle, batch) to context tokens to tokens per second, contexts rising."""

_STYLES = ("-", "--", ":", "-.")
"""One a batch, the smallest solid."""


def lines(rows: Sequence[Row]) -> dict[str, Lines]:
    """By engine: the speeds of each bundle and batch that was measured at two contexts or more."""
    found: dict[str, Lines] = {}
    for row in rows:
        if row.bundle in BUNDLES and row.batch and row.context_tokens > 0:
            engine = found.setdefault(row.engine or "", {})
            engine.setdefault((row.bundle, row.batch), {})[row.context_tokens] = row.decode_tokens_per_s
    long = {
        engine: {key: dict(sorted(line.items())) for key, line in by_key.items() if len(line) > 1}
        for engine, by_key in found.items()
    }
    return {engine: by_key for engine, by_key in long.items() if by_key}


def against_context(rows: Sequence[Row]) -> list[Picture]:
    """Nothing where no bundle was measured at more than one context."""
    found = lines(rows)
    if not found:
        return []
    alt = "Tokens per second against the context's length. " + " ".join(
        f"{', '.join(filter(None, (engine, _name(*key))))}: " + ", ".join(
            f"{figures.significant(speed)} at {context:,}" for context, speed in line.items()
        ) + "." for engine, by_key in found.items() for key, line in by_key.items()
    )
    caption = (
        "Decoding speed of all rows of a batch together, by the tokens in the context. A longer context has more keys "
        "and values to read for each token: a folded block takes its own with it, low rank leaves them all."
    )
    return [picture(lambda: _draw(found), "context", alt, caption)]


def _name(bundle: str, batch: int) -> str:
    return f"{BUNDLES[bundle][0]}, batch {batch}"


def _draw(found: Mapping[str, Lines]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.3))
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    batches = sorted({batch for by_key in found.values() for _, batch in by_key})
    styles = {batch: _STYLES[place % len(_STYLES)] for place, batch in enumerate(batches)}
    for axes, (engine, by_key) in zip(panels, found.items(), strict=True):
        for (bundle, batch), line in by_key.items():
            axes.plot(list(line), list(line.values()), styles[batch], marker="o", markersize=4.5,
                      color=BUNDLES[bundle][1], label=_name(bundle, batch))
        axes.set_title(engine)
        axes.set_xlabel("tokens in the context")
        _contexts(axes, sorted({context for line in by_key.values() for context in line}))
        axes.set_ylim(bottom=0)
        axes.grid()
    panels[0].set_ylabel("tokens per second")
    named = {name: line for axes in panels for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=4)
    return figure


def _contexts(axes: Axes, contexts: Sequence[int]) -> None:
    """A tick at each measured context; logarithmic where they lie far apart."""
    if contexts[-1] / contexts[0] > 10:
        axes.set_xscale("log", base=2)
    axes.set_xticks(contexts, [f"{context:,}" for context in contexts], minor=False)
    axes.minorticks_off()
