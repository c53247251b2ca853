"""A validate.json and a bench.json as they are written, their figures made up: for tests of whoever reads them."""

from __future__ import annotations

from typing import Any


def validation() -> dict[str, Any]:
    return {
        "graph": {
            "reference": "PyTorch float32 with the plan applied",
            "positions": 10240,
            "max_relative_error": 3.4e-6,
            "kl_nats": 1.6e-12,
            "limit": 1e-4,
            "measure": "max_relative_error",
            "checks": [
                {"name": "reference", "positions": 10240, "value": 3.4e-6, "argmax_agreement": 1.0, "passed": True},
                {"name": "cached_decode", "positions": 1024, "value": 9.6e-7, "argmax_agreement": 1.0, "passed": True},
            ],
            "argmax_agreement": 1.0,
            "passed": True,
        },
        "quality": {
            "tokens": 65536,
            "dense_perplexity": 42.41,
            "perplexity": 47.93,
            "perplexity_ratio": 1.1302,
            "kl_nats": 0.1377,
            "top1_agreement": 0.8123,
            "greedy_prefix_tokens": 9.5,
            "greedy_continued_tokens": 64,
            "window": 512,
            "windows": 128,
        },
        "samples": [{"prompt": "A valve\n opens", "dense": " and the pump runs", "bundle": " and the <b>pump</b>"}],
        "gates": [
            {"name": "graph_proof", "limit": 1e-4, "value": 3.4e-6, "passed": True},
            {"name": "max_perplexity_increase", "limit": 0.2, "value": 0.1302, "passed": True},
        ],
        "verdict": "pass",
        "text": {"name": "foldrank.texts/validation.jsonl", "sha256": "e" * 64},
        "provider": "cpu",
        "threads": 2,
    }


def _row(bundle: str, engine: str, prompt: int, tpot: float) -> dict[str, Any]:
    return {
        "bundle": bundle,
        "engine": engine,
        "provider": "cpu",
        "prompt_tokens": prompt,
        "context_tokens": prompt,
        "batch": 1,
        "decode_tokens": 32,
        "ttft_ms": 0.2 * prompt * tpot,
        "tpot_ms": tpot,
        "decode_tokens_per_s": 1000 / tpot,
        "bytes_per_token": 22_170_000 if bundle == "dense" else 14_310_000,
        "prefill_flops": 10**8,
        "bandwidth_use": 0.4321,
        "peak_rss_bytes": 212_345_678,
        "placement": None if engine == "genai" else {"CPUExecutionProvider": 139},
        "spread": {"ttft": 0.01, "tpot": 0.02},
        "stable": prompt != 128,
        "unstable_because": "samples fall into two groups, 9.0% apart" if prompt == 128 else None,
        "samples": {"ttft_ms": [1.0], "tpot_ms": [tpot]},
    }


def _speedup(engine: str, phase: str, prompt: int, ratio: float, ideal: float) -> dict[str, Any]:
    above = "above ideal by less than the interval: noise" if ratio > ideal else None
    return {
        "phase": phase,
        "engine": engine,
        "batch": 1,
        "prompt_tokens": prompt,
        "context_tokens": prompt,
        "ratio": ratio,
        "ci95": [ratio - 0.04, ratio + 0.05],
        "ideal": ideal,
        "realised_over_ideal": ratio / ideal,
        "stable": prompt != 128,
        "unstable_because": "the 95 % interval is 12.0% wide" if prompt == 128 else None,
        "pair_ratios": [[ratio, ratio]],
        "note": above,
    }


def _null(phase: str, ratio: float) -> dict[str, Any]:
    return {"phase": phase, "engine": "genai", "batch": 1, "prompt_tokens": 16, "context_tokens": 16, "ratio": ratio,
            "ci95": [ratio - 0.01, ratio + 0.01], "contains_one": abs(ratio - 1) <= 0.01, "pair_ratios": [[ratio]]}


def benchmark() -> dict[str, Any]:
    return {
        "environment": {
            "cpu_model": "Testcore 3000",
            "threads": 2,
            "bandwidth_bytes_per_s": 2.1e10,
            "versions": {"onnxruntime": "1.32.0"},
        },
        "null_test": {
            "ratio": 1.001,
            "ci95": [0.992, 1.011],
            "passed": True,
            "missed": 1,
            "rows": [_null("decode", 1.001), _null("prefill", 1.1)],
        },
        "rows": [
            _row(b, e, p, t)
            for e in ("genai", "onnxruntime")
            for p in (16, 128, 512)
            for b, t in (("dense", 2.345 + p / 1000), ("compressed", 1.789 + p / 1500))
        ],
        "speedups": [
            _speedup("genai", "prefill", 16, 1.212, 1.61),
            _speedup("genai", "decode", 16, 1.311, 1.55),
            _speedup("genai", "decode", 128, 1.287, 1.54),
            _speedup("onnxruntime", "prefill", 16, 1.198, 1.61),
            _speedup("onnxruntime", "decode", 16, 1.562, 1.55),
        ],
        "memory": [],
        "gates": [],
        "verdict": "pass",
        "method": {
            "profile": "full", "provider": "cpu", "instead_of": None, "engines": ["genai", "onnxruntime"],
            "unavailable": {}, "order": "A B B A", "turns": "one", "pairs": 24, "warmups": 5, "launches": 4, "seed": 0,
            "dropped_prompts": [], "ratio": "median", "spread": "robust", "unstable_above": 0.03, "interval": "95 %",
        },
    }


def short_benchmark() -> dict[str, Any]:
    """The same with one context and one speedup."""
    whole = benchmark()
    return {**whole, "rows": [row for row in whole["rows"] if row["context_tokens"] == 16],
            "speedups": [{**whole["speedups"][1], "ratio": 1.2, "ci95": [1.1, 1.3], "ideal": 1.4}]}
