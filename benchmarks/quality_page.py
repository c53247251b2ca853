"""docs/quality.md and its picture from quality.json: python -m foldrank.benchmarks.quality_page quality.json docs

A test renders the page again from the committed JSON and compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click

HEAD = """# Quality by method and size

Perplexity over that of the dense model on {tokens:,} held-out tokens ({text}), median over
the calibration seeds that were run, at most {seeds} (lowest to highest in brackets), without recovery where not
said otherwise. `keep` is what
was asked of the decoder blocks' weights; methods that remove whole blocks can only go below it. Made by
`foldrank.benchmarks.quality`, written from [`quality.json`](../benchmarks/results/quality.json), which has every cell.
Windows are as long as the dense model can use: where its loss rises within 512 tokens, 256 or fewer.

![perplexity over dense against the share of block weights kept](quality.svg)
"""


def page(found: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    cells = list(found["cells"].values())
    held = found["held_out"]
    parts = [HEAD.format(**held, seeds=len({cell["seed"] for cell in cells}))]
    for model in sorted({cell["model"] for cell in cells}):
        held_here = [cell for cell in cells if cell["model"] == model]
        mine = [cell for cell in held_here if not cell["recover"]]
        dense = found["dense"][model]
        parts += [f"## {model}\n", f"Dense perplexity {dense['perplexity']:.2f}, windows of {dense['window']}.\n"]
        parts += [_table(mine, "perplexity_ratio", "{:.3f}")]
        parts += ["KL(dense || compressed), nats:\n", _table(mine, "kl_nats", "{:.3f}")]
        parts += ["Top-1 agreement:\n", _table(mine, "top1_agreement", "{:.3f}")]
        parts += ["Share of the block weights kept:\n", _table(mine, "kept", "{:.3f}")]
        parts += ["Planning, seconds, " + _places(mine) + ":\n", _table(mine, "planning_s", "{:.0f}")]
        parts += _timed([cell for cell in mine if "decode" in cell])
        parts += _recovered([cell for cell in held_here if cell["recover"] and "refused" not in cell])
    return "\n".join(parts)


OURS = ("auto", "dipsvd", "slm")
"""Methods that are no baseline here; `dipsvd` and `slm` are published too, `dipsvd:ratios=closed-form` is not."""


def summary(found: Mapping[str, Any]) -> str:
    """One row a model and keep: the best baseline, the best settings of ours, perplexity over dense (medians)."""
    cells = [cell for cell in found["cells"].values() if "perplexity_ratio" in cell and not cell["recover"]]
    rows = []
    for model, keep in sorted({(cell["model"], cell["keep"]) for cell in cells}, key=lambda key: (key[0], -key[1])):
        best: dict[str, tuple[float, str]] = {}
        here = [cell for cell in cells if (cell["model"], cell["keep"]) == (model, keep)]
        for method in {cell["method"] for cell in here}:
            name = method.split(":")[0]
            value = median(cell["perplexity_ratio"] for cell in here if cell["method"] == method)
            kind = name if name in OURS else "baseline"
            best[kind] = min(best.get(kind, (float("inf"), "")), (value, method))
        rows.append((model, f"{keep:g}", *(
            f"{best[kind][0]:.3f}" + (f" (`{best[kind][1]}`)" if kind == "baseline" else "") if kind in best else ""
            for kind in ("baseline", "slm", "dipsvd", "auto"))))
    head = ("model", "keep", "best baseline", "slm", "dipsvd, best settings", "auto")
    return _rows(head, rows).rstrip("\n")


def _places(cells: list[dict[str, Any]]) -> str:
    """Where cells were planned, and which methods: seconds of different machines do not compare."""
    places: dict[str, set[str]] = {}
    for cell in cells:
        where = cell["where"]
        name = where["cpu"] if where["device"] == "cpu" else where["device"]
        threads = f", {where['threads']} thread" if where["device"] == "cpu" else ""
        places.setdefault(f"{name}{threads}", set()).add(cell["method"].split(":")[0])
    return "; ".join(f"on {place}: {', '.join(sorted(methods))}" for place, methods in sorted(places.items()))


def _timed(cells: list[dict[str, Any]]) -> list[str]:
    """What was timed, one row a cell."""
    rows = [
        (f"`{cell['method']}`", f"{cell['keep']:g}", f"{cell['bytes_ratio']:.3f}", f"{cell['decode']['ratio']:.3f}",
         "{:.3f} to {:.3f}".format(*cell["decode"]["ci95"]), f"{cell['decode']['ideal']:.3f}")
        for cell in sorted(cells, key=lambda cell: (-cell["keep"], cell["method"]))
    ]
    head = ("method", "keep", "graph and weights, of dense bytes", "decode, times dense", "95 % interval", "ideal")
    title = "CPU decoding at batch 1, fp32 (`foldrank.benchmarks.quality_decode`):\n"
    return [title, _rows(head, rows)] if rows else []


def _recovered(cells: list[dict[str, Any]]) -> list[str]:
    """What was trained, one row a cell: perplexity over dense before and after."""
    rows = [
        (f"`{cell['method']}`", f"{cell['keep']:g}", str(cell["seed"]), cell["recover"],
         f"{cell['before']['perplexity_ratio']:.3f}", f"{cell['perplexity_ratio']:.3f}", f"{cell['kl_nats']:.3f}",
         f"{cell['recovery_tokens']:,}", str(cell["recovery_steps"]),
         "not timed" if cell["recovery_s"] is None else f"{cell['recovery_s']:.0f}")
        for cell in sorted(cells, key=lambda cell: (-cell["keep"], cell["method"], cell["recover"], cell["seed"]))
    ]
    head = ("method", "keep", "seed", "trained", "before", "after", "KL after", "tokens", "steps", "seconds")
    return ["After recovery, perplexity over dense:\n", _rows(head, rows)] if rows else []


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _table(cells: list[dict[str, Any]], figure: str, form: str) -> str:
    keeps = sorted({cell["keep"] for cell in cells}, reverse=True)
    lines = []
    for method in sorted({cell["method"] for cell in cells}):
        held = [[c for c in cells if c["method"] == method and c["keep"] == keep] for keep in keeps]
        lines.append((f"`{method}`", *(_entry(entries, figure, form) for entries in held)))
    return _rows(("method", *(f"keep {keep:g}" for keep in keeps)), lines)


def _entry(cells: Iterable[dict[str, Any]], figure: str, form: str) -> str:
    values = sorted(cell[figure] for cell in cells if figure in cell)
    if not values:
        return "out of reach" if list(cells) else ""
    middle = form.format(median(values))
    low, high = form.format(values[0]), form.format(values[-1])
    return middle if low == high else f"{middle} ({low} to {high})"


def picture(found: Mapping[str, Any], path: Path) -> None:
    """Perplexity over dense (log scale) against the share kept, one panel a model, one line a method."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "foldrank"
    from matplotlib import pyplot

    cells = [cell for cell in found["cells"].values() if "perplexity_ratio" in cell and not cell["recover"]]
    models = sorted({cell["model"] for cell in cells})
    figure, panels = pyplot.subplots(1, len(models), figsize=(5.5 * len(models), 4.2), squeeze=False)
    for panel, model in zip(panels[0], models, strict=True):
        for method in sorted({cell["method"] for cell in cells}):
            points = _points([c for c in cells if (c["model"], c["method"]) == (model, method)])
            panel.plot(*zip(*points, strict=True) if points else ((), ()), marker="o", ms=3, label=method,
                       lw=2.2 if method.startswith("auto") else 1.0)
        panel.set(title=model, xlabel="share of block weights kept", ylabel="perplexity over dense", yscale="log")
    panels[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _points(cells: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Median share kept and perplexity ratio at each keep."""
    return sorted(
        (median(c["kept"] for c in cells if c["keep"] == keep),
         median(c["perplexity_ratio"] for c in cells if c["keep"] == keep))
        for keep in {c["keep"] for c in cells}
    )


@click.command()
@click.argument("results", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def main(results: Path, folder: Path) -> None:
    """Write quality.md and quality.svg into the folder."""
    found = json.loads(results.read_text(encoding="utf-8"))
    (folder / "quality.md").write_text(page(found), encoding="utf-8")
    picture(found, folder / "quality.svg")


if __name__ == "__main__":
    main()
