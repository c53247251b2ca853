"""Random checkpoints: the size asked for, readable by others, marked as noise, the same for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from foldrank.benchmarks.random_checkpoint import main, parse_size, shape_of, write_checkpoint
from foldrank.benchmarks.speed_plans import fold_plan, low_rank_plan, weight
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.errors import SourceError
from foldrank.model.checkpoint import Checkpoint, check_finite
from foldrank.planfile.plan import Plan


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(shape_of(10**6), tmp_path_factory.mktemp("random") / "1M", seed=3)


@pytest.mark.parametrize("size", ["1M", "8M", "80M", "350M", "1.5B", "8B"])
def test_shapes_come_close_to_the_size_asked(size: str) -> None:
    shape = shape_of(parse_size(size))
    assert shape.parameters == pytest.approx(parse_size(size), rel=0.2)
    assert shape.heads % shape.kv_heads == 0


@pytest.mark.parametrize("text", ["", "80 MB", "-1M", "many"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)
    with pytest.raises(ValueError, match="1M to 10B"):
        shape_of(1000)


def test_transformers_reads_it_with_the_parameters_it_claims(small: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(small)
    assert sum(p.numel() for p in model.parameters()) == shape_of(10**6).parameters
    tokenizer = transformers.AutoTokenizer.from_pretrained(small)
    assert tokenizer.decode(tokenizer("Größe: 5 µm")["input_ids"]) == "Größe: 5 µm"


def test_it_is_a_whole_checkpoint_marked_as_random(small: Path) -> None:
    checkpoint = Checkpoint.open(small, offline=True)
    check_finite(checkpoint)
    assert checkpoint.blocks == 12
    assert checkpoint.config["random_weights"] is True
    assert "no quality figure" in (small / "README.md").read_text()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(small: Path, tmp_path: Path) -> None:
    same = write_checkpoint(shape_of(10**6), tmp_path / "same", seed=3)
    other = write_checkpoint(shape_of(10**6), tmp_path / "other", seed=4)
    for file in small.glob("*.safetensors"):
        assert (same / file.name).read_bytes() == file.read_bytes()
        assert (other / file.name).read_bytes() != file.read_bytes()


def test_the_program_writes_and_never_overwrites(tmp_path: Path) -> None:
    arguments = ["--parameters", "1M", "-o", str(tmp_path / "made"), "--dtype", "float16"]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.output
    assert json.loads((tmp_path / "made" / "config.json").read_text())["dtype"] == "float16"
    assert isinstance(CliRunner().invoke(main, arguments).exception, SourceError)


def test_fold_plan_folds_disjoint_neighbours_and_can_be_read_back(small: Path, tmp_path: Path) -> None:
    plan = fold_plan(Checkpoint.open(small, offline=True), 4)
    assert [edit.blocks for edit in plan.of(FoldBlocks)] == [(0, 1), (3, 4), (6, 7), (9, 10)]
    assert len(plan.surviving_blocks) == 8
    plan.write(tmp_path)
    assert Plan.read(tmp_path).edits == plan.edits


def test_low_rank_plan_keeps_at_most_what_is_asked_and_knows_the_weights(small: Path) -> None:
    checkpoint = Checkpoint.open(small, offline=True)
    plan = low_rank_plan(checkpoint, 0.8, seed=0)
    assert plan.of(LowRank)
    assert all(edit.rank % 16 == 0 for edit in plan.of(LowRank))
    assert 0.4 < plan.document.steps[0].keep.reached <= 0.8
    first = plan.of(LowRank)[0]
    parts = [weight(checkpoint, part.block, part.role) for part in first.site.parts]
    assert all(digest.matches(np.ascontiguousarray(part)) for digest, part in zip(first.replaces, parts, strict=True))
    assert plan.arrays[first.factors[0]].shape == (first.shape[0], first.rank)
