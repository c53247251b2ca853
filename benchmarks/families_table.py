"""The table family x exporter of docs/families.md, from what tests/matrix.py found. Knows that JSON alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foldrank.benchmarks.tables import table

_CONSUMERS = {"genai": "onnxruntime-genai", "optimum": "ORTModelForCausalLM"}


def families(data: dict[str, Any]) -> str:
    """Rows of families, columns of exporters; below, every reason of a cell that is not proved."""
    cells = data["cells"]
    exporters = list(dict.fromkeys(c["exporter"] for c in sorted(cells, key=_breadth(cells))))
    columns = [(e, d) for e in exporters for d in ("fp32", "fp16", "bf16")
               if any((c["exporter"], c["dtype"]) == (e, d) for c in cells)]
    by_place = {(c["family"], c["exporter"], c["dtype"]): c for c in cells}
    reasons: dict[str, int] = {}
    rows = [
        (family, *(_cell(by_place.get((family, *column)), reasons) for column in columns))
        for family in dict.fromkeys(c["family"] for c in cells)
    ]
    heads = ("family", *(exporter if dtype == "fp32" else f"{exporter}, {dtype}" for exporter, dtype in columns))
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([table(heads, rows), "", *notes]).rstrip()


def consumers(data: dict[str, Any]) -> str:
    """Which consumer loads the dense bundles: tokens equal to foldrank's own, or why not."""
    rows = []
    for cell in data["cells"]:
        if "loads" in cell:
            rows.append((cell["family"], cell["exporter"], cell["dtype"],
                         *(_loaded(cell["loads"].get(name)) for name in _CONSUMERS)))
    return table(("family", "exporter", "dtype", *_CONSUMERS.values()), rows)


def _breadth(cells: Sequence[dict[str, Any]]) -> Any:
    count = {e: sum(c["exporter"] == e for c in cells) for e in {c["exporter"] for c in cells}}
    return lambda cell: (-count[cell["exporter"]], cell["exporter"])


def _cell(cell: dict[str, Any] | None, reasons: dict[str, int]) -> str:
    if cell is None:
        return "not run"
    if cell["status"] == "proved":
        plans = cell["plans"].values()
        worst = max(v for p in plans for name, v in p.items() if name.endswith("_error") and v is not None)
        shown = f"{worst:.0e}" if cell["dtype"] == "fp32" else f"KL {max(p['kl_nats'] for p in plans):.0e}"
        padded = all(p["padded_error"] is not None for p in plans)
        return f"{len(plans)} plans, {shown}{'' if padded else ', no mask'}"
    reason = cell["reason"].replace(cell["family"], "…").replace("|", "/")
    return f"{cell['status']} [{reasons.setdefault(reason, len(reasons) + 1)}]"


def _loaded(found: bool | str | None) -> str:
    return "yes" if found is True else (found or "not run").replace("|", "/")[:110]
