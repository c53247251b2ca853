"""Random decoders, the exporters that wrote them, and plans for them, as hypothesis draws them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anonymous import strip_names
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from nightly import AT_NIGHT

from foldrank.edits.low_rank import rank_limit
from synthetic.decoders import NORMS, Decoder, Shape, random_decoder
from synthetic.genai import write_graph
from synthetic.plans import PlanMaker
from synthetic.standard import write_standard

SEED = int(os.environ.get("FOLDRANK_LAW_SEED", "20261125"))
STYLES = ("genai", "optimum", "torch", "unnamed genai", "unnamed optimum")


def law(in_ci: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """So many examples in CI, 500 in the nightly run (FOLDRANK_NIGHTLY=1), both from a seed that is written down."""
    examples = int(os.environ.get("FOLDRANK_LAW_EXAMPLES", "500" if AT_NIGHT else str(in_ci)))
    limits = settings(max_examples=examples, deadline=None, database=None,
                      suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    return lambda test: seed(SEED)(limits(test))


@dataclass(frozen=True)
class Written:
    """A decoder and how its graph is written."""

    decoder: Decoder
    style: str

    def __repr__(self) -> str:
        """Without the weights: a failing case is told by its shape."""
        return f"{self.style}: {self.decoder.shape}"

    def write(self, folder: Path) -> Path:
        """The graph's path."""
        style = self.style.removeprefix("unnamed ")
        path = folder / "model.onnx"
        folder.mkdir(parents=True, exist_ok=True)
        if style == "genai":
            write_graph(self.decoder, path)
        else:
            write_standard(self.decoder, path, style)
        return path if style == self.style else strip_names(path, folder / "bare" / "model.onnx")


@st.composite
def shapes(draw: st.DrawFn, style: str) -> Shape:
    """Of any kind that the style's exporter can write."""
    kv_heads, standard = draw(st.integers(1, 3)), not style.endswith("genai")
    special = {
        "norms": draw(st.sampled_from(sorted(NORMS))), "gated": draw(st.booleans()), "qk_norm": draw(st.booleans()),
        "all_biased": draw(st.booleans()), "form": draw(st.sampled_from(["matmul", "turned", "gemm", "gemm_turned"])),
        "dtype": draw(st.sampled_from(["float32", "float32", "float16", "bfloat16"])),
    } if standard else {"dtype": draw(st.sampled_from(["float32", "float32", "float16", "bfloat16"]))}
    return Shape(
        blocks=draw(st.one_of(st.integers(2, 6), st.integers(2, 12))), heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads, head_size=draw(st.sampled_from([16, 32])), width=draw(st.integers(3, 12)) * 8,
        mlp=draw(st.integers(3, 12)) * 8, vocab=draw(st.integers(10, 40)), packed=draw(st.booleans()),
        biased=draw(st.booleans()), tied=draw(st.booleans()), **special,
    )


@st.composite
def written(draw: st.DrawFn) -> Written:
    """A random decoder in a random exporter's hand."""
    style = draw(st.sampled_from(STYLES))
    return Written(random_decoder(draw(shapes(style)), seed=draw(st.integers(0, 9))), style)


@st.composite
def planned(draw: st.DrawFn) -> tuple[Written, PlanMaker]:
    """With a plan: disjoint windows, then pairs and other weights on any sites that stay, jointly or alone; and pairs
    beside any of them."""
    source = draw(written())
    shape, maker = source.decoder.shape, PlanMaker(source.decoder, "0" * 64)
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
    joint = {"qkv": ("q", "k", "v"), **({"gate_up": ("gate", "up")} if shape.gated else {})}
    for block in left:
        for name in sorted(draw(st.sets(st.sampled_from([*shape.roles, *joint]), max_size=3))):
            roles = joint.get(name, (name,))
            taken = {r for e in maker.edits if e.site.block == block for r in e.site.roles}
            limit = rank_limit(shape.linear(roles[0])[0], sum(shape.linear(r)[1] for r in roles))
            if taken & set(roles):
                continue
            if limit and draw(st.integers(0, 3)):
                maker.low_rank(f"block.{block:02d}.{name}", draw(st.integers(1, limit)))
            else:
                maker.replace(f"block.{block:02d}.{name}")
    for block in left:
        taken = set()
        for name in sorted(draw(st.sets(st.sampled_from([*shape.roles, *joint]), max_size=2))):
            roles = joint.get(name, (name,))
            shared = min(shape.linear(roles[0])[0], sum(shape.linear(r)[1] for r in roles))
            if not taken & set(roles):
                maker.beside(f"block.{block:02d}.{name}", draw(st.integers(1, shared)))
            taken |= set(roles)
    return source, maker
