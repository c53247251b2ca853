"""Budgets of the solver on small random decoders: numbers, bytes, bits and measured time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nightly import NIGHTLY

from foldrank.edits.low_rank import LowRank
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.slice_mlp import SliceMlp
from foldrank.errors import PlanFormatError
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.request import parse
from foldrank.plans.solver.costs import CostTable, Timing
from foldrank.plans.solver.layout import GROUPS
from foldrank.plans.solver.meter import Meter
from foldrank.plans.solver.original import shapes_of
from foldrank.plans.solver.windows import split
from foldrank.sites import Site
from tests.support.solving import solved, stored_numbers

MakeModel = Callable[..., Any]


@pytest.mark.parametrize(("architecture", "keep"), [
    ("llama", 0.95), ("qwen2", 0.4),
    *(pytest.param(*case, marks=NIGHTLY) for case in (("llama", 0.7), ("llama", 0.4), ("qwen2", 0.95), ("qwen2", 0.7))),
])
def test_the_budget_is_never_exceeded_and_used_up_to_a_rank(
    make_model: MakeModel, ids: np.ndarray, keep: float, architecture: str
) -> None:
    decoder = Decoder.of(make_model(3, architecture=architecture))
    result = solved(decoder, ids, keep=keep)
    numbers = stored_numbers(decoder, result)
    assert numbers == pytest.approx(result.kept * decoder.site_parameters)
    assert numbers <= keep * decoder.site_parameters
    assert numbers > (keep - 0.05) * decoder.site_parameters


def test_bytes_count_the_whole_model(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model(3))
    whole = decoder.other_parameters + sum(block.parameters for block in decoder.blocks)
    result = solved(decoder, ids, bytes=2 * (whole - 9000), dtype="fp16")
    left = decoder.other_parameters + sum(b.parameters - b.site_parameters for b in result.decoder.blocks)
    assert left + stored_numbers(decoder, result) <= whole - 9000
    with pytest.raises(ValueError, match="embeddings"):
        solved(decoder, ids, bytes=100)


def table(decoder: Decoder, folder: Path, *, slow: Collection[tuple[int, int]] = ()) -> str:
    """A cost table where time is numbers, but for shapes whose pairs are never faster."""
    timings = tuple(
        Timing(shape, float(shape[0] * shape[1]),
               {rank: float(rank * sum(shape)) * (1000 if shape in slow else 1) for rank in (1, 4, 16)})
        for shape in sorted(set(shapes_of(decoder.blocks[0], "joint").values()))
    )
    path = folder / "costs.json"
    path.write_text(CostTable(timings, {}).text())
    return str(path)


def test_no_pair_stands_where_it_is_measured_slower(make_model: MakeModel, ids: np.ndarray, tmp_path: Path) -> None:
    decoder = Decoder.of(make_model(3))
    slow = shapes_of(decoder.blocks[0], "joint")[GROUPS[2]]
    result = solved(decoder, ids, keep=0.7, fold=False, drop=False, narrow=False,
                    cost_table=table(decoder, tmp_path, slow=[slow]))
    pairs = [edit for edit in result.edits if isinstance(edit, LowRank)]
    assert pairs
    assert all(edit.shape != slow for edit in pairs)


def test_speedup_is_reached_by_the_table(make_model: MakeModel, ids: np.ndarray, tmp_path: Path) -> None:
    decoder = Decoder.of(make_model(3))
    result = solved(decoder, ids, speedup=1.5, cost_table=table(decoder, tmp_path))
    assert stored_numbers(decoder, result) <= decoder.site_parameters / 1.5


@pytest.mark.parametrize("effort", ["low", "normal"])
def test_where_no_pair_pays_a_fold_may_save_more_than_it_must(
    make_model: MakeModel, ids: np.ndarray, tmp_path: Path, effort: str
) -> None:
    decoder = Decoder.of(make_model(3))
    slow = set(shapes_of(decoder.blocks[0], "joint").values())
    result = solved(decoder, ids, speedup=1.1, effort=effort, drop=False, narrow=False,
                    cost_table=table(decoder, tmp_path, slow=slow))
    assert not [edit for edit in result.edits if isinstance(edit, LowRank)]
    assert stored_numbers(decoder, result) == decoder.site_parameters * 2 // 3


@pytest.mark.parametrize("effort", ["low", "normal"])
def test_where_no_pair_pays_narrower_mlps_do(
    make_model: MakeModel, ids: np.ndarray, tmp_path: Path, effort: str
) -> None:
    decoder = Decoder.of(make_model(3))
    slow = set(shapes_of(decoder.blocks[0], "joint").values())
    result = solved(decoder, ids, speedup=1.1, effort=effort, cost_table=table(decoder, tmp_path, slow=slow))
    assert not [edit for edit in result.edits if isinstance(edit, LowRank)]
    assert [edit for edit in result.edits if isinstance(edit, SliceMlp)]
    share = stored_numbers(decoder, result) / decoder.site_parameters
    assert 0.95 / 1.1 < share <= 1 / 1.1, "widths meet a budget that whole blocks would overshoot"


@pytest.mark.parametrize("text", ["auto", "auto:keep=0.5,bytes=10", "auto:speedup=2", "auto:keep=0.5,effort=most"])
def test_settings_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="auto"):
        parse(text)


def test_a_table_of_another_model_is_refused(make_model: MakeModel, ids: np.ndarray, tmp_path: Path) -> None:
    decoder = Decoder.of(make_model(2))
    path = tmp_path / "costs.json"
    path.write_text(CostTable((Timing((3, 5), 1.0, {1: 0.5}),), {}).text())
    with pytest.raises(ValueError, match="42x80"):
        solved(decoder, ids, speedup=1.2, cost_table=str(path))
    path.write_text("{}")
    with pytest.raises(PlanFormatError):
        solved(decoder, ids, speedup=1.2, cost_table=str(path))


def test_a_budget_below_the_smallest_layout_is_refused(make_model: MakeModel, ids: np.ndarray) -> None:
    with pytest.raises(ValueError, match="smallest layout"):
        solved(Decoder.of(make_model(2)), ids, keep=0.001)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_few_bits_are_one_more_choice_within_bytes(
    make_model: MakeModel, ids: np.ndarray, architecture: str
) -> None:
    decoder = Decoder.of(make_model(4, architecture=architecture))
    storing = {"few_bits": True, "block_size": 16, "head_bits": "none", "embedding_bits": "none"}
    floats = 4 * (decoder.other_parameters + sum(block.parameters for block in decoder.blocks))
    found = {}
    for share in (0.5, 0.3):
        result = solved(decoder, ids, bytes=round(share * floats), effort="normal", **storing)
        stored = {edit.site: edit for edit in result.edits if isinstance(edit, QuantizeWeight)}
        assert stored
        assert all(edit.rounding == "gptq" for edit in stored.values())
        left = [(block.number, role, block.weight(role).shape) for block in result.decoder.blocks
                for role in block.roles]
        pairs = {(part.block, part.role): edit for edit in result.edits if isinstance(edit, LowRank)
                 for part in edit.site.parts}
        size = 4 * decoder.other_parameters + 4 * sum(
            block.parameters - block.site_parameters for block in result.decoder.blocks)
        for number, role, (n_in, n_out) in left:
            edit, pair = stored.get(Site(number, (role,))), pairs.get((number, role))
            shapes = [(n_in, n_out)] if pair is None else [(n_in, pair.rank), (pair.rank, n_out)]
            for rows, columns in shapes:
                blocks = -(-rows // 16)
                size += 4 * rows * columns if edit is None else columns * blocks * (2 * edit.storage.bits + 4)
        assert size <= share * floats
        assert Meter.of(decoder, split(ids)[0]).on(result.decoder).whole() == pytest.approx(
            result.predicted["auto.stored_nats"], rel=1e-3)
        found[share] = result.predicted["auto.stored_nats"]
    assert found[0.5] < found[0.3]
    with pytest.raises(ValueError, match="keep counts weights"):
        solved(decoder, ids, keep=0.5, few_bits=True)
