"""Tables of what was made of a real model (`campaigns/smollm2.py`)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from foldrank.benchmarks.tables import table


def widths(data: dict[str, Any]) -> str:
    """Rows that narrow MLPs."""
    rows = [
        (f"`{row['method']}`", f"{row['keep']:.3f}", f"{row['perplexity_over_dense']:.3f}",
         f"{min(row['widths'].values()):,} to {max(row['widths'].values()):,}", f"{row['planning_cpu_s']:,}")
        for row in data["rows"] if "widths" in row
    ]
    return f"{_texts(data)}\n\n" + table(("method", "block weights kept", "perplexity over dense",
                                          "channels of an MLP", "planning, CPU s"), rows)


def front(data: dict[str, Any]) -> str:
    """Every row, smallest first."""
    rows = [
        (f"`{row['method']}`", f"{row['keep']:.3f}", f"{row['bytes'] / 1e6:,.1f} MB",
         f"{row['perplexity_over_dense']:.3f}", f"{math.log(row['perplexity_over_dense']):.3f}",
         _minutes(row.get("planning_cpu_s", row.get("recovery_cpu_s"))))
        for row in sorted(data["rows"], key=lambda row: (row["bytes"], row["perplexity_over_dense"]))
    ]
    most = max(row.get("peak_rss_bytes", 0) for row in data["rows"]) / 2**30
    columns = ("method", "block weights kept", "all weights", "perplexity over dense", "nats", "CPU minutes")
    return f"{_texts(data)} The process had {most:.1f} GiB at most.\n\n{table(columns, rows)}"


def minutes(data: dict[str, Any]) -> str:
    """What each plan took."""
    rows = [(f"`{row['method']}`", f"{row['wall_s'] / 60:.1f}", f"{row['cpu_s'] / 60:.1f}",
             f"{row['peak_rss_bytes'] / 2**30:.1f} GiB") for row in data["rows"]]
    made_on = data["environment"]
    return (f"On {made_on['cpu_model']}, {made_on['threads']} threads.\n\n"
            + table(("method", "minutes", "CPU minutes", "peak memory"), rows))


def _minutes(seconds: float | None) -> str:
    """A row that was judged from its plan alone, made elsewhere, has none."""
    return "-" if seconds is None else f"{seconds / 60:.1f}"


def draws(data: dict[str, Any]) -> str:
    """Perplexity over dense of each row in each campaign of a model, which differ in seed."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for one in data["campaigns"]:
        for row in one["rows"]:
            found.setdefault((one["model"], row["method"]), {})[one["seed"]] = row["perplexity_over_dense"]
    rows = [
        (model.split(",")[0], f"`{method}`", ", ".join(str(seed) for seed in sorted(by_seed)),
         ", ".join(f"{by_seed[seed]:.3f}" for seed in sorted(by_seed)), f"{statistics.median(by_seed.values()):.3f}")
        for (model, method), by_seed in sorted(found.items())
    ]
    return table(("model", "methods", "seeds", "perplexity over dense", "median"), rows)


def speeds(data: dict[str, Any]) -> str:
    """Rows of a speed front (`campaigns/speed_front.py`), slowest first."""
    rows = [
        (f"`{row['method']}`", f"{row['perplexity_over_dense']:.3f}", f"{row['bytes'] / 1e6:,.1f} MB",
         _speed(row["decode"]), f"{row['decode']['ideal']:.2f}", _speed(row["prompt"]))
        for row in sorted(data["rows"], key=lambda row: row["decode"]["ratio"])
    ]
    load = data["environment"]["load_average"][0]
    columns = ("method", "perplexity over dense", "files", "decode speed over dense, 95 %", "ideal", "prompt of 16")
    return f"{data['environment']['cpu_model']}, load average {load:.1f} at the end.\n\n{table(columns, rows)}"


def _speed(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = found["ci95"]
    return f"{found['ratio']:.2f} [{low:.2f}, {high:.2f}]" + ("" if found["stable"] else ", unstable")


def branches(data: dict[str, Any]) -> str:
    """Rows that drop branches."""
    rows = [
        (f"`{row['method']}`", f"{row['keep']:.3f}", f"{row['perplexity_over_dense']:.3f}",
         ", ".join(_dropped(row["dropped"], branch) for branch in ("attention", "mlp")
                   if any(branch in place for place in row["dropped"])), f"{row['planning_cpu_s']:,}")
        for row in data["rows"] if "dropped" in row
    ]
    return f"{_texts(data)}\n\n" + table(("method", "block weights kept", "perplexity over dense", "dropped",
                                          "planning, CPU s"), rows)


def _dropped(places: Sequence[str], branch: str) -> str:
    return f"{branch} {' '.join(str(int(p.split('.')[1])) for p in places if p.endswith(branch))}"


def _texts(data: dict[str, Any]) -> str:
    return (f"{data['model']}. {data['calibration_tokens']:,} tokens of calibration; perplexity on "
            f"{data['held_out_tokens']:,} held-out tokens, dense {data['dense_perplexity']:.2f}.")
