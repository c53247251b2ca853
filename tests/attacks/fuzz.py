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
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from fuzz_targets import LIGHT, TARGETS, Target, make_light_room, make_room
from fuzz_trial import attempt, few_positions
from mutating import Draw

WAIT_S, BYTES = 300.0, 96


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
