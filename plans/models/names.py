"""Whether a checkpoint's tensors are the model's, each of them: asked of transformers' own loader before it loads.

The loader fills what it does not find with random numbers, drops what it does not know, and only logs it. It is handed
every name and shape with no numbers behind it, so that the answer costs no memory and is right wherever it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foldrank.errors import SourceError
from foldrank.installed import missing
from foldrank.model.tied import other_head
from foldrank.plans.models.prefixes import prefix_of

if TYPE_CHECKING:
    from foldrank.model.checkpoint import Checkpoint

_OLD_BUFFERS = ("rotary_emb.inv_freq", "attention.bias", "attn.bias", "masked_bias", "position_ids")
"""Ends of what older versions of transformers stored and computed anew; never a number that was trained."""
_FAULTS = (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, ZeroDivisionError,
           RuntimeError, ImportError, OSError)
"""A config that lies may fail anywhere in a model's construction."""


@dataclass(frozen=True)
class Names:
    """What proving found. `own_head`: config.json ties the head to the embedding, the file holds another head.
    `unproved`: why transformers could not be asked."""

    own_head: bool = False
    unproved: str | None = None

    @property
    def notes(self) -> list[str]:
        """For people, a line each."""
        found = []
        if self.own_head:
            found.append("config.json ties the head to the embedding, but the weights hold another head: it is kept, "
                         "and tie_word_embeddings is false here")
        if self.unproved:
            found.append(f"the tensors' names were not proved against the model: {self.unproved}")
        return found


def prove_names(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> Names:
    """Ask the loader. Raises SourceError: tensors missing, unknown or of other shapes, with a prefix by its name; or a
    config.json that transformers builds no model from."""
    if lacking := missing(("torch", "transformers")):
        return Names(unproved=f"{' and '.join(lacking)} not installed")
    config = _config(checkpoint, trust_remote_code)
    model = None if config is None else _class(config, checkpoint, trust_remote_code)
    if model is None:
        return Names(unproved=f"transformers does not know {checkpoint.architecture}")
    refuse_other_names(checkpoint, _asked(checkpoint, model, config))
    tied = bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
    return Names(own_head=tied and other_head(checkpoint.tensors))


def refuse_other_names(checkpoint: Checkpoint, loading: Mapping[str, Any]) -> None:
    """Raise SourceError unless a `loading_info` of transformers says that every tensor was found and used."""
    lacking = sorted(loading["missing_keys"])
    mismatched = sorted(key[0] if isinstance(key, tuple) else key for key in loading["mismatched_keys"])
    unknown = sorted(name for name in loading["unexpected_keys"] if not name.endswith(_OLD_BUFFERS))
    if any("lora_" in name for name in unknown):
        raise SourceError(checkpoint.path, f"holds a LoRA adapter inside its weights: {_some(unknown)}",
                          "merge it first (merge_and_unload) and save the merged model")
    if found := prefix_of(unknown, lacking):
        raise SourceError(checkpoint.path, f"{len(unknown)} tensors' names hold {found.worn!r} where the model's have "
                          f"{found.wanted or '(nothing)'}, such as {unknown[0]}: the model would "
                          "be random numbers",
                          f"rename them in each .safetensors file F: {found.way_out}")
    reasons = []
    if lacking:
        reasons.append(f"{len(lacking)} of the model's tensors are missing: {_some(lacking)}")
    if unknown:
        reasons.append(f"{len(unknown)} tensors are none of the model's: {_some(unknown)}")
    if mismatched:
        reasons.append(f"{len(mismatched)} tensors have another shape than the model's: {_some(mismatched)}")
    if reasons:
        raise SourceError(checkpoint.path, f"the weights are not {checkpoint.architecture} as config.json describes "
                          f"it: {' | '.join(reasons)}", "take config.json and weights from the same checkpoint")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _config(checkpoint: Checkpoint, trust: bool) -> Any:
    """The transformers config, or None where transformers does not know its model_type."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig

    kind = checkpoint.config.get("model_type")
    remote = trust and "AutoConfig" in checkpoint.config.get("auto_map", {})
    if kind not in CONFIG_MAPPING and not remote:
        return None
    try:
        if remote:
            return AutoConfig.from_pretrained(checkpoint.path, local_files_only=True, trust_remote_code=True)
        return CONFIG_MAPPING[kind].from_dict(dict(checkpoint.config))
    except (*_FAULTS, StrictDataclassError) as error:
        raise _not_built(checkpoint, error) from None


def _class(config: Any, checkpoint: Checkpoint, trust: bool) -> Any:
    """The class that AutoModelForCausalLM would take, or None."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as known

    named = checkpoint.config.get("auto_map", {}).get("AutoModelForCausalLM") if trust else None
    if named is not None:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        return get_class_from_dynamic_module(named, str(checkpoint.path), local_files_only=True)
    return known.get(type(config), None)


def _asked(checkpoint: Checkpoint, model: Any, config: Any) -> Mapping[str, Any]:
    """transformers' loading_info for the tensors' names and shapes: each is one number, repeated without a copy."""
    import torch

    empty = {name: torch.zeros((), dtype=torch.bfloat16).expand(t.shape) for name, t in checkpoint.tensors.items()}
    try:
        with _quiet(), _no_init_weights():
            _, loading = model.from_pretrained(
                None, config=config, state_dict=empty, output_loading_info=True, ignore_mismatched_sizes=True,
                dtype=torch.bfloat16, attn_implementation="eager",
            )
    except _FAULTS as error:
        raise _not_built(checkpoint, error) from None
    return dict(loading)


def _not_built(checkpoint: Checkpoint, error: Exception) -> SourceError:
    reason = next(iter(str(error).strip().splitlines()), "")
    return SourceError(checkpoint.path / "config.json",
                       f"transformers builds no {checkpoint.architecture} from it: {type(error).__name__} {reason}",
                       "take config.json as the model was trained with it")


def _no_init_weights() -> contextlib.AbstractContextManager[Any]:
    """Missing tensors are not filled: of a large model that would be all the memory there is."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:  # before version 5
        from transformers.modeling_utils import no_init_weights
    return no_init_weights()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What it would log of its finds is what is asked for here."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)
