"""What was done to the model: steps, folded blocks, ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.folds import fold_sentence
from foldrank.reporting.parts import Block, Fold, Part, Rank, RankGrid, Section, Strip, Table, Text, table
from foldrank.reporting.weight_bytes import largest_rank


def done(evidence: Evidence) -> Section:
    """The section; for a dense bundle one sentence."""
    if evidence.plan is None:
        return Section("done", "What was done", (Text("This is a dense bundle: no compression plan was applied."),))
    head = " and the head" if evidence.head else ""
    stored = [Text(f"{len(evidence.quantized)} weights{head} are stored in {evidence.stored_as}, rounded to nearest, "
                   "each factor of a pair by itself.")] if evidence.quantized else []
    parts: list[Part] = [_steps(evidence), *_blocks(evidence), *_ranks(evidence), *stored, *_predicted(evidence)]
    return Section("done", "What was done", tuple(parts))


def _steps(evidence: Evidence) -> Table:
    rows: list[list[str]] = []
    for step in evidence.steps:
        settings = ", ".join(
            f"{key} = {value}"
            for key, value in sorted(lookup.pairs(step, "settings").items())
            if key != "keep" and value is not None
        )
        asked, reached = (lookup.number(step, "keep", key) for key in ("asked", "reached"))
        rows.append(
            [
                lookup.text(step, "method") or "?",
                "not asked" if asked is None else figures.percent(asked),
                figures.percent(reached),
                settings,
            ]
        )
    return table(
        ("method", "keep asked", "keep reached", "settings"),
        "lrrl",
        [list(row) for row in rows],
        "Steps in order. Keep: the share of the decoder blocks' weights that a step left of what it was given; "
        f"together {figures.percent(evidence.kept)}.",
    )


def _blocks(evidence: Evidence) -> list[Part]:
    count = evidence.source_blocks
    if not evidence.folds or not count:
        return [Text("No blocks were folded.")]
    fold_of = {int(b): (i, fold) for i, fold in enumerate(evidence.folds) for b in lookup.numbers(fold, "blocks")}
    leaving = {b for b, (_, fold) in fold_of.items() if b != lookup.integer(fold, "into")}
    left = [b for b in range(count) if b not in leaving]
    strip = Strip(tuple(_block(b, left.index(b) if b not in leaving else None, fold_of.get(b)) for b in range(count)))
    sentence = f"{count} blocks became {len(left)}. " + " ".join(fold_sentence(fold) for fold in evidence.folds)
    return [Text(sentence), strip]


def _block(source: int, now: int | None, fold: tuple[int, Mapping[str, Any]] | None) -> Block:
    if fold is None:
        return Block(source, now, None, "kept")
    number, edit = fold
    into = lookup.integer(edit, "into")
    return Block(source, now, number, "merged" if source == into else f"left, folded into {into}")


_TALL = 24
"""Blocks beyond which the grid of ranks stands behind a line to open."""


def _ranks(evidence: Evidence) -> list[Part]:
    chosen: dict[int, dict[str, Rank]] = {}
    roles: list[str] = []
    for edit in evidence.pairs:
        head, _, role = (lookup.text(edit, "site") or "").rpartition(".")
        number, rank, shape = head.removeprefix("block."), lookup.integer(edit, "rank"), lookup.numbers(edit, "shape")
        if not number.isdecimal() or rank is None or len(shape) != 2:
            continue
        largest = largest_rank((int(shape[0]), int(shape[1])))
        chosen.setdefault(int(number), {})[role] = Rank(rank, min(1.0, rank / max(1, largest)))
        roles += [role] if role not in roles else []
    if not chosen:
        return [Text("No weight was replaced by a low-rank pair.")]
    order = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down")
    roles.sort(key=lambda role: order.index(role) if role in order else len(order))
    grid = RankGrid(
        tuple(roles),
        tuple(
            (f"block {block}", tuple(chosen.get(block, {}).get(role, Rank()) for role in roles))
            for block in _left(evidence)
        ),
    )
    sentence = (
        f"{len(evidence.pairs)} weights were replaced by low-rank pairs. Ranks by source block and role; the bar is "
        "the share of the largest rank that still saves anything."
    )
    return [Text(sentence), grid if len(grid.rows) <= _TALL else Fold(f"Ranks of {len(grid.rows)} blocks", (grid,))]


def _left(evidence: Evidence) -> list[int]:
    gone = {
        int(b) for fold in evidence.folds for b in lookup.numbers(fold, "blocks") if b != lookup.integer(fold, "into")
    }
    return [b for b in range(evidence.source_blocks or 0) if b not in gone]


def _predicted(evidence: Evidence) -> list[Part]:
    found = sorted(lookup.pairs(evidence.plan, "predicted").items())
    if not found:
        return []
    rows = [
        [
            key.replace("_", " ").replace(".", ", "),
            figures.significant(value, 4) if isinstance(value, float) else figures.whole(value),
        ]
        for key, value in found
        if isinstance(value, int | float)
    ]
    return [Fold("What the plan predicted", (table((), "lr", [list(row) for row in rows]),))]
