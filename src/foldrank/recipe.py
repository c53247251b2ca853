"""A recipe: the options of `plan` and `compress` in a YAML file, read without tags, aliases or surprises."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from foldrank import strictjson
from foldrank.disk.staging import write_atomically
from foldrank.errors import PlanFormatError, SourceError

_MAX_BYTES = 1 << 20


_Path = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(ge=1)]
_Minutes = Annotated[float, Field(gt=0)]
_Share = Annotated[float, Field(ge=0)] | Annotated[str, Field(pattern=r"^[0-9.]+%?$")]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", title="foldrank recipe"))
class Recipe:
    """The options of `foldrank plan` and `compress`, each under the option's name; what is left out keeps its default.
    Paths are relative to the recipe."""

    model: Annotated[_Path | None, Field(
        description="For `foldrank sweep` alone: the checkpoint, where that is not on its command line.")] = None
    methods: Annotated[tuple[str, ...], Field(
        description="NAME or NAME:KEY=VALUE,KEY=VALUE, applied in order, e.g. dipsvd:keep=0.8")] = ()
    goal: Annotated[Literal["small", "balanced", "fast"] | None, Field(description="In the place of methods.")] = None
    minutes: Annotated[_Minutes | None, Field(description="With goal: so long may all of it take.")] = None
    calibration: Annotated[_Path | None, Field(description="Text, JSON lines or CSV.")] = None
    calibration_tokens: _Count | None = None
    calibration_from: Annotated[_Path | None, Field(description="A corpus, for `like`.")] = None
    like: _Path | None = None
    recover: Annotated[Literal["factors", "sliced", "lora", "middle", "diagonal", "scales", "norms"] | None, Field(
        description="Train the plan by distillation.")] = None
    recover_text: _Path | None = None
    recover_tokens: Annotated[int, Field(ge=64)] | None = None
    recover_steps: _Count | None = None
    recover_minutes: _Minutes | None = None
    recover_target: Literal["logits", "features", "both"] | None = None
    recover_select: Literal["random", "rs2", "paser"] | None = None
    recover_lisa: _Count | None = None
    text: Annotated[_Path | None, Field(description="Held-out text, for quality.")] = None
    bos: Literal["auto", "always", "never"] | None = None
    seed: int | None = None
    exporter: Literal["auto", "genai", "transformers", "optimum"] | None = None
    dtype: Literal["fp32", "fp16", "bf16"] | None = None
    provider: Annotated[str | None, Field(description="cpu, cuda, tensorrt, a plugin, or its long name.")] = None
    max_perplexity_increase: Annotated[_Share | None, Field(description="A gate: 5% or 0.05.")] = None
    min_top1_agreement: Annotated[Annotated[float, Field(ge=0, le=1)] | None, Field(description="A gate.")] = None
    min_speedup: Annotated[Annotated[float, Field(gt=0)] | None, Field(description="A gate on decoding.")] = None

    def save(self, path: Path) -> None:
        """Write the fields that are set."""
        data = {k: v for k, v in _RECIPE.dump_python(self, mode="json").items() if v not in (None, [])}
        try:
            write_atomically(path, yaml.safe_dump(data, sort_keys=False).encode())
        except OSError as error:
            raise SourceError(path, f"cannot be written: {error.strerror}", "choose another --save-recipe") from None


_RECIPE: TypeAdapter[Recipe] = TypeAdapter(Recipe)


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases, so that nothing can be repeated into gigabytes, and without keys that stand twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key) for key, _ in node.value]
        if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
            raise yaml.YAMLError(f"key {twice[0]!r} stands twice")
        return super().construct_mapping(node, deep)


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, as docs/recipe.schema.json publishes it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_RECIPE.json_schema()}


def altered(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with `KEY=VALUE` settings. KEY is a key of the recipe, or `methods.NAME.SETTING`: a setting of the one
    method of that name; `methods.NUMBER.SETTING` tells several of one name apart, from 0. Values are read as YAML.
    Raises ValueError."""
    fields = {name: getattr(recipe, name) for name in _KEYS}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting!r} is not KEY=VALUE")
        field, *inner = key.split(".")
        if field not in fields or (inner and (field != "methods" or len(inner) != 2)):
            raise ValueError(f"unknown key {key!r}; known are {', '.join(_KEYS)}, and methods.NAME.SETTING")
        try:
            value = yaml.load(text, Loader=_PlainLoader)
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"{setting!r}: not plain YAML: {' '.join(str(error).split())}") from None
        fields[field] = _with_setting(fields["methods"], inner[0], inner[1], text) if inner else value
    try:
        return _RECIPE.validate_python(fields)
    except ValidationError as error:
        raise ValueError(strictjson.reasons(error)) from None


def _with_setting(methods: tuple[str, ...], which: str, setting: str, value: str) -> tuple[str, ...]:
    """The methods, one of them with another value of a setting."""
    places = [number for number, method in enumerate(methods)
              if which == str(number) or which == method.partition(":")[0]]
    if len(places) != 1:
        met = "no method of the recipe is" if not places else f"{len(places)} methods of the recipe are"
        raise ValueError(f"methods.{which}: {met} called so; it has {', '.join(methods) or 'none'}")
    name, _, rest = methods[places[0]].partition(":")
    kept = [item for item in rest.split(",") if item and item.partition("=")[0] != setting]
    changed = f"{name}:{','.join([*kept, f'{setting}={value}'])}"
    return tuple(changed if number == places[0] else method for number, method in enumerate(methods))


def read_recipe(path: Path) -> Recipe:
    """Read a recipe. Paths in it are relative to its folder. Raises SourceError, PlanFormatError."""
    if not path.is_file():
        raise SourceError(path, "no such file", "give the YAML file that --save-recipe wrote")
    if path.stat().st_size > _MAX_BYTES:
        raise PlanFormatError(path, f"larger than {_MAX_BYTES} bytes", "a recipe is a few lines")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
        recipe = _RECIPE.validate_python(data if data is not None else {})
    except ValidationError as error:
        raise PlanFormatError(path, strictjson.reasons(error), f"known keys: {', '.join(_KEYS)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise PlanFormatError(path, f"not plain YAML: {' '.join(str(error).split())}", "see --save-recipe") from None
    return _anchored(recipe, path.parent)


_KEYS = tuple(Recipe.__dataclass_fields__)


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    fields = {name: getattr(recipe, name) for name in _KEYS}
    for name in ("calibration", "calibration_from", "like", "recover_text", "text"):
        if fields[name] is not None:
            fields[name] = str(folder / fields[name])
    if fields["model"] is not None and (folder / fields["model"]).exists():  # else it is a hub id
        fields["model"] = str(folder / fields["model"])
    return Recipe(**fields)
