"""A fold of blocks in one sentence, for the page and for the card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures, lookup


def fold_sentence(fold: Mapping[str, Any]) -> str:
    """`Blocks 5 to 7 were folded into one: projections of block 7, norms of the bottom block.`"""
    blocks = [f"{block:.0f}" for block in lookup.numbers(fold, "blocks")]
    shares = {block: share for block in blocks if (share := lookup.number(fold, "coefficients", block))}
    terms = [f"{_factor(share)}block {block}" for block, share in shares.items()]
    return (
        f"{_range(blocks)} were folded into one: projections of {' + '.join(terms) or 'no block'}, "
        f"norms of the {lookup.text(fold, 'norms') or '?'} block."
    )


def _factor(share: float) -> str:
    return "" if share == 1 else f"{figures.significant(share)} × "


def _range(blocks: list[str]) -> str:
    return f"Blocks {blocks[0]} to {blocks[-1]}" if len(blocks) > 2 else f"Blocks {' and '.join(blocks)}"
