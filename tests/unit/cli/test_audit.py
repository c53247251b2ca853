"""What .ci/audit.py makes of pip-audit's JSON: nothing is called safe that was not looked up."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

CLEAN, SKIPPED = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}
HOLE = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


@pytest.mark.parametrize(("dependencies", "code", "says"), [
    ([CLEAN], 0, ["1 packages looked up, 0 known vulnerabilities"]),
    ([CLEAN, SKIPPED], 0, ["1 packages looked up, 0 known vulnerabilities", "not looked up: b"]),
    ([HOLE, CLEAN], 1, ["c 2: CVE-1, fixed in 3", "2 packages looked up, 1 known vulnerabilities"]),
    ([SKIPPED], 3, ["the index knew none of 1 packages: nothing was audited"]),
    ([], 3, ["the index knew none of 0 packages: nothing was audited"]),
])
def test_it_says_what_was_looked_up(
    dependencies: list[dict[str, Any]], code: int, says: list[str], root: Path
) -> None:
    assert runpy.run_path(str(root / ".ci" / "audit.py"))["told"](dependencies) == (says, code)
