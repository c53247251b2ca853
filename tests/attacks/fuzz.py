"""Fuzz whatever reads what strangers write: plans, manifests, configs, graphs, headers of tensors, recipes.

    PYTHONPATH=tests:tests/support python -m tests.attacks.fuzz --minutes 60 --seed 1 --log fuzz.json

Each input is a room of one tiny model, its bundle and its plan with one file changed in structure, digests made to fit
again three times of four, under one verb, in process. A finding is an exception that no verb means (exit code 70), a
crash, a refusal of more than REFUSED_S of processor time, more than MEMORY of memory, an input that takes WAIT_S, and a
plan that is applied though the graph proof fails then. `--case TARGET HEX` runs one input again. fuzz_guided.py draws
the same choices from bytes that coverage leads.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import mutating
from mutating import Draw

from foldrank.cli import main as command_line

REFUSED_S, MEMORY, WAIT_S, BYTES = 3.0, 256 << 20, 300.0, 96
CODES = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Target:
    """A file of the room, how it is changed, and the verbs that read it."""

    file: str
    change: Callable[[bytes, Draw], bytes]
    verbs: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What must not be: the input, and what it did."""

    target: str
    data: str
    verb: str
    what: str


@dataclass
class Log:
    """What was tried: inputs by target, verb and exit code."""

    seed: int
    inputs: int = 0
    seconds: float = 0.0
    tried: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def note(self, told: dict[str, Any]) -> None:
        """One input's outcome."""
        self.inputs += 1
        self.tried[f"{told['target']} {told['verb']}: {told['code']}"] += 1
        if told["what"]:
            self.findings.append(Finding(told["target"], told["data"], told["verb"], told["what"]))

    def text(self) -> str:
        """As it is kept: the first ten findings of each kind."""
        kinds: dict[str, list[Finding]] = {}
        for one in self.findings:
            kinds.setdefault(one.what[:90], []).append(one)
        shown = [{"times": len(alike), "cases": [asdict(one) for one in alike[:10]]} for alike in kinds.values()]
        return json.dumps({"seed": self.seed, "inputs": self.inputs, "seconds": round(self.seconds),
                           "outcomes": dict(sorted(self.tried.items())), "findings": shown}, indent=1) + "\n"


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
            _, said, code = _spoken([*words, "-q"])
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


def attempt(room: Path, name: str, data: bytes, targets: Mapping[str, Target] = TARGETS) -> dict[str, Any]:
    """One input: what was tried and how it ended; `what` says what is wrong with that, or nothing."""
    target, draw = targets[name], Draw(data)
    verb, fits = draw.of(target.verbs), draw.below(4) > 0
    code, what = tried(room, target.file, lambda held: target.change(held, draw), verb, fits=fits)
    return {"target": name, "data": data.hex(), "verb": verb, "code": code, "what": what}


def tried(
    room: Path, file: str, change: Callable[[bytes], bytes], verb: str, *, fits: bool = True
) -> tuple[int, str]:
    """The verb on a copy of the room with one file changed: its exit code, and what is wrong with that."""
    with tempfile.TemporaryDirectory(prefix="foldrank-fuzz-") as made:
        here = Path(made) / "room"
        shutil.copytree(room, here, ignore=shutil.ignore_patterns("graph"))
        (here / file).write_bytes(change((here / file).read_bytes()))
        if fits:
            make_fit(here, file)
        with contextlib.chdir(here):
            code, what = _judged(verb)
            if verb == "apply" and file.startswith("plan/") and (code, what) == (0, "") and Path("model").exists():
                what = _unproved()
    return code, what


def make_fit(room: Path, changed: str) -> None:
    """Digests as if what was changed had been written so."""
    folder, _, name = changed.partition("/")
    content = (room / changed).read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError, OSError):
        if folder == "dense" and name != "manifest.json":
            manifest = json.loads((room / "dense" / "manifest.json").read_text())
            manifest["files"][name] = entry
            (room / "dense" / "manifest.json").write_text(json.dumps(manifest))
        elif folder == "plan":
            from foldrank.planfile.document import _seal

            plan = json.loads((room / "plan" / "plan.json").read_text())
            if name != "plan.json":
                plan["factors"] = entry
            (room / "plan" / "plan.json").write_text(json.dumps({**plan, "digest": _seal(plan)}))


def _judged(verb: str) -> tuple[int, str]:
    held = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    began = time.process_time()
    _, said, code = _spoken(words_of(verb))
    took, grown = time.process_time() - began, _resident("VmHWM") - held
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    if code not in CODES:
        return code, f"exit code {code}: {lines[-1] if lines else said[-300:]}"
    if code and len(lines) != 1:
        return code, f"exit code {code} and {len(lines)} lines: {said[-300:]}"
    if code in (3, 4) and took > REFUSED_S and verb not in ("plan", "validate"):  # those may import torch first
        return code, f"refused after {took:.1f} s: {lines[0]}"
    if code == 4 and grown > MEMORY:
        return code, f"refused with {grown >> 20} MiB: {lines[0]}"
    return code, ""


def _unproved() -> str:
    """What is wrong with what was applied: another plan's graph, which its own proof must still pass."""
    words = ["validate", "out", "--reference", "dense", "--model", "model", "--text", "words.txt", "-q"]
    _, said, code = _spoken(words)
    told = json.loads(Path("out/reports/validate.json").read_text())["graph"] if code == 1 else said
    return f"applied, and validate ends with {code}: {str(told)[:300]}" if code else ""


def _spoken(words: list[str]) -> tuple[str, str, int]:
    """What the command says on either stream, and its exit code."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = command_line._run(words)
        except BaseException as odd:  # noqa: BLE001 - a library's panic is no Exception
            return out.getvalue(), f"error: {type(odd).__name__}: {odd}", 70
    return out.getvalue(), error.getvalue(), code


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) << 10


def inputs(seed: int, targets: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Without end, the targets in turn."""
    number = 0
    while True:
        yield targets[number % len(targets)], random.Random(f"{seed}/{number}").randbytes(BYTES)
        number += 1


def run(
    room: Path, seconds: float, seed: int, targets: Mapping[str, Target] = TARGETS, *, most: int | None = None
) -> Log:
    """Inputs for so long, or so many, in a process that a crash may end: then another goes on behind the input that
    did it."""
    log, began, source = Log(seed), time.monotonic(), islice(inputs(seed, list(targets)), most)
    with few_positions():
        while (left := seconds - (time.monotonic() - began)) > 0 and _spell(room, source, left, log, targets):
            continue
    log.seconds = time.monotonic() - began
    return log


def _spell(
    room: Path, source: Iterator[tuple[str, bytes]], seconds: float, log: Log, targets: Mapping[str, Target]
) -> bool:
    """One child's inputs, until the time is up, none is left, it ends or hangs; whether there may be more."""
    (asks, asked), (answers, answered) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 99  # the fuzzer's own fault
        try:
            os.close(asked)
            with open(asks) as orders, open(answered, "w") as told:
                for line in orders:
                    name, data = line.rsplit(maxsplit=1)
                    print(json.dumps(attempt(room, name, bytes.fromhex(data), targets)), file=told, flush=True)
            code = 0
        finally:
            os._exit(code)
    os.close(asks)
    os.close(answered)
    end = time.monotonic() + seconds
    with open(asked, "w") as orders, open(answers) as told:
        while time.monotonic() < end and (one := next(source, None)) is not None:
            name, data = one
            print(name, data.hex(), file=orders, flush=True)
            ready, _, _ = select.select([told], [], [], WAIT_S)
            if line := told.readline() if ready else "":
                log.note(json.loads(line))
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, 0 if ready else signal.SIGKILL)
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            what = f"crashed: {ended}" if ready else f"took more than {WAIT_S:.0f} s"
            log.note({"target": name, "data": data.hex(), "verb": Draw(data).of(targets[name].verbs), "code": ended,
                      "what": what})
            return True
    os.waitpid(child, 0)
    return False


@contextlib.contextmanager
def few_positions() -> Iterator[None]:
    """A proof looks at as many as tell a wrong plan."""
    from foldrank.verbs import proving_windows

    before, proving_windows.MIN_POSITIONS = proving_windows.MIN_POSITIONS, 256
    cached = os.environ.get("FOLDRANK_NO_CACHE")
    os.environ["FOLDRANK_NO_CACHE"] = "1"
    try:
        yield
    finally:
        proving_windows.MIN_POSITIONS = before
        os.environ["FOLDRANK_NO_CACHE"] = cached or ""


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="default: all")
    parser.add_argument("--light", action="store_true", help="Only verbs that need no torch: ten times as many inputs.")
    parser.add_argument("--case", nargs=2, metavar=("TARGET", "HEX"))
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made:
        room = Path(made) / "room"
        targets = LIGHT if asked.light else TARGETS
        (make_light_room if asked.light else make_room)(room)
        if asked.case:
            with few_positions():
                print(json.dumps(attempt(room, asked.case[0], bytes.fromhex(asked.case[1]), targets), indent=1))
            return
        log = run(room, 60 * asked.minutes, asked.seed, {name: targets[name] for name in asked.target or targets})
    if asked.log:
        asked.log.write_text(log.text())
    print(log.text())
    sys.exit(bool(log.findings))


if __name__ == "__main__":
    main()
