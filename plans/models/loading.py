"""A checkpoint of a known family as a transformers model, from its folder and its safetensors alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from foldrank.errors import ProviderUnavailable, SourceError
from foldrank.model.readable import readable
from foldrank.plans.models.families import EAGER, check_family
from foldrank.plans.models.names import prove_names, refuse_other_names

if TYPE_CHECKING:
    from foldrank.model.checkpoint import Checkpoint


def load_model(checkpoint: Checkpoint, *, dtype: torch.dtype | None, device: str = "cpu") -> Any:
    """The transformers model of a known family, in evaluation mode; dtype None: as stored. Raises SourceError, also
    where a tensor is missing, unknown or of another shape."""
    check_family(checkpoint)
    if not device.startswith("cpu") and not torch.accelerator.is_available():
        raise ProviderUnavailable(device, "PyTorch finds no such device here", "plan on the cpu")
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    untied = {"tie_word_embeddings": False} if prove_names(checkpoint).own_head else {}
    try:
        with readable(checkpoint) as folder:
            model, loading = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype or _stored_dtype(checkpoint), use_safetensors=True, local_files_only=True,
                trust_remote_code=False,
                attn_implementation="eager" if checkpoint.architecture in EAGER else "sdpa",
                output_loading_info=True, **untied,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise SourceError(
            checkpoint.path, f"cannot be loaded: {reason[0] if reason else type(error).__name__}",
            "check that config.json and the safetensors files belong together",
        ) from None
    refuse_other_names(checkpoint, loading)
    return model.requires_grad_(False).eval().to(device)


def _stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The one dtype that all floating-point weights are stored in; float32 where there are several."""
    found = {tensor.dtype.name for tensor in checkpoint.tensors.values() if tensor.dtype.kind not in "iub"}
    known = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    return known.get(found.pop(), torch.float32) if len(found) == 1 else torch.float32
