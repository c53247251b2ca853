"""An adapter (LoRA and its kin) beside a checkpoint or in its place: told by name, since weights without it are others.

Knows the files that PEFT writes. Loads nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldrank import strictjson
from foldrank.errors import SourceError

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.*"
_KINDS = {"LORA": "LoRA", "ADALORA": "AdaLoRA", "LOHA": "LoHa", "LOKR": "LoKr", "IA3": "IA3", "OFT": "OFT",
          "BOFT": "BOFT", "VERA": "VeRA", "BONE": "Bone", "HRA": "HRA"}
"""Kinds that `merge_and_unload` can write into the base's weights."""


def refuse_adapter(folder: Path) -> None:
    """Raise SourceError where a folder holds an adapter: of what kind and base, and how it is merged."""
    if not (folder / _CONFIG).is_file():
        if found := sorted(folder.glob(_WEIGHTS)):
            raise SourceError(found[0], f"is an adapter's weights, and its {_CONFIG} is not there",
                              "fetch it, merge the adapter into its base and give the folder of the merged model")
        return
    said = _read(folder / _CONFIG)
    kind = said.get("peft_type")
    base = said.get("base_model_name_or_path")
    named = f"of {base}" if isinstance(base, str) and base else "of a base that it does not name"
    where = "lies beside the weights" if (folder / "config.json").is_file() else "is no whole model"
    what = f"holds a {_KINDS.get(str(kind), str(kind))} adapter {named}, which {where}"
    unmerged = f"; or plan its base with --method adapter:path={folder}" if kind == "LORA" else ""
    if kind in _KINDS:
        raise SourceError(folder, what, "merge it first: AutoPeftModelForCausalLM.from_pretrained(FOLDER)"
                          ".merge_and_unload().save_pretrained(OUT), the tokenizer beside it, and give OUT; or, for "
                          f"the base without it, take the adapter's files out of the folder{unmerged}")
    raise SourceError(folder, what, "this kind cannot be merged into weights: give a model that was trained whole")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = strictjson.read(path)
    except (OSError, strictjson.JsonError) as error:
        raise SourceError(path, str(error), "fetch the adapter again") from None
    return found if isinstance(found, dict) else {}
