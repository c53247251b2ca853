"""Compression plans computed in PyTorch: calibration, methods, budgets, and the reference that applies a plan."""

if not __name__.startswith("foldrank."):  # found as a top-level folder: a second copy with unequal classes
    raise ImportError(f"import foldrank.{__name__}, not {__name__}")

METHODS = {
    "slm": "foldrank.plans.slm:METHOD",
    "dipsvd": "foldrank.plans.dipsvd:METHOD",
    **{name: f"foldrank.plans.{name}:METHOD" for name in (
        "shortgpt", "laco", "sleb", "shortened", "unified_skip",
        "svd", "fwsvd", "asvd", "svd_llm", "svd_llm_v2", "basis_sharing",
    )},
    "auto": "foldrank.plans.auto:METHOD",
}
"""Every method by the name `--method` gives it, as `module:attribute`."""
