"""The light room of `fuzz.py`, led by coverage: atheris (pip install atheris) changes the bytes that choices are drawn
from, and keeps those that reach new lines of foldrank.

    PYTHONPATH=.:tests:tests/support python tests/attacks/fuzz_guided.py --minutes 60 --log fuzz.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import atheris

_EVERY = 50
"""Inputs between two writings of the log: libFuzzer ends the process itself."""


def main() -> None:
    """Fuzz until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, help="Inputs that reached something new, kept for the next time.")
    asked = parser.parse_args()
    with atheris.instrument_imports(include=["foldrank"]):
        from tests.attacks import fuzz

        base = Path(tempfile.mkdtemp(prefix="foldrank-guided-"))
        fuzz.make_light_room(base / "room")
        (asked.corpus or base / "corpus").mkdir(exist_ok=True)
        log, began, names = fuzz.Log(asked.seed), time.monotonic(), list(fuzz.LIGHT)

        def one(data: bytes) -> None:
            name = names[data[0] % len(names)] if data else names[0]
            log.note(fuzz.attempt(base / "room", name, data[1:], fuzz.LIGHT))
            log.seconds = time.monotonic() - began
            if log.inputs % _EVERY == 0 or log.findings:
                asked.log.write_text(log.text())

        atheris.Setup(["fuzz_guided", f"-max_total_time={round(60 * asked.minutes)}", f"-seed={asked.seed}",
                       f"-max_len={fuzz.BYTES + 1}", "-len_control=0", f"-timeout={round(fuzz.WAIT_S)}",
                       "-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix={base}/",
                       str(asked.corpus or base / "corpus")], one)
        with fuzz.few_positions():
            atheris.Fuzz()


if __name__ == "__main__":
    main()
