"""Compression plans computed in PyTorch: calibration, methods, budgets, and the reference that applies a plan."""

if not __name__.startswith("foldrank."):  # found as a top-level folder: a second copy with unequal classes
    raise ImportError(f"import foldrank.{__name__}, not {__name__}")

METHODS = {
    name: f"foldrank.plans.methods.{name}:METHOD" for name in (
        "merge",
        "slm", "dipsvd",
        "shortgpt", "laco", "sleb", "shortened", "unified_skip",
        "llm_drop", "finercut", "ffn_skip",
        "svd", "fwsvd", "asvd", "svd_llm", "svd_llm_v2", "basis_sharing", "welore", "afm", "recursive",
        "width", "flap", "cfsp",
        "pre_rmsnorm", "rotate", "auto", "quantize", "layerwise", "adapter",
    )
}
"""Every method by the name `--method` gives it, as `module:attribute`."""
