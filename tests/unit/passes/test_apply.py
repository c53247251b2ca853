"""Plans applied to bundles, against a float64 oracle that knows nothing of passes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from nightly import AT_NIGHT
from synthetic import Decoder, PlanMaker, Shape, random_decoder, run_onnx, worst, write_bundle

from foldrank.bundle.bundle import Bundle
from foldrank.digests import sha256_file
from foldrank.graph.linear.weights import read
from foldrank.graph.safe.load import load_model
from foldrank.verbs.apply import apply

IDS = np.random.default_rng(1).integers(0, 50, 24)
CLOSE = 1e-5
"""float32 kernels against float64, a few blocks deep; a wrong weight gives 1e-2 and more."""

SHAPES = {
    "packed": Shape(blocks=6), "split": Shape(blocks=6, packed=False), "biased": Shape(blocks=6, biased=True),
    "split-biased": Shape(blocks=6, packed=False, biased=True), "untied": Shape(blocks=6, tied=False),
    "one-head": Shape(blocks=6, heads=3, kv_heads=3, width=40),
}


@pytest.fixture(scope="module", params=sorted(SHAPES))
def dense(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, Bundle]:
    decoder = random_decoder(SHAPES[request.param], seed=3)
    return decoder, write_bundle(decoder, tmp_path_factory.mktemp("dense") / "bundle")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, Bundle]:
    decoder = random_decoder(SHAPES["packed"], seed=3)
    return decoder, write_bundle(decoder, tmp_path_factory.mktemp("packed") / "bundle")


def by_day(dense: tuple[Decoder, Bundle], *, all_of: bool) -> None:
    """Every case on packed and on split weights, on the other shapes a few."""
    if not (AT_NIGHT or all_of or dense[0].shape in (SHAPES["packed"], SHAPES["split-biased"])):
        pytest.skip("takes long: FOLDRANK_NIGHTLY=1")


def maker(dense: tuple[Decoder, Bundle]) -> PlanMaker:
    return PlanMaker(dense[0], dense[1].manifest.source["config_sha256"])


def proves(made: PlanMaker, bundle: Bundle, out: Path) -> Bundle:
    """Apply, then compare prefill and cached decoding with the oracle, and the dense bundle with what it was."""
    before = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
    small = apply(bundle, made.plan(), out)
    expected = made.expected().logits(IDS)
    assert worst(run_onnx(small.model, IDS), expected) < CLOSE
    assert worst(run_onnx(small.model, IDS, (7, 1, 1, 5, 10)), expected) < CLOSE
    assert {name: sha256_file(bundle.path / name) for name in before} == before
    assert Bundle.open(out) == small
    return small


def initializers(path: Path) -> dict[str, bytes]:
    return {n: read(v.const_value).tobytes() for n, v in load_model(path).graph.initializers.items()}


def test_oracle_agrees_with_the_dense_graph_and_tells_a_changed_weight(dense: tuple[Decoder, Bundle]) -> None:
    decoder, bundle = dense
    assert worst(run_onnx(bundle.model, IDS), decoder.logits(IDS)) < CLOSE
    blocks = [dict(block) for block in decoder.blocks]
    blocks[2]["v"] = blocks[2]["v"] * np.float32(1.01)
    other = Decoder(decoder.shape, blocks, decoder.head, decoder.embedding, decoder.norm)
    assert worst(run_onnx(bundle.model, IDS), other.logits(IDS)) > 10 * CLOSE


def test_empty_plan_gives_identical_initializers(dense: tuple[Decoder, Bundle], tmp_path: Path) -> None:
    small = proves(maker(dense), dense[1], tmp_path / "out")
    assert initializers(small.model) == initializers(dense[1].model)


@pytest.mark.parametrize("blocks", [(0, 1), (2, 3), (4, 5), (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("rule", ["top", "rdsc"])
def test_folds_windows_at_start_middle_and_end(
    dense: tuple[Decoder, Bundle], tmp_path: Path, blocks: tuple[int, ...], rule: str
) -> None:
    by_day(dense, all_of=(blocks, rule) in (((0, 1), "top"), ((1, 2, 3, 4), "rdsc")))
    rules = {
        "top": {b: float(b == blocks[-1]) for b in blocks},
        "rdsc": dict.fromkeys(blocks, 1.0) | {blocks[0]: 2.0 - len(blocks)},
    }
    small = proves(maker(dense).fold(blocks, rules[rule]), dense[1], tmp_path / "out")
    left = 6 - len(blocks) + 1
    assert json.loads((small.path / "config.json").read_text())["num_hidden_layers"] == left
    assert json.loads((small.path / "genai_config.json").read_text())["model"]["decoder"]["num_hidden_layers"] == left


@pytest.mark.parametrize("into", [1, 2, 3])
@pytest.mark.parametrize("norms", ["bottom", "top"])
def test_any_block_may_be_folded_into(
    packed: tuple[Decoder, Bundle], tmp_path: Path, into: int, norms: str
) -> None:
    made = maker(packed).fold((1, 2, 3), {1: 0.25, 2: 0.5, 3: 0.25}, into, norms).low_rank(f"block.{into:02d}.down", 7)
    proves(made, packed[1], tmp_path / "out")


def test_two_folds_next_to_each_other(packed: tuple[Decoder, Bundle], tmp_path: Path) -> None:
    made = maker(packed).fold((0, 1), {0: 0.0, 1: 1.0}, 1).fold((2, 3, 4), {2: 0.5, 3: 0.0, 4: 0.5}, 3, "top")
    small = proves(made, packed[1], tmp_path / "out")
    config = json.loads((small.path / "config.json").read_text())
    assert config["layer_types"] == ["full_0", "full_2", "full_5"]
    assert config["eos_token_id"] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("role", ["q", "k", "v", "o", "gate", "up", "down", "qkv", "gate_up"])
def test_low_rank_on_every_role(dense: tuple[Decoder, Bundle], tmp_path: Path, role: str) -> None:
    by_day(dense, all_of=role in ("qkv", "o", "down"))
    proves(maker(dense).low_rank(f"block.00.{role}", 9).low_rank(f"block.03.{role}", 5), dense[1], tmp_path / "out")


@pytest.mark.parametrize("roles", [("q", "k", "v"), ("q", "v"), ("k", "v"), ("gate", "up"), ("v", "q", "down")])
def test_low_rank_on_several_roles_of_one_block(
    dense: tuple[Decoder, Bundle], tmp_path: Path, roles: tuple[str, ...]
) -> None:
    by_day(dense, all_of=len(roles) == 2)
    made = maker(dense)
    for i, role in enumerate(roles):
        made.low_rank(f"block.02.{role}", 4 + i)
    proves(made, dense[1], tmp_path / "out")


def test_folds_low_rank_and_replacement_together(dense: tuple[Decoder, Bundle], tmp_path: Path) -> None:
    made = maker(dense).fold((1, 2), {1: 0.5, 2: 0.5}).fold((3, 4), {3: 0.0, 4: 1.0}, 4, "top")
    made.low_rank("block.01.qkv", 8).low_rank("block.04.k", 6).low_rank("block.04.gate_up", 11)
    made.replace("block.05.q").replace("block.00.gate_up").low_rank("block.00.qkv", 10)
    small = proves(made, dense[1], tmp_path / "out")
    receipts = json.loads((small.path / "reports" / "receipts.json").read_text())["receipts"]
    assert {"pass", "effect", "where", "bytes_before", "bytes_after", "reason"} == set(receipts[0])
    pair = next(r for r in receipts if r["where"] == "block.04.gate_up")
    assert (pair["bytes_before"], pair["bytes_after"]) == (4 * dense[0].shape.width * 160,
                                                          4 * 11 * (dense[0].shape.width + 160))


def test_full_rank_factors_of_a_narrow_weight_give_the_dense_logits(
    packed: tuple[Decoder, Bundle], tmp_path: Path
) -> None:
    """Rank 24 of [48, 128] is exact where the weight has rank 24."""
    decoder, _ = packed
    blocks = [dict(b) for b in decoder.blocks]
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) / 5 for s in ((48, 24), (24, 128)))
    whole = (a.astype(np.float64) @ b).astype(np.float32)
    blocks[1] |= {"q": whole[:, :64], "k": whole[:, 64:96], "v": whole[:, 96:]}
    narrow = Decoder(decoder.shape, blocks, decoder.head, decoder.embedding, decoder.norm, [-1] * 6)
    bundle = write_bundle(narrow, tmp_path / "dense")
    made = PlanMaker(narrow, bundle.manifest.source["config_sha256"]).low_rank("block.01.qkv", 24)
    made.arrays = {"block.01.qkv.A": a, "block.01.qkv.B": b}
    small = apply(bundle, made.plan(), tmp_path / "out")
    assert worst(run_onnx(small.model, IDS), narrow.logits(IDS)) < CLOSE


def test_fp16_weights_are_proved_and_combined_exactly(tmp_path: Path) -> None:
    """The CPU has no fp16 GroupQueryAttention, so initializers are compared instead of logits."""
    decoder = random_decoder(Shape(blocks=4, dtype="float16"), seed=5)
    bundle = write_bundle(decoder, tmp_path / "dense")
    made = PlanMaker(decoder, bundle.manifest.source["config_sha256"])
    made.fold((1, 2), {1: 0.5, 2: 0.5}).low_rank("block.00.o", 7)
    found = initializers(apply(bundle, made.plan(), tmp_path / "out").model)
    assert found["model.layers.1.mlp.down_proj.MatMul.weight"] == made.blocks[1]["down"].tobytes()
    assert found["model.layers.0.attn.o_proj.MatMul.o.A"] == made.arrays["block.00.o.A"].astype(np.float16).tobytes()


def test_plan_from_the_fp32_checkpoint_fits_its_fp16_graph(tmp_path: Path) -> None:
    wide = random_decoder(Shape(blocks=3), seed=5)
    blocks = [{name: weight.astype(np.float16) for name, weight in block.items()} for block in wide.blocks]
    half = Decoder(Shape(blocks=3, dtype="float16"), blocks, wide.head, wide.embedding, wide.norm, [-1] * 3)
    bundle = write_bundle(half, tmp_path / "dense")
    made = PlanMaker(wide, bundle.manifest.source["config_sha256"])
    made.fold((1, 2), {1: 0.0, 2: 1.0}).low_rank("block.00.up", 5)
    found = initializers(apply(bundle, made.plan(), tmp_path / "out").model)
    assert found["model.layers.1.attn.o_proj.MatMul.weight"] == half.blocks[2]["o"].tobytes()


def test_written_graph_has_no_gaps_no_leftovers_and_states_the_head_size(
    packed: tuple[Decoder, Bundle], tmp_path: Path
) -> None:
    made = maker(packed).fold((1, 2, 3), {1: 0.0, 2: 0.0, 3: 1.0}).low_rank("block.05.k", 4)
    small = apply(packed[1], made.plan(), tmp_path / "out")
    graph = onnx.load(small.model, load_external_data=False).graph
    dense = onnx.load(packed[1].model, load_external_data=False)
    assert [v.name for v in graph.input[2:]] == [f"past_key_values.{i}.{k}" for k in ("key", "value") for i in range(4)]
    assert [v.name for v in graph.output[1:]] == [f"present.{i}.{k}" for k in ("key", "value") for i in range(4)]
    assert {v.type.tensor_type.shape.dim[3].dim_value for v in graph.input[2:]} == {16}
    used = {name for node in graph.node for name in node.input}
    assert {t.name for t in graph.initializer} <= used
    assert {v.name for v in graph.value_info} <= {o for n in graph.node for o in n.output} | used
    assert graph.name != dense.graph.name
    made_nodes = {p.value for n in graph.node for p in n.metadata_props if p.key == "foldrank.site"}
    assert {"block.05.k", "block.05.q", "block.05.v"} <= made_nodes
    made_by = {p.value for n in graph.node for p in n.metadata_props if p.key == "foldrank.made_by"}
    assert made_by == {"fold_weights", "low_rank"}


def test_opset_and_ir_version_stay(packed: tuple[Decoder, Bundle], tmp_path: Path) -> None:
    small = apply(packed[1], maker(packed).fold((1, 2), {1: 0.0, 2: 1.0}).plan(), tmp_path / "out")
    old, new = (onnx.load(b.model, load_external_data=False) for b in (packed[1], small))
    assert (new.ir_version, new.opset_import) == (old.ir_version, old.opset_import)
