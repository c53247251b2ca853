"""Whether a change of the code left all output as it was: what foldrank writes, recorded on two trees and compared.

    python benchmarks/campaigns/same_output.py record before.json           with the old tree's interpreter
    python benchmarks/campaigns/same_output.py record after.json            with the new tree's interpreter
    python benchmarks/campaigns/same_output.py compare before.json after.json

A cell is a dense export, a plan or an applied plan of one family of tests/support/tiny_families.py; a record holds one
line of JSON a cell. `record` run again goes on where it stopped; `compare` names what differs and exits with 1.
Both trees are asked through `foldrank`'s verbs alone. Exporters that take up to a minute a family are asked for by name
(`--slow optimum transformers`); `--dense FOLDER` lets the second record take the exports of the first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from output_cells import MORE_OF, PAGES, SLOW, Family, Outcome, applied, exported, families, planned

import foldrank

SETTINGS = {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "FOLDRANK_NO_CACHE": "1", "OMP_NUM_THREADS": "1",
            "SOURCE_DATE_EPOCH": "1700000000"}
"""The environment of every record: nothing kept from earlier runs, sums in one order, one date."""


@dataclass
class Recorder:
    """Makes cells that a record lacks and adds each as a line. `dense`: where exports stay for the next record."""

    record: Path
    dense: Path | None
    keep: Path
    total: int
    done: dict[str, Outcome] = field(default_factory=dict)

    def family(self, family: Family) -> None:
        """Make its cells in order. What the record holds is made again only where cells it lacks need it."""
        if all(cell in self.done for cell in family.cells()):
            return
        folder = self.keep / family.name
        checkpoint = family.make(folder / family.name)
        plans = {name: folder / "plans" / name for name in family.plans}
        first = plans[next(iter(plans))]
        for name, plan in plans.items():
            self._cell(f"{family.name} / plan / {name}", partial(planned, checkpoint, plan, family.plans[name], first))
        for name, options in family.exports.items():
            if all(f"{family.name} / {name}{made}" in self.done for made in ("", *(f" / {plan}" for plan in plans))):
                continue
            dense, again = (self.dense or folder / "dense") / family.name / name, self.dense is None
            self._cell(f"{family.name} / {name}", partial(exported, checkpoint, dense, options, again=again))
            for made, plan in plans.items():
                small, page = folder / "small" / name / made, family.name in MORE_OF and made in PAGES
                self._cell(f"{family.name} / {name} / {made}", partial(applied, dense, plan, small, page=page))

    def _cell(self, name: str, make: Callable[[], Outcome]) -> None:
        begun = time.perf_counter()
        try:
            outcome = make()
        except Exception as error:  # noqa: BLE001 - whatever a tree answers is what is compared, a crash too
            told = f"{type(error).__name__}: {error}".replace(str(self.keep), "").replace(str(self.dense), "")
            outcome = {"raised": told}
        self._write(name, outcome, time.perf_counter() - begun)

    def _write(self, name: str, outcome: Outcome, seconds: float) -> None:
        if name in self.done:
            return
        self.done[name] = outcome
        with self.record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"cell": name, **outcome}, sort_keys=True) + "\n")
        told = outcome.get("raised") or f"{len(outcome['files'])} files"
        print(f"[{len(self.done)}/{self.total}] {name}: {told} ({seconds:.1f} s)", flush=True)


def sources() -> str:
    """sha256 of the sources of the foldrank that is imported, wherever its tree lies."""
    tree, digest = Path(foldrank.__file__).resolve().parents[2], hashlib.sha256()
    for folder in ("src", "graph", "export", "plans", "passes", "runtime"):
        for path in sorted((tree / folder).rglob("*.py")):
            digest.update(path.relative_to(tree).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def read(path: Path) -> tuple[dict[str, Any], dict[str, Outcome]]:
    """A record's first line, and its cells by name. A last line that was cut short is left out."""
    text = path.read_text(encoding="utf-8")
    head, *rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return head, {row.pop("cell"): row for row in rows}


def record(path: Path, *, slow: Sequence[str], dense: Path | None, keep: Path | None, only: list[str]) -> int:
    """Make the cells that the record lacks. Exit code: 0, or 2 where the record is another tree's."""
    asked = [f for f in families(slow=slow) if not only or f.name in only]
    head = {"foldrank": str(Path(foldrank.__file__).resolve().parent), "sources": sources()}
    done: dict[str, Outcome] = {}
    if path.is_file() and path.stat().st_size:
        head, done = read(path)
        if head["sources"] != sources():
            print(f"{path}: recorded with other sources ({head['foldrank']}); give another file", file=sys.stderr)
            return 2
    rows = [head, *({"cell": name, **row} for name, row in done.items())]
    path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows), encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:
        recorder = Recorder(path.resolve(), dense and dense.resolve(), (keep or Path(temporary)).resolve(),
                            sum(len(list(f.cells())) for f in asked), done)
        for family in asked:
            recorder.family(family)
    if head["sources"] != sources():
        print(f"{path}: the sources changed meanwhile; delete it and record again", file=sys.stderr)
        return 2
    return 0


def compare(before: Path, after: Path, only: Sequence[str] = ()) -> int:
    """Print every cell and file that differs, of these families or of all. Exit code: 1 where one does, 2 where
    there is nothing to compare, else 0."""
    old, new = ({cell: row for cell, row in read(path)[1].items() if not only or cell.split(" / ")[0] in only}
                for path in (before, after))
    if not old and not new:
        print("no cells of that name", file=sys.stderr)
        return 2
    found = [f"{cell}: not in {(after if cell in old else before).name}" for cell in sorted(old.keys() ^ new.keys())]
    for cell in old.keys() & new.keys():
        was, now = old[cell], new[cell]
        files = {name: (was.get("files", {}).get(name), now.get("files", {}).get(name))
                 for name in sorted({*was.get("files", {}), *now.get("files", {})})}
        if "files" in was and "files" in now:
            found += [f"{cell}: {name} {'differs' if all(pair) else 'is new' if pair[1] else 'is gone'}"
                      for name, pair in files.items() if pair[0] != pair[1]]
        elif was != now:
            found.append(f"{cell}: was {was.get('raised', 'made')}, is {now.get('raised', 'made')}")
    print("\n".join(sorted(found) or [f"{len(old)} cells, all the same"]))
    return int(bool(found))


def main() -> int:
    """Read the command line. Exit code: 0, 1 where two records differ, 2 wrong use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("record", help="make every cell and write its digests")
    making.add_argument("record", type=Path)
    making.add_argument("--slow", nargs="+", choices=SLOW, default=[], help="exporters that take long, too")
    making.add_argument("--dense", type=Path, help="exports are made here once, and taken from here by later records")
    making.add_argument("--keep", type=Path, help="leave plans and bundles here, to look at what differs")
    making.add_argument("--family", nargs="*", default=[], help="these alone")
    comparing = verbs.add_parser("compare", help="two records")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--family", nargs="*", default=[], help="these alone")
    asked = parser.parse_args()
    if asked.verb == "compare":
        return compare(asked.before, asked.after, asked.family)
    if any(os.environ.get(name) != value for name, value in SETTINGS.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **SETTINGS})
    return record(asked.record, slow=asked.slow, dense=asked.dense, keep=asked.keep, only=asked.family)


if __name__ == "__main__":
    sys.exit(main())
