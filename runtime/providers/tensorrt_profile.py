"""Shape profiles: the ranges within which TensorRT builds an engine, for every dynamic input of a decoder.

Without them ONNX Runtime builds an engine anew whenever a shape leaves what it has seen. Its options name a shape per
input, `input_ids:1x1,attention_mask:1x1,...`, each as smallest, best and largest (ONNX Runtime, "TensorRT Execution
Provider", section Explicit shape range). Axes: B rows, T tokens of this run, P positions in the cache, H heads,
D head size; the mask is as long as both, P + T. Knows nothing of TensorRT's libraries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from foldrank.errors import GraphNotRecognized
from foldrank.ports import Port

GIVEN = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
RTX = ("nv_profile_min_shapes", "nv_profile_opt_shapes", "nv_profile_max_shapes")
"""The providers' own options, of TensorRT and of TensorRT RTX, which read the same text."""

OURS = ("profile_batch", "profile_prompt", "profile_past")
"""Options that foldrank makes them of; ONNX Runtime never sees these."""

ROWS = 8
"""Most rows by default: what `validate` reads at once (`proof.rows_at_once`)."""


@dataclass(frozen=True)
class Range:
    """Smallest, best and largest length of an axis."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.opt <= self.max:
            raise ValueError(f"{self.min}:{self.opt}:{self.max} is not min:opt:max, each at least the one before")

    @classmethod
    def parse(cls, text: str) -> Range:
        """Of `min:opt:max`. Raises ValueError."""
        if not re.fullmatch(r"\d{1,9}:\d{1,9}:\d{1,9}", text, re.ASCII):
            raise ValueError(f"{text!r} is not min:opt:max, three whole numbers")
        return cls(*map(int, text.split(":")))

    def __add__(self, other: Range) -> Range:
        return Range(self.min + other.min, self.opt + other.opt, self.max + other.max)


@dataclass(frozen=True)
class Ranges:
    """Of batch B, prompt T and past P. The longest sum of the last two is what the mask may reach."""

    batch: Range
    prompt: Range
    past: Range

    @classmethod
    def of(cls, options: Mapping[str, str], context: Callable[[], int]) -> Ranges:
        """As the options of ours say; `context`, the model's context length, is asked for where one says nothing.

        Raises ValueError for what is no range or leaves rows or tokens out.
        """
        given = {name: _given(name, options[name]) for name in OURS if name in options}
        for name in OURS[:2]:
            if name in given and given[name].min < 1:
                raise ValueError(f"{name}={options[name]}: at least 1")
        length = 0 if {*OURS[1:]} <= given.keys() else context()
        return cls(
            given.get(OURS[0]) or Range(1, 1, ROWS),
            given.get(OURS[1]) or Range(1, 1, length),
            given.get(OURS[2]) or Range(0, min(512, length // 2), length),
        )


def check_options(options: Mapping[str, str], given: Iterable[str] = GIVEN) -> None:
    """Raises ValueError where options of ours are no ranges, or stand beside the provider's own."""
    Ranges.of(options, lambda: 1)
    ours, theirs = ([n for n in names if n in options] for names in (OURS, given))
    if ours and theirs:
        raise ValueError(f"{ours[0]} and {theirs[0]} both say which shapes an engine is for: give one kind")


def profile(
    where: object, inputs: Mapping[str, Port], ranges: Ranges, head_size: Callable[[], int],
    given: Sequence[str] = GIVEN,
) -> dict[str, str]:
    """The three options, of those names, for the dynamic inputs; empty where there are none.

    `head_size` is asked for where the graph does not tell it. Raises GraphNotRecognized, naming the graph by `where`,
    for an input with an axis whose meaning is not known.
    """
    dynamic = {n: port for n, port in inputs.items() if not all(isinstance(d, int) for d in port.shape)}
    meanings = {n: found for n, port in dynamic.items() if (found := _meaning(n, port, ranges, head_size))}
    named = {axis: meaning for n, found in meanings.items()
             for axis, meaning in zip(dynamic[n].shape, found, strict=True) if isinstance(axis, str)}
    shapes = {}
    for name, port in dynamic.items():
        found = meanings.get(name) or tuple(named.get(str(axis)) for axis in port.shape)
        shapes[name] = [_axis(where, name, *both) for both in zip(port.shape, found, strict=True)]
    if not shapes:
        return {}
    return {
        option: ",".join(f"{name}:{'x'.join(str(getattr(a, part)) for a in axes)}" for name, axes in shapes.items())
        for option, part in zip(given, ("min", "opt", "max"), strict=True)
    }


def _given(name: str, text: str) -> Range:
    try:
        return Range.parse(text)
    except ValueError as error:
        raise ValueError(f"{name}={text}: {error}") from None


def _meaning(
    name: str, port: Port, ranges: Ranges, head_size: Callable[[], int]
) -> tuple[Range | None, ...] | None:
    """Ranges of the axes of an input that decoders have, the number of heads aside; None for another input."""
    match len(port.shape):
        case 2 if name in ("input_ids", "position_ids"):
            return ranges.batch, ranges.prompt
        case 2 if name == "attention_mask":
            return ranges.batch, ranges.past + ranges.prompt
        case 4 if name.startswith("past_key_values."):
            last = port.shape[3]
            return ranges.batch, None, ranges.past, _fixed(last if isinstance(last, int) else head_size())
    return None


def _axis(where: object, name: str, axis: int | str | None, meaning: Range | None) -> Range:
    if isinstance(axis, int):
        return _fixed(axis)
    if meaning is None:
        raise GraphNotRecognized(
            where, f"input {name} has the axis {axis}, which is neither batch, prompt nor past",
            f"give {', '.join(f'--provider-option {option}=...' for option in GIVEN)} yourself",
        )
    return meaning


def _fixed(size: int) -> Range:
    return Range(size, size, size)
