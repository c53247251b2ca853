"""Kinds together: every two of them, and all, in one plan, each on what the earlier ones left."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nightly import AT_NIGHT
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, worst
from synthetic.strategies import Written, law

from foldrank.edits.storage import FewBits, Form
from foldrank.graph.safe.load import load_model
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.runtime.quantizer import quantize

TOLD = ("fold", "drop", "slice", "centre", "rotate", "replace", "low_rank", "share", "quantize", "beside")
"""In the order of phases."""


def asked(maker: PlanMaker, kinds: tuple[str, ...], form: Form = "nbits") -> PlanMaker:
    """A plan of these kinds that meet wherever they can: what a fold leaves is sliced, factored and stored."""
    if "fold" in kinds:
        maker.fold((1, 2), {1: 0.25, 2: 0.75}, into=2)
    if "drop" in kinds:
        maker.drop(0, "attention").drop(3, "mlp").drop(2 if "fold" in kinds else 1, "attention")
    if "slice" in kinds:
        maker.slice(2, tuple(range(0, 80, 2)), down=True, bias=True).slice(4, tuple(range(5, 70)))
    if "centre" in kinds:
        maker.centre()
    if "rotate" in kinds:
        maker.rotate(4)
    if "replace" in kinds:
        maker.replace("block.02.up").replace("block.05.o", seed=1)
    if "low_rank" in kinds:
        maker.factor("both" if maker.decoder.shape.tied else "head", 9)
        maker.low_rank("block.02.down", 7).low_rank("block.04.up", 9).low_rank("block.05.qkv", 11)
    if "share" in kinds:
        maker.share(5, 0, ("gate", "up", "down")).share(4, 5, ("o",))
    if "quantize" in kinds:
        maker.quantize(FewBits(8, 16, True, 0, form))
    if "beside" in kinds:
        maker.beside("block.02.gate_up" if "gate" in maker.blocks[2] else "block.02.up", 5).beside("block.02.down", 6)
        maker.beside("block.04.k", 3).beside("block.04.up", 48).beside("block.05.qkv", 4).beside("block.05.o", 9)
    return maker


def layer_of(kinds: Collection[str]) -> str:
    """LayerNorms where they are to become RMS norms."""
    return "op" if "centre" in kinds else ""


def proves(source: Written, maker: PlanMaker) -> None:
    """The graph computes what the plan asks for, prefilled and with its cache."""
    ids = np.random.default_rng(2).integers(0, source.decoder.shape.vocab, 13)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, _ = transform(load_model(source.write(folder / "dense")), maker.plan(), quantizer=quantize)
        (folder / "small").mkdir()
        write_model(model, folder / "small")
        expected = maker.expected().logits(ids)
        for steps in ((13,), (6, 1, 6)):
            assert worst(run_onnx(folder / "small" / "model.onnx", ids, steps), expected) < 1e-4


PAIRS = [*combinations(TOLD, 2)]
STYLES = ("genai", "optimum")
CASES = [(pair, style) for i, pair in enumerate(PAIRS) for style in (STYLES if AT_NIGHT else [STYLES[i % 2]])]


@pytest.mark.parametrize(("kinds", "style", "form"), [
    *((*case, "nbits") for case in CASES), *((TOLD, style, "nbits") for style in STYLES), (TOLD, "genai", "qdq")])
def test_a_graph_computes_what_kinds_ask_for_together(kinds: tuple[str, ...], style: str, form: Form) -> None:
    shape = Shape(blocks=6, biased=True, packed=style == "genai", gated="quantize" not in kinds or style == "genai",
                  layer=layer_of(kinds))
    decoder = random_decoder(shape, seed=7)
    proves(Written(decoder, style), asked(PlanMaker(decoder, "0" * 64), kinds, form))


@law(4)
@given(st.sets(st.sampled_from(TOLD), min_size=3), st.sampled_from(["genai", "optimum", "torch"]), st.integers(0, 99))
def test_any_of_them_together(kinds: set[str], style: str, seed: int) -> None:
    shape = Shape(blocks=6, tied=bool(seed % 2), packed=seed % 3 == 0, layer=layer_of(kinds))
    decoder = random_decoder(shape, seed=seed)
    proves(Written(decoder, style), asked(PlanMaker(decoder, "0" * 64), tuple(k for k in TOLD if k in kinds)))
