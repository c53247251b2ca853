"""What the fuzzers change, in which rooms, and the command lines that read it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mutating
from mutating import Draw
from spoken import spoken


@dataclass(frozen=True)
class Target:
    """A file of the room, how it is changed, and the verbs that read it."""

    file: str
    change: Callable[[bytes, Draw], bytes]
    verbs: tuple[str, ...]


def _json(data: bytes, draw: Draw) -> bytes:
    return mutating.json_text(data.decode(), draw).encode("utf-8", "surrogatepass")


_BUNDLE = ("inspect", "verify", "apply", "diff", "sbom", "package", "report")
TARGETS: dict[str, Target] = {
    "plan": Target("plan/plan.json", _json, ("apply", "inspect plan", "diff plan", "verify plan", "apply")),
    "factors": Target("plan/factors.safetensors", mutating.tensors, ("apply", "verify plan", "inspect plan")),
    "manifest": Target("dense/manifest.json", _json, _BUNDLE),
    "genai config": Target("dense/genai_config.json", _json, (*_BUNDLE, "run")),
    "config": Target("dense/config.json", _json, (*_BUNDLE, "run")),
    "generation config": Target("dense/generation_config.json", _json, ("inspect", "run", "package")),
    "tokenizer config": Target("dense/tokenizer_config.json", _json, ("validate", "run", "package")),
    "tokenizer": Target("dense/tokenizer.json", _json, ("validate", "run")),
    "graph": Target("dense/model.onnx", mutating.graph, ("inspect", "apply", "diff", "run", "validate", "verify")),
    "weights": Target("model/model.safetensors", mutating.tensors, ("inspect model", "inspect model", "plan")),
    "checkpoint": Target("model/config.json", _json, ("inspect model", "inspect model", "plan")),
    "recipe": Target("recipe.json", _json, ("recipe",)),
}
_WAITING = ("report", "run", "validate")
LIGHT = {name: replace(TARGETS[name], verbs=tuple(verb for verb in TARGETS[name].verbs if verb not in _WAITING))
         for name in ("plan", "factors", "manifest", "genai config", "config", "graph")}
"""Without the verbs that wait for a large library first."""
_RECIPE = {"methods": ["slm:keep=0.9", "dipsvd:keep=0.8"], "calibration_tokens": 512, "seed": 1, "bos": "auto",
           "recover": None, "max_perplexity_increase": "5%"}
_PLANNING = ("--method", "shortgpt:keep=0.7", "--calibration-tokens", "512", "-q")


def make_room(folder: Path) -> None:
    """A tiny Llama, its bundle of standard operators, and a plan of folds and pairs; nothing is exported."""
    from optimum_graphs import checkpoint, filled

    folder.mkdir(parents=True)
    checkpoint("llama", folder / "model")
    filled("llama", folder / "model", folder / "graph")
    (folder / "recipe.json").write_text(json.dumps(_RECIPE))
    (folder / "words.txt").write_text("The quick brown fox jumps over the lazy dog, and says so. " * 60)
    for words in (["export", "model", "--exporter", "optimum", "--from", "graph", "-o", "dense"],
                  ["plan", "model", "--method", "slm:keep=0.84", "--method", "dipsvd:keep=0.6,align=1,ratios=uniform",
                   "--calibration-tokens", "512", "-o", "plan"]):
        with contextlib.chdir(folder):
            _, said, code = spoken([*words, "-q"])
        if code:
            raise RuntimeError(f"{words[0]}: {said}")


def make_light_room(folder: Path) -> None:
    """A random decoder's bundle and a plan of a fold and two pairs, for LIGHT: no checkpoint, so torch is not needed,
    and what is applied is not proved."""
    from synthetic import PlanMaker, Shape, random_decoder, write_bundle

    decoder = random_decoder(Shape(blocks=3), seed=5)
    dense = write_bundle(decoder, folder / "dense")
    made = PlanMaker(decoder, dense.manifest.source["config_sha256"]).fold((0, 1), {0: 0.0, 1: 1.0})
    (folder / "plan").mkdir()
    made.low_rank("block.02.down", 9).low_rank("block.00.qkv", 11).plan().write(folder / "plan")


def words_of(verb: str) -> list[str]:
    """The command line of a verb, from inside a room."""
    match verb.split():
        case ["apply"]:
            return ["apply", "dense", "plan", "-o", "out", "-q"]
        case ["diff"]:
            return ["diff", "dense", "dense"]
        case ["sbom"]:
            return ["sbom", "dense", "-o", "bom.json"]
        case ["package"]:
            return ["package", "dense", "--format", "transformers.js", "-o", "packed", "-q"]
        case ["run"]:
            return ["run", "dense", "--prompt", "fox", "--max-new-tokens", "2"]
        case ["validate"]:
            return ["validate", "dense", "--reference", "dense", "--no-proof", "--text", "words.txt", "-q"]
        case ["plan"]:
            return ["plan", "model", *_PLANNING, "-o", "made"]
        case ["recipe"]:
            return ["plan", "nowhere", "--recipe", "recipe.json", "-o", "made", "-q"]
        case ["diff", "plan"]:
            return ["diff", "plan", "plan"]
        case [verb, part]:
            return [verb, part]
    return [verb, "dense"]
