"""Numbers as a reader sees them: rounded to what matters, with their unit, "not measured" where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "not measured"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def size(count: float | None) -> str:
    """Bytes in decimal units: `22.2 MB`."""
    if count is None:
        return MISSING
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if abs(amount) < 999.5:
            return f"{amount:.0f} B" if unit == "B" else f"{significant(amount)} {unit}"
        amount /= 1000
    return f"{significant(amount)} GB"


def significant(value: float | None, digits: int = 3) -> str:
    """At least `digits` significant figures without an exponent: `0.0123`, `4.56`, `1,234`."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits}g}"))))
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def whole(value: float | None) -> str:
    """A count: `10,000`."""
    return MISSING if value is None else f"{value:,.0f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share: `0.856` gives `85.6 %`."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def change(ratio: float | None, digits: int = 1) -> str:
    """A ratio as a change: `1.034` gives `+3.4 %`."""
    return MISSING if ratio is None else f"{100 * (ratio - 1):+.{digits}f} %"


def times(ratio: float | None) -> str:
    """A ratio: `1.24×`."""
    return MISSING if ratio is None else f"{ratio:.2f}×"


def interval(bounds: Sequence[float]) -> str:
    """A 95 % interval of a ratio: `1.20 to 1.28`; nothing where there is none."""
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}" if len(bounds) == 2 else ""


def milliseconds(value: float | None) -> str:
    """A time: `1.23 ms`."""
    return MISSING if value is None else f"{significant(value)} ms"


def error(value: float | None) -> str:
    """A small error: `3.2·10⁻⁶`."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}·10{str(int(exponent)).translate(_RAISED)}"


def nats(value: float | None) -> str:
    """A divergence: `0.0312 nats`."""
    if value is None:
        return MISSING
    return f"{significant(value) if abs(value) >= 1e-4 or value == 0 else error(value)} nats"
