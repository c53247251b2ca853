"""What foldrank needs under load: a large bundle in little memory, many verbs at once, and many tokens without growth.

    python benchmarks/campaigns/load.py large crowd tokens --json benchmarks/results/load.json

`large`: inspect and apply of a bundle of --bytes (default 8G), all of it one hole in a file, made by truncate; what
counts is the peak of resident memory over that of the same verb on a small bundle, at most 300 MiB. `crowd`: eight
verbs at once on one bundle; each must end well, and the bundle be as it was. `tokens`: 10,000 tokens, by `run` and by
what it stands on, and how much resident memory each further request costs. Runs in processes of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from foldrank.benchmarks import random_bundle as making
from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.random_checkpoint import shape_of
from foldrank.bundle.bundle import Bundle, FileEntry, seal
from foldrank.digests import WeightDigest, sha256_file
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.passes.write import DATA, MODEL
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.versions import versions

LIMIT = 300 << 20
MODEL_5M = Path(__file__).parents[2] / "examples" / "specs-5m"
_SIZES = {"K": 10, "M": 20, "G": 30}
_ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}


def sha256_of_zeros(size: int) -> str:
    """Of so many bytes."""
    found, piece = hashlib.sha256(), bytes(1 << 20)
    for _ in range(size >> 20):
        found.update(piece)
    found.update(bytes(size & (1 << 20) - 1))
    return found.hexdigest()


class _Hole:
    """The data file as `random_bundle` writes to it, but that only its length grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def pad(self, alignment: int) -> None:
        self.position += -self.position % alignment


class _Zeros(making._Graph):
    """Weights of zeros, none of them written."""

    known: dict[int, str]

    def weight(self, name: str, *dims: int, around: float = 0.0, site: str = "") -> ir.Value:
        self._data.pad(64)
        start, size = self._data.position, 4 * int(np.prod(dims))
        self._data.position += size
        if site:
            if size not in self.known:
                self.known[size] = sha256_of_zeros(size)
            self.digests[site] = WeightDigest(self.known[size], "0" * 64, "0" * 64)
        tensor = ir.ExternalTensor(DATA, start, size, ir.DataType.FLOAT, shape=ir.Shape(dims), name=name,
                                   base_dir=self._data.path.parent)
        return self.initializer(name, tensor)


def write_hole(size: int, folder: Path) -> Plan:
    """A bundle of about `size` bytes that takes none of them from the disk, and the plan that folds all but its first
    and last block into one."""
    shape = replace(shape_of(size // 4), tied=False)
    while 4 * shape.parameters < size:
        shape = replace(shape, blocks=shape.blocks + 1)
    folder.mkdir()
    data: Any = _Hole(folder / DATA)
    graph = _Zeros(data, np.random.default_rng(0))
    graph.known = {}
    proto = ir.to_proto(making._model(shape, graph)).SerializeToString()
    (folder / MODEL).write_bytes(proto)
    with (folder / DATA).open("wb") as file:
        file.truncate(data.position)
    making._json(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": shape.blocks,
        "vocab_size": shape.vocabulary, "hidden_size": shape.hidden})
    decoder = {"num_hidden_layers": shape.blocks, "head_size": 64, "filename": MODEL}
    making._json(folder / "genai_config.json", {"model": {"decoder": decoder}})
    source = {"name": "hole", "config_sha256": sha256_file(folder / "config.json"), "architecture": "LlamaForCausalLM"}
    known = {DATA: FileEntry(sha256_of_zeros(data.position), data.position),
             MODEL: FileEntry(hashlib.sha256(proto).hexdigest(), len(proto))}
    seal(folder, command="benchmark", seed=0, source=source, exporter="genai", dtype="fp32", versions=versions(),
         known=known, weights=(known, {site: digest.fp32 for site, digest in graph.digests.items()}))
    blocks = tuple(range(1, shape.blocks - 1))
    fold = FoldBlocks(1, blocks, {b: float(b == blocks[-1]) for b in blocks}, "top")
    weights = {site: digest for site, digest in graph.digests.items() if int(site[6:8]) in blocks}
    origin = Source("hole", source["config_sha256"], "LlamaForCausalLM", shape.blocks, weights)
    return Plan(PlanDocument(origin, None, (), {}, {}, (fold,)), {})


def spoken(words: Sequence[object], folder: Path) -> dict[str, Any]:
    """A verb in a process of its own: exit code, seconds, and its peak of resident memory."""
    program = ("import sys\nfrom foldrank.cli.main import _run\ncode = _run(sys.argv[1:])\n"
               "peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM:'))\n"
               "print(peak, file=sys.stderr)\nsys.exit(code)")  # ru_maxrss would be that of whoever started it
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True,
                          cwd=folder, env=_ENVIRONMENT)
    said = done.stderr.splitlines()
    return {"code": done.returncode, "seconds": round(time.monotonic() - began, 1), "peak_bytes": int(said[-1]) << 10,
            "said": [line for line in said if line.startswith("error: ")]}


def large(size: int, folder: Path) -> dict[str, Any]:
    """Peaks over those of the same verbs on a bundle of 5 MB."""
    found: dict[str, Any] = {}
    for name, many in (("small", 5_000_000), ("large", size)):
        plan = write_hole(many, folder / name)
        (folder / f"{name}-plan").mkdir()
        plan.write(folder / f"{name}-plan")
        found[name] = {
            "bytes": (folder / name / DATA).stat().st_size, "on_disk": (folder / name / DATA).stat().st_blocks * 512,
            "inspect": spoken(["inspect", name, "--json"], folder),
            "apply": spoken(["apply", name, f"{name}-plan", "-o", f"{name}-out", "-q"], folder),
        }
    found["over_start_up"] = {verb: found["large"][verb]["peak_bytes"] - found["small"][verb]["peak_bytes"]
                              for verb in ("inspect", "apply")}
    found["limit"] = LIMIT
    found["passed"] = all(found[name][verb]["code"] == 0 for name in ("small", "large") for verb in ("inspect", "apply")
                          ) and max(found["over_start_up"].values()) <= LIMIT
    return found


def crowd(dense: Path, folder: Path) -> dict[str, Any]:
    """Eight verbs at once: three of them write into the bundle, three beside it."""
    from concurrent.futures import ThreadPoolExecutor

    from foldrank.benchmarks.speed_plans import fold_plan
    from foldrank.model.checkpoint import Checkpoint
    from foldrank.verbs.apply import apply

    plan = fold_plan(Checkpoint.open(MODEL_5M), 4)
    (folder / "plan").mkdir()
    plan.write(folder / "plan")
    apply(dense, plan, folder / "small")
    words: dict[str, list[object]] = {
        "inspect": ["inspect", "small"], "verify": ["verify", "small"], "diff": ["diff", dense, "small"],
        "apply": ["apply", dense, "plan", "-o", "again", "-q"], "sbom": ["sbom", "small", "-o", "bom.json"],
        "package": ["package", "small", "--format", "transformers.js", "-o", "packed", "-q"],
        "validate": ["validate", "small", "--reference", dense, "--model", MODEL_5M, "-q"],
        "report": ["report", "small", "-q"],
    }
    began = time.monotonic()
    with ThreadPoolExecutor(len(words)) as side_by_side:
        ran = dict(zip(words, side_by_side.map(lambda w: spoken(w, folder), words.values()), strict=True))
    whole = Bundle.open(folder / "small")
    same = sha256_file(folder / "again" / DATA) == sha256_file(folder / "small" / DATA)
    left = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    return {"verbs": ran, "seconds": round(time.monotonic() - began, 1), "beside": left,
            "passed": not left and same and all(one["code"] == 0 for one in ran.values())
            and "reports/validate.json" in whole.manifest.files}


def _resident() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("VmRSS:")) << 10


def requests(way: str, dense: Path, tokens: int) -> Callable[[], int]:
    """One request of `tokens` tokens, by the verb or by what it stands on; gives how many were written."""
    from foldrank.runtime.decoding.decoder import OrtDecoder
    from foldrank.runtime.decoding.genai import GenaiDecoder
    from foldrank.runtime.providers.provider import load_genai, resolve
    from foldrank.verbs.run import run

    prompt, cpu = np.arange(20, 36)[None], resolve("cpu")
    match way:
        case "run":
            return lambda: len(run(dense, "We propose", max_new_tokens=tokens, threads=1)["tokens"])
        case "the decoder of run, opened once":
            decoder = GenaiDecoder.open(dense, cpu, capacity=16 + tokens, threads=1)
            return lambda: decoder.generate(prompt, tokens).size
        case "onnxruntime, opened once":
            plain = OrtDecoder.open(dense, cpu, threads=1)
            return lambda: plain.generate(prompt, tokens).size
    library = load_genai()
    held = library.Model(str(dense)) if way == "onnxruntime-genai alone, opened once" else None

    def alone() -> int:
        model = held or library.Model(str(dense))
        parameters = library.GeneratorParams(model)
        parameters.set_search_options(max_length=16 + tokens, min_length=16 + tokens)
        generator = library.Generator(model, parameters)
        generator.append_tokens(prompt[0].astype(np.int32))
        for _ in range(tokens):
            generator.generate_next_token()
        return tokens

    return alone


WAYS = ("run", "the decoder of run, opened once", "onnxruntime-genai alone, opened once",
        "onnxruntime-genai alone, opened each time", "onnxruntime, opened once")


def grows(way: str, dense: Path, *, tokens: int = 100, total: int = 10_000) -> dict[str, Any]:
    """Resident memory after each request, and what a request of the second half added."""
    ask, seen, written = requests(way, dense, tokens), [], 0
    while written < total:
        written += ask()
        seen.append(_resident())
    half = len(seen) // 2
    slope = float(np.polyfit(np.arange(len(seen) - half), seen[half:], 1)[0])
    return {"requests": len(seen), "tokens": written, "first_bytes": seen[0], "half_bytes": seen[half],
            "last_bytes": seen[-1], "bytes_a_request": round(slope)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for; results of one kind replace those that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=("large", "crowd", "tokens", "way"))
    parser.add_argument("--bytes", default="8G")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--dense", type=Path)
    asked = parser.parse_args(arguments)
    if asked.kinds == ["way"]:
        print(json.dumps(grows(asked.way, asked.dense)))
        return
    found = json.loads(asked.json.read_text()) if asked.json and asked.json.is_file() else {}
    found["environment"] = environment(1)
    with tempfile.TemporaryDirectory() as made:
        base = Path(made)
        if "large" in asked.kinds:
            (base / "large").mkdir()
            found["large"] = large(int(asked.bytes[:-1]) << _SIZES[asked.bytes[-1]], base / "large")
        if {"crowd", "tokens"} & {*asked.kinds}:
            from foldrank.verbs.export import export

            dense = asked.dense or export(MODEL_5M, base / "dense", offline=True).path
            with contextlib.suppress(FileExistsError):
                (base / "crowd").mkdir()
            if "crowd" in asked.kinds:
                found["crowd"] = crowd(dense.absolute(), base / "crowd")
            if "tokens" in asked.kinds:
                found["tokens"] = {way: json.loads(subprocess.run(
                    [sys.executable, __file__, "way", "--way", way, "--dense", str(dense.absolute())], check=True,
                    stdout=subprocess.PIPE, env={**_ENVIRONMENT, "OMP_NUM_THREADS": "1"}).stdout) for way in WAYS}
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    if asked.json:
        asked.json.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
