"""What the compression cost in quality, before and after, with its gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.gates import gates
from foldrank.reporting.parts import Cell, Missing, Part, Section, Table, table
from foldrank.reporting.quality_chart import quality_picture


def quality(evidence: Evidence) -> Section:
    """Perplexity, KL, top-1, greedy prefix, gates."""
    found = lookup.pairs(evidence.validate, "quality")
    title = "What it cost in quality"
    if not found:
        return Section("quality", title, (Missing("Quality was", "foldrank validate DIR --reference DENSE"),))
    picture = quality_picture(found, lookup.rows(evidence.validate, "gates"))
    parts = (*picture, _figures(found, _text(evidence.validate)), *gates(evidence.validate))
    return Section("quality", title, (*parts, *_samples(evidence.validate)))


def _figures(found: Mapping[str, Any], text: str) -> Table:
    rows = [
        (
            "perplexity",
            figures.significant(lookup.number(found, "dense_perplexity")),
            figures.significant(lookup.number(found, "perplexity")),
            figures.change(lookup.number(found, "perplexity_ratio")),
        ),
        ("mean KL (dense, this bundle)", "", figures.nats(lookup.number(found, "kl_nats")), ""),
        ("top-1 agreement with dense", "", figures.percent(lookup.number(found, "top1_agreement")), ""),
        ("common greedy prefix", "", _prefix(found), ""),
    ]
    return table(("figure", "dense", "this bundle", "change"), "lrrr", [list(row) for row in rows], text)


def _samples(validate: Any) -> list[Part]:
    """What both write after the same words, where `foldrank validate` kept it."""
    rows: list[list[str | Cell]] = [
        [_one_line(lookup.text(row, key)) for key in ("prompt", "dense", "bundle")]
        for row in lookup.rows(validate, "samples")
    ]
    if not rows:
        return []
    caption = "Greedy continuations of held-out text, token by token the likeliest; the prompt is cut at its beginning."
    return [table(("after these words", "dense writes", "this bundle writes"), "ppp", rows, caption)]


def _one_line(text: str | None) -> str:
    """Line breaks as one sign; of a long prompt its end."""
    shown = " ".join((text or "").replace("\n", " ⏎ ").split())
    return shown if len(shown) <= _SAMPLE else f"… {shown[-_SAMPLE:]}"


_SAMPLE = 400
"""Characters of one cell."""


def _prefix(found: Mapping[str, Any]) -> str:
    """Mean tokens until the two part ways, of how many were continued."""
    mean, most = lookup.number(found, "greedy_prefix_tokens"), lookup.number(found, "greedy_continued_tokens")
    if mean is None:
        return figures.MISSING
    return f"{figures.significant(mean)}{f' of {most:,.0f}' if most is not None else ''} tokens"


def _text(validate: Any) -> str:
    """What was read: `On 20,440 held-out tokens of x.jsonl, in 40 windows of 512.`"""
    found = lookup.at(validate, "quality")
    tokens, name = lookup.number(found, "tokens"), lookup.text(validate, "text", "name")
    count, window = lookup.number(found, "windows"), lookup.number(found, "window")
    if tokens is None:
        return ""
    windows = f", in {count:,.0f} windows of {window:,.0f}" if count is not None and window is not None else ""
    bos = lookup.integer(validate, "text", "bos")
    opened = "" if bos is None else f", each opening with the token {bos} (BOS), which is not predicted"
    return f"On {tokens:,.0f} held-out tokens{f' of {name}' if name else ''}{windows}{opened}."
