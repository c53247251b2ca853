"""Reading decoder graphs: safe loading, the decoder view, exporter dialects, invariants."""

if not __name__.startswith("foldrank."):  # found as a top-level folder: a second copy with unequal classes
    raise ImportError(f"import foldrank.{__name__}, not {__name__}")
