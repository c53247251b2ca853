"""A synthetic bundle folder whose JSON files have the true schemas: what the page and the card are tested on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_reports import benchmark, validation

from foldrank import strictjson
from foldrank.bundle.bundle import seal
from foldrank.digests import WeightDigest
from foldrank.edits import Edit
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank, rank_limit
from foldrank.installed import missing
from foldrank.planfile.document import Calibration, Keep, PlanDocument, Source, Step
from foldrank.reporting import picture
from foldrank.sites import Site

CHARTS = ("bytes_chart", "context_chart", "front_chart", "quality_chart", "roofline", "similarity_map", "spectra",
          "speed_chart")
BLOCKS = 12
SHAPES = {"qkv": (192, 320), "o": (192, 192), "gate_up": (192, 1024), "down": (512, 192)}
_DIGEST = WeightDigest("0" * 64, "1" * 64, "2" * 64)

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_hidden_layers": BLOCKS,
    "vocab_size": 4096,
    "tie_word_embeddings": True,
}


def folds() -> tuple[FoldBlocks, ...]:
    return (
        FoldBlocks(5, (5, 6, 7), {5: 0.0, 6: 0.0, 7: 1.0}, "bottom"),
        FoldBlocks(9, (9, 10), {9: 0.0, 10: 1.0}, "bottom"),
    )


def survivors() -> list[int]:
    return [b for b in range(BLOCKS) if b not in {e for fold in folds() for e in fold.leaving}]


def rank_of(block: int, role: str) -> int:
    return min(rank_limit(*SHAPES[role]), 48 + 4 * (block % 5))


def site(block: int, role: str) -> Site:
    return Site.parse(f"block.{block:02d}.{role}")


def plan_document(name: str = "specs-5m") -> PlanDocument:
    edits: list[Edit] = [*folds()]
    for block in survivors():
        for role, shape in SHAPES.items():
            if role == "o" and block < 2:
                continue
            where = site(block, role)
            edits.append(
                LowRank(where, shape, rank_of(block, role), (f"{where}.A", f"{where}.B"), (_DIGEST,) * len(where.roles))
            )
    weights = {str(part): _DIGEST for fold in folds() for b in fold.blocks for part in site(b, "qkv").parts}
    return PlanDocument(
        Source(name, "c" * 64, "LlamaForCausalLM", BLOCKS, weights),
        Calibration("calibration.jsonl", "d" * 64, 64, 256, 16384, 0),
        (
            Step("slm", {"keep": 0.75, "rule": "top", "norms": "bottom"}, Keep(0.75, 0.75)),
            Step("dipsvd", {"keep": 0.8, "whitening": "plain"}, Keep(0.8, 0.7968)),
        ),
        {"keep": 0.5976, "parameters_before": 5_509_824, "blocks_after": 9},
        {"foldrank": "0.1.0", "torch": "2.13.0"},
        tuple(edits),
    )


def diagnostics() -> dict[str, Any]:
    matrix = [
        [1.0 - 0.03 * abs(i - j) ** 1.2 - 0.02 * (i == 0) * (j > 0) - 0.02 * (j == 0) * (i > 0) for j in range(BLOCKS)]
        for i in range(BLOCKS)
    ]
    spectra = []
    for block in survivors():
        for role, shape in SHAPES.items():
            full = min(shape)
            ranks = [round(i * full / 63) for i in range(64)]
            decay = 6 + 0.3 * block
            values = [(math.exp(-decay * r / full) - math.exp(-decay)) / (1 - math.exp(-decay)) for r in ranks]
            dense = role == "o" and block < 2
            spectra.append(
                {
                    "site": str(site(block, role)),
                    "ranks": ranks,
                    "values": values,
                    "rank": None if dense else rank_of(block, role),
                    "full": full,
                }
            )
    return {
        "similarity": {"measure": "debiased linear CKA", "blocks": list(range(BLOCKS)), "matrix": matrix},
        "windows": [{"low": 5, "high": 7, "similarity": 0.9123}, {"low": 9, "high": 10, "similarity": 0.9456}],
        "spectra": spectra,
        "slm_trace": [{"low": 9, "high": 10, "similarity": 0.95, "accepted": True}],
    }


def receipts() -> list[dict[str, Any]]:
    def row(name: str, effect: str, where: str, before: int, after: int, reason: str) -> dict[str, Any]:
        return {
            "pass": name,
            "effect": effect,
            "where": where,
            "bytes_before": before,
            "bytes_after": after,
            "reason": reason,
        }

    return [
        row("fold_blocks", "approximate", "block.05.qkv", 245760, 245760, "is 1.0 x block 7 now"),
        *(
            row(
                "low_rank",
                "approximate",
                str(site(b, "down")),
                393216,
                4 * 704 * rank_of(b, "down"),
                "pair of one edit",
            )
            for b in survivors()
        ),
        row("drop_blocks", "exact", "block.06", 0, 0, "left, with 14 nodes and KV pair 6"),
    ]


FILES: dict[str, Callable[[], Any]] = {
    "plan/diagnostics.json": diagnostics,
    "reports/validate.json": validation,
    "reports/bench.json": benchmark,
    "reports/receipts.json": receipts,
}


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Build a sealed compressed bundle; `change` edits or (None) leaves out files, `name` is the source's name."""

    def make(
        change: dict[str, Any] | None = None, *, name: str = "specs-5m", plan: bool = True, sealed: bool = True
    ) -> Path:
        folder = tmp_path / "bundle"
        decoder = {"num_hidden_layers": len(survivors()) if plan else BLOCKS, "head_size": 32, "num_key_value_heads": 2}
        files: dict[str, Any] = {
            "config.json": CONFIG | {"num_hidden_layers": decoder["num_hidden_layers"]},
            "genai_config.json": {"model": {"context_length": 1024, "decoder": decoder}},
            **{path: build() for path, build in FILES.items() if plan or not path.startswith("plan/")},
            **(change or {}),
        }
        for path, content in files.items():
            if content is not None:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(content if isinstance(content, str) else strictjson.dumps(content))
        if plan:
            (folder / "plan").mkdir(exist_ok=True)
            (folder / "plan" / "plan.json").write_text(plan_document(name).text())
        (folder / "model.onnx").write_bytes(b"\0" * 70_000)
        (folder / "model.onnx.data").write_bytes(b"\0" * 14_000_000)
        if sealed:
            seal(
                folder,
                command="foldrank compress",
                seed=0,
                exporter="genai",
                dtype="fp32",
                versions={"foldrank": "0.1.0"},
                source={
                    "name": name,
                    "path": f"/models/{name}",
                    "config_sha256": "c" * 64,
                    "architecture": "LlamaForCausalLM",
                },
            )
        return folder

    return make


_DRAWN: dict[Any, Any] = {}


@pytest.fixture
def drawn_anew() -> Callable[[], None]:
    """Call it, and pictures are drawn again."""
    return _DRAWN.clear


@pytest.fixture(scope="session", autouse=True)
def drawn_once() -> Iterator[None]:
    """A picture of the same name, told by the same words and drawn from the same data is drawn once a session."""
    real, known = picture.picture, _DRAWN

    def remembered(draw: Callable[[], Any], name: str, alt: str, caption: str) -> Any:
        data = [repr(cell.cell_contents) for cell in draw.__closure__ or ()]
        key = (draw.__code__, name, alt, caption, *data, bool(missing(["matplotlib"])), picture.inline_svg)
        if key not in known:
            known[key] = real(draw, name, alt, caption)
        return known[key]

    with pytest.MonkeyPatch.context() as patched:
        for chart in CHARTS:
            patched.setattr(f"foldrank.reporting.{chart}.picture", remembered)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not written out, which is what takes long: for tests that read only words."""
    monkeypatch.setattr(picture, "inline_svg", lambda *_: '<svg role="img"></svg>')
