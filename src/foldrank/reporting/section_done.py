"""What was done to the model: steps, folded blocks, ranks."""

from __future__ import annotations

from collections.abc import Iterable

from foldrank.edits.base import Part as EditedPart
from foldrank.edits.base import Phase, WeightEdit
from foldrank.edits.laws import surviving
from foldrank.edits.story import story
from foldrank.reporting import figures, lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.front_chart import front
from foldrank.reporting.parts import Block, Fold, Part, Rank, RankGrid, Section, Strip, Table, Text, table
from foldrank.reporting.weight_bytes import largest_rank
from foldrank.sites import Site


def done(evidence: Evidence) -> Section:
    """The section; for a dense bundle one sentence."""
    if evidence.plan is None:
        return Section("done", "What was done", (Text("This is a dense bundle: no compression plan was applied."),))
    told = [Text(" ".join(lines))] if (lines := story(evidence.edits)) else []
    parts: list[Part] = [_steps(evidence), *told, *_blocks(evidence), *_ranks(evidence), *front(evidence),
                         *_predicted(evidence)]
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
    """Every source block: whether it stays, with which others it became one, and what it lost."""
    count = evidence.source_blocks or 0
    left = surviving(evidence.edits, count)
    folds = [edit.touch for edit in evidence.edits if edit.phase is Phase.BLOCKS]
    said: dict[int, list[str]] = {}
    for edit in evidence.edits:
        if edit.beside:
            for block in _blocks_of(edit.touch.writes | edit.touch.removes):
                said.setdefault(block, []).append(edit.beside)
    if len(left) == count and not folds and not said:
        return [Text("No blocks were folded.")]
    fold_of = {block: (i, _blocks_of(touch.writes)) for i, touch in enumerate(folds)
               for block in _blocks_of(touch.reads)}
    strip = Strip(tuple(_block(b, left.index(b) if b in left else None, fold_of.get(b), ", ".join(said.get(b, [])))
                        for b in range(count)))
    sentence = f"{count} blocks became {len(left)}." if len(left) < count else f"All {count} blocks stay."
    return [Text(sentence), strip]


def _blocks_of(parts: Iterable[EditedPart]) -> list[int]:
    return sorted({part.block for part in parts if isinstance(part, Site)})


def _block(source: int, now: int | None, fold: tuple[int, list[int]] | None, beside: str) -> Block:
    if fold is None:
        return Block(source, now, None, "kept" if now is not None else "left", beside)
    number, into = fold
    return Block(source, now, number, "merged" if source in into else f"left, folded into {into[0]}", beside)


_TALL = 24
"""Blocks beyond which the grid of ranks stands behind a line to open."""


def _ranks(evidence: Evidence) -> list[Part]:
    chosen: dict[int, dict[str, Rank]] = {}
    roles: list[str] = []
    for edit in evidence.edits:
        if isinstance(edit, WeightEdit) and edit.ranked is not None:
            rank, shape = edit.ranked
            role, largest = edit.site.role, largest_rank(shape)
            chosen.setdefault(edit.site.block, {})[role] = Rank(rank, min(1.0, rank / max(1, largest)))
            roles += [role] if role not in roles else []
    if not chosen:
        return [Text("No weight was replaced by a low-rank pair.")]
    gone = frozenset[EditedPart]().union(*(edit.touch.removes for edit in evidence.edits))
    order = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down")
    roles.sort(key=lambda role: order.index(role) if role in order else len(order))
    grid = RankGrid(
        tuple(roles),
        tuple(
            (f"block {block}",
             tuple(chosen.get(block, {}).get(role, _without_pair(block, role, gone)) for role in roles))
            for block in surviving(evidence.edits, evidence.source_blocks or 0)
        ),
    )
    sentence = ("Ranks of the pairs by source block and role; the bar is the share of the largest rank that still "
                "saves anything.")
    return [Text(sentence), grid if len(grid.rows) <= _TALL else Fold(f"Ranks of {len(grid.rows)} blocks", (grid,))]


def _without_pair(block: int, role: str, gone: frozenset[EditedPart]) -> Rank:
    parts = Site.parse(f"block.{block:02d}.{role}").parts
    return Rank(gone=set(parts) <= gone)


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
