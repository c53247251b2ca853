"""A recipe: the options of `plan` and `compress` in a YAML file, read without tags, aliases or surprises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from foldrank import strictjson
from foldrank.disk.staging import write_atomically
from foldrank.errors import PlanFormatError, SourceError

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """Every field an option of the same name; None leaves the option to its own default."""

    methods: tuple[str, ...] = ()
    goal: str | None = None
    minutes: float | None = None
    calibration: str | None = None
    calibration_tokens: int | None = None
    calibration_from: str | None = None
    like: str | None = None
    recover: str | None = None
    recover_text: str | None = None
    recover_tokens: int | None = None
    recover_steps: int | None = None
    recover_minutes: float | None = None
    recover_target: str | None = None
    recover_select: str | None = None
    recover_lisa: int | None = None
    text: str | None = None
    bos: str | None = None
    seed: int | None = None
    exporter: str | None = None
    dtype: str | None = None
    provider: str | None = None
    max_perplexity_increase: str | float | None = None
    min_top1_agreement: float | None = None
    min_speedup: float | None = None

    def save(self, path: Path) -> None:
        """Write the fields that are set."""
        data = {k: v for k, v in _RECIPE.dump_python(self, mode="json").items() if v not in (None, [])}
        try:
            write_atomically(path, yaml.safe_dump(data, sort_keys=False).encode())
        except OSError as error:
            raise SourceError(path, f"cannot be written: {error.strerror}", "choose another --save-recipe") from None


_RECIPE: TypeAdapter[Recipe] = TypeAdapter(Recipe)


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases: nothing can be repeated into gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


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
    return Recipe(**fields)
