"""The front of bytes against nats."""

from __future__ import annotations

import math
from pathlib import Path

from foldrank.benchmarks.front_picture import LEAST, draw, front, kind_of, points

ROWS = [
    {"method": "auto:of_int4=1", "bytes": 98, "perplexity_over_dense": 1.05},
    {"method": "quantize:bits=4", "bytes": 98, "perplexity_over_dense": 1.07},
    {"method": "svd:keep=0.9", "bytes": 450, "perplexity_over_dense": 2.0},
    {"method": "width:keep=0.9", "bytes": 450, "perplexity_over_dense": 1.0},
]


def test_the_front_is_what_none_beats_in_both() -> None:
    found = points(ROWS)
    assert front(found.values()) == [(98.0, math.log(1.05)), (450.0, LEAST)]


def test_every_row_is_named_in_the_picture(tmp_path: Path) -> None:
    draw(ROWS, tmp_path / "front.svg")
    svg = (tmp_path / "front.svg").read_text()
    for name in ("auto", "quantize", "svd", "width"):
        assert f"<!-- {name}" in svg


def test_a_row_is_shown_with_the_last_of_its_methods() -> None:
    rows = ("quantize:bits=4", "rotate + quantize:bits=4", "rotate + quantize:bits=4 + recover 12 scales")
    assert {kind_of(row) for row in rows} == {"quantize"}
