"""Standard output holds what foldrank says, and nothing that a library prints."""

from __future__ import annotations

import subprocess
import sys


def test_what_a_library_prints_goes_to_standard_error() -> None:
    program = ("import os\nfrom foldrank.cli.main import keep_stdout\nprint('before')\nkeep_stdout()\n"
               "os.write(1, b'noise')\nprint('äfter')")
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, encoding="utf-8",
                           env={"PYTHONIOENCODING": "utf-8"})
    assert found.stdout == "before\näfter\n"
    assert found.stderr == "noise"


def test_a_closed_standard_error_or_output_is_no_error() -> None:
    program = "from foldrank.cli.main import keep_stdout\nkeep_stdout()"
    for closed in (">&-", "2>&-"):
        subprocess.run(f"'{sys.executable}' -c '{program}' {closed}", shell=True, check=True)
