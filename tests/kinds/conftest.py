"""What tests of a kind share: a random decoder whose graph is edited, against float64 numpy, and a tiny checkpoint on
which the planner's room and the reference's are compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from kind_rooms import Edited, Rooms
from synthetic import Decoder, PlanMaker, Shape, random_decoder, run_onnx, worst
from synthetic.strategies import Written
from tiny_families import TINY, save

from foldrank.digests import WeightDigest
from foldrank.edits import Edit
from foldrank.graph.safe.load import load_model
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.plans.models.decoder import load_decoder
from foldrank.plans.reference import reference_model
from foldrank.plans.simulate import apply_edits
from foldrank.sites import Site

IDS = np.random.default_rng(1).integers(0, 50, 24)
@pytest.fixture(params=["genai", "optimum"])
def decoder(request: pytest.FixtureRequest) -> tuple[Decoder, str]:
    """A random decoder, packed as each exporter does, with the hand it is written in."""
    return random_decoder(Shape(biased=True), seed=5), str(request.param)


@pytest.fixture
def edited(decoder: tuple[Decoder, str], tmp_path: Path) -> Edited:
    """The graph after a plan; it computes what the plan asks for, prefilled and with a cache."""
    def made(maker: PlanMaker) -> ir.Model:
        (tmp_path / "small").mkdir()
        source = Written(*decoder).write(tmp_path / "dense")
        model, _ = transform(load_model(source), maker.plan())
        write_model(model, tmp_path / "small")
        expected = maker.expected().logits(IDS)
        assert worst(run_onnx(tmp_path / "small" / "model.onnx", IDS), expected) < 1e-5
        assert worst(run_onnx(tmp_path / "small" / "model.onnx", IDS, (7, 1, 1, 15)), expected) < 1e-5
        assert worst(decoder[0].logits(IDS), expected) > 1e-2, "the plan changes nothing"
        return load_model(tmp_path / "small" / "model.onnx")

    return made


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A Qwen2 of six blocks, biased, with random norms."""
    return Checkpoint.open(save(TINY["qwen2"], tmp_path_factory.mktemp("kinds") / "qwen2"))


@pytest.fixture
def rooms(tiny: Checkpoint) -> Rooms:
    """Logits of the checkpoint, of the planner's room and of the reference's, after edits."""
    source = load_decoder(tiny)
    ids = np.random.default_rng(3).integers(0, 250, (2, 12))

    def made(edits: list[Edit], arrays: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        read = {part for edit in edits for part in edit.touch.reads}
        weights = {str(site): WeightDigest.of(block.weight(role).numpy()) for block in source.blocks
                   for role in block.roles if (site := Site(block.number, (role,))) in read}
        document = PlanDocument(
            Source(tiny.name, tiny.config_sha256, tiny.architecture, len(source.blocks), weights), None, (), {}, {},
            tuple(edits))
        model: Any = reference_model(tiny, Plan(document, arrays))
        after = apply_edits(edits, source, arrays)
        with torch.no_grad():
            return (source.logits(source.forward(ids)), after.logits(after.forward(ids)),
                    model(input_ids=torch.from_numpy(ids), use_cache=False).logits)

    return made
