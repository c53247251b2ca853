#!/usr/bin/env python3
"""Known vulnerabilities of what this environment has installed, by pip-audit (in an environment of its own).

pip-audit 2.10 ends with "No known vulnerabilities found" where its index knew none of the packages asked about: here
what was not looked up is counted and named. Exit codes: 0 none known, 1 some are, 3 nothing could be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any


def main() -> int:
    tool = Path(__file__).resolve().parent.parent / ".venv-audit"
    program = tool / "bin" / "pip-audit"
    if not program.is_file():
        venv.create(tool, with_pip=True)
        if subprocess.run([tool / "bin" / "pip", "install", "-q", "pip-audit"], check=False).returncode:
            return _say(["pip-audit cannot be installed here: nothing was audited"], 3)
    places = [flag for place in sys.path if place.endswith("-packages") for flag in ("--path", place)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "audit.json"
        ran = subprocess.run([program, *places, "--progress-spinner", "off", "-f", "json", "-o", output], check=False,
                             capture_output=True, text=True)
        if not output.is_file():
            last = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return _say([f"no index of advisories answered: nothing was audited ({last})"], 3)
        return _say(*told(json.loads(output.read_text())["dependencies"]))


def told(dependencies: list[dict[str, Any]]) -> tuple[list[str], int]:
    """What pip-audit's JSON means, in lines, and the exit code."""
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    found = [f"{one['name']} {one['version']}: {hole['id']}, fixed in {', '.join(hole['fix_versions']) or 'no release'}"
             for one in dependencies for hole in one.get("vulns", ())]
    looked_up = len(dependencies) - len(skipped)
    if not looked_up:
        return [f"the index knew none of {len(skipped)} packages: nothing was audited"], 3
    lines = [*found, f"{looked_up} packages looked up, {len(found)} known vulnerabilities"]
    return lines + ([f"not looked up: {', '.join(skipped)}"] if skipped else []), int(bool(found))


def _say(lines: list[str], code: int) -> int:
    print("\n".join(f"audit: {line}" for line in lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
