"""The model card: front matter, figures, programs that compile, hostile names, unfinished folders."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from foldrank.reporting.card import model_card
from foldrank.reporting.markdown import code, plain

Maker = Callable[..., Path]


def front_matter(card: str) -> dict[str, object]:
    assert card.startswith("---\n")
    return dict(yaml.safe_load(card.split("---\n")[1]))


def programs(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def test_says_what_the_json_says(make_bundle: Maker) -> None:
    card = model_card(make_bundle())
    assert front_matter(card)["pipeline_tag"] == "text-generation"
    for line in (
        "# specs-5m, compressed with foldrank, ONNX",
        "| 1 | `slm` |",
        "| perplexity change | +13.0 % |",
        "| graph proof, largest relative error | 3.4·10⁻⁶ |",
        "Blocks 5 to 7 were folded into one: projections of block 7",
        "| decode, genai, context 16, batch 1 | 1.31× | 1.27 to 1.36 | 1.55× |",
        "c" * 64,
        "d" * 64,
    ):
        assert line in card, line


def test_programs_compile_and_carry_the_cache_shape(make_bundle: Maker) -> None:
    found = programs(model_card(make_bundle()))
    assert len(found) == 3
    for program in found:
        compile(program, "card", "exec")
    assert "np.zeros((1, 2, 0, 32)" in found[2]


def test_what_is_not_there_is_not_measured(make_bundle: Maker) -> None:
    card = model_card(make_bundle({"reports/bench.json": None, "reports/validate.json": None}))
    assert "Not measured. `foldrank validate`" in card
    assert "Not measured. `foldrank bench`" in card


def test_an_unfinished_folder_has_a_card_too(make_bundle: Maker) -> None:
    folder = make_bundle({"reports/bench.json": None, "reports/validate.json": None}, plan=False, sealed=False)
    assert "# LlamaForCausalLM, ONNX" in model_card(folder)
    told = model_card(folder, manifest={"source": {"name": "org/model"}, "dtype": "fp16", "exporter": "genai"})
    assert front_matter(told)["base_model"] == "org/model"
    assert "The graph's floats are fp16." in told
    assert "no compression plan was applied" in told


def test_a_local_name_is_no_base_model(make_bundle: Maker) -> None:
    assert "base_model" not in front_matter(model_card(make_bundle()))


HOSTILE = "x\n---\nlicense: evil\n# Big <script>alert(1)</script> [a](b) `code` | cell"


def test_hostile_names_stay_in_their_place(make_bundle: Maker) -> None:
    card = model_card(make_bundle(name=HOSTILE))
    assert set(front_matter(card)) == {"library_name", "model-index", "pipeline_tag", "tags"}
    assert "license" not in front_matter(card)
    outside_code = re.sub(r"(`+) ?.*? ?\1", "", card)
    assert "<script>" not in outside_code
    assert "\n# Big" not in card


@pytest.mark.parametrize("text", ["a`b", "``", "a|b", "plain", "`"])
def test_a_code_span_holds_any_text(text: str) -> None:
    fence = re.match(r"`+", code(text))
    assert fence is not None
    inside = code(text)[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall(r"`+", inside)
    assert inside.strip().replace("\\|", "|") == text


def test_plain_text_is_taken_literally() -> None:
    assert plain("a*b_[c](d)<e>\nf") == "a\\*b\\_\\[c\\](d)&lt;e&gt; f"
