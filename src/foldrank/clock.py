"""What time artefacts bear: SOURCE_DATE_EPOCH where it is set, so that the same recipe gives the same bytes."""

from __future__ import annotations

import datetime
import os


def now() -> str:
    """Seconds, UTC, in ISO 8601."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    found = datetime.datetime.fromtimestamp(int(fixed), datetime.UTC) if fixed.isdecimal() else (
        datetime.datetime.now(datetime.UTC))
    return found.isoformat(timespec="seconds")
