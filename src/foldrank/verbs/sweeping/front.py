"""The front of a sweep: candidates than which none is smaller and better; as a table in Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foldrank.reporting import figures
from foldrank.reporting.picture import DENSE, SMALL, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Mapping[str, Mapping[str, Any]]
"""Results by the candidates' names."""


def front(results: Results) -> list[str]:
    """Names, smallest first: of those that passed, none has another that is no larger and no worse, and one of both
    less. Of equals the first stays."""
    left = sorted((name for name, found in results.items() if found["verdict"] == "pass"),
                  key=lambda name: _point(results[name]))
    found: list[str] = []
    for name in left:
        if not found or _point(results[name])[1] < _point(results[found[-1]])[1]:
            found.append(name)
    return found


def table(results: Results, on_front: Sequence[str], failed: Mapping[str, str]) -> str:
    """Everything that was tried."""
    rows = [f"| {'**front**' if name in on_front else found['verdict']} | `{_told(found)}` | "
            f"{figures.size(found['bytes'])} | {found['quality']['kl_nats']:.4f} | "
            f"{found['quality']['perplexity_ratio']:.4f} | {found['quality']['top1_agreement']:.4f} |"
            for name, found in sorted(results.items(), key=lambda item: _point(item[1]))]
    lines = ["| | candidate | graph and weights | KL, nats | perplexity over dense | top-1 agreement |",
             "| --- | --- | --- | --- | --- | --- |", *rows]
    if failed:
        lines += ["", "Failed:", "", *(f"* `{name}`: {said}" for name, said in sorted(failed.items()))]
    return "\n".join(lines) + "\n"


def drawn(results: Results, on_front: Sequence[str]) -> bytes:
    """An SVG file: KL by bytes, the front joined. The same results give the same bytes. Needs matplotlib."""
    import io

    with canvas("sweep"):
        buffer = io.BytesIO()
        _draw(results, on_front).savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
        return buffer.getvalue()


def _draw(results: Results, on_front: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6))
    axes = figure.subplots()
    others = [_point(found) for name, found in sorted(results.items()) if name not in on_front]
    best = [_point(results[name]) for name in on_front]
    axes.plot([size / 1e6 for size, _ in others], [nats for _, nats in others], "o", color=DENSE, markersize=5,
              label="candidate")
    axes.plot([size / 1e6 for size, _ in best], [nats for _, nats in best], "o-", color=SMALL, markersize=6,
              label="front")
    axes.set_xlabel("graph and weights, MB")
    axes.set_title("KL from dense, nats a token", loc="left")
    axes.set_ylim(bottom=0)
    axes.grid()
    axes.legend()
    return figure


def _point(found: Mapping[str, Any]) -> tuple[int, float]:
    return found["bytes"], found["quality"]["kl_nats"]


def _told(found: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in found["changes"].items()) or "as it is"
