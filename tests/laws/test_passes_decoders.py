"""Laws over random decoders: whatever a plan asks of whatever decoder, the graph computes it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import ROLES, PlanMaker, Shape, random_decoder, run_onnx, worst, write_graph

from foldrank.edits import rank_limit
from foldrank.graph.decoder import read_decoder
from foldrank.graph.invariants import check_file
from foldrank.graph.load import load_model
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model

EXAMPLES = int(os.environ.get("FOLDRANK_LAW_EXAMPLES", "25"))
"""The nightly run sets 500."""

SLOW = settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 100,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    kv_heads = draw(st.integers(1, 3))
    return Shape(
        blocks=draw(st.integers(2, 7)), heads=kv_heads * draw(st.integers(1, 3)), kv_heads=kv_heads,
        head_size=draw(st.sampled_from([16, 32])), width=draw(st.integers(3, 12)) * 8,
        mlp=draw(st.integers(3, 12)) * 8, vocab=draw(st.integers(10, 40)), packed=draw(st.booleans()),
        biased=draw(st.booleans()), tied=draw(st.booleans()),
    )


@st.composite
def plans(draw: st.DrawFn) -> PlanMaker:
    """Disjoint windows, then pairs on any sites that stay, jointly or alone."""
    shape = draw(shapes())
    maker = PlanMaker(random_decoder(shape, seed=draw(st.integers(0, 9))), "0" * 64)
    start, left = 0, []
    while start < shape.blocks:
        stop = min(shape.blocks, start + draw(st.sampled_from([1, 1, 2, 3, 4])))
        window = tuple(range(start, stop))
        into = draw(st.sampled_from(window))
        if len(window) > 1:
            weights = {block: draw(st.sampled_from([0.0, 0.5, 1.0, -0.25])) for block in window}
            maker.fold(window, weights, into, draw(st.sampled_from(["bottom", "top"])))
        left.append(into)
        start = stop
    for block in left:
        for name in draw(st.sets(st.sampled_from([*ROLES, "qkv", "gate_up"]), max_size=3)):
            roles = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}.get(name, (name,))
            taken = {r for e in maker.edits if e.site.block == block for r in e.site.roles}
            limit = rank_limit(shape.linear(roles[0])[0], sum(shape.linear(r)[1] for r in roles))
            if not taken & set(roles) and limit:
                maker.low_rank(f"block.{block:02d}.{name}", draw(st.integers(1, limit)))
    return maker


@SLOW
@given(plans(), st.integers(0, 9))
def test_graph_computes_what_the_plan_says_prefilled_and_cached(maker: PlanMaker, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dense, small = Path(folder) / "dense", Path(folder) / "small"
        dense.mkdir()
        small.mkdir()
        write_graph(maker.decoder, dense / "model.onnx")
        model, _ = transform(load_model(dense / "model.onnx"), maker.plan())
        write_model(model, small)
        check_file(small / "model.onnx", "written")
        ids = np.random.default_rng(seed).integers(0, maker.decoder.shape.vocab, 11)
        expected = maker.expected().logits(ids)
        if np.abs(expected).max() < 1e-3:  # coefficients that cancel everything leave nothing to compare
            return
        assert worst(run_onnx(small / "model.onnx", ids), expected) < 1e-4
        assert worst(run_onnx(small / "model.onnx", ids, (4, 1, 6)), expected) < 1e-4


@SLOW
@given(shapes())
def test_sites_cover_every_weight_once_and_boundaries_correspond(shape: Shape) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_graph(random_decoder(shape), Path(folder) / "model.onnx")
        decoder = read_decoder(load_model(Path(folder) / "model.onnx"))
    assert [block.number for block in decoder.blocks] == list(range(shape.blocks))
    assert (decoder.heads, decoder.kv_heads, decoder.head_size) == (shape.heads, shape.kv_heads, shape.head_size)
    assert decoder.tied == shape.tied
    for block in decoder.blocks:
        found = {site.role: (li.tensor.shape[0], width)
                 for li in block.linears for site, width in zip(li.sites, li.widths, strict=True)}
        assert found == {role: shape.linear(role) for role in ROLES}
        assert all((li.bias is not None) == (shape.biased and li.roles[0] in "qkv") for li in block.linears)
        assert (len(block.norms), block.unknown, block.opaque) == (2, [], ())
        assert block.kind == decoder.blocks[0].kind
    assert [len(values) for values in decoder.boundaries] == [1] + [2] * shape.blocks
