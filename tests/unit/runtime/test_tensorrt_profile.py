"""Shape profiles: what the options say, and that a graph runs at every shape they name, with the right numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from synthetic import Decoder, Shape, random_decoder, worst, write_standard

from foldrank.errors import GraphNotRecognized
from foldrank.graph.summary import summary_of
from foldrank.ports import Port
from foldrank.runtime.proof.graph_proof import rows_at_once
from foldrank.runtime.providers.provider import resolve
from foldrank.runtime.providers.tensorrt_profile import GIVEN, OURS, ROWS, Range, Ranges, check_options, profile
from foldrank.runtime.sessions.session import open_session

SMALL = {"profile_batch": "1:2:3", "profile_prompt": "1:2:9", "profile_past": "0:5:11"}
TOKENS = "tensor(int64)"


def no_context() -> int:
    raise AssertionError("nobody needs it")


def shapes(text: str) -> dict[str, tuple[int, ...]]:
    """What ONNX Runtime makes of such an option: `name:1x2,...`."""
    pairs = (entry.split(":") for entry in text.split(","))
    return {name: tuple(map(int, shape.split("x"))) for name, shape in pairs}


def made(inputs: Mapping[str, Port], options: Mapping[str, str] = SMALL) -> list[dict[str, tuple[int, ...]]]:
    """Shapes by input: smallest, best, largest."""
    found = profile("graph", inputs, Ranges.of(options, no_context), no_context)
    assert list(found) == list(GIVEN)
    return [shapes(text) for text in found.values()]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return random_decoder(Shape(blocks=2))


@pytest.fixture(scope="module")
def standard(decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("standard") / "model.onnx"
    write_standard(decoder, path)
    return path


def test_every_input_of_a_standard_graph_has_its_shapes(standard: Path) -> None:
    smallest, best, largest = made(summary_of(standard).inputs)
    past = [f"past_key_values.{i}.{part}" for i in range(2) for part in ("key", "value")]
    assert smallest == {"input_ids": (1, 1), "attention_mask": (1, 1), "position_ids": (1, 1),
                        **dict.fromkeys(past, (1, 2, 0, 16))}
    assert best == {"input_ids": (2, 2), "attention_mask": (2, 7), "position_ids": (2, 2),
                    **dict.fromkeys(past, (2, 2, 5, 16))}
    assert largest == {"input_ids": (3, 9), "attention_mask": (3, 20), "position_ids": (3, 9),
                       **dict.fromkeys(past, (3, 2, 11, 16))}


@pytest.mark.parametrize("part", [0, 1, 2], ids=["min", "opt", "max"])
def test_a_graph_runs_at_each_shape_and_computes_what_it_should(part: int, standard: Path, decoder: Decoder) -> None:
    """Against a plain forward pass in float64 that knows of no cache."""
    asked = made(summary_of(standard).inputs)[part]
    (rows, tokens), past = asked["input_ids"], asked["past_key_values.0.key"][2]
    ids = np.random.default_rng(part).integers(0, decoder.shape.vocab, (rows, past + tokens))
    session = open_session(standard, resolve("cpu"), threads=1)
    names = list(session.outputs)
    feed = {"attention_mask": np.ones((rows, past), np.int64), "input_ids": ids[:, :past],
            "position_ids": np.tile(np.arange(past), (rows, 1))}
    cache = {name: np.zeros((rows, *port.shape[1:2], 0, *port.shape[3:]), np.float32)
             for name, port in session.inputs.items() if name not in feed}
    if past:
        before = dict(zip(names, session.handle.run(names, {**feed, **cache}), strict=True))
        cache = {name: before[name.replace("past_key_values", "present")] for name in cache}
    feed = {"attention_mask": np.ones((rows, past + tokens), np.int64), "input_ids": ids[:, past:],
            "position_ids": np.tile(np.arange(past, past + tokens), (rows, 1)), **cache}
    assert {name: value.shape for name, value in feed.items()} == asked
    logits = session.handle.run(["logits"], feed)[0]
    assert np.isfinite(logits).all()
    wanted = np.stack([decoder.logits(row)[past:] for row in ids])
    assert worst(logits, wanted) < 1e-5
    assert worst(logits * np.float32(1.01), wanted) > 5e-3  # the comparison sees one per cent


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_graphs_of_optimum_have_profiles_for_all_dynamic_inputs(family: str, tiny_models: Path) -> None:
    inputs = summary_of(tiny_models / family / "optimum" / "model.onnx").inputs
    for found in made(inputs):
        assert set(found) == set(inputs)
        (batch, prompt), past = found["input_ids"], found["past_key_values.0.key"][2]
        assert found["attention_mask"] == (batch, prompt + past)


def test_defaults_follow_from_the_context() -> None:
    found = Ranges.of({}, lambda: 4096)
    assert found == Ranges(Range(1, 1, ROWS), Range(1, 1, 4096), Range(0, 512, 4096))
    assert Ranges.of({}, lambda: 100).past == Range(0, 50, 100)
    given = Ranges.of({"profile_past": "0:1:2"}, lambda: 64)
    assert given == Ranges(Range(1, 1, ROWS), Range(1, 1, 64), Range(0, 1, 2))


def test_by_default_as_many_rows_fit_as_validate_reads_at_once() -> None:
    assert rows_at_once(1, 1) == ROWS


def test_fixed_axes_stay_and_inputs_without_dynamic_ones_need_no_profile() -> None:
    ports = {"input_ids": Port((1, "T"), TOKENS), "fixed": Port((2, 3), TOKENS), "scalar": Port((), TOKENS)}
    assert made(ports) == [{"input_ids": (1, 1)}, {"input_ids": (1, 2)}, {"input_ids": (1, 9)}]
    assert profile("graph", {"x": Port((2, 2), TOKENS)}, Ranges.of(SMALL, no_context), no_context) == {}


def test_an_axis_of_another_input_is_known_by_its_name() -> None:
    ports = {"token_type_ids": Port(("rows", "run"), TOKENS), "input_ids": Port(("rows", "run"), TOKENS)}
    assert made(ports)[2] == {"token_type_ids": (3, 9), "input_ids": (3, 9)}


def test_a_symbolic_head_size_is_asked_for() -> None:
    ports = {"past_key_values.0.key": Port(("B", 2, "P", "D"), "tensor(float)")}
    found = profile("graph", ports, Ranges.of(SMALL, no_context), lambda: 24)
    assert found[GIVEN[2]] == "past_key_values.0.key:3x2x11x24"


@pytest.mark.parametrize("port", [Port(("B", "T", "other"), TOKENS), Port((None,), TOKENS)])
def test_an_axis_nobody_knows_is_refused_with_the_way_out(port: Port) -> None:
    ports = {"input_ids": Port(("B", "T"), TOKENS), "extra": port}
    with pytest.raises(GraphNotRecognized, match=r"m\.onnx: input extra has the axis .*trt_profile_min_shapes="):
        profile("m.onnx", ports, Ranges.of(SMALL, no_context), no_context)
    ports = {"past_key_values.0.key": Port(("B", "heads", "P", 4), "tensor(float)")}
    with pytest.raises(GraphNotRecognized, match="the axis heads"):
        profile("m.onnx", ports, Ranges.of(SMALL, no_context), no_context)


@pytest.mark.parametrize("text", ["", "1", "1:2", "1:2:3:4", "a:b:c", "-1:2:3", "1:1.5:2", " 1:2:3", "1:2:9999999999",
                                  "2:1:3", "1:4:3", "3:3:1"])
@pytest.mark.parametrize("name", OURS)
def test_what_is_no_range_is_wrong_use(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}={text}: .*min:opt:max"):
        check_options({name: text})


def test_rows_and_tokens_begin_at_one_and_the_cache_may_be_empty() -> None:
    for name in OURS[:2]:
        with pytest.raises(ValueError, match=f"{name}=0:1:2: at least 1"):
            check_options({name: "0:1:2"})
    check_options({"profile_past": "0:0:0", "profile_batch": "1:1:1", "device_id": "0"})


def test_both_kinds_of_profile_at_once_are_wrong_use() -> None:
    with pytest.raises(ValueError, match="profile_past and trt_profile_max_shapes both"):
        check_options({"profile_past": "0:1:2", "trt_profile_max_shapes": "x:1"})
