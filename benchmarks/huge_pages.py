"""What huge pages are worth to a decoder on this CPU: python -m foldrank.benchmarks.huge_pages -o huge_pages.json

One dense bundle of random weights, large enough to be bound by memory, in two processes that take turns token by token:
one whose malloc asks for huge pages, and one as glibc comes. Speed only; run it on a quiet machine.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from foldrank import strictjson
from foldrank.benchmarks.child import HUGE_PAGES, Child
from foldrank.benchmarks.document import pair_ratio
from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.paired import Pairs, Setup, duel, opened, warm
from foldrank.benchmarks.random_checkpoint import parse_size, shape_of, write_checkpoint
from foldrank.benchmarks.schedule import ONE, starting
from foldrank.benchmarks.statistics import estimate
from foldrank.benchmarks.workload import ENGINES, Workload
from foldrank.bundle.bundle import Bundle
from foldrank.disk.staging import write_atomically
from foldrank.runtime.providers.provider import resolve
from foldrank.runtime.sessions.session import default_threads
from foldrank.verbs.export import export

PAGES = {"small": "glibc.malloc.hugetlb=0", "huge": HUGE_PAGES}


def compared(dense: Bundle, engine: str, workload: Workload, setup: Setup, pairs: int, launches: int) -> dict[str, Any]:
    """Times of small pages over huge ones, per token, and what lies in huge pages."""
    taken: list[Pairs] = []
    held: dict[str, int | None] = {}
    for launch in range(launches):
        with ExitStack() as stack:
            children = {name: stack.enter_context(Child(f"{name} pages", tunables=PAGES[name]))
                        for name in starting(PAGES, launch)}
            held = {name: opened(child, dense.path, engine, setup)["huge_page_bytes"]
                    for name, child in children.items()}
            warm(children.values(), workload, setup, 5)
            taken.append(duel(children["small"], children["huge"], workload, setup, pairs))
    ratios = [[pair_ratio(small, huge, "decode") for small, huge in launch] for launch in taken]
    found = estimate(ratios, setup.seed)
    return {"engine": engine, "prompt_tokens": workload.prompt, "ratio": found.ratio, "ci95": found.ci95,
            "huge_page_bytes": held, "pair_ratios": ratios}


@click.command()
@click.option("--parameters", default="80M", help="Size of the random checkpoint.")
@click.option("--context", "contexts", multiple=True, type=int, default=(16, 512))
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES), default=ENGINES)
@click.option("--pairs", default=6, help="In each launch.")
@click.option("--launches", default=4)
@click.option("--tokens", default=32)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(
    parameters: str, contexts: tuple[int, ...], engines: tuple[str, ...], pairs: int, launches: int, tokens: int,
    output: Path,
) -> None:
    """Time the dense bundle in both kinds of pages and write the ratios."""
    shape, threads = shape_of(parse_size(parameters)), default_threads()
    with tempfile.TemporaryDirectory() as work:
        checkpoint = write_checkpoint(shape, Path(work) / "checkpoint", seed=0)
        dense = export(checkpoint, Path(work) / "dense", dtype="fp32", offline=True)
        setup = Setup(resolve("cpu"), threads, shape.vocabulary, seed=0, turns=ONE)
        rows = [compared(dense, engine, Workload(context, 1, tokens), setup, pairs, launches)
                for engine in engines for context in contexts]
    found = {"parameters": shape.parameters, "tunables": PAGES, "rows": rows, "environment": environment(threads)}
    write_atomically(output.absolute(), strictjson.dumps(found).encode())
    for row in rows:
        click.echo("{engine} context {prompt_tokens}: {ratio:.3f} {ci95}".format(**row))


if __name__ == "__main__":
    main()
