"""Graphs that optimum-onnx 0.1.0 itself made, against their checkpoints edited in PyTorch by this test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import Decoder, read_decoder
from foldrank.passes.pipeline import transform

pytest.importorskip("torch")
from nightly import NIGHTLY
from proved import prove
from torch_model import Model

FAMILIES = {"llama": 6, "mistral": 5, "qwen2": 5, "gemma2": 6, "gpt2": 5, "opt": 5}
GATED = ("llama", "mistral", "qwen2", "gemma2")
UNIFORM = ("llama", "mistral", "qwen2", "gpt2", "opt")


def fixture(tiny_models: Path, family: str) -> tuple[Path, Path]:
    """(checkpoint, graph)."""
    folder = tiny_models / family
    return folder / "checkpoint", folder / "optimum" / "model.onnx"


def decoder_of(tiny_models: Path, family: str) -> Decoder:
    return read_decoder(load_model(fixture(tiny_models, family)[1]))


def proves(tiny_models: Path, folder: Path, family: str, edit: Callable[[Model], Model]) -> Path:
    """`prove`, with the checkpoint edited."""
    checkpoint, graph = fixture(tiny_models, family)
    model = edit(Model(checkpoint))
    if family == "gemma2":  # optimum traces SDPA, which leaves the soft cap of attention out: no Tanh before a Softmax
        for layer in model.layers:
            layer.self_attn.attn_logit_softcapping = None
    return prove(graph, model, folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_reads_blocks_sites_and_heads(tiny_models: Path, family: str) -> None:
    checkpoint, _ = fixture(tiny_models, family)
    decoder, model = decoder_of(tiny_models, family), Model(checkpoint)
    config = model.model.config
    assert decoder.dialect == "optimum"
    assert [block.number for block in decoder.blocks] == list(range(FAMILIES[family]))
    assert decoder.heads == config.num_attention_heads
    assert decoder.kv_heads == getattr(config, "num_key_value_heads", config.num_attention_heads)
    assert decoder.head_size == 16
    assert {len(values) for values in decoder.boundaries} == {1}
    for block in decoder.blocks:
        found = {role: (li.shape[0], li.columns(role).stop - li.columns(role).start)
                 for li in block.linears for role in li.roles}
        assert found == {role: model.weight(block.number, role).shape for role in model.roles}
        assert (block.unknown, block.opaque, block.pairs) == ([], (), ())
        assert len(block.norms) == (4 if family in ("gemma2", "gpt2", "opt") else 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_plan_keeps_every_initializer(tiny_models: Path, tmp_path: Path, family: str) -> None:
    changed = load_model(proves(tiny_models, tmp_path, family, lambda m: m))
    before = load_model(fixture(tiny_models, family)[1])
    assert set(changed.graph.initializers) == set(before.graph.initializers)
    assert (changed.ir_version, changed.graph.opset_imports) == (before.ir_version, before.graph.opset_imports)
    for name, value in before.graph.initializers.items():
        np.testing.assert_array_equal(changed.graph.initializers[name].const_value.numpy(), value.const_value.numpy())


def window(blocks: int, length: int, where: str) -> tuple[int, ...]:
    start = {"start": 0, "middle": 1, "end": blocks - length}[where]
    return tuple(range(start, start + length))


FOLDS = [(2, "start", "top"), (2, "middle", "mean"), (2, "end", "top"), (4, "start", "mean"), (4, "middle", "top"),
         (4, "end", "mean")]
"""Blocks, where they lie, and which of them the merged one is like."""
CASES = [
    pytest.param(family, length, where, likeness, marks=[] if likeness == like and (i + j) % 2 == 0 else [NIGHTLY])
    for i, family in enumerate(UNIFORM) for j, (length, where, like) in enumerate(FOLDS) for likeness in ("top", "mean")
]
"""Every second fold of each family, so that each is tried on two or three; at night all, and of either likeness."""


@pytest.mark.parametrize(("family", "length", "where", "like"), CASES)
def test_folds(tiny_models: Path, tmp_path: Path, family: str, length: int, where: str, like: str) -> None:
    blocks = window(FAMILIES[family], length, where)
    if like == "top":
        upper = {b: float(b == blocks[-1]) for b in blocks}
        proves(tiny_models, tmp_path, family, lambda m: m.fold(blocks, upper, "top"))
    else:
        mean = dict.fromkeys(blocks, 1 / length)
        proves(tiny_models, tmp_path, family, lambda m: m.fold(blocks, mean, "bottom", into=blocks[-1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_low_rank_on_every_role(tiny_models: Path, tmp_path: Path, family: str) -> None:
    def every_role(model: Model) -> Model:
        for i, role in enumerate(model.roles):
            model.low_rank(f"block.{i % FAMILIES[family]:02d}.{role}", 5 + i)
        return model

    proves(tiny_models, tmp_path, family, every_role)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_pairs_and_a_fold_together(tiny_models: Path, tmp_path: Path, family: str) -> None:
    """The merged block itself gets pairs; gemma2's neighbours are of different kinds, so its blocks only leave."""
    blocks, into = ((1, 2, 3), 1) if family == "gemma2" else ((1, 2), 2)
    values = {1: 1.0, 2: 0.0, 3: 0.0} if family == "gemma2" else {1: 0.75, 2: 0.5}

    def both(model: Model) -> Model:
        model.fold(blocks, values, into=into).low_rank(f"block.{into:02d}.qkv", 13).low_rank("block.04.down", 9)
        model.low_rank("block.00.gate_up" if family in GATED else "block.00.up", 11)
        return model

    proves(tiny_models, tmp_path, family, both)


@pytest.mark.parametrize("family", FAMILIES)
def test_replaced_weights(tiny_models: Path, tmp_path: Path, family: str) -> None:
    proves(tiny_models, tmp_path, family,
           lambda m: m.replace("block.01.v").replace("block.02.up").replace("block.03.qkv"))


def test_gemma2_merges_blocks_of_one_kind_alone(tiny_models: Path, tmp_path: Path) -> None:
    checkpoint, graph = fixture(tiny_models, "gemma2")
    model = Model(checkpoint).fold((1, 2), {1: 0.0, 2: 1.0})
    with pytest.raises(PassRefused, match=r"different kinds: .*Slice.*Expand"):
        transform(load_model(graph), model.plan())
    proves(tiny_models, tmp_path, "gemma2", lambda m: m.fold((1, 2, 3), {1: 0.5, 2: 0.0, 3: 0.5}, "top"))


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "opt"])
def test_weights_are_proved_by_content(tiny_models: Path, family: str) -> None:
    """A plan of a checkpoint in which two numbers of one weight are exchanged."""
    checkpoint, graph = fixture(tiny_models, family)
    for role in Model(checkpoint).roles:
        model = Model(checkpoint)
        matrix = model._matrix(model.layers[2], role).data
        matrix[[0, 1], [0, 0]] = matrix[[1, 0], [0, 0]].clone()
        with pytest.raises(PlanMismatch, match=rf"block\.02\.{role}:"):
            transform(load_model(graph), model.low_rank(f"block.02.{role}", 5).plan())
