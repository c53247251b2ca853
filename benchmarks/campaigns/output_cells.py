"""What same_output.py makes of every family: plans, dense exports, applied plans, and how each is made.

Asks foldrank through its verbs alone, so that it serves trees whose insides differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

import optimum_graphs
import output_digests
from tiny_families import TINY, save

import foldrank

GRAPH = "optimum"
"""Folder beside a checkpoint with the graph of optimum-onnx, which is adopted: that exporter takes long."""
PLANS: dict[str, dict[str, Any]] = {
    "fold": {"methods": ["slm:keep=0.84,windows=4"]},
    "drop": {"methods": ["shortgpt:keep=0.67,windows=4,tokens=128"]},
    "joint pairs": {"methods": ["dipsvd:keep=0.8,align=1"]},
    "split pairs": {"methods": ["svd:keep=0.8,align=1,packed=split"]},
    "few bits": {"methods": ["quantize:bits=4,head_bits=4"]},
    "all": {"methods": ["slm:keep=0.84,windows=4", "dipsvd:keep=0.8,align=1",
                        "quantize:bits=8,symmetric=false,accuracy=0"]},
}
"""Of every family: what `foldrank.plan` is asked, by a name for it."""
MORE_PLANS: dict[str, dict[str, Any]] = {
    "mean fold": {"methods": ["slm:keep=0.67,windows=4,rule=mean,norms=top"]},
    "disjoint folds": {"methods": ["laco:keep=0.67,window=2"]},
    "shared basis": {"methods": ["basis_sharing:keep=0.8,align=1"]},
    "searched": {"methods": ["auto:keep=0.8,effort=low,align=1"]},
    "trained": {"methods": ["slm:keep=0.84,windows=4"], "recover": "lora", "recover_steps": 2, "recover_tokens": 1024},
}
"""Of these families only, which differ in how weights are packed, biased and turned."""
MORE_OF = ("llama", "phi3", "gpt2", "gptneox")
FEW_PLANS = ("fold", "split pairs", "all")
"""Of checkpoints whose graph is adopted."""
GENAI = ("llama", "llama-untied", "qwen2", "qwen3", "gemma", "gemma2", "granite", "phi3")
"""What the model builder writes, in seconds. Each of SLOW takes up to a minute for a family."""
SLOW = ("optimum", "transformers")
PAGES = ("all", "searched")
"""Plans whose bundles get a page too, of the families of MORE_OF: it takes as long as all the rest of a cell."""
Outcome = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """A checkpoint by name: how it is made in a folder; what `plan` and `export` are asked, each by a name for it."""

    name: str
    make: Callable[[Path], Path]
    plans: dict[str, dict[str, Any]]
    exports: dict[str, dict[str, Any]]

    def cells(self) -> Iterator[str]:
        """Names of its cells, in the order they are made in."""
        yield from (f"{self.name} / plan / {plan}" for plan in self.plans)
        for export in self.exports:
            yield f"{self.name} / {export}"
            yield from (f"{self.name} / {export} / {plan}" for plan in self.plans)


def families(*, slow: Sequence[str] = ()) -> list[Family]:
    """Every family of the matrix, then the checkpoints that come with a graph. `slow`: exporters of SLOW too."""
    found = []
    for name, tiny in TINY.items():
        exports: dict[str, dict[str, Any]] = {"genai": {"exporter": "genai"}} if name in GENAI else {}
        exports |= {"genai fp16": {"exporter": "genai", "dtype": "fp16"}} if name == "llama" else {}
        exports |= {exporter: {"exporter": exporter} for exporter in slow}
        plans = PLANS | (MORE_PLANS if name in MORE_OF else {})
        found.append(Family(name, partial(save, tiny), plans, exports))
    for name in optimum_graphs.FAMILIES:
        found.append(Family(f"{name} of optimum", partial(_with_graph, name), {plan: PLANS[plan] for plan in FEW_PLANS},
                            {"adopted": {"exporter": "optimum", "graph": GRAPH}}))
    return found


def _with_graph(family: str, folder: Path) -> Path:
    made = optimum_graphs.checkpoint(family, folder)
    optimum_graphs.filled(family, made, folder.parent / GRAPH)
    return made


def planned(checkpoint: Path, made: Path, asked: dict[str, Any], first: Path) -> Outcome:
    """A plan's files, what `inspect` says of it, and `diff` from the family's first."""
    made.parent.mkdir(parents=True, exist_ok=True)
    foldrank.plan(checkpoint, made, calibration_tokens=1024, offline=True, force=True, **asked)
    files = output_digests.digests(made)
    files["inspect"] = output_digests.of_value(_told(made))
    if first.is_dir():
        files["diff"] = output_digests.of_value(foldrank.diff(first, made))
    return {"files": files}


def exported(checkpoint: Path, bundle: Path, options: dict[str, Any], *, again: bool) -> Outcome:
    """A dense bundle's files. Not `again`: one that lies there, from an earlier record, is taken."""
    if again or not bundle.is_dir():
        bundle.parent.mkdir(parents=True, exist_ok=True)
        graph = {"graph": checkpoint.parent / options["graph"]} if "graph" in options else {}
        foldrank.export(checkpoint, bundle, offline=True, force=True, **options | graph)
    return {"files": output_digests.digests(bundle) | {"inspect": output_digests.of_value(_told(bundle))}}


def applied(bundle: Path, plan: Path, small: Path, *, page: bool) -> Outcome:
    """A compressed bundle's files, what `inspect` says of it, and its page."""
    small.parent.mkdir(parents=True, exist_ok=True)
    foldrank.apply(bundle, plan, small, force=True)
    files = output_digests.digests(small) | {"inspect": output_digests.of_value(_told(small))}
    if page:
        name = foldrank.report(small).name
        files[name] = output_digests.of_file(small / name, name)
    return {"files": files}


def _told(path: Path) -> dict[str, Any]:
    """What `inspect` says, without what follows from versions."""
    return {k: v for k, v in foldrank.inspect(path).items() if k not in ("versions", "digest", "file_bytes")}
