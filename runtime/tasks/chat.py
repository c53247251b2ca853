"""Answers to a handful of questions, greedily, dense and compressed compared token by token.

Knows tokenizers' chat templates (transformers renders them in jinja2's sandbox) and decoders.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from foldrank.progress import SILENT, Progress, track
from foldrank.reports.tasks import Chat, Sample
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof.quality import common_prefix

QUESTIONS = (
    "What is the capital of France?", "Name three primary colours.", "Why is the sky blue?",
    "Write one sentence about the sea.", "What is 7 times 8?", "How do I boil an egg?",
    "Translate 'good morning' into Spanish.", "Give a synonym for 'quick'.",
)
TOKENS = 48
_SAMPLES = 3


def compared(
    dense: OrtDecoder, small: OrtDecoder, tokenizer: Any, *, context: int, progress: Progress = SILENT
) -> Chat:
    """Both answer every question with TOKENS tokens, or what the context leaves; what counts ends with dense's answer.

    Without a chat template the question is put as `Question: ... Answer:`.
    """
    templated = bool(getattr(tokenizer, "chat_template", None))
    equal, prefixes, samples = [], [], []
    for question in track(QUESTIONS, "chat", len(QUESTIONS), progress):
        ids_1T = np.asarray([tokenizer(_prompt(tokenizer, question, templated), add_special_tokens=False).input_ids],
                            dtype=np.int64)
        tokens = min(TOKENS, context - ids_1T.shape[1])
        if tokens < 1:
            continue
        first, second = (decoder.generate(ids_1T, tokens)[0] for decoder in (dense, small))
        ended = np.flatnonzero(first == tokenizer.eos_token_id)
        first, second = (written[: int(ended[0]) + 1] if ended.size else written for written in (first, second))
        equal += (first == second).tolist()
        prefixes.append(common_prefix(first, second))
        samples.append(Sample(prompt=question, dense=tokenizer.decode(first.tolist(), skip_special_tokens=True),
                              bundle=tokenizer.decode(second.tolist(), skip_special_tokens=True)))
    return Chat(
        questions=len(prefixes), templated=templated, tokens=len(equal),
        equal=float(np.mean(equal)) if equal else 0.0, prefix_tokens=float(np.mean(prefixes)) if prefixes else 0.0,
        samples=samples[:_SAMPLES],
    )


def _prompt(tokenizer: Any, question: str, templated: bool) -> str:
    if not templated:
        return f"Question: {question}\nAnswer:"
    return str(tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False,
                                             add_generation_prompt=True))
