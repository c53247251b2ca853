"""Recipes: what is saved reads back, and nothing but plain YAML with known keys is read."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from foldrank.cli.main import cli
from foldrank.errors import PlanFormatError, SourceError
from foldrank.recipe import Recipe, altered, read_recipe, schema

TWO = Recipe(methods=("slm:keep=0.75", "dipsvd:keep=0.8,align=8"), seed=1)


def test_a_saved_recipe_reads_back(tmp_path: Path) -> None:
    recipe = Recipe(methods=("slm:keep=0.75", "dipsvd:keep=0.8"), calibration="/text.txt", seed=7,
                    max_perplexity_increase=0.05)
    recipe.save(tmp_path / "r.yaml")
    assert read_recipe(tmp_path / "r.yaml") == recipe


def test_paths_in_a_recipe_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("methods: ['slm:keep=0.5']\ncalibration: text.txt\ntext: /held-out.txt\n")
    recipe = read_recipe(tmp_path / "r.yaml")
    assert recipe.calibration == str(tmp_path / "text.txt")
    assert recipe.text == "/held-out.txt"


@pytest.mark.parametrize("text", [
    "methods: &m ['slm']\ntext: *m\n", "methods: !!python/object/apply:os.system ['true']\n", "method: ['slm']\n",
    "methods: {", "- a list\n", "seed: many\n", "[" * 5000, "seed: 1\ntext: a\nseed: 2\n", "goal: huge\n",
    "recover_tokens: 1\n", "max_perplexity_increase: five\n", "min_speedup: 0\n",
])
def test_anything_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(PlanFormatError, match=r"r\.yaml"):
        read_recipe(tmp_path / "r.yaml")


def test_a_missing_recipe_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        read_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(("setting", "field", "value"), [
    ("seed=7", "seed", 7), ("text=a=b.txt", "text", "a=b.txt"), ("goal=fast", "goal", "fast"),
    ("methods.dipsvd.keep=0.9", "methods", ("slm:keep=0.75", "dipsvd:align=8,keep=0.9")),
    ("methods.0.windows=4", "methods", ("slm:keep=0.75,windows=4", "dipsvd:keep=0.8,align=8")),
    ("methods=[rotate]", "methods", ("rotate",)), ("seed=null", "seed", None),
])
def test_a_setting_changes_one_value(setting: str, field: str, value: object) -> None:
    found = altered(TWO, [setting])
    assert getattr(found, field) == value
    assert [name for name in Recipe.__dataclass_fields__ if getattr(found, name) != getattr(TWO, name)] == [field]


@pytest.mark.parametrize("setting", [
    "seed", "sead=1", "seed=many", "seed.a=1", "methods.svd.keep=1", "methods.dipsvd=1", "methods.9.keep=1",
    "text=*a", "goal=huge", "min_speedup=0",
])
def test_a_setting_that_is_none_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"known are|is not KEY=VALUE|not plain YAML|methods|Input should"):
        altered(TWO, [setting])


def test_settings_need_a_recipe_and_reach_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(cli, ["plan", "m", "-o", "p", "--set", "seed=1"]).exit_code == 2
    asked: dict[str, object] = {}

    def plan(*_: object, **options: object) -> None:
        asked.update(options)
        raise ValueError("far enough")

    monkeypatch.setattr("foldrank.verbs.plan.plan", plan)
    TWO.save(tmp_path / "r.yaml")
    CliRunner().invoke(cli, ["plan", "m", "-o", "p", "--recipe", str(tmp_path / "r.yaml"), "--set", "seed=3", "--set",
                             "methods.slm.keep=0.5"])
    assert (asked["seed"], asked["methods"]) == (3, ("slm:keep=0.5", "dipsvd:keep=0.8,align=8"))


def test_the_published_schema_is_the_recipes(root: Path) -> None:
    published = json.loads((root / "docs" / "recipe.schema.json").read_text())
    assert published == schema()
    Draft202012Validator.check_schema(published)


def test_the_ready_recipes_are_recipes_whose_methods_can_be_asked(root: Path) -> None:
    import yaml

    from foldrank.plans.compose import parse_all

    validator = Draft202012Validator(schema())
    paths = sorted((root / "examples" / "recipes").glob("*.yaml"))
    assert [path.stem for path in paths] == ["browser", "cpu-fast", "cpu-small", "cuda-fp16", "tensorrt"]
    for path in paths:
        recipe = read_recipe(path)
        assert recipe.goal or parse_all(recipe.methods)
        assert (recipe.goal is None) == bool(recipe.methods)
        validator.validate(yaml.safe_load(path.read_text()))
    assert not validator.is_valid({"sead": 1})
