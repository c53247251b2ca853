"""The plan file: what is written comes back, and whatever differs by a hair is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldrank.digests import WeightDigest, combine
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank, rank_limit
from foldrank.errors import PlanFormatError
from foldrank.planfile.document import Calibration, Keep, PlanDocument, Source, Step
from foldrank.planfile.factors import FactorFile
from foldrank.planfile.plan import Plan
from foldrank.sites import PACKED, ROLES, Site

DIGEST = WeightDigest.of(np.ones((3, 4), np.float32))


def document(*edits: object) -> PlanDocument:
    return PlanDocument(
        source=Source("toy", "0" * 64, "LlamaForCausalLM", 12, {"block.02.q": DIGEST}),
        calibration=Calibration("text", "1" * 64, 4, 128, 512, 0),
        steps=(Step("slm", {"keep": 0.75}, Keep(0.75, 0.75)),),
        predicted={"keep": 0.6}, versions={"foldrank": "0"}, edits=edits,
    )


FOLD = FoldBlocks(2, (2, 3), {2: 0.0, 3: 1.0})
PAIR = LowRank(Site.parse("block.07.qkv"), (64, 128), 16, ("A", "B"), (DIGEST, DIGEST, DIGEST))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {"A": rng.normal(size=(64, 16)), "B": rng.normal(size=(16, 128))}
    Plan(document(FOLD, PAIR), arrays, {"note": 1}).write(tmp_path)
    return tmp_path


def test_what_is_written_comes_back(folder: Path) -> None:
    plan = Plan.read(folder)
    assert plan.edits == (FOLD, PAIR)
    assert plan.arrays["A"].shape == (64, 16)
    assert plan.arrays["A"].dtype == np.float32
    assert plan.diagnostics == {"note": 1}
    assert plan.surviving_blocks == (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11)


def test_reading_a_plan_leaves_its_arrays_on_disk(folder: Path) -> None:
    """Factors may be larger than memory."""
    assert isinstance(Plan.read(folder).arrays, FactorFile)


def test_writing_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    Plan.read(folder).write(again)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize(("old", "new", "says"), [
    ('"rank": 16', '"rank": "16"', "rank"),
    ('"rank": 16', '"rank": 15', "factors|digest|says"),
    ('"into": 2', '"into": 3', "digest"),
    ('"norms": "bottom"', '"norms": "middle"', "norms"),
    ('"kind": "low_rank"', '"kind": "magic"', "kind|tag"),
    ('"versions": {', '"surprise": 1, "versions": {', "surprise"),
    ("foldrank.plan/1", "foldrank.plan/2", "schema"),
    ('"keep": 0.6', '"keep": NaN', "NaN"),
    ('"keep": 0.6', '"keep": 0.6, "keep": 0.7', "twice"),
    ('"tokens": 512', '"tokens": ' + "[" * 10_000 + "]" * 10_000, "levels"),
])
def test_an_edited_plan_is_refused(folder: Path, old: str, new: str, says: str) -> None:
    path = folder / "plan.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(PlanFormatError, match=says):
        Plan.read(folder)


def test_truncated_changed_or_missing_factors_are_refused(folder: Path) -> None:
    path = folder / "factors.safetensors"
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[:100], whole[:-1] + b"\x7f", b""):
        path.write_bytes(broken)
        with pytest.raises(PlanFormatError, match="factors"):
            Plan.read(folder)
    path.unlink()
    with pytest.raises(PlanFormatError, match="No such file"):
        Plan.read(folder)


def test_nan_factors_are_never_written(tmp_path: Path) -> None:
    arrays = {"A": np.full((64, 16), np.nan), "B": np.ones((16, 128))}
    with pytest.raises(ValueError, match="not finite: A"):
        Plan(document(PAIR), arrays).write(tmp_path)


@pytest.mark.parametrize(("edits", "says"), [
    ((PAIR, FOLD), "comes before"),
    ((FOLD, FOLD), "left with an earlier edit"),
    ((PAIR, PAIR), "edited twice"),
    ((FOLD, LowRank(Site.parse("block.03.q"), (64, 64), 8, ("A", "B"), (DIGEST,))), "left with"),
    ((FoldBlocks(11, (11, 12), {11: 0.0, 12: 1.0}),), "does not exist"),
])
def test_edits_that_contradict_each_other_have_no_form(edits: tuple[object, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        document(*edits)


@given(n_in=st.integers(1, 500), n_out=st.integers(1, 500))
def test_the_rank_limit_is_the_last_rank_that_saves(n_in: int, n_out: int) -> None:
    limit = rank_limit(n_in, n_out)
    assert limit * (n_in + n_out) < n_in * n_out
    assert (limit + 1) * (n_in + n_out) >= n_in * n_out


@given(block=st.integers(0, 2000), role=st.sampled_from([*ROLES, *PACKED]))
def test_a_site_reads_back_as_written(block: int, role: str) -> None:
    site = Site(block, PACKED.get(role, (role,)))
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize("text", ["block.7.q", "block.007.q", "block.07.x", "blocks.07.q", "block.07.q ", "block.-1.q"])
def test_a_second_spelling_of_a_site_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"site|written"):
        Site.parse(text)


def test_combining_one_weight_is_bit_exact_and_zero_terms_are_not_touched() -> None:
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=(5, 7)).astype(np.float16) for _ in range(3)]
    assert combine(weights, [0.0, 1.0, 0.0]) is weights[1]
    broken = np.full((5, 7), np.nan, np.float16)
    assert np.isfinite(combine([broken, weights[1]], [0.0, 0.5])).all()
    mean = combine(weights, [1 / 3] * 3).astype(np.float64)
    assert np.abs(mean - np.mean([w.astype(np.float64) for w in weights], axis=0)).max() < 2e-3


def test_a_digest_knows_the_weight_in_every_stored_dtype_and_no_other() -> None:
    import ml_dtypes

    weight = np.random.default_rng(2).normal(size=(9, 4)).astype(np.float32)
    digest = WeightDigest.of(weight)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        stored = weight.astype(dtype)
        assert digest.matches(stored)
        stored[3, 2] += dtype(0.125)
        assert not digest.matches(stored)
    assert not digest.matches(weight.astype(np.float64))
    assert not digest.matches(np.ascontiguousarray(weight.T))


def test_plan_json_is_made_for_git_diff(folder: Path) -> None:
    text = (folder / "plan.json").read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2, ensure_ascii=False) + "\n"
