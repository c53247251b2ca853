"""`python -m foldrank.runtime.sessions.probe PROVIDER MODEL`: does a provider start, and do nodes really run on it?

A process of its own, since a broken driver or library may end it. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from foldrank.errors import FoldrankError
from foldrank.runtime.providers.provider import resolve
from foldrank.runtime.sessions.session import open_session


def probe(provider: str, model: Path) -> dict[str, Any]:
    """`starts` and, if not, the `reason`. The model takes one float32 input [2, 2] that is not symbolic."""
    try:
        session = open_session(model, resolve(provider), threads=1)
    except FoldrankError as error:
        return {"starts": False, "reason": error.what}
    name = next(iter(session.inputs))
    session.handle.run(None, {name: np.ones((2, 2), np.float32)})
    placed = session.placement.get(session.provider.name, 0)
    if placed == 0:
        return {"starts": False, "reason": f"its session runs no node on it, but {session.placement}"}
    return {"starts": True, "reason": None}


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1], Path(sys.argv[2]))))
