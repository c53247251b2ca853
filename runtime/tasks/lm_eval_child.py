"""lm-eval in a process of its own: `python -m foldrank.runtime.tasks.lm_eval_child REQUEST ANSWER`, two JSON files.

The request names bundles, back ends and items; the answer holds 0 or 1 for every item. A line is printed for each
bundle and back end that is done. Knows lm-eval (0.4.13). Knows nothing of what the items are.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

MOST_TOKENS = 1024
"""Of a prompt with its continuation; the context, where that is less."""


def tasks(request: dict[str, Any]) -> list[Any]:
    """lm-eval's tasks of the items: multiple choice, nothing put between prompt and continuation."""
    import datasets
    import pyarrow
    from lm_eval.api.task import ConfigurableTask

    def task(name: str, metric: str, items: list[dict[str, Any]]) -> Any:
        docs = datasets.Dataset(pyarrow.Table.from_pylist(items), fingerprint=name)  # else it pickles all it holds
        return ConfigurableTask(config={
            "task": name, "custom_dataset": lambda **_: {"test": docs}, "test_split": "test",
            "output_type": "multiple_choice", "doc_to_text": lambda doc: doc["prompt"],
            "doc_to_choice": lambda doc: doc["choices"], "doc_to_target": lambda doc: doc["gold"],
            "target_delimiter": "",
            "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
        })

    return [task(f"foldrank_{name}", given["metric"], given["items"]) for name, given in request["tasks"].items()]


def scores(request: dict[str, Any], backend: str, folder: str) -> dict[str, list[float]]:
    """By task, 1 for every item whose true continuation is the likeliest, in the items' order."""
    from lm_eval import simple_evaluate
    from lm_eval.api.registry import get_model

    model = get_model(backend)(
        pretrained=folder, execution_provider=request["provider"], max_length=min(MOST_TOKENS, request["context"]))
    found = simple_evaluate(model=model, tasks=tasks(request), bootstrap_iters=0, log_samples=True)
    return {
        name: [float(sample[given["metric"]])
               for sample in sorted(found["samples"][f"foldrank_{name}"], key=lambda sample: sample["doc_id"])]
        for name, given in request["tasks"].items()
    }


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Run all. A back end whose library is not there is `missing`, with the reason."""
    found: dict[str, Any] = {"lm_eval": metadata.version("lm_eval"), "scores": {}, "missing": {}}
    for backend in request["backends"]:
        try:
            found["scores"][backend] = {}
            for name, folder in request["bundles"].items():
                found["scores"][backend][name] = scores(request, backend, folder)
                print("done", backend, name, flush=True)
        except ImportError as error:
            del found["scores"][backend]
            found["missing"][backend] = str(error).splitlines()[0]
    return found


if __name__ == "__main__":
    answer = main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")
